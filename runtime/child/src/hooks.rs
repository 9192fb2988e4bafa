//! Hooks that run in the container's namespaces.

use crate::acts::hooks::{run, StateDocument, Surroundings};
use crate::error::{Context, Result};
use crate::plan::Plan;
use nix::sys::stat::{umask, Mode};
use std::fs::File;
use std::os::fd::BorrowedFd;

fn state<'a>(plan: &'a Plan, status: &'static str) -> StateDocument<'a> {
    StateDocument {
        id: &plan.id,
        status,
        pid: std::process::id() as i32,
        bundle: &plan.bundle,
        annotations: &plan.annotations,
    }
}

/// createContainer: path and working directory of the host's mounts, before pivot_root, with the caller's umask as the
/// hooks of the host's side.
pub(super) fn create_container(
    plan: &Plan,
    root: BorrowedFd,
    caller: Mode,
    output: &[Option<File>; 2],
) -> Result<()> {
    if plan.hooks.create_container.is_empty() {
        return Ok(());
    }
    nix::unistd::fchdir(root).call(|| "fchdir(rootfs)")?;
    let own = umask(caller);
    let surroundings =
        Surroundings { output: output.each_ref().map(Option::as_ref), ..Surroundings::default() };
    let ran = run(
        &plan.hooks.create_container,
        "createContainer",
        &state(plan, "creating"),
        &surroundings,
    );
    umask(own);
    ran
}

/// startContainer: inside, under everything that the container's program will be under.
pub(super) fn start_container(
    plan: &Plan,
    env: &[String],
    output: &[Option<File>; 2],
    confine: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let output = output.each_ref().map(Option::as_ref);
    let surroundings = Surroundings { cwd: None, env: Some(env), output, confine: Some(confine) };
    run(&plan.hooks.start_container, "startContainer", &state(plan, "created"), &surroundings)
}
