//! The kernels that conex does not have here: newer system calls are masked to ENOSYS, one by one and together.

use crate::harness::*;
use serde_json::json;

/// A document that touches everything with a fallback: mounts of all kinds, masks, devices, a cgroup mount, a
/// terminal-less process of another user, a filter, a sysctl.
fn everything() -> Box {
    let mut b = Box::sh("id -u; cat /bound; touch /ro/x 2>/dev/null || echo ro; cat /proc/keys | wc -c; echo x 2>/dev/null > /proc/sys/kernel/msgmax || echo ro; ls /proc/self/fd | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/fs/cgroup | grep -cx -e memory -e memory.max; cat /up/kept; head -c1 /dev/null && echo null");
    std::fs::write(b.dir.join("file"), "bound\n").unwrap();
    std::fs::create_dir_all(b.rootfs().join("up")).unwrap();
    std::fs::write(b.rootfs().join("up/kept"), "kept\n").unwrap();
    std::os::unix::fs::symlink("/etc", b.rootfs().join("link")).unwrap();
    b.push("mounts", json!({"destination": "/bound", "source": "file", "options": ["bind"]}));
    b.push(
        "mounts",
        json!({"destination": "/ro", "source": ".", "options": ["bind", "ro", "nosuid"]}),
    );
    b.push(
        "mounts",
        json!({"destination": "/link/sub", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}),
    );
    b.push(
        "mounts",
        json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
    );
    b.push(
        "mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
    );
    b.push("linux.maskedPaths", json!("/sys/firmware"));
    *b.at("linux.sysctl") = json!({"net.ipv4.ip_unprivileged_port_start": "7"});
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]});
    *b.at("process.user") = json!({"uid": 5, "gid": 5});
    b
}

const WANT: &str = "5\nbound\nro\n0\nro\n4\n7\n1\nkept\nnull\n";

fn masked(b: &Box, names: &str, args: &[&str]) -> Ran {
    let mut c = std::process::Command::new(env!("CARGO_BIN_EXE_mask"));
    c.arg(names).arg(runtime()).arg("--root").arg(b.state_root()).args(args).current_dir(&b.dir);
    finish(&mut c, b"")
}

#[test]
fn every_masked_call_has_a_fallback() {
    if !is_conex() {
        return;
    }
    let b = everything();
    b.write_config();
    assert_eq!(b.verb("run", &[], &[]).ok().out, WANT);
    let mut failures = Vec::new();
    for names in [
        "clone3",
        "close_range",
        "mount_setattr",
        "statx",
        "clone3,close_range,mount_setattr,statx",
    ] {
        let r = masked(&b, names, &["run", &b.id]);
        if r.code != 0
            || r.out != WANT
            || b.state_root().join(&b.id).exists()
            || !b.cgroups().is_empty()
        {
            failures.push(format!("{names}: code {} out {:?} err {}", r.code, r.out, r.err));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn exec_kill_and_delete_without_the_newer_calls() {
    if !is_conex() {
        return;
    }
    let b = everything();
    b.write_config();
    let all = "clone3,close_range,mount_setattr,statx";
    let mut long = everything();
    *long.at("process.args") = json!(["/bin/sh", "-c", "exec sleep 100 >/dev/null 2>&1"]);
    long.write_config();
    assert_eq!(masked(&long, all, &["run", "-d", &long.id]).code, 0);
    assert_eq!(masked(&long, all, &["exec", &long.id, "id", "-u"]).ok().out, "5\n");
    masked(&long, all, &["kill", &long.id, "KILL"]).ok();
    long.wait_status("stopped");
    masked(&long, all, &["delete", &long.id]).ok();
    long.assert_gone();
}

#[test]
fn an_idmapped_mount_says_what_it_needs() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 100}]);
    b.push("mounts", json!({"destination": "/idm", "source": ".", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}));
    b.write_config();
    let r = masked(&b, "mount_setattr", &["run", &b.id]);
    assert!(r.code != 0 && r.err.contains("mounts[4]") && r.err.contains("5.12"), "{}", r.err);
    b.assert_gone();
}

#[test]
fn calls_without_a_fallback_are_named() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.up();
    for (names, args, call) in [
        ("pidfd_send_signal", vec!["kill", &b.id, "KILL"], "pidfd_send_signal"),
        ("pidfd_open", vec!["kill", &b.id, "KILL"], "pidfd_open"),
        ("pidfd_open", vec!["exec", &b.id, "true"], "pidfd_open"),
        ("setns", vec!["exec", &b.id, "true"], "setns"),
    ] {
        let r = masked(&b, names, &args);
        assert!(
            r.code != 0 && r.err.contains(call) && r.err.contains("ENOSYS"),
            "{names}: {} {}",
            r.code,
            r.err
        );
        assert_eq!(b.status(), "running", "{names}");
    }
    drop(b);
    // Those that every kernel has from the oldest on that is supported; a filter around the runtime can deny them. Without
    // memfd_create and fsopen the binary cannot be sealed: never a silent risk.
    let b = everything();
    b.write_config();
    for (names, call) in [
        ("openat2", "openat2"),
        ("open_tree", "open_tree"),
        ("move_mount", "move_mount"),
        ("fsopen", "fsopen"),
        ("memfd_create,fsopen", "memfd_create"),
    ] {
        let r = masked(&b, names, &["run", &b.id]);
        assert!(
            r.code == 1 && r.err.contains(call) && r.err.contains("ENOSYS"),
            "{names}: {} {}",
            r.code,
            r.err
        );
        b.assert_gone();
    }
}

/// What restricts a mount is in force by whatever call, on a bind, a new file system and a remount; and each can be taken back.
#[test]
fn restrictions_hold_without_the_newer_calls() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("cat /proc/self/mountinfo");
    let source = b.dir.join("source");
    std::fs::create_dir(&source).unwrap();
    let words = ["ro", "nosuid", "nodev", "noexec", "nosymfollow", "noatime"];
    let with = |more: &[&str]| words.iter().chain(more).map(|w| w.to_string()).collect::<Vec<_>>();
    b.push(
        "mounts",
        json!({"destination": "/bound", "type": "bind", "source": source, "options": with(&["bind"])}),
    );
    b.push(
        "mounts",
        json!({"destination": "/new", "type": "tmpfs", "source": "tmpfs", "options": with(&[])}),
    );
    b.push("mounts", json!({"destination": "/plain", "type": "tmpfs", "source": "tmpfs"}));
    b.push("mounts", json!({"destination": "/plain", "options": with(&["remount"])}));
    // What is in force stays in force when something else is changed.
    b.push("mounts", json!({"destination": "/new", "options": ["remount", "bind", "exec"]}));
    b.write_config();
    for names in ["", "mount_setattr"] {
        let r = if names.is_empty() {
            b.verb("run", &[], &[])
        } else {
            masked(&b, names, &["run", &b.id])
        };
        assert_eq!(r.code, 0, "{names}: {}", r.err);
        for (place, missing) in [("/bound", ""), ("/new", "noexec"), ("/plain", "")] {
            let line = r
                .out
                .lines()
                .rfind(|l| l.split(' ').nth(4) == Some(place))
                .unwrap_or_else(|| panic!("{}", r.out));
            let flags: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
            for word in words {
                assert_eq!(
                    flags.contains(&word),
                    word != missing,
                    "{names}: {word} of {place}: {line}"
                );
            }
        }
    }
}
