//! The cgroup hierarchies of the host, and what mountinfo says.

pub use conex_plan::hierarchy::Hierarchy;
use nix::sys::statfs::{statfs, CGROUP2_SUPER_MAGIC, CGROUP_SUPER_MAGIC};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The hierarchies in the order in which they are mounted; on a pure v2 host only one.
pub fn hierarchies() -> Vec<Hierarchy> {
    let unified = Path::new("/sys/fs/cgroup");
    if statfs(unified).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return vec![v2(unified.to_path_buf())];
    }
    if let Some(found) = read_text("/proc/self/cgroup").ok().and_then(|text| by_name(&text, is)) {
        return found;
    }
    let text = read_text("/proc/self/mountinfo").unwrap_or_default();
    // In a container a mount can be covered by a later one: its path leads elsewhere.
    parse_mountinfo(&text, |path| is(path, false) || is(path, true))
}

fn is(path: &Path, v2: bool) -> bool {
    let wanted = if v2 { CGROUP2_SUPER_MAGIC } else { CGROUP_SUPER_MAGIC };
    statfs(path).is_ok_and(|s| s.filesystem_type() == wanted)
}

/// The same by the names that systemd and every distribution give the directories, which costs nothing on a host with
/// thousands of mounts. `None` if one of them is elsewhere. cgroups(7): `id:controllers:path`, the latest mounted first, v2
/// last.
fn by_name(text: &str, is: impl Fn(&Path, bool) -> bool) -> Option<Vec<Hierarchy>> {
    let mut out = Vec::new();
    // Those of v1 first: ids grow, and that of v2 is 0.
    let (v2_line, v1): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.starts_with("0:"));
    for line in v1.into_iter().rev().chain(v2_line) {
        let controllers = line.split(':').nth(1)?;
        let base = Path::new("/sys/fs/cgroup");
        let dir = match controllers {
            "" => base.join("unified"),
            list => base.join(list.strip_prefix("name=").unwrap_or(list)),
        };
        let unified = controllers.is_empty();
        if !is(&dir, unified) {
            // The kernel lists v2 whether it is mounted or not; beside v1 it is mounted there or not at all.
            if unified && !out.is_empty() {
                continue;
            }
            return None;
        }
        out.push(match unified {
            true => v2(dir),
            false => Hierarchy {
                mount_point: dir,
                controllers: controllers.split(',').map(str::to_string).collect(),
                v2: false,
            },
        });
    }
    Some(out)
}

fn v2(mount_point: PathBuf) -> Hierarchy {
    let text = read_text(mount_point.join("cgroup.controllers")).unwrap_or_default();
    Hierarchy {
        mount_point,
        controllers: text.split_whitespace().map(str::to_string).collect(),
        v2: true,
    }
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
        let known = out
            .iter()
            .any(|h| h.v2 == found.v2 && (found.v2 || h.controllers == found.controllers));
        if !known && reachable(&found.mount_point) {
            out.push(found);
        }
    }
    out
}

/// mountinfo writes space, tab, newline and backslash as octal.
pub fn unescape(text: &str) -> std::ffi::OsString {
    let mut out = Vec::new();
    let bytes = conex_plan::text::bytes(text);
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

/// A file of the kernel's, some of whose words are names that anybody chose.
pub fn read_text(path: impl AsRef<Path>) -> std::io::Result<String> {
    read_bytes(path).map(|bytes| conex_plan::text::from_bytes(&bytes).into_owned())
}

/// The same as bytes. The kernel says that such a file has 0 bytes, and `std::fs::read` would ask for 32, 32, 64 … of them: it
/// is read at once, which saves a hundred system calls of a `run`.
pub fn read_bytes(path: impl AsRef<Path>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    std::fs::File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_by_their_names() {
        let text = "4:name=systemd:/\n2:cpu,cpuacct:/x:y\n1:memory:/\n0::/\n";
        let all = by_name(text, |path, v2| path.ends_with("unified") == v2).unwrap();
        let points: Vec<_> =
            all.iter().map(|h| h.mount_point.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(points, ["memory", "cpu,cpuacct", "systemd", "unified"]);
        assert_eq!(all[1].controllers, ["cpu", "cpuacct"]);
        assert_eq!(all[2].controllers, ["name=systemd"]);
        assert!(by_name(text, |path, _| !path.ends_with("memory")).is_none());
        assert_eq!(by_name(text, |_, v2| !v2).unwrap().len(), 3);
        assert!(by_name("0::/\n", |_, _| false).is_none());
    }

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
