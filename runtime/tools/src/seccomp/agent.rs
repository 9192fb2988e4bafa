//! The annotation `dev.conex.seccomp-log`: the agent that answers for a container that somebody else waits for.
//!
//! `create` under an engine ends before its container does, so a process of its own answers the calls that ask. It is
//! this program once more; it ends with the last process under the filter, and writes the file then.

use super::judge::{Place, Watch};
use super::profile::Profile;
use conex::error::{Context, Error, Kind, Result};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// The first argument of the agent; the others are its directory, the file to write, and whose it is.
pub const NAME: &str = "_seccomp-agent";

/// What is told to the agent: there is a container, or there may have been one.
const MADE: &[u8] = b"m";
const PERHAPS: &[u8] = b"p";

/// Begins the agent, then runs `command`, which makes the container, and `waits` for its end or does not; its exit status.
///
/// # Errors
/// The file cannot be written, or a program not be executed.
pub(super) fn begin(
    mut command: Command,
    listener: UnixListener,
    place: Place,
    log: &Path,
    document: &[u8],
    (whose, waits): (&str, bool),
) -> Result<i32> {
    // Before anything runs: what cannot be kept is told at once.
    open(log).call(|| format!("open({}, O_CREAT|O_APPEND)", log.display()))?;
    let profile = place.dir.join("profile.json");
    std::fs::write(&profile, document).call(|| format!("write({})", profile.display()))?;
    let (control, theirs) = UnixStream::pair().call(|| "socketpair")?;
    let own = std::env::current_exe().call(|| "readlink(/proc/self/exe)")?;
    let mut agent = Command::new(own)
        .arg(NAME)
        .args([&place.dir, log])
        .arg(whose)
        .stdin(OwnedFd::from(listener))
        .stdout(OwnedFd::from(theirs))
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()
        .call(|| "clone")?;
    let status = command.status().call(|| "exec(conex)")?;
    // A foreground run that failed may have made no container.
    let told: &[u8] = match (status.success(), waits) {
        (true, _) => MADE,
        (false, true) => PERHAPS,
        (false, false) => &[],
    };
    (&control).write_all(told).call(|| "write(agent)")?;
    drop(control);
    if status.success() && !waits {
        place.leave();
    } else {
        let _ = agent.wait();
    }
    use std::os::unix::process::ExitStatusExt;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The agent: its listener is standard input, standard output the end of what is told to it.
pub fn main(args: &[String]) -> u8 {
    let _ = nix::unistd::setsid();
    u8::from(answer(args).is_err())
}

fn answer(args: &[String]) -> Result<()> {
    let [dir, log, whose] = args else { return Err(Error::new(Kind::Invalid, NAME)) };
    let dir = conex::text::path(dir);
    let text = std::fs::read(dir.join("profile.json")).call(|| "profile.json")?;
    let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().call(|| "dup");
    let listener = UnixListener::from(own(&std::io::stdin())?);
    let mut control = UnixStream::from(own(&std::io::stdout())?);
    let watch = Arc::new(Watch::new(Profile::read(&text, &[])?));
    let judge = watch.clone();
    std::thread::spawn(move || judge.accept(&listener));
    let mut told = Vec::new();
    let _ = control.read_to_end(&mut told);
    // Nothing: no container was made, and whoever tried tidies up.
    if told == MADE || told == PERHAPS && watch.has_begun() {
        watch.end();
        let text = watch.report(&format!("{whose}: "));
        let log = conex::text::path(log);
        let written = open(&log).and_then(|mut file| file.write_all(text.as_bytes()));
        let _ = std::fs::remove_dir_all(&dir);
        written.call(|| format!("write({})", log.display()))?;
    }
    Ok(())
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    // A FIFO that nobody reads must not hold the runtime.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o644).custom_flags(flags).open(path)
}
