//! The whole conversation between host and child.
//!
//! ```text
//!        host                                     child
//!   clone3 ────────────────────────────────────▶ (born, in its namespaces)
//!        ◀──────────── Hopped{pidfd} ───────────  only of two hops (exec, a joined user namespace), from the first
//! 1      ◀──────────────── NeedMaps ───────────  only with a new user namespace
//!   uid_map, gid_map ──── Mapped ─────────────▶
//!   cgroups made ──────── Enter{tasks files} ─▶  before unshare(CLONE_NEWCGROUP); the child enters the v1 ones itself
//!          ────────────── Trees{cgroups} ─────▶  only with a mount of cgroups that sees nothing of the host's mounts
//! 2      ◀──────────────── Rooted ─────────────  only with prestart or createRuntime hooks
//!   hooks ─────────────── Go ─────────────────▶
//!        ◀──────────────── Notify{fd number} ──  only with a seccomp listener, before the filter is loaded
//!        ◀──────────────── Terminal{master} ───  only with a terminal, at any moment before Ready
//! 3      ◀──────────────── Ready ──────────────
//!   rlimits, state Created, pid file
//!          ────────────── Created ────────────▶  `create`: wait on the start socket; `run`, `exec`: go on. Where nobody has
//!                                                anything to do in between it comes before 3, after the last answer;
//!                                                of an exec with Enter
//!        ◀──────────────── Words{memory} ─────  only under a filter that denies sendmsg: where the error would stand
//!        ◀──────── end of stream, or Failed ───  execve happened, or the error that the user sees
//! ```
//! End of stream at any other moment means that the other side died; the child then ends itself.

use crate::error::{Context, Error, Kind, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::*;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Mutex;

#[derive(Debug)]
pub enum Message {
    NeedMaps,
    Mapped,
    /// The cgroups are made and have their limits. Into those of these `tasks` files, opened for writing, the child goes
    /// by itself; it is in the others. Each with its directory, for the error.
    Enter(Vec<(String, OwnedFd)>),
    /// `Enter` and `Created` in one: before Linux 6.1 a message to a process that is just ending takes what it has said away
    /// (unix_dgram_disconnected), so that nothing is sent to one that can fail at any moment.
    EnterAndGo(Vec<(String, OwnedFd)>),
    /// Trees of what a mount of cgroups shows, each with its path; only to a child that does not see the host's mounts. And
    /// what a process of the host's side has opened for it, each with a name.
    Trees(Vec<(String, OwnedFd)>),
    Rooted,
    Go,
    Notify(RawFd),
    /// The master side of the process's terminal.
    Terminal(OwnedFd),
    Ready,
    /// The second hop, by the descriptor that clone3 gave the first one: a number would be that of its PID namespace.
    Hopped(OwnedFd),
    Created,
    /// Where the last words of a process will be that may not send them ([`last_words`], [`read_words`]).
    Words(OwnedFd),
    Failed(Error),
}

/// As many descriptors as one message takes.
pub const MAX_FDS: usize = 32;

/// Room for the longest message. Memory that is zero from the start is touched only where a message is written; a page
/// that is touched costs each of the two processes a fault.
static BUFFER: Mutex<[u8; 32 << 10]> = Mutex::new([0; 32 << 10]);

/// One end of the SOCK_SEQPACKET pair.
pub struct Channel {
    fd: OwnedFd,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A connected pair, both ends close-on-exec: execve is what closes the child's end.
pub fn pair() -> Result<(Channel, Channel)> {
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .call(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
    Ok((Channel { fd: a }, Channel { fd: b }))
}

impl Channel {
    pub fn new(fd: OwnedFd) -> Self {
        Channel { fd }
    }

    pub fn send(&self, message: &Message) -> Result<()> {
        crate::log::step(|| format!("sends {}", name(message)));
        let (bytes, fds) = encode(message);
        let control = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &control[..0] } else { &control[..] };
        loop {
            let iov = [IoSlice::new(&bytes)];
            match sendmsg::<()>(self.fd.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => continue,
                other => return other.map(drop).call(|| format!("sendmsg({})", name(message))),
            }
        }
    }

    /// The next message; `None` at end of stream.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = BUFFER.lock().unwrap_or_else(|e| e.into_inner());
        let mut control = cmsg_space!([RawFd; MAX_FDS]);
        let (len, fds) = loop {
            let mut iov = [IoSliceMut::new(&mut *bytes)];
            match recvmsg::<()>(
                self.fd.as_raw_fd(),
                &mut iov,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(Errno::EINTR) => continue,
                // A peer that ended with unread messages resets the stream, and the kernel reports that once, even
                // before what the peer itself has sent: its last words are in the next call.
                Err(Errno::ECONNRESET) => continue,
                other => {
                    let msg = other.call(|| "recvmsg")?;
                    let fds = msg.cmsgs().call(|| "recvmsg(SCM_RIGHTS)")?.find_map(|c| match c {
                        ControlMessageOwned::ScmRights(fds) => Some(fds),
                        _ => None,
                    });
                    break (msg.bytes, fds.unwrap_or_default());
                }
            }
        };
        if len == 0 {
            crate::log::step(|| "the other end is closed");
            return Ok(None);
        }
        let fds = fds.into_iter().map(conex_sys::fd::adopt).collect();
        let message = decode(&bytes[..len], fds)?;
        crate::log::step(|| format!("has received {}", name(&message)));
        Ok(Some(message))
    }

    /// Waits for the next message of a child that may die while a copy of its end lives on. False if it has died.
    /// `look` is asked once a second whether it goes on.
    pub fn ready(&self, child: BorrowedFd, look: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
        let mut wait = PollTimeout::from(1000u16);
        loop {
            let mut fds = [
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(child, PollFlags::POLLIN),
            ];
            match poll(&mut fds, wait) {
                Err(Errno::EINTR) => continue,
                other => other.call(|| "poll")?,
            };
            let [message, dead] = fds.map(|f| f.any().unwrap_or(true));
            if message || wait == PollTimeout::ZERO {
                return Ok(message);
            }
            if dead {
                // Its last words came before its end.
                wait = PollTimeout::ZERO;
            } else {
                look()?;
            }
        }
    }

    /// True if there is a message, or the end of stream, within so many milliseconds.
    pub fn waiting(&self, millis: u16) -> Result<bool> {
        use nix::poll::{poll, PollFd, PollFlags};
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], millis) {
            Err(Errno::EINTR) => Ok(false),
            other => other.call(|| "poll").map(|n| n > 0),
        }
    }

    /// The next message, which must satisfy `want`. `Failed` becomes its error, end of stream an error of its own.
    pub fn expect<T>(
        &self,
        step: &str,
        want: impl FnOnce(Message) -> std::result::Result<T, Message>,
    ) -> Result<T> {
        match self.receive()? {
            None => Err(Error::new(Kind::System, format!("the other side died during {step}"))),
            Some(Message::Failed(e)) => Err(e),
            Some(other) => want(other).map_err(|m| {
                Error::new(Kind::System, format!("unexpected message {} during {step}", name(&m)))
            }),
        }
    }
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::NeedMaps => "NeedMaps",
        Message::Mapped => "Mapped",
        Message::Enter(_) => "Enter",
        Message::EnterAndGo(_) => "EnterAndGo",
        Message::Trees(_) => "Trees",
        Message::Rooted => "Rooted",
        Message::Go => "Go",
        Message::Notify(_) => "Notify",
        Message::Terminal(_) => "Terminal",
        Message::Ready => "Ready",
        Message::Hopped(_) => "Hopped",
        Message::Created => "Created",
        Message::Words(_) => "Words",
        Message::Failed(_) => "Failed",
    }
}

fn encode(message: &Message) -> (Vec<u8>, Vec<RawFd>) {
    let number = |tag: u8, n: i32| {
        let mut out = vec![tag];
        out.extend_from_slice(&n.to_le_bytes());
        out
    };
    match message {
        Message::NeedMaps => (vec![1], vec![]),
        Message::Mapped => (vec![2], vec![]),
        Message::Enter(list) | Message::EnterAndGo(list) | Message::Trees(list) => {
            let paths: Vec<&str> = list.iter().map(|(path, _)| path.as_str()).collect();
            let tag = match message {
                Message::Enter(_) => 3,
                Message::EnterAndGo(_) => 14,
                _ => 13,
            };
            let bytes = [&[tag], paths.join("\n").as_bytes()].concat();
            (bytes, list.iter().map(|(_, fd)| fd.as_raw_fd()).collect())
        }
        Message::Rooted => (vec![4], vec![]),
        Message::Go => (vec![5], vec![]),
        Message::Notify(n) => (number(6, *n), vec![]),
        Message::Ready => (vec![7], vec![]),
        Message::Terminal(fd) => (vec![11], vec![fd.as_raw_fd()]),
        Message::Hopped(fd) => (vec![8], vec![fd.as_raw_fd()]),
        Message::Created => (vec![9], vec![]),
        Message::Words(fd) => (vec![12], vec![fd.as_raw_fd()]),
        Message::Failed(e) => {
            let kind = match e.kind {
                Kind::Invalid | Kind::Unknown => 0u8,
                Kind::Unsupported => 1,
                Kind::NotFound => 2,
                Kind::Status => 3,
                Kind::System => 4,
            };
            let mut out = number(10, e.errno.map_or(0, |n| n as i32));
            out.push(kind);
            // Long texts (a hook's output) are cut, so that the message always fits.
            let cut = |s: &str, max: usize| s.chars().take(max).collect::<String>();
            let (field, what) = (cut(&e.field, 1000), cut(&e.what, 6000));
            out.extend_from_slice(&(field.len() as u32).to_le_bytes());
            out.extend_from_slice(field.as_bytes());
            out.extend_from_slice(what.as_bytes());
            (out, vec![])
        }
    }
}

fn decode(bytes: &[u8], mut fds: Vec<OwnedFd>) -> Result<Message> {
    let int = || bytes.get(1..5).and_then(|b| b.try_into().ok()).map_or(0, i32::from_le_bytes);
    Ok(match bytes[0] {
        1 => Message::NeedMaps,
        2 => Message::Mapped,
        tag @ (3 | 13 | 14) => {
            let paths = String::from_utf8_lossy(&bytes[1..]);
            let list = paths.lines().map(str::to_string).zip(fds).collect();
            match tag {
                3 => Message::Enter(list),
                14 => Message::EnterAndGo(list),
                _ => Message::Trees(list),
            }
        }
        4 => Message::Rooted,
        5 => Message::Go,
        6 => Message::Notify(int()),
        7 => Message::Ready,
        8 => Message::Hopped(one(&mut fds, "Hopped")?),
        11 => Message::Terminal(one(&mut fds, "Terminal")?),
        9 => Message::Created,
        12 => Message::Words(one(&mut fds, "Words")?),
        10 => Message::Failed(
            decode_error(bytes, int()).unwrap_or_else(|| Error::new(Kind::System, "garbled error")),
        ),
        n => return Err(Error::new(Kind::System, format!("unknown message {n}"))),
    })
}

/// An error as bytes, for memory that both sides have: the length comes first, and is never 0.
pub fn last_words(e: &Error) -> Vec<u8> {
    // In UTF-8 a character has up to four bytes.
    let what = e.what.chars().take(conex_sys::exec::Words::SIZE / 8).collect();
    let (bytes, _) = encode(&Message::Failed(Error { what, ..e.clone() }));
    [&(bytes.len() as u32).to_le_bytes(), bytes.as_slice()].concat()
}

/// What [`last_words`] made; `None` if nothing was left.
pub fn read_words(memory: BorrowedFd) -> Option<Error> {
    let mut bytes = vec![0u8; conex_sys::exec::Words::SIZE];
    let read = nix::sys::uio::pread(memory, &mut bytes, 0).ok()?;
    let bytes = bytes.get(..read)?;
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    match decode(bytes.get(4..4usize.checked_add(len)?).filter(|b| !b.is_empty())?, Vec::new()) {
        Ok(Message::Failed(e)) => Some(e),
        _ => None,
    }
}

fn one(fds: &mut Vec<OwnedFd>, name: &str) -> Result<OwnedFd> {
    fds.pop().ok_or_else(|| Error::new(Kind::System, format!("{name} without a descriptor")))
}

fn decode_error(bytes: &[u8], errno: i32) -> Option<Error> {
    let kind = match bytes.get(5)? {
        0 => Kind::Invalid,
        1 => Kind::Unsupported,
        2 => Kind::NotFound,
        3 => Kind::Status,
        _ => Kind::System,
    };
    let len = u32::from_le_bytes(bytes.get(6..10)?.try_into().ok()?) as usize;
    let field = bytes.get(10..10 + len)?;
    let what = bytes.get(10 + len..)?;
    Some(Error {
        kind,
        field: String::from_utf8_lossy(field).into_owned(),
        what: String::from_utf8_lossy(what).into_owned(),
        errno: (errno != 0).then(|| Errno::from_raw(errno)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_descriptors_cross() {
        let (a, b) = pair().unwrap();
        let error = Error::call(Errno::EPERM, "mount(x)").at("mounts[3]");
        a.send(&Message::Failed(error.clone())).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Failed(e)) if e == error));
        let null = std::fs::File::open("/dev/null").unwrap();
        a.send(&Message::Terminal(null.into())).unwrap();
        assert!(matches!(b.receive().unwrap(), Some(Message::Terminal(_))));
        drop(a);
        assert!(b.receive().unwrap().is_none());
        let (words, fd) = conex_sys::exec::Words::new().unwrap();
        assert_eq!(read_words(fd.as_fd()), None);
        words.write(&last_words(&error));
        assert_eq!(read_words(fd.as_fd()), Some(error));
    }
}
