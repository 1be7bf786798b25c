//! The two stream programs, as real processes: whole streams, kills, bad input.
//!
//! What is promised: the reader's bytes are the writer's, whatever carries them; a program that
//! was killed is simply started again; a failed run leaves nothing that the next one minds, and
//! nothing at all after `collect`.
//!
//! `HUGESHM_LONG=1` adds streams of 4 GiB over every backing.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
mod common;

mod bad_input;
mod kills;
mod support;
mod whole;
