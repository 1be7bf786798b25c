//! Whether logind takes a user's shared memory away at logout (`RemoveIPC`).
//!
//! It does by default, for users that are no system users: files on `/dev/shm`
//! and System V segments vanish when the last session ends, whoever maps them.
//! The settings are spread over a file and drop-ins in four folders.

use crate::sys::text;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The first user number that is a person's, by the custom of all distributions.
const FIRST_REGULAR_UID: u32 = 1000;

/// Whether logind runs here and takes the shared memory of user `uid` away at logout.
pub(super) fn removes_ipc(uid: u32) -> bool {
    let exists = |path: &str| Path::new(path).exists();
    let logind = exists("/run/systemd/system") && exists("/run/systemd/seats");
    let lingers = nix::unistd::User::from_uid(uid.into())
        .ok()
        .flatten()
        .is_some_and(|user| Path::new("/var/lib/systemd/linger").join(user.name).exists());
    logind && uid >= FIRST_REGULAR_UID && !lingers && configured_to_remove(&logind_files())
}

/// logind's settings in the order in which they apply.
fn logind_files() -> Vec<Vec<u8>> {
    const FOLDERS: [&str; 4] =
        ["/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"];
    // Of two drop-ins with the same name the one in the later folder replaces the other.
    let mut parts: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut main = None;
    for folder in FOLDERS.map(Path::new) {
        let file = folder.join("logind.conf");
        if file.exists() {
            main = Some(file);
        }
        let folder = folder.join("logind.conf.d");
        for name in text::names(&folder) {
            if name.as_encoded_bytes().ends_with(b".conf") {
                parts.insert(name.clone(), folder.join(name));
            }
        }
    }
    main.into_iter()
        .chain(parts.into_values())
        .filter_map(|file| text::read_optional(&file))
        .collect()
}

/// Whether the settings, read in order, say `RemoveIPC=yes`, which is also the default.
fn configured_to_remove(files: &[Vec<u8>]) -> bool {
    files.iter().rev().find_map(|file| parse_remove_ipc(file)).unwrap_or(true)
}

/// The last `RemoveIPC=` in the `[Login]` section of one file.
pub(super) fn parse_remove_ipc(file: &[u8]) -> Option<bool> {
    let mut in_section = false;
    let mut found = None;
    for line in text::lines(file).map(<[u8]>::trim_ascii) {
        if line.starts_with(b"[") {
            in_section = line == b"[Login]";
        } else if in_section && let Some(rest) = line.strip_prefix(b"RemoveIPC") {
            let value = rest.trim_ascii_start().strip_prefix(b"=").map(<[u8]>::trim_ascii);
            found = match value.map(<[u8]>::to_ascii_lowercase).as_deref() {
                Some(b"yes" | b"true" | b"on" | b"1" | b"y" | b"t") => Some(true),
                Some(b"no" | b"false" | b"off" | b"0" | b"n" | b"f") => Some(false),
                _ => found,
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_of_logind_counts_and_only_in_its_section() {
        assert_eq!(parse_remove_ipc(b"[Login]\n RemoveIPC = no \n"), Some(false));
        assert_eq!(parse_remove_ipc(b"[Login]\nRemoveIPC=no\nRemoveIPC=yes\n"), Some(true));
        assert_eq!(parse_remove_ipc(b"RemoveIPC=no\n[Other]\nRemoveIPC=no"), None);
        assert_eq!(parse_remove_ipc(b"[Login]\n#RemoveIPC=no\nRemoveIPCx=no\nRemoveIPC"), None);
        assert_eq!(parse_remove_ipc(b"[Login]\nRemoveIPC=\xff\n"), None);
        assert!(configured_to_remove(&[]));
        let files = [b"[Login]\nRemoveIPC=yes".to_vec(), b"[Login]\nRemoveIPC=0".to_vec()];
        assert!(!configured_to_remove(&files));
    }
}
