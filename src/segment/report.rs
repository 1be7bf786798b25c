//! Reports: which segments there are, and what is inside one.
//!
//! Reports look through read-only mappings and take no claim; they may be made
//! of any segment that this user can read, of any version as far as the frozen
//! part of the header goes. Liveness is asked of the kernel's locks where the
//! claims file can be opened, else it is unknown.

use crate::error::{BackingKind, ErrorKind, Result, Rung};
use crate::pages::limited;
use crate::segment::advice::advise;
use crate::segment::attach::{self, Access, Attached, Found, Parts, Report};
use crate::segment::domain::Domain;
use crate::segment::endpoint::{EndpointInfo, Place, Role};
use crate::segment::folder::Folder;
use crate::segment::layout::{
    AttachmentRaw, ENDPOINT_CLOSED, ENDPOINT_NEVER, Entry, LOCK_LIFE, ObjectKind, attachment_lock,
};
use crate::segment::names::{self, Identity};
use crate::segment::{Segment, TypeIdentity, life, passed};
use crate::size::PageSize;
use crate::sys::locks;
use crate::sys::process::LockFd;
use crate::{Error, PeerState};
use core::mem::size_of;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Whether anybody is attached to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Usage {
    /// A living process is attached.
    InUse,
    /// Nobody is; `collect` would remove it.
    Unused,
    /// This user may not ask, or cannot see the place where its bytes are.
    Unknown,
    /// Something is wrong with it; `problem` says what.
    Broken,
}

impl core::fmt::Display for Usage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            Self::InUse => "in use",
            Self::Unused => "unused",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        })
    }
}

/// One line of [`Domain::list`]: what the control file says, and whether somebody is attached.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SegmentEntry {
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// The user who made it.
    pub uid: u32,
    /// Whether anybody is attached.
    pub usage: Usage,
    /// Its identity; none if the control file is damaged.
    pub identity: Option<Identity>,
    /// What carries it.
    pub backing: Option<BackingKind>,
    /// The page size.
    pub page_size: Option<PageSize>,
    /// Its length in bytes.
    pub length: u64,
    /// Where its bytes are.
    pub location: String,
    /// What is wrong, if anything.
    pub problem: Option<String>,
}

/// One attached process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AttachmentInfo {
    /// Its number in the attachment table.
    pub number: u32,
    /// Whether it lives, by the kernel's lock.
    pub state: PeerState,
    /// How often the number has been taken.
    pub epoch: u64,
    /// The process, in its own pid namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// When it attached, in nanoseconds since 1970.
    pub since_nanos: u64,
}

/// One object of a segment.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its place in the directory.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Slots of a ring or of each lane, bytes of a record ring, places of a latest value.
    pub capacity: u64,
    /// Bytes from one slot or place to the next; 0 for record rings.
    pub stride: u64,
    /// The alignment of payloads in bytes.
    pub payload_align: u64,
    /// Bytes of user header before each record.
    pub user_header: u64,
    /// The agreed type.
    pub type_identity: TypeIdentity,
    /// The size of its values in bytes.
    pub type_size: u64,
    /// Bytes of its schema; 0 = none.
    pub schema_bytes: u64,
    /// The format of its schema: [`Schema::FIELDS`](crate::Schema::FIELDS), or as the programs
    /// number them.
    pub schema_format: u32,
    /// Bytes of memory for its payload.
    pub payload_bytes: u64,
    /// Messages published and not yet delivered, by the statistics of a single producer and
    /// consumer; none for objects that have more of them, whose endpoints may say it each.
    pub lag: Option<u64>,
    /// Its endpoints, producers first.
    pub endpoints: Vec<EndpointInfo>,
}

/// What [`Domain::inspect`] finds in a segment.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SegmentInfo {
    /// What the control file says.
    pub entry: SegmentEntry,
    /// The layout version, major and minor.
    pub layout: (u16, u16),
    /// The rung of the page ladder; none if this version of the layout is unknown.
    pub rung: Option<Rung>,
    /// When it was created, in nanoseconds since 1970.
    pub created_nanos: u64,
    /// The process that created it.
    pub creator_pid: u32,
    /// Whether its name was taken over or removed.
    pub superseded: bool,
    /// Bytes in use by header, tables and objects.
    pub used: u64,
    /// Everybody who is or was attached to write, as far as slots were not reused.
    pub attachments: Vec<AttachmentInfo>,
    /// Its objects.
    pub objects: Vec<ObjectInfo>,
    /// What does not fit.
    pub problems: Vec<String>,
}

impl Domain {
    /// The segments of this domain, by name.
    ///
    /// # Errors
    ///
    /// The control folder cannot be read. Segments that are damaged or unreadable are entries with
    /// a problem.
    pub fn list(&self) -> Result<Vec<SegmentEntry>> {
        let folder = self.open_folder().map_err(limited)?;
        let mut names: Vec<String> = folder
            .entries()
            .map_err(limited)?
            .iter()
            .filter_map(|file| names::parse_control_file(file))
            .filter(|(domain, _)| *domain == self.name())
            .map(|(_, name)| name.to_owned())
            .collect();
        names.sort_unstable();
        Ok(names.into_iter().filter_map(|name| self.entry_of(&folder, name)).collect())
    }

    /// What is to be said of a name; nothing if it is gone.
    fn entry_of(&self, folder: &Folder, name: String) -> Option<SegmentEntry> {
        let mut last: Option<SegmentEntry> = None;
        loop {
            match attach::find(folder, self, &name) {
                // Bytes that are gone may have gone with the name: look whether it is still that.
                Ok(found) => match entry(folder, &found) {
                    now if now.problem.is_some()
                        && last.as_ref().is_none_or(|last| last.identity != now.identity) =>
                    {
                        last = Some(now);
                    }
                    now => return Some(now),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) => return Some(unread(folder, self, name, &error)),
            }
        }
    }

    /// What is inside a segment, looked at without taking part.
    ///
    /// # Errors
    ///
    /// As [`Segment::open_read_only`]; a segment of another layout version is reported as far as
    /// the frozen part of its header goes.
    pub fn inspect(&self, name: &str) -> Result<SegmentInfo> {
        self.look_at(name).map_err(|error| advise(error, name))
    }

    fn look_at(&self, name: &str) -> Result<SegmentInfo> {
        const OPERATION: &str = "inspect segment";
        names::check_name(OPERATION, name)?;
        let folder = self.open_folder()?;
        attach::until_settled(OPERATION, name, || {
            let found = attach::find(&folder, self, name)?;
            let entry = entry(&folder, &found);
            let Some(held) = attach::hold(&folder, &found, Access::Look)? else {
                return Ok(None);
            };
            let parts = Parts {
                domain: self.clone(),
                name: name.to_owned(),
                identity: found.control.identity,
                backing: Report::Recorded(attach::location(&found.control)),
            };
            let held = Arc::new(held);
            let frozen = attach::frozen(&held);
            let mut info = SegmentInfo {
                entry,
                layout: (frozen.layout_major, frozen.layout_minor),
                rung: None,
                created_nanos: frozen.created_nanos,
                creator_pid: frozen.creator_pid,
                superseded: frozen.superseded != 0,
                used: 0,
                attachments: Vec::new(),
                objects: Vec::new(),
                problems: Vec::new(),
            };
            match Attached::new(held, parts) {
                Ok(attached) => look_inside(&attached, probe(&folder, &found).as_ref(), &mut info),
                Err(error) => info.problems.push(error.to_string()),
            }
            Ok(Some(info))
        })
    }
}

impl Segment {
    /// What is inside this segment, as [`Domain::inspect`] reports it for its objects.
    pub fn objects(&self) -> Vec<ObjectInfo> {
        let claims = self.attached.held.claims.as_ref();
        objects(&self.attached, claims, &mut Vec::new())
    }
}

/// A descriptor for asking about locks, where this user may open the claims file.
fn probe(folder: &Folder, found: &Found) -> Option<LockFd> {
    let file = names::claims_file(found.control.identity);
    LockFd::open(|| folder.open_file(&file, false)).ok()
}

fn usage(folder: &Folder, found: &Found) -> (Usage, Option<String>) {
    let claims = probe(folder, found);
    let held = |fd: &LockFd, byte| locks::is_held(fd.as_fd(), byte).unwrap_or(false);
    let claimed = claims.as_ref().is_some_and(|claims| held(claims, LOCK_LIFE));
    match attach::open_data(folder, found, false) {
        Ok(attach::Data::Sysv(_, facts)) if facts.attached > 0 => (Usage::InUse, None),
        Ok(attach::Data::File(fd, _)) if held(&fd, 0) => (Usage::InUse, None),
        Ok(_) if claimed => (Usage::InUse, None),
        Ok(_) if claims.is_some() => (Usage::Unused, None),
        Ok(_) => (Usage::Unknown, None),
        // Bytes that this process does not find, or may not see, may be held by others all the same.
        Err(error) if claimed => {
            let denied = error.kind() == ErrorKind::PermissionDenied;
            (Usage::InUse, (!denied).then(|| limited(error).to_string()))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => (Usage::Unknown, None),
        Err(error)
            if error.kind() == ErrorKind::NotFound
                && !life::in_sight(&found.control).unwrap_or(false) =>
        {
            (Usage::Unknown, Some(error.to_string()))
        }
        // This process could not look.
        Err(error) if error.kind() == ErrorKind::NoSpace => {
            (Usage::Unknown, Some(limited(error).to_string()))
        }
        Err(error) => (Usage::Broken, Some(error.to_string())),
    }
}

fn entry(folder: &Folder, found: &Found) -> SegmentEntry {
    let (usage, problem) = usage(folder, found);
    let control = &found.control;
    SegmentEntry {
        name: control.name.clone(),
        domain: control.domain.clone(),
        uid: found.uid,
        usage,
        identity: Some(control.identity),
        backing: Some(control.backing),
        page_size: Some(control.page_size),
        length: control.length,
        location: attach::location(control),
        problem,
    }
}

/// A name whose control file says nothing to this user: closed to him, or damaged.
fn unread(folder: &Folder, domain: &Domain, name: String, error: &Error) -> SegmentEntry {
    let closed = error.kind() == ErrorKind::PermissionDenied;
    let unseen = closed || error.kind() == ErrorKind::NoSpace;
    let owner = folder.owner_of(&names::control_file(domain.name(), &name));
    SegmentEntry {
        name,
        domain: domain.name().to_owned(),
        uid: owner.unwrap_or(u32::MAX),
        usage: if unseen { Usage::Unknown } else { Usage::Broken },
        identity: None,
        backing: None,
        page_size: None,
        length: 0,
        location: String::new(),
        problem: (!closed).then(|| limited(error.clone()).to_string()),
    }
}

fn look_inside(attached: &Attached, claims: Option<&LockFd>, info: &mut SegmentInfo) {
    info.rung = Some(attached.header.rung);
    info.attachments = attachments(attached, claims);
    info.objects = objects(attached, claims, &mut info.problems);
    info.used = attached
        .directory
        .entries(&attached.header)
        .filter_map(|(_, entry)| entry.ok())
        .map(|entry| {
            let raw = entry.raw;
            (raw.control_offset + raw.control_length)
                .max(raw.payload_offset + raw.payload_length)
                .max(raw.schema_offset + raw.schema_length)
        })
        .fold(attached.header.raw.objects_offset, u64::max);
}

fn attachments(attached: &Attached, claims: Option<&LockFd>) -> Vec<AttachmentInfo> {
    let raw = &attached.header.raw;
    let mut found = Vec::new();
    for number in 0..raw.attachments_capacity {
        let at = raw.attachments_offset as usize + number as usize * size_of::<AttachmentRaw>();
        let mut bytes = [0u8; size_of::<AttachmentRaw>()];
        attached.view.read(at, &mut bytes);
        let slot: AttachmentRaw = bytemuck::pod_read_unaligned(&bytes);
        if slot.state == ENDPOINT_NEVER {
            continue;
        }
        let held = claims.map(|fd| locks::is_held(fd.as_fd(), attachment_lock(number)));
        let state = match held {
            Some(Ok(true)) => PeerState::Alive,
            _ if slot.state == ENDPOINT_CLOSED => PeerState::Closed,
            Some(Ok(false)) => PeerState::Dead,
            _ => PeerState::Unknown,
        };
        found.push(AttachmentInfo {
            number,
            state,
            epoch: slot.epoch,
            pid: slot.pid,
            uid: slot.uid,
            since_nanos: slot.since_nanos,
        });
    }
    found
}

fn objects(
    attached: &Attached,
    claims: Option<&LockFd>,
    problems: &mut Vec<String>,
) -> Vec<ObjectInfo> {
    let mut found = Vec::new();
    for (index, entry) in attached.directory.entries(&attached.header) {
        match entry {
            Ok(entry) => found.push(object(attached, claims, index, entry)),
            Err(what) => problems.push(format!("object {index} is damaged: {what}")),
        }
    }
    found
}

fn object(attached: &Attached, claims: Option<&LockFd>, index: u32, entry: Entry) -> ObjectInfo {
    let raw = &entry.raw;
    let slots = |role, count| (0..count).map(move |slot| (role, slot));
    let mut endpoints: Vec<EndpointInfo> = slots(Role::Producer, raw.producers)
        .chain(slots(Role::Consumer, raw.consumers))
        .filter_map(|(role, slot)| Place::new(&attached.view, index, &entry, role, slot))
        .map(|place| place.info(claims))
        .collect();
    let lag = passed::complete(attached, &entry, &mut endpoints);
    ObjectInfo {
        index,
        kind: entry.kind,
        capacity: raw.capacity,
        stride: raw.stride,
        payload_align: raw.payload_align,
        user_header: raw.user_header,
        type_identity: TypeIdentity::new(
            entry.type_name().unwrap_or_default(),
            raw.type_major,
            raw.type_minor,
        ),
        type_size: raw.type_size,
        schema_bytes: raw.schema_length,
        schema_format: raw.schema_format,
        payload_bytes: raw.payload_length,
        lag,
        endpoints,
        name: entry.name,
    }
}
