//! What is in the images: one object of each kind, work under way in it, and how it goes on.

use hugeshm::{
    BroadcastRecords, BroadcastRing, Join, RecordRing, RecvError, Schema, Segment, SegmentBuilder,
    TypedRing,
};
use std::any::Any;

/// Ends that live until the image is taken, so that in it they look killed.
type Ends = Box<dyn Any>;

/// One object, how it is filled, and what whoever finds it does with it.
pub struct Kind {
    pub name: &'static str,
    pub declare: fn(SegmentBuilder) -> SegmentBuilder,
    pub fill: fn(&Segment) -> Ends,
    pub go_on: fn(&Segment),
}

type Long = [u64; 32];

fn long(first: u64) -> Long {
    core::array::from_fn(|i| first + i as u64)
}

/// All kinds. The names are those of the files, and are never given to another scene.
pub const ALL: [Kind; 15] = [
    Kind {
        name: "ring",
        declare: |b| {
            let schema = Schema::fields("value: u64");
            b.ring_of("o", TypedRing::<u64>::new(8).schema(schema))
        },
        fill: |s| {
            let (mut tx, mut rx) =
                (s.producer::<u64>("o").unwrap(), s.consumer::<u64>("o").unwrap());
            (10..21).for_each(|n| {
                tx.push(n).unwrap();
                if n < 18 {
                    assert_eq!(rx.recv(), Ok(n));
                }
            });
            Box::new((tx, rx))
        },
        go_on: |s| {
            assert_eq!(s.schema("o").unwrap().expect("there is one").bytes, b"value: u64");
            let (mut tx, mut rx) =
                (s.producer::<u64>("o").unwrap(), s.consumer::<u64>("o").unwrap());
            assert_eq!((tx.position(), rx.position(), rx.lag()), (11, 8, 3));
            (21..40).for_each(|n| {
                tx.push(n).unwrap();
                assert_eq!(rx.recv(), Ok(n - 3));
            });
        },
    },
    Kind {
        name: "ring-of-lines",
        declare: |b| b.ring::<[u64; 8]>("o", 4),
        fill: |s| {
            let mut tx = s.producer::<[u64; 8]>("o").unwrap();
            let mut rx = s.consumer::<[u64; 8]>("o").unwrap();
            (1..4).for_each(|n| tx.push([n; 8]).unwrap());
            assert_eq!(rx.recv(), Ok([1; 8]));
            Box::new((tx, rx))
        },
        go_on: |s| {
            let mut tx = s.producer::<[u64; 8]>("o").unwrap();
            let mut rx = s.consumer::<[u64; 8]>("o").unwrap();
            (4..20).for_each(|n| {
                tx.push([n; 8]).unwrap();
                assert_eq!(rx.recv(), Ok([n - 2; 8]));
            });
        },
    },
    Kind {
        name: "records",
        declare: |b| b.records_of("o", RecordRing::new(1024).user_header(8)),
        fill: |s| {
            let (mut tx, mut rx) =
                (s.record_producer("o").unwrap(), s.record_consumer("o").unwrap());
            for text in ["one", "two is longer", "three"] {
                tx.push(text.as_bytes()).unwrap();
            }
            rx.read().unwrap().release();
            rx.read().unwrap().hold();
            // And one that is written and not committed.
            tx.reserve(64).unwrap().write_at(0, b"nobody may see this").unwrap();
            Box::new((tx, rx))
        },
        go_on: |s| {
            let (mut tx, mut rx) =
                (s.record_producer("o").unwrap(), s.record_consumer("o").unwrap());
            tx.push(b"four").unwrap();
            for text in ["two is longer", "three", "four"] {
                let record = rx.read().unwrap();
                assert_eq!(record.to_vec(), text.as_bytes());
                record.release();
            }
            for n in 0..100u8 {
                tx.push(&[n; 50]).unwrap();
                assert_eq!(rx.read().unwrap().to_vec(), [n; 50]);
                rx.release_held();
                while let Ok(record) = rx.try_read() {
                    record.release();
                }
            }
        },
    },
    Kind {
        name: "broadcast",
        declare: |b| b.broadcast_of("o", BroadcastRing::<u64>::new(8).consumers(2)),
        fill: |s| {
            let mut tx = s.broadcast_producer::<u64>("o").unwrap();
            let mut rx = s.broadcast_consumer::<u64>("o", Join::Oldest).unwrap();
            (1..31).for_each(|n| tx.push(n).unwrap());
            assert!(matches!(rx.recv(), Err(RecvError::Gap { .. })));
            rx.recv().unwrap();
            Box::new((tx, rx))
        },
        go_on: |s| {
            let mut rx = s.broadcast_consumer::<u64>("o", Join::Oldest).unwrap();
            let mut tx = s.broadcast_producer::<u64>("o").unwrap();
            tx.push(31).unwrap();
            let first = rx.recv().unwrap();
            assert!(first <= 24, "the last eight are kept: {first}");
            for n in first + 1..=31 {
                assert_eq!(rx.recv(), Ok(n));
            }
        },
    },
    Kind {
        name: "lossless",
        declare: |b| b.broadcast_of("o", BroadcastRing::<u64>::new(8).lossless(true).consumers(2)),
        fill: |s| {
            let mut tx = s.broadcast_producer::<u64>("o").unwrap();
            let mut rx = s.broadcast_consumer::<u64>("o", Join::Oldest).unwrap();
            (1..7).for_each(|n| tx.push(n).unwrap());
            assert_eq!((rx.recv(), rx.recv()), (Ok(1), Ok(2)));
            Box::new((tx, rx))
        },
        go_on: |s| {
            let mut rx = s.broadcast_consumer::<u64>("o", Join::Oldest).unwrap();
            let mut tx = s.broadcast_producer::<u64>("o").unwrap();
            let mut next = rx.recv().unwrap();
            for n in 7..60 {
                tx.push(n).unwrap();
                next += 1;
                assert_eq!(rx.recv(), Ok(next), "the one that is gone holds nobody up");
            }
        },
    },
    Kind {
        name: "broadcast-records",
        declare: |b| b.broadcast_records_of("o", BroadcastRecords::new(4096).consumers(2)),
        fill: |s| {
            let mut tx = s.broadcast_record_producer("o").unwrap();
            let mut rx = s.broadcast_record_consumer("o", Join::Oldest).unwrap();
            for text in ["one", "two"] {
                tx.push(text.as_bytes()).unwrap();
            }
            rx.read().unwrap().release().unwrap();
            Box::new((tx, rx))
        },
        go_on: |s| {
            let mut rx = s.broadcast_record_consumer("o", Join::Oldest).unwrap();
            let mut tx = s.broadcast_record_producer("o").unwrap();
            tx.push(b"three").unwrap();
            for text in ["one", "two", "three"] {
                let mut bytes = Vec::new();
                rx.recv(&mut bytes).unwrap();
                assert_eq!(bytes, text.as_bytes());
            }
        },
    },
    Kind {
        name: "latest",
        declare: |b| b.latest::<u64>("o"),
        fill: |s| {
            let mut writer = s.latest_writer::<u64>("o").unwrap();
            [5, 6].iter().for_each(|n| assert!(writer.write(n).is_ok()));
            Box::new(writer)
        },
        go_on: |s| {
            let mut reader = s.latest_reader::<u64>("o").unwrap();
            let read = reader.read().unwrap();
            assert_eq!((read.value, read.version), (6, 2));
            assert_eq!(s.latest_writer::<u64>("o").unwrap().write(&7), Ok(3));
            assert_eq!(reader.read().unwrap().value, 7);
        },
    },
    Kind {
        name: "latest-long",
        declare: |b| b.latest::<Long>("o"),
        fill: |s| {
            let mut writer = s.latest_writer::<Long>("o").unwrap();
            [5, 6].iter().for_each(|n| assert!(writer.write(&long(*n)).is_ok()));
            let mut watcher = s.latest_watcher::<Long>("o").unwrap();
            watcher.read().unwrap();
            Box::new((writer, watcher))
        },
        go_on: |s| {
            let mut watcher = s.latest_watcher::<Long>("o").unwrap();
            let read = watcher.read().unwrap();
            assert_eq!((read.value, read.version), (long(6), 2));
            let mut writer = s.latest_writer::<Long>("o").unwrap();
            for n in 7..20 {
                writer.write(&long(n)).unwrap();
                assert_eq!(watcher.read().unwrap().value, long(n));
            }
        },
    },
    Kind {
        name: "call-asked",
        declare: |b| b.call::<u64, u64>("o"),
        fill: |s| {
            let mut caller = s.caller::<u64, u64>("o").unwrap();
            caller.start(41).unwrap();
            Box::new(caller)
        },
        go_on: served,
    },
    Kind {
        name: "call-answering",
        declare: |b| b.call::<u64, u64>("o"),
        fill: |s| {
            let mut caller = s.caller::<u64, u64>("o").unwrap();
            caller.start(41).unwrap();
            let mut server = s.server::<u64, u64>("o").unwrap();
            assert_eq!(server.recv().unwrap().value(), 41);
            Box::new((caller, server))
        },
        go_on: served,
    },
    Kind {
        name: "call-answered",
        declare: |b| b.call::<u64, u64>("o"),
        fill: |s| {
            let mut caller = s.caller::<u64, u64>("o").unwrap();
            caller.start(41).unwrap();
            let mut server = s.server::<u64, u64>("o").unwrap();
            server.serve_one(|request| request + 1).unwrap();
            Box::new((caller, server))
        },
        go_on: calls,
    },
    Kind {
        name: "duplex",
        declare: |b| b.duplex::<u64, u64>("o", 4),
        fill: |s| {
            let mut caller = s.duplex_caller::<u64, u64>("o").unwrap();
            let mut server = s.duplex_server::<u64, u64>("o").unwrap();
            (1..4).for_each(|n| assert!(caller.start(n).is_ok()));
            server.serve_one(|request| request + 100).unwrap();
            Box::new((caller, server))
        },
        go_on: |s| {
            let mut server = s.duplex_server::<u64, u64>("o").unwrap();
            for n in 2..4 {
                server
                    .serve_one(|request| {
                        assert_eq!(request, n, "asked before, by one who is gone");
                        request + 100
                    })
                    .unwrap();
            }
            let mut caller = s.duplex_caller::<u64, u64>("o").unwrap();
            for n in 10..30 {
                caller.start(n).unwrap();
                server.serve_one(|request| request + 100).unwrap();
                assert_eq!(caller.finish(), Ok(n + 100), "and no answer to another");
            }
        },
    },
    Kind {
        name: "lanes",
        declare: |b| b.lanes::<u64>("o", 3, 4),
        fill: |s| {
            let mut lanes = [(), ()].map(|()| s.lane_producer::<u64>("o").unwrap());
            let mut rx = s.lanes_consumer::<u64>("o").unwrap();
            for n in 0..3 {
                lanes[0].push(n).unwrap();
                lanes[1].push(100 + n).unwrap();
            }
            rx.recv().unwrap();
            Box::new((lanes, rx))
        },
        go_on: |s| {
            let mut rx = s.lanes_consumer::<u64>("o").unwrap();
            let mut lane = s.lane_producer::<u64>("o").unwrap();
            lane.push(3).unwrap();
            let mut all: Vec<u64> =
                std::iter::from_fn(|| rx.try_recv().ok()).map(|m| m.value).collect();
            all.sort_unstable();
            assert!(
                all == [0, 1, 2, 3, 100, 101, 102][1..] || all == [0, 1, 2, 3, 101, 102],
                "{all:?}"
            );
        },
    },
    Kind {
        name: "shared",
        declare: |b| b.shared_ring::<u64>("o", 8),
        fill: |s| {
            let mut tx = s.shared_producer::<u64>("o").unwrap();
            let mut rx = s.shared_consumer::<u64>("o").unwrap();
            (1..5).for_each(|n| tx.push(n).unwrap());
            assert_eq!(rx.recv(), Ok(1));
            // Received, and not released.
            std::mem::forget(rx.hold().unwrap());
            Box::new((tx, rx))
        },
        go_on: |s| {
            let mut tx = s.shared_producer::<u64>("o").unwrap();
            let mut rx = s.shared_consumer::<u64>("o").unwrap();
            tx.push(5).unwrap();
            let all: Vec<u64> = std::iter::from_fn(|| rx.try_recv().ok()).collect();
            assert_eq!(all, [2, 3, 4, 5], "the one that was held is seen again");
            for n in 6..40 {
                tx.push(n).unwrap();
                assert_eq!(rx.recv(), Ok(n));
            }
        },
    },
    Kind {
        name: "two-objects",
        declare: |b| b.ring::<u64>("o", 4).records("p", 256).max_objects(3).spare(4096),
        fill: |s| {
            s.producer::<u64>("o").unwrap().push(1).unwrap();
            s.record_producer("p").unwrap().push(b"one").unwrap();
            Box::new(())
        },
        go_on: |s| {
            // One more, behind those that were there.
            s.add_ring("q", TypedRing::<u64>::new(4)).unwrap();
            s.producer::<u64>("q").unwrap().push(2).unwrap();
            assert_eq!(s.consumer::<u64>("o").unwrap().recv(), Ok(1));
            let mut bytes = Vec::new();
            s.record_consumer("p").unwrap().recv(&mut bytes).unwrap();
            assert_eq!(bytes, b"one");
            assert_eq!(s.consumer::<u64>("q").unwrap().recv(), Ok(2));
        },
    },
];

/// A request that stands there is served, once more if it was being served; then calls go on.
fn served(segment: &Segment) {
    let mut server = segment.server::<u64, u64>("o").unwrap();
    let mut asked = 0;
    server
        .serve_one(|request| {
            asked = request;
            request + 1
        })
        .unwrap();
    assert_eq!(asked, 41);
    drop(server);
    calls(segment);
}

/// A new caller gets answers to what it asks, and none to what another asked.
fn calls(segment: &Segment) {
    let mut server = segment.server::<u64, u64>("o").unwrap();
    let mut caller = segment.caller::<u64, u64>("o").unwrap();
    for n in 100..110 {
        caller.start(n).unwrap();
        server.serve_one(|request| request + 1).unwrap();
        assert_eq!(caller.finish(), Ok(n + 1));
    }
}
