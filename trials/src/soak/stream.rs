//! What one consumer after the other receives from one row of messages.

use super::judge::{Tally, continues};
use super::note::{Batch, Kind, Note};

/// The messages of a ring, of a lane, or of one consumer of a broadcast ring.
///
/// Invariant: every message before `last` was told; `last` is the one that was told last, and the
/// one behind it is at `next`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stream {
    next: u64,
    last: u64,
    batch: Option<Batch>,
    doubt: Doubt,
    /// This life has received a message.
    began: bool,
}

/// Where the next message may be, besides at `next`.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    /// At `last`: it may not have been released.
    may_repeat: bool,
    /// Only there: it was not released.
    must_repeat: bool,
    /// Not at `last`: it was released.
    released: bool,
    /// Behind so many more, which were released before they were told.
    ahead: u64,
}

impl Stream {
    /// A stream whose first message is at `next`.
    pub fn from(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// Where the next message is expected.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A life with a position of its own begins.
    pub fn begin(&mut self) {
        self.began = false;
    }

    /// So many were missed; whether this life has received nothing before.
    pub fn gap(&mut self, missed: u64) -> bool {
        self.next += missed;
        self.batch = None;
        !self.began
    }

    /// The life that told of `last` was killed behind a note of this kind.
    pub fn killed(&mut self, kind: Kind) {
        let ahead = self.doubt.ahead;
        self.doubt = match kind {
            Kind::Kept => Doubt { must_repeat: true, ahead, ..Doubt::default() },
            Kind::Released => Doubt { released: true, ahead, ..Doubt::default() },
            _ => Doubt { may_repeat: true, ahead, ..Doubt::default() },
        };
    }

    /// A life that releases before it tells was killed.
    pub fn may_be_ahead(&mut self) {
        self.doubt.ahead += 1;
    }

    /// The next message in order.
    ///
    /// # Errors
    ///
    /// It is not one that may come.
    pub fn message(&mut self, note: Note, tally: &mut Tally) -> Result<(), String> {
        let before = *self;
        let doubt = core::mem::take(&mut self.doubt);
        let Note { position, next, batch, .. } = note;
        (self.last, self.next, self.batch) = (position, next, Some(batch));
        self.began = true;
        if (doubt.may_repeat || doubt.must_repeat) && position == before.last {
            tally.again += 1;
            tally.certain += u64::from(doubt.must_repeat);
            return Ok(());
        }
        // Whoever is ahead may have begun with the one that had to be repeated.
        let most = before.next + doubt.ahead.saturating_sub(doubt.must_repeat.into());
        let least_ahead = if doubt.must_repeat && doubt.ahead == 0 { u64::MAX } else { 0 };
        if least_ahead == 0 && (before.next..=most).contains(&position) {
            tally.unheard += position - before.next;
            tally.certain += u64::from(doubt.released && doubt.ahead == 0);
            let in_row = position == before.next;
            if let Some(last) = before.batch
                && in_row
                && !continues(last, batch)
            {
                return Err(format!("part of a batch: {batch:?} at {position} behind {last:?}"));
            }
            return Ok(());
        }
        if position > before.next {
            tally.lost += (position - before.next).max(1);
            return Err(format!("{position} came behind {before:?}: some were lost"));
        }
        if least_ahead > 0 && position == before.next {
            tally.lost += 1;
            return Err(format!("{position} came behind {before:?}: one was not released"));
        }
        Err(format!("{position} came again behind {before:?}, although it was released"))
    }

    /// The next value of which only the newest counts.
    ///
    /// # Errors
    ///
    /// It is older than the one before.
    pub fn newer(&mut self, note: Note) -> Result<(), String> {
        if note.position < self.last {
            return Err(format!("version {} came behind {}", note.position, self.last));
        }
        (self.last, self.next) = (note.position, note.next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Note {
        Note::message(true, position, position + 1, Batch { life: 0, follow: 0 })
    }

    /// A stream that has told 0 to 4 and was then killed behind a note of this kind.
    fn killed(kind: Kind) -> Stream {
        let mut stream = Stream::default();
        for position in 0..5 {
            stream.message(at(position), &mut Tally::default()).unwrap();
        }
        stream.killed(kind);
        stream
    }

    #[test]
    fn only_the_last_message_may_come_again_and_none_may_be_left_out() {
        for (kind, right) in
            [(Kind::Message, &[4, 5][..]), (Kind::Kept, &[4][..]), (Kind::Released, &[5][..])]
        {
            for position in 0..10 {
                let mut tally = Tally::default();
                let judged = killed(kind).message(at(position), &mut tally);
                assert_eq!(judged.is_ok(), right.contains(&position), "{kind:?} {position}");
                assert_eq!(tally.lost > 0, judged.is_err() && position > 4);
            }
        }
    }

    #[test]
    fn a_life_that_releases_before_it_tells_may_take_one_message_with_it() {
        for (kind, right) in [
            (Kind::Message, &[4, 5, 6][..]),
            (Kind::Kept, &[4, 5][..]),
            (Kind::Released, &[5, 6][..]),
        ] {
            for position in 0..10 {
                let mut stream = killed(kind);
                stream.may_be_ahead();
                let judged = stream.message(at(position), &mut Tally::default());
                assert_eq!(judged.is_ok(), right.contains(&position), "{kind:?} {position}");
            }
        }
    }

    #[test]
    fn half_a_batch_is_noticed() {
        let mut stream = Stream::default();
        let of = |position, life, follow| Note { batch: Batch { life, follow }, ..at(position) };
        let mut take = |note| stream.message(note, &mut Tally::default());
        take(of(0, 1, 1)).unwrap();
        take(of(1, 1, 0)).unwrap();
        take(of(2, 2, 2)).unwrap();
        take(of(3, 3, 0)).unwrap_err();
        take(of(4, 2, 0)).unwrap_err();
    }
}
