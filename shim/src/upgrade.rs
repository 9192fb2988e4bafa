//! Live upgrade: SIGUSR2 makes the shim execute the program that is now at its own path, as the same process.
//!
//! Descriptors stay open over execve, so the socket, the connections with their unanswered calls, the streams and the
//! containers (its children) stay what they are; the rest is a document in memory. No call is cut in two: new ones wait
//! in their connections, those at work are waited for.

use crate::keep::KEEPER;
use crate::log;
use crate::runtime::Streams;
use crate::saved::{save, LISTENER, VERSION};
use crate::service::Service;
use crate::status::{unknown, Call, Result};
use conex_proto::shim::{Document, Record};
use conex_sys::fd;
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow, Signal};
use prost::Message;
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;
use std::time::Duration;

/// Names the descriptor of the document for the next build.
pub const RESUME: &str = "_CONEX_SHIM_RESUME";

/// What `document` prints: the versions that this build reads, one a line.
pub fn versions() -> Vec<u8> {
    format!("{VERSION}\n").into_bytes()
}

/// Executes the new build. Returns only if that is not possible; everything goes on as before then.
pub async fn execute(service: &Rc<Service>, listener: RawFd) -> Result<()> {
    ask(service).await?;
    service.connections.paused.set(true);
    // Between the two nobody else comes to run.
    let result = quiet(service).await.and_then(|()| replace(service, listener));
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
    let streams = Streams::default();
    let answer = crate::runtime::execute(&service.reaper, command, streams, Some(Duration::from_secs(5))).await;
    let refused = |why: String| unknown(format!("live upgrade: {program}: {why}"));
    let (code, text) = answer.map_err(|e| refused(e.message))?;
    if code == 0 && text.lines().any(|l| l.parse() == Ok(VERSION)) {
        return Ok(());
    }
    Err(refused(format!("does not read version {VERSION} of the state (status {code}, said {:?})", text.trim())))
}

/// Waits until nothing is at work, and the keeper knows all there is: the next build takes no notice of what has ended
/// and is in the state. While the keeper is told, a process may end and its event be on its way.
async fn quiet(service: &Rc<Service>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if is_quiet(service) {
            crate::store::told(service).await;
            if is_quiet(service) && !(service.store.has_keeper() && crate::store::is_behind(service)) {
                return Ok(());
            }
        }
        if tokio::time::Instant::now() > deadline {
            return Err(unknown("live upgrade: calls are still at work after 30 seconds"));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// No call but Wait, no runtime, no answer or event on its way.
fn is_quiet(service: &Service) -> bool {
    let flushed = service.connections.open().iter().all(|c| c.is_flushed());
    let calm = service.busy.get() == 0 && crate::runtime::running() == 0 && service.reaper.is_settled();
    calm && flushed && !service.events.is_sending()
}

/// The signals that would end this process between execve and its handlers.
pub fn delicate() -> SigSet {
    [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// The path of this program: "… (deleted)" if the file was replaced, the new one is at the same path.
pub fn program() -> Result<String> {
    let exe = std::fs::read_link("/proc/self/exe").call(|| "readlink(/proc/self/exe)".into())?;
    Ok(exe.to_string_lossy().trim_end_matches(" (deleted)").to_string())
}

/// A variable as execve(2) takes it, whatever bytes it has.
pub fn variable(name: &OsStr, value: &OsStr) -> Result<CString> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).call(|| "environment".into())
}

fn replace(service: &Service, listener: RawFd) -> Result<()> {
    let exe = program()?;
    let records = save(service, listener, true);
    let mut list: Vec<RawFd> = records.iter().flat_map(|r| r.descriptors.iter().copied()).collect();
    let text = Document { version: VERSION, records }.encode_to_vec();
    let document = crate::runtime::input(&text)?;
    let c = |text: &str| CString::new(text).call(|| text.to_string());
    let args = std::env::args_os().map(|a| CString::new(a.into_vec()).call(|| "argv".into()));
    let args = args.collect::<Result<Vec<_>>>()?;
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != RESUME && name != KEEPER) {
        env.push(variable(&name, &value)?);
    }
    env.push(c(&format!("{RESUME}={}", document.as_raw_fd()))?);
    // The number of one that is gone could be anything's by now.
    if let Some(keeper) = service.store.socket.get() {
        env.push(c(&format!("{KEEPER}={keeper}"))?);
    }
    let path = c(&exe)?;
    list.push(document.as_raw_fd());
    list.extend(service.store.socket.get());
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

/// What an earlier server left to this one, if there was one: the number of the listener, and the records.
///
/// # Errors
/// The document cannot be read: another format.
pub fn inherited() -> Result<Option<(RawFd, Vec<Record>)>> {
    let Some(number) = std::env::var(RESUME).ok().and_then(|n| n.parse::<RawFd>().ok()) else { return Ok(None) };
    std::env::remove_var(RESUME);
    if !fd::is_open(number) {
        return Err(unknown(format!("{RESUME}={number}: not open")));
    }
    let mut text = Vec::new();
    std::fs::File::from(fd::adopt(number)).read_to_end(&mut text).call(|| "read(state)".into())?;
    read(&text).map(Some)
}

/// The listener's number and the records of a document.
///
/// # Errors
/// It is none of this build's.
pub fn read(text: &[u8]) -> Result<(RawFd, Vec<Record>)> {
    let document = Document::decode(text).call(|| "state".into())?;
    if document.version != VERSION {
        return Err(unknown(format!("the state has version {}, this build reads {VERSION}", document.version)));
    }
    let listener = document.records.iter().find(|r| r.key == LISTENER).and_then(|r| r.descriptors.first());
    let listener = *listener.ok_or_else(|| unknown("the state names no listener"))?;
    for n in document.records.iter().flat_map(|r| &r.descriptors) {
        let _ = fd::set_cloexec(*n);
    }
    Ok((listener, document.records))
}

/// Once the handlers of this build are installed.
pub fn settled() {
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&delicate()), None);
}
