//! The keeper: a small parent of the server, for the day the server is killed.
//!
//! It holds a copy of every descriptor that the server needs (as systemd's fd store does) and the records that go with
//! them, which it does not read. When the server dies, its containers become the keeper's children, because it is a
//! subreaper: it starts a server again, with the same socket, streams and state, and tells it of every child that it
//! reaps. No pipe breaks and no exit status is lost.
//!
//! The server tells changes only (`store`): records begin, go on, and are removed; a commit makes all of them count.

use crate::args::Args;
use crate::document::{delicate, program, variable, KEEPER, RESUME, VERSION};
use crate::log;
use crate::status::{unknown, During, Result};
use conex_proto::shim::{Document, Record};
use conex_sys::fd;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::spawn::{posix_spawn, PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::*;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant, SystemTime};

/// Kinds of messages: the first byte. `BEGIN`, `MORE` and `REMOVE` name a key, `BEGIN` and `MORE` bring text and
/// descriptors.
pub const RESET: u8 = b'R';
pub const BEGIN: u8 = b'B';
pub const MORE: u8 = b'M';
/// A record's whole text, in a file.
pub const TEXT: u8 = b'T';
pub const REMOVE: u8 = b'D';
/// With a number; the answer has it again, and how many records lack descriptors.
pub const COMMIT: u8 = b'C';
/// With the descriptors of namespaces; the answer is empty or an error's text.
pub const ENTER: u8 = b'N';
/// To the server: a child has ended.
pub const EXIT: u8 = b'X';

/// Descriptors of one message. The kernel takes 253 (SCM_MAX_FD).
pub const DESCRIPTORS: usize = 250;

const LISTENER: RawFd = 3;

/// How long an end is told again to each new server; longer, and the number could be another process's.
const RECENT: Duration = Duration::from_secs(5);

/// Messages that wait for a server to listen.
const MOST: usize = 1000;

/// One record of the server's.
#[derive(Default)]
struct Kept {
    text: Vec<u8>,
    list: Vec<OwnedFd>,
    /// Descriptors are missing: this process may have no more.
    torn: bool,
}

struct Keeper {
    socket: OwnedFd,
    /// The end that servers get.
    theirs: OwnedFd,
    listener: OwnedFd,
    kept: BTreeMap<String, Kept>,
    /// Since the last commit; `None` for what is gone.
    next: BTreeMap<String, Option<Kept>>,
    /// The next commit replaces everything.
    anew: bool,
    server: i32,
    /// Messages that the socket did not take.
    waiting: VecDeque<Vec<u8>>,
    /// Ends that a server was told which may have died before it told anybody.
    recent: VecDeque<(Instant, String)>,
    starts: Vec<Instant>,
    /// Servers in a row that have not.
    unsettled: u32,
    /// The server has come as far as telling its state.
    settled: bool,
}

pub fn main(args: &Args) -> Result<()> {
    conex_sys::proc::set_child_subreaper().during(|| "prctl(PR_SET_CHILD_SUBREAPER)".into())?;
    if !fd::is_open(LISTENER) {
        return Err(unknown("no listener as descriptor 3: the keeper is started by `start`"));
    }
    log::open(&std::env::current_dir().during(|| "getcwd".into())?, args.debug);
    crate::limit::raise();
    let cgroup = std::env::var(crate::cgroup::NAME).ok();
    std::env::remove_var(crate::cgroup::NAME);
    let listener = fd::adopt(LISTENER);
    fd::set_cloexec(LISTENER).during(|| "fcntl(F_SETFD)".into())?;
    let mut keeper = Keeper::new(listener)?;
    let mut signals = SigSet::empty();
    for s in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(s);
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)
        .during(|| "sigprocmask".into())?;
    let events = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .during(|| "signalfd4".into())?;
    keeper.start(args)?;
    loop {
        let more = if keeper.waiting.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let socket = PollFd::new(keeper.socket.as_fd(), PollFlags::POLLIN | more);
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN), socket];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.during(|| "poll".into())?,
        };
        keeper.flush();
        while keeper.take() {}
        while let Ok(Some(info)) = events.read_signal() {
            // Who asks the keeper to end asks the server: it ends when the server has.
            if info.ssi_signo != libc::SIGCHLD as u32 {
                let _ = conex_sys::proc::kill(Pid::from_raw(keeper.server), info.ssi_signo as i32);
            }
        }
        match keeper.reap(args) {
            Ok(true) => {}
            Ok(false) => {
                // The last one of this shim that is in it.
                cgroup.iter().for_each(|c| crate::cgroup::leave(c));
                return Ok(());
            }
            Err(e) => {
                log::error(&format!("keeper: {}", e.message), &[]);
                return Err(e);
            }
        }
    }
}

impl Keeper {
    fn new(listener: OwnedFd) -> Result<Keeper> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .during(|| "socketpair".into())?;
        Ok(Keeper {
            socket,
            theirs,
            listener,
            kept: BTreeMap::new(),
            next: BTreeMap::new(),
            anew: false,
            server: 0,
            waiting: VecDeque::new(),
            recent: VecDeque::new(),
            starts: Vec::new(),
            unsettled: 0,
            settled: true,
        })
    }

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
            let numbers = [
                pid.to_string(),
                status.to_string(),
                self.server.to_string(),
                self.kept.len().to_string(),
            ];
            let names = ["pid", "status", "new", "records"];
            let fields: Vec<_> =
                names.into_iter().zip(numbers.iter().map(String::as_str)).collect();
            log::warn("the shim's server has ended: another one takes over", &fields);
        }
    }

    /// `pid status seconds nanoseconds` of a child that only this process could reap.
    fn tell(&mut self, pid: i32, status: u32) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let text = format!("{pid} {status} {} {}", at.as_secs(), at.subsec_nanos());
        self.recent.retain(|(told, _)| told.elapsed() < RECENT);
        self.recent.push_back((Instant::now(), text.clone()));
        self.say(EXIT, text.as_bytes());
    }

    fn say(&mut self, kind: u8, text: &[u8]) {
        // Of a server that does not listen the last words are enough, but for the ends of processes.
        if self.waiting.len() > MOST {
            self.waiting.retain(|m| m.first() == Some(&EXIT));
        }
        self.waiting.push_back([&[kind][..], text].concat());
        self.flush();
    }

    /// Sends what the socket takes.
    fn flush(&mut self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        while let Some(message) = self.waiting.front() {
            if send(self.socket.as_raw_fd(), message, flags).is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Takes one message; false if there is none.
    fn take(&mut self) -> bool {
        let mut text = [0u8; 4096];
        let mut space = nix::cmsg_space!([RawFd; 253]);
        let mut iov = [std::io::IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let Ok(message) = recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags)
        else {
            return false;
        };
        let mut received = Vec::new();
        // A list that is cut is none: which ones are missing cannot be told.
        let torn = message.flags.contains(MsgFlags::MSG_CTRUNC);
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(list) = control {
                received.extend(list.into_iter().map(fd::adopt));
            }
        }
        let bytes = message.bytes;
        let Some((kind, rest)) = text[..bytes].split_first() else { return false };
        match *kind {
            RESET => {
                self.next.clear();
                self.anew = true;
            }
            COMMIT => self.commit(rest),
            ENTER => {
                let entered = if torn {
                    Err(unknown("descriptors are missing"))
                } else {
                    crate::namespaces::join_all(&received)
                };
                self.say(ENTER, entered.err().map_or(String::new(), |e| e.message).as_bytes());
            }
            _ => self.change(*kind, rest, received, torn),
        }
        true
    }

    fn change(&mut self, kind: u8, rest: &[u8], received: Vec<OwnedFd>, torn: bool) {
        let Some((length, rest)) = rest.split_at_checked(2) else { return };
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let Some((key, text)) = rest.split_at_checked(length) else { return };
        let key = String::from_utf8_lossy(key).into_owned();
        if kind == REMOVE {
            self.next.insert(key, None);
            return;
        }
        let entry = self.next.entry(key).or_default();
        if kind == BEGIN {
            *entry = Some(Kept::default());
        }
        let Some(record) = entry else { return };
        if kind == TEXT {
            let mut text = Vec::new();
            let file = received.into_iter().next().map(std::fs::File::from);
            let read = file.map(|mut f| std::io::Read::read_to_end(&mut f, &mut text));
            if !matches!(read, Some(Ok(_))) {
                log::error("keeper: a record cannot be read", &[]);
            }
            record.text = text;
            return;
        }
        record.text.extend_from_slice(text);
        record.list.extend(received);
        record.torn |= torn;
        if record.torn {
            record.list.clear();
        }
    }

    fn commit(&mut self, number: &[u8]) {
        if std::mem::take(&mut self.anew) {
            self.kept.clear();
        }
        for (key, record) in std::mem::take(&mut self.next) {
            match record {
                Some(record) => drop(self.kept.insert(key, record)),
                None => drop(self.kept.remove(&key)),
            }
        }
        self.settled = true;
        let torn = self.kept.values().filter(|r| r.torn).count() as u64;
        self.say(COMMIT, &[number, &torn.to_le_bytes()[..]].concat());
    }

    /// What the next server goes on with. Its descriptors have the numbers that they have here: `dup2` of a number to
    /// itself takes away close-on-exec (posix_spawn(3), glibc 2.29).
    fn document(&self, actions: &mut PosixSpawnFileActions) -> Result<Option<OwnedFd>> {
        if self.kept.is_empty() {
            return Ok(None);
        }
        let mut records = Vec::new();
        for (key, kept) in &self.kept {
            let descriptors: Vec<RawFd> = kept.list.iter().map(AsRawFd::as_raw_fd).collect();
            for n in &descriptors {
                actions.add_dup2(*n, *n).during(|| "posix_spawn".into())?;
            }
            records.push(Record {
                key: key.clone(),
                text: kept.text.clone(),
                descriptors,
                torn: kept.torn,
            });
        }
        let text = Document { version: VERSION, records }.encode_to_vec();
        crate::document::input(&text).map(Some)
    }

    /// Starts a server with everything that is kept. One that does not come as far as telling its state is tried five
    /// times; one that dies again and again, once a second.
    fn start(&mut self, args: &Args) -> Result<()> {
        self.unsettled = if self.settled { 0 } else { self.unsettled + 1 };
        if self.unsettled >= 5 {
            return Err(unknown("five servers died before they had told their state"));
        }
        self.starts.retain(|at| at.elapsed() < Duration::from_secs(60));
        if self.starts.len() >= 5 {
            std::thread::sleep(Duration::from_secs(1));
        }
        self.starts.push(Instant::now());
        // What a server that is gone had begun to say does not count.
        self.next.clear();
        self.anew = false;
        self.recent.retain(|(told, _)| told.elapsed() < RECENT);
        self.waiting =
            self.recent.iter().map(|(_, text)| [&[EXIT][..], text.as_bytes()].concat()).collect();
        self.flush();
        let failed = || "posix_spawn".to_string();
        let mut actions = PosixSpawnFileActions::init().during(failed)?;
        let c = |text: String| CString::new(text).during(|| "argument".into());
        let mut env = vec![c(format!("{KEEPER}={}", self.theirs.as_raw_fd()))?];
        let document = self.document(&mut actions)?;
        let mut further = vec![self.theirs.as_raw_fd()];
        match &document {
            Some(document) => {
                env.push(c(format!("{}={}", RESUME, document.as_raw_fd()))?);
                further.push(document.as_raw_fd());
            }
            // The listener is in the document otherwise.
            None => further.push(self.listener.as_raw_fd()),
        }
        for n in further {
            actions.add_dup2(n, n).during(failed)?;
        }
        for (name, value) in std::env::vars_os() {
            env.push(variable(&name, &value)?);
        }
        let line = command_line(args).into_iter().map(c).collect::<Result<Vec<_>>>()?;
        let mut attributes = PosixSpawnAttr::init().during(failed)?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK).during(failed)?;
        attributes.set_sigmask(&delicate()).during(failed)?;
        // What lies at our path may have been replaced by what does not run: then this process's own build.
        let own = !std::mem::replace(&mut self.settled, false);
        let exe = c(if own { "/proc/self/exe".into() } else { program()? })?;
        match posix_spawn(exe.as_c_str(), &actions, &attributes, &line, &env) {
            Ok(pid) => self.server = pid.as_raw(),
            Err(_) if !own => return self.start(args),
            Err(e) => return Err(e).during(|| format!("posix_spawn({})", exe.to_string_lossy())),
        }
        Ok(())
    }
}

/// Of a server, as `start` calls it.
fn command_line(args: &Args) -> Vec<String> {
    let own = std::env::args_os().next().unwrap_or_default();
    let mut line = vec![own.to_string_lossy().into_owned()];
    line.extend(
        ["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address]
            .map(String::from),
    );
    if args.debug {
        line.push("-debug".into());
    }
    line.push("serve".into());
    line
}
