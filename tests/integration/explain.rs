//! What a seccomp profile does: `seccomp explain`, and `run --seccomp-log`.

use crate::harness::*;
use serde_json::{json, Value};
use std::process::{Command, Stdio};

/// Each kind of rule, with the line of the one that decides.
#[test]
fn which_rule_decides() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    let file = b.dir.join("profile.json");
    let profile = r#"{
  "defaultAction": "SCMP_ACT_ERRNO",
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
  "syscalls": [
    {"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"},
    {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
     "args": [{"index": 1, "value": 21505, "op": "SCMP_CMP_EQ"}]},
    {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
     "args": [{"index": 1, "value": 255, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"},
    {"names": ["connect"], "action": "SCMP_ACT_ALLOW"}
  ]
}"#;
    std::fs::write(&file, profile).unwrap();
    let explain =
        |args: &[&str]| b.call(&[&["seccomp", "explain", file.to_str().unwrap()], args].concat());
    if cfg!(target_arch = "x86_64") {
        for (args, lines) in [
            (
                &["read"][..],
                &["x86-64 (0): allowed, by syscalls[0], line 5", "x86 (3): allowed, by syscalls[0], line 5"][..],
            ),
            (&["mkdir"], &["x86-64 (83): fails with EPERM (1), by the default action (defaultAction, line 2)"]),
            (&["ptrace"], &["kills the process, by syscalls[4], line 11"]),
            (
                &["ioctl"],
                &[
                    "if args[1] == 0x5401: fails with EACCES (13), by syscalls[2], line 7",
                    "if args[1] & 0xff == 0x1: allowed, by syscalls[3], line 9",
                    "otherwise: fails with EPERM (1), by the default action",
                ],
            ),
            (&["ioctl", "0", "0x5401"], &["x86-64 (16): fails with EACCES (13), by syscalls[2], line 7"]),
            (&["ioctl", "0", "0x5501"], &["x86-64 (16): allowed, by syscalls[3], line 9"]),
            (&["ioctl", "0", "--", "-1"], &["x86-64 (16): fails with EPERM (1), by the default action"]),
            (&["mseal"], &["x86-64 (462): fails with ENOSYS (38), by its number: the call is newer"]),
            (
                &["socketcall", "3"],
                &["x86-64: has no such call", "x86 (102): allowed, by the rule of the call that it stands for"],
            ),
            (&["socketcall", "1"], &["x86 (102): fails with EPERM (1), by the default action"]),
        ] {
            let out = explain(args).ok().out;
            lines.iter().for_each(|line| assert!(out.contains(line), "{line}: {out}"));
        }
        let out: Value = serde_json::from_str(&explain(&["ioctl", "--json"]).ok().out).unwrap();
        assert_eq!(out["abis"][0]["cases"][1]["if"], "args[1] & 0xff == 0x1", "{out}");
    }
    explain(&["raed"]).fails_with("no system call is named \\\"raed\\\"; did you mean");
    explain(&["read", "x"]).fails_with("is no number");
    b.call(&["seccomp", "explian", "x", "read"])
        .fails_with("expected `seccomp explain PROFILE SYSCALL [ARGS]`");
    b.call(&["seccomp", "explain", "/no/such", "read"]).fails_with("/no/such");
    for (text, problem) in [
        ("[", "no JSON"),
        ("{}", "an empty profile: every call is allowed"),
        (r#"{"ociVersion": "1.2.0"}"#, "has no linux.seccomp: every call is allowed"),
        (r#"{"defaultAction": "ALLOW"}"#, "is no seccomp action"),
    ] {
        std::fs::write(&file, text).unwrap();
        explain(&["read"]).fails_with(problem);
    }
}

/// Docker's and Podman's own format, where a rule can need a capability or a machine.
#[test]
fn a_profile_in_dockers_format() {
    if !is_conex() || !cfg!(target_arch = "x86_64") {
        return;
    }
    let b = Box::sh("true");
    let file = b.dir.join("docker.json");
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}]});
    std::fs::write(&file, profile.to_string()).unwrap();
    let first = |args: &[&str]| {
        let out =
            b.call(&[&["seccomp", "explain", file.to_str().unwrap()], args].concat()).ok().out;
        assert_eq!(out.lines().count(), 4, "{out}");
        out.lines().nth(1).unwrap().trim().to_string()
    };
    assert_eq!(first(&["read"]), "x86-64 (0): allowed, by syscalls[0]");
    assert_eq!(first(&["mount"]), "x86-64 (165): fails with EACCES (13), by syscalls[2]");
    assert_eq!(first(&["mount", "--cap", "sys_admin"]), "x86-64 (165): allowed, by syscalls[1]");
    assert_eq!(first(&["arch_prctl"]), "x86-64 (158): allowed, by syscalls[3]");
    assert!(first(&["bpf"]).contains("fails with"));
}

/// The answers under the log are those of the profile, and each denied call is counted with its rule.
#[test]
fn denied_calls_are_told_at_the_end() {
    if !is_conex() {
        return;
    }
    let script =
        "for i in 1 2 3; do mkdir /tmp/a$i; done; cat /proc/self/status | grep -q Seccomp; sync; chroot / true; \
                  setpriority 2>/dev/null; exit 4";
    let mut b = Box::sh(script);
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
        {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 5, "value": 1, "op": "SCMP_CMP_EQ"}]}]});
    *b.at("linux.seccomp") = profile.clone();
    b.write_config();
    let place = b.dir.join("temporary");
    std::fs::create_dir(&place).unwrap();
    let mut c = b.command(&["run", "--seccomp-log", "-b", b.dir.to_str().unwrap(), &b.id]);
    let ran = finish(c.env("TMPDIR", &place), b"");
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert_eq!(ran.err.matches("Read-only file system").count(), 3, "{}", ran.err);
    let told: Vec<&str> =
        ran.err.lines().skip_while(|l| !l.starts_with("conex: seccomp:")).map(str::trim).collect();
    assert_eq!(told[0], "conex: seccomp: 4 calls denied:", "{}", ran.err);
    assert!(
        told[1].starts_with("3  mkdir")
            && told[1].contains(": fails with EROFS (30), by syscalls[0]"),
        "{told:?}"
    );
    assert!(
        told[2].starts_with("1  sync: kills the process, by syscalls[1]") && told.len() == 3,
        "{told:?}"
    );
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "a directory is left");
    // An allow-list.
    *b.at("process.args") = json!(["/bin/sh", "-c", "mkdir /tmp/b; umount /proc; exit 5"]);
    let names: Vec<&str> = include_str!("../../runtime/plan/src/seccomp/table.rs")
        .lines()
        .filter_map(|l| l.trim().strip_prefix("(\"")?.split('"').next())
        .filter(|n| !matches!(*n, "umount2" | "umount" | "oldumount"))
        .collect();
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    b.write_config();
    let ran = b.call(&["run", "--seccomp-log", "-b", b.dir.to_str().unwrap(), &b.id]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(
        ran.err.contains("1 call denied:")
            && ran.err.contains("  1  umount2: fails with EPERM (1), by the default"),
        "{}",
        ran.err
    );
    assert!(b.rootfs().join("tmp/b").is_dir());
    // Nothing to deny; what is traced, without a tracer; what `run` itself refuses; and what it cannot do.
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    b.write_config();
    for flag in ["--seccomp-log", "-seccomp-log", "--seccomp-log=true"] {
        let ran = b.call(&["run", flag, "-b", b.dir.to_str().unwrap(), &b.id]);
        assert!(
            ran.code == 5 && ran.err.contains("seccomp: 0 calls denied"),
            "{flag}: {}",
            ran.err
        );
    }
    std::fs::remove_dir(b.rootfs().join("tmp/b")).unwrap();
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRACE"}]});
    b.write_config();
    let ran = b.call(&["run", "--seccomp-log", "-b", b.dir.to_str().unwrap(), &b.id]);
    assert!(
        ran.err.contains("not implemented") && ran.err.contains("handed to the tracer"),
        "{}",
        ran.err
    );
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]});
    b.write_config();
    b.call(&["run", "--seccomp-log", "-b", b.dir.to_str().unwrap(), &b.id])
        .fails_with("denies execve");
    let call = |b: &Box, flags: &[&str]| {
        b.call(
            &[&["run", "--seccomp-log", "-b", b.dir.to_str().unwrap()], flags, &[&b.id]].concat(),
        )
    };
    call(&b, &["-d"]).fails_with("only in the foreground");
    *b.at("linux.seccomp.listenerPath") = json!("/run/agent");
    b.write_config();
    call(&b, &[]).fails_with("has a listener already");
    b.config["linux"].as_object_mut().unwrap().remove("seccomp");
    b.write_config();
    call(&b, &[]).fails_with("has no linux.seccomp: every call is allowed");
    b.assert_gone();
}

/// The same by an annotation, for a container that somebody else waits for: an agent answers, and writes a file at the end.
#[test]
fn an_annotation_lists_what_was_denied() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh(
        "mkdir /tmp/a 2>&1; while ! [ -e /tmp/go ]; do sleep 0.02; done; mkdir /tmp/b 2>&1; exit 6",
    );
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}]});
    let log = b.dir.join("denied");
    let (dir, id) = (b.dir.clone(), b.id.clone());
    let (place, state) = (dir.join("temporary"), b.state_root());
    std::fs::create_dir(&place).unwrap();
    *b.at("annotations") = json!({"dev.conex.seccomp-log": log, "other": "kept"});
    b.write_config();
    // Younger machines have no mkdir(2).
    let call = if cfg!(target_arch = "x86_64") { "mkdir" } else { "mkdirat" };
    let told = |n: u32| {
        format!("conex: seccomp: {}: {n} calls denied:\n{n:>8}  {call}: fails with EROFS (30), by syscalls[0]\n", id)
    };
    // Without the line of the rule, which is another one as the document grows.
    let read = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.split_once(", line ").map_or(text.clone(), |(text, _)| format!("{text}\n"))
    };
    let agents = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
        let place = place.display().to_string();
        lines
            .filter(|l| {
                String::from_utf8_lossy(l).contains(&place) && l.windows(6).any(|w| w == b"-agent")
            })
            .count()
    };
    let call = |line: &str, by_path: bool| {
        // As an engine calls it: by its path, or by its name in PATH.
        let (program, path) = match by_path {
            true => (runtime().display().to_string(), "/usr/bin:/bin".to_string()),
            false => {
                ("conex".into(), format!("{}:/usr/bin:/bin", runtime().parent().unwrap().display()))
            }
        };
        let words = format!("exec {program} --root {} {line}", state.display());
        let mut c = Command::new("sh");
        c.args(["-c", &words]).env("TMPDIR", &place).env("PATH", path).current_dir(&dir);
        finish(&mut c, b"")
    };
    for by_path in [true, false] {
        let _ = std::fs::remove_file(&log);
        let _ = std::fs::remove_file(b.rootfs().join("tmp/go"));
        call(&format!("create --pid-file pid {} >out 2>&1 </dev/null", b.id), by_path).ok();
        assert_eq!((agents(), read().as_str()), (1, ""));
        b.verb("start", &[], &[]).ok();
        assert_eq!(b.state()["annotations"], json!({"other": "kept"}));
        assert_eq!(b.exec(&["mkdir", "/tmp/c"]).code, 1);
        std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
        b.wait_status("stopped");
        until(|| !read().is_empty(), "the file");
        assert_eq!(read(), told(3));
        b.verb("delete", &[], &[]).ok();
        until(|| agents() == 0, "the end of the agent");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "a directory is left");
    }
    // In the foreground the file is there when `run` has ended.
    std::fs::remove_file(&log).unwrap();
    let ran = call(&format!("run {}", b.id), true);
    assert_eq!((ran.code, read()), (6, told(2)), "{}", ran.err);
    // As is a signal to it: the container's program gets it.
    std::fs::remove_file(&log).unwrap();
    std::fs::remove_file(b.rootfs().join("tmp/go")).unwrap();
    let mut c = Command::new("sh");
    let words = format!("exec {} --root {} run {}", runtime().display(), state.display(), id);
    c.args(["-c", &words])
        .env("TMPDIR", &place)
        .current_dir(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut run = c.spawn().unwrap();
    until(|| b.call(&["state", &id]).code == 0 && b.status() == "running", "it runs");
    conex_sys::proc::kill(nix::unistd::Pid::from_raw(run.id() as i32), libc::SIGTERM).unwrap();
    std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(6));
    assert_eq!(read(), told(2));
    // A create that is killed at any moment leaves no agent, and what it left of the container can be deleted; it is
    // the runtime itself that is killed.
    for n in 0..30u64 {
        let mut c = Command::new("sh");
        let words = format!("exec {} --root {} create {id}", runtime().display(), state.display());
        c.args(["-c", &words]).env("TMPDIR", &place).current_dir(&dir);
        let mut create =
            c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(n * 900));
        let _ = (create.kill(), create.wait());
        b.verb("delete", &["--force"], &[]).ok();
        until(|| agents() == 0, "the end of the agent");
    }
    // What is killed before there is an agent leaves its directory.
    for left in std::fs::read_dir(&place).unwrap().flatten() {
        std::fs::remove_dir_all(left.path()).unwrap();
    }
    // One that fails leaves nothing.
    b.push(
        "mounts",
        json!({"destination": "/none", "type": "bind", "source": "/no/such", "options": ["rbind"]}),
    );
    b.write_config();
    call(&format!("create {} </dev/null", b.id), true).fails_with("mounts[4]");
    // It gives the runtime's last word a second.
    until(
        || agents() == 0 && std::fs::read_dir(&place).unwrap().count() == 0,
        "the end of the agent",
    );
    for (file, part) in
        [("relative", "must be the absolute path"), ("/no/such/dir/file", "open(/no/such/dir/file")]
    {
        *b.at("annotations") = json!({"dev.conex.seccomp-log": file});
        b.write_config();
        call(&format!("create {} </dev/null", b.id), true).fails_with(part);
    }
    *b.at("annotations") = json!({"dev.conex.seccomp-log": "/tmp/x"});
    b.config["linux"].as_object_mut().unwrap().remove("seccomp");
    b.write_config();
    call(&format!("create {} </dev/null", b.id), true).fails_with("has no linux.seccomp");
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "a directory is left");
    b.assert_gone();
}
