//! A cgroup hierarchy of the host, as the plan knows it.

use std::path::PathBuf;

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    /// Controllers, or `name=…` for a hierarchy without any.
    pub controllers: Vec<String>,
    pub v2: bool,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        // v1 has blkio where v2 has io; the device and freezer controllers of v2 are part of every cgroup.
        self.controllers.iter().any(|c| c == controller)
    }
}
