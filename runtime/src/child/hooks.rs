//! Hooks that run in the container's namespaces.

use crate::error::Result;
use crate::oci::config::Hook;
use crate::plan::Plan;
use std::os::fd::BorrowedFd;

/// Runs createContainer (path and working directory of the host's mounts, before pivot_root) or startContainer.
pub(super) fn run(plan: &Plan, list: &[Hook], name: &'static str, cwd: Option<BorrowedFd>) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    if let Some(dir) = cwd {
        use crate::error::Context;
        nix::unistd::fchdir(dir).call(|| "fchdir(rootfs)")?;
    }
    let status = if name == "startContainer" { "created" } else { "creating" };
    let state = crate::host::hooks::StateDocument {
        id: &plan.id,
        status,
        pid: std::process::id() as i32,
        bundle: &plan.bundle,
        annotations: &plan.annotations,
    };
    crate::host::hooks::run(list, name, &state, None)
}
