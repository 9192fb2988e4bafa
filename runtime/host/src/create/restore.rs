//! A container whose process is restored from the images of a checkpoint: a create with CRIU in the child's place.

use super::{runtime_hooks, Asked, Making};
use crate::acts::netlink;
use crate::container::Container;
use crate::error::{Context, Error, Kind, Result};
use crate::home;
use crate::plan::Plan;
use crate::rdt;
use crate::state::{Entry, State};
use crate::sync::pair;
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// How far a process is, by its pid.
#[derive(Clone, Copy)]
pub enum Event {
    /// It has its namespaces, and nothing of it runs yet.
    Namespaces(i32),
    /// It is whole, and does not run yet.
    Whole(i32),
}

/// What is told of it.
pub type Told<'a> = dyn FnMut(Event) -> Result<()> + 'a;

/// Who restores it.
pub trait Restorer {
    /// Starts the program that will, and lets it wait: its process enters the cgroups of the container. The result is its pid.
    ///
    /// # Errors
    /// The program is not there, or a place that a mount needs cannot be made.
    fn begin(&mut self, entry: &Entry, cgroups: &[PathBuf]) -> Result<i32>;

    /// Lets it go on, until the process runs; the result is the master side of its terminal.
    ///
    /// # Errors
    /// What the program says, and what `told` does.
    fn restore(&mut self, told: &mut Told) -> Result<Option<OwnedFd>>;
}

/// Makes the container with what `restorer` restores. On failure everything is undone.
pub fn restore(
    asked: &Asked,
    entry: &Entry,
    state: &mut State,
    restorer: &mut dyn Restorer,
) -> Result<Container> {
    let mut making = Making::new(asked, entry, state);
    let made = making.restored(restorer);
    making.or_undone(made)
}

impl Making<'_> {
    fn restored(&mut self, restorer: &mut dyn Restorer) -> Result<Container> {
        let mut manager = self.announce()?;
        let order = self.order();
        self.steps(order.before, &mut manager, 0)?;
        let program = restorer.begin(self.entry, &self.state.cgroups)?;
        self.steps(order.after, &mut manager, program)?;
        let elsewhere = |d: &&crate::cgroup::Dir| !d.holds(program);
        self.group.dirs.iter().filter(elsewhere).try_for_each(|dir| dir.join(program))?;
        let plan = self.plan;
        if let Some(rdt) = &plan.rdt {
            rdt::join(rdt, &plan.id, program)?;
        }
        let mut whole = None;
        let restored = restorer.restore(&mut |event| match event {
            Event::Namespaces(pid) => surrounded(plan, pid),
            // A runtime that is killed after this leaves a container, not a process of which nobody knows.
            Event::Whole(pid) => {
                whole = Some(self.recorded(pid)?);
                Ok(())
            }
        });
        match (restored, whole) {
            (Ok(terminal), Some(container)) => Ok(Container { terminal, ..container }),
            (Ok(_), None) => {
                Err(Error::new(Kind::System, "CRIU has not said what it has restored"))
            }
            (Err(e), container) => {
                container.iter().for_each(Container::end);
                Err(e)
            }
        }
    }

    fn recorded(&mut self, pid: i32) -> Result<Container> {
        let container = Container {
            pid: Pid::from_raw(pid),
            pidfd: proc::pidfd_open(Pid::from_raw(pid)).call(|| format!("pidfd_open({pid})"))?,
            // Nobody speaks there: it needs no word to run.
            sync: pair()?.0,
            terminal: None,
            warnings: std::mem::take(&mut self.warnings),
            released: true,
        };
        let document = with_time_namespace(self.asked.document, pid)?;
        self.document(&document)?;
        self.prepare(&container)?;
        self.publish()?;
        Ok(container)
    }
}

/// What is the runtime's to do when the namespaces are there.
fn surrounded(plan: &Plan, pid: i32) -> Result<()> {
    if plan.namespaces.creates(libc::CLONE_NEWNET) {
        up_loopback(pid)?;
    }
    runtime_hooks(plan, pid)
}

/// The network namespace is new: the devices in it are the engine's to make, but for this one.
fn up_loopback(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace =
        nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .call(|| format!("open({path})"))?;
    home::visit(libc::CLONE_NEWNET, || {
        proc::setns(namespace.as_fd(), libc::CLONE_NEWNET).call(|| format!("setns({path})"))?;
        netlink::up_loopback()
    })
}

/// CRIU puts what it restores into a time namespace, so that its clocks go on: an exec is to see the same ones.
fn with_time_namespace(document: &[u8], pid: i32) -> Result<Cow<'_, [u8]>> {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/time")).ok();
    if of("self") == of(&pid.to_string()) {
        return Ok(document.into());
    }
    let damaged = |e: serde_json::Error| Error::new(Kind::Invalid, format!("config.json: {e}"));
    let mut changed: serde_json::Value = serde_json::from_slice(document).map_err(damaged)?;
    let Some(list) = changed.pointer_mut("/linux/namespaces").and_then(|l| l.as_array_mut()) else {
        return Ok(document.into());
    };
    if list.iter().any(|n| n["type"] == "time") {
        return Ok(document.into());
    }
    list.push(serde_json::json!({"type": "time"}));
    serde_json::to_vec(&changed).map(Cow::Owned).map_err(damaged)
}
