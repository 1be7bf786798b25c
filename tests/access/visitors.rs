//! Users: the owner of segments, and visitors who try what they may do to them.

use crate::common::child::{self, Child, argument, hear, say};
use crate::common::{self, M2};
use hugeshm::{
    BackingKind, Domain, Error, Lifetime, PagePolicy, Producer, Rung, Segment, SegmentBuilder,
    TypedRing,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Somebody: a user, his group, and the other groups he is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub others: &'static [u32],
}

/// Who makes the segments.
pub const OWNER: User = User { uid: 4001, gid: 4001, others: &[] };
/// Whose first group is the owner's.
pub const MEMBER: User = User { uid: 4002, gid: 4001, others: &[] };
/// Who is in the owner's group besides his own.
pub const JOINED: User = User { uid: 4003, gid: 4003, others: &[4001] };
/// Who has nothing to do with the owner.
pub const OTHER: User = User { uid: 4004, gid: 4004, others: &[] };
pub const ROOT: User = User { uid: 0, gid: 0, others: &[] };

impl User {
    /// Starts a child of this user.
    pub fn child(self, role: &str, arguments: &[&str]) -> Child {
        let others = self.others.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let who = format!("{} {} {others}", self.uid, self.gid);
        Child::start("visitors::become", &[&[who.as_str(), role], arguments].concat())
    }
}

/// Becomes the user of the first argument, and then the role of the second.
fn become_user() {
    let who = argument(0);
    let words: Vec<&str> = who.split(' ').collect();
    let id = |text: &str| text.parse::<u32>().expect("a number");
    let others = words[2].split(',').filter(|text| !text.is_empty());
    let others: Vec<Gid> = others.map(|text| Gid::from_raw(id(text))).collect();
    setgroups(&others).expect("root");
    setgid(Gid::from_raw(id(words[1]))).expect("root");
    setuid(Uid::from_raw(id(words[0]))).expect("root");
    // Once more from the start: only so `/proc` gives the new user his own entries.
    panic!("{}", play_again(1));
}

/// Starts this program anew in this very process, to play the role that is argument number `at`
/// with the arguments behind it; says why that failed.
fn play_again(at: usize) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    let all = std::env::var(child::ARGUMENTS).expect("a child has arguments");
    let rest: Vec<&str> = all.split('\n').skip(at + 1).collect();
    std::process::Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env(child::ROLE, argument(at))
        .env(child::ARGUMENTS, rest.join("\n"))
        .current_dir("/")
        .exec()
}

/// A small segment of a kind: `tmpfs`, `sysv`, `memfd`, or a hugetlbfs mount's path.
pub fn on(builder: SegmentBuilder, kind: &str) -> SegmentBuilder {
    let builder = builder.lifetime(Lifetime::WithHolders);
    match kind {
        "tmpfs" => builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs),
        "memfd" => builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Memfd),
        "sysv" => builder.pages(M2.into()).backing(BackingKind::Sysv),
        path => builder.pages(M2.into()).backing(BackingKind::Hugetlbfs).mount(path),
    }
}

fn made(builder: SegmentBuilder, kind: &str, mode: u32) -> Result<Segment, Error> {
    let segment = on(builder, kind)
        .mode(mode)
        .spare(1 << 16)
        .ring::<u64>("ring", 4)
        .latest::<u64>("latest")
        .build()?;
    segment.latest_writer::<u64>("latest")?.write(&7).expect("it is ours");
    Ok(segment)
}

fn yes_or<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "yes".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// The owner. Arguments: folder, kind. Orders: `make NAME MODE`, `drop NAME`, `check NAME`,
/// `collect NAME`, `remove NAME`.
fn own() {
    let (folder, kind) = (argument(0), argument(1));
    let domain = common::domain(Path::new(&folder));
    let mut held: HashMap<String, Segment> = HashMap::new();
    say("ready");
    while let Some(line) = hear() {
        let words: Vec<&str> = line.split(' ').collect();
        let name = words[1];
        let answer = match words[0] {
            "make" => {
                let mode = u32::from_str_radix(words[2], 8).expect("a mode");
                made(domain.create(name), &kind, mode).map(|segment| {
                    held.insert(name.to_owned(), segment);
                })
            }
            "drop" => {
                held.remove(name);
                Ok(())
            }
            "check" => check(&domain, &held[name], &kind),
            "collect" => {
                held.remove(name);
                let taken = domain.collect_name(name);
                say(taken.map_or_else(|error| format!("{:?}", error.kind()), |yes| yes.to_string()));
                continue;
            }
            "remove" => domain.remove(name).map(|()| drop(held.remove(name))),
            other => panic!("no such order: {other}"),
        };
        say(answer.map_or_else(|error| error.to_string().replace('\n', " | "), |()| "fine".into()));
    }
}

/// Everything that an owner does with a segment, beginning with what answers at once.
fn check(domain: &Domain, segment: &Segment, kind: &str) -> Result<(), Error> {
    let name = segment.name();
    let mut producer: Producer<u64> = segment.producer("ring")?;
    producer.push(1).map_err(Error::from)?;
    drop(producer);
    drop(domain.open(name)?);
    drop(domain.open_read_only(name)?);
    segment.add_ring("another", TypedRing::<u64>::new(4))?;
    drop(made(Segment::replace(name).domain(domain.clone()), kind, 0o600)?);
    domain.remove(name)?;
    drop(made(domain.create(name), kind, 0o600)?);
    Ok(())
}

/// A visitor. Arguments: folder, kind. Each line is `WHAT NAME`, answered by a cell of the table; what
/// is held stays so until the next line.
fn visit() {
    let (folder, kind) = (argument(0), argument(1));
    let domain = common::domain(Path::new(&folder));
    let mut held: (Vec<File>, Option<Segment>) = (Vec::new(), None);
    say("ready");
    while let Some(line) = hear() {
        held = (Vec::new(), None);
        let (what, name) = line.rsplit_once(' ').expect("two words");
        let cell = match what {
            "list" => {
                let list = domain.list().expect("the folder can be read");
                let entry =
                    list.iter().find(|entry| entry.name == name).expect("everybody sees it");
                entry.usage.to_string()
            }
            "inspect" => yes_or(domain.inspect(name)),
            "open" => yes_or(domain.open(name)),
            "open read-only" => yes_or(domain.open_read_only(name)),
            "take an end" => {
                yes_or(domain.open(name).and_then(|segment| segment.producer::<u64>("ring")))
            }
            "read the latest value" => yes_or(domain.open_read_only(name).and_then(|segment| {
                let value = segment.latest_reader::<u64>("latest")?.read();
                assert_eq!(value.expect("it was written").value, 7);
                Ok(())
            })),
            "create" => yes_or(made(domain.create(name), &kind, 0o600)),
            "replace" => yes_or(made(Segment::replace(name).domain(domain.clone()), &kind, 0o600)),
            "remove" => yes_or(domain.remove(name)),
            "collect" => {
                let taken = domain.collect_name(name);
                taken.map_or_else(
                    |error| format!("{:?}", error.kind()),
                    |yes| if yes { "yes" } else { "no" }.to_owned(),
                )
            }
            "keep from being collected" => {
                held.1 = domain.open_read_only(name).ok();
                "tried".to_owned()
            }
            "hold up" => {
                held.0 = lock_all(&folder, &kind);
                "tried".to_owned()
            }
            "cut short" => cut_short(&folder, &kind, name),
            other => panic!("no such thing to do: {other}"),
        };
        say(cell);
    }
    drop(held);
}

/// Every file of the folder and of the mount that can be opened, with every lock that can be had.
fn lock_all(folder: &str, kind: &str) -> Vec<File> {
    let mount = kind.starts_with('/').then_some(kind);
    let files = [Some(folder), mount].into_iter().flatten().flat_map(|dir| {
        let entries = std::fs::read_dir(dir).expect("anybody may");
        entries.map(|entry| entry.expect("readable").path()).collect::<Vec<PathBuf>>()
    });
    let mut held = Vec::new();
    for path in files {
        for write in [true, false] {
            let flags = nix::libc::O_NONBLOCK;
            let file = File::options().read(true).write(write).custom_flags(flags).open(&path);
            let Ok(file) = file else { continue };
            let kind = if write { nix::libc::F_WRLCK } else { nix::libc::F_RDLCK };
            // Byte by byte where others may have some: life, directory, attachments, ends.
            for (start, length) in [(0, 0), (0, 1), (1, 1), (4096, 64), (1 << 32, 1 << 30)] {
                let lock = nix::libc::flock {
                    l_type: kind as i16,
                    l_whence: nix::libc::SEEK_SET as i16,
                    l_start: start,
                    l_len: length,
                    l_pid: 0,
                };
                let _ = fcntl(&file, FcntlArg::F_OFD_SETLK(&lock));
            }
            held.push(file);
        }
    }
    held
}

/// Makes the data file empty, if that may be.
fn cut_short(folder: &str, kind: &str, name: &str) -> String {
    let control = Path::new(folder).join(format!("hugeshm@{}@{name}", common::DOMAIN));
    let Ok(text) = std::fs::read_to_string(control) else { return "no".to_owned() };
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(k, _)| *k == key).map(|(_, value)| value.to_owned())
    };
    let file = format!("hugeshm.{}", value("identity").expect("every control file has it"));
    let path = match kind {
        "sysv" => return "no".to_owned(), // there is no file
        "tmpfs" => Path::new(folder).join(file),
        "memfd" => {
            let holder = value("holder").expect("it has one");
            let words: Vec<&str> = holder.split(' ').collect();
            PathBuf::from(format!("/proc/{}/fd/{}", words[0], words[1]))
        }
        mount => Path::new(mount).join(file),
    };
    let file = File::options().write(true).open(path);
    if file.and_then(|file| file.set_len(0)).is_ok() { "yes" } else { "no" }.to_owned()
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "visitors::become" => become_user(),
        "visitors::own" => own(),
        "visitors::visit" => visit(),
        _ => return false,
    }
    true
}
