//! The runtime's own namespaces.

use crate::error::{Context, Result};
use crate::plan::namespaces::KINDS;
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// The runtime's own namespaces, to come back to.
pub(super) struct Home(pub(super) Vec<(OwnedFd, i32)>);

impl Home {
    pub(super) fn remember(&mut self, flag: i32) -> Result<()> {
        let file = KINDS.iter().find(|k| k.2 == flag).map_or("", |k| k.1);
        let path = format!("/proc/self/ns/{file}");
        let fd = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .call(|| format!("open({path})"))?;
        self.0.push((fd, flag));
        Ok(())
    }
    pub(super) fn back(&self) -> Result<()> {
        self.0.iter().try_for_each(|(fd, flag)| {
            proc::setns(fd.as_fd(), *flag).call(|| format!("setns(own, {flag:#x})"))
        })
    }
}
