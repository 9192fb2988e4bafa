//! CRIU as a program: `criu swrk N` serves requests on its descriptor N (criu.org/RPC).

pub mod external;
pub mod images;
pub mod message;

use conex::error::{Context, Error, Kind, Result};
use message::{Features, Notify, Request, Response};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    recvmsg, send, shutdown, socketpair, AddressFamily, ControlMessageOwned, MsgFlags, Shutdown,
    SockFlag, SockType,
};
use prost::Message;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command};

/// External namespaces of every kind, and their notifications.
const OLDEST: (i32, i32) = (3, 15);
const LARGEST: usize = 1 << 16;

/// One `criu swrk`, which serves one request. It ends with this value.
pub struct Criu {
    child: Child,
    socket: OwnedFd,
}

/// What a notification means to whoever has asked; with it comes the master of a terminal that nobody has.
pub type Told<'a> = dyn FnMut(&Notify, Option<OwnedFd>) -> Result<()> + 'a;

impl Criu {
    /// Starts it with the caller's standard streams.
    ///
    /// # Errors
    /// There is no `criu` in PATH.
    pub fn start() -> Result<Criu> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .call(|| "socketpair(AF_UNIX, SOCK_SEQPACKET)")?;
        conex_sys::fd::clear_cloexec(theirs.as_raw_fd()).call(|| "fcntl(F_SETFD)")?;
        let started = Command::new("criu").arg("swrk").arg(theirs.as_raw_fd().to_string()).spawn();
        match started {
            Ok(child) => Ok(Criu { child, socket: ours }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
                Kind::Unsupported,
                "this is done by CRIU: there is no program criu in PATH (Debian: criu)",
            )),
            Err(e) => Err(e).call(|| "execve(criu)"),
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends the request, answers the notifications until the response comes, and waits for the end of the program.
    ///
    /// # Errors
    /// CRIU has failed, or `told` has.
    pub fn ask(mut self, request: &Request, told: &mut Told) -> Result<Response> {
        self.send(request)?;
        let response = loop {
            let (response, fd) = self.receive()?;
            let Some(notify) =
                response.notify.as_ref().filter(|_| is(&response, message::Kind::Notify))
            else {
                break response;
            };
            told(notify, fd)?;
            self.send(&Request {
                kind: message::Kind::Notify.into(),
                notify_success: Some(true),
                ..Request::default()
            })?;
        };
        // After a pre-dump it would wait for the next request.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        let status = self.child.wait().call(|| "wait4(criu)")?;
        if !status.success() && !is(&response, message::Kind::PreDump) {
            return Err(Error::new(Kind::System, format!("criu failed: {status}")));
        }
        Ok(response)
    }

    fn send(&self, request: &Request) -> Result<()> {
        let bytes = request.encode_to_vec();
        match send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
            Err(e @ (Errno::EPIPE | Errno::ECONNRESET)) => {
                Err(Error::call(e, "criu failed: it has ended without a word"))
            }
            other => other.map(drop).call(|| format!("send(criu, {} bytes)", bytes.len())),
        }
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut bytes = vec![0; LARGEST];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        self.await_word()?;
        let got = loop {
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                other => break other.call(|| "recvmsg(criu)")?,
            }
        };
        let mut fd = None;
        for message in got.cmsgs().call(|| "recvmsg(criu): control messages")? {
            if let ControlMessageOwned::ScmRights(list) = message {
                list.into_iter().for_each(|n| fd = Some(conex_sys::fd::adopt(n)));
            }
        }
        let length = got.bytes;
        if length == 0 {
            return Err(Error::new(Kind::System, "criu failed: it has ended without a word"));
        }
        let response = Response::decode(&bytes[..length]).map_err(|e| {
            Error::new(Kind::System, format!("criu has answered what is no response: {e}"))
        })?;
        if !response.success {
            return Err(failure(&response));
        }
        Ok((response, fd))
    }
}

impl Criu {
    /// Until there is something to receive. What it was restoring can hold its end of the socket, so that there would be no end
    /// of it: hence the look at the program itself.
    fn await_word(&self) -> Result<()> {
        let pidfd = conex_sys::proc::pidfd_open(nix::unistd::Pid::from_raw(self.pid()))
            .call(|| "pidfd_open(criu)")?;
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut both = [watched(self.socket.as_fd()), watched(pidfd.as_fd())];
        loop {
            match poll(&mut both, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                other => break other.map(drop).call(|| "poll(criu)")?,
            }
        }
        match both[0].any() {
            Some(true) => Ok(()),
            _ => Err(Error::new(Kind::System, "criu failed: it was ended before it was done")),
        }
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // What it has stopped it lets go on when its peer is gone; what it was restoring it ends.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        for _ in 0..1000 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is(response: &Response, kind: message::Kind) -> bool {
    response.kind == i32::from(kind)
}

fn failure(response: &Response) -> Error {
    let what = message::Kind::try_from(response.kind)
        .map_or(response.kind.to_string(), |kind| kind.as_str_name().into());
    let errno = response.errno.unwrap_or(0);
    let mut text = format!("criu failed: type {what} errno {errno}");
    if errno != 0 {
        text += &format!(" ({})", Errno::from_raw(errno).desc());
    }
    if let Some(message) = response.message.as_ref().filter(|m| !m.is_empty()) {
        text += &format!(": {}", message.trim());
    }
    Error::new(Kind::System, text)
}

/// Looks whether CRIU is new enough.
///
/// # Errors
/// It is not there, or is too old.
pub fn check_version() -> Result<()> {
    let request = Request { kind: message::Kind::Version.into(), ..Request::default() };
    let response = Criu::start()?.ask(&request, &mut |_, _| Ok(()))?;
    let found = response.version.map_or((0, 0), |v| (v.major, v.minor));
    if found < OLDEST {
        let what =
            format!("CRIU {}.{} is too old: {}.{} is needed", found.0, found.1, OLDEST.0, OLDEST.1);
        return Err(Error::new(Kind::Unsupported, what));
    }
    conex::log::step(|| format!("CRIU {}.{}", found.0, found.1));
    Ok(())
}

/// Looks whether CRIU and the kernel can do what a flag asks for.
///
/// # Errors
/// They cannot.
pub fn check_features(wanted: &Features) -> Result<()> {
    let request = Request {
        kind: message::Kind::FeatureCheck.into(),
        features: Some(wanted.clone()),
        ..Request::default()
    };
    let response = Criu::start()?.ask(&request, &mut |_, _| Ok(()))?;
    let found = response.features.unwrap_or_default();
    let lacks = |wanted: Option<bool>, found: Option<bool>| wanted.is_some() && found != Some(true);
    for (flag, what, lacking) in [
        ("--pre-dump", "soft-dirty pages", lacks(wanted.mem_track, found.mem_track)),
        ("--lazy-pages", "userfaultfd", lacks(wanted.lazy_pages, found.lazy_pages)),
    ] {
        if lacking {
            return Err(Error::unsupported(flag, format!("CRIU finds no {what} in this kernel")));
        }
    }
    Ok(())
}
