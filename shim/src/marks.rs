//! What the keeper has not been told yet, and the keeper itself as those see it who change something.
//!
//! To look at the whole state takes time that grows with it, so whoever changes a part says which.

use crate::status::Result;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use tokio::sync::Notify;

/// Work of this thread alone.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Who keeps what this process knows, for the day it is killed.
pub trait Keeper {
    fn is_there(&self) -> bool;

    /// Tells it what has changed, or the `whole` state. What is in its socket it reads before it starts another server, so
    /// that this is known whatever happens to this process from here on: done before a client hears of it.
    fn told(self: Rc<Self>, whole: bool) -> Work<'static, ()>;

    /// Lets it enter namespaces: it outlives this process, and what it starts is born in them.
    ///
    /// # Errors
    /// The keeper's, or that there is no answer.
    fn enter(self: Rc<Self>, namespaces: &[OwnedFd]) -> Work<'_, Result<()>>;
}

/// A part of the state.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The container's id, and the exec's: a process with its container.
    Process(String, String),
    Event(u64),
}

#[derive(Default)]
pub struct Changes {
    /// There is a keeper.
    pub heard: Cell<bool>,
    pub parts: RefCell<BTreeSet<Part>>,
    /// All of it is due.
    pub whole: Cell<bool>,
    pub wake: Notify,
    pub keeper: RefCell<Option<Rc<dyn Keeper>>>,
}

thread_local! {
    pub static CHANGED: Rc<Changes> = Rc::default();
}

/// A process or its container has changed; above all a descriptor that was closed: the end of a stream is one only when
/// the keeper has let go of it as well.
pub fn touch_process(container: &str, exec: &str) {
    touch(Part::Process(container.to_string(), exec.to_string()));
}

/// The keeper of this process, if it has one.
pub fn keeper() -> Option<Rc<dyn Keeper>> {
    CHANGED.with(|c| c.keeper.borrow().clone())
}

/// Returns when the keeper knows what has changed: whoever takes on what would be lost with this process waits for that.
pub async fn told() {
    if let Some(keeper) = keeper() {
        keeper.told(false).await;
    }
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
