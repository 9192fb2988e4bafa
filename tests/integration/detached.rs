//! Containers whose mount namespace is no copy of the host's: what they see, and what reaches them later.

use crate::harness::*;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How the runtime says which of the two it does (`--debug`).
const OF_NOTHING: &str = "mount namespace: of nothing";
const A_COPY: &str = "mount namespace: a copy";

fn in_a_user_namespace(b: &mut Box) {
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    *b.at("linux.uidMappings") = map.clone();
    *b.at("linux.gidMappings") = map;
    b.push("linux.namespaces", json!({"type": "user"}));
    std::os::unix::fs::chown(b.rootfs(), Some(100000), Some(100000)).unwrap();
}

/// A hook of the container's mount namespace is a program of the host's, so there must be a copy of the host's mounts.
fn with_a_copy(b: &mut Box) {
    *b.at("hooks") = json!({"createContainer": [{"path": "/bin/true"}]});
}

/// A tmpfs of its own on a directory of the bundle, shared with whoever asks.
struct Shared(PathBuf);

impl Shared {
    fn new(b: &Box, name: &str) -> Shared {
        let at = b.dir.join(name);
        std::fs::create_dir_all(&at).unwrap();
        mount(&at);
        nix::mount::mount(
            None::<&str>,
            &at,
            None::<&str>,
            nix::mount::MsFlags::MS_SHARED,
            None::<&str>,
        )
        .unwrap();
        Shared(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn mount(at: &Path) {
    nix::mount::mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("mode=755"),
    )
    .unwrap();
}

/// One line of mountinfo without the numbers, which differ from one container to the next.
fn view(line: &str) -> String {
    let (head, tail) = line.split_once(" - ").unwrap();
    let fields: Vec<&str> = head.split(' ').collect();
    let optional: Vec<&str> =
        fields[6..].iter().map(|o| o.split(':').next().unwrap_or(o)).collect();
    format!("{} {} {} {optional:?} {tail}", fields[4], fields[3], fields[5])
}

/// What the container sees: its mounts in any order, then everything else.
fn seen(b: &Box) -> (Vec<String>, String) {
    let out = b.run().ok().out;
    let (mounts, rest) = out.split_once("----\n").unwrap_or_else(|| panic!("{out}"));
    let own = |text: &str| text.replace(&b.id, "ID");
    let mut mounts: Vec<String> = mounts.lines().map(|l| own(&view(l))).collect();
    mounts.sort();
    (mounts, own(rest))
}

const LOOK: &str = "cat /proc/self/mountinfo; echo ----; ls -n /dev | grep -v total | \
    while read mode n u g rest; do echo $mode $u $g ${rest##* }; done; \
    stat -c '%n %a %u %g %F' / /proc /sys /dev /dev/pts /dev/mqueue /dev/null; grep -E 'Cap|Seccomp|NoNew' /proc/self/status; \
    cat /proc/keys 2>&1 | wc -c; ls /sys/fs/cgroup /sys /proc/self/ns /v /w 2>&1; cat /v/* /file 2>&1; umask; pwd; id; \
    touch /here /v/here /dev/here 2>&1; readlink /link; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";

type Change = fn(&mut Box, &Shared);

/// Documents of every kind that can begin with nothing.
const DOCUMENTS: [(&str, Change); 15] = [
    ("the default one", |_, _| {}),
    ("a user namespace", |b, _| in_a_user_namespace(b)),
    ("volumes", |b, s| volumes(b, s)),
    ("volumes and a user namespace", |b, s| {
        in_a_user_namespace(b);
        volumes(b, s);
    }),
    ("cgroups", |b, _| cgroups(b)),
    ("cgroups and a user namespace", |b, _| {
        in_a_user_namespace(b);
        cgroups(b);
    }),
    ("cgroups of the host", |b, _| {
        b.drop_namespace("cgroup");
        cgroups(b);
    }),
    ("masks", |b, _| masks(b)),
    ("masks and a user namespace", |b, _| {
        in_a_user_namespace(b);
        masks(b);
    }),
    ("a user namespace with the host's network", |b, _| {
        in_a_user_namespace(b);
        b.drop_namespace("network");
    }),
    ("a root that is read-only", |b, _| *b.at("root.readonly") = json!(true)),
    ("private to the end", |b, s| {
        *b.at("linux.rootfsPropagation") = json!("rprivate");
        volumes(b, s);
    }),
    ("another user, in another directory", |b, _| {
        *b.at("process.user") = json!({"uid": 7, "gid": 8, "umask": 0o27});
        *b.at("process.cwd") = json!("/made/here");
    }),
    ("a sysctl and devices", |b, _| {
        *b.at("linux.sysctl") = json!({"net.ipv4.ip_unprivileged_port_start": "7"});
        b.push("linux.devices", json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 5}));
        b.push("linux.devices", json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o600}));
    }),
    ("a filter", |b, _| {
        *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]});
    }),
];

/// Volumes of a shared mount: a file, a directory, with a mount in it, read-only, through a symlink, a copied symlink, and one
/// that lies on an earlier mount.
fn volumes(b: &mut Box, s: &Shared) {
    std::fs::write(s.0.join("file"), "bound\n").unwrap();
    std::fs::create_dir_all(s.0.join("inner")).unwrap();
    mount(&s.0.join("inner"));
    std::fs::write(s.0.join("inner/deep"), "deep\n").unwrap();
    std::os::unix::fs::symlink("file", s.0.join("symlink")).unwrap();
    let file = |name: &str| s.0.join(name).display().to_string();
    let mut bind = |to: &str, from: String, options: Value| {
        b.push("mounts", json!({"destination": to, "source": from, "options": options}));
    };
    bind("/file", file("file"), json!(["bind", "ro"]));
    bind("/v", s.0.display().to_string(), json!(["rbind", "nosuid"]));
    bind("/w", s.0.display().to_string(), json!(["bind", "ro", "noexec", "rprivate"]));
    bind("/through", file("symlink"), json!(["bind"]));
    bind("/link", file("symlink"), json!(["bind", "copy-symlink"]));
    let inside = b.rootfs().join("v/inner").display().to_string();
    b.push("mounts", json!({"destination": "/again", "source": inside, "options": ["bind"]}));
    b.push("mounts", json!({"destination": "/v", "options": ["remount", "bind", "nodev"]}));
}

fn cgroups(b: &mut Box) {
    b.push(
        "mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
}

fn masks(b: &mut Box) {
    std::fs::create_dir_all(b.rootfs().join("secret")).unwrap();
    for path in ["/proc/keys", "/proc/timer_list", "/proc/scsi", "/secret", "/sys/firmware"] {
        b.push("linux.maskedPaths", json!(path));
    }
    b.push("linux.readonlyPaths", json!("/etc"));
}

/// Whatever the way, the container is the same: its mounts, their flags and propagation, devices, modes, cgroups.
#[test]
fn a_container_of_trees_is_as_one_of_a_copy() {
    for (name, change) in DOCUMENTS {
        let mut views = Vec::new();
        for copy in [false, true] {
            let mut b = Box::sh(LOOK);
            let shared = Shared::new(&b, "shared");
            change(&mut b, &shared);
            if copy {
                with_a_copy(&mut b);
            }
            views.push(seen(&b));
            b.assert_gone();
            let _ = nix::mount::umount2(&shared.0.join("inner"), nix::mount::MntFlags::MNT_DETACH);
        }
        let [of_trees, of_a_copy] = views.try_into().unwrap();
        assert_eq!(of_trees.0, of_a_copy.0, "{name}: the mounts");
        assert_eq!(of_trees.1, of_a_copy.1, "{name}");
    }
}

fn way(b: &Box) -> &'static str {
    let r = b.run().ok();
    match (r.err.contains(OF_NOTHING), r.err.contains(A_COPY)) {
        (true, false) => OF_NOTHING,
        (false, true) => A_COPY,
        _ => panic!("{}", r.err),
    }
}

/// Only what needs the host's mounts gets a copy of them.
#[test]
fn who_begins_with_nothing_and_who_with_a_copy() {
    if !is_conex() {
        return;
    }
    let mut plain = Box::sh("true");
    plain.global = vec!["--debug"];
    if way(&plain) == A_COPY {
        return skip("who_begins_with_nothing_and_who_with_a_copy", "kdevtmpfs, or mount_setattr");
    }
    for (name, change) in DOCUMENTS {
        let mut b = Box::sh("true");
        let shared = Shared::new(&b, "shared");
        change(&mut b, &shared);
        b.global = vec!["--debug"];
        assert_eq!(way(&b), OF_NOTHING, "{name}");
        let _ = nix::mount::umount2(&shared.0.join("inner"), nix::mount::MntFlags::MNT_DETACH);
    }
    let bind = |options: Value| json!({"destination": "/v", "source": "/etc", "options": options});
    type Need<'a> = (&'a str, &'a dyn Fn(&mut Box));
    let needs: [Need; 8] = [
        ("a hook inside", &|b| with_a_copy(b)),
        ("a hook that may look in", &|b| {
            *b.at("hooks") = json!({"prestart": [{"path": "/bin/true"}]});
        }),
        ("the same by its newer name", &|b| {
            *b.at("hooks") = json!({"createRuntime": [{"path": "/bin/true"}]});
        }),
        ("slave", &|b| b.push("mounts", bind(json!(["rbind", "rslave"])))),
        ("shared", &|b| b.push("mounts", bind(json!(["rbind", "rshared"])))),
        ("rootfsPropagation", &|b| *b.at("linux.rootfsPropagation") = json!("rslave")),
        ("two mounts of cgroups", &|b| {
            cgroups(b);
            b.push("mounts", json!({"destination": "/cg", "type": "cgroup", "source": "cgroup"}));
        }),
        ("a comma in an option", &|b| {
            b.push(
                "mounts",
                json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs",
                "options": ["mpol=prefer:0,0"]}),
            );
        }),
    ];
    for (name, change) in needs {
        let mut b = Box::sh("true");
        change(&mut b);
        b.global = vec!["--debug"];
        let r = b.run();
        assert!(r.err.contains(A_COPY), "{name}: {}", r.err);
        b.assert_gone();
    }
}

/// The file of a mount namespace below a source (snapd has such) cannot come from outside.
#[test]
fn a_source_with_the_file_of_a_mount_namespace() {
    let mut b = Box::sh("cat /v/file");
    let at = b.dir.join("volume");
    std::fs::create_dir(&at).unwrap();
    mount(&at);
    std::fs::write(at.join("file"), "read\n").unwrap();
    let file = at.join("namespace");
    std::fs::write(&file, "").unwrap();
    // The number of a namespace must be above that of the one that it is bound in, and each CPU has numbers of its own (Linux
    // 6.18): on the one that has made this one they are higher.
    let cpus = std::thread::available_parallelism().unwrap().get();
    let kept = (0..cpus).any(|cpu| {
        let mut c = std::process::Command::new("taskset");
        c.args(["-c", &cpu.to_string(), "unshare"]);
        c.arg(format!("--mount={}", file.display())).arg("true");
        finish(&mut c, b"").code == 0
    });
    assert!(kept, "no CPU makes a mount namespace that can be bound here");
    b.push("mounts", json!({"destination": "/v", "source": at, "options": ["rbind"]}));
    b.push("linux.maskedPaths", json!("/proc/keys"));
    let r = b.run();
    nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(r.ok().out, "read\n");
    b.assert_gone();
}

/// What is mounted after the start, on either side, and whether the other side has it.
#[test]
fn what_is_mounted_after_the_start() {
    // Root file system's propagation, the volume's, user namespace; host to container, container to host.
    for (root, volume, user, inward, outward) in [
        ("", "", false, true, false),
        ("", "", true, true, false),
        ("rprivate", "", false, false, false),
        ("", "rprivate", false, false, false),
        ("", "rprivate", true, false, false),
        ("", "rslave", false, true, false),
        ("", "rslave", true, true, false),
        ("rslave", "rslave", false, true, false),
        ("rshared", "rshared", false, true, true),
        ("", "rshared", false, true, false),
        ("", "rshared", true, true, false),
    ] {
        let case = format!("root {root:?}, volume {volume:?}, user namespace {user}");
        let mut b = Box::sh("sleep 100");
        let shared = Shared::new(&b, "shared");
        for dir in ["host", "container"] {
            std::fs::create_dir(shared.0.join(dir)).unwrap();
        }
        if user {
            in_a_user_namespace(&mut b);
        }
        if !root.is_empty() {
            *b.at("linux.rootfsPropagation") = json!(root);
        }
        for set in ["bounding", "effective", "permitted"] {
            b.push(&format!("process.capabilities.{set}"), json!("CAP_SYS_ADMIN"));
        }
        let options: Vec<&str> = ["rbind", volume].into_iter().filter(|o| !o.is_empty()).collect();
        b.push(
            "mounts",
            json!({"destination": "/v", "source": shared.0, "options": options, "type": "bind"}),
        );
        b.up();
        mount(&shared.0.join("host"));
        std::fs::write(shared.0.join("host/mark"), "").unwrap();
        let arrived = b.exec(&["test", "-e", "/v/host/mark"]).code == 0;
        assert_eq!(arrived, inward, "{case}: from the host into the container");
        b.exec(&["mount", "-t", "tmpfs", "none", "/v/container"]).ok();
        b.exec(&["test", "-d", "/v/container"]).ok();
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let point = shared.0.join("container").display().to_string();
        let left = text.lines().any(|l| l.split(' ').nth(4) == Some(&point));
        assert_eq!(left, outward, "{case}: from the container to the host");
        // The rest of a shared root's mounts has come to the host as well, and goes with the container.
        b.verb("delete", &["--force"], &[]).ok();
        for dir in ["host", "container"] {
            let _ = nix::mount::umount2(&shared.0.join(dir), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// What a user namespace may not take back: the flags that a mount has on the host, and what is mounted below it
/// (mount_namespaces(7)). With and without a copy of the host's mounts.
#[test]
fn the_hosts_flags_are_locked_in_a_user_namespace() {
    let try_all = "for flag in rw exec suid dev; do mount -o remount,bind,$flag /v 2>/dev/null && echo lost $flag; done
        umount /v/sub 2>/dev/null && echo lost sub
        mount -o remount,bind,rw /file 2>/dev/null && echo lost file
        mount -o remount,bind,dev / 2>/dev/null && echo lost root
        cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(v|v/sub|w|file)? ' | sort";
    for copied in [false, true] {
        let mut b = Box::sh(try_all);
        in_a_user_namespace(&mut b);
        for set in ["bounding", "effective", "permitted"] {
            b.push(&format!("process.capabilities.{set}"), json!("CAP_SYS_ADMIN"));
        }
        *b.at("root.readonly") = json!(false);
        let (host, rootfs) = (b.dir.join("host"), b.rootfs());
        std::fs::create_dir_all(host.join("sub")).unwrap();
        std::fs::write(b.dir.join("file"), "").unwrap();
        let mount = |args: &[&str], at: &Path| {
            assert!(
                Command::new("mount").args(args).arg(at).status().unwrap().success(),
                "{args:?}"
            );
        };
        mount(&["-t", "tmpfs", "tmpfs"], &host);
        std::fs::create_dir(host.join("sub")).unwrap();
        mount(&["-t", "tmpfs", "tmpfs"], &host.join("sub"));
        mount(&["-o", "remount,bind,ro,nosuid,nodev,noexec"], &host);
        let file = b.dir.join("file");
        mount(&["--bind", file.to_str().unwrap()], &file);
        mount(&["-o", "remount,bind,ro"], &file);
        mount(&["--bind", rootfs.to_str().unwrap()], &rootfs);
        mount(&["-o", "remount,bind,nodev"], &rootfs);
        let propagation = if copied { "rslave" } else { "rprivate" };
        // What is not asked for by name stays; what is, is an error.
        let more = [
            ("host", "/v", ""),
            ("file", "/file", ""),
            ("host", "/w", "nosuid"),
            ("host", "/x", "rw"),
        ];
        for (name, to, flag) in more.into_iter().take(3) {
            b.push("mounts", json!({"destination": to, "type": "bind", "source": b.dir.join(name), "options": ["rbind", propagation, flag]}));
        }
        let r = b.run();
        let last = b.at("mounts").as_array().unwrap().len();
        b.push("mounts", json!({"destination": more[3].1, "type": "bind", "source": b.dir.join(more[3].0), "options": ["bind", more[3].2]}));
        let refused = b.run();
        for dir in [host.join("sub"), host, file, rootfs] {
            nix::mount::umount2(&dir, nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
        refused.fails_with(&format!("mounts[{last}].options"));
        let r = r.ok();
        assert!(!r.out.contains("lost"), "copied {copied}: {}", r.out);
        let flags: Vec<_> = r.out.lines().collect();
        // The file lies on whatever the host has there.
        assert!(flags.len() == 5 && flags[0].contains("nodev"), "{}", r.out);
        assert!(flags[1].starts_with("/file ro,"), "{}", r.out);
        let kept = "ro,nosuid,nodev,noexec,relatime";
        let volumes = [format!("/v {kept}"), "/v/sub rw,relatime".into(), format!("/w {kept}")];
        assert_eq!(flags[2..], volumes);
        b.assert_gone();
    }
}
