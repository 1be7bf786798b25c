//! The operations of latest values, call cells and duplex channels.

use super::rings::{mode, short, wait_for};
use super::stage::{Actor, answered, attached, told};
use crate::segment::Segment;
use crate::{
    Caller, DuplexCaller, DuplexServer, LatestReader, LatestWatcher, LatestWriter, RawLatestReader,
    Server,
};

/// The ends of a latest value of `N` words.
pub(super) struct Latest<const N: usize> {
    objects: &'static [&'static str],
    writer: Option<LatestWriter<[u64; N]>>,
    reader: Option<LatestReader<[u64; N]>>,
    watcher: Option<LatestWatcher<[u64; N]>>,
    raw: Option<RawLatestReader>,
}

impl Latest<5> {
    pub(super) fn new() -> Self {
        Self { objects: &["latest"], writer: None, reader: None, watcher: None, raw: None }
    }
}

impl Latest<40> {
    pub(super) fn long() -> Self {
        Self { objects: &["long"], writer: None, reader: None, watcher: None, raw: None }
    }
}

impl<const N: usize> Latest<N> {
    fn read(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.reader.is_none() {
            self.reader = attached(segment.latest_reader(self.objects[0]));
        }
        let Some(reader) = &mut self.reader else { return false };
        let version = u64::from(arg % 8);
        match code {
            8 => told(reader.read_if_newer(version)),
            9 => {
                reader.wait_mode(mode(arg));
                told(reader.wait_newer_timeout(version, short(arg)));
                return true;
            }
            10 => _ = (reader.version(), reader.peer(), reader.peer_changed()),
            11 => told(reader.read_into(&mut [0; N])),
            _ => told(reader.read()),
        }
        false
    }

    fn watch(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        if self.watcher.is_none() {
            self.watcher = attached(segment.latest_watcher(self.objects[0]));
        }
        let Some(watcher) = &mut self.watcher else { return false };
        match code {
            14 => told(watcher.read_if_newer(u64::from(arg % 8))),
            15 => {
                watcher.wait_mode(mode(arg));
                told(watcher.wait_newer_timeout(u64::from(arg % 8), short(arg)));
                return true;
            }
            16 => _ = (watcher.version(), watcher.seen(), watcher.place(), watcher.peer()),
            _ => told(watcher.read()),
        }
        false
    }
}

impl<const N: usize> Actor for Latest<N> {
    /// A read that meets a write is made again, at most 1024 times.
    fn touches_per_word(&self) -> u64 {
        128
    }

    fn objects(&self) -> &'static [&'static str] {
        self.objects
    }

    fn leave(&mut self) {
        (self.writer, self.reader, self.watcher, self.raw) = (None, None, None, None);
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let name = self.objects[0];
        match code % 24 {
            0 => {
                self.writer = None;
                self.writer = attached(segment.latest_writer(name));
            }
            1 => self.reader = attached(segment.latest_reader(name)),
            2 => {
                self.watcher = None;
                self.watcher = attached(segment.latest_watcher(name));
            }
            3..=7 => {
                if self.writer.is_none() {
                    self.writer = attached(segment.latest_writer(name));
                }
                let Some(writer) = &mut self.writer else { return false };
                match code % 24 {
                    3 => told(writer.update(|value| value[0] = value[0].wrapping_add(1))),
                    4 => _ = (writer.version(), writer.stats()),
                    _ => told(writer.write(&[u64::from(arg); N])),
                }
            }
            22 => {
                self.raw = attached(segment.raw_latest_reader(name));
                if let Some(raw) = &mut self.raw {
                    told(raw.read(&mut vec![0; 8 * N]));
                    told(raw.read(&mut vec![0; usize::from(arg % 400)]));
                }
            }
            23 => {
                wait_for(arg, self.watcher.as_mut().map(|end| end as _), None);
                return true;
            }
            code @ 8..=13 => return self.read(segment, code, arg),
            code => return self.watch(segment, code, arg),
        }
        false
    }
}

/// Both ends of a call cell.
#[derive(Default)]
pub(super) struct Call {
    caller: Option<Caller<[u64; 4], [u64; 2]>>,
    server: Option<Server<[u64; 4], [u64; 2]>>,
}

impl Actor for Call {
    fn objects(&self) -> &'static [&'static str] {
        &["call"]
    }

    fn leave(&mut self) {
        *self = Self::default();
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let value = [u64::from(arg); 4];
        match code % 20 {
            0 => {
                self.caller = None;
                self.caller = attached(segment.caller("call"));
            }
            1 => {
                self.server = None;
                self.server = attached(segment.server("call"));
            }
            2..=9 => {
                if self.caller.is_none() {
                    self.caller = attached(segment.caller("call"));
                }
                let Some(caller) = &mut self.caller else { return false };
                match code % 20 {
                    2 | 3 => told(caller.try_finish()),
                    4 => {
                        caller.wait_mode(mode(arg));
                        told(caller.call_timeout(value, short(arg)));
                        return true;
                    }
                    5 => {
                        told(caller.finish_timeout(short(arg)));
                        return true;
                    }
                    6 => {
                        _ = (
                            caller.sequence(),
                            caller.stats(),
                            caller.peer(),
                            caller.peer_changed(),
                        )
                    }
                    _ => told(caller.start(value)),
                }
            }
            _ => {
                if self.server.is_none() {
                    self.server = attached(segment.server("call"));
                }
                let Some(server) = &mut self.server else { return false };
                match code % 20 {
                    10 => {
                        server.wait_mode(mode(arg));
                        told(server.serve_timeout(short(arg), |request| [request[0]; 2]));
                        return true;
                    }
                    11 => {
                        _ = (
                            server.sequence(),
                            server.stats(),
                            server.peer(),
                            server.peer_changed(),
                        )
                    }
                    12 | 13 => {
                        if let Some(request) = answered(server.try_recv()) {
                            _ = (request.value(), request.sequence());
                            match arg % 3 {
                                0 => told(request.refuse()),
                                1 => told(request.answer([1; 2])),
                                _ => drop(request),
                            }
                        }
                    }
                    _ => told(server.try_serve(|request| [request[1]; 2])),
                }
            }
        }
        false
    }
}

/// Both ends of a duplex channel.
#[derive(Default)]
pub(super) struct DuplexEnds {
    caller: Option<DuplexCaller<[u64; 9], [u64; 9]>>,
    server: Option<DuplexServer<[u64; 9], [u64; 9]>>,
}

impl Actor for DuplexEnds {
    fn objects(&self) -> &'static [&'static str] {
        &["duplex.request", "duplex.response"]
    }

    fn leave(&mut self) {
        *self = Self::default();
    }

    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool {
        let value = [u64::from(arg); 9];
        match code % 20 {
            0 => {
                self.caller = None;
                self.caller = attached(segment.duplex_caller("duplex"));
            }
            1 => {
                self.server = None;
                self.server = attached(segment.duplex_server("duplex"));
            }
            2..=9 => {
                if self.caller.is_none() {
                    self.caller = attached(segment.duplex_caller("duplex"));
                }
                let Some(caller) = &mut self.caller else { return false };
                match code % 20 {
                    2 | 3 => told(caller.try_finish()),
                    4 => {
                        caller.wait_mode(mode(arg));
                        told(caller.call_timeout(value, short(arg)));
                        return true;
                    }
                    5 => {
                        told(caller.finish_timeout(short(arg)));
                        return true;
                    }
                    6 => {
                        _ = (
                            caller.sequence(),
                            caller.stats(),
                            caller.peer(),
                            caller.peer_changed(),
                        )
                    }
                    _ => told(caller.start(value)),
                }
            }
            _ => {
                if self.server.is_none() {
                    self.server = attached(segment.duplex_server("duplex"));
                }
                let Some(server) = &mut self.server else { return false };
                match code % 20 {
                    10 => {
                        server.wait_mode(mode(arg));
                        told(server.serve_timeout(short(arg), |request| request));
                        return true;
                    }
                    11 => {
                        _ = (
                            server.sequence(),
                            server.stats(),
                            server.peer(),
                            server.peer_changed(),
                        )
                    }
                    12 | 13 => {
                        if let Some(request) = answered(server.try_recv()) {
                            _ = (request.value(), request.sequence());
                            match arg % 3 {
                                0 => told(request.refuse()),
                                1 => told(request.answer([1; 9])),
                                _ => drop(request),
                            }
                        }
                    }
                    _ => told(server.try_serve(|request| request)),
                }
            }
        }
        false
    }
}
