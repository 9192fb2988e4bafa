//! Processes that end early, late, together, or with their shim.

use crate::client::*;
use crate::harness::*;
use conex_proto::{events, prost::Message, task::*};
use serde_json::json;
use std::path::Path;

fn script_file(path: &Path, text: &str) {
    executable(path, text.as_bytes());
}

/// A container that another runtime is to make.
fn request_by(
    shim: &Shim,
    b: &crate::harness::Box,
    runtime: &Path,
    stdio: &Stdio,
) -> CreateTaskRequest {
    let options = conex_proto::runc::Options {
        binary_name: runtime.to_string_lossy().into_owned(),
        root: b.dir.join("state").to_string_lossy().into_owned(),
        ..Default::default()
    };
    CreateTaskRequest {
        options: Some(conex_proto::any("containerd.runc.v1.Options", &options)),
        ..shim.create_request(b, stdio)
    }
}

#[test]
fn parallel_execs_each_with_its_own_status() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let before = descriptors(shim.pid(&b.id));
    std::thread::scope(|s| {
        for thread in 0..8 {
            let (shim, b) = (&shim, &b);
            s.spawn(move || {
                for i in 0..25 {
                    let (id, code) = (format!("e{thread}-{i}"), (thread * 25 + i) % 256);
                    let script = format!("exit {code}");
                    shim.exec(&b.id, &id, &["sh", "-c", &script], &Stdio::default()).unwrap();
                    shim.start_task(&b.id, &id);
                    assert_eq!(shim.wait(&b.id, &id), code, "{id}");
                    assert_eq!(shim.delete(&b.id, &id).exit_status, code, "{id}");
                }
            });
        }
    });
    shim.events.wait("/tasks/exit", 200);
    let exits = shim.events.of::<events::TaskExit>("/tasks/exit");
    let mut ids: Vec<_> = exits.iter().map(|e| e.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((exits.len(), ids.len()), (200, 200), "every exit exactly once");
    for e in &exits {
        let (thread, i) = e.id[1..].split_once('-').unwrap();
        let want = (thread.parse::<u32>().unwrap() * 25 + i.parse::<u32>().unwrap()) % 256;
        assert_eq!(e.exit_status, want, "{}", e.id);
    }
    if is_ours() {
        closed(&shim, &b.id, &before);
    }
    shim.finish(&b.id);
}

#[test]
fn execs_end_before_init() {
    for shared in [false, true] {
        let mut b = Box::sh("sleep 100");
        if shared {
            b.drop_namespace("pid");
        }
        let shim = Shim::start(&b);
        shim.create(&b, &Stdio::default());
        shim.start_task(&b.id, "");
        for i in 0..5 {
            let id = format!("e{i}");
            shim.exec(&b.id, &id, &["sleep", "100"], &Stdio::default()).unwrap();
            shim.start_task(&b.id, &id);
        }
        shim.kill(&b.id, "", 9);
        assert_eq!(shim.wait(&b.id, ""), 137);
        shim.events.wait("/tasks/exit", 6);
        let exits = shim.events.of::<events::TaskExit>("/tasks/exit");
        assert_eq!(exits.len(), 6);
        assert_eq!(exits[5].id, b.id, "init is the last");
        assert!(exits.iter().all(|e| e.exit_status == 137));
        shim.delete(&b.id, "");
        b.assert_gone();
        shim.finish(&b.id);
    }
}

#[test]
fn an_oom_kill_is_told_before_the_exit() {
    let mut b = Box::sh(
        "sleep 0.1; x=$(dd if=/dev/zero bs=1M count=200 2>/dev/null | tr '\\0' x); echo never",
    );
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/tr")).unwrap();
    *b.at("linux.resources.memory") = json!({"limit": 16 << 20, "swap": 16 << 20});
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    shim.wait(&b.id, "");
    shim.events.wait("/tasks/exit", 1);
    let topics = shim.events.topics();
    let oom = topics.iter().position(|t| t == "/tasks/oom").unwrap_or_else(|| panic!("{topics:?}"));
    assert!(oom < topics.iter().position(|t| t == "/tasks/exit").unwrap());
    shim.finish(&b.id);
}

#[test]
fn events_wait_for_containerd() {
    let b = Box::sh("exit 5");
    let mut shim = Shim::start(&b);
    if !is_ours() {
        return shim.finish(&b.id);
    }
    shim.create(&b, &Stdio::default());
    shim.events.wait("/tasks/create", 1);
    shim.events.cut();
    shim.start_task(&b.id, "");
    assert_eq!(shim.wait(&b.id, ""), 5);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(shim.events.topics(), ["/tasks/create"]);
    let path = shim.events.path.clone();
    shim.events = Events::listen(&path);
    shim.events.wait("/tasks/exit", 1);
    assert_eq!(
        shim.events.topics(),
        ["/tasks/start", "/tasks/exit"],
        "what happened meanwhile, in order"
    );
    shim.delete(&b.id, "");
    shim.finish(&b.id);
}

#[test]
fn delete_cleans_up_after_a_shim_that_was_killed() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    let pid = shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let server = shim.pid(&b.id);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    let mut c = std::process::Command::new(binary());
    c.args(["-namespace", "conex-test", "-id", &b.id, "-address"])
        .arg(b.dir.join("containerd.sock"));
    c.arg("-bundle").arg(&b.dir).arg("delete").current_dir(&b.dir);
    let r = c.output().unwrap();
    assert!(r.status.success(), "{}", String::from_utf8_lossy(&r.stderr));
    let response = DeleteResponse::decode(r.stdout.as_slice()).unwrap();
    assert_eq!((response.pid, response.exit_status), (pid, 137));
    until(
        || conex::identity::proc_stat(pid as i32).is_none_or(|s| s.0 == 'Z'),
        "the container is gone",
    );
    b.assert_gone();
    let _ = std::fs::remove_file(&shim.address);
}

#[test]
fn many_containers_leave_the_shim_as_it_was() {
    let a = Box::sh("sleep 100");
    let shim = Shim::start(&a);
    shim.create(&a, &Stdio::default());
    shim.start_task(&a.id, "");
    let server = shim.pid(&a.id);
    let cycle = |count: usize| {
        for _ in 0..count {
            let b = Box::sh("exit 3");
            b.write_config();
            shim.create(&b, &Stdio::default());
            shim.start_task(&b.id, "");
            assert_eq!(shim.wait(&b.id, ""), 3);
            shim.delete(&b.id, "");
        }
    };
    // A host in software is ten times slower.
    let few = std::env::var_os("OWN_HOST").is_some();
    // The allocator settles: seen to stand still from the 400th on, for 2000 more.
    cycle(if few { 60 } else { 400 });
    let private = || {
        let text = std::fs::read_to_string(format!("/proc/{server}/smaps_rollup")).unwrap();
        let line = text.lines().find(|l| l.starts_with("Anonymous:")).unwrap().to_string();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let threads = || std::fs::read_dir(format!("/proc/{server}/task")).unwrap().count();
    let before = (descriptors(server), threads());
    // A leak grows in every round; the allocator's late page or two does not come thrice.
    let mut grown = Vec::new();
    let most = if few { 64 } else { 24 };
    for _ in 0..3 {
        let start = private();
        cycle(if few { 100 } else { 1000 });
        grown.push(private().saturating_sub(start));
        if grown.last() <= Some(&most) || !is_ours() {
            break;
        }
    }
    let after = (descriptors(server), threads());
    if is_ours() {
        assert!(after.0.len() <= before.0.len(), "{:?} and then {:?}", before.0, after.0);
        assert!(
            grown.last() <= Some(&most),
            "anonymous memory grew by {grown:?} KiB, in each round of 1000 containers"
        );
        assert_eq!(after.1, 1);
    }
    assert!(!Path::new("/tmp/conex-pty").exists());
    shim.finish(&a.id);
}

#[test]
fn a_runtime_that_hangs_blocks_nobody() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 100");
    // The runtime hangs in create, and is killed in the end.
    let slow = b.dir.join("slow-runtime");
    let script = format!(
        "#!/bin/sh\nfor a; do [ \"$a\" = create ] && {{ echo $$ > {0}/hangs; sleep 100; }}; done\nexec {1} \"$@\"\n",
        b.dir.display(),
        runtime().display()
    );
    script_file(&slow, &script);
    let shim = Shim::start(&b);
    let request = request_by(&shim, &b, &slow, &Stdio::default());
    let other = Box::sh("exit 2");
    other.write_config();
    std::thread::scope(|s| {
        let creating = s.spawn(|| shim.call::<CreateTaskResponse>("Create", &request));
        until(|| b.dir.join("hangs").exists(), "the runtime hangs");
        // The shim answers, and another container of the pod comes and goes.
        let begin = std::time::Instant::now();
        shim.fails(
            "State",
            &StateRequest { id: b.id.clone(), ..Default::default() },
            5,
            "not found",
        );
        shim.fails("Create", &request, 6, "already exists");
        shim.create(&other, &Stdio::default());
        shim.start_task(&other.id, "");
        assert_eq!(shim.wait(&other.id, ""), 2);
        shim.delete(&other.id, "");
        assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
        let pid: i32 =
            std::fs::read_to_string(b.dir.join("hangs")).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        let e = creating.join().unwrap().unwrap_err();
        assert!(e.message.starts_with("OCI runtime create failed: "), "{e:?}");
    });
    // Nothing stands in the way of another try.
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    shim.finish(&b.id);
}

#[test]
fn a_runtime_that_sends_no_terminal_leaves_no_process() {
    if !is_ours() {
        return;
    }
    let mut b = Box::sh("sleep 100");
    *b.at("process.terminal") = json!(true);
    let broken = b.dir.join("broken-runtime");
    // It says that all went well.
    let script = format!(
        "#!/bin/sh\nfor a; do case $last in --pid-file) pid=$a ;; esac; last=$a; done\n[ -z \"$pid\" ] || {{ setsid sleep 1000 >/dev/null 2>&1 & echo $! > $pid; echo $! > {}/pid; }}\nexit 0\n",
        b.dir.display()
    );
    script_file(&broken, &script);
    let shim = Shim::start(&b);
    let stdio = Stdio { terminal: true, ..Stdio::default() };
    let request = request_by(&shim, &b, &broken, &stdio);
    shim.fails("Create", &request, 2, "the runtime sent no terminal");
    let pid: i32 = std::fs::read_to_string(b.dir.join("pid")).unwrap().trim().parse().unwrap();
    assert!(conex::identity::proc_stat(pid).is_none(), "the process is left");
    shim.finish(&b.id);
}

/// A pid file can hold a number of another PID namespace.
#[test]
fn a_pid_file_that_names_a_stranger() {
    if !is_ours() {
        return;
    }
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let b = Box::sh("sleep 100");
    let broken = b.dir.join("broken-runtime");
    let script = format!(
        "#!/bin/sh\nfor a; do case $last in --pid-file) echo {} > $a ;; esac; last=$a; done\nexit 0\n",
        stranger.id()
    );
    script_file(&broken, &script);
    let shim = Shim::start(&b);
    let request = request_by(&shim, &b, &broken, &Stdio::default());
    shim.fails("Create", &request, 2, "is not one that the runtime left to this shim");
    shim.finish(&b.id);
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// Docker makes 127 and 126 of the words of Go.
#[test]
fn a_runtime_that_is_not_there() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("true");
    std::fs::write(b.dir.join("no-program"), "").unwrap();
    let plain = b.dir.join("no-program").display().to_string();
    for (name, words) in [
        ("/no/such", "fork/exec /no/such: no such file or directory"),
        ("no-such-runtime", "exec: \"no-such-runtime\": executable file not found in $PATH"),
        (plain.as_str(), "permission denied"),
    ] {
        let shim = Shim::start(&b);
        // Fields that containerd 2.4's daemon gives for itself mean nothing to a shim.
        let options = conex_proto::runc::Options {
            binary_name: name.into(),
            task_api_address: "unix:///run/nobody".into(),
            task_api_version: 3,
            ..Default::default()
        };
        let request = CreateTaskRequest {
            options: Some(conex_proto::any("containerd.runc.v1.Options", &options)),
            ..shim.create_request(&b, &Stdio::default())
        };
        shim.fails("Create", &request, 2, words);
        shim.finish(&b.id);
    }
}

/// A probe that times out: what it has started ends with it, in whatever session, and its streams end at once.
#[test]
fn a_killed_exec_takes_its_tree_along() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    let pid = shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let Some(dir) = b.cgroups().into_iter().find(|d| d.join("cgroup.kill").exists()) else {
        shim.finish(&b.id);
        return skip("a_killed_exec_takes_its_tree_along", "a v2 hierarchy with cgroup.kill");
    };
    for terminal in [false, true] {
        let id = format!("probe-{terminal}");
        let out = Reader::new(b.dir.join("o"));
        let stdio = Stdio { stdout: out.uri(), terminal, ..Stdio::default() };
        let script = "setsid sleep 777 & (sleep 778 &) ; echo up; sleep 779";
        shim.exec(&b.id, &id, &["sh", "-c", script], &stdio).unwrap();
        let exec = shim.start_task(&b.id, &id);
        let leaf = dir.join(format!("exec-{id}"));
        let inside = || std::fs::read_to_string(leaf.join("cgroup.procs")).unwrap_or_default();
        until(|| inside().lines().count() == 3, "three processes in its own cgroup");
        let listed = || -> Vec<u32> {
            let answer = shim.ok::<PidsResponse>("Pids", &IdRequest { id: b.id.clone() });
            answer.processes.iter().map(|p| p.pid).collect()
        };
        until(|| listed().len() == 4, "all of them and init");
        assert!(listed().contains(&pid) && listed().contains(&exec));
        // A signal that is none of those is the process's alone.
        shim.kill(&b.id, &id, libc::SIGWINCH);
        assert_eq!(inside().lines().count(), 3);
        shim.kill(&b.id, &id, libc::SIGKILL);
        assert_eq!(shim.wait(&b.id, &id), 137);
        assert_eq!(out.text().replace('\r', ""), "up\n");
        shim.delete(&b.id, &id);
        until(|| !leaf.exists(), "its cgroup goes");
    }
    // What it leaves in the background when it ends by itself stays, as with any other runtime.
    shim.exec(
        &b.id,
        "daemon",
        &["sh", "-c", "setsid sleep 776 >/dev/null 2>&1 </dev/null & echo"],
        &Stdio::default(),
    )
    .unwrap();
    shim.start_task(&b.id, "daemon");
    assert_eq!(shim.wait(&b.id, "daemon"), 0);
    shim.delete(&b.id, "daemon");
    let listed = shim.ok::<PidsResponse>("Pids", &IdRequest { id: b.id.clone() }).processes.len();
    assert_eq!(listed, 2);
    shim.finish(&b.id);
    b.assert_gone();
}

/// The agent of `dev.conex.seccomp-log` outlives the runtime that began it: the file is there at the end, and the shim has
/// no zombie of it.
#[test]
fn what_a_profile_denied_under_a_shim() {
    if !is_ours() || !is_conex() {
        return;
    }
    let mut b = Box::sh("mkdir /tmp/a; while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 6");
    let log = b.dir.join("denied");
    *b.at("annotations") = json!({"dev.conex.seccomp-log": log});
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30}]});
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    shim.exec(&b.id, "e", &["mkdir", "/tmp/b"], &Stdio::default()).unwrap();
    shim.start_task(&b.id, "e");
    assert_eq!(shim.wait(&b.id, "e"), 1);
    shim.delete(&b.id, "e");
    std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(shim.wait(&b.id, ""), 6);
    let text = || std::fs::read_to_string(&log).unwrap();
    until(|| !text().is_empty(), "the file");
    assert!(
        text().starts_with(&format!("conex: seccomp: {}: 2 calls denied:\n", b.id)),
        "{}",
        text()
    );
    let server = shim.pid(&b.id);
    let zombies = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            conex::identity::proc_stat(*pid).is_some_and(|s| s.0 == 'Z') && parent(*pid) == server
        })
        .count()
    };
    until(|| zombies() == 0, "the shim has reaped the agent");
    shim.finish(&b.id);
    b.assert_gone();
}

/// containerd hears of a container's end, deletes it and shuts the shim down, while its own Kill still waits for the runtime; after
/// the answer to Shutdown it lets go of the connection (StopPodSandbox failed with "ttrpc: closed").
#[test]
fn a_kill_is_answered_before_the_shim_goes() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 100");
    let slow = b.dir.join("slow-runtime");
    let script = format!(
        "#!/bin/sh\nfor a; do [ \"$a\" = kill ] && {{ {0} \"$@\"; r=$?; sleep 1.5; exit $r; }}; done\nexec {0} \"$@\"\n",
        runtime().display()
    );
    script_file(&slow, &script);
    let shim = Shim::start(&b);
    let request = request_by(&shim, &b, &slow, &Stdio::default());
    shim.ok::<CreateTaskResponse>("Create", &request);
    shim.start_task(&b.id, "");
    let kill = KillRequest { id: b.id.clone(), signal: 9, ..Default::default() };
    std::thread::scope(|s| {
        let killing = s.spawn(|| {
            let answer = shim.raw("containerd.task.v2.Task", "Kill", kill.encode_to_vec());
            (answer, std::time::Instant::now())
        });
        assert_eq!(shim.wait(&b.id, ""), 137);
        shim.delete(&b.id, "");
        let end = ShutdownRequest { id: b.id.clone(), ..Default::default() };
        let _ = shim.raw("containerd.task.v2.Task", "Shutdown", end.encode_to_vec());
        let shut = std::time::Instant::now();
        let (killed, answered) = killing.join().unwrap();
        killed.expect("the answer to Kill");
        // Within what the threads of this client take to look at their answers.
        let late = answered.saturating_duration_since(shut);
        assert!(late.as_millis() < 100, "the kill was answered {late:?} after the shutdown");
    });
}
