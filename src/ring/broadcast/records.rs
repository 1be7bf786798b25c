//! The receiving ends of a broadcast ring of records.
//!
//! The steps C1 to C5 are told in the parent module.

use super::attend::{Attend, Claimed, Unseen, observer_calls, wait_for};
use super::layout::{Keeping, PROMISED, SWEPT};
use super::{Astray, Join, ReceiverParts, TURNS_MAX};
use crate::ring::error::{AttachError, Corruption, RecvError};
use crate::ring::layout::{POSITION_MAX, WORD_LEN};
use crate::ring::position::{Found, Header, RecordGeometry};
use crate::stats::{Stats, StatsWriter};
use crate::sync::fence;
use crate::view::{Look64, View};
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls, endpoint_calls};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use core::time::Duration;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

/// The header word as positions count.
const WORD: u64 = WORD_LEN as u64;

/// A place where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    position: u64,
    /// How many records there are before it.
    number: u64,
}

/// A place in a broadcast ring of records: what comes next, and whether it is still there.
struct Follower {
    geometry: RecordGeometry,
    keeping: Keeping,
    at: Spot,
    offset: u64,
    payload: View,
    swept: Look64,
    control: View,
    /// Messages that were gone when it joined, not told yet.
    owed: u64,
    /// Where it went on after it was last overtaken.
    resumed_at: u64,
}

impl Follower {
    fn new(
        control: &View,
        payload: &View,
        geometry: RecordGeometry,
        keeping: Keeping,
    ) -> Result<Self, AttachError> {
        if (payload.len() as u64) < geometry.capacity() {
            return Err(AttachError::Geometry);
        }
        Ok(Self {
            geometry,
            keeping,
            at: Spot { position: 0, number: 0 },
            offset: 0,
            payload: payload.clone(),
            swept: control.look64(SWEPT),
            control: control.clone(),
            owed: 0,
            resumed_at: 0,
        })
    }

    fn seek(&mut self, spot: Spot) {
        self.at = spot;
        self.offset = spot.position % self.geometry.capacity();
    }

    /// How many bytes a record may take at most.
    fn window(&self) -> u64 {
        self.geometry.capacity() - WORD
    }

    /// C3: whether what was read at the position may have been overwritten meanwhile.
    #[inline(always)]
    fn is_gone(&self) -> bool {
        self.is_gone_at(self.at.position)
    }

    #[inline(always)]
    fn is_gone_at(&self, position: u64) -> bool {
        fence(Acquire); // edge `gone`
        self.keeping.is_gone(position, self.swept.load(Relaxed))
    }

    /// C1: the record at the position.
    #[inline(always)]
    fn find(&mut self) -> Result<Found, RecvError> {
        let word = self.payload.load64(self.offset as usize, Acquire); // edge `commit`
        match self.geometry.decode_record(word, self.offset, self.window()) {
            Some(found) if !self.is_gone() && self.owed == 0 => Ok(found),
            _ => self.look(),
        }
    }

    /// C1 where there is no record, or one behind a padding.
    #[cold]
    #[inline(never)]
    fn look(&mut self) -> Result<Found, RecvError> {
        if self.owed > 0 {
            return Err(RecvError::Gap { missed: 0 }); // counted by `resume`
        }
        for _ in 0..2 {
            let word = self.payload.load64(self.offset as usize, Acquire); // edge `commit`
            let header = self.geometry.decode(word, self.offset, self.window());
            if self.is_gone() {
                return Err(RecvError::Gap { missed: 0 });
            }
            match header.map_err(RecvError::Corrupt)? {
                Header::Record(found) => return Ok(found),
                Header::End => return Err(RecvError::Empty),
                // It ends the ring, so behind it comes offset 0, where none can be.
                Header::Padding { span } => {
                    self.at.position += span;
                    self.offset = 0;
                }
            }
        }
        Err(RecvError::Corrupt(Corruption::Padding))
    }

    /// Goes past the record at the position.
    #[inline(always)]
    fn pass(&mut self, found: &Found) {
        self.at.position += found.span;
        self.at.number += 1;
        self.offset = self.geometry.advance(self.offset, found.span);
    }

    /// C5: goes on with what is kept, and says how many messages are lost by that.
    fn resume(&mut self) -> Result<u64, Astray> {
        if self.owed > 0 {
            return Ok(core::mem::take(&mut self.owed));
        }
        // Overtaken again at once, it keeps its distance.
        let soon = self.at.position.wrapping_sub(self.resumed_at) < self.keeping.total / 8;
        let apart = if soon && self.resumed_at > 0 { self.keeping.total / 8 } else { 0 };
        let to = self.first_from(self.keeping.oldest(self.swept()?) + apart)?;
        if to.position < self.at.position || to.number < self.at.number {
            return Err(Corruption::Kept.into());
        }
        let missed = to.number - self.at.number;
        self.resumed_at = to.position;
        self.seek(to);
        Ok(missed)
    }

    /// The mark of `section`, if it is one.
    fn mark(&self, section: u64) -> Option<Spot> {
        let at = self.keeping.mark(section);
        let position = self.control.load64(at, Acquire); // edge `mark`
        let number = self.control.load64(at + 8, Relaxed);
        let sound = self.keeping.is_mark_of(section, position, number);
        sound.then_some(Spot { position, number })
    }

    /// Up to where the ring is swept.
    fn swept(&self) -> Result<u64, Astray> {
        let swept = self.swept.load(Acquire); // edge `mark`
        if swept <= POSITION_MAX { Ok(swept) } else { Err(Corruption::Kept.into()) }
    }

    /// The sections that are swept and whose marks may be kept.
    fn sections(&self, swept: u64) -> core::ops::Range<u64> {
        self.keeping.oldest(swept) / self.keeping.section..swept.div_ceil(self.keeping.section)
    }

    /// The first record that is known to be kept and is not before `from`.
    fn first_from(&self, from: u64) -> Result<Spot, Astray> {
        for _ in 0..TURNS_MAX {
            let swept = self.swept()?;
            let from = from.max(self.keeping.oldest(swept));
            if from == 0 {
                return Ok(Spot { position: 0, number: 0 });
            }
            let mut kept = self.sections(swept).filter_map(|section| self.mark(section));
            let spot = match kept.find(|spot| spot.position >= from) {
                Some(spot) => Some(spot),
                None => self.look_for_newest()?,
            };
            if let Some(spot) = spot
                && !self.is_gone_at(spot.position)
            {
                return Ok(spot);
            }
        }
        Err(Astray::Contended)
    }

    /// Walks from `spot` to record number `number`, or to the committed end; `None` when it was
    /// overtaken on the way.
    fn walk(&self, mut spot: Spot, number: u64) -> Result<Option<Spot>, Astray> {
        let begin = spot.position;
        let mut offset = begin % self.geometry.capacity();
        while spot.number < number {
            let word = self.payload.load64(offset as usize, Acquire); // edge `commit`
            let header = self.geometry.decode(word, offset, self.window());
            if self.is_gone_at(spot.position) {
                return Ok(None);
            }
            let span = match header? {
                Header::End => break,
                Header::Padding { span } => span,
                Header::Record(Found { span, .. }) => {
                    spot.number += 1;
                    span
                }
            };
            spot.position += span;
            offset = self.geometry.advance(offset, span);
            if spot.position - begin > 2 * self.geometry.capacity() {
                return Ok(None); // as fast as the producer
            }
        }
        Ok(Some(spot))
    }

    /// The last mark whose number is at most `number`.
    fn mark_before(&self, number: u64) -> Result<Option<Spot>, Astray> {
        let swept = self.swept()?;
        let oldest = self.keeping.oldest(swept);
        let kept = self.sections(swept).rev().filter_map(|section| self.mark(section));
        let mut found = kept.filter(|spot| spot.position >= oldest && spot.number <= number);
        let begin = Spot { position: 0, number: 0 };
        Ok(found.next().or((oldest == 0).then_some(begin)))
    }

    /// The committed end.
    fn newest(&self) -> Result<Spot, Astray> {
        for _ in 0..TURNS_MAX {
            if let Some(spot) = self.look_for_newest()? {
                return Ok(spot);
            }
        }
        Err(Astray::Contended)
    }

    /// The committed end; `None` when it was overtaken on the way.
    fn look_for_newest(&self) -> Result<Option<Spot>, Astray> {
        let before = self.swept()?;
        match self.mark_before(u64::MAX)? {
            Some(spot) => self.walk(spot, u64::MAX),
            None if self.swept()? == before => Err(Corruption::Kept.into()),
            None => Ok(None),
        }
    }

    /// Takes its place, as `join` says.
    fn join(&mut self, join: Join) -> Result<(), AttachError> {
        let asked = match join {
            Join::Newest => {
                self.seek(self.newest()?);
                return Ok(());
            }
            Join::Oldest => {
                self.seek(self.first_from(0)?);
                return Ok(());
            }
            Join::At(asked) => asked,
        };
        let newest = self.newest()?.number;
        if asked > newest {
            return Err(AttachError::Ahead { asked, newest });
        }
        for _ in 0..TURNS_MAX {
            let Some(spot) = self.mark_before(asked)? else {
                let oldest = self.first_from(0)?;
                if oldest.number >= asked {
                    self.owed = oldest.number - asked;
                    self.seek(oldest);
                    return Ok(());
                }
                continue;
            };
            if let Some(spot) = self.walk(spot, asked)? {
                self.seek(spot);
                return Ok(());
            }
        }
        Err(Corruption::Kept.into())
    }
}

/// An end that receives every message of a broadcast ring of records; by the names
/// [`BroadcastRecordConsumer`] and [`BroadcastRecordObserver`].
///
/// It reads in place, without a copy. In a ring that is not lossless the producer may overwrite a
/// record while it is read: [`BroadcastRecord::release`] says whether it did.
///
/// [`BroadcastRecordConsumer`]: crate::BroadcastRecordConsumer
/// [`BroadcastRecordObserver`]: crate::BroadcastRecordObserver
pub struct BroadcastRecordReceiver<W> {
    follower: Follower,
    attend: W,
    trusted: bool,
    corruption: Option<Corruption>,
    /// The place at which a wait last found nothing.
    caught_up_at: Spot,
}

impl BroadcastRecordReceiver<Claimed> {
    pub(crate) fn claim(
        parts: ReceiverParts,
        stats: StatsWriter,
        slot: u32,
        geometry: RecordGeometry,
        keeping: Keeping,
        join: Join,
    ) -> Result<Self, AttachError> {
        let ReceiverParts { control, payload, link } = parts;
        let follower = Follower::new(&control, &payload, geometry, keeping)?;
        let attend = Claimed::new(&control, slot, true, keeping.lossless, link, stats);
        let attend = attend.ok_or(AttachError::ReadOnly)?;
        let caught_up_at = follower.at;
        let mut receiver =
            Self { follower, attend, trusted: false, corruption: None, caught_up_at };
        receiver.join(join)?;
        Ok(receiver)
    }

    /// Takes its place; in a lossless ring, so that it is kept from then on.
    fn join(&mut self, join: Join) -> Result<(), AttachError> {
        self.attend.set_required(false);
        self.follower.join(join)?;
        let Spot { position, number } = self.follower.at;
        self.attend.begin(position, number - self.follower.owed);
        let given_up = if self.follower.keeping.lossless { self.insist()? } else { 0 };
        if given_up > 0 {
            // Who asked for a record is told; who did not begins here.
            self.follower.owed += if matches!(join, Join::At(_)) { given_up } else { 0 };
            let Spot { position, number } = self.follower.at;
            self.attend.begin(position, number - self.follower.owed);
        }
        self.caught_up_at = self.follower.at;
        Ok(())
    }

    /// J1 to J3: from now on the producer keeps what has not been received; how many messages it
    /// had promised to others already.
    fn insist(&mut self) -> Result<u64, Corruption> {
        let Self { follower, attend, .. } = self;
        let before = follower.at.number;
        attend.set_required(true);
        for _ in 0..TURNS_MAX {
            fence(SeqCst); // edge `join`
            let promised = follower.control.load64(PROMISED, Acquire);
            if !follower.keeping.is_gone(follower.at.position, promised) {
                return Ok(follower.at.number - before);
            }
            if promised > POSITION_MAX {
                break;
            }
            // Nobody sweeps any further now, so what cannot be found is a lie.
            let Ok(spot) = follower.first_from(follower.keeping.oldest(promised)) else { break };
            if spot.number < follower.at.number {
                break;
            }
            follower.seek(spot);
            attend.moved(spot.position, spot.number);
        }
        attend.set_required(false);
        Err(Corruption::Kept)
    }

    /// In a lossless ring: whether the producer waits for this consumer. True at first; if false,
    /// and in any other ring, it may be overtaken.
    ///
    /// # Errors
    ///
    /// [`RecvError::Gap`] when it is to be waited for again, and from then on is, but so many
    /// messages were given up before.
    pub fn required(&mut self, required: bool) -> Result<(), RecvError> {
        if !self.attend.usable() {
            return Err(self.refusal());
        }
        if !required || !self.follower.keeping.lossless {
            self.attend.set_required(false);
            return Ok(());
        }
        match self.insist() {
            Ok(0) => Ok(()),
            Ok(missed) => {
                self.attend.missed(missed);
                Err(RecvError::Gap { missed })
            }
            Err(corruption) => Err(self.corrupt(corruption)),
        }
    }

    /// Trusts the producer of a lossless ring: records can be read as slices, while this consumer
    /// is required. In any other ring nothing changes.
    ///
    /// # Safety
    ///
    /// From now on, no process that has the segment mapped may write into a record that is
    /// committed and that this consumer has not released.
    #[expect(unsafe_code, reason = "a statement of trust that the compiler cannot check")]
    pub unsafe fn trust_peer(&mut self) {
        self.trusted = self.follower.keeping.lossless;
    }

    /// What this consumer counted, and those before it in its place. Bytes are not counted.
    pub fn stats(&self) -> Stats {
        self.attend.stats(self.position(), 0)
    }

    endpoint_calls!(attend.port, own stats);
    doorbell_calls!(attend.port);
}

impl BroadcastRecordReceiver<Unseen> {
    pub(crate) fn observe(
        parts: ReceiverParts,
        geometry: RecordGeometry,
        keeping: Keeping,
        join: Join,
    ) -> Result<Self, AttachError> {
        let ReceiverParts { control, payload, link } = parts;
        let mut follower = Follower::new(&control, &payload, geometry, keeping)?;
        follower.join(join)?;
        let (caught_up_at, attend) = (follower.at, Unseen::new(link));
        Ok(Self { follower, attend, trusted: false, corruption: None, caught_up_at })
    }

    observer_calls!(attend.onlooker);
}

impl<W: Attend> BroadcastRecordReceiver<W> {
    /// Reads the next record if there is one.
    ///
    /// It is seen again by the next read unless it is released.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the producer; when everything was received and it has left or died, the
    /// answer is `Closed` or `PeerDied`. [`RecvError::Gap`] when messages were overwritten before
    /// they were received.
    #[inline(always)]
    pub fn try_read(&mut self) -> Result<BroadcastRecord<'_, W>, RecvError> {
        let found = match self.poll() {
            Err(RecvError::Empty) => self.still_empty()?,
            found => found?,
        };
        Ok(BroadcastRecord { receiver: self, found })
    }

    /// Reads the next record, waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when everything was received and the producer has left or died,
    /// see `outlive_peer`; a ring that never had a producer is waited for. `Gap` as
    /// [`try_read`](Self::try_read).
    #[inline(always)]
    pub fn read(&mut self) -> Result<BroadcastRecord<'_, W>, RecvError> {
        self.read_until(|| None)
    }

    /// Reads the next record, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and `TimedOut`.
    pub fn read_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<BroadcastRecord<'_, W>, RecvError> {
        self.read_until(|| Some(deadline))
    }

    /// Reads the next record, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and `TimedOut`.
    pub fn read_timeout(&mut self, timeout: Duration) -> Result<BroadcastRecord<'_, W>, RecvError> {
        self.read_until(|| deadline_after(timeout))
    }

    /// Receives the next record into `bytes` (whose contents it replaces), waiting for it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn recv(&mut self, bytes: &mut Vec<u8>) -> Result<(), RecvError> {
        let record = self.read()?;
        record.copy_into(bytes);
        record.release()
    }

    /// Receives the next record into `bytes` (whose contents it replaces) if there is one.
    ///
    /// # Errors
    ///
    /// As [`try_read`](Self::try_read).
    pub fn try_recv(&mut self, bytes: &mut Vec<u8>) -> Result<(), RecvError> {
        let record = self.try_read()?;
        record.copy_into(bytes);
        record.release()
    }

    #[inline(always)]
    fn read_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<BroadcastRecord<'_, W>, RecvError> {
        let found = match self.poll() {
            Err(RecvError::Empty) => self.wait_for_record(deadline())?,
            found => found?,
        };
        Ok(BroadcastRecord { receiver: self, found })
    }

    #[inline(always)]
    fn poll(&mut self) -> Result<Found, RecvError> {
        if !self.attend.usable() {
            return Err(self.refusal());
        }
        match self.follower.find() {
            Err(error @ (RecvError::Gap { .. } | RecvError::Corrupt(_))) => Err(self.lost(error)),
            looked => looked,
        }
    }

    #[cold]
    fn lost(&mut self, error: RecvError) -> RecvError {
        match error {
            RecvError::Corrupt(corruption) => self.corrupt(corruption),
            _ => self.overtaken(),
        }
    }

    /// C5.
    #[cold]
    #[inline(never)]
    fn overtaken(&mut self) -> RecvError {
        match self.follower.resume() {
            Ok(missed) => {
                self.attend.missed(missed);
                self.attend.moved(self.follower.at.position, self.follower.at.number);
                RecvError::Gap { missed }
            }
            Err(Astray::Corrupt(corruption)) => self.corrupt(corruption),
            Err(Astray::Contended) => RecvError::Empty,
        }
    }

    #[cold]
    #[inline(never)]
    fn still_empty(&mut self) -> Result<Found, RecvError> {
        self.attend.found_nothing();
        match self.attend.tried_in_vain() {
            None => Err(RecvError::Empty),
            // Once more, now that the producer's end is known.
            Some(end) => match self.poll() {
                Err(RecvError::Empty) => Err(end.into()),
                found => found,
            },
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_record(&mut self, deadline: Option<Instant>) -> Result<Found, RecvError> {
        self.attend.found_nothing();
        let at = self.follower.at;
        let passed = at.number - self.caught_up_at.number;
        let each = (at.position - self.caught_up_at.position) / passed.max(1);
        self.caught_up_at = at;
        if self.attend.look_away(passed, each) {
            match self.poll() {
                Err(RecvError::Empty) => {}
                found => return found,
            }
        }
        wait_for(self, deadline, |end| &mut end.attend, Self::poll)
    }

    #[cold]
    fn corrupt(&mut self, corruption: Corruption) -> RecvError {
        self.corruption = Some(corruption);
        self.attend.condemn();
        RecvError::Corrupt(corruption)
    }

    #[cold]
    fn refusal(&self) -> RecvError {
        self.corruption.map_or(RecvError::Forked, RecvError::Corrupt)
    }

    /// The length of the ring in bytes.
    pub fn capacity(&self) -> u64 {
        self.follower.geometry.capacity()
    }

    /// The longest record that can come, in bytes: no honest producer sends a longer one. One that
    /// lies may send any that the ring holds.
    pub fn len_max(&self) -> usize {
        self.follower.geometry.len_max() as usize
    }

    /// The length of each record's user header in bytes.
    pub fn user_header_len(&self) -> usize {
        self.follower.geometry.user_header() as usize
    }

    /// The position of the next record: how many were ever sent before it.
    pub fn position(&self) -> u64 {
        self.follower.at.number - self.follower.owed
    }

    /// How many records were sent and neither received nor missed; some of them may be
    /// overwritten by now. Looks at the headers of the last few.
    pub fn lag(&self) -> u64 {
        let newest = self.follower.newest().map_or(0, |spot| spot.number);
        newest.saturating_sub(self.position())
    }
}

/// A record in a broadcast ring. Dropping it leaves it to be read again.
///
/// Every call copies its bytes, or hands them to the kernel. In a ring that is not lossless they
/// may be overwritten meanwhile: what was copied is the record only if
/// [`release`](Self::release) says so.
#[must_use = "a record that is not released is read again"]
pub struct BroadcastRecord<'a, W: Attend> {
    receiver: &'a mut BroadcastRecordReceiver<W>,
    found: Found,
}

impl<W: Attend> BroadcastRecord<'_, W> {
    /// The length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.found.len as usize
    }

    /// Whether the record has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its position: how many records were ever sent before it.
    pub fn position(&self) -> u64 {
        self.receiver.position()
    }

    /// Copies the front of the user header into `bytes`; how many bytes that were.
    pub fn user_header(&self, bytes: &mut [u8]) -> usize {
        let follower = &self.receiver.follower;
        let count = bytes.len().min(follower.geometry.user_header() as usize);
        follower.payload.read(follower.offset as usize + WORD_LEN, &mut bytes[..count]);
        count
    }

    /// Copies the record into `bytes`, as much as fits; how many bytes that were.
    #[inline(always)]
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        self.copy_from(0, bytes)
    }

    /// Copies the record from `offset` on into `bytes`, as much as there is and fits; how many
    /// bytes that were.
    #[inline(always)]
    pub fn copy_from(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let offset = offset.min(self.len());
        let count = bytes.len().min(self.len() - offset);
        let at = self.found.payload as usize + offset;
        self.receiver.follower.payload.read(at, &mut bytes[..count]);
        count
    }

    /// Replaces the contents of `bytes` by the record.
    pub fn copy_into(&self, bytes: &mut Vec<u8>) {
        bytes.resize(self.len(), 0);
        self.copy_to(bytes);
    }

    /// The record as a value of type `T`; `None` if it has another length, or its bytes are no
    /// valid `T`.
    pub fn read_as<T: CheckedBitPattern>(&self) -> Option<T> {
        if self.len() != size_of::<T>() {
            return None;
        }
        self.receiver.follower.payload.read_checked(self.found.payload as usize)
    }

    /// One `write(2)` of the record from `offset` on to a file or socket; how many bytes it took.
    ///
    /// # Errors
    ///
    /// That of `write(2)`; a signal does not end it.
    pub fn write_to(&self, offset: usize, file: impl AsFd) -> io::Result<usize> {
        let offset = offset.min(self.len());
        let at = self.found.payload as usize + offset;
        let (payload, len) = (&self.receiver.follower.payload, self.len() - offset);
        Ok(payload.write_to_fd(at, len, file.as_fd())?)
    }

    /// The record's bytes, if the producer is trusted (`trust_peer`), the ring lossless and this
    /// consumer required.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the caller of `trust_peer` vouches for the peer")]
    pub fn as_slice(&self) -> Option<&[u8]> {
        if !self.receiver.trusted || !self.receiver.attend.is_required() {
            return None;
        }
        let at = self.found.payload as usize;
        // SAFETY: the ring is lossless, or nobody is `trusted`, and this consumer required: the
        // producer keeps a record until such a consumer has released it, which takes `self`; to be
        // required no longer takes the receiver, which is borrowed. That nobody else writes there
        // is the contract of `trust_peer`.
        Some(unsafe { self.receiver.follower.payload.slice(at, self.len()) })
    }

    /// C3 and C4: goes on to the next record.
    ///
    /// # Errors
    ///
    /// [`RecvError::Gap`] if this record may have been overwritten since it was found: what was
    /// read of it is worth nothing, and it is one of those that were missed.
    #[inline(always)]
    pub fn release(self) -> Result<(), RecvError> {
        let Self { receiver, found } = self;
        if !receiver.attend.usable() {
            return Err(receiver.refusal());
        }
        if receiver.follower.is_gone() {
            return Err(receiver.overtaken());
        }
        receiver.follower.pass(&found);
        let Spot { position, number } = receiver.follower.at;
        receiver.attend.moved(position, number);
        Ok(())
    }
}

impl Waits for BroadcastRecordReceiver<Claimed> {
    fn port(&mut self) -> &mut Port {
        &mut self.attend.port
    }

    fn ready(&mut self) -> bool {
        // Looks without counting a gap, which is the next call's to tell.
        !self.attend.usable() || self.follower.find() != Err(RecvError::Empty)
    }
}

impl Waitable for BroadcastRecordReceiver<Claimed> {}

impl<W> fmt::Debug for BroadcastRecordReceiver<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastRecordReceiver")
            .field("at", &self.follower.at)
            .finish_non_exhaustive()
    }
}

impl<W: Attend> fmt::Debug for BroadcastRecord<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastRecord").field("len", &self.len()).finish_non_exhaustive()
    }
}
