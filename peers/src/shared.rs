//! Peers on shared memory between processes: shmem-ipc; and ipc-channel.
#![expect(unsafe_code, reason = "peers as they are used best: messages are written in place")]

use crate::harness::{End, Ends, Peer, Receive, Send, slots};
use crate::passing;
use bench_kit::words::{fill, sum};
use bench_kit::{Outcome, Place, Stage};
use bytemuck::cast_slice;
use core::hint::spin_loop;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};
use shmem_ipc::sharedring;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// shmem-ipc, spinning on its raw ring.
pub struct ShmemIpc;

impl<const N: usize> Send for sharedring::Sender<[u64; N]> {
    fn send(&mut self, number: u64) -> Outcome {
        let mut sent = 0;
        loop {
            self.sender_mut().send(|slots, _| {
                sent = write_one::<N>(slots, number);
                sent
            })?;
            if sent > 0 {
                return Ok(());
            }
            await_room(self)?;
        }
    }

    fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
        let mut sent = 0;
        while sent < count {
            let before = sent;
            self.sender_mut().send(|slots, room| {
                let now = (count - sent).min(room as u64) as usize;
                // SAFETY: the ring lends room for `room` messages, and its only reader, the other
                // half, does not look at it before we return.
                let slots = unsafe { core::slice::from_raw_parts_mut(slots, now) };
                for (slot, number) in slots.iter_mut().zip(first + sent..) {
                    *slot = [number; N];
                }
                sent += now as u64;
                now
            })?;
            if sent == before {
                await_room(self)?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> Receive for sharedring::Receiver<[u64; N]> {
    fn receive(&mut self) -> Outcome<u64> {
        Ok(self.receive_batch(1)?.1)
    }

    fn receive_in_turn(&mut self) -> Outcome<u64> {
        if N > 1 {
            return self.receive();
        }
        // Its writes to the count take that line away from the sender, which has nothing to do,
        // and then it is here. With longer messages that does not pay.
        let mut came = None;
        loop {
            self.receiver_mut().recv(|slots, _| {
                came = Some(sum_of(slots, 1));
                1
            })?;
            if let Some(sum) = came {
                return Ok(sum);
            }
            spin_loop();
        }
    }

    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        let mut came = (0, 0);
        // `recv` would write to the shared count each time; this only looks.
        while self.receiver_mut().read_count()? == 0 {
            spin_loop();
        }
        self.receiver_mut().recv(|slots, count| {
            let now = count.min(max as usize);
            came = (now as u64, sum_of(slots, now));
            now
        })?;
        Ok(came)
    }
}

/// Waits until there is room. `send` would write to the shared count each time; this only looks.
fn await_room<const N: usize>(sender: &mut sharedring::Sender<[u64; N]>) -> Outcome {
    while sender.sender_mut().write_count()? == 0 {
        spin_loop();
    }
    Ok(())
}

/// Writes one message where the ring says.
fn write_one<const N: usize>(slots: *mut [u64; N], number: u64) -> usize {
    let words = slots.cast::<u64>();
    // SAFETY: the ring calls this with room for at least one message of `N` words, and its only
    // reader, the other half, does not look at it before we return.
    fill(unsafe { core::slice::from_raw_parts_mut(words, N) }, number);
    1
}

/// The sum of all words of `count` messages that the ring lends.
fn sum_of<const N: usize>(slots: *const [u64; N], count: usize) -> u64 {
    // SAFETY: the ring lends at least so many messages, which its only writer, the other half,
    // does not touch before we return.
    sum(unsafe { core::slice::from_raw_parts(slots, count) }.as_flattened())
}

fn copies(parts: [&dyn AsFd; 3]) -> Outcome<[OwnedFd; 3]> {
    let [memory, empty, full] = parts.map(|part| part.as_fd().try_clone_to_owned());
    Ok([memory?, empty?, full?])
}

impl<const N: usize> Peer<N> for ShmemIpc {
    const NAME: &'static str = "shmem-ipc";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str =
        "polled on its raw ring, without its eventfd; nothing is checked against a bad peer";
    type Sender = sharedring::Sender<[u64; N]>;
    type Receiver = sharedring::Receiver<[u64; N]>;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        Ok(if sends {
            let sender = sharedring::Sender::new(slots::<N>())?;
            let memory = sender.memfd().as_file();
            let fds = copies([memory, sender.empty_signal(), sender.full_signal()])?;
            passing::leave(stage, channel, fds);
            End::Sender(sender)
        } else {
            let receiver = sharedring::Receiver::new(slots::<N>())?;
            let memory = receiver.memfd().as_file();
            let fds = copies([memory, receiver.empty_signal(), receiver.full_signal()])?;
            passing::leave(stage, channel, fds);
            End::Receiver(receiver)
        })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let [memory, empty, full] = passing::fetch::<3>(stage, channel)?.map(File::from);
        Ok(if sends {
            End::Sender(sharedring::Sender::open(slots::<N>(), memory, empty, full)?)
        } else {
            End::Receiver(sharedring::Receiver::open(slots::<N>(), memory, empty, full)?)
        })
    }
}

/// shmem-ipc as its examples use it: with the eventfds, by which both sides sleep.
pub struct ShmemIpcAsleep;

/// An end that sleeps.
pub struct Sleeping<T>(T);

impl Send for Sleeping<sharedring::Sender<[u64; 1]>> {
    fn send(&mut self, number: u64) -> Outcome {
        self.0.block_until_writable()?;
        self.0.send_raw(|slots, _| write_one(slots, number))?;
        Ok(())
    }
}

impl Receive for Sleeping<sharedring::Receiver<[u64; 1]>> {
    fn receive(&mut self) -> Outcome<u64> {
        let mut number = 0;
        self.0.block_until_readable()?;
        self.0.receive_raw(|slots, _| {
            number = sum_of(slots, 1);
            1
        })?;
        Ok(number)
    }
}

impl Peer<1> for ShmemIpcAsleep {
    const NAME: &'static str = "shmem-ipc, eventfd";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = "nothing is checked against a bad peer";
    type Sender = Sleeping<sharedring::Sender<[u64; 1]>>;
    type Receiver = Sleeping<sharedring::Receiver<[u64; 1]>>;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, Self>> {
        Ok(sleeping(<ShmemIpc as Peer<1>>::make(stage, channel, sends)?))
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, Self>> {
        Ok(sleeping(<ShmemIpc as Peer<1>>::open(stage, channel, sends)?))
    }
}

fn sleeping<S, R>(end: End<S, R>) -> End<Sleeping<S>, Sleeping<R>> {
    match end {
        End::Sender(sender) => End::Sender(Sleeping(sender)),
        End::Receiver(receiver) => End::Receiver(Sleeping(receiver)),
    }
}

/// ipc-channel, by bytes.
pub struct IpcChannel;

/// The first half hears of the channel from the second one, with its first message.
pub struct Late<T>(Option<IpcOneShotServer<T>>, Option<T>);

impl<T: for<'de> serde::Deserialize<'de> + serde::Serialize> Late<T> {
    fn get(&mut self) -> Outcome<&T> {
        if let Some(server) = self.0.take() {
            self.1 = Some(server.accept()?.1);
        }
        self.1.as_ref().ok_or_else(|| "no channel".into())
    }
}

/// The sending end.
pub struct IpcChannelSender<const N: usize>(Late<IpcBytesSender>, Vec<u64>);

impl<const N: usize> Send for IpcChannelSender<N> {
    fn send(&mut self, number: u64) -> Outcome {
        fill(&mut self.1, number);
        Ok(self.0.get()?.send(cast_slice(&self.1))?)
    }
}

impl Receive for Late<IpcBytesReceiver> {
    fn receive(&mut self) -> Outcome<u64> {
        let bytes = self.get()?.recv().map_err(|error| format!("{error:?}"))?;
        Ok(sum(bytemuck::try_cast_slice(&bytes).map_err(|error| error.to_string())?))
    }
}

impl<const N: usize> Peer<N> for IpcChannel {
    const NAME: &'static str = "ipc-channel";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = "a Unix seqpacket socket; large messages in several packets; each is received into a new Vec";
    type Sender = IpcChannelSender<N>;
    type Receiver = Late<IpcBytesReceiver>;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        Ok(if sends {
            let (server, name) = IpcOneShotServer::new()?;
            stage.say(channel, &name);
            End::Sender(IpcChannelSender(Late(Some(server), None), vec![0; N]))
        } else {
            let (server, name) = IpcOneShotServer::new()?;
            stage.say(channel, &name);
            End::Receiver(Late(Some(server), None))
        })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (sender, receiver) = bytes_channel()?;
        let name = stage.hear(channel);
        let failed = |error| format!("{error:?}");
        Ok(if sends {
            IpcSender::connect(name)?.send(receiver).map_err(failed)?;
            End::Sender(IpcChannelSender(Late(None, Some(sender)), vec![0; N]))
        } else {
            IpcSender::connect(name)?.send(sender).map_err(failed)?;
            End::Receiver(Late(None, Some(receiver)))
        })
    }
}
