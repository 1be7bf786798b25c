//! One body over every kind of object and page.

use crate::common::child::say;
use crate::common::machine::{PrivateMount, pages};
use crate::common::{M2, lacks_pages, skip};
use crate::{Stage, in_time, opened};
use hugeshm::{BackingKind, Lifetime, PagePolicy, PageSize, RecvError, Rung, SegmentBuilder};

/// The other process: sends every number and every record back, one larger.
fn echo() {
    let segment = opened();
    let mut numbers = segment.consumer::<u64>("there").expect("free");
    let mut back = segment.producer::<u64>("back").expect("free");
    let mut records = segment.record_consumer("records.there").expect("free");
    let mut answers = segment.record_producer("records.back").expect("free");
    say(format_args!("{} {}", numbers.position(), segment.page_size()));
    let mut bytes = Vec::new();
    loop {
        match numbers.recv() {
            Ok(number) => back.push(number + 1).expect("the parent reads"),
            Err(error) => return assert_eq!(error, RecvError::Closed),
        }
        records.recv(&mut bytes).expect("one with each number");
        bytes.push(1);
        answers.push(&bytes).expect("the parent reads");
    }
}

fn talk(stage: &Stage, what: &str, page: PageSize, on: impl Fn(SegmentBuilder) -> SegmentBuilder) {
    eprintln!("-- {what}");
    let builder = on(stage.domain.create("s")).unlink_on_drop(true).lifetime(Lifetime::WithHolders);
    let segment = builder
        .ring::<u64>("there", 5)
        .ring::<u64>("back", 5)
        .records("records.there", 8192)
        .records("records.back", 8192)
        .build()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(segment.page_size(), page, "{what}");
    let mut number = 0;
    for round in 0..3 {
        let mut there = segment.producer::<u64>("there").expect("free");
        let mut back = segment.consumer::<u64>("back").expect("free");
        let mut records = segment.record_producer("records.there").expect("free");
        let mut answers = segment.record_consumer("records.back").expect("free");
        let mut child = stage.child("backings::echo", &[]);
        assert_eq!(child.says(), format!("{number} {page}"), "{what}");
        let mut answer = Vec::new();
        for _ in 0..300 {
            let mut bytes = vec![number as u8; (number * 37 % 3000) as usize];
            records.push(&bytes).expect("it reads");
            there.push(number).expect("it reads");
            assert_eq!(in_time(|| back.recv()), Ok(number + 1), "{what}");
            in_time(|| answers.recv(&mut answer)).expect("it answers");
            bytes.push(1);
            assert!(answer == bytes, "{what}");
            number += 1;
        }
        if round == 1 {
            child.kill();
            assert_eq!(in_time(|| back.recv()), Err(RecvError::PeerDied), "{what}");
        } else {
            drop((there, records));
            assert_eq!(in_time(|| back.recv()), Err(RecvError::Closed), "{what}");
            child.end_well();
        }
    }
}

#[test]
fn rings_work_over_every_backing() {
    let stage = Stage::new();
    for (size, count) in [(M2, 4), (PageSize::SIZE_1G, 1)] {
        let Some(_pages) = pages(size, count) else { continue };
        let exactly =
            |builder: SegmentBuilder| builder.pages(PagePolicy::exactly(Rung::Huge(size)));
        if let Some(mount) = PrivateMount::hugetlbfs(size, None) {
            let path = mount.path();
            talk(&stage, &format!("{size} hugetlbfs"), size, |builder| {
                exactly(builder).backing(BackingKind::Hugetlbfs).mount(&path)
            });
        }
        talk(&stage, &format!("{size} memfd"), size, |builder| {
            exactly(builder).backing(BackingKind::Memfd)
        });
        let shm = hugeshm::pages::shm_limits();
        if shm.may_use_hugetlb {
            talk(&stage, &format!("{size} SysV"), size, |builder| {
                exactly(builder).backing(BackingKind::Sysv)
            });
        } else {
            lacks_pages(&shm.reason);
        }
    }
    let base = PageSize::SIZE_4K;
    if hugeshm::pages::thp().pmd_size == Some(M2) {
        talk(&stage, "transparent huge pages", base, |builder| {
            builder.pages(PagePolicy::exactly(Rung::Thp)).size(4 << 20)
        });
    } else {
        skip("this kernel forms no transparent huge pages of 2M");
    }
    for kind in [BackingKind::Tmpfs, BackingKind::Memfd] {
        talk(&stage, &format!("base pages, {kind}"), base, |builder| {
            builder.pages(PagePolicy::exactly(Rung::Base)).backing(kind)
        });
    }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "backings::echo" => echo(),
        _ => return false,
    }
    true
}
