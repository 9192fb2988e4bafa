//! Entering namespaces, and the way back: the shim of a pod without a pause process is in the pod's own, and so is the server
//! that its keeper starts after a death.

use crate::status::{During, Result};
use conex_sys::proc::setns;
use std::os::fd::{AsFd, OwnedFd};

/// The namespaces that a process has entered, and those that it was in before.
pub struct Entered {
    pub old: Vec<OwnedFd>,
    pub new: Vec<OwnedFd>,
}

impl Entered {
    /// Back to where it was: a create that fails half-way must not leave the next one in another pod's network.
    pub fn undo(self) {
        if let Err(e) = join(&self.old) {
            crate::log::error("cannot leave a pod's namespace", &[("error", e.desc())]);
        }
    }
}

/// Enters all of them or none.
///
/// # Errors
/// The errno of the first that cannot be entered.
pub fn join_all(namespaces: &[OwnedFd]) -> Result<()> {
    let old = own_namespaces(&["net", "uts", "ipc"])?;
    join(namespaces)
        .during(|| "setns".into())
        .inspect_err(|_| Entered { old, new: Vec::new() }.undo())
}

/// Enters them, whatever kinds they are.
fn join(namespaces: &[OwnedFd]) -> nix::Result<()> {
    namespaces.iter().try_for_each(|fd| setns(fd.as_fd(), 0))
}

/// Those of this thread, by their names in /proc.
///
/// # Errors
/// One that cannot be opened.
pub fn own_namespaces(names: &[&str]) -> Result<Vec<OwnedFd>> {
    let open = |name: &&str| {
        let path = format!("/proc/thread-self/ns/{name}");
        std::fs::File::open(&path).map(OwnedFd::from).during(|| format!("open({path})"))
    };
    names.iter().map(open).collect()
}
