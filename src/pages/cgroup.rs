//! The limits of this process's cgroup and of every cgroup above it.
//!
//! Two kinds matter. *hugetlb* limits: one on pages in use, which strikes when
//! a page is touched, and one on reservations, which strikes when a mapping is
//! made. And the *memory* limit, for pages that are not from a pool; there the
//! kernel answers with its OOM killer instead of an error, so it is compared
//! before anything is touched. Version 1 and 2 hierarchies are read alike; a
//! limit anywhere up the tree counts.

use super::mounts::{mount_table, parse_mount_table};
use crate::size::{PageSize, format_bytes};
use crate::sys::text;
use core::fmt;
use std::path::{Component, Path, PathBuf};

/// Limits at or above this are the kernel's ways of saying "none" in version 1.
const UNLIMITED: u64 = 1 << 62;

/// What a hugetlb limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum LimitKind {
    /// Pages that are touched (`max`, `limit_in_bytes`).
    Usage,
    /// Pages that are promised or touched (`rsvd.max`, `rsvd.limit_in_bytes`).
    Reservation,
}

/// A hugetlb limit of a cgroup. Only limits that are set are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HugetlbLimit {
    /// The page size it is for.
    pub size: PageSize,
    /// What it counts.
    pub kind: LimitKind,
    /// The cgroup's folder.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize_path"))]
    pub path: PathBuf,
    /// The limit in bytes.
    pub limit: u64,
    /// What is taken of it, in bytes.
    pub usage: u64,
}

impl HugetlbLimit {
    /// What may still be taken, in bytes.
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.usage)
    }
}

impl fmt::Display for HugetlbLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            LimitKind::Usage => "in use",
            LimitKind::Reservation => "reserved",
        };
        let (usage, limit) = (format_bytes(self.usage), format_bytes(self.limit));
        write!(f, "{} pages: {usage} {kind} of {limit} in {}", self.size, self.path.display())
    }
}

/// The memory limit of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryLimit {
    /// The cgroup's folder.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::serialize_path"))]
    pub path: PathBuf,
    /// The limit in bytes.
    pub limit: u64,
    /// What is charged against it, in bytes.
    pub usage: u64,
    /// How much of that is cached file content, which the kernel drops before it kills, in bytes.
    pub reclaimable: u64,
}

impl MemoryLimit {
    /// What may still be taken before the kernel kills, in bytes.
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.usage.saturating_sub(self.reclaimable))
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (remaining, limit) = (format_bytes(self.remaining()), format_bytes(self.limit));
        write!(f, "{remaining} of {limit} left in {}", self.path.display())
    }
}

/// One line of `/proc/self/cgroup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership<'a> {
    /// The controllers, separated by commas; empty for version 2.
    pub(crate) controllers: &'a [u8],
    pub(crate) path: &'a [u8],
}

impl Membership<'_> {
    pub(super) fn controls(&self, controller: &str) -> bool {
        self.controllers.split(|&byte| byte == b',').any(|word| word == controller.as_bytes())
    }
}

/// The lines of `/proc/self/cgroup` that are understood: `4:memory:/a`, `0::/b`.
pub(crate) fn parse_memberships(table: &[u8]) -> impl Iterator<Item = Membership<'_>> {
    text::lines(table).filter_map(|line| {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        text::parse_number(parts.next()?)?;
        let (controllers, path) = (parts.next()?, parts.next()?);
        path.starts_with(b"/").then_some(Membership { controllers, path })
    })
}

/// A hierarchy's folder for this process and where its tree begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    folder: PathBuf,
    top: PathBuf,
    version_2: bool,
}

impl Place {
    /// The process's own cgroup and every one above it that can be seen.
    pub(super) fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.folder.ancestors().take_while(|folder| folder.starts_with(&self.top))
    }

    /// A version 1 or 2 file's number; `None` if it is absent or says that there is no limit.
    fn limit(&self, folder: &Path, names: [&str; 2]) -> Option<u64> {
        let limit = text::number(&folder.join(names[usize::from(self.version_2)]))?;
        (limit < UNLIMITED).then_some(limit)
    }

    fn count(&self, folder: &Path, names: [&str; 2]) -> u64 {
        text::number(&folder.join(names[usize::from(self.version_2)])).unwrap_or(0)
    }
}

/// The folder of the cgroup at `path` in a hierarchy mounted at `top` from its folder `root`.
///
/// A path outside of `root` (another cgroup namespace, or a mount bound by a container runtime)
/// leaves the top as the only place that can be looked at.
pub(super) fn folder_of(top: &Path, root: &Path, path: &Path) -> PathBuf {
    let climbs = path.components().any(|component| component == Component::ParentDir);
    match path.strip_prefix(root) {
        Ok(rest) if !climbs && top.join(rest).is_dir() => top.join(rest),
        _ => top.to_owned(),
    }
}

/// Where `controller` keeps this process's limits: version 1 where mounted, and version 2.
pub(super) fn places(controller: &str, memberships: &[u8], mount_table: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    for membership in parse_memberships(memberships) {
        let version_2 = membership.controllers.is_empty();
        if !version_2 && !membership.controls(controller) {
            continue;
        }
        let file_system: &[u8] = if version_2 { b"cgroup2" } else { b"cgroup" };
        let mounted = parse_mount_table(mount_table)
            .filter(|line| line.file_system == file_system)
            .find(|line| version_2 || line.has_option(controller));
        if let Some(line) = mounted {
            let (top, root) = (line.path(), text::unescape(line.root));
            let path = text::unescape(membership.path);
            places.push(Place { folder: folder_of(&top, &root, &path), top, version_2 });
        }
    }
    places
}

fn places_of_this_process(controller: &str) -> Vec<Place> {
    let memberships = text::read_optional(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mount_table = mount_table().unwrap_or_default();
    places(controller, &memberships, &mount_table)
}

/// The kernel's name for a page size in cgroup files: `64KB`, `2MB`, `1GB`.
fn size_name(size: PageSize) -> String {
    format!("{size}B")
}

/// The hugetlb limits that are set in this process's cgroup and those above it, its own first.
pub fn hugetlb_limits() -> Vec<HugetlbLimit> {
    let mut limits = Vec::new();
    let sizes: Vec<PageSize> = super::pools().iter().map(|pool| pool.size).collect();
    for place in places_of_this_process("hugetlb") {
        for folder in place.upwards() {
            for &size in &sizes {
                limits.extend(hugetlb_limits_in(&place, folder, size));
            }
        }
    }
    limits
}

fn hugetlb_limits_in(
    place: &Place,
    folder: &Path,
    size: PageSize,
) -> impl Iterator<Item = HugetlbLimit> {
    let name = size_name(size);
    [(LimitKind::Usage, ""), (LimitKind::Reservation, "rsvd.")].into_iter().filter_map(
        move |(kind, part)| {
            let file = |version_1: &str, version_2: &str| {
                let name = |end: &str| format!("hugetlb.{name}.{part}{end}");
                [name(version_1), name(version_2)]
            };
            let limit = file("limit_in_bytes", "max");
            let usage = file("usage_in_bytes", "current");
            Some(HugetlbLimit {
                size,
                kind,
                path: folder.to_owned(),
                limit: place.limit(folder, [&limit[0], &limit[1]])?,
                usage: place.count(folder, [&usage[0], &usage[1]]),
            })
        },
    )
}

/// The memory limit that leaves least to this process, its own or one above it; `None` if no
/// limit is set or none can be seen.
pub fn memory_limit() -> Option<MemoryLimit> {
    let places = places_of_this_process("memory");
    let limits = places
        .iter()
        .flat_map(|place| place.upwards().filter_map(|folder| memory_limit_in(place, folder)));
    limits.min_by_key(MemoryLimit::remaining)
}

fn memory_limit_in(place: &Place, folder: &Path) -> Option<MemoryLimit> {
    let limit = place.limit(folder, ["memory.limit_in_bytes", "memory.max"])?;
    let statistics = text::read_optional(&folder.join("memory.stat")).unwrap_or_default();
    Some(MemoryLimit {
        path: folder.to_owned(),
        limit,
        usage: place.count(folder, ["memory.usage_in_bytes", "memory.current"]),
        reclaimable: parse_file_cache(&statistics, place.version_2),
    })
}

/// The cached file content in a `memory.stat`, in bytes. Shared memory is not in these lists.
pub(super) fn parse_file_cache(statistics: &[u8], version_2: bool) -> u64 {
    let keys = if version_2 {
        ["inactive_file ", "active_file "]
    } else {
        ["total_inactive_file ", "total_active_file "]
    };
    keys.iter()
        .filter_map(|key| text::field(statistics, key).and_then(text::parse_number))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    const MEMBERSHIPS: &[u8] = b"9:name=systemd:/x\n4:cpu,memory:/a/b\n3:hugetlb:/\n0::/c/d\n";

    #[test]
    fn memberships_of_both_versions_are_understood_and_nonsense_is_not() {
        let paths: Vec<&[u8]> = parse_memberships(MEMBERSHIPS).map(|line| line.path).collect();
        assert_eq!(paths, [&b"/x"[..], b"/a/b", b"/", b"/c/d"]);
        let memory = parse_memberships(MEMBERSHIPS).find(|line| line.controls("memory"));
        assert_eq!(memory.expect("among cpu,memory").path, b"/a/b");
        let colons = parse_memberships(b"0::/a:b:c\n").next().expect("colons are legal in names");
        assert_eq!(colons.path, b"/a:b:c");
        for bad in [&b"0:/a"[..], b"x::/a", b"0::a", b"0:", b"", b":::", b"\xff"] {
            assert_eq!(parse_memberships(bad).count(), 0, "{bad:?}");
        }
        let mut long = b"0::/".to_vec();
        long.extend([b'y'; 5000]);
        assert_eq!(parse_memberships(&long).next().expect("any length").path.len(), 5001);
    }

    #[test]
    fn the_folder_follows_the_mounts_root_and_never_climbs_out_of_it() {
        let temporary = tempfile::tempdir().expect("a folder");
        let top = temporary.path();
        fs::create_dir_all(top.join("a/b")).expect("folders");
        let folder = |root: &str, path: &str| folder_of(top, Path::new(root), Path::new(path));
        assert_eq!(folder("/", "/a/b"), top.join("a/b"));
        assert_eq!(folder("/docker/1", "/docker/1"), top);
        assert_eq!(folder("/docker/1", "/docker/1/a"), top.join("a"));
        assert_eq!(folder("/docker/1", "/elsewhere"), top);
        assert_eq!(folder("/", "/../a"), top);
        assert_eq!(folder("/", "/gone"), top);
    }

    #[test]
    fn a_limit_anywhere_up_the_tree_counts() {
        let temporary = tempfile::tempdir().expect("a folder");
        let top = temporary.path().join("top");
        let own = top.join("a/b");
        fs::create_dir_all(&own).expect("folders");
        let put = |folder: &Path, name: &str, content: &str| {
            fs::write(folder.join(name), content).expect("written");
        };
        put(&own, "memory.max", "max\n");
        put(&top.join("a"), "memory.max", "1000\n");
        put(&top.join("a"), "memory.current", "900\n");
        put(&top.join("a"), "memory.stat", "anon 1\ninactive_file 100\nactive_file 50\n");
        put(&top, "memory.max", "5000\n");
        put(temporary.path(), "memory.max", "1\n");
        let place = Place { folder: own.clone(), top: top.clone(), version_2: true };
        let limits: Vec<_> =
            place.upwards().filter_map(|folder| memory_limit_in(&place, folder)).collect();
        assert_eq!(limits.iter().map(MemoryLimit::remaining).collect::<Vec<_>>(), [250, 5000]);

        put(&own, "hugetlb.2MB.max", "4194304\n");
        put(&own, "hugetlb.2MB.current", "2097152\n");
        put(&own, "hugetlb.2MB.rsvd.max", "0\n");
        put(&own, "hugetlb.2MB.limit_in_bytes", "9223372036852678656\n");
        let limits: Vec<_> = hugetlb_limits_in(&place, &own, PageSize::SIZE_2M).collect();
        assert_eq!(limits.len(), 2);
        assert_eq!((limits[0].kind, limits[0].remaining()), (LimitKind::Usage, 2 << 20));
        assert_eq!((limits[1].kind, limits[1].remaining()), (LimitKind::Reservation, 0));
        let place = Place { version_2: false, ..place };
        assert_eq!(hugetlb_limits_in(&place, &own, PageSize::SIZE_2M).count(), 0);
    }

    #[test]
    fn a_usage_beyond_its_limit_leaves_nothing_and_never_wraps() {
        let limit = MemoryLimit { path: "/".into(), limit: 5, usage: 9, reclaimable: 1 };
        assert_eq!(limit.remaining(), 0);
        let limit = MemoryLimit { path: "/".into(), limit: 5, usage: 1, reclaimable: 9 };
        assert_eq!(limit.remaining(), 5);
        assert_eq!(
            parse_file_cache(b"inactive_file 18446744073709551615\nactive_file 7", true),
            u64::MAX
        );
    }

    #[test]
    fn page_sizes_are_spelled_as_the_kernel_spells_them() {
        let spelled = [PageSize::SIZE_4K, PageSize::SIZE_2M, PageSize::SIZE_1G].map(size_name);
        assert_eq!(spelled, ["4KB", "2MB", "1GB"]);
    }

    #[test]
    fn the_real_tree_is_found_if_it_is_mounted() {
        let table = mount_table().expect("/proc is mounted");
        let mounted = |name: &[u8]| parse_mount_table(&table).any(|line| line.file_system == name);
        if mounted(b"cgroup2") {
            assert!(places_of_this_process("memory").iter().any(|place| place.version_2));
        }
        for place in places_of_this_process("memory") {
            assert!(place.upwards().count() >= 1, "{place:?}");
            assert!(place.folder.is_dir(), "{place:?}");
        }
    }

    proptest! {
        #[test]
        fn no_membership_table_makes_the_parser_panic(
            table in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let _ = places("memory", &table, &table);
            let _ = parse_file_cache(&table, true);
        }
    }
}
