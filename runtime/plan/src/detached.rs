//! Whether a container can do without a copy of the host's mounts.
//!
//! `CLONE_NEWNS` copies every mount of the host under one lock, and pivot_root lets go of them again: with 3,000 mounts that
//! is most of the time of a `run`. A container that needs nothing but its root file system, the sources of its bind mounts
//! and its cgroups gets these as detached trees (open_tree(2)), in a mount namespace that never held anything of the host's.

use crate::mount::{Action, Mount};
use crate::namespaces::Namespaces;
use crate::oci::config::Hooks;
use crate::Rootfs;

/// As many trees as fit into the usual limit of open files (RLIMIT_NOFILE, 1024), with room for all the rest.
const MOST: usize = 200;
/// As many as one message takes, beside what else is sent.
const MOST_HIERARCHIES: usize = 30;

/// File systems that are made of nothing of the host's: no path is in their source or options.
const OF_NOTHING: [&str; 17] = [
    "binfmt_misc",
    "bpf",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "proc",
    "pstore",
    "ramfs",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// True if nothing of the document needs the host's mounts once its trees are opened.
///
/// A mount that is made on the host between the opening of a tree and its attaching would never arrive in the container.
/// Whoever asks for propagation gets a copy, which misses none.
pub fn possible(rootfs: &Rootfs, mounts: &[Mount], hooks: &Hooks, ns: &Namespaces) -> bool {
    let propagation = match rootfs.propagation {
        // What is mounted on the host later arrives; nobody has asked for what is mounted meanwhile.
        p if p == (libc::MS_SLAVE | libc::MS_REC) as u64 => !rootfs.propagation_given,
        p => p == (libc::MS_PRIVATE | libc::MS_REC) as u64,
    };
    let cgroups = mounts.iter().filter(|m| is_cgroup(m)).count();
    propagation
        && ns.creates(libc::CLONE_NEWNS)
        && !rootfs.no_pivot
        // Those inside are programs of the host's; those of the runtime's side may enter the container's mount namespace and
        // bind from the host's there (NVIDIA's do).
        && [&hooks.prestart, &hooks.create_runtime, &hooks.create_container].iter().all(|h| h.is_empty())
        && mounts.len() <= MOST
        && cgroups <= 1
        && mounts.iter().all(one)
}

/// True for a mount that shows cgroups of the host's mounts, or may have to.
pub fn is_cgroup(m: &Mount) -> bool {
    match &m.kind {
        Action::Cgroup(_) => true,
        Action::Fs(kind) => kind == "cgroup2",
        _ => false,
    }
}

/// True if a mount may need mount(2), which reaches its target through a procfs: a file system whose parser is still that of
/// mount(2) takes no label with a comma from fsconfig(2), and the categories of SELinux have one.
pub fn needs_procfs(mounts: &[Mount]) -> bool {
    mounts.iter().any(|m| m.label.as_ref().is_some_and(|(_, label)| label.contains(',')))
}

fn one(m: &Mount) -> bool {
    let asks = m.propagation.iter().any(|p| p & (libc::MS_SLAVE | libc::MS_SHARED) as u64 != 0);
    !asks
        && match &m.kind {
            Action::Bind { .. } | Action::Remount => true,
            Action::Cgroup(views) => views.len() <= MOST_HIERARCHIES,
            // mount(2), which takes what fsconfig(2) does not, reaches its target through the host's /proc.
            Action::Fs(kind) => {
                OF_NOTHING.contains(&kind.as_str())
                    && m.source.len() <= 255
                    && m.data.iter().all(|(_, value)| {
                        value.as_ref().is_none_or(|v| v.len() <= 255 && !v.contains(','))
                    })
            }
        }
}
