//! A mount as it will be made.

use super::namespaces::Maps;
use conex_sys::mount::MountAttr;
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Mount {
    pub field: String,
    /// Inside the rootfs, cleaned and relative to it.
    pub destination: PathBuf,
    pub kind: Action,
    pub source: String,
    /// Per-mount attributes to set and clear, on the mount itself and on everything below it.
    pub attr: MountAttr,
    /// Of what `attr` clears, the flags that nobody has named: where the kernel has locked them they stay.
    pub implied: u64,
    pub recursive: MountAttr,
    /// `MS_*` propagations in the order given, each with `MS_REC` or without.
    pub propagation: Vec<u64>,
    /// Options of the file system and of its superblock, in the order given.
    pub data: Vec<(String, Option<String>)>,
    pub tmpcopyup: bool,
    /// A bind of the symlink itself that the source is.
    pub source_nofollow: bool,
    /// On the symlink itself that the destination is.
    pub destination_nofollow: bool,
    /// A source that is a symlink is made anew at the destination instead.
    pub copy_symlink: bool,
    pub idmap: Option<Idmap>,
    pub label: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Bind {
        recursive: bool,
    },
    Fs(String),
    /// The container's cgroups, however this host has them.
    Cgroup(Vec<CgroupView>),
    Remount,
}

impl Action {
    pub fn name(&self) -> &str {
        match self {
            Action::Fs(name) => name,
            Action::Bind { .. } => "bind",
            Action::Remount => "remount",
            Action::Cgroup(_) => "cgroup",
        }
    }
}

/// One entry of a v1 or hybrid cgroup mount: a directory bound from the host, with its aliases.
#[derive(Debug, Clone, PartialEq)]
pub struct CgroupView {
    /// Directory name below the mount; empty for a pure v2 host, where the mount is the hierarchy.
    pub name: String,
    /// Where that hierarchy is mounted on the host.
    pub mount_point: PathBuf,
    pub aliases: Vec<String>,
    pub v2: bool,
}

#[derive(Debug, Clone)]
pub struct Idmap {
    pub recursive: bool,
    pub maps: Maps,
}
