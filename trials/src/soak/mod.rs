//! Kills, stops and restarts processes at random, for a set time.
//!
//! A segment with an object of every kind is carried by every kind of memory in turn. Each end of
//! each object is a process of its own, which is killed, stopped for a while and started again at
//! random moments; a bystander lists, inspects, collects, attaches and observes meanwhile, and is
//! treated no better. Every message names its number, and every byte of it follows from that.
//!
//! Consumers tell of each message through a pipe, before they release it where the ring lets
//! them, so what they told survives them. From that the judge tells apart:
//!
//! * *lost*: sent and never received; must be 0
//! * *torn*: received, and not what was sent; half a batch counts as well; must be 0
//! * *again*: received by a successor since its predecessor was killed between reading and
//!   releasing. Only that one message may be; one that was released may not
//! * *unheard*: delivered to a life that was killed before it could tell. Every fourth life uses
//!   the calls that receive and release at once; at most one message for each of these
//! * *missed*: what a broadcast ring said was overwritten; received and missed together must be
//!   what was sent, to the message. Lossless rings may miss some only where a dead consumer was
//!   not waited for
//!
//! Now and then a child stands still at a place of its own choice until it is killed: with a
//! message read and not released, just released, reserved and not committed, just committed.
//! Then the judge knows exactly what its successor must find (*certain*).
//!
//! At the end all leave in good order and everything that was sent must have been received; then
//! the segment is collected, and files, System V segments and pool counters must be as before.
//! Whoever gives no sign for 30 s hangs: that is a fault, with the place in the kernel where
//! it is.
//!
//! What it does not do: it kills where it happens to hit, mostly outside of the few instructions
//! that matter; the single-step suite is there for those. Every process is honest.
//!
//! | file | its job |
//! |---|---|
//! | `cast` | the objects, and the parts at each of them |
//! | `stage` | starts, kills, stops; looks who hangs |
//! | `child` | what a child is told, and how it tells |
//! | `send`, `receive`, `shared`, `calls`, `latest`, `look` | the parts |
//! | `note` | messages and notes |
//! | `judge`, `stream`, `receipts` | what was lost, torn, repeated |
//! | `backing` | the kinds of memory |

mod backing;
mod calls;
mod cast;
mod child;
mod judge;
mod latest;
mod look;
mod note;
mod receipts;
mod receive;
mod send;
mod shared;
mod stage;
mod stream;

use crate::common::Scratch;
use crate::common::machine::{self, Counters};
use crate::verdict::Verdict;
use backing::{Carrier, KINDS, Kind};
use cast::{Object, Role};
use hugeshm::Domain;
use judge::Tally;
use stage::Stage;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What can be chosen.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long to play, all kinds of memory together
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// What the random moments follow from; drawn and printed if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only these kinds of memory
    #[arg(long, value_enum)]
    backing: Vec<Kind>,
    #[command(flatten)]
    birth: child::Birth,
}

/// What all kinds of memory came to.
#[derive(Default)]
struct Sum {
    tallies: BTreeMap<Object, Tally>,
    blows: BTreeMap<Role, [u64; 4]>,
}

/// Runs the suite.
pub fn run(arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(played) = arguments.birth.play() {
        // Its standard output is for notes; the judge reads the verdict from its exit status.
        let _ =
            std::fs::File::options().write(true).open("/dev/null").map(nix::unistd::dup2_stdout);
        match played {
            Ok(()) => verdict.counted("life", 1),
            Err(what) => verdict.fault(what),
        }
        return verdict;
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64)
    });
    println!("seed {seed}");
    let _pools = machine::lock_pools();
    let kinds = if arguments.backing.is_empty() { &KINDS[..] } else { &arguments.backing };
    let each = Duration::from_secs(arguments.seconds) / kinds.len() as u32;
    let (mut sum, mut given) = (Sum::default(), 0);
    for (index, &kind) in kinds.iter().enumerate() {
        let before = machine::counters();
        match Carrier::borrow(kind) {
            Ok(carrier) => {
                let seed = seed.wrapping_add(index as u64);
                play(
                    &carrier,
                    kind,
                    each.max(Duration::from_secs(1)),
                    seed,
                    &mut sum,
                    &mut verdict,
                );
            }
            Err(why) => verdict.skip(format!("{kind:?}: {why}")),
        }
        given += u64::from(given_back(&format!("{kind:?}"), &before, &mut verdict));
    }
    verdict.counted("kinds of memory whose pools were as before", given);
    report(&sum, &mut verdict);
    verdict
}

/// One kind of memory: builds the segment, plays, and takes everything down.
fn play(
    carrier: &Carrier,
    kind: Kind,
    time: Duration,
    seed: u64,
    sum: &mut Sum,
    verdict: &mut Verdict,
) {
    let scratch = Scratch::new();
    let start = Instant::now();
    let played = (|| -> hugeshm::Result<Stage<'_>> {
        let domain = Domain::in_folder(child::NAME, scratch.path())?;
        let segment = carrier.demand(cast::declare(&domain))?.build()?;
        println!("{kind:?}: {}", segment.backing());
        let stage = Stage::new(scratch.path(), seed);
        stage.play(time);
        drop(segment);
        let report = domain.collect()?;
        if report.removed.len() != 1 || !report.failed.is_empty() {
            verdict.fault(format!("{kind:?}: not collected: {report:?}"));
        }
        Ok(stage)
    })();
    match played {
        Ok(stage) => close(stage, kind, start.elapsed(), sum, verdict),
        Err(error) => verdict.fault(format!("{kind:?}: {error}")),
    }
    let files = [scratch.files(), carrier.files()].concat();
    if !files.is_empty() {
        verdict.fault(format!("{kind:?}: files were left: {files:?}"));
        for file in scratch.files() {
            let _ = std::fs::remove_file(scratch.path().join(file));
        }
    }
    let ids = machine::own_sysv_ids();
    if !ids.is_empty() {
        verdict.fault(format!("{kind:?}: System V segments were left: {ids:?}"));
    }
}

fn close(stage: Stage<'_>, kind: Kind, time: Duration, sum: &mut Sum, verdict: &mut Verdict) {
    let mut kills = 0;
    for role in [Role::Producer, Role::Consumer, Role::Bystander] {
        let blows = stage.blows(role);
        let counts = [&blows.kills, &blows.stood, &blows.stops, &blows.restarts];
        let total = sum.blows.entry(role).or_default();
        for (total, count) in total.iter_mut().zip(counts) {
            *total += count.load(Ordering::Relaxed);
        }
        kills += blows.kills.load(Ordering::Relaxed);
    }
    let (tallies, faults) = stage.close();
    let received: u64 = tallies.iter().map(|(_, tally)| tally.received).sum();
    println!("{kind:?}: {kills} kills, {received} messages in {time:.1?}");
    for (object, tally) in tallies {
        sum.tallies.entry(object).or_default().add(&tally);
    }
    for fault in faults {
        verdict.fault(format!("{kind:?}: {fault}"));
    }
}

/// The pools are as they were; the kernel may take a moment.
fn given_back(what: &str, before: &[Counters], verdict: &mut Verdict) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while machine::counters() != before {
        if Instant::now() > deadline {
            let now = machine::counters();
            verdict.fault(format!("{what}: pages leaked: {before:?} became {now:?}"));
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn report(sum: &Sum, verdict: &mut Verdict) {
    println!();
    println!(
        "{:>10} {:>10} {:>5} {:>5} {:>7} {:>8} {:>9} {:>8} {:>7}",
        "", "received", "lost", "torn", "again", "unheard", "missed", "certain", "deaths"
    );
    let mut all = Tally::default();
    for (object, tally) in &sum.tallies {
        let Tally { received, lost, torn, again, unheard, missed, certain, died, .. } = tally;
        println!(
            "{object:>10} {received:>10} {lost:>5} {torn:>5} {again:>7} {unheard:>8} {missed:>9} \
             {certain:>8} {died:>7}"
        );
        all.add(tally);
        verdict.counted(format!("messages received, {object}"), *received);
    }
    for (role, [kills, stood, stops, restarts]) in &sum.blows {
        println!(
            "{role:>10}: {kills} kills ({stood} where it stood still), {stops} stops, {restarts} \
             restarts"
        );
        verdict.counted(format!("kills of {role}s"), *kills);
        verdict.counted(format!("stops of {role}s"), *stops);
    }
    println!("calls: {} answered, {} without an answer", all.answered, all.unanswered);
    println!(
        "lost {}, torn {}, seen again {} (only what was not released)",
        all.lost, all.torn, all.again
    );
    verdict.counted("calls answered", all.answered);
    verdict.counted("ends that were told of a death", all.died);
    verdict.counted("successors that had to be at a known place, and were", all.certain);
    verdict.counted("messages seen again", all.again);
    verdict.counted("messages missed, as gaps told", all.missed);
    verdict.counted("rounds of the bystander", all.looked);
}
