//! A fence that only the sleeper pays for.
//!
//! A process that registered is interrupted for a full fence on all its running
//! threads whenever any process calls [`barrier`]. A sender that registered may
//! therefore leave out its own fence, if the receiver promises to call
//! [`barrier`] before it sleeps; how the two agree is told in `wait`. The
//! registration outlives `fork` and ends with `exec`.
#![expect(unsafe_code, reason = "system calls without a wrapper")]

use nix::errno::Errno;

const QUERY: libc::c_int = 0;
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn call(command: libc::c_int) -> nix::Result<libc::c_long> {
    // SAFETY: membarrier takes three integers and touches no memory of the caller.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    Errno::result(result)
}

/// Whether this kernel knows the global expedited barrier.
///
/// The models have none: there every end fences by itself.
pub(crate) fn available() -> bool {
    if cfg!(hugeshm_loom) {
        return false;
    }
    let wanted = libc::c_long::from(GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED);
    call(QUERY).is_ok_and(|commands| commands & wanted == wanted)
}

/// Registers this process as one that is fenced by the [`barrier`] of others.
pub(crate) fn register() -> nix::Result<()> {
    call(REGISTER_GLOBAL_EXPEDITED).map(drop)
}

/// Lets every running thread of every registered process pass a full fence.
pub(crate) fn barrier() -> nix::Result<()> {
    if cfg!(hugeshm_loom) {
        return Ok(());
    }
    call(GLOBAL_EXPEDITED).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_kernel_knows_the_barrier_it_can_be_registered_and_called() {
        if !available() {
            eprintln!("SKIP: this kernel has no global expedited membarrier");
            return;
        }
        register().unwrap();
        barrier().unwrap();
    }
}
