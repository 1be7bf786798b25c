//! The words of a doctor's report: findings, their codes and how much they matter.

use super::container::Container;
use core::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Info,
    /// Some ways to use huge pages are closed, or segments may get lost.
    Warning,
    /// Huge pages cannot be used, or names cannot.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// What was found; stable, for programs to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum FindingCode {
    /// The kernel has no huge page pools, or hides them.
    NoPools,
    /// The pool has no pages and may not make any.
    PoolEmpty,
    /// The pool has pages, and all of them are taken or promised.
    PoolExhausted,
    /// The kernel has no pages of 1 GiB, or its pool is empty.
    NoGiganticPages,
    /// No hugetlbfs of this page size is mounted.
    NoMount,
    /// Mounts are there, and this user may write to none of them.
    MountNotWritable,
    /// The mount's quota is used up.
    MountQuota,
    /// A hugetlb limit of a cgroup leaves no page.
    CgroupLimit,
    /// This user may not make System V segments on huge pages.
    ShmNotPermitted,
    /// Transparent huge pages are switched off for shared memory.
    ThpSharedOff,
    /// Transparent huge pages are switched off for this process or for private memory.
    ThpOff,
    /// `/dev/shm` is missing, no tmpfs or not writable: names cannot be kept there.
    ShmFolderUnusable,
    /// `/dev/shm` is small.
    ShmFolderSmall,
    /// A memory limit of a cgroup bounds what is not on huge pages.
    MemoryLimit,
    /// logind removes this user's shared memory at logout.
    RemoveIpc,
    /// The limit on locked memory is low, which does not matter to huge pages.
    MemlockIrrelevant,
    /// 2 MiB pages can be had, and only for segments that die with their processes.
    OnlyMemfd,
    /// A 2 MiB page could not be taken, although nothing above says why.
    PageRefused,
}

impl FindingCode {
    /// The stable word for this code, as printed and as written to JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPools => "no-pools",
            Self::PoolEmpty => "pool-empty",
            Self::PoolExhausted => "pool-exhausted",
            Self::NoGiganticPages => "no-gigantic-pages",
            Self::NoMount => "no-mount",
            Self::MountNotWritable => "mount-not-writable",
            Self::MountQuota => "mount-quota",
            Self::CgroupLimit => "cgroup-limit",
            Self::ShmNotPermitted => "shm-not-permitted",
            Self::ThpSharedOff => "thp-shared-off",
            Self::ThpOff => "thp-off",
            Self::ShmFolderUnusable => "shm-folder-unusable",
            Self::ShmFolderSmall => "shm-folder-small",
            Self::MemoryLimit => "memory-limit",
            Self::RemoveIpc => "remove-ipc",
            Self::MemlockIrrelevant => "memlock-irrelevant",
            Self::OnlyMemfd => "only-memfd",
            Self::PageRefused => "page-refused",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// What it is.
    pub code: FindingCode,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen, with its numbers.
    pub text: String,
    /// What to do about it here; empty where nothing needs to be done.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]: {}", self.severity, self.code.as_str(), self.text)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n  try: {}", self.remedy) }
    }
}

/// All that was found, the worst first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// Whether this user could take a 2 MiB page from the pool a moment ago.
    pub usable_2m: bool,
    /// How many pages of 2 MiB the pool had available then.
    pub available_2m: u64,
    /// The effective user whom this is about.
    pub uid: u32,
    /// The container this runs in, as far as it can be told.
    pub container: Option<Container>,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        if let Some(container) = &self.container {
            writeln!(f, "this is a container: {container}")?;
        }
        let usable = if self.usable_2m { "can use" } else { "cannot use" };
        write!(f, "user {} {usable} 2M huge pages, {} available", self.uid, self.available_2m)?;
        if self.findings.iter().any(|finding| finding.code == FindingCode::OnlyMemfd) {
            f.write_str(", only for segments that die with their processes")?;
        }
        Ok(())
    }
}
