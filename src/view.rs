//! The memory door: a bounded window onto bytes that others may change.

use std::ptr::NonNull;

/// A range of mapped memory that stays mapped as long as the value lives.
pub(crate) trait Memory: Send + Sync {
    /// The first byte.
    fn base(&self) -> NonNull<u8>;
    /// The length in bytes.
    fn len(&self) -> usize;
    /// Whether it may be written.
    fn writable(&self) -> bool;
}
