//! Peers on shared memory between processes: shmem-ipc, iceoryx2, ipc-channel.
#![expect(unsafe_code, reason = "peers as they are used best: messages are written in place")]

use crate::harness::{End, Ends, Peer, Receive, Send, slots};
use crate::passing;
use bench_kit::words::{fill, fill_uninit, sum};
use bench_kit::{Outcome, Place, Stage};
use bytemuck::cast_slice;
use core::hint::spin_loop;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
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
        while sent == 0 {
            self.sender_mut().send(|slots, _| {
                let words = slots.cast::<u64>();
                // SAFETY: the ring lends room for at least one message of `N` words, and its
                // only reader, the other half, does not look at it before we return.
                fill(unsafe { core::slice::from_raw_parts_mut(words, N) }, number);
                sent = 1;
                1
            })?;
            if sent == 0 {
                spin_loop();
            }
        }
        Ok(())
    }

    fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
        let mut sent = 0;
        while sent < count {
            let before = sent;
            self.sender_mut().send(|slots, room| {
                let now = (count - sent).min(room as u64) as usize;
                // SAFETY: as above, for `room` messages.
                let slots = unsafe { core::slice::from_raw_parts_mut(slots, now) };
                for (slot, number) in slots.iter_mut().zip(first + sent..) {
                    *slot = [number; N];
                }
                sent += now as u64;
                now
            })?;
            if sent == before {
                spin_loop();
            }
        }
        Ok(())
    }
}

impl<const N: usize> Receive for sharedring::Receiver<[u64; N]> {
    fn receive(&mut self) -> Outcome<u64> {
        Ok(self.receive_batch(1)?.1)
    }

    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        let mut came = (0, 0);
        while came.0 == 0 {
            self.receiver_mut().recv(|slots, count| {
                let now = count.min(max as usize);
                // SAFETY: the ring lends `count` messages, which its only writer, the other
                // half, does not touch before we return.
                let slots = unsafe { core::slice::from_raw_parts(slots, now) };
                came = (now as u64, sum(slots.as_flattened()));
                now
            })?;
            if came.0 == 0 {
                spin_loop();
            }
        }
        Ok(came)
    }
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

/// iceoryx2: publish-subscribe of slices, polled.
pub struct Iceoryx;

/// A port and what must live as long.
pub struct IceoryxSender<const N: usize> {
    port: Publisher<ipc::Service, [u64], ()>,
    _node: Node<ipc::Service>,
}

/// A port and what must live as long.
pub struct IceoryxReceiver {
    port: Subscriber<ipc::Service, [u64], ()>,
    _node: Node<ipc::Service>,
}

impl<const N: usize> Send for IceoryxSender<N> {
    fn send(&mut self, number: u64) -> Outcome {
        let mut sample = self.port.loan_slice_uninit(N)?;
        fill_uninit(sample.payload_mut(), number);
        // SAFETY: every word was written.
        let sample = unsafe { sample.assume_init() };
        sample.send()?;
        Ok(())
    }
}

impl Receive for IceoryxReceiver {
    fn receive(&mut self) -> Outcome<u64> {
        loop {
            if let Some(sample) = self.port.receive()? {
                return Ok(sum(sample.payload()));
            }
            spin_loop();
        }
    }
}

fn iceoryx<const N: usize>(
    stage: &Stage,
    channel: usize,
    sends: bool,
) -> Outcome<Ends<N, Iceoryx>> {
    set_log_level(LogLevel::Fatal);
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let name = format!("{}/{channel}", stage.name());
    let service = node
        .service_builder(&name.as_str().try_into()?)
        .publish_subscribe::<[u64]>()
        .enable_safe_overflow(false)
        .history_size(0)
        .subscriber_max_buffer_size(slots::<N>().min(256))
        .open_or_create()?;
    Ok(if sends {
        let port = service
            .publisher_builder()
            .initial_max_slice_len(N)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        End::Sender(IceoryxSender { port, _node: node })
    } else {
        End::Receiver(IceoryxReceiver { port: service.subscriber_builder().create()?, _node: node })
    })
}

impl<const N: usize> Peer<N> for Iceoryx {
    const NAME: &'static str = "iceoryx2";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str =
        "publish-subscribe with discovery and many subscribers, which costs it here";
    type Sender = IceoryxSender<N>;
    type Receiver = IceoryxReceiver;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        iceoryx::<N>(stage, channel, sends)
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        iceoryx::<N>(stage, channel, sends)
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
    const NOTE: &'static str = "a Unix socket, or a memfd for large messages";
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
