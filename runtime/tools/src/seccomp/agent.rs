//! The annotation `dev.conex.seccomp-log`: the agent that answers for a container that somebody else waits for.
//!
//! `create` under an engine ends before its container does, so a process of its own answers the calls that ask. It is
//! this program once more; it ends with the last process under the filter, and writes the file then.

use super::judge::{Place, Watch};
use super::profile::PlacedProfile;
use conex::error::{Context, Error, Kind, Result};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The first argument of the agent; the others are its directory, the file to write, and whose it is.
pub const NAME: &str = "_seccomp-agent";

/// Where the end of what the agent hears may lie: no descriptor that is to be handed on is that high.
const HIGH: i32 = 900;

/// What is watched, and where it is written.
pub(super) struct Order<'a> {
    pub log: &'a Path,
    /// The profile.
    pub document: &'a [u8],
    pub whose: &'a str,
    /// Or becomes the command.
    pub waits: bool,
}

/// Begins the agent, then runs `command`, which makes the container, and `waits` for its end; or becomes it, so that
/// whoever called has the runtime itself, to kill or to wait for. Its exit status.
///
/// # Errors
/// The file cannot be written, or a program not be executed.
pub(super) fn begin(
    mut command: Command,
    listener: UnixListener,
    place: Place,
    order: &Order,
) -> Result<i32> {
    let Order { log, document, whose, waits } = *order;
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
    // From here on the directory is the agent's, which lives longer.
    place.leave();
    if !waits {
        // It closes with the runtime, however that ends; the container's process does not keep it.
        let control =
            conex_sys::fd::dup_above(control.as_raw_fd(), HIGH).unwrap_or_else(|_| control.into());
        conex_sys::fd::clear_cloexec(control.as_raw_fd()).call(|| "fcntl(F_SETFD)")?;
        let e = command.exec();
        return Err(Error::new(Kind::System, format!("execve(conex): {e}")));
    }
    let mut child = command.spawn().call(|| "exec(conex)")?;
    let status = crate::trace::pass_signals_on(&mut child, || ())?;
    drop(control);
    let _ = agent.wait();
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The agent: its listener is standard input, standard output the end of what is told to it.
pub fn main(args: &[String]) -> u8 {
    let _ = nix::unistd::setsid();
    u8::from(answer(args).is_err())
}

fn answer(args: &[String]) -> Result<()> {
    let [dir, log, whose] = args else { return Err(Error::new(Kind::Invalid, NAME)) };
    // What the caller hands on to the container is not this process's to keep open.
    conex_sys::fd::close_all_but(&[]);
    let dir = conex::text::path(dir);
    let ended = attend(&dir, &conex::text::path(log), whose);
    let _ = std::fs::remove_dir_all(&dir);
    ended
}

/// Until the runtime has ended and no process is under a filter any more.
fn attend(dir: &Path, log: &Path, whose: &str) -> Result<()> {
    let text = std::fs::read(dir.join("profile.json")).call(|| "profile.json")?;
    let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().call(|| "dup");
    let listener = UnixListener::from(own(&std::io::stdin())?);
    let mut control = UnixStream::from(own(&std::io::stdout())?);
    let watch = Arc::new(Watch::new(PlacedProfile::read(&text, &[])?));
    let judge = watch.clone();
    std::thread::spawn(move || judge.accept(&listener));
    let _ = control.read_to_end(&mut Vec::new());
    // A filter that the runtime handed over before it ended may not have been looked at yet; or no container was made.
    if !watch.has_begun(Duration::from_secs(1)) {
        return Ok(());
    }
    watch.end();
    let text = watch.report(&format!("{whose}: "));
    let written = open(log).and_then(|mut file| file.write_all(text.as_bytes()));
    written.call(|| format!("write({})", log.display()))
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    // A FIFO that nobody reads must not hold the runtime.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o644).custom_flags(flags).open(path)
}
