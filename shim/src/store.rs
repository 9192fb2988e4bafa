//! The server's side of its keeper: tells it what to keep, hears from it who has ended. See [`crate::keep`].

use crate::keep::{COMMIT, DESCRIPTORS, DOCUMENT, KEEPER};
use crate::log;
use crate::reap::Exit;
use crate::service::Service;
use crate::status::{Call, Result};
use crate::upgrade::Saved;
use conex_sys::fd;
use nix::sys::socket::{recv, sendmsg, ControlMessage, MsgFlags};
use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::Notify;

thread_local! {
    static CHANGED: Rc<Notify> = Rc::default();
}

#[derive(Default)]
pub struct Store {
    pub socket: Cell<Option<RawFd>>,
}

/// Something that the keeper has to know has changed; above all a descriptor that was closed: the end of a stream is
/// one only when the keeper has let go of it as well.
pub fn touch() {
    CHANGED.with(|c| c.notify_one());
}

/// Connects the service with the keeper, if there is one.
pub fn begin(service: &Rc<Service>, listener: RawFd) -> Result<()> {
    let number = std::env::var(KEEPER).ok().and_then(|n| n.parse::<RawFd>().ok());
    let Some(number) = number.filter(|n| fd::is_open(*n)) else { return Ok(()) };
    fd::set_cloexec(number).call(|| "fcntl(F_SETFD)".into())?;
    service.store.socket.set(Some(number));
    let socket = Rc::new(fd::adopt(number));
    let (hearing, from) = (service.clone(), socket.clone());
    tokio::task::spawn_local(async move { hear(&hearing, &from).await });
    let service = service.clone();
    tokio::task::spawn_local(async move {
        touch();
        let changed = CHANGED.with(Rc::clone);
        loop {
            changed.notified().await;
            // Changes come in groups; one word for all of them.
            tokio::time::sleep(Duration::from_millis(1)).await;
            while let Err(e) = tell(&socket, &crate::upgrade::save(&service, listener, false)) {
                if e != nix::errno::Errno::EAGAIN {
                    log::warn("no keeper any more", &[("error", e.desc())]);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    Ok(())
}

fn tell(socket: &OwnedFd, saved: &Saved) -> nix::Result<()> {
    let text = serde_json::to_vec(saved).unwrap_or_default();
    let document = crate::runtime::input(&text).map_err(|_| nix::errno::Errno::EMFILE)?;
    put(socket, &[DOCUMENT], &[document.as_raw_fd()])?;
    // SCM_RIGHTS takes 253 at a time.
    for part in saved.descriptors().chunks(200) {
        let mut bytes = vec![DESCRIPTORS];
        bytes.extend(part.iter().flat_map(|n| n.to_le_bytes()));
        put(socket, &bytes, part)?;
    }
    put(socket, &[COMMIT], &[])
}

fn put(socket: &OwnedFd, bytes: &[u8], list: &[RawFd]) -> nix::Result<()> {
    let rights = [ControlMessage::ScmRights(list)];
    let control = if list.is_empty() { &rights[..0] } else { &rights[..] };
    let iov = [std::io::IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &iov, control, flags, None).map(drop)
}

/// Exits of processes that are the keeper's children now.
async fn hear(service: &Service, socket: &OwnedFd) {
    let Ok(ready) = fd_ready(socket) else { return };
    let mut buffer = [0u8; 256];
    while let Ok(mut guard) = ready.readable().await {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return,
            Ok(n) => {
                if let Some((pid, exit)) = parse(&String::from_utf8_lossy(&buffer[..n])) {
                    service.reaper.foreign(pid, exit);
                }
            }
            Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn fd_ready(socket: &OwnedFd) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::BorrowedFd<'_>>> {
    conex_sys::ready::borrowed(socket.as_fd(), Interest::READABLE)
}

/// `pid status seconds nanoseconds`.
pub fn parse(text: &str) -> Option<(i32, Exit)> {
    let mut words = text.split(' ');
    let (pid, status) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (seconds, nanos): (u64, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(u64::from(nanos)))?;
    Some((pid, Exit { status, at: crate::upgrade::after_epoch(since) }))
}
