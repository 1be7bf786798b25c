//! The end of segments: remove, supersede, collect.
//!
//! Nothing is ever truncated: removal takes names away (`unlink`, `IPC_RMID`),
//! so whoever is still attached keeps intact memory and learns from the
//! superseded word that the name is gone. The order is: the control file gets a
//! *passing* name, the word, data, claims file, the control file: the claims file
//! says where data may lie, and the control file what was going on, so a remover
//! killed half-way leaves enough for [`collect`] to finish and to tell.
//!
//! [`collect`] removes what no living process holds. Proof is two kernel locks
//! taken exclusively, on the claims file and on the data file (for SysV an
//! attach count of zero), and both are kept until everything is gone. A data
//! file counts as ours only by its name, its owner and its file system.

use crate::error::{BackingKind, Error, ErrorKind, Result};
use crate::pages::limited;
use crate::region;
use crate::segment::advice::advise;
use crate::segment::attach::{self, Data, Found};
use crate::segment::bell;
use crate::segment::control::{Control, Intent};
use crate::segment::domain::Domain;
use crate::segment::folder::{Folder, NAME_LOCK_PATIENCE};
use crate::segment::layout::{HeaderRaw, LOCK_LIFE, MAGIC, REMOVED, SUPERSEDED};
use crate::segment::names::{self, Identity};
use crate::sys::locks::{self, Mode};
use crate::sys::process::LockFd;
use crate::sys::{file, sysv};
use crate::view::{Memory, View};
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use nix::errno::Errno;
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// One thing that [`Domain::collect`] removed, or had to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Collected {
    /// The segment's name; empty where only nameless leftovers were found.
    pub name: String,
    /// Its identity.
    pub identity: Identity,
    /// What it was: "segment", "half-built segment", "data file without a segment".
    pub what: &'static str,
    /// Bytes of memory that came back.
    pub bytes: u64,
}

/// What [`Domain::collect`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CollectReport {
    /// What was removed.
    pub removed: Vec<Collected>,
    /// How many segments are in use, or belong to somebody else, and were left alone.
    pub kept: u64,
    /// What should have gone and could not, each with its reason.
    pub failed: Vec<String>,
}

/// How long collect waits for a name that somebody is changing, before it leaves it alone.
const COLLECT_PATIENCE: Duration = Duration::from_millis(200);

fn euid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether this user may remove what `owner` made.
pub(crate) fn may_remove(owner: u32) -> bool {
    euid() == owner || euid() == 0
}

/// Takes a name away from its segment; with an identity, only if the name still leads to it.
///
/// Returns whether something was removed.
pub(crate) fn remove_identity(domain: &Domain, name: &str, only: Option<Identity>) -> Result<bool> {
    remove_named(domain, name, only).map_err(|error| advise(error, name))
}

fn remove_named(domain: &Domain, name: &str, only: Option<Identity>) -> Result<bool> {
    const OPERATION: &str = "remove segment";
    names::check_name(OPERATION, name)?;
    let folder = domain.open_folder()?;
    let file = names::control_file(domain.name(), name);
    attach::until_settled(OPERATION, name, || {
        let owner = match folder.open_file(&file, false) {
            Ok(fd) => folder.facts(&fd, &file)?.uid,
            // Not ours to read, or not a file at all: say so, with the reason found.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // If it is there now, somebody has made it meanwhile.
            Err(_) => return attach::find(&folder, domain, name).map(|_| None),
        };
        if !may_remove(owner) {
            return Err(Error::new(ErrorKind::PermissionDenied, OPERATION, name)
                .detail(format!("it belongs to user {owner}"))
                .remedy(format!("remove it as user {owner} or as root")));
        }
        let _lock = folder.lock_name(domain.name(), name, owner, NAME_LOCK_PATIENCE)?;
        match attach::find(&folder, domain, name) {
            // Another user's by now, whose lock this is not.
            Ok(found) if found.uid != owner => Ok(None),
            Ok(found) if only.is_some_and(|id| id != found.control.identity) => Ok(Some(false)),
            Ok(found) => {
                // First the name: who dies here leaves no name that leads to a segment which says
                // that it was removed, but a passing one by which collect goes on.
                let passing = names::passing_file(found.control.identity, None);
                folder.set_aside(&file, &passing)?;
                mark(&folder, &found, REMOVED);
                destroy(&folder, &found).map_err(|error| {
                    let error = advise(error, name);
                    let then =
                        "its name is gone, its memory not yet: `hugeshm collect` finishes that";
                    let remedy = match error.way_out() {
                        "" => then.to_owned(),
                        first => format!("{first}; {then}"),
                    };
                    error.remedy(remedy)
                })?;
                folder.unlink(&passing)?;
                Ok(Some(true))
            }
            // One that is not understood names nothing that we could trust; collect finds the rest.
            Err(error)
                if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible)
                    && only.is_none() =>
            {
                folder.unlink(&file)?;
                Ok(Some(true))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && only.is_some() => Ok(Some(false)),
            Err(error) => Err(error),
        }
    })
}

/// Tells those who are attached that the name no longer leads to them; as far as it can be reached.
pub(crate) fn mark(folder: &Folder, found: &Found, value: u64) {
    let control = &found.control;
    if !matches!(speaks_of_another(folder, control), Ok(false)) {
        return;
    }
    let Ok(data) = attach::open_data(folder, found, true) else { return };
    let mapping = match &data {
        Data::Sysv(id, _) => region::map_sysv(*id, control.length, true),
        Data::File(fd, _) => {
            region::map_file(fd.as_fd(), control.length, true, control.page_size, false)
        }
    };
    if let Some(view) = mapping.ok().and_then(|mapping| header_holds(mapping, control.identity)) {
        // The word is among the frozen ones: it means the same in every version.
        view.word64(offset_of!(HeaderRaw, superseded)).store(value, Ordering::Release);
    }
}

/// The mapped bytes, if they are a segment with this identity.
fn header_holds(mapping: region::Mapping, wanted: Identity) -> Option<View> {
    if mapping.len() < size_of::<HeaderRaw>() {
        return None;
    }
    let view = View::new(Arc::new(mapping) as Arc<dyn Memory>);
    let mut identity = [0u8; 16];
    view.read(offset_of!(HeaderRaw, identity), &mut identity);
    (view.word64(0).load(Ordering::Acquire) == MAGIC && identity == wanted.0).then_some(view)
}

/// Removes data and claims of a segment whose control file is gone or about to go.
pub(crate) fn destroy(folder: &Folder, found: &Found) -> Result<()> {
    let control = &found.control;
    if speaks_of_another(folder, control)? {
        return Ok(());
    }
    match attach::open_data(folder, found, false) {
        Ok(Data::Sysv(id, _)) => remove_sysv(id, &control.name)?,
        Ok(Data::File(..)) => unlink_data(folder, control, found.uid)?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotOurs) => {}
        Err(error) => return Err(error),
    }
    bell::remove_all(folder, control.identity)?;
    unlink_claims(folder, found)
}

/// Removes the claims file of a segment, unless it is another user's: identities can be read by
/// everybody, so a forged control file may name any of them.
fn unlink_claims(folder: &Folder, found: &Found) -> Result<()> {
    let file = names::claims_file(found.control.identity);
    let owner = match folder.open_file(&file, false) {
        Ok(fd) => folder.facts(fd, &file)?.uid,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotOurs) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if owner == found.uid { folder.unlink(&file) } else { Ok(()) }
}

/// Whether the claims file says that the identity in a control file belongs to another name.
fn speaks_of_another(folder: &Folder, control: &Control) -> Result<bool> {
    Ok(attach::read_claims(folder, control.identity)?
        .is_some_and(|text| text.domain != control.domain || text.name != control.name))
}

fn remove_sysv(id: i32, name: &str) -> Result<()> {
    match sysv::remove(id) {
        Ok(()) | Err(Errno::EINVAL | Errno::EIDRM) => Ok(()),
        Err(errno) => Err(Error::system("remove SysV segment of", name, errno)),
    }
}

fn unlink_data(folder: &Folder, control: &Control, owner: u32) -> Result<()> {
    match control.backing {
        BackingKind::Tmpfs => folder.unlink(&names::data_file(control.identity)),
        BackingKind::Hugetlbfs => {
            for dir in attach::folders(control)? {
                if unlink_in(&dir, control.identity, owner, Some((control.device, control.inode)))?
                {
                    break;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Removes the data file of an identity in a folder, if it is the one meant; says whether it did.
fn unlink_in(
    dir: &Path,
    identity: Identity,
    owner: u32,
    inode: Option<(u64, u64)>,
) -> Result<bool> {
    let name = names::data_file(identity);
    let failed =
        |errno| Error::system("remove data file", dir.join(&name).display().to_string(), errno);
    let Ok(dir_fd) = file::open_dir(dir) else { return Ok(false) };
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    let stat = match nix::sys::stat::fstatat(&dir_fd, name.as_str(), flags) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(failed(errno)),
    };
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    let meant = inode.is_none_or(|inode| inode == (stat.st_dev, stat.st_ino));
    if !regular || stat.st_uid != owner || !meant {
        return Ok(false);
    }
    match file::unlink_in(dir_fd.as_fd(), &name) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

/// Removes every segment of the domain that no living process holds, and all half-built ones.
pub(crate) fn collect(domain: &Domain) -> Result<CollectReport> {
    let folder = domain.open_folder()?;
    let mut report = CollectReport::default();
    let mut named = HashSet::new();
    let entries = folder.entries()?;
    for (entry_domain, name) in entries.iter().filter_map(|e| names::parse_control_file(e)) {
        if entry_domain != domain.name() {
            // Another domain's segments are not ours to judge, but their data is spoken for.
            if let Ok(other) = Domain::in_folder(entry_domain, folder.path())
                && let Ok(found) = attach::find(&folder, &other, name)
            {
                named.insert(found.control.identity);
            }
            continue;
        }
        match collect_named(&folder, domain, name, &mut named) {
            Ok(Some(collected)) => report.removed.push(collected),
            Ok(None) => report.kept += 1,
            // Closed to this user, so it is another's.
            Err(error)
                if error.kind() == ErrorKind::PermissionDenied
                    && folder
                        .owner_of(&names::control_file(domain.name(), name))
                        .is_none_or(|owner| !may_remove(owner)) =>
            {
                report.kept += 1;
            }
            Err(error) => report.failed.push(advise(error, name).to_string()),
        }
    }
    collect_passing(&folder, &entries, &mut report);
    collect_half_built(&folder, &mut report)?;
    collect_strays(&folder, &named, &mut report)?;
    bell::collect(&folder, &mut report.failed)?;
    Ok(report)
}

/// Locks that prove that nobody holds a segment; whoever wants it has to wait meanwhile.
struct Proof {
    _claims: Option<LockFd>,
    _data: Option<LockFd>,
}

/// The exclusive locks on claims and data, or `None` if somebody holds one of them.
fn prove_unheld(folder: &Folder, found: &Found) -> Result<Option<(Proof, u64)>> {
    let control = &found.control;
    let Some(claims) = lock_claims(folder, control.identity)? else { return Ok(None) };
    let failed = |errno| Error::system("collect segment", &*control.name, errno);
    match attach::open_data(folder, found, true) {
        Ok(Data::Sysv(_, facts)) => Ok((facts.attached == 0)
            .then_some((Proof { _claims: claims, _data: None }, control.length))),
        Ok(Data::File(fd, facts)) => {
            let free = locks::try_lock(fd.as_fd(), Mode::Exclusive, 0, 1).map_err(failed)?;
            Ok(free.then_some((Proof { _claims: claims, _data: Some(fd) }, facts.size)))
        }
        // Out of sight is not gone: another mount namespace may have it, and its readers.
        Err(error) if error.kind() == ErrorKind::NotFound && !in_sight(control)? => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotOurs) => {
            Ok(Some((Proof { _claims: claims, _data: None }, 0)))
        }
        Err(error) => Err(error),
    }
}

/// Whether this process can see the place where the bytes of a segment would be.
pub(crate) fn in_sight(control: &Control) -> Result<bool> {
    Ok(control.backing != BackingKind::Hugetlbfs
        || crate::pages::mounts()?.iter().any(|mount| mount.device == control.device))
}

/// The exclusive life lock of an identity: `None` = held by somebody, `Some(None)` = no such file.
fn lock_claims(folder: &Folder, identity: Identity) -> Result<Option<Option<LockFd>>> {
    let file = names::claims_file(identity);
    match LockFd::open(|| folder.open_file(&file, true)) {
        Ok(fd) => {
            let free = locks::try_lock(fd.as_fd(), Mode::Exclusive, LOCK_LIFE, 1)
                .map_err(|errno| Error::system("collect segment", file, errno))?;
            Ok(free.then_some(Some(fd)))
        }
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Some(None)),
        Err(error) => Err(error),
    }
}

/// Removes one name if no living process holds its segment; says whether it did.
pub(crate) fn collect_one(domain: &Domain, name: &str) -> Result<bool> {
    names::check_name("collect segment", name)?;
    let folder = domain.open_folder()?;
    collect_named(&folder, domain, name, &mut HashSet::new()).map(|done| done.is_some())
}

fn collect_named(
    folder: &Folder,
    domain: &Domain,
    name: &str,
    named: &mut HashSet<Identity>,
) -> Result<Option<Collected>> {
    let found = match attach::find(folder, domain, name) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    named.insert(found.control.identity);
    if !may_remove(found.uid) {
        return Ok(None);
    }
    let _lock = folder.lock_name(domain.name(), name, found.uid, COLLECT_PATIENCE)?;
    let found = match attach::find(folder, domain, name) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    named.insert(found.control.identity);
    let Some((_proof, bytes)) = prove_unheld(folder, &found)? else { return Ok(None) };
    folder.unlink(&names::control_file(domain.name(), name))?;
    destroy(folder, &found)?;
    Ok(Some(Collected {
        name: name.to_owned(),
        identity: found.control.identity,
        what: "segment",
        bytes,
    }))
}

/// Finishes what was replaced or removed when the replacer or remover was killed.
fn collect_passing(folder: &Folder, entries: &[String], report: &mut CollectReport) {
    for file in entries.iter().filter(|file| names::is_passing_file(file)) {
        match collect_passing_file(folder, file) {
            Ok(()) => {}
            // Its writer is at work.
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(error) => report.failed.push(limited(error).to_string()),
        }
    }
}

fn collect_passing_file(folder: &Folder, file: &str) -> Result<()> {
    let fd = match folder.open_file(file, false) {
        Ok(fd) => fd,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let facts = folder.facts(&fd, file)?;
    let owner = facts.uid;
    if !may_remove(owner) {
        return Ok(());
    }
    if facts.links > 1 {
        return folder.unlink(file); // another name of a file that somebody uses: not our doing
    }
    // It was linked whole, and only under the lock of the name that stands in it; a damaged one
    // was replaced.
    let Ok(control) = Control::parse(&folder.read(fd, file)?) else { return folder.unlink(file) };
    let _lock = folder.lock_name(&control.domain, &control.name, owner, COLLECT_PATIENCE)?;
    if folder.owner_of(file).is_none() {
        return Ok(()); // its writer has finished meanwhile
    }
    let domain = Domain::in_folder(&control.domain, folder.path())?;
    let now = attach::find(folder, &domain, &control.name);
    let word = match &now {
        // A holder was adding itself; or, behind its back, the segment was given its name again.
        Ok(now) if now.control.identity == control.identity => return folder.unlink(file),
        Ok(_) => SUPERSEDED,
        Err(error) if error.kind() == ErrorKind::NotFound => REMOVED,
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Incompatible) => {
            SUPERSEDED
        }
        Err(_) => return now.map(drop),
    };
    // Whoever holds it has not been told. Of one that had not come to have its name, nobody holds.
    let found = Found { control, uid: owner, mode: 0 };
    mark(folder, &found, word);
    destroy(folder, &found)?;
    folder.unlink(file)
}

/// Frees the name of a memfd segment that died with its last holder; says whether it did.
pub(crate) fn free_dead_name(folder: &Folder, domain: &Domain, found: &Found) -> Result<bool> {
    let control = &found.control;
    if control.backing != BackingKind::Memfd || !may_remove(found.uid) {
        return Ok(false);
    }
    let _lock = folder.lock_name(domain.name(), &control.name, found.uid, NAME_LOCK_PATIENCE)?;
    let now = match attach::find(folder, domain, &control.name) {
        Ok(now) => now,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    // Every holder has the life byte as well.
    let held = now.control.identity != control.identity || prove_unheld(folder, &now)?.is_none();
    if held {
        return Ok(false);
    }
    folder.unlink(&names::control_file(domain.name(), &control.name))?;
    destroy(folder, &now)?;
    Ok(true)
}

/// Removes what creators left that died before their segment had a name; returns how many.
pub(crate) fn collect_half_built(folder: &Folder, report: &mut CollectReport) -> Result<()> {
    for identity in folder.entries()?.iter().filter_map(|e| names::parse_claims_file(e)) {
        match collect_claims(folder, identity) {
            Ok(Some(collected)) => report.removed.push(collected),
            Ok(None) => {}
            Err(error) => report.failed.push(limited(error).to_string()),
        }
    }
    Ok(())
}

/// One claims file: if no name leads to its identity and nobody lives there, all that it announced.
fn collect_claims(folder: &Folder, identity: Identity) -> Result<Option<Collected>> {
    let file = names::claims_file(identity);
    let others_write;
    let owner = match folder.open_file(&file, false) {
        Ok(fd) => {
            let facts = folder.facts(fd, &file)?;
            others_write = facts.mode & 0o022 != 0;
            facts.uid
        }
        Err(_) => return Ok(None), // gone, or not ours to open
    };
    if !may_remove(owner) {
        return Ok(None);
    }
    // The creator holds the life byte until the name is linked. Having it to ourselves, we know
    // that he is dead, and whether he got that far; no name needs to be locked for that.
    let Some(Some(_claims)) = lock_claims(folder, identity)? else { return Ok(None) };
    let text = attach::read_claims(folder, identity)?;
    if let Some(text) = &text {
        let domain = Domain::in_folder(&*text.domain, folder.path())?;
        match attach::find(folder, &domain, &text.name) {
            Ok(found) if found.control.identity == identity => return Ok(None),
            Ok(_) => {}
            // Nothing, or nothing that leads anywhere.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound
                        | ErrorKind::Corrupt
                        | ErrorKind::Incompatible
                        | ErrorKind::NotOurs
                ) => {}
            Err(error) => return Err(error),
        }
    }
    // What its owner announced is looked for in each place; all of it must be free.
    let mut bytes = 0;
    let mut held = Vec::new();
    let mut sysv_ids = Vec::new();
    let intents = text.as_ref().map_or(&[][..], |text| &text.intents);
    let mut dirs = vec![folder.path()];
    let mounts = crate::pages::mounts()?;
    for intent in intents {
        match intent {
            Intent::Hugetlbfs(dir) if attach::is_mount(&mounts, dir) => dirs.push(dir),
            Intent::Hugetlbfs(_) => {}
            Intent::Sysv(key) => match sysv::find(*key).and_then(|id| Ok((id, sysv::facts(id)?))) {
                // A key that another may have written leads only to what says that it is ours; it
                // does as soon as others may write the claims file.
                Ok((id, _)) if others_write && !sysv_holds(id, identity) => {}
                Ok((_, facts)) if facts.uid == owner && facts.attached > 0 => return Ok(None),
                Ok((id, facts)) if facts.uid == owner => {
                    bytes += facts.length;
                    sysv_ids.push(id);
                }
                _ => {}
            },
        }
    }
    for dir in &dirs {
        match lock_data_file(dir, identity, owner)? {
            LockedFile::None => {}
            LockedFile::InUse(_) => return Ok(None),
            LockedFile::Free(fd, size) => {
                bytes += size;
                held.push(fd);
            }
        }
    }
    for id in sysv_ids {
        remove_sysv(id, &file)?;
    }
    for dir in &dirs {
        unlink_in(dir, identity, owner, None)?;
    }
    bell::remove_all(folder, identity)?;
    folder.unlink(&file)?;
    let name = text.map(|text| text.name).unwrap_or_default();
    Ok(Some(Collected { name, identity, what: "half-built segment", bytes }))
}

/// Whether the header in a SysV segment has this identity.
fn sysv_holds(id: i32, identity: Identity) -> bool {
    let Ok(facts) = sysv::facts(id) else { return false };
    let Ok(mapping) = region::map_sysv(id, facts.length, false) else { return false };
    header_holds(mapping, identity).is_some()
}

enum LockedFile {
    None,
    InUse(LockFd),
    Free(LockFd, u64),
}

/// The exclusive lock on a data file of ours in `dir`.
fn lock_data_file(dir: &Path, identity: Identity, owner: u32) -> Result<LockedFile> {
    let path = dir.join(names::data_file(identity));
    let failed = |errno| Error::system("collect data file", path.display().to_string(), errno);
    let fd = match LockFd::open(|| region::open_file(&path, true)) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(LockedFile::None),
        Err(errno) => return Err(failed(errno)),
    };
    let facts = region::facts(fd.as_fd()).map_err(failed)?;
    let ours = matches!(facts.kind, Some(BackingKind::Hugetlbfs | BackingKind::Tmpfs));
    if facts.uid != owner || !ours {
        return Ok(LockedFile::None);
    }
    if !locks::try_lock(fd.as_fd(), Mode::Exclusive, 0, 1).map_err(failed)? {
        return Ok(LockedFile::InUse(fd));
    }
    Ok(LockedFile::Free(fd, facts.size))
}

/// Whether the header of a data file names this control folder; the words looked at are frozen.
fn belongs_to(data: &LockFd, identity: Identity, folder: &Folder) -> Result<bool> {
    let mut raw: HeaderRaw = bytemuck::Zeroable::zeroed();
    let count = nix::sys::uio::pread(data.as_fd(), bytemuck::bytes_of_mut(&mut raw), 0)
        .map_err(|errno| Error::system("read data file", identity.to_string(), errno))?;
    Ok(count == size_of::<HeaderRaw>()
        && raw.magic == MAGIC
        && raw.identity == identity.0
        && (raw.folder_device, raw.folder_inode) == folder.place()?)
}

/// Data files that neither a name nor a claims file speaks for: somebody deleted both by hand.
fn collect_strays(
    folder: &Folder,
    named: &HashSet<Identity>,
    report: &mut CollectReport,
) -> Result<()> {
    let mut dirs = vec![folder.path().to_owned()];
    dirs.extend(crate::pages::mounts()?.into_iter().map(|mount| mount.path));
    for dir in dirs {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(identity) = file.to_str().and_then(names::parse_data_file) else { continue };
            let claims = folder.open_file(&names::claims_file(identity), false);
            let spoken_for = !matches!(claims, Err(ref e) if e.errno() == Some(Errno::ENOENT));
            if named.contains(&identity) || spoken_for {
                continue;
            }
            let mut held = false;
            match collect_stray(folder, &dir, identity, &mut held) {
                Ok(Some(bytes)) => report.removed.push(Collected {
                    name: String::new(),
                    identity,
                    what: "data file without a segment",
                    bytes,
                }),
                Ok(None) => {}
                Err(error) => report.failed.push(limited(error).to_string()),
            }
            report.kept += u64::from(held);
        }
    }
    Ok(())
}

/// One data file that nothing in this folder speaks for.
///
/// A hugetlbfs mount serves many control folders; the header says which of them has the names of
/// this file, and another one's segment is none of ours however unused it looks. `held` says whether it
/// is one of ours and somebody has it open.
fn collect_stray(
    folder: &Folder,
    dir: &Path,
    identity: Identity,
    held: &mut bool,
) -> Result<Option<u64>> {
    match lock_data_file(dir, identity, euid()) {
        Ok(LockedFile::Free(lock, bytes)) => {
            if !belongs_to(&lock, identity, folder)? {
                return Ok(None);
            }
            Ok(unlink_in(dir, identity, euid(), None)?.then_some(bytes))
        }
        Ok(LockedFile::InUse(lock)) => {
            *held = belongs_to(&lock, identity, folder)?;
            Ok(None)
        }
        Ok(LockedFile::None) => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}
