//! What keeps this user from using huge pages, and what to do about it.
//!
//! The findings are read off the machine. Whether 2 MiB pages are usable is
//! not concluded from them: one page is taken and given back.

use super::findings::{Finding, FindingCode, Report, Severity};
use super::logind;
use super::remedy::{mount_point, remedy_for};
use super::{Machine, Mount, Pool, ThpMode};
use crate::error::{RefusalCode, Result, Rung};
use crate::size::{PageSize, format_bytes};
use crate::sys::probe;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

/// A tmpfs smaller than this is the 64 MiB that container runtimes hand out, or less.
const SHM_SMALL: u64 = 256 << 20;

/// Collects findings; the worst come first in the end.
struct Findings<'a> {
    machine: &'a Machine,
    found: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, code: FindingCode, severity: Severity, text: String, remedy: String) {
        self.found.push(Finding { code, severity, text, remedy });
    }

    fn remedy(&self, code: RefusalCode, rung: Rung) -> String {
        self.remedy_for_pages(code, rung, 1)
    }

    fn remedy_for_pages(&self, code: RefusalCode, rung: Rung, pages: u64) -> String {
        remedy_for(code, rung, pages, self.machine.container.as_ref())
    }

    fn pool(&mut self, pool: &Pool) {
        let size = pool.size;
        if pool.available() > 0 {
            return;
        }
        // A page alone carries nobody far.
        let remedy = self.remedy_for_pages(RefusalCode::PoolTooSmall, Rung::Huge(size), 64);
        if pool.total == 0 {
            let text = format!("the pool of {size} pages is empty");
            self.add(FindingCode::PoolEmpty, Severity::Problem, text, remedy);
        } else {
            let text = format!(
                "all {} pages of {size} are taken or promised ({} free, {} promised)",
                pool.total, pool.free, pool.reserved
            );
            self.add(FindingCode::PoolExhausted, Severity::Problem, text, remedy);
        }
    }

    fn gigantic(&mut self) {
        let code = FindingCode::NoGiganticPages;
        match self.machine.pool(PageSize::SIZE_1G) {
            Some(pool) if pool.available() > 0 => {}
            Some(_) => {
                let remedy = self.remedy(RefusalCode::PoolTooSmall, Rung::Huge(PageSize::SIZE_1G));
                let text = "the pool of 1G pages has none to give; large segments take smaller \
                            pages"
                    .to_owned();
                self.add(code, Severity::Info, text, remedy);
            }
            None => {
                let text = "the kernel has no pages of 1G".to_owned();
                self.add(code, Severity::Info, text, String::new());
            }
        }
    }

    fn mounts(&mut self, size: PageSize) {
        let mounts: Vec<&Mount> =
            self.machine.mounts.iter().filter(|mount| mount.page_size == size).collect();
        let rung = Rung::Huge(size);
        if mounts.is_empty() {
            let remedy = self.remedy(RefusalCode::NoMount, rung);
            let path = mount_point(size, self.machine.default_huge == Some(size));
            let text = format!("no hugetlbfs with {size} pages is mounted (usual is {path})");
            self.add(FindingCode::NoMount, Severity::Warning, text, remedy);
        } else if !mounts.iter().any(|mount| mount.writable) {
            let remedy = self.remedy(RefusalCode::MountNotWritable, rung);
            let listed: Vec<String> = mounts.iter().map(|mount| mount.to_string()).collect();
            let text = format!("this user may write to no hugetlbfs: {}", listed.join("; "));
            self.add(FindingCode::MountNotWritable, Severity::Warning, text, remedy);
        } else {
            let has_room = |mount: &&Mount| {
                mount.writable && mount.limit.is_none_or(|limit| limit.free >= size.bytes())
            };
            if !mounts.iter().any(has_room) {
                let remedy = self.remedy(RefusalCode::MountQuota, rung);
                let text = format!("every hugetlbfs with {size} pages has used up its quota");
                self.add(FindingCode::MountQuota, Severity::Warning, text, remedy);
            }
        }
    }

    /// What outlives its processes needs a mount, or System V shared memory.
    fn lasting(&mut self, size: PageSize) {
        let mut mounts = self.machine.mounts.iter().filter(|mount| mount.page_size == size);
        if self.machine.shm.may_use_hugetlb || mounts.clone().any(|mount| mount.writable) {
            return;
        }
        let code = match mounts.next() {
            None => RefusalCode::NoMount,
            Some(_) => RefusalCode::MountNotWritable,
        };
        let remedy = self.remedy(code, Rung::Huge(size));
        let text = format!(
            "with no hugetlbfs of {size} pages to write to and no right to System V segments on \
             huge pages, only memfd segments get {size} pages; they die with their processes"
        );
        self.add(FindingCode::OnlyMemfd, Severity::Warning, text, remedy);
    }

    fn limits(&mut self) {
        for limit in &self.machine.hugetlb_limits {
            if limit.remaining() < limit.size.bytes() {
                let remedy = self.remedy(RefusalCode::CgroupLimit, Rung::Huge(limit.size));
                let default = self.machine.default_huge == Some(limit.size);
                let severity = if default { Severity::Problem } else { Severity::Warning };
                self.add(FindingCode::CgroupLimit, severity, limit.to_string(), remedy);
            }
        }
        if let Some(limit) = &self.machine.memory_limit {
            let (severity, remedy) = if limit.remaining() < SHM_SMALL {
                (Severity::Warning, self.remedy(RefusalCode::MemoryLimit, Rung::Base))
            } else {
                (Severity::Info, String::new())
            };
            let text = format!("memory that is not on huge pages is limited: {limit}");
            self.add(FindingCode::MemoryLimit, severity, text, remedy);
        }
        let shm = &self.machine.shm;
        if let (false, Some(size)) = (shm.may_use_hugetlb, self.machine.default_huge) {
            let remedy = self.remedy(RefusalCode::ShmNotPermitted, Rung::Huge(size));
            let text = format!("System V segments on huge pages are closed to it: {}", shm.reason);
            self.add(FindingCode::ShmNotPermitted, Severity::Info, text, remedy);
        }
        // What the kernel counts as locked is memory pinned by mlock; pages of a pool never are.
        let few = 64 << 20;
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK)
            && soft < few
        {
            let text = format!(
                "locked memory is limited to {}; huge pages are never swapped and need no lock",
                format_bytes(soft)
            );
            self.add(FindingCode::MemlockIrrelevant, Severity::Info, text, String::new());
        }
    }

    fn transparent(&mut self) {
        let thp = &self.machine.thp;
        let remedy = self.remedy(RefusalCode::ThpUnavailable, Rung::Thp);
        match thp.shmem_enabled {
            Some(mode @ (ThpMode::Never | ThpMode::Deny)) => {
                let text = format!(
                    "transparent huge pages are `{mode}` for shared memory: a segment on tmpfs \
                     stays on base pages, or needs an explicit collapse"
                );
                self.add(FindingCode::ThpSharedOff, Severity::Info, text, remedy);
            }
            None => {
                let text = "the kernel has no transparent huge pages for shared memory".to_owned();
                self.add(FindingCode::ThpSharedOff, Severity::Info, text, String::new());
            }
            _ => {}
        }
        if self.machine.thp.disabled_for_process {
            let text = "this process may have no transparent huge pages (PR_SET_THP_DISABLE)";
            self.add(FindingCode::ThpOff, Severity::Info, text.to_owned(), String::new());
        } else if self.machine.thp.enabled == Some(ThpMode::Never) {
            let text = "transparent huge pages are `never` for private memory".to_owned();
            self.add(FindingCode::ThpOff, Severity::Info, text, String::new());
        }
    }

    fn names(&mut self) {
        match &self.machine.shm_folder {
            Some(folder) if !folder.writable => {
                let text = "this user may not write to /dev/shm, where names are kept".to_owned();
                let remedy = "HUGESHM_DIR=a writable folder on tmpfs".to_owned();
                self.add(FindingCode::ShmFolderUnusable, Severity::Problem, text, remedy);
            }
            Some(folder) if folder.bytes != 0 && folder.bytes < SHM_SMALL => {
                let text = format!(
                    "/dev/shm holds {}, {} of it free",
                    format_bytes(folder.bytes),
                    format_bytes(folder.free)
                );
                let remedy = self.remedy(RefusalCode::MemoryLimit, Rung::Base);
                self.add(FindingCode::ShmFolderSmall, Severity::Warning, text, remedy);
            }
            Some(_) => {}
            None => {
                let text = "/dev/shm, where names are kept, is no tmpfs".to_owned();
                let remedy = "mount -t tmpfs tmpfs /dev/shm".to_owned();
                self.add(FindingCode::ShmFolderUnusable, Severity::Problem, text, remedy);
            }
        }
        if logind::removes_ipc(geteuid().as_raw()) {
            let text = "logind removes this user's shared memory when the last session ends; \
                        segments on /dev/shm and their names go with it"
                .to_owned();
            let remedy = "as root: RemoveIPC=no in /etc/systemd/logind.conf, or run as a system \
                          user, or loginctl enable-linger"
                .to_owned();
            self.add(FindingCode::RemoveIpc, Severity::Warning, text, remedy);
        }
    }
}

/// Looks at the machine, tries one 2 MiB page, and reports to the user who runs it.
///
/// # Errors
///
/// The mount table cannot be read.
pub fn doctor() -> Result<Report> {
    let machine = Machine::read()?;
    let probed = probe::take_huge_page(PageSize::SIZE_2M);
    Ok(examine(&machine, probed))
}

fn examine(machine: &Machine, probed: nix::Result<()>) -> Report {
    let mut findings = Findings { machine, found: Vec::new() };
    let usual = machine
        .pool(PageSize::SIZE_2M)
        .or_else(|| machine.default_huge.and_then(|size| machine.pool(size)));
    match usual {
        None => {
            let text = "the kernel shows no huge page pools".to_owned();
            let remedy =
                findings.remedy(RefusalCode::NoSuchPageSize, Rung::Huge(PageSize::SIZE_2M));
            findings.add(FindingCode::NoPools, Severity::Problem, text, remedy);
        }
        Some(pool) => {
            findings.pool(pool);
            findings.mounts(pool.size);
            if probed.is_ok() {
                findings.lasting(pool.size);
            }
        }
    }
    findings.gigantic();
    findings.limits();
    findings.transparent();
    findings.names();
    let explained = findings.found.iter().any(|finding| finding.severity == Severity::Problem);
    if let (Err(errno), false) = (probed, explained) {
        let text = format!("a page of 2M could not be taken: {errno}");
        findings.add(FindingCode::PageRefused, Severity::Problem, text, String::new());
    }
    let mut found = findings.found;
    found.sort_by_key(|finding| core::cmp::Reverse(finding.severity));
    Report {
        usable_2m: probed.is_ok(),
        available_2m: machine.pool(PageSize::SIZE_2M).map_or(0, Pool::available),
        uid: geteuid().as_raw(),
        container: machine.container.clone(),
        findings: found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::testing::AddedPages;
    use crate::pages::{HugetlbLimit, LimitKind, Tmpfs};
    use nix::errno::Errno;

    fn pool(size: PageSize, total: u64, free: u64) -> Pool {
        Pool { size, total, free, reserved: 0, surplus: 0, overcommit: 0, nodes: Vec::new() }
    }

    /// A machine on which nothing is wrong.
    fn healthy() -> Machine {
        let mut machine = Machine::read().expect("/proc is mounted");
        machine.pools = vec![pool(PageSize::SIZE_2M, 8, 8), pool(PageSize::SIZE_1G, 1, 1)];
        machine.default_huge = Some(PageSize::SIZE_2M);
        machine.mounts = vec![Mount {
            path: "/dev/hugepages".into(),
            page_size: PageSize::SIZE_2M,
            device: 1,
            root: "/".into(),
            read_only: false,
            reachable: true,
            writable: true,
            limit: None,
            files_free: None,
            uid: 0,
            gid: 0,
            mode: 0o755,
        }];
        machine.thp.enabled = Some(ThpMode::Madvise);
        machine.thp.shmem_enabled = Some(ThpMode::Advise);
        machine.thp.disabled_for_process = false;
        machine.shm.may_use_hugetlb = true;
        machine.hugetlb_limits = Vec::new();
        machine.memory_limit = None;
        machine.container = None;
        let path = "/dev/shm".into();
        machine.shm_folder = Some(Tmpfs { path, bytes: 1 << 32, free: 1 << 32, writable: true });
        machine
    }

    fn codes(machine: &Machine, probed: nix::Result<()>) -> Vec<FindingCode> {
        let silent = [FindingCode::MemlockIrrelevant, FindingCode::RemoveIpc];
        let findings = examine(machine, probed).findings.into_iter().map(|finding| finding.code);
        findings.filter(|code| !silent.contains(code)).collect()
    }

    #[test]
    fn a_healthy_machine_has_no_findings() {
        assert_eq!(codes(&healthy(), Ok(())), []);
    }

    #[test]
    fn each_obstacle_has_its_own_code() {
        let refused = Err(Errno::ENOMEM);
        let changed = |change: fn(&mut Machine)| {
            let mut machine = healthy();
            change(&mut machine);
            machine
        };
        let empty = changed(|machine| machine.pools[0] = pool(PageSize::SIZE_2M, 0, 0));
        assert_eq!(codes(&empty, refused), [FindingCode::PoolEmpty]);
        let taken = changed(|machine| machine.pools[0] = pool(PageSize::SIZE_2M, 8, 0));
        assert_eq!(codes(&taken, refused), [FindingCode::PoolExhausted]);
        let none = changed(|machine| (machine.pools, machine.default_huge) = (Vec::new(), None));
        assert_eq!(codes(&none, refused), [FindingCode::NoPools, FindingCode::NoGiganticPages]);
        let unmounted = changed(|machine| machine.mounts.clear());
        assert_eq!(codes(&unmounted, Ok(())), [FindingCode::NoMount]);
        let closed = changed(|machine| machine.mounts[0].writable = false);
        assert_eq!(codes(&closed, Ok(())), [FindingCode::MountNotWritable]);
        let limited = changed(|machine| {
            machine.hugetlb_limits = vec![HugetlbLimit {
                size: PageSize::SIZE_2M,
                kind: LimitKind::Usage,
                path: "/sys/fs/cgroup/a".into(),
                limit: 0,
                usage: 0,
            }];
        });
        assert_eq!(codes(&limited, refused), [FindingCode::CgroupLimit]);
        let small = changed(|machine| {
            if let Some(folder) = &mut machine.shm_folder {
                folder.bytes = 64 << 20;
            }
        });
        assert_eq!(codes(&small, Ok(())), [FindingCode::ShmFolderSmall]);
        let off = changed(|machine| machine.thp.shmem_enabled = Some(ThpMode::Never));
        assert_eq!(codes(&off, Ok(())), [FindingCode::ThpSharedOff]);
        let denied = changed(|machine| machine.shm.may_use_hugetlb = false);
        assert_eq!(codes(&denied, Ok(())), [FindingCode::ShmNotPermitted]);
        assert_eq!(codes(&healthy(), refused), [FindingCode::PageRefused]);
    }

    #[test]
    fn that_only_segments_without_a_life_of_their_own_are_possible_is_said() {
        let mut machine = healthy();
        machine.shm.may_use_hugetlb = false;
        machine.mounts[0].writable = false;
        let report = examine(&machine, Ok(()));
        let only = |report: &Report| {
            let mut found = report.findings.iter();
            found.find(|finding| finding.code == FindingCode::OnlyMemfd).cloned()
        };
        let finding = only(&report).expect("neither a mount nor System V");
        assert_eq!((finding.severity, finding.code.as_str()), (Severity::Warning, "only-memfd"));
        assert!(finding.remedy.contains("hugeshm mount 2M "), "{}", finding.remedy);
        let text = report.to_string();
        let verdict = "can use 2M huge pages, 8 available, only for segments that die with \
                       their processes";
        assert!(text.ends_with(verdict), "{text}");
        machine.mounts.clear();
        assert!(only(&examine(&machine, Ok(()))).is_some());
        assert!(only(&examine(&machine, Err(Errno::ENOMEM))).is_none(), "not even these");
        machine.shm.may_use_hugetlb = true;
        let report = examine(&machine, Ok(()));
        assert!(only(&report).is_none());
        assert!(report.to_string().ends_with("2M huge pages, 8 available"), "{report}");
    }

    #[test]
    fn the_worst_comes_first_and_every_problem_has_a_way_out() {
        let mut machine = healthy();
        machine.pools[0] = pool(PageSize::SIZE_2M, 0, 0);
        machine.pools.pop();
        machine.mounts.clear();
        let report = examine(&machine, Err(Errno::ENOMEM));
        assert!(!report.usable_2m);
        assert!(report.findings.is_sorted_by(|a, b| a.severity >= b.severity));
        for finding in &report.findings {
            assert!(finding.severity < Severity::Warning || !finding.remedy.is_empty());
        }
        assert!(report.to_string().contains("hugeshm reserve 2M "), "{report}");
    }

    #[test]
    fn a_page_that_can_be_taken_is_given_back() {
        let size = PageSize::SIZE_2M;
        let Some(pages) = AddedPages::add(size, None, 4) else {
            return;
        };
        let probed = probe::take_huge_page(size);
        drop(pages);
        assert_eq!(probed, Ok(()));
        let odd = PageSize::new(1 << 50).expect("a power of two");
        assert!(probe::take_huge_page(odd).is_err());
    }
}
