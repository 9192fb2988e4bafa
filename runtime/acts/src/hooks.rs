//! Running hooks: the state on stdin, exactly the given environment, a deadline, the output in the error.

use crate::error::{Context, Error, Kind, Named, Result};
use crate::oci::config::Hook;
use crate::text;
use conex_sys::clone::{clone3, exit_now, Forked};
use conex_sys::proc::{self, Waited};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::unistd::Pid;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The state of runtime.md, as hooks and seccomp listeners get it.
#[derive(Serialize)]
pub struct StateDocument<'a> {
    pub id: &'a str,
    pub status: &'a str,
    pub pid: i32,
    #[serde(with = "crate::text::shown")]
    pub bundle: &'a Path,
    pub annotations: &'a BTreeMap<String, String>,
}

impl StateDocument<'_> {
    pub fn json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            oci_version: &'a str,
            #[serde(flatten)]
            state: &'a StateDocument<'a>,
        }
        serde_json::to_vec(&Document { oci_version: crate::oci::SPEC_VERSION, state: self })
            .unwrap_or_default()
    }
}

/// What hooks get from whoever runs them.
#[derive(Default)]
pub struct Surroundings<'a> {
    pub cwd: Option<&'a Path>,
    /// The environment of a hook that has none of its own (`env` is missing). Without it that is none at all: a hook
    /// outside the container must not get the runtime's (CVE-2025-23266).
    pub env: Option<&'a [String]>,
    /// Where an annotation wants standard output and error of hooks that cannot open the host's files any more.
    pub output: [Option<&'a std::fs::File>; 2],
    /// The last step before execve, in the hook's process.
    pub confine: Option<&'a dyn Fn() -> Result<()>>,
}

/// Runs the hooks of one list in order; the first that fails ends it.
///
/// # Errors
/// Names `hooks.<name>[i]`, what happened (exit status, signal, timeout) and what the hook printed.
pub fn run(
    list: &[Hook],
    name: &str,
    state: &StateDocument,
    surroundings: &Surroundings,
) -> Result<()> {
    for (i, hook) in list.iter().enumerate() {
        one(hook, (name, i), state, surroundings).at(|| format!("hooks.{name}[{i}]"))?;
    }
    Ok(())
}

/// Runs all hooks of a list and reports every failure: for poststop, where nothing may be left out.
pub fn run_all(
    list: &[Hook],
    name: &str,
    state: &StateDocument,
    surroundings: &Surroundings,
) -> Vec<Error> {
    list.iter()
        .enumerate()
        .filter_map(|(i, hook)| {
            one(hook, (name, i), state, surroundings).at(|| format!("hooks.{name}[{i}]")).err()
        })
        .collect()
}

fn one(
    hook: &Hook,
    which: (&str, usize),
    state: &StateDocument,
    surroundings: &Surroundings,
) -> Result<()> {
    crate::log::step(|| format!("runs the hook {}", hook.path));
    // Files in memory, not pipes: a hook that reads nothing or prints much can neither block us nor kill us.
    let input = memory_file(&state.json())?;
    let (mut output, mut failure) = (memory_file(b"")?, memory_file(b"")?);
    let mut command = command(hook, surroundings);
    let clone = |f: &std::fs::File| f.try_clone().call(|| "dup");
    // The path is the host's: hooks that run in the container's namespaces have other mounts, and other rights.
    let own = if surroundings.cwd.is_some() { outputs(state.annotations)? } else { [None, None] };
    let to = |n: usize| clone(own[n].as_ref().or(surroundings.output[n]).unwrap_or(&output));
    command.stdin(Stdio::from(input)).stdout(to(0)?).stderr(to(1)?);
    let (pid, pidfd) = match clone3(0, None).call(|| "clone3(hook)")? {
        Forked::Child => {
            let confined = surroundings.confine.map_or(Ok(()), |confine| confine());
            let e = confined.err().unwrap_or_else(|| {
                let e = command.exec();
                let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EINVAL));
                Error::call(errno, format!("exec({})", hook.path))
            });
            let _ = failure.write_all(e.to_string().as_bytes());
            exit_now(127)
        }
        Forked::Parent { pid, pidfd } => (pid, pidfd),
    };
    let status = wait(pid, pidfd.as_fd(), hook.timeout)?;
    crate::log::step(|| format!("the hook {} has ended", hook.path));
    let failed = beginning(&mut failure);
    if !failed.is_empty() {
        return Err(Error::new(Kind::System, failed));
    }
    outcome(hook, which, status, &beginning(&mut output))
}

/// The program of a hook, with its arguments and environment.
fn command(hook: &Hook, surroundings: &Surroundings) -> Command {
    let mut command = Command::new(text::os(&hook.path));
    if let Some((argv0, rest)) = hook.args.split_first() {
        command.arg0(text::os(argv0)).args(rest.iter().map(|a| text::os(a)));
    }
    command.env_clear();
    let own = hook.env.as_ref().map(|env| env.0.as_slice());
    for (name, value) in
        own.or(surroundings.env).unwrap_or_default().iter().filter_map(|e| e.split_once('='))
    {
        command.env(text::os(name), text::os(value));
    }
    // What the caller's tracing system needs to put a hook's own spans where they belong (W3C "Trace Context").
    let traced = command.get_envs().any(|(k, _)| k == "TRACEPARENT");
    if let Some(parent) = std::env::var_os("TRACEPARENT").filter(|_| !traced) {
        command.env("TRACEPARENT", parent);
    }
    if let Some(dir) = surroundings.cwd {
        command.current_dir(dir);
    }
    // A group of its own, so that a timeout ends what the hook has started as well.
    command.process_group(0);
    conex_sys::signal::unblocked(&mut command);
    command
}

/// What came of it, with what it has printed.
fn outcome(hook: &Hook, (name, i): (&str, usize), status: Waited, printed: &str) -> Result<()> {
    let failed = format!("error running {name} hook #{i}");
    let call = format!("exec({})", hook.path);
    let printed = if printed.is_empty() { String::new() } else { format!(", output: {printed}") };
    let what = match status {
        Waited::Exited(0) => return Ok(()),
        Waited::Running => {
            let seconds = hook.timeout.unwrap_or(0);
            format!("{call}: hook ran past specified timeout of {seconds}.0s{printed}")
        }
        Waited::Exited(code) => format!("{failed}: {call}: exit status: {code}{printed}"),
        Waited::Signaled(n) => {
            let signal = conex_sys::signal::described(n);
            format!("{failed}: {call}: signal: {signal}{printed}")
        }
    };
    Err(Error::whole(Kind::System, what))
}

/// Where crun's annotations want standard output and error of hooks.
///
/// # Errors
/// Name the annotation.
pub fn outputs(annotations: &BTreeMap<String, String>) -> Result<[Option<std::fs::File>; 2]> {
    let open = |name: &str| {
        let path = annotations.get(name);
        path.map(|path| appended(path).at(|| format!("annotations[{name:?}]"))).transpose()
    };
    Ok([open("run.oci.hooks.stdout")?, open("run.oci.hooks.stderr")?])
}

/// A file that hooks add to.
fn appended(path: &str) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    if !path.starts_with('/') {
        return Err(Error::new(Kind::Invalid, format!("{path:?} must be absolute")));
    }
    let mut options = std::fs::OpenOptions::new();
    // A FIFO that nobody reads must not hold the runtime.
    options
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .create(true)
        .append(true)
        .mode(0o644)
        .open(text::os(path))
        .call(|| format!("open({path}, O_CREAT|O_APPEND)"))
}

/// The beginning of what was written to a file in memory.
fn beginning(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = Read::by_ref(file).take(4096).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_string()
}

fn memory_file(content: &[u8]) -> Result<std::fs::File> {
    let fd = conex_sys::fd::memfd_data("conex-hook").call(|| "memfd_create")?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content).call(|| "write(memfd)")?;
    file.rewind().call(|| "lseek(memfd)")?;
    Ok(file)
}

/// How the hook ended; `Running` if the time was up and its process group was killed.
fn wait(pid: Pid, pidfd: BorrowedFd, timeout: Option<i64>) -> Result<Waited> {
    // One beyond the clock is none.
    let after =
        |seconds: i64| Instant::now().checked_add(Duration::from_secs(seconds.max(0) as u64));
    let deadline = timeout.and_then(after);
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let millis = left.map(|l| i32::try_from(l.as_millis() + 1).unwrap_or(i32::MAX));
        let wait = millis
            .map_or(PollTimeout::NONE, |m| PollTimeout::try_from(m).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], wait) {
            Err(Errno::EINTR) => continue,
            other => other.call(|| "poll(hook)")?,
        };
        match proc::wait_pidfd(pidfd, true).call(|| "waitid(hook)")? {
            Waited::Running if left.is_some_and(|l| l.is_zero()) => break,
            Waited::Running => {}
            ended => return Ok(ended),
        }
    }
    let _ = proc::kill(Pid::from_raw(-pid.as_raw()), libc::SIGKILL);
    let _ = proc::pidfd_send_signal(pidfd, libc::SIGKILL);
    let _ = proc::wait_pidfd(pidfd, false);
    Ok(Waited::Running)
}
