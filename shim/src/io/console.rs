//! The terminal of a process: a socket on which the runtime delivers its master side.

use crate::status::{unknown, During, Result};
use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;

/// A listening socket in a directory of its own, gone with this value.
pub struct Socket {
    dir: PathBuf,
    listener: UnixListener,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Socket {
    /// Below XDG_RUNTIME_DIR, or /tmp: the path of a bundle is too long for a socket's address.
    pub fn new() -> Result<Socket> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
        let base = base.map_or_else(std::env::temp_dir, PathBuf::from);
        for attempt in 0u32..100 {
            let nanos = crate::report::events::timestamp(std::time::SystemTime::now()).nanos;
            let dir = base.join(format!("conex-pty-{}-{nanos}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.during(|| format!("mkdir({})", dir.display()))?,
            }
            let path = dir.join("pty.sock");
            let listener = UnixListener::bind(&path).during(|| format!("bind({})", path.display()));
            if listener.is_err() {
                let _ = std::fs::remove_dir(&dir);
            }
            return Ok(Socket { dir, listener: listener? });
        }
        Err(unknown(format!("no free name for a console socket in {}", base.display())))
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("pty.sock")
    }

    /// The master side, which the runtime has sent before it ended.
    pub async fn receive(&self) -> Result<OwnedFd> {
        let accept = async {
            let (stream, _) =
                self.listener.accept().await.during(|| "accept(console socket)".into())?;
            loop {
                stream.readable().await.during(|| "recvmsg(console socket)".into())?;
                match stream.try_io(tokio::io::Interest::READABLE, || take(stream.as_raw_fd())) {
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                    other => return other.during(|| "recvmsg(console socket)".into()),
                }
            }
        };
        // It has ended: what it has sent is there already.
        tokio::time::timeout(Duration::from_secs(2), accept)
            .await
            .unwrap_or_else(|_| Err(unknown("the runtime sent no terminal")))
    }
}

fn take(socket: i32) -> std::io::Result<OwnedFd> {
    let mut name = [0u8; 4096];
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut iov = [std::io::IoSliceMut::new(&mut name)];
    let message = recvmsg::<()>(socket, &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut found = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(list) = control {
            found.extend(list.into_iter().map(conex_sys::fd::adopt));
        }
    }
    found.into_iter().next().ok_or_else(|| std::io::Error::other("a message without a descriptor"))
}
