//! The ttrpc server: frames in, calls, frames out.
//!
//! A connection keeps what has arrived but is not answered, so that a live upgrade can carry it over.

use super::frame::{self, Header, HEADER, MAX_MESSAGE};
use crate::log;
use crate::status::{self, Failure, Result};
use conex_proto::ttrpc::{Request, Response, Status};
use prost::Message;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// Requests of one connection that may be unanswered at a time; more are refused. Not read any more, it would be lost for
/// good: what would free it could not be asked for.
const MAX_PENDING: usize = 16384;

/// Answers that may wait for a client that does not read. Until it does, nothing is read from it either.
const MAX_OUTPUT: usize = MAX_MESSAGE;

pub struct Connection {
    pub stream: UnixStream,
    /// The beginning of a frame that is not complete.
    pub input: RefCell<Vec<u8>>,
    /// Bytes of a refused message that are still to come.
    pub skip: Cell<usize>,
    /// Unanswered requests by stream.
    pub pending: RefCell<BTreeMap<u32, Request>>,
    /// Calls that only wait: nobody needs their answer when the client is gone.
    waits: RefCell<BTreeMap<u32, tokio::task::AbortHandle>>,
    output: RefCell<Vec<u8>>,
    writing: Cell<bool>,
    answered: Notify,
}

/// Who answers a request: with a payload, or with the status of a failure.
pub type Handler = dyn Fn(Request) -> Pin<Box<dyn Future<Output = Result<Vec<u8>>>>>;

/// All connections that are open.
pub struct Connections {
    handler: Box<Handler>,
    list: RefCell<Vec<Rc<Connection>>>,
    /// While true no new request is begun.
    pub paused: Cell<bool>,
    pub resumed: Notify,
}

impl Connections {
    pub fn new(handler: Box<Handler>) -> Connections {
        Connections {
            handler,
            list: RefCell::default(),
            paused: Cell::new(false),
            resumed: Notify::new(),
        }
    }

    pub fn open(&self) -> Vec<Rc<Connection>> {
        self.list.borrow().clone()
    }
}

/// Accepts for ever.
pub async fn serve(listener: Rc<UnixListener>, connections: Rc<Connections>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match same_user(&stream) {
                Ok(()) => add(stream, (Vec::new(), 0), BTreeMap::new(), &connections),
                Err(e) => log::warn("connection refused", &[("error", &e)]),
            },
            Err(e) => {
                // Out of descriptors: a pause instead of a busy loop.
                log::warn("accept", &[("error", &e.to_string())]);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Takes up a connection, with what an earlier build of this program had read of it.
pub fn add(
    stream: UnixStream,
    (input, skip): (Vec<u8>, usize),
    pending: BTreeMap<u32, Request>,
    connections: &Rc<Connections>,
) {
    let connection = Rc::new(Connection {
        stream,
        input: RefCell::new(input),
        skip: Cell::new(skip),
        pending: RefCell::new(BTreeMap::new()),
        waits: RefCell::default(),
        output: RefCell::default(),
        writing: Cell::new(false),
        answered: Notify::new(),
    });
    connections.list.borrow_mut().push(connection.clone());
    for (stream, request) in pending {
        begin(&connection, connections, stream, request);
    }
    let connections = connections.clone();
    tokio::task::spawn_local(async move {
        let end = read(&connection, &connections).await;
        log::debug("connection closed", &[("reason", &end.to_string())]);
        connections.list.borrow_mut().retain(|c| !Rc::ptr_eq(c, &connection));
        connection.waits.take().values().for_each(|task| task.abort());
    });
}

/// Only the user that runs the shim (UnixSocketRequireSameUser of containerd's ttrpc); the socket's mode says the same.
fn same_user(stream: &UnixStream) -> Result<(), String> {
    let peer =
        nix::sys::socket::getsockopt(&stream.as_fd(), nix::sys::socket::sockopt::PeerCredentials)
            .map_err(|e| format!("getsockopt(SO_PEERCRED): {e}"))?;
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!("ttrpc: invalid peer, uid {}", peer.uid()));
    }
    Ok(())
}

async fn read(connection: &Rc<Connection>, connections: &Rc<Connections>) -> std::io::Error {
    loop {
        let paused = &connections.paused;
        while connection.output.borrow().len() > MAX_OUTPUT {
            connection.answered.notified().await;
        }
        while paused.get() {
            connections.resumed.notified().await;
        }
        take_frames(connection, connections);
        if connection.output.borrow().len() > MAX_OUTPUT {
            continue;
        }
        if let Err(e) = connection.stream.readable().await {
            return e;
        }
        if paused.get() {
            continue;
        }
        let mut input = connection.input.borrow_mut();
        if let Err(e) = frame::read_some(&connection.stream, &mut input) {
            return e;
        }
    }
}

/// Begins every request that is there whole.
fn take_frames(connection: &Rc<Connection>, connections: &Rc<Connections>) {
    loop {
        let mut input = connection.input.borrow_mut();
        let dropped = connection.skip.get().min(input.len());
        input.drain(..dropped);
        connection.skip.set(connection.skip.get() - dropped);
        let Some(header) = Header::parse(&input) else { break };
        if header.length > MAX_MESSAGE {
            drop(input);
            skip(connection, header);
            continue;
        }
        if input.len() < HEADER + header.length || connection.output.borrow().len() > MAX_OUTPUT {
            break;
        }
        let message: Vec<u8> = input.drain(..HEADER + header.length).skip(HEADER).collect();
        if input.is_empty() {
            // An idle connection holds no buffer.
            *input = Vec::new();
        }
        drop(input);
        if header.kind != frame::REQUEST {
            // Data of streams that this service does not have.
            continue;
        }
        match Request::decode(message.as_slice()) {
            _ if header.stream % 2 != 1 => {
                let e = status::invalid("StreamID must be odd for client initiated streams");
                answer(connection, header.stream, Err(e));
            }
            Err(e) => {
                answer(connection, header.stream, Err(status::invalid(format!("request: {e}"))))
            }
            _ if connection.pending.borrow().contains_key(&header.stream) => {
                let e = status::invalid("StreamID cannot be re-used and must increment");
                answer(connection, header.stream, Err(e));
            }
            _ if connection.pending.borrow().len() >= MAX_PENDING => {
                let message =
                    format!("{MAX_PENDING} calls of this connection are not answered yet");
                answer(
                    connection,
                    header.stream,
                    Err(Failure { code: status::RESOURCE_EXHAUSTED, message }),
                );
            }
            Ok(request) => begin(connection, connections, header.stream, request),
        }
    }
}

/// A message beyond the limit: refused at once, its bytes dropped as they come.
fn skip(connection: &Rc<Connection>, header: Header) {
    let mut input = connection.input.borrow_mut();
    let here = (input.len() - HEADER).min(header.length);
    input.drain(..HEADER + here);
    drop(input);
    connection.skip.set(header.length - here);
    let message =
        format!("message length {} exceed maximum message size of {MAX_MESSAGE}", header.length);
    answer(connection, header.stream, Err(Failure { code: status::RESOURCE_EXHAUSTED, message }));
    if header.length > 2 * MAX_MESSAGE {
        // Nobody means this: the stream is out of step. What was answered can still be read.
        let socket = std::os::fd::AsRawFd::as_raw_fd(&connection.stream);
        let _ = nix::sys::socket::shutdown(socket, nix::sys::socket::Shutdown::Read);
    }
}

fn begin(connection: &Rc<Connection>, connections: &Connections, stream: u32, request: Request) {
    connection.pending.borrow_mut().insert(stream, request.clone());
    let waits = matches!(request.method.as_str(), "Wait" | "WaitSandbox");
    let whose = connection.clone();
    let connection = connection.clone();
    let limit = Duration::from_nanos(u64::try_from(request.timeout_nano).unwrap_or(0));
    let mut call = (connections.handler)(request);
    let task = tokio::task::spawn_local(async move {
        let result = match limit.is_zero() {
            true => Ok(call.as_mut().await),
            false => tokio::time::timeout(limit, call.as_mut()).await,
        };
        connection.pending.borrow_mut().remove(&stream);
        connection.waits.borrow_mut().remove(&stream);
        let late = result.is_err();
        let expired = |_| {
            Err(Failure {
                code: status::DEADLINE_EXCEEDED,
                message: "context deadline exceeded".into(),
            })
        };
        answer(&connection, stream, result.unwrap_or_else(expired));
        // The work goes on when the client has given up: half a create would be nobody's.
        if late && !waits {
            let _ = call.await;
        }
    });
    if waits {
        whose.waits.borrow_mut().insert(stream, task.abort_handle());
    }
}

fn answer(connection: &Rc<Connection>, stream: u32, result: Result<Vec<u8>>) {
    let response = match result {
        Ok(payload) => Response { status: None, payload },
        Err(Failure { code, message }) => Response {
            status: Some(Status { code, message, details: Vec::new() }),
            payload: Vec::new(),
        },
    };
    frame::put(&mut connection.output.borrow_mut(), stream, frame::RESPONSE, &response);
    if connection.writing.replace(true) {
        return;
    }
    let connection = connection.clone();
    tokio::task::spawn_local(async move {
        loop {
            let bytes = connection.output.take();
            // A client that is gone reads no answer.
            if bytes.is_empty() || frame::write_all(&connection.stream, &bytes).await.is_err() {
                break;
            }
        }
        connection.writing.set(false);
        connection.answered.notify_one();
    });
}

impl Connection {
    /// True if every answer given is with the kernel.
    pub fn is_flushed(&self) -> bool {
        !self.writing.get() && self.output.borrow().is_empty()
    }
}
