//! Namespaces, id mappings, time offsets and sysctls.

use crate::check::Check;
use crate::facts::Facts;
use crate::oci::config::{IdMapping, Linux};
use std::path::PathBuf;

/// Name in config.json, file below /proc/PID/ns, flag.
pub const KINDS: [(&str, &str, i32); 8] = [
    ("user", "user", libc::CLONE_NEWUSER),
    ("cgroup", "cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", "ipc", libc::CLONE_NEWIPC),
    ("uts", "uts", libc::CLONE_NEWUTS),
    ("network", "net", libc::CLONE_NEWNET),
    ("pid", "pid", libc::CLONE_NEWPID),
    ("time", "time", CLONE_NEWTIME),
    ("mount", "mnt", libc::CLONE_NEWNS),
];

/// The name of a kind of namespace by its `CLONE_NEW*` flag, as in `linux.namespaces[].type`.
pub fn kind(flag: i32) -> &'static str {
    KINDS.iter().find(|k| k.2 == flag).map_or("", |k| k.0)
}

/// setns(2) as strace writes it.
pub fn setns(path: &std::path::Path, flag: i32) -> String {
    let name = match kind(flag) {
        "network" => "NET".into(),
        "mount" => "NS".into(),
        other => other.to_uppercase(),
    };
    format!("setns({}, CLONE_NEW{name})", path.display())
}

/// EINVAL of setns(2) in words: the file is no namespace, or one of another kind.
pub fn not_one(e: crate::Error, flag: i32) -> crate::Error {
    match e.errno {
        // setns(2) refuses with the same errno what cannot be entered from here.
        Some(nix::errno::Errno::EINVAL) => {
            let kind = kind(flag);
            let article = if kind == "ipc" { "an" } else { "a" };
            let more = match kind {
                "pid" => " below the runtime's own",
                "user" => ", or the runtime's own",
                _ => "",
            };
            e.during(&format!("not {article} {kind} namespace{more}"))
        }
        _ => e,
    }
}

/// Linux 5.6; libc has no name for it on every target.
pub const CLONE_NEWTIME: i32 = 0x80;

#[derive(Debug, Default, Clone)]
pub struct Namespaces {
    /// `CLONE_NEW*` of the namespaces to create.
    pub new: i32,
    /// The namespaces to join, in the order of [`KINDS`].
    pub join: Vec<Join>,
    /// Mappings of a new user namespace.
    pub maps: Option<Maps>,
    /// Bytes of a page of memory, which a map of ids must fit into; 0 if it is not known.
    pub page: usize,
    /// The text for /proc/self/timens_offsets.
    pub time_offsets: Option<String>,
    /// How many processes it takes: see [`Hops`].
    pub hops: Hops,
}

/// One `clone3` suffices, except where the parent could enter a namespace but not come back: a user namespace, and any
/// for a runtime that is root of a user namespace only (rootless Podman), because its own ones are the host's. A child
/// enters them and clones the container's init as its sibling.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    #[default]
    One,
    Two,
}

#[derive(Debug, Clone)]
pub struct Join {
    pub flag: i32,
    pub path: PathBuf,
    pub field: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    pub uid: Vec<IdMapping>,
    pub gid: Vec<IdMapping>,
}

impl Namespaces {
    /// True if the container does not use the runtime's namespace of that kind.
    pub fn private(&self, flag: i32) -> bool {
        self.creates(flag) || self.joins(flag)
    }
    pub fn creates(&self, flag: i32) -> bool {
        self.new & flag != 0
    }
    pub fn joins(&self, flag: i32) -> bool {
        self.join.iter().any(|j| j.flag == flag)
    }
}

impl Maps {
    /// The text of `uid_map` or `gid_map`.
    pub fn text(list: &[IdMapping]) -> String {
        list.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect()
    }

    /// The host id of a container id.
    pub fn to_host(list: &[IdMapping], id: u32) -> Option<u32> {
        list.iter()
            .find(|m| {
                id >= m.container_id
                    && u64::from(id) < u64::from(m.container_id) + u64::from(m.size)
            })
            .and_then(|m| m.host_id.checked_add(id - m.container_id))
    }
}

pub(super) fn make(linux: &Linux, facts: &Facts, check: &mut Check) -> Namespaces {
    let mut out = Namespaces { page: facts.page, ..Namespaces::default() };
    for (i, ns) in linux.namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{i}]");
        let Some((_, _, flag)) = KINDS.iter().find(|(name, _, _)| *name == ns.kind) else {
            let known: Vec<_> = KINDS.iter().map(|k| k.0).collect();
            check.bad(
                format!("{field}.type"),
                format!("{:?}: expected one of {}", ns.kind, known.join(", ")),
            );
            continue;
        };
        if out.private(*flag) {
            check.bad(field, format!("duplicate namespace {:?}", ns.kind));
            continue;
        }
        match ns.path.as_deref().filter(|p| !p.is_empty()) {
            None => out.new |= flag,
            Some(path) => out.join.extend(join(*flag, path, &field, facts, check)),
        }
    }
    // In the order in which they have to be joined; of each kind there is one at most.
    let mut given = std::mem::take(&mut out.join);
    for (_, _, flag) in KINDS {
        out.join.extend(given.iter().position(|j| j.flag == flag).map(|i| given.swap_remove(i)));
    }
    let no_way_back = |j: &Join| {
        j.flag == libc::CLONE_NEWUSER || (!facts.initial_userns && j.flag != libc::CLONE_NEWNS)
    };
    if out.join.iter().any(no_way_back) {
        out.hops = Hops::Two;
    }
    user(linux, &mut out, facts, check);
    time(linux, &mut out, check);
    out
}

fn join(flag: i32, path: &str, field: &str, facts: &Facts, check: &mut Check) -> Option<Join> {
    let field = format!("{field}.path");
    if !path.starts_with('/') {
        check.bad(field, format!("{path:?} is not an absolute path"));
        return None;
    }
    let kind = KINDS.iter().find(|k| k.2 == flag).map_or("", |k| k.1);
    let own = |(own, file): &(PathBuf, &str)| *own == *crate::text::path(path) && *file == kind;
    if flag != libc::CLONE_NEWNS && facts.own_namespaces.iter().any(own) {
        // The runtime's own: nothing to join, and above all not private. A sysctl or a host name would be the host's.
        return None;
    }
    Some(Join { flag, path: crate::text::path(path).into_owned(), field })
}

fn user(linux: &Linux, out: &mut Namespaces, facts: &Facts, check: &mut Check) {
    let lists = [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)];
    let given = lists.iter().any(|(_, l)| !l.is_empty());
    for (name, list) in lists {
        mapping_list(&format!("linux.{name}"), list, facts.page, check);
    }
    if out.creates(libc::CLONE_NEWUSER) {
        for (name, list) in lists {
            // The runtime sets the container up as its root, whoever the program then is.
            if !list.iter().any(|m| m.container_id == 0) {
                check.bad(
                    format!("linux.{name}"),
                    "the id 0 of a new user namespace must be mapped",
                );
            }
        }
        out.maps =
            Some(Maps { uid: linux.uid_mappings.0.clone(), gid: linux.gid_mappings.0.clone() });
    } else if out.private(libc::CLONE_NEWUSER) {
        // containerd and CRI-O send both; whether they agree with the namespace is checked when it is joined.
        if given {
            out.maps =
                Some(Maps { uid: linux.uid_mappings.0.clone(), gid: linux.gid_mappings.0.clone() });
        }
    } else if given {
        check.bad("linux.uidMappings", "mappings without a user namespace (linux.namespaces)");
    } else if facts.rootless {
        check.bad(
            "linux.namespaces",
            "an unprivileged runtime needs a user namespace with mappings",
        );
    }
}

/// user_namespaces(7): at most 340 lines, less than a `page` of text, sizes above zero, no overlap on either side, no id
/// 2^32-1.
pub fn mapping_list(field: &str, list: &[IdMapping], page: usize, check: &mut Check) {
    if list.len() > 340 {
        check.bad(field, format!("{} mappings; the kernel takes at most 340", list.len()));
        return;
    }
    let length = Maps::text(list).len();
    if page > 0 && length >= page {
        check.bad(
            field,
            format!(
                "{length} bytes as the kernel reads them; it takes less than a page ({page} bytes)"
            ),
        );
        return;
    }
    for (i, m) in list.iter().enumerate() {
        let end = |from: u32| u64::from(from) + u64::from(m.size);
        if m.size == 0 {
            check.bad(format!("{field}[{i}].size"), "must be greater than zero");
        }
        if end(m.container_id) > u64::from(u32::MAX) || end(m.host_id) > u64::from(u32::MAX) {
            check.bad(format!("{field}[{i}].size"), "the range leaves the ids 0 to 4294967294");
        }
        for (j, other) in list[..i].iter().enumerate() {
            let overlap = |a: u32, b: u32| {
                u64::from(a) < u64::from(b) + u64::from(other.size)
                    && u64::from(b) < u64::from(a) + u64::from(m.size)
            };
            if overlap(m.container_id, other.container_id) || overlap(m.host_id, other.host_id) {
                check.bad(format!("{field}[{i}]"), format!("overlaps {field}[{j}]"));
            }
        }
    }
}

/// config-linux.md "Offset for Time Namespace": clocks monotonic and boottime.
fn time(linux: &Linux, out: &mut Namespaces, check: &mut Check) {
    if linux.time_offsets.is_empty() {
        return;
    }
    if !out.creates(CLONE_NEWTIME) {
        check.bad("linux.timeOffsets", "needs a new time namespace (linux.namespaces)");
        return;
    }
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        let field = format!("linux.timeOffsets.{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            check.bad(field, "no such clock: expected monotonic or boottime");
            continue;
        }
        if offset.nanosecs > 999_999_999 {
            check.bad(format!("{field}.nanosecs"), "must be below 1000000000");
        }
        text += &format!("{clock} {} {}\n", offset.secs, offset.nanosecs);
    }
    out.time_offsets = Some(text);
}

/// A kernel parameter, as a path below /proc/sys.
#[derive(Debug, Clone)]
pub struct Sysctl {
    pub path: String,
    pub value: String,
    pub field: String,
}

const IPC_KEYS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Only parameters that belong to a namespace of the container; anything else would change the host
/// (CVE-2022-0811 is what an unchecked key leads to).
pub(super) fn sysctls(linux: &Linux, namespaces: &Namespaces, check: &mut Check) -> Vec<Sysctl> {
    let mut out = Vec::new();
    for (key, value) in linux.sysctl.iter() {
        let field = format!("linux.sysctl[{key:?}]");
        let Some(dotted) = normal_key(key) else {
            check.bad(field, "not a kernel parameter name");
            continue;
        };
        match namespace_of(&dotted) {
            _ if dotted == "kernel.hostname" => check.bad(field, "set the field hostname instead"),
            None => {
                check.bad(field, format!("sysctl {key:?} is not in a separate kernel namespace"))
            }
            Some((flag, name)) if !namespaces.private(flag) => {
                check.bad(
                    field,
                    format!("sysctl {key:?} is not allowed without a private {name} namespace"),
                );
            }
            Some(_) => out.push(Sysctl { path: path_of(&dotted), value: value.clone(), field }),
        }
    }
    out
}

/// The namespace that a parameter belongs to, with its name in config.json; none for those of the whole kernel.
fn namespace_of(dotted: &str) -> Option<(i32, &'static str)> {
    if IPC_KEYS.contains(&dotted) || dotted.starts_with("fs.mqueue.") {
        Some((libc::CLONE_NEWIPC, "ipc"))
    } else if dotted.starts_with("net.") {
        Some((libc::CLONE_NEWNET, "network"))
    } else if dotted == "kernel.domainname" {
        Some((libc::CLONE_NEWUTS, "uts"))
    } else if dotted.starts_with("user.") {
        Some((libc::CLONE_NEWUSER, "user"))
    } else {
        None
    }
}

/// A kernel parameter's path below /proc/sys and the `CLONE_NEW*` flag of the namespace that it belongs to; none for a
/// name that is no parameter's or that concerns the whole kernel.
pub fn sysctl_namespace(key: &str) -> Option<(String, i32)> {
    let dotted = normal_key(key)?;
    namespace_of(&dotted).map(|(flag, _)| (path_of(&dotted), flag))
}

/// sysctl.d(5): the first separator decides which of `.` and `/` separates; the other one is literal. Returns the
/// form with dots as separators and slashes as literals.
fn normal_key(key: &str) -> Option<String> {
    let first = key.find(['.', '/'])?;
    let dotted: String = if key.as_bytes()[first] == b'.' {
        key.to_string()
    } else {
        key.chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect()
    };
    let plain = |part: &str| {
        // A slash inside a component stands for a dot, as in net.ipv4.conf.eth0/100.
        !part.is_empty()
            && !part.starts_with('/')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-/".contains(c))
    };
    let clean = dotted.split('.').all(plain) && !dotted.contains("//");
    clean.then_some(dotted)
}

fn path_of(dotted: &str) -> String {
    dotted
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_keys() {
        assert_eq!(normal_key("net.ipv4.ip_forward").as_deref(), Some("net.ipv4.ip_forward"));
        assert_eq!(normal_key("net/ipv4/ip_forward").as_deref(), Some("net.ipv4.ip_forward"));
        assert_eq!(normal_key("net.ipv4/../../vm/stat_interval"), None);
        assert_eq!(normal_key("net/../vm/stat_interval"), None);
        assert_eq!(normal_key("kernel.shm_rmid_forced+kernel.core_pattern"), None);
        assert_eq!(
            path_of(&normal_key("net/ipv4/conf/eth0.100/forwarding").unwrap()),
            "net/ipv4/conf/eth0.100/forwarding"
        );
    }

    #[test]
    fn mappings_overlap_and_wrap() {
        let m = |c, h, size| IdMapping { container_id: c, host_id: h, size };
        let errors = |list: &[IdMapping]| {
            let mut check = Check::default();
            mapping_list("linux.uidMappings", list, 4096, &mut check);
            check.errors.into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert!(errors(&[m(0, 1000, 1), m(1, 100_000, 65536)]).is_empty());
        assert_eq!(errors(&[m(0, 1000, 10), m(5, 2000, 10)]), ["linux.uidMappings[1]"]);
        assert_eq!(errors(&[m(0, 4_294_967_290, 10)]), ["linux.uidMappings[0].size"]);
        assert_eq!(errors(&[m(0, 0, 0)]), ["linux.uidMappings[0].size"]);
    }
}
