//! What a process of a container begins with, and what is left of one that could not begin.

use crate::harness::*;
use serde_json::{json, Value};

/// A program that is gone when `start` comes: the error is told, and whoever asks next hears that the container has stopped.
#[test]
fn a_start_that_failed_has_stopped() {
    for _ in 0..if is_conex() { 20 } else { 1 } {
        let b = Box::sh("true");
        let program = b.rootfs().join("bin/only");
        executable(&program, &std::fs::read(b.rootfs().join("bin/busybox")).unwrap());
        let mut b = b;
        *b.at("process.args") = json!(["/bin/only"]);
        b.create().ok();
        std::fs::remove_file(&program).unwrap();
        assert_ne!(b.verb("start", &[], &[]).code, 0);
        assert_eq!(b.status(), "stopped");
        b.verb("delete", &[], &[]).ok();
    }
}

/// `execCPUAffinity`: the CPUs of a further process, from its beginning and for its program.
#[test]
fn cpus_of_an_exec() {
    let cpus = std::fs::read_to_string("/sys/fs/cgroup/cpuset/cpuset.cpus")
        .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/cpuset.cpus.effective"))
        .unwrap_or_default();
    if !cpus.trim().starts_with("0-") {
        skip("cpus_of_an_exec", "two CPUs");
        return;
    }
    let mut b = Box::sh("sleep 1000");
    *b.at("process.execCPUAffinity") = json!({"initial": "0", "final": "1"});
    b.up();
    let out = b.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"]).ok().out;
    assert_eq!(out.split_whitespace().last(), Some("1"), "{out}");
    let init = b.exec(&["grep", "Cpus_allowed_list", "/proc/1/status"]).ok().out;
    assert_ne!(init.split_whitespace().last(), Some("1"), "{init}");
}

/// A further process has the umask of the container, by flags and by a document that has none.
#[test]
fn umask_of_an_exec() {
    let mut b = Box::sh("sleep 1000");
    *b.at("process.user.umask") = json!(0o027);
    b.up();
    let document = b.dir.join("process.json");
    let of = |umask: Value| {
        let user = if umask.is_null() {
            json!({"uid": 0, "gid": 0})
        } else {
            json!({"uid": 0, "gid": 0, "umask": umask})
        };
        let process = json!({"args": ["/bin/sh", "-c", "umask"], "cwd": "/", "user": user, "env": ["PATH=/bin"]});
        std::fs::write(&document, process.to_string()).unwrap();
        b.verb("exec", &["-p", document.to_str().unwrap()], &[]).ok().out.trim().to_string()
    };
    assert_eq!(b.exec(&["sh", "-c", "umask"]).ok().out.trim(), "0027");
    assert_eq!(of(Value::Null), "0027");
    assert_eq!(of(json!(0o077)), "0077");
}

/// A line of the user's entry that is no text, ends with CR LF or has no shell is still his.
#[test]
fn home_from_any_passwd() {
    let mut b = Box::sh("echo \"$HOME\"");
    *b.at("process.user") = json!({"uid": 1000, "gid": 1000});
    let env = b.at("process.env").as_array_mut().unwrap();
    env.retain(|v| !v.as_str().unwrap().starts_with("HOME="));
    let many: String =
        (0..2000).map(|n| format!("u{n}:x:{}:1::/home/u{n}:/bin/sh\n", 100_000 + n)).collect();
    for (passwd, home) in [
        (b"user:x:1000:1000:\xff\xe4:/home/one:/bin/sh\n".to_vec(), "/home/one"),
        (b"+::::::\nuser:x:1000:1000::/home/two:/bin/sh\r\n".to_vec(), "/home/two"),
        (b"# a comment\n\nuser:x:1000:1000::/home/three\n".to_vec(), "/home/three"),
        (format!("{many}user:x:1000:1000::/home/four:\n").into_bytes(), "/home/four"),
        (b"other:x:1:1::/other:/bin/sh\n".to_vec(), "/"),
    ] {
        std::fs::write(b.rootfs().join("etc/passwd"), &passwd).unwrap();
        assert_eq!(
            b.run().ok().out.trim(),
            home,
            "{}",
            String::from_utf8_lossy(&passwd[..40.min(passwd.len())])
        );
    }
}
