//! Events to containerd, in order, until it has taken them.

use crate::log;
use crate::rpc::frame::{self, Header, HEADER};
use conex_proto::ttrpc::{Request, Response};
use conex_proto::types::{Envelope, ForwardRequest};
use conex_proto::{any, Timestamp};
use prost::Message;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// Bytes of events that may wait for a containerd that is down; then the oldest that nobody needs for a task's
/// account are dropped first.
const MAX_WAITING: usize = 1 << 20;

pub struct Publisher {
    /// containerd's ttrpc socket; empty for none.
    address: String,
    namespace: String,
    /// By their number, in order.
    waiting: RefCell<VecDeque<(u64, Envelope)>>,
    next: Cell<u64>,
    bytes: Cell<usize>,
    wake: Notify,
    taken: Notify,
    sending: Cell<bool>,
}

impl Publisher {
    pub fn new(address: &str, namespace: &str) -> Publisher {
        Publisher {
            address: address.trim_start_matches("unix://").to_string(),
            namespace: namespace.to_string(),
            waiting: RefCell::default(),
            next: Cell::new(0),
            bytes: Cell::new(0),
            wake: Notify::new(),
            taken: Notify::new(),
            sending: Cell::new(false),
        }
    }

    /// Queues one event: its topic (`/tasks/exit`), its type (`TaskExit`), itself.
    pub fn publish(&self, topic: &str, kind: &str, event: &impl Message) {
        self.publish_as(topic, &format!("containerd.events.{kind}"), event);
    }

    /// The same for an event of a type with this full name.
    pub fn publish_as(&self, topic: &str, kind: &str, event: &impl Message) {
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_string(),
            event: Some(any(kind, event)),
        };
        self.push(envelope);
    }

    pub fn push(&self, envelope: Envelope) {
        if self.address.is_empty() {
            return;
        }
        self.bytes.set(self.bytes.get() + envelope.encoded_len());
        let number = self.next.get();
        self.next.set(number + 1);
        self.waiting.borrow_mut().push_back((number, envelope));
        crate::marks::touch_event(number);
        self.bound();
        self.wake.notify_one();
    }

    /// What has not been taken yet.
    pub fn waiting(&self) -> Vec<(u64, Envelope)> {
        self.waiting.borrow().iter().cloned().collect()
    }

    /// One of them.
    pub fn waiting_at(&self, number: u64) -> Option<Envelope> {
        let waiting = self.waiting.borrow();
        let at = waiting.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        waiting.get(at).map(|(_, envelope)| envelope.clone())
    }

    /// True while containerd may or may not have taken an event.
    pub fn is_sending(&self) -> bool {
        self.sending.get()
    }

    fn bound(&self) {
        while self.bytes.get() > MAX_WAITING {
            let mut waiting = self.waiting.borrow_mut();
            // containerd asks for the state of every task when it comes back; exits and deletions are what it must
            // not miss.
            let vital = |e: &Envelope| matches!(e.topic.as_str(), "/tasks/exit" | "/tasks/delete");
            let at = waiting.iter().position(|(_, e)| !vital(e)).unwrap_or(0);
            let Some((number, lost)) = waiting.remove(at) else { return };
            crate::marks::touch_event(number);
            self.bytes.set(self.bytes.get() - lost.encoded_len());
            log::warn(
                "event dropped: containerd has been away for too long",
                &[("topic", &lost.topic)],
            );
        }
    }

    /// Sends for ever, one at a time.
    pub async fn run(&self) {
        let mut link = Link::default();
        let mut pause = Duration::from_millis(50);
        loop {
            let Some((number, envelope)) = self.waiting.borrow().front().cloned() else {
                self.wake.notified().await;
                continue;
            };
            self.sending.set(true);
            let sent = link.forward(&self.address, &envelope).await;
            self.sending.set(false);
            match sent {
                Ok(refused) => {
                    if let Some(why) = refused {
                        log::warn(
                            "containerd refused an event",
                            &[("topic", &envelope.topic), ("error", &why)],
                        );
                    }
                    pause = Duration::from_millis(50);
                    // It may have been dropped meanwhile.
                    let mut waiting = self.waiting.borrow_mut();
                    if waiting.front().is_some_and(|(n, _)| *n == number) {
                        waiting.pop_front();
                        self.bytes.set(self.bytes.get() - envelope.encoded_len());
                    }
                    drop(waiting);
                    // A server that takes over must not tell it again.
                    crate::marks::touch_event(number);
                    self.taken.notify_waiters();
                }
                Err(e) => {
                    log::debug(
                        "event not sent",
                        &[("topic", &envelope.topic), ("error", &e.to_string())],
                    );
                    link = Link::default();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        }
    }

    /// Until everything is sent, at most that long.
    pub async fn drain(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, async {
            while !self.waiting.borrow().is_empty() {
                self.taken.notified().await;
            }
        })
        .await;
    }
}

/// A connection to containerd's event service.
#[derive(Default)]
struct Link {
    stream: Option<UnixStream>,
    next: u32,
}

impl Link {
    /// `Ok(Some(why))` if containerd took the message and refused the event.
    async fn forward(
        &mut self,
        address: &str,
        envelope: &Envelope,
    ) -> std::io::Result<Option<String>> {
        let exchange = async {
            if self.stream.is_none() {
                self.stream = Some(UnixStream::connect(address).await?);
                self.next = 1;
            }
            let Some(stream) = &self.stream else { return Ok(None) };
            let id = self.next;
            self.next += 2;
            let request = Request {
                service: "containerd.services.events.ttrpc.v1.Events".into(),
                method: "Forward".into(),
                payload: ForwardRequest { envelope: Some(envelope.clone()) }.encode_to_vec(),
                ..Request::default()
            };
            let response = exchange(stream, id, &request).await?;
            Ok(response.status.filter(|s| s.code != 0).map(|s| s.message))
        };
        tokio::time::timeout(Duration::from_secs(5), exchange)
            .await
            .unwrap_or_else(|e| Err(e.into()))
    }
}

/// One request on a stream socket, and its answer.
pub async fn exchange(
    stream: &UnixStream,
    id: u32,
    request: &Request,
) -> std::io::Result<Response> {
    let mut frame = Vec::new();
    frame::put(&mut frame, id, frame::REQUEST, request);
    frame::write_all(stream, &frame).await?;
    let mut input = Vec::new();
    loop {
        if let Some(header) = Header::parse(&input) {
            if input.len() >= HEADER + header.length {
                let message: Vec<u8> = input.drain(..HEADER + header.length).skip(HEADER).collect();
                if header.stream == id && header.kind == frame::RESPONSE {
                    return Response::decode(message.as_slice()).map_err(std::io::Error::other);
                }
                continue;
            }
        }
        stream.readable().await?;
        frame::read_some(stream, &mut input)?;
    }
}

pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}
