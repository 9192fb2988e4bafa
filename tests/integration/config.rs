//! Fields of config.json by their effect.

use crate::harness::*;
use serde_json::json;

#[track_caller]
fn prints(b: &Box, want: &str) {
    assert_eq!(b.run().ok().out, want);
}

#[test]
fn process_identity() {
    let mut b =
        Box::sh("id -u; id -g; id -G; umask; pwd; grep -E 'NoNewPrivs|Groups' /proc/self/status");
    *b.at("process.user") =
        json!({"uid": 1000, "gid": 7, "additionalGids": [8, 9], "umask": 0o077});
    *b.at("process.cwd") = json!("/made/here");
    prints(&b, "1000\n7\n7 8 9\n0077\n/made/here\nGroups:\t8 9 \nNoNewPrivs:\t1\n");
}

#[test]
fn environment() {
    let mut b = Box::sh("env | sort");
    *b.at("process.env") = json!(["PATH=/bin", "A=1", "A=2", "EMPTY="]);
    std::fs::write(b.rootfs().join("etc/passwd"), "root:x:0:0::/the/home:/bin/sh\n").unwrap();
    let out = b.run().ok().out;
    assert!(
        out.contains("A=2\n")
            && !out.contains("A=1")
            && out.contains("EMPTY=\n")
            && out.contains("HOME=/the/home\n"),
        "{out}"
    );
}

#[test]
fn capabilities_of_root_and_of_a_user() {
    let mut b = Box::sh("grep Cap /proc/self/status");
    let out = b.run().ok().out;
    // KILL 5, NET_BIND_SERVICE 10, AUDIT_WRITE 29.
    assert!(
        out.contains("CapEff:\t0000000020000420")
            && out.contains("CapBnd:\t0000000020000420")
            && out.contains("CapInh:\t0000000000000000"),
        "{out}"
    );
    *b.at("process.user") = json!({"uid": 1000, "gid": 1000});
    assert!(b.run().ok().out.contains("CapEff:\t0000000000000000"));
    for set in ["inheritable", "ambient"] {
        *b.at(&format!("process.capabilities.{set}")) = json!(["CAP_KILL"]);
    }
    let out = b.run().ok().out;
    assert!(
        out.contains("CapEff:\t0000000000000020") && out.contains("CapAmb:\t0000000000000020"),
        "{out}"
    );
    b.at("process").as_object_mut().unwrap().remove("capabilities");
    let out = b.run().ok().out;
    assert!(
        out.contains("CapEff:\t0000000000000000") && out.contains("CapBnd:\t0000000000000000"),
        "{out}"
    );
}

#[test]
fn rlimits_scheduler_and_friends() {
    let mut b = Box::sh("ulimit -n; ulimit -Hn; ulimit -c; read -r line < /proc/self/stat; set -- $line; echo ${19}; cat /proc/self/oom_score_adj; cat /proc/self/personality");
    *b.at("process.rlimits") = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    *b.at("process.scheduler") = json!({"policy": "SCHED_BATCH", "nice": 5});
    *b.at("process.ioPriority") = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    *b.at("process.oomScoreAdj") = json!(300);
    *b.at("linux.personality") = json!({"domain": "LINUX32"});
    if std::path::Path::new("/proc/self/numa_maps").exists() {
        *b.at("linux.memoryPolicy") = json!({"mode": "MPOL_LOCAL"});
    } else {
        skip("rlimits_scheduler_and_friends (memoryPolicy)", "a kernel with NUMA");
    }
    prints(&b, "100\n200\n0\n5\n300\n00000008\n");
}

#[test]
fn a_tiny_descriptor_limit() {
    let mut b = Box::sh("ulimit -n");
    *b.at("process.rlimits") = json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 5}]);
    *b.at("process.user") = json!({"uid": 1000, "gid": 1000});
    prints(&b, "5\n");
    b.create().ok();
    b.verb("start", &[], &[]).ok();
}

#[test]
fn names_and_sysctls() {
    let mut b = Box::sh("hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced");
    *b.at("domainname") = json!("example");
    *b.at("linux.sysctl") =
        json!({"net.ipv4.ip_unprivileged_port_start": "7", "kernel/shm_rmid_forced": "1"});
    if is_conex() {
        prints(&b, "box\nexample\n7\n1\n");
    }
}

#[test]
fn mounts_of_every_kind() {
    if lacks("mount_setattr", "mounts_of_every_kind") {
        return;
    }
    let mut b = Box::sh("cat /bound/file; touch /ro/x 2>&1; stat -c %a /t; cat /up/kept; grep -E ' /(ro|t|up) ' /proc/self/mounts | sort | while read a b c d e; do echo $b $c $d; done; ls /t/link");
    let src = b.dir.join("src");
    std::fs::create_dir(&src).unwrap();
    std::fs::write(src.join("file"), "bound\n").unwrap();
    std::fs::create_dir(b.rootfs().join("up")).unwrap();
    std::fs::write(b.rootfs().join("up/kept"), "kept\n").unwrap();
    b.push(
        "mounts",
        json!({"destination": "/bound/file", "source": src.join("file"), "type": "bind", "options": ["bind"]}),
    );
    // A relative source is relative to the bundle.
    b.push(
        "mounts",
        json!({"destination": "/ro", "source": "src", "options": ["rbind", "rro", "nosuid", "noatime"]}),
    );
    b.push("mounts", json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0700", "", "noexec", "size=1m"]}));
    b.push(
        "mounts",
        json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
    );
    // A directory of the image gives its mode to a tmpfs, one that is made for it does not.
    std::fs::create_dir(b.rootfs().join("old")).unwrap();
    std::fs::set_permissions(
        b.rootfs().join("old"),
        std::os::unix::fs::PermissionsExt::from_mode(0o750),
    )
    .unwrap();
    b.push("mounts", json!({"destination": "/old", "type": "tmpfs", "source": "tmpfs"}));
    b.push("mounts", json!({"destination": "/new", "type": "tmpfs", "source": "tmpfs"}));
    let script = b.at("process.args.2").as_str().unwrap().to_string();
    *b.at("process.args.2") = json!(format!("{script}; stat -c '%n %a' /old /new"));
    let out = b.run().out;
    assert!(out.contains("/old 750\n/new 1777\n"), "{out}");
    assert!(out.starts_with("bound\ntouch: /ro/x: Read-only file system\n700\nkept\n"), "{out}");
    let line = |at: &str| out.lines().find(|l| l.starts_with(at)).unwrap().to_string();
    assert!([" ro,", "nosuid", "noatime"].iter().all(|o| line("/ro ").contains(o)), "{out}");
    assert!(
        line("/t tmpfs").contains("noexec") && line("/t tmpfs").contains("size=1024k"),
        "{out}"
    );
}

#[test]
fn propagation_and_idmap() {
    if lacks("mount_setattr", "propagation_and_idmap") {
        return;
    }
    let mut b = Box::sh("stat -c '%u %g' /idm/file; grep ' /slave ' /proc/self/mountinfo | grep -c master; ls -n /idm | grep -c file");
    let src = b.dir.join("src");
    std::fs::create_dir(&src).unwrap();
    std::fs::write(src.join("file"), "x").unwrap();
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 100}]);
    b.push("mounts", json!({"destination": "/idm", "source": "src", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}));
    let r = b.run();
    if r.err.contains("file system that supports it") {
        return skip("propagation_and_idmap", "idmapped mounts on this file system");
    }
    assert!(r.out.starts_with("5000 5000\n"), "{} {}", r.out, r.err);
}

#[test]
fn devices() {
    let mut b = Box::sh("stat -c '%t:%T %a %u:%g %F' /dev/null /dev/mine /dev/pipe; ls -l /dev/fd /dev/ptmx | grep -c -e '->'; head -c 3 /dev/zero | wc -c; head -c1 /dev/mine 2>&1");
    b.push(
        "linux.devices",
        json!({"path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 5, "gid": 6}),
    );
    b.push("linux.devices", json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600}));
    let out = b.run().out;
    assert!(
        out.starts_with(
            "1:3 666 0:0 character special file\na:e5 666 5:6 character special file\n0:0 600 0:0 fifo\n2\n3\n"
        ),
        "{out}"
    );
    assert!(out.contains("Operation not permitted"), "the device cgroup does not hold: {out}");
}

/// Engines list all devices of their host, and mount what is to be seen in the place of one (distrobox, kind).
#[test]
fn a_mount_in_the_place_of_a_device() {
    let mut b = Box::sh("stat -c %t:%T /dev/kmsg; readlink /dev/ptmx");
    for (path, major, minor) in [("/dev/kmsg", 1, 11), ("/dev/ptmx", 5, 2)] {
        let device = json!({"path": path, "type": "c", "major": major, "minor": minor});
        b.push("linux.devices", device);
    }
    let null = json!({"destination": "/dev/kmsg", "type": "bind", "source": "/dev/null", "options": ["rbind"]});
    b.push("mounts", null);
    prints(&b, "1:3\npts/ptmx\n");
    // The host's /dev, as a box of distrobox has it.
    let mut b = Box::sh("stat -c %t:%T /dev/ptmx /dev/null");
    b.config["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    b.push("mounts", json!({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rslave", "rbind"]}));
    b.push("mounts", json!({"destination": "/dev/ptmx", "type": "bind", "source": "/dev/null", "options": ["rprivate", "rbind"]}));
    b.push("linux.devices", json!({"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}));
    prints(&b, "1:3\n1:3\n");
}

#[test]
fn an_allowed_device_works() {
    let mut b = Box::sh("head -c1 /dev/mine 2>&1 | grep -c 'not permitted'; true");
    b.push("linux.devices", json!({"path": "/dev/mine", "type": "c", "major": 10, "minor": 183}));
    b.push(
        "linux.resources.devices",
        json!({"allow": true, "type": "c", "major": 10, "minor": 183, "access": "r"}),
    );
    prints(&b, "0\n");
}

#[test]
fn masked_and_readonly_paths() {
    let mut b = Box::sh("cat /proc/keys | wc -c; touch /secret/x 2>&1; ls -A /secret; echo x > /proc/sys/kernel/msgmax 2>/dev/null || echo ro");
    std::fs::create_dir(b.rootfs().join("secret")).unwrap();
    std::fs::write(b.rootfs().join("secret/s"), "s").unwrap();
    b.push("linux.maskedPaths", json!("/secret"));
    b.push("linux.maskedPaths", json!("/secret"));
    assert_eq!(b.run().out, "0\ntouch: /secret/x: Read-only file system\nro\n");
}

#[test]
fn readonly_root() {
    let mut b = Box::sh("touch /x 2>/dev/null || echo ro; touch /dev/x && echo dev");
    *b.at("root.readonly") = json!(true);
    prints(&b, "ro\ndev\n");
}

#[test]
fn namespaces_are_joined_by_path() {
    let a = Box::sh("sleep 100");
    a.up();
    let pid = a.pid();
    let mut b = Box::sh("for n in net pid ipc uts cgroup; do readlink /proc/self/ns/$n; done");
    for (i, (kind, file)) in
        [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroup")]
            .iter()
            .enumerate()
    {
        b.drop_namespace(kind);
        b.push("linux.namespaces", json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        let _ = i;
    }
    let want: String = ["net", "pid", "ipc", "uts", "cgroup"]
        .map(|f| {
            format!("{}\n", std::fs::read_link(format!("/proc/{pid}/ns/{f}")).unwrap().display())
        })
        .concat();
    prints(&b, &want);
}

#[test]
fn a_wrong_namespace_type_is_an_error() {
    let mut b = Box::sh("true");
    b.drop_namespace("network");
    b.push("linux.namespaces", json!({"type": "network", "path": "/proc/self/ns/uts"}));
    assert_ne!(b.create().code, 0);
    b.assert_gone();
}

#[test]
fn user_namespace() {
    let mut b = Box::sh("id -u; cat /proc/self/uid_map | (read a b c; echo $a $b $c); touch /dev/shm-not 2>/dev/null; stat -c %t:%T /dev/null; cat /src/file; hostname");
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    *b.at("linux.uidMappings") = map.clone();
    *b.at("linux.gidMappings") = map;
    b.push("linux.namespaces", json!({"type": "user"}));
    std::os::unix::fs::chown(b.rootfs(), Some(100000), Some(100000)).unwrap();
    // Readable by host root only, so the runtime must open the source for the container.
    let secret = b.dir.join("closed");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("file"), "through\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o755)).unwrap();
    b.push(
        "mounts",
        json!({"destination": "/src", "source": "closed", "options": ["rbind", "ro"]}),
    );
    prints(&b, "0\n0 100000 65536\n1:3\nthrough\nbox\n");
    b.up();
    let text = std::fs::read_to_string(format!("/proc/{}/status", b.pid()).replace("//", "/"));
    drop(text);
}

#[test]
fn a_user_namespace_is_joined_by_path_and_by_exec() {
    let mut a = Box::sh("sleep 100");
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    *a.at("linux.uidMappings") = map.clone();
    *a.at("linux.gidMappings") = map;
    a.push("linux.namespaces", json!({"type": "user"}));
    a.up();
    let host_uid = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status
            .lines()
            .find(|l| l.starts_with("Uid:"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_string()
    };
    assert_eq!(host_uid(a.pid()), "100000");
    let want =
        std::fs::read_link(format!("/proc/{}/ns/user", a.pid())).unwrap().display().to_string();
    assert_eq!(a.exec(&["readlink", "/proc/self/ns/user"]).ok().out.trim(), want);
    let mut b = Box::sh("readlink /proc/self/ns/user; id -u");
    b.push(
        "linux.namespaces",
        json!({"type": "user", "path": format!("/proc/{}/ns/user", a.pid())}),
    );
    prints(&b, &format!("{want}\n0\n"));
    *b.at("linux.uidMappings") = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
    *b.at("linux.gidMappings") = json!([{"containerID": 0, "hostID": 5, "size": 1}]);
    assert_ne!(b.run().code, 0);
}

#[test]
fn time_namespace() {
    let mut b = Box::sh("read up idle < /proc/uptime; test ${up%.*} -gt 1000000 && echo shifted");
    b.push("linux.namespaces", json!({"type": "time"}));
    *b.at("linux.timeOffsets") =
        json!({"boottime": {"secs": 1000000}, "monotonic": {"secs": 1000000, "nanosecs": 5}});
    prints(&b, "shifted\n");
}

#[test]
fn net_devices_move_with_their_addresses() {
    let ip = |args: &[&str]| {
        std::process::Command::new("ip").args(args).output().is_ok_and(|o| o.status.success())
    };
    let name = format!("cx{}", std::process::id() % 100_000);
    let peer = format!("{name}p");
    if !ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]) {
        return skip("net_devices_move_with_their_addresses", "veth network devices");
    }
    assert!(ip(&["addr", "add", "10.99.0.2/24", "dev", &name]));
    let mut b = Box::sh("ip -4 addr show dev moved | grep -o 'inet 10.99.0.2/24'; ip link show dev moved | grep -c ',UP'; ip link show lo | grep -c ',UP'");
    *b.at("linux.netDevices") = json!({name.clone(): {"name": "moved"}});
    let out = b.run();
    let _ = ip(&["link", "del", &peer]);
    assert_eq!(out.out, "inet 10.99.0.2/24\n1\n1\n", "{}", out.err);
    // A template: the kernel chooses the numbers.
    assert!(ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]));
    assert!(ip(&["addr", "add", "10.99.0.2/24", "dev", &name]));
    let mut b = Box::sh("for n in 0 1; do ip link show dev eth$n | grep -c ',UP'; done; ip -4 addr | grep -o 'inet 10.99.0.2/24.* eth[01]'");
    *b.at("linux.netDevices") = json!({name.clone(): {"name": "eth%d"}, peer: {"name": "eth%d"}});
    let out = b.run();
    let _ = ip(&["link", "del", &name]);
    assert!(out.out.starts_with("1\n1\ninet 10.99.0.2/24"), "{} {}", out.out, out.err);
}

#[test]
fn the_document_that_docker_wrote() {
    let text = include_str!("../data/docker-config.json");
    // Docker asks for what is below a volume only where the kernel can.
    let older = missing("mount_setattr").map(|_| text.replace("\"rro\"", "\"ro\""));
    let text = older.as_deref().unwrap_or(text);
    let mut b = Box::sh("true");
    let (path, data) = (b.rootfs(), b.dir.join("data"));
    let mut config: serde_json::Value = serde_json::from_str(text).unwrap();
    std::fs::create_dir(&data).unwrap();
    config["root"]["path"] = json!(path);
    config["linux"]["cgroupsPath"] = json!(format!("/conex-test/{}", b.id));
    config["process"]["args"] = json!(["/bin/sh", "-c", "grep Seccomp: /proc/self/status; hostname; mkdir /tmp/d && echo made; unshare -U true 2>/dev/null || echo denied"]);
    for m in config["mounts"].as_array_mut().unwrap().iter_mut().filter(|m| m["type"] == "bind") {
        m["source"] = json!(data);
        if m["destination"].as_str().unwrap().starts_with("/etc/") {
            let file = data.join("f");
            std::fs::write(&file, "").unwrap();
            m["source"] = json!(file);
        }
    }
    b.config = config;
    let out = b.run().ok().out;
    assert!(out.starts_with("Seccomp:\t2\n470081e17dcb\nmade\n"), "{out}");
    b.assert_gone();
}

#[test]
fn every_field_that_oci_spec_knows_is_read() {
    // The cross-check of our own structs: what we parse equals what the field's crate parses.
    let text = include_str!("../data/docker-config.json");
    let theirs: oci_spec::runtime::Spec = serde_json::from_str(text).unwrap();
    let ours: conex::oci::config::Spec =
        conex::bundle::parse(text.as_bytes(), "config.json").unwrap();
    let (tp, op) = (theirs.process().as_ref().unwrap(), ours.process.as_ref().unwrap());
    assert_eq!(tp.args().as_ref().unwrap(), &op.args.0);
    assert_eq!(tp.env().as_ref().unwrap(), &op.env.0);
    assert_eq!(tp.cwd().to_str().unwrap(), op.cwd);
    assert_eq!(theirs.mounts().as_ref().unwrap().len(), ours.mounts.len());
    for (t, o) in theirs.mounts().as_ref().unwrap().iter().zip(ours.mounts.iter()) {
        assert_eq!(t.destination().to_str().unwrap(), o.destination);
        assert_eq!(t.options().as_ref().unwrap(), &o.options.0);
    }
    let (tl, ol) = (theirs.linux().as_ref().unwrap(), ours.linux.as_ref().unwrap());
    assert_eq!(tl.masked_paths().as_ref().unwrap(), &ol.masked_paths.0);
    assert_eq!(tl.readonly_paths().as_ref().unwrap(), &ol.readonly_paths.0);
    let (tr, or) = (tl.resources().as_ref().unwrap(), ol.resources.as_ref().unwrap());
    assert_eq!(tr.memory().as_ref().unwrap().limit(), or.memory.as_ref().unwrap().limit);
    assert_eq!(tr.devices().as_ref().unwrap().len(), or.devices.len());
    let (ts, os) = (tl.seccomp().as_ref().unwrap(), ol.seccomp.as_ref().unwrap());
    assert_eq!(ts.syscalls().as_ref().unwrap().len(), os.syscalls.len());
    for (t, o) in ts.syscalls().as_ref().unwrap().iter().zip(os.syscalls.iter()) {
        assert_eq!(t.names(), &o.names.0);
        assert_eq!(t.args().as_ref().map_or(0, Vec::len), o.args.len());
    }
}

#[test]
fn no_mount_namespace_leaves_no_mount() {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let mut b = Box::sh("readlink /proc/self/ns/mnt");
    b.drop_namespace("mount");
    b.at("linux").as_object_mut().unwrap().remove("maskedPaths");
    b.at("linux").as_object_mut().unwrap().remove("readonlyPaths");
    if !is_conex() {
        return;
    }
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    prints(&b, &format!("{}\n", own.display()));
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), before);
}
