//! Models of lanes; how they are run is told in `ring::models`.

use super::layout::LanesGeometry;
use super::{LaneProducer, LanesConsumer};
use crate::ring::endpoint::Parts;
use crate::ring::error::RecvError;
use crate::ring::position::SlotGeometry;
use crate::view::View;
use crate::wait::WaitMode;
use crate::wait::modelling::{Lives, Tally, Who, explore, explore_deaths, stats};
use loom::thread::spawn;

const CONSUMER: Who = (1, 0);

/// A message of which a torn copy shows.
type Pair = [u64; 2];

fn pair(lane: u32, n: u64) -> Pair {
    let n = u64::from(lane) << 32 | n;
    [n, !n]
}

#[derive(Clone)]
struct Ring {
    control: View,
    payload: View,
    geometry: LanesGeometry,
    lives: Lives,
}

impl Ring {
    fn new(lanes: u32, capacity: u64) -> Self {
        let ring = SlotGeometry::new(size_of::<Pair>(), capacity).unwrap();
        let geometry = LanesGeometry::new(lanes, ring).unwrap();
        let control = View::modelled_control(geometry.words_bytes(), 16);
        let payload = View::modelled_payload(geometry.payload_bytes());
        Self { control, payload, geometry, lives: Lives::of(lanes as usize, 1) }
    }

    fn parts(&self, own: Who) -> Parts {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        Parts { control, payload, stats: stats(), link: self.lives.claim(own) }
    }

    fn producer(&self, lane: u32) -> LaneProducer<Pair> {
        let parts = self.parts((0, lane as usize));
        let mut end = LaneProducer::attach(parts, self.geometry, lane).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }

    fn consumer(&self) -> LanesConsumer<Pair> {
        let mut end = LanesConsumer::attach(self.parts(CONSUMER), self.geometry).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }
}

#[test]
fn each_lane_arrives_in_its_order_and_no_wake_is_lost() {
    explore("two lanes of 1, blocking", 2, || {
        let ring = Ring::new(2, 1);
        let mut rx = ring.consumer();
        let senders: Vec<_> = [(0, 2), (1, 1)]
            .into_iter()
            .map(|(lane, count)| {
                let mut tx = ring.producer(lane);
                spawn(move || {
                    for n in 0..count {
                        tx.push(pair(lane, n)).unwrap();
                    }
                })
            })
            .collect();
        let mut next = [0; 2];
        for _ in 0..3 {
            let message = rx.recv().unwrap();
            let lane = message.lane as usize;
            assert_eq!(message.value, pair(message.lane, next[lane]));
            next[lane] += 1;
        }
        assert_eq!(rx.recv().unwrap_err(), RecvError::Closed);
        assert_eq!(next, [2, 1]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn the_producer_of_a_lane_may_die_at_any_access() {
    explore_deaths("a lane of 1, its producer dies", 2, |death| {
        let ring = Ring::new(1, 1);
        let mut rx = ring.consumer();
        let sure = Tally::default();
        let sender = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, (0, 0), || {
                    let mut tx = ring.producer(0);
                    for n in 0..2 {
                        tx.push(pair(0, n)).unwrap();
                        sure.add();
                    }
                })
            })
        };
        let mut received = 0;
        let end = loop {
            match rx.recv() {
                Ok(message) => assert_eq!(message.value, pair(0, received)),
                Err(end) => break end,
            }
            received += 1;
        };
        assert!(matches!(end, RecvError::PeerDied | RecvError::Closed), "{end}");
        sender.join().unwrap();
        assert!(received == sure.get() || received == sure.get() + 1);
        let mut tx = ring.producer(0);
        for n in received..received + 3 {
            tx.push(pair(0, n)).unwrap();
            assert_eq!(rx.recv().unwrap().value, pair(0, n));
        }
    });
}

#[test]
fn the_consumer_of_lanes_may_die_at_any_access() {
    explore_deaths("a lane of 1, its consumer dies", 2, |death| {
        let ring = Ring::new(1, 1);
        let mut tx = ring.producer(0);
        let sure = Tally::default();
        let receiver = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, CONSUMER, || {
                    let mut rx = ring.consumer();
                    for n in 0..2 {
                        assert_eq!(rx.recv().unwrap().value, pair(0, n));
                        sure.add();
                    }
                })
            })
        };
        let mut sent = 0;
        while tx.push(pair(0, sent)).is_ok() {
            sent += 1;
        }
        receiver.join().unwrap();
        let mut rx = ring.consumer();
        let first = rx.position_of(0).unwrap();
        assert!(first == sure.get() || first == sure.get() + 1);
        assert_eq!(first + 1, sent);
        for n in first..first + 3 {
            assert_eq!(rx.recv().unwrap().value, pair(0, n));
            sent += 1;
            tx.push(pair(0, n + 1)).unwrap();
        }
    });
}
