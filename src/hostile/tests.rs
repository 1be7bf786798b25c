//! Each body on a bounded number of inputs: its seeds, seeds with changed bytes, and any bytes.

use super::{BODIES, run, seeds, stage};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::time::Duration;

/// How long a body may take for all its inputs before its test is ended.
const PATIENCE: Duration = Duration::from_secs(600);

/// Some bytes of a seed are changed, a piece is cut out, or doubled.
fn near(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
    let piece = (any::<prop::sample::Index>(), 0..40_usize, 0..3_u8);
    (prop::sample::select(seeds), edits, piece).prop_map(|(mut bytes, edits, (at, len, what))| {
        if bytes.is_empty() {
            return bytes;
        }
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let at = at.index(bytes.len());
        let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
        match what {
            0 => drop(bytes.drain(at..at + piece.len())),
            1 => drop(bytes.splice(at..at, piece)),
            _ => {}
        }
        bytes
    })
}

/// Runs the body `name` on `count` inputs, beside its seeds; times the number that the environment
/// variable `HUGESHM_HOSTILE_TIMES` has, if any.
fn try_out(name: &'static str, count: u32) {
    let times = std::env::var("HUGESHM_HOSTILE_TIMES").ok().and_then(|times| times.parse().ok());
    let count = count * times.unwrap_or(1);
    let (over, watch) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if watch.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{name}: an input takes for ever");
            std::process::abort();
        }
    });
    let seeds = seeds(name);
    let tried = Cell::new(0);
    for seed in &seeds {
        run(name, seed);
        tried.set(tried.get() + 1);
    }
    let any_bytes = proptest::collection::vec(any::<u8>(), 0..600);
    let inputs = prop_oneof![near(seeds), any_bytes];
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&inputs, |input| {
        tried.set(tried.get() + 1);
        run(name, &input);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
    drop(over);
    watch.join().expect("it only waits");
    eprintln!("{name}: {} inputs", tried.get());
    for (name, most) in stage::most() {
        eprintln!("  at most {most} accesses in an operation of {name}");
    }
    assert!(tried.get() > count);
}

macro_rules! bodies {
    ($($name:ident $count:expr)+) => {
        $(
            #[test]
            fn $name() {
                try_out(stringify!($name), $count);
            }
        )+

        #[test]
        fn every_body_is_tried_out() {
            let tried = [$(stringify!($name)),+];
            assert_eq!(BODIES.map(|(name, _)| name), tried);
        }
    };
}

#[test]
fn every_body_is_a_fuzz_target() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    let named = |name: &str| manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n"));
    for (name, _) in BODIES {
        assert!(named(name), "fuzz/Cargo.toml lacks {name}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), BODIES.len());
}

bodies! {
    header 300
    segment 60
    control 200
    kernel 300
    names 1000
    typed 200
    wide 200
    raw 200
    records 200
    records_aligned 200
    broadcast 200
    broadcast_lossless 200
    news 200
    news_lossless 200
    lanes 200
    shared 200
    latest 200
    latest_long 200
    call 200
    duplex 200
    race 100
}
