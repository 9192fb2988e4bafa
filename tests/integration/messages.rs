//! What a user reads when something is wrong: the field or the flag, and the reason in words.

use crate::harness::*;
use serde_json::json;
use std::process::Command;

type Edit = fn(&mut Box);

/// What is wrong, and a part of what is said: with a cpuset controller, and anywhere.
const PLACES: [(Edit, &str); 2] = [
    (
        |b| *b.at("linux.resources.cpu") = json!({"cpus": "0-4000"}),
        "linux.resources.cpu.cpus: \\\"0-4000\\\" is no part of the CPUs",
    ),
    (
        |b| *b.at("linux.resources.cpu") = json!({"mems": "700"}),
        "linux.resources.cpu.mems: \\\"700\\\" is no part of the memory nodes",
    ),
];

const WRONG: [(Edit, &str); 14] = [
    (
        |b| b.push("process.env", json!(format!("LONG={}", "x".repeat(200_000)))),
        "process.env: exec /bin/sh: argument list too long",
    ),
    (
        |b| b.push("process.env", json!(format!("LONG={}", "x".repeat(200_000)))),
        "200005 bytes of LONG are more than Linux takes",
    ),
    (
        |b| script(b, "#!/no/such/interpreter -x\n"),
        "the interpreter \\\"/no/such/interpreter\\\" of its first line is missing",
    ),
    (|b| script(b, "#!/bin/sh\r\necho hi\r\n"), "CR LF"),
    (|b| script(b, "echo hi\n"), "neither a program nor a script that begins with #!"),
    (
        foreign,
        "exec format error: the interpreter \\\"/foreign\\\" of its first line is a program for another machine",
    ),
    (|b| mount(b, "/etc", "/bin/sh"), "/etc is a directory, /bin/sh in the container a file"),
    (|b| mount(b, "/etc/hostname", "/bin"), "/etc/hostname is a file, /bin in the container a directory"),
    (
        |b| join(b, "network", "/proc/self/ns/uts"),
        "not a network namespace: setns(/proc/self/ns/uts, CLONE_NEWNET)",
    ),
    (|b| join(b, "ipc", "/proc/self/ns/uts"), "not an ipc namespace"),
    (|b| *b.at("linux.rootfsPropagation") = json!("runbindable"), "linux.rootfsPropagation: "),
    (no_id_0, "linux.uidMappings: the id 0 of a new user namespace must be mapped"),
    (|b| mount(b, &"/no/such".repeat(100), "/mnt"), "mounts["),
    (noexec, "permission denied: it is on a mount with noexec"),
];

fn script(b: &mut Box, text: &str) {
    executable(&b.rootfs().join("script"), text.as_bytes());
    *b.at("process.args") = json!(["/script"]);
}

/// An interpreter that is there, and is a program of another architecture (e_machine, elf(5)).
fn foreign(b: &mut Box) {
    let mut program = std::fs::read(b.rootfs().join("bin/busybox")).unwrap();
    (program[18], program[19]) = (0xf3, 0);
    executable(&b.rootfs().join("foreign"), &program);
    script(b, "#!/foreign\n");
}

fn mount(b: &mut Box, source: &str, destination: &str) {
    b.push(
        "mounts",
        json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]}),
    );
}

fn noexec(b: &mut Box) {
    let bin = b.rootfs().join("bin");
    b.push("mounts", json!({"destination": "/bin", "type": "bind", "source": bin, "options": ["rbind", "noexec"]}));
}

fn join(b: &mut Box, kind: &str, path: &str) {
    b.drop_namespace(kind);
    b.push("linux.namespaces", json!({"type": kind, "path": path}));
}

fn no_id_0(b: &mut Box) {
    b.push("linux.namespaces", json!({"type": "user"}));
    *b.at("process.user") = json!({"uid": 1, "gid": 1});
    let map = json!([{"containerID": 1, "hostID": 100_000, "size": 10}]);
    (*b.at("linux.uidMappings"), *b.at("linux.gidMappings")) = (map.clone(), map);
}

#[test]
fn the_field_and_the_reason() {
    if !is_conex() {
        return;
    }
    let places = if has_controller("cpuset") { &PLACES[..] } else { &[] };
    if places.is_empty() {
        skip("the_field_and_the_reason (cpus and mems)", "the cpuset controller");
    }
    for (edit, part) in WRONG.iter().chain(places) {
        let mut b = Box::sh("true");
        edit(&mut b);
        let r = b.run();
        assert!(r.code != 0 && r.err.contains(part), "{part}: {} {}", r.code, r.err);
        message(&r.err);
        b.assert_gone();
    }
}

/// What this machine may refuse: whether it does is asked first.
#[test]
fn what_takes_a_capability_is_said() {
    if !is_conex() {
        return;
    }
    let without = "setpriv --bounding-set -sys_resource --inh-caps -sys_resource --ambient-caps -sys_resource";
    let prefix: Vec<String> = without.split(' ').map(String::from).collect();
    let mut b = Box::sh("true");
    b.prefix = prefix.clone();
    *b.at("process.oomScoreAdj") = json!(-1000);
    let r = b
        .run()
        .fails_with("process.oomScoreAdj: lowering it from ")
        .fails_with("takes CAP_SYS_RESOURCE");
    message(&r.err);
    b.assert_gone();
    let mut b = Box::sh("true");
    b.prefix = prefix;
    *b.at("process.rlimits") =
        json!([{"type": "RLIMIT_NOFILE", "soft": 10_000_000, "hard": 10_000_000}]);
    let r = b.run();
    assert!(
        r.code != 0 && r.err.contains("process.rlimits[0]") && r.err.contains("CAP_SYS_RESOURCE"),
        "{}",
        r.err
    );
    b.assert_gone();
    // Which set, and which capability of it.
    for (set, others) in [("effective", "permitted"), ("ambient", "inheritable")] {
        let mut b = Box::sh("true");
        *b.at(&format!("process.capabilities.{others}")) = json!([]);
        *b.at(&format!("process.capabilities.{set}")) = json!(["CAP_KILL"]);
        let r = b.run();
        let names = format!("process.capabilities.{set}");
        assert!(
            r.err.contains(&names) && r.err.contains("CAP_KILL") && r.err.contains(others),
            "{} {}",
            r.code,
            r.err
        );
        message(&r.err);
        b.assert_gone();
    }
}

/// The rule behind an EINVAL of cgroup v1: memory is never above memory plus swap.
#[test]
fn the_swap_rule_is_told() {
    if v2()
        || !std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || !is_conex()
    {
        if is_conex() {
            skip("the_swap_rule_is_told", "memory.memsw of cgroup v1");
        }
        return;
    }
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.memory") = json!({"limit": 64 << 20, "swap": 64 << 20});
    b.up();
    for (flags, part) in [
        (["--memory", "100M"], "memory must not be above the limit of memory plus swap, 67108864"),
        (
            ["--memory-swap", "10M"],
            "memory plus swap must not be below the limit of memory, 67108864",
        ),
    ] {
        let r = b.verb("update", &flags, &[]).fails_with(part);
        message(&r.err);
    }
    let file = |name: &str| b.cgroup_file("memory", name);
    assert_eq!(
        (file("memory.limit_in_bytes"), file("memory.memsw.limit_in_bytes")),
        ("67108864".into(), "67108864".into())
    );
}

/// At most 400 characters for one problem.
fn message(err: &str) {
    let text = err.split_once("unable to start container process: ").map_or(err, |(_, text)| text);
    assert!(text.trim().chars().count() <= 400, "{} characters: {text}", text.chars().count());
}

#[test]
fn a_flag_is_named() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 1000");
    b.write_config();
    b.verb("run", &["--pid-file", "/no/such/pid"], &[]).fails_with("--pid-file: open(/no/such/");
    b.assert_gone();
    b.up();
    for (flags, command, part) in [
        (&["--env", "NAME"][..], "true", "--env: \\\"NAME\\\" is not NAME=value"),
        (&["--cwd", "there"], "true", "--cwd: "),
        (&["--cwd", "/no/such"], "true", "--cwd: chdir to cwd"),
        (&["--user", "root"], "true", "--user \\\"root\\\": expected"),
        (&["--pid-file", "/no/such/pid"], "true", "--pid-file: open("),
        (
            &[],
            "no-such-program",
            "the command: exec: \\\"no-such-program\\\": executable file not found in $PATH",
        ),
    ] {
        let r = b.verb("exec", flags, &[command]);
        assert!(r.code == 255 && r.err.contains(part), "{flags:?}: {} {}", r.code, r.err);
        assert!(!r.err.contains("config.json line"), "{}", r.err);
        message(&r.err);
    }
    let r = b.verb("exec", &["--cap", "CAP_NONE"], &["true"]).ok();
    assert_eq!(r.err.lines().count(), 1, "{}", r.err);
    assert!(r.err.contains("--cap: unknown capability"), "{}", r.err);
}

/// The state root cannot be made.
#[test]
fn the_root_is_named() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    b.write_config();
    let mut c = std::process::Command::new(runtime());
    let r = finish(c.args(["--root", "/proc/none", "run", &b.id]).current_dir(&b.dir), b"");
    r.fails_with("--root: mkdir(/proc/none)");
}

/// A name in a document can be as long as its author likes; a message is not.
#[test]
fn no_message_is_longer_than_a_line_or_two() {
    if !is_conex() {
        return;
    }
    let long = "x".repeat(5000);
    for (pointer, value) in [
        ("linux.sysctl", json!({format!("net.{long}"): "1"})),
        ("linux.resources.unified", json!({long.clone(): "1"})),
        ("annotations", json!({format!("run.oci.{long}"): 7})),
        ("hostname", json!(long)),
        ("process.cwd", json!(long)),
        (&*long.clone(), json!(1)),
    ] {
        let mut b = Box::sh("true");
        *b.at(pointer) = value;
        let r = b.run();
        let longest = r.err.lines().map(str::len).max().unwrap_or(0);
        assert!(longest < 700, "{pointer:.20}: {longest}: {:.900}", r.err);
    }
}

/// What `exec -p` and `update -r` read has all its problems told at once, as a config.json.
#[test]
fn all_problems_of_the_other_documents() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 1000");
    b.up();
    let file = b.dir.join("document.json");
    std::fs::write(
        &file,
        r#"{"args": "sh", "cwd": "not/absolute", "user": {"uid": "x"}, "oomScoreAdj": 5000}"#,
    )
    .unwrap();
    let r = b.verb("exec", &["-p", file.to_str().unwrap()], &[]);
    for part in ["args: ", "user.uid: ", "process.cwd: ", "process.oomScoreAdj: "] {
        assert!(r.code == 255 && r.err.contains(part), "{part}: {}", r.err);
    }
    std::fs::write(
        &file,
        r#"{"memory": {"limit": "much"}, "pids": {"limit": 5}, "unified": {"no.such/file": "1"}}"#,
    )
    .unwrap();
    let r = b.verb("update", &["-r", file.to_str().unwrap()], &[]);
    for part in ["memory.limit: ", "linux.resources.unified"] {
        assert!(r.code == 1 && r.err.contains(part), "{part}: {}", r.err);
    }
    // A value that ends in the middle has a name.
    std::fs::write(
        b.dir.join("config.json"),
        "{\"ociVersion\": \"1.0.0\", \"hostname\": \"a\\ud800b\"}",
    )
    .unwrap();
    let r = b.call(&["run", "-b", b.dir.to_str().unwrap(), "another"]);
    assert!(r.err.contains("hostname: ") && r.err.contains("surrogate"), "{}", r.err);
}

/// The state root that is a file, and a socket for the terminal that is not there.
#[test]
fn more_flags_by_their_names() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let file = b.dir.join("file");
    std::fs::write(&file, "").unwrap();
    let r = finish(Command::new(runtime()).arg("--root").arg(&file).arg("list"), b"");
    assert!(r.code == 1 && r.err.contains("--root: "), "{}", r.err);
    b.up();
    let r = b.verb("exec", &["-t", "-d", "--console-socket", "/no/such"], &["true"]);
    assert!(r.code == 255 && r.err.contains("--console-socket: "), "{}", r.err);
    for n in ["4294967295", "4294967290", "-1"] {
        let mut c = b.command(&["exec", "--preserve-fds", n, &b.id, "true"]);
        let r = finish(c.env("LISTEN_FDS", "3"), b"");
        assert!(r.code == 255 && r.err.contains("--preserve-fds"), "{n}: {}", r.err);
    }
}

/// More ids than one page of a map holds, though fewer lines than the kernel takes.
#[test]
fn a_map_that_is_longer_than_a_page() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    b.push("linux.namespaces", json!({"type": "user"}));
    let map: Vec<_> = (0..250u64).map(|n| json!({"containerID": if n == 0 { 0 } else { 1_000_000_000 + n * 10 }, "hostID": 2_000_000_000 + n * 10, "size": 10})).collect();
    *b.at("linux.uidMappings") = json!(map);
    *b.at("linux.gidMappings") = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    b.run().fails_with("linux.uidMappings: ").fails_with("less than a page");
    b.assert_gone();
}
