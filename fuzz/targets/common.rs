//! Four hosts: v1, hybrid, v2 with systemd, and v2 for an unprivileged user.

use conex::plan::facts::{CgroupFacts, Facts};
use conex::plan::hierarchy::Hierarchy;

pub fn hosts() -> [Facts; 4] {
    let h = |mount: &str, controllers: &[&str], v2| Hierarchy {
        mount_point: mount.into(),
        controllers: controllers.iter().map(|c| c.to_string()).collect(),
        v2,
    };
    let v1 = [
        "cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "net_cls",
        "net_prio", "rdma",
    ];
    let v1: Vec<_> = v1.iter().map(|c| h(&format!("/sys/fs/cgroup/{c}"), &[c], false)).collect();
    let hybrid = [v1.clone(), vec![h("/sys/fs/cgroup/unified", &["hugetlb"], true)]].concat();
    let v2 = vec![h(
        "/sys/fs/cgroup",
        &["cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc"],
        true,
    )];
    let facts = |hierarchies: &Vec<Hierarchy>, rootless, systemd| Facts {
        rootless,
        capabilities: caps::all(),
        apparmor: systemd,
        selinux: rootless,
        resctrl: !rootless,
        systemd,
        of_a_user: rootless,
        cgroup: CgroupFacts {
            hierarchies: hierarchies.clone(),
            hugepage_sizes: vec!["2MB".into()],
        },
        root: Some(true),
        own_namespaces: vec![("/proc/1/ns/net".into(), "net"), ("/proc/self/ns/pid".into(), "pid")],
        setgroups_denied: rootless,
        initial_userns: !rootless,
        page: 4096,
    };
    [
        facts(&v1, false, false),
        facts(&hybrid, false, false),
        facts(&v2, false, true),
        facts(&v2, true, false),
    ]
}
