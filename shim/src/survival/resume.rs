//! A server that goes on where an earlier one stopped.

use super::save::time;
use crate::document::LISTENER;
use crate::io::copy::{Start, Stream};
use crate::io::logger::Logger;
use crate::io::ring::Ring;
use crate::io::{reader_of, Io, Owner, Stdio};
use crate::log;
use crate::reap::Exit;
use crate::rpc::server::{self, Connections};
use crate::runtime::Runtime;
use crate::status::{unknown, During, Result};
use crate::task::container::Container;
use crate::task::process::{Process, Stage};
use crate::task::restore::Restore;
use crate::task::service::Service;
use conex_proto::shim::{self as proto, Record};
use conex_proto::ttrpc::Request;
use conex_proto::{runc, types::Envelope};
use conex_sys::fd;
use prost::Message;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;

/// A record whose descriptors are this process's now.
struct Held {
    key: String,
    text: Vec<u8>,
    descriptors: Vec<Rc<OwnedFd>>,
}

impl Held {
    /// # Errors
    /// A number is not that of an open descriptor.
    fn take(record: Record) -> Result<Held> {
        let own = |n: &RawFd| match fd::is_open(*n) {
            true => Ok(Rc::new(fd::adopt(*n))),
            false => Err(unknown(format!("{}: descriptor {n} is not open", record.key))),
        };
        let descriptors = record.descriptors.iter().map(own).collect::<Result<_>>()?;
        Ok(Held { key: record.key, text: record.text, descriptors })
    }

    fn read<M: Message + Default>(&self) -> Result<M> {
        M::decode(self.text.as_slice()).during(|| format!("record {}", self.key))
    }

    fn at(&self, place: u32) -> Option<Rc<OwnedFd>> {
        self.descriptors.get((place as usize).checked_sub(1)?).cloned()
    }
}

/// Goes on where the earlier server stopped.
pub fn resume(
    service: &Rc<Service>,
    connections: &Rc<Connections>,
    records: Vec<Record>,
) -> Result<()> {
    let (mut containers, mut processes, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for record in records.into_iter().filter(|r| r.key != LISTENER) {
        let torn = record.torn;
        let held = Held::take(record)?;
        match held.key.split('/').next().unwrap_or_default() {
            "sandbox" => {
                let s = held.read::<proto::Sandbox>()?;
                service.sandbox.resume(s.id, s.started, s.created.map(time), s.stopped.map(time));
            }
            "container" => containers.push(held.read::<proto::Container>()?),
            "event" => service.events.push(held.read::<Envelope>()?),
            "process" => processes.push(Sleeper { saved: held.read()?, held, torn }),
            "connection" => open.push(held),
            other => log::warn("a record of an unknown kind", &[("kind", other)]),
        }
    }
    for c in containers {
        let (own, others) = processes.into_iter().partition(|p| p.saved.container_id == c.id);
        processes = others;
        let c = Rc::new(rebuild(service, c, own)?);
        service.containers.borrow_mut().insert(c.id.clone(), c.clone());
        if c.turning.get() {
            service.settle_pause(&c);
        }
        let execs: Vec<_> = c.execs.borrow().values().cloned().collect();
        for p in std::iter::once(&c.init).chain(&execs) {
            if p.is_alive() {
                service.watch(&c, p)?;
            }
            if p.stage.get() == Stage::Starting {
                service.settle(&c, p);
            }
        }
    }
    open.into_iter().try_for_each(|c| connection_again(connections, c))
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// A process of a record.
struct Sleeper {
    saved: proto::Process,
    held: Held,
    torn: bool,
}

fn rebuild(
    service: &Rc<Service>,
    c: proto::Container,
    processes: Vec<Sleeper>,
) -> Result<Container> {
    let (bundle, cgroups) = (path(c.bundle), c.cgroups.into_iter().map(path).collect::<Vec<_>>());
    let options = runc::Options::decode(c.options.as_slice()).during(|| "options".into())?;
    let (mut init, mut execs) = (None, std::collections::BTreeMap::new());
    for p in processes {
        let owner = Rc::new(Owner::new(
            (&service.namespace, &service.events),
            (&c.id, &p.saved.exec_id),
            &bundle,
            &options,
        ));
        let made = Rc::new(process_again(service, p, &owner));
        match owner.exec.as_str() {
            "" => init = Some(made),
            name => drop(execs.insert(name.to_string(), made)),
        }
    }
    let init = init.ok_or_else(|| unknown(format!("record container/{}: no init", c.id)))?;
    // Of one that has ended it was told.
    let watch = match init.exit.get() {
        None => crate::task::exit::watch_oom(service, &c.id, &cgroups, Some(c.oom_told)),
        Some(_) => None,
    };
    let restore = match c.restore.as_slice() {
        [] => None,
        text => Some(serde_json::from_slice::<Restore>(text).during(|| "restore".into())?),
    };
    Ok(Container {
        id: c.id,
        bundle,
        runtime: serde_json::from_slice::<Runtime>(&c.runtime).during(|| "runtime".into())?,
        options,
        execs: RefCell::new(execs),
        init,
        turn: tokio::sync::Mutex::default(),
        paused: Cell::new(c.paused),
        turning: Cell::new(c.turning),
        shared_pid: c.shared_pid,
        cgroups: RefCell::new(cgroups),
        oom: RefCell::new(watch),
        restore,
        lingering: RefCell::default(),
        output_buffer: c.output_buffer,
    })
}

fn process_again(service: &Service, p: Sleeper, owner: &Rc<Owner>) -> Process {
    let Sleeper { saved: p, held, torn } = p;
    if torn {
        let fields = [("id", p.container_id.as_str()), ("exec", &p.exec_id)];
        log::error(
            "the keeper could not hold the streams of a process (RLIMIT_NOFILE): they are cut",
            &fields,
        );
    }
    let io = streams_again(service, p.streams.unwrap_or_default(), &held, owner);
    let reaped = p.reaped.or(p.exit);
    if p.pid > 0 && reaped.is_none() {
        service.reaper.add(p.pid);
    }
    let stdio = Stdio { stdin: p.stdin, stdout: p.stdout, stderr: p.stderr, terminal: p.terminal };
    let out = Process::new(&p.exec_id, stdio, p.spec);
    let again = |e: proto::Exit| Exit {
        status: e.status,
        at: time(proto::Time { seconds: e.seconds, nanos: e.nanos }),
    };
    out.stage.set(Stage::of(p.stage));
    out.pid.set(p.pid);
    out.start_time.set(p.start_time);
    out.exit.set(p.exit.map(again));
    out.reaped.set(reaped.map(again));
    out.never.set(p.never);
    out.leaf.set(p.leaf);
    *out.io.borrow_mut() = Rc::new(io);
    out
}

fn streams_again(service: &Service, s: proto::Streams, held: &Held, owner: &Rc<Owner>) -> Io {
    let io = Io::default();
    for saved in s.list {
        let (Some(from), Some(to)) = (held.at(saved.from), held.at(saved.to)) else { continue };
        let ring = held.at(saved.ring).and_then(|fd| fd.as_fd().try_clone_to_owned().ok());
        let ring = ring.and_then(|fd| match Ring::resume(fd) {
            Ok(ring) => Some(ring),
            Err(e) => {
                log::error("kept output is lost", &[("id", &owner.id), ("error", &e.message)]);
                None
            }
        });
        let start =
            Start { hold: reader_of(&to), pending: saved.pending, ring, capacity: saved.capacity };
        io.streams.borrow_mut().push(Stream::begin(&saved.name, owner, from, to, start));
    }
    *io.stdin_hold.borrow_mut() = held.at(s.stdin_hold);
    *io.console.borrow_mut() = held.at(s.console);
    if let Some(pidfd) = held.at(s.logger_pidfd) {
        *io.logger.borrow_mut() = Some(Logger::again(&service.reaper, s.logger, pidfd));
    }
    io
}

fn connection_again(connections: &Rc<Connections>, held: Held) -> Result<()> {
    let c = held.read::<proto::Connection>()?;
    let Some(socket) = held.descriptors.into_iter().next().and_then(Rc::into_inner) else {
        return Ok(());
    };
    let stream = std::os::unix::net::UnixStream::from(socket);
    let stream =
        tokio::net::UnixStream::from_std(stream).during(|| "epoll_ctl(connection)".into())?;
    let mut pending = std::collections::BTreeMap::new();
    for call in c.pending {
        pending.insert(
            call.stream,
            Request::decode(call.request.as_slice()).during(|| "request".into())?,
        );
    }
    server::add(stream, (c.input, c.skip as usize), pending, connections);
    Ok(())
}
