//! What went wrong, with which object, and the way out.
//!
//! Two kinds of error. The control plane (create, open, reserve, ...) answers
//! with [`Error`]: operation, object, kernel error, what was needed and found,
//! and a remedy. The data plane (`push`, `recv`, ...) answers with small `Copy`
//! enums that live beside the rings. A page size that could not be had is a
//! [`Refusal`]; it stands in the report of a mapping that fell back, and in the
//! error of one that was not allowed to.

use crate::size::PageSize;
use core::fmt;
use nix::errno::Errno;

/// The result of every control-plane call.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// What kind of failure an [`Error`] is; stable, for programs to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ErrorKind {
    /// A domain, segment, object or type name is empty, too long or has a forbidden character.
    InvalidName,
    /// A size is zero, overflows, or lies beyond the address space.
    InvalidSize,
    /// A ring's capacity is zero or overflows.
    InvalidCapacity,
    /// Any other argument that cannot be meant.
    InvalidArgument,
    /// The machine has no such page size.
    UnknownPageSize,
    /// A path given as hugetlbfs mount is not one, or is read-only, or has another page size.
    BadMount,
    /// The control folder is missing or not a tmpfs of this kernel.
    BadControlFolder,
    /// The name is taken.
    AlreadyExists,
    /// There is no such segment or object; the text says where it was looked for.
    NotFound,
    /// No rung of the ladder that was allowed could be had; see [`Error::refusals`].
    OutOfPages,
    /// Memory or file space is exhausted, or a limit forbids it.
    NoSpace,
    /// The kernel or the file's mode forbids it.
    PermissionDenied,
    /// The object was made by somebody else, or is not what its name says. It was left alone.
    NotOurs,
    /// The segment was written by a version whose layout this one must not touch.
    Incompatible,
    /// The object holds another type than the one asked for.
    TypeMismatch,
    /// The object is of another kind (a record ring opened as a typed ring, say).
    KindMismatch,
    /// What stands in shared memory or in a control file contradicts itself.
    Corrupt,
    /// The place is taken: a living producer, consumer or attachment holds it.
    Busy,
    /// A table of fixed size (objects, attachments, slots) is full.
    TableFull,
    /// The segment is mapped read-only.
    ReadOnly,
    /// There is no message, or no room for one, right now.
    WouldBlock,
    /// Messages were overwritten before they were received; the text says how many.
    Overwritten,
    /// The process at the other end left in good order.
    Closed,
    /// The process at the other end died.
    PeerDied,
    /// The segment's name was removed or taken over by another segment.
    Superseded,
    /// The handle was made before a `fork` and used in the child.
    Forked,
    /// The deadline passed.
    TimedOut,
    /// The call was cancelled from its own process.
    Cancelled,
    /// The kernel or the backing cannot do it.
    Unsupported,
    /// A pool could be resized only in part; the text says how many pages came.
    Partial,
    /// Any other error of the kernel.
    System,
}

/// One rung of the page ladder: what kind of page carries a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Rung {
    /// Pages of the base size, 4 KiB on x86-64.
    Base,
    /// Base pages that the kernel is asked to merge into huge ones (transparent huge pages).
    Thp,
    /// Pages of this size from the kernel's huge page pool (hugetlb).
    Huge(PageSize),
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.pad("base"),
            Self::Thp => f.pad("thp"),
            Self::Huge(size) => f.pad(&size.to_string()),
        }
    }
}

/// What kind of kernel object carries a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BackingKind {
    /// A file on a hugetlbfs mount.
    Hugetlbfs,
    /// A System V segment made with `SHM_HUGETLB`.
    Sysv,
    /// A memfd made with `MFD_HUGETLB` (huge rungs) or without (THP and base pages).
    Memfd,
    /// A file on tmpfs.
    Tmpfs,
    /// A private anonymous mapping.
    Anonymous,
}

impl BackingKind {
    /// The word used in control files, reports and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hugetlbfs => "hugetlbfs",
            Self::Sysv => "sysv",
            Self::Memfd => "memfd",
            Self::Tmpfs => "tmpfs",
            Self::Anonymous => "anonymous",
        }
    }
}

impl core::str::FromStr for BackingKind {
    type Err = Error;

    /// Reads the word that [`as_str`](Self::as_str) writes.
    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Hugetlbfs, Self::Sysv, Self::Memfd, Self::Tmpfs, Self::Anonymous];
        all.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "read a kind of backing", text)
                .detail("it can be hugetlbfs, sysv, memfd or tmpfs")
        })
    }
}

impl fmt::Display for BackingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a rung was refused; stable, for programs to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum RefusalCode {
    /// The machine lists no such page size.
    NoSuchPageSize,
    /// The pool has too few available pages.
    PoolTooSmall,
    /// No hugetlbfs mount of this page size is in sight.
    NoMount,
    /// A mount is there and this user may not write to it.
    MountNotWritable,
    /// The mount's `size=` quota or inode limit is used up.
    MountQuota,
    /// A hugetlb cgroup limit stands in the way.
    CgroupLimit,
    /// The memory cgroup, the machine's memory or a tmpfs size stands in the way.
    MemoryLimit,
    /// This user may not make `SHM_HUGETLB` segments.
    ShmNotPermitted,
    /// A kernel-wide System V limit (`shmmni`, `shmmax`, `shmall`) stands in the way.
    ShmLimit,
    /// The object would die with its last process, and the caller wants it to live on.
    Lifetime,
    /// Transparent huge pages are switched off or could not be formed.
    ThpUnavailable,
    /// Rounding up to this page size would waste more than was allowed.
    Waste,
    /// The node asked for has too few pages.
    NodeTooSmall,
    /// The kernel lacks the call or the flag.
    KernelTooOld,
    /// A limit of this process stands in the way: its address space (`RLIMIT_AS`), its mappings
    /// (`vm.max_map_count`) or the size of its files (`RLIMIT_FSIZE`).
    ProcessLimit,
    /// Any other error of the kernel.
    System,
}

impl RefusalCode {
    /// The stable word for this code, as printed and as written to JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchPageSize => "no-such-page-size",
            Self::PoolTooSmall => "pool-too-small",
            Self::NoMount => "no-mount",
            Self::MountNotWritable => "mount-not-writable",
            Self::MountQuota => "mount-quota",
            Self::CgroupLimit => "cgroup-limit",
            Self::MemoryLimit => "memory-limit",
            Self::ShmNotPermitted => "shm-not-permitted",
            Self::ShmLimit => "shm-limit",
            Self::Lifetime => "lifetime",
            Self::ThpUnavailable => "thp-unavailable",
            Self::Waste => "waste",
            Self::NodeTooSmall => "node-too-small",
            Self::KernelTooOld => "kernel-too-old",
            Self::ProcessLimit => "process-limit",
            Self::System => "system",
        }
    }
}

/// Why one rung of the ladder was not taken, with the numbers at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Refusal {
    /// The rung that was refused.
    pub rung: Rung,
    /// The kind of object it was to be made from.
    pub backing: BackingKind,
    /// The stable reason.
    pub code: RefusalCode,
    /// The call that failed (`mmap`, `shmget`, ...), or the check made before any call.
    pub call: &'static str,
    /// The kernel's error number, where a call failed.
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize_errno"))]
    pub errno: Option<Errno>,
    /// The numbers at that moment: "needs 32 pages of 2M, 3 available".
    pub numbers: String,
    /// What to do about it in the place where the program runs; empty where nothing helps.
    pub remedy: String,
}

impl Refusal {
    /// A refusal without kernel error, numbers or remedy; the builder methods add them.
    pub(crate) fn new(
        rung: Rung,
        backing: BackingKind,
        code: RefusalCode,
        call: &'static str,
    ) -> Self {
        Self {
            rung,
            backing,
            code,
            call,
            errno: None,
            numbers: String::new(),
            remedy: String::new(),
        }
    }

    pub(crate) fn errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    pub(crate) fn numbers(mut self, numbers: impl Into<String>) -> Self {
        self.numbers = numbers.into();
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} refused [{}]", self.rung, self.backing, self.code.as_str())?;
        write!(f, ": {}", self.call)?;
        if let Some(errno) = self.errno {
            write!(f, ": {errno}")?;
        }
        if !self.numbers.is_empty() {
            write!(f, "; {}", self.numbers)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; try: {}", self.remedy)?;
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
#[expect(clippy::ref_option, reason = "serde's serialize_with hands over a reference to the field")]
fn serialize_errno<S: serde::Serializer>(
    errno: &Option<Errno>,
    serializer: S,
) -> core::result::Result<S::Ok, S::Error> {
    match errno {
        Some(errno) => serializer.collect_str(&format_args!("{errno:?}")),
        None => serializer.serialize_none(),
    }
}

/// A control-plane failure: what was tried, on what, why it failed and what to do.
///
/// It prints as one line:
/// `create segment "md.xnas": needs 32 pages of 2M, 3 available (ENOMEM); try: hugeshm reserve 2M 64`.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    object: String,
    detail: String,
    errno: Option<Errno>,
    remedy: String,
    refusals: Vec<Refusal>,
}

impl Error {
    /// An error of `kind` while doing `operation` ("open segment") on `object` (a name or path).
    pub(crate) fn new(kind: ErrorKind, operation: &'static str, object: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            operation,
            object: object.into(),
            detail: String::new(),
            errno: None,
            remedy: String::new(),
            refusals: Vec::new(),
        }))
    }

    /// A kernel error, its kind derived from the error number.
    pub(crate) fn system(operation: &'static str, object: impl Into<String>, errno: Errno) -> Self {
        let kind = match errno {
            Errno::EACCES | Errno::EPERM | Errno::EROFS => ErrorKind::PermissionDenied,
            Errno::ENOENT => ErrorKind::NotFound,
            Errno::EEXIST => ErrorKind::AlreadyExists,
            Errno::ENOMEM
            | Errno::ENOSPC
            | Errno::EDQUOT
            | Errno::EFBIG
            | Errno::EMFILE
            | Errno::ENFILE => ErrorKind::NoSpace,
            Errno::ENOSYS | Errno::EOPNOTSUPP => ErrorKind::Unsupported,
            Errno::ETIMEDOUT => ErrorKind::TimedOut,
            _ => ErrorKind::System,
        };
        Self::new(kind, operation, object).errno_set(errno)
    }

    /// What was needed and what was found, in words and numbers.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// The way out, as something to type or to change.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy = remedy.into();
        self
    }

    pub(crate) fn errno_set(mut self, errno: Errno) -> Self {
        self.0.errno = Some(errno);
        self
    }

    pub(crate) fn with_refusals(mut self, refusals: Vec<Refusal>) -> Self {
        self.0.refusals = refusals;
        self
    }

    /// The kind of failure, for programs to match on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done, such as "create segment".
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The name or path of what it was done to.
    pub fn object(&self) -> &str {
        &self.0.object
    }

    /// The kernel's error number, where a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.0.errno
    }

    /// What was needed and found; empty where the kind says all.
    pub fn explanation(&self) -> &str {
        &self.0.detail
    }

    /// The way out; empty where none is known.
    pub fn way_out(&self) -> &str {
        &self.0.remedy
    }

    /// For [`ErrorKind::OutOfPages`]: each rung that was tried and why it was refused.
    pub fn refusals(&self) -> &[Refusal] {
        &self.0.refusals
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{} {:?}: ", e.operation, e.object)?;
        match (e.detail.is_empty(), e.errno) {
            (true, None) => write!(f, "{:?}", e.kind)?,
            (true, Some(errno)) => write!(f, "{} ({errno:?})", errno.desc())?,
            (false, None) => write!(f, "{}", e.detail)?,
            (false, Some(errno)) => write!(f, "{} ({errno:?})", e.detail)?,
        }
        if !e.remedy.is_empty() {
            write!(f, "; try: {}", e.remedy)?;
        }
        for refusal in &e.refusals {
            write!(f, "\n  {refusal}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl core::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => std::io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => std::io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied => std::io::ErrorKind::PermissionDenied,
            ErrorKind::TimedOut => std::io::ErrorKind::TimedOut,
            ErrorKind::OutOfPages | ErrorKind::NoSpace => std::io::ErrorKind::OutOfMemory,
            ErrorKind::Unsupported => std::io::ErrorKind::Unsupported,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_operation_object_numbers_errno_and_way_out() {
        let error = Error::system("create segment", "md", Errno::ENOMEM)
            .detail("needs 32 pages of 2M, 3 available")
            .remedy("hugeshm reserve 2M 64");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(
            error.to_string(),
            "create segment \"md\": needs 32 pages of 2M, 3 available (ENOMEM); \
             try: hugeshm reserve 2M 64"
        );
    }

    #[test]
    fn the_error_is_one_word_wide() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
