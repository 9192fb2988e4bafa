//! Every call of the task service, with its refusals.

use crate::client::*;
use crate::harness::*;
use conex_proto::{events, prost::Message, task::*, types::Status};
use serde_json::json;

const NOT_FOUND: i32 = 5;
const EXISTS: i32 = 6;
const UNKNOWN: i32 = 2;

#[test]
fn a_task_from_create_to_shutdown() {
    let b = Box::sh("echo out; echo err >&2; exit 7");
    let shim = Shim::start(&b);
    let (out, err) = (Reader::new(b.dir.join("stdout")), Reader::new(b.dir.join("stderr")));
    let stdio = Stdio { stdout: out.uri(), stderr: err.uri(), ..Stdio::default() };
    let pid = shim.create(&b, &stdio);
    assert_eq!(shim.state(&b.id, "").status(), Status::Created);
    assert_eq!(shim.start_task(&b.id, ""), pid);
    assert_eq!(shim.wait(&b.id, ""), 7);
    let state = shim.state(&b.id, "");
    assert_eq!((state.status(), state.exit_status, state.pid), (Status::Stopped, 7, pid));
    // Wait answers after the end as well.
    assert_eq!(shim.wait(&b.id, ""), 7);
    let deleted = shim.delete(&b.id, "");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert!(deleted.exited_at.is_some());
    assert_eq!((out.text(), err.text()), ("out\n".into(), "err\n".into()));
    shim.events.wait("/tasks/delete", 1);
    assert_eq!(
        shim.events.topics(),
        ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    );
    let create = &shim.events.of::<events::TaskCreate>("/tasks/create")[0];
    assert_eq!((create.pid, create.container_id.as_str()), (pid, b.id.as_str()));
    assert_eq!(create.io.as_ref().unwrap().stdout, stdio.stdout);
    let exit = &shim.events.of::<events::TaskExit>("/tasks/exit")[0];
    assert_eq!((exit.pid, exit.exit_status, exit.id.as_str()), (pid, 7, b.id.as_str()));
    let envelope = &shim.events.all()[0];
    assert_eq!(envelope.namespace, "conex-test");
    assert_eq!(envelope.event.as_ref().unwrap().type_url, "containerd.events.TaskCreate");
    b.assert_gone();
    shim.finish(&b.id);
}

#[test]
fn what_does_not_exist() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    let id = || b.id.clone();
    shim.fails("State", &StateRequest { id: id(), ..Default::default() }, NOT_FOUND, "not found");
    shim.fails("Start", &StartRequest { id: id(), ..Default::default() }, NOT_FOUND, "not found");
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let no = || "nope".to_string();
    shim.fails("State", &StateRequest { id: id(), exec_id: no() }, NOT_FOUND, "not found");
    shim.fails(
        "Kill",
        &KillRequest { id: id(), exec_id: no(), signal: 9, all: false },
        NOT_FOUND,
        "not found",
    );
    shim.fails("Wait", &WaitRequest { id: id(), exec_id: no() }, NOT_FOUND, "not found");
    shim.fails("Delete", &DeleteRequest { id: id(), exec_id: no() }, NOT_FOUND, "not found");
    shim.finish(&b.id);
}

#[test]
fn states_refuse_what_they_must() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    let one = IdRequest { id: b.id.clone() };
    shim.fails("Pause", &one, UNKNOWN, "cannot pause task in created state");
    shim.start_task(&b.id, "");
    let start = StartRequest { id: b.id.clone(), ..Default::default() };
    let delete = DeleteRequest { id: b.id.clone(), ..Default::default() };
    shim.fails("Start", &start, UNKNOWN, "cannot start a running process");
    shim.fails("Delete", &delete, UNKNOWN, "cannot delete a running process");
    shim.fails("Resume", &one, UNKNOWN, "cannot resume a running process");
    shim.ok::<()>("Pause", &one);
    assert_eq!(shim.state(&b.id, "").status(), Status::Paused);
    shim.fails("Pause", &one, UNKNOWN, "cannot pause a paused container");
    shim.ok::<()>("Resume", &one);
    assert_eq!(shim.state(&b.id, "").status(), Status::Running);
    shim.events.wait("/tasks/resumed", 1);
    assert!(shim.events.topics().contains(&"/tasks/paused".to_string()));
    shim.kill(&b.id, "", 9);
    assert_eq!(shim.wait(&b.id, ""), 137);
    shim.fails("Pause", &one, UNKNOWN, "cannot pause a stopped container");
    let kill = KillRequest { id: b.id.clone(), signal: 9, ..Default::default() };
    shim.fails("Kill", &kill, NOT_FOUND, "process already finished");
    let exec = exec_request(&b.id, "late", &["true"], &Stdio::default());
    shim.fails("Exec", &exec, UNKNOWN, "cannot exec in a stopped state");
    shim.delete(&b.id, "");
    shim.finish(&b.id);
}

#[test]
fn exec_and_its_refusals() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let out = Reader::new(b.dir.join("e-out"));
    let stdio = Stdio { stdout: out.uri(), stderr: out.uri(), ..Stdio::default() };
    shim.exec(&b.id, "one", &["sh", "-c", "echo from exec; exit 3"], &stdio).unwrap();
    shim.fails("Exec", &exec_request(&b.id, "one", &["true"], &stdio), EXISTS, "already exists");
    let pid = shim.start_task(&b.id, "one");
    assert_eq!(shim.wait(&b.id, "one"), 3);
    assert_eq!(shim.state(&b.id, "one").status(), Status::Stopped);
    let deleted = shim.delete(&b.id, "one");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    assert_eq!(out.text(), "from exec\n");
    shim.exec(&b.id, "bad", &["nope"], &Stdio::default()).unwrap();
    let start = StartRequest { id: b.id.clone(), exec_id: "bad".into() };
    shim.fails("Start", &start, UNKNOWN, "executable file not found in $PATH");
    shim.delete(&b.id, "bad");
    // A signal with a number beyond the names.
    shim.exec(&b.id, "rt", &["sleep", "100"], &Stdio::default()).unwrap();
    shim.start_task(&b.id, "rt");
    shim.kill(&b.id, "rt", 40);
    assert_eq!(shim.wait(&b.id, "rt"), 128 + 40);
    shim.delete(&b.id, "rt");
    shim.kill(&b.id, "", 9);
    shim.wait(&b.id, "");
    shim.delete(&b.id, "");
    shim.events.wait("/tasks/delete", 1);
    let topics = shim.events.topics();
    assert_eq!(
        topics.iter().filter(|t| *t == "/tasks/delete").count(),
        1,
        "execs have none: {topics:?}"
    );
    assert_eq!(topics.iter().filter(|t| *t == "/tasks/exec-added").count(), 3);
    assert_eq!(topics.iter().filter(|t| *t == "/tasks/exec-started").count(), 2);
    shim.finish(&b.id);
}

#[test]
fn a_failed_create_says_why_and_leaves_nothing() {
    let b = Box::new(&["/bin/nope"]);
    let shim = Shim::start(&b);
    let request = shim.create_request(&b, &Stdio::default());
    shim.fails("Create", &request, UNKNOWN, "OCI runtime create failed: ");
    if is_ours() && is_conex() {
        shim.fails("Create", &request, UNKNOWN, "process.args[0]: exec: \"/bin/nope\"");
        shim.fails("Create", &request, UNKNOWN, "config.json line ");
    }
    b.assert_gone();
    shim.finish(&b.id);
}

#[test]
fn a_created_task_can_be_deleted() {
    let b = Box::sh("true");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    if is_ours() {
        assert_eq!(shim.delete(&b.id, "").exit_status, 137);
        b.assert_gone();
    }
    shim.finish(&b.id);
}

#[test]
fn update_pids_and_stats() {
    let mut b = Box::sh("sleep 100");
    *b.at("linux.resources.memory") = json!({"limit": 64 << 20});
    let shim = Shim::start(&b);
    let pid = shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let resources = conex_proto::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: br#"{"pids": {"limit": 77}, "memory": {"limit": 50331648}}"#.to_vec(),
    };
    let update =
        UpdateTaskRequest { id: b.id.clone(), resources: Some(resources), ..Default::default() };
    shim.ok::<()>("Update", &update);
    assert_eq!(b.cgroup_file("pids", "pids.max"), "77");
    shim.exec(&b.id, "e", &["sleep", "100"], &Stdio::default()).unwrap();
    let exec = shim.start_task(&b.id, "e");
    let pids: PidsResponse = shim.ok("Pids", &IdRequest { id: b.id.clone() });
    let mut found: Vec<u32> = pids.processes.iter().map(|p| p.pid).collect();
    found.sort_unstable();
    let mut want = vec![pid, exec];
    want.sort_unstable();
    assert_eq!(found, want);
    let details = pids.processes.iter().find(|p| p.pid == exec).unwrap().info.clone().unwrap();
    assert!(details.type_url.ends_with("containerd.runc.v1.ProcessDetails"));
    assert_eq!(
        conex_proto::runc::ProcessDetails::decode(details.value.as_slice()).unwrap().exec_id,
        "e"
    );
    let stats = shim.ok::<StatsResponse>("Stats", &IdRequest { id: b.id.clone() }).stats.unwrap();
    if v2() {
        stats_v2(&stats);
        return shim.finish(&b.id);
    }
    assert!(stats.type_url.ends_with("io.containerd.cgroups.v1.Metrics"), "{}", stats.type_url);
    let m = conex_proto::cgroups1::Metrics::decode(stats.value.as_slice()).unwrap();
    let memory = m.memory.unwrap().usage.unwrap();
    assert_eq!(memory.limit, 50_331_648);
    assert!(memory.usage > 0);
    assert_eq!((m.pids.as_ref().unwrap().current, m.pids.unwrap().limit), (2, 77));
    assert!(m.cpu.unwrap().usage.unwrap().total > 0);
    shim.finish(&b.id);
}

/// Which processes an exec started, by its name; the program inside may make a directory that looks like one.
#[test]
fn ps_tells_the_names_of_execs() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    let pid = shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let root = std::env::var_os("CONEX_TEST_DIR")
        .map(std::path::PathBuf::from)
        .unwrap()
        .join("shim-state/conex-test");
    let ps = |words: &[&str]| {
        let mut c = std::process::Command::new(runtime());
        finish(c.arg("--root").arg(&root).arg("ps").args(words), b"").ok().out
    };
    assert!(!ps(&[&b.id, "-o", "pid,args"]).contains("EXEC"));
    shim.exec(&b.id, "probe-7", &["sh", "-c", "sleep 99 & sleep 98; true"], &Stdio::default())
        .unwrap();
    let exec = shim.start_task(&b.id, "probe-7");
    let both = |text: &str| {
        ["99", "98"].iter().all(|n| {
            text.lines()
                .any(|l| l.trim_end().ends_with(&format!(" sleep {n}")) && !l.contains("sh -c"))
        })
    };
    until(|| both(&ps(&[&b.id, "-o", "pid,args"])), "the exec's children");
    let table = ps(&[&b.id, "-o", "pid,args"]);
    let leaf = hierarchies()
        .iter()
        .any(|h| h.join("conex-test").join(&b.id).join("exec-probe-7").exists());
    assert!(ps(&["--format", "json", &b.id]).contains(&exec.to_string()));
    if is_ours() && is_conex() && leaf {
        let line = |what: &str| {
            table.lines().find(|l| l.contains(what)).unwrap_or_else(|| panic!("{what}: {table}"))
        };
        assert!(table.starts_with("EXEC "), "{table}");
        assert!(line(&pid.to_string()).starts_with("- "), "{table}");
        assert!(
            line(&exec.to_string()).starts_with("probe-7 ")
                && line(" sleep 99").starts_with("probe-7 "),
            "{table}"
        );
        let unified = hierarchies()
            .into_iter()
            .find(|h| h.join("conex-test").join(&b.id).join("exec-probe-7").exists());
        let odd = unified.unwrap().join("conex-test").join(&b.id).join("exec-\u{1b}[31m x");
        std::fs::create_dir(&odd).unwrap();
        let mut child = std::process::Command::new("sleep").arg("97").spawn().unwrap();
        std::fs::write(odd.join("cgroup.procs"), child.id().to_string()).unwrap();
        let all = ps(&[&b.id, "-o", "pid,args"]);
        // On a pure v2 host what is in there counts as the container's.
        let more = all.lines().count() - table.lines().count();
        assert!(!all.contains('\u{1b}') && more == usize::from(v2()), "{all:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        until(|| std::fs::remove_dir(&odd).is_ok(), "the odd directory is removed");
    }
    shim.finish(&b.id);
    b.assert_gone();
}

/// Figures of a cgroup that somebody has removed are no zeros.
#[test]
fn stats_of_a_vanished_cgroup() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    let pid = shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    shim.ok::<StatsResponse>("Stats", &IdRequest { id: b.id.clone() });
    let tree = if v2() {
        std::path::PathBuf::from("/sys/fs/cgroup")
    } else {
        "/sys/fs/cgroup/pids".into()
    };
    let dir = tree.join("conex-test").join(&b.id);
    std::fs::write(tree.join("cgroup.procs"), pid.to_string()).unwrap();
    until(|| std::fs::remove_dir(&dir).is_ok(), "the cgroup is removed");
    if is_ours() {
        shim.fails(
            "Stats",
            &IdRequest { id: b.id.clone() },
            5,
            &format!("cgroup {} does not exist", dir.display()),
        );
    }
    assert_eq!(shim.state(&b.id, "").pid, pid);
    shim.finish(&b.id);
    b.assert_gone();
}

fn stats_v2(stats: &conex_proto::Any) {
    assert!(stats.type_url.ends_with("io.containerd.cgroups.v2.Metrics"), "{}", stats.type_url);
    let m = conex_proto::cgroups2::Metrics::decode(stats.value.as_slice()).unwrap();
    let memory = m.memory.unwrap();
    assert_eq!(memory.usage_limit, 50_331_648);
    assert!(memory.usage > 0);
    assert_eq!((m.pids.as_ref().unwrap().current, m.pids.unwrap().limit), (2, 77));
    assert!(m.cpu.unwrap().usage_usec > 0);
}

#[test]
fn both_versions_and_only_what_there_is() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    let connect = IdRequest { id: b.id.clone() }.encode_to_vec();
    let code = |service: &str, method: &str| match shim.raw(service, method, connect.clone()) {
        Ok(_) => 0,
        Err(e) => e.code,
    };
    assert_eq!(code("containerd.task.v2.Task", "Connect"), 0);
    if is_ours() {
        assert_eq!(code("containerd.task.v3.Task", "Connect"), 0);
    }
    assert_eq!(code("containerd.task.v2.Task", "Nope"), 12);
    assert_eq!(code("containerd.task.v9.Task", "Connect"), 12);
    shim.finish(&b.id);
}

#[test]
fn a_pod_shares_one_shim() {
    let mut a = Box::sh("sleep 100");
    *a.at("annotations") = json!({"io.kubernetes.cri.sandbox-id": a.id.clone()});
    let shim = Shim::start(&a);
    let mut b = Box::sh("exit 4");
    *b.at("annotations") = json!({"io.kubernetes.cri.sandbox-id": a.id.clone()});
    b.write_config();
    let r = finish(&mut start_command(&a.dir, &b.dir, &b.id), &options().encode_to_vec()).ok();
    assert_eq!(address(&r.out), shim.address);
    shim.create(&a, &Stdio::default());
    shim.create(&b, &Stdio::default());
    shim.start_task(&a.id, "");
    shim.start_task(&b.id, "");
    assert_eq!(shim.wait(&b.id, ""), 4);
    shim.delete(&b.id, "");
    // The other one lives: the shim must not go.
    shim.ok::<()>("Shutdown", &ShutdownRequest { id: b.id.clone(), now: true });
    assert_eq!(shim.state(&a.id, "").status(), Status::Running);
    shim.finish(&a.id);
}
