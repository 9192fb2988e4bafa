//! A process that goes into cgroups by itself.

use crate::error::{Context, Result};
use std::os::fd::OwnedFd;

/// Moves the calling process, which has one thread, into the cgroups of these `tasks` files.
pub fn enter(tasks: &[(String, OwnedFd)]) -> Result<()> {
    tasks.iter().try_for_each(|(path, fd)| {
        let written = nix::unistd::write(fd, b"0").map(drop);
        written.call(|| format!("write({path}/tasks, 0)")).map_err(|e| e.at("linux.cgroupsPath"))
    })
}
