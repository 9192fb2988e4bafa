//! The runtime as an unprivileged user: uid 1000, with and without ranges of ids, with and without cgroups.

use crate::harness::*;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const USER: u32 = 1000;

/// A bundle that belongs to the user, with his id alone mapped.
fn rootless(script: &str) -> Box {
    let mut b = Box::sh(script);
    b.prefix = [
        "setpriv",
        "--reuid=1000",
        "--regid=1000",
        "--clear-groups",
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    .map(String::from)
    .to_vec();
    b.prefix.push(format!("XDG_RUNTIME_DIR={}", runtime_dir().display()));
    // The test's directory is closed to others, and the runtime's may be.
    let base = std::env::temp_dir().join(format!("conex-rootless-{}", b.id));
    let _ = std::fs::remove_dir_all(&base);
    assert!(Command::new("cp").arg("-a").arg(&b.dir).arg(&base).status().unwrap().success());
    std::fs::remove_dir_all(&b.dir).unwrap();
    let binary = base.join(runtime().file_name().unwrap());
    copied(&runtime(), &binary);
    b.binary = Some(binary);
    b.dir = base;
    b.push("linux.namespaces", json!({"type": "user"}));
    *b.at("linux.uidMappings") = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    *b.at("linux.gidMappings") = json!([{"containerID": 0, "hostID": USER, "size": 1}]);
    *b.at("linux.resources") = json!({});
    b
}

fn runtime_dir() -> PathBuf {
    PathBuf::from(format!("/run/user/{USER}"))
}

/// Gives everything to the user; after the last change to the bundle.
fn hand_over(b: &Box) {
    b.write_config();
    let owner = format!("{USER}:{USER}");
    assert!(Command::new("chown")
        .arg("-R")
        .arg("-h")
        .arg(owner)
        .arg(&b.dir)
        .status()
        .unwrap()
        .success());
}

fn run(b: &Box) -> Ran {
    hand_over(b);
    b.verb("run", &[], &[])
}

#[test]
fn a_container_of_an_ordinary_user() {
    let script = "id -u; id -g; read a b c < /proc/self/uid_map; echo $a $b $c; hostname; ls /proc | grep -c '^1$'; head -c1 /dev/zero | wc -c; echo x > /new && cat /new; touch /proc/sys/kernel/x 2>/dev/null || echo ro";
    let mut b = rootless(script);
    b.at("linux").as_object_mut().unwrap().remove("cgroupsPath");
    let r = run(&b);
    assert_eq!(r.out, "0\n0\n0 1000 1\nbox\n1\n1\nx\nro\n", "{}", r.err);
    // Detached, with the other verbs.
    *b.at("process.args.2") = json!("exec sleep 100 >/dev/null 2>&1 </dev/null");
    hand_over(&b);
    assert_eq!(b.verb("run", &["-d"], &[]).code, 0);
    assert_eq!(b.exec(&["id", "-u"]).ok().out, "0\n");
    let status = std::fs::read_to_string(format!("/proc/{}/status", b.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{USER}\t{USER}")), "{status}");
    b.verb("kill", &["--all"], &["KILL"]);
    b.wait_status("stopped");
    b.verb("delete", &[], &[]).ok();
    b.assert_gone();
}

/// Made inside the user namespace: its root may, the user may not.
#[test]
fn a_time_namespace_of_an_ordinary_user() {
    for whole in [false, true] {
        let mut b =
            rootless("read up idle < /proc/uptime; test ${up%.*} -gt 1000000 && echo shifted");
        b.at("linux").as_object_mut().unwrap().remove("cgroupsPath");
        if whole {
            // All namespaces at once, as Docker has them.
            b.push("linux.devices", json!({"path": "/dev/x", "type": "p", "major": 0, "minor": 0}));
        }
        b.push("linux.namespaces", json!({"type": "time"}));
        *b.at("linux.timeOffsets") = json!({"boottime": {"secs": 1_000_000}});
        let r = run(&b);
        assert_eq!(r.out, "shifted\n", "{}", r.err);
        b.assert_gone();
    }
}

/// As rootless Podman calls it: root of a user namespace that the runtime did not make, with a network namespace of that
/// one, and with or without a further user namespace.
#[test]
fn root_of_a_user_namespace_joins_namespaces() {
    for further in [false, true] {
        // sysfs of a network that belongs to the outer namespace is bound from the host's, which takes a detached tree.
        let mut b = Box::sh("cat /proc/net/dev | grep -c :; readlink /proc/self/ns/net; hostname");
        let holder = "unshare --net --uts sleep 100 & p=$!; \
            until [ \"$(readlink /proc/$p/ns/uts)\" != \"$(readlink /proc/self/ns/uts)\" ]; do sleep 0.05; done; \
            sed -i s,HOLDER,$p,g config.json; \
            \"$@\"; code=$?; readlink /proc/$p/ns/net; kill $p; exit $code";
        b.prefix = [
            "unshare",
            "-Ur",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "sh",
            "-c",
            holder,
            "sh",
        ]
        .map(String::from)
        .to_vec();
        let list = b.at("linux.namespaces").as_array_mut().unwrap();
        list.retain(|n| !["network", "uts", "cgroup"].contains(&n["type"].as_str().unwrap()));
        list.push(json!({"type": "network", "path": "/proc/HOLDER/ns/net"}));
        list.push(json!({"type": "uts", "path": "/proc/HOLDER/ns/uts"}));
        if further {
            list.push(json!({"type": "user"}));
            *b.at("linux.uidMappings") = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
            *b.at("linux.gidMappings") = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        }
        *b.at("linux.resources") = json!({});
        b.at("linux").as_object_mut().unwrap().remove("cgroupsPath");
        b.config.as_object_mut().unwrap().remove("hostname");
        let r = b.run().ok();
        let lines: Vec<_> = r.out.lines().collect();
        assert_eq!(
            (lines.len(), lines[0], lines[1]),
            (4, "1", lines[3]),
            "further: {further}: {} {}",
            r.out,
            r.err
        );
    }
}

#[test]
fn ranges_of_ids_by_the_helpers() {
    let granted = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let entry =
        granted.lines().find_map(|l| l.strip_prefix("user:")).and_then(|l| l.split(':').next());
    let Some(first) = entry
        .and_then(|n| n.parse::<u32>().ok())
        .filter(|_| Path::new("/usr/bin/newuidmap").exists())
    else {
        return skip(
            "ranges_of_ids_by_the_helpers",
            "newuidmap and ids for the user 1000 in /etc/subuid",
        );
    };
    let mut b = rootless("id -u; id -G; touch /mine; stat -c %u /mine; cat /proc/self/setgroups");
    let map = json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": first, "size": 1000}]);
    *b.at("linux.uidMappings") = map.clone();
    *b.at("linux.gidMappings") = map;
    *b.at("process.user") = json!({"uid": 5, "gid": 6, "additionalGids": [7]});
    std::fs::set_permissions(b.rootfs(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let r = run(&b);
    assert_eq!(r.out, "5\n6 7\n5\nallow\n", "{}", r.err);
    // Ids that nobody has granted.
    *b.at("linux.uidMappings") = json!([{"containerID": 0, "hostID": USER, "size": 1}, {"containerID": 1, "hostID": 5, "size": 10}]);
    *b.at("process.user") = json!({"uid": 0, "gid": 0});
    run(&b).fails_with("linux.uidMappings");
    b.assert_gone();
}

#[test]
fn what_a_user_may_not_have_is_said() {
    let mut b = rootless("true");
    b.drop_namespace("user");
    b.at("linux").as_object_mut().unwrap().remove("uidMappings");
    b.at("linux").as_object_mut().unwrap().remove("gidMappings");
    run(&b).fails_with("linux.namespaces");
    let mut b = rootless("true");
    *b.at("linux.netDevices") = json!({"eth0": {"name": "x"}});
    run(&b).fails_with("linux.netDevices");
    // A group beside the only one that is mapped.
    let mut b = rootless("true");
    *b.at("process.user") = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
    run(&b).fails_with("additionalGids");
    b.assert_gone();
}

#[test]
fn limits_without_a_cgroup_are_warned_of_or_refused() {
    let mut b = rootless("echo ran");
    *b.at("linux.cgroupsPath") = json!(format!("/conex-test/{}", b.id));
    *b.at("linux.resources") = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 5}});
    let r = run(&b).ok();
    assert_eq!(r.out, "ran\n");
    for field in ["linux.resources.memory.limit", "linux.resources.pids.limit"] {
        assert!(r.err.contains("warning") && r.err.contains(field), "{field}: {}", r.err);
    }
    // Who wants them for sure says so.
    b.global.push("--rootless=false");
    run(&b).fails_with("linux.resources.memory.limit");
    // Not one line for each of thousands.
    b.global.pop();
    let rates: Vec<_> =
        (0..60).map(|minor| json!({"major": 8, "minor": minor, "rate": 9999})).collect();
    *b.at("linux.resources") = json!({"blockIO": {"throttleReadBpsDevice": rates}});
    let r = run(&b).ok();
    assert!(r.err.contains("throttleReadBpsDevice[0]"), "{}", r.err);
    if is_conex() {
        assert!(r.err.lines().count() <= 21 && r.err.contains("and 40 more"), "{}", r.err);
    }
    b.assert_gone();
}

/// What others make at the same time, where its own cgroup would have been, is not taken for its own.
#[test]
fn cgroups_that_others_make_meanwhile_are_left_alone() {
    let mut b = rootless("echo ran");
    let parent = cgroup_path("pids", &format!("meanwhile-{}", b.id));
    *b.at("linux.cgroupsPath") = json!(format!("/conex-test/meanwhile-{}/{}", b.id, b.id));
    let ended = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let _ = std::fs::create_dir_all(&parent);
                std::thread::sleep(Duration::from_micros(300));
                let _ = std::fs::remove_dir(&parent);
                std::thread::sleep(Duration::from_micros(300));
            }
            let _ = std::fs::remove_dir(&parent);
        });
        let ran: Vec<Ran> = (0..40).map(|_| run(&b)).collect();
        ended.store(true, Ordering::Relaxed);
        for r in ran {
            let r = r.ok();
            assert_eq!((r.out.as_str(), r.err.as_str()), ("ran\n", ""));
        }
    });
    b.assert_gone();
}

#[test]
fn a_delegated_directory_holds_the_limits() {
    if !v2() || !has_controller("memory") || !has_controller("pids") {
        return skip("a_delegated_directory_holds_the_limits", "a pure cgroup v2 host");
    }
    let mut b = rootless("sleep 100 >/dev/null 2>&1");
    let parent = Path::new("/sys/fs/cgroup/conex-test").join(format!("delegated-{}", b.id));
    std::fs::create_dir_all(parent.join("runtime")).unwrap();
    for dir in ["/sys/fs/cgroup", "/sys/fs/cgroup/conex-test"] {
        std::fs::write(format!("{dir}/cgroup.subtree_control"), "+memory +pids").unwrap();
    }
    for file in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
        "runtime",
        "runtime/cgroup.procs",
    ] {
        std::os::unix::fs::chown(parent.join(file), Some(USER), Some(USER)).unwrap();
    }
    let below = parent.strip_prefix("/sys/fs/cgroup").unwrap();
    *b.at("linux.cgroupsPath") = json!(format!("/{}/{}", below.display(), b.id));
    *b.at("linux.resources") = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 9}});
    // The user's own processes must be below as well: cgroups(7), "Delegation containment".
    let enter = format!("echo $$ > {}/runtime/cgroup.procs && exec \"$@\"", parent.display());
    let mut prefix = vec!["sh".to_string(), "-c".into(), enter, "sh".into()];
    prefix.append(&mut b.prefix);
    b.prefix = prefix;
    hand_over(&b);
    assert_eq!(b.verb("run", &["-d"], &[]).code, 0);
    let read =
        |f: &str| std::fs::read_to_string(parent.join(&b.id).join(f)).unwrap().trim().to_string();
    assert_eq!((read("memory.max"), read("pids.max")), ((64 << 20).to_string(), "9".to_string()));
    b.exec(&["true"]).ok();
    assert!(read("cgroup.procs").contains(&b.pid().to_string()));
    // cpu was not given to this tree.
    let r = b.verb("update", &["--cpu-share", "512"], &[]);
    if has_controller("cpu")
        && !std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap().contains("cpu")
    {
        assert!(r.code != 0 && r.err.contains("not delegated"), "{}", r.err);
    }
    b.verb("delete", &["--force"], &[]).ok();
    assert!(!parent.join(&b.id).exists());
    std::fs::remove_dir(parent.join("runtime")).unwrap();
    std::fs::remove_dir(parent).unwrap();
}

#[test]
fn the_users_own_systemd_makes_the_cgroup() {
    let manager = runtime_dir().join("systemd/private");
    if !manager.exists() || !v2() || !crate::systemd::booted() {
        return skip(
            "the_users_own_systemd_makes_the_cgroup",
            "a systemd of the user 1000 on cgroup v2",
        );
    }
    let mut b = rootless("exec sleep 100 >/dev/null 2>&1 </dev/null");
    b.global.push("--systemd-cgroup");
    *b.at("linux.cgroupsPath") = json!(format!("user.slice:cx:{}", b.id));
    *b.at("linux.resources") = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 9}});
    hand_over(&b);
    assert_eq!(b.verb("run", &["-d"], &[]).code, 0);
    let path = std::fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
    let path = path.trim().strip_prefix("0::/").unwrap().to_string();
    assert!(
        path.contains("user@1000.service") && path.ends_with(&format!("cx-{}.scope", b.id)),
        "{path}"
    );
    let read =
        |f: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(&path).join(f)).unwrap();
    assert_eq!((read("memory.max").trim(), read("pids.max").trim()), ("67108864", "9"));
    // The user may not move a process there by himself; his manager does it.
    b.exec(&["true"]).ok();
    assert_eq!(b.exec(&["sh", "-c", "cat /proc/self/cgroup"]).ok().out, "0::/\n");
    b.verb("update", &["--memory", "80M"], &[]).ok();
    assert_eq!(read("memory.max").trim(), (80 << 20).to_string());
    b.verb("delete", &["--force"], &[]).ok();
    until(|| !Path::new("/sys/fs/cgroup").join(&path).exists(), "the unit is gone");
    b.assert_gone();
}

#[test]
fn the_document_of_spec_rootless_runs() {
    let b = rootless("true");
    hand_over(&b);
    std::fs::remove_file(b.dir.join("config.json")).unwrap();
    b.call(&["spec", "--rootless"]).ok();
    let path = b.dir.join("config.json");
    let mut document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    document["process"]["terminal"] = json!(false);
    document["process"]["args"] = json!([
        "sh",
        "-c",
        "id -u; cat /sys/kernel/mm/transparent_hugepage/enabled >/dev/null; echo ran"
    ]);
    std::fs::write(&path, document.to_string()).unwrap();
    let r = b.verb("run", &[], &[]);
    assert_eq!(r.out, "0\nran\n", "{}", r.err);
}

/// Without a v2 tree, as in a container, it is found out late that no cgroup can be made.
#[test]
fn the_document_of_spec_rootless_runs_on_v1_alone() {
    if v2() || !is_conex() {
        return;
    }
    let mut b = rootless("true");
    let hide = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    let before =
        ["unshare", "-m", "--propagation", "private", "sh", "-c", hide, "sh"].map(String::from);
    b.prefix.splice(0..0, before);
    hand_over(&b);
    std::fs::remove_file(b.dir.join("config.json")).unwrap();
    b.call(&["spec", "--rootless", "--", "sh", "-c", "ls /sys/fs/cgroup; echo ran"]).ok();
    let r = b.verb("run", &[], &[]).ok();
    assert!(r.out.ends_with("ran\n"), "{} {}", r.out, r.err);
}

/// A directory without a document: root inside, and a network of its own unless the host's is asked for.
#[test]
fn a_directory_of_an_ordinary_user() {
    let b = rootless("true");
    hand_over(&b);
    let binary = b.binary.clone().unwrap();
    copied(&runtime().with_file_name("conex-tools"), &binary.with_file_name("conex-tools"));
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    let rootfs = b.rootfs();
    for (net, same) in [("none", false), ("host", true)] {
        let script = "id -u; readlink /proc/self/ns/net; ls /sys/class >/dev/null && echo sysfs";
        let args = [
            "run",
            "--rootfs",
            rootfs.to_str().unwrap(),
            "--name",
            &b.id,
            "--net",
            net,
            "--",
            "/bin/sh",
            "-c",
            script,
        ];
        let r = b.call(&args).ok();
        let lines: Vec<&str> = r.out.lines().collect();
        assert_eq!(
            (lines[0], lines[1] == host.to_str().unwrap(), lines[2]),
            ("0", same, "sysfs"),
            "{net}: {}",
            r.err
        );
    }
    b.call(&["run", "--rootfs", rootfs.to_str().unwrap(), "-m", "64m", "true"])
        .fails_with("--memory and --cpus");
}
