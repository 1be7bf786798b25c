//! The way out of errors that come from rooms which do not know whose segment it is about.
//!
//! The kernel door and the rooms beside this one say what failed on which path.
//! Here the name is known, and with it what its user can do.

use crate::error::{Error, ErrorKind};
use crate::pages::limited;
use nix::errno::Errno;

/// Adds a way out to an error about the segment `name` that has none.
pub(crate) fn advise(error: Error, name: &str) -> Error {
    let error = limited(error);
    let told = |error: &Error| {
        !error.way_out().is_empty() || error.refusals().iter().any(|r| !r.remedy.is_empty())
    };
    if told(&error) {
        return error;
    }
    let remedy = match (error.kind(), error.errno()) {
        (ErrorKind::PermissionDenied, Some(Errno::EROFS)) => {
            "it is mounted read-only: open the segment read-only, remount the folder writable, or \
             point HUGESHM_DIR at one that is"
                .to_owned()
        }
        (ErrorKind::PermissionDenied, _) => format!(
            "act as the user who made {name:?}, or have it made with a mode that lets you in"
        ),
        (ErrorKind::Corrupt, _) => format!("`hugeshm remove {name}`, or replace it"),
        (ErrorKind::BadMount, _) => {
            "`hugeshm status` lists the mounts, `hugeshm mount SIZE PATH` makes one".to_owned()
        }
        (ErrorKind::UnknownPageSize, _) => {
            "ask for a page size of this machine; `hugeshm status` lists them".to_owned()
        }
        (ErrorKind::InvalidCapacity, _) => {
            "ask for one message at least, and for less than memory holds".to_owned()
        }
        (ErrorKind::TimedOut, _) => "try again; `hugeshm list` shows who is attached".to_owned(),
        _ => return error,
    };
    error.remedy(remedy)
}
