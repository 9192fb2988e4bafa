//! The end of processes.
//!
//! Each process that matters has a pidfd and a waiter of its own. A container's init and its further processes become
//! children of this process when the runtime exits, because it is a subreaper; their zombies stay until the waiter has
//! looked, so neither a process that ends within the runtime's call nor a reused pid can be mistaken. Everything else
//! that is left to this process is reaped here.

use crate::status::{During, Result};
use conex_sys::proc::{self, Waited};
use nix::errno::Errno;
use nix::sys::wait::{waitid, waitpid, Id, WaitPidFlag};
use nix::unistd::Pid;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exit {
    /// 128 + n for signal n.
    pub status: u32,
    pub at: SystemTime,
}

impl Exit {
    /// Of a process whose end nobody has seen: containerd's own word for it.
    pub fn unseen() -> Exit {
        Exit { status: 255, at: SystemTime::now() }
    }
}

#[derive(Default)]
pub struct Reaper {
    /// Children that have a waiter.
    known: RefCell<HashSet<i32>>,
    /// Calls of the runtime that may yet name a child of ours.
    open: Cell<u32>,
    /// Ends that the keeper has seen.
    told: RefCell<HashMap<i32, Exit>>,
    heard: Notify,
    /// Whoever looks for a child that is not known yet.
    curious: Cell<u32>,
}

/// While it lives every end is remembered that the keeper tells of.
pub struct Curious(Rc<Reaper>);

impl Drop for Curious {
    fn drop(&mut self) {
        let reaper = &self.0;
        reaper.curious.set(reaper.curious.get() - 1);
        if reaper.curious.get() == 0 {
            // What was nobody's: a later process can have its number.
            reaper.told.borrow_mut().retain(|pid, _| reaper.known.borrow().contains(pid));
        }
    }
}

/// While it lives no unknown child is reaped.
pub struct Hold(Rc<Reaper>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.strangers();
    }
}

impl Reaper {
    pub fn hold(self: &Rc<Reaper>) -> Hold {
        self.open.set(self.open.get() + 1);
        Hold(self.clone())
    }

    /// For one that has been reaped elsewhere.
    pub fn forget(&self, pid: i32) {
        self.known.borrow_mut().remove(&pid);
        self.strangers();
    }

    pub fn add(&self, pid: i32) {
        self.known.borrow_mut().insert(pid);
    }

    /// Reaps children that nobody waits for. Called at SIGCHLD and whenever one that stood in the way is gone.
    pub fn strangers(&self) {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while self.open.get() == 0 {
            let Some(pid) = waitid(Id::All, peek).ok().and_then(|s| s.pid()) else { return };
            if self.known.borrow().contains(&pid.as_raw()) {
                return;
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// The keeper has reaped a process.
    pub fn foreign(&self, pid: i32, exit: Exit) {
        // Whatever else the keeper inherits is nobody's.
        if self.curious.get() > 0 || self.known.borrow().contains(&pid) {
            self.told.borrow_mut().insert(pid, exit);
        }
        self.heard.notify_waiters();
    }

    pub fn curious(self: &Rc<Reaper>) -> Curious {
        self.curious.set(self.curious.get() + 1);
        Curious(self.clone())
    }

    /// No end that the keeper has told of waits for somebody who takes it.
    pub fn is_settled(&self) -> bool {
        let known = self.known.borrow();
        self.curious.get() == 0 && !self.told.borrow().keys().any(|pid| known.contains(pid))
    }

    /// Until a process that has ended is reaped: a runtime that looks at it meanwhile could see it go.
    pub async fn reaped(&self, pid: i32) {
        for _ in 0..1000 {
            if !self.known.borrow().contains(&pid) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn has_told(&self, pid: i32) -> bool {
        self.told.borrow().contains_key(&pid)
    }

    /// The end of a process that is gone already, as the keeper saw it; `None` if it does not say.
    pub async fn told(&self, pid: i32) -> Option<Exit> {
        let told = async {
            loop {
                if let Some(exit) = self.told.borrow_mut().remove(&pid) {
                    return exit;
                }
                self.heard.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(2), told).await.ok()
    }

    async fn of_another(&self, pid: i32, pidfd: &OwnedFd) -> Exit {
        // As long as the keeper has not reaped it, it will tell: on a busy host that takes its time.
        for _ in 0..30 {
            if let Some(told) = self.told(pid).await {
                return told;
            }
            let status = match proc::pidfd_exit_status(pidfd.as_fd()) {
                Ok(Some(wait)) if libc::WIFSIGNALED(wait) => 128 + libc::WTERMSIG(wait) as u32,
                Ok(Some(wait)) => libc::WEXITSTATUS(wait) as u32,
                _ if conex_acts::identity::proc_stat(pid)
                    .is_some_and(|(letter, _)| letter == 'Z') =>
                {
                    continue
                }
                _ => break,
            };
            return Exit { status, at: SystemTime::now() };
        }
        Exit::unseen()
    }

    /// Waits for the end of a process. Of one that is not our child (a server before this one was its parent) the
    /// keeper tells, and its pidfd where the kernel does that (Linux 6.15).
    pub async fn wait(self: &Rc<Self>, pid: i32, pidfd: OwnedFd) -> Result<Exit> {
        self.seen(pid, pidfd).await.map(|(exit, _zombie)| exit)
    }

    /// The same, but the process is reaped only with the second value: should this server be killed before somebody else
    /// knows of the end, the next parent finds the zombie.
    pub async fn seen(self: &Rc<Self>, pid: i32, pidfd: OwnedFd) -> Result<(Exit, Zombie)> {
        let fd =
            conex_sys::ready::readable(pidfd).during(|| format!("epoll_ctl(pidfd of {pid})"))?;
        let exit = |status| Exit { status, at: SystemTime::now() };
        let exit = loop {
            let mut guard = fd.readable().await.during(|| "epoll_wait".to_string())?;
            match proc::peek_pidfd(fd.get_ref().as_fd()) {
                Ok(Waited::Running) => guard.clear_ready(),
                Ok(Waited::Exited(code)) => break exit(code as u32),
                Ok(Waited::Signaled(n)) => break exit(128 + n as u32),
                Err(Errno::ECHILD) => break self.of_another(pid, fd.get_ref()).await,
                Err(e) => return Err(e).during(|| format!("waitid(pidfd of {pid})")),
            }
        };
        Ok((exit, Zombie { pid, pidfd: fd.into_inner(), reaper: self.clone() }))
    }
}

/// A process that has ended; reaped when this value goes.
pub struct Zombie {
    pid: i32,
    pidfd: OwnedFd,
    reaper: Rc<Reaper>,
}

impl Drop for Zombie {
    fn drop(&mut self) {
        // ECHILD for one that the keeper has reaped.
        let _ = proc::wait_pidfd(self.pidfd.as_fd(), true);
        self.reaper.forget(self.pid);
    }
}

/// A pidfd of a child of ours, or of a process known by its start time.
pub fn pidfd(pid: i32) -> Result<OwnedFd> {
    proc::pidfd_open(Pid::from_raw(pid)).during(|| format!("pidfd_open({pid})"))
}

thread_local! {
    static REAPER: RefCell<Rc<Reaper>> = RefCell::default();
}

/// The one of this process.
pub fn reaper() -> Rc<Reaper> {
    REAPER.with_borrow(Rc::clone)
}
