//! What goes wrong beside the container: hooks that hang or call back, directories of somebody else, a host namespace
//! in the place of a container's.

use crate::harness::*;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};

fn shell_hook(script: String) -> serde_json::Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
}

#[test]
fn the_hosts_own_namespace_is_not_private() {
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut b = Box::sh("true");
    b.drop_namespace("network");
    b.push("linux.namespaces", json!({"type": "network", "path": "/proc/self/ns/net"}));
    *b.at("linux.sysctl") = json!({"net.ipv4.ip_default_ttl": "77"});
    b.run().fails_with("linux.sysctl");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(), before);
    let mut b = Box::sh("true");
    b.drop_namespace("uts");
    b.push("linux.namespaces", json!({"type": "uts", "path": "/proc/1/ns/uts"}));
    b.run().fails_with("hostname");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), name);
    // Its own, but of another kind: no entry is left out for that.
    let mut b = Box::sh("true");
    b.drop_namespace("network");
    b.drop_namespace("ipc");
    b.push("linux.namespaces", json!({"type": "network", "path": "/proc/self/ns/net"}));
    b.push("linux.namespaces", json!({"type": "ipc", "path": "/proc/self/ns/net"}));
    b.run().fails_with("linux.namespaces");
}

#[test]
fn a_cgroup_with_processes_below_is_in_use() {
    let parent = cgroup_path("pids", "foreign");
    std::fs::create_dir_all(parent.join("deep/deeper")).unwrap();
    let mut sleeper = Command::new("/bin/sleep").arg("60").spawn().unwrap();
    std::fs::write(parent.join("deep/deeper/cgroup.procs"), sleeper.id().to_string()).unwrap();
    let mut b = Box::sh("true");
    *b.at("linux.cgroupsPath") = json!("/conex-test/foreign");
    b.run().fails_with("not empty");
    b.verb("delete", &["--force"], &[]);
    assert!(sleeper.try_wait().unwrap().is_none(), "the stranger was killed");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    for dir in ["deep/deeper", "deep", ""] {
        until(|| std::fs::remove_dir(parent.join(dir)).is_ok(), "rmdir");
    }
}

#[test]
fn delete_force_ends_a_create_whose_hook_hangs() {
    let mut b = Box::sh("true");
    let mark = b.dir.join("hook");
    *b.at("hooks.createRuntime") =
        shell_hook(format!("echo $$ > {}; exec sleep 100", mark.display()));
    b.write_config();
    let mut creating =
        b.command(&["create", &b.id]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    until(|| mark.exists(), "the hook runs");
    let started = std::time::Instant::now();
    b.verb("delete", &["--force"], &[]).ok();
    assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
    assert!(!creating.wait().unwrap().success());
    b.assert_gone();
    let pid: i32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn a_poststart_hook_may_call_the_runtime() {
    let mut b = Box::sh("sleep 100");
    let out = b.dir.join("hook-out");
    let line = format!(
        "{} --root {} exec {} echo from-the-hook > {} 2>&1",
        runtime().display(),
        b.state_root().display(),
        b.id,
        out.display()
    );
    *b.at("hooks.poststart") = shell_hook(line);
    b.up();
    assert_eq!(std::fs::read_to_string(out).unwrap().trim(), "from-the-hook");
}

#[test]
fn a_failing_poststop_does_not_hide_the_exit_status() {
    let mut b = Box::sh("exit 7");
    *b.at("hooks.poststop") = json!([{"path": "/bin/false"}]);
    let r = b.run();
    assert_eq!(r.code, 7, "{}", r.err);
    assert!(r.err.contains("hooks.poststop[0]"), "{}", r.err);
    b.assert_gone();
}

#[test]
fn hooks_block_no_signals() {
    let mut b = Box::sh("true");
    let out = b.dir.join("mask");
    *b.at("hooks.createRuntime") =
        shell_hook(format!("grep SigBlk /proc/self/status > {}", out.display()));
    b.run().ok();
    assert_eq!(
        std::fs::read_to_string(out).unwrap().split_whitespace().nth(1),
        Some("0000000000000000")
    );
}

#[test]
fn run_relays_signals_before_the_service_is_ready() {
    let b = Box::sh("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done");
    b.write_config();
    let socket = b.dir.join("manager.sock");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let mut run = b
        .command(&["run", &b.id])
        .env("NOTIFY_SOCKET", &socket)
        .stdout(Stdio::from(std::fs::File::create(b.dir.join("out")).unwrap()))
        .spawn()
        .unwrap();
    until(|| b.output().contains("up"), "the container runs");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(run.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(9));
    drop(manager);
}

#[test]
fn readiness_reaches_the_manager() {
    // busybox has no way to write to a datagram socket: the host does it over the socket's file in the state directory,
    // as a process of the container would over /run/notify.
    for detach in [true, false] {
        let b = Box::sh("while [ ! -e /tmp/stop ]; do sleep 0.02; done");
        b.write_config();
        let socket = b.dir.join("manager.sock");
        let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut c = b.command(if detach { &["run", "-d"] } else { &["run"] });
        let mut run =
            c.arg(&b.id).env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).spawn().unwrap();
        let inside = b.state_root().join(&b.id).join("notify/notify.sock");
        until(|| inside.exists(), "the notify socket");
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        until(|| client.send_to(b"STATUS=x\n", &inside).is_ok(), "a reader");
        client.send_to(b"READY=1\n", &inside).unwrap();
        let mut buffer = [0u8; 200];
        let n = manager.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        assert!(text.starts_with("READY=1\nMAINPID="), "{text}");
        if detach {
            // BARRIER=1; the runtime waits until it is read and its descriptor closed.
            let _ = manager.recv(&mut buffer);
            drop(manager);
        }
        std::fs::write(b.rootfs().join("tmp/stop"), "").unwrap();
        let _ = run.wait();
    }
}

#[test]
fn pipes_belong_to_the_user_of_a_user_namespace() {
    let mut b = Box::sh("echo reopened > /dev/stdout");
    *b.at("process.user") = json!({"uid": 5, "gid": 5});
    *b.at("process.capabilities") = json!({});
    b.push("linux.namespaces", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    *b.at("linux.uidMappings") = map.clone();
    *b.at("linux.gidMappings") = map;
    assert_eq!(b.run().ok().out.trim(), "reopened");
}

#[test]
fn an_empty_state_directory_does_not_block_its_id() {
    let b = Box::sh("echo ran");
    std::fs::create_dir_all(b.state_root().join(&b.id)).unwrap();
    b.verb("state", &[], &[]).fails_with("does not exist");
    assert_eq!(b.run().ok().out.trim(), "ran");
}

#[test]
fn exec_has_the_personality_of_the_container() {
    let mut b = Box::sh("sleep 100");
    *b.at("linux.personality") = json!({"domain": "LINUX32"});
    b.up();
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/uname")).unwrap();
    // A kernel without 32-bit support answers as ever.
    let host = Command::new("setarch").args(["linux32", "uname", "-m"]).output().unwrap();
    assert_eq!(b.exec(&["uname", "-m"]).ok().out, String::from_utf8_lossy(&host.stdout));
}

/// Docker appends a hint to errors with "not a directory"; move_mount(2) alone would say EINVAL.
#[test]
fn a_file_mounted_on_a_directory_is_told() {
    let mut b = Box::sh("true");
    let file = b.dir.join("file");
    std::fs::write(&file, "x").unwrap();
    b.push(
        "mounts",
        json!({"destination": "/etc", "type": "bind", "source": file, "options": ["bind"]}),
    );
    let r = b.run().fails_with("not a directory");
    if is_conex() {
        r.fails_with("].destination: ");
    }
    b.assert_gone();
}

/// The kernel kills the container's init before it has become the program: the error says which limit it was.
#[test]
fn a_memory_limit_too_low_to_start_is_told() {
    for _ in 0..10 {
        let mut b = Box::sh("true");
        *b.at("linux.resources") = json!({"memory": {"limit": 4096}});
        b.run().fails_with(if is_conex() {
            "linux.resources.memory.limit may be too low"
        } else {
            "memory limit"
        });
        b.assert_gone();
    }
}

/// A process that nothing can end: `delete --force` says so within the time that it names, and can be called again.
#[test]
fn delete_of_what_cannot_be_killed() {
    let freezer = Path::new("/sys/fs/cgroup/freezer");
    if !freezer.join("cgroup.procs").exists() {
        skip("delete_of_what_cannot_be_killed", "the freezer of cgroup v1");
        return;
    }
    let b = Box::sh("sleep 1000");
    b.up();
    // Somebody else's: the container's own is thawed by whoever kills it.
    let foreign = freezer.join("conex-test").join(format!("foreign-{}", b.id));
    std::fs::create_dir_all(&foreign).unwrap();
    std::fs::write(foreign.join("cgroup.procs"), b.pid().to_string()).unwrap();
    std::fs::write(foreign.join("freezer.state"), "FROZEN").unwrap();
    until(
        || std::fs::read_to_string(foreign.join("freezer.state")).unwrap() == "FROZEN\n",
        "frozen",
    );
    let begun = std::time::Instant::now();
    let ran = b.verb("delete", &["--force"], &[]);
    let took = begun.elapsed().as_secs_f64();
    assert!(ran.code == 1 && took < 13.0, "{took} s: {}", ran.err);
    if is_conex() {
        assert!(
            took > 9.0 && ran.err.contains("still running 10 seconds after SIGKILL"),
            "{took} s: {}",
            ran.err
        );
    }
    std::fs::write(foreign.join("freezer.state"), "THAWED").unwrap();
    b.verb("delete", &["--force"], &[]).ok();
    until(|| std::fs::remove_dir(&foreign).is_ok(), "the freezer is empty");
    b.assert_gone();
}
