//! A cgroup by its open directories.

use crate::acts::hierarchy::Hierarchy;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// One directory per hierarchy.
pub struct Group {
    pub dirs: Vec<Dir>,
}

pub struct Dir {
    pub path: PathBuf,
    pub fd: OwnedFd,
    pub hierarchy: Hierarchy,
}
