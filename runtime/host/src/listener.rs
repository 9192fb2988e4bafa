//! Sending descriptors to other programs: the terminal, the pidfd, the seccomp listener.

use crate::error::{Context, Error, Kind, Named, Result};
use crate::seccomp::Listener;
use nix::errno::Errno;
use nix::sys::socket::*;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Connects to a stream socket by path; longer paths than sun_path (108 bytes) through a descriptor of the directory.
pub fn connect_stream(path: &Path) -> Result<OwnedFd> {
    let call = || format!("connect({})", path.display());
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    connect(fd.as_raw_fd(), &address(path)?.1).call(call)?;
    Ok(fd)
}

/// The address of a path, with what must stay open for it.
pub fn address(path: &Path) -> Result<(Option<OwnedFd>, UnixAddr)> {
    match UnixAddr::new(path) {
        Ok(address) => Ok((None, address)),
        Err(Errno::ENAMETOOLONG) => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let flags = nix::fcntl::OFlag::O_PATH
                | nix::fcntl::OFlag::O_DIRECTORY
                | nix::fcntl::OFlag::O_CLOEXEC;
            let fd = nix::fcntl::open(dir, flags, nix::sys::stat::Mode::empty())
                .call(|| format!("open({})", dir.display()))?;
            let short = Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd()))
                .join(path.file_name().unwrap_or_default());
            let address =
                UnixAddr::new(&short).call(|| format!("sockaddr_un({})", short.display()))?;
            Ok((Some(fd), address))
        }
        Err(e) => Err(Error::call(e, format!("sockaddr_un({})", path.display()))),
    }
}

/// One message with one descriptor: what go-runc, conmon and the seccomp agents receive.
pub fn send_fd(socket: BorrowedFd, payload: &[u8], fd: BorrowedFd) -> Result<()> {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let iov = [IoSlice::new(payload)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &iov, &control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => continue,
            other => return other.map(drop).call(|| "sendmsg(SCM_RIGHTS)"),
        }
    }
}

/// Fetches the notification descriptor from the process that is loading its filter, and hands it to the agent
/// (config-linux.md, "The Container Process State").
///
/// The number was announced before the filter was loaded: afterwards every system call of that process, sendmsg too,
/// may be one that waits for the agent.
pub fn seccomp(
    listener: &Listener,
    number: i32,
    pidfd: BorrowedFd,
    state: &[u8],
    pid: i32,
) -> Result<()> {
    let field = "linux.seccomp.listenerPath";
    let socket = connect_stream(&crate::text::path(&listener.path))
        .during("failed to connect with seccomp agent")
        .at(|| field)?;
    let fd = fetch(pidfd, number)?;
    let state: serde_json::Value = serde_json::from_slice(state).unwrap_or_default();
    let document = serde_json::json!({
        "ociVersion": crate::oci::SPEC_VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata,
        "state": state,
    });
    send_fd(socket.as_fd(), document.to_string().as_bytes(), fd.as_fd()).at(|| field)
}

fn fetch(pidfd: BorrowedFd, number: i32) -> Result<OwnedFd> {
    for _ in 0..5000 {
        match conex_sys::proc::pidfd_getfd(pidfd, number) {
            Ok(fd) => return Ok(fd),
            Err(Errno::EBADF) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => {
                return Err(Error::call(e, format!("pidfd_getfd({number})")).at("linux.seccomp"))
            }
        }
        if matches!(
            conex_sys::proc::wait_pidfd(pidfd, true),
            Ok(conex_sys::proc::Waited::Exited(_) | conex_sys::proc::Waited::Signaled(_))
        ) {
            return Err(Error::new(
                Kind::System,
                "the process died while it loaded its seccomp filter",
            )
            .at("linux.seccomp"));
        }
    }
    Err(Error::new(Kind::System, "the process did not load its seccomp filter within 5 seconds")
        .at("linux.seccomp"))
}
