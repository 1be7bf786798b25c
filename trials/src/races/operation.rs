//! The calls on a name, and what they answer, as text that passes a pipe.

use super::carrier;
use hugeshm::{Domain, ErrorKind, Segment};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// The name that everybody wants.
pub const NAME: &str = "n";
/// The object in each segment.
pub const RING: &str = "ring";

/// A call on the name, by a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates it, which fails if it exists.
    Create,
    /// The same on System V.
    CreateSysv,
    /// Opens it to take part.
    Open,
    /// Opens it to look.
    OpenReadOnly,
    /// Opens or creates it.
    OpenOrCreate,
    /// Takes it over.
    Replace,
    /// Removes it.
    Remove,
    /// Removes what nobody holds.
    Collect,
    /// Lists the names.
    List,
    /// Looks inside.
    Inspect,
    /// Waits for it, for a short time.
    WaitFor,
    /// Opens it and takes the producer's end of its ring.
    Take,
}

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It worked, for the segment of this identity.
    Got(String),
    /// It worked; there is nothing to tell.
    Done,
    /// These names are there, with whatever is wrong with them.
    Listed(Vec<String>),
    /// These segments were removed by name, these leftovers without.
    Collected(Vec<String>, Vec<String>),
    /// It failed in a way that it may.
    Refused(String),
    /// Something that must never be.
    Broken(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Got(identity) => write!(f, "got {identity}"),
            Self::Done => f.write_str("done"),
            Self::Listed(names) => write!(f, "listed {}", names.join(",")),
            Self::Collected(named, nameless) => {
                write!(f, "collected {};{}", named.join(","), nameless.join(","))
            }
            Self::Refused(kind) => write!(f, "refused {kind}"),
            Self::Broken(what) => write!(f, "broken {what}"),
        }
    }
}

impl Answer {
    /// Reads what [`Display`](fmt::Display) wrote.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let list = |text: &str| -> Vec<String> {
            text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        Ok(match word {
            "got" => Self::Got(rest.to_owned()),
            "done" => Self::Done,
            "listed" => Self::Listed(list(rest)),
            "collected" => {
                let (named, nameless) = rest.split_once(';').unwrap_or((rest, ""));
                Self::Collected(list(named), list(nameless))
            }
            "refused" => Self::Refused(rest.to_owned()),
            "broken" => Self::Broken(rest.to_owned()),
            _ => return Err(format!("it said {text:?}")),
        })
    }
}

fn refused(error: &hugeshm::Error) -> Answer {
    // A name that leads nowhere is no name: it must never be there.
    if error.to_string().contains("its bytes are gone") {
        return Answer::Broken(error.to_string());
    }
    match error.kind() {
        kind @ (ErrorKind::AlreadyExists
        | ErrorKind::NotFound
        | ErrorKind::TimedOut
        | ErrorKind::Busy) => Answer::Refused(format!("{kind:?}")),
        _ => Answer::Broken(error.to_string()),
    }
}

/// A segment is whole if all that it was declared with is there, and every page of it.
pub fn check(segment: &Segment) -> Result<(), String> {
    let objects = segment.objects();
    let right = objects.len() == 1 && objects[0].name == RING && objects[0].capacity == 16;
    if !right {
        return Err(format!("half a segment: {objects:?}"));
    }
    match segment.verify() {
        Ok(backing) if backing.resident == segment.len() => Ok(()),
        other => Err(format!("not all pages are there: {other:?}")),
    }
}

fn got(segment: &Segment) -> Answer {
    match check(segment) {
        Ok(()) => Answer::Got(segment.identity().to_string()),
        Err(what) => Answer::Broken(what),
    }
}

impl Operation {
    /// Whether it may leave a new segment behind.
    pub fn creates(self) -> bool {
        matches!(self, Self::Create | Self::CreateSysv | Self::OpenOrCreate | Self::Replace)
    }

    /// Makes the call; what it got is checked and given back.
    pub fn run(self, folder: &Path) -> Answer {
        match Domain::in_folder("races", folder).and_then(|domain| self.call(&domain)) {
            Ok(answer) => answer,
            Err(error) => refused(&error),
        }
    }

    fn call(self, domain: &Domain) -> hugeshm::Result<Answer> {
        Ok(match self {
            Self::Create => got(&carrier::base(domain.create(NAME)).build()?),
            Self::CreateSysv => got(&carrier::sysv(domain.create(NAME)).build()?),
            Self::Open => got(&domain.open(NAME)?),
            Self::OpenReadOnly => got(&domain.open_read_only(NAME)?),
            Self::OpenOrCreate => {
                let builder = Segment::open_or_create(NAME).domain(domain.clone());
                got(&carrier::base(builder).build()?)
            }
            Self::Replace => {
                let builder = Segment::replace(NAME).domain(domain.clone());
                got(&carrier::base(builder).build()?)
            }
            Self::Remove => domain.remove(NAME).map(|()| Answer::Done)?,
            Self::Collect => {
                let report = domain.collect()?;
                if !report.failed.is_empty() {
                    return Ok(Answer::Broken(report.failed.join("; ")));
                }
                let of = |named: bool| {
                    let removed = report.removed.iter();
                    let those = removed.filter(|one| (one.what == "segment") == named);
                    those.map(|one| one.identity.to_string()).collect()
                };
                Answer::Collected(of(true), of(false))
            }
            Self::List => {
                let entries = domain.list()?;
                let words = entries.iter().map(|entry| match &entry.problem {
                    None => entry.name.clone(),
                    Some(problem) => format!("{} ({})", entry.name, problem.replace(',', " ")),
                });
                Answer::Listed(words.collect())
            }
            Self::Inspect => {
                let info = domain.inspect(NAME)?;
                match (&info.problems[..], info.objects.len(), info.entry.identity) {
                    ([], 1, Some(identity)) => Answer::Got(identity.to_string()),
                    (problems, ..) => Answer::Broken(format!("inspect: {problems:?}")),
                }
            }
            Self::WaitFor => got(&domain.wait_for(NAME, Duration::from_millis(4))?),
            Self::Take => {
                let segment = domain.open(NAME)?;
                drop(segment.producer::<u64>(RING)?);
                got(&segment)
            }
        })
    }
}
