//! `run` and `exec` without --detach: the terminal, signals, the exit status.

use crate::error::{Context, Result};
use conex_sys::{proc, signal, tty};
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, OutputFlags, SetArg, SpecialCharacterIndices, Termios};
use nix::unistd::{isatty, read, write, Pid};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A process that has not ended, nor said anything, after so many milliseconds is one that stays.
const SHORT: u16 = 200;

/// All signals blocked and readable, from before the container is made: none is lost, none ends the runtime in the
/// middle. The child unblocks them before execve.
pub struct Signals {
    fd: SignalFd,
}

pub fn catch_signals() -> Result<Signals> {
    let all = SigSet::all();
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)
        .call(|| "sigprocmask")?;
    let fd = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .call(|| "signalfd4")?;
    Ok(Signals { fd })
}

/// The caller's terminal in raw mode, given back on drop.
pub struct RawTerminal {
    fd: OwnedFd,
    saved: Termios,
}

/// The terminal of this program: stderr, stdout, stdin, or /dev/tty, in runc's order; `None` without one.
pub fn terminal() -> Result<Option<OwnedFd>> {
    for n in [2, 1, 0] {
        if isatty(conex_sys::fd::borrow(n)).unwrap_or(false) {
            return conex_sys::fd::dup_above(n, 3).call(|| "dup").map(Some);
        }
    }
    Ok(nix::fcntl::open(
        "/dev/tty",
        OFlag::O_RDWR | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .ok())
}

impl RawTerminal {
    /// [`terminal`], as the container's own terminal is to be seen through it.
    pub fn open() -> Result<Option<RawTerminal>> {
        let Some(fd) = terminal()? else { return Ok(None) };
        let saved = termios::tcgetattr(&fd).call(|| "tcgetattr")?;
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        // The output has no CR of the container's terminal, see [`fit`].
        raw.output_flags.insert(OutputFlags::OPOST);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        termios::tcsetattr(&fd, SetArg::TCSANOW, &raw).call(|| "tcsetattr")?;
        Ok(Some(RawTerminal { fd, saved }))
    }

    pub fn size(&self) -> Option<tty::Size> {
        tty::size(self.fd.as_fd()).ok()
    }
}

/// Gives the container's terminal the size of the caller's, before its program can ask, and lets a line end with LF alone
/// on its way here: the caller's terminal makes CR LF of it, a file or pipe as standard output does not (as runc).
pub fn fit(master: Option<&OwnedFd>, terminal: Option<&RawTerminal>) {
    let Some(master) = master else { return };
    if let Ok(mut settings) = termios::tcgetattr(master) {
        settings.output_flags.remove(OutputFlags::ONLCR);
        let _ = termios::tcsetattr(master, SetArg::TCSANOW, &settings);
    }
    if let Some(size) = terminal.and_then(RawTerminal::size).filter(|s| s.rows > 0) {
        let _ = tty::set_size(master.as_fd(), size);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A background process that sets a terminal is stopped, unless it ignores that.
        signal::ignore(libc::SIGTTOU);
        let _ = termios::tcsetattr(&self.fd, SetArg::TCSANOW, &self.saved);
    }
}

/// What is relayed while the process runs.
pub struct Console<'a> {
    /// The master side of the process's terminal.
    pub master: Option<OwnedFd>,
    /// The caller's.
    pub terminal: Option<&'a RawTerminal>,
    pub notify: Option<super::notify::Relay>,
}

/// How a process ended.
pub struct Ended {
    status: i32,
    pub signal: Option<i32>,
}

impl Ended {
    /// As a shell counts: 128 + n for signal n.
    pub fn code(&self) -> i32 {
        self.signal.map_or(self.status, |n| 128 + n)
    }
}

/// Waits for the process, relaying signals and terminal bytes.
pub fn wait(pid: Pid, pidfd: BorrowedFd, signals: &Signals, console: Console) -> Result<Ended> {
    let Console { master, terminal, mut notify } = console;
    let mut relay = master.map(Relay::new);
    if let Some(r) = &relay {
        r.resize(terminal);
    }
    let mut patience = PollTimeout::from(SHORT);
    loop {
        let done = [PollFlags::POLLIN; 2];
        let mut fds = vec![PollFd::new(pidfd, done[0]), PollFd::new(signals.fd.as_fd(), done[1])];
        let [on_master, on_stdin] = relay.as_ref().map_or([None, None], Relay::interest);
        let on_notify = notify.as_ref().map(|n| PollFd::new(n.as_fd(), PollFlags::POLLIN));
        // The place of each in the list, if it is there.
        let [master_at, stdin_at, notify_at] = [on_master, on_stdin, on_notify].map(|wanted| {
            let before = fds.len();
            fds.extend(wanted);
            (fds.len() > before).then_some(before)
        });
        let mut polled = poll(&mut fds, patience);
        if polled == Ok(0) {
            // It stays: most of its memory is the program, which comes back from the page cache when it is needed.
            patience = PollTimeout::NONE;
            proc::drop_program_pages();
            polled = poll(&mut fds, patience);
        }
        match polled {
            Err(Errno::EINTR) => continue,
            other => other.call(|| "poll")?,
        };
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
        let is = |at: Option<usize>| at.is_some_and(|i| ready[i]);
        if let Some(r) = relay.as_mut() {
            r.copy(is(master_at), is(stdin_at));
        }
        if is(notify_at) && notify.as_mut().is_some_and(|n| n.read().unwrap_or(true)) {
            notify = None;
        }
        if ready[1] {
            forward(signals, pid, pidfd, relay.as_ref(), terminal);
        }
        if ready[0] {
            let ended = match proc::wait_pidfd(pidfd, true).call(|| "waitid(P_PIDFD)")? {
                proc::Waited::Running => continue,
                proc::Waited::Exited(status) => Ended { status, signal: None },
                proc::Waited::Signaled(n) => Ended { status: 0, signal: Some(n) },
            };
            if let Some(r) = relay.as_mut() {
                r.drain();
            }
            return Ok(ended);
        }
    }
}

fn forward(
    signals: &Signals,
    pid: Pid,
    pidfd: BorrowedFd,
    relay: Option<&Relay>,
    terminal: Option<&RawTerminal>,
) {
    while let Ok(Some(info)) = signals.fd.read_signal() {
        match info.ssi_signo as i32 {
            libc::SIGCHLD => reap_others(pid),
            // Go's scheduler sends these; nobody means the container.
            libc::SIGURG => {}
            // About the caller's terminal, never for the program itself (runc).
            libc::SIGWINCH => {
                if let Some(r) = relay {
                    r.resize(terminal);
                }
            }
            // Terminal stops come from writing in the background, not from a user.
            libc::SIGTTOU | libc::SIGTTIN => {}
            n => {
                let _ = proc::pidfd_send_signal(pidfd, n);
            }
        }
    }
}

/// As a subreaper the runtime inherits whatever the container's processes leave behind.
fn reap_others(main: Pid) {
    use nix::sys::wait::{waitid, waitpid, Id, WaitPidFlag};
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek) {
        match status.pid() {
            Some(pid) if pid != main => {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
            _ => return,
        }
    }
}

/// Bytes between the caller's stdin and stdout and the master side.
struct Relay {
    master: OwnedFd,
    /// Typed but not yet taken by the container.
    pending: Vec<u8>,
    stdin_open: bool,
    master_open: bool,
}

impl Relay {
    fn new(master: OwnedFd) -> Relay {
        // A container that does not read must not stop its own output.
        let _ = fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        Relay { master, pending: Vec::new(), stdin_open: true, master_open: true }
    }

    fn resize(&self, terminal: Option<&RawTerminal>) {
        if let Some(size) = terminal.and_then(RawTerminal::size).filter(|s| s.rows > 0) {
            let _ = tty::set_size(self.master.as_fd(), size);
        }
    }

    /// What to poll of master and stdin. What is not wanted is not polled at all: an error or a hang-up is reported
    /// even if nothing is asked for, and would keep the loop busy.
    fn interest(&self) -> [Option<PollFd<'_>>; 2] {
        let mut on_master = PollFlags::POLLIN;
        if !self.pending.is_empty() {
            on_master |= PollFlags::POLLOUT;
        }
        let wants_input = self.stdin_open && self.pending.is_empty();
        [
            self.master_open.then(|| PollFd::new(self.master.as_fd(), on_master)),
            wants_input.then(|| PollFd::new(conex_sys::fd::borrow(0), PollFlags::POLLIN)),
        ]
    }

    fn copy(&mut self, master_ready: bool, stdin_ready: bool) {
        if master_ready && self.master_open {
            self.output();
            self.input();
        }
        if stdin_ready && self.stdin_open && self.pending.is_empty() {
            let mut buffer = [0u8; 4096];
            match read(conex_sys::fd::borrow(0), &mut buffer) {
                Ok(0) | Err(Errno::EIO | Errno::EBADF) => self.stdin_open = false,
                Ok(n) => {
                    self.pending.extend_from_slice(&buffer[..n]);
                    self.input();
                }
                Err(_) => {}
            }
        }
    }

    fn output(&mut self) -> bool {
        let mut buffer = [0u8; 16384];
        match read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => self.master_open = false,
            Ok(n) => {
                let mut rest = &buffer[..n];
                while !rest.is_empty() {
                    match write(conex_sys::fd::borrow(1), rest) {
                        Ok(n) => rest = &rest[n..],
                        Err(Errno::EINTR) => {}
                        Err(Errno::EAGAIN) => {
                            let mut fds =
                                [PollFd::new(conex_sys::fd::borrow(1), PollFlags::POLLOUT)];
                            let _ = poll(&mut fds, PollTimeout::NONE);
                        }
                        // The reader has gone; the container need not care.
                        Err(_) => break,
                    }
                }
                return true;
            }
            Err(_) => {}
        }
        false
    }

    fn input(&mut self) {
        while !self.pending.is_empty() {
            match write(&self.master, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// What the container wrote before it ended. Somebody else can have opened its terminal by name, and go on writing.
    fn drain(&mut self) {
        // More than a terminal holds, and no time: a slow reader of ours must not lose the end.
        for _ in 0..1024 {
            if !self.master_open || !self.output() {
                break;
            }
        }
    }
}
