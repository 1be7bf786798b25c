//! Named segments: names, control file, header, publish, open, list, remove, collect.
//!
//! A segment is a kernel object full of pages, found by a name, with a header
//! and a directory of objects of ours at its beginning. It knows nothing about
//! what the objects are for: rings declare what they need ([`ObjectSpec`]) and
//! get windows onto control words and payload, and a claim on an endpoint.
//!
//! | file | its one job |
//! |---|---|
//! | `layout` | the bytes: constants, structures, checks |
//! | `names`, `domain` | what names may be, which files they become, where they are looked up |
//! | `folder` | the control folder: unnamed files, exclusive links, the lock on a name |
//! | `control` | the text of control and claims files |
//! | `builder` | create and replace: write everything, publish last |
//! | `attach` | open: from a name to a checked mapping that is held |
//! | `directory` | objects: declared, added, found |
//! | `endpoint` | claims on an object's sides, and who lives |
//! | `bell` | doorbells: the FIFOs by which sleepers in `poll` are found |
//! | `advice` | what to do about errors from rooms that know no names |
//! | `handover` | descriptors over a socket and through holders |
//! | `life` | remove, supersede, collect |
//! | `progress` | how far typed rings and latest values have come, for observers |
//! | `report` | list and inspect |
//!
//! [`ObjectSpec`]: directory::ObjectSpec

pub(crate) mod advice;
pub(crate) mod attach;
pub(crate) mod bell;
pub(crate) mod builder;
pub(crate) mod control;
pub(crate) mod directory;
pub(crate) mod domain;
pub(crate) mod endpoint;
pub(crate) mod folder;
pub(crate) mod handover;
pub(crate) mod layout;
pub(crate) mod life;
pub(crate) mod names;
mod passed;
pub(crate) mod progress;
pub(crate) mod report;

use crate::error::{Error, ErrorKind, Result};
use crate::pages;
use crate::region::{self, Backing};
use crate::size::PageSize;
use crate::sys::locks::{self, Mode};
use crate::view::View;
use attach::Attached;
use builder::SegmentBuilder;
use core::time::Duration;
use directory::{ObjectSpec, Schema, TypeIdentity};
use domain::Domain;
use endpoint::{Endpoint, Observer, Place, Role};
use layout::{Entry, LOCK_DIRECTORY};
use names::Identity;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// An attached shared-memory segment.
///
/// A handle is cheap to clone; the memory stays mapped while a handle or an endpoint lives. The
/// segment itself outlives its processes until it is removed, collected, or the machine restarts
/// (except for memfds, which die with their last holder: see [`Lifetime`](crate::Lifetime)).
///
/// After a `fork` the child's copies of handles and endpoints answer
/// [`ErrorKind::Forked`]; the child opens the segment anew.
#[derive(Clone)]
pub struct Segment {
    attached: Arc<Attached>,
}

/// One object of an attached segment, for the rooms that give it a meaning.
pub(crate) struct ObjectHandle {
    segment: Arc<Attached>,
    index: u32,
    pub(crate) entry: Entry,
    /// The kind's own control words, behind the endpoint table.
    pub(crate) words: View,
    pub(crate) payload: View,
}

impl Segment {
    /// Begins a new segment; [`SegmentBuilder::build`] fails if the name is taken.
    pub fn create(name: &str) -> SegmentBuilder {
        SegmentBuilder::create(name)
    }

    /// Begins a segment that is opened if it exists, with the declared objects checked and added.
    pub fn open_or_create(name: &str) -> SegmentBuilder {
        SegmentBuilder::open_or_create(name)
    }

    /// Begins a segment that takes the name over from the one that has it, if any.
    ///
    /// Whoever is attached to the old one keeps its memory and is told that it was superseded.
    pub fn replace(name: &str) -> SegmentBuilder {
        SegmentBuilder::replace(name)
    }

    /// Begins a memfd segment without a name, to be passed on by [`send_over`](Self::send_over).
    pub fn unnamed() -> SegmentBuilder {
        SegmentBuilder::unnamed()
    }

    /// Opens an existing segment for reading and writing, in the domain of the environment.
    ///
    /// Costs about the same for every size: nothing is faulted in.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] says where the name was looked for. [`ErrorKind::Incompatible`],
    /// [`ErrorKind::Corrupt`] and [`ErrorKind::NotOurs`] name what does not fit; nothing was
    /// touched. [`ErrorKind::PermissionDenied`] if this user may not write;
    /// [`ErrorKind::TableFull`] if too many processes are attached.
    pub fn open(name: &str) -> Result<Self> {
        Domain::from_env()?.open(name)
    }

    /// Opens an existing segment for reading only: to inspect it and to read latest values. No
    /// place in the attachment table is taken, so there may be any number of such readers.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_read_only(name: &str) -> Result<Self> {
        Domain::from_env()?.open_read_only(name)
    }

    /// Opens a segment, waiting until its name exists.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if it does not appear in time; otherwise as [`open`](Self::open).
    pub fn wait_for(name: &str, timeout: Duration) -> Result<Self> {
        Domain::from_env()?.wait_for(name, timeout)
    }

    /// Takes a segment that another process sends with [`send_over`](Self::send_over).
    ///
    /// Waits for it as long as the socket's read timeout allows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotOurs`] if what came is no segment, or a memfd whose length is not sealed.
    pub fn receive_from(socket: &UnixStream) -> Result<Self> {
        handover::receive(socket).map(Self::from_attached).map_err(pages::limited)
    }

    /// Sends the segment to the process at the other end of a Unix socket.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] for SysV segments and read-only handles.
    pub fn send_over(&self, socket: &UnixStream) -> Result<()> {
        handover::send(&self.attached, socket).map_err(pages::limited)
    }

    /// Removes a name of the environment's domain; see [`Domain::remove`].
    ///
    /// # Errors
    ///
    /// As [`Domain::remove`].
    pub fn remove(name: &str) -> Result<()> {
        Domain::from_env()?.remove(name)
    }

    /// All bytes of the mapping, for tests that change them.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn bytes(&self) -> &View {
        &self.attached.view
    }

    pub(crate) fn from_attached(attached: Attached) -> Self {
        Self { attached: Arc::new(attached) }
    }

    /// The segment's name.
    pub fn name(&self) -> &str {
        &self.attached.name
    }

    /// The domain it was opened in.
    pub fn domain(&self) -> &Domain {
        &self.attached.domain
    }

    /// Its identity; another segment under the same name has another one.
    pub fn identity(&self) -> Identity {
        self.attached.identity
    }

    /// The page truth: what was asked, what was got, and why nothing better.
    ///
    /// In the creator it was measured after every page was faulted in. In an opener the page size
    /// is measured and the nodes are those that the creator recorded; [`verify`](Self::verify)
    /// measures anew.
    pub fn backing(&self) -> &Backing {
        &self.attached.backing
    }

    /// Faults every page in for this process and measures size, residency and nodes now.
    ///
    /// Tells when somebody has cut the file short or punched holes into it since. Holes in a SysV
    /// segment cannot be told from pages that nobody has touched: they are filled again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`] if the object has become shorter than its mapping, or if some of its
    /// pages are gone; [`ErrorKind::Forked`] in a forked child.
    pub fn verify(&self) -> Result<Backing> {
        let attached = &self.attached;
        attached.check_fork("verify segment")?;
        let mapping = attached.held.mapping();
        if let Some(data) = &attached.held.data {
            region::check_whole(data.as_fd(), self.len()).map_err(|what| {
                Error::new(ErrorKind::NoSpace, "verify segment", &*attached.name)
                    .detail(what)
                    .remedy("do not touch it any more: replace it, and see who may write it")
            })?;
        }
        region::fault_in(mapping)?;
        let measured = region::measure(mapping, attached.header.backing)?;
        Ok(attached.backing.clone().remeasured(measured))
    }

    /// The size in bytes, a whole number of pages.
    pub fn len(&self) -> u64 {
        self.attached.header.raw.length
    }

    /// Never true: a segment has at least a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The page size, as measured by the mapping.
    pub fn page_size(&self) -> PageSize {
        self.attached.header.page_size
    }

    /// Whether this handle may only read.
    pub fn is_read_only(&self) -> bool {
        !self.attached.writable()
    }

    /// Whether the name was removed or leads to another segment by now.
    pub fn is_superseded(&self) -> bool {
        self.attached.superseded() != layout::LIVE
    }

    /// What endpoints claimed from now on through this handle call themselves in reports.
    ///
    /// At most 31 bytes are kept; by default it is the program's name.
    pub fn set_label(&self, label: &str) {
        if let Ok(mut slot) = self.attached.label.lock() {
            label.clone_into(&mut slot);
        }
    }

    /// Removes the name when the last handle or endpoint of this process goes.
    pub fn unlink_on_drop(&self, unlink: bool) {
        self.attached.unlink_on_drop.store(unlink, Ordering::Relaxed);
    }

    /// The schema that an object was declared with, copied; none if it has none.
    ///
    /// It is what the declaring program wrote, or what a peer has made of it since.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] lists the objects there are; [`ErrorKind::Corrupt`] if it is longer
    /// than [`Schema::BYTES_MAX`].
    pub fn schema(&self, object: &str) -> Result<Option<Schema>> {
        let raw = self.object(object)?.entry.raw;
        // `Entry::parse` checked that it lies inside the segment.
        let length = usize::try_from(raw.schema_length).unwrap_or(0);
        if length == 0 {
            return Ok(None);
        }
        if length > Schema::BYTES_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "read the schema of object", object)
                .detail(format!("it has {length} bytes, {} are possible", Schema::BYTES_MAX)));
        }
        let mut bytes = vec![0; length];
        self.attached.view.read(raw.schema_offset as usize, &mut bytes);
        Ok(Some(Schema::new(raw.schema_format, bytes)))
    }

    /// Finds an object by its name.
    pub(crate) fn object(&self, name: &str) -> Result<ObjectHandle> {
        const OPERATION: &str = "use object";
        let attached = &self.attached;
        attached.check_fork(OPERATION)?;
        names::check_name(OPERATION, name)?;
        let Some((index, entry)) = attached.directory.find(&attached.header, name) else {
            let names: Vec<_> = attached
                .directory
                .entries(&attached.header)
                .filter_map(|(_, entry)| entry.ok().map(|entry| entry.name))
                .collect();
            return Err(Error::new(ErrorKind::NotFound, OPERATION, name)
                .detail(format!("segment {:?} has the objects {names:?}", attached.name))
                .remedy(format!("`hugeshm inspect {}`", attached.name)));
        };
        ObjectHandle::new(attached, index, entry)
    }

    /// Adds an object to the live segment.
    pub(crate) fn add(&self, name: &str, spec: &ObjectSpec) -> Result<()> {
        directory::check_declared(name, spec)?;
        self.ensure_with(name, spec, |name, _| {
            Err(Error::new(ErrorKind::AlreadyExists, "add object", name)
                .detail("the segment has an object of this name")
                .remedy("use it, or choose another name"))
        })
    }

    /// Makes sure that an object like `spec` is there.
    pub(crate) fn ensure(&self, name: &str, spec: &ObjectSpec) -> Result<()> {
        let attached = &self.attached;
        if let Some((_, entry)) = attached.directory.find(&attached.header, name) {
            return directory::check_same(name, &entry, spec);
        }
        self.ensure_with(name, spec, |name, entry| directory::check_same(name, entry, spec))
    }

    fn ensure_with(
        &self,
        name: &str,
        spec: &ObjectSpec,
        existing: impl FnOnce(&str, &Entry) -> Result<()>,
    ) -> Result<()> {
        const OPERATION: &str = "add object";
        let attached = &self.attached;
        attached.check_fork(OPERATION)?;
        let Some(claims) = &attached.held.claims else {
            return Err(Error::new(ErrorKind::ReadOnly, OPERATION, name)
                .detail(format!("segment {:?} is open read-only", attached.name)));
        };
        let failed = |errno| pages::limited(Error::system(OPERATION, name, errno));
        let lock = claims.reopen(true).map_err(failed)?;
        let deadline = Instant::now() + folder::NAME_LOCK_PATIENCE;
        while !locks::try_lock(lock.as_fd(), Mode::Exclusive, LOCK_DIRECTORY, 1).map_err(failed)? {
            if Instant::now() >= deadline {
                return Err(Error::new(ErrorKind::TimedOut, OPERATION, name)
                    .detail("another process has been adding an object all the time"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        match attached.directory.find(&attached.header, name) {
            Some((_, entry)) => existing(name, &entry),
            None => {
                attached.directory.append(&attached.view, &attached.header, name, spec).map(drop)
            }
        }
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("name", &self.name())
            .field("identity", &self.identity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl ObjectHandle {
    fn new(segment: &Arc<Attached>, index: u32, entry: Entry) -> Result<Self> {
        let raw = &entry.raw;
        let table = layout::endpoints_length(raw.producers, raw.consumers);
        // `Entry::parse` checked that all of this lies inside the segment.
        let window = |offset: u64, length: u64| {
            segment.view.window(offset as usize, length as usize).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "use object", &*entry.name)
                    .detail("it lies outside the segment")
            })
        };
        let words = window(raw.control_offset + table, raw.control_length - table)?;
        let payload = window(raw.payload_offset, raw.payload_length)?;
        #[cfg(any(test, fuzzing))]
        let (words, payload) = (words.between_guards(), payload.between_guards());
        Ok(Self { segment: Arc::clone(segment), index, words, payload, entry })
    }

    /// Claims the only place of `role`.
    pub(crate) fn claim(&self, role: Role) -> Result<Endpoint> {
        self.claim_at(role, 0)
    }

    /// Claims place number `slot` of `role`; its peers are all places of the other role.
    pub(crate) fn claim_at(&self, role: Role, slot: u32) -> Result<Endpoint> {
        let name = &*self.entry.name;
        let own = self.place(role, slot).ok_or_else(|| {
            Error::new(ErrorKind::KindMismatch, "claim endpoint of object", name)
                .detail(format!("it has no {role} number {slot}"))
        })?;
        let peers = (0..).map_while(|slot| self.place(role.other(), slot)).collect();
        Endpoint::claim(&self.segment, name, own, peers)
    }

    /// Claims the first place of `role` that nobody holds, and its number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TableFull`] if all are held.
    pub(crate) fn claim_any(&self, role: Role) -> Result<(u32, Endpoint)> {
        let count = match role {
            Role::Producer => self.entry.raw.producers,
            Role::Consumer => self.entry.raw.consumers,
        };
        for slot in 0..count {
            match self.claim_at(role, slot) {
                Err(error) if error.kind() == ErrorKind::Busy => {}
                claimed => return claimed.map(|endpoint| (slot, endpoint)),
            }
        }
        Err(Error::new(ErrorKind::TableFull, "claim endpoint of object", &*self.entry.name)
            .detail(format!("all its {count} places for a {role} are taken"))
            .remedy(format!(
                "`hugeshm inspect {}` shows by whom; declare the object with more places",
                self.segment.name
            )))
    }

    fn place(&self, role: Role, slot: u32) -> Option<Place> {
        Place::new(&self.segment.view, self.index, &self.entry, role, slot)
    }

    /// Looks at the only place of `role` without claiming anything; read-only handles may, too.
    pub(crate) fn observe(&self, role: Role) -> Result<Observer> {
        let place = self.place(role, 0).ok_or_else(|| {
            Error::new(ErrorKind::KindMismatch, "observe endpoint of object", &*self.entry.name)
                .detail(format!("it has no {role}"))
        })?;
        Ok(Observer::new(&self.segment, place))
    }
}

impl Domain {
    /// Begins a new segment in this domain; see [`Segment::create`].
    pub fn create(&self, name: &str) -> SegmentBuilder {
        Segment::create(name).domain(self.clone())
    }

    /// Opens a segment of this domain; see [`Segment::open`].
    ///
    /// # Errors
    ///
    /// As [`Segment::open`].
    pub fn open(&self, name: &str) -> Result<Segment> {
        attach::open(self, name, true).map(Segment::from_attached)
    }

    /// Opens a segment of this domain for reading; see [`Segment::open_read_only`].
    ///
    /// # Errors
    ///
    /// As [`Segment::open`].
    pub fn open_read_only(&self, name: &str) -> Result<Segment> {
        attach::open(self, name, false).map(Segment::from_attached)
    }

    /// Opens a segment, waiting until its name exists; see [`Segment::wait_for`].
    ///
    /// # Errors
    ///
    /// As [`Segment::wait_for`].
    pub fn wait_for(&self, name: &str, timeout: Duration) -> Result<Segment> {
        let deadline = Instant::now().checked_add(timeout);
        let mut pause = Duration::from_millis(1);
        loop {
            match self.open(name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(Error::new(ErrorKind::TimedOut, "wait for segment", name)
                            .detail(format!(
                                "after {timeout:?} there is still no such name in {} (domain {})",
                                self.folder().display(),
                                self.name()
                            ))
                            .remedy("start its creator, or check HUGESHM_DOMAIN and HUGESHM_DIR"));
                    }
                }
                result => return result,
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes a name: the segment's memory goes when the last process detaches.
    ///
    /// Those attached keep intact memory and are told.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such name, [`ErrorKind::PermissionDenied`] if it
    /// belongs to another user.
    pub fn remove(&self, name: &str) -> Result<()> {
        life::remove_identity(self, name, None).map(drop)
    }

    /// Removes every segment of this domain that no living process holds, and whatever killed
    /// creators left; never a segment that somebody is attached to.
    ///
    /// # Errors
    ///
    /// The control folder or the mount table cannot be read. What could not be removed is in the
    /// report.
    pub fn collect(&self) -> Result<life::CollectReport> {
        life::collect(self).map_err(pages::limited)
    }

    /// Removes one name of this domain if no living process holds its segment, and says whether
    /// it did; a name that does not exist is `false`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) for what cannot be read.
    pub fn collect_name(&self, name: &str) -> Result<bool> {
        life::collect_one(self, name).map_err(|error| advice::advise(error, name))
    }
}
