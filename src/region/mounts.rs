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

    /// The mount for pages of `step`: writable, with most room, the first by path among equals.
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
        let writable = fitting.iter().filter(|mount| mount.writable && !mount.read_only);
        let room = |mount: &Mount| mount.limit.map_or(u64::MAX, |limit| limit.free);
        let best = writable
            .max_by(|a, b| room(a).cmp(&room(b)).then_with(|| b.path.cmp(&a.path)))
            .copied();
        best.ok_or_else(|| match fitting.first() {
            None => no_mount(step),
            Some(mount) => refuse(step, RefusalCode::MountNotWritable, "choose mount")
                .numbers(mount.to_string()),
        })
    }
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
    fn the_writable_mount_with_most_room_is_taken_and_the_first_by_path_among_equals() {
        let full = || mount("/full", true, Some(0));
        let room = || mount("/room", true, Some(32 << 20));
        let closed = || mount("/closed", false, None);
        assert_eq!(chosen(vec![full(), room(), closed()]).unwrap(), "/room");
        let free = |path| mount(path, true, None);
        assert_eq!(chosen(vec![room(), free("/c"), free("/b")]).unwrap(), "/b");
        assert_eq!(chosen(vec![free("/b"), free("/c"), room()]).unwrap(), "/b");
    }

    #[test]
    fn no_mount_and_no_writable_mount_are_told_apart() {
        assert_eq!(chosen(Vec::new()), Err(RefusalCode::NoMount));
        assert_eq!(chosen(vec![mount("/a", false, None)]), Err(RefusalCode::MountNotWritable));
        let gigantic = Mount { page_size: PageSize::SIZE_1G, ..mount("/g", true, None) };
        assert_eq!(chosen(vec![gigantic]), Err(RefusalCode::NoMount));
    }
}
