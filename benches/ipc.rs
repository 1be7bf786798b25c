//! Our rings between two processes, next to the physical limits of the same minute.
//!
//! `cargo bench --bench ipc -- --help` lists the options; `docs/PERFORMANCE.md`
//! says how the numbers come about.

use std::process::ExitCode;

fn main() -> ExitCode {
    bench_kit::main(bench_kit::ours::suite)
}
