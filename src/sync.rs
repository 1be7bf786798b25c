//! The atomics that shared memory is touched with.
//!
//! They are those of `core`. Built with `--cfg hugeshm_loom` they are instead
//! those of `loom`, which runs a model of two or three threads in every order
//! that the memory model allows: the lock-free protocols are checked on their
//! shipped source, with nothing but this file exchanged. See `modelled`.

#[cfg(hugeshm_loom)]
pub(crate) mod modelled;

#[cfg(not(hugeshm_loom))]
pub(crate) use core::hint::spin_loop;
#[cfg(not(hugeshm_loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence};
#[cfg(hugeshm_loom)]
pub(crate) use modelled::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, fence, spin_loop};
