//! Ping-pong, streams and bursts over any pair of calls.
//!
//! Every message is a number, or a run of equal words; the receiver sums what it
//! gets and compares in the end. The calls are closures, so that each contestant
//! is compiled into its own loop.

use crate::stage::{Outcome, Side, Stage};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

/// Round trips of a number: `send` and `receive` are the same on both sides.
///
/// # Errors
///
/// Theirs; or if a wrong number came back.
pub fn ping_pong(
    stage: &Stage,
    mut send: impl FnMut(u64) -> Outcome,
    mut receive: impl FnMut() -> Outcome<u64>,
) -> Outcome {
    let mut number = 0_u64;
    match stage.side() {
        Side::First => stage.run(|count| {
            for _ in 0..count {
                number += 1;
                send(number)?;
                if receive()? != number {
                    return Err("a wrong number came back".into());
                }
            }
            Ok(())
        }),
        Side::Second => stage.run(|count| {
            for _ in 0..count {
                let number = receive()?;
                send(number)?;
            }
            Ok(())
        }),
    }
}

/// The calling half of calls: each answer must be its request, which has equal words.
///
/// # Errors
///
/// Those of `call`; or if a wrong answer came back.
pub fn call_all<const WORDS: usize>(
    stage: &Stage,
    mut call: impl FnMut([u64; WORDS]) -> Outcome<[u64; WORDS]>,
) -> Outcome {
    let mut number = 0_u64;
    stage.run(|count| {
        for _ in 0..count {
            number += 1;
            if call([number; WORDS])? != [number; WORDS] {
                return Err("a wrong answer came back".into());
            }
        }
        Ok(())
    })
}

/// The serving half of calls.
///
/// # Errors
///
/// Those of `serve`.
pub fn serve_all(stage: &Stage, mut serve: impl FnMut() -> Outcome) -> Outcome {
    stage.run(|count| {
        for _ in 0..count {
            serve()?;
        }
        Ok(())
    })
}

/// The lines by which one half asks the other to show something.
const ASKED_TO_SHOW: usize = 61;
const SHOWN: usize = 62;

/// Looks at what the other half shows: the first half asks over one line, the second one calls
/// `show` and says so over another line, and then the first one calls `look`, which must yield the
/// number that was shown.
///
/// # Errors
///
/// Those of the calls; or if something else was seen.
pub fn show_and_look(
    stage: &Stage,
    mut show: impl FnMut(u64) -> Outcome,
    mut look: impl FnMut() -> Outcome<u64>,
) -> Outcome {
    let (asked, shown) = (stage.shared().word(ASKED_TO_SHOW), stage.shared().word(SHOWN));
    let await_number = |word: &AtomicU64, number| {
        while word.load(Acquire) != number {
            core::hint::spin_loop();
        }
    };
    if stage.side() == Side::First {
        asked.store(0, Release);
        shown.store(0, Release);
    }
    let mut number = 0_u64;
    stage.run(|count| {
        for _ in 0..count {
            number += 1;
            if stage.side() == Side::First {
                asked.store(number, Release);
                await_number(shown, number);
                if look()? != number {
                    return Err("something else was seen".into());
                }
            } else {
                await_number(asked, number);
                show(number)?;
                shown.store(number, Release);
            }
        }
        Ok(())
    })
}

/// Round trips, each with its time.
///
/// # Errors
///
/// Those of the calls.
pub fn timed_ping_pong(
    stage: &Stage,
    mut send: impl FnMut(u64) -> Outcome,
    mut receive: impl FnMut() -> Outcome<u64>,
) -> Outcome {
    let mut number = 0_u64;
    stage.run(|count| {
        for _ in 0..count {
            if stage.side() == Side::First {
                number += 1;
                let began = Instant::now();
                send(number)?;
                receive()?;
                stage.sample(began.elapsed().as_nanos() as u64);
            } else {
                let number = receive()?;
                send(number)?;
            }
        }
        Ok(())
    })
}

/// The sending half of a stream: `send` is given the numbers from 1 on.
///
/// # Errors
///
/// Those of `send`.
#[inline]
pub fn send_all(stage: &Stage, mut send: impl FnMut(u64) -> Outcome) -> Outcome {
    let mut number = 0_u64;
    stage.run(|count| {
        // In a register: a store for each message would be measured too.
        let first = number + 1;
        for number in first..first + count {
            send(number)?;
        }
        number += count;
        Ok(())
    })
}

/// The receiving half: `receive` yields the sum of a message's words, of which there are `words`.
///
/// # Errors
///
/// Those of `receive`; or if the sum over everything is wrong.
#[inline]
pub fn receive_all(
    stage: &Stage,
    words: u64,
    mut receive: impl FnMut() -> Outcome<u64>,
) -> Outcome {
    let mut sum = 0_u64;
    stage.run(|count| {
        let mut part = 0_u64;
        for _ in 0..count {
            part = part.wrapping_add(receive()?);
        }
        sum = sum.wrapping_add(part);
        Ok(())
    })?;
    check_sum(stage, words, sum)
}

/// The sending half of a stream in batches: `send` is given the first number of each.
///
/// # Errors
///
/// Those of `send`.
#[inline]
pub fn send_batches(stage: &Stage, batch: u64, mut send: impl FnMut(u64) -> Outcome) -> Outcome {
    let mut number = 1_u64;
    stage.run(|count| {
        for at in 0..count / batch {
            send(number + at * batch)?;
        }
        number += count / batch * batch;
        Ok(())
    })
}

/// The receiving half of a stream in batches of any size: `receive` is told how many messages
/// are wanted at most, and yields how many came and the sum of their words.
///
/// # Errors
///
/// Those of `receive`; or if the sum over everything is wrong.
#[inline]
pub fn receive_batches(
    stage: &Stage,
    words: u64,
    mut receive: impl FnMut(u64) -> Outcome<(u64, u64)>,
) -> Outcome {
    let mut sum = 0_u64;
    stage.run(|count| {
        let mut left = count;
        while left > 0 {
            let (came, words) = receive(left)?;
            left -= came;
            sum = sum.wrapping_add(words);
        }
        Ok(())
    })?;
    check_sum(stage, words, sum)
}

/// The receiving half of a stream that may have gaps: `receive` yields a message's number, or
/// how many messages were missed.
///
/// # Errors
///
/// Those of `receive`; or if another message came than was due.
#[inline]
pub fn receive_with_gaps(
    stage: &Stage,
    mut receive: impl FnMut() -> Outcome<Result<u64, u64>>,
) -> Outcome {
    // All that were sent up to here, and those that were to be sent up to the end of the block.
    let (mut passed, mut due, mut missed) = (0, 0, 0);
    stage.run(|count| {
        due += count;
        while passed < due {
            match receive()? {
                Ok(number) if number == passed + 1 => passed = number,
                Ok(_) => return Err("another message came than was due".into()),
                Err(gap) => {
                    passed += gap;
                    missed += gap;
                }
            }
        }
        Ok(())
    })?;
    stage.count("missed", missed);
    if passed == due { Ok(()) } else { Err("more was missed than sent".into()) }
}

/// A stream in both directions at once: each half sends a message and receives one, its own or the
/// other half's, by turns.
///
/// # Errors
///
/// Those of the calls; or if the sum over everything that both received is wrong.
#[inline]
pub fn exchange(
    stage: &Stage,
    words: u64,
    mut send: impl FnMut(u64) -> Outcome,
    mut receive: impl FnMut() -> Outcome<u64>,
) -> Outcome {
    let (mut number, mut sum) = (0_u64, 0_u64);
    stage.run(|count| {
        let first = number + 1;
        let mut part = 0_u64;
        for number in first..first + count {
            send(number)?;
            part = part.wrapping_add(receive()?);
        }
        number += count;
        sum = sum.wrapping_add(part);
        Ok(())
    })?;
    let sums = EXCHANGED.map(|line| stage.shared().word(line));
    sums[stage.side() as usize].store(sum, Release);
    stage.meet()?;
    check_sum(stage, 2 * words, sums[0].load(Acquire).wrapping_add(sums[1].load(Acquire)))
}

/// The lines in which the halves leave the sums of what they received.
const EXCHANGED: [usize; 2] = [63, 64];

fn check_sum(stage: &Stage, words: u64, sum: u64) -> Outcome {
    let all = u128::from(stage.total());
    let expected = (all * (all + 1) / 2).wrapping_mul(u128::from(words)) as u64;
    if sum == expected { Ok(()) } else { Err("the sum over all messages is wrong".into()) }
}

/// How many messages make a burst.
pub const BURST: u64 = 32;
/// The line by which the receiver of bursts asks for the next one.
const ASKED: usize = 60;

/// The sending half of bursts: each message carries the time at which it was sent, in ns of a
/// clock that both halves read.
///
/// # Errors
///
/// Those of `send`.
pub fn send_bursts(stage: &Stage, mut send: impl FnMut(u64) -> Outcome) -> Outcome {
    let asked = stage.shared().word(ASKED);
    asked.store(0, Release);
    let mut bursts = 0_u64;
    stage.run(|count| {
        for _ in 0..count / BURST {
            while asked.load(Acquire) != bursts {
                core::hint::spin_loop();
            }
            // The receiver is in its waiting loop again.
            let began = Instant::now();
            while began.elapsed().as_nanos() < 500 {
                core::hint::spin_loop();
            }
            for _ in 1..BURST {
                send(1)?;
            }
            send(now())?;
            bursts += 1;
        }
        Ok(())
    })
}

/// The receiving half of bursts: samples how old the last message of each is.
///
/// # Errors
///
/// Those of `receive`.
pub fn receive_bursts(stage: &Stage, mut receive: impl FnMut() -> Outcome<u64>) -> Outcome {
    let asked = stage.shared().word(ASKED);
    let mut bursts = 0_u64;
    stage.run(|count| {
        for _ in 0..count / BURST {
            for _ in 1..BURST {
                receive()?;
            }
            let sent = receive()?;
            stage.sample(now().saturating_sub(sent));
            bursts += 1;
            asked.store(bursts, Release);
        }
        Ok(())
    })
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the same in all processes.
fn now() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
