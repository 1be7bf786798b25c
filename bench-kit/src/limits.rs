//! Physical limits: the same work with nothing around it.
//!
//! Lines, blocks and batches move between the two processors with the least that
//! a correct transfer needs: a flag, or a pair of positions. No checks, no names,
//! no recovery, capacity and addresses known to the compiler. They are measured
//! in the same rounds as everything else, because the machine changes its mind.
#![expect(unsafe_code, reason = "borrows bytes of the shared memory by the protocol of each limit")]

use crate::contest::{Contest, Place, Role, Unit};
use crate::drive;
use crate::stage::{Outcome, Side, Stage, line_trips};
use crate::words::{fill, sum};
use core::hint::{black_box, spin_loop};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

/// The contest with the name and two equal halves.
fn limit(
    name: &str,
    unit: Unit,
    halves: impl Fn(&Stage) -> Outcome + Clone + Send + Sync + 'static,
) -> Contest {
    Contest::new(name, Role::Limit, unit, halves.clone(), halves)
}

/// A contest of the first half alone.
fn alone(
    name: &str,
    unit: Unit,
    half: impl Fn(&Stage) -> Outcome + Send + Sync + 'static,
) -> Contest {
    Contest::new(name, Role::Limit, unit, half, |_| Ok(())).place(Place::Alone)
}

/// One line to and fro, each side writing into it in turn.
pub fn one_line() -> Contest {
    limit("one shared line", Unit::RoundTrip, |stage| {
        let word = stage.shared().word(0);
        if stage.side() == Side::First {
            word.store(0, Release);
        }
        let mut done = 0;
        stage.run(|count| {
            line_trips(word, stage.side(), done, count);
            done += count;
            Ok(())
        })
    })
}

/// Two lines, one for each direction.
pub fn two_lines() -> Contest {
    limit("two lines, one each way", Unit::RoundTrip, |stage| {
        let (ping, pong) = (stage.shared().word(0), stage.shared().word(1));
        clear(stage, &[ping, pong]);
        let mut number = 0;
        stage.run(|count| {
            for _ in 0..count {
                number += 1;
                if stage.side() == Side::First {
                    ping.store(number, Release);
                    wait_for(pong, number);
                } else {
                    wait_for(ping, number);
                    pong.store(number, Release);
                }
            }
            Ok(())
        })
    })
}

/// Two lines, one for each direction, and a line of 56 bytes that the other half has written before
/// it answers.
pub fn shown_line() -> Contest {
    limit("a raw line of 56 B", Unit::RoundTrip, |stage| {
        let shared = stage.shared();
        let show = |number| {
            // SAFETY: the first half looks there only when it has been told so, after this.
            fill(unsafe { shared.bytes(8, 7) }, number);
            Ok(())
        };
        let look = || {
            // SAFETY: the other half has said that it has written, and writes again only when it
            // is asked.
            let words = unsafe { shared.bytes(8, 7) };
            Ok(sum(words) / 7)
        };
        drive::show_and_look(stage, show, look)
    })
}

/// The same without the line that is looked at.
pub fn shown_nothing() -> Contest {
    limit("nothing: two lines, one each way", Unit::RoundTrip, |stage| {
        let mut number = 0;
        drive::show_and_look(
            stage,
            |_| Ok(()),
            || {
                number += 1;
                Ok(number)
            },
        )
    })
}

/// `WORDS` words and a flag in front of them to and fro, each way in a place of its own.
pub fn message_trip<const WORDS: usize>() -> Contest {
    let name = format!("raw {} B + flag each way", WORDS * 8);
    limit(&name, Unit::RoundTrip, |stage| {
        let shared = stage.shared();
        let places = [0, 1 << 20];
        clear(stage, &[shared.raw_word(places[0]), shared.raw_word(places[1])]);
        let (out, back) = match stage.side() {
            Side::First => (places[0], places[1]),
            Side::Second => (places[1], places[0]),
        };
        // SAFETY: the words behind the flag of `out` are written by this half only, after the
        // other half has shown by its own flag that it has read them.
        let room = unsafe { shared.bytes(out + 8, WORDS) };
        let send = |number: u64| {
            fill(room, number);
            shared.raw_word(out).store(number, Release);
            Ok(())
        };
        let mut number = 0;
        let receive = || {
            number += 1;
            wait_for(shared.raw_word(back), number);
            // SAFETY: the flag says that the other half has written, and it writes again only
            // after our next message.
            let words = unsafe { shared.bytes(back + 8, WORDS) };
            if sum(words) != number * WORDS as u64 {
                return Err("a torn message".into());
            }
            Ok(number)
        };
        drive::ping_pong(stage, send, receive)
    })
}

/// Slots of the rings of small messages.
const SLOTS: u64 = 4096;
/// Messages of `WORDS` words, published by one position in batches.
///
/// The reader gives room back in eighths of the ring.
///
/// The size of a batch is an argument, and so unknown to the compiler in the loop: with 32 known
/// to it, its loop over words of 8 bytes took twice as long here.
pub fn batches<const WORDS: usize>(batch: u64) -> Contest {
    let unit = Unit::Stream(WORDS as u64 * 8);
    let contest = limit(&format!("raw, published in {batch}s"), unit, move |stage| {
        let shared = stage.shared();
        let (head, tail) = (shared.word(0), shared.word(1));
        clear(stage, &[head, tail]);
        let place = |position: u64| (position % SLOTS) as usize * WORDS * 8;
        if stage.side() == Side::First {
            let mut limit = SLOTS;
            return drive::send_batches(stage, batch, |first| {
                let position = first - 1;
                while position + batch > limit {
                    spin_loop();
                    limit = tail.load(Acquire) + SLOTS;
                }
                // SAFETY: between tail and head + SLOTS, where only this half writes and the
                // other one does not look before the next store of head.
                let room = unsafe { shared.bytes(place(position), batch as usize * WORDS) };
                let (messages, _) = room.as_chunks_mut::<WORDS>();
                for (message, number) in messages.iter_mut().zip(first..) {
                    *message = [number; WORDS];
                }
                head.store(position + batch, Release);
                Ok(())
            });
        }
        let (mut position, mut known) = (0, 0);
        drive::receive_batches(stage, WORDS as u64, |_| {
            while known == position {
                look_away();
                known = head.load(Acquire);
            }
            // SAFETY: below head, where the other half does not write before tail has passed.
            let words = unsafe { shared.bytes(place(position), batch as usize * WORDS) };
            let sum = sum(words);
            position += batch;
            if position.is_multiple_of(SLOTS / 8) {
                tail.store(position, Release);
            }
            Ok((batch, sum))
        })
    });
    contest.granule(batch).lap(2 * SLOTS)
}

/// Lines of 56 bytes and a flag, each published by itself.
pub fn flagged_lines() -> Contest {
    let contest = limit("raw lines, a flag in each (56 B)", Unit::Stream(56), |stage| {
        let shared = stage.shared();
        let tail = shared.word(1);
        clear(stage, &[tail]);
        let place = |position: u64| (position % SLOTS) as usize * 64;
        if stage.side() == Side::First {
            for slot in 0..SLOTS {
                shared.raw_word(place(slot)).store(0, Release);
            }
            let mut limit = SLOTS;
            return drive::send_all(stage, |number| {
                let position = number - 1;
                while position >= limit {
                    spin_loop();
                    limit = tail.load(Acquire) + SLOTS;
                }
                // SAFETY: the other half has released this line, and looks at it again only
                // when its flag has the next number.
                let room = unsafe { shared.bytes(place(position) + 8, 7) };
                room.fill(number);
                shared.raw_word(place(position)).store(number, Release);
                Ok(())
            });
        }
        let mut position = 0;
        drive::receive_all(stage, 7, || {
            let flag = shared.raw_word(place(position));
            position += 1;
            while flag.load(Acquire) != position {
                look_away();
            }
            // SAFETY: the flag says that it is written, and it is not written again before
            // tail has passed it.
            let words = unsafe { shared.bytes(place(position - 1) + 8, 7) };
            let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
            if position.is_multiple_of(SLOTS / 8) {
                tail.store(position, Release);
            }
            Ok(sum)
        })
    });
    contest.lap(2 * SLOTS)
}

/// The ring of large blocks; their flags lie behind it.
pub const BULK: usize = 8 << 20;

/// Blocks of `bytes` bytes through a ring of 8 MiB, with a flag for each in a line of its own.
pub fn blocks(bytes: usize) -> Contest {
    let count = (BULK / bytes) as u64;
    let words = bytes / 8;
    let contest = limit("raw blocks with flags", Unit::Stream(bytes as u64), move |stage| {
        let shared = stage.shared();
        let tail = shared.word(1);
        clear(stage, &[tail]);
        let flag = |position: u64| shared.raw_word(BULK + (position % count) as usize * 64);
        let place = |position: u64| (position % count) as usize * bytes;
        if stage.side() == Side::First {
            (0..count).for_each(|block| flag(block).store(0, Release));
            let mut limit = count;
            return drive::send_all(stage, |number| {
                let position = number - 1;
                while position >= limit {
                    spin_loop();
                    limit = tail.load(Acquire) + count;
                }
                // SAFETY: released by the other half, which looks at it again only when its
                // flag has the next number.
                fill(unsafe { shared.bytes(place(position), words) }, number);
                flag(position).store(number, Release);
                Ok(())
            });
        }
        let mut position = 0;
        drive::receive_all(stage, words as u64, || {
            while flag(position).load(Acquire) != position + 1 {
                look_away();
            }
            // SAFETY: the flag says that it is written; it is not written again before tail
            // has passed it.
            let sum = sum(unsafe { shared.bytes(place(position), words) });
            position += 1;
            tail.store(position, Release);
            Ok(sum)
        })
    });
    contest.lap(2 * count)
}

/// A round trip in which both sides sleep on a futex at once.
pub fn futex() -> Contest {
    limit("raw futex", Unit::RoundTrip, |stage| {
        let shared = stage.shared();
        let (ping, pong) = (shared.word(0), shared.word(1));
        clear(stage, &[ping, pong]);
        let (out, back) = if stage.side() == Side::First { (ping, pong) } else { (pong, ping) };
        let send = |number: u64| {
            out.store(number, Release);
            wake(out);
            Ok(())
        };
        let mut number = 0;
        let receive = || {
            number += 1;
            while back.load(Acquire) != number {
                sleep(back, number - 1);
            }
            Ok(number)
        };
        drive::ping_pong(stage, send, receive)
    })
}

fn futex_call(word: &AtomicU64, operation: i32, value: u32) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: Duration::from_millis(50).as_nanos() as i64 };
    let (address, time) = (word.as_ptr().cast::<u32>(), &raw const time);
    // SAFETY: the address is that of the low half of a living, aligned word, the time's that of
    // a local; the kernel reads both and writes nothing.
    unsafe { libc::syscall(libc::SYS_futex, address, operation, value, time) };
}

fn wake(word: &AtomicU64) {
    futex_call(word, libc::FUTEX_WAKE, 1);
}

fn sleep(word: &AtomicU64, value: u64) {
    futex_call(word, libc::FUTEX_WAIT, value as u32);
}

/// One core copies `bytes` bytes with the C library's function.
pub fn memcpy(name: &str, bytes: usize) -> Contest {
    alone(name, Unit::Stream(bytes as u64), move |stage| {
        let source = vec![1_u8; bytes];
        let mut target = vec![2_u8; bytes];
        stage.run(|count| {
            for _ in 0..count {
                black_box(&mut target[..]).copy_from_slice(black_box(&source));
            }
            Ok(())
        })
    })
}

/// What an operation costs one core.
fn cost(name: &str, operation: impl Fn() + Send + Sync + 'static) -> Contest {
    alone(name, Unit::RoundTrip, move |stage| {
        stage.run(|count| {
            (0..count).for_each(|_| operation());
            Ok(())
        })
    })
}

/// PAUSE, a look at the clock, a system call, and waking nobody.
pub fn costs() -> Vec<Contest> {
    vec![
        cost("PAUSE", spin_loop),
        cost("look at the clock", || {
            black_box(Instant::now());
        }),
        cost("system call (getppid)", || {
            black_box(nix::unistd::getppid());
        }),
        cost("futex wake of nobody", || {
            static WORD: AtomicU64 = AtomicU64::new(0);
            wake(&WORD);
        }),
    ]
}

/// Zeroes words before the halves meet.
fn clear(stage: &Stage, words: &[&AtomicU64]) {
    if stage.side() == Side::First {
        words.iter().for_each(|word| word.store(0, Release));
    }
}

/// A reader that has caught up does not fight for the line that is being written.
#[inline]
fn look_away() {
    (0..16).for_each(|_| spin_loop());
}

#[inline]
fn wait_for(word: &AtomicU64, value: u64) {
    while word.load(Acquire) != value {
        spin_loop();
    }
}

const _: () = assert!(BULK + BULK / 1024 * 64 <= crate::shared::BYTES_LEN, "room for the flags");
