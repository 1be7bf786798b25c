//! The kernel door: one file per interface, saying what the kernel said.
//!
//! No policy lives here. Every call answers with `nix::Result`, so the errno
//! reaches the room that knows the object's name and the way out. Calls that a
//! signal may interrupt before they did anything are repeated here (`EINTR`),
//! except the waits, whose callers own the deadline.

pub(crate) mod fifo;
pub(crate) mod file;
pub(crate) mod futex;
pub(crate) mod limits;
pub(crate) mod locks;
pub(crate) mod membarrier;
pub(crate) mod memfd;
pub(crate) mod mempolicy;
pub(crate) mod mmap;
pub(crate) mod mount;
pub(crate) mod pagemap;
pub(crate) mod probe;
pub(crate) mod process;
pub(crate) mod rights;
pub(crate) mod sysv;
pub(crate) mod text;
