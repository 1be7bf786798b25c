//! Seals: what they keep, what they do not, and what guards the rest.
//!
//! A memfd of ours is sealed against shrinking, growing and further seals. On huge pages the kernel lets
//! a longer mapping grow it all the same; the length in use is the header's, so that does no harm.
//! One whose length is not sealed is no memfd of ours.

use crate::common::child::{argument, hear, say};
use crate::common::machine::pages;
use crate::common::{self, M2, Quiet, Scratch};
use crate::visitors::on;
use hugeshm::{BackingKind, Domain, ErrorKind, Lifetime, Segment};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{self, File};
use std::os::fd::AsRawFd;

/// The descriptor by which others find a named memfd.
fn data_of(scratch: &Scratch, name: &str) -> File {
    let holder = scratch.control_value(name, "holder");
    let words: Vec<&str> = holder.split(' ').collect();
    let path = format!("/proc/{}/fd/{}", words[0], words[1]);
    File::options().read(true).write(true).open(path).expect("a process of ours")
}

fn huge(domain: &Domain, name: &str) -> hugeshm::Result<Segment> {
    let builder = domain.create(name).pages(M2.into()).backing(BackingKind::Memfd);
    builder.lifetime(Lifetime::WithHolders).ring::<u64>("ring", 4).build()
}

#[test]
fn the_length_of_a_memfd_is_sealed_and_the_seals_are() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let pool = pages(M2, 2);
    let mut tried = 0;
    for on_huge in [false, true] {
        if on_huge && pool.is_none() {
            continue;
        }
        let made =
            if on_huge { huge(&domain, "n") } else { on(domain.create("n"), "memfd").build() };
        let segment = made.expect("pages");
        let data = data_of(&scratch, "n");
        let seals = fcntl(&data, FcntlArg::F_GET_SEALS).expect("a memfd");
        let seals = SealFlag::from_bits_retain(seals);
        let wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        assert!(seals.contains(wanted), "{seals:?}");
        for length in [0, segment.len() / 2, segment.len() * 2] {
            assert!(data.set_len(length).is_err(), "{length} bytes");
            tried += 1;
        }
        let behind = i64::try_from(segment.len()).expect("small");
        assert!(fallocate(&data, FallocateFlags::empty(), behind, behind).is_err());
        for more in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE] {
            assert!(fcntl(&data, FcntlArg::F_ADD_SEALS(more)).is_err(), "{more:?}");
            tried += 1;
        }
        assert_eq!(segment.verify().expect("intact").resident, segment.len());
        drop((data, segment));
        domain.remove("n").expect("ours");
    }
    eprintln!("{tried} attempts on sealed memfds");
}

#[test]
fn a_memfd_that_grew_in_spite_of_its_seals_is_used_as_long_as_its_header_says() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let Some(_pool) = pages(M2, 3) else { return };
    let segment = huge(&domain, "n").expect("pages");
    let length = segment.len();
    let data = data_of(&scratch, "n");
    grow(&data, length * 2);
    assert_eq!(data.metadata().expect("ours").len(), length * 2, "this kernel lets it grow");
    for again in [domain.open("n"), domain.open_read_only("n")] {
        let again = again.expect("its header says how long it is");
        assert_eq!(again.len(), length);
        drop(again);
    }
    // Sent and received likewise.
    let (here, there) = std::os::unix::net::UnixStream::pair().expect("a pair");
    segment.send_over(&here).expect("sent");
    assert_eq!(Segment::receive_from(&there).expect("received").len(), length);
    segment.producer::<u64>("ring").expect("free").push(1).expect("room");
    assert_eq!(segment.consumer::<u64>("ring").expect("free").recv(), Ok(1));
    drop((data, segment, here, there));
    domain.remove("n").expect("ours");
}

/// A longer mapping, which on huge pages makes the file longer.
#[expect(unsafe_code, reason = "a mapping that nobody looks at")]
fn grow(data: &File, length: u64) {
    let length = usize::try_from(length).ok().and_then(|length| length.try_into().ok());
    let length: std::num::NonZeroUsize = length.expect("small");
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing in it is touched.
    let at = unsafe { mmap(None, length, rights, MapFlags::MAP_SHARED, data, 0) }.expect("pages");
    // SAFETY: it was made just now, whole, and nothing refers to it.
    unsafe { munmap(at, length.get()) }.expect("ours");
}

#[test]
fn a_length_that_header_control_file_and_file_do_not_agree_on_opens_nothing() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let mut tried = 0;
    let kinds = ["tmpfs", "memfd"];
    for kind in kinds {
        let segment = on(domain.create("n"), kind).build().expect("base pages");
        let length = segment.len();
        let path = scratch.control_file("n");
        let good = fs::read_to_string(&path).expect("ours");
        for wrong in [4096, length - 4096, length + 4096, length * 2, 1 << 40, u64::MAX - 4095] {
            if wrong == length {
                continue;
            }
            let text = good.replace(&format!("length={length}\n"), &format!("length={wrong}\n"));
            assert_ne!(text, good);
            fs::write(&path, text).expect("ours");
            for opened in [domain.open("n"), domain.open_read_only("n")] {
                let error = opened.map(drop).expect_err("they disagree");
                let kinds = [ErrorKind::Corrupt, ErrorKind::InvalidSize];
                assert!(kinds.contains(&error.kind()), "{kind}, {wrong}: {error}");
                tried += 1;
            }
        }
        fs::write(&path, &good).expect("ours");
        drop(domain.open("n").expect("they agree again"));
        // The header's word for it, in the memory itself.
        if kind == "tmpfs" {
            use std::os::unix::fs::FileExt;
            let data = File::options().write(true).open(scratch.data_file("n")).expect("ours");
            for wrong in [0, 4096, length + 4096, u64::MAX] {
                data.write_all_at(&wrong.to_le_bytes(), 88).expect("in the header");
                let error = domain.open("n").map(drop).expect_err("they disagree");
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{wrong}: {error}");
                tried += 1;
            }
            data.write_all_at(&length.to_le_bytes(), 88).expect("in the header");
        }
        drop(segment);
        domain.remove("n").expect("ours");
    }
    eprintln!("{tried} wrong lengths");
}

/// Holds a memfd without seals, and says by which number.
fn hold_unsealed() {
    let made = memfd_create("hugeshm", MFdFlags::MFD_CLOEXEC).expect("a memfd");
    let data = File::from(made);
    fs::copy(argument(1), format!("/proc/self/fd/{}", data.as_raw_fd())).expect("room");
    use std::os::unix::fs::MetadataExt;
    let is = data.metadata().expect("ours");
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
    let (pid, fd) = (std::process::id(), data.as_raw_fd());
    say(format_args!("{} {} {pid} {fd} {}", is.dev(), is.ino(), start.expect("a field")));
    hear();
}

#[test]
fn a_memfd_whose_length_is_not_sealed_is_not_opened() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    // A whole segment, copied into a memfd that its holder can still make shorter.
    drop(on(domain.create("n"), "tmpfs").build().expect("base pages"));
    let data = scratch.data_file("n").display().to_string();
    let folder = scratch.path().display().to_string();
    let mut holder = common::child::Child::start("memfds::hold_unsealed", &[&folder, &data]);
    let said = holder.says();
    let words: Vec<&str> = said.split(' ').collect();
    let text = fs::read_to_string(scratch.control_file("n")).expect("ours");
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| {
            !["backing", "device", "inode"].contains(&line.split('=').next().unwrap_or(""))
        })
        .collect();
    let [device, inode, pid, fd, start] = words[..] else { panic!("{said}") };
    let forged = format!(
        "{}\nbacking=memfd\ndevice={device}\ninode={inode}\nholder={pid} {fd} {start}\n",
        kept.join("\n")
    );
    fs::write(scratch.control_file("n"), forged).expect("ours");
    for opened in [domain.open("n"), domain.open_read_only("n")] {
        let error = opened.map(drop).expect_err("its holder can make it shorter at any time");
        assert_eq!(error.kind(), ErrorKind::NotOurs, "{error}");
    }
    holder.end_well();
    fs::write(scratch.control_file("n"), text).expect("ours");
    domain.remove("n").expect("ours");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "memfds::hold_unsealed" => hold_unsealed(),
        _ => return false,
    }
    true
}
