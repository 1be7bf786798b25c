//! Peers that are not written in Rust, behind small C and C++ files.
#![cfg_attr(
    any(feature = "dpdk", feature = "boost"),
    expect(unsafe_code, reason = "calls C and C++")
)]

#[cfg(feature = "dpdk")]
pub use dpdk::Dpdk;

#[cfg(feature = "boost")]
pub use boost::{Boost, Lockfree};

#[cfg(feature = "dpdk")]
mod dpdk {
    use crate::harness::{BATCH, End, Ends, Many, Peer, Receive, Send, slots};
    use bench_kit::{Outcome, Place, Side, Stage};
    use core::ffi::{c_int, c_long, c_uint, c_void};
    use core::hint::spin_loop;
    use std::sync::Arc;

    unsafe extern "C" {
        safe fn peer_dpdk_size(words: c_uint, slots: c_uint) -> c_long;
        fn peer_dpdk_init(memory: *mut c_void, slots: c_uint, many: c_int) -> c_int;
        fn peer_dpdk_send(ring: *mut c_void, words: c_uint, first: u64, count: c_uint) -> c_uint;
        fn peer_dpdk_receive(
            ring: *mut c_void,
            words: c_uint,
            count: c_uint,
            total: &mut u64,
        ) -> c_uint;
    }

    /// DPDK's `rte_ring`: of one producer and one consumer, or of many.
    pub struct Dpdk<const MANY: bool>;

    /// A line of memory, as the ring wants to be aligned.
    #[repr(align(128))]
    #[derive(Clone)]
    struct Line(#[expect(dead_code, reason = "the C library's")] [u8; 128]);

    /// Keeps the memory.
    struct Ring(#[expect(dead_code, reason = "the C library's")] core::cell::UnsafeCell<Vec<Line>>);
    // SAFETY: only the ring's own functions touch the memory, for one producer and one consumer
    // unless it was made for many.
    unsafe impl core::marker::Send for Ring {}
    // SAFETY: as above.
    unsafe impl Sync for Ring {}

    /// One end.
    #[derive(Clone)]
    pub struct RingEnd<const N: usize>(
        #[expect(dead_code, reason = "keeps the memory")] Arc<Ring>,
        *mut c_void,
    );
    // SAFETY: the pointer leads into the ring, which the end keeps.
    unsafe impl<const N: usize> core::marker::Send for RingEnd<N> {}

    impl<const N: usize> Send for RingEnd<N> {
        fn send(&mut self, number: u64) -> Outcome {
            self.send_batch(number, 1)
        }

        fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
            let mut sent = 0;
            while sent < count {
                let left = (count - sent).min(BATCH) as c_uint;
                // SAFETY: the ring was made for messages of this size, and this is its one
                // producer, or it was made for many; the C side takes up to `BATCH`.
                let now = unsafe { peer_dpdk_send(self.1, N as c_uint, first + sent, left) };
                sent += u64::from(now);
                if now == 0 {
                    spin_loop();
                }
            }
            Ok(())
        }
    }

    impl<const N: usize> Receive for RingEnd<N> {
        fn receive(&mut self) -> Outcome<u64> {
            Ok(self.receive_batch(1)?.1)
        }

        fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
            let max = max.min(BATCH) as c_uint;
            let mut total = 0;
            loop {
                // SAFETY: the ring was made for messages of this size, and this is its one
                // consumer, or it was made for many; the C side takes up to `BATCH`.
                let now = unsafe { peer_dpdk_receive(self.1, N as c_uint, max, &mut total) };
                if now > 0 {
                    return Ok((u64::from(now), total));
                }
                spin_loop();
            }
        }
    }

    impl<const N: usize, const MANY: bool> Peer<N> for Dpdk<MANY> {
        const NAME: &'static str =
            if MANY { "DPDK rte_ring, many-to-many" } else { "DPDK rte_ring" };
        const PLACE: Place = Place::Threads;
        const NOTE: &'static str = if MANY {
            "each message costs a C call, and a copy in and out"
        } else {
            "each message or batch costs a C call"
        };
        type Sender = RingEnd<N>;
        type Receiver = RingEnd<N>;

        fn make(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
            let end = ring::<N>(MANY)?;
            stage.hand(end.clone());
            Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
        }

        fn open(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
            let end = stage.take::<RingEnd<N>>()?;
            Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
        }
    }

    impl<const N: usize> Many<N> for Dpdk<true> {
        fn both(stage: &Stage) -> Outcome<(Self::Sender, Self::Receiver)> {
            if stage.side() == Side::First {
                let end = ring::<N>(true)?;
                stage.hand(end.clone());
                return Ok((end.clone(), end));
            }
            let end = stage.take::<RingEnd<N>>()?;
            Ok((end.clone(), end))
        }
    }

    /// An end of a new ring.
    fn ring<const N: usize>(many: bool) -> Outcome<RingEnd<N>> {
        let slots = slots::<N>().next_power_of_two() as u32;
        let size = peer_dpdk_size(N as u32, slots);
        let lines = usize::try_from(size)?.div_ceil(128) + 1;
        let mut memory = vec![Line([0; 128]); lines];
        let at: *mut c_void = memory.as_mut_ptr().cast();
        // SAFETY: aligned to 128 bytes and as long as the ring said.
        if unsafe { peer_dpdk_init(at, slots, c_int::from(many)) } != 0 {
            return Err("rte_ring_init refused".into());
        }
        Ok(RingEnd(Arc::new(Ring(memory.into())), at))
    }
}

#[cfg(feature = "boost")]
mod boost {
    use crate::harness::{End, Ends, Many, Peer, Receive, Send};
    use bench_kit::words::{fill, sum};
    use bench_kit::{Outcome, Place, Side, Stage};
    use core::ffi::{c_char, c_int, c_uint, c_void};
    use core::hint::spin_loop;
    use core::ptr::NonNull;
    use std::ffi::CString;

    unsafe extern "C" {
        fn peer_boost_make(name: *const c_char, slots: usize, bytes: usize) -> *mut c_void;
        fn peer_boost_open(name: *const c_char) -> *mut c_void;
        fn peer_boost_close(queue: *mut c_void);
        fn peer_boost_remove(name: *const c_char);
        fn peer_boost_send(queue: *mut c_void, bytes: *const c_void, len: usize) -> c_int;
        fn peer_boost_receive(queue: *mut c_void, bytes: *mut c_void, len: usize) -> c_int;
        fn peer_boost_try_send(queue: *mut c_void, bytes: *const c_void, len: usize) -> c_int;
        fn peer_boost_try_receive(queue: *mut c_void, bytes: *mut c_void, len: usize) -> c_int;
        fn peer_lockfree_make(name: *const c_char, words: c_uint) -> *mut c_void;
        fn peer_lockfree_open(name: *const c_char) -> *mut c_void;
        fn peer_lockfree_remove(name: *const c_char);
        fn peer_lockfree_close(queue: *mut c_void);
        fn peer_lockfree_push(queue: *mut c_void, words: c_uint, number: u64) -> c_int;
        fn peer_lockfree_pop(queue: *mut c_void, words: c_uint, total: &mut u64) -> c_int;
    }

    /// Boost.Interprocess `message_queue`, polled, or with its blocking calls.
    pub struct Boost<const BLOCKING: bool>;

    /// One end.
    pub struct QueueEnd<const BLOCKING: bool> {
        queue: NonNull<c_void>,
        message: Vec<u64>,
    }

    impl<const BLOCKING: bool> Drop for QueueEnd<BLOCKING> {
        fn drop(&mut self) {
            // SAFETY: made by one of the two functions that make queues, and not used any more.
            unsafe { peer_boost_close(self.queue.as_ptr()) };
        }
    }

    impl<const BLOCKING: bool> Send for QueueEnd<BLOCKING> {
        fn send(&mut self, number: u64) -> Outcome {
            fill(&mut self.message, number);
            let (bytes, len) = (self.message.as_ptr().cast(), self.message.len() * 8);
            loop {
                let call = if BLOCKING { peer_boost_send } else { peer_boost_try_send };
                // SAFETY: a living queue, and as many bytes as are said.
                match unsafe { call(self.queue.as_ptr(), bytes, len) } {
                    0 => spin_loop(),
                    1 => return Ok(()),
                    _ => return Err("message_queue threw".into()),
                }
            }
        }
    }

    impl<const BLOCKING: bool> Receive for QueueEnd<BLOCKING> {
        fn receive(&mut self) -> Outcome<u64> {
            let (bytes, len) = (self.message.as_mut_ptr().cast(), self.message.len() * 8);
            loop {
                let call = if BLOCKING { peer_boost_receive } else { peer_boost_try_receive };
                // SAFETY: a living queue, and room for as many bytes as are said.
                match unsafe { call(self.queue.as_ptr(), bytes, len) } {
                    0 => spin_loop(),
                    1 => return Ok(sum(&self.message)),
                    _ => return Err("message_queue threw".into()),
                }
            }
        }
    }

    impl<const N: usize, const BLOCKING: bool> Peer<N> for Boost<BLOCKING> {
        const NAME: &'static str = "Boost.Interprocess message_queue";
        const PLACE: Place = Place::Processes;
        const NOTE: &'static str = if BLOCKING {
            "a locked queue for many producers and consumers"
        } else {
            "a locked queue for many producers and consumers; polled with try_send and try_receive"
        };
        type Sender = QueueEnd<BLOCKING>;
        type Receiver = QueueEnd<BLOCKING>;

        fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
            let name = CString::new(format!("{}-{channel}", stage.name()))?;
            // SAFETY: a string that ends with zero.
            let queue =
                unsafe { peer_boost_make(name.as_ptr(), crate::harness::slots::<N>(), N * 8) };
            end::<N, BLOCKING>(queue, sends)
        }

        fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
            let name = CString::new(format!("{}-{channel}", stage.name()))?;
            // SAFETY: a string that ends with zero.
            let queue = unsafe { peer_boost_open(name.as_ptr()) };
            // SAFETY: as above; both halves have it mapped by now.
            unsafe { peer_boost_remove(name.as_ptr()) };
            end::<N, BLOCKING>(queue, sends)
        }
    }

    fn end<const N: usize, const BLOCKING: bool>(
        queue: *mut c_void,
        sends: bool,
    ) -> Outcome<Ends<N, Boost<BLOCKING>>> {
        let queue = NonNull::new(queue).ok_or("message_queue threw")?;
        let end = QueueEnd { queue, message: vec![0; N] };
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }

    /// Boost.Lockfree's queue of fixed size, for many producers and consumers, in shared memory.
    pub struct Lockfree;

    /// One end of it, as good as the other.
    pub struct LockfreeEnd<const N: usize>(NonNull<c_void>);

    impl<const N: usize> Drop for LockfreeEnd<N> {
        fn drop(&mut self) {
            // SAFETY: made by one of the two functions that make queues, and not used any more.
            unsafe { peer_lockfree_close(self.0.as_ptr()) };
        }
    }

    impl<const N: usize> Send for LockfreeEnd<N> {
        fn send(&mut self, number: u64) -> Outcome {
            // SAFETY: a living queue of messages of so many words.
            while unsafe { peer_lockfree_push(self.0.as_ptr(), N as c_uint, number) } == 0 {
                spin_loop();
            }
            Ok(())
        }
    }

    impl<const N: usize> Receive for LockfreeEnd<N> {
        fn receive(&mut self) -> Outcome<u64> {
            let mut total = 0;
            // SAFETY: a living queue of messages of so many words.
            while unsafe { peer_lockfree_pop(self.0.as_ptr(), N as c_uint, &mut total) } == 0 {
                spin_loop();
            }
            Ok(total)
        }
    }

    fn lockfree<const N: usize>(stage: &Stage, make: bool) -> Outcome<LockfreeEnd<N>> {
        let name = CString::new(stage.name())?;
        let queue = if make {
            // SAFETY: a string that ends with zero.
            unsafe { peer_lockfree_make(name.as_ptr(), N as c_uint) }
        } else {
            // SAFETY: as above.
            unsafe { peer_lockfree_open(name.as_ptr()) }
        };
        Ok(LockfreeEnd(NonNull::new(queue).ok_or("lockfree::queue could not be made")?))
    }

    /// Removes the name, once both halves have mapped the memory.
    fn forget(stage: &Stage) -> Outcome {
        let name = CString::new(stage.name())?;
        // SAFETY: a string that ends with zero.
        unsafe { peer_lockfree_remove(name.as_ptr()) };
        Ok(())
    }

    impl<const N: usize> Peer<N> for Lockfree {
        const NAME: &'static str = "Boost.Lockfree queue";
        const PLACE: Place = Place::Processes;
        const NOTE: &'static str =
            "each message costs a C++ call and an allocation in its list of nodes; polled";
        type Sender = LockfreeEnd<N>;
        type Receiver = LockfreeEnd<N>;

        fn make(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
            let end = lockfree(stage, true)?;
            Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
        }

        fn open(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
            let end = lockfree(stage, false)?;
            forget(stage)?;
            Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
        }
    }

    impl<const N: usize> Many<N> for Lockfree {
        fn both(stage: &Stage) -> Outcome<(Self::Sender, Self::Receiver)> {
            let first = stage.side() == Side::First;
            let ends = (lockfree(stage, first)?, lockfree(stage, false)?);
            if !first {
                forget(stage)?;
            }
            Ok(ends)
        }
    }
}
