//! Whether a container can do without a copy of the host's mounts.
//!
//! `CLONE_NEWNS` copies every mount of the host under one lock, and pivot_root lets go of them again: with 3,000 mounts that
//! is most of the time of a `run`. A container that needs nothing but its root file system, the sources of its bind mounts
//! and its cgroups gets these as detached trees (open_tree(2)), in a mount namespace that never held anything of the host's.

use crate::mount::{Action, Mount};
use crate::namespaces::Namespaces;
use crate::oci::config::Hooks;
use crate::text::{self, is_below};
use crate::{Plan, Rootfs};
use std::path::{Component, Path};

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

/// The mount of cgroups, if it may be made after everything else of the root file system: the host makes what it binds
/// meanwhile. Nothing that comes before it instead may be at its place, above or below it, and no symlink of an image may lead
/// there: all of it lies in file systems of this document that the kernel fills, or that begin empty.
///
/// On v2 alone the container makes a mount of its own, which needs nothing of the host's side.
pub fn comes_last(plan: &Plan) -> Option<usize> {
    let mounts = &plan.mounts;
    let (i, m) = mounts.iter().enumerate().find(|(_, m)| is_cgroup(m))?;
    let Action::Cgroup(views) = &m.kind else { return None };
    if views.iter().all(|v| v.v2) || !in_new(mounts, i, &m.destination, &["sysfs"]) {
        return None;
    }
    let fresh = ["tmpfs", "proc", "sysfs"];
    let apart = |path: &Path| !is_below(path, &m.destination) && !is_below(&m.destination, path);
    let mount = |(at, other): (usize, &Mount)| {
        apart(&other.destination) && in_new(mounts, at, &other.destination, &fresh)
    };
    let settled = |path: &Path| {
        let path = path.strip_prefix("/").unwrap_or(path);
        plain(path) && apart(path) && in_new(mounts, mounts.len(), path, &fresh)
    };
    let all = mounts.iter().enumerate().skip(i + 1).all(mount)
        && settled(Path::new("dev/console"))
        && plan.devices.list.iter().all(|node| settled(&node.path))
        && plan.readonly_paths.iter().chain(&plan.masked_paths).all(|p| settled(&text::path(p)));
    all.then_some(i)
}

/// True if no component leads up, or through a link of procfs.
fn plain(path: &Path) -> bool {
    path.components().all(|c| match c {
        Component::Normal(name) => {
            let name = name.as_encoded_bytes();
            !name.ends_with(b"self") && !name.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    })
}

/// True if `path` lies below the destination of a mount before the given one, and the nearest of these is a new file system of
/// one of the kinds.
fn in_new(mounts: &[Mount], before: usize, path: &Path, kinds: &[&str]) -> bool {
    let above = |m: &&Mount| path != m.destination && is_below(path, &m.destination);
    let nearest = mounts[..before].iter().rev().find(above);
    nearest.is_some_and(|m| {
        !m.destination.as_os_str().is_empty()
            && !m.tmpcopyup
            && matches!(&m.kind, Action::Fs(kind) if kinds.contains(&kind.as_str()))
    })
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

#[cfg(test)]
mod tests {
    use crate::facts::{CgroupFacts, Facts};
    use crate::hierarchy::Hierarchy;
    use crate::oci::template::Template;
    use crate::{make, Options};

    /// The index of the mount that comes last, on a host with v1, for runc's document after a change of its text.
    fn last(change: &dyn Fn(String) -> String) -> Option<usize> {
        let text = change(Template { terminal: false, ..Template::default() }.text());
        let hierarchy = |name: &str| Hierarchy {
            mount_point: format!("/sys/fs/cgroup/{name}").into(),
            controllers: vec![name.into()],
            v2: false,
        };
        let hierarchies = ["devices", "pids", "memory"].map(hierarchy).to_vec();
        let facts = Facts {
            capabilities: caps::all(),
            cgroup: CgroupFacts { hierarchies, ..CgroupFacts::default() },
            root: Some(true),
            initial_userns: true,
            page: 4096,
            ..Facts::default()
        };
        let options = Options { id: "x".into(), bundle: "/bundle".into(), ..Options::default() };
        let spec = serde_json::from_str(&text).unwrap();
        let plan = make(&spec, &options, &facts).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        super::comes_last(&plan)
    }

    #[test]
    fn cgroups_come_last_where_nobody_can_tell() {
        let mount = |destination: &str| {
            let added =
                format!(r#", {{"destination": "{destination}", "type": "tmpfs", "source": "x"}}"#);
            move |text: String| {
                let at =
                    text.find(r#"{"destination": "/sys/fs/cgroup""#).expect("a mount of cgroups");
                let end = at + text[at..].find('}').expect("its end") + 1;
                [&text[..end], &added, &text[end..]].concat()
            }
        };
        let whole = |text: String| text;
        let place = last(&whole).expect("runc's document");
        assert_eq!(last(&mount("/dev/x")), Some(place));
        // Its own place, above and below it; through the image; a name below which an image may have a link.
        for destination in ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys", "/data", "/etc/x"] {
            assert_eq!(last(&mount(destination)), None, "{destination}");
        }
        let replaced = |from: &'static str, to: &'static str| {
            move |text: String| {
                assert!(text.contains(from));
                text.replace(from, to)
            }
        };
        for (from, to) in [
            ("/proc/scsi", "/sys/fs/cgroup/memory"),
            ("/proc/scsi", "/srv/x"),
            ("/proc/scsi", "/proc/../srv"),
            ("/proc/scsi", "/proc/self/root/sys/fs"),
            ("/proc/bus", "/opt"),
            (
                r#""destination": "/sys", "type": "sysfs""#,
                r#""destination": "/sy", "type": "sysfs""#,
            ),
            (
                r#""destination": "/dev", "type": "tmpfs""#,
                r#""destination": "/de", "type": "tmpfs""#,
            ),
        ] {
            assert_eq!(last(&replaced(from, to)), None, "{to}");
        }
    }
}
