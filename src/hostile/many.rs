//! The operations of rings with many consumers or many producers: broadcast, lanes, shared.

use super::rings::{mode, short, wait_for};
use super::stage::{Actor, answered, attached, told};
use crate::segment::Segment;
use crate::{
    BroadcastConsumer, BroadcastObserver, BroadcastRecordConsumer, BroadcastRecordObserver, Join,
    LaneProducer, LanesConsumer, Producer, RawBroadcastConsumer, RecordProducer, SharedConsumer,
    SharedProducer,
};

type Triple = [u64; 3];

fn join(arg: u16) -> Join {
    match arg % 3 {
        0 => Join::Oldest,
        1 => Join::Newest,
        _ => Join::At(u64::from(arg / 3) % 40),
    }
}

/// The ends of a typed broadcast ring.
pub(super) struct Broadcast {
    objects: &'static [&'static str],
    tx: Option<Producer<Triple>>,
    rx: Option<BroadcastConsumer<Triple>>,
    raw: Option<RawBroadcastConsumer>,
    observer: Option<BroadcastObserver<Triple>>,
}

impl Broadcast {
    pub(super) fn new() -> Self {
        Self { objects: &["many"], tx: None, rx: None, raw: None, observer: None }
    }

    pub(super) fn lossless() -> Self {
        Self { objects: &["many.lossless"], ..Self::new() }
    }

    fn send(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.tx.is_none() {
            self.tx = attached(segment.broadcast_producer(self.objects[0]));
        }
        let Some(tx) = &mut self.tx else { return false };
        let (message, count) = ([u64::from(arg); 3], usize::from(arg) % 30);
        match code {
            4 => {
                if let Some(sent) = answered(tx.push_batch(&vec![message; count])) {
                    assert!(sent <= count);
                }
            }
            5 => told(tx.push_all(&vec![message; count])),
            6 => {
                tx.wait_mode(mode(arg));
                told(tx.push_timeout(message, short(arg)));
                return true;
            }
            7 => {
                _ = (tx.len(), tx.position(), tx.stats(), tx.slowest());
                _ = (tx.peer(), tx.peer_changed());
            }
            _ => told(tx.try_push(message)),
        }
        false
    }

    fn receive(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.rx.is_none() {
            self.rx = attached(segment.broadcast_consumer(self.objects[0], join(arg)));
        }
        let Some(rx) = &mut self.rx else { return false };
        let count = usize::from(arg) % 30;
        match code {
            12 => {
                let mut many = Vec::new();
                let got = answered(rx.recv_batch(&mut many, count));
                assert!(many.len() <= count && got.is_none_or(|got| got == many.len()));
            }
            13 => {
                rx.wait_mode(mode(arg));
                told(rx.recv_timeout(short(arg)));
                return true;
            }
            14 => told(rx.required(arg.is_multiple_of(2))),
            15 => _ = (rx.lag(), rx.position(), rx.stats(), rx.peer(), rx.peer_changed()),
            _ => told(rx.try_recv()),
        }
        false
    }
}

impl Actor for Broadcast {
    /// An end that is overtaken looks for its place 64 times.
    fn touches_per_word(&self) -> u64 {
        4 * 64
    }

    fn objects(&self) -> &'static [&'static str] {
        self.objects
    }

    fn leave(&mut self) {
        (self.tx, self.rx, self.raw, self.observer) = (None, None, None, None);
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let name = self.objects[0];
        match code % 28 {
            0 => {
                self.tx = None;
                self.tx = attached(segment.broadcast_producer(name));
            }
            1 => {
                self.rx = None;
                self.rx = attached(segment.broadcast_consumer(name, join(arg)));
            }
            2 => {
                self.raw = None;
                self.raw = attached(segment.raw_broadcast_consumer(name, join(arg)));
            }
            3 => self.observer = attached(segment.broadcast_observer(name, join(arg))),
            20..=22 => {
                if let Some(raw) = &mut self.raw {
                    told(raw.try_recv(&mut [0; 24]));
                    _ = (raw.lag(), raw.stats());
                }
            }
            23..=26 => {
                if let Some(observer) = &mut self.observer {
                    let mut many = Vec::new();
                    told(observer.try_recv());
                    told(observer.recv_batch(&mut many, 5));
                    assert!(many.len() <= 5);
                    _ = (observer.lag(), observer.peer());
                }
            }
            27 => {
                wait_for(
                    arg,
                    self.tx.as_mut().map(|end| end as _),
                    self.rx.as_mut().map(|end| end as _),
                );
                return true;
            }
            code @ 4..=11 => return self.send(segment, code, arg),
            code => return self.receive(segment, code, arg),
        }
        false
    }
}

/// The ends of a broadcast ring of records.
pub(super) struct News {
    objects: &'static [&'static str],
    tx: Option<RecordProducer>,
    rx: Option<BroadcastRecordConsumer>,
    observer: Option<BroadcastRecordObserver>,
}

impl News {
    pub(super) fn new() -> Self {
        Self { objects: &["news"], tx: None, rx: None, observer: None }
    }

    pub(super) fn lossless() -> Self {
        Self { objects: &["news.lossless"], ..Self::new() }
    }

    fn receive(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.rx.is_none() {
            self.rx = attached(segment.broadcast_record_consumer(self.objects[0], join(arg)));
        }
        let Some(rx) = &mut self.rx else { return false };
        match code {
            12 => {
                let mut bytes = Vec::new();
                let (most, got) = (rx.capacity() as usize, answered(rx.try_recv(&mut bytes)));
                assert!(got.is_none() || bytes.len() <= most);
            }
            13 => {
                rx.wait_mode(mode(arg));
                told(rx.read_timeout(short(arg)));
                return true;
            }
            14 => told(rx.required(arg.is_multiple_of(2))),
            15 => _ = (rx.lag(), rx.position(), rx.stats(), rx.peer(), rx.peer_changed()),
            _ => {
                let most = rx.capacity() as usize;
                if let Some(record) = answered(rx.try_read()) {
                    assert!(record.len() <= most, "longer than the ring");
                    let mut bytes = Vec::new();
                    record.copy_into(&mut bytes);
                    assert_eq!(bytes.len(), record.len());
                    let mut some = [0; 40];
                    _ = (record.copy_from(usize::from(arg), &mut some), record.read_as::<u64>());
                    _ = (record.user_header(&mut some), record.as_slice());
                    told(record.release());
                }
            }
        }
        false
    }
}

impl Actor for News {
    /// An end that is overtaken looks for its place 64 times.
    fn touches_per_word(&self) -> u64 {
        4 * 64
    }

    fn objects(&self) -> &'static [&'static str] {
        self.objects
    }

    fn leave(&mut self) {
        (self.tx, self.rx, self.observer) = (None, None, None);
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let name = self.objects[0];
        match code % 28 {
            0 => {
                self.tx = None;
                self.tx = attached(segment.broadcast_record_producer(name));
            }
            1 => {
                self.rx = None;
                self.rx = attached(segment.broadcast_record_consumer(name, join(arg)));
            }
            2 => self.observer = attached(segment.broadcast_record_observer(name, join(arg))),
            3..=11 => {
                if self.tx.is_none() {
                    self.tx = attached(segment.broadcast_record_producer(name));
                }
                let Some(tx) = &mut self.tx else { return false };
                let bytes = [arg as u8; 1500];
                let bytes = &bytes[..usize::from(arg) % if arg & 0x8000 == 0 { 200 } else { 1500 }];
                match code % 28 {
                    3 => {
                        tx.wait_mode(mode(arg));
                        told(tx.push_timeout(bytes, short(arg)));
                        return true;
                    }
                    4 => _ = (tx.len(), tx.slowest(), tx.stats(), tx.peer(), tx.peer_changed()),
                    5 => {
                        let mut batch = tx.batch();
                        for _ in 0..arg % 5 {
                            told(batch.push(bytes));
                        }
                        batch.commit();
                    }
                    _ => told(tx.try_push(bytes)),
                }
            }
            22..=26 => {
                if let Some(observer) = &mut self.observer {
                    let mut bytes = Vec::new();
                    let (most, got) =
                        (observer.capacity() as usize, answered(observer.try_recv(&mut bytes)));
                    assert!(got.is_none() || bytes.len() <= most);
                    _ = (observer.lag(), observer.peer());
                }
            }
            27 => {
                wait_for(
                    arg,
                    self.tx.as_mut().map(|end| end as _),
                    self.rx.as_mut().map(|end| end as _),
                );
                return true;
            }
            code => return self.receive(segment, code, arg),
        }
        false
    }
}

/// The ends of lanes.
#[derive(Default)]
pub(super) struct LanesEnds {
    tx: [Option<LaneProducer<Triple>>; 2],
    rx: Option<LanesConsumer<Triple>>,
}

impl LanesEnds {
    fn send(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let tx = &mut self.tx[usize::from(arg / 3 % 2)];
        if tx.is_none() {
            *tx = attached(segment.lane_producer("lanes"));
        }
        let Some(tx) = tx else { return false };
        let (message, count) = ([u64::from(arg); 3], usize::from(arg) % 20);
        match code {
            4 => {
                if let Some(sent) = answered(tx.push_batch(&vec![message; count])) {
                    assert!(sent <= count);
                }
            }
            5 => told(tx.push_all(&vec![message; count])),
            6 => {
                tx.wait_mode(mode(arg));
                told(tx.push_timeout(message, short(arg)));
                return true;
            }
            7 => _ = (tx.len(), tx.position(), tx.stats(), tx.lane(), tx.peer(), tx.peer_changed()),
            _ => told(tx.try_push(message)),
        }
        false
    }

    fn receive(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.rx.is_none() {
            self.rx = attached(segment.lanes_consumer("lanes"));
        }
        let Some(rx) = &mut self.rx else { return false };
        let count = usize::from(arg) % 20;
        match code {
            12 => {
                let mut many = Vec::new();
                let got = answered(rx.recv_batch(&mut many, count));
                assert!(many.len() <= count && got.is_none_or(|got| got == many.len()));
                assert!(many.iter().all(|message| message.lane < 3));
            }
            13 => {
                rx.wait_mode(mode(arg));
                told(rx.recv_timeout(short(arg)));
                return true;
            }
            14 => told(rx.skip()),
            15 => told(rx.peek()),
            16 => {
                assert!(rx.lag() <= 3 * rx.capacity(), "more than the lanes hold");
                for lane in 0..5 {
                    _ = (rx.lag_of(lane), rx.position_of(lane), rx.peer_of(lane));
                    _ = rx.corruption_of(lane);
                }
                _ = (rx.failed_lane(), rx.stats(), rx.peer(), rx.peer_changed());
            }
            _ => told(rx.try_recv()),
        }
        false
    }
}

impl Actor for LanesEnds {
    fn objects(&self) -> &'static [&'static str] {
        &["lanes"]
    }

    fn leave(&mut self) {
        *self = Self::default();
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        match code % 24 {
            0 => {
                let tx = &mut self.tx[usize::from(arg % 2)];
                *tx = None;
                *tx = attached(segment.lane_producer("lanes"));
            }
            1 => {
                let tx = &mut self.tx[usize::from(arg % 2)];
                *tx = None;
                *tx = attached(segment.lane_producer_at("lanes", u32::from(arg / 2 % 3)));
            }
            2 => {
                self.rx = None;
                self.rx = attached(segment.lanes_consumer("lanes"));
            }
            3 => {
                let tx = self.tx[0].as_mut().map(|end| end as _);
                wait_for(arg, tx, self.rx.as_mut().map(|end| end as _));
                return true;
            }
            code @ 4..=11 => return self.send(segment, code, arg),
            code => return self.receive(segment, code, arg),
        }
        false
    }
}

/// The ends of a shared ring.
#[derive(Default)]
pub(super) struct SharedEnds {
    tx: [Option<SharedProducer<Triple>>; 2],
    rx: [Option<SharedConsumer<Triple>>; 2],
}

impl SharedEnds {
    fn send(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let tx = &mut self.tx[usize::from(arg / 3 % 2)];
        if tx.is_none() {
            *tx = attached(segment.shared_producer("shared"));
        }
        let Some(tx) = tx else { return false };
        let (message, count) = ([u64::from(arg); 3], usize::from(arg) % 20);
        match code {
            4 => {
                if let Some(sent) = answered(tx.push_batch(&vec![message; count])) {
                    assert!(sent <= count);
                }
            }
            5 => {
                tx.wait_mode(mode(arg));
                told(tx.push_timeout(message, short(arg)));
                return true;
            }
            6 => _ = (tx.number(), tx.stats(), tx.peer(), tx.peer_changed()),
            _ => told(tx.try_push(message)),
        }
        false
    }

    fn receive(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let rx = &mut self.rx[usize::from(arg / 3 % 2)];
        if rx.is_none() {
            *rx = attached(segment.shared_consumer("shared"));
        }
        let Some(rx) = rx else { return false };
        let count = usize::from(arg) % 20;
        match code {
            12 => {
                let mut many = Vec::new();
                let got = answered(rx.recv_batch(&mut many, count));
                assert!(many.len() <= count && got.is_none_or(|got| got == many.len()));
            }
            13 => {
                rx.wait_mode(mode(arg));
                told(rx.recv_timeout(short(arg)));
                return true;
            }
            14 => {
                if let Some(message) = answered(rx.try_hold()) {
                    _ = (message.value(), message.position(), message.seen_before());
                    if arg.is_multiple_of(2) {
                        message.release();
                    }
                }
            }
            15 => {
                assert!(rx.lag() <= rx.capacity(), "more than the ring holds");
                _ = (rx.number(), rx.stats(), rx.peer(), rx.peer_changed());
            }
            _ => told(rx.try_recv()),
        }
        false
    }
}

impl Actor for SharedEnds {
    /// An attempt that is lost to another end is made again, at most 64 times 64 times.
    fn touches_per_word(&self) -> u64 {
        128
    }

    fn objects(&self) -> &'static [&'static str] {
        &["shared"]
    }

    fn leave(&mut self) {
        *self = Self::default();
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        match code % 24 {
            0 => {
                let tx = &mut self.tx[usize::from(arg % 2)];
                *tx = None;
                *tx = attached(segment.shared_producer("shared"));
            }
            1 => {
                let rx = &mut self.rx[usize::from(arg % 2)];
                *rx = None;
                *rx = attached(segment.shared_consumer("shared"));
            }
            2 => drop((self.tx[0].take(), self.rx[1].take())),
            3 => {
                let tx = self.tx[0].as_mut().map(|end| end as _);
                wait_for(arg, tx, self.rx[0].as_mut().map(|end| end as _));
                return true;
            }
            code @ 4..=11 => return self.send(segment, code, arg),
            code => return self.receive(segment, code, arg),
        }
        false
    }
}
