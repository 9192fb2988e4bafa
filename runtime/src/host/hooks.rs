//! Running hooks: the state on stdin, exactly the given environment, a deadline, the output in the error.

use crate::error::{Context, Error, Kind, Named, Result};
use crate::oci::config::Hook;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
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
        serde_json::to_vec(&Document { oci_version: crate::oci::features::SPEC_VERSION, state: self })
            .unwrap_or_default()
    }
}

/// Runs the hooks of one list in order; the first that fails ends it.
///
/// # Errors
/// Names `hooks.<name>[i]`, what happened (exit status, signal, timeout) and what the hook printed.
pub fn run(list: &[Hook], name: &str, state: &StateDocument, cwd: Option<&Path>) -> Result<()> {
    for (i, hook) in list.iter().enumerate() {
        one(hook, &state.json(), cwd).at(|| format!("hooks.{name}[{i}]"))?;
    }
    Ok(())
}

/// Runs all hooks of a list and reports every failure: for poststop, where nothing may be left out.
pub fn run_all(list: &[Hook], name: &str, state: &StateDocument, cwd: Option<&Path>) -> Vec<Error> {
    list.iter()
        .enumerate()
        .filter_map(|(i, hook)| one(hook, &state.json(), cwd).at(|| format!("hooks.{name}[{i}]")).err())
        .collect()
}

fn one(hook: &Hook, state: &[u8], cwd: Option<&Path>) -> Result<()> {
    let call = || format!("exec({})", hook.path);
    // Files in memory, not pipes: a hook that reads nothing or prints much can neither block us nor kill us.
    let input = memory_file(state)?;
    let mut output = memory_file(b"")?;
    let mut command = Command::new(&hook.path);
    if let Some((argv0, rest)) = hook.args.split_first() {
        command.arg0(argv0).args(rest);
    }
    command.env_clear();
    for (name, value) in hook.env.iter().filter_map(|e| e.split_once('=')) {
        command.env(name, value);
    }
    if let Some(dir) = cwd {
        command.current_dir(dir);
    }
    let clone = |f: &std::fs::File| f.try_clone().call(|| "dup");
    command.stdin(Stdio::from(input)).stdout(Stdio::from(clone(&output)?)).stderr(Stdio::from(clone(&output)?));
    // A group of its own, so that a timeout ends what the hook has started as well.
    command.process_group(0);
    conex_sys::signal::unblocked(&mut command);
    let mut child = command.spawn().call(call)?;
    let status = wait(&mut child, hook.timeout)?;
    let mut text = String::new();
    let _ = output.rewind();
    let _ = Read::by_ref(&mut output).take(4096).read_to_string(&mut text);
    let text = text.trim();
    let printed = if text.is_empty() { String::new() } else { format!(", output: {text}") };
    match status {
        None => {
            let seconds = hook.timeout.unwrap_or(0) as f64;
            Err(Error::new(
                Kind::System,
                format!("{}: hook ran past specified timeout of {seconds:.1}s{printed}", call()),
            ))
        }
        Some(s) if s.success() => Ok(()),
        Some(s) => Err(Error::new(Kind::System, format!("error running hook: {}: {s}{printed}", call()))),
    }
}

fn memory_file(content: &[u8]) -> Result<std::fs::File> {
    let fd = conex_sys::fd::memfd_data("conex-hook").call(|| "memfd_create")?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content).call(|| "write(memfd)")?;
    file.rewind().call(|| "lseek(memfd)")?;
    Ok(file)
}

/// The status, or `None` if the time was up and the hook's process group was killed.
fn wait(child: &mut std::process::Child, timeout: Option<i64>) -> Result<Option<std::process::ExitStatus>> {
    let Some(seconds) = timeout else {
        return child.wait().map(Some).call(|| "wait4(hook)");
    };
    let deadline = Instant::now() + Duration::from_secs(seconds.max(0) as u64);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().call(|| "wait4(hook)")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            let _ = conex_sys::proc::kill(nix::unistd::Pid::from_raw(-pid.as_raw()), libc::SIGKILL);
            let _ = child.wait();
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
