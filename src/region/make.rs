//! The kernel objects of one request: files, memfds, System V segments; made, filled, or undone.

use super::backing::Backing;
use super::create::{OPERATION, Outcome, got, refuse_memory};
use super::fill::{Fill, Place, bind_task};
use super::mapping::whole_pages;
use super::mounts::Mounts;
use super::numbers::{self, Failure, refuse};
use super::{CreateRequest, Created, Mapping, Object, Taking};
use crate::error::{BackingKind, Error, ErrorKind, Refusal, RefusalCode, Result, Rung};
use crate::ladder::Step;
use crate::pages;
use crate::sys::mmap::Source;
use crate::sys::{file, memfd, sysv};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many random keys are tried for a System V segment.
const KEY_ATTEMPTS: u32 = 64;

/// Makes one kind of object after the other for one request.
pub(super) struct Maker<'a> {
    pub request: CreateRequest<'a>,
    pub mounts: Mounts,
}

impl Maker<'_> {
    pub(super) fn make(&mut self, step: &Step) -> Outcome<Created> {
        match step.backing {
            BackingKind::Hugetlbfs => {
                let mount = match self.mounts.choose(step) {
                    Ok(mount) => mount.path.clone(),
                    Err(refusal) => return Ok(Err(refusal)),
                };
                self.file(step, mount)
            }
            BackingKind::Tmpfs => self.file(step, self.request.tmpfs_dir.to_owned()),
            BackingKind::Memfd => self.memfd(step),
            BackingKind::Sysv => self.sysv(step),
            BackingKind::Anonymous => {
                Err(Error::new(ErrorKind::InvalidArgument, OPERATION, self.request.name)
                    .detail("private memory can not be shared"))
            }
        }
    }

    fn fill(&self) -> Fill<'_> {
        let CreateRequest { placement, populate, progress, pages, .. } = self.request;
        Fill { placement, populate, progress, policy: pages }
    }

    fn announce(&mut self, step: &Step, dir: Option<&Path>, sysv_key: Option<i32>) -> Result<()> {
        (self.request.before_take)(&Taking {
            kind: step.backing,
            rung: step.rung,
            dir: dir.map(Path::to_owned),
            sysv_key,
        })
    }

    /// An unnamed file on hugetlbfs or tmpfs.
    fn file(&mut self, step: &Step, path: PathBuf) -> Outcome<Created> {
        let shown = path.display().to_string();
        let dir = match file::open_dir(&path) {
            Ok(dir) => dir,
            Err(errno) if no_descriptor(errno) => {
                return Err(Error::system(OPERATION, shown, errno));
            }
            Err(errno) if step.backing == BackingKind::Hugetlbfs => {
                return Ok(Err(refuse(step, RefusalCode::MountNotWritable, "open")
                    .errno(errno)
                    .numbers(shown)));
            }
            Err(errno) => return Err(Error::system(OPERATION, shown, errno)),
        };
        self.check_folder(step, &path, dir.as_fd())?;
        if let Some(refusal) = refuse_memory(step, Some(dir.as_fd())) {
            return Ok(Err(refusal));
        }
        self.announce(step, Some(&path), None)?;
        let fd = match file::create_unnamed(dir.as_fd()) {
            Ok(fd) => fd,
            Err(errno) if no_descriptor(errno) => {
                return Err(Error::system(OPERATION, shown, errno));
            }
            Err(errno) => return Ok(Err(refuse_file(step, &shown, dir.as_fd(), errno))),
        };
        file::set_mode(fd.as_fd(), self.request.mode)
            .map_err(|errno| Error::system(OPERATION, &*shown, errno))?;
        let location = format!("{} at {shown}", step.backing);
        self.finish_file(step, fd, Some((dir, path)), location)
    }

    /// Whether the folder is what its kind says, now that it is held open.
    fn check_folder(&self, step: &Step, path: &Path, dir: BorrowedFd<'_>) -> Result<()> {
        let shown = || path.display().to_string();
        let statfs =
            file::file_system(dir).map_err(|errno| Error::system(OPERATION, shown(), errno))?;
        let (magic, kind) = match step.backing {
            BackingKind::Tmpfs => (file::TMPFS_MAGIC, ErrorKind::BadControlFolder),
            _ => (file::HUGETLBFS_MAGIC, ErrorKind::BadMount),
        };
        if file::magic(&statfs) != magic {
            return Err(Error::new(kind, OPERATION, shown())
                .detail(format!("it is not on {}", step.backing)));
        }
        let block = u64::try_from(statfs.block_size()).unwrap_or(0);
        if step.backing == BackingKind::Hugetlbfs && block != step.page.bytes() {
            return Err(Error::new(kind, OPERATION, shown())
                .detail(format!("its pages changed from {} to {block} bytes", step.page)));
        }
        Ok(())
    }

    fn memfd(&mut self, step: &Step) -> Outcome<Created> {
        if let Some(refusal) = refuse_memory(step, None) {
            return Ok(Err(refusal));
        }
        self.announce(step, None, None)?;
        let huge = matches!(step.rung, Rung::Huge(_)).then_some(step.page);
        let fd = match memfd::create("hugeshm", huge) {
            Ok(fd) => fd,
            Err(errno) if no_descriptor(errno) => {
                return Err(Error::system(OPERATION, self.request.name, errno));
            }
            Err(errno) => {
                let failure = self.failure(step, "memfd_create", errno, None, false);
                return Ok(Err(failure.refusal()));
            }
        };
        file::set_mode(fd.as_fd(), self.request.mode)
            .map_err(|errno| Error::system(OPERATION, self.request.name, errno))?;
        let mut created = got!(self.finish_file(step, fd, None, "memfd".to_owned())?);
        created.backing.notes.push("it dies with the last process that holds it".to_owned());
        Ok(Ok(created))
    }

    /// What files and memfds have in common: length, mapping, pages, proof.
    fn finish_file(
        &self,
        step: &Step,
        fd: OwnedFd,
        dir: Option<(OwnedFd, PathBuf)>,
        location: String,
    ) -> Outcome<Created> {
        let fill = self.fill();
        let folder = dir.as_ref().map(|(dir, _)| dir.as_fd());
        let (length, len) =
            whole_pages(OPERATION, step.length, step.page, || self.request.name.to_owned())?;
        let _policy = got!(fill.bind_task(step));
        if let Err(errno) = file::set_length(fd.as_fd(), length) {
            return Ok(Err(self.failure(step, "ftruncate", errno, folder, false).refusal()));
        }
        if step.backing == BackingKind::Memfd {
            memfd::seal_length(fd.as_fd())
                .map_err(|errno| Error::system(OPERATION, self.request.name, errno))?;
        }
        let source = Source::File { fd: fd.as_fd(), writable: true };
        let mapping = got!(fill.map(step, source, len, folder));
        let place = Place::File { fd: fd.as_fd(), dir: folder };
        let measured = got!(fill.fill(step, &mapping, place)?);
        let backing = fill.report(step, location, measured);
        let object = Object::File { fd, kind: step.backing, page_size: step.page, dir };
        Ok(Ok(Created { object, mapping, backing }))
    }

    fn sysv(&mut self, step: &Step) -> Outcome<Created> {
        let (length, len) =
            whole_pages(OPERATION, step.length, step.page, || self.request.name.to_owned())?;
        let placement = self.request.placement;
        let _policy = got!(bind_task(step, placement));
        let (id, key) = got!(self.shmget(step, length)?);
        let object = Object::Sysv { id, key, page_size: step.page };
        let outcome = self.finish_sysv(step, id, len);
        match outcome {
            Ok(Ok((mapping, backing))) => Ok(Ok(Created { object, mapping, backing })),
            Ok(Err(refusal)) => {
                object.discard();
                Ok(Err(refusal))
            }
            Err(error) => {
                object.discard();
                Err(error)
            }
        }
    }

    /// A segment under a random key that nobody else has; announced before it is made.
    fn shmget(&mut self, step: &Step, length: u64) -> Outcome<(i32, i32)> {
        for _ in 0..KEY_ATTEMPTS {
            let key = random_key()?;
            self.announce(step, None, Some(key))?;
            match sysv::create(key, length, step.page, self.request.mode) {
                Ok(id) => return Ok(Ok((id, key))),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Ok(Err(self.refuse_shmget(step, length, errno))),
            }
        }
        let tries = format!("{KEY_ATTEMPTS} random keys were all taken");
        Ok(Err(refuse(step, RefusalCode::System, "shmget").errno(Errno::EEXIST).numbers(tries)))
    }

    fn refuse_shmget(&self, step: &Step, length: u64, errno: Errno) -> Refusal {
        let limits = pages::shm_limits();
        let shown = |limit: Option<u64>| limit.map_or("unknown".to_owned(), |n| n.to_string());
        let (code, numbers) = match errno {
            Errno::EPERM => (RefusalCode::ShmNotPermitted, limits.reason),
            Errno::EINVAL if limits.shmmax.is_some_and(|most| most < length) => {
                let most = shown(limits.shmmax);
                (RefusalCode::ShmLimit, format!("needs {length} bytes, kernel.shmmax is {most}"))
            }
            Errno::ENOSPC => {
                let used = sysv::usage().unwrap_or_default();
                let numbers = format!(
                    "needs 1 segment of {} base pages; {} of {} segments (kernel.shmmni) and {} of \
                     {} pages (kernel.shmall) are taken",
                    numbers::base_page().pages_for(length),
                    used.segments,
                    shown(limits.shmmni),
                    used.pages,
                    shown(limits.shmall)
                );
                (RefusalCode::ShmLimit, numbers)
            }
            errno => return self.failure(step, "shmget", errno, None, false).refusal(),
        };
        refuse(step, code, "shmget").errno(errno).numbers(numbers)
    }

    fn finish_sysv(&self, step: &Step, id: i32, len: usize) -> Outcome<(Mapping, Backing)> {
        let fill = self.fill();
        let attached = match sysv::Attached::new(id, true) {
            Ok(attached) => attached,
            Err(errno) => {
                return Ok(Err(self.failure(step, "shmat", errno, None, true).refusal()));
            }
        };
        let mapping = Mapping::of_attached(attached, len, step.page, true);
        got!(fill.bind_range(step, &mapping));
        let measured = got!(fill.fill(step, &mapping, Place::Segment)?);
        let backing = fill.report(step, format!("SysV id {id}"), measured);
        Ok(Ok((mapping, backing)))
    }

    fn failure<'b>(
        &'b self,
        step: &'b Step,
        call: &'static str,
        errno: Errno,
        dir: Option<BorrowedFd<'b>>,
        reserved: bool,
    ) -> Failure<'b> {
        Failure { step, call, errno, placement: self.request.placement, dir, reserved }
    }
}

/// Whether this process or the machine has no descriptor left, which is no matter of pages.
fn no_descriptor(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE)
}

/// Why an unnamed file could not be made.
fn refuse_file(step: &Step, shown: &str, dir: BorrowedFd<'_>, errno: Errno) -> Refusal {
    let (code, numbers) = match errno {
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            (RefusalCode::MountNotWritable, shown.to_owned())
        }
        Errno::ENOSPC | Errno::EDQUOT => {
            let numbers = format!("needs 1 file, {}", numbers::files_left(dir, Path::new(shown)));
            (RefusalCode::MountQuota, numbers)
        }
        Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT => {
            (RefusalCode::KernelTooOld, format!("{shown} has no unnamed files"))
        }
        _ => (RefusalCode::System, shown.to_owned()),
    };
    refuse(step, code, "open").errno(errno).numbers(numbers)
}

/// A nonzero key; zero is `IPC_PRIVATE`, under which nothing can be found again.
fn random_key() -> Result<i32> {
    loop {
        let key = crate::sys::process::random_bytes::<4>()
            .map(i32::from_ne_bytes)
            .map_err(|errno| Error::system(OPERATION, "a random key", errno))?;
        if key != 0 {
            return Ok(key);
        }
    }
}
