//! Everything in this room that reads a text of the kernel, on one text, for tests and fuzzers.

use super::mounts::parse_mount_table;
use super::{cgroup, container, inventory, limits, logind, thp};
use crate::sys::text;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Reads `bytes` as each of the texts that there are.
pub(crate) fn read_everything(bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    _ = text::parse_number(bytes);
    _ = text::parse_selected(bytes);
    assert!(text::parse_list(bytes, 64).len() <= 65, "more than were asked for");
    assert!(text::unescape(bytes).as_os_str().len() <= bytes.len());
    for key in ["MemTotal:", "HugePages_Free:", "Hugepagesize:"] {
        _ = text::parse_meminfo(bytes, key);
        _ = text::field(bytes, key);
    }
    for line in parse_mount_table(bytes) {
        assert!(line.path().as_os_str().len() <= bytes.len());
        _ = (line.has_option("ro"), line.option_value("pagesize"));
        _ = super::mounts::page_size_of(&line);
    }
    for membership in cgroup::parse_memberships(bytes) {
        assert!(membership.path.starts_with(b"/"));
        _ = membership.controls("hugetlb");
    }
    for (memberships, table) in [(first, second), (bytes, bytes), (b"0::/a", bytes)] {
        for place in cgroup::places("hugetlb", memberships, table) {
            assert!(place.upwards().count() <= bytes.len() + 2, "a way up without an end");
        }
    }
    _ = cgroup::folder_of(Path::new("/nowhere"), &text::unescape(first), &text::unescape(second));
    for version_2 in [false, true] {
        _ = cgroup::parse_file_cache(bytes, version_2);
    }
    _ = container::parse_runtime(bytes);
    _ = inventory::parse_meminfo_pool(bytes);
    _ = inventory::parse_pool_name(OsStr::from_bytes(bytes));
    _ = inventory::parse_node_name(OsStr::from_bytes(bytes));
    for group in [None, Some(0), Some(u32::MAX)] {
        _ = limits::judge(first, second, group);
        _ = limits::judge(bytes, bytes, group);
    }
    _ = logind::parse_remove_ipc(bytes);
    _ = thp::parse_mode(bytes);
    _ = thp::size_of_name(OsStr::from_bytes(bytes));
}
