//! A small blocking D-Bus client: one connection, one call at a time, every wait with a deadline.

pub mod wire;

use crate::error::{Context, Error, Kind, Result};
pub use crate::gvariant::Value;
use nix::sys::socket::{
    connect, setsockopt, socket, sockopt, AddressFamily, SockFlag, SockType, UnixAddr,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};
use wire::{BusMessage, Method};

/// A failed call. `name` is the error's name on the bus, empty if the connection itself failed.
#[derive(Debug)]
pub struct Failure {
    pub name: String,
    pub error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { name: String::new(), error }
    }
}

impl From<Failure> for Error {
    fn from(f: Failure) -> Error {
        f.error
    }
}

/// Since when the service has not answered this program, over whatever connection: one that hangs is waited for once, not
/// with each call and each address.
static SILENT: Mutex<Option<(Instant, SystemTime)>> = Mutex::new(None);

fn silence() -> std::sync::MutexGuard<'static, Option<(Instant, SystemTime)>> {
    SILENT.lock().unwrap_or_else(|e| e.into_inner())
}

/// A method of the bus itself.
fn bus(member: &'static str) -> Method<'static> {
    const BUS: &str = "org.freedesktop.DBus";
    Method { to: Some(BUS), path: "/org/freedesktop/DBus", interface: BUS, member }
}

pub struct Connection {
    stream: UnixStream,
    /// Read, but not yet taken.
    buffer: VecDeque<u8>,
    serial: u32,
    /// True for a connection to the service itself: without a bus there are neither names nor subscriptions.
    pub direct: bool,
    destination: &'static str,
    signals: VecDeque<BusMessage>,
    limit: Duration,
    /// Whoever waits here has been told why.
    told: bool,
}

impl Connection {
    /// Connects and authenticates. `direct` for a service's own socket; else a bus, which is greeted. `limit` holds for
    /// each call by itself.
    pub fn open(
        path: &Path,
        direct: bool,
        destination: &'static str,
        limit: Duration,
    ) -> Result<Connection> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .call(|| "socket(AF_UNIX)")?;
        let time = TimeVal::milliseconds(limit.as_millis() as i64);
        setsockopt(&fd, sockopt::SendTimeout, &time).call(|| "setsockopt(SO_SNDTIMEO)")?;
        let address = UnixAddr::new(path).call(|| format!("sockaddr_un({})", path.display()))?;
        connect(fd.as_raw_fd(), &address).call(|| format!("connect({})", path.display()))?;
        let stream = UnixStream::from(fd);
        let mut c = Connection {
            stream,
            buffer: VecDeque::new(),
            serial: 0,
            direct,
            destination,
            signals: VecDeque::new(),
            limit,
            told: false,
        };
        c.authenticate().map_err(|e| e.during(&format!("D-Bus at {}", path.display())))?;
        if !direct {
            c.call_to(bus("Hello"), &[])?;
        }
        Ok(c)
    }

    /// SASL EXTERNAL without a name: the peer takes the user from the socket, which is right in a user namespace too.
    /// BEGIN goes along: systemd's own server forgets a message that it reads together with BEGIN until more comes
    /// (sd-bus reads both into one buffer and then waits for the socket), so nothing may follow before its OK.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let deadline = self.deadline();
        let mut answer = Vec::new();
        loop {
            let mut byte = [0];
            self.receive(&mut byte, deadline)?;
            answer.push(byte[0]);
            if answer.len() > 4096 {
                return Err(Error::new(Kind::System, "authentication: the answer does not end"));
            }
            if !answer.ends_with(b"\r\n") {
                continue;
            }
            let line = String::from_utf8_lossy(&answer).trim_end().to_string();
            answer.clear();
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => {
                    // A bus is not the service.
                    if self.direct {
                        *silence() = None;
                    }
                    return Ok(());
                }
                _ => {
                    return Err(Error::new(Kind::System, format!("authentication refused: {line}")))
                }
            }
        }
    }

    /// The process at the other end (the service, or its bus), in our PID namespace; 0 if it is not in sight there.
    pub fn peer(&self) -> Result<i32> {
        let peer = nix::sys::socket::getsockopt(&self.stream, sockopt::PeerCredentials);
        peer.map(|c| c.pid()).call(|| "getsockopt(SO_PEERCRED)")
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).call(|| "write(D-Bus)")
    }

    /// Until when the service may be silent, from now on or since an earlier call.
    fn deadline(&self) -> Instant {
        silence().get_or_insert_with(|| (Instant::now(), SystemTime::now())).0 + self.limit
    }

    /// What a person who waits is told, once, and what the error says.
    fn unanswered(&self) -> String {
        match *silence() {
            Some((_, since)) => {
                format!(
                    "{} has not answered since {}",
                    self.destination,
                    crate::log::rfc3339(since, 0)
                )
            }
            // It has answered, and now a signal is waited for.
            None => format!("{} has not told the end of its job", self.destination),
        }
    }

    fn receive(&mut self, out: &mut [u8], deadline: Instant) -> Result<()> {
        let mut chunk = [0; 4096];
        while self.buffer.len() < out.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(
                    Kind::System,
                    format!("{} ({:?})", self.unanswered(), self.limit),
                ));
            }
            let first = if self.told { left } else { left.min(Duration::from_secs(1)) };
            self.stream.set_read_timeout(Some(first)).call(|| "setsockopt(SO_RCVTIMEO)")?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Error::call(nix::errno::Errno::ECONNRESET, "read(D-Bus)")),
                Ok(n) => self.buffer.extend(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut self.told, true) {
                        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
                        crate::log::notice(&format!(
                            "{}; waiting {left} s more",
                            self.unanswered()
                        ));
                    }
                }
                Err(e) => return Err(e).call(|| "read(D-Bus)"),
            }
        }
        let wanted = out.len();
        for (to, from) in out.iter_mut().zip(self.buffer.drain(..wanted)) {
            *to = from;
        }
        Ok(())
    }

    fn message(&mut self, deadline: Instant) -> Result<BusMessage> {
        let mut head = [0; 16];
        self.receive(&mut head, deadline)?;
        let malformed = || Error::new(Kind::System, "D-Bus: malformed message");
        let mut bytes = head.to_vec();
        bytes.resize(wire::length(&head).ok_or_else(malformed)?.max(16), 0);
        self.receive(&mut bytes[16..], deadline)?;
        wire::decode(&bytes).ok_or_else(malformed)
    }

    /// Calls a method of the destination and returns what it returned.
    pub fn call(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        arguments: &[Value],
    ) -> std::result::Result<Vec<Value>, Failure> {
        self.call_to(Method { to: Some(self.destination), path, interface, member }, arguments)
    }

    fn call_to(
        &mut self,
        method: Method,
        arguments: &[Value],
    ) -> std::result::Result<Vec<Value>, Failure> {
        let Method { interface, member, .. } = method;
        crate::log::step(|| format!("D-Bus: calls {member}"));
        self.serial += 1;
        let serial = self.serial;
        let during = |e: Error| e.during(&format!("D-Bus call {interface}.{member}"));
        let to = method.to.filter(|_| !self.direct);
        self.send(&wire::call(serial, Method { to, ..method }, arguments)).map_err(during)?;
        let of_service = to == Some(self.destination) || self.direct;
        let deadline = if of_service { self.deadline() } else { Instant::now() + self.limit };
        let answered = || {
            if of_service {
                *silence() = None;
            }
        };
        loop {
            let m = self.message(deadline).map_err(during)?;
            match m.kind {
                2 if m.reply_serial == serial => {
                    answered();
                    return Ok(m.body);
                }
                3 if m.reply_serial == serial => {
                    answered();
                    let text = m.body.first().and_then(Value::as_str).unwrap_or("no reason given");
                    let what =
                        format!("D-Bus call {interface}.{member}: {text} ({})", m.error_name);
                    return Err(Failure {
                        error: Error::new(Kind::System, what),
                        name: m.error_name,
                    });
                }
                4 => self.signals.push_back(m),
                _ => {}
            }
        }
    }

    /// Asks the bus for a signal of the destination.
    pub fn subscribe(&mut self, interface: &str, member: &str) -> Result<()> {
        if self.direct {
            return Ok(());
        }
        let rule = format!(
            "type='signal',sender='{}',interface='{interface}',member='{member}'",
            self.destination
        );
        self.call_to(bus("AddMatch"), &[Value::str(rule)])?;
        Ok(())
    }

    /// Waits for a signal that `wanted` makes something of.
    ///
    /// # Errors
    /// None came before the deadline, or the connection was lost.
    pub fn signal<T>(
        &mut self,
        member: &str,
        deadline: Instant,
        mut wanted: impl FnMut(&[Value]) -> Option<T>,
    ) -> Result<T> {
        loop {
            let m = match self.signals.pop_front() {
                Some(m) => m,
                None => self.message(deadline)?,
            };
            if m.kind == 4 && m.member == member {
                if let Some(found) = wanted(&m.body) {
                    return Ok(found);
                }
            }
        }
    }
}
