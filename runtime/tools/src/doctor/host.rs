//! What the kernel and the host's set-up give.

use super::finding::Finding;
use conex::acts::hierarchy::Hierarchy;
use conex::host::facts;
use conex::plan::namespaces::{Maps, KINDS};
use conex_sys::mount::{mount_setattr, open_tree_clone, MountAttr, ATTR_IDMAP};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

pub fn all() -> Vec<Finding> {
    let mut out = vec![kernel()];
    out.extend(cgroups());
    out.push(namespaces());
    out.extend(user_namespaces());
    out.extend(seccomp());
    out.push(security_modules());
    out.extend(idmapped());
    out.push(overlay());
    out.push(criu());
    out
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|t| t.trim().to_string())
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        v if v < (5, 4) => Finding::missing(
            "kernel",
            format!("Linux {release}"),
            "no container runs: conex needs Linux 5.8, or 5.4 without exec; boot a newer kernel",
        ),
        v if v < (5, 8) => Finding::missing(
            "kernel",
            format!("Linux {release}"),
            "conex exec fails before Linux 5.8 (setns with a pidfd); boot a newer kernel",
        ),
        v if v < (5, 12) => Finding::missing(
            "kernel",
            format!("Linux {release}"),
            "no idmapped mounts and no recursive mount options before Linux 5.12 (mount_setattr)",
        ),
        _ => Finding::ok("kernel", format!("Linux {release}")),
    }
}

fn cgroups() -> Vec<Finding> {
    let hierarchies = conex::acts::hierarchy::hierarchies();
    let v2 = hierarchies.iter().find(|h| h.v2);
    let v1: Vec<&Hierarchy> =
        hierarchies.iter().filter(|h| !h.v2 && !h.controllers.is_empty()).collect();
    let layout = match (v2, v1.is_empty()) {
        (Some(_), true) => "v2 alone",
        (Some(_), false) => "hybrid (v1 and v2)",
        (None, false) => "v1",
        (None, true) => {
            return vec![Finding::missing(
                "cgroups",
                "no cgroup file system is mounted",
                "limits, freezing and statistics do not work; mount -t cgroup2 none /sys/fs/cgroup",
            )]
        }
    };
    let list = |h: &Hierarchy| h.controllers.join(",");
    let mut all: Vec<String> = v1.iter().map(|h| list(h)).collect();
    all.extend(v2.map(|h| {
        format!("v2: {}", if h.controllers.is_empty() { "none".into() } else { list(h) })
    }));
    let mut out = vec![Finding::ok("cgroups", format!("{layout}; {}", all.join(" ")))];
    let has = |names: &[&str]| names.iter().any(|n| hierarchies.iter().any(|h| h.has(n)));
    let wanted = [
        (&["memory"][..], "memory limits and out-of-memory reports"),
        (&["cpu"], "CPU shares and quotas"),
        (&["cpuset"], "CPU and memory node sets"),
        (&["pids"], "limits of processes"),
        (&["io", "blkio"], "I/O weights and limits"),
        (&["hugetlb"], "huge page limits"),
    ];
    for (names, what) in wanted.into_iter().filter(|(names, _)| !has(names)) {
        out.push(Finding::missing(
            "cgroups",
            format!("no {} controller", names[0]),
            format!("no {what}; the kernel needs it built in and not disabled (cgroup_disable=)"),
        ));
    }
    out.extend(v2.and_then(delegated));
    out
}

/// What an unprivileged user may pass on to containers.
fn delegated(v2: &Hierarchy) -> Option<Finding> {
    if !facts::of_a_user() {
        return None;
    }
    let own = read("/proc/self/cgroup")?
        .lines()
        .find_map(|l| l.strip_prefix("0::/").map(str::to_string))?;
    let dir = v2.mount_point.join(own);
    let writable = nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK).is_ok();
    let controllers = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    Some(match writable {
        true => Finding::ok("cgroups", format!("delegated to this user: {}", controllers.trim())),
        false => Finding::missing(
            "cgroups",
            "nothing is delegated to this user",
            "no limits without root; under systemd: systemd-run --user --scope -p Delegate=yes …",
        ),
    })
}

fn namespaces() -> Finding {
    let file = |kind: &str| match kind {
        "network" => "net".to_string(),
        "mount" => "mnt".to_string(),
        other => other.to_string(),
    };
    let missing: Vec<&str> = KINDS
        .iter()
        .map(|k| k.0)
        .filter(|k| !Path::new(&format!("/proc/self/ns/{}", file(k))).exists())
        .collect();
    if missing.is_empty() {
        return Finding::ok("namespaces", "all eight kinds");
    }
    // Without time namespaces nearly everything runs.
    let area = if missing == ["time"] { "time namespace" } else { "namespaces" };
    Finding::missing(
        area,
        format!("no {} namespace", missing.join(", ")),
        "containers that ask for one fail; the kernel must be built with it",
    )
}

fn user_namespaces() -> Vec<Finding> {
    let area = "user ns";
    let mut out = Vec::new();
    let most = read("/proc/sys/user/max_user_namespaces").and_then(|t| t.parse::<u64>().ok());
    match most {
        Some(0) => out.push(Finding::missing(
            area,
            "user.max_user_namespaces is 0",
            "no container with a user namespace, and none without root; sysctl -w user.max_user_namespaces=15000",
        )),
        Some(n) => out.push(Finding::ok(area, format!("at most {n}"))),
        None => {}
    }
    let switches = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0, or a profile for conex with the rule userns",
        ),
    ];
    for (path, bad, cure) in switches {
        if read(path).as_deref() == Some(bad) {
            let what =
                format!("{} is {bad}", path.trim_start_matches("/proc/sys/").replace('/', "."));
            out.push(Finding::missing(
                area,
                what,
                format!("no containers without root; set {cure}"),
            ));
        }
    }
    let helper = |name: &str| {
        std::env::var_os("PATH")
            .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(name).is_file()))
    };
    if !helper("newuidmap") {
        out.push(Finding::missing(
            area,
            "no newuidmap in PATH",
            "without root a container has one id only; apt-get install uidmap",
        ));
    }
    out
}

fn seccomp() -> Vec<Finding> {
    let Some(actions) = read("/proc/sys/kernel/seccomp/actions_avail") else {
        return vec![Finding::missing(
            "seccomp",
            "not in this kernel",
            "containers with a profile fail; the kernel must be built with CONFIG_SECCOMP_FILTER",
        )];
    };
    vec![Finding::ok("seccomp", actions)]
}

fn security_modules() -> Finding {
    let list = read("/sys/kernel/security/lsm").unwrap_or_else(|| "list not readable".into());
    let on = |path: &str| read(path).is_some();
    let apparmor = read("/sys/module/apparmor/parameters/enabled").as_deref() == Some("Y");
    let selinux = match read("/sys/fs/selinux/enforce").as_deref() {
        Some("1") => "enforcing",
        Some(_) => "permissive",
        None => "off",
    };
    let apparmor = match apparmor {
        true if on("/sys/kernel/security/apparmor/profiles") => "on",
        true => "on, its profiles not readable",
        false => "off",
    };
    Finding::ok("LSM", format!("{list}; AppArmor {apparmor}, SELinux {selinux}"))
}

/// Tried, because it is up to each file system.
fn idmapped() -> Vec<Finding> {
    let area = "idmap";
    if facts::of_a_user() {
        return Vec::new();
    }
    let range =
        |first| conex::oci::config::IdMapping { container_id: 0, host_id: first, size: 65536 };
    let maps = Maps { uid: vec![range(100_000)], gid: vec![range(100_000)] };
    let user = match conex::host::userns::namespace_with(&maps) {
        Ok(user) => user,
        Err(e) => {
            return vec![Finding::missing(
                area,
                "not tried",
                format!("no user namespace could be made: {e}"),
            )]
        }
    };
    let mut seen: Vec<(u64, String, bool)> = Vec::new();
    for path in
        ["/", "/var/lib/containerd", "/var/lib/docker", "/var/lib/containers", "/run", "/tmp"]
    {
        use std::os::unix::fs::MetadataExt;
        let Ok(meta) = std::fs::metadata(path) else { continue };
        let fs = nix::sys::statfs::statfs(path)
            .map(|s| s.filesystem_type().0 as i64)
            .unwrap_or_default();
        if !seen.iter().any(|(dev, ..)| *dev == meta.dev()) {
            seen.push((
                meta.dev(),
                format!("{path} ({})", file_system(fs)),
                takes_idmap(path, &user).is_ok(),
            ));
        }
    }
    let names = |good: bool| {
        seen.iter().filter(|s| s.2 == good).map(|s| s.1.clone()).collect::<Vec<_>>().join(", ")
    };
    let mut out = Vec::new();
    if seen.iter().any(|s| s.2) {
        out.push(Finding::ok(area, names(true)));
    }
    if seen.iter().any(|s| !s.2) {
        let advice = "mounts with uidMappings fail there (Kubernetes: hostUsers: false); newer kernels allow more";
        out.push(Finding::missing(area, names(false), advice));
    }
    out
}

fn takes_idmap(path: &str, user: &std::os::fd::OwnedFd) -> nix::Result<()> {
    let tree = open_tree_clone(conex::acts::tree::cwd(), Path::new(path), false, true)?;
    let attr =
        MountAttr { set: ATTR_IDMAP, userns: user.as_raw_fd() as u64, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), false, &attr)
}

/// statfs(2), the ones that containers live on.
fn file_system(magic: i64) -> String {
    match magic {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x794c_7630 => "overlay".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0x6969 => "nfs".into(),
        0x0102_1997 => "9p".into(),
        other => format!("type {other:#x}"),
    }
}

fn overlay() -> Finding {
    if read("/proc/filesystems").is_some_and(|t| t.lines().any(|l| l.ends_with("overlay"))) {
        return Finding::ok("overlay", "in this kernel");
    }
    let advice = "engines fall back to slower storage, and conex copies itself into memory before each start; modprobe overlay";
    Finding::missing("overlay", "not in this kernel, or not loaded", advice)
}

fn criu() -> Finding {
    match super::engines::version_of("criu", &["--version"]) {
        Some(version) => Finding::ok("CRIU", version),
        None => Finding::missing(
            "CRIU",
            "not in PATH",
            "no checkpoint and restore; apt-get install criu",
        ),
    }
}
