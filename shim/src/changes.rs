//! What the keeper has not been told yet. To look at the whole state takes time that grows with it, so whoever changes a
//! part says which.

use crate::saved::{self, container_key, event_key, process_key};
use crate::service::Service;
use conex_proto::shim::Record;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::rc::Rc;
use tokio::sync::Notify;

/// A part of the state.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The container's id, and the exec's: a process with its container.
    Process(String, String),
    Event(u64),
}

#[derive(Default)]
pub struct Changes {
    /// There is a keeper.
    pub heard: Cell<bool>,
    parts: RefCell<BTreeSet<Part>>,
    /// All of it is due.
    whole: Cell<bool>,
    pub wake: Notify,
}

thread_local! {
    pub static CHANGED: Rc<Changes> = Rc::default();
}

/// A process or its container has changed; above all a descriptor that was closed: the end of a stream is one only when
/// the keeper has let go of it as well.
pub fn touch_process(container: &str, exec: &str) {
    touch(Part::Process(container.to_string(), exec.to_string()));
}

/// An event waits, or has been taken.
pub fn touch_event(number: u64) {
    touch(Part::Event(number));
}

fn touch(part: Part) {
    CHANGED.with(|c| {
        if c.heard.get() {
            c.parts.borrow_mut().insert(part);
            c.wake.notify_one();
        }
    });
}

/// Whether something waits to be told.
pub fn any() -> bool {
    CHANGED.with(|c| c.heard.get() && (c.whole.get() || !c.parts.borrow().is_empty()))
}

/// What is told now.
pub struct Due {
    pub whole: bool,
    parts: BTreeSet<Part>,
}

impl Due {
    /// Takes all that has changed.
    pub fn take(whole: bool) -> Due {
        CHANGED.with(|c| Due { whole: c.whole.take() || whole, parts: c.parts.take() })
    }

    /// It did not get through.
    pub fn give_back(mut self) {
        CHANGED.with(|c| {
            c.whole.set(c.whole.get() || self.whole);
            c.parts.borrow_mut().append(&mut self.parts);
            c.wake.notify_one();
        });
    }

    pub fn is_nothing(&self) -> bool {
        !self.whole && self.parts.is_empty()
    }

    /// The records, and the keys of those that could be gone.
    pub fn records(&self, service: &Service, listener: RawFd) -> (Vec<Record>, Vec<String>) {
        if self.whole {
            return (saved::save(service, listener, false), service.store.keys(""));
        }
        let (mut records, mut keys) = (Vec::new(), Vec::new());
        for part in &self.parts {
            match part {
                Part::Process(container, exec) => {
                    let saved = saved::save_process(service, container, exec);
                    if saved.is_empty() {
                        // With all its processes.
                        keys.extend(service.store.keys(&process_key(container, "")));
                        keys.push(container_key(container));
                    }
                    keys.push(process_key(container, exec));
                    records.extend(saved);
                }
                Part::Event(number) => {
                    records.extend(service.events.waiting_at(*number).map(|e| saved::event(*number, &e)));
                    keys.push(event_key(*number));
                }
            }
        }
        (records, keys)
    }
}
