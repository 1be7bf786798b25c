//! Which hugetlbfs mount carries a file: the one the caller named, or the best in sight.

use super::create::OPERATION;
use super::numbers::refuse;
use crate::error::{Error, ErrorKind, Refusal, RefusalCode, Result};
use crate::ladder::{PagePolicy, Step};
use crate::pages::{self, Mount};
use crate::sys::file;
use std::os::fd::AsFd;
use std::path::Path;

/// The hugetlbfs mounts to choose from.
pub(super) struct Mounts {
    all: Vec<Mount>,
    /// The one the caller named.
    given: Option<Mount>,
}

impl Mounts {
    pub(super) fn read(given: Option<&Path>, policy: &PagePolicy) -> Result<Self> {
        let all = pages::mounts()?;
        let given = given.map(|path| Self::named(&all, path)).transpose()?;
        if let Some(mount) = &given
            && !policy.allows(mount.page_size)
        {
            return Err(bad_mount(&mount.path).detail(format!(
                "it has pages of {}, asked for are pages: {policy}",
                mount.page_size
            )));
        }
        Ok(Self { all, given })
    }

    /// The mount that the caller named, which must be one.
    fn named(all: &[Mount], path: &Path) -> Result<Mount> {
        let real = path
            .canonicalize()
            .map_err(|error| bad_mount(path).detail(format!("it can not be reached: {error}")))?;
        if let Some(mount) = all.iter().find(|mount| mount.path == real) {
            if mount.read_only {
                return Err(bad_mount(path).detail("it is mounted read-only"));
            }
            return Ok(mount.clone());
        }
        let what = file::open_dir(&real).and_then(|dir| file::file_system(dir.as_fd()));
        let mut inside = all.iter().filter(|mount| real.starts_with(&mount.path));
        let error = bad_mount(path);
        Err(match what {
            Err(errno) => error.detail("it is no folder that can be opened").errno_set(errno),
            Ok(statfs) => match (file::magic(&statfs), inside.next_back()) {
                (file::HUGETLBFS_MAGIC, Some(mount)) => error
                    .detail(format!("it is a folder inside the mount {}", mount.path.display()))
                    .remedy(format!("name the mount itself: {}", mount.path.display())),
                (file::TMPFS_MAGIC, _) => error.detail("it is on tmpfs and not on hugetlbfs"),
                (magic, _) => error.detail(format!(
                    "it is not on hugetlbfs (its file system has the magic number {magic:#x})"
                )),
            },
        })
    }

    /// The mount for pages of `step`: writable, and of those with room for it the machine's usual
    /// one, then this user's own, then the one that was mounted first. Somebody's private mount
    /// in a scratch folder is the last that is taken.
    pub(super) fn choose(&self, step: &Step) -> core::result::Result<&Mount, Refusal> {
        if let Some(mount) = &self.given {
            return if mount.page_size == step.page {
                Ok(mount)
            } else {
                Err(refuse(step, RefusalCode::NoMount, "choose mount").numbers(format!(
                    "the mount named, {}, has pages of {}",
                    mount.path.display(),
                    mount.page_size
                )))
            };
        }
        let fitting: Vec<&Mount> =
            self.all.iter().filter(|mount| mount.page_size == step.page).collect();
        let own = nix::unistd::geteuid().as_raw();
        let rank = |mount: &Mount| {
            let room = mount.limit.is_none_or(|limit| limit.free >= step.length);
            let usual = mount.path.starts_with("/dev");
            (!room, !usual, mount.uid != own, is_scratch(&mount.path))
        };
        // The mount table is in the order of mounting, and the first among equals is kept.
        let best = fitting
            .iter()
            .filter(|mount| mount.writable && !mount.read_only)
            .min_by_key(|mount| rank(mount))
            .copied();
        best.ok_or_else(|| match fitting.first() {
            None => no_mount(step),
            Some(mount) => refuse(step, RefusalCode::MountNotWritable, "choose mount")
                .numbers(mount.to_string()),
        })
    }
}

/// Whether a path lies where programs put what they mean to remove again.
fn is_scratch(path: &Path) -> bool {
    path.starts_with("/tmp") || path.starts_with("/var/tmp")
}

/// No mount in sight; where the pool is short as well, that is said in the same breath.
fn no_mount(step: &Step) -> Refusal {
    let text = format!("no hugetlbfs mount with pages of {}", step.page);
    let refusal = refuse(step, RefusalCode::NoMount, "choose mount");
    let needed = step.page.pages_for(step.length);
    match pages::pool(step.page) {
        Ok(Some(pool)) if pool.available() < needed => {
            let both = format!(
                "{}; then {}",
                pages::remedy_for(
                    RefusalCode::PoolTooSmall,
                    step.rung,
                    needed,
                    pages::container().as_ref()
                ),
                refusal.remedy
            );
            let available = pool.available();
            refusal
                .numbers(format!(
                    "{text}, and needs {needed} pages of which {available} are available"
                ))
                .remedy(both)
        }
        _ => refusal.numbers(text),
    }
}

fn bad_mount(path: &Path) -> Error {
    Error::new(ErrorKind::BadMount, OPERATION, path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BackingKind, Rung};
    use crate::pages::MountLimit;
    use crate::size::PageSize;
    use std::path::PathBuf;

    fn mount(path: &str, writable: bool, free: Option<u64>) -> Mount {
        Mount {
            path: PathBuf::from(path),
            page_size: PageSize::SIZE_2M,
            device: 1,
            root: PathBuf::from("/"),
            read_only: false,
            reachable: true,
            writable,
            limit: free.map(|free| MountLimit { bytes: 64 << 20, free }),
            files_free: None,
            uid: 0,
            gid: 0,
            mode: 0o755,
        }
    }

    fn chosen(all: Vec<Mount>) -> core::result::Result<String, RefusalCode> {
        let size = PageSize::SIZE_2M;
        let step = Step {
            rung: Rung::Huge(size),
            backing: BackingKind::Hugetlbfs,
            page: size,
            length: size.bytes(),
        };
        let mounts = Mounts { all, given: None };
        let path = |mount: &Mount| mount.path.display().to_string();
        mounts.choose(&step).map(path).map_err(|refusal| refusal.code)
    }

    #[test]
    fn the_usual_mount_with_room_is_taken_then_our_own_then_the_oldest_and_scratch_last() {
        let own = nix::unistd::geteuid().as_raw();
        let of = |path: &str, uid| Mount { uid, ..mount(path, true, None) };
        let full = |path: &str| mount(path, true, Some(0));
        let (other, usual) = (of("/mnt/other", own + 1), of("/dev/hugepages", own + 1));
        let (mine, scratch) = (of("/mnt/mine", own), of("/tmp/x", own));
        let all = || vec![other.clone(), scratch.clone(), mine.clone(), usual.clone()];
        assert_eq!(chosen(all()).unwrap(), "/dev/hugepages");
        assert_eq!(chosen(all()[..3].to_vec()).unwrap(), "/mnt/mine");
        assert_eq!(chosen(vec![scratch.clone(), other.clone()]).unwrap(), "/tmp/x");
        assert_eq!(chosen(vec![of("/b", own), of("/a", own)]).unwrap(), "/b");
        assert_eq!(chosen(vec![full("/dev/hugepages"), mine]).unwrap(), "/mnt/mine");
        assert_eq!(chosen(vec![full("/dev/hugepages")]).unwrap(), "/dev/hugepages");
        let closed = mount("/dev/hugepages", false, None);
        assert_eq!(chosen(vec![closed, scratch]).unwrap(), "/tmp/x");
    }

    #[test]
    fn no_mount_and_no_writable_mount_are_told_apart() {
        assert_eq!(chosen(Vec::new()), Err(RefusalCode::NoMount));
        assert_eq!(chosen(vec![mount("/a", false, None)]), Err(RefusalCode::MountNotWritable));
        let gigantic = Mount { page_size: PageSize::SIZE_1G, ..mount("/g", true, None) };
        assert_eq!(chosen(vec![gigantic]), Err(RefusalCode::NoMount));
    }
}
