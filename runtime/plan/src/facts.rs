//! What the plan needs to know of a host: plain data, read by whoever is there.

use crate::hierarchy::Hierarchy;
use caps::CapsHashSet;
use std::path::PathBuf;

#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// True without real root.
    pub rootless: bool,
    /// What the runtime may pass on.
    pub capabilities: CapsHashSet,
    pub apparmor: bool,
    pub selinux: bool,
    pub resctrl: bool,
    /// True if systemd runs the host (sd_booted(3)).
    pub systemd: bool,
    /// True for an unprivileged user, and for root inside a user namespace that an unprivileged user made.
    pub of_a_user: bool,
    pub cgroup: CgroupFacts,
    /// What is at [`crate::questions::Questions::root`]: `Some(true)` for a directory, `Some(false)` for another file, `None` if there is
    /// nothing.
    pub root: Option<bool>,
    /// Those of [`crate::questions::Questions::namespaces`] that are the runtime's own.
    pub own_namespaces: Vec<(PathBuf, &'static str)>,
    /// True if this process's user namespace denies setgroups(2) (user_namespaces(7)).
    pub setgroups_denied: bool,
    /// True for root that is root of the host's ids, not of a user namespace.
    pub initial_userns: bool,
    /// Bytes of a page of memory.
    pub page: usize,
}

#[derive(Debug, Clone, Default)]
pub struct CgroupFacts {
    pub hierarchies: Vec<Hierarchy>,
    /// Sizes as the files of the hugetlb controller spell them: `2MB`.
    pub hugepage_sizes: Vec<String>,
}

impl Facts {
    /// user_namespaces(7): an unprivileged writer of gid_map must deny setgroups, and a denial is inherited.
    /// `single`: the container maps one group.
    pub fn setgroups_denied(&self, single: bool) -> bool {
        (self.rootless && single)
            || ((self.rootless || !self.initial_userns) && self.setgroups_denied)
    }
}
