//! The standard streams of a process: where its bytes come from and go to.

pub mod console;
pub mod copy;
pub mod logger;
pub mod owner;
pub mod ring;
pub mod spill;

use crate::runtime::Streams;
use crate::status::{invalid, unknown, During, Result};
use copy::{Start, Stream};
use logger::{Logger, Ready};
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
pub use owner::{nonblocking, Owner, Stdio};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::rc::Rc;
use std::time::Duration;

/// The open ends that the shim keeps while a process lives.
pub struct Io {
    /// In the life of this server: numbers of descriptors come again, this one does not.
    pub serial: u64,
    pub streams: RefCell<Vec<Rc<Stream>>>,
    /// A writer on the FIFO of stdin: without it, a client that goes away would end the container's input. CloseIO
    /// lets go of it.
    pub stdin_hold: RefCell<Option<Rc<OwnedFd>>>,
    pub console: RefCell<Option<Rc<OwnedFd>>>,
    pub logger: RefCell<Option<Logger>>,
    /// Streams that begin when the process is there: what a runtime that fails prints to them is no output of it.
    pub later: RefCell<Vec<Later>>,
}

impl Default for Io {
    fn default() -> Io {
        thread_local! {
            static NEXT: Cell<u64> = const { Cell::new(1) };
        }
        let serial = NEXT.get();
        NEXT.set(serial + 1);
        Io {
            serial,
            streams: RefCell::default(),
            stdin_hold: RefCell::default(),
            console: RefCell::default(),
            logger: RefCell::default(),
            later: RefCell::default(),
        }
    }
}

/// A stream that has not begun.
pub struct Later {
    pub name: &'static str,
    pub from: OwnedFd,
    pub to: OwnedFd,
    hold: Option<OwnedFd>,
    pub capacity: u64,
}

/// Where output goes.
pub enum Sink {
    Null,
    /// Write end, and the read end that is held.
    Fifo(OwnedFd, OwnedFd),
    File(OwnedFd),
    Binary(String, Ready),
}

/// How long a deleted process's output waits for its client.
const PATIENCE: Duration = Duration::from_secs(10);

const CLOEXEC: OFlag = OFlag::O_CLOEXEC;

/// Opens the place that a path or URI names.
///
/// # Errors
/// An unknown scheme, or what the kernel says of the path.
pub fn sink(uri: &str) -> Result<Sink> {
    let (scheme, path) = uri.split_once("://").unwrap_or(("fifo", uri));
    if path.is_empty() {
        return Ok(Sink::Null);
    }
    match scheme {
        "fifo" => {
            let failed = || format!("containerd-shim: opening file {path:?} failed");
            let hold = open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | CLOEXEC, Mode::empty())
                .during(failed)?;
            let write = open(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK | CLOEXEC, Mode::empty())
                .during(failed)?;
            Ok(Sink::Fifo(write, hold))
        }
        "file" => {
            let path = path.split('?').next().unwrap_or(path);
            if let Some(parent) = std::path::Path::new(path).parent() {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
                made.during(|| format!("mkdir({})", parent.display()))?;
            }
            // An open that waits (a FIFO without a reader) would stop every task of this process.
            let flags =
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NONBLOCK | CLOEXEC;
            let file = open(path, flags, Mode::from_bits_truncate(0o644))
                .during(|| format!("open({path})"))?;
            let kind = nix::sys::stat::fstat(&file).during(|| format!("fstat({path})"))?.st_mode
                & libc::S_IFMT;
            if !matches!(kind, libc::S_IFREG | libc::S_IFCHR) {
                return Err(invalid(format!("file://{path}: neither a regular file nor a device")));
            }
            Ok(Sink::File(file))
        }
        "binary" => Ok(Sink::Binary(path.to_string(), Ready::Closed)),
        "binary-v2" => Ok(Sink::Binary(path.to_string(), Ready::Said)),
        other => Err(invalid(format!("unknown STDIO scheme {other}"))),
    }
}

impl Io {
    /// The streams of a process without a terminal: pipes between it and the client's FIFOs. The ends for the process
    /// are for the runtime.
    /// `capacity`: of the output that waits for its reader, a stream.
    pub async fn pipes(stdio: &Stdio, owner: &Owner, capacity: u64) -> Result<(Io, Streams)> {
        let io = Io::default();
        let mut theirs = Streams { stdout: Some(null()?), stderr: Some(null()?), stdin: None };
        if !stdio.stdin.is_empty() {
            theirs.stdin = Some(io.input(&stdio.stdin, owner)?);
        }
        if stdio.stdout.starts_with("binary://") || stdio.stdout.starts_with("binary-v2://") {
            let Sink::Binary(uri, ready) = sink(&stdio.stdout)? else {
                return Err(unknown("not a logger"));
            };
            let (out, err) = (pipe(owner)?, pipe(owner)?);
            *io.logger.borrow_mut() =
                Some(Logger::start((&uri, ready), owner, out.0, err.0).await?);
            // Not the logger's pipes themselves: one that hangs or ends is the container's business no more.
            for (name, to, end) in
                [("stdout", out.1, &mut theirs.stdout), ("stderr", err.1, &mut theirs.stderr)]
            {
                let (from, theirs) = pipe(owner)?;
                nonblocking(&from)?;
                nonblocking(&to)?;
                io.later.borrow_mut().push(Later { name, from, to, hold: None, capacity });
                *end = Some(theirs);
            }
            return Ok((io, theirs));
        }
        for (name, uri, end) in [
            ("stdout", &stdio.stdout, &mut theirs.stdout),
            ("stderr", &stdio.stderr, &mut theirs.stderr),
        ] {
            let (to, hold) = match sink(uri)? {
                Sink::Null => continue,
                Sink::Binary(..) => {
                    return Err(invalid("a logger takes both streams: it belongs to stdout"))
                }
                Sink::File(to) => (to, None),
                Sink::Fifo(to, hold) => (to, Some(hold)),
            };
            let (from, theirs) = pipe(owner)?;
            nonblocking(&from)?;
            io.later.borrow_mut().push(Later { name, from, to, hold, capacity });
            *end = Some(theirs);
        }
        Ok((io, theirs))
    }

    /// Stdin: the process's end of a pipe that is filled from the client's FIFO.
    fn input(&self, path: &str, owner: &Owner) -> Result<OwnedFd> {
        let (from, hold) = fifo_input(path)?;
        *self.stdin_hold.borrow_mut() = Some(Rc::new(hold));
        let (theirs, to) = pipe(owner)?;
        nonblocking(&to)?;
        self.later.borrow_mut().push(Later { name: "stdin", from, to, hold: None, capacity: 0 });
        Ok(theirs)
    }

    /// The process is there.
    pub fn begin(&self, owner: &Rc<Owner>) {
        for Later { name, from, to, hold, capacity } in self.later.take() {
            let start = Start { hold, capacity, ..Start::default() };
            self.streams.borrow_mut().push(Stream::begin(
                name,
                owner,
                Rc::new(from),
                Rc::new(to),
                start,
            ));
        }
    }

    /// The streams of a process with a terminal, once its master side is there.
    pub async fn attach(&self, stdio: &Stdio, owner: &Rc<Owner>, master: OwnedFd) -> Result<()> {
        nonblocking(&master)?;
        let master = Rc::new(master);
        let (to, hold) = match sink(&stdio.stdout)? {
            // Nobody wants the output: it is read all the same, or the process would block.
            Sink::Null => (null()?, None),
            Sink::File(to) => (to, None),
            Sink::Fifo(to, hold) => (to, Some(hold)),
            Sink::Binary(uri, ready) => {
                let (out, to) = pipe(owner)?;
                let (err, _) = pipe(owner)?;
                *self.logger.borrow_mut() =
                    Some(Logger::start((&uri, ready), owner, out, err).await?);
                nonblocking(&to)?;
                (to, None)
            }
        };
        let start = Start { hold, ..Start::default() };
        self.streams.borrow_mut().push(Stream::begin(
            "stdout",
            owner,
            master.clone(),
            Rc::new(to),
            start,
        ));
        if !stdio.stdin.is_empty() {
            let (from, hold) = fifo_input(&stdio.stdin)?;
            *self.stdin_hold.borrow_mut() = Some(Rc::new(hold));
            let stream =
                Stream::begin("stdin", owner, Rc::new(from), master.clone(), Start::default());
            self.streams.borrow_mut().push(stream);
        }
        *self.console.borrow_mut() = Some(master);
        Ok(())
    }

    /// The process has ended: nothing more goes in.
    pub fn ended(&self) {
        self.stdin_hold.borrow_mut().take();
        for s in self.streams.borrow().iter().filter(|s| s.name == "stdin") {
            s.stop();
        }
    }

    /// Waits until all output is with the client or in its FIFO, ten seconds at most: a process that went on in the
    /// background may hold the other end for ever. Then everything is closed, but for what a client that has not opened
    /// its end yet can still fetch.
    pub async fn close(&self) {
        self.ended();
        self.later.take();
        let streams = self.streams.take();
        let _ = tokio::time::timeout(PATIENCE, async {
            for s in streams.iter().filter(|s| s.name != "stdin") {
                s.delivered().await;
            }
        })
        .await;
        streams.iter().for_each(|s| s.leave(PATIENCE));
        self.console.borrow_mut().take();
        if let Some(logger) = self.logger.borrow_mut().take() {
            logger.end();
        }
    }
}

fn fifo_input(path: &str) -> Result<(OwnedFd, OwnedFd)> {
    let path = path.strip_prefix("fifo://").unwrap_or(path);
    let failed = || format!("containerd-shim: opening {path:?} for stdin failed");
    let from =
        open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | CLOEXEC, Mode::empty()).during(failed)?;
    let hold =
        open(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK | CLOEXEC, Mode::empty()).during(failed)?;
    Ok((from, hold))
}

/// A reader of its own on the FIFO that `to` writes to; none if it is anything else. A pipe without a name is the shim's
/// and a logger's: the end of the logger must be felt.
pub fn reader_of(to: &impl AsFd) -> Option<OwnedFd> {
    let to = to.as_fd();
    let kind = nix::sys::stat::fstat(to).ok()?.st_mode & libc::S_IFMT;
    // PIPEFS_MAGIC, include/uapi/linux/magic.h.
    let unnamed = nix::sys::statfs::fstatfs(to).ok()?.filesystem_type().0 == 0x5049_5045;
    if kind != libc::S_IFIFO || unnamed {
        return None;
    }
    // The same FIFO once more, also when its name is gone (proc_pid_fd(5)).
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&to));
    open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | CLOEXEC, Mode::empty()).ok()
}

pub fn null() -> Result<OwnedFd> {
    open("/dev/null", OFlag::O_RDWR | CLOEXEC, Mode::empty()).during(|| "open(/dev/null)".into())
}

/// A pipe whose ends can be opened again, as /dev/stdout, by the container's user.
fn pipe(owner: &Owner) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(CLOEXEC).during(|| "pipe2".into())?;
    if owner.uid != 0 || owner.gid != 0 {
        nix::unistd::fchown(read.as_fd(), Some(owner.uid.into()), Some(owner.gid.into()))
            .during(|| format!("fchown(pipe, {}, {})", owner.uid, owner.gid))?;
    }
    Ok((read, write))
}
