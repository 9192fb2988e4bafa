//! Live upgrade: SIGUSR2 makes the shim execute the program that is now at its own path, as the same process.
//!
//! Descriptors stay open over execve, so the socket, the connections with their unanswered calls, the streams and the
//! containers (its children) stay what they are; the rest is a document in memory. No call is cut in two: new ones wait
//! in their connections, those at work are waited for.

use crate::checkpoint::Restore;
use crate::container::Container;
use crate::io::copy::Stream;
use crate::io::logger::Logger;
use crate::io::{Io, Stdio};
use crate::process::{Process, Stage};
use crate::reap::Exit;
use crate::runtime::Runtime;
use crate::service::Service;
use crate::status::{unknown, Call, Result};
use crate::{log, oom, server};
use conex_proto::prost::Message;
use conex_proto::ttrpc::Request;
use conex_proto::{runc, types::Envelope};
use conex_sys::fd;
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow, Signal};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// Names the descriptor of the document for the next build.
pub const RESUME: &str = "_CONEX_SHIM_RESUME";

/// The form of the document. A new field has a default; what an older build would misread is another version.
const VERSION: u32 = 1;

/// Of a document that names none.
fn first() -> u32 {
    1
}

/// What `document` prints: the versions that this build reads, one a line.
pub fn versions() -> Vec<u8> {
    format!("{VERSION}\n").into_bytes()
}

#[derive(Serialize, Deserialize)]
pub struct Saved {
    #[serde(default = "first")]
    version: u32,
    pub listener: RawFd,
    containers: Vec<SavedContainer>,
    connections: Vec<SavedConnection>,
    events: Vec<Vec<u8>>,
    /// The socket to the keeper; its own when this goes to it.
    keeper: Option<RawFd>,
    sandbox: crate::sandbox::Saved,
}

#[derive(Serialize, Deserialize)]
struct SavedContainer {
    id: String,
    bundle: PathBuf,
    runtime: Runtime,
    options: Vec<u8>,
    shared_pid: bool,
    paused: bool,
    cgroups: Vec<PathBuf>,
    restore: Option<Restore>,
    oom_told: u64,
    init: SavedProcess,
    execs: Vec<SavedProcess>,
}

#[derive(Serialize, Deserialize)]
struct SavedProcess {
    id: String,
    stdio: Stdio,
    spec: Vec<u8>,
    stage: Stage,
    pid: i32,
    start_time: u64,
    exit: Option<Exit>,
    reaped: Option<Exit>,
    #[serde(default)]
    never: bool,
    io: SavedIo,
}

#[derive(Serialize, Deserialize)]
struct SavedIo {
    streams: Vec<(String, RawFd, RawFd, Vec<u8>)>,
    stdin_hold: Option<RawFd>,
    /// Readers on the FIFOs of output, for builds that do not open their own. Never with the keeper: they would look like
    /// a client's.
    holds: Vec<RawFd>,
    console: Option<RawFd>,
    logger: Option<(i32, RawFd)>,
}

#[derive(Serialize, Deserialize)]
struct SavedConnection {
    socket: RawFd,
    input: Vec<u8>,
    skip: usize,
    pending: Vec<(u32, Vec<u8>)>,
}

/// Executes the new build. Returns only if that is not possible; everything goes on as before then.
pub async fn execute(service: &Rc<Service>, listener: RawFd) -> Result<()> {
    ask(service).await?;
    service.connections.paused.set(true);
    let result = match quiet(service).await {
        Ok(()) => replace(&save(service, listener, true)),
        Err(e) => Err(e),
    };
    service.connections.paused.set(false);
    service.connections.resumed.notify_waiters();
    result
}

/// Whether the program at our path goes on with what this one leaves: once executed, there is no way back. A broken one,
/// or none of ours, does not answer so.
async fn ask(service: &Service) -> Result<()> {
    let program = program()?;
    let mut command = std::process::Command::new(&program);
    command.arg("document");
    let streams = crate::runtime::Streams::default();
    let answer = crate::runtime::execute(&service.reaper, command, streams, Some(Duration::from_secs(5))).await;
    let refused = |why: String| unknown(format!("live upgrade: {program}: {why}"));
    let (code, text) = answer.map_err(|e| refused(e.message))?;
    if code == 0 && text.lines().any(|l| l.parse() == Ok(VERSION)) {
        return Ok(());
    }
    Err(refused(format!("does not read version {VERSION} of the state (status {code}, said {:?})", text.trim())))
}

/// Waits until nothing is at work: no call but Wait, no runtime, no answer or event on its way.
async fn quiet(service: &Service) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let flushed = service.connections.open().iter().all(|c| c.is_flushed());
        if service.busy.get() == 0 && crate::runtime::running() == 0 && flushed && !service.events.is_sending() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(unknown("live upgrade: calls are still at work after 30 seconds"));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The state, with the connections if this process itself goes on with them.
pub fn save(service: &Service, listener: RawFd, connections: bool) -> Saved {
    let open = if connections { service.connections.open() } else { Vec::new() };
    let mut containers: Vec<_> = service.containers.borrow().values().map(|c| container(c)).collect();
    if !connections {
        for c in &mut containers {
            std::iter::once(&mut c.init).chain(&mut c.execs).for_each(|p| p.io.holds.clear());
        }
    }
    let connection = |c: &Rc<server::Connection>| SavedConnection {
        socket: c.stream.as_raw_fd(),
        input: c.input.borrow().clone(),
        skip: c.skip.get(),
        pending: c.pending.borrow().iter().map(|(id, r)| (*id, r.encode_to_vec())).collect(),
    };
    Saved {
        version: VERSION,
        listener,
        containers,
        connections: open.iter().map(connection).collect(),
        keeper: service.store.socket.get(),
        events: service.events.waiting().iter().map(Message::encode_to_vec).collect(),
        sandbox: service.sandbox.save(),
    }
}

fn container(c: &Container) -> SavedContainer {
    SavedContainer {
        id: c.id.clone(),
        bundle: c.bundle.clone(),
        runtime: c.runtime.clone(),
        options: c.options.encode_to_vec(),
        shared_pid: c.shared_pid,
        paused: c.paused.get(),
        cgroups: c.cgroups.borrow().clone(),
        restore: c.restore.clone(),
        oom_told: c.oom.borrow().as_ref().map_or(0, oom::Watch::told),
        init: process(&c.init),
        execs: c.execs.borrow().values().map(|p| process(p)).collect(),
    }
}

fn process(p: &Process) -> SavedProcess {
    let io = p.io();
    let streams = io.streams.borrow();
    let stream = |s: &Rc<Stream>| {
        let to = s.to.borrow().as_ref().map(AsRawFd::as_raw_fd)?;
        Some((s.name.clone(), s.from.as_raw_fd(), to, s.pending.borrow().clone()))
    };
    let saved = SavedIo {
        streams: streams.iter().filter_map(stream).collect(),
        stdin_hold: io.stdin_hold.borrow().as_ref().map(AsRawFd::as_raw_fd),
        holds: streams.iter().filter_map(|s| s.hold.borrow().as_ref().map(AsRawFd::as_raw_fd)).collect(),
        console: io.console.borrow().as_ref().map(|c| c.as_raw_fd()),
        logger: io.logger.borrow().as_ref().map(|l| (l.pid, l.pidfd.as_raw_fd())),
    };
    SavedProcess {
        id: p.id.clone(),
        stdio: p.stdio.clone(),
        spec: p.spec.clone(),
        stage: p.stage.get(),
        pid: p.pid.get(),
        start_time: p.start_time.get(),
        exit: p.exit.get(),
        reaped: p.reaped.get(),
        never: p.never.get(),
        io: saved,
    }
}

impl Saved {
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut out = vec![self.listener];
        out.extend(self.connections.iter().map(|c| c.socket));
        for c in &self.containers {
            for p in std::iter::once(&c.init).chain(&c.execs) {
                out.extend(p.io.streams.iter().flat_map(|s| [s.1, s.2]));
                out.extend(p.io.stdin_hold.iter().chain(&p.io.holds).chain(&p.io.console));
                out.extend(p.io.logger.iter().map(|l| l.1));
            }
        }
        out
    }
}

/// The signals that would end this process between execve and the next build's handlers.
fn delicate() -> SigSet {
    [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// The path of this program: "… (deleted)" if the file was replaced, the new one is at the same path.
pub fn program() -> Result<String> {
    let exe = std::fs::read_link("/proc/self/exe").call(|| "readlink(/proc/self/exe)".into())?;
    Ok(exe.to_string_lossy().trim_end_matches(" (deleted)").to_string())
}

fn replace(saved: &Saved) -> Result<()> {
    let exe = program()?;
    let text = serde_json::to_vec(saved).call(|| "state".into())?;
    let document = crate::runtime::input(&text)?;
    let c = |text: &str| CString::new(text).call(|| text.to_string());
    let args = std::env::args().map(|a| c(&a)).collect::<Result<Vec<_>>>()?;
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != RESUME) {
        env.push(c(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))?);
    }
    env.push(c(&format!("{RESUME}={}", document.as_raw_fd()))?);
    let path = c(&exe)?;
    let mut list = saved.descriptors();
    list.push(document.as_raw_fd());
    list.extend(saved.keeper);
    log::info("live upgrade", &[("program", &exe), ("descriptors", &list.len().to_string())]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&delicate()), None).call(|| "sigprocmask".into())?;
    for n in &list {
        let _ = fd::clear_cloexec(*n);
    }
    let Err(e) = nix::unistd::execve(&path, &args, &env);
    // The old build goes on.
    for n in &list {
        let _ = fd::set_cloexec(*n);
    }
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&delicate()), None);
    Err(unknown(format!("live upgrade: execve({exe}): {e}")))
}

/// What an earlier build left to this one, if there was one.
///
/// # Errors
/// The document cannot be read: another format.
pub fn inherited() -> Result<Option<Saved>> {
    let Some(number) = std::env::var(RESUME).ok().and_then(|n| n.parse::<RawFd>().ok()) else { return Ok(None) };
    std::env::remove_var(RESUME);
    if !fd::is_open(number) {
        return Err(unknown(format!("{RESUME}={number}: not open")));
    }
    let saved: Saved = serde_json::from_reader(std::fs::File::from(fd::adopt(number))).call(|| "state".into())?;
    if saved.version != VERSION {
        return Err(unknown(format!("the state has version {}, this build reads {VERSION}", saved.version)));
    }
    for n in saved.descriptors() {
        let _ = fd::set_cloexec(n);
    }
    Ok(Some(saved))
}

/// Once the handlers of this build are installed.
pub fn settled() {
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&delicate()), None);
}

/// Goes on where the earlier build stopped.
pub fn resume(service: &Rc<Service>, saved: Saved) -> Result<()> {
    service.sandbox.resume(saved.sandbox);
    for bytes in &saved.events {
        service.events.push(Envelope::decode(bytes.as_slice()).call(|| "event".into())?);
    }
    for c in saved.containers {
        let id = c.id.clone();
        let container = Rc::new(rebuild(service, c)?);
        service.containers.borrow_mut().insert(id, container.clone());
        let execs: Vec<_> = container.execs.borrow().values().cloned().collect();
        for p in std::iter::once(&container.init).chain(&execs) {
            if p.is_alive() {
                service.watch(&container, p)?;
            }
        }
    }
    for c in saved.connections {
        let stream = std::os::unix::net::UnixStream::from(fd::adopt(c.socket));
        let stream = tokio::net::UnixStream::from_std(stream).call(|| "epoll_ctl(connection)".into())?;
        let mut pending = std::collections::BTreeMap::new();
        for (id, bytes) in c.pending {
            pending.insert(id, Request::decode(bytes.as_slice()).call(|| "request".into())?);
        }
        server::add(stream, (c.input, c.skip), pending, service);
    }
    Ok(())
}

fn rebuild(service: &Rc<Service>, c: SavedContainer) -> Result<Container> {
    let (events, id) = (service.events.clone(), c.id.clone());
    let watch = if c.init.exit.is_none() {
        oom::Watch::begin(&c.cgroups, Some(c.oom_told), move || crate::exit::tell_oom(&events, &id)).unwrap_or(None)
    } else {
        None
    };
    let execs = c.execs.into_iter().map(|p| (p.id.clone(), Rc::new(alive_again(service, p))));
    Ok(Container {
        id: c.id,
        bundle: c.bundle,
        runtime: c.runtime,
        options: runc::Options::decode(c.options.as_slice()).call(|| "options".into())?,
        execs: RefCell::new(execs.collect()),
        init: Rc::new(alive_again(service, c.init)),
        turn: tokio::sync::Mutex::default(),
        paused: Cell::new(c.paused),
        shared_pid: c.shared_pid,
        cgroups: RefCell::new(c.cgroups),
        oom: RefCell::new(watch),
        restore: c.restore,
    })
}

fn alive_again(service: &Service, p: SavedProcess) -> Process {
    let own = |n: RawFd| -> OwnedFd { fd::adopt(n) };
    let io = Io::default();
    // Each stream has a reader of its own before those that an earlier build left are closed.
    let earlier: Vec<OwnedFd> = p.io.holds.into_iter().map(own).collect();
    for (name, from, to, pending) in p.io.streams {
        let to = own(to);
        let hold = crate::io::reader_of(&to);
        io.streams.borrow_mut().push(Stream::begin(&name, own(from), to, hold, pending));
    }
    drop(earlier);
    *io.stdin_hold.borrow_mut() = p.io.stdin_hold.map(own);
    *io.console.borrow_mut() = p.io.console.map(|n| Rc::new(own(n)));
    *io.logger.borrow_mut() = p.io.logger.map(|(pid, n)| {
        service.reaper.add(pid);
        Logger { pid, pidfd: own(n) }
    });
    if p.pid > 0 && p.exit.is_none() && p.reaped.is_none() {
        service.reaper.add(p.pid);
    }
    let out = Process::new(&p.id, p.stdio, p.spec);
    out.stage.set(p.stage);
    out.pid.set(p.pid);
    out.start_time.set(p.start_time);
    out.exit.set(p.exit);
    out.reaped.set(p.reaped);
    out.never.set(p.never);
    *out.io.borrow_mut() = Rc::new(io);
    out
}

/// A time since the epoch; the epoch itself for one that cannot be.
pub fn after_epoch(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// For times in a document: since the epoch, which every build counts alike.
pub mod epoch {
    use super::{Duration, SystemTime};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(at: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
        at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
        // A time beyond what the system counts is no reason to give up all containers.
        Ok(super::after_epoch(Duration::deserialize(d)?))
    }
}
