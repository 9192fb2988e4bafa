//! Any OCI runtime as a command line: the one place where it is executed.

use crate::reap::Reaper;
use crate::status::{self, During, Failure, Result};
use conex_sys::fd::memfd_data;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

/// Which runtime, and how it is called. Kept in the bundle for `delete`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Runtime {
    pub binary: PathBuf,
    /// The directory of its state, with the namespace.
    pub root: PathBuf,
    pub systemd_cgroup: bool,
    pub bundle: PathBuf,
}

/// The three standard streams that a process gets from the runtime.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// How many runtimes are at work.
pub fn running() -> u32 {
    RUNNING.get()
}

impl Runtime {
    /// The runtime that the options name; ours without a name, from beside this program or from PATH.
    pub fn new(options: &conex_proto::runc::Options, namespace: &str, bundle: &Path) -> Runtime {
        let binary = match options.binary_name.as_str() {
            "" => default_binary(),
            name => name.into(),
        };
        let root = match options.root.as_str() {
            "" => "/run/containerd/conex",
            root => root,
        };
        Runtime {
            binary,
            root: Path::new(root).join(namespace),
            systemd_cgroup: options.systemd_cgroup,
            bundle: bundle.to_path_buf(),
        }
    }

    fn command(&self, log: &Path) -> Command {
        let mut c = Command::new(&self.binary);
        c.arg("--root").arg(&self.root).arg("--log").arg(log).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            c.arg("--systemd-cgroup");
        }
        c.current_dir(&self.bundle);
        c
    }

    /// A log of its own for each call: the last line of a shared one could be another call's, and a call of a server that
    /// was killed may still write to its own.
    fn new_log(&self) -> Result<PathBuf> {
        loop {
            let number = COUNT.get();
            COUNT.set(number + 1);
            let log = self.bundle.join(format!("log-{number}.json"));
            match std::fs::OpenOptions::new().write(true).create_new(true).open(&log) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                // The runtime says better than this what is wrong with the bundle's directory.
                _ => return Ok(log),
            }
        }
    }

    /// Runs one verb to its end. `what` is how the error of a failure begins.
    pub async fn run(
        &self,
        reaper: &Rc<Reaper>,
        what: &str,
        args: &[&std::ffi::OsStr],
        streams: Streams,
    ) -> Result<String> {
        let log = self.new_log()?;
        RUNNING.set(RUNNING.get() + 1);
        let mut command = self.command(&log);
        command.args(args);
        let result = execute(reaper, command, streams, None).await;
        RUNNING.set(RUNNING.get() - 1);
        let message = last_error(&log);
        let _ = std::fs::remove_file(&log);
        match result {
            Err(e) => Err(status::unknown(format!("{what}: {e}"))),
            Ok((0, output)) => Ok(output),
            Ok((code, output)) => {
                let told = message.or(Some(output.trim().to_string()).filter(|o| !o.is_empty()));
                let told = told.unwrap_or_else(|| {
                    format!("{} exited with status {code}", self.binary.display())
                });
                Err(classify(what, &told))
            }
        }
    }
}

/// Runs a program to its end: its exit status, and what it wrote unless stdout went elsewhere. One that takes longer than
/// `limit` is killed.
pub async fn execute(
    reaper: &Rc<Reaper>,
    mut command: Command,
    streams: Streams,
    limit: Option<Duration>,
) -> Result<(u32, String)> {
    let capture = streams.stdout.is_none();
    // A file in memory, not a pipe: nothing has to be read while the runtime runs.
    let mut output = std::fs::File::from(memfd_data("output").during(|| "memfd_create".into())?);
    let shared = || output.try_clone().map(Stdio::from);
    command.stdin(streams.stdin.map_or_else(Stdio::null, Stdio::from));
    if capture {
        command.stdout(shared().during(|| "dup".into())?).stderr(shared().during(|| "dup".into())?);
    } else {
        command.stdout(streams.stdout.map_or_else(Stdio::null, Stdio::from));
        command.stderr(streams.stderr.map_or_else(Stdio::null, Stdio::from));
    }
    crate::limit::as_given(&mut command);
    let child = command.spawn().map_err(|e| not_executed(&command, &e))?;
    // The parent's copies of what the container will write to must go before it is waited for.
    drop(command);
    let pid = child.id() as i32;
    reaper.add(pid);
    let (pidfd, killer) = (crate::reap::pidfd(pid)?, crate::reap::pidfd(pid)?);
    let ended = reaper.wait(pid, pidfd);
    tokio::pin!(ended);
    let exit = match limit {
        None => ended.await?,
        Some(limit) => match tokio::time::timeout(limit, &mut ended).await {
            Ok(exit) => exit?,
            Err(_) => {
                let _ = conex_sys::proc::pidfd_send_signal(killer.as_fd(), libc::SIGKILL);
                ended.await?
            }
        },
    };
    let mut text = String::new();
    if capture {
        let _ = output.rewind();
        let _ = Read::by_ref(&mut output).take(1 << 20).read_to_string(&mut text);
    }
    Ok((exit.status, text))
}

/// In Go's words: Docker looks for them in the error and makes 127 or 126 of them.
fn not_executed(command: &Command, e: &std::io::Error) -> Failure {
    let program = command.get_program().to_string_lossy();
    if e.kind() == std::io::ErrorKind::NotFound && !program.contains('/') {
        return status::unknown(format!("exec: {program:?}: executable file not found in $PATH"));
    }
    let why = e
        .raw_os_error()
        .map_or_else(|| e.to_string(), |n| nix::errno::Errno::from_raw(n).desc().to_lowercase());
    status::unknown(format!("fork/exec {program}: {why}"))
}

/// Ours, from beside this program; a PATH without its directory must not matter.
fn default_binary() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("conex")));
    beside.filter(|p| p.is_file()).unwrap_or_else(|| "conex".into())
}

/// The last message of level error in the runtime's log (one JSON object a line).
fn last_error(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let text = std::fs::read_to_string(log).ok()?;
    let mut lines = text.lines().filter_map(|l| serde_json::from_str::<Line>(l).ok());
    lines.rfind(|l| l.level == "error").map(|l| l.msg)
}

/// The class of a runtime's error, by the texts that all runtimes share with runc.
fn classify(what: &str, told: &str) -> Failure {
    let gone = ["process already finished", "container not running", "no such process"];
    if gone.iter().any(|t| told.contains(t)) {
        return status::not_found("process already finished");
    }
    if told.contains("does not exist") && !what.contains("create") {
        return status::not_found(format!("{what}: {told}"));
    }
    status::unknown(format!("{what}: {told}"))
}
