//! Climbing the ladder: each object tried in turn, undone when it was refused.

use super::backing::Backing;
use super::mapping::whole_pages;
use super::measure::{Measured, measure};
use super::numbers::{self, Failure, refuse};
use super::populate::Area;
use super::{CreateRequest, Created, Mapping, Object, Populate, Progress, Taking};
use crate::error::{BackingKind, Error, ErrorKind, Refusal, RefusalCode, Result, Rung};
use crate::ladder::{Decision, Lifetime, PagePolicy, Step, Wanted, plan};
use crate::numa::{self, Placement};
use crate::pages::{self, Mount};
use crate::size::format_bytes;
use crate::sys::mmap::{self, Mapped, Source};
use crate::sys::{file, memfd, sysv};
use crate::view::Memory;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const OPERATION: &str = "create segment";
/// How many random keys are tried for a System V segment.
const KEY_ATTEMPTS: u32 = 64;

/// A refused rung is no error of the whole; an error is.
type Outcome<T> = Result<core::result::Result<T, Refusal>>;

/// Unwraps what was got, or hands the refusal on.
macro_rules! got {
    ($outcome:expr) => {
        match $outcome {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

/// Makes the best object that the policy, the kinds allowed and the machine give.
///
/// Files are unnamed afterwards; every page is resident.
///
/// # Errors
///
/// `OutOfPages` with every refusal where no rung could be had (`UnknownPageSize` if the machine
/// has no such pages), `BadMount` for a mount that can not be meant, `InvalidSize`,
/// `InvalidArgument` for nodes that do not exist, and whatever `before_take` answers.
pub(crate) fn create(request: CreateRequest<'_>) -> Result<Created> {
    let CreateRequest { length, pages, backings, lifetime, placement, name, .. } = request;
    check(OPERATION, name, length, placement)?;
    let sizes = numbers::sizes();
    let mounts = Mounts::read(request.mount, pages)?;
    let wanted = Wanted { length, policy: pages, backings, lifetime };
    let mut maker = Maker { request, mounts };
    climb(OPERATION, name, &wanted, plan(&wanted, &sizes), |step| maker.make(step), |created| {
        &mut created.backing
    })
}

/// Makes private memory of at least `length` bytes by the same ladder.
pub(crate) fn create_private(
    length: u64,
    policy: &PagePolicy,
    placement: &Placement,
    populate: Populate,
    progress: Option<Progress<'_>>,
) -> Result<(Mapping, Backing)> {
    const OPERATION: &str = "map private memory";
    let object = format_bytes(length);
    check(OPERATION, &object, length, placement)?;
    let backings = &[BackingKind::Anonymous];
    let wanted = Wanted { length, policy, backings, lifetime: Lifetime::WithHolders };
    let plan = plan(&wanted, &numbers::sizes());
    let fill = Fill { placement, populate, progress, policy };
    let make = |step: &Step| {
        let (_, len) = whole_pages(OPERATION, step.length, step.page, || object.clone())?;
        if let Some(refusal) = refuse_memory(step, None) {
            return Ok(Err(refusal));
        }
        let _policy = got!(fill.bind_task(step));
        let huge = matches!(step.rung, Rung::Huge(_)).then_some(step.page);
        let mapping = got!(fill.map(step, Source::Anonymous { huge }, len, None));
        let measured = got!(fill.fill(step, &mapping, None)?);
        let backing = fill.report(step, "private memory".to_owned(), measured);
        Ok(Ok((mapping, backing)))
    };
    climb(OPERATION, &object, &wanted, plan, make, |(_, backing)| backing)
}

/// What can be known to be wrong before anything is made.
fn check(operation: &'static str, name: &str, length: u64, placement: &Placement) -> Result<()> {
    if length == 0 {
        return Err(Error::new(ErrorKind::InvalidSize, operation, name)
            .detail("a mapping of no bytes can not be made"));
    }
    let nodes = match placement {
        Placement::Bind(nodes) | Placement::Interleave(nodes) => nodes.clone(),
        Placement::Preferred(node) => numa::NodeSet::from(*node),
        _ => return Ok(()),
    };
    let present = numa::with_memory();
    let absent = nodes.iter().find(|node| !present.contains(*node));
    if nodes.is_empty() || absent.is_some() {
        return Err(Error::new(ErrorKind::InvalidArgument, operation, name)
            .detail(match absent {
                Some(node) => format!("node {node} does not exist or has no memory"),
                None => "no node was named".to_owned(),
            })
            .remedy(format!("nodes with memory: {present}")));
    }
    Ok(())
}

/// Tries what is planned until something is got; the reasons travel with it.
fn climb<T>(
    operation: &'static str,
    name: &str,
    wanted: &Wanted<'_>,
    plan: Vec<Decision>,
    mut make: impl FnMut(&Step) -> Outcome<T>,
    report: impl Fn(&mut T) -> &mut Backing,
) -> Result<T> {
    let mut refusals = Vec::new();
    for decision in plan {
        let step = match decision {
            Decision::Refuse(refusal) => {
                refusals.push(refusal);
                continue;
            }
            Decision::Try(step) => step,
        };
        match make(&step)? {
            Ok(mut made) => {
                let backing = report(&mut made);
                backing.refusals = refusals;
                warn(name, backing);
                return Ok(made);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    let unknown = refusals.iter().all(|refusal| refusal.code == RefusalCode::NoSuchPageSize);
    let kind = if unknown { ErrorKind::UnknownPageSize } else { ErrorKind::OutOfPages };
    let remedy = refusals.iter().map(|refusal| refusal.remedy.as_str()).find(|r| !r.is_empty());
    Err(Error::new(kind, operation, name)
        .detail(format!(
            "{} on pages as asked ({}) can not be had",
            format_bytes(wanted.length),
            wanted.policy
        ))
        .remedy(remedy.unwrap_or_default())
        .with_refusals(refusals))
}

/// One warning for each rung that was asked for and refused.
#[cfg(feature = "tracing")]
fn warn(name: &str, backing: &Backing) {
    for (rung, codes) in backing.missed() {
        let why: Vec<String> = backing
            .refusals
            .iter()
            .filter(|refusal| refusal.rung == rung)
            .map(ToString::to_string)
            .collect();
        // What the caller's own bound on waste rules out is no surprise to anybody.
        if codes == [RefusalCode::Waste] {
            tracing::debug!("{name}: {}", why.join("; "));
        } else {
            tracing::warn!("{name}: fell back to {}: {}", backing.rung, why.join("; "));
        }
    }
}

#[cfg(not(feature = "tracing"))]
fn warn(_name: &str, _backing: &Backing) {}

/// What stands in the way of base pages, looked at before one is touched.
fn refuse_memory(step: &Step, dir: Option<BorrowedFd<'_>>) -> Option<Refusal> {
    if matches!(step.rung, Rung::Huge(_)) {
        return None;
    }
    let short = numbers::memory_short(step.length, dir)?;
    Some(refuse(step, RefusalCode::MemoryLimit, "check").numbers(short))
}

/// The hugetlbfs mounts to choose from.
struct Mounts {
    all: Vec<Mount>,
    /// The one the caller named.
    given: Option<Mount>,
}

impl Mounts {
    fn read(given: Option<&Path>, policy: &PagePolicy) -> Result<Self> {
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
        let real = path.canonicalize().map_err(|error| {
            bad_mount(path).detail(format!("it can not be reached: {error}"))
        })?;
        if let Some(mount) = all.iter().find(|mount| mount.path == real) {
            if mount.read_only {
                return Err(bad_mount(path).detail("it is mounted read-only"));
            }
            return Ok(mount.clone());
        }
        let what = file::open_dir(&real).and_then(|dir| file::file_system(dir.as_fd()));
        let inside = all.iter().filter(|mount| real.starts_with(&mount.path));
        let error = bad_mount(path);
        Err(match what {
            Err(errno) => error.detail("it is no folder that can be opened").errno_set(errno),
            Ok(statfs) => match (file::magic(&statfs), inside.last()) {
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
    fn choose(&self, step: &Step) -> core::result::Result<&Mount, Refusal> {
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
            None => refuse(step, RefusalCode::NoMount, "choose mount")
                .numbers(format!("no hugetlbfs mount with pages of {}", step.page)),
            Some(mount) => refuse(step, RefusalCode::MountNotWritable, "choose mount")
                .numbers(mount.to_string()),
        })
    }
}

fn bad_mount(path: &Path) -> Error {
    Error::new(ErrorKind::BadMount, OPERATION, path.display().to_string())
}

/// Makes one kind of object after the other for one request.
struct Maker<'a> {
    request: CreateRequest<'a>,
    mounts: Mounts,
}

impl Maker<'_> {
    fn make(&mut self, step: &Step) -> Outcome<Created> {
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
        let statfs = file::file_system(dir)
            .map_err(|errno| Error::system(OPERATION, shown(), errno))?;
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
        let measured = got!(fill.fill(step, &mapping, folder)?);
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
                let (ids, all) = (shown(limits.shmmni), shown(limits.shmall));
                let numbers = format!(
                    "needs {length} bytes, kernel.shmmni is {ids}, kernel.shmall is {all} pages"
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
            Err(errno) => return Ok(Err(self.failure(step, "shmat", errno, None, true).refusal())),
        };
        let mapping = Mapping::of_attached(attached, len, step.page, true);
        got!(fill.bind_range(step, &mapping));
        let measured = got!(fill.fill(step, &mapping, None)?);
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

/// Why an unnamed file could not be made.
fn refuse_file(step: &Step, shown: &str, dir: BorrowedFd<'_>, errno: Errno) -> Refusal {
    let (code, numbers) = match errno {
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            (RefusalCode::MountNotWritable, shown.to_owned())
        }
        Errno::ENOSPC | Errno::EDQUOT => {
            let numbers = match numbers::files_left(dir) {
                Some(left) => format!("{shown} has room for {left} more files"),
                None => format!("{shown} takes no more files"),
            };
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

/// The part that is the same for every kind of object.
struct Fill<'a> {
    placement: &'a Placement,
    populate: Populate,
    progress: Option<Progress<'a>>,
    policy: &'a PagePolicy,
}

fn bind_task(
    step: &Step,
    placement: &Placement,
) -> core::result::Result<Option<numa::TaskPolicy>, Refusal> {
    if !matches!(placement, Placement::Bind(_)) {
        return Ok(None);
    }
    numa::apply_task(placement).map(Some).map_err(|errno| {
        refuse(step, RefusalCode::System, "set_mempolicy").errno(errno).numbers(placement.to_string())
    })
}

impl Fill<'_> {
    fn bind_task(&self, step: &Step) -> core::result::Result<Option<numa::TaskPolicy>, Refusal> {
        bind_task(step, self.placement)
    }

    fn bind_range(&self, step: &Step, mapping: &Mapping) -> core::result::Result<(), Refusal> {
        numa::apply_range(self.placement, mapping.base().as_ptr(), mapping.len()).map_err(|errno| {
            refuse(step, RefusalCode::System, "mbind")
                .errno(errno)
                .numbers(self.placement.to_string())
        })
    }

    fn failure<'b>(
        &'b self,
        step: &'b Step,
        call: &'static str,
        errno: Errno,
        dir: Option<BorrowedFd<'b>>,
        reserved: bool,
    ) -> Failure<'b> {
        Failure { step, call, errno, placement: self.placement, dir, reserved }
    }

    /// Maps, where transparent huge pages can form on their boundary, and binds the range.
    fn map(
        &self,
        step: &Step,
        source: Source<'_>,
        len: usize,
        dir: Option<BorrowedFd<'_>>,
    ) -> core::result::Result<Mapping, Refusal> {
        let unit = numbers::thp_unit().filter(|_| step.rung == Rung::Thp);
        let mapped = match unit {
            Some(unit) => Mapped::aligned(source, len, unit.bytes() as usize),
            None => Mapped::new(source, len),
        };
        let mapped =
            mapped.map_err(|errno| self.failure(step, "mmap", errno, dir, false).refusal())?;
        let mapping = Mapping::of_mapped(mapped, step.page, true);
        self.bind_range(step, &mapping)?;
        Ok(mapping)
    }

    /// Faults every page in, merges where that is the rung, and measures.
    fn fill(&self, step: &Step, mapping: &Mapping, dir: Option<BorrowedFd<'_>>) -> Outcome<Measured> {
        let area = Area::new(mapping.base(), mapping.len());
        let populated = match step.rung {
            Rung::Thp => got!(self.fill_merged(step, mapping, area)),
            Rung::Base => {
                // Best effort: a kernel without transparent huge pages has nothing to forbid.
                let _ = mmap::advise_base(mapping.base(), mapping.len());
                area.populate(step.page, self.populate, self.progress).map(|()| None)
            }
            Rung::Huge(_) => {
                area.populate(step.page, self.populate, self.progress).map(|()| None)
            }
        };
        let not_merged = match populated {
            Ok(not_merged) => not_merged,
            Err(errno) => {
                return Ok(Err(self.failure(step, "madvise", errno, dir, true).refusal()));
            }
        };
        let measured = measure(mapping, step.backing)?;
        Ok(match self.disproved(step, &measured, not_merged) {
            None => Ok(measured),
            Some(refusal) => Err(refusal),
        })
    }

    /// Merges the first unit before the rest is touched: where the kernel never does it, one unit
    /// tells. The inner answer is the last reason why a unit was not merged.
    fn fill_merged(
        &self,
        step: &Step,
        mapping: &Mapping,
        area: Area,
    ) -> core::result::Result<nix::Result<Option<Errno>>, Refusal> {
        let Some(unit) = numbers::thp_unit() else {
            return Err(refuse(step, RefusalCode::ThpUnavailable, "check")
                .numbers("this kernel forms no transparent huge pages"));
        };
        // Best effort: where the setting allows it, pages come huge at the first touch.
        let _ = mmap::advise_huge(mapping.base(), mapping.len());
        let bytes = unit.bytes() as usize;
        if let Err(errno) = area.populate_start(bytes) {
            return Ok(Err(errno));
        }
        match area.merge(0, bytes) {
            // Anything else may be different for the units to come.
            Err(errno @ (Errno::EINVAL | Errno::ENOSYS)) => {
                Err(refuse(step, RefusalCode::ThpUnavailable, "madvise")
                    .errno(errno)
                    .numbers(format!("MADV_COLLAPSE made no page of {unit}; it needs Linux 6.1")))
            }
            _ => Ok(area.populate_merged(unit, self.populate, self.progress)),
        }
    }

    /// Whether the measurement denies the rung.
    fn disproved(
        &self,
        step: &Step,
        measured: &Measured,
        not_merged: Option<Errno>,
    ) -> Option<Refusal> {
        match step.rung {
            Rung::Huge(size) if measured.page_size != size || measured.huge < step.length => {
                let numbers = format!(
                    "measured are {} on huge pages, of {}",
                    format_bytes(measured.huge),
                    measured.page_size
                );
                Some(refuse(step, RefusalCode::System, "measure").numbers(numbers))
            }
            Rung::Thp if measured.huge == 0 => {
                let refusal = refuse(step, RefusalCode::ThpUnavailable, "measure")
                    .numbers("not one huge page could be formed");
                Some(match not_merged {
                    Some(errno) => refusal.errno(errno),
                    None => refusal,
                })
            }
            _ => None,
        }
    }

    fn report(&self, step: &Step, location: String, measured: Measured) -> Backing {
        let asked = self.policy.to_string();
        Backing::new(asked, step.rung, step.backing, step.length, location, measured)
    }
}
