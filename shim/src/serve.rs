//! The server: one thread, one owner for every task, until containerd asks it to go.

use crate::args::Args;
use crate::document;
use crate::report::events::Publisher;
use crate::rpc::server::{self, Connections};
use crate::status::{During, Result};
use crate::survival::{resume, store, upgrade, Server};
use crate::task::service::Service;
use crate::{dump, log};
use conex_proto::shim::Record;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener as StdListener;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{signal, SignalKind};

/// The listener that `start` hands over.
const LISTENER: i32 = 3;

/// Runs a future on this thread, with what it spawns.
pub fn block_on<T>(future: impl std::future::Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during(|| "epoll_create1".into())?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

pub fn main(args: &Args) -> Result<()> {
    conex_sys::proc::set_child_subreaper().during(|| "prctl(PR_SET_CHILD_SUBREAPER)".into())?;
    let bundle = std::env::current_dir().during(|| "getcwd".into())?;
    log::open(&bundle, args.debug);
    let saved = document::inherited()?;
    let number = saved.as_ref().map_or(LISTENER, |s| s.0);
    if !conex_sys::fd::is_open(number) {
        return Err(crate::status::unknown(
            "no listener as descriptor 3: the server is started by `start`",
        ));
    }
    let listener = conex_sys::fd::adopt(number);
    conex_sys::fd::set_cloexec(number).during(|| "fcntl(F_SETFD)".into())?;
    block_on(serve(args, listener, saved))?
}

async fn serve(args: &Args, listener: OwnedFd, saved: Option<(RawFd, Vec<Record>)>) -> Result<()> {
    let number = listener.as_raw_fd();
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true).during(|| "fcntl(O_NONBLOCK)".into())?;
    let path =
        listener.local_addr().ok().and_then(|a| a.as_pathname().map(std::path::Path::to_path_buf));
    let listener =
        Rc::new(UnixListener::from_std(listener).during(|| "epoll_ctl(listener)".into())?);
    let events = Rc::new(Publisher::new(
        &std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
        &args.namespace,
    ));
    let service = Rc::new(Service::new(&args.namespace, events.clone(), crate::reap::reaper()));
    let sending = events.clone();
    tokio::task::spawn_local(async move { sending.run().await });
    let mut signals = Signals::new()?;
    let calls = service.clone();
    let connections = Rc::new(Connections::new(Box::new(move |r| {
        let service = calls.clone();
        Box::pin(async move { service.call(&r.service, &r.method, &r.payload).await })
    })));
    if let Some((_, records)) = saved {
        resume::resume(&service, &connections, records)?;
    }
    document::settled();
    service.reaper.strangers();
    let store = store::begin(&service, number).await?;
    tokio::task::spawn_local(server::serve(listener, connections.clone()));
    let server = Server { service, connections, store, listener: number };
    log::info("serving", &[("namespace", &args.namespace), ("id", &args.id)]);
    loop {
        match signals.next(&server.service).await {
            Event::Child => server.service.reaper.strangers(),
            Event::Dump => dump::write(&server),
            Event::Upgrade => {
                if let Err(e) = upgrade::execute(&server).await {
                    log::error(&e.message, &[]);
                }
            }
            Event::Stop => break,
        }
    }
    // The socket goes first: nobody may find it and then nobody behind it.
    if let Some(path) = path {
        let _ = std::fs::remove_file(path);
    }
    leave(&server).await;
    Ok(())
}

/// What is still to be said.
async fn leave(server: &Server) {
    // The answer to Shutdown, and to calls that are still at work: containerd hears of a container's end, deletes it and
    // shuts the shim down while its own Kill waits for the runtime to return.
    let is_done = || {
        server.service.busy.get() == 0 && server.connections.open().iter().all(|c| c.is_flushed())
    };
    let flushed = async {
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), flushed).await;
    server.service.events.drain(Duration::from_secs(5)).await;
    // Go's ttrpc client may take the end of a connection for its answer, although it has read the answer before
    // ("ttrpc: closed"): let it have the answer first. Who has called Shutdown lets go at once.
    let left = async {
        while !server.connections.open().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(300), left).await;
}

enum Event {
    Child,
    Dump,
    Upgrade,
    Stop,
}

struct Signals {
    child: tokio::signal::unix::Signal,
    dump: tokio::signal::unix::Signal,
    upgrade: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let open = |kind| signal(kind).during(|| "sigaction".into());
        Ok(Signals {
            child: open(SignalKind::child())?,
            dump: open(SignalKind::user_defined1())?,
            upgrade: open(SignalKind::user_defined2())?,
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self, service: &Service) -> Event {
        use std::future::{poll_fn, Future};
        use std::pin::pin;
        use std::task::Poll;
        let mut shutdown = pin!(service.shutdown.notified());
        poll_fn(|cx| {
            let mut ready = |s: &mut tokio::signal::unix::Signal| s.poll_recv(cx).is_ready();
            if ready(&mut self.child) {
                return Poll::Ready(Event::Child);
            }
            if ready(&mut self.dump) {
                return Poll::Ready(Event::Dump);
            }
            if ready(&mut self.upgrade) {
                return Poll::Ready(Event::Upgrade);
            }
            if ready(&mut self.terminate) || ready(&mut self.interrupt) {
                return Poll::Ready(Event::Stop);
            }
            shutdown.as_mut().poll(cx).map(|()| Event::Stop)
        })
        .await
    }
}
