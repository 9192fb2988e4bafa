//! What the plan needs to know of this host, read once and never changed.

use crate::oci::config::Spec;
use caps::CapsHashSet;
use nix::sys::statfs::{statfs, CGROUP2_SUPER_MAGIC, CGROUP_SUPER_MAGIC};
use std::path::{Path, PathBuf};

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
    /// See [`of_a_user`].
    pub of_a_user: bool,
    pub cgroup: CgroupFacts,
    /// `Some(true)` for a directory, `Some(false)` for another file, `None` if there is nothing.
    pub kind_of: fn(&Path) -> Option<bool>,
    /// True if the path is the runtime's own namespace of that file name below /proc/PID/ns.
    pub own_namespace: fn(&Path, &str) -> bool,
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

impl Facts {
    /// Reads what this document can depend on.
    pub fn read(spec: &Spec) -> Facts {
        let huge =
            spec.linux.as_ref().and_then(|l| l.resources.as_ref()).is_some_and(|r| !r.hugepage_limits.is_empty());
        Facts {
            rootless: !nix::unistd::geteuid().is_root(),
            capabilities: caps::read(None, caps::CapSet::Permitted).unwrap_or_default(),
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|b| b.first() == Some(&b'Y')),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            resctrl: Path::new("/sys/fs/resctrl/schemata").exists(),
            of_a_user: of_a_user(),
            systemd: Path::new("/run/systemd/system").is_dir(),
            cgroup: CgroupFacts {
                hierarchies: hierarchies(),
                hugepage_sizes: if huge { hugepages() } else { Vec::new() },
            },
            kind_of: |path| path.metadata().ok().map(|m| m.is_dir()),
            own_namespace,
            initial_userns: initial_userns(),
            page: nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize,
        }
    }

    /// user_namespaces(7): an unprivileged writer of gid_map must deny setgroups, and a denial is inherited.
    /// `single`: the container maps one group.
    pub fn setgroups_denied(&self, single: bool) -> bool {
        (self.rootless && single)
            || ((self.rootless || !self.initial_userns)
                && std::fs::read("/proc/self/setgroups").is_ok_and(|b| b.starts_with(b"deny")))
    }
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
    *KNOWN.get_or_init(|| nix::sys::stat::stat("/proc/self/ns/user").is_ok_and(|s| s.st_ino == PROC_USER_INIT_INO))
}

/// True for an unprivileged user, and for root inside a user namespace that an unprivileged user made.
pub fn of_a_user() -> bool {
    !nix::unistd::geteuid().is_root() || (!initial_userns() && std::env::var("USER").map_or(true, |u| u != "root"))
}

/// The effective user as the first user namespace knows it.
pub fn outer_uid() -> u32 {
    let own = nix::unistd::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let number = |w: Option<&str>| w.and_then(|w| w.parse::<u32>().ok());
    map.lines()
        .find_map(|l| {
            let mut words = l.split_whitespace();
            let (inner, outer, size) = (number(words.next())?, number(words.next())?, number(words.next())?);
            let offset = own.checked_sub(inner).filter(|o| *o < size)?;
            outer.checked_add(offset)
        })
        .unwrap_or(own)
}

/// True if this process may do to the host what only its root may. Asked on the host's side, see [`initial_userns`].
pub fn host_root() -> bool {
    nix::unistd::geteuid().is_root() && initial_userns()
}

/// The hierarchies in the order in which they are mounted; on a pure v2 host only one.
pub fn hierarchies() -> Vec<Hierarchy> {
    let unified = Path::new("/sys/fs/cgroup");
    if statfs(unified).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return vec![v2(unified.to_path_buf())];
    }
    let text = crate::text::read("/proc/self/mountinfo").unwrap_or_default();
    // In a container a mount can be covered by a later one: its path leads elsewhere.
    parse_mountinfo(&text, |path| {
        let magic = statfs(path).map(|s| s.filesystem_type());
        magic.is_ok_and(|m| m == CGROUP_SUPER_MAGIC || m == CGROUP2_SUPER_MAGIC)
    })
}

fn v2(mount_point: PathBuf) -> Hierarchy {
    let text = std::fs::read_to_string(mount_point.join("cgroup.controllers")).unwrap_or_default();
    Hierarchy { mount_point, controllers: text.split_whitespace().map(str::to_string).collect(), v2: true }
}

/// proc_pid_mountinfo(5): `id parent dev root mountpoint options fields… - type source superoptions`. `reachable`: whether
/// the path leads to a cgroup file system.
pub fn parse_mountinfo(text: &str, reachable: impl Fn(&Path) -> bool) -> Vec<Hierarchy> {
    let mut out: Vec<Hierarchy> = Vec::new();
    for line in text.lines().filter(|l| l.contains(" - cgroup")) {
        let Some((head, tail)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount_point) = head.split(' ').nth(4) else {
            continue;
        };
        let mut tail = tail.split(' ');
        let (kind, options) = (tail.next().unwrap_or(""), tail.nth(1).unwrap_or(""));
        let mount_point = PathBuf::from(unescape(mount_point));
        let found = match kind {
            "cgroup2" => v2(mount_point),
            "cgroup" => {
                let known = |o: &&str| {
                    !matches!(
                        *o,
                        "rw" | "ro"
                            | "xattr"
                            // SELinux tells that the files have labels of their own.
                            | "seclabel"
                            | "clone_children"
                            | "noprefix"
                            | "none"
                            | "cpuset_v2_mode"
                            | "favordynmods"
                            | "nofavordynmods"
                    ) && !o.starts_with("release_agent=")
                };
                let controllers = options.split(',').filter(known).map(str::to_string).collect();
                Hierarchy { mount_point, controllers, v2: false }
            }
            _ => continue,
        };
        // A hierarchy can be mounted twice, in a container's rootfs for example; the first mount is the host's.
        let known = out.iter().any(|h| h.v2 == found.v2 && (found.v2 || h.controllers == found.controllers));
        if !known && reachable(&found.mount_point) {
            out.push(found);
        }
    }
    out
}

/// mountinfo writes space, tab, newline and backslash as octal.
pub fn unescape(text: &str) -> std::ffi::OsString {
    let mut out = Vec::new();
    let bytes = crate::text::bytes(text);
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes.get(i + 1..i + 4).and_then(|d| std::str::from_utf8(d).ok());
        match (bytes[i], octal.and_then(|d| u8::from_str_radix(d, 8).ok())) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                i += 4;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    std::os::unix::ffi::OsStringExt::from_vec(out)
}

fn hugepages() -> Vec<String> {
    let Ok(dir) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    dir.flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok())
        .map(|kb| match kb {
            kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
            kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
            kb => format!("{kb}KB"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_of_a_v1_host() {
        let text = "29 24 0:26 / /covered rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    32 24 0:28 / /x\\040y rw - ext4 /dev/vda rw\n\
                    33 24 0:26 / /again rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = parse_mountinfo(text, |path| !path.ends_with("covered"));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert!(found[0].mount_point.ends_with("cgroup/cpu,cpuacct"));
        assert_eq!(found[1].controllers, ["name=systemd"]);
        assert_eq!(unescape("/x\\040y"), "/x y");
    }
}
