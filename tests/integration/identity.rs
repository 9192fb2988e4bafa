//! Nobody else is ever taken for the container: every low process number belongs to a bystander.

use crate::harness::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

const INSIDE: &str = "CONEX_TEST_INSIDE";

/// Runs the calling test once more in a PID namespace of its own, where all numbers are low and known; true if this is
/// that run. A shell is the first process there, because it reaps what is left to it: a zombie in a namespace that
/// should end keeps the cgroup it was in dying, and on Linux 7.2 systemd then waits in the kernel for the next write to
/// cgroup.subtree_control.
fn in_own_pid_namespace(test: &str) -> bool {
    if std::env::var(INSIDE).is_ok_and(|t| t == test) {
        return true;
    }
    let mut c = Command::new("unshare");
    c.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        "\"$@\"; exit $?",
        "sh",
    ]);
    c.arg(std::env::current_exe().unwrap());
    c.args(["--exact", test, "--nocapture", "--test-threads", "1"]).env(INSIDE, test);
    let r = finish_within(&mut c, b"", 300);
    assert_eq!(r.code, 0, "{}\n{}", r.out, r.err);
    // A name that is misspelt would run nothing.
    assert!(r.out.contains("1 passed"), "{}", r.out);
    false
}

/// Processes that must not be touched, with their descriptors.
struct Bystanders(Vec<Child>);

impl Bystanders {
    fn new(count: usize) -> Bystanders {
        let sleep = |_| Command::new("sleep").arg("4242").stdin(Stdio::null()).spawn().unwrap();
        Bystanders((0..count).map(sleep).collect())
    }

    #[track_caller]
    fn untouched(&mut self, during: &str) {
        for b in &mut self.0 {
            assert!(b.try_wait().unwrap().is_none(), "bystander {} was ended: {during}", b.id());
        }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        for b in &mut self.0 {
            let _ = b.kill();
            let _ = b.wait();
        }
    }
}

/// A process in namespaces of its own, to be joined by path.
struct Holder {
    child: Child,
    inside: i32,
}

impl Holder {
    /// `used` numbers of its PID namespace are spent, so that the next one meets another bystander.
    fn new(used: usize) -> Holder {
        let script = format!(
            "read x; i=0; while [ $i -lt {used} ]; do /bin/true; i=$((i+1)); done; echo ready; exec sleep 5000"
        );
        let mut c = Command::new("unshare");
        c.args([
            "--user",
            "--pid",
            "--net",
            "--mount",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
        ]);
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let own = namespace(std::process::id() as i32, "user");
        let pid = child.id() as i32;
        until(|| namespace(pid, "user") != own, "the holder's user namespace");
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{file}"), "0 0 65536").unwrap();
        }
        use std::io::Write;
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut line = String::new();
        use std::io::BufRead;
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Holder { child, inside: children.trim().parse().unwrap() }
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/ns/{file}", self.inside)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn namespace(pid: i32, file: &str) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/ns/{file}")).unwrap().ino()
}

/// In the middle of execve, after close-on-exec and before the new arguments are there, it is empty.
fn cmdline(pid: i32) -> String {
    let mut line = String::new();
    let mut read = || {
        line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        !line.is_empty()
    };
    until(&mut read, "the command line");
    line
}

const KINDS: [(&str, &str); 4] =
    [("user", "user"), ("pid", "pid"), ("network", "net"), ("mount", "mnt")];

/// A document that joins those of [`KINDS`] whose bit is set, and makes the others.
fn document(b: &mut Box, holder: &Holder, joined: u32) {
    let mut list = vec![json!({"type": "ipc"}), json!({"type": "uts"}), json!({"type": "cgroup"})];
    for (i, (kind, file)) in KINDS.iter().enumerate() {
        list.push(match joined >> i & 1 {
            1 => json!({"type": kind, "path": holder.path(file)}),
            _ => json!({"type": kind}),
        });
    }
    *b.at("linux.namespaces") = json!(list);
    // A sysfs takes a network namespace of the same user namespace.
    b.at("mounts").as_array_mut().unwrap().retain(|m| m["type"] != "sysfs");
    let all = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    *b.at("linux.uidMappings") = all.clone();
    *b.at("linux.gidMappings") = all;
    let hook = |name: &str| {
        let file = b.dir.join(name);
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >{}", file.display())], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let mut hooks: BTreeMap<_, _> =
        ["prestart", "createRuntime", "poststart", "createContainer", "poststop"]
            .into_iter()
            .map(|name| (name, hook(name)))
            .collect();
    hooks.insert(
        "startContainer",
        json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat >/startContainer"]}]),
    );
    *b.at("hooks") = json!(hooks);
    if without_proc(joined) {
        b.at("mounts").as_array_mut().unwrap().retain(|m| m["type"] != "proc");
        ["maskedPaths", "readonlyPaths"]
            .iter()
            .for_each(|list| *b.at(&format!("linux.{list}")) = json!([]));
    }
}

/// A user namespace of its own has no right to a procfs of another one's PID namespace.
fn without_proc(joined: u32) -> bool {
    joined & 0b1011 == 0b0010
}

/// Everything that conex says and does about the process must be about that very process.
fn one(by: &mut Bystanders, joined: u32, used: usize) {
    let holder = Holder::new(used);
    let marker = format!("8{joined:02}{used:03}");
    let mut b = Box::sh(&format!("exec sleep {marker}"));
    document(&mut b, &holder, joined);
    let what = format!(
        "{used} used, joined: {:?}",
        KINDS
            .iter()
            .enumerate()
            .filter(|(i, _)| joined >> i & 1 == 1)
            .map(|(_, k)| k.0)
            .collect::<Vec<_>>()
    );
    b.write_config();
    let quiet = Stdio::null;
    let pid_file = b.dir.join("pid");
    let run = |args: &[&str]| {
        let error = std::fs::File::create(b.dir.join("err")).unwrap();
        let mut c = b.command(args);
        let ran = c.stdin(quiet()).stdout(quiet()).stderr(error).status().unwrap().success();
        (ran, std::fs::read_to_string(b.dir.join("err")).unwrap())
    };
    let pid_file = pid_file.to_str().unwrap();
    let (ran, error) = run(&["run", "--detach", "--pid-file", pid_file, &b.id]);
    by.untouched(&what);
    if !ran {
        // In a new user namespace nothing may be mounted in a mount namespace of another one.
        assert!(joined & 1 == 0 && joined & 0b1000 != 0, "{what}: {error}");
        assert!(
            error.contains("ermission denied") || error.contains("not permitted"),
            "{what}: {error}"
        );
        b.assert_gone();
        return;
    }
    let pid = b.pid();
    let line = cmdline(pid);
    assert!(line.contains(&marker), "{what}: {pid} is {line:?}");
    assert_eq!(std::fs::read_to_string(pid_file).unwrap(), pid.to_string(), "{what}: pid file");
    let told = |file: std::path::PathBuf| {
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{what}: {}: {e}", file.display()));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["pid"].clone()
    };
    for name in ["prestart", "createRuntime", "poststart"] {
        assert_eq!(told(b.dir.join(name)), json!(pid), "{what}: hook {name}");
    }
    // In the container's namespaces it is the number there (runtime.md, "State").
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let inside = status
        .lines()
        .find_map(|l| l.strip_prefix("NSpid:")?.split_whitespace().last())
        .unwrap()
        .to_string();
    for file in [b.dir.join("createContainer"), b.rootfs().join("startContainer")] {
        assert_eq!(told(file.clone()).to_string(), inside, "{what}: {}", file.display());
    }
    for (i, (kind, file)) in KINDS.iter().enumerate() {
        let same = namespace(pid, file) == namespace(holder.inside, file);
        assert_eq!(same, joined >> i & 1 == 1, "{what}: {kind}");
    }
    let r = b
        .exec(&["sh", "-c", "for n in user pid net mnt; do readlink /proc/self/ns/$n; done; ls /"])
        .ok();
    for (_, file) in KINDS.into_iter().filter(|_| !without_proc(joined)) {
        assert!(
            r.out.contains(&format!("[{}]", namespace(pid, file))),
            "{what}: exec is not in {file}: {}",
            r.out
        );
    }
    assert!(
        !r.out.contains("home") && r.out.contains("bin"),
        "{what}: exec has another root: {}",
        r.out
    );
    by.untouched(&what);
    let exec_pid = b.dir.join("exec-pid");
    let (ran, error) = run(&[
        "exec",
        "--detach",
        "--pid-file",
        exec_pid.to_str().unwrap(),
        &b.id,
        "sleep",
        "4343",
    ]);
    assert!(ran, "{what}: {error}");
    let second: i32 = std::fs::read_to_string(&exec_pid).unwrap().parse().unwrap();
    let line = cmdline(second);
    assert!(line.contains("4343"), "{what}: exec's pid file names {line:?}");
    for (_, file) in KINDS {
        assert_eq!(namespace(second, file), namespace(pid, file), "{what}: exec and {file}");
    }
    b.verb("kill", &[], &["KILL"]).ok();
    // Orphans are this process's children here, and a PID namespace ends only when all its processes are reaped.
    let orphans = [pid, second];
    let reap = |pid: &i32| {
        let pid = nix::unistd::Pid::from_raw(*pid);
        let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    };
    until(
        || {
            orphans.iter().for_each(reap);
            b.status() == "stopped"
        },
        &what,
    );
    by.untouched(&what);
    b.verb("delete", &[], &[]).ok();
    by.untouched(&what);
    assert_eq!(told(b.dir.join("poststop")).as_i64().unwrap_or(0), 0, "{what}: hook poststop");
    b.assert_gone();
}

#[test]
fn bystanders_on_every_low_number() {
    if !in_own_pid_namespace("identity::bystanders_on_every_low_number") {
        return;
    }
    let mut by = Bystanders::new(120);
    for joined in 0..16 {
        one(&mut by, joined, 0);
    }
    // A user and a PID namespace joined, at other numbers.
    for used in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        one(&mut by, 3, used);
        one(&mut by, 7, used);
    }
}

#[test]
fn a_record_of_another_process_is_not_believed() {
    let mut by = Bystanders::new(1);
    // Start times are counted in hundredths of a second.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let b = Box::sh("sleep 100");
    b.up();
    let file = b.state_root().join(&b.id).join("state.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    if !is_conex() {
        return;
    }
    // The number of another process, with the time of the old one.
    let number = by.0[0].id();
    state["init"]["pid"] = json!(number);
    std::fs::write(&file, state.to_string()).unwrap();
    assert_eq!(b.status(), "stopped");
    b.verb("kill", &[], &["KILL"]).fails_with("container not running");
    b.exec(&["true"]).fails_with("stopped");
    by.untouched("kill and exec");
    // And with its own time, as if both had begun in the same tick: from Linux 6.9 on the kernel tells them apart.
    if state["init"]["inode"].as_u64().is_some_and(|n| n > 0) {
        state["init"]["start_time"] = json!(conex::identity::proc_stat(number as i32).unwrap().1);
        std::fs::write(&file, state.to_string()).unwrap();
        assert_eq!(b.status(), "stopped");
        b.verb("kill", &[], &["KILL"]).fails_with("container not running");
        by.untouched("kill of the same tick");
    }
    std::fs::write(&file, text).unwrap();
    b.verb("delete", &["--force"], &[]).ok();
    by.untouched("delete");
}

/// A state root that two PID namespaces share: the numbers of one mean nothing in the other.
#[test]
fn a_container_of_another_pid_namespace() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.up();
    let mut c = Command::new("unshare");
    c.args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(runtime())
        .arg("--root")
        .arg(b.state_root());
    let r = finish(c.args(["state", &b.id]), b"");
    r.fails_with("another PID namespace");
    let mut c = Command::new("unshare");
    c.args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(runtime())
        .arg("--root")
        .arg(b.state_root());
    finish(c.args(["delete", "--force", &b.id]), b"").fails_with("another PID namespace");
    assert_eq!(b.status(), "running");
}

/// The state directory outlives the PID namespace of its runtime: an engine in a container that is started again. Its
/// containers have ended with it, and can be deleted, and their ids taken.
#[test]
fn a_record_of_a_pid_namespace_that_has_ended() {
    let b = Box::sh("sleep 100");
    b.write_config();
    let line = format!(
        "{} --root {} run --detach --bundle {} {} </dev/null >/dev/null 2>&1",
        runtime().display(),
        b.state_root().display(),
        b.dir.display(),
        b.id
    );
    for _ in 0..2 {
        // The end of its first process is the end of all in the namespace.
        let mut c = Command::new("unshare");
        finish(c.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &line]), b"")
            .ok();
        until(|| b.verb("state", &[], &[]).out.contains("\"stopped\""), "it has ended");
        b.verb("delete", &[], &[]).ok();
    }
    b.assert_gone();
}
