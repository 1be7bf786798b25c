//! Where a suite works: a control folder of its own, empty again at the end.

use super::tracee::{Fault, text};
use hugeshm::{BackingKind, Domain, PagePolicy, Rung, Segment, SegmentBuilder};
use std::path::Path;

/// The name of the segment that operations work on.
pub const NAME: &str = "s";

/// A control folder on `/dev/shm`.
pub struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// A new one.
    pub fn new() -> Result<Self, Fault> {
        let dir = tempfile::Builder::new().prefix("hugeshm-step-").tempdir_in("/dev/shm");
        Ok(Self { dir: dir.map_err(text)? })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The domain in it.
    pub fn domain(&self) -> Domain {
        Domain::in_folder("t", self.path()).expect("a valid name")
    }

    /// A segment on base pages, with what `declare` declares.
    pub fn create(
        &self,
        declare: impl FnOnce(SegmentBuilder) -> SegmentBuilder,
    ) -> Result<Segment, Fault> {
        let builder = Segment::create(NAME)
            .domain(self.domain())
            .pages(PagePolicy::exactly(Rung::Base))
            .backing(BackingKind::Tmpfs);
        declare(builder).build().map_err(text)
    }

    /// The segment, attached anew: what a child begins with.
    pub fn open(&self) -> Result<Segment, Fault> {
        self.domain().open(NAME).map_err(text)
    }

    /// The files in the folder, the lock files of users apart.
    pub fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path()) else { return Vec::new() };
        let mut files: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| !name.starts_with("hugeshm.lock."))
            .collect();
        files.sort();
        files
    }

    /// What must hold when everybody has left but this process: no more files than the segment
    /// has, no attachment but ours; and nothing at all once the name is removed.
    pub fn close(self, segment: Segment) -> Result<(), Fault> {
        let files = self.files();
        if files.len() != 3 {
            return Err(format!("more or less than control file, claims and data: {files:?}"));
        }
        let info = self.domain().inspect(NAME).map_err(text)?;
        let alive = info.attachments.iter().filter(|a| a.state == hugeshm::PeerState::Alive);
        if alive.count() != 1 {
            return Err(format!("attached at the end: {:?}", info.attachments));
        }
        let held = info.objects.iter().flat_map(|object| &object.endpoints);
        let held: Vec<_> = held.filter(|end| end.state == hugeshm::PeerState::Alive).collect();
        if !held.is_empty() {
            return Err(format!("ends are held that nobody has: {held:?}"));
        }
        drop(segment);
        self.domain().remove(NAME).map_err(text)?;
        let files = self.files();
        if files.is_empty() { Ok(()) } else { Err(format!("left in the folder: {files:?}")) }
    }
}
