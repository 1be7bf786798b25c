//! tbd
pub fn play(_: &str) -> bool { false }
