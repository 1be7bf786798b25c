//! Building a segment: everything is written, then one step makes it real.
//!
//! # Protocol (creator, under the write lock of the name)
//!
//! * B1 look whether the name exists; nothing was taken yet
//! * B2 draw an identity; link the claims file, its life byte held shared, with
//!   the text of what will be made (the *intent*)
//! * B3 climb the page ladder: object, mapping, every page populated
//! * B4 hold the data file's shared lock on a description of our own
//! * B5 write header, tables and objects; the magic number last
//! * B6 link the data file, named by the identity
//! * B7 let those open the claims file who may write the segment; link the control file: the one
//!   atomic step that publishes
//!
//! Replacing differs in B7 (the two control files exchange their names, the new one's was a
//! *passing* one) and goes on: mark the old segment superseded, remove its data and claims, then
//! its control file.
//!
//! # Failure
//!
//! | killed | what is left | who mends it |
//! |---|---|---|
//! | before B2 | nothing | |
//! | B2 to B6 | a claims file without a name; a SysV segment under its recorded key | `collect`, and any creator that finds the pool too small |
//! | B6 to B7 | the same and a data file named by the identity | the same |
//! | after B7 | a segment like any other | `collect` once nobody holds it |
//! | replacing, in B7 | all of it, and the new control file under a passing name | `collect` |
//! | replacing, after B7 | the old data and claims, and the old control file under a passing name; holders that were not told | `collect`, which tells them |

use crate::error::{BackingKind, Error, ErrorKind, Refusal, RefusalCode, Result};
use crate::ladder::{Lifetime, PagePolicy};
use crate::numa::Placement;
use crate::region::{self, Backing, CreateRequest, Created, Object, Populate, Taking};
use crate::segment::Segment;
use crate::segment::advice::advise;
use crate::segment::attach::{self, Attached, Found, Held, Parts, Report, rung_page, unix_nanos};
use crate::segment::control::{ClaimsText, Control, Intent};
use crate::segment::directory::{self, Directory, ObjectSpec};
use crate::segment::domain::Domain;
use crate::segment::folder::{Folder, NAME_LOCK_PATIENCE, claims_mode};
use crate::segment::layout::{
    ATTACHMENTS_MAX, AttachmentRaw, EntryRaw, HEADER_BYTES, Header, HeaderRaw, LAYOUT_MAJOR,
    LAYOUT_MINOR, LOCK_LIFE, MAGIC, NODES_MAX, NodeRaw, OBJECTS_MAX, SUPERSEDED, Tables,
    backing_code, field_of, rung_code,
};
use crate::segment::names::{self, Identity, check_name};
use crate::segment::{handover, life};
use crate::size::format_bytes;
use crate::sys::locks::{self, Mode};
use crate::sys::memfd;
use crate::sys::process::{self, LockFd};
use crate::view::{Memory, View};
use core::mem::size_of;
use core::sync::atomic::Ordering;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const OPERATION: &str = "create segment";

/// Bytes that the largest segment may have: half of what 47 address bits span.
const SIZE_MAX: u64 = 1 << 46;

/// What is to happen when the name exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Create,
    OpenOrCreate,
    Replace,
    Unnamed,
}

type Progress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// Describes a segment to be created, from ten words to full control.
///
/// Made by [`Segment::create`], [`Segment::open_or_create`], [`Segment::replace`] and
/// [`Segment::unnamed`]; ends with [`build`](Self::build). Everything has a default.
#[must_use = "a builder does nothing until `build` is called"]
pub struct SegmentBuilder {
    goal: Goal,
    domain: Result<Domain>,
    name: String,
    size: Option<u64>,
    spare: u64,
    pages: PagePolicy,
    backings: Vec<BackingKind>,
    mount: Option<PathBuf>,
    mode: u32,
    lifetime: Lifetime,
    placement: Placement,
    populate: Populate,
    progress: Option<Progress>,
    unlink_on_drop: bool,
    max_objects: u32,
    max_attachments: u32,
    objects: Vec<(String, ObjectSpec)>,
    refused: Option<Error>,
}

impl SegmentBuilder {
    fn new(goal: Goal, name: &str) -> Self {
        Self {
            goal,
            domain: Domain::from_env(),
            name: name.to_owned(),
            size: None,
            spare: 0,
            pages: PagePolicy::auto(),
            backings: Vec::new(),
            mount: None,
            mode: 0o600,
            lifetime: Lifetime::default(),
            placement: Placement::Default,
            populate: Populate::default(),
            progress: None,
            unlink_on_drop: false,
            max_objects: 64,
            max_attachments: 256,
            objects: Vec::new(),
            refused: None,
        }
    }

    pub(crate) fn create(name: &str) -> Self {
        Self::new(Goal::Create, name)
    }

    pub(crate) fn open_or_create(name: &str) -> Self {
        Self::new(Goal::OpenOrCreate, name)
    }

    pub(crate) fn replace(name: &str) -> Self {
        Self::new(Goal::Replace, name)
    }

    pub(crate) fn unnamed() -> Self {
        let mut builder = Self::new(Goal::Unnamed, "unnamed");
        builder.lifetime = Lifetime::WithHolders;
        builder.backings.push(BackingKind::Memfd);
        builder
    }

    /// Looks the name up in this domain instead of the one of the environment.
    pub fn domain(mut self, domain: Domain) -> Self {
        self.domain = Ok(domain);
        self
    }

    /// The size in bytes, header and tables included; rounded up to whole pages of the rung got.
    ///
    /// Without it the size follows from the declared objects and [`spare`](Self::spare).
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Room for objects to be added later, beyond those declared now.
    pub fn spare(mut self, bytes: u64) -> Self {
        self.spare = bytes;
        self
    }

    /// Which pages are wanted; by default the best that can be had, with the reasons for less.
    pub fn pages(mut self, policy: PagePolicy) -> Self {
        self.pages = policy;
        self
    }

    /// Allows this kind of object; may be called again for more. Without it all kinds are.
    pub fn backing(mut self, kind: BackingKind) -> Self {
        self.backings.push(kind);
        self
    }

    /// The hugetlbfs mount to use; the mount itself, not a folder in it.
    pub fn mount(mut self, path: impl Into<PathBuf>) -> Self {
        self.mount = Some(path.into());
        self
    }

    /// Permission bits; 0600 by default. Readers need `r`, producers and consumers `rw`.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Whether the segment must outlive its processes; it does by default.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// On which NUMA nodes the pages are to lie.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// How the pages are faulted in; always before `build` returns.
    pub fn populate(mut self, populate: Populate) -> Self {
        self.populate = populate;
        self
    }

    /// Called while pages are faulted in, with bytes done and bytes in all, from any thread.
    pub fn progress(mut self, report: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Box::new(report));
        self
    }

    /// Removes the name when the last handle of this process goes.
    pub fn unlink_on_drop(mut self, unlink: bool) -> Self {
        self.unlink_on_drop = unlink;
        self
    }

    /// How many objects the directory has room for, 1 to 65,535; 64 by default (512 bytes each).
    pub fn max_objects(mut self, objects: u32) -> Self {
        self.max_objects = objects;
        self
    }

    /// How many processes can be attached, 1 to 65,535; 256 by default (64 bytes each).
    pub fn max_attachments(mut self, attachments: u32) -> Self {
        self.max_attachments = attachments;
        self
    }

    /// Declares an object; a bad one is reported by `build`.
    pub(crate) fn declare(mut self, name: &str, spec: Result<ObjectSpec>) -> Self {
        let checked = spec.and_then(|spec| {
            directory::check_declared(name, &spec)?;
            if self.objects.iter().any(|(other, _)| other == name) {
                return Err(Error::new(ErrorKind::AlreadyExists, "declare object", name)
                    .detail("two objects of this segment have the same name"));
            }
            Ok(spec)
        });
        match checked {
            Ok(spec) => self.objects.push((name.to_owned(), spec)),
            Err(error) => self.refused = self.refused.or(Some(error)),
        }
        self
    }

    /// Makes the segment, or opens the one that is there.
    ///
    /// Blocks while another process creates, replaces or removes the same name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if the name is taken and was to be new;
    /// [`ErrorKind::OutOfPages`] with every refused rung if no allowed page size could be had;
    /// [`ErrorKind::BadMount`], [`ErrorKind::BadControlFolder`], [`ErrorKind::InvalidName`],
    /// [`ErrorKind::InvalidSize`] for what their names say; those of opening for a name that is
    /// there. Whatever was taken on the way is given back.
    pub fn build(self) -> Result<Segment> {
        self.build_checked().map_err(|error| advise(error, &self.name))
    }

    fn build_checked(&self) -> Result<Segment> {
        let length = self.check()?;
        if self.goal == Goal::Unnamed {
            return self.build_unnamed(length);
        }
        let domain = self.domain.clone()?;
        let folder = domain.open_folder()?;
        let owner = nix::unistd::geteuid().as_raw();
        for _ in 0..100 {
            if self.goal == Goal::OpenOrCreate
                && let Some(segment) = self.open_existing(&domain)?
            {
                return Ok(segment);
            }
            let _lock = folder.lock_name(domain.name(), &self.name, owner, NAME_LOCK_PATIENCE)?;
            let old = match attach::find(&folder, &domain, &self.name) {
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) if !has_the_name(error.kind()) => return Err(error),
                // Whatever has the name has it, even if it makes no sense.
                found => match self.goal {
                    Goal::OpenOrCreate => continue,
                    Goal::Replace => Some(self.replaceable(found, owner)?),
                    _ => return Err(self.exists(&folder)),
                },
            };
            return self.build_named(&domain, &folder, length, old);
        }
        Err(Error::new(ErrorKind::TimedOut, OPERATION, &*self.name)
            .detail("the name comes and goes over and over"))
    }

    fn exists(&self, folder: &Folder) -> Error {
        Error::new(ErrorKind::AlreadyExists, OPERATION, &*self.name)
            .detail(format!("the name is taken in {}", folder.path().display()))
            .remedy(format!(
                "open it, replace it, `hugeshm remove {}`, or `hugeshm collect` if nobody uses it",
                self.name
            ))
    }

    /// The segment that `replace` takes the name from; a damaged control file has none.
    fn replaceable(&self, found: Result<Found>, owner: u32) -> Result<Option<Found>> {
        match found {
            Ok(found) if found.uid == owner => Ok(Some(found)),
            Ok(found) => Err(Error::new(ErrorKind::NotOurs, "replace segment", &*self.name)
                .detail(format!("it belongs to user {}", found.uid))
                .remedy("use another name or domain")),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks everything that needs no machine; the answer is how many bytes are needed.
    fn check(&self) -> Result<u64> {
        check_name(OPERATION, &self.name)?;
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        let bad = |kind, detail: String, remedy: &str| {
            Err(Error::new(kind, OPERATION, &*self.name).detail(detail).remedy(remedy))
        };
        let follows = "leave the size out, and it follows from objects and spare bytes";
        if self.mode & !0o777 != 0 || self.mode & 0o600 != 0o600 {
            return bad(
                ErrorKind::InvalidArgument,
                format!("mode {:o} is not a set of permission bits with owner rw", self.mode),
                "such as 0o600, 0o640, 0o644, 0o660 or 0o666",
            );
        }
        for (what, value, max) in [
            ("max_objects", self.max_objects, OBJECTS_MAX),
            ("max_attachments", self.max_attachments, ATTACHMENTS_MAX),
        ] {
            if value == 0 || value > max {
                return bad(
                    ErrorKind::InvalidArgument,
                    format!("{what} is {value}, it can be 1 to {max}"),
                    "choose a number in that range",
                );
            }
        }
        if self.objects.len() > self.max_objects as usize {
            return bad(
                ErrorKind::InvalidArgument,
                format!(
                    "{} objects are declared, max_objects is {}",
                    self.objects.len(),
                    self.max_objects
                ),
                "raise max_objects",
            );
        }
        let tables = Tables::new(self.max_attachments, self.max_objects);
        let needed = directory::end_of(tables.objects_offset, self.objects.iter().map(|o| &o.1))
            .and_then(|end| end.checked_add(self.spare));
        match (self.size, needed) {
            (Some(0), _) => bad(ErrorKind::InvalidSize, "the size is 0".into(), follows),
            (_, None) => bad(
                ErrorKind::InvalidSize,
                "the declared objects are larger than any address space".into(),
                "declare fewer or smaller objects, or fewer spare bytes",
            ),
            (Some(size), Some(needed)) if size < needed => bad(
                ErrorKind::InvalidSize,
                format!(
                    "the size is {}, header, tables and declared objects need {} ({needed} bytes)",
                    format_bytes(size),
                    format_bytes(needed)
                ),
                follows,
            ),
            (size, Some(needed)) => match size.unwrap_or(needed) {
                size if size > SIZE_MAX => bad(
                    ErrorKind::InvalidSize,
                    format!("{size} bytes are beyond the address space; {SIZE_MAX} are the most"),
                    "ask for less",
                ),
                size => Ok(size),
            },
        }
    }

    /// `open_or_create`: what is there, with every declared object present.
    fn open_existing(&self, domain: &Domain) -> Result<Option<Segment>> {
        let folder = domain.open_folder()?;
        let segment = attach::until_settled(OPERATION, &self.name, || {
            let before = match attach::find(&folder, domain, &self.name) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(None)),
                found => found.ok(),
            };
            let error = match attach::open(domain, &self.name, true) {
                Ok(attached) => return Ok(Some(Some(Segment::from_attached(attached)))),
                Err(error) if error.kind() == ErrorKind::NotFound => error,
                Err(error) => return Err(error),
            };
            // The name itself must be free; bytes that are gone are another matter, except where
            // it is their nature to go with their last holder.
            let identity = |found: &Found| found.control.identity;
            match attach::find(&folder, domain, &self.name) {
                Err(now) if now.kind() == ErrorKind::NotFound => Ok(Some(None)),
                Ok(found) if life::free_dead_name(&folder, domain, &found)? => Ok(Some(None)),
                // Somebody has made or replaced it meanwhile.
                Ok(found) if before.as_ref().map(identity) != Some(identity(&found)) => Ok(None),
                _ => Err(error),
            }
        })?;
        let Some(segment) = segment else { return Ok(None) };
        for (name, spec) in &self.objects {
            segment.ensure(name, spec)?;
        }
        Ok(Some(segment))
    }

    fn build_named(
        &self,
        domain: &Domain,
        folder: &Folder,
        length: u64,
        old: Option<Option<Found>>,
    ) -> Result<Segment> {
        let mut site = Site::new(folder, domain, &self.name, self.mode)?;
        let mut created =
            self.create_pages(folder.path(), length, &mut |taking| site.announce(taking));
        // Pages may be missing because creators died with them in hand.
        if refusals_of(&created).iter().any(|refusal| want_of_pages(refusal.code)) {
            let mut report = life::CollectReport::default();
            life::collect_half_built(folder, &mut report)?;
            if !report.removed.is_empty() {
                if let Ok(created) = created {
                    created.discard();
                }
                created =
                    self.create_pages(folder.path(), length, &mut |taking| site.announce(taking));
            }
        }
        let Created { object, mapping, backing } = created?;
        let data = hold_data(&object, &self.name)?;
        site.object = Some(object);
        let control = site.control(&backing, data.as_ref())?;
        let held = Held::new(mapping, data, site.claims.take());
        let attached = self.furnish(domain, folder.place()?, site.identity, held, backing)?;
        if let Some(claims) = &attached.held.claims {
            site.publish(&control, claims, old.is_some())?;
        }
        if let Some(old) = old {
            if let Some(old) = old {
                life::mark(folder, &old, SUPERSEDED);
                // What cannot be removed now is found by collect.
                let _ = life::destroy(folder, &old);
            }
            let _ = folder.unlink(&names::passing_file(attached.identity, None));
        }
        attached.unlink_on_drop.store(self.unlink_on_drop, Ordering::Relaxed);
        Ok(Segment::from_attached(attached))
    }

    /// A segment that only its descriptors lead to.
    fn build_unnamed(&self, length: u64) -> Result<Segment> {
        let failed = |errno| Error::system(OPERATION, &*self.name, errno);
        if self.backings.iter().any(|kind| *kind != BackingKind::Memfd) {
            return Err(Error::new(ErrorKind::InvalidArgument, OPERATION, &*self.name)
                .detail("a segment without a name is a memfd")
                .remedy("leave the kind of object out"));
        }
        let domain = self.domain.clone()?;
        let claims = LockFd::open(|| memfd::create("hugeshm.claims", None)).map_err(failed)?;
        locks::try_lock(claims.as_fd(), Mode::Shared, LOCK_LIFE, 1).map_err(failed)?;
        let Created { object, mapping, backing } =
            self.create_pages(domain.folder(), length, &mut |_| Ok(()))?;
        let data = hold_data(&object, &self.name)?;
        let held = Held::new(mapping, data, Some(claims));
        let attached = self.furnish(&domain, (0, 0), Identity::random()?, held, backing)?;
        Ok(Segment::from_attached(attached))
    }

    /// B3: the page ladder.
    fn create_pages(
        &self,
        tmpfs_dir: &Path,
        length: u64,
        before_take: &mut dyn FnMut(&Taking) -> Result<()>,
    ) -> Result<Created> {
        region::create(CreateRequest {
            length,
            pages: &self.pages,
            backings: &self.backings,
            mount: self.mount.as_deref(),
            tmpfs_dir,
            mode: self.mode,
            lifetime: self.lifetime,
            placement: &self.placement,
            populate: self.populate,
            progress: self.progress.as_ref().map(|report| &**report as region::Progress<'_>),
            before_take,
            name: &self.name,
        })
    }

    /// B5: header, tables and objects, the magic last; then the first attachment.
    fn furnish(
        &self,
        domain: &Domain,
        folder: (u64, u64),
        identity: Identity,
        held: Held,
        backing: Backing,
    ) -> Result<Attached> {
        let held = Arc::new(held);
        let view = View::new(Arc::clone(&held) as Arc<dyn Memory>);
        let mut raw = self.header(domain, identity, &backing);
        (raw.folder_device, raw.folder_inode) = folder;
        view.write(8, &bytemuck::bytes_of(&raw)[8..]);
        let corrupt = |what: &'static str| {
            Error::new(ErrorKind::Corrupt, OPERATION, &*self.name).detail(what)
        };
        let header = Header::parse(bytemuck::bytes_of(&raw), view.len() as u64, true)
            .map_err(|_| corrupt("the header written does not read back"))?;
        let directory =
            Directory::new(&view, &header).ok_or_else(|| corrupt("the directory does not fit"))?;
        for (name, spec) in &self.objects {
            directory.append(&view, &header, name, spec)?;
        }
        view.word64(0).store(MAGIC, Ordering::Release);
        Attached::new(
            held,
            Parts {
                domain: domain.clone(),
                name: self.name.clone(),
                identity,
                backing: Report::Measured(backing),
            },
        )
    }

    fn header(&self, domain: &Domain, identity: Identity, backing: &Backing) -> HeaderRaw {
        let tables = Tables::new(self.max_attachments, self.max_objects);
        let mut raw: HeaderRaw = bytemuck::Zeroable::zeroed();
        raw.magic = MAGIC;
        raw.layout_major = LAYOUT_MAJOR;
        raw.layout_minor = LAYOUT_MINOR;
        raw.header_bytes = HEADER_BYTES as u32;
        raw.identity = identity.0;
        raw.boot_id = process::boot_id().unwrap_or_default();
        raw.page_size_asked = self.pages.only().map_or(0, rung_page);
        raw.page_size = backing.page_size.bytes();
        raw.length = backing.length;
        raw.created_nanos = unix_nanos();
        raw.creator_pid = std::process::id();
        raw.creator_uid = nix::unistd::geteuid().as_raw();
        raw.creator_start = process::own_start_time().unwrap_or(0);
        raw.creator_pid_namespace = process::pid_namespace().unwrap_or(0);
        raw.backing = backing_code(backing.kind);
        raw.rung = rung_code(backing.rung);
        raw.attachments_offset = tables.attachments_offset;
        raw.attachments_capacity = self.max_attachments;
        raw.attachment_bytes = size_of::<AttachmentRaw>() as u32;
        raw.directory_offset = tables.directory_offset;
        raw.directory_capacity = self.max_objects;
        raw.entry_bytes = size_of::<EntryRaw>() as u32;
        raw.objects_offset = tables.objects_offset;
        raw.area_count = 1;
        raw.areas[0].length = backing.length;
        raw.domain = field_of(domain.name());
        raw.name = field_of(&self.name);
        for (slot, share) in raw.nodes.iter_mut().zip(&backing.nodes) {
            *slot = NodeRaw { node: u64::from(share.node), bytes: share.bytes };
        }
        raw.huge_bytes = backing.huge;
        raw.node_count = backing.nodes.len().min(NODES_MAX) as u32;
        raw
    }
}

/// Whether a control file that could not be read for this reason is there all the same.
fn has_the_name(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Corrupt
            | ErrorKind::Incompatible
            | ErrorKind::NotOurs
            | ErrorKind::PermissionDenied
    )
}

fn refusals_of(created: &Result<Created>) -> &[Refusal] {
    match created {
        Ok(created) => &created.backing.refusals,
        Err(error) => error.refusals(),
    }
}

/// Whether a refusal may be cured by pages that come back.
fn want_of_pages(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::PoolTooSmall | RefusalCode::MountQuota | RefusalCode::MemoryLimit)
}

/// B4: the shared lock on the data file, on a description that nobody else has; none for SysV.
fn hold_data(object: &Object, name: &str) -> Result<Option<LockFd>> {
    let Object::File { fd, .. } = object else { return Ok(None) };
    let failed = |errno| Error::system(OPERATION, name, errno);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let data = LockFd::open(|| {
        nix::fcntl::open(
            path.as_str(),
            nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
    })
    .map_err(failed)?;
    locks::try_lock(data.as_fd(), Mode::Shared, 0, 1).map_err(failed)?;
    Ok(Some(data))
}

/// What a creator has made so far; taken down again unless it was published.
struct Site<'a> {
    folder: &'a Folder,
    identity: Identity,
    mode: u32,
    text: ClaimsText,
    claims: Option<LockFd>,
    object: Option<Object>,
    data_linked: bool,
    published: bool,
}

impl<'a> Site<'a> {
    /// B2: an identity, and the claims file that announces it.
    fn new(folder: &'a Folder, domain: &Domain, name: &str, mode: u32) -> Result<Self> {
        let identity = Identity::random()?;
        let text = ClaimsText {
            domain: domain.name().to_owned(),
            name: name.to_owned(),
            identity,
            intents: Vec::new(),
        };
        // Nobody else may write into it before the header says whose memory it is: see `publish`.
        let claims = LockFd::open(|| folder.create_unnamed(0o600, &text.to_text()))?;
        locks::try_lock(claims.as_fd(), Mode::Shared, LOCK_LIFE, 1)
            .map_err(|errno| Error::system(OPERATION, name, errno))?;
        folder.link(&claims, &names::claims_file(identity))?;
        Ok(Self {
            folder,
            identity,
            mode,
            text,
            claims: Some(claims),
            object: None,
            data_linked: false,
            published: false,
        })
    }

    /// Records what is about to be made, so that it can be found if we die.
    fn announce(&mut self, taking: &Taking) -> Result<()> {
        let intent = match (taking.kind, &taking.dir, taking.sysv_key) {
            (BackingKind::Hugetlbfs, Some(dir), _) => Intent::Hugetlbfs(dir.clone()),
            (BackingKind::Sysv, _, Some(key)) => Intent::Sysv(key),
            _ => return Ok(()),
        };
        let Some(claims) = &self.claims else { return Ok(()) };
        if matches!(intent, Intent::Sysv(_)) {
            // The one before was given back, or its key turned out to be somebody else's.
            self.text.intents.retain(|other| !matches!(other, Intent::Sysv(_)));
        }
        if !self.text.intents.contains(&intent) {
            self.text.intents.push(intent);
            self.folder.write(claims, &self.text.to_text())?;
        }
        Ok(())
    }

    /// The text of the control file.
    fn control(&self, backing: &Backing, data: Option<&LockFd>) -> Result<Control> {
        let mut control = Control {
            domain: self.text.domain.clone(),
            name: self.text.name.clone(),
            identity: self.identity,
            backing: backing.kind,
            page_size: backing.page_size,
            length: backing.length,
            device: 0,
            inode: 0,
            folder: None,
            folder_in_mount: None,
            sysv_id: 0,
            sysv_key: 0,
            holders: Vec::new(),
        };
        match &self.object {
            Some(Object::Sysv { id, key, .. }) => {
                (control.sysv_id, control.sysv_key) = (*id, *key);
            }
            Some(Object::File { dir, .. }) => {
                control.folder = dir.as_ref().map(|(_, path)| path.clone());
            }
            None => {}
        }
        if let Some(data) = data {
            let facts = region::facts(data.as_fd())
                .map_err(|errno| Error::system(OPERATION, &*self.text.name, errno))?;
            (control.device, control.inode) = (facts.dev, facts.ino);
            if backing.kind == BackingKind::Memfd {
                control.holders.extend(handover::holder_of(data));
            }
        }
        if backing.kind == BackingKind::Hugetlbfs
            && let Some(folder) = &control.folder
        {
            control.folder_in_mount = crate::pages::mounts()?
                .iter()
                .filter(|mount| mount.device == control.device)
                .find_map(|mount| Some(mount.root.join(folder.strip_prefix(&mount.path).ok()?)));
        }
        Ok(control)
    }

    /// B6 and B7: names for the data and, last, for the segment.
    fn publish(mut self, control: &Control, claims: &LockFd, over: bool) -> Result<()> {
        if let Some(object @ Object::File { dir: Some(_), .. }) = &self.object {
            region::link(object, &names::data_file(self.identity))?;
            self.data_linked = true;
        }
        // From here on what stands in the claims file is only believed together with the header.
        crate::sys::file::set_mode(claims.as_fd(), claims_mode(self.mode))
            .map_err(|errno| Error::system(OPERATION, &*self.text.name, errno))?;
        let mode = 0o600 | (self.mode & 0o044);
        let fd: OwnedFd = self.folder.create_unnamed(mode, &control.to_text())?;
        let file = names::control_file(&control.domain, &control.name);
        if over {
            self.folder.link_in_place(&fd, &file, &names::passing_file(self.identity, None))?;
        } else {
            self.folder.link(&fd, &file).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => {
                    Error::new(ErrorKind::AlreadyExists, OPERATION, &*control.name)
                        .detail("another user took the name meanwhile")
                }
                _ => error,
            })?;
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // An error here leaves what a killed creator would leave: collect finds it by the claims.
        if self.data_linked
            && let Some(Object::File { dir: Some((dir, _)), .. }) = &self.object
        {
            let _ = crate::sys::file::unlink_in(dir.as_fd(), &names::data_file(self.identity));
        }
        if let Some(object) = self.object.take() {
            object.discard();
        }
        let _ = self.folder.unlink(&names::claims_file(self.identity));
    }
}
