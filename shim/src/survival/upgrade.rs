//! Live upgrade: SIGUSR2 makes the shim execute the program that is now at its own path, as the same process.
//!
//! Descriptors stay open over execve, so the socket, the connections with their unanswered calls, the streams and the
//! containers (its children) stay what they are; the rest is a document in memory. No call is cut in two: new ones wait
//! in their connections, those at work are waited for.

use super::save::save;
use super::Server;
use crate::document::{delicate, program, variable, KEEPER, RESUME, VERSION};
use crate::log;
use crate::runtime::Streams;
use crate::status::{unknown, During, Result};
use crate::task::service::Service;
use conex_proto::shim::Document;
use conex_sys::fd;
use nix::sys::signal::{sigprocmask, SigmaskHow};
use prost::Message;
use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// Executes the new build. Returns only if that is not possible; everything goes on as before then.
pub async fn execute(server: &Server) -> Result<()> {
    ask(&server.service).await?;
    server.connections.paused.set(true);
    // Between the two nobody else comes to run.
    let result = quiet(server).await.and_then(|()| replace(server));
    server.connections.paused.set(false);
    server.connections.resumed.notify_waiters();
    result
}

/// Whether the program at our path goes on with what this one leaves: once executed, there is no way back. A broken one,
/// or none of ours, does not answer so.
async fn ask(service: &Service) -> Result<()> {
    let program = program()?;
    let mut command = std::process::Command::new(&program);
    command.arg("document");
    let streams = Streams::default();
    let answer =
        crate::runtime::execute(&service.reaper, command, streams, Some(Duration::from_secs(5)))
            .await;
    let refused = |why: String| unknown(format!("live upgrade: {program}: {why}"));
    let (code, text) = answer.map_err(|e| refused(e.message))?;
    if code == 0 && text.lines().any(|l| l.parse() == Ok(VERSION)) {
        return Ok(());
    }
    Err(refused(format!(
        "does not read version {VERSION} of the state (status {code}, said {:?})",
        text.trim()
    )))
}

/// Waits until nothing is at work, and the keeper knows all there is: the next build takes no notice of what has ended
/// and is in the state. While the keeper is told, a process may end and its event be on its way.
async fn quiet(server: &Server) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if is_quiet(server) {
            server.service.told().await;
            let behind =
                server.store.as_ref().is_some_and(|store| store.has_keeper() && store.is_behind());
            if is_quiet(server) && !behind {
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
fn is_quiet(server: &Server) -> bool {
    let service = &server.service;
    let flushed = server.connections.open().iter().all(|c| c.is_flushed());
    let calm =
        service.busy.get() == 0 && crate::runtime::running() == 0 && service.reaper.is_settled();
    calm && flushed && !service.events.is_sending()
}

fn replace(server: &Server) -> Result<()> {
    let exe = program()?;
    let records = save(&server.service, server.listener, Some(&server.connections));
    let mut list: Vec<RawFd> = records.iter().flat_map(|r| r.descriptors.iter().copied()).collect();
    let text = Document { version: VERSION, records }.encode_to_vec();
    let document = crate::document::input(&text)?;
    let c = |text: &str| CString::new(text).during(|| text.to_string());
    let args = std::env::args_os().map(|a| CString::new(a.into_vec()).during(|| "argv".into()));
    let args = args.collect::<Result<Vec<_>>>()?;
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != RESUME && name != KEEPER) {
        env.push(variable(&name, &value)?);
    }
    env.push(c(&format!("{RESUME}={}", document.as_raw_fd()))?);
    // The number of one that is gone could be anything's by now.
    let keeper = server.store.as_ref().and_then(|store| store.socket.get());
    if let Some(keeper) = keeper {
        env.push(c(&format!("{KEEPER}={keeper}"))?);
    }
    let path = c(&exe)?;
    list.push(document.as_raw_fd());
    list.extend(keeper);
    log::info("live upgrade", &[("program", &exe), ("descriptors", &list.len().to_string())]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&delicate()), None).during(|| "sigprocmask".into())?;
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
