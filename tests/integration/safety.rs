//! Attacks on the runtime, and what a killed runtime leaves behind.

use crate::harness::*;
use serde_json::json;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory of the host that must stay as it is.
fn outside(b: &Box) -> PathBuf {
    let dir = b.dir.join("outside");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("ptmx"), "host file").unwrap();
    dir
}

fn listing(dir: &Path) -> Vec<(String, u32, u64)> {
    let mut v: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| {
            (
                e.file_name().into_string().unwrap(),
                e.metadata().unwrap().mode(),
                e.metadata().unwrap().len(),
            )
        })
        .collect();
    v.sort();
    v
}

#[test]
fn exactly_three_descriptors() {
    let b = Box::sh("ls /proc/self/fd | tr '\\n' ' '; sleep 100");
    b.write_config();
    let line = format!(
        "exec {} --root {} run {} 8</ 9</",
        runtime().display(),
        b.state_root().display(),
        b.id
    );
    let mut b2 = Box::sh("echo /proc/self/fd/*");
    b2.write_config();
    let line2 = line
        .replace(&b.id, &b2.id)
        .replace(b.state_root().to_str().unwrap(), b2.state_root().to_str().unwrap());
    let r = finish(
        std::process::Command::new("/bin/sh").args(["-c", &line2]).current_dir(&b2.dir),
        b"",
    )
    .ok();
    // The shell's glob has one descriptor open while it lists.
    assert_eq!(r.out.split_whitespace().count(), 4, "{}", r.out);
    b2.at("process.args");
    b.up();
    let line = format!(
        "exec {} --root {} exec {} sh -c 'echo /proc/self/fd/*' 8</",
        runtime().display(),
        b.state_root().display(),
        b.id
    );
    let r =
        finish(std::process::Command::new("/bin/sh").args(["-c", &line]).current_dir(&b.dir), b"")
            .ok();
    assert_eq!(r.out.split_whitespace().count(), 4, "{}", r.out);
}

#[test]
fn a_working_directory_behind_a_descriptor() {
    for n in 3..20 {
        let mut b = Box::sh("pwd; ls ../../../../etc/debian_version");
        *b.at("process.cwd") = json!(format!("/proc/self/fd/{n}"));
        let r = b.run();
        assert!(!r.out.contains("debian_version"), "fd {n}: {}", r.out);
    }
}

#[test]
fn symlinks_in_the_rootfs_stay_inside() {
    let mut b = Box::sh("true");
    let out = outside(&b);
    let before = listing(&out);
    symlink(&out, b.rootfs().join("link")).unwrap();
    for dest in ["/link/m", "/link/../../../../../..", "/../../../../outside/m", "link/n"] {
        let mut config = b.config.clone();
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": format!("{dest}/x"), "type": "tmpfs", "source": "tmpfs"}));
        let saved = std::mem::replace(&mut b.config, config);
        let _ = b.run();
        b.config = saved;
        assert_eq!(listing(&out), before, "{dest}");
    }
    b.push("linux.devices", json!({"path": "/link/dev", "type": "c", "major": 1, "minor": 3}));
    b.push("linux.maskedPaths", json!("/link/ptmx"));
    *b.at("process.cwd") = json!("/link/newdir");
    let _ = b.run();
    assert_eq!(listing(&out), before);
    assert_eq!(std::fs::read_to_string(out.join("ptmx")).unwrap(), "host file");
}

#[test]
fn dev_as_a_symlink() {
    for target in ["absolute", "relative"] {
        let mut b = Box::sh("true");
        let out = outside(&b);
        let before = listing(&out);
        std::fs::remove_dir(b.rootfs().join("dev")).unwrap();
        let to = if target == "absolute" { out.clone() } else { PathBuf::from("../outside") };
        symlink(to, b.rootfs().join("dev")).unwrap();
        b.at("mounts")
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        let _ = b.run();
        assert_eq!(listing(&out), before, "{target}");
    }
}

#[test]
fn proc_and_sys_as_symlinks_are_refused() {
    for name in ["proc", "sys"] {
        let b = Box::sh("true");
        std::fs::remove_dir(b.rootfs().join(name)).unwrap();
        std::fs::create_dir(b.rootfs().join("bad")).unwrap();
        symlink("/bad", b.rootfs().join(name)).unwrap();
        assert_ne!(b.create().code, 0, "{name}");
        b.assert_gone();
    }
}

#[test]
fn a_fake_proc_is_refused() {
    let mut b = Box::sh("true");
    let fake = b.dir.join("fake/sys/net/ipv4");
    std::fs::create_dir_all(&fake).unwrap();
    std::fs::write(fake.join("ip_forward"), "FAKE").unwrap();
    *b.at("mounts.0") = json!({"destination": "/proc", "source": "fake", "options": ["rbind"]});
    *b.at("linux.sysctl") = json!({"net.ipv4.ip_forward": "1"});
    assert_ne!(b.create().code, 0);
    assert_eq!(std::fs::read_to_string(fake.join("ip_forward")).unwrap(), "FAKE");
    b.assert_gone();
}

#[test]
fn the_terminal_is_no_symlink() {
    let mut b = Box::sh("true");
    let out = outside(&b);
    let before = listing(&out);
    *b.at("process.terminal") = json!(true);
    b.at("mounts").as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    std::fs::create_dir_all(b.rootfs().join("dev/pts")).unwrap();
    symlink(out.join("created"), b.rootfs().join("dev/console")).unwrap();
    b.write_config();
    let _socket = std::os::unix::net::UnixListener::bind(b.dir.join("s")).unwrap();
    let mut c = b.command(&["create", "--console-socket", "s", &b.id]);
    let quiet = std::process::Stdio::null;
    let _ = c.stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    assert_eq!(listing(&out), before);
}

#[test]
fn the_binary_cannot_be_written_from_inside() {
    // A privileged container in the host's PID namespace, the worst case: it opens every /proc/PID/exe it sees.
    let copy_dir = std::env::temp_dir().join(format!("conex-copy-{}", std::process::id()));
    std::fs::create_dir_all(&copy_dir).unwrap();
    let copy = copy_dir.join("conex");
    copied(&runtime(), &copy);
    let before = std::fs::read(&copy).unwrap();
    let mut b = Box::new(&["/bin/sh", "-c", "while true; do for p in /proc/[0-9]*; do [ $(readlink $p/exe 2>/dev/null | grep -c conex) = 1 ] && echo -n X 1<>$p/exe 2>/dev/null && echo opened $p; done; done"]);
    let caps = json!([
        "CAP_SYS_PTRACE",
        "CAP_SYS_ADMIN",
        "CAP_DAC_READ_SEARCH",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL"
    ]);
    *b.at("process.capabilities") = json!({"bounding": caps, "effective": caps, "permitted": caps});
    b.drop_namespace("pid");
    b.up();
    for _ in 0..30 {
        for args in
            [vec!["exec", &b.id, "true"], vec!["exec", &b.id, "/proc/self/exe", "--version"]]
        {
            let mut c = std::process::Command::new(&copy);
            c.arg("--root").arg(b.state_root()).args(&args);
            let _ = finish(&mut c, b"");
        }
    }
    b.verb("kill", &[], &["KILL"]).ok();
    assert!(std::fs::read(&copy).unwrap() == before, "the binary was changed");
    std::fs::remove_dir_all(copy_dir).unwrap();
}

/// Where nobody can write to the program it is executed once, and a waiting init still gives nobody a way to write to it.
#[test]
fn a_program_on_a_file_system_without_writing() {
    const NAME: &str = "a_program_on_a_file_system_without_writing";
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    let [from, image, at] = ["from", "image", "at"].map(|n| b.dir.join(n));
    std::fs::create_dir(&from).unwrap();
    std::fs::create_dir(&at).unwrap();
    copied(&runtime(), &from.join("conex"));
    let tool = |name: &str, args: &[&std::path::Path]| {
        std::process::Command::new(name).args(args).output().is_ok_and(|o| o.status.success())
    };
    if !tool("mksquashfs", &[&from, &image]) {
        return skip(NAME, "mksquashfs (Debian: squashfs-tools)");
    }
    let how = ["-t", "squashfs", "-o", "loop"].map(std::path::Path::new);
    if !tool("mount", &[how[0], how[1], how[2], how[3], &image, &at]) {
        return skip(NAME, "squashfs, or loop devices");
    }
    let executed = |program: &std::path::Path| {
        let trace = b.dir.join("trace");
        b.write_config();
        let mut c = std::process::Command::new("strace");
        c.args(["-f", "-e", "trace=execve,execveat", "-o"]).arg(&trace).arg(program);
        c.arg("--root").arg(b.state_root()).args(["run", &b.id]).current_dir(&b.dir);
        finish(&mut c, b"").ok();
        std::fs::read_to_string(trace).unwrap().lines().filter(|l| l.ends_with(" = 0")).count()
    };
    let once = executed(&at.join("conex"));
    let usual = executed(&from.join("conex"));
    b.write_config();
    let mut c = std::process::Command::new(at.join("conex"));
    c.arg("--root").arg(b.state_root()).args(["create", &b.id]).current_dir(&b.dir);
    c.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    assert!(c.status().unwrap().success());
    let exe = format!("/proc/{}/exe", b.pid());
    let written = std::fs::OpenOptions::new().write(true).open(exe);
    b.verb("delete", &["--force"], &[]).ok();
    assert!(tool("umount", &[&at]));
    assert_eq!((once, usual), (2, 3), "executions of the runtime and of the program");
    let busy_or_read_only = written.err().and_then(|e| e.raw_os_error());
    assert!(
        [Some(libc::EROFS), Some(libc::ETXTBSY)].contains(&busy_or_read_only),
        "{busy_or_read_only:?}"
    );
}

/// Its name leads to another file in a place without that mount, and that must not be executed in its stead.
#[test]
fn a_program_that_is_mounted_on_another() {
    let b = Box::new(&["/bin/true"]);
    b.write_config();
    copied(&runtime(), &b.dir.join("conex"));
    copied(Path::new("/bin/sleep"), &b.dir.join("other"));
    let (root, dir) = (b.state_root(), b.dir.display());
    // On a file, and below a later mount on its directory (run by its descriptor).
    let ways = [
        "mount --bind conex other && ./other --root $R run $I".to_owned(),
        format!(
            "mkdir d && cp -p conex d/conex && exec 7<d/conex && mount --bind {dir} {dir}/d && cp other conex && /proc/self/fd/7 --root $R run $I"
        ),
    ];
    for way in ways {
        let mut c = std::process::Command::new("unshare");
        c.args(["--mount", "sh", "-ec", &way]).current_dir(&b.dir);
        c.env("R", &root).env("I", &b.id);
        let out = finish(&mut c, b"");
        assert_eq!((out.code, out.err.as_str()), (0, ""), "{way}");
    }
}

#[test]
fn state_is_private() {
    let b = Box::sh("sleep 100");
    b.up();
    assert_eq!(std::fs::metadata(b.state_root()).unwrap().permissions().mode() & 0o777, 0o700);
    for e in std::fs::read_dir(b.state_root().join(&b.id)).unwrap().flatten() {
        let mode = e.metadata().unwrap().permissions().mode();
        assert!(mode & 0o002 == 0 || !e.file_type().unwrap().is_file(), "{:?} {mode:o}", e.path());
    }
}

#[test]
fn a_planted_symlink_is_removed_not_followed() {
    let b = Box::sh("sleep 100");
    let out = outside(&b);
    b.up();
    symlink(&out, b.state_root().join(&b.id).join("link")).unwrap();
    b.verb("delete", &["-f"], &[]).ok();
    assert!(out.join("ptmx").exists());
    b.assert_gone();
    symlink(&out, b.state_root().join(&b.id)).unwrap();
    assert_ne!(b.create().code, 0);
    assert_eq!(listing(&out).len(), 1);
    std::fs::remove_file(b.state_root().join(&b.id)).unwrap();
}

#[test]
fn a_damaged_state_can_be_deleted() {
    if !is_conex() {
        return;
    }
    let healthy = Box::sh("sleep 100");
    healthy.up();
    for damage in ["", "{", "garbage"] {
        let mut b = Box::sh("sleep 100");
        b.id = format!("{}d", b.id);
        *b.at("linux.cgroupsPath") = json!(format!("/conex-test/{}", b.id));
        b.up();
        let file = b.state_root().join(&b.id).join("state.json");
        std::fs::write(&file, damage).unwrap();
        b.verb("state", &[], &[]).fails_with("damaged");
        b.call(&["list"]).ok();
        b.verb("delete", &["--force"], &[]).ok();
        b.assert_gone();
    }
    assert_eq!(healthy.status(), "running");
}

#[test]
fn cgroups_that_must_not_be_touched() {
    if !is_conex() {
        return;
    }
    for path in ["/", "/..", "..", "/a/../..", "//", "/."] {
        let mut b = Box::sh("sleep 100");
        *b.at("linux.cgroupsPath") = json!(path);
        b.create().fails_with("linux.cgroupsPath");
        b.assert_gone();
    }
    // A cgroup with a foreign process is refused, and the process lives.
    let b = Box::sh("sleep 100");
    let dir = cgroup_path("pids", &b.id);
    std::fs::create_dir_all(&dir).unwrap();
    let mut bystander = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    std::fs::write(dir.join("cgroup.procs"), bystander.id().to_string()).unwrap();
    b.create().fails_with("is not empty");
    let _ = b.verb("delete", &["-f"], &[]);
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander was killed");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    until(|| std::fs::remove_dir(&dir).is_ok(), "rmdir");
}

#[test]
fn a_killed_create_leaves_nothing_that_delete_cannot_remove() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.write_config();
    for i in 0..60u64 {
        let quiet = std::process::Stdio::null;
        let mut child = b
            .command(&["create", &b.id])
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(i * 150));
        let _ = child.kill();
        let _ = child.wait();
        b.verb("delete", &["--force"], &[]).ok();
        assert!(b.cgroups().is_empty(), "moment {i}: {:?}", b.cgroups());
        assert!(!b.state_root().join(&b.id).exists(), "moment {i}");
    }
    // And the same id works again without any clean-up by hand.
    for i in 0..20u64 {
        let quiet = std::process::Stdio::null;
        let mut child = b
            .command(&["create", &b.id])
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(1500 + i * 150));
        let _ = child.kill();
        let _ = child.wait();
        let r = b.create();
        assert!(r.code == 0 || r.err.contains("already exists"), "moment {i}: {}", r.err);
        b.verb("delete", &["--force"], &[]).ok();
    }
    b.assert_gone();
}

#[test]
fn keys_of_the_caller_are_out_of_reach() {
    let b = Box::sh("grep -c conex-secret /proc/keys; true");
    // The masked /proc/keys reads as nothing; unmask it to look.
    let mut b2 = b;
    *b2.at("linux.maskedPaths") = json!([]);
    assert_eq!(b2.run().ok().out, "0\n");
}

#[test]
fn uids_that_are_none() {
    for uid in [json!(4294967295u64), json!(4294967296u64), json!(-1), json!("0")] {
        let mut b = Box::sh("id -u");
        *b.at("process.user.uid") = uid.clone();
        let r = b.run();
        assert!(r.code != 0 && !r.out.contains('0'), "{uid}: {}", r.out);
        b.assert_gone();
    }
    let b = Box::sh("sleep 100");
    b.up();
    for user in ["abc", "1x", "-1", "1:", "4294967295", "0x10"] {
        assert_ne!(b.verb("exec", &[&format!("--user={user}")], &["id", "-u"]).code, 0, "{user:?}");
    }
}

#[test]
fn the_callers_groups_stay_outside() {
    let b = Box::sh("id -G");
    b.write_config();
    let line =
        format!("exec {} --root {} run {}", runtime().display(), b.state_root().display(), b.id);
    let mut c = std::process::Command::new("setpriv");
    c.args(["--groups", "0,27,44", "sh", "-c", &line]).current_dir(&b.dir);
    assert_eq!(finish(&mut c, b"").ok().out, "0\n");
}

#[test]
fn hooks_have_only_their_own_environment() {
    let mut b = Box::sh("true");
    let out = b.dir.join("env");
    *b.at("hooks.createRuntime") = json!([{"path": "/usr/bin/env", "args": ["sh", "-c", "true"]}]);
    executable(
        &b.dir.join("hook.sh"),
        format!("#!/bin/sh\n/usr/bin/env > {}\n", out.display()).as_bytes(),
    );
    *b.at("hooks.createRuntime") = json!([{"path": b.dir.join("hook.sh"), "env": ["ONLY=this"]}]);
    b.push("process.env", json!("LD_PRELOAD=/evil.so"));
    b.write_config();
    let mut c = b.command(&["run", &b.id]);
    finish(c.env("SECRET", "x"), b"");
    let text = std::fs::read_to_string(out).unwrap();
    assert!(text.contains("ONLY=this") && !text.contains("LD_PRELOAD"), "{text}");
    if is_conex() {
        assert!(!text.contains("SECRET"), "{text}");
    }
}

#[test]
fn exec_without_a_mount_namespace_stays_in_the_root() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("sleep 100");
    b.drop_namespace("mount");
    b.at("linux").as_object_mut().unwrap().remove("maskedPaths");
    b.at("linux").as_object_mut().unwrap().remove("readonlyPaths");
    std::fs::write(b.rootfs().join("inside"), "inside\n").unwrap();
    b.up();
    assert_eq!(b.exec(&["cat", "/inside"]).ok().out, "inside\n");
    assert_ne!(b.exec(&["ls", "/usr/bin/env"]).code, 0);
}

#[test]
fn a_fifo_as_passwd_stops_nobody() {
    let b = Box::sh("echo ok");
    nix::unistd::mkfifo(&b.rootfs().join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    if is_conex() {
        assert_eq!(b.run().ok().out, "ok\n");
    }
}
