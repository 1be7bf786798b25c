//! Our rings on every kind of page.
//!
//! The same streams on base pages, transparent huge pages, 2 MiB and 1 GiB pages
//! and on each kind of object, with the page faults of making the segment and of
//! the stream: a reader sees what huge pages buy here, and what they do not.

use crate::contest::{Contest, Role, Suite, Unit};
use crate::ours::{lines, stream_in_place};
use hugeshm::pages::{self, MountOptions};
use hugeshm::{BackingKind, Lifetime, PagePolicy, PageSize, Rung};
use std::path::PathBuf;

const GIGANTIC: Rung = Rung::Huge(PageSize::SIZE_1G);
const HUGE: Rung = Rung::Huge(PageSize::SIZE_2M);

/// Rungs and backings in the order of the tables.
const ROWS: [(Rung, BackingKind, &str); 8] = [
    (GIGANTIC, BackingKind::Hugetlbfs, "1G, hugetlbfs"),
    (HUGE, BackingKind::Hugetlbfs, "2M, hugetlbfs"),
    (HUGE, BackingKind::Sysv, "2M, SysV"),
    (HUGE, BackingKind::Memfd, "2M, memfd"),
    (Rung::Thp, BackingKind::Tmpfs, "THP, tmpfs"),
    (Rung::Thp, BackingKind::Memfd, "THP, memfd"),
    (Rung::Base, BackingKind::Tmpfs, "base, tmpfs"),
    (Rung::Base, BackingKind::Memfd, "base, memfd"),
];

/// Adds the tables.
pub fn add(suite: &mut Suite) {
    let limit = "s-64k/raw blocks with flags";
    suite.table("pages-64k", "Pages: stream of 64 KiB in place, ring of 8 MiB", limit);
    for (rung, kind, name) in ROWS {
        suite.add(stream(name, rung, kind, 64 << 10, 8 << 20));
    }
    let limit = "s-4k/raw blocks with flags";
    suite.table("pages-4k", "Pages: stream of 4 KiB in place, ring of 64 MiB", limit);
    for (rung, kind, name) in ROWS {
        let named = matches!(kind, BackingKind::Hugetlbfs | BackingKind::Tmpfs);
        if named && rung != GIGANTIC {
            suite.add(stream(name, rung, kind, 4 << 10, 64 << 20));
        }
    }
}

fn stream(name: &str, rung: Rung, kind: BackingKind, bytes: usize, ring: u64) -> Contest {
    let halves = move |stage: &crate::Stage| {
        stream_in_place(stage, bytes, |segment| {
            segment
                .pages(PagePolicy::exactly(rung))
                .backing(kind)
                .lifetime(match kind {
                    BackingKind::Memfd => Lifetime::WithHolders,
                    _ => Lifetime::Persistent,
                })
                .records_of("ring", lines(ring))
        })
    };
    Contest::new(name, Role::Ours, Unit::Stream(bytes as u64), halves, halves)
        .lap(2 * ring / bytes as u64)
}

/// Pages and mounts that were not there before.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    added: Vec<(PageSize, u64)>,
    mounted: Vec<PathBuf>,
}

/// Adds the pages that the rows need to the pools and mounts them; what cannot be had is said
/// on standard error, and the rows say so too.
pub(crate) fn reserve() -> Reserved {
    let mut reserved = Reserved::default();
    // The limits' memory, and one segment at a time.
    for (size, count) in [(PageSize::SIZE_2M, 50), (PageSize::SIZE_1G, 1)] {
        let Ok(Some(pool)) = pages::pool(size) else { continue };
        let before = pool.persistent();
        let got = pages::resize_pool(size, None, before + count)
            .map_err(|error| eprintln!("reserve {count} pages of {size}: {error}"))
            .ok()
            .or_else(|| pages::pool(size).ok().flatten().map(|pool| pool.persistent()));
        reserved.added.push((size, got.map_or(0, |now| now.saturating_sub(before))));
        let path =
            std::env::temp_dir().join(format!("hugeshm-bench-{}-{size}", std::process::id()));
        let mounted =
            std::fs::create_dir(&path).map_err(|error| error.to_string()).and_then(|()| {
                pages::mount(size, &path, MountOptions::default())
                    .map_err(|error| error.to_string())
            });
        match mounted {
            Ok(_) => reserved.mounted.push(path),
            Err(error) => {
                eprintln!("mount pages of {size}: {error}");
                let _ = std::fs::remove_dir(&path);
            }
        }
    }
    reserved
}

impl Drop for Reserved {
    fn drop(&mut self) {
        for path in &self.mounted {
            if let Err(error) = pages::unmount(path) {
                eprintln!("{error}");
            }
            let _ = std::fs::remove_dir(path);
        }
        for &(size, added) in &self.added {
            let Ok(Some(pool)) = pages::pool(size) else { continue };
            let total = pool.persistent().saturating_sub(added);
            if let Err(error) = pages::resize_pool(size, None, total) {
                eprintln!("give back {added} pages of {size}: {error}");
            }
        }
    }
}
