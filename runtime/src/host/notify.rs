//! sd_notify(3) between the container and the service manager that runs `start` or `run`.

use crate::error::{Context, Result};
use nix::sys::socket::*;
use std::os::fd::{AsRawFd, OwnedFd};
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
    let fd =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).call(|| "socket(AF_UNIX)")?;
    let _ = std::fs::remove_file(&path);
    let (_dir, address) = super::listener::address(&path)?;
    bind(fd.as_raw_fd(), &address).call(|| format!("bind({})", path.display()))?;
    // Any user of the container may report.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
        .call(|| format!("chmod({})", path.display()))?;
    Ok(fd)
}

/// Waits for READY=1 from the container and tells the manager, with the pid of the container's init as MAINPID.
/// Ends as well when the container does.
pub fn forward(inside: &OwnedFd, manager: &str, pid: i32, alive: impl Fn() -> bool) -> Result<()> {
    use nix::poll::{poll, PollFd, PollFlags};
    use std::os::fd::AsFd;
    let out =
        socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).call(|| "socket(AF_UNIX)")?;
    let to = match manager.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(manager),
    }
    .call(|| format!("NOTIFY_SOCKET={manager}"))?;
    let mut buffer = [0u8; 4096];
    loop {
        let mut fds = [PollFd::new(inside.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 100u16).call(|| "poll(notify.sock)")? == 0 {
            if alive() {
                continue;
            }
            return Ok(());
        }
        let n = recv(inside.as_raw_fd(), &mut buffer, MsgFlags::empty()).call(|| "recv(notify.sock)")?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        let Some(ready) = text.lines().find(|l| l.starts_with("READY=")) else {
            continue;
        };
        let message = format!("{ready}\nMAINPID={pid}\n");
        sendto(out.as_raw_fd(), message.as_bytes(), &to, MsgFlags::MSG_NOSIGNAL)
            .call(|| format!("sendto({manager})"))?;
        barrier(&out, &to);
        return Ok(());
    }
}

/// BARRIER=1: returns when the manager has read what came before (systemd 246), or after 30 seconds.
fn barrier(out: &OwnedFd, to: &UnixAddr) {
    use nix::poll::{poll, PollFd, PollFlags};
    use std::os::fd::AsFd;
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
