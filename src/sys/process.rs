//! Processes: identity, forks, randomness.

/// `N` random bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> nix::Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| crate::sys::text::errno_of(&error))?;
    Ok(bytes)
}
