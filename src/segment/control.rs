//! The control file: one small readable text per name that says where to look.
//!
//! `key=value` lines; unknown keys are ignored, so that later versions can add
//! some. It never says what to delete: the names of data files are formed from
//! the identity, and an object is opened or removed only if owner, file system
//! and identity agree with what stands here.
//!
//! The claims file of a segment carries the same kind of text: an *intent*,
//! written before any kernel object exists, so that whatever a killed creator
//! left can be found.

use crate::error::BackingKind;
use crate::segment::names::{Identity, check_name};
use crate::size::PageSize;
use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A control or claims file longer than this is not ours.
pub(crate) const BYTES_MAX: usize = 64 << 10;
/// How many processes a memfd segment can name as holders of its descriptor.
pub(crate) const HOLDERS_MAX: usize = 32;

/// Why a control or claims file is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misread {
    /// It makes no sense.
    Damaged(String),
    /// A later version of this library wrote it.
    Future(String),
}

impl std::fmt::Display for Misread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Damaged(what) | Self::Future(what)) = self;
        f.write_str(what)
    }
}

impl From<String> for Misread {
    fn from(what: String) -> Self {
        Self::Damaged(what)
    }
}

impl From<&str> for Misread {
    fn from(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

/// A process through whose `/proc/PID/fd/FD` a memfd segment can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub pid: u32,
    pub fd: i32,
    pub start: u64,
}

/// Where the bytes of a segment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub domain: String,
    pub name: String,
    pub identity: Identity,
    pub backing: BackingKind,
    pub page_size: PageSize,
    pub length: u64,
    /// `st_dev` and `st_ino` of the data file; zero for SysV.
    pub device: u64,
    pub inode: u64,
    /// For hugetlbfs: the folder of the data file as the creator saw it.
    pub folder: Option<PathBuf>,
    /// For hugetlbfs: the same folder relative to the root of the file system.
    pub folder_in_mount: Option<PathBuf>,
    pub sysv_id: i32,
    pub sysv_key: i32,
    pub holders: Vec<Holder>,
}

impl Control {
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::from("hugeshm=1\n");
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{key}={value}");
        };
        line("domain", &self.domain);
        line("name", &self.name);
        line("identity", &self.identity);
        line("backing", &self.backing);
        line("page_size", &self.page_size.bytes());
        line("length", &self.length);
        match self.backing {
            BackingKind::Sysv => {
                line("sysv_id", &self.sysv_id);
                line("sysv_key", &self.sysv_key);
            }
            _ => {
                line("device", &self.device);
                line("inode", &self.inode);
            }
        }
        if let Some(folder) = &self.folder {
            line("folder", &escape(folder));
        }
        if let Some(folder) = &self.folder_in_mount {
            line("folder_in_mount", &escape(folder));
        }
        for holder in &self.holders {
            line("holder", &format_args!("{} {} {}", holder.pid, holder.fd, holder.start));
        }
        text
    }

    /// The meaning of a control file's bytes, or what is wrong with them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Misread> {
        let pairs = Pairs::parse(bytes)?;
        let backing = match pairs.one("backing")? {
            "hugetlbfs" => BackingKind::Hugetlbfs,
            "sysv" => BackingKind::Sysv,
            "memfd" => BackingKind::Memfd,
            "tmpfs" => BackingKind::Tmpfs,
            other => {
                return Err(Misread::Future(format!(
                    "backing {other:?} is unknown to this version"
                )));
            }
        };
        let sysv = backing == BackingKind::Sysv;
        let control = Self {
            domain: pairs.name("domain")?,
            name: pairs.name("name")?,
            identity: pairs.identity()?,
            backing,
            page_size: PageSize::new(pairs.number("page_size")?)
                .ok_or("page_size is not a page size")?,
            length: pairs.number("length")?,
            device: if sysv { 0 } else { pairs.number("device")? },
            inode: if sysv { 0 } else { pairs.number("inode")? },
            folder: pairs.path("folder")?,
            folder_in_mount: pairs.path("folder_in_mount")?,
            sysv_id: if sysv { pairs.number("sysv_id")? } else { 0 },
            sysv_key: if sysv { pairs.number("sysv_key")? } else { 0 },
            holders: pairs.all("holder").take(HOLDERS_MAX).filter_map(parse_holder).collect(),
        };
        if control.length == 0 || !control.page_size.divides(control.length) {
            return Err("length is not a multiple of page_size".into());
        }
        Ok(control)
    }
}

fn parse_holder(value: &str) -> Option<Holder> {
    let mut words = value.split(' ');
    let holder = Holder {
        pid: words.next()?.parse().ok()?,
        fd: words.next()?.parse().ok()?,
        start: words.next()?.parse().ok()?,
    };
    (holder.fd >= 0).then_some(holder)
}

/// A kernel object that a creator was about to make under an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// A file named by the identity in this hugetlbfs folder.
    Hugetlbfs(PathBuf),
    /// A SysV segment with this exclusive key.
    Sysv(i32),
}

/// What the text in a claims file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimsText {
    pub domain: String,
    pub name: String,
    pub identity: Identity,
    pub intents: Vec<Intent>,
}

impl ClaimsText {
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "hugeshm=1\ndomain={}\nname={}\nidentity={}\n",
            self.domain, self.name, self.identity
        );
        for intent in &self.intents {
            let _ = match intent {
                Intent::Hugetlbfs(folder) => writeln!(text, "hugetlbfs={}", escape(folder)),
                Intent::Sysv(key) => writeln!(text, "sysv_key={key}"),
            };
        }
        text
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Misread> {
        let pairs = Pairs::parse(bytes)?;
        let mut intents = Vec::new();
        for value in pairs.all("hugetlbfs") {
            intents.push(Intent::Hugetlbfs(unescape(value).ok_or("a path is badly escaped")?));
        }
        for value in pairs.all("sysv_key") {
            intents.push(Intent::Sysv(value.parse().map_err(|_| "sysv_key is not a number")?));
        }
        Ok(Self {
            domain: pairs.name("domain")?,
            name: pairs.name("name")?,
            identity: pairs.identity()?,
            intents,
        })
    }
}

/// The `key=value` lines of a text.
struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Pairs<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Misread> {
        if bytes.len() > BYTES_MAX {
            return Err(format!("it is longer than {BYTES_MAX} bytes").into());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let pairs = Self(text.lines().filter_map(|line| line.split_once('=')).collect());
        match pairs.one("hugeshm")? {
            "1" => Ok(pairs),
            version if version.parse::<u32>().is_ok() => {
                Err(Misread::Future(format!("it is of version {version}, this program knows 1")))
            }
            version => Err(format!("it is of version {version:?}, this program knows 1").into()),
        }
    }

    fn all(&self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| *k == key).map(|(_, value)| *value)
    }

    fn one(&self, key: &'a str) -> Result<&'a str, String> {
        self.all(key).next().ok_or_else(|| format!("it has no line {key}="))
    }

    fn number<N: std::str::FromStr>(&self, key: &'a str) -> Result<N, String> {
        self.one(key)?.parse().map_err(|_| format!("{key} is not a number that fits"))
    }

    fn name(&self, key: &'a str) -> Result<String, String> {
        let name = self.one(key)?;
        check_name("read", name).map_err(|_| format!("{key} is not a valid name"))?;
        Ok(name.to_owned())
    }

    fn identity(&self) -> Result<Identity, String> {
        Identity::parse(self.one("identity")?).ok_or_else(|| "identity is not 32 digits".into())
    }

    fn path(&self, key: &'a str) -> Result<Option<PathBuf>, String> {
        match self.all(key).next() {
            None => Ok(None),
            Some(value) => match unescape(value) {
                Some(path) => Ok(Some(path)),
                None => Err(format!("{key} is badly escaped")),
            },
        }
    }
}

/// A path on one line: everything but visible ASCII is written as `%XX`.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    let valid = !bytes.is_empty() && !bytes.contains(&0);
    valid.then(|| PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Control {
        Control {
            domain: "default".into(),
            name: "md.xnas".into(),
            identity: Identity([7; 16]),
            backing: BackingKind::Memfd,
            page_size: PageSize::SIZE_2M,
            length: 4 << 20,
            device: 33,
            inode: 12345,
            folder: Some("/mnt/with space\n%".into()),
            folder_in_mount: Some("/".into()),
            sysv_id: 0,
            sysv_key: 0,
            holders: vec![Holder { pid: 12, fd: 5, start: 99 }],
        }
    }

    #[test]
    fn a_control_file_reads_back_as_it_was_written() {
        let control = sample();
        assert_eq!(Control::parse(control.to_text().as_bytes()), Ok(control.clone()));
        let sysv = Control {
            backing: BackingKind::Sysv,
            sysv_id: 65538,
            sysv_key: -7,
            device: 0,
            inode: 0,
            folder: None,
            folder_in_mount: None,
            holders: vec![],
            ..control
        };
        assert_eq!(Control::parse(sysv.to_text().as_bytes()), Ok(sysv));
    }

    #[test]
    fn unknown_keys_are_ignored_and_missing_ones_named() {
        let text = sample().to_text() + "shiny=yes\nno equal sign\n=\n";
        assert_eq!(Control::parse(text.as_bytes()), Ok(sample()));
        for key in ["hugeshm", "identity", "backing", "length", "device", "page_size", "name"] {
            let without: String = sample()
                .to_text()
                .lines()
                .filter(|line| !line.starts_with(&format!("{key}=")))
                .map(|line| format!("{line}\n"))
                .collect();
            let error = Control::parse(without.as_bytes()).unwrap_err();
            assert!(
                matches!(&error, Misread::Damaged(what) if what.contains(key)),
                "{key}: {error}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let replace = |from: &str, to: &str| sample().to_text().replace(from, to);
        for text in [
            String::new(),
            replace("hugeshm=1", "hugeshm=-"),
            replace("length=4194304", "length=4194305"),
            replace("length=4194304", "length=0"),
            replace("page_size=2097152", "page_size=3"),
            replace("name=md.xnas", "name=../etc"),
            replace("identity=07", "identity=0x"),
            replace("folder=/mnt", "folder=%0"),
            replace("folder=/mnt", "folder=%00"),
            "hugeshm=1\n".repeat(BYTES_MAX),
        ] {
            assert!(Control::parse(text.as_bytes()).is_err(), "{text:.60}");
        }
        assert!(Control::parse(&[0xff; 100]).is_err());
    }

    #[test]
    fn another_version_is_told_from_damage() {
        for (from, to) in [("hugeshm=1", "hugeshm=2"), ("backing=memfd", "backing=cxl")] {
            let text = sample().to_text();
            assert!(text.contains(from), "{text}");
            let read = Control::parse(text.replace(from, to).as_bytes());
            assert!(matches!(read, Err(Misread::Future(_))), "{to}: {read:?}");
        }
    }

    #[test]
    fn intents_read_back() {
        let text = ClaimsText {
            domain: "d".into(),
            name: "n".into(),
            identity: Identity([1; 16]),
            intents: vec![Intent::Hugetlbfs("/dev/huge pages".into()), Intent::Sysv(77)],
        };
        assert_eq!(ClaimsText::parse(text.to_text().as_bytes()), Ok(text));
    }
}
