//! A SIGBUS that fails the test by name, and what a process has before and after a call.
#![expect(unsafe_code, reason = "a signal handler, and its way to standard output")]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

static WHERE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);
/// Whether there are too many mappings to list them each time; their size is known all the same.
pub static CROWDED: AtomicBool = AtomicBool::new(false);

/// What the process is doing, for the message of a SIGBUS to come. Leaks a few bytes.
pub fn doing(what: &str) {
    let text: &'static mut [u8] = Box::leak(what.as_bytes().to_vec().into_boxed_slice());
    LENGTH.store(0, Ordering::SeqCst);
    WHERE.store(text.as_mut_ptr(), Ordering::SeqCst);
    LENGTH.store(text.len(), Ordering::SeqCst);
}

extern "C" fn on_signal(number: libc::c_int) {
    let name: &[u8] = if number == libc::SIGBUS { b"SIGBUS" } else { b"SIGXFSZ" };
    for text in [b"\n@@signal ".as_slice(), name, b" during "] {
        // SAFETY: write(2) is async-signal-safe and gets bytes that are there.
        unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
    }
    let (text, length) = (WHERE.load(Ordering::SeqCst), LENGTH.load(Ordering::SeqCst));
    // SAFETY: as above; the bytes were leaked by `doing`, which stores the length last.
    unsafe { libc::write(1, text.cast(), length) };
    // SAFETY: as above.
    unsafe { libc::write(1, b"\n".as_ptr().cast(), 1) };
    // SAFETY: `_exit` is async-signal-safe and has no conditions.
    unsafe { libc::_exit(77) }
}

/// From now on a SIGBUS, or a SIGXFSZ, says where it struck and ends this process with 77.
pub fn install() {
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGBUS, Signal::SIGXFSZ] {
        // SAFETY: the handler only calls what may be called in one, and does not return.
        unsafe { sigaction(signal, &action) }.expect("a handler can be installed");
    }
}

/// What this process and its folders hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    descriptors: usize,
    /// Mappings of shared and of huge memory, and reserved address space, by their ends.
    mappings: BTreeMap<String, String>,
    files: Vec<String>,
    /// Free blocks and files of each folder's file system.
    free: Vec<(u64, u64)>,
    ids: Vec<String>,
}

impl Holdings {
    /// Counts.
    pub fn now(folders: &[&Path]) -> Self {
        let files = folders.iter().flat_map(|folder| crate::common::files(folder)).collect();
        let free = |folder: &&Path| {
            let stat = nix::sys::statvfs::statvfs(*folder).expect("a folder of ours");
            (stat.blocks_free(), stat.files_free())
        };
        let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        Self {
            descriptors: crate::common::descriptors(),
            mappings: if CROWDED.load(Ordering::SeqCst) { BTreeMap::new() } else { mappings() },
            files,
            free: folders.iter().map(free).collect(),
            ids: table.lines().skip(1).filter_map(own_id).collect(),
        }
    }
}

/// The id in a line of the table of System V segments, if this process made it.
fn own_id(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    (words.get(4)? == &std::process::id().to_string()).then(|| words[1].to_owned())
}

/// The mappings that are no program text, no heap and no stack.
fn mappings() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let ours = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.get(5).copied().unwrap_or_default();
        words[1].ends_with('s') || name.contains("hugeshm") || name.contains("anon_hugepage")
    };
    let pair = |line: &str| {
        let (range, rest) = line.split_once(' ').expect("a line of maps");
        (range.to_owned(), rest.to_owned())
    };
    text.lines().filter(ours).map(pair).collect()
}

/// The size of this process's address space: what leaks of it is larger than any heap of ours.
pub fn address_space() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages: u64 = text.split_whitespace().next().expect("a number").parse().expect("a number");
    pages * 4096
}
