//! The operations of rings with one consumer: typed, by bytes, and of records.

use super::stage::{Actor, answered, attached, told};
use crate::segment::Segment;
use crate::wait::WaitMode;
use crate::{
    Consumer, Doorbell, Producer, RawConsumer, RawProducer, RecordConsumer, RecordProducer,
    WaitAny, Waitable,
};
use std::time::Duration;

/// Long enough to spin and to sleep once, for some arguments; for the others, to look.
pub(super) fn short(arg: u16) -> Duration {
    Duration::from_micros(if (arg >> 4).is_multiple_of(8) { 30 } else { 0 })
}

/// The ways to pass the time, by number.
pub(super) fn mode(number: u16) -> WaitMode {
    [WaitMode::Adaptive, WaitMode::Block, WaitMode::Yield, WaitMode::Spin][usize::from(number) % 4]
}

/// Waits a short time for one of two ends.
pub(super) fn wait_for<'a>(
    arg: u16,
    first: Option<&'a mut dyn Waitable>,
    second: Option<&'a mut dyn Waitable>,
) {
    let mut ends: Vec<&'a mut dyn Waitable> = first.into_iter().chain(second).collect();
    let _ = WaitAny::new().wait_timeout(&mut ends, short(arg));
}

/// Hangs a bell for an end and goes to sleep at it, but for the sleep.
macro_rules! ring_bell {
    ($bell:expr, $end:expr) => {
        if let Some(end) = $end.as_mut() {
            if let Ok(bell) = end.doorbell() {
                let _ = bell.arm(end);
                bell.clear();
                $bell = Some(bell);
            }
        }
    };
}

/// Both ends of a typed ring of messages of `N` words.
pub(super) struct Typed<const N: usize> {
    objects: &'static [&'static str],
    tx: Option<Producer<[u64; N]>>,
    rx: Option<Consumer<[u64; N]>>,
    bell: Option<Doorbell>,
}

impl Typed<3> {
    pub(super) fn new() -> Self {
        Self { objects: &["ring"], tx: None, rx: None, bell: None }
    }
}

impl Typed<8> {
    pub(super) fn wide() -> Self {
        Self { objects: &["wide"], tx: None, rx: None, bell: None }
    }
}

impl<const N: usize> Actor for Typed<N> {
    fn objects(&self) -> &'static [&'static str] {
        self.objects
    }

    fn leave(&mut self) {
        (self.tx, self.rx, self.bell) = (None, None, None);
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let name = self.objects[0];
        let message = [u64::from(arg); N];
        let count = usize::from(arg) % 20;
        match code % 24 {
            0 => {
                self.tx = None;
                self.tx = attached(segment.producer(name));
            }
            1 => {
                self.rx = None;
                self.rx = attached(segment.consumer(name));
            }
            21 => drop((self.tx.take(), self.bell.take())),
            22 => self.rx = None,
            23 => {
                wait_for(
                    arg,
                    self.tx.as_mut().map(|end| end as _),
                    self.rx.as_mut().map(|end| end as _),
                );
                return true;
            }
            20 => {
                ring_bell!(self.bell, self.rx);
                ring_bell!(self.bell, self.tx);
                return true;
            }
            2..=10 => {
                let tx = match &mut self.tx {
                    Some(tx) => tx,
                    none => match attached(segment.producer(name)) {
                        Some(tx) => none.insert(tx),
                        None => return false,
                    },
                };
                match code % 24 {
                    2 => told(tx.push_or_drop(message)),
                    3 => {
                        if let Some(sent) = answered(tx.push_batch(&vec![message; count])) {
                            assert!(sent <= count);
                        }
                    }
                    4 => told(tx.push_all(&vec![message; count])),
                    5 => {
                        tx.wait_mode(mode(arg));
                        told(tx.push_timeout(message, short(arg)));
                        return true;
                    }
                    6 => {
                        _ = (tx.len(), tx.is_empty(), tx.position(), tx.stats(), tx.slowest());
                        _ = (tx.peer(), tx.peer_changed(), tx.outlive_peer(arg.is_multiple_of(2)));
                    }
                    _ => told(tx.try_push(message)),
                }
            }
            _ => {
                let rx = match &mut self.rx {
                    Some(rx) => rx,
                    none => match attached(segment.consumer(name)) {
                        Some(rx) => none.insert(rx),
                        None => return false,
                    },
                };
                match code % 24 {
                    11 => told(rx.peek()),
                    12 => told(rx.skip()),
                    13 => {
                        let mut many = Vec::new();
                        let got = answered(rx.recv_batch(&mut many, count));
                        assert!(many.len() <= count && got.is_none_or(|got| got == many.len()));
                    }
                    14 => {
                        rx.wait_mode(mode(arg));
                        told(rx.recv_timeout(short(arg)));
                        return true;
                    }
                    15 => {
                        assert!(rx.lag() <= rx.capacity(), "more than the ring holds");
                        _ = (rx.position(), rx.stats(), rx.peer(), rx.peer_changed());
                        _ = rx.outlive_peer(arg.is_multiple_of(2));
                    }
                    _ => told(rx.try_recv()),
                }
            }
        }
        false
    }
}

/// Both ends of a typed ring by bytes.
#[derive(Default)]
pub(super) struct Raw {
    tx: Option<RawProducer>,
    rx: Option<RawConsumer>,
}

impl Actor for Raw {
    fn objects(&self) -> &'static [&'static str] {
        &["ring"]
    }

    fn leave(&mut self) {
        (self.tx, self.rx) = (None, None);
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let bytes = [arg as u8; 24 * 20];
        match code % 16 {
            0 => {
                self.tx = None;
                self.tx = attached(segment.raw_producer("ring"));
            }
            1 => {
                self.rx = None;
                self.rx = attached(segment.raw_consumer("ring"));
            }
            2..=7 => {
                if self.tx.is_none() {
                    self.tx = attached(segment.raw_producer("ring"));
                }
                let Some(tx) = &mut self.tx else { return false };
                match code % 16 {
                    2 => told(tx.push_batch(&bytes[..usize::from(arg) % bytes.len()])),
                    3 => told(tx.push_batch(&bytes[..usize::from(arg) % 20 * 24])),
                    4 => {
                        told(tx.push_timeout(&bytes[..24], short(arg)));
                        return true;
                    }
                    5 => _ = (tx.len(), tx.stats(), tx.slowest(), tx.peer()),
                    _ => told(tx.try_push(&bytes[..24])),
                }
            }
            _ => {
                if self.rx.is_none() {
                    self.rx = attached(segment.raw_consumer("ring"));
                }
                let Some(rx) = &mut self.rx else { return false };
                let mut message = [0; 24];
                match code % 16 {
                    8 => told(rx.skip()),
                    9 => {
                        told(rx.recv_timeout(&mut message, short(arg)));
                        return true;
                    }
                    10 => {
                        assert!(rx.lag() <= rx.capacity(), "more than the ring holds");
                        _ = (rx.stats(), rx.peer());
                    }
                    _ => told(rx.try_recv(&mut message)),
                }
            }
        }
        false
    }
}

/// Both ends of a ring of records.
pub(super) struct Records {
    objects: &'static [&'static str],
    tx: Option<RecordProducer>,
    rx: Option<RecordConsumer>,
    bell: Option<Doorbell>,
    null: std::fs::File,
}

impl Records {
    pub(super) fn new() -> Self {
        Self::of(&["records"])
    }

    pub(super) fn aligned() -> Self {
        Self::of(&["aligned"])
    }

    fn of(objects: &'static [&'static str]) -> Self {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null");
        Self { objects, tx: None, rx: None, bell: None, null: null.expect("/dev/null") }
    }

    fn send(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.tx.is_none() {
            self.tx = attached(segment.record_producer(self.objects[0]));
        }
        let Some(tx) = &mut self.tx else { return false };
        let bytes = [arg as u8; 1200];
        let bytes = &bytes[..usize::from(arg) % if arg & 0x8000 == 0 { 100 } else { 1200 }];
        match code {
            2 => {
                let mut batch = tx.batch();
                for _ in 0..arg % 5 {
                    told(batch.push(bytes));
                }
                assert!(batch.len() <= 5);
                if !arg.is_multiple_of(7) {
                    batch.commit();
                }
            }
            3 => {
                if let Some(mut place) = answered(tx.try_reserve(bytes.len())) {
                    assert_eq!(place.len(), bytes.len());
                    told(place.write_at(bytes.len() / 2, &bytes[bytes.len() / 2..]));
                    told(place.set_user_header(&[7; 16]));
                    let _ = place.read_from(&self.null);
                    match arg % 4 {
                        0 => {}
                        1 => place.commit_len(bytes.len() / 3),
                        2 => place.commit_written(),
                        _ => place.commit(),
                    }
                }
            }
            4 => {
                tx.wait_mode(mode(arg));
                told(tx.push_timeout(bytes, short(arg)));
                return true;
            }
            5 => {
                _ = (tx.len(), tx.len_max(), tx.position(), tx.slowest(), tx.stats());
                _ = (tx.peer(), tx.peer_changed(), tx.outlive_peer(arg.is_multiple_of(2)));
            }
            _ => told(tx.try_push(bytes)),
        }
        false
    }

    fn receive(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.rx.is_none() {
            self.rx = attached(segment.record_consumer(self.objects[0]));
        }
        let Some(rx) = &mut self.rx else { return false };
        match code {
            11 => _ = (rx.release_held(), rx.held()),
            12 => rx.rewind(),
            13 => {
                rx.wait_mode(mode(arg));
                if let Some(record) = answered(rx.read_timeout(short(arg))) {
                    record.release();
                }
                return true;
            }
            14 => {
                let mut bytes = Vec::new();
                let (most, got) = (rx.capacity() as usize, answered(rx.try_recv(&mut bytes)));
                assert!(got.is_none() || bytes.len() <= most);
            }
            15 => {
                _ = (rx.lag(), rx.position(), rx.released(), rx.held(), rx.stats());
                _ = (rx.peer(), rx.peer_changed(), rx.outlive_peer(arg.is_multiple_of(2)));
            }
            _ => {
                let most = rx.capacity() as usize;
                let Some(record) = answered(rx.try_read()) else { return false };
                let length = record.len();
                assert!(length <= most, "longer than the ring");
                match arg % 6 {
                    0 => assert_eq!(record.to_vec().len(), length),
                    1 => _ = (record.checksum(), record.read_at::<u64>(usize::from(arg / 6))),
                    2 => record.write_to(&self.null).expect("/dev/null takes all"),
                    3 => {
                        let mut seen = 0;
                        record.for_each_chunk(|chunk| seen += chunk.len());
                        assert_eq!(seen, length);
                    }
                    4 => {
                        let mut bytes = [0; 64];
                        _ = (
                            record.copy_from(usize::from(arg), &mut bytes),
                            record.user_header(&mut bytes),
                        );
                    }
                    _ => {
                        assert_eq!(record.as_slice(), None, "nobody said that the peer is trusted")
                    }
                }
                match code % 3 {
                    0 => record.hold(),
                    1 => record.release(),
                    _ => drop(record),
                }
            }
        }
        false
    }
}

impl Actor for Records {
    fn objects(&self) -> &'static [&'static str] {
        self.objects
    }

    fn leave(&mut self) {
        (self.tx, self.rx, self.bell) = (None, None, None);
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        match code % 24 {
            0 => {
                self.tx = None;
                self.tx = attached(segment.record_producer(self.objects[0]));
            }
            1 => {
                self.rx = None;
                self.rx = attached(segment.record_consumer(self.objects[0]));
            }
            22 => {
                wait_for(
                    arg,
                    self.tx.as_mut().map(|end| end as _),
                    self.rx.as_mut().map(|end| end as _),
                );
                return true;
            }
            23 => {
                ring_bell!(self.bell, self.rx);
                ring_bell!(self.bell, self.tx);
                return true;
            }
            code @ 2..=10 => return self.send(segment, code, arg),
            code => return self.receive(segment, code, arg),
        }
        false
    }
}
