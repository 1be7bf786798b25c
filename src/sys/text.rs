//! Small kernel text files, whole, and the few shapes they have.
//!
//! `/proc` and `/sys` speak in short texts. This file reads one of them in
//! full, whatever its length, and takes numbers and fields out of it. The
//! parsers are pure functions over bytes: they skip what they do not
//! understand and never panic, because a kernel of tomorrow, a container
//! runtime or a mount point named by a joker decides what stands there.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The kernel's word in an error of the standard library; `EIO` if it has none.
pub(crate) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The whole content of the file at `path`.
pub(crate) fn read(path: &Path) -> nix::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| errno_of(&error))
}

/// The whole content, or `None` if the file cannot be read for whatever reason.
pub(crate) fn read_optional(path: &Path) -> Option<Vec<u8>> {
    read(path).ok()
}

/// The one number in the file at `path`, or `None`.
pub(crate) fn number(path: &Path) -> Option<u64> {
    parse_number(&read(path).ok()?)
}

/// Writes `text` into an existing file in one `write`, as sysfs wants it.
pub(crate) fn write(path: &Path, text: &str) -> nix::Result<()> {
    let file = loop {
        match open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    loop {
        match nix::unistd::write(&file, text.as_bytes()) {
            Err(Errno::EINTR) => {}
            Ok(written) if written == text.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO),
            Err(errno) => return Err(errno),
        }
    }
}

/// The names in the folder at `path`, sorted; empty if it cannot be read.
pub(crate) fn names(path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect(),
        Err(_) => Vec::new(),
    };
    names.sort();
    names
}

/// The lines of a text, without their ends.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// A number of decimal digits with blanks around it; `None` for anything else or beyond 64 bits.
pub(crate) fn parse_number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The value of the first line that starts with `key` (which includes its colon), trimmed.
pub(crate) fn field<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    lines(text).find_map(|line| line.strip_prefix(key.as_bytes())).map(<[u8]>::trim_ascii)
}

/// The value of a `/proc/meminfo` line in bytes: `MemFree:  123 kB`, or a bare count.
pub(crate) fn parse_meminfo(text: &[u8], key: &str) -> Option<u64> {
    let value = field(text, key)?;
    match value.strip_suffix(b"kB") {
        Some(kilobytes) => parse_number(kilobytes)?.checked_mul(1024),
        None => parse_number(value),
    }
}

/// The word in brackets: `madvise` in `always [madvise] never`.
pub(crate) fn parse_selected(text: &[u8]) -> Option<&[u8]> {
    let open = text.iter().position(|&byte| byte == b'[')?;
    let rest = &text[open + 1..];
    let close = rest.iter().position(|&byte| byte == b']')?;
    Some(&rest[..close])
}

/// Numbers and ranges as the kernel lists CPUs and nodes: `0-3,8,10-11`.
///
/// What is no number, lies beyond `max` or runs backwards is left out.
pub(crate) fn parse_list(text: &[u8], max: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for part in text.trim_ascii().split(|&byte| byte == b',') {
        let mut ends = part.splitn(2, |&byte| byte == b'-');
        let Some(first) = ends.next().and_then(parse_number) else {
            continue;
        };
        let last = match ends.next() {
            None => first,
            Some(text) => match parse_number(text) {
                Some(last) => last,
                None => continue,
            },
        };
        let last = last.min(u64::from(max));
        found.extend((first..=last).filter_map(|number| u32::try_from(number).ok()));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// A path as the mount table writes it: blanks, tabs, line ends and backslashes in octal.
pub(crate) fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        assert_eq!(parse_number(b" 42\n"), Some(42));
        assert_eq!(parse_number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"\n", b"-1", b"+1", b"1 2", b"18446744073709551616", b"\xff", b"max"]
        {
            assert_eq!(parse_number(bad), None, "{bad:?}");
        }
        assert_eq!(parse_number(&[b'9'; 5000]), None);
    }

    #[test]
    fn meminfo_values_come_in_bytes_and_never_wrap() {
        let text = b"MemTotal:       24684084 kB\nHugePages_Free:       3\nHugepagesize: 2048 kB\n\
            Bad: 18446744073709551615 kB\nTruncated:";
        assert_eq!(parse_meminfo(text, "MemTotal:"), Some(24_684_084 * 1024));
        assert_eq!(parse_meminfo(text, "HugePages_Free:"), Some(3));
        assert_eq!(parse_meminfo(text, "Bad:"), None);
        assert_eq!(parse_meminfo(text, "Truncated:"), None);
        assert_eq!(parse_meminfo(text, "Absent:"), None);
    }

    #[test]
    fn the_selected_word_is_the_one_in_brackets() {
        assert_eq!(parse_selected(b"always [madvise] never\n"), Some(&b"madvise"[..]));
        for bad in [&b""[..], b"[", b"]", b"always", b"][", b"[never"] {
            assert_eq!(parse_selected(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lists_keep_to_the_bound_whatever_they_say() {
        assert_eq!(parse_list(b"0-3,8,10-11\n", 100), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list(b"", 100), [0u32; 0]);
        assert_eq!(parse_list(b"5-2,x,-,1-,-4,7,7", 100), [7]);
        assert_eq!(parse_list(b"0-18446744073709551615", 3), [0, 1, 2, 3]);
    }

    #[test]
    fn octal_escapes_are_undone_and_broken_ones_kept() {
        assert_eq!(unescape(br"/a\040b\011c\134d\012"), PathBuf::from("/a b\tc\\d\n"));
        for odd in [&br"/a\04"[..], br"/a\", br"/a\0", br"/a\0x9", br"/a\777"] {
            assert_eq!(unescape(odd).as_os_str().as_encoded_bytes(), odd);
        }
        assert_eq!(unescape(br"/\377").as_os_str().as_encoded_bytes(), b"/\xff");
    }

    #[test]
    fn a_file_that_is_missing_is_a_fact() {
        assert_eq!(read(Path::new("/proc/no-such-file")), Err(Errno::ENOENT));
        assert_eq!(read_optional(Path::new("/proc/no-such-file")), None);
        assert_eq!(number(Path::new("/proc/self/status")), None);
        assert!(names(Path::new("/no/such/folder")).is_empty());
        assert_eq!(write(Path::new("/proc/no-such-file"), "1"), Err(Errno::ENOENT));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_number(&text);
            let _ = parse_meminfo(&text, "MemTotal:");
            let _ = parse_selected(&text);
            prop_assert!(parse_list(&text, 64).len() <= 65);
            prop_assert!(unescape(&text).as_os_str().len() <= text.len());
        }
    }
}
