//! The state of a sandbox.

use crate::status::{self, Result};
use std::cell::{Cell, RefCell};
use std::time::SystemTime;
use tokio::sync::Notify;

#[derive(Default)]
pub struct Sandbox {
    pub id: RefCell<String>,
    pub created: Cell<Option<SystemTime>>,
    pub started: Cell<bool>,
    pub stopped: Cell<Option<SystemTime>>,
    pub changed: Notify,
}

impl Sandbox {
    /// Id, whether it was started, when it was created and when it stopped.
    pub fn save(&self) -> (String, bool, Option<SystemTime>, Option<SystemTime>) {
        (self.id.borrow().clone(), self.started.get(), self.created.get(), self.stopped.get())
    }

    pub fn resume(
        &self,
        id: String,
        started: bool,
        created: Option<SystemTime>,
        stopped: Option<SystemTime>,
    ) {
        *self.id.borrow_mut() = id;
        self.started.set(started);
        self.created.set(created);
        self.stopped.set(stopped);
    }

    /// Until ShutdownSandbox: a manager still asks a sandbox that has stopped, after its last container is deleted.
    pub fn exists(&self) -> bool {
        !self.id.borrow().is_empty()
    }

    pub fn check(&self, id: &str) -> Result<()> {
        if self.id.borrow().as_str() == id && !id.is_empty() {
            return Ok(());
        }
        Err(status::not_found(format!("sandbox {id:?}")))
    }

    pub fn stop(&self) {
        if self.stopped.get().is_none() {
            self.stopped.set(Some(SystemTime::now()));
        }
        self.changed.notify_waiters();
    }

    pub fn state(&self) -> &'static str {
        match (self.started.get(), self.stopped.get()) {
            (_, Some(_)) => "SANDBOX_NOTREADY",
            (true, None) => "SANDBOX_READY",
            (false, None) => "SANDBOX_CREATED",
        }
    }
}
