//! Mounts: what each option means to the kernel, and which targets are allowed.

use super::namespaces::{Maps, Namespaces};
use super::{Check, Options};
use crate::host::facts::{Facts, Hierarchy};
use crate::oci::config::{self, Spec};
use crate::root::clean;
use conex_sys::mount::*;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Mount {
    pub field: String,
    /// Inside the rootfs, cleaned and relative to it.
    pub destination: PathBuf,
    pub kind: Kind,
    pub source: String,
    /// Per-mount attributes to set and clear, on the mount itself and on everything below it.
    pub attr: MountAttr,
    pub recursive: MountAttr,
    /// `MS_*` propagations in the order given, each with `MS_REC` or without.
    pub propagation: Vec<u64>,
    /// Options of the file system and of its superblock, in the order given.
    pub data: Vec<(String, Option<String>)>,
    pub tmpcopyup: bool,
    pub idmap: Option<Idmap>,
    pub label: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Bind {
        recursive: bool,
    },
    Fs(String),
    /// The container's cgroups, however this host has them.
    Cgroup(Vec<CgroupView>),
    Remount,
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

enum Effect {
    Set(u64),
    Clear(u64),
    Atime(u64),
    Propagation(u64),
    /// A flag of the superblock: fsconfig takes these names for every file system.
    Super,
    Bind(bool),
    Remount,
    CopyUp,
    Idmap(bool),
    Nothing,
}

use Effect::*;

/// Every option of runtime-spec 1.3 (config.md, "Linux mount options") that is not data of a file system, without
/// the recursive forms: for these, `r` is put in front (see [`RECURSIVE`]).
const OPTIONS: &[(&str, Effect)] = &[
    ("async", Super),
    ("atime", Atime(ATTR_RELATIME)),
    ("bind", Bind(false)),
    ("defaults", Nothing),
    ("dev", Clear(ATTR_NODEV)),
    ("diratime", Clear(ATTR_NODIRATIME)),
    ("dirsync", Super),
    ("exec", Clear(ATTR_NOEXEC)),
    ("idmap", Idmap(false)),
    ("iversion", Nothing),
    ("lazytime", Super),
    ("loud", Nothing),
    ("mand", Super),
    ("noatime", Atime(ATTR_NOATIME)),
    ("nodev", Set(ATTR_NODEV)),
    ("nodiratime", Set(ATTR_NODIRATIME)),
    ("noexec", Set(ATTR_NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Super),
    ("nomand", Super),
    ("norelatime", Atime(ATTR_STRICTATIME)),
    ("nostrictatime", Atime(ATTR_RELATIME)),
    ("nosuid", Set(ATTR_NOSUID)),
    ("nosymfollow", Set(ATTR_NOSYMFOLLOW)),
    ("private", Propagation(libc::MS_PRIVATE as u64)),
    ("rbind", Bind(true)),
    ("relatime", Atime(ATTR_RELATIME)),
    ("remount", Remount),
    ("ridmap", Idmap(true)),
    ("ro", Set(ATTR_RDONLY)),
    ("rprivate", Propagation((libc::MS_PRIVATE | libc::MS_REC) as u64)),
    ("rshared", Propagation((libc::MS_SHARED | libc::MS_REC) as u64)),
    ("rslave", Propagation((libc::MS_SLAVE | libc::MS_REC) as u64)),
    ("runbindable", Propagation((libc::MS_UNBINDABLE | libc::MS_REC) as u64)),
    ("rw", Clear(ATTR_RDONLY)),
    ("shared", Propagation(libc::MS_SHARED as u64)),
    ("silent", Nothing),
    ("slave", Propagation(libc::MS_SLAVE as u64)),
    ("strictatime", Atime(ATTR_STRICTATIME)),
    ("suid", Clear(ATTR_NOSUID)),
    ("symfollow", Clear(ATTR_NOSYMFOLLOW)),
    ("sync", Super),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(libc::MS_UNBINDABLE as u64)),
];

/// Options that exist with an `r` in front, for the mount and everything below it.
const RECURSIVE: [&str; 18] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "noatime",
    "atime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
    "symfollow",
];

/// All option names, sorted, as `features` reports them.
pub fn option_names() -> Vec<String> {
    let mut names: Vec<String> = OPTIONS.iter().map(|(n, _)| n.to_string()).collect();
    names.extend(RECURSIVE.iter().map(|n| format!("r{n}")));
    names.sort();
    names.dedup();
    names
}

/// The flag of a `rootfsPropagation` value.
pub fn propagation(name: &str) -> Option<u64> {
    OPTIONS.iter().find(|(n, _)| *n == name).and_then(|(_, effect)| match effect {
        Propagation(flag) => Some(*flag),
        _ => None,
    })
}

/// lxcfs puts these below /proc; anything else mounted there could forge what the runtime writes (CVE-2019-16884).
const PROC_ALLOWED: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
];

pub(super) fn make(
    spec: &Spec,
    options: &Options,
    namespaces: &Namespaces,
    facts: &Facts,
    check: &mut Check,
) -> Vec<Mount> {
    let label = spec.linux.as_ref().and_then(|l| l.mount_label.clone()).filter(|l| !l.is_empty());
    if label.is_some() && !facts.selinux {
        check.unsupported("linux.mountLabel", "selinux is disabled or not supported");
    }
    let mut out = Vec::with_capacity(spec.mounts.len() + 1);
    for (i, m) in spec.mounts.iter().enumerate() {
        let field = format!("mounts[{i}]");
        out.extend(one(m, &field, options, namespaces, label.as_deref(), check));
    }
    if let Some(dir) = &options.notify_dir {
        out.push(notify_mount(dir));
    }
    out
}

fn one(
    m: &config::Mount,
    field: &str,
    options: &Options,
    namespaces: &Namespaces,
    label: Option<&str>,
    check: &mut Check,
) -> Option<Mount> {
    let mut out = Mount {
        field: field.to_string(),
        destination: clean(Path::new(&m.destination)),
        kind: Kind::Fs(m.kind.clone().unwrap_or_default()),
        source: m.source.clone().unwrap_or_default(),
        attr: MountAttr::default(),
        recursive: MountAttr::default(),
        propagation: Vec::new(),
        data: Vec::new(),
        tmpcopyup: false,
        idmap: None,
        label: None,
    };
    for (i, option) in m.options.iter().enumerate() {
        apply(&mut out, option, &format!("{field}.options[{i}]"), m, namespaces, check);
    }
    target(m, &out, field, check);
    kind(&mut out, m, field, options, check)?;
    idmap(&mut out, m, field, namespaces, check);
    if let (Some(label), Kind::Fs(fs)) = (label, &out.kind) {
        if !matches!(fs.as_str(), "proc" | "sysfs" | "mqueue") {
            out.label = Some(label.to_string());
        }
    }
    Some(out)
}

fn target(m: &config::Mount, out: &Mount, field: &str, check: &mut Check) {
    let field = format!("{field}.destination");
    let dest = &out.destination;
    if m.destination.is_empty() {
        check.bad(field, "required");
        return;
    }
    // runtime-spec: absolute; runc takes a relative one from the root and warns.
    if !m.destination.starts_with('/') {
        check.warn(field.clone(), format!("{:?} is not absolute; taken from the root", m.destination));
    }
    if dest.as_os_str().is_empty() {
        check.bad(field, "a mount on / is not possible: it is the root file system");
        return;
    }
    let below_proc = dest.starts_with("proc") && dest != Path::new("proc");
    let is_bind = matches!(out.kind, Kind::Bind { .. });
    let real = match &out.kind {
        Kind::Fs(fs) => fs == "proc" || fs == "procfs",
        // A bind of the host's own /proc, for containers in the host's PID namespace.
        Kind::Bind { .. } => Path::new(&out.source) == Path::new("/proc"),
        _ => false,
    };
    if dest == Path::new("proc") && !real && !matches!(out.kind, Kind::Remount) {
        check.bad(field, "only procfs may be mounted on /proc");
    } else if below_proc && !(is_bind && PROC_ALLOWED.iter().any(|p| dest == Path::new(p))) {
        check.bad(field, format!("\"/{}\" cannot be mounted because it is inside /proc", dest.display()));
    }
}

fn kind(out: &mut Mount, m: &config::Mount, field: &str, options: &Options, check: &mut Check) -> Option<()> {
    match &out.kind {
        Kind::Bind { .. } => {
            if out.source.is_empty() {
                check.bad(format!("{field}.source"), "required for a bind mount");
                return None;
            }
            // config.md: a relative source is relative to the bundle.
            out.source = options.bundle.join(&out.source).to_string_lossy().into_owned();
            // mount(2): the kernel ignores file system options of a bind mount.
            for (name, _) in &out.data {
                let i = m.options.iter().position(|o| o.split('=').next() == Some(name)).unwrap_or(0);
                check.warn(
                    format!("{field}.options[{i}]"),
                    format!("{name:?} is ignored: a bind mount takes no file system options"),
                );
            }
        }
        Kind::Fs(fs) if fs.is_empty() => {
            check.bad(format!("{field}.type"), "required unless the mount is a bind mount (options bind, rbind)");
            return None;
        }
        Kind::Fs(fs) if fs == "bind" => {
            // runc fails here with "no such device" because the option is missing; say what is.
            check.bad(
                format!("{field}.type"),
                "\"bind\" is no file system (no such device): add bind or rbind to options",
            );
            return None;
        }
        Kind::Fs(fs) if fs == "cgroup" => out.kind = Kind::Cgroup(Vec::new()),
        _ => {}
    }
    if out.tmpcopyup && !matches!(&out.kind, Kind::Fs(fs) if fs == "tmpfs") {
        check.bad(format!("{field}.options"), "tmpcopyup is for tmpfs only");
    }
    Some(())
}

fn apply(out: &mut Mount, option: &str, field: &str, m: &config::Mount, ns: &Namespaces, check: &mut Check) {
    if option.is_empty() {
        // Podman's mounts for a container with systemd have such ones; to mount(2) they are nothing.
        return;
    }
    if let Some((_, effect)) = OPTIONS.iter().find(|(n, _)| *n == option) {
        match effect {
            Set(_) | Clear(_) | Atime(_) => set(&mut out.attr, effect),
            Propagation(flag) => out.propagation.push(*flag),
            Super => out.data.push((option.to_string(), None)),
            Bind(recursive) => {
                let already = matches!(out.kind, Kind::Bind { recursive: true });
                out.kind = Kind::Bind { recursive: *recursive || already };
            }
            Remount => out.kind = Kind::Remount,
            CopyUp => out.tmpcopyup = true,
            Idmap(recursive) => out.idmap = Some(self::Idmap { recursive: *recursive, maps: maps_of(m, ns) }),
            Nothing => {}
        }
        return;
    }
    if let Some(base) = option.strip_prefix('r').filter(|b| RECURSIVE.contains(b)) {
        if let Some((_, effect)) = OPTIONS.iter().find(|(n, _)| *n == base) {
            set(&mut out.recursive, effect);
            return;
        }
    }
    let (key, value) = match option.split_once('=') {
        Some((k, v)) => (k, Some(v.to_string())),
        None => (option, None),
    };
    if key.is_empty() || option.contains('\0') {
        check.bad(field, format!("{option:?} is not a mount option"));
        return;
    }
    out.data.push((key.to_string(), value));
}

fn set(attr: &mut MountAttr, effect: &Effect) {
    match effect {
        Set(bit) => {
            attr.set |= bit;
            attr.clear &= !bit;
        }
        Clear(bit) => {
            attr.clear |= bit;
            attr.set &= !bit;
        }
        // mount_setattr(2): the access time setting is one value; to set it, all its bits are cleared.
        Atime(value) => {
            attr.clear |= ATTR_ATIME;
            attr.set = attr.set & !ATTR_ATIME | value;
        }
        _ => {}
    }
}

fn maps_of(m: &config::Mount, ns: &Namespaces) -> Maps {
    if m.uid_mappings.is_empty() && m.gid_mappings.is_empty() {
        return ns.maps.clone().unwrap_or(Maps { uid: Vec::new(), gid: Vec::new() });
    }
    Maps { uid: m.uid_mappings.0.clone(), gid: m.gid_mappings.0.clone() }
}

/// config.md: `uidMappings` on a mount without `idmap` or `ridmap` mean `idmap`; both lists or none.
fn idmap(out: &mut Mount, m: &config::Mount, field: &str, ns: &Namespaces, check: &mut Check) {
    let lists = [("uidMappings", &m.uid_mappings), ("gidMappings", &m.gid_mappings)];
    let given = lists.iter().filter(|(_, l)| !l.is_empty()).count();
    if given == 1 {
        let missing = if m.uid_mappings.is_empty() { "uidMappings" } else { "gidMappings" };
        check.bad(format!("{field}.{missing}"), "uidMappings and gidMappings go together");
    }
    if given == 2 && out.idmap.is_none() {
        out.idmap = Some(Idmap { recursive: false, maps: maps_of(m, ns) });
    }
    for (name, list) in lists {
        super::namespaces::mapping_list(&format!("{field}.{name}"), list, check);
    }
    let Some(map) = &out.idmap else { return };
    if !matches!(out.kind, Kind::Bind { .. }) {
        check.bad(format!("{field}.options"), "only a bind mount can be idmapped");
    } else if map.maps.uid.is_empty() {
        check.bad(
            format!("{field}.uidMappings"),
            "an idmapped mount needs mappings or a user namespace with mappings",
        );
    }
}

fn notify_mount(dir: &Path) -> Mount {
    Mount {
        field: "NOTIFY_SOCKET".into(),
        destination: "run/notify".into(),
        kind: Kind::Bind { recursive: false },
        source: dir.to_string_lossy().into_owned(),
        attr: MountAttr { set: ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | ATTR_RDONLY, ..MountAttr::default() },
        recursive: MountAttr::default(),
        propagation: Vec::new(),
        data: Vec::new(),
        tmpcopyup: false,
        idmap: None,
        label: None,
    }
}

/// Fills in what a `cgroup` mount means on this host.
///
/// v1 and hybrid: the hierarchies are bound from the host's mounts, never mounted afresh: a fresh mount of a v1
/// hierarchy makes the kernel walk every cgroup of the default tree.
pub(super) fn resolve_cgroup(mounts: &mut [Mount], namespaces: &Namespaces, facts: &Facts) {
    for m in mounts {
        if !matches!(m.kind, Kind::Cgroup(_)) {
            continue;
        }
        let unified = facts.cgroup.hierarchies.iter().all(|h| h.v2);
        if unified && namespaces.private(libc::CLONE_NEWCGROUP) {
            m.kind = Kind::Fs("cgroup2".into());
            continue;
        }
        m.kind = Kind::Cgroup(facts.cgroup.hierarchies.iter().map(|h| view(h, unified)).collect());
    }
}

fn view(h: &Hierarchy, unified: bool) -> CgroupView {
    let name = match h.mount_point.file_name() {
        Some(name) if !unified => name.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    // cpu,cpuacct is reached as cpu and as cpuacct.
    let aliases = if name.contains(',') { name.split(',').map(str::to_string).collect() } else { Vec::new() };
    CgroupView { name, mount_point: h.mount_point.clone(), aliases, v2: h.v2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> (Mount, Check) {
        let m = config::Mount {
            destination: "/data".into(),
            source: Some("/src".into()),
            kind: Some("tmpfs".into()),
            options: config::List(options.iter().map(|s| s.to_string()).collect()),
            ..config::Mount::default()
        };
        let mut check = Check::default();
        let out = one(&m, "mounts[0]", &Options::default(), &Namespaces::default(), None, &mut check);
        (out.unwrap(), check)
    }

    #[test]
    fn later_options_win() {
        let (m, _) = parse(&["nosuid", "suid", "ro", "noatime", "strictatime"]);
        assert_eq!(m.attr.set, ATTR_RDONLY | ATTR_STRICTATIME);
        assert_eq!(m.attr.clear, ATTR_NOSUID | ATTR_ATIME);
    }

    #[test]
    fn recursive_forms() {
        let (m, _) = parse(&["rbind", "rro", "rnoatime", "rprivate"]);
        assert_eq!(m.kind, Kind::Bind { recursive: true });
        assert_eq!(m.recursive.set, ATTR_RDONLY | ATTR_NOATIME);
        assert_eq!(m.propagation, [(libc::MS_PRIVATE | libc::MS_REC) as u64]);
    }

    #[test]
    fn data_of_the_file_system() {
        let (m, check) = parse(&["mode=755", "size=64k", "sync"]);
        assert_eq!(m.data[0], ("mode".into(), Some("755".into())));
        assert_eq!(m.data[2], ("sync".into(), None));
        assert!(check.errors.is_empty());
    }

    #[test]
    fn proc_is_guarded() {
        for dest in ["/proc", "/proc/self/attr", "//proc/../proc/sys"] {
            let m = config::Mount {
                destination: dest.into(),
                source: Some("/x".into()),
                options: config::List(vec!["bind".into()]),
                ..config::Mount::default()
            };
            let mut check = Check::default();
            one(&m, "mounts[0]", &Options::default(), &Namespaces::default(), None, &mut check);
            assert_eq!(check.errors[0].field, "mounts[0].destination", "{dest}");
        }
    }
}
