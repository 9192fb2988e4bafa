//! `linux.resources` and the cgroup mount, on v1 and v2.

use crate::harness::*;
use serde_json::json;
use std::path::Path;

#[test]
fn resources_are_written() {
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources") = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": 40 << 20, "reservation": 20 << 20},
        "cpu": {"shares": 256, "quota": 20000, "period": 50000},
        "pids": {"limit": 33},
        "blockIO": {},
    });
    let mut want = vec![("pids", "pids.max", "33".to_string())];
    if has_controller("cpuset") {
        *b.at("linux.resources.cpu.cpus") = json!("0");
        *b.at("linux.resources.cpu.mems") = json!("0");
        want.push(("cpuset", "cpuset.cpus", "0".into()));
    } else {
        skip("resources_are_written (cpuset)", "the cpuset controller");
    }
    if v2() {
        want.extend([
            ("memory", "memory.max", (40 << 20).to_string()),
            ("memory", "memory.low", (20 << 20).to_string()),
            ("cpu", "cpu.weight", "35".into()),
            ("cpu", "cpu.max", "20000 50000".into()),
        ]);
    } else {
        *b.at("linux.resources.memory.swappiness") = json!(20);
        want.extend([
            ("memory", "memory.limit_in_bytes", (40 << 20).to_string()),
            ("memory", "memory.soft_limit_in_bytes", (20 << 20).to_string()),
            ("memory", "memory.swappiness", "20".into()),
            ("cpu", "cpu.shares", "256".into()),
            ("cpu", "cpu.cfs_quota_us", "20000".into()),
            ("cpu", "cpu.cfs_period_us", "50000".into()),
        ]);
    }
    b.up();
    for (controller, file, want) in want {
        assert_eq!(b.cgroup_file(controller, file), want, "{file}");
    }
    assert!(b.cgroup_file("devices", "cgroup.procs").contains(&b.pid().to_string()));
}

#[test]
fn a_parent_that_another_runtime_has_just_made() {
    // On v1 it has no CPUs and no memory nodes yet, and its children would have none either.
    let mut b = Box::sh("sleep 100");
    let name = format!("{}-parent", b.id);
    let parents: Vec<_> = hierarchies().iter().map(|h| h.join("conex-test").join(&name)).collect();
    // Another test's end may remove the tests' own parent in between.
    parents.iter().for_each(|p| until(|| std::fs::create_dir_all(p).is_ok(), "the parent"));
    *b.at("linux.cgroupsPath") = json!(format!("/conex-test/{name}/{}", b.id));
    b.up();
    b.exec(&["true"]).ok();
    b.verb("delete", &["--force"], &[]).ok();
    for p in &parents {
        std::fs::remove_dir(p).unwrap();
        let _ = std::fs::remove_dir(p.parent().unwrap());
    }
    b.assert_gone();
}

#[test]
fn a_threaded_cgroup_takes_no_container() {
    if !is_conex() {
        // runc says "cannot enter cgroupv2 … since it is in an invalid state" on v2, and nothing on a hybrid host.
        return;
    }
    let tree = Path::new("/sys/fs/cgroup").join(if v2() { "" } else { "unified" });
    if !tree.join("cgroup.procs").exists() {
        return skip("a_threaded_cgroup_takes_no_container", "a v2 tree");
    }
    let mut b = Box::sh("true");
    let name = format!("conex-test-{}", b.id);
    // Not in the tests' own parent: its other children would become invalid.
    let parent = tree.join(&name);
    std::fs::create_dir(&parent).unwrap();
    std::fs::write(parent.join("cgroup.type"), "threaded").unwrap();
    for (path, kind) in [(name.clone(), "threaded"), (format!("{name}/{}", b.id), "domain invalid")]
    {
        *b.at("linux.cgroupsPath") = json!(format!("/{path}"));
        let r = b.create().fails_with("linux.cgroupsPath");
        assert!(r.err.contains(&format!("cgroup.type is \\\"{kind}\\\"")), "{}", r.err);
        assert!(!parent.join(&b.id).exists());
    }
    std::fs::remove_dir(&parent).unwrap();
    b.assert_gone();
}

/// `docker run --cgroup-parent ../../x`: it ends at the root of the hierarchy, and never at the root cgroup.
#[test]
fn a_cgroup_path_that_leads_up() {
    let mut b = Box::sh("cat /proc/self/cgroup");
    b.drop_namespace("cgroup");
    // The last one is relative to the cgroup of whoever calls.
    for lead in ["/../../..", "/x/../../conex-test/y/../..", "../../../../../../../.."] {
        *b.at("linux.cgroupsPath") = json!(format!("{lead}/conex-test/{}", b.id));
        let out = b.run().ok().out;
        assert!(
            out.lines().any(|l| l.ends_with(&format!("/conex-test/{}", b.id))),
            "{lead}: {out}"
        );
        b.assert_gone();
    }
    for root in ["/..", "/x/../..", "/"] {
        *b.at("linux.cgroupsPath") = json!(root);
        if is_conex() {
            b.run().fails_with("is the root cgroup, which no container may use");
        }
    }
}

/// All processes have moved into sub-cgroups, as systemd's or Docker's do inside a container: kill -9 of all reaches them.
#[test]
fn processes_in_sub_cgroups_alone_are_killed() {
    let b = Box::sh("sleep 1000 & sleep 1001 & sleep 1002");
    b.up();
    let pids = || -> Vec<i32> {
        serde_json::from_str(&b.verb("ps", &["--format", "json"], &[]).ok().out).unwrap()
    };
    until(|| pids().len() >= 3, "all processes");
    let all = pids();
    for tree in hierarchies() {
        let own = tree.join("conex-test").join(&b.id);
        let sub = own.join("sub/deep");
        if !own.exists() || tree.ends_with("cpuset") || std::fs::create_dir_all(&sub).is_err() {
            continue;
        }
        for pid in &all {
            std::fs::write(sub.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(own.join("cgroup.procs")).unwrap(),
            "",
            "{}",
            own.display()
        );
    }
    assert_eq!(pids(), all);
    b.verb("kill", &["--all"], &["KILL"]).ok();
    b.wait_status("stopped");
    until(
        || all.iter().all(|pid| conex::identity::proc_stat(*pid).is_none_or(|s| s.0 == 'Z')),
        "all have ended",
    );
    b.verb("delete", &[], &[]).ok();
    b.assert_gone();
}

#[test]
fn exec_in_a_container_that_may_not_fork_any_more() {
    let mut b = Box::sh("exec sleep 100");
    *b.at("linux.resources.pids") = json!({"limit": 1});
    b.up();
    if !is_conex() {
        // A program in Go needs threads.
        return;
    }
    let pid = b.exec(&["readlink", "/proc/self"]).ok().out;
    assert!(pid.trim().parse::<i32>().unwrap() > 1, "{pid}");
    assert_eq!(b.cgroup_value("pids", "pids.current", "pids.current"), "1");
    b.exec(&["sh", "-c", "true & wait"]).fails_with("fork");
}

#[test]
fn the_cgroup_mount() {
    let mut b = Box::sh("ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -1; touch /sys/fs/cgroup/x 2>/dev/null || echo ro; cat /proc/self/cgroup | grep -vc ':/$'");
    b.push("mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}));
    let out = b.run().out;
    let listed = if v2() { "memory.max\n" } else { "memory\n" };
    assert!(out.contains(listed) && out.contains("1\nro\n0\n"), "{out}");
}

#[test]
fn hugetlb_on_the_unified_tree() {
    if !is_conex() {
        return;
    }
    let tree = if v2() { "" } else { "unified/" };
    let controllers = std::fs::read_to_string(format!("/sys/fs/cgroup/{tree}cgroup.controllers"))
        .unwrap_or_default();
    if !controllers.contains("hugetlb") {
        return skip("hugetlb_on_the_unified_tree", "hugetlb in a cgroup v2 tree");
    }
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.hugepageLimits") = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    b.up();
    assert_eq!(b.cgroup_file("unified", "hugetlb.2MB.max"), (4 << 20).to_string());
    assert_eq!(b.cgroup_file("unified", "hugetlb.2MB.rsvd.max"), (4 << 20).to_string());
}

#[test]
fn device_rules_by_bpf() {
    // Without the v1 devices hierarchy in sight the rules become a program on the unified tree.
    if !v2() && !std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        return skip("device_rules_by_bpf", "a cgroup v2 tree");
    }
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("head -c1 /dev/mine 2>&1; head -c1 /dev/null && echo null; true");
    b.push("linux.devices", json!({"path": "/dev/mine", "type": "c", "major": 10, "minor": 229}));
    let r = b.run_by_program();
    assert!(
        r.out.contains("Operation not permitted") && r.out.contains("null"),
        "{} {}",
        r.out,
        r.err
    );
}

#[test]
fn further_resources() {
    use std::os::unix::fs::MetadataExt;
    let dev = std::fs::metadata("/").unwrap().dev();
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    if major == 0 {
        return skip("further_resources", "a root file system on a block device");
    }
    let mut b = Box::sh("sleep 100");
    // Bursts of CPU time are as young as that (Linux 5.14).
    if missing("mount_setattr") == Some(OLDER) {
        return skip("further_resources", "cpu.max.burst, which is newer than this kernel");
    }
    *b.at("linux.resources.cpu") = json!({"quota": 20000, "period": 50000, "burst": 10000});
    *b.at("linux.resources.blockIO") = json!({
        "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 20}],
        "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 100}],
    });
    b.up();
    assert_eq!(b.cgroup_value("cpu", "cpu.cfs_burst_us", "cpu.max.burst"), "10000");
    if v2() {
        let want = format!("{major}:{minor} rbps={} wbps=max riops=max wiops=100", 1 << 20);
        assert_eq!(b.cgroup_file("io", "io.max"), want);
    } else {
        let (read, write) = ("blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device");
        assert_eq!(b.cgroup_file("blkio", read), format!("{major}:{minor} {}", 1 << 20));
        assert_eq!(b.cgroup_file("blkio", write), format!("{major}:{minor} 100"));
    }
    drop(b);
    let mut idle = Box::sh("sleep 100");
    *idle.at("linux.resources.cpu") = json!({"idle": 1});
    idle.up();
    assert_eq!(idle.cgroup_file("cpu", "cpu.idle"), "1");
}

#[test]
fn what_only_v2_has() {
    if !v2() {
        return skip("what_only_v2_has", "a pure cgroup v2 host");
    }
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.unified") = json!({"memory.high": "30003200", "pids.max": "12"});
    b.up();
    assert_eq!(b.cgroup_file("memory", "memory.high"), "30003200");
    assert_eq!(b.cgroup_file("pids", "pids.max"), "12");
    let stats: serde_json::Value =
        serde_json::from_str(&b.verb("events", &["--stats"], &[]).ok().out).unwrap();
    for kind in ["cpu", "memory", "blkio"] {
        let psi = &stats["data"][kind]["psi"];
        assert_eq!(
            psi["some"]["total"].is_u64(),
            Path::new("/proc/pressure/cpu").exists(),
            "{kind}: {psi}"
        );
    }
    drop(b);
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.blockIO") = json!({"weight": 500});
    let r = b.create();
    let dir = b.cgroups().pop();
    let value = |file: &str| dir.as_ref().and_then(|d| std::fs::read_to_string(d.join(file)).ok());
    if let Some(weight) = value("io.bfq.weight") {
        assert_eq!(weight.lines().next(), Some("default 500"));
    } else if let Some(weight) = value("io.weight") {
        assert_eq!(weight.lines().next(), Some("default 4950"));
    } else {
        // No scheduler that knows weights.
        assert!(!Path::new("/sys/fs/cgroup/io.cost.qos").exists());
        r.fails_with(if is_conex() { "linux.resources.blockIO.weight" } else { "io.weight" });
        b.assert_gone();
    }
}

#[test]
fn an_update_below_the_usage_is_refused() {
    if !is_conex() {
        return;
    }
    let mut b =
        Box::sh("dd if=/dev/zero of=/dev/fill bs=1M count=8 2>/dev/null; echo full; sleep 100");
    *b.at("linux.resources.memory") = json!({"limit": 64 << 20});
    b.up();
    until(|| b.output() == "full\n", "memory in use");
    let mut c = b.command(&["update", "-r", "-", &b.id]);
    finish(&mut c, br#"{"memory":{"limit":4194304,"checkBeforeUpdate":true}}"#)
        .fails_with("memory.limit: rejecting memory limit");
    assert_eq!(
        b.cgroup_value("memory", "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
}

#[test]
fn rdma_limits() {
    let device = std::fs::read_dir("/sys/class/infiniband")
        .ok()
        .and_then(|mut list| list.next()?.ok()?.file_name().into_string().ok())
        .filter(|_| has_controller("rdma"));
    let Some(device) = device else {
        return skip("rdma_limits", "the rdma controller and an RDMA device");
    };
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.rdma") = json!({device.clone(): {"hcaHandles": 3, "hcaObjects": 1000}});
    b.up();
    let want = format!("{device} hca_handle=3 hca_object=1000");
    assert!(
        b.cgroup_file("rdma", "rdma.max").lines().any(|l| l == want),
        "{}",
        b.cgroup_file("rdma", "rdma.max")
    );
    drop(b);
    let mut b = Box::sh("true");
    *b.at("linux.resources.rdma") = json!({"no-such-device": {"hcaHandles": 3}});
    b.create().fails_with("linux.resources.rdma");
    b.assert_gone();
}

#[test]
fn fields_of_one_cgroup_version_alone() {
    // Each is set on v1; on v2 it is an error, or a warning where v2 has nothing to limit, which names it.
    let cases = [
        (
            "memory.useHierarchy",
            json!({"memory": {"useHierarchy": true}}),
            "memory",
            "memory.use_hierarchy",
            "1",
        ),
        (
            "memory.disableOOMKiller",
            json!({"memory": {"limit": 50 << 20, "disableOOMKiller": true}}),
            "memory",
            "memory.oom_control",
            "oom_kill_disable 1",
        ),
        (
            "cpu.realtimeRuntime",
            json!({"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 1000}}),
            "cpu",
            "cpu.rt_runtime_us",
            "1000",
        ),
        (
            "network.classID",
            json!({"network": {"classID": 0x10001}}),
            "net_cls",
            "net_cls.classid",
            "65537",
        ),
    ];
    for (field, resources, controller, file, want) in cases {
        let mut b = Box::sh("sleep 100");
        *b.at("linux.resources") = resources;
        let hold = cgroup_path("cpu", &format!("hold-{}", b.id));
        let there = !v2()
            && std::path::Path::new("/sys/fs/cgroup").join(controller).join(file).exists()
            || (!v2() && controller == "memory");
        if there && controller == "cpu" {
            // Real-time bandwidth is shared out from the top: the parent must have some. A directory of ours keeps it
            // from going with the last container of another test.
            until(|| std::fs::create_dir_all(&hold).is_ok(), "a cgroup for real-time bandwidth");
            if std::fs::write(cgroup_path("cpu", "").join(file), "10000").is_err() {
                // Below a cgroup that has none, as in a container.
                skip(
                    &format!("fields_of_one_cgroup_version_alone ({file})"),
                    "real-time bandwidth above",
                );
                let _ = std::fs::remove_dir(&hold);
                continue;
            }
        }
        let r = b.create();
        let _ = std::fs::remove_dir(&hold);
        if there {
            assert_eq!(r.code, 0, "{field}: {}", r.err);
            assert!(
                b.cgroup_file(controller, file).contains(want),
                "{field}: {}",
                b.cgroup_file(controller, file)
            );
        } else if field == "memory.useHierarchy" {
            // v2 is hierarchical anyway.
            assert_eq!(r.code, 0, "{field}: {}", r.err);
        } else {
            let mut r = r;
            r.err = r.err.replace("realtimePeriod", "realtimeRuntime");
            r.fails_with(&format!("linux.resources.{field}"));
            b.assert_gone();
        }
    }
}

/// crun's flag, which Podman uses for `--cgroups=disabled`: the container stays where its caller is.
#[test]
fn no_cgroup_at_all() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("cat /proc/self/cgroup >/out; sleep 100");
    b.global = vec!["--cgroup-manager", "disabled"];
    // The names of its cgroups are those of the host without a cgroup namespace.
    b.at("linux.namespaces").as_array_mut().unwrap().retain(|n| n["type"] != "cgroup");
    *b.at("linux.resources") = json!({"pids": {"limit": 9}});
    b.run().fails_with("linux.resources.pids.limit: not applied: --cgroup-manager disabled");
    *b.at("linux.resources") = json!({});
    b.up();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    until(
        || std::fs::read_to_string(b.rootfs().join("out")).is_ok_and(|t| t == own),
        "the caller's cgroups",
    );
    b.call(&["kill", &b.id, "KILL"]).ok();
    b.wait_status("stopped");
    b.call(&["delete", &b.id]).ok();
    for (driver, flag) in [("sideways", ""), ("disabled", "--systemd-cgroup")] {
        b.global = vec!["--cgroup-manager", driver, flag];
        b.global.retain(|g| !g.is_empty());
        b.run().fails_with(if flag.is_empty() {
            "expected cgroupfs, systemd or disabled"
        } else {
            "exclude each other"
        });
    }
    b.global.clear();
    b.assert_gone();
}

#[test]
fn a_create_that_fails_gives_a_cgroup_its_limits_back() {
    let mut b = Box::sh("true");
    *b.at("linux.resources") = json!({"pids": {"limit": 9}, "memory": {"limit": 32 << 20},
        "devices": [{"allow": false, "access": "rwm"}]});
    *b.at("hooks.createRuntime") = json!([{"path": "/bin/false"}]);
    let limit = if v2() { "memory.max" } else { "memory.limit_in_bytes" };
    let dirs =
        ["memory", "pids", if v2() { "memory" } else { "devices" }].map(|c| cgroup_path(c, &b.id));
    for dir in &dirs {
        // Another test's end may remove the tests' own parent in between.
        until(|| std::fs::create_dir_all(dir).is_ok(), "the cgroup");
    }
    let [memory, pids, _] = &dirs;
    if v2() {
        for level in [memory.ancestors().nth(2).unwrap(), memory.parent().unwrap()] {
            std::fs::write(level.join("cgroup.subtree_control"), "+memory +pids").unwrap();
        }
    }
    std::fs::write(memory.join(limit), (64 << 20).to_string()).unwrap();
    std::fs::write(pids.join("pids.max"), "50").unwrap();
    let r = b.create();
    let list = [
        std::fs::read_to_string(pids.join("pids.max")).unwrap_or_default(),
        std::fs::read_to_string(memory.join(limit)).unwrap_or_default(),
        std::fs::read_to_string(dirs[2].join("devices.list")).unwrap_or_default(),
    ];
    for dir in &dirs {
        until(|| !dir.exists() || std::fs::remove_dir(dir).is_ok(), "rmdir");
    }
    r.fails_with(if is_conex() { "createRuntime" } else { "hook" });
    if is_conex() {
        // runc removes what it has not made.
        assert_eq!(list, ["50\n", "67108864\n", if v2() { "" } else { "a *:* rwm\n" }]);
    }
}

/// Without a cgroup namespace /proc/self/cgroup is a path in the whole tree, and so the whole tree is to be seen.
#[test]
fn the_whole_tree_without_a_cgroup_namespace() {
    let name = "the_whole_tree_without_a_cgroup_namespace";
    let mut b = Box::sh("p=$(sed -n s,^0::,,p /proc/self/cgroup); cat /sys/fs/cgroup$p/cgroup.procs | wc -l; ls /sys/fs/cgroup/cgroup.procs; (mkdir /sys/fs/cgroup/x) 2>/dev/null || echo ro");
    if !v2() {
        return skip(name, "a pure cgroup v2 host");
    }
    b.drop_namespace("cgroup");
    b.push("mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}));
    // The options of the host's superblock are the host's, however often it is shown.
    let host = || {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = text.lines().find(|l| l.contains(" /sys/fs/cgroup ")).unwrap_or_default();
        line.rsplit(' ').next().unwrap().to_string()
    };
    let before = host();
    let mut options = vec!["nosuid", "noexec", "nodev", "ro"];
    let many = if is_conex() { 4 } else { 1 };
    // What is below it can be made read-only since Linux 5.12.
    let known = |more: &str| more != "rro" || missing("mount_setattr").is_none();
    for (kind, more) in
        [("cgroup", ""), ("cgroup", "nsdelegate"), ("cgroup2", ""), ("cgroup", "rro")]
            .iter()
            .take(many)
            .filter(|(_, more)| known(more))
    {
        options.truncate(4);
        options.extend(Some(*more).filter(|o| !o.is_empty()));
        *b.at("mounts") = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": kind, "source": "cgroup", "options": options},
        ]);
        let out = b.run().ok().out;
        let processes: u32 = out.lines().next().unwrap().parse().unwrap();
        assert!(
            processes >= 1 && out.ends_with("/sys/fs/cgroup/cgroup.procs\nro\n"),
            "{kind} {more}: {out}"
        );
        if is_conex() {
            assert_eq!(host(), before, "{kind} {more}");
        }
    }
}

/// What an image's directory is copied into is memory of the container, and counts as its own.
#[test]
fn what_a_tmpfs_begins_with_is_the_containers_memory() {
    const SIZE: usize = 8 << 20;
    let mut b = Box::sh("sleep 100");
    std::fs::create_dir(b.dir.join("rootfs/data")).unwrap();
    std::fs::write(b.dir.join("rootfs/data/file"), vec![1; SIZE]).unwrap();
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let mounts = b.at("mounts").as_array_mut().unwrap();
    mounts.insert(0, mount);
    b.up();
    let used = b.cgroup_value("memory", "memory.usage_in_bytes", "memory.current");
    assert!(used.parse::<usize>().unwrap() >= SIZE, "{used}");
}
