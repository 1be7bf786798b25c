//! The life of a child: what it is, how it tells and is told.
//!
//! A child is this program started again. It tells notes on its standard output and is told to
//! end by the end of its standard input. It may be stopped and killed anywhere; now and then it
//! chooses the place itself, tells it, and *stands still* there until it is killed, so that the
//! judge knows exactly what its successor has to find.

use super::note::{Kind, NOTE_LEN, Note, Random};
use super::{calls, cast, latest, look, receive, send, shared};
use cast::{Object, Role};
use hugeshm::{Domain, Segment, WaitMode};
use std::fmt::Display;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long calls with a deadline take at most.
pub const SOON: Duration = Duration::from_millis(100);

/// The name of the segment, and of its domain.
pub const NAME: &str = "soak";

/// What went wrong in a child.
pub type Failure = String;

/// What a child is told at its birth.
#[derive(Clone, Debug, clap::Args)]
pub struct Birth {
    /// The control folder
    #[arg(long, hide = true)]
    folder: Option<String>,
    /// The object
    #[arg(long, hide = true)]
    object: Option<Object>,
    /// The part
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// Which of several of this part
    #[arg(long, hide = true, default_value_t = 0)]
    index: u32,
    /// The number of its life
    #[arg(long, hide = true, default_value_t = 0)]
    life: u32,
    /// Where its predecessor was
    #[arg(long, hide = true, default_value_t = 0)]
    from: u64,
    /// What its choices follow from
    #[arg(long, hide = true, default_value_t = 0)]
    luck: u64,
}

impl Birth {
    /// The arguments of a child.
    pub fn arguments(
        folder: &Path,
        (object, role, index): (Object, Role, u32),
        (life, from, luck): (u32, u64, u64),
    ) -> Vec<String> {
        let words = [
            ("folder", folder.display().to_string()),
            ("object", object.to_string()),
            ("role", role.to_string()),
            ("index", index.to_string()),
            ("life", life.to_string()),
            ("from", from.to_string()),
            ("luck", luck.to_string()),
        ];
        words.into_iter().map(|(key, value)| format!("--{key}={value}")).collect()
    }

    /// Plays the part, if this process is a child at all.
    pub fn play(&self) -> Option<Result<(), Failure>> {
        let (object, role) = (self.object?, self.role?);
        let folder = Path::new(self.folder.as_ref()?);
        Some(Life::begin(self, folder).and_then(|mut life| {
            let segment = match role {
                Role::Bystander => return look::around(&mut life),
                _ => life.domain.open(NAME).map_err(|error| format!("open: {error}"))?,
            };
            match (object, role) {
                (Object::Jobs, Role::Producer) => shared::produce(&mut life, &segment),
                (Object::Jobs, _) => shared::consume(&mut life, &segment),
                (Object::Cell | Object::Duplex, Role::Producer) => {
                    calls::call(&mut life, &segment, object)
                }
                (Object::Cell | Object::Duplex, _) => calls::serve(&mut life, &segment, object),
                (Object::Pose | Object::Picture, Role::Producer) => {
                    latest::write(&mut life, &segment, object)
                }
                (Object::Pose | Object::Picture, _) => latest::read(&mut life, &segment, object),
                (_, Role::Producer) => send::produce(&mut life, &segment, object),
                (_, _) => receive::consume(&mut life, &segment, object),
            }
        }))
    }
}

/// A child that lives.
pub struct Life {
    /// Its number.
    pub number: u32,
    /// Which of several of its part it is.
    pub index: u32,
    /// Where its predecessor was.
    pub from: u64,
    /// Where the segment is.
    pub domain: Domain,
    /// Its choices.
    pub random: Random,
    told: Arc<AtomicBool>,
}

impl Life {
    fn begin(birth: &Birth, folder: &Path) -> Result<Self, Failure> {
        let told = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            heard.store(true, Ordering::Relaxed);
        });
        let domain = Domain::in_folder(NAME, folder).map_err(|error| error.to_string())?;
        let random = Random(birth.luck);
        let (number, index, from) = (birth.life, birth.index, birth.from);
        Ok(Self { number, index, from, domain, random, told })
    }

    /// Whether it is to end.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Half of all lives wait without a deadline, and are told of the other end's death.
    pub fn is_patient(&self) -> bool {
        self.number % 2 == 1
    }

    /// How it waits.
    pub fn mode(&self) -> WaitMode {
        [WaitMode::Adaptive, WaitMode::Block, WaitMode::Adaptive, WaitMode::Yield]
            [self.number as usize / 2 % 4]
    }

    /// Tells a note, in one piece.
    pub fn tell(&self, note: Note) {
        let bytes = bytemuck::bytes_of(&note);
        let stdout = std::io::stdout();
        loop {
            match nix::unistd::write(stdout.as_fd(), bytes) {
                Ok(NOTE_LEN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                // The judge is gone; so is everything that could be wrong.
                other => panic!("a note was not taken: {other:?}"),
            }
        }
    }

    /// Tells a note that has one number.
    pub fn say(&self, kind: Kind, position: u64) {
        self.tell(Note::new(kind, position, 0));
    }

    /// The other end has died, or has left; there will be another.
    pub fn go_on_without(&self, kind: Kind) {
        self.say(kind, 0);
        std::thread::sleep(Duration::from_millis(2));
    }

    /// Stands still until it is killed.
    pub fn stand(&self, note: Note) -> ! {
        self.tell(note);
        loop {
            nix::unistd::pause();
        }
    }

    /// Whether to stand still here: rarely, and never when it is about to end.
    pub fn chooses_to_stand(&mut self) -> bool {
        self.random.once_in(6000) && !self.is_told()
    }
}

/// The error of an end that could not be taken, or of a call that must work.
pub fn failed(what: &str) -> impl Fn(&dyn Display) -> Failure + '_ {
    move |error| format!("{what}: {error}")
}

/// Opens an end.
pub fn taken<T>(what: &str, end: hugeshm::Result<T>) -> Result<T, Failure> {
    end.map_err(|error| failed(what)(&error))
}

/// A segment for parts that need one of their own.
pub fn read_only(life: &Life) -> Result<Segment, Failure> {
    taken("open read-only", life.domain.open_read_only(NAME))
}
