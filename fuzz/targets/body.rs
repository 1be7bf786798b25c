//! The body that has the name of this target. All targets are this file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| hugeshm::hostile::run(env!("CARGO_BIN_NAME"), data));
