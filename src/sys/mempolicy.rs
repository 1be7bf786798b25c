//! Where pages may lie, and where they do lie.
//!
//! The four NUMA calls, without policy and without a wrapper library. Masks are
//! slices of 64-bit words of any length; the kernel wants their width in bits
//! plus one, because it subtracts one before it looks (a mask of 64 bits passed
//! as 64 silently loses node 63).

#![expect(unsafe_code, reason = "mbind, set_mempolicy, get_mempolicy and move_pages are raw calls")]

use core::ffi::{c_int, c_long, c_ulong, c_void};
use core::ptr;
use nix::errno::Errno;

/// Back to the policy of the next outer scope.
pub(crate) const MPOL_DEFAULT: i32 = 0;
/// One node first, any other when it is full.
pub(crate) const MPOL_PREFERRED: i32 = 1;
/// These nodes and no others.
pub(crate) const MPOL_BIND: i32 = 2;
/// Page by page over these nodes.
pub(crate) const MPOL_INTERLEAVE: i32 = 3;

/// The widest mask the kernel takes: its own bound is one page of bits, counted with the one extra.
pub(crate) const MASK_BITS_MAX: usize = 32_704;

/// The `maxnode` argument for `mask`: its bits plus one; 0 for the empty mask.
const fn maxnode(mask: &[u64]) -> c_ulong {
    if mask.is_empty() { 0 } else { mask.len() as c_ulong * 64 + 1 }
}

fn mask_pointer(mask: &[u64]) -> *const u64 {
    if mask.is_empty() { ptr::null() } else { mask.as_ptr() }
}

/// Sets the calling thread's policy; an empty mask is passed as none.
pub(crate) fn set_task(mode: i32, mask: &[u64]) -> nix::Result<()> {
    // SAFETY: the kernel reads `maxnode - 1` bits, which is exactly `mask`, or nothing when the
    // pointer is null and maxnode 0; it writes no memory of this process.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            c_long::from(mode),
            mask_pointer(mask),
            maxnode(mask),
        )
    };
    Errno::result(result).map(drop)
}

/// The calling thread's policy: its mode (with mode flags) and its mask.
pub(crate) fn task() -> nix::Result<(i32, Vec<u64>)> {
    let mut mode: c_int = 0;
    let mut mask = vec![0u64; MASK_BITS_MAX / 64];
    // SAFETY: `mode` and `mask` are live and writable; the kernel writes one int and at most
    // `maxnode - 1` bits rounded up to whole words, which is the length of `mask`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            maxnode(&mask),
            ptr::null::<c_void>(),
            0 as c_ulong,
        )
    };
    Errno::result(result)?;
    let used = mask.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1);
    mask.truncate(used);
    Ok((mode, mask))
}

/// Sets the policy of an address range; pages already there stay where they are.
pub(crate) fn bind_range(
    address: usize,
    length: usize,
    mode: i32,
    mask: &[u64],
) -> nix::Result<()> {
    // SAFETY: the range is only named: the kernel changes its policy and no byte of it, and
    // answers EFAULT or EINVAL for a range that is not mapped. It reads `maxnode - 1` bits, which
    // is exactly `mask`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address,
            length,
            c_long::from(mode),
            mask_pointer(mask),
            maxnode(mask),
            0 as c_ulong,
        )
    };
    Errno::result(result).map(drop)
}

/// For each address the node its page lies on, or a negative errno (`-ENOENT`: not present in
/// this process). Moves nothing.
pub(crate) fn locate(addresses: &[usize]) -> nix::Result<Vec<i32>> {
    let mut status: Vec<c_int> = vec![-libc::ENOENT; addresses.len()];
    if addresses.is_empty() {
        return Ok(status);
    }
    // SAFETY: `addresses` and `status` both hold the announced number of entries and live across
    // the call; with a null node list the kernel moves nothing and writes only `status`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0 as c_int,
            addresses.len() as c_ulong,
            addresses.as_ptr(),
            ptr::null::<c_int>(),
            status.as_mut_ptr(),
            0 as c_int,
        )
    };
    Errno::result(result)?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_passed_is_one_more_than_the_bits() {
        assert_eq!(maxnode(&[]), 0);
        assert_eq!(maxnode(&[1]), 65);
        assert_eq!(maxnode(&[0; 16]), 1025);
    }

    #[test]
    fn the_kernel_takes_the_widest_mask_and_answers_with_one() {
        let before = task().expect("get_mempolicy");
        let mut mask = vec![0u64; MASK_BITS_MAX / 64];
        mask[0] = 1;
        set_task(MPOL_BIND, &mask).expect("node 0 exists");
        assert_eq!(task(), Ok((MPOL_BIND, vec![1])));
        set_task(before.0, &before.1).expect("the old policy is taken back");
        assert_eq!(task(), Ok(before));
    }

    #[test]
    fn a_page_lies_on_a_node_and_an_unmapped_address_on_none() {
        let page = vec![1u8; 8192];
        let status = locate(&[page.as_ptr() as usize, 4096]).expect("move_pages");
        assert!(status[0] >= 0, "{status:?}");
        assert!(status[1] < 0, "{status:?}");
        assert_eq!(locate(&[]), Ok(Vec::new()));
    }
}
