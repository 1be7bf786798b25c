//! Errors that come of a limit on this process, with its number and the way out.
//!
//! They can strike in any call, whatever it is about, so the words are here for all rooms.

use crate::error::{Error, ErrorKind};
use crate::sys::limits;
use nix::errno::Errno;

/// Adds the limit that was hit, and how to raise it, to an error that does not say so yet.
pub(crate) fn limited(error: Error) -> Error {
    if error.kind() != ErrorKind::NoSpace || !error.way_out().is_empty() {
        return error;
    }
    let number = |limit: Option<u64>| limit.map_or("unknown".to_owned(), |limit| limit.to_string());
    let (detail, remedy) = match error.errno() {
        Some(Errno::EMFILE) => (
            format!(
                "needs a descriptor, all {} of this process are taken (RLIMIT_NOFILE)",
                number(limits::descriptors())
            ),
            "close descriptors, or raise this process's limit (ulimit -n)",
        ),
        Some(Errno::ENFILE) => (
            "needs a descriptor, all of the machine are taken (fs.file-max)".to_owned(),
            "close descriptors, or as root: sysctl fs.file-max=NUMBER",
        ),
        Some(Errno::EFBIG) => (
            format!(
                "needs a longer file, this process may make files of {} bytes (RLIMIT_FSIZE)",
                number(limits::file_size())
            ),
            "raise this process's limit (ulimit -f)",
        ),
        Some(Errno::ENOMEM) => (
            error.explanation().to_owned(),
            "free memory, or raise what this process and its cgroup may have",
        ),
        _ => return error,
    };
    error.detail(detail).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_with_its_number_unless_more_is_known() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::EFBIG, Errno::ENOMEM] {
            let error = limited(Error::system("try", "it", errno));
            assert!(!error.way_out().is_empty() && error.to_string().contains("it"), "{error}");
            let known = limited(Error::system("try", "it", errno).remedy("this"));
            assert_eq!(known.way_out(), "this");
        }
        let other = limited(Error::system("try", "it", Errno::EIO));
        assert!(other.way_out().is_empty());
    }
}
