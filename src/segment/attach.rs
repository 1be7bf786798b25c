//! Attaching: from a name to a checked mapping that is known to be in use.
//!
//! # Protocol
//!
//! * A1 read the control file; it names an identity and where its bytes are
//! * A2 open the bytes; owner, file system and inode must be what A1 promised
//! * A3 take a shared lock on the data file; whoever collects needs it exclusively
//! * A4 if the file has lost its name meanwhile, start again at A1
//! * A5 map; check the header on a private copy, with the identity of A1
//! * A6 (writers) open the claims file, take its life byte shared and one
//!   attachment number exclusively; write who we are into its slot
//!
//! Nobody waits for anybody: between A1 and A4 the name may be removed or
//! replaced, then A1 is taken again, for a bounded time.
//!
//! # Failure
//!
//! * We die anywhere: the kernel drops the locks, and with the last of them the
//!   segment can be collected. The attachment slot keeps its text; its lock
//!   byte says that nobody is there.
//! * The control file lies: A2 and A5 compare everything it says with the kernel
//!   and with the header; a difference is an error and nothing is touched.
#![expect(unsafe_code, reason = "a mapping together with its locks is memory as well")]

use crate::error::{BackingKind, Error, ErrorKind, Result, Rung};
use crate::pages::Mount;
use crate::region::{self, Backing, FileFacts, Mapping, NodeShare};
use crate::segment::advice::advise;
use crate::segment::control::{ClaimsText, Control, Misread};
use crate::segment::directory::Directory;
use crate::segment::domain::Domain;
use crate::segment::folder::Folder;
use crate::segment::layout::{
    AttachmentRaw, ENDPOINT_CLOSED, ENDPOINT_OPEN, HEADER_BYTES, Header, HeaderRaw, LOCK_LIFE,
    Unreadable, attachment_lock,
};
use crate::segment::names::{self, Identity};
use crate::segment::{handover, life};
use crate::sys::locks::{self, Mode};
use crate::sys::process::{self, LockFd};
use crate::sys::sysv;
use crate::view::{Memory, View};
use core::mem::{offset_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long A1 is taken again before the name counts as restless.
///
/// A replacement takes about as long as a turn, so on a loaded machine many turns in a row may
/// find that the name has moved on.
const RESTLESS: Duration = Duration::from_secs(5);

/// A mapping and the locks that say it is in use.
///
/// Invariant: the mapping is dropped before the locks (order of the fields).
pub(crate) struct Held {
    mapping: Mapping,
    pub(crate) data: Option<LockFd>,
    pub(crate) claims: Option<LockFd>,
}

impl Held {
    pub(crate) fn new(mapping: Mapping, data: Option<LockFd>, claims: Option<LockFd>) -> Self {
        Self { mapping, data, claims }
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Whether the file still has the length and the pages of the mapping; a peer may take them
    /// away right afterwards. Of a System V segment, which cannot be asked, the first page.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.data {
            Some(data) => region::check_whole(data.as_fd(), self.mapping.len() as u64).is_ok(),
            None => region::has_first_page(&self.mapping),
        }
    }
}

// SAFETY: all three answers are those of `Mapping`, which keeps this contract itself and lives
// exactly as long as this value.
unsafe impl Memory for Held {
    fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    fn len(&self) -> usize {
        self.mapping.len()
    }

    fn writable(&self) -> bool {
        self.mapping.writable()
    }
}

/// An attached segment; shared by its handles and endpoints.
pub(crate) struct Attached {
    pub(crate) view: View,
    pub(crate) held: Arc<Held>,
    pub(crate) header: Header,
    pub(crate) directory: Directory,
    pub(crate) domain: Domain,
    pub(crate) name: String,
    pub(crate) identity: Identity,
    /// The slot in the attachment table; none for readers.
    pub(crate) attachment: Option<u32>,
    pub(crate) backing: Backing,
    pub(crate) label: Mutex<String>,
    pub(crate) unlink_on_drop: AtomicBool,
    forks: u64,
}

/// What an attachment is made of, beside the mapping itself.
pub(crate) struct Parts {
    pub domain: Domain,
    pub name: String,
    pub identity: Identity,
    /// The creator's report, or where an opener found it.
    pub backing: Report,
}

/// Where the report on the pages comes from.
pub(crate) enum Report {
    /// This process made and measured them.
    Measured(Backing),
    /// Another process did; this one found them here.
    Recorded(String),
}

impl Attached {
    /// Steps A5 (the header) and A6 over a mapping that is held.
    pub(crate) fn new(held: Arc<Held>, parts: Parts) -> Result<Self> {
        const OPERATION: &str = "open segment";
        let Parts { domain, name, identity, backing } = parts;
        let writable = held.writable();
        let view = View::new(Arc::clone(&held) as Arc<dyn Memory>);
        let header = read_header(&view, writable).map_err(|unreadable| match unreadable {
            Unreadable::Corrupt(what) => {
                Error::new(ErrorKind::Corrupt, OPERATION, &*name).detail(what)
            }
            Unreadable::Future(what) => Error::new(ErrorKind::Incompatible, OPERATION, &*name)
                .detail(what)
                .remedy("use the version of hugeshm that made it; list, inspect and remove work"),
        })?;
        if header.raw.identity != identity.0 {
            return Err(Error::new(ErrorKind::NotOurs, OPERATION, &*name).detail(format!(
                "its control file promises identity {identity}, it holds {}",
                Identity(header.raw.identity)
            )));
        }
        let directory = Directory::new(&view, &header).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, OPERATION, &*name).detail("its directory lies outside")
        })?;
        let backing = match backing {
            Report::Measured(backing) => backing,
            Report::Recorded(place) => recorded_backing(&held.mapping, &header, place),
        };
        let attachment = match &held.claims {
            Some(claims) => Some(take_attachment(&view, &header, claims, &name)?),
            None => None,
        };
        Ok(Self {
            view,
            held,
            header,
            directory,
            domain,
            name,
            identity,
            attachment,
            backing,
            label: Mutex::new(default_label()),
            unlink_on_drop: AtomicBool::new(false),
            forks: process::generation(),
        })
    }

    /// An error in a process that was forked off the one that attached.
    pub(crate) fn check_fork(&self, operation: &'static str) -> Result<()> {
        if self.forks == process::generation() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forked, operation, &*self.name)
            .detail("this handle was made before a fork and belongs to the parent process")
            .remedy("open the segment anew in the child"))
    }

    /// The word that says whether the name still leads here.
    pub(crate) fn superseded(&self) -> u64 {
        self.view.word64(offset_of!(HeaderRaw, superseded)).load(Ordering::Acquire)
    }

    /// Whether this process may write and make claims.
    pub(crate) fn writable(&self) -> bool {
        self.held.claims.is_some()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.forks != process::generation() {
            return;
        }
        if let Some(number) = self.attachment
            && self.held.is_whole()
        {
            let at = attachment_at(&self.header, number);
            self.view
                .word32(at + offset_of!(AttachmentRaw, state))
                .store(ENDPOINT_CLOSED, Ordering::Release);
        }
        if self.unlink_on_drop.load(Ordering::Relaxed) {
            // Nobody is left to tell; what stays behind is found by collect.
            let _ = life::remove_identity(&self.domain, &self.name, Some(self.identity));
        }
    }
}

/// The header on a private copy, checked.
fn read_header(view: &View, writable: bool) -> Result<Header, Unreadable> {
    if view.len() < HEADER_BYTES {
        return Err(Unreadable::Corrupt("shorter than a header"));
    }
    // The magic is written last; behind this load everything else is there.
    view.word64(offset_of!(HeaderRaw, magic)).load(Ordering::Acquire);
    let mut bytes = vec![0u8; HEADER_BYTES];
    view.read(0, &mut bytes);
    Header::parse(&bytes, view.len() as u64, writable)
}

/// A private copy of the first bytes of a mapping, for reports; of them only the frozen part
/// means the same in every version. All zero if it is shorter than a header.
pub(crate) fn frozen(held: &Arc<Held>) -> HeaderRaw {
    let view = View::new(Arc::clone(held) as Arc<dyn Memory>);
    let mut raw: HeaderRaw = bytemuck::Zeroable::zeroed();
    if view.len() >= HEADER_BYTES {
        view.read(0, bytemuck::bytes_of_mut(&mut raw));
    }
    raw
}

fn attachment_at(header: &Header, number: u32) -> usize {
    // `Header::parse` checked that the whole table lies inside the mapping.
    header.raw.attachments_offset as usize + number as usize * size_of::<AttachmentRaw>()
}

/// A6: one attachment number, and who we are in its slot.
fn take_attachment(view: &View, header: &Header, claims: &LockFd, name: &str) -> Result<u32> {
    let capacity = header.raw.attachments_capacity;
    for number in 0..capacity {
        let taken = locks::try_lock(claims.as_fd(), Mode::Exclusive, attachment_lock(number), 1)
            .map_err(|errno| Error::system("attach to segment", name, errno))?;
        if !taken {
            continue;
        }
        let at = attachment_at(header, number);
        let epoch = view.word64(at).load(Ordering::Relaxed).wrapping_add(1);
        let slot = AttachmentRaw {
            epoch,
            state: ENDPOINT_OPEN,
            flags: 0,
            pid: std::process::id(),
            uid: nix::unistd::geteuid().as_raw(),
            start: process::own_start_time().unwrap_or(0),
            pid_namespace: process::pid_namespace().unwrap_or(0),
            since_nanos: unix_nanos(),
            reserved: [0; 2],
        };
        view.write(at + 8, &bytemuck::bytes_of(&slot)[8..]);
        view.word64(at).store(epoch, Ordering::Release);
        return Ok(number);
    }
    Err(Error::new(ErrorKind::TableFull, "attach to segment", name)
        .detail(format!("{capacity} processes are attached, its capacity"))
        .remedy("build the segment with a larger max_attachments"))
}

pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The program's name, as the kernel knows it.
fn default_label() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim().chars().filter(char::is_ascii_graphic).collect()
}

/// The report of an opener: the page size as measured by the mapping, the rest as recorded.
fn recorded_backing(mapping: &Mapping, header: &Header, location: String) -> Backing {
    let nodes = header.raw.nodes[..header.raw.node_count as usize]
        .iter()
        .filter_map(|n| Some(NodeShare::new(u32::try_from(n.node).ok()?, n.bytes)))
        .collect();
    let huge = header.raw.huge_bytes.min(header.raw.length);
    Backing::recorded(mapping, header.backing, header.rung, location, huge, nodes)
}

/// A control file as found under a name, with what its inode says.
#[derive(Debug)]
pub(crate) struct Found {
    pub control: Control,
    pub uid: u32,
    pub mode: u32,
}

/// A1: the control file of a name.
pub(crate) fn find(folder: &Folder, domain: &Domain, name: &str) -> Result<Found> {
    const OPERATION: &str = "open segment";
    let file = names::control_file(domain.name(), name);
    let fd = folder.open_file(&file, false).map_err(|error| match error.errno() {
        Some(Errno::ENOENT) => Error::new(ErrorKind::NotFound, OPERATION, name)
            .detail(format!(
                "there is no {file} in {} (domain {})",
                folder.path().display(),
                domain.name()
            ))
            .remedy(
                "`hugeshm list` shows the names here; HUGESHM_DOMAIN and HUGESHM_DIR choose others",
            ),
        _ => error,
    })?;
    let facts = folder.facts(&fd, &file)?;
    let mode = nix::sys::stat::fstat(&fd).map_or(0o600, |stat| stat.st_mode & 0o777);
    let bytes = folder.read(fd, &file)?;
    let control = Control::parse(&bytes).map_err(|misread| match misread {
        Misread::Damaged(what) => Error::new(ErrorKind::Corrupt, OPERATION, name)
            .detail(format!("its control file {file} is damaged: {what}"))
            .remedy(format!("`hugeshm remove {name}`")),
        Misread::Future(what) => Error::new(ErrorKind::Incompatible, OPERATION, name)
            .detail(format!("its control file {file} is from another version: {what}"))
            .remedy("use the version of hugeshm that made it; remove works"),
    })?;
    if control.domain != domain.name() || control.name != name {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, name).detail(format!(
            "its control file speaks of {:?} in domain {:?}",
            control.name, control.domain
        )));
    }
    Ok(Found { control, uid: facts.uid, mode })
}

/// The opened bytes of a segment.
pub(crate) enum Data {
    File(LockFd, FileFacts),
    Sysv(i32, sysv::Facts),
}

/// A2: the bytes that a control file names, if they are what it says.
pub(crate) fn open_data(folder: &Folder, found: &Found, write: bool) -> Result<Data> {
    const OPERATION: &str = "open segment";
    let control = &found.control;
    let gone = |where_: String| {
        Error::new(ErrorKind::NotFound, OPERATION, &*control.name)
            .detail(format!("its name is there, its bytes are gone: {where_}"))
            .remedy(format!("`hugeshm collect`, or `hugeshm remove {}`", control.name))
    };
    let foreign = |what: String| {
        Error::new(ErrorKind::NotOurs, OPERATION, &*control.name)
            .detail(what)
            .remedy("its control file may have been forged; nothing was touched")
    };
    if control.backing == BackingKind::Sysv {
        let facts = sysv::facts(control.sysv_id).map_err(|errno| match errno {
            Errno::EINVAL | Errno::EIDRM => gone(format!("SysV id {}", control.sysv_id)),
            _ => Error::system(OPERATION, &*control.name, errno),
        })?;
        if facts.removed {
            return Err(gone(format!("SysV id {} was removed", control.sysv_id)));
        }
        if facts.key != control.sysv_key || facts.uid != found.uid {
            return Err(foreign(format!(
                "SysV id {} has key {:#x} and owner {}, expected key {:#x} and owner {}",
                control.sysv_id, facts.key, facts.uid, control.sysv_key, found.uid
            )));
        }
        return Ok(Data::Sysv(control.sysv_id, facts));
    }
    let mut denied = None;
    let mut tried = Vec::new();
    for place in places(control)? {
        let text = place.to_string();
        match LockFd::open(|| place.open(folder, write)) {
            Ok(fd) => {
                let facts = region::facts(fd.as_fd())
                    .map_err(|errno| Error::system(OPERATION, text.clone(), errno))?;
                let expected = (control.device, control.inode, Some(control.backing));
                if (facts.dev, facts.ino, facts.kind) == expected && facts.uid == found.uid {
                    return Ok(Data::File(fd, facts));
                }
                return Err(foreign(format!(
                    "{text} is another file (owner {}, inode {}, file system {:#x})",
                    facts.uid, facts.ino, facts.fs_magic
                )));
            }
            // What cannot be opened for want of descriptors or memory is not gone.
            Err(error) if error.kind() == ErrorKind::NoSpace => return Err(error),
            Err(error) => {
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotOurs) {
                    denied = Some(error);
                }
                tried.push(text);
            }
        }
    }
    Err(denied.unwrap_or_else(|| {
        gone(if tried.is_empty() { "no mount leads there".into() } else { tried.join(", ") })
    }))
}

/// One place where the bytes of a segment may be opened.
enum Place {
    InFolder(String),
    Path(std::path::PathBuf),
    /// A descriptor of another process, and the file that it must lead to.
    Holder(crate::segment::control::Holder, (u64, u64)),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InFolder(file) => f.write_str(file),
            Self::Path(path) => path.display().fmt(f),
            Self::Holder(holder, _) => write!(f, "/proc/{}/fd/{}", holder.pid, holder.fd),
        }
    }
}

impl Place {
    fn open(&self, folder: &Folder, write: bool) -> Result<std::os::fd::OwnedFd> {
        let failed = |errno| Error::system("open data file", self.to_string(), errno);
        match self {
            Self::InFolder(file) => folder.open_file(file, write),
            Self::Path(path) => region::open_file(path, write).map_err(failed),
            Self::Holder(holder, file) => {
                let gone = |why| {
                    Err(Error::system("open data file", self.to_string(), Errno::ENOENT)
                        .detail(why))
                };
                if process::start_time(holder.pid) != Some(holder.start) {
                    return gone("that process has ended");
                }
                let open = |path: &str, flags| {
                    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()).map_err(failed)
                };
                // The holder may have closed it, and its number may stand for anything by now,
                // so it is looked at before it is really opened.
                let seen = match open(&self.to_string(), OFlag::O_PATH | OFlag::O_CLOEXEC) {
                    Err(error)
                        if error.kind() == ErrorKind::PermissionDenied
                            && process::is_ending(holder.pid) =>
                    {
                        return gone("that process is ending");
                    }
                    seen => seen?,
                };
                // Nor is anything opened that is no memory, whoever wrote its numbers down: opening a
                // device may do anything.
                let facts = region::facts(seen.as_fd()).map_err(failed)?;
                if (facts.dev, facts.ino) != *file || facts.kind.is_none() {
                    return gone("that process holds it no longer");
                }
                let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
                let path = format!("/proc/self/fd/{}", seen.as_raw_fd());
                open(&path, access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            }
        }
    }
}

/// Where the bytes may be, best guess first. The file's name follows from the identity alone.
fn places(control: &Control) -> Result<Vec<Place>> {
    let file = names::data_file(control.identity);
    let places = match control.backing {
        BackingKind::Tmpfs => vec![Place::InFolder(file)],
        BackingKind::Memfd => {
            let file = (control.device, control.inode);
            control.holders.iter().map(|&holder| Place::Holder(holder, file)).collect()
        }
        BackingKind::Hugetlbfs => {
            folders(control)?.into_iter().map(|dir| Place::Path(dir.join(&file))).collect()
        }
        BackingKind::Sysv | BackingKind::Anonymous => Vec::new(),
    };
    Ok(places)
}

/// The folders in which the data file of a hugetlbfs segment may be.
pub(crate) fn folders(control: &Control) -> Result<Vec<PathBuf>> {
    let mounts = crate::pages::mounts()?;
    let named = control.folder.iter().filter(|dir| is_mount(&mounts, dir)).cloned();
    let mut folders: Vec<PathBuf> = named.collect();
    // Another mount namespace may see the same file system elsewhere.
    if let Some(inside) = &control.folder_in_mount {
        for mount in mounts.iter().filter(|mount| mount.device == control.device) {
            let down = |part: Component<'_>| matches!(part, Component::Normal(_));
            if let Ok(rest) = inside.strip_prefix(&mount.root)
                && rest.components().all(down)
            {
                folders.push(mount.path.join(rest));
            }
        }
    }
    folders.dedup();
    Ok(folders)
}

/// Whether a folder that some file names is one of the hugetlbfs mounts here. Others are not even
/// looked into: whoever wrote the file may have made them, on a file system that never answers.
pub(crate) fn is_mount(mounts: &[Mount], folder: &Path) -> bool {
    mounts.iter().any(|mount| mount.path == folder)
}

/// Where a control file says its bytes are, in the words of a report.
pub(crate) fn location(control: &Control) -> String {
    match (control.backing, &control.folder) {
        (BackingKind::Sysv, _) => format!("SysV id {}", control.sysv_id),
        (kind, Some(folder)) => format!("{kind} at {}", folder.display()),
        (kind, None) => kind.to_string(),
    }
}

/// Opens a name: all of A1 to A6.
pub(crate) fn open(domain: &Domain, name: &str, write: bool) -> Result<Attached> {
    open_named(domain, name, write).map_err(|error| advise(error, name))
}

fn open_named(domain: &Domain, name: &str, write: bool) -> Result<Attached> {
    const OPERATION: &str = "open segment";
    names::check_name(OPERATION, name)?;
    let folder = domain.open_folder()?;
    until_settled(OPERATION, name, || {
        let found = find(&folder, domain, name)?;
        let access = if write { Access::Write } else { Access::Read };
        let Some(held) = hold(&folder, &found, access)? else { return Ok(None) };
        let parts = Parts {
            domain: domain.clone(),
            name: name.to_owned(),
            identity: found.control.identity,
            backing: Report::Recorded(location(&found.control)),
        };
        let attached = Attached::new(Arc::new(held), parts)?;
        if found.control.backing == BackingKind::Memfd && attached.writable() {
            handover::become_holder(&folder, &attached);
        }
        Ok(Some(attached))
    })
}

/// Takes `turn` again while the name moves on under it, which it says by `None`.
pub(crate) fn until_settled<T>(
    operation: &'static str,
    name: &str,
    mut turn: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(done) = turn()? {
            return Ok(done);
        }
        if start.elapsed() >= RESTLESS {
            return Err(Error::new(ErrorKind::TimedOut, operation, name)
                .detail("the name is being replaced or removed over and over"));
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// What a segment is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To take part: claims can be made.
    Write,
    /// To read for a while: it counts as in use.
    Read,
    /// To report once: it counts for nothing.
    Look,
}

/// A2 to A5 without the header: the mapping and its locks, or `None` if the segment is going.
pub(crate) fn hold(folder: &Folder, found: &Found, access: Access) -> Result<Option<Held>> {
    let write = access == Access::Write;
    const OPERATION: &str = "open segment";
    let control = &found.control;
    let failed = |errno| Error::system(OPERATION, &*control.name, errno);
    let same_name = || -> Result<bool> {
        let domain = Domain::in_folder(&*control.domain, folder.path())?;
        match find(folder, &domain, &control.name) {
            Ok(now) => Ok(now.control.identity == control.identity),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    };
    let data = match open_data(folder, found, write) {
        Ok(data) => data,
        // Gone between A1 and A2 because the name went, too: look again.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if same_name()? { Err(error) } else { Ok(None) };
        }
        Err(error) => return Err(error),
    };
    let claims = if write {
        match open_claims(folder, control.identity) {
            Ok(Claims::Held(claims)) => Some(claims),
            Ok(Claims::Gone) if same_name()? => {
                return Err(Error::new(ErrorKind::Corrupt, OPERATION, &*control.name)
                    .detail("its claims file is gone, so nobody can attach to write")
                    .remedy("open it read-only, or replace it"));
            }
            Ok(Claims::Gone | Claims::Going) => return Ok(None),
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    let (data, mapping) = match data {
        Data::Sysv(id, _) => {
            let mapping = match region::map_sysv(id, control.length, write) {
                Ok(mapping) => mapping,
                // Removed since A2 because the name went: look again.
                Err(error) => return if same_name()? { Err(error) } else { Ok(None) },
            };
            // A report touches every part of it; holes in files are seen without a touch.
            if access == Access::Look {
                match region::fault_in(&mapping) {
                    // Linux before 5.14 cannot be asked.
                    Err(error) if error.errno() == Some(Errno::EINVAL) => {}
                    answer => answer?,
                }
            }
            (None, mapping)
        }
        Data::File(fd, facts) => {
            // A look keeps nobody from collecting: what it has mapped stays intact without a name.
            if access != Access::Look
                && !locks::try_lock(fd.as_fd(), Mode::Shared, 0, 1).map_err(failed)?
            {
                return Ok(None); // somebody is collecting it
            }
            // A4: memfds have no name; the others must still have theirs.
            let links = nix::sys::stat::fstat(fd.as_fd()).map_err(failed)?.st_nlink;
            if links == 0 && facts.kind != Some(BackingKind::Memfd) {
                return Ok(None);
            }
            let mapping =
                region::map_file(fd.as_fd(), control.length, write, control.page_size, true)?;
            (Some(fd), mapping)
        }
    };
    if mapping.len() as u64 != control.length {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, &*control.name).detail(format!(
            "its control file promises {} bytes, {} are there",
            control.length,
            mapping.len()
        )));
    }
    if control.backing == BackingKind::Sysv && !same_name()? {
        return Ok(None);
    }
    Ok(Some(Held::new(mapping, data, claims)))
}

/// What became of the claims of an identity.
enum Claims {
    /// They are open, and the life byte is ours.
    Held(LockFd),
    /// Somebody is collecting or removing them; the name goes before they do, or stays.
    Going,
    /// There is no such file.
    Gone,
}

/// Opens the claims of an identity and takes the life byte.
fn open_claims(folder: &Folder, identity: Identity) -> Result<Claims> {
    let file = names::claims_file(identity);
    let claims = match LockFd::open(|| folder.open_file(&file, true)) {
        Ok(claims) => claims,
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(Claims::Gone),
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::PermissionDenied if error.errno() != Some(Errno::EROFS) => error
                    .detail("this user may not write to the segment")
                    .remedy("open it read-only, or ask its owner for a mode that lets you write"),
                _ => error,
            });
        }
    };
    let failed = |errno| Error::system("open segment", file.clone(), errno);
    if !locks::try_lock(claims.as_fd(), Mode::Shared, LOCK_LIFE, 1).map_err(failed)? {
        return Ok(Claims::Going);
    }
    let named = folder.facts(claims.as_fd(), &file)?.links > 0;
    Ok(if named { Claims::Held(claims) } else { Claims::Going })
}

/// The intents recorded in a claims file, where it can be read and understood.
///
/// An error only for want of descriptors or memory, which says nothing about the file.
pub(crate) fn read_claims(folder: &Folder, identity: Identity) -> Result<Option<ClaimsText>> {
    let file = names::claims_file(identity);
    let bytes = folder.open_file(&file, false).and_then(|fd| folder.read(fd, &file));
    let text = match bytes {
        Err(error) if error.kind() == ErrorKind::NoSpace => return Err(error),
        bytes => bytes.ok().and_then(|bytes| ClaimsText::parse(&bytes).ok()),
    };
    Ok(text.filter(|text| text.identity == identity))
}

/// What the header records of the rung, for creators.
pub(crate) fn rung_page(rung: Rung) -> u64 {
    match rung {
        Rung::Huge(size) => size.bytes(),
        Rung::Base | Rung::Thp => 0,
    }
}
