//! Names: what they may be, and which files they become.
//!
//! | what | file in the control folder |
//! |---|---|
//! | control file of a name | `hugeshm@DOMAIN@NAME` |
//! | claims of a segment | `hugeshm.IDENTITY.claims` |
//! | doorbell of an end | `hugeshm.IDENTITY.bell.OBJECT.ROLE.SLOT.NUMBER` (a FIFO) |
//! | data of a tmpfs segment | `hugeshm.IDENTITY` (on hugetlbfs: the same, in the mount) |
//! | write lock of a user | `hugeshm.lock.UID` |
//! | control file on its way over another one | `hugeshm.IDENTITY.new` or `hugeshm.IDENTITY.new.PID` |
//!
//! `@` cannot stand in a domain or name, so a control file's name reads back
//! in one way only. Names of data files are formed from the identity alone and
//! never taken from a file that somebody else may have written.

use crate::error::{Error, ErrorKind, Result};
use crate::segment::bell::End;
use crate::segment::layout::NAME_MAX;
use core::fmt;

/// The random 128-bit identity of one segment, drawn when it is created.
///
/// Two segments that follow each other under one name differ in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub(crate) [u8; 16]);

impl Identity {
    pub(crate) fn random() -> Result<Self> {
        crate::sys::process::random_bytes()
            .map(Self)
            .map_err(|errno| Error::system("draw an identity", "getrandom", errno))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(lower_hex))
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(|value| Self(value.to_be_bytes()))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Checks a domain, segment or object name: `[A-Za-z0-9._-]{1,100}`, not starting with a dot.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let bad = |detail: String| {
        Err(Error::new(ErrorKind::InvalidName, what, name.chars().take(120).collect::<String>())
            .detail(detail)
            .remedy("use 1 to 100 of the characters A-Z a-z 0-9 . _ - and no leading dot"))
    };
    if name.is_empty() {
        return bad("the name is empty".into());
    }
    if name.len() > NAME_MAX {
        return bad(format!("the name has {} bytes, {NAME_MAX} are the most", name.len()));
    }
    if name.starts_with('.') {
        return bad("the name starts with a dot".into());
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !allowed(c)) {
        Some(c) => bad(format!("the character {c:?} is not allowed")),
        None => Ok(()),
    }
}

pub(crate) fn control_file(domain: &str, name: &str) -> String {
    format!("hugeshm@{domain}@{name}")
}

/// The domain and name that a control file's name stands for, if it is one.
pub(crate) fn parse_control_file(file: &str) -> Option<(&str, &str)> {
    let (domain, name) = file.strip_prefix("hugeshm@")?.split_once('@')?;
    let valid = check_name("read", domain).is_ok() && check_name("read", name).is_ok();
    valid.then_some((domain, name))
}

pub(crate) fn claims_file(identity: Identity) -> String {
    format!("hugeshm.{identity}.claims")
}

pub(crate) fn parse_claims_file(file: &str) -> Option<Identity> {
    Identity::parse(file.strip_prefix("hugeshm.")?.strip_suffix(".claims")?)
}

/// The doorbell of an end: object and slot in decimal, the number in 16 hexadecimal digits.
pub(crate) fn bell_file(identity: Identity, end: End, number: u64) -> String {
    let End { object, role, slot } = end;
    format!("hugeshm.{identity}.bell.{object}.{role}.{slot}.{number:016x}")
}

/// The identity in a doorbell's name.
pub(crate) fn parse_bell_file(file: &str) -> Option<Identity> {
    let (identity, rest) = file.strip_prefix("hugeshm.")?.split_once('.')?;
    rest.starts_with("bell.").then(|| Identity::parse(identity))?
}

pub(crate) fn data_file(identity: Identity) -> String {
    format!("hugeshm.{identity}")
}

pub(crate) fn parse_data_file(file: &str) -> Option<Identity> {
    Identity::parse(file.strip_prefix("hugeshm.")?)
}

/// The passing name of a control file that takes the place of another one.
pub(crate) fn passing_file(identity: Identity, pid: Option<u32>) -> String {
    match pid {
        None => format!("hugeshm.{identity}.new"),
        Some(pid) => format!("hugeshm.{identity}.new.{pid}"),
    }
}

pub(crate) fn is_passing_file(file: &str) -> bool {
    let Some((identity, rest)) = file.strip_prefix("hugeshm.").and_then(|f| f.split_once('.'))
    else {
        return false;
    };
    let pid = |rest: &str| rest.strip_prefix("new.").is_some_and(|pid| pid.parse::<u32>().is_ok());
    Identity::parse(identity).is_some() && (rest == "new" || pid(rest))
}

pub(crate) fn lock_file(uid: u32) -> String {
    format!("hugeshm.lock.{uid}")
}

/// The byte of the user's lock file that serialises changes to one name.
pub(crate) fn name_lock_byte(domain: &str, name: &str) -> u64 {
    // FNV-1a: any spread will do, two names on one byte only wait for each other.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in domain.bytes().chain([0]).chain(name.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash >> 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_are_refused_and_named() {
        for good in ["a", "md.xnas", "A-1_b", "x.", &"n".repeat(100)] {
            check_name("create segment", good).unwrap();
        }
        let long = "n".repeat(101);
        for bad in
            ["", ".", "..", ".hidden", "a/b", "../x", "a\0b", "a b", "ä", "a@b", "a\nb", &long]
        {
            let error = check_name("create segment", bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{bad:?}");
            assert!(error.to_string().contains("A-Z a-z 0-9"), "{error}");
        }
    }

    #[test]
    fn file_names_read_back_as_what_they_were_made_from() {
        let id = Identity([0xab; 16]);
        assert_eq!(parse_control_file(&control_file("d.x", "n-1")), Some(("d.x", "n-1")));
        assert_eq!(parse_claims_file(&claims_file(id)), Some(id));
        assert_eq!(parse_data_file(&data_file(id)), Some(id));
        assert_eq!(parse_data_file(&claims_file(id)), None);
        let bell = bell_file(id, End { object: 3, role: "consumer", slot: 0 }, 0xf);
        assert!(bell.ends_with(".bell.3.consumer.0.000000000000000f"), "{bell}");
        assert_eq!(parse_bell_file(&bell), Some(id));
        for other in [claims_file(id), data_file(id), passing_file(id, None)] {
            assert_eq!(parse_bell_file(&other), None);
        }
        for parsed in [parse_data_file(&bell), parse_claims_file(&bell)] {
            assert_eq!(parsed, None);
        }
        assert!(is_passing_file(&passing_file(id, None)));
        assert!(is_passing_file(&passing_file(id, Some(7))));
        for other in [claims_file(id), data_file(id), lock_file(0), data_file(id) + ".new.x", bell]
        {
            assert!(!is_passing_file(&other), "{other}");
        }
        for foreign in ["hugeshm@", "hugeshm@a", "hugeshm@a@b@c", "hugeshm@.a@b", "x@a@b", ""] {
            assert_eq!(parse_control_file(foreign), None, "{foreign}");
        }
        for foreign in
            ["hugeshm.", "hugeshm.lock.0", "hugeshm.ABABABABABABABABABABABABABABABAB", "hugeshm.+1"]
        {
            assert_eq!(parse_data_file(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn lock_bytes_of_names_fit_a_file_offset() {
        for n in 0..1000 {
            assert!(name_lock_byte("default", &format!("n{n}")) < i64::MAX as u64);
        }
        assert_ne!(name_lock_byte("a", "bc"), name_lock_byte("ab", "c"));
    }
}
