//! The state of a server as a list of records: what a live upgrade or the keeper hands to the next one.
//!
//! A record is one thing (`conex_proto::shim::Record`): its text, and the descriptors that go with it, which the text
//! names by their place. So they may have other numbers in the next server, and one thing that changes is told alone.

use crate::document::LISTENER;
use crate::io::copy::Stream;
use crate::io::Io;
use crate::reap::Exit;
use crate::report::oom;
use crate::rpc::server::{Connection, Connections};
use crate::task::container::Container;
use crate::task::process::Process;
use crate::task::service::Service;
use conex_proto::shim::{self as proto, Record};
use conex_proto::ttrpc::Request;
use conex_proto::types::Envelope;
use prost::Message;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

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
pub fn save(service: &Service, listener: RawFd, connections: Option<&Connections>) -> Vec<Record> {
    let mut out = vec![
        Record { key: LISTENER.into(), descriptors: vec![listener], ..Record::default() },
        sandbox(service),
    ];
    for c in service.containers.borrow().values() {
        out.push(container(c));
        let execs = c.execs.borrow();
        out.extend(
            std::iter::once(&c.init)
                .chain(execs.values())
                .map(|p| process(c, p, connections.is_some())),
        );
    }
    for (number, event) in service.events.waiting() {
        out.push(self::event(number, &event));
    }
    if let Some(connections) = connections {
        let open = connections.open();
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
    let message =
        proto::Sandbox { id, started, created: created.map(time), stopped: stopped.map(time) };
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
    let mut list: Vec<_> =
        io.streams.borrow().iter().filter_map(|s| stream(maker, s, whole)).collect();
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

fn connection(number: usize, c: &Connection) -> Record {
    let call = |(stream, request): (&u32, &Request)| proto::Call {
        stream: *stream,
        request: request.encode_to_vec(),
    };
    let message = proto::Connection {
        input: c.input.borrow().clone(),
        skip: c.skip.get() as u64,
        pending: c.pending.borrow().iter().map(call).collect(),
    };
    let mut maker = Maker::default();
    maker.place(Some(c.stream.as_raw_fd()));
    maker.finish(format!("connection/{number}"), &message)
}

/// The time of a record, or what [`after_epoch`] makes of it.
pub fn time(t: proto::Time) -> SystemTime {
    after_epoch(Duration::from_secs(t.seconds).saturating_add(Duration::from_nanos(t.nanos.into())))
}

/// A time since the epoch; the epoch itself for one that cannot be: no reason to give up all containers.
pub fn after_epoch(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be() {
        assert_eq!(after_epoch(Duration::MAX), SystemTime::UNIX_EPOCH);
        assert_eq!(
            time(proto::Time { seconds: u64::MAX, nanos: u32::MAX }),
            SystemTime::UNIX_EPOCH
        );
        assert_eq!(
            time(proto::Time { seconds: 5, nanos: 7 }),
            SystemTime::UNIX_EPOCH + Duration::new(5, 7)
        );
    }
}
