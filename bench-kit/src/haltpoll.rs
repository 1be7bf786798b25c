//! The guest's halt polling: whether an idle virtual processor looks around before it halts.
//!
//! A sleep and a wake-up cost about 35 us where the processor halts and the host
//! must be asked to run it again, and a few where it polls. Both are worth a row,
//! and the setting is put back.

use std::fs;

const FILE: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
const ON: &str = "200000";
const OFF: &str = "0";

/// Puts the old value back when dropped.
#[derive(Debug)]
pub(crate) struct HaltPoll {
    before: String,
}

impl HaltPoll {
    /// Switches it; the reason if that cannot be done.
    pub(crate) fn set(on: bool) -> Result<Self, String> {
        let before = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
        let value = if on { ON } else { OFF };
        if before.trim() != value {
            fs::write(FILE, value).map_err(|error| format!("{FILE}: {error}"))?;
        }
        Ok(Self { before: before.trim().to_owned() })
    }
}

impl Drop for HaltPoll {
    fn drop(&mut self) {
        // There is nobody to tell; it was written a moment ago.
        let _ = fs::write(FILE, &self.before);
    }
}

/// The value as found, in words.
pub(crate) fn found() -> String {
    match fs::read_to_string(FILE).as_deref().map(str::trim) {
        Ok("0") => "off".into(),
        Ok(nanos) => format!("{nanos} ns"),
        Err(_) => "unknown".into(),
    }
}
