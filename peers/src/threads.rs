//! Peers that work between threads of one process only.
#![expect(unsafe_code, reason = "peers as they are used best: slots are written in place")]

use crate::harness::{End, Ends, Many, Peer, Receive, Send, slots};
use bench_kit::words::{fill_uninit, sum};
use bench_kit::{Outcome, Place, Side, Stage};
use core::hint::spin_loop;
use core::mem::MaybeUninit;
use ringbuf::traits::{Consumer as _, Producer as _, Raw as _, Split as _};
use std::sync::Arc;

/// Lays one end down for the other thread and returns the other one.
fn part<S: core::marker::Send + 'static, R: core::marker::Send + 'static>(
    stage: &Stage,
    sends: bool,
    sender: S,
    receiver: R,
) -> End<S, R> {
    if sends {
        stage.hand(receiver);
        End::Sender(sender)
    } else {
        stage.hand(sender);
        End::Receiver(receiver)
    }
}

fn taken<S: 'static, R: 'static>(stage: &Stage, sends: bool) -> Outcome<End<S, R>> {
    Ok(if sends { End::Sender(stage.take()?) } else { End::Receiver(stage.take()?) })
}

/// Both ends for this half, and copies of them for the other one; the second half takes those.
fn shared_out<S, R>(stage: &Stage, make: impl FnOnce() -> (S, R)) -> Outcome<(S, R)>
where
    S: Clone + core::marker::Send + 'static,
    R: Clone + core::marker::Send + 'static,
{
    if stage.side() == Side::Second {
        return stage.take();
    }
    let ends = make();
    stage.hand(ends.clone());
    Ok(ends)
}

/// Up to this many words a message is passed by value, beyond it is written in its slot.
const BY_VALUE: usize = 8;

fn total(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// The words of a message that was not written yet.
fn words_of<const N: usize>(message: &mut MaybeUninit<[u64; N]>) -> &mut [MaybeUninit<u64>] {
    let words: &mut [MaybeUninit<u64>; N] = message.as_mut();
    words
}

/// rtrb.
pub struct Rtrb;

impl<const N: usize> Send for rtrb::Producer<[u64; N]> {
    fn send(&mut self, number: u64) -> Outcome {
        if N <= BY_VALUE {
            while self.push([number; N]).is_err() {
                spin_loop();
            }
            return Ok(());
        }
        loop {
            if let Ok(mut chunk) = self.write_chunk_uninit(1) {
                let (slot, _) = chunk.as_mut_slices();
                fill_uninit(words_of(&mut slot[0]), number);
                // SAFETY: every word of the one slot was written.
                unsafe { chunk.commit_all() };
                return Ok(());
            }
            spin_loop();
        }
    }

    fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
        loop {
            if let Ok(chunk) = self.write_chunk_uninit(count as usize) {
                chunk.fill_from_iter((first..first + count).map(|number| [number; N]));
                return Ok(());
            }
            spin_loop();
        }
    }
}

impl<const N: usize> Receive for rtrb::Consumer<[u64; N]> {
    fn receive(&mut self) -> Outcome<u64> {
        loop {
            if N <= BY_VALUE {
                if let Ok(message) = self.pop() {
                    return Ok(total(&message));
                }
            } else if let Ok(chunk) = self.read_chunk(1) {
                let sum = sum(&chunk.as_slices().0[0]);
                chunk.commit_all();
                return Ok(sum);
            }
            spin_loop();
        }
    }

    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        let mut count = max as usize;
        loop {
            // It looks at the shared position only if it does not know of as many.
            match self.read_chunk(count) {
                Ok(chunk) => {
                    let (front, back) = chunk.as_slices();
                    let sum = sum(front.as_flattened()).wrapping_add(sum(back.as_flattened()));
                    chunk.commit_all();
                    return Ok((count as u64, sum));
                }
                Err(rtrb::chunks::ChunkError::TooFewSlots(0)) => spin_loop(),
                Err(rtrb::chunks::ChunkError::TooFewSlots(fewer)) => count = fewer,
            }
        }
    }
}

impl<const N: usize> Peer<N> for Rtrb {
    const NAME: &'static str = "rtrb";
    const PLACE: Place = Place::Threads;
    const NOTE: &'static str = "";
    type Sender = rtrb::Producer<[u64; N]>;
    type Receiver = rtrb::Consumer<[u64; N]>;

    fn make(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (sender, receiver) = rtrb::RingBuffer::new(slots::<N>());
        Ok(part(stage, sends, sender, receiver))
    }

    fn open(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        taken(stage, sends)
    }
}

/// ringbuf.
pub struct Ringbuf;

/// Its two ends, whose traits have methods of the same names as ours.
pub struct RingbufSender<const N: usize>(ringbuf::HeapProd<[u64; N]>);
pub struct RingbufReceiver<const N: usize>(ringbuf::HeapCons<[u64; N]>, Vec<[u64; N]>);

/// As many as are pushed by one call.
const BATCH: usize = crate::harness::BATCH as usize;

impl<const N: usize> Send for RingbufSender<N> {
    fn send(&mut self, number: u64) -> Outcome {
        if N <= BY_VALUE {
            while self.0.try_push([number; N]).is_err() {
                spin_loop();
            }
            return Ok(());
        }
        loop {
            // One look at the shared position; `is_full` would be another one.
            if let Some(slot) = self.0.vacant_slices_mut().0.first_mut() {
                fill_uninit(words_of(slot), number);
                // SAFETY: there is room for one, and every word of it was written.
                unsafe { self.0.advance_write_index(1) };
                return Ok(());
            }
            spin_loop();
        }
    }

    fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
        let messages: [_; BATCH] = core::array::from_fn(|at| [first + at as u64; N]);
        let mut rest = &messages[..count as usize];
        while !rest.is_empty() {
            let count = self.0.push_slice(rest);
            rest = &rest[count..];
            if count == 0 {
                spin_loop();
            }
        }
        Ok(())
    }
}

impl<const N: usize> Receive for RingbufReceiver<N> {
    fn receive(&mut self) -> Outcome<u64> {
        if N <= BY_VALUE {
            loop {
                if let Some(message) = self.0.try_pop() {
                    return Ok(total(&message));
                }
                spin_loop();
            }
        }
        loop {
            if let Some(message) = self.0.as_slices().0.first() {
                let sum = sum(message);
                // SAFETY: one is there, and arrays of words need no drop.
                unsafe { self.0.advance_read_index(1) };
                return Ok(sum);
            }
            spin_loop();
        }
    }

    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        let room = BATCH.min(max as usize);
        loop {
            let count = self.0.pop_slice(&mut self.1[..room]);
            if count > 0 {
                return Ok((count as u64, sum(self.1[..count].as_flattened())));
            }
            spin_loop();
        }
    }
}

impl<const N: usize> Peer<N> for Ringbuf {
    const NAME: &'static str = "ringbuf";
    const PLACE: Place = Place::Threads;
    const NOTE: &'static str = "";
    type Sender = RingbufSender<N>;
    type Receiver = RingbufReceiver<N>;

    fn make(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (sender, receiver) = ringbuf::HeapRb::new(slots::<N>()).split();
        Ok(part(
            stage,
            sends,
            RingbufSender(sender),
            RingbufReceiver(receiver, vec![[0; N]; BATCH]),
        ))
    }

    fn open(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        taken(stage, sends)
    }
}

/// crossbeam's array queue: many producers, many consumers.
pub struct ArrayQueue;

/// One end of it, as good as the other.
#[derive(Clone)]
pub struct QueueEnd<const N: usize>(Arc<crossbeam_queue::ArrayQueue<[u64; N]>>);

impl<const N: usize> Send for QueueEnd<N> {
    fn send(&mut self, number: u64) -> Outcome {
        while self.0.push([number; N]).is_err() {
            spin_loop();
        }
        Ok(())
    }
}

impl<const N: usize> Receive for QueueEnd<N> {
    fn receive(&mut self) -> Outcome<u64> {
        loop {
            if let Some(message) = self.0.pop() {
                return Ok(total(&message));
            }
            spin_loop();
        }
    }
}

impl<const N: usize> Peer<N> for ArrayQueue {
    const NAME: &'static str = "crossbeam ArrayQueue";
    const PLACE: Place = Place::Threads;
    const NOTE: &'static str = "it serves many producers and consumers, which costs it here";
    type Sender = QueueEnd<N>;
    type Receiver = QueueEnd<N>;

    fn make(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let queue = Arc::new(crossbeam_queue::ArrayQueue::new(slots::<N>()));
        Ok(part(stage, sends, QueueEnd(Arc::clone(&queue)), QueueEnd(queue)))
    }

    fn open(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        taken(stage, sends)
    }
}

impl<const N: usize> Many<N> for ArrayQueue {
    fn both(stage: &Stage) -> Outcome<(Self::Sender, Self::Receiver)> {
        shared_out(stage, || {
            let queue = QueueEnd(Arc::new(crossbeam_queue::ArrayQueue::new(slots::<N>())));
            (queue.clone(), queue)
        })
    }
}

/// crossbeam's bounded channel, with its blocking calls.
pub struct Channel;

impl<const N: usize> Send for crossbeam_channel::Sender<[u64; N]> {
    fn send(&mut self, number: u64) -> Outcome {
        Ok(crossbeam_channel::Sender::send(self, [number; N])?)
    }
}

impl<const N: usize> Receive for crossbeam_channel::Receiver<[u64; N]> {
    fn receive(&mut self) -> Outcome<u64> {
        Ok(total(&self.recv()?))
    }
}

impl<const N: usize> Peer<N> for Channel {
    const NAME: &'static str = "crossbeam channel";
    const PLACE: Place = Place::Threads;
    const NOTE: &'static str = "it serves many producers and consumers, and its calls may sleep";
    type Sender = crossbeam_channel::Sender<[u64; N]>;
    type Receiver = crossbeam_channel::Receiver<[u64; N]>;

    fn make(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (sender, receiver) = crossbeam_channel::bounded(slots::<N>());
        Ok(part(stage, sends, sender, receiver))
    }

    fn open(stage: &Stage, _channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        taken(stage, sends)
    }
}

impl<const N: usize> Many<N> for Channel {
    fn both(stage: &Stage) -> Outcome<(Self::Sender, Self::Receiver)> {
        shared_out(stage, || crossbeam_channel::bounded(slots::<N>()))
    }
}
