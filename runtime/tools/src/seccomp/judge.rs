//! Answers calls as a profile would, and counts what it denies.

use super::profile::{told, PlacedProfile};
use conex::error::{Context, Result};
use conex::identity::{identity, never_executed, Identity};
use conex::seccomp::{self, compile, ACTION_MASK};
use conex_sys::seccomp::{answer, next, Answer, Asked};
use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Name, answer and rule.
type Denied = (String, String, String);

/// A directory that only this user may enter, gone at the end.
pub(super) struct Place {
    pub dir: PathBuf,
    pub socket: PathBuf,
    /// Somebody else removes it.
    left: bool,
}

impl Place {
    pub fn new() -> Result<Place> {
        let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("conex-seccomp-XXXXXX"))
            .call(|| "mkdtemp")?;
        Ok(Place { socket: dir.join("listener"), dir, left: false })
    }

    /// It is the agent's from now on.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.left {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

pub(super) fn allows(action: u32) -> bool {
    matches!(action & ACTION_MASK, seccomp::RET_ALLOW | seccomp::RET_LOG)
}

/// Answers the calls that ask.
pub(super) struct Watch {
    profile: PlacedProfile,
    denied: Mutex<BTreeMap<Denied, u64>>,
    /// Filters so far, and those that a process is under.
    filters: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl Watch {
    pub(super) fn new(profile: PlacedProfile) -> Watch {
        Watch {
            profile,
            denied: Mutex::default(),
            filters: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// One filter after the other: that of the container, and those of further processes in it.
    pub(super) fn accept(self: &Arc<Watch>, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            let Some((fd, process)) = receive(&stream) else { continue };
            self.count(|(all, open)| (all + 1, open + 1));
            let watch = self.clone();
            std::thread::spawn(move || {
                watch.serve(&fd, process);
                watch.count(|(all, open)| (all, open - 1));
            });
        }
    }

    fn count(&self, change: impl FnOnce((u64, u64)) -> (u64, u64)) {
        let mut filters = self.filters.lock().expect("no thread panics");
        *filters = change(*filters);
        self.changed.notify_all();
    }

    /// True if there has been a filter, or comes within that time.
    pub(super) fn has_begun(&self, patience: Duration) -> bool {
        let filters = self.filters.lock().expect("no thread panics");
        let waited = self.changed.wait_timeout_while(filters, patience, |(all, _)| *all == 0);
        !waited.expect("no thread panics").1.timed_out()
    }

    /// Waits until there has been a filter and no process is under one any more.
    pub(super) fn end(&self) {
        let filters = self.filters.lock().expect("no thread panics");
        let waiting = |(all, open): &mut (u64, u64)| *all == 0 || *open > 0;
        drop(self.changed.wait_while(filters, waiting).expect("no thread panics"));
    }

    fn serve(&self, fd: &OwnedFd, process: Option<Identity>) {
        use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
        let mut before = process;
        loop {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            let polled = poll(&mut fds, PollTimeout::NONE);
            // Hung up: no process is under the filter any more.
            let gone = fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP));
            if gone || polled.is_err_and(|e| e != nix::errno::Errno::EINTR) {
                return;
            }
            // One that was killed meanwhile waits for nothing.
            let Ok(asked) = next(fd.as_fd()) else { continue };
            let _ = answer(fd.as_fd(), asked.id, self.judged(fd, &asked, &mut before));
        }
    }

    /// As the profile has it. What the runtime still does under the filter before it executes the program is not the program's.
    fn judged(&self, fd: &OwnedFd, asked: &Asked, before: &mut Option<Identity>) -> Answer {
        *before = before.filter(|process| never_executed(*process));
        // Itself, or a process that is about to become a hook.
        let own = |process: Identity| {
            process.pid == asked.pid as i32 || never_executed(identity(asked.pid as i32))
        };
        if before.is_some_and(own) {
            return Answer::Go;
        }
        // A filter kills what comes by another architecture: nobody is asked.
        let Some((abi, nr)) = compile::abi_of(asked.arch, asked.nr) else {
            return Answer::Fail(libc::ENOSYS);
        };
        let (action, by) = self.profile.decide(abi, nr, asked.args);
        if allows(action) {
            return Answer::Go;
        }
        let name = compile::name(asked.arch, asked.nr);
        *self
            .denied
            .lock()
            .expect("no thread panics")
            .entry((name, told(action), by))
            .or_default() += 1;
        match action & ACTION_MASK {
            seccomp::RET_ERRNO => Answer::Fail((action & 0xffff) as i32),
            // There is no tracer.
            seccomp::RET_TRACE => Answer::Fail(libc::ENOSYS),
            // The process gets what the filter would have given it. SIGKILL: SIGSYS could be caught.
            0x0003_0000 => signal(fd, asked, libc::SIGSYS),
            _ => signal(fd, asked, libc::SIGKILL),
        }
    }

    /// What was denied, in lines; `whose` stands before the count.
    pub(super) fn report(&self, whose: &str) -> String {
        let denied = self.denied.lock().expect("no thread panics");
        let total: u64 = denied.values().sum();
        let calls = if total == 1 { "call" } else { "calls" };
        let mut out = format!(
            "conex: seccomp: {whose}{total} {calls} denied{}\n",
            if total == 0 { "" } else { ":" }
        );
        let mut rows: Vec<_> = denied.iter().collect();
        rows.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        for ((name, action, by), n) in rows {
            out += &format!("{n:>8}  {name}: {action}, by {by}\n");
        }
        out
    }
}

/// The filter, and the process that it was handed over for (runtime-spec, "Container Process State").
fn receive(stream: &std::os::unix::net::UnixStream) -> Option<(OwnedFd, Option<Identity>)> {
    let mut bytes = vec![0u8; 64 << 10];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
            .ok()?;
    let fds = message.cmsgs().ok()?.find_map(|c| match c {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let read = message.bytes;
    let fd = fds?.into_iter().map(conex_sys::fd::adopt).next()?;
    // The first field of that name; what follows can be longer than a message that is read at once.
    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
    let number = text.split_once("\"pid\":").map(|(_, rest)| rest.trim_start());
    let digits = number.map(|n| n.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    let process = digits.and_then(|n| n.parse().ok()).map(identity);
    Some((fd, process))
}

/// A number is another process's once the one that asked has ended; one of a PID namespace that is out of sight has none.
fn signal(fd: &OwnedFd, asked: &Asked, signal: i32) -> Answer {
    let pid = i32::try_from(asked.pid).ok().filter(|pid| *pid > 0);
    let process =
        pid.and_then(|pid| conex_sys::proc::pidfd_open(nix::unistd::Pid::from_raw(pid)).ok());
    if let Some(process) = process.filter(|_| conex_sys::seccomp::waits(fd.as_fd(), asked.id)) {
        let _ = conex_sys::proc::pidfd_send_signal(process.as_fd(), signal);
    }
    Answer::Fail(libc::ENOSYS)
}
