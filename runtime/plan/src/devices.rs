//! Device nodes below /dev.

use super::mount::{Action, Mount};
use crate::check::Check;
use crate::oci::config::{Device, Linux};
use crate::text::clean;
use std::collections::HashMap;
use std::path::PathBuf;

/// What to put into the container's /dev.
#[derive(Debug, Default)]
pub struct Nodes {
    /// The default nodes and links: left out where /dev itself is a bind mount, because they would land on the
    /// host.
    pub defaults: bool,
    pub list: Vec<DeviceNode>,
}

#[derive(Debug, Clone)]
pub struct DeviceNode {
    pub field: String,
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` with the permissions.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

/// config-linux.md "Default Devices"; /dev/console and /dev/ptmx are made with the terminal and with devpts.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

pub(super) fn nodes(linux: &Linux, mounts: &[Mount], check: &mut Check) -> Nodes {
    let dev_is_bind =
        mounts.iter().any(|m| m.destination == *"dev" && matches!(m.kind, Action::Bind { .. }));
    let mut out = Nodes { defaults: !dev_is_bind, list: Vec::new() };
    if out.defaults {
        out.list = DEFAULTS
            .iter()
            .map(|(name, major, minor)| DeviceNode {
                field: "linux.devices".into(),
                path: PathBuf::from("dev").join(name),
                mode: libc::S_IFCHR | 0o666,
                major: *major,
                minor: *minor,
                uid: 0,
                gid: 0,
            })
            .collect();
    }
    let mut places: HashMap<PathBuf, usize> =
        out.list.iter().enumerate().map(|(i, n)| (n.path.clone(), i)).collect();
    for (i, d) in linux.devices.iter().enumerate() {
        let Some(node) = node(d, format!("linux.devices[{i}]"), check) else { continue };
        // Engines list all that their host's /dev has: this one belongs to the devpts (runc leaves it out as well).
        if node.path == *"dev/ptmx" {
            continue;
        }
        match places.get(&node.path) {
            Some(at) => out.list[*at] = node,
            None => {
                places.insert(node.path.clone(), out.list.len());
                out.list.push(node);
            }
        }
    }
    // Whoever mounts a file in a device's place wants that file there (/dev/null on /dev/kmsg, with --privileged).
    out.list.retain(|node| mounts.iter().all(|m| m.destination != node.path));
    out
}

fn node(d: &Device, field: String, check: &mut Check) -> Option<DeviceNode> {
    let kind = match d.kind.as_str() {
        "c" | "u" => libc::S_IFCHR,
        "b" => libc::S_IFBLK,
        "p" => libc::S_IFIFO,
        other => {
            check.bad(format!("{field}.type"), format!("{other:?}: expected c, u, b or p"));
            return None;
        }
    };
    if !d.path.starts_with('/') || clean(&crate::text::path(&d.path)).as_os_str().is_empty() {
        check.bad(
            format!("{field}.path"),
            format!("{:?} is not the absolute path of a file", d.path),
        );
        return None;
    }
    if kind != libc::S_IFIFO && !(in_dev_range(d.major, 12) && in_dev_range(d.minor, 20)) {
        check.bad(format!("{field}.major"), format!("{}:{} is no device number", d.major, d.minor));
        return None;
    }
    if d.file_mode.is_some_and(|m| m & !0o177_777 != 0) {
        check.bad(format!("{field}.fileMode"), "more than permission bits");
    }
    Some(DeviceNode {
        path: clean(&crate::text::path(&d.path)),
        // Some engines store the type bits as well (runc: & 07777).
        mode: kind | (d.file_mode.unwrap_or(0o666) & 0o7777),
        major: d.major as u32,
        minor: d.minor as u32,
        uid: d.uid.unwrap_or(0),
        gid: d.gid.unwrap_or(0),
        field,
    })
}

pub(super) fn in_dev_range(number: i64, bits: u32) -> bool {
    (0..1 << bits).contains(&number)
}
