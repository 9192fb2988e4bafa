//! The changes that are told to the keeper now.

use super::save::{self, container_key, event_key, process_key};
use crate::marks::{Part, CHANGED};
use crate::task::service::Service;
use conex_proto::shim::Record;
use std::collections::BTreeSet;
use std::os::fd::RawFd;

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

    /// The records, and the keys of those that could be gone. `keys_of`: the keys that the keeper has and that begin so.
    pub fn records(
        &self,
        service: &Service,
        listener: RawFd,
        keys_of: &dyn Fn(&str) -> Vec<String>,
    ) -> (Vec<Record>, Vec<String>) {
        if self.whole {
            return (save::save(service, listener, None), keys_of(""));
        }
        let (mut records, mut keys) = (Vec::new(), Vec::new());
        for part in &self.parts {
            match part {
                Part::Process(container, exec) => {
                    let saved = save::save_process(service, container, exec);
                    if saved.is_empty() {
                        // With all its processes.
                        keys.extend(keys_of(&process_key(container, "")));
                        keys.push(container_key(container));
                    }
                    keys.push(process_key(container, exec));
                    records.extend(saved);
                }
                Part::Event(number) => {
                    records.extend(
                        service.events.waiting_at(*number).map(|e| save::event(*number, &e)),
                    );
                    keys.push(event_key(*number));
                }
            }
        }
        (records, keys)
    }
}
