//! What the plan needs to know of this host, read once.

use crate::acts::hierarchy::{self, Hierarchy};
use crate::oci::config::Spec;
use crate::plan::facts::{CgroupFacts, Facts};
use crate::plan::questions::questions;
use std::path::Path;

/// Reads what this document can depend on. `bundle` is where its relative paths begin.
pub fn read(spec: &Spec, bundle: &Path) -> Facts {
    let huge = spec
        .linux
        .as_ref()
        .and_then(|l| l.resources.as_ref())
        .is_some_and(|r| !r.hugepage_limits.is_empty());
    let asked = questions(spec, bundle);
    let root = asked.root.and_then(|path| path.metadata().ok()).map(|m| m.is_dir());
    let rootless = !nix::unistd::geteuid().is_root();
    let own = asked.namespaces.into_iter().filter(|(path, file)| own_namespace(path, file));
    Facts {
        rootless,
        capabilities: caps::read(None, caps::CapSet::Permitted).unwrap_or_default(),
        apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|b| b.first() == Some(&b'Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        resctrl: Path::new("/sys/fs/resctrl/schemata").exists(),
        of_a_user: of_a_user(),
        systemd: Path::new("/run/systemd/system").is_dir(),
        cgroup: CgroupFacts {
            hierarchies: hierarchies().to_vec(),
            hugepage_sizes: if huge { hugepages() } else { Vec::new() },
        },
        root,
        own_namespaces: own.collect(),
        setgroups_denied: (rootless || !initial_userns())
            && std::fs::read("/proc/self/setgroups").is_ok_and(|b| b.starts_with(b"deny")),
        initial_userns: initial_userns(),
        page: nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .unwrap_or(4096) as usize,
    }
}

/// [`hierarchy::hierarchies`], looked up once in the life of a command: each look asks about every one of them.
pub fn hierarchies() -> &'static [Hierarchy] {
    static KNOWN: std::sync::OnceLock<Vec<Hierarchy>> = std::sync::OnceLock::new();
    KNOWN.get_or_init(hierarchy::hierarchies)
}

/// A namespace is its inode on nsfs (namespaces(7)).
pub fn own_namespace(path: &Path, file: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |p: &Path| p.metadata().ok().map(|m| (m.dev(), m.ino()));
    id(path).is_some_and(|theirs| Some(theirs) == id(&Path::new("/proc/self/ns").join(file)))
}

/// The first user namespace has a number of its own on nsfs (PROC_USER_INIT_INO, include/linux/proc_ns.h, since Linux
/// 3.8); another one can map every id to itself as well. Asked on the host's side, which never changes its user namespace.
pub fn initial_userns() -> bool {
    const PROC_USER_INIT_INO: u64 = 0xEFFF_FFFD;
    static KNOWN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| {
        nix::sys::stat::stat("/proc/self/ns/user").is_ok_and(|s| s.st_ino == PROC_USER_INIT_INO)
    })
}

/// True for an unprivileged user, and for root inside a user namespace that an unprivileged user made.
pub fn of_a_user() -> bool {
    !nix::unistd::geteuid().is_root()
        || (!initial_userns() && std::env::var("USER").map_or(true, |u| u != "root"))
}

/// The effective user as the first user namespace knows it.
pub fn outer_uid() -> u32 {
    let own = nix::unistd::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let number = |w: Option<&str>| w.and_then(|w| w.parse::<u32>().ok());
    map.lines()
        .find_map(|l| {
            let mut words = l.split_whitespace();
            let (inner, outer, size) =
                (number(words.next())?, number(words.next())?, number(words.next())?);
            let offset = own.checked_sub(inner).filter(|o| *o < size)?;
            outer.checked_add(offset)
        })
        .unwrap_or(own)
}

/// True if this process may do to the host what only its root may. Asked on the host's side, see [`initial_userns`].
pub fn host_root() -> bool {
    nix::unistd::geteuid().is_root() && initial_userns()
}

fn hugepages() -> Vec<String> {
    let Ok(dir) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    dir.flatten()
        .filter_map(|e| {
            e.file_name()
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse::<u64>()
                .ok()
        })
        .map(|kb| match kb {
            kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
            kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
        .collect()
}
