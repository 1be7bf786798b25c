//! Which system calls a child stops at: those that others can see, or that see others.
#![expect(unsafe_code, reason = "a filter is handed to the kernel as a raw program")]

/// The calls that the filter stops at.
///
/// Names come and go by `linkat`, `renameat` and `unlinkat`, are found by `openat` and
/// `getdents64`, and counted by `fstat`; claims are `fcntl`; `pwrite64` and `ftruncate` change
/// files that have a name already; the `shm` calls are SysV's. Who sleeps waits for somebody.
const STOPS: [libc::c_long; 15] = [
    libc::SYS_openat,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_fcntl,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_clock_nanosleep,
];

/// From now on this process stops before each of these calls, for its tracer.
pub fn install() -> nix::Result<()> {
    // `seccomp_data.nr` is its first word.
    let load = bpf(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let mut program = vec![load];
    for (index, call) in STOPS.iter().enumerate() {
        // Behind the comparisons that are left stand "go on" and "stop".
        let to_stop = STOPS.len() - index;
        let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        program.push(bpf(equals, to_stop as u8, 0, *call as u32));
    }
    let answer = libc::BPF_RET | libc::BPF_K;
    program.push(bpf(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(bpf(answer, 0, 0, libc::SECCOMP_RET_TRACE));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: this option takes no pointer, and the unused arguments are 0 as it demands.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    nix::errno::Errno::result(done)?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` points to `len` filters of a vector that lives until the end of this
    // function; the kernel copies them.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    nix::errno::Errno::result(done).map(drop)
}

fn bpf(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
