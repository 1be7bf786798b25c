//! iceoryx2: publish-subscribe, events, request-response.
#![expect(unsafe_code, reason = "as it is used best: samples are written in place")]

use crate::harness::{End, Ends, Peer, Receive, Send, slots};
use bench_kit::bystander::Bystander;
use bench_kit::words::{fill_uninit, sum};
use bench_kit::{Contest, Outcome, Place, Role, Side, Stage, Unit, drive};
use core::cell::RefCell;
use core::hint::spin_loop;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

type IceNode = Node<ipc::Service>;

fn node() -> Outcome<IceNode> {
    set_log_level(LogLevel::Fatal);
    Ok(NodeBuilder::new().create::<ipc::Service>()?)
}

/// iceoryx2: publish-subscribe of slices, polled, with room for `BUFFER` messages (fewer large
/// ones).
pub struct Iceoryx<const BUFFER: usize>;

/// A port and what must live as long.
pub struct IceoryxSender<const N: usize> {
    port: Publisher<ipc::Service, [u64], ()>,
    _node: IceNode,
}

/// A port and what must live as long.
pub struct IceoryxReceiver {
    port: Subscriber<ipc::Service, [u64], ()>,
    _node: IceNode,
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

/// What is published, to whom.
struct Topic<'a> {
    name: &'a str,
    subscribers: usize,
    buffer: usize,
    /// Whether the oldest messages give way to new ones, instead of being waited for.
    overflows: bool,
}

impl Topic<'_> {
    fn service(&self, node: &IceNode) -> Outcome<PortFactory<ipc::Service, [u64], ()>> {
        let service = node
            .service_builder(&self.name.try_into()?)
            .publish_subscribe::<[u64]>()
            .max_nodes(1 + self.subscribers)
            .max_publishers(1)
            .max_subscribers(self.subscribers)
            .enable_safe_overflow(self.overflows)
            .history_size(0)
            .subscriber_max_buffer_size(self.buffer);
        Ok(service.open_or_create()?)
    }

    fn sender<const N: usize>(&self) -> Outcome<IceoryxSender<N>> {
        let node = node()?;
        let port = self
            .service(&node)?
            .publisher_builder()
            .initial_max_slice_len(N)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        Ok(IceoryxSender { port, _node: node })
    }

    fn receiver(&self) -> Outcome<IceoryxReceiver> {
        let node = node()?;
        let port = self.service(&node)?.subscriber_builder().create()?;
        Ok(IceoryxReceiver { port, _node: node })
    }
}

fn iceoryx<const N: usize, const BUFFER: usize>(
    stage: &Stage,
    channel: usize,
    sends: bool,
) -> Outcome<Ends<N, Iceoryx<BUFFER>>> {
    let name = &format!("{}/{channel}", stage.name());
    let buffer = slots::<N>().min(BUFFER);
    let topic = Topic { name, subscribers: 1, buffer, overflows: false };
    Ok(if sends { End::Sender(topic.sender()?) } else { End::Receiver(topic.receiver()?) })
}

/// A stream to one subscriber that receives and `stopped` that are stopped, by the publisher's
/// clock; the oldest messages give way.
pub fn beside<const N: usize>(stopped: usize) -> Contest {
    let halves = move |stage: &Stage| {
        let name = &stage.name();
        let topic = Topic { name, subscribers: 1 + stopped, buffer: slots::<N>(), overflows: true };
        if stage.side() == Side::First {
            let mut sender = topic.sender::<N>()?;
            stage.meet()?;
            stage.meet()?;
            return drive::send_all(stage, |number| sender.send(number));
        }
        stage.meet()?;
        // Before this process has a node of its own, of which the others would have a copy.
        let others = (0..stopped).map(|_| Bystander::holding(|| topic.receiver()));
        let _others = others.collect::<Outcome<Vec<_>>>()?;
        let mut receiver = topic.receiver()?;
        stage.meet()?;
        let (mut passed, mut ahead) = (0, None);
        drive::receive_with_gaps(stage, || {
            let number = match ahead.take() {
                Some(number) => number,
                None => receiver.receive()? / N as u64,
            };
            let gap = number.checked_sub(passed + 1).ok_or("an old message came")?;
            if gap == 0 {
                passed = number;
                return Ok(Ok(number));
            }
            passed += gap;
            ahead = Some(number);
            Ok(Err(gap))
        })
    };
    let name = match stopped {
        0 => "iceoryx2, 1 subscriber".to_owned(),
        _ => format!("iceoryx2, {} subscribers, {stopped} of them stopped", 1 + stopped),
    };
    Contest::new(name, Role::Peer, Unit::Sent(N as u64 * 8), halves, halves)
        .lap(2 * slots::<N>() as u64)
        .note("with overflow and discovery; it queues each message for each subscriber")
}

impl<const N: usize, const BUFFER: usize> Peer<N> for Iceoryx<BUFFER> {
    const NAME: &'static str = "iceoryx2";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str =
        "publish-subscribe with discovery and many subscribers, which costs it here";
    type Sender = IceoryxSender<N>;
    type Receiver = IceoryxReceiver;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        iceoryx::<N, BUFFER>(stage, channel, sends)
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        iceoryx::<N, BUFFER>(stage, channel, sends)
    }
}

/// iceoryx2: events, for which the listener sleeps.
pub struct IceoryxEvent;

/// Events have one of so many ids, which tell a lost one.
const EVENT_IDS: u64 = 16;

/// A port and what must live as long.
pub struct IceoryxNotifier(Notifier<ipc::Service>, #[expect(dead_code, reason = "kept")] IceNode);

/// A port, how many events have come, and what must live as long.
pub struct IceoryxListener(
    Listener<ipc::Service>,
    u64,
    #[expect(dead_code, reason = "kept")] IceNode,
);

impl Send for IceoryxNotifier {
    fn send(&mut self, number: u64) -> Outcome {
        let id = EventId::new((number % EVENT_IDS) as usize);
        match self.0.notify_with_custom_event_id(id)? {
            1 => Ok(()),
            count => Err(format!("{count} listeners were notified").into()),
        }
    }
}

impl Receive for IceoryxListener {
    fn receive(&mut self) -> Outcome<u64> {
        let (mut count, mut id) = (0, 0);
        while count == 0 {
            self.0.blocking_wait(|event| {
                count += event.count;
                id = event.id.as_value() as u64;
            })?;
        }
        self.1 += 1;
        let right = count == 1 && id == self.1 % EVENT_IDS;
        if right { Ok(self.1) } else { Err("another event came".into()) }
    }
}

fn event(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, IceoryxEvent>> {
    let node = node()?;
    let service = node
        .service_builder(&format!("{}/{channel}", stage.name()).as_str().try_into()?)
        .event()
        .max_nodes(2)
        .max_notifiers(1)
        .max_listeners(1)
        .event_id_max_value(EVENT_IDS as usize)
        .open_or_create()?;
    Ok(if sends {
        End::Sender(IceoryxNotifier(service.notifier_builder().create()?, node))
    } else {
        End::Receiver(IceoryxListener(service.listener_builder().create()?, 0, node))
    })
}

impl Peer<1> for IceoryxEvent {
    const NAME: &'static str = "iceoryx2 event";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str =
        "a wake-up that carries an event id, for many notifiers and listeners";
    type Sender = IceoryxNotifier;
    type Receiver = IceoryxListener;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, Self>> {
        event(stage, channel, sends)
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, Self>> {
        event(stage, channel, sends)
    }
}

/// Round trips of 8 bytes by request and response, polled.
pub fn request_response() -> Contest {
    let halves = |stage: &Stage| {
        // The first half creates the service, as everywhere.
        if stage.side() == Side::Second {
            stage.meet()?;
        }
        let node = node()?;
        let service = node
            .service_builder(&stage.name().as_str().try_into()?)
            .request_response::<u64, u64>()
            .max_nodes(2)
            .max_clients(1)
            .max_servers(1)
            .open_or_create()?;
        if stage.side() == Side::First {
            let client = service.client_builder().create()?;
            stage.meet()?;
            stage.meet()?;
            let pending = RefCell::new(None);
            let send = |number| {
                pending.replace(Some(client.loan_uninit()?.write_payload(number).send()?));
                Ok(())
            };
            let receive = || {
                let pending = pending.borrow();
                let pending = pending.as_ref().ok_or("no request")?;
                loop {
                    if let Some(response) = pending.receive()? {
                        return Ok(*response.payload());
                    }
                    spin_loop();
                }
            };
            return drive::ping_pong(stage, send, receive);
        }
        let server = service.server_builder().create()?;
        stage.meet()?;
        let request = RefCell::new(None);
        let receive = || loop {
            if let Some(came) = server.receive()? {
                let number = *came.payload();
                request.replace(Some(came));
                return Ok(number);
            }
            spin_loop();
        };
        let send = |number| {
            let request = request.take().ok_or("no request")?;
            request.loan_uninit()?.write_payload(number).send()?;
            Ok(())
        };
        drive::ping_pong(stage, send, receive)
    };
    Contest::new("iceoryx2 request-response", Role::Peer, Unit::RoundTrip, halves, halves).note(
        "with discovery, many clients and servers, and streams of responses, which costs it here",
    )
}
