//! Measures two pinned processes against each other, in interleaved rounds.
//!
//! On a shared virtual machine the same two lines of code take 45 ns now and
//! 400 ns a minute later, because the host has moved a virtual processor to
//! another core complex. A number from one run means nothing there; a ratio of
//! two numbers that were taken next to each other does. So contestants take
//! turns (A B C A B C ...), the physical limits are contestants like the others,
//! the cache-line round trip between the two processors is measured before and
//! after each turn, and turns with a far line go to a table of their own.
//!
//! | file | its job |
//! |---|---|
//! | `contest` | what a contestant is: two halves, a table, a unit |
//! | `stage` | what a half sees while it is measured: its partner, the clock, shared memory |
//! | `drive` | ping-pong, streams and bursts over any pair of send and receive calls |
//! | `worker` | one of the two processes: runs the half it is told to |
//! | `coordinator` | starts the workers, calls the turns, survives a contestant that hangs |
//! | `cpus`, `shared`, `words`, `haltpoll` | processors, shared memory, payloads, the idle loop |
//! | `limits` | physical limits: the same work with nothing around it |
//! | `ours` | our rings |
//! | `many` | our rings with many ends |
//! | `bystander` | processes that hold an end and do nothing |
//! | `pages` | our rings on every kind of page |
//! | `sum` | medians, ratios of one round, near and far |
//! | `report`, `svg` | tables as text, Markdown and JSON; plots |
//! | `options`, `program` | the command line of a benchmark, and its `main` |
//!
//! It judges nothing: no number makes a run fail. A contestant that breaks (an
//! error, a wrong sum, ten seconds without an end) has that said in its row.

pub mod bystander;
mod contest;
mod coordinator;
mod cpus;
pub mod drive;
mod haltpoll;
pub mod limits;
pub mod many;
mod options;
pub mod ours;
pub mod pages;
mod program;
mod report;
mod shared;
mod stage;
mod sum;
mod svg;
pub mod words;
mod worker;

pub use contest::{Contest, Place, Role, Suite, Table, Unit};
pub use options::{Effort, Options};
pub use program::{main, measure, serve_as_worker};
pub use report::Report;
pub use shared::Shared;
pub use stage::{Outcome, Side, Stage};
