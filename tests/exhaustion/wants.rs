//! Things made scarce, and given back: by the child itself, or by its parent on its demand.
#![expect(unsafe_code, reason = "mappings that are in the way, and limits of System V memory")]

use crate::calls::Site;
use crate::common::child;
use crate::guard;
use hugeshm::{NodeSet, Placement};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

/// What is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Every page of the pool is in use by somebody else.
    PoolTaken,
    /// Every page is promised to somebody else, who has not touched any.
    PoolPromised,
    /// The hugetlbfs mount has a quota (`size=`), which is used up.
    MountSize,
    /// The hugetlbfs mount takes no more files (`nr_inodes=`).
    MountFiles,
    /// The hugetlb cgroup allows fewer pages in use (`max`).
    HugetlbMax,
    /// The hugetlb cgroup allows fewer reservations (`rsvd.max`).
    HugetlbReserved,
    /// The memory cgroup allows less, and no huge page is to be had.
    MemoryCgroup,
    /// The control folder's tmpfs has so many pages left (`size=`).
    FolderSize,
    /// The control folder's tmpfs takes so many more files (`nr_inodes=`).
    FolderFiles,
    /// The control folder is mounted read-only.
    FolderReadOnly,
    /// `kernel.shmmni`: so many more System V segments.
    ShmCount,
    /// `kernel.shmmax`: smaller System V segments only.
    ShmSize,
    /// `kernel.shmall`: fewer pages in all System V segments.
    ShmAll,
    /// `RLIMIT_NOFILE`: so many more descriptors.
    Descriptors,
    /// `RLIMIT_AS`: so much more address space.
    AddressSpace,
    /// `RLIMIT_FSIZE`: no larger files.
    FileSize,
    /// `RLIMIT_MEMLOCK` of 0.
    LockedMemory,
    /// `vm.max_map_count`: so many more mappings.
    Mappings,
    /// A node that does not exist.
    AbsentNode,
}

impl Want {
    pub const ALL: [Self; 19] = [
        Self::PoolTaken,
        Self::PoolPromised,
        Self::MountSize,
        Self::MountFiles,
        Self::HugetlbMax,
        Self::HugetlbReserved,
        Self::MemoryCgroup,
        Self::FolderSize,
        Self::FolderFiles,
        Self::FolderReadOnly,
        Self::ShmCount,
        Self::ShmSize,
        Self::ShmAll,
        Self::Descriptors,
        Self::AddressSpace,
        Self::FileSize,
        Self::LockedMemory,
        Self::Mappings,
        Self::AbsentNode,
    ];

    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|want| format!("{want:?}") == name).expect("one of them")
    }

    /// How much is left in each try, in the thing's own unit: a call must fail well at each step
    /// on which it may run out.
    pub fn left(self) -> Vec<u64> {
        match self {
            Self::Descriptors => (0..9).collect(),
            Self::Mappings => (0..3).collect(),
            Self::FolderFiles => (0..4).collect(),
            Self::FolderSize => (0..4).collect(),
            Self::AddressSpace => vec![0, 16 << 10, 1 << 20, 3 << 20],
            Self::FileSize => vec![0, 64, 4096, 1 << 20],
            Self::ShmCount => vec![0, 1],
            _ => vec![0],
        }
    }

    /// Whether nothing can be tried without pages in the pool.
    pub fn needs_pool(self) -> bool {
        use Want::*;
        matches!(
            self,
            PoolTaken
                | PoolPromised
                | MountSize
                | MountFiles
                | HugetlbMax
                | HugetlbReserved
                | ShmCount
                | ShmSize
                | ShmAll
        )
    }

    /// Whether the parent makes it scarce.
    pub fn is_of_the_machine(self) -> bool {
        matches!(
            self,
            Self::PoolTaken
                | Self::PoolPromised
                | Self::HugetlbMax
                | Self::HugetlbReserved
                | Self::MemoryCgroup
        )
    }
}

/// Something that is scarce until this is dropped.
pub struct Scarce<'a> {
    give_back: Option<Box<dyn FnOnce() + 'a>>,
}

impl Drop for Scarce<'_> {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back();
        }
    }
}

fn until(give_back: impl FnOnce() + 'static) -> Scarce<'static> {
    Scarce { give_back: Some(Box::new(give_back)) }
}

fn ask(what: &str) {
    child::say(what);
    assert_eq!(child::hear().as_deref(), Some("done"), "the parent has ended");
}

/// Makes it scarce.
pub fn begin<'a>(want: Want, left: u64, site: &'a Site) -> Scarce<'a> {
    match want {
        want if want.is_of_the_machine() => {
            ask("begin");
            until(|| ask("end"))
        }
        // The mount's quota is smaller than what is asked for, and so is shmmax.
        Want::MountSize => fill_mount(site.mount.as_deref().expect("a mount")),
        Want::MountFiles => fill_files(site.mount.as_deref().expect("a mount"), 0),
        Want::FolderSize => fill_blocks(&site.folder, left),
        Want::FolderFiles => fill_files(&site.folder, left),
        Want::FolderReadOnly => {
            site.use_read_only.set(true);
            Scarce { give_back: Some(Box::new(|| site.use_read_only.set(false))) }
        }
        Want::ShmCount => {
            let ids = std::fs::read_to_string("/proc/sysvipc/shm").expect("/proc is mounted");
            sysctl("kernel/shmmni", ids.lines().skip(1).count() as u64 + left)
        }
        Want::ShmSize => sysctl("kernel/shmmax", 1 << 20),
        Want::ShmAll => sysctl("kernel/shmall", 16),
        Want::Descriptors => fill_descriptors(left),
        Want::AddressSpace => limit(Resource::RLIMIT_AS, guard::address_space() + left),
        Want::FileSize => limit(Resource::RLIMIT_FSIZE, left),
        Want::LockedMemory => limit(Resource::RLIMIT_MEMLOCK, 0),
        Want::Mappings => fill_mappings(left),
        Want::AbsentNode => {
            *site.placement.borrow_mut() = Placement::Bind(NodeSet::from(900));
            let back = || *site.placement.borrow_mut() = Placement::Default;
            Scarce { give_back: Some(Box::new(back)) }
        }
        want => unreachable!("{want:?} is of the machine"),
    }
}

fn limit(resource: Resource, soft: u64) -> Scarce<'static> {
    let (before, hard) = getrlimit(resource).expect("our own limit");
    setrlimit(resource, soft, hard).expect("a lower soft limit");
    until(move || setrlimit(resource, before, hard).expect("the limit as it was"))
}

fn sysctl(name: &str, value: u64) -> Scarce<'static> {
    let path = Path::new("/proc/sys").join(name);
    let before = std::fs::read_to_string(&path).expect("a kernel with System V memory");
    std::fs::write(&path, value.to_string()).expect("in an IPC namespace of its own");
    until(move || std::fs::write(&path, before).expect("as it was"))
}

/// Leaves so many descriptors to this process.
pub fn fill_descriptors(left: u64) -> Scarce<'static> {
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("our own limit");
    setrlimit(Resource::RLIMIT_NOFILE, 128, hard).expect("a lower soft limit");
    let mut taken = Vec::with_capacity(128);
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - left as usize);
    until(move || {
        drop(taken);
        setrlimit(Resource::RLIMIT_NOFILE, before, hard).expect("the limit as it was");
    })
}

fn filling(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("filling-{number}"))
}

fn fill_files(folder: &Path, left: u64) -> Scarce<'static> {
    let mut taken = Vec::new();
    while File::create_new(filling(folder, taken.len())).is_ok() {
        taken.push(filling(folder, taken.len()));
    }
    for path in taken.split_off(taken.len() - left as usize) {
        std::fs::remove_file(path).expect("ours");
    }
    until(move || taken.iter().for_each(|path| std::fs::remove_file(path).expect("ours")))
}

fn allocate(path: &Path, bytes: u64) -> nix::Result<()> {
    let file = File::create_new(path).expect("a folder of ours");
    let flags = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, flags, 0, bytes as i64)
}

fn fill_blocks(folder: &Path, left: u64) -> Scarce<'static> {
    let stat = nix::sys::statvfs::statvfs(folder).expect("ours");
    let bytes = (stat.blocks_free() - left) * stat.block_size();
    let path = filling(folder, 0);
    allocate(&path, bytes).expect("that much was free");
    until(move || std::fs::remove_file(path).expect("ours"))
}

fn fill_mount(mount: &Path) -> Scarce<'static> {
    let stat = nix::sys::statvfs::statvfs(mount).expect("ours");
    let path = filling(mount, 0);
    allocate(&path, stat.blocks_free() * stat.fragment_size()).expect("within the quota");
    until(move || std::fs::remove_file(path).expect("ours"))
}

/// One page that merges with nothing beside it.
fn odd_page(number: usize) -> Option<usize> {
    let prot = if number.is_multiple_of(2) { libc::PROT_NONE } else { libc::PROT_READ };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let page = unsafe { libc::mmap(null_mut(), 4096, prot, flags, -1, 0) };
    (page != libc::MAP_FAILED).then(|| page.addr())
}

fn unmap(page: usize) {
    // SAFETY: one of the pages of `odd_page`, which nobody uses.
    let gone = unsafe { libc::munmap(std::ptr::without_provenance_mut(page), 4096) };
    assert_eq!(gone, 0, "{}", nix::errno::Errno::last());
}

/// Takes nearly all mappings for good, so that taking the rest each time is quick.
pub fn crowd_mappings() {
    let most: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .expect("/proc is mounted")
        .trim()
        .parse()
        .expect("a number");
    let text = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    for number in 0..most - text.lines().count() - 300 {
        odd_page(number).expect("there is room for 300 more");
    }
    guard::CROWDED.store(true, Ordering::SeqCst);
}

fn fill_mappings(left: u64) -> Scarce<'static> {
    let mut taken = Vec::with_capacity(1024);
    while taken.len() < 1024
        && let Some(page) = odd_page(taken.len())
    {
        taken.push(page);
    }
    // Every second one, so that no two mappings become one.
    for _ in 0..left {
        unmap(taken.swap_remove(taken.len() / 2));
    }
    until(move || taken.into_iter().for_each(unmap))
}

/// Memory of the pool of 2 MiB pages that is promised to this process.
pub struct Promised {
    base: *mut u8,
    bytes: usize,
}

impl Promised {
    /// Maps `pages` and touches none.
    pub fn new(pages: u64) -> Self {
        Self::try_new(pages)
            .unwrap_or_else(|| panic!("{pages} pages: {}", nix::errno::Errno::last()))
    }

    /// The same, or none where they cannot be had.
    pub fn try_new(pages: u64) -> Option<Self> {
        let bytes = pages as usize * super::calls::PAGE.bytes() as usize;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(null_mut(), bytes, prot, flags, -1, 0) };
        (base != libc::MAP_FAILED).then(|| Self { base: base.cast(), bytes })
    }

    /// Touches every page: what was promised must be there.
    pub fn touch(&self) {
        for offset in (0..self.bytes).step_by(super::calls::PAGE.bytes() as usize) {
            // SAFETY: `offset` is less than the length of the mapping.
            let byte = unsafe { self.base.add(offset) };
            // SAFETY: the byte is mapped and writable, and nobody else knows it.
            unsafe { byte.write_volatile(1) };
        }
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody uses any more.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}
