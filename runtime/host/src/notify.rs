//! sd_notify(3) between the container and the service manager that runs `start` or `run`.

use crate::error::{Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags};
use nix::sys::socket::*;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The manager's socket, if the runtime was started with one.
pub fn host_socket() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|s| !s.is_empty())
}

/// The directory that is bound to /run/notify in the container.
pub fn directory(entry: &Path) -> PathBuf {
    entry.join("notify")
}

/// The socket that the container's processes write to.
pub fn bind_inside(entry: &Path) -> Result<OwnedFd> {
    let path = directory(entry).join("notify.sock");
    let fd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    let _ = std::fs::remove_file(&path);
    let (_dir, address) = super::listener::address(&path)?;
    bind(fd.as_raw_fd(), &address).call(|| format!("bind({})", path.display()))?;
    // Any user of the container may report.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
        .call(|| format!("chmod({})", path.display()))?;
    Ok(fd)
}

/// Passes READY=1 of the container on to the manager, with the pid of the container's init as MAINPID.
pub struct Relay {
    inside: OwnedFd,
    out: OwnedFd,
    to: UnixAddr,
    pid: i32,
}

impl Relay {
    pub fn new(inside: OwnedFd, manager: &str, pid: i32) -> Result<Relay> {
        let out = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .call(|| "socket(AF_UNIX)")?;
        let to = match manager.strip_prefix('@') {
            Some(name) => UnixAddr::new_abstract(name.as_bytes()),
            None => UnixAddr::new(manager),
        }
        .call(|| format!("NOTIFY_SOCKET={manager}"))?;
        Ok(Relay { inside, out, to, pid })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inside.as_fd()
    }

    /// Reads one message; true once readiness has been passed on.
    pub fn read(&mut self) -> Result<bool> {
        let mut buffer = [0u8; 4096];
        let n = match recv(self.inside.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            other => other.call(|| "recv(notify.sock)")?,
        };
        let text = String::from_utf8_lossy(&buffer[..n]);
        let Some(ready) = text.lines().find(|l| l.starts_with("READY=")) else {
            return Ok(false);
        };
        let message = format!("{ready}\nMAINPID={}\n", self.pid);
        sendto(self.out.as_raw_fd(), message.as_bytes(), &self.to, MsgFlags::MSG_NOSIGNAL)
            .call(|| "sendto(NOTIFY_SOCKET)")?;
        Ok(true)
    }

    /// Waits until the container is ready or has ended; returns when the manager has read the message.
    pub fn wait(&mut self, alive: impl Fn() -> bool) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(self.inside.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, 100u16).call(|| "poll(notify.sock)")? == 0 {
                if alive() {
                    continue;
                }
                return Ok(());
            }
            if self.read()? {
                barrier(&self.out, &self.to);
                return Ok(());
            }
        }
    }
}

/// BARRIER=1: returns when the manager has read what came before (systemd 246), or after 30 seconds.
fn barrier(out: &OwnedFd, to: &UnixAddr) {
    let Ok((reader, writer)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) else {
        return;
    };
    let fds = [writer.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let iov = [std::io::IoSlice::new(b"BARRIER=1")];
    if sendmsg(out.as_raw_fd(), &iov, &control, MsgFlags::MSG_NOSIGNAL, Some(to)).is_err() {
        return;
    }
    drop(writer);
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLHUP)];
    let _ = poll(&mut fds, u16::try_from(Duration::from_secs(30).as_millis()).unwrap_or(30_000));
}
