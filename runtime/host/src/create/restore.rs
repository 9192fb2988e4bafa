//! A container whose process is restored from the images of a checkpoint: a create with CRIU in the child's place.

use super::{Asked, Making};
use crate::acts::hooks;
use crate::container::Container;
use crate::error::{Context, Result};
use crate::rdt;
use crate::state::{Entry, State};
use crate::sync::pair;
use conex_sys::proc;
use nix::unistd::Pid;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The process as it goes on.
pub struct Restored {
    pub pid: Pid,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Who restores it.
pub trait Restorer {
    /// Starts the program that will, and lets it wait: its process enters the cgroups of the container. The result is its pid.
    ///
    /// # Errors
    /// The program is not there, or a place that a mount needs cannot be made.
    fn begin(&mut self, entry: &Entry, cgroups: &[PathBuf]) -> Result<i32>;

    /// Lets it go on. `namespaces` is called with the process's pid when that has its namespaces and none of it runs yet.
    ///
    /// # Errors
    /// What the program says.
    fn restore(&mut self, namespaces: &mut dyn FnMut(i32) -> Result<()>) -> Result<Restored>;
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
        let restored = restorer.restore(&mut |pid| {
            let document = hooks::StateDocument {
                id: &plan.id,
                status: "creating",
                pid,
                bundle: &plan.bundle,
                annotations: &plan.annotations,
            };
            let setting =
                hooks::Surroundings { cwd: Some(&plan.bundle), ..hooks::Surroundings::default() };
            hooks::run(&plan.hooks.prestart, "prestart", &document, &setting)?;
            hooks::run(&plan.hooks.create_runtime, "createRuntime", &document, &setting)
        })?;
        let pid = restored.pid;
        let container = Container {
            pid,
            pidfd: proc::pidfd_open(pid).call(|| format!("pidfd_open({pid})"))?,
            // Nobody speaks there: it runs already.
            sync: pair()?.0,
            terminal: restored.terminal,
            warnings: std::mem::take(&mut self.warnings),
            released: true,
        };
        match self.prepare(&container).and_then(|()| self.publish()) {
            Ok(()) => Ok(container),
            Err(e) => {
                container.end();
                Err(e)
            }
        }
    }
}
