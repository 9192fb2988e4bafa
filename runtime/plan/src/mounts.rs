//! Mounts, and which targets are allowed.

use super::mount::{Action, CgroupView, Idmap, Mount};
use super::mount_options::{apply, is_super, maps_of, Asked};
use super::namespaces::Namespaces;
use super::Options;
use crate::check::Check;
use crate::facts::Facts;
use crate::hierarchy::Hierarchy;
use crate::oci::config::{self, Spec};
use crate::text;
use crate::text::clean;
use conex_sys::mount::*;
use std::path::{Path, PathBuf};

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
    // crun's annotation, which Podman writes: `context` (the default), `fscontext`, `defcontext` or `rootcontext`.
    let key = spec.annotations.get("run.oci.mount_context_type").map_or("context", String::as_str);
    let known = ["context", "fscontext", "defcontext", "rootcontext"].contains(&key);
    if !known {
        let what = format!("{key:?}: expected context, fscontext, defcontext or rootcontext");
        check.bad("annotations[\"run.oci.mount_context_type\"]", what);
    }
    let label = label.filter(|_| known).map(|l| (key.to_string(), l));
    let common = Common {
        options,
        namespaces,
        label: label.as_ref(),
        hierarchies: &facts.cgroup.hierarchies,
        root: spec
            .root
            .as_ref()
            .map_or_else(PathBuf::new, |root| clean(&options.bundle.join(text::path(&root.path)))),
    };
    let mut out = Vec::with_capacity(spec.mounts.len() + 1);
    for (i, m) in spec.mounts.iter().enumerate() {
        let field = format!("mounts[{i}]");
        out.extend(one(m, &field, &common, check));
    }
    if let Some(dir) = &options.notify_dir {
        out.push(notify_mount(dir));
    }
    out
}

/// What all mounts of a document have in common.
struct Common<'a> {
    options: &'a Options,
    namespaces: &'a Namespaces,
    label: Option<&'a (String, String)>,
    hierarchies: &'a [Hierarchy],
    /// The root file system on the host, as [`clean`] has it.
    root: PathBuf,
}

fn one(m: &config::Mount, field: &str, common: &Common, check: &mut Check) -> Option<Mount> {
    let mut asked = Asked::default();
    for (i, option) in m.options.iter().enumerate() {
        apply(&mut asked, option, &format!("{field}.options[{i}]"), (m, common.namespaces), check);
    }
    let kind = kind(&asked, m, common);
    let destination = inside(common, clean(&text::path(&m.destination)));
    target(m, &destination, &kind, field, check);
    usable(&asked, &kind, m, field, check)?;
    combinations(&asked, &kind, m, field, check);
    idmap(&mut asked, &kind, m, (field, common.namespaces), check);
    let implied = implied(&asked.attr, &kind);
    asked.attr.clear |= implied;
    let source = m.source.clone().unwrap_or_default();
    let labelled = matches!(&kind, Action::Fs(fs) if !matches!(fs.as_str(), "proc" | "sysfs" | "mqueue"))
        && !is_cgroup(&asked, m);
    Some(Mount {
        field: field.to_string(),
        destination,
        source: match kind {
            // config.md: a relative source is relative to the bundle.
            Action::Bind { .. } => text::of_path(&common.options.bundle.join(text::path(&source))),
            _ => source,
        },
        kind,
        attr: asked.attr,
        implied,
        recursive: asked.recursive,
        propagation: asked.propagation,
        data: asked.data,
        tmpcopyup: asked.tmpcopyup,
        source_nofollow: asked.source_nofollow,
        destination_nofollow: asked.destination_nofollow,
        copy_symlink: asked.copy_symlink,
        idmap: asked.idmap,
        label: common.label.filter(|_| labelled).cloned(),
    })
}

/// A bind with any flag has just those that it asks for, as after mount(2) with MS_REMOUNT; without any it has those of its
/// source. So a file system that the host has mounted noexec can be given to a container that executes from it (`rw`). The
/// access time is apart, as in mount(2).
fn implied(attr: &MountAttr, kind: &Action) -> u64 {
    let named = attr.set | attr.clear;
    match kind {
        Action::Bind { .. } if named != 0 => {
            (ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | ATTR_NOSYMFOLLOW) & !named
        }
        _ => 0,
    }
}

/// Some callers write the destination as the host has it, below the root file system (runc takes both).
fn inside(common: &Common, destination: PathBuf) -> PathBuf {
    match destination.strip_prefix(&common.root) {
        Ok(below) => below.to_path_buf(),
        Err(_) => destination,
    }
}

/// A file system `cgroup`, however this host has it.
fn is_cgroup(asked: &Asked, m: &config::Mount) -> bool {
    !asked.remount && asked.bind.is_none() && m.kind.as_deref() == Some("cgroup")
}

/// What will be mounted. Bind and remount together mean what remount says.
///
/// v1 and hybrid: the hierarchies are bound from the host's mounts, never mounted afresh: a fresh mount of a v1
/// hierarchy makes the kernel walk every cgroup of the default tree.
fn kind(asked: &Asked, m: &config::Mount, common: &Common) -> Action {
    if asked.remount {
        return Action::Remount;
    }
    if let Some(recursive) = asked.bind {
        return Action::Bind { recursive };
    }
    if !is_cgroup(asked, m) {
        return Action::Fs(m.kind.clone().unwrap_or_default());
    }
    let unified = common.hierarchies.iter().all(|h| h.v2);
    match unified && common.namespaces.private(libc::CLONE_NEWCGROUP) {
        true => Action::Fs("cgroup2".into()),
        false => Action::Cgroup(common.hierarchies.iter().map(|h| view(h, unified)).collect()),
    }
}

fn target(m: &config::Mount, dest: &Path, kind: &Action, field: &str, check: &mut Check) {
    let field = format!("{field}.destination");
    if m.destination.is_empty() {
        check.bad(field, "required");
        return;
    }
    // runtime-spec: absolute; runc takes a relative one from the root and warns.
    if !m.destination.starts_with('/') {
        check.warn(
            field.clone(),
            format!("{:?} is not absolute; taken from the root", m.destination),
        );
    }
    if dest.as_os_str().is_empty() {
        check.bad(field, "a mount on / is not possible: it is the root file system");
        return;
    }
    let below_proc = dest.starts_with("proc") && dest != Path::new("proc");
    let is_bind = matches!(kind, Action::Bind { .. });
    let source = m.source.as_deref().unwrap_or("");
    let real = match kind {
        Action::Fs(fs) => fs == "proc" || fs == "procfs",
        // A bind of the host's own /proc, for containers in the host's PID namespace.
        Action::Bind { .. } => Path::new(source) == Path::new("/proc"),
        _ => false,
    };
    if dest == Path::new("proc") && !real && !matches!(kind, Action::Remount) {
        check.bad(field, "only procfs may be mounted on /proc");
    } else if below_proc && !(is_bind && PROC_ALLOWED.iter().any(|p| dest == Path::new(p))) {
        check.bad(
            field,
            format!("\"/{}\" cannot be mounted because it is inside /proc", dest.display()),
        );
    }
}

/// cgroup_v2 of the kernel's documentation, "Mounting".
const CGROUP2_OPTIONS: [&str; 7] = [
    "nsdelegate",
    "favordynmods",
    "nofavordynmods",
    "memory_localevents",
    "memory_recursiveprot",
    "memory_hugetlb_accounting",
    "pids_localevents",
];

/// Whether it can be mounted at all: what is missing, or of no use there.
fn usable(
    asked: &Asked,
    kind: &Action,
    m: &config::Mount,
    field: &str,
    check: &mut Check,
) -> Option<()> {
    match kind {
        Action::Bind { .. } => {
            if m.source.as_deref().unwrap_or("").is_empty() {
                check.bad(format!("{field}.source"), "required for a bind mount");
                return None;
            }
            // mount(2): the kernel ignores options of the file system with a bind mount. One that restricts or redirects
            // would be lost so; the flags of a superblock do neither.
            let data: std::collections::HashSet<&str> =
                asked.data.iter().map(|(name, _)| name.as_str()).collect();
            let names = m.options.iter().map(|o| o.split('=').next().unwrap_or(o));
            for (i, name) in names.enumerate().filter(|(_, name)| data.contains(name)) {
                let field = format!("{field}.options[{i}]");
                let what = "a bind mount takes no option of the file system";
                match is_super(name) {
                    true => check.warn(field, format!("{name:?} is ignored: {what}")),
                    false => check.bad(field, format!("{name:?}: {what}")),
                }
            }
            Some(())
        }
        Action::Fs(fs) if fs.is_empty() => {
            check.bad(
                format!("{field}.type"),
                "required unless the mount is a bind mount (options bind, rbind)",
            );
            None
        }
        Action::Fs(fs) if fs == "bind" => {
            // runc fails here with "no such device" because the option is missing; say what is.
            let what = "\"bind\" is no file system (no such device): add bind or rbind to options";
            check.bad(format!("{field}.type"), what);
            None
        }
        _ => Some(()),
    }
}

/// Options that need a mount of a certain kind.
fn combinations(asked: &Asked, kind: &Action, m: &config::Mount, field: &str, check: &mut Check) {
    let field = format!("{field}.options");
    let links = asked.source_nofollow || asked.destination_nofollow || asked.copy_symlink;
    if links && !matches!(kind, Action::Bind { .. }) {
        check.bad(
            field.clone(),
            "src-nofollow, dest-nofollow and copy-symlink are for bind mounts only",
        );
    }
    if is_cgroup(asked, m) {
        // Options of cgroup2's superblock, which the host has set: engines repeat them (containerd for privileged pods).
        let hosts = |name: &str| is_super(name) || CGROUP2_OPTIONS.contains(&name);
        for (name, _) in asked.data.iter().filter(|(name, _)| !hosts(name)) {
            check.bad(
                field.clone(),
                format!("{name:?}: the host's cgroups are bound, with no option"),
            );
        }
    }
    if asked.tmpcopyup && !matches!(kind, Action::Fs(fs) if fs == "tmpfs") {
        check.bad(field, "tmpcopyup is for tmpfs only");
    }
}

/// config.md: `uidMappings` on a mount without `idmap` or `ridmap` mean `idmap`; both lists or none.
fn idmap(
    out: &mut Asked,
    kind: &Action,
    m: &config::Mount,
    (field, ns): (&str, &Namespaces),
    check: &mut Check,
) {
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
        super::namespaces::mapping_list(&format!("{field}.{name}"), list, ns.page, check);
    }
    let Some(map) = &out.idmap else { return };
    if !matches!(kind, Action::Bind { .. }) {
        check.bad(format!("{field}.options"), "only a bind mount can be idmapped");
    } else if map.maps.uid.is_empty() && !ns.joins(libc::CLONE_NEWUSER) {
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
        kind: Action::Bind { recursive: false },
        source: text::of_path(dir),
        attr: MountAttr {
            set: ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC | ATTR_RDONLY,
            ..MountAttr::default()
        },
        implied: 0,
        recursive: MountAttr::default(),
        propagation: Vec::new(),
        data: Vec::new(),
        tmpcopyup: false,
        source_nofollow: false,
        destination_nofollow: false,
        copy_symlink: false,
        idmap: None,
        label: None,
    }
}

fn view(h: &Hierarchy, unified: bool) -> CgroupView {
    let name = match h.mount_point.file_name() {
        Some(name) if !unified => name.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    // cpu,cpuacct is reached as cpu and as cpuacct.
    let aliases =
        if name.contains(',') { name.split(',').map(str::to_string).collect() } else { Vec::new() };
    CgroupView { name, mount_point: h.mount_point.clone(), aliases, v2: h.v2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(m: &config::Mount, check: &mut Check) -> Option<Mount> {
        let (options, namespaces) = (Options::default(), Namespaces::default());
        one(
            m,
            "mounts[0]",
            &Common {
                options: &options,
                namespaces: &namespaces,
                label: None,
                hierarchies: &[],
                root: PathBuf::from("bundle/rootfs"),
            },
            check,
        )
    }

    fn parse(options: &[&str]) -> (Mount, Check) {
        let m = config::Mount {
            destination: "/data".into(),
            source: Some("/src".into()),
            kind: Some("tmpfs".into()),
            options: config::List(options.iter().map(|s| s.to_string()).collect()),
            ..config::Mount::default()
        };
        let mut check = Check::default();
        let out = alone(&m, &mut check);
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
        assert_eq!(m.kind, Action::Bind { recursive: true });
        assert_eq!(m.recursive.set, ATTR_RDONLY | ATTR_NOATIME);
        assert_eq!(m.propagation, [(libc::MS_PRIVATE | libc::MS_REC) as u64]);
    }

    #[test]
    fn flags_are_bits() {
        for order in
            [["remount", "bind", "ro"], ["bind", "ro", "remount"], ["ro", "remount", "rbind"]]
        {
            let (m, check) = parse(&order);
            assert!(
                m.kind == Action::Remount && m.attr.set == ATTR_RDONLY && check.errors.is_empty(),
                "{order:?}"
            );
        }
    }

    #[test]
    fn a_bind_mount_ignores_nothing_that_restricts() {
        let errors = |options: &[&str]| parse(options).1.errors.len();
        assert_eq!(errors(&["bind", "size=1k"]), 1);
        assert_eq!(errors(&["bind", "rsync"]), 1);
        assert_eq!(errors(&["bind", "nosuchoption"]), 1);
        assert_eq!(errors(&["bind", "sync", "lazytime"]), 0);
        assert_eq!(errors(&["src-nofollow"]), 1);
        assert_eq!(errors(&["rbind", "src-nofollow", "dest-nofollow", "copy-symlink"]), 0);
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
            alone(&m, &mut check);
            assert_eq!(check.errors[0].field, "mounts[0].destination", "{dest}");
        }
    }
}
