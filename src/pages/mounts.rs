//! The hugetlbfs mounts in sight, and the tmpfs that carries names.
//!
//! The mount table says where; the file system itself says what: the page size
//! comes from `fstatfs`, never from the spelling of a mount option. A line of
//! the table may be of any length (overlay mounts reach many kilobytes) and a
//! path may hold any byte, written in octal.

use crate::error::{Error, Result};
use crate::size::{PageSize, format_bytes, parse_bytes};
use crate::sys::{mount as sys, text};
use core::fmt;
use std::path::{Path, PathBuf};

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

/// One hugetlbfs mount.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Mount {
    /// Where it is mounted.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize_path"))]
    pub path: PathBuf,
    /// The size of its pages.
    pub page_size: PageSize,
    /// The device number that every file on it has (`st_dev`). Two mounts with the same number
    /// show the same file system.
    pub device: u64,
    /// The folder of the file system that is seen at `path`; `/` unless it was bound.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize_path"))]
    pub root: PathBuf,
    /// Whether the mount or the file system is read-only.
    pub read_only: bool,
    /// Whether this user can reach its folder at all. If not, all below is unknown and zero.
    pub reachable: bool,
    /// Whether this user may make files in it.
    pub writable: bool,
    /// The `size=` quota; `None` if only the pool bounds it.
    pub limit: Option<MountLimit>,
    /// How many more files it takes; `None` without a `nr_inodes=` limit.
    pub files_free: Option<u64>,
    /// The owner of its root folder.
    pub uid: u32,
    /// The group of its root folder.
    pub gid: u32,
    /// The permission bits of its root folder.
    pub mode: u32,
}

/// The quota of a mount, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MountLimit {
    /// What the mount may hold.
    pub bytes: u64,
    /// What of it is not taken yet.
    pub free: u64,
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} pages", self.path.display(), self.page_size)?;
        if !self.reachable {
            return write!(f, ", in a folder closed to this user)");
        }
        write!(f, ", mode {:04o}, owner {}:{}", self.mode, self.uid, self.gid)?;
        if let Some(limit) = self.limit {
            write!(f, ", {} of {} free", format_bytes(limit.free), format_bytes(limit.bytes))?;
        }
        match (self.read_only, self.writable) {
            (true, _) => write!(f, ", read-only)"),
            (false, true) => write!(f, ", writable)"),
            (false, false) => write!(f, ", not writable by this user)"),
        }
    }
}

/// A tmpfs folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Tmpfs {
    /// The folder.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize_path"))]
    pub path: PathBuf,
    /// What the file system may hold, in bytes; 0 = no limit.
    pub bytes: u64,
    /// What of it is not taken yet, in bytes.
    pub free: u64,
    /// Whether this user may make files in the folder.
    pub writable: bool,
}

/// One line of the mount table, in the kernel's own spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountLine<'a> {
    pub(crate) root: &'a [u8],
    pub(crate) mount_point: &'a [u8],
    pub(crate) options: &'a [u8],
    pub(crate) file_system: &'a [u8],
    pub(crate) super_options: &'a [u8],
}

impl MountLine<'_> {
    pub(crate) fn path(&self) -> PathBuf {
        text::unescape(self.mount_point)
    }

    /// Whether `option` stands among the options of the mount or of the file system.
    pub(crate) fn has_option(&self, option: &str) -> bool {
        let among = |options: &[u8]| {
            options.split(|&byte| byte == b',').any(|word| word == option.as_bytes())
        };
        among(self.options) || among(self.super_options)
    }

    /// The value of a file system option: `2M` for `pagesize` in `rw,pagesize=2M`.
    pub(super) fn option_value(&self, option: &str) -> Option<&[u8]> {
        self.super_options
            .split(|&byte| byte == b',')
            .find_map(|word| word.strip_prefix(option.as_bytes())?.strip_prefix(b"="))
    }
}

/// The lines of a mount table; those that are not understood are left out.
///
/// ```text
/// 36 35 98:0 /root /mount\040point rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue
/// ```
pub(crate) fn parse_mount_table(table: &[u8]) -> impl Iterator<Item = MountLine<'_>> {
    text::lines(table).filter_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        let root = words.nth(3)?;
        let mount_point = words.next()?;
        let options = words.next()?;
        words.by_ref().find(|&word| word == b"-")?;
        let file_system = words.next()?;
        let super_options = words.nth(1)?;
        Some(MountLine { root, mount_point, options, file_system, super_options })
    })
}

/// The mount table of this process.
pub(super) fn mount_table() -> Result<Vec<u8>> {
    text::read(Path::new(MOUNT_TABLE))
        .map_err(|errno| Error::system("read the mount table", MOUNT_TABLE, errno))
}

/// Quota and inode limits from `statfs`, which has 0 or an all-ones number for "none".
fn limit_of(facts: &sys::FolderFacts) -> Option<MountLimit> {
    let real = |count: u64| count != 0 && i64::try_from(count).is_ok();
    if !real(facts.blocks) {
        return None;
    }
    Some(MountLimit {
        bytes: facts.blocks.checked_mul(facts.block_size)?,
        free: facts.blocks_free.min(facts.blocks).saturating_mul(facts.block_size),
    })
}

/// The page size that the table tells.
pub(super) fn page_size_of(line: &MountLine<'_>) -> Option<PageSize> {
    let size = line.option_value("pagesize")?;
    PageSize::new(parse_bytes(str::from_utf8(size).ok()?)?)
}

fn mount_of(line: &MountLine<'_>) -> Option<Mount> {
    let path = line.path();
    let root = text::unescape(line.root);
    let read_only = line.has_option("ro");
    match sys::folder_facts(&path) {
        // Another file system was mounted over it: nobody reaches this one by its path.
        Ok(facts) if facts.magic != sys::HUGETLBFS_MAGIC => None,
        Ok(facts) => Some(Mount {
            page_size: PageSize::new(facts.block_size)?,
            device: facts.device,
            root,
            read_only,
            reachable: true,
            writable: !read_only && sys::may_write_folder(&path),
            limit: limit_of(&facts),
            files_free: (facts.files != 0 && i64::try_from(facts.files).is_ok())
                .then_some(facts.files_free.min(facts.files)),
            uid: facts.uid,
            gid: facts.gid,
            mode: facts.mode,
            path,
        }),
        // Not reachable for this user (a closed folder above it): the table is all there is.
        Err(_) => Some(Mount {
            page_size: page_size_of(line)?,
            device: 0,
            root,
            read_only,
            reachable: false,
            writable: false,
            limit: None,
            files_free: None,
            uid: 0,
            gid: 0,
            mode: 0,
            path,
        }),
    }
}

/// The hugetlbfs mounts in sight of this process, in mount order.
///
/// Of several mounts at one path only the uppermost is listed. Costs one file and three calls
/// per mount.
///
/// # Errors
///
/// The mount table cannot be read.
pub fn mounts() -> Result<Vec<Mount>> {
    let table = mount_table()?;
    let mut found: Vec<Mount> = Vec::new();
    for line in parse_mount_table(&table).filter(|line| line.file_system == b"hugetlbfs") {
        if let Some(mount) = mount_of(&line) {
            found.retain(|earlier| earlier.path != mount.path);
            found.push(mount);
        }
    }
    Ok(found)
}

/// The facts of the folder at `path` if it lies on a tmpfs.
pub fn tmpfs_at(path: &Path) -> Option<Tmpfs> {
    let facts = sys::folder_facts(path).ok()?;
    (facts.magic == sys::TMPFS_MAGIC).then(|| Tmpfs {
        path: path.to_owned(),
        bytes: facts.blocks.saturating_mul(facts.block_size),
        free: facts.blocks_free.saturating_mul(facts.block_size),
        writable: sys::may_write_folder(path),
    })
}

/// What `nr_inodes=` allows on the file system mounted at `path`, the last of those mounted there.
pub(crate) fn files_allowed(path: &Path) -> Option<u64> {
    let table = mount_table().ok()?;
    let line = parse_mount_table(&table).filter(|line| line.path() == path).last()?;
    line.option_value("nr_inodes").and_then(text::parse_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &[u8] = br"36 35 0:51 /a\040b /mnt/huge\040pages rw,nosuid master:1 shared:2 - hugetlbfs none rw,pagesize=1024M,size=2M";

    #[test]
    fn a_line_of_the_mount_table_is_understood_with_its_escapes() {
        let line = parse_mount_table(GOOD).next().expect("a good line");
        assert_eq!(line.path(), PathBuf::from("/mnt/huge pages"));
        assert_eq!(text::unescape(line.root), PathBuf::from("/a b"));
        assert_eq!(line.file_system, b"hugetlbfs");
        assert_eq!(line.option_value("pagesize"), Some(&b"1024M"[..]));
        assert_eq!(line.option_value("page"), None);
        assert!(line.has_option("nosuid") && line.has_option("rw") && !line.has_option("ro"));
    }

    #[test]
    fn a_line_of_five_thousand_bytes_hides_nothing_behind_it() {
        let mut table = b"20 1 0:5 / / rw - overlay overlay rw,lowerdir=".to_vec();
        table.extend(std::iter::repeat_n(b'x', 5000));
        table.push(b'\n');
        table.extend(GOOD);
        table.push(b'\n');
        assert_eq!(parse_mount_table(&table).count(), 2);
        assert_eq!(parse_mount_table(&table).last(), parse_mount_table(GOOD).next());
    }

    #[test]
    fn truncated_and_senseless_lines_are_left_out() {
        let last = GOOD.iter().rposition(|&byte| byte == b' ').expect("there are blanks");
        for end in 0..=last {
            let line = parse_mount_table(&GOOD[..end]).next();
            assert!(line.is_none(), "understood {:?}", GOOD[..end].escape_ascii().to_string());
        }
        assert_eq!(parse_mount_table(b"\n\n - - - \n\xff\xfe\n").count(), 0);
        let odd = parse_mount_table(b"1 2 3 / /\xff\xfe rw - hugetlbfs none rw").next();
        assert_eq!(odd.expect("any byte").path().as_os_str().as_encoded_bytes(), b"/\xff\xfe");
    }

    #[test]
    fn no_limit_has_three_spellings() {
        let facts = |blocks, blocks_free| sys::FolderFacts {
            device: 0,
            uid: 0,
            gid: 0,
            mode: 0,
            magic: 0,
            block_size: 2 << 20,
            blocks,
            blocks_free,
            files: 0,
            files_free: 0,
        };
        assert_eq!(limit_of(&facts(0, 0)), None);
        assert_eq!(limit_of(&facts(u64::MAX, u64::MAX)), None);
        assert_eq!(limit_of(&facts(1 << 62, 0)), None);
        let limit = limit_of(&facts(4, u64::MAX)).expect("a limit");
        assert_eq!((limit.bytes, limit.free), (8 << 20, 8 << 20));
    }

    #[test]
    fn dev_shm_is_a_tmpfs_and_proc_is_none() {
        assert_eq!(tmpfs_at(Path::new("/proc")), None);
        assert_eq!(tmpfs_at(Path::new("/no/such/folder")), None);
        if let Some(shm) = tmpfs_at(Path::new("/dev/shm")) {
            assert!(shm.free <= shm.bytes);
        }
    }

    proptest! {
        #[test]
        fn no_mount_table_makes_the_parser_panic(
            table in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            for line in parse_mount_table(&table) {
                let _ = (line.path(), line.has_option("ro"), line.option_value("pagesize"));
            }
        }
    }
}
