//! The state of a server as a list of records: what a live upgrade or the keeper hands to the next one.
//!
//! A record is one thing (`conex_proto::shim::Record`): its text, and the descriptors that go with it, which the text
//! names by their place. So they may have other numbers in the next server, and one thing that changes is told alone.

use crate::checkpoint::Restore;
use crate::container::Container;
use crate::io::copy::{Start, Stream};
use crate::io::logger::Logger;
use crate::io::ring::Ring;
use crate::io::{reader_of, Io, Owner, Stdio};
use crate::process::{Process, Stage};
use crate::reap::Exit;
use crate::runtime::Runtime;
use crate::service::Service;
use crate::status::{unknown, Call, Result};
use crate::{log, oom, server};
use conex_proto::shim::{self as proto, Record};
use conex_proto::ttrpc::Request;
use conex_proto::{runc, types::Envelope};
use conex_sys::fd;
use prost::Message;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// The form of the records. A new field has a default; what an older build would misread is another version.
pub const VERSION: u32 = 2;

/// The key of the listener's record.
pub const LISTENER: &str = "listener";

/// A record that is being made.
#[derive(Default)]
struct Maker {
    descriptors: Vec<RawFd>,
}

impl Maker {
    /// The place of a descriptor: one more than its index.
    fn place(&mut self, fd: Option<RawFd>) -> u32 {
        let Some(fd) = fd else { return 0 };
        let known = self.descriptors.iter().position(|n| *n == fd);
        let at = known.unwrap_or_else(|| {
            self.descriptors.push(fd);
            self.descriptors.len() - 1
        });
        at as u32 + 1
    }

    fn finish(self, key: String, message: &impl Message) -> Record {
        Record { key, text: message.encode_to_vec(), descriptors: self.descriptors, torn: false }
    }
}

/// The state; with the connections if this process itself goes on with them.
pub fn save(service: &Service, listener: RawFd, connections: bool) -> Vec<Record> {
    let mut out =
        vec![Record { key: LISTENER.into(), descriptors: vec![listener], ..Record::default() }, sandbox(service)];
    for c in service.containers.borrow().values() {
        out.push(container(c));
        let execs = c.execs.borrow();
        out.extend(std::iter::once(&c.init).chain(execs.values()).map(|p| process(c, p, connections)));
    }
    for (number, event) in service.events.waiting() {
        out.push(self::event(number, &event));
    }
    if connections {
        let open = service.connections.open();
        out.extend(open.iter().enumerate().map(|(n, c)| connection(n, c)));
    }
    out
}

/// The records of a container and of one of its processes, as far as they are there.
pub fn save_process(service: &Service, id: &str, exec: &str) -> Vec<Record> {
    let containers = service.containers.borrow();
    let Some(c) = containers.get(id) else { return Vec::new() };
    let process = match exec {
        "" => Some(process(c, &c.init, false)),
        name => c.execs.borrow().get(name).map(|p| process(c, p, false)),
    };
    std::iter::once(container(c)).chain(process).collect()
}

pub fn event(number: u64, event: &Envelope) -> Record {
    Maker::default().finish(event_key(number), event)
}

pub fn event_key(number: u64) -> String {
    format!("event/{number:020}")
}

pub fn container_key(id: &str) -> String {
    format!("container/{id}")
}

pub fn process_key(id: &str, exec: &str) -> String {
    format!("process/{id}/{exec}")
}

fn sandbox(service: &Service) -> Record {
    let (id, started, created, stopped) = service.sandbox.save();
    let time = |at: SystemTime| {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        proto::Time { seconds: since.as_secs(), nanos: since.subsec_nanos() }
    };
    let message = proto::Sandbox { id, started, created: created.map(time), stopped: stopped.map(time) };
    Maker::default().finish("sandbox".into(), &message)
}

fn container(c: &Container) -> Record {
    let json = |v: Option<Vec<u8>>| v.unwrap_or_default();
    let message = proto::Container {
        id: c.id.clone(),
        bundle: c.bundle.as_os_str().as_bytes().to_vec(),
        runtime: json(serde_json::to_vec(&c.runtime).ok()),
        options: c.options.encode_to_vec(),
        shared_pid: c.shared_pid,
        paused: c.paused.get(),
        turning: c.turning.get(),
        cgroups: c.cgroups.borrow().iter().map(|p| p.as_os_str().as_bytes().to_vec()).collect(),
        restore: json(c.restore.as_ref().and_then(|r| serde_json::to_vec(r).ok())),
        oom_told: c.oom.borrow().as_ref().map_or(0, oom::Watch::told),
        output_buffer: c.output_buffer,
    };
    Maker::default().finish(container_key(&c.id), &message)
}

fn exit(exit: Exit) -> proto::Exit {
    let since = exit.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    proto::Exit { status: exit.status, seconds: since.as_secs(), nanos: since.subsec_nanos() }
}

fn process(c: &Container, p: &Process, whole: bool) -> Record {
    let mut maker = Maker::default();
    let message = proto::Process {
        container_id: c.id.clone(),
        exec_id: p.id.clone(),
        stdin: p.stdio.stdin.clone(),
        stdout: p.stdio.stdout.clone(),
        stderr: p.stdio.stderr.clone(),
        terminal: p.stdio.terminal,
        spec: p.spec.borrow().clone(),
        stage: p.stage.get() as u32,
        pid: p.pid.get(),
        start_time: p.start_time.get(),
        exit: p.exit.get().map(exit),
        reaped: p.reaped.get().map(exit),
        never: p.never.get(),
        leaf: p.leaf.get(),
        streams: Some(streams(&mut maker, &p.io(), whole)),
    };
    maker.finish(process_key(&c.id, &p.id), &message)
}

fn streams(maker: &mut Maker, io: &Io, whole: bool) -> proto::Streams {
    let mut list: Vec<_> = io.streams.borrow().iter().filter_map(|s| stream(maker, s, whole)).collect();
    // Those that begin when the process is there: a server that takes over begins them at once.
    for l in io.later.borrow().iter() {
        list.push(proto::Stream {
            name: l.name.to_string(),
            from: maker.place(Some(l.from.as_raw_fd())),
            to: maker.place(Some(l.to.as_raw_fd())),
            capacity: l.capacity,
            ..proto::Stream::default()
        });
    }
    let logger = io.logger.borrow();
    proto::Streams {
        serial: io.serial,
        list,
        stdin_hold: maker.place(io.stdin_hold.borrow().as_ref().map(AsRawFd::as_raw_fd)),
        console: maker.place(io.console.borrow().as_ref().map(|c| c.as_raw_fd())),
        logger: logger.as_ref().map_or(0, |l| l.pid),
        logger_pidfd: maker.place(logger.as_ref().map(|l| l.pidfd.as_raw_fd())),
    }
}

fn stream(maker: &mut Maker, s: &Stream, whole: bool) -> Option<proto::Stream> {
    let to = s.to.borrow().as_ref().map(|to| to.as_raw_fd())?;
    Some(proto::Stream {
        name: s.name.clone(),
        from: maker.place(Some(s.from.borrow().as_ref()?.as_raw_fd())),
        to: maker.place(Some(to)),
        // Not for the keeper: what is written the moment after would be written once more by the next server.
        pending: if whole { s.pending.borrow().clone() } else { Vec::new() },
        ring: maker.place(s.ring.borrow().as_ref().map(|r| r.file().as_raw_fd())),
        capacity: s.capacity,
    })
}

fn connection(number: usize, c: &server::Connection) -> Record {
    let call =
        |(stream, request): (&u32, &Request)| proto::Call { stream: *stream, request: request.encode_to_vec() };
    let message = proto::Connection {
        input: c.input.borrow().clone(),
        skip: c.skip.get() as u64,
        pending: c.pending.borrow().iter().map(call).collect(),
    };
    let mut maker = Maker::default();
    maker.place(Some(c.stream.as_raw_fd()));
    maker.finish(format!("connection/{number}"), &message)
}

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
        M::decode(self.text.as_slice()).call(|| format!("record {}", self.key))
    }

    fn at(&self, place: u32) -> Option<Rc<OwnedFd>> {
        self.descriptors.get((place as usize).checked_sub(1)?).cloned()
    }
}

/// Goes on where the earlier server stopped.
pub fn resume(service: &Rc<Service>, records: Vec<Record>) -> Result<()> {
    let (mut containers, mut processes, mut connections) = (Vec::new(), Vec::new(), Vec::new());
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
            "connection" => connections.push(held),
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
    connections.into_iter().try_for_each(|c| connection_again(service, c))
}

/// The time of a record, or what [`after_epoch`] makes of it.
pub fn time(t: proto::Time) -> SystemTime {
    after_epoch(Duration::from_secs(t.seconds).saturating_add(Duration::from_nanos(t.nanos.into())))
}

/// A time since the epoch; the epoch itself for one that cannot be: no reason to give up all containers.
pub fn after_epoch(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
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

fn rebuild(service: &Rc<Service>, c: proto::Container, processes: Vec<Sleeper>) -> Result<Container> {
    let (bundle, cgroups) = (path(c.bundle), c.cgroups.into_iter().map(path).collect::<Vec<_>>());
    let options = runc::Options::decode(c.options.as_slice()).call(|| "options".into())?;
    let (mut init, mut execs) = (None, std::collections::BTreeMap::new());
    for p in processes {
        let owner = Rc::new(Owner::new(service, (&c.id, &p.saved.exec_id), &bundle, &options));
        let made = Rc::new(process_again(service, p, &owner));
        match owner.exec.as_str() {
            "" => init = Some(made),
            name => drop(execs.insert(name.to_string(), made)),
        }
    }
    let init = init.ok_or_else(|| unknown(format!("record container/{}: no init", c.id)))?;
    // Of one that has ended it was told.
    let watch = match init.exit.get() {
        None => crate::exit::watch_oom(service, &c.id, &cgroups, Some(c.oom_told)),
        Some(_) => None,
    };
    let restore = match c.restore.as_slice() {
        [] => None,
        text => Some(serde_json::from_slice::<Restore>(text).call(|| "restore".into())?),
    };
    Ok(Container {
        id: c.id,
        bundle,
        runtime: serde_json::from_slice::<Runtime>(&c.runtime).call(|| "runtime".into())?,
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
        log::error("the keeper could not hold the streams of a process (RLIMIT_NOFILE): they are cut", &fields);
    }
    let io = streams_again(service, p.streams.unwrap_or_default(), &held, owner);
    let reaped = p.reaped.or(p.exit);
    if p.pid > 0 && reaped.is_none() {
        service.reaper.add(p.pid);
    }
    let stdio = Stdio { stdin: p.stdin, stdout: p.stdout, stderr: p.stderr, terminal: p.terminal };
    let out = Process::new(&p.exec_id, stdio, p.spec);
    let again =
        |e: proto::Exit| Exit { status: e.status, at: time(proto::Time { seconds: e.seconds, nanos: e.nanos }) };
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
        let start = Start { hold: reader_of(&to), pending: saved.pending, ring, capacity: saved.capacity };
        io.streams.borrow_mut().push(Stream::begin(&saved.name, owner, from, to, start));
    }
    *io.stdin_hold.borrow_mut() = held.at(s.stdin_hold);
    *io.console.borrow_mut() = held.at(s.console);
    if let Some(pidfd) = held.at(s.logger_pidfd) {
        *io.logger.borrow_mut() = Some(Logger::again(&service.reaper, s.logger, pidfd));
    }
    io
}

fn connection_again(service: &Rc<Service>, held: Held) -> Result<()> {
    let c = held.read::<proto::Connection>()?;
    let Some(socket) = held.descriptors.into_iter().next().and_then(Rc::into_inner) else { return Ok(()) };
    let stream = std::os::unix::net::UnixStream::from(socket);
    let stream = tokio::net::UnixStream::from_std(stream).call(|| "epoll_ctl(connection)".into())?;
    let mut pending = std::collections::BTreeMap::new();
    for call in c.pending {
        pending.insert(call.stream, Request::decode(call.request.as_slice()).call(|| "request".into())?);
    }
    server::add(stream, (c.input, c.skip as usize), pending, service);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be() {
        assert_eq!(after_epoch(Duration::MAX), SystemTime::UNIX_EPOCH);
        assert_eq!(time(proto::Time { seconds: u64::MAX, nanos: u32::MAX }), SystemTime::UNIX_EPOCH);
        assert_eq!(time(proto::Time { seconds: 5, nanos: 7 }), SystemTime::UNIX_EPOCH + Duration::new(5, 7));
    }
}
