//! The keeper: a small parent of the server, for the day the server is killed.
//!
//! It holds a copy of every descriptor that the server needs (as systemd's fd store does) and the document that goes
//! with them. When the server dies, its containers become the keeper's children, because it is a subreaper: it starts a
//! server again, with the same socket, streams and state, and tells it of every child that it reaps. No pipe breaks and
//! no exit status is lost.

use crate::args::Args;
use crate::status::{unknown, Call, Result};
use conex_sys::fd;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::spawn::{posix_spawn, PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::*;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant, SystemTime};

/// Names the server's end of the socket to its keeper.
pub const KEEPER: &str = "_CONEX_SHIM_KEEPER";

/// Kinds of messages: the first byte.
pub const DOCUMENT: u8 = b'D';
pub const DESCRIPTORS: u8 = b'F';
pub const COMMIT: u8 = b'C';

/// Where descriptors are kept: above every number that a server uses, so that they can be put back one by one.
const HIGH: RawFd = 600;
const LISTENER: RawFd = 3;

/// What the server has told, whole.
#[derive(Default)]
struct Kept {
    document: Option<OwnedFd>,
    /// By the number they have in the server.
    list: BTreeMap<RawFd, OwnedFd>,
}

struct Keeper {
    socket: OwnedFd,
    /// The end that servers get.
    theirs: OwnedFd,
    kept: Kept,
    next: Kept,
    server: i32,
    starts: Vec<Instant>,
    /// The server has come as far as telling its state.
    settled: bool,
}

pub fn main(args: &Args) -> Result<()> {
    conex_sys::proc::set_child_subreaper().call(|| "prctl(PR_SET_CHILD_SUBREAPER)".into())?;
    if !fd::is_open(LISTENER) {
        return Err(unknown("no listener as descriptor 3: the keeper is started by `start`"));
    }
    let listener = fd::dup_above(LISTENER, HIGH).call(|| "dup(listener)".into())?;
    drop(fd::adopt(LISTENER));
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).call(|| "socketpair".into())?;
    let mut keeper = Keeper {
        socket: ours,
        theirs: fd::dup_above(theirs.as_raw_fd(), HIGH).call(|| "dup(socket)".into())?,
        kept: Kept { document: None, list: BTreeMap::from([(LISTENER, listener)]) },
        next: Kept::default(),
        server: 0,
        starts: Vec::new(),
        settled: true,
    };
    drop(theirs);
    let mut signals = SigSet::empty();
    for s in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(s);
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).call(|| "sigprocmask".into())?;
    let events = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .call(|| "signalfd4".into())?;
    keeper.start(args)?;
    loop {
        let mut fds =
            [PollFd::new(events.as_fd(), PollFlags::POLLIN), PollFd::new(keeper.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.call(|| "poll".into())?,
        };
        while keeper.take() {}
        while let Ok(Some(info)) = events.read_signal() {
            // Who asks the keeper to end asks the server: it ends when the server has.
            if info.ssi_signo != libc::SIGCHLD as u32 {
                let _ = conex_sys::proc::kill(Pid::from_raw(keeper.server), info.ssi_signo as i32);
            }
        }
        if !keeper.reap(args)? {
            return Ok(());
        }
    }
}

impl Keeper {
    /// Reaps what has ended. False if the server ended as it should.
    fn reap(&mut self, args: &Args) -> Result<bool> {
        loop {
            let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code as u32),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as u32),
                _ => return Ok(true),
            };
            if pid != self.server {
                self.tell(pid, status);
                continue;
            }
            // What it said last counts.
            while self.take() {}
            // One that is started anew has something to say before it ends.
            if status == 0 && (self.settled || self.starts.len() < 2) {
                return Ok(false);
            }
            self.start(args)?;
        }
    }

    /// `pid status seconds nanoseconds` of a child that only this process could reap.
    fn tell(&self, pid: i32, status: u32) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let text = format!("{pid} {status} {} {}", at.as_secs(), at.subsec_nanos());
        // The next server reads it if this one is gone: the socket stays.
        let _ = send(self.socket.as_raw_fd(), text.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }

    /// Takes one message; false if there is none.
    fn take(&mut self) -> bool {
        let mut text = [0u8; 2048];
        let mut space = nix::cmsg_space!([RawFd; 250]);
        let mut iov = [std::io::IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let Ok(message) = recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags) else {
            return false;
        };
        let mut received = Vec::new();
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(list) = control {
                received.extend(list.into_iter().map(fd::adopt));
            }
        }
        let bytes = message.bytes;
        let high = |fd: OwnedFd| fd::dup_above(fd.as_raw_fd(), HIGH).ok();
        match text.first().filter(|_| bytes > 0) {
            Some(&DOCUMENT) => {
                self.next = Kept { document: received.pop().and_then(high), ..Kept::default() };
            }
            Some(&DESCRIPTORS) => {
                let numbers =
                    text[1..bytes].chunks_exact(4).map(|n| RawFd::from_le_bytes([n[0], n[1], n[2], n[3]]));
                for (number, fd) in numbers.zip(received) {
                    self.next.list.extend(high(fd).map(|fd| (number, fd)));
                }
            }
            Some(&COMMIT) => {
                self.kept = std::mem::take(&mut self.next);
                self.settled = true;
            }
            _ => return false,
        }
        true
    }

    /// Starts a server with everything that is kept, each descriptor under its number.
    fn start(&mut self, args: &Args) -> Result<()> {
        self.starts.retain(|at| at.elapsed() < Duration::from_secs(60));
        if self.starts.len() >= 5 {
            return Err(unknown("the server died five times in a minute"));
        }
        self.starts.push(Instant::now());
        let failed = || "posix_spawn".to_string();
        let mut actions = PosixSpawnFileActions::init().call(failed)?;
        for (number, fd) in &self.kept.list {
            actions.add_dup2(fd.as_raw_fd(), *number).call(failed)?;
        }
        let free = self.kept.list.keys().max().map_or(LISTENER, |n| *n) + 1;
        actions.add_dup2(self.theirs.as_raw_fd(), free).call(failed)?;
        let c = |text: String| CString::new(text).call(|| "argument".into());
        let mut env = vec![c(format!("{KEEPER}={free}"))?];
        if let Some(document) = &self.kept.document {
            // Each server reads it from its beginning.
            nix::unistd::lseek(document, 0, nix::unistd::Whence::SeekSet).call(|| "lseek".into())?;
            actions.add_dup2(document.as_raw_fd(), free + 1).call(failed)?;
            env.push(c(format!("{}={}", crate::upgrade::RESUME, free + 1))?);
        }
        for (name, value) in std::env::vars_os() {
            env.push(c(format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))?);
        }
        let mut line = vec![std::env::args().next().unwrap_or_default()];
        line.extend(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address].map(String::from));
        if args.debug {
            line.push("-debug".into());
        }
        line.push("serve".into());
        let line = line.into_iter().map(c).collect::<Result<Vec<_>>>()?;
        let mut attributes = PosixSpawnAttr::init().call(failed)?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK).call(failed)?;
        attributes.set_sigmask(&SigSet::empty()).call(failed)?;
        // What lies at our path may have been replaced by what does not run: then this process's own build.
        let own = !std::mem::replace(&mut self.settled, false);
        let exe = c(if own { "/proc/self/exe".into() } else { crate::upgrade::program()? })?;
        match posix_spawn(exe.as_c_str(), &actions, &attributes, &line, &env) {
            Ok(pid) => self.server = pid.as_raw(),
            Err(_) if !own => return self.start(args),
            Err(e) => return Err(e).call(|| format!("posix_spawn({})", exe.to_string_lossy())),
        }
        Ok(())
    }
}
