//! The images: taken, written down, restored, and lived in.
//!
//! An image is text: `length N`, then `OFFSET: WORD WORD ..` for each run of words of 8 bytes that are not
//! zero, all in hexadecimal but the length.

use crate::common::{self, Quiet, Scratch};
use crate::kinds::{ALL, Kind};
use hugeshm::{BackingKind, Domain, PagePolicy, PeerState, Rung, Segment, Usage};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The words of a segment that are not zero, by their offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub length: u64,
    pub words: BTreeMap<u64, u64>,
}

impl Image {
    fn of_bytes(bytes: &[u8]) -> Self {
        let words = bytes.chunks_exact(8).enumerate().filter_map(|(i, word)| {
            let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            (word != 0).then_some((i as u64 * 8, word))
        });
        Self { length: bytes.len() as u64, words: words.collect() }
    }

    fn to_text(&self) -> String {
        let mut text = format!("length {}", self.length);
        let mut next = None;
        for (&offset, word) in &self.words {
            if next != Some(offset) {
                let _ = write!(text, "\n{offset:x}:");
            }
            let _ = write!(text, " {word:x}");
            next = Some(offset + 8);
        }
        text + "\n"
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let length = lines.next().and_then(|line| line.strip_prefix("length ")?.parse().ok());
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let mut words = BTreeMap::new();
        for line in lines {
            let (offset, rest) = line.split_once(':').expect("OFFSET: WORDS");
            for (i, word) in rest.split_whitespace().enumerate() {
                words.insert(hex(offset) + i as u64 * 8, hex(word));
            }
        }
        Self { length: length.expect("length N"), words }
    }

    pub fn word(&self, offset: u64) -> u64 {
        self.words.get(&offset).copied().unwrap_or(0)
    }

    fn identity(&self) -> String {
        let bytes = [40, 48].map(|offset| self.word(offset).to_le_bytes()).concat();
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Major and minor version of its layout.
    fn version(&self) -> (u64, u64) {
        (self.word(8) & 0xffff, self.word(8) >> 16 & 0xffff)
    }

    /// Puts the segment into a folder, under the name `n`, as if it had been made there.
    pub fn restore(&self, scratch: &Scratch) -> PathBuf {
        let id = self.identity();
        let data = scratch.path().join(format!("hugeshm.{id}"));
        let file = fs::File::create_new(&data).expect("room");
        file.set_permissions(fs::Permissions::from_mode(0o600)).expect("ours");
        // Every page is there, as it is in a segment.
        let length = usize::try_from(self.length).expect("a small segment");
        file.write_all_at(&vec![0; length], 0).expect("room");
        for (&offset, word) in &self.words {
            file.write_all_at(&word.to_le_bytes(), offset).expect("room");
        }
        // Only from its own folder a segment is collected.
        let place = fs::metadata(scratch.path()).expect("ours");
        for (offset, word) in [(144, place.dev()), (152, place.ino())] {
            file.write_all_at(&word.to_le_bytes(), offset).expect("room");
        }
        let is = file.metadata().expect("ours");
        let head = format!("hugeshm=1\ndomain={}\nname=n\nidentity={id}\n", common::DOMAIN);
        let claims = scratch.path().join(format!("hugeshm.{id}.claims"));
        fs::write(claims, &head).expect("room");
        let (device, inode, length) = (is.dev(), is.ino(), self.length);
        let rest = format!(
            "backing=tmpfs\npage_size=4096\nlength={length}\ndevice={device}\ninode={inode}\n"
        );
        fs::write(scratch.control_file("n"), head + &rest).expect("room");
        data
    }
}

/// A segment of a kind, and the image of it at work.
fn taken(kind: &Kind, scratch: &Scratch, domain: &Domain) -> Image {
    let builder = domain.create("n").pages(PagePolicy::exactly(Rung::Base));
    let builder = builder.backing(BackingKind::Tmpfs).max_attachments(2).max_objects(2);
    let segment: Segment = (kind.declare)(builder).build().expect("base pages");
    segment.set_label("golden");
    let ends = (kind.fill)(&segment);
    let image = Image::of_bytes(&fs::read(scratch.data_file("n")).expect("ours"));
    drop(ends);
    drop(segment);
    domain.remove("n").expect("ours");
    image
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/images")
}

/// Every image: the version of its folder, its name, itself.
fn all() -> Vec<(String, String, Image)> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        paths.sort();
        paths
    };
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let mut images = Vec::new();
    for version in entries(&folder()) {
        let number = version.file_name().expect("a name").to_string_lossy().into_owned();
        for path in entries(&version) {
            let text = fs::read_to_string(&path).expect("readable");
            images.push((number.clone(), name(&path), Image::parse(&text)));
        }
    }
    images
}

#[test]
fn every_image_of_every_version_is_opened_understood_and_goes_on() {
    let _quiet = Quiet::begin();
    let images = all();
    for (version, name, image) in &images {
        let kind = ALL.iter().find(|kind| kind.name == name);
        let kind = kind.unwrap_or_else(|| panic!("{version}/{name}: nobody knows what is in it"));
        let (major, minor) = image.version();
        assert_eq!(format!("{major}.{minor}"), *version, "{name}: the header says so");
        let scratch = Scratch::new();
        let domain = scratch.domain();
        image.restore(&scratch);
        eprintln!("{version}/{name}: {} words", image.words.len());
        let list = domain.list().expect("a list");
        assert_eq!((list.len(), list[0].usage), (1, Usage::Unused), "{version}/{name}");
        let info = domain.inspect("n").expect("a report");
        assert_eq!(info.problems, [""; 0], "{version}/{name}");
        let ends: Vec<_> = info.objects.iter().flat_map(|object| &object.endpoints).collect();
        assert!(!ends.is_empty(), "{version}/{name}");
        for end in ends {
            // Nobody holds a lock: whoever was at work then was killed.
            let gone = [PeerState::Dead, PeerState::Closed, PeerState::Never];
            assert!(gone.contains(&end.state), "{version}/{name}: {end:?}");
        }
        let segment = domain.open("n").unwrap_or_else(|e| panic!("{version}/{name}: {e}"));
        (kind.go_on)(&segment);
        drop(domain.open_read_only("n").expect("to read, too"));
        drop(segment);
        let report = domain.collect().expect("it runs");
        assert_eq!(report.removed.len(), 1, "{version}/{name}: {report:?}");
    }
    eprintln!("{} images", images.len());
    assert!(images.len() >= ALL.len());
}

#[test]
fn the_present_version_has_an_image_of_each_kind_and_still_writes_these_bytes() {
    let _quiet = Quiet::begin();
    let images = all();
    let mut compared = 0;
    for kind in &ALL {
        let scratch = Scratch::new();
        let now = taken(kind, &scratch, &scratch.domain());
        let (major, minor) = now.version();
        let version = format!("{major}.{minor}");
        let then = images.iter().find(|(v, name, _)| *v == version && name == kind.name);
        let (_, _, then) = then.unwrap_or_else(|| {
            panic!(
                "there is no image of {} in version {version}: see the page of this program",
                kind.name
            )
        });
        assert_eq!(now.length, then.length, "{}", kind.name);
        let offsets: std::collections::BTreeSet<u64> =
            now.words.keys().chain(then.words.keys()).copied().collect();
        for offset in offsets.into_iter().filter(|&offset| !is_of_the_day(then, offset)) {
            assert_eq!(
                format!("{:x}", now.word(offset)),
                format!("{:x}", then.word(offset)),
                "{}: the word at {offset:#x} is another; a changed layout is another version",
                kind.name
            );
            compared += 1;
        }
    }
    eprintln!("{compared} words are what they were");
    assert!(compared > 500);
}

/// Whether a word says who, when and where, or what depends on the kernel.
fn is_of_the_day(image: &Image, offset: u64) -> bool {
    // Identity, boot, times and processes, the folder, nodes and what was measured.
    let header = [40..72, 96..128, 144..160, 296..312, 784..1040];
    if header.iter().any(|range| range.contains(&offset)) {
        return true;
    }
    let directory = image.word(272);
    if (4096..directory).contains(&offset) {
        return true; // attachments
    }
    let entries = (0..2).map(|i| directory + i * 512).filter(|&at| image.word(at) != 0);
    for at in entries {
        let control = image.word(at + 24);
        let ends = (image.word(at + 88) & 0xffff_ffff) + (image.word(at + 88) >> 32);
        let table = control..control + ends * 256;
        if table.contains(&offset) {
            let inside = (offset - control) % 256;
            // Who it is and since when; what it counted.
            return (16..48).contains(&inside) || inside >= 80;
        }
        // Whether an end leaves its fences to the other, which the kernel must support.
        let words = table.end..control + image.word(at + 32);
        if words.contains(&offset) && image.word(offset) <= 1 {
            return true;
        }
    }
    false
}

#[test]
#[ignore = "writes images of the present version that are not there"]
fn write_the_images() {
    let _quiet = Quiet::begin();
    let mut written = 0;
    for kind in &ALL {
        let scratch = Scratch::new();
        let image = taken(kind, &scratch, &scratch.domain());
        let (major, minor) = image.version();
        let path = folder().join(format!("{major}.{minor}/{}.txt", kind.name));
        if !path.exists() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("the checkout");
            fs::write(&path, image.to_text()).expect("the checkout");
            written += 1;
        }
        assert_eq!(Image::parse(&image.to_text()), image);
    }
    eprintln!("{written} images written");
}
