//! What a peer must be able to do, and the contests made of it.
//!
//! A message is `N` words. A peer makes channels: channel 0 leads from the first
//! half to the second, channel 1 back.

use bench_kit::{Contest, Outcome, Place, Role, Side, Stage, Unit, drive};

/// Sends messages of which every word is `number`.
pub trait Send {
    /// Sends one, waiting for room.
    fn send(&mut self, number: u64) -> Outcome;
    /// Sends `count` of them, from `first` on.
    fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
        (first..first + count).try_for_each(|number| self.send(number))
    }
}

/// Receives such messages.
pub trait Receive {
    /// Receives one: the sum of its words.
    fn receive(&mut self) -> Outcome<u64>;
    /// The same in a round trip, where another way to wait may be better.
    fn receive_in_turn(&mut self) -> Outcome<u64> {
        self.receive()
    }
    /// Receives up to `max`: how many, and the sum of their words.
    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        let _ = max;
        Ok((1, self.receive()?))
    }
}

/// One end of a channel.
pub enum End<S, R> {
    Sender(S),
    Receiver(R),
}

/// A way to move messages of `N` words.
pub trait Peer<const N: usize>: 'static {
    /// What it is called.
    const NAME: &'static str;
    /// Whether it can do more than threads.
    const PLACE: Place;
    /// What is unfair to it, or what it does not do.
    const NOTE: &'static str;
    /// What it is that has 32 messages where [`batches`] are measured.
    const BATCHES: &'static str = "batches of 32";
    type Sender: Send;
    type Receiver: Receive;

    /// Makes the channel and returns the first half's end.
    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>>;
    /// Opens the channel and returns the second half's end.
    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>>;
}

pub type Ends<const N: usize, P> = End<<P as Peer<N>>::Sender, <P as Peer<N>>::Receiver>;

/// A way to move messages between many: each half may send and receive in one channel.
pub trait Many<const N: usize>: Peer<N> {
    /// Makes the channel in the first half and opens it in the second one; both kinds of ends.
    fn both(stage: &Stage) -> Outcome<(Self::Sender, Self::Receiver)>;
}

/// How many messages a channel has room for, if it may choose.
pub const fn slots<const N: usize>() -> usize {
    let fit = (8 << 20) / (N * 8);
    if fit > 4096 { 4096 } else { fit }
}

fn end<const N: usize, P: Peer<N> + ?Sized>(stage: &Stage, channel: usize) -> Outcome<Ends<N, P>> {
    let sends = (stage.side() == Side::First) == (channel == 0);
    in_turn(stage, || P::make(stage, channel, sends), || P::open(stage, channel, sends))
}

/// What the first half makes, and then the second one opens.
pub fn in_turn<T>(
    stage: &Stage,
    make: impl FnOnce() -> Outcome<T>,
    open: impl FnOnce() -> Outcome<T>,
) -> Outcome<T> {
    if stage.side() == Side::First {
        let made = make()?;
        stage.meet()?;
        stage.meet()?;
        Ok(made)
    } else {
        stage.meet()?;
        let opened = open()?;
        stage.meet()?;
        Ok(opened)
    }
}

fn contest<const N: usize, P: Peer<N>>(
    name: String,
    unit: Unit,
    halves: impl Fn(&Stage) -> Outcome + Clone + core::marker::Send + Sync + 'static,
) -> Contest {
    Contest::new(name, Role::Peer, unit, halves.clone(), halves).place(P::PLACE).note(P::NOTE)
}

/// Round trips. Those of large messages go once through the ring before the clock starts, so that
/// all of its pages are there; small ones have few.
pub fn trip<const N: usize, P: Peer<N>>() -> Contest {
    contest::<N, P>(P::NAME.to_owned(), Unit::RoundTrip, |stage| {
        let (out, back) = match (end::<N, P>(stage, 0)?, end::<N, P>(stage, 1)?) {
            (End::Sender(out), End::Receiver(back)) | (End::Receiver(back), End::Sender(out)) => {
                (out, back)
            }
            _ => return Err("two ends of one kind".into()),
        };
        let (mut out, mut back) = (out, back);
        drive::ping_pong(
            stage,
            |number| out.send(number),
            || Ok(back.receive_in_turn()? / N as u64),
        )
    })
    .lap(if N > 8 { slots::<N>() as u64 } else { 1 })
}

/// A stream, one message per call.
pub fn stream<const N: usize, P: Peer<N>>() -> Contest {
    let unit = Unit::Stream(N as u64 * 8);
    contest::<N, P>(P::NAME.to_owned(), unit, |stage| match end::<N, P>(stage, 0)? {
        End::Sender(mut sender) => drive::send_all(stage, |number| sender.send(number)),
        End::Receiver(mut receiver) => drive::receive_all(stage, N as u64, || receiver.receive()),
    })
    .lap(2 * slots::<N>() as u64)
}

/// Both halves send and receive by turns in one channel.
pub fn exchange<const N: usize, P: Many<N>>() -> Contest {
    let unit = Unit::Stream(N as u64 * 8);
    contest::<N, P>(P::NAME.to_owned(), unit, |stage| {
        let both = || P::both(stage);
        let (mut sender, mut receiver) = in_turn(stage, both, both)?;
        drive::exchange(stage, N as u64, |number| sender.send(number), || receiver.receive())
    })
    .lap(2 * slots::<N>() as u64)
}

/// Messages of a batch.
pub const BATCH: u64 = 32;

/// A stream, 32 messages per call.
pub fn batches<const N: usize, P: Peer<N>>() -> Contest {
    let unit = Unit::Stream(N as u64 * 8);
    let name = format!("{}, {}", P::NAME, P::BATCHES);
    contest::<N, P>(name, unit, |stage| match end::<N, P>(stage, 0)? {
        End::Sender(mut sender) => {
            drive::send_batches(stage, BATCH, |first| sender.send_batch(first, BATCH))
        }
        End::Receiver(mut receiver) => {
            drive::receive_batches(stage, N as u64, |left| receiver.receive_batch(left.min(BATCH)))
        }
    })
    .granule(BATCH)
    .lap(2 * slots::<N>() as u64)
}
