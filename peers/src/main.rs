//! hugeshm next to other ways to move data between two processes, in the same rounds.
//!
//! Each peer is used as its makers would: in place where it can, polled where it
//! can, in batches where it has them. Where a row is unfair to a peer, a note
//! under the table says so; peers that only work between threads are labelled.
//! Options are those of the other benchmark (`--help`).

#[cfg(feature = "aeron")]
mod aeron;
mod harness;
mod iceoryx;
mod kernel;
mod native;
mod passing;
mod shared;
mod threads;

#[cfg(feature = "aeron")]
use aeron::Aeron;
use bench_kit::{Suite, many, ours};
use harness::{batches, exchange, stream, trip};
use iceoryx::{Iceoryx, IceoryxEvent};
use kernel::{EventFd, PacketSocket, Pipe, PosixQueue, Socket};
use shared::{IpcChannel, ShmemIpc, ShmemIpcAsleep};
use std::process::ExitCode;
use threads::{ArrayQueue, Channel, Ringbuf, Rtrb};

fn suite() -> Suite {
    let mut suite = Suite::new();
    ours::round_trips(&mut suite);
    ours::streams(&mut suite);
    ours::waiting(&mut suite);
    suite.table("rt-8", "", "");
    trips::<1>(&mut suite);
    suite.add(iceoryx::request_response());
    suite.table("rt-64", "", "");
    trips::<8>(&mut suite);
    suite.table("rt-4k", "", "");
    trips::<512>(&mut suite);
    suite.table("s-8", "", "");
    small_streams::<1>(&mut suite);
    suite.table("s-64", "", "");
    small_streams::<8>(&mut suite);
    suite.table("s-1k", "", "");
    streams::<128>(&mut suite);
    suite.table("s-4k", "", "");
    streams::<512>(&mut suite);
    suite.table("s-64k", "", "");
    streams::<8192>(&mut suite);
    suite.table("s-1m", "", "");
    streams::<131_072>(&mut suite);
    one_to_many(&mut suite);
    many::many_to_many::<1>(&mut suite);
    many_to_many::<1>(&mut suite, "m-8", "m-8-both");
    many::many_to_many::<8>(&mut suite);
    many_to_many::<8>(&mut suite, "m-64", "m-64-both");
    sleepers(&mut suite);
    suite
}

/// Messages for which iceoryx2's streams have room; more do not make it faster.
const ICEORYX_BUFFER: usize = 256;

fn trips<const N: usize>(suite: &mut Suite) {
    suite.add(trip::<N, ShmemIpc>()).add(trip::<N, Iceoryx<1>>());
    suite.add(trip::<N, Rtrb>()).add(trip::<N, Ringbuf>());
    if N <= 8 {
        suite.add(trip::<N, ArrayQueue>()).add(trip::<N, Channel>());
    }
    suite.add(trip::<N, Pipe>()).add(trip::<N, Socket>()).add(trip::<N, PacketSocket>());
    suite.add(trip::<N, PosixQueue>()).add(trip::<N, IpcChannel>());
    #[cfg(feature = "aeron")]
    if N <= 8 {
        suite.add(trip::<N, Aeron>());
    }
    #[cfg(feature = "dpdk")]
    suite.add(trip::<N, native::Dpdk<false>>());
    #[cfg(feature = "boost")]
    suite.add(trip::<N, native::Boost<false>>());
    absent(suite);
}

fn small_streams<const N: usize>(suite: &mut Suite) {
    suite.add(batches::<N, ShmemIpc>()).add(batches::<N, Rtrb>()).add(batches::<N, Ringbuf>());
    suite.add(batches::<N, Pipe>()).add(batches::<N, Socket>());
    #[cfg(feature = "dpdk")]
    suite.add(batches::<N, native::Dpdk<false>>());
    suite.add(stream::<N, ArrayQueue>()).add(stream::<N, Channel>());
    #[cfg(feature = "dpdk")]
    suite.add(stream::<N, native::Dpdk<false>>());
    streams::<N>(suite);
}

fn streams<const N: usize>(suite: &mut Suite) {
    suite.add(stream::<N, ShmemIpc>()).add(stream::<N, Iceoryx<ICEORYX_BUFFER>>());
    suite.add(stream::<N, Rtrb>()).add(stream::<N, Ringbuf>());
    suite.add(stream::<N, Pipe>()).add(stream::<N, Socket>());
    if N <= 512 {
        // Longer messages need a limit of the system changed.
        suite.add(stream::<N, PosixQueue>());
    }
    suite.add(stream::<N, IpcChannel>());
    #[cfg(feature = "aeron")]
    if N <= 128 {
        // Longer messages come in fragments.
        suite.add(batches::<N, Aeron>().granule(aeron::block(N)).lap(aeron::lap(N)));
    }
    #[cfg(feature = "boost")]
    suite.add(stream::<N, native::Boost<false>>());
    absent(suite);
}

/// Broadcast rings next to publish-subscribe.
fn one_to_many(suite: &mut Suite) {
    many::broadcasts(suite);
    suite.table("b-8", "", "").add(stream::<1, Iceoryx<ICEORYX_BUFFER>>());
    suite.table("b-64", "", "").add(stream::<8, Iceoryx<ICEORYX_BUFFER>>());
    suite.table("b-4k", "", "").add(stream::<512, Iceoryx<ICEORYX_BUFFER>>());
    suite.table("b-rt", "", "").add(trip::<8, Iceoryx<1>>());
    suite.table("b-stopped", "", "");
    suite.add(iceoryx::beside::<8>(0)).add(iceoryx::beside::<8>(3));
}

/// Queues for many producers and many consumers.
fn many_to_many<const N: usize>(suite: &mut Suite, one: &str, both: &str) {
    suite.table(one, "", "");
    suite.add(stream::<N, ArrayQueue>()).add(stream::<N, Channel>());
    #[cfg(feature = "dpdk")]
    suite.add(stream::<N, native::Dpdk<true>>());
    #[cfg(feature = "boost")]
    suite.add(stream::<N, native::Lockfree>());
    absent_natives(suite);
    suite.table(both, "", "");
    suite.add(exchange::<N, ArrayQueue>()).add(exchange::<N, Channel>());
    #[cfg(feature = "dpdk")]
    suite.add(exchange::<N, native::Dpdk<true>>());
    #[cfg(feature = "boost")]
    suite.add(exchange::<N, native::Lockfree>());
    absent_natives(suite);
}

/// Both sides asleep each time: the peers whose receivers sleep.
fn sleepers(suite: &mut Suite) {
    for (key, on) in [("asleep-halt", false), ("asleep-poll", true)] {
        suite.table(key, "", "");
        suite.add(trip::<1, EventFd>().halt_poll(on));
        suite.add(trip::<1, IceoryxEvent>().halt_poll(on));
        suite.add(trip::<1, ShmemIpcAsleep>().halt_poll(on));
        suite.add(trip::<1, Pipe>().halt_poll(on)).add(trip::<1, Socket>().halt_poll(on));
        suite.add(trip::<1, PacketSocket>().halt_poll(on));
        suite.add(trip::<1, PosixQueue>().halt_poll(on));
        suite.add(trip::<1, IpcChannel>().halt_poll(on));
        #[cfg(feature = "boost")]
        suite.add(trip::<1, native::Boost<true>>().halt_poll(on));
    }
}

/// Says which peers this build leaves out.
fn absent(suite: &mut Suite) {
    absent_natives(suite);
    if !cfg!(feature = "aeron") {
        suite.missing("Aeron", "built without `--features aeron` (cmake 3.30, libclang-dev)");
    }
}

/// The same without those that have one publisher or sender.
fn absent_natives(suite: &mut Suite) {
    if !cfg!(feature = "dpdk") {
        suite.missing("DPDK rte_ring", "built without `--features dpdk` (Debian: dpdk-dev)");
    }
    if !cfg!(feature = "boost") {
        suite.missing("Boost", "built without `--features boost` (libboost-dev)");
    }
}

fn main() -> ExitCode {
    bench_kit::main(suite)
}
