//! `conex --trace FILE VERB …`: runs the verb and writes down when each step of both processes began.
//!
//! conex writes its steps to a descriptor (`--trace fd:N`), a file in memory; what it does and returns is unchanged.

mod picture;
mod step;

use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::ffi::OsString;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use step::{Side, Stage};

/// Where the timeline goes, and in what form.
enum Form {
    Text,
    /// Chrome's trace events, which Perfetto and chrome://tracing open.
    Json,
    Svg,
    Html,
}

/// # Errors
/// The file's name is no form's, or it cannot be written. Those of the verb are its own.
pub fn main(env: &Invocation, target: &str, argv: &[OsString]) -> Result<i32> {
    let bad = |what: String| Error::new(Kind::Invalid, what).at("--trace");
    let form = match target.rsplit_once('.').map(|(_, end)| end) {
        _ if target == "-" => Form::Text,
        Some("json") => Form::Json,
        Some("svg") => Form::Svg,
        Some("html") => Form::Html,
        _ => {
            return Err(bad(format!(
                "{target:?}: a name that ends in .json, .svg or .html, or - for standard error"
            )))
        }
    };
    let mut out = if matches!(form, Form::Text) { None } else { Some(opened(target)?) };
    let memory = nix::sys::memfd::memfd_create(c"trace", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .call(|| "memfd_create")?;
    // Two processes write to it, each at its end.
    nix::fcntl::fcntl(&memory, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND))
        .call(|| "fcntl(F_SETFL)")?;
    // Above the numbers that a caller hands on.
    let steps = conex_sys::fd::dup_above(memory.as_raw_fd(), 400).call(|| "fcntl(F_DUPFD)")?;
    conex_sys::fd::clear_cloexec(steps.as_raw_fd()).call(|| "fcntl(F_SETFD)")?;
    let mut command = std::process::Command::new(&env.program);
    command.arg(format!("--trace=fd:{}", steps.as_raw_fd())).args(argv);
    let mut child = command.spawn().call(|| format!("exec({})", env.program.display()))?;
    let ended = pass_signals_on(&mut child, || ())?;
    let mut text = String::new();
    let mut file = std::fs::File::from(memory);
    file.rewind().and_then(|()| file.read_to_string(&mut text)).call(|| "read(memfd)")?;
    let steps = read(&text);
    let title = argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let parent = std::env::var("TRACEPARENT").ok();
    let drawn = match form {
        Form::Text => picture::text(&steps),
        Form::Json => picture::json(&steps, &title, parent.as_deref()),
        Form::Svg => picture::svg(&steps, &title),
        Form::Html => picture::html(&steps, &title, parent.as_deref()),
    };
    let written = match &mut out {
        Some(file) => file.write_all(drawn.as_bytes()),
        None => std::io::stderr().write_all(drawn.as_bytes()),
    };
    // The verb has done what it has done; its status is what the caller needs.
    if let Err(e) = written {
        eprintln!("conex: --trace: write({target}): {e}");
    }
    Ok(ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or(0)))
}

/// Before anything runs: a timeline that cannot be kept is told at once.
fn opened(target: &str) -> Result<std::fs::File> {
    let path = conex::text::path(target).into_owned();
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    options
        .open(&path)
        .call(|| format!("open({}, O_CREAT)", path.display()))
        .map_err(|e| e.at("--trace"))
}

/// Waits for conex. A signal from a process is passed on; what a terminal sends reaches both by itself.
/// `begin` is called when no signal can end this program any more, for threads of the caller's.
pub fn pass_signals_on<T>(
    child: &mut std::process::Child,
    begin: impl FnOnce() -> T,
) -> Result<std::process::ExitStatus> {
    const SI_KERNEL: i32 = 0x80;
    let all = SigSet::all();
    nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&all), None)
        .call(|| "sigprocmask")?;
    begin();
    let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC).call(|| "signalfd4")?;
    let pidfd = conex_sys::proc::pidfd_open(nix::unistd::Pid::from_raw(child.id() as i32))
        .call(|| "pidfd_open")?;
    loop {
        if let Some(status) = child.try_wait().call(|| "waitpid")? {
            return Ok(status);
        }
        let signal = signals.read_signal().call(|| "read(signalfd)")?;
        let Some(signal) = signal.filter(|s| s.ssi_code != SI_KERNEL) else { continue };
        if signal.ssi_signo as i32 != Signal::SIGCHLD as i32 {
            let _ = conex_sys::proc::pidfd_send_signal(pidfd.as_fd(), signal.ssi_signo as i32);
        }
    }
}

/// The steps of both sides, in their order of time.
pub fn read(text: &str) -> Vec<Stage> {
    let mut steps: Vec<Stage> = text
        .lines()
        .filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let begin = microseconds(line["time"].as_str()?)?;
            let (side, text) = line["msg"].as_str()?.split_once(": ")?;
            let side = if side == "container" { Side::Container } else { Side::Host };
            Some(Stage { side, begin, length: 0, text: text.to_string() })
        })
        .collect();
    steps.sort_by_key(|s| s.begin);
    let first = steps.first().map_or(0, |s| s.begin);
    for i in 0..steps.len() {
        let next = steps[i + 1..].iter().find(|s| s.side == steps[i].side).map(|s| s.begin);
        steps[i].length = next.map_or(0, |next| next - steps[i].begin);
    }
    steps.iter_mut().for_each(|s| s.begin -= first);
    steps
}

/// Since midnight of 1970-01-01 up to whole days, which cancel out unless midnight is between two steps.
fn microseconds(time: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<u64>().ok();
    let seconds = crate::why::seconds(time)?;
    Some(seconds * 1_000_000 + number(20..26)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_last_until_the_next_of_their_side() {
        let line = |at: &str, msg: &str| {
            format!("{{\"level\":\"debug\",\"msg\":\"{msg}\",\"time\":\"2026-11-26T23:59:59.{at}Z\"}}\n")
        };
        let text = line("000100", "host: a")
            + "junk\n"
            + &line("000300", "host: sends X")
            + &line("000250", "container: b: c");
        let steps = read(&text);
        let seen: Vec<_> =
            steps.iter().map(|s| (s.side, s.begin, s.length, s.text.as_str(), s.kind())).collect();
        assert_eq!(
            seen,
            [
                (Side::Host, 0, 200, "a", "work"),
                (Side::Container, 150, 0, "b: c", "work"),
                (Side::Host, 200, 0, "sends X", "wait")
            ]
        );
    }
}
