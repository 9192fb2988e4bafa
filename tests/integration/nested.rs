//! Containers that manage cgroups themselves: another runtime or systemd inside.

use crate::harness::*;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const ALL: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_SYS_PTRACE",
];

/// A container in a user namespace with a cgroup of its own, to be written.
fn owner(script: &str) -> Box {
    let mut b = Box::sh(script);
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    b.push("linux.namespaces", json!({"type": "user"}));
    *b.at("linux.uidMappings") = map.clone();
    *b.at("linux.gidMappings") = map;
    for set in ["bounding", "effective", "permitted"] {
        *b.at(&format!("process.capabilities.{set}")) = json!(ALL);
    }
    *b.at("linux.maskedPaths") = json!([]);
    *b.at("linux.readonlyPaths") = json!([]);
    b.push("mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev"]}));
    let owner = "200000:200000";
    assert!(Command::new("chown")
        .args(["-R", "-h", owner])
        .arg(b.rootfs())
        .status()
        .unwrap()
        .success());
    b
}

#[test]
fn the_root_of_a_user_namespace_manages_its_own_cgroup() {
    if !v2() {
        return skip(
            "the_root_of_a_user_namespace_manages_its_own_cgroup",
            "a pure cgroup v2 host",
        );
    }
    let mut b = owner("cd /sys/fs/cgroup; mkdir sub && echo 0 > sub/cgroup.procs && echo moved; echo +pids > cgroup.subtree_control && echo 9 > sub/pids.max && cat sub/pids.max; echo 5 2>/dev/null > pids.max || echo kept");
    *b.at("linux.resources.pids") = json!({"limit": 50});
    let r = b.run();
    assert_eq!(r.out, "moved\n9\nkept\n", "{}", r.err);
    // Read-only, nothing is given away.
    *b.at("mounts.4.options") = json!(["ro", "nosuid", "noexec", "nodev"]);
    *b.at("process.args.2") =
        json!("stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs | sort -u");
    assert_eq!(b.run().ok().out, "65534\n");
}

/// Without a cgroup namespace the mount shows the whole tree, as /proc/self/cgroup names the places in it; a user namespace
/// may not have that, and sees its own directory.
#[test]
fn a_user_namespace_without_a_cgroup_namespace() {
    if !v2() {
        return skip("a_user_namespace_without_a_cgroup_namespace", "a pure cgroup v2 host");
    }
    let mut b = owner(
        "grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4; ls -d /sys/fs/cgroup/conex-test 2>&1; true",
    );
    b.drop_namespace("cgroup");
    let r = b.run().ok();
    assert_eq!(
        r.out,
        format!("/conex-test/{}\nls: /sys/fs/cgroup/conex-test: No such file or directory\n", b.id),
        "{}",
        r.err
    );
}

#[test]
fn a_container_inside_a_container() {
    if !v2() {
        return skip("a_container_inside_a_container", "a pure cgroup v2 host");
    }
    let mut b = owner("mkdir /sys/fs/cgroup/self && echo 0 > /sys/fs/cgroup/self/cgroup.procs && cd /inner && /bin/conex --root /tmp/state run inner");
    copied(&runtime(), &b.rootfs().join("bin/conex"));
    let mut inner = Box::sh("echo inner; cat /proc/self/cgroup; id -u");
    inner.at("linux").as_object_mut().unwrap().remove("resources");
    *inner.at("linux.cgroupsPath") = json!("/inner");
    *inner.at("linux.resources.pids") = json!({"limit": 9});
    *inner.at("linux.maskedPaths") = json!([]);
    *inner.at("linux.readonlyPaths") = json!([]);
    inner.write_config();
    let place = b.rootfs().join("inner");
    assert!(Command::new("cp").arg("-a").arg(&inner.dir).arg(&place).status().unwrap().success());
    assert!(Command::new("chown")
        .args(["-R", "-h", "200000:200000"])
        .arg(b.rootfs())
        .status()
        .unwrap()
        .success());
    *b.at("process.noNewPrivileges") = json!(false);
    let r = b.run();
    assert_eq!(r.out, "inner\n0::/\n0\n", "{}", r.err);
}

#[test]
fn systemd_runs_inside_a_container() {
    if !v2() || !Path::new("/usr/lib/systemd/systemd").exists() {
        return skip(
            "systemd_runs_inside_a_container",
            "a pure cgroup v2 host with systemd installed",
        );
    }
    let mut b = Box::new(&["/usr/lib/systemd/systemd", "--unit=basic.target"]);
    let (upper, work) = (b.dir.join("upper"), b.dir.join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    let mut mount = Command::new("mount");
    if !mount
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(b.rootfs())
        .status()
        .unwrap()
        .success()
    {
        return skip("systemd_runs_inside_a_container", "an overlay over the root file system");
    }
    for set in ["bounding", "effective", "permitted"] {
        *b.at(&format!("process.capabilities.{set}")) = json!(ALL);
    }
    *b.at("process.noNewPrivileges") = json!(false);
    *b.at("process.env") = json!(["container=conex", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    *b.at("hostname") = json!("inside");
    for at in ["/run", "/tmp"] {
        b.push(
            "mounts",
            json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        );
    }
    b.push(
        "mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}),
    );
    b.up();
    until(
        || b.exec(&["/usr/bin/systemctl", "is-active", "basic.target"]).out.trim() == "active",
        "systemd inside reaches basic.target",
    );
    let inside = b.exec(&["/bin/cat", "/proc/1/cgroup"]).ok().out;
    assert_eq!(inside.trim(), "0::/init.scope");
    // SIGRTMIN+3 asks systemd to halt.
    b.verb("kill", &[], &["37"]).ok();
    b.wait_status("stopped");
    b.verb("delete", &[], &[]).ok();
    b.assert_gone();
    assert!(Command::new("umount").arg(b.rootfs()).status().unwrap().success());
}
