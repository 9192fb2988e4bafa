//! The verbs, from create to delete.

use crate::harness::*;
use serde_json::json;
use std::time::Duration;

#[test]
fn run_returns_output_and_status() {
    let b = Box::sh("echo out; echo err >&2; exit 7");
    let r = b.run();
    assert_eq!((r.code, r.out.as_str(), r.err.as_str()), (7, "out\n", "err\n"));
    b.assert_gone();
}

#[test]
fn exit_status_of_a_signal_is_128_plus_n() {
    for (signal, want) in [("KILL", 137), ("TERM", 143)] {
        let mut b = Box::sh(&format!("kill -{signal} $$; sleep 5"));
        // pid 1 of a namespace ignores its own signals: use the host's.
        b.drop_namespace("pid");
        assert_eq!(b.run().code, want);
    }
}

#[test]
fn create_start_state_kill_delete() {
    let b = Box::sh("echo hello; sleep 100");
    b.create().ok();
    let s = b.state();
    assert_eq!(s["status"], "created");
    assert_eq!(s["id"], b.id.as_str());
    assert_eq!(s["bundle"], b.dir.to_str().unwrap());
    assert!(s["pid"].as_i64().unwrap() > 1);
    assert_eq!(b.output(), "");
    b.verb("delete", &[], &[]).ok();
    b.assert_gone();
    b.up();
    assert_eq!(b.status(), "running");
    until(|| b.output() == "hello\n", "output");
    b.verb("start", &[], &[]).fails_with("cannot start an already running container");
    b.verb("delete", &[], &[]).fails_with("that is not stopped: running");
    b.verb("kill", &[], &["KILL"]).ok();
    b.wait_status("stopped");
    assert_eq!(b.state()["pid"].as_i64().unwrap_or(0), 0);
    b.verb("kill", &[], &["TERM"]).fails_with("container not running");
    b.verb("start", &[], &[]).fails_with("cannot start a container that has stopped");
    b.verb("exec", &[], &["true"]).fails_with("cannot exec in a stopped container");
    b.verb("delete", &[], &[]).ok();
    b.assert_gone();
    b.verb("state", &[], &[]).fails_with("does not exist");
    b.verb("delete", &[], &[]).fails_with("does not exist");
    b.verb("delete", &["--force"], &[]).ok();
}

#[test]
fn an_id_is_used_once() {
    let b = Box::sh("sleep 100");
    b.up();
    let pid = b.pid();
    b.create().fails_with("already exists");
    assert_eq!(b.pid(), pid);
    assert_eq!(b.status(), "running");
}

#[test]
fn force_delete_kills() {
    let b = Box::sh("sleep 100 & sleep 100");
    b.up();
    let pid = b.pid();
    b.verb("delete", &["-f"], &[]).ok();
    b.assert_gone();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists());
}

#[test]
fn kill_with_a_shared_pid_namespace_kills_all() {
    let mut b = Box::sh("for i in 1 2 3 4; do setsid sleep 1000 & done; wait");
    b.drop_namespace("pid");
    b.up();
    until(
        || {
            serde_json::from_str::<Vec<i32>>(&b.verb("ps", &["-f", "json"], &[]).out)
                .is_ok_and(|p| p.len() >= 5)
        },
        "children",
    );
    b.verb("kill", &[], &["KILL"]).ok();
    until(
        || {
            b.verb("ps", &["-f", "json"], &[]).out.trim() != ""
                && serde_json::from_str::<Vec<i32>>(&b.verb("ps", &["-f", "json"], &[]).out)
                    .is_ok_and(|p| p.is_empty())
        },
        "all dead",
    );
}

#[test]
fn exec_joins_and_reports() {
    let b = Box::sh("sleep 100");
    b.up();
    let r = b.exec(&["sh", "-c", "hostname; readlink /proc/self/ns/pid; exit 3"]);
    let ns = std::fs::read_link(format!("/proc/{}/ns/pid", b.pid())).unwrap();
    assert_eq!((r.code, r.out), (3, format!("box\n{}\n", ns.display())));
    assert_eq!(
        b.verb("exec", &["--cwd", "/tmp", "-e", "A=b"], &["sh", "-c", "pwd; echo $A"]).ok().out,
        "/tmp\nb\n"
    );
    assert_eq!(b.verb("exec", &["-u", "1000:7"], &["id", "-u"]).ok().out, "1000\n");
    let gone = b.exec(&["nope"]).fails_with("executable file not found in $PATH");
    assert_eq!(gone.code, 255);
    let pid_file = b.dir.join("exec.pid");
    b.verb(
        "exec",
        &["-d", "--pid-file", pid_file.to_str().unwrap()],
        &["sh", "-c", "exec sleep 50 >/dev/null 2>&1 </dev/null"],
    )
    .ok();
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let pids: Vec<i32> =
        serde_json::from_str(&b.verb("ps", &["--format", "json"], &[]).ok().out).unwrap();
    assert!(pids.contains(&pid) && pids.contains(&b.pid()), "{pids:?} {pid}");
}

#[test]
fn exec_process_file() {
    let b = Box::sh("sleep 100");
    b.up();
    let process = json!({"args": ["sh", "-c", "echo $X; id -u"], "env": ["PATH=/bin", "X=y"], "cwd": "/", "user": {"uid": 5, "gid": 6}});
    std::fs::write(b.dir.join("p.json"), process.to_string()).unwrap();
    let file = b.dir.join("p.json");
    assert_eq!(b.verb("exec", &["--process", file.to_str().unwrap()], &[]).ok().out, "y\n5\n");
}

#[test]
fn exec_gives_no_capability_beyond_the_asked() {
    let b = Box::sh("sleep 100");
    b.up();
    let r = b
        .verb(
            "exec",
            &["--cap", "CAP_NET_ADMIN", "--user", "1000:1000"],
            &["grep", "Cap", "/proc/self/status"],
        )
        .ok();
    for set in ["CapInh", "CapAmb", "CapEff"] {
        let line = r.out.lines().find(|l| l.starts_with(set)).unwrap();
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
}

#[test]
fn pause_and_resume() {
    let b = Box::sh("while true; do echo x; sleep 0.01; done");
    b.up();
    b.verb("resume", &[], &[]).fails_with("not paused");
    b.verb("pause", &[], &[]).ok();
    assert_eq!(b.status(), "paused");
    let before = b.output().len();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(b.output().len(), before);
    b.exec(&["true"]).fails_with("paused");
    b.verb("resume", &[], &[]).ok();
    assert_eq!(b.status(), "running");
    until(|| b.output().len() > before, "runs on");
    b.verb("pause", &[], &[]).ok();
    b.verb("delete", &["-f"], &[]).ok();
    b.assert_gone();
}

#[test]
fn list_formats() {
    let b = Box::sh("sleep 100");
    b.up();
    let table = b.call(&["list"]).ok().out;
    assert!(
        table.starts_with("ID ") && table.lines().next().unwrap().ends_with("OWNER"),
        "{table}"
    );
    assert!(table.lines().nth(1).unwrap().starts_with(&b.id));
    assert_eq!(b.call(&["list", "-q"]).ok().out, format!("{}\n", b.id));
    let list: serde_json::Value =
        serde_json::from_str(&b.call(&["list", "-f", "json"]).ok().out).unwrap();
    assert_eq!(list[0]["owner"], "root");
    b.verb("delete", &["-f"], &[]).ok();
    assert_eq!(b.call(&["list", "--format=json"]).ok().out.trim(), "null");
}

#[test]
fn update_changes_limits() {
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.memory") = json!({"limit": 50 << 20});
    *b.at("linux.resources.pids") = json!({"limit": 20});
    b.up();
    let limit = || b.cgroup_value("memory", "memory.limit_in_bytes", "memory.max");
    let quota = || {
        b.cgroup_value("cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next().unwrap().to_string()
    };
    assert_eq!(limit(), (50 << 20).to_string());
    b.verb("update", &["--memory", "60M", "--pids-limit", "30"], &[]).ok();
    assert_eq!(limit(), (60 << 20).to_string());
    assert_eq!(b.cgroup_file("pids", "pids.max"), "30");
    let mut c = b.command(&["update", "--resources=-", &b.id]);
    finish(
        &mut c,
        br#"{"memory":{"limit":73400320},"cpu":{"shares":512,"quota":50000,"period":100000}}"#,
    )
    .ok();
    assert_eq!(limit(), (70 << 20).to_string());
    assert_eq!(b.cgroup_value("cpu", "cpu.shares", "cpu.weight"), if v2() { "59" } else { "512" });
    assert_eq!(quota(), "50000");
    b.verb("update", &["--cpu-period", "200000"], &[]).ok();
    assert_eq!(quota(), "50000");
    assert!(b.cgroup_value("cpu", "cpu.cfs_period_us", "cpu.max").ends_with("200000"));
}

#[test]
fn events_stats_and_oom() {
    let mut b = Box::sh("while [ ! -e /tmp/go ]; do sleep 0.01; done; while true; do x=$x$x$x.........................................; done");
    *b.at("linux.resources.memory") = json!({"limit": 20 << 20, "swap": 20 << 20});
    b.up();
    let stats = || {
        serde_json::from_str::<serde_json::Value>(&b.verb("events", &["--stats"], &[]).ok().out)
            .unwrap()
    };
    assert_eq!(stats()["type"], "stats");
    assert_eq!(stats()["data"]["memory"]["usage"]["limit"], 20 << 20);
    // A kernel that counts by ticks takes a while to notice.
    until(|| stats()["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "the CPU's time");
    let late = b.rootfs().join("tmp/go");
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        std::fs::write(late, "").unwrap();
    });
    let events = b.verb("events", &["--interval", "100ms"], &[]).ok().out;
    assert!(events.lines().any(|l| l.contains("\"oom\"")), "{events}");
}

#[test]
fn pid_file_is_whole_and_without_newline() {
    let b = Box::sh("sleep 100");
    b.write_config();
    std::os::unix::fs::symlink("/dev/null", b.dir.join("pid")).unwrap();
    let mut c = b.command(&["create", "--pid-file", "pid", &b.id]);
    assert!(c
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap()
        .success());
    assert!(b.dir.join("pid").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read_to_string(b.dir.join("pid")).unwrap(), b.pid().to_string());
}

#[test]
fn the_bundle_as_argument() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("echo here");
    b.write_config();
    let dir = format!("{}/", b.dir.display());
    assert_eq!(b.call(&["run", &dir]).ok().out, "here\n");
}

#[test]
fn concurrent_starts_and_creates() {
    let b = Box::sh("sleep 100");
    b.write_config();
    let wins = |verb: &'static str| {
        std::thread::scope(|s| {
            let all: Vec<_> = (0..6)
                .map(|_| {
                    s.spawn(|| {
                        let mut c = b.command(&[verb, &b.id]);
                        let quiet = std::process::Stdio::null;
                        c.stdin(quiet()).stdout(quiet()).stderr(quiet()).status().unwrap().success()
                    })
                })
                .collect();
            all.into_iter().filter(|_| true).map(|t| t.join().unwrap()).filter(|ok| *ok).count()
        })
    };
    // Many times: the moment between the directory and its lock is short.
    for _ in 0..12 {
        assert_eq!(wins("create"), 1);
        assert_eq!(wins("start"), 1);
        assert_eq!(b.status(), "running");
        b.verb("delete", &["--force"], &[]).ok();
    }
}

#[test]
fn many_short_lives() {
    let b = Box::new(&["/bin/true"]);
    b.write_config();
    for _ in 0..30 {
        b.create().ok();
        b.verb("start", &[], &[]).ok();
        b.wait_status("stopped");
        b.verb("delete", &[], &[]).ok();
    }
    b.assert_gone();
}

#[test]
fn exec_storm() {
    let b = Box::sh("sleep 100");
    b.up();
    let all = std::thread::scope(|s| {
        let runs: Vec<_> = (0..40u32)
            .map(|i| {
                s.spawn({
                    let b = &b;
                    move || (i % 200, b.exec(&["sh", "-c", &format!("exit {}", i % 200)]))
                })
            })
            .collect();
        runs.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
    });
    for (want, got) in all {
        assert_eq!(want as i32, got.code, "{}", got.err);
    }
}

/// Who only reads a container's record waits for nobody else who does: on a slow host probes would fail otherwise.
#[test]
fn execs_do_not_wait_for_each_other() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.up();
    let reader = std::fs::File::open(b.state_root().join(&b.id)).unwrap();
    let reader = nix::fcntl::Flock::lock(reader, nix::fcntl::FlockArg::LockShared).unwrap();
    b.exec(&["true"]).ok();
    std::thread::scope(|s| {
        let deleted = s.spawn(|| b.verb("delete", &["-f"], &[]));
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(b.state_root().join(&b.id).exists() && !deleted.is_finished());
        drop(reader);
        deleted.join().unwrap().ok();
    });
    b.assert_gone();
}

#[test]
fn hooks_run_in_order_with_state() {
    let mut b = Box::sh("echo process >> /log; sleep 100");
    let log = b.rootfs().join("log");
    let hook = |name: &str, file: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} $HOOKVAR $(grep -o '\"status\":\"[a-z]*\"') >> {file}")], "env": ["HOOKVAR=v", "PATH=/usr/bin:/bin"]}]);
    let host = log.to_str().unwrap().to_string();
    *b.at("hooks") = json!({
        "prestart": hook("prestart", &host),
        "createRuntime": hook("createRuntime", &host),
        "createContainer": hook("createContainer", &host),
        "startContainer": hook("startContainer", "/log"),
        "poststart": hook("poststart", &host),
        "poststop": hook("poststop", &host),
    });
    std::fs::write(&log, "").unwrap();
    b.up();
    until(|| std::fs::read_to_string(&log).unwrap().contains("process"), "process");
    b.verb("delete", &["-f"], &[]).ok();
    let text = std::fs::read_to_string(&log).unwrap();
    let names: Vec<&str> =
        text.lines().map(|l| l.split(' ').next().unwrap()).filter(|n| *n != "process").collect();
    assert_eq!(
        names,
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    );
    for (name, status) in [
        ("createRuntime", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ] {
        assert!(text.contains(&format!("{name} v \"status\":\"{status}\"")), "{name}: {text}");
    }
}

#[test]
fn a_failing_hook_undoes_everything() {
    for stage in ["prestart", "createRuntime", "createContainer"] {
        let mut b = Box::sh("sleep 100");
        *b.at(&format!("hooks.{stage}")) =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo why it failed; exit 3"]}]);
        let r = b.create();
        r.fails_with("why it failed");
        b.assert_gone();
    }
    let mut b = Box::sh("sleep 100");
    *b.at("hooks.poststart") = json!([{"path": "/bin/false"}]);
    b.create().ok();
    assert_ne!(b.verb("start", &[], &[]).code, 0);
    until(|| b.verb("state", &[], &[]).code != 0 || b.status() == "stopped", "killed");
}

#[test]
fn a_hook_has_a_deadline() {
    let mut b = Box::sh("sleep 100");
    *b.at("hooks.createRuntime") =
        json!([{"path": "/bin/sleep", "args": ["sleep", "77"], "timeout": 1}]);
    let begun = std::time::Instant::now();
    b.create().fails_with("timeout of 1.0s");
    assert!(begun.elapsed() < within(5));
    b.assert_gone();
    // Later than any clock goes: none.
    *b.at("hooks.createRuntime") = json!([{"path": "/bin/true", "timeout": i64::MAX}]);
    *b.at("process.args") = json!(["true"]);
    if is_conex() {
        b.run().ok();
    }
}

#[test]
fn features_is_what_oci_spec_reads() {
    let b = Box::sh("true");
    let text = b.call(&["features"]).ok().out;
    let features: oci_spec::runtime::Features = serde_json::from_str(&text).unwrap();
    assert_eq!(
        features.oci_version_max(),
        if is_conex() { "1.3.0" } else { features.oci_version_max() }
    );
    assert!(!b.state_root().exists(), "features touches no state");
    if is_conex() {
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let archs = document["linux"]["seccomp"]["archs"].to_string();
        assert!(
            archs.contains(&std::env::consts::ARCH.to_uppercase()) && !archs.contains("S390"),
            "{archs}"
        );
        // containerd and CRI-O keep these from pods (features.md).
        assert_eq!(
            document["potentiallyUnsafeConfigAnnotations"],
            json!([
                "dev.conex.seccomp-log",
                "org.systemd.property.",
                "run.oci.hooks.",
                "run.oci.keep_original_groups",
                "run.oci.mount_context_type"
            ])
        );
    }
}

#[test]
fn spec_writes_a_document_that_runs() {
    let mut b = Box::sh("true");
    b.call(&["spec"]).ok();
    b.call(&["spec"]).fails_with("File config.json exists. Remove it first");
    let text = std::fs::read_to_string(b.dir.join("config.json")).unwrap();
    b.config = serde_json::from_str(&text).unwrap();
    *b.at("process.terminal") = json!(false);
    *b.at("process.args") = json!(["/bin/echo", "works"]);
    *b.at("linux.cgroupsPath") = json!(format!("/conex-test/{}", b.id));
    assert_eq!(b.run().ok().out, "works\n");
    let _: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
}

#[test]
fn an_unprivileged_user_runs_a_container() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    b.call(&["spec", "--rootless"]).ok();
    let text = std::fs::read_to_string(b.dir.join("config.json")).unwrap();
    b.config = serde_json::from_str(&text).unwrap();
    *b.at("process.terminal") = json!(false);
    *b.at("process.args") =
        json!(["/bin/sh", "-c", "id -u; read a b c < /proc/self/uid_map; echo $a $b $c; hostname"]);
    for list in ["uidMappings", "gidMappings"] {
        *b.at(&format!("linux.{list}")) = json!([{"containerID": 0, "hostID": 1234, "size": 1}]);
    }
    // Everything on the way must be open to that user.
    let open = std::env::temp_dir().join(format!("conex-rootless-{}", std::process::id()));
    std::fs::create_dir_all(&open).unwrap();
    let shell = |line: &str| {
        finish(std::process::Command::new("/bin/sh").args(["-c", line]).current_dir(&open), b"")
    };
    b.write_config();
    let (from, to) = (b.dir.display(), open.display());
    shell(&format!(
        "cp -r {from}/rootfs {from}/config.json {to}; cp {} {to}/conex; mkdir {to}/run; chown -R 1234:1234 {to}; chmod 755 {to}",
        runtime().display()
    ))
    .ok();
    let run = |args: &str| {
        shell(&format!(
            "exec setpriv --reuid 1234 --regid 1234 --clear-groups env XDG_RUNTIME_DIR={to}/run {to}/conex {args}"
        ))
    };
    let r = run("run rootless1").ok();
    assert_eq!(r.out, "0\n0 1234 1\nconex\n", "{}", r.err);
    assert!(!open.join("run/conex/rootless1").exists());
    // A limit that cannot hold is a warning that names it, or an error if that is asked for; never silence.
    b.config["linux"]["resources"] = json!({"pids": {"limit": 5}});
    b.write_config();
    shell(&format!("cp {from}/config.json {to}/config.json")).ok();
    let r = run("run rootless2").ok();
    assert!(r.err.contains("warning") && r.err.contains("linux.resources.pids.limit"), "{}", r.err);
    run("--rootless=false run rootless3").fails_with("linux.resources.pids.limit");
    std::fs::remove_dir_all(&open).unwrap();
}

/// `kill KILL && delete` in one line, as scripts have it.
#[test]
fn delete_waits_for_a_death_that_is_under_way() {
    let b = Box::sh("exec sleep 1000");
    for _ in 0..if is_conex() { 40 } else { 1 } {
        b.up();
        b.verb("kill", &[], &["KILL"]).ok();
        if is_conex() {
            b.verb("delete", &[], &[]).ok();
        } else {
            b.wait_status("stopped");
            b.verb("delete", &[], &[]).ok();
        }
        b.assert_gone();
    }
    // One that lives is refused at once.
    b.up();
    let begin = std::time::Instant::now();
    b.verb("delete", &[], &[]).fails_with("not stopped");
    assert!(begin.elapsed() < within(5));
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
}

/// What was created and not started ends by a signal that asks it to, as below runc.
#[test]
fn a_created_container_ends_by_a_signal() {
    for signal in ["TERM", "INT", "HUP"] {
        let b = Box::sh("echo started");
        b.create().ok();
        b.verb("kill", &[], &[signal]).ok();
        b.wait_status("stopped");
        b.verb("delete", &[], &[]).ok();
        b.assert_gone();
    }
}
