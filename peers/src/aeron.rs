//! Aeron over IPC.
//!
//! The media driver lives in the first half's process, both halves are its clients. It gives room
//! to publishers, and wants a processor of its own for that. Here it has none: a thread would stand
//! in line behind the halves, which spin. So a thread runs it only while everything is made, and
//! then the first half does, whenever it has to wait, as in the driver's invoker mode. The clients'
//! conductors, which sleep most of the time, may run on any processor.

use crate::harness::{BATCH, End, Ends, Peer, Receive, Send};
use bench_kit::words::{fill, sum};
use bench_kit::{Outcome, Place, Side, Stage};
use bytemuck::{cast_slice, cast_slice_mut};
use core::cell::{Cell, RefCell};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use core::time::Duration;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rusteron_media_driver::bindings::aeron_threading_mode_enum::AERON_THREADING_MODE_SHARED;
use rusteron_media_driver::{
    AERON_IPC_STREAM, Aeron as Client, AeronContext, AeronDriver, AeronDriverContext,
    AeronExclusivePublication, AeronImage, AeronOfferError, AeronSubscription, Handlers,
    IntoCString,
};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(5);
/// After so many polls for nothing, the first half runs the driver.
const LONG: u32 = 1 << 10;

/// Aeron.
pub struct Aeron;

/// Bytes of a term, of which a publication has three. It may be half a term ahead.
const TERM: usize = 16 << 20;

/// How many messages of `words` words go into so many bytes, each with its header.
const fn fit(words: usize, bytes: usize) -> u64 {
    (bytes / (words * 8 + 32).next_multiple_of(32)) as u64
}

/// How many messages go once through a publication's terms.
pub const fn lap(words: usize) -> u64 {
    fit(words, 3 * TERM)
}

/// How many messages are measured in one block: as many as a publication may be ahead. In a
/// shorter one, the subscriber could catch up with messages that were sent before.
pub const fn block(words: usize) -> u64 {
    fit(words, TERM / 2).next_multiple_of(BATCH)
}

/// A client, and the driver in the first half. The fields are dropped in this order.
struct Session {
    client: Client,
    driver: Option<Driver>,
    folder: String,
    turn: String,
}

/// The driver and the thread that runs it at first.
struct Driver {
    driver: Arc<AeronDriver>,
    stop: Arc<AtomicBool>,
    thread: Cell<Option<JoinHandle<()>>>,
}

impl Driver {
    fn new(context: &AeronDriverContext) -> Outcome<Self> {
        let driver = AeronDriver::new(context)?;
        // Without threads of its own.
        driver.start(true)?;
        let driver = Arc::new(driver);
        let stop = Arc::new(AtomicBool::new(false));
        let (run, stopped) = (Arc::clone(&driver), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                // It keeps its errors where its own tools look for them.
                let _ = run.main_do_work();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Ok(Self { driver, stop, thread: Cell::new(Some(thread)) })
    }

    /// Runs it once, and from then on only this does.
    fn work(&self) -> Outcome {
        self.end_thread();
        self.driver.main_do_work()?;
        Ok(())
    }

    fn end_thread(&self) {
        if let Some(thread) = self.thread.take() {
            self.stop.store(true, Relaxed);
            let _ = thread.join();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end_thread();
    }
}

thread_local! {
    /// The session of this turn, for its second channel.
    static SESSION: RefCell<Weak<Session>> = const { RefCell::new(Weak::new()) };
}

/// The session of this turn; the second half joins the driver in `folder`.
fn session(stage: &Stage, folder: impl FnOnce() -> String) -> Outcome<Rc<Session>> {
    let turn = stage.name();
    let known = SESSION.with_borrow(Weak::upgrade).filter(|session| session.turn == turn);
    if let Some(session) = known {
        return Ok(session);
    }
    // Threads that are started now inherit where they may run.
    let own = sched_getaffinity(Pid::from_raw(0))?;
    let mut all = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|cpu| all.set(cpu))?;
    sched_setaffinity(Pid::from_raw(0), &all)?;
    let session = started(stage, turn, folder);
    sched_setaffinity(Pid::from_raw(0), &own)?;
    let session = Rc::new(session?);
    SESSION.set(Rc::downgrade(&session));
    Ok(session)
}

fn started(stage: &Stage, turn: String, folder: impl FnOnce() -> String) -> Outcome<Session> {
    let (folder, driver) = if stage.side() == Side::First {
        let context = AeronDriverContext::new()?;
        let folder = format!("/dev/shm/{turn}-{}-aeron", std::process::id());
        context.set_dir(&folder.as_str().into_c_string())?;
        context.set_dir_delete_on_start(true)?;
        context.set_dir_delete_on_shutdown(true)?;
        context.set_threading_mode(AERON_THREADING_MODE_SHARED)?;
        context.set_ipc_term_buffer_length(TERM)?;
        context.set_term_buffer_sparse_file(false)?;
        (folder, Some(Driver::new(&context)?))
    } else {
        (folder(), None)
    };
    let context = AeronContext::new()?;
    context.set_pre_touch_mapped_memory(true)?;
    context.set_dir(&folder.as_str().into_c_string())?;
    let client = Client::new(&context)?;
    client.start()?;
    Ok(Session { client, driver, folder, turn })
}

/// The sending end. The fields are dropped in this order.
pub struct AeronSender<const N: usize> {
    publication: AeronExclusivePublication,
    session: Rc<Session>,
}

/// The receiving end.
pub struct AeronReceiver {
    image: Option<AeronImage>,
    subscription: AeronSubscription,
    session: Rc<Session>,
}

/// Messages up to so many words are copied by the publication, longer ones are written in place:
/// each is the faster one here.
const COPIED: usize = 8;

impl<const N: usize> AeronSender<N> {
    #[inline]
    fn try_send(&self, number: u64) -> Result<(), AeronOfferError> {
        if N <= COPIED {
            self.publication.offer(cast_slice(&[number; N]))?;
        } else {
            let mut claim = self.publication.try_claim_owned(N * 8)?;
            fill(cast_slice_mut(claim.data()), number);
            claim.commit().map_err(AeronOfferError::Error)?;
        }
        Ok(())
    }
}

impl<const N: usize> Send for AeronSender<N> {
    fn send(&mut self, number: u64) -> Outcome {
        loop {
            match self.try_send(number) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_retryable() => match &self.session.driver {
                    Some(driver) => driver.work()?,
                    None => spin_loop(),
                },
                Err(error) => return Err(error.to_string().into()),
            }
        }
    }
}

impl AeronReceiver {
    /// Polls until something comes, and returns how many messages and the sum of their words.
    #[inline]
    fn poll(&mut self, max: usize) -> Outcome<(u64, u64)> {
        let image = match &self.image {
            Some(image) => image,
            None => self.image.insert(connected(&self.subscription)?),
        };
        let mut words = 0_u64;
        for waited in 1_u32.. {
            let add = |message: &[u8], _| words = words.wrapping_add(sum(cast_slice(message)));
            let came = image.poll_fn(add, max)?;
            if came > 0 {
                return Ok((came as u64, words));
            }
            if let Some(driver) = &self.session.driver
                && waited % LONG == 0
            {
                // The other half may be out of room.
                driver.work()?;
            }
            spin_loop();
        }
        Err("nothing came".into())
    }
}

/// The image of the one publication, which comes a moment after the subscription.
fn connected(subscription: &AeronSubscription) -> Outcome<AeronImage> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(image) = subscription.image_at_index(0) {
            return Ok(image);
        }
        spin_loop();
    }
    Err("the publication does not come".into())
}

impl Receive for AeronReceiver {
    fn receive(&mut self) -> Outcome<u64> {
        Ok(self.poll(1)?.1)
    }

    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        self.poll(max as usize)
    }
}

fn end<const N: usize>(
    session: Rc<Session>,
    channel: usize,
    sends: bool,
) -> Outcome<Ends<N, Aeron>> {
    let (client, stream) = (&session.client, 1000 + channel as i32);
    Ok(if sends {
        let publication = client.add_exclusive_publication(AERON_IPC_STREAM, stream, PATIENCE)?;
        End::Sender(AeronSender { publication, session })
    } else {
        let (on, off) = (Handlers::NONE, Handlers::NONE);
        let subscription = client.add_subscription(AERON_IPC_STREAM, stream, on, off, PATIENCE)?;
        End::Receiver(AeronReceiver { image: None, subscription, session })
    })
}

impl<const N: usize> Peer<N> for Aeron {
    const NAME: &'static str = "Aeron";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = "for many publishers and subscribers, with a header of 32 bytes; \
        its driver wants a processor of its own and is run by a publisher that waits";
    const BATCHES: &'static str = "polled in 32s";
    type Sender = AeronSender<N>;
    type Receiver = AeronReceiver;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let session = session(stage, String::new)?;
        stage.say(channel, &session.folder);
        end(session, channel, sends)
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        end(session(stage, || stage.hear(channel))?, channel, sends)
    }
}
