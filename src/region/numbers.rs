//! Why a rung was refused: the numbers at that moment, looked at after the kernel said no.
//!
//! The kernel answers a shortage with one error number whatever is short. So the
//! quotas, nodes, limits and pools are read in the order in which the kernel asks
//! them, and the first one that is too small is named. They move while they are
//! read; where none is too small any more, the answer says so.

use crate::error::{Refusal, RefusalCode, Rung};
use crate::ladder::{Sizes, Step};
use crate::numa::Placement;
use crate::pages::{self, LimitKind};
use crate::size::{PageSize, format_bytes};
use crate::sys::{file, limits, text};
use nix::errno::Errno;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::OnceLock;

/// The base page size, 4 KiB where the C library does not say.
pub(super) fn base_page() -> PageSize {
    pages::base_page().unwrap_or(PageSize::SIZE_4K)
}

/// What base pages are merged into; none where the kernel can not.
///
/// One small file, because every mapping on tmpfs asks; the settings are in `pages::thp`. It is
/// the kernel's and never changes, so it is remembered: there may be no descriptor to ask again.
pub(super) fn thp_unit() -> Option<PageSize> {
    static KNOWN: OnceLock<PageSize> = OnceLock::new();
    let path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let ask = || text::number(Path::new(path)).and_then(PageSize::new);
    KNOWN.get().copied().or_else(|| ask().map(|unit| *KNOWN.get_or_init(|| unit)))
}

/// The page sizes of this machine.
pub(super) fn sizes() -> Sizes {
    Sizes {
        base: base_page(),
        huge: pages::pools().iter().map(|pool| pool.size).collect(),
        thp: thp_unit(),
    }
}

/// A refusal with the remedy for the place where the program runs.
pub(super) fn refuse(step: &Step, code: RefusalCode, call: &'static str) -> Refusal {
    let pages = step.page.pages_for(step.length);
    let remedy = pages::remedy_for(code, step.rung, pages, pages::container().as_ref());
    Refusal::new(step.rung, step.backing, code, call).remedy(remedy)
}

/// The same for a refusal of the plan, where there is something to do about it.
pub(super) fn with_remedy(refusal: Refusal, length: u64) -> Refusal {
    let pages = match (refusal.code, refusal.rung) {
        (RefusalCode::Waste | RefusalCode::Lifetime | RefusalCode::NoSuchPageSize, rung) => {
            match rung {
                Rung::Huge(size) => size.pages_for(length),
                Rung::Thp | Rung::Base => return refusal,
            }
        }
        _ => return refusal,
    };
    let container = pages::container();
    let remedy = pages::remedy_for(refusal.code, refusal.rung, pages, container.as_ref());
    refusal.remedy(remedy)
}

/// What was being done when the kernel said no.
pub(super) struct Failure<'a> {
    pub step: &'a Step,
    pub call: &'static str,
    pub errno: Errno,
    pub placement: &'a Placement,
    /// The folder of the mount the file is on.
    pub dir: Option<BorrowedFd<'a>>,
    /// Whether the pages had been reserved already, so that pool and quota had agreed.
    pub reserved: bool,
}

impl Failure<'_> {
    /// Names what was short.
    pub(super) fn refusal(&self) -> Refusal {
        // The kernel looks at these before it looks for pages.
        if let Some((numbers, remedy)) = self.of_process() {
            return refuse(self.step, RefusalCode::ProcessLimit, self.call)
                .errno(self.errno)
                .numbers(numbers)
                .remedy(remedy);
        }
        let (code, numbers) = match self.step.rung {
            Rung::Huge(_) => self.huge(),
            Rung::Thp | Rung::Base => self.base(),
        };
        refuse(self.step, code, self.call).errno(self.errno).numbers(numbers)
    }

    /// A limit of this process, and how to raise it.
    fn of_process(&self) -> Option<(String, String)> {
        match (self.errno, self.call) {
            (Errno::ENOMEM, "mmap" | "shmat") => {
                // To find a place on their boundary takes one unit more.
                let more = match self.step.rung {
                    Rung::Thp => thp_unit().map_or(0, PageSize::bytes),
                    _ => 0,
                };
                mapping_short(self.step.length.saturating_add(more))
            }
            (Errno::EFBIG, _) => file_short(self.step.length),
            _ => None,
        }
    }

    fn huge(&self) -> (RefusalCode, String) {
        let page = self.step.page;
        let needed = page.pages_for(self.step.length);
        let bytes = self.step.length;
        if !matches!(self.errno, Errno::ENOMEM | Errno::ENOSPC | Errno::EFAULT | Errno::EDQUOT) {
            return (kernel_code(self.errno), format!("needs {needed} pages of {page}"));
        }
        // What is still to be had decides once the reservation went through; all of it before.
        let at_least = if self.reserved { page.bytes() } else { bytes };
        if let Some((free, all)) = self.dir.and_then(quota).filter(|_| !self.reserved)
            && free < bytes
        {
            let numbers = format!(
                "needs {}, the mount has {} of {} free",
                format_bytes(bytes),
                format_bytes(free),
                format_bytes(all)
            );
            return (RefusalCode::MountQuota, numbers);
        }
        let pool = pages::pool(page).ok().flatten();
        if let (Placement::Bind(nodes), Some(pool)) = (self.placement, &pool) {
            let shares = pool.nodes.iter().filter(|node| nodes.contains(node.node));
            let free: u64 = shares.map(|node| node.free).sum();
            if free.saturating_mul(page.bytes()) < at_least {
                let numbers =
                    format!("needs {needed} pages of {page} on node {nodes}, {free} free");
                return (RefusalCode::NodeTooSmall, numbers);
            }
        }
        let limits = pages::hugetlb_limits();
        let short = limits.iter().filter(|limit| limit.size == page).find(|limit| {
            // The two are asked at different moments: at `mmap`, and at the touch.
            let asked_here = (limit.kind == LimitKind::Reservation) != self.reserved;
            asked_here && limit.remaining() < at_least
        });
        if let Some(limit) = short {
            let numbers = format!(
                "needs {}, the cgroup {} leaves {} of {}",
                format_bytes(bytes),
                limit.path.display(),
                format_bytes(limit.remaining()),
                format_bytes(limit.limit)
            );
            return (RefusalCode::CgroupLimit, numbers);
        }
        let Some(pool) = pool else {
            return (RefusalCode::NoSuchPageSize, format!("there is no pool of {page}"));
        };
        let numbers = format!(
            "needs {needed} pages of {page}, {} available ({} in the pool, {} free, {} reserved)",
            pool.available(),
            pool.total,
            pool.free,
            pool.reserved
        );
        let surplus_failed = pool.free.saturating_sub(pool.reserved) < needed;
        if self.reserved || (pool.available() >= needed && !surplus_failed) {
            let why = "nothing that was looked at is short, so it was for a moment only, or a \
                       limit that can not be seen from here stands in the way";
            return (RefusalCode::System, format!("{numbers}; {why}"));
        }
        (RefusalCode::PoolTooSmall, numbers)
    }

    fn base(&self) -> (RefusalCode, String) {
        let bytes = self.step.length;
        if let Some(short) = memory_short(bytes, self.dir) {
            return (RefusalCode::MemoryLimit, short);
        }
        let code = match self.errno {
            Errno::ENOMEM | Errno::ENOSPC | Errno::EFAULT | Errno::EDQUOT => {
                RefusalCode::MemoryLimit
            }
            errno => kernel_code(errno),
        };
        (code, format!("needs {}", format_bytes(bytes)))
    }
}

/// What an error number says by itself.
fn kernel_code(errno: Errno) -> RefusalCode {
    match errno {
        Errno::EACCES | Errno::EROFS => RefusalCode::MountNotWritable,
        // `madvise`: older than 5.14; memfd: a flag it does not know.
        Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP => RefusalCode::KernelTooOld,
        Errno::ENODEV => RefusalCode::NoSuchPageSize,
        _ => RefusalCode::System,
    }
}

/// Free bytes and all bytes of a file system with a size limit.
fn quota(dir: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let statfs = file::file_system(dir).ok()?;
    let block = u64::try_from(statfs.block_size()).ok()?;
    // Without a limit hugetlbfs says 0, or all ones in older kernels.
    let limited = statfs.blocks() != 0 && i64::try_from(statfs.blocks()).is_ok();
    limited.then(|| {
        (statfs.blocks_free().saturating_mul(block), statfs.blocks().saturating_mul(block))
    })
}

/// What stands in the way of mapping `bytes` more in this process, and the way out.
pub(super) fn mapping_short(bytes: u64) -> Option<(String, String)> {
    if let Some(space) = limits::address_space().filter(|space| space.left() < bytes) {
        let numbers = format!(
            "needs {} of address space, this process has taken {} of {} (RLIMIT_AS)",
            format_bytes(bytes),
            format_bytes(space.used),
            format_bytes(space.limit)
        );
        return Some((numbers, "raise this process's limit (ulimit -v)".to_owned()));
    }
    // The kernel's own mappings are listed and not counted.
    let maps = limits::mappings().filter(|maps| maps.left() < 4)?;
    let numbers = format!(
        "needs 1 mapping, this process has {} of {} (vm.max_map_count)",
        maps.used, maps.limit
    );
    Some((numbers, "as root: sysctl vm.max_map_count=NUMBER, or map less".to_owned()))
}

/// The limit on file sizes that `length` is beyond, and the way out.
fn file_short(length: u64) -> Option<(String, String)> {
    let limit = limits::file_size().filter(|limit| *limit < length)?;
    let numbers = format!(
        "needs a file of {}, this process may make files of {} (RLIMIT_FSIZE)",
        format_bytes(length),
        format_bytes(limit)
    );
    Some((numbers, "raise this process's limit (ulimit -f)".to_owned()))
}

/// How many files more the file system of `dir`, mounted at `path`, can take.
///
/// A hugetlbfs without quota does not say what is left, only in its mount options what it allows.
pub(super) fn files_left(dir: BorrowedFd<'_>, path: &Path) -> String {
    let counted = |statfs: &nix::sys::statfs::Statfs| {
        statfs.files() != 0 && i64::try_from(statfs.files()).is_ok()
    };
    if let Some(now) = file::file_system(dir).ok().filter(counted) {
        let (free, all) = (now.files_free(), now.files());
        return format!("{} has room for {free} more files of {all} (nr_inodes)", path.display());
    }
    match pages::files_allowed(path) {
        Some(all) => format!("{} takes no more than {all} files (nr_inodes)", path.display()),
        None => format!("{} takes no more files", path.display()),
    }
}

/// Whether `bytes` of base pages can be had: on the file system of `dir`, within every memory
/// cgroup up the tree, and from the machine. The answer names what is short.
///
/// The kernel would not refuse: past these it is the OOM killer that answers.
pub(super) fn memory_short(bytes: u64, dir: Option<BorrowedFd<'_>>) -> Option<String> {
    let needs = format!("needs {}", format_bytes(bytes));
    if let Some((free, all)) = dir.and_then(quota).filter(|(free, _)| *free < bytes) {
        let (free, all) = (format_bytes(free), format_bytes(all));
        return Some(format!("{needs}, the tmpfs has {free} of {all} free"));
    }
    if let Some(limit) = pages::memory_limit().filter(|limit| limit.remaining() < bytes) {
        return Some(format!(
            "{needs}, the memory cgroup {} leaves {} of {}",
            limit.path.display(),
            format_bytes(limit.remaining()),
            format_bytes(limit.limit)
        ));
    }
    let memory = pages::memory();
    (memory.total > 0 && memory.available < bytes)
        .then(|| format!("{needs}, the machine has {} available", format_bytes(memory.available)))
}
