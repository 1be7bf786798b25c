//! The table of `docs/ACCESS.md`, cell by cell: each is tried by a real user on a real segment.

use crate::common::child::Child;
use crate::common::machine::{PrivateMount, pages};
use crate::common::{self, M2, Quiet, Scratch, is_root};
use crate::visitors::{JOINED, MEMBER, OTHER, OWNER, ROOT, User};
use hugeshm::pages::MountOptions;

/// Who, on a segment of which mode; the columns.
const WHO: [(&str, User, u32); 9] = [
    ("owner", OWNER, 0o600),
    ("group, 0660", MEMBER, 0o660),
    ("also in the group, 0660", JOINED, 0o660),
    ("group, 0640", MEMBER, 0o640),
    ("also in the group, 0640", JOINED, 0o640),
    ("others, 0666", OTHER, 0o666),
    ("others, 0644", OTHER, 0o644),
    ("others, 0600", OTHER, 0o600),
    ("root", ROOT, 0o600),
];

/// What; the rows.
const WHAT: [&str; 13] = [
    "list",
    "inspect",
    "open",
    "open read-only",
    "take an end",
    "read the latest value",
    "create",
    "replace",
    "remove",
    "collect",
    "keep from being collected",
    "hold up",
    "cut short",
];

#[track_caller]
fn order(child: &mut Child, line: &str) -> String {
    child.tell(line);
    child.says()
}

/// One cell: a new segment, one try of the visitor, and what it came to.
fn cell(owner: &mut Child, visitor: &mut Child, what: &str, mode: u32, number: usize) -> String {
    let name = format!("n{number}");
    assert_eq!(order(owner, &format!("make {name} {mode:o}")), "fine", "{what}");
    if what == "collect" {
        assert_eq!(order(owner, &format!("drop {name}")), "fine");
    }
    let mut found = order(visitor, &format!("{what} {name}"));
    match what {
        // Whoever touches it now gets a SIGBUS, so nobody of ours does.
        "cut short" => return found,
        "keep from being collected" => {
            let collected = order(owner, &format!("collect {name}"));
            let kept = if collected == "true" { "no" } else { "yes" };
            found = kept.to_owned();
        }
        "hold up" => {
            let checked = order(owner, &format!("check {name}"));
            found = if checked == "fine" { "no" } else { "yes" }.to_owned();
        }
        _ => {}
    }
    // It lets go of what it holds.
    order(visitor, &format!("open {name}-none"));
    let _ = order(owner, &format!("drop {name}"));
    let _ = order(owner, &format!("remove {name}"));
    found
}

/// All cells of one kind of segment, as a table in Markdown; and how many.
fn found(kind: &str) -> (String, usize) {
    let scratch = Scratch::new();
    let folder = scratch.path().display().to_string();
    let mut columns = Vec::new();
    let mut count = 0;
    for (who, user, mode) in WHO {
        let mut owner = OWNER.child("visitors::own", &[&folder, kind]);
        let mut visitor = user.child("visitors::visit", &[&folder, kind]);
        assert_eq!((owner.says(), visitor.says()), ("ready".into(), "ready".into()), "{who}");
        let cells = WHAT.map(|what| {
            count += 1;
            cell(&mut owner, &mut visitor, what, mode, count)
        });
        columns.push(cells);
        visitor.end_well();
        owner.kill();
        scratch.domain().collect().expect("root may");
    }
    let mut table = format!("| | {} |\n", WHO.map(|(who, ..)| who).join(" | "));
    table += &format!("|---|{}\n", "---|".repeat(WHO.len()));
    for (row, what) in WHAT.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|column| column[row].as_str()).collect();
        table += &format!("| {what} | {} |\n", cells.join(" | "));
    }
    (table, count)
}

/// The first table behind a title of the page.
fn written(title: &str) -> String {
    let page = include_str!("../../docs/ACCESS.md");
    let title = format!("\n## {title}\n");
    let (_, rest) = page.split_once(&title).unwrap_or_else(|| panic!("no section {title}"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|'));
    rows.take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn compare(kind: &str, title: &str) {
    let (found, count) = found(kind);
    eprintln!("{kind}: {count} cells");
    assert_eq!(count, WHO.len() * WHAT.len());
    let (theirs, ours) = (written(title), found.clone());
    let differ = theirs.lines().zip(ours.lines()).filter(|(left, right)| left != right);
    for (left, right) in differ {
        eprintln!("the page says {left}\n  it is found {right}");
    }
    assert!(theirs == ours, "docs/ACCESS.md, section {title:?}, must say:\n\n{found}");
}

#[test]
fn what_each_user_may_do_on_tmpfs_is_what_the_table_says() {
    let _quiet = Quiet::begin();
    if is_root("become other users") {
        compare("tmpfs", "Segments on files");
    }
}

#[test]
fn what_each_user_may_do_on_hugetlbfs_is_what_the_table_says() {
    let _quiet = Quiet::begin();
    if !is_root("become other users") {
        return;
    }
    let options = MountOptions::new().mode(0o1777);
    let (Some(_pages), Some(mount)) = (pages(M2, 4), PrivateMount::hugetlbfs_with(M2, options))
    else {
        return;
    };
    compare(&mount.path().display().to_string(), "Segments on files");
}

#[test]
fn what_each_user_may_do_on_sysv_is_what_the_table_says() {
    let _quiet = Quiet::begin();
    if !is_root("become other users") {
        return;
    }
    let Some(_pages) = pages(M2, 4) else { return };
    let _group = HugetlbGroup::set(OWNER.gid);
    compare("sysv", "SysV segments");
}

#[test]
fn what_each_user_may_do_with_a_memfd_is_what_the_table_says() {
    let _quiet = Quiet::begin();
    if is_root("become other users") {
        compare("memfd", "Memfd segments");
    }
}

/// The group that may make System V segments on huge pages, while this lives.
struct HugetlbGroup(String);

const GROUP: &str = "/proc/sys/vm/hugetlb_shm_group";

impl HugetlbGroup {
    fn set(group: u32) -> Self {
        let before = std::fs::read_to_string(GROUP).expect("root");
        std::fs::write(GROUP, group.to_string()).expect("root");
        Self(before)
    }
}

impl Drop for HugetlbGroup {
    fn drop(&mut self) {
        let _ = std::fs::write(GROUP, self.0.trim());
        if !std::thread::panicking() {
            assert!(common::machine::own_sysv_ids().is_empty());
        }
    }
}
