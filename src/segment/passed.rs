//! What passed the ends of an object, for reports: filled in where the ends do not count it.
//!
//! Ends whose positions count messages store no counters. How many passed them follows from
//! the object's own words (see `progress`); this file says which words of which kind. What it
//! finds may be a lie of a peer, and is a number in any case.

use crate::peer::PeerState;
use crate::segment::attach::Attached;
use crate::segment::endpoint::{EndpointInfo, Role};
use crate::segment::layout::{self, Entry, ObjectKind};
use crate::segment::progress::{self, Progress};
use crate::view::View;

/// Completes the statistics and lags of an object's endpoints; the lag of the object.
pub(crate) fn complete(
    attached: &Attached,
    entry: &Entry,
    endpoints: &mut [EndpointInfo],
) -> Option<u64> {
    let raw = &entry.raw;
    let (words, payload) = windows(attached, entry)?;
    match entry.kind {
        ObjectKind::Ring => {
            let passed = progress::of_ring(&words, &payload, raw.stride, raw.capacity);
            by_pairs(&[passed], raw.type_size, endpoints)
        }
        ObjectKind::Lanes => {
            let of = |lane| progress::of_lane(&words, &payload, raw.stride, raw.capacity, lane);
            let passed: Vec<_> = (0..raw.producers).map(of).collect();
            by_pairs(&passed, raw.type_size, endpoints)
        }
        ObjectKind::LatestValue => watched(entry, &words, &payload, endpoints),
        ObjectKind::BroadcastRing | ObjectKind::BroadcastRecords => {
            to_many(entry, &words, &payload, endpoints)
        }
        ObjectKind::SharedRing => progress::waiting_in_shared(&payload, raw.stride, raw.capacity),
        _ => by_counters(endpoints),
    }
}

/// An object's own words, and its payload.
fn windows(attached: &Attached, entry: &Entry) -> Option<(View, View)> {
    let raw = &entry.raw;
    let table = layout::endpoints_length(raw.producers, raw.consumers);
    let window = |offset: u64, length: u64| attached.view.window(offset as usize, length as usize);
    let words = window(raw.control_offset + table, raw.control_length.checked_sub(table)?)?;
    Some((words, window(raw.payload_offset, raw.payload_length)?))
}

/// Where each producer has a ring of its own, and one consumer receives from all of them.
fn by_pairs(passed: &[Option<Progress>], size: u64, endpoints: &mut [EndpointInfo]) -> Option<u64> {
    let sum = |number: fn(&Progress) -> u64| {
        passed.iter().flatten().map(number).reduce(u64::wrapping_add)
    };
    let lag = sum(|one| one.sent - one.received);
    for end in endpoints {
        let position = match end.role {
            Role::Producer => passed.get(end.slot as usize)?.map(|one| one.sent),
            Role::Consumer => sum(|one| one.received),
        };
        if let Some(position) = position {
            end.stats = end.stats.at_position(position, size);
        }
        if end.role == Role::Consumer {
            end.lag = lag;
        }
    }
    lag
}

/// Where every consumer receives everything: the largest lag of those that are there.
fn to_many(
    entry: &Entry,
    words: &View,
    payload: &View,
    endpoints: &mut [EndpointInfo],
) -> Option<u64> {
    let numbered = entry.kind == ObjectKind::BroadcastRecords;
    let size = entry.raw.type_size;
    let mut sent = None;
    for end in &mut *endpoints {
        if end.role == Role::Producer {
            if !numbered
                && let Some(sent) = progress::sent_to_many(words, payload, entry.raw.stride)
            {
                end.stats = end.stats.at_position(sent, size);
            }
            sent = Some(end.stats.messages);
        } else if end.state != PeerState::Never
            && let Some((come, received)) = progress::of_consumer(words, end.slot, numbered)
        {
            end.stats = end.stats.at_position(received, size);
            let there = matches!(end.state, PeerState::Alive | PeerState::Unknown);
            end.lag = sent.filter(|_| there).map(|sent| sent.saturating_sub(come));
        }
    }
    endpoints.iter().filter_map(|end| end.lag).max()
}

/// Where consumers look at the newest that was written: by how many each that is there is behind.
fn watched(
    entry: &Entry,
    words: &View,
    payload: &View,
    endpoints: &mut [EndpointInfo],
) -> Option<u64> {
    let newest = progress::of_versions(payload)?;
    for end in &mut *endpoints {
        if end.role == Role::Producer {
            end.stats = end.stats.at_position(newest, entry.raw.type_size);
        } else if matches!(end.state, PeerState::Alive | PeerState::Unknown) {
            let seen = progress::of_watcher(words, end.slot);
            end.lag = seen.map(|seen| newest.saturating_sub(seen));
        }
    }
    endpoints.iter().filter_map(|end| end.lag).max()
}

/// Where one producer and one consumer count for themselves.
fn by_counters(endpoints: &mut [EndpointInfo]) -> Option<u64> {
    match endpoints {
        [producer, consumer]
            if (producer.role, consumer.role) == (Role::Producer, Role::Consumer) =>
        {
            let lag = producer.stats.messages.saturating_sub(consumer.stats.messages);
            consumer.lag = Some(lag);
            Some(lag)
        }
        _ => None,
    }
}
