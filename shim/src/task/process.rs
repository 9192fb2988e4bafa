//! One process of a container: its init, or one that was executed in it.

use crate::io::{Io, Stdio};
use crate::reap::Exit;
use crate::status::{not_found, Result};
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use tokio::sync::Notify;

/// The life of a process, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A name without a process: an exec before its start.
    Added,
    Created,
    /// The runtime is at work; an exit seen meanwhile is told afterwards.
    Starting,
    Running,
    Stopped,
}

impl Stage {
    /// From its number in a record.
    pub fn of(number: u32) -> Stage {
        use Stage::*;
        [Added, Created, Starting, Running]
            .into_iter()
            .find(|s| *s as u32 == number)
            .unwrap_or(Stopped)
    }
}

pub struct Process {
    /// The exec id; empty for init.
    pub id: String,
    pub stdio: Stdio,
    /// process.json of an exec, until it has started: there may be secrets in it.
    pub spec: RefCell<Vec<u8>>,
    pub stage: Cell<Stage>,
    /// 0 before there is one.
    pub pid: Cell<i32>,
    /// With the pid it names the process for good (proc_pid_stat(5), field 22).
    pub start_time: Cell<u64>,
    /// Its end, once it is told.
    pub exit: Cell<Option<Exit>>,
    /// Its end, as soon as it is seen: others may have to be told first.
    pub reaped: Cell<Option<Exit>>,
    /// Its start failed, or it was deleted before: there will be no process.
    pub never: Cell<bool>,
    /// It was born in a cgroup of its own ([`crate::task::container::Container::leaf`]).
    pub leaf: Cell<bool>,
    pub changed: Notify,
    pub io: RefCell<Rc<Io>>,
}

impl Process {
    pub fn new(id: &str, stdio: Stdio, spec: Vec<u8>) -> Process {
        Process {
            id: id.to_string(),
            stdio,
            spec: RefCell::new(spec),
            stage: Cell::new(Stage::Added),
            pid: Cell::new(0),
            start_time: Cell::new(0),
            exit: Cell::new(None),
            reaped: Cell::new(None),
            never: Cell::new(false),
            leaf: Cell::new(false),
            changed: Notify::new(),
            io: RefCell::default(),
        }
    }

    pub fn set(&self, stage: Stage) {
        self.stage.set(stage);
        self.changed.notify_waiters();
    }

    pub fn io(&self) -> Rc<Io> {
        self.io.borrow().clone()
    }

    /// Its end, whenever that is.
    pub async fn ended(&self) -> Exit {
        loop {
            // Nothing can happen between this look and the waiting: there is one thread, and it does not pause here.
            if let Some(exit) = self.exit.get() {
                return exit;
            }
            self.changed.notified().await;
        }
    }

    /// Its end, or `None` once it is clear that it can never come to be.
    pub async fn outcome(&self) -> Option<Exit> {
        while self.exit.get().is_none() && !self.never.get() {
            self.changed.notified().await;
        }
        self.exit.get()
    }

    /// Whoever waits for it is answered.
    pub fn give_up(&self) {
        self.never.set(true);
        self.changed.notify_waiters();
    }

    /// Until the runtime is done with it.
    pub async fn settled(&self) {
        while self.stage.get() == Stage::Starting {
            self.changed.notified().await;
        }
    }

    /// A descriptor of that very process, whether it runs or is a zombie of ours: opened by its number and compared
    /// afterwards, because a server that takes over knows the number from a document.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let fd = crate::reap::pidfd(self.pid.get())?;
        let same = conex_acts::identity::proc_stat(self.pid.get())
            .is_some_and(|s| s.1 == self.start_time.get());
        same.then_some(fd).ok_or_else(|| not_found("process already finished"))
    }

    pub fn is_alive(&self) -> bool {
        self.pid.get() > 0 && self.exit.get().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_is_no_process() {
        let own = Process::new("", Stdio::default(), Vec::new());
        own.pid.set(std::process::id() as i32);
        own.start_time.set(conex_acts::identity::proc_stat(own.pid.get()).unwrap().1);
        assert!(own.pidfd().is_ok());
        own.start_time.set(own.start_time.get() + 1);
        assert_eq!(own.pidfd().unwrap_err().code, crate::status::NOT_FOUND);
    }
}
