//! Which processes are in a container's cgroups.

use super::files::read;
use super::group::Group;
use std::path::{Path, PathBuf};

impl Group {
    /// Every process in the cgroup and below it.
    pub fn pids(&self) -> Vec<i32> {
        let Some(dir) = self.process_dir() else {
            return Vec::new();
        };
        let mut out = Vec::new();
        collect_pids(&dir.path, 0, &mut out);
        // 0 is a process outside our PID namespace; as a target of kill(2) it would be our own group.
        out.retain(|pid| *pid > 0);
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Processes of the execs that have a cgroup of their own, `exec-NAME` below the container's in the v2 hierarchy
    /// (which conex's shim makes), with that name as it is printed: the container may have made such a directory too.
    pub fn execs(&self) -> Vec<(i32, String)> {
        let mut out = Vec::new();
        for leaf in self.unified().map(|dir| children(&dir.path)).unwrap_or_default() {
            let name = leaf.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix("exec-") else { continue };
            let mut pids = Vec::new();
            collect_pids(&leaf, 0, &mut pids);
            let shown: String = name.escape_debug().collect::<String>().replace(' ', "\\u{20}");
            out.extend(pids.into_iter().map(|pid| (pid, shown.clone())));
        }
        out
    }
}

pub(super) fn collect_pids(path: &Path, depth: u32, out: &mut Vec<i32>) {
    if let Ok(text) = read(&path.join("cgroup.procs")) {
        out.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    }
    for sub in children(path).into_iter().filter(|_| depth < 64) {
        collect_pids(&sub, depth + 1, out);
    }
}

pub(super) fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(dir) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    dir.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}
