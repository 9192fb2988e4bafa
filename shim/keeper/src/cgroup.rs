//! The shim's own cgroup: `shim_cgroup` of `containerd.runc.v1.Options`.

use crate::log;
use crate::status::{During, Result};
use conex_cgroup::hierarchy::{hierarchies, Hierarchy};
use std::path::{Path, PathBuf};

/// Names the cgroup to the keeper, which is the last one in it.
pub const NAME: &str = "_CONEX_SHIM_CGROUP";

/// Marks a directory that a shim has made: another shim may be the last one in it, and somebody else's must stay.
const MARK: &str = "trusted.conex.shim";

/// Those that limit: on a hybrid host the v1 ones, as with containerd's own shim.
fn limiting() -> Vec<Hierarchy> {
    let all = hierarchies();
    let v1 = all.iter().any(|h| !h.v2);
    all.into_iter().filter(|h| !(v1 && h.v2)).collect()
}

fn directory(h: &Hierarchy, cgroup: &str) -> PathBuf {
    h.mount_point.join(cgroup.trim_start_matches('/'))
}

/// Puts a process there.
///
/// # Errors
/// What cannot be made or entered, by its path.
pub fn place(pid: i32, cgroup: &str) -> Result<()> {
    for h in limiting() {
        let dir = directory(&h, cgroup);
        let file = dir.join("cgroup.procs");
        let mut tries = 0;
        loop {
            let entered = make(&dir, &h.mount_point).and_then(|()| {
                std::fs::write(&file, pid.to_string())
                    .during(|| format!("write({}, {pid})", file.display()))
            });
            match entered {
                // The last shim in it has just taken it away, or its parent.
                Err(_) if tries < 10 && !dir.exists() => tries += 1,
                other => break other?,
            }
        }
    }
    Ok(())
}

/// A directory and its parents up to `top`, each with the CPUs and memory nodes of its parent: nobody can enter a cpuset
/// of v1 without them.
fn make(dir: &Path, top: &Path) -> Result<()> {
    let Some(parent) = dir.parent().filter(|_| dir != top) else { return Ok(()) };
    make(parent, top)?;
    match std::fs::create_dir(dir) {
        Ok(()) => {
            if let Err(e) = conex_sys::fd::set_xattr(dir, MARK, b"1") {
                log::warn("the shim's cgroup will not be removed", &[("error", e.desc())]);
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        other => other.during(|| format!("mkdir({})", dir.display()))?,
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        // Not of v2, where empty means all.
        if std::fs::read_to_string(&file).is_ok_and(|t| t.trim().is_empty())
            && !dir.join("cgroup.type").exists()
        {
            let text = std::fs::read_to_string(parent.join(name)).unwrap_or_default();
            std::fs::write(&file, text.trim()).during(|| format!("write({})", file.display()))?;
        }
    }
    Ok(())
}

/// What the keeper gets to know: the cgroup, and those of this process, to which it goes back.
pub fn note(cgroup: &str) -> String {
    let own = cgroups_of(std::process::id() as i32);
    let own = own.iter().map(|p| p.to_string_lossy().into_owned());
    std::iter::once(cgroup.to_string()).chain(own).collect::<Vec<_>>().join("\n")
}

/// Leaves it, and removes what shims have made of it and is empty.
pub fn leave(note: &str) {
    let mut lines = note.lines();
    let Some(cgroup) = lines.next() else { return };
    let origins: Vec<&Path> = lines.map(Path::new).collect();
    for h in limiting() {
        let mut dir = directory(&h, cgroup);
        let origin = origins.iter().find(|o| o.starts_with(&h.mount_point)).copied();
        let pid = std::process::id().to_string();
        // Of a v2 tree the root takes processes as well, if it is the real one.
        let _ = std::fs::write(origin.unwrap_or(&h.mount_point).join("cgroup.procs"), &pid)
            .or_else(|_| std::fs::write(h.mount_point.join("cgroup.procs"), &pid));
        while dir != h.mount_point && conex_sys::fd::has_xattr(&dir, MARK) {
            // Another shim is in it otherwise.
            if std::fs::remove_dir(&dir).is_err() || !dir.pop() {
                break;
            }
        }
    }
}

/// The cgroup directories of a process, by /proc/PID/cgroup and the mounts of this host.
pub fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let hierarchies = hierarchies();
    let mut out = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let same = |h: &&Hierarchy| {
            if h.v2 {
                controllers.is_empty()
            } else {
                controllers == h.controllers.join(",")
            }
        };
        let below = path.trim_start_matches('/');
        // Never the root cgroup: its figures are the host's.
        if let (Some(h), false) = (hierarchies.iter().find(same), below.is_empty()) {
            out.push(h.mount_point.join(below));
        }
    }
    out
}
