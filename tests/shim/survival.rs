//! The server is killed at any moment: what must be true afterwards.

use crate::client::*;
use crate::harness::*;
use conex_proto::cri::*;
use conex_proto::prost::Message;
use conex_proto::sandbox::*;
use conex_proto::{events, task::*, types::Status, Any};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::path::Path;
use std::time::Duration;

/// Kills the server, and connects with the next one.
fn killed(shim: Shim, id: &str) -> Shim {
    let server = shim.pid(id);
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    reconnect(shim)
}

/// Each of many processes has its own streams afterwards, though numbers of descriptors of keeper and servers overlap and
/// the soft limit is far below what they need; and what is started has the limit that was given.
#[test]
fn streams_never_cross() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let mut shim = Shim::start_below(&b, &["prlimit", "--nofile=200:8192"]);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let many: u32 = std::env::var("CONEX_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let mut readers = Vec::new();
    for i in 0..many {
        let (out, err) =
            (Reader::new(b.dir.join(format!("o{i}"))), Reader::new(b.dir.join(format!("e{i}"))));
        let input = b.dir.join(format!("i{i}"));
        fifo(&input);
        let stdin = std::fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
        let stdio = Stdio {
            stdin: input.to_string_lossy().into_owned(),
            stdout: out.uri(),
            stderr: err.uri(),
            terminal: false,
        };
        let script =
            format!("echo out {i}; echo err {i} >&2; read x; echo $x {i}; exit {}", i % 200);
        let id = format!("p{i}");
        shim.exec(&b.id, &id, &["sh", "-c", &script], &stdio).unwrap();
        shim.start_task(&b.id, &id);
        readers.push((id, stdin, out, err));
    }
    let limit =
        std::fs::read_to_string(format!("/proc/{}/limits", shim.state(&b.id, "p0").pid)).unwrap();
    let limit = limit.lines().find(|l| l.starts_with("Max open files")).unwrap().to_string();
    let given: Vec<&str> = limit.split_whitespace().collect();
    assert!(given[3] == "200" || given[3] == "1024", "{limit}");
    // Twice: the second server's numbers are others than the first one's.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(300));
        shim = killed(shim, &b.id);
        assert_eq!(shim.state(&b.id, "p1").status(), Status::Running);
    }
    for (i, (_, stdin, _, _)) in readers.iter_mut().enumerate() {
        use std::io::Write;
        writeln!(stdin, "in{i}").unwrap();
    }
    for (i, (id, _, out, err)) in readers.into_iter().enumerate() {
        assert_eq!(shim.wait(&b.id, &id), i as u32 % 200, "{id}");
        shim.delete(&b.id, &id);
        assert_eq!(out.text(), format!("out {i}\nin{i} {i}\n"));
        assert_eq!(err.text(), format!("err {i}\n"));
    }
    shim.finish(&b.id);
}

/// A hard limit that the keeper cannot do with: it says so, and nothing else breaks.
#[test]
fn a_keeper_without_descriptors_says_so() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = Shim::start_below(&b, &["prlimit", "--nofile=100:100"]);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let mut started = Vec::new();
    for i in 0..60 {
        let out = b.dir.join(format!("o{i}"));
        fifo(&out);
        let stdio = Stdio { stdout: out.to_string_lossy().into_owned(), ..Stdio::default() };
        let id = format!("p{i}");
        shim.exec(&b.id, &id, &["sh", "-c", "sleep 1; exit 4"], &stdio).unwrap();
        let request = StartRequest { id: b.id.clone(), exec_id: id.clone() };
        match shim.call::<StartResponse>("Start", &request) {
            Ok(_) => started.push(id),
            Err(e) => {
                assert!(
                    e.message.to_lowercase().contains("too many open files")
                        || e.message.contains("EMFILE"),
                    "{e:?}"
                );
                break;
            }
        }
    }
    assert!(started.len() > 2 && started.len() < 60, "{}", started.len());
    std::thread::sleep(Duration::from_millis(100));
    let shim = killed(shim, &b.id);
    for id in &started {
        assert_eq!(shim.wait(&b.id, id), 4, "{id}\n{}", shim.log());
    }
    assert_eq!(shim.state(&b.id, "").status(), Status::Running);
    shim.finish(&b.id);
}

/// A runtime that is at work when the server is killed: once it is done, the process is what it made of it.
#[test]
fn a_start_that_nobody_saw_the_end_of() {
    if !is_ours() {
        return;
    }
    for (what, moment) in [
        ("exec", "before"),
        ("exec", "after"),
        ("start", "before"),
        ("start", "after"),
        ("exec", "dies"),
    ] {
        let b = Box::sh("while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 9");
        // The runtime, held at a point.
        let wrapper = b.dir.join("conex");
        let hold = format!(
            "touch {0}/held; while [ ! -e {0}/release ]; do sleep 0.01; done",
            b.dir.display()
        );
        let (before, after) = match moment {
            "before" => (hold.as_str(), ""),
            "after" => ("", hold.as_str()),
            _ => ("touch $D/held; sleep 1; exit 1", ""),
        };
        let text = format!(
            "#!/bin/sh\nD={2}\ncase \" $* \" in *' {0} '*) {1};; esac\n{3} \"$@\"; c=$?\ncase \" $* \" in *' {0} '*) {4};; esac\nexit $c\n",
            what, if before.is_empty() { ":" } else { before }, b.dir.display(), runtime().display(),
            if after.is_empty() { ":" } else { after },
        );
        executable(&wrapper, text.as_bytes());
        let shim = Shim::start(&b);
        let mut request = shim.create_request(&b, &Stdio::default());
        let mut options =
            conex_proto::runc::Options::decode(request.options.unwrap().value.as_slice()).unwrap();
        options.binary_name = wrapper.to_string_lossy().into_owned();
        request.options = Some(conex_proto::any("containerd.runc.v1.Options", &options));
        shim.ok::<CreateTaskResponse>("Create", &request);
        if what == "exec" {
            shim.start_task(&b.id, "");
            shim.exec(&b.id, "x", &["sh", "-c", "sleep 0.3; exit 7"], &Stdio::default()).unwrap();
        }
        let exec = if what == "exec" { "x" } else { "" };
        let starting = StartRequest { id: b.id.clone(), exec_id: exec.into() };
        let address = shim.address.clone();
        let calling = {
            let service = shim.service.clone();
            let payload = starting.encode_to_vec();
            std::thread::spawn(move || {
                let client =
                    ttrpc::Client::connect(&format!("unix://{}", address.display())).unwrap();
                raw(&client, &service, "Start", payload)
            })
        };
        until(|| b.dir.join("held").exists(), "the runtime is held");
        std::thread::sleep(Duration::from_millis(20));
        let shim = killed(shim, &b.id);
        assert!(calling.join().unwrap().is_err(), "whoever called has lost his connection");
        let label = format!("{what} {moment}");
        assert_eq!(shim.state(&b.id, exec).status(), Status::Created, "{label}");
        std::fs::write(b.dir.join("release"), "").unwrap();
        match (what, moment) {
            ("exec", "dies") => {
                assert_eq!(shim.wait(&b.id, "x"), 0, "never, as after a start that failed");
                assert_eq!(shim.state(&b.id, "x").pid, 0);
                // The name is free for another attempt, as after any start that failed.
                assert_eq!(shim.delete(&b.id, "x").exit_status, 0);
            }
            ("exec", _) => assert_eq!(shim.wait(&b.id, "x"), 7, "{label}"),
            _ => until(|| shim.state(&b.id, "").status() == Status::Running, &label),
        }
        std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
        assert_eq!(shim.wait(&b.id, ""), 9, "{label}");
        let topics = || shim.events.topics();
        until(|| topics().iter().any(|t| t == "/tasks/exit"), "the exit");
        if what == "start" {
            assert_eq!(topics().iter().filter(|t| *t == "/tasks/start").count(), 1, "{label}");
        }
        shim.finish(&b.id);
    }
}

/// What containerd has taken is not told again by the next server.
#[test]
fn every_event_once() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let mut shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    for round in 0..4u32 {
        for i in 0..4 {
            let id = format!("e{round}-{i}");
            shim.exec(
                &b.id,
                &id,
                &["sh", "-c", &format!("exit {}", round * 4 + i)],
                &Stdio::default(),
            )
            .unwrap();
            shim.start_task(&b.id, &id);
            shim.wait(&b.id, &id);
            shim.delete(&b.id, &id);
        }
        shim.events.wait("/tasks/exit", (round as usize + 1) * 4);
        std::thread::sleep(Duration::from_millis(30));
        shim = killed(shim, &b.id);
        shim.pid(&b.id);
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut seen: Vec<u32> =
        shim.events.of::<events::TaskExit>("/tasks/exit").iter().map(|e| e.exit_status).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<_>>());
    assert_eq!(shim.events.topics().iter().filter(|t| *t == "/tasks/create").count(), 1);
    shim.finish(&b.id);
}

const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// A pod's namespaces outlive the server; and a create that fails half-way leaves none of them.
#[test]
fn a_pod_outlives_its_server() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    let call = |shim: &Shim, method: &str, payload: Vec<u8>| shim.raw(SANDBOX, method, payload);
    let create = |shim: &Shim, hostname: &str, sysctl: &str| {
        let mut linux = LinuxPodSandboxConfig::default();
        linux.sysctls.insert("kernel.msgmni".into(), sysctl.into());
        let options =
            NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        linux.security_context =
            Some(LinuxSandboxSecurityContext { namespace_options: Some(options) });
        let config = PodSandboxConfig { hostname: hostname.into(), linux: Some(linux) };
        let request = CreateSandboxRequest {
            sandbox_id: "pod".into(),
            options: Some(Any {
                type_url: "runtime.v1.PodSandboxConfig".into(),
                value: config.encode_to_vec(),
            }),
            ..Default::default()
        };
        call(shim, "CreateSandbox", request.encode_to_vec())
    };
    let namespaces = |pid: i32| {
        ["net", "uts", "ipc"].map(|n| std::fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap())
    };
    let (server, own) = (shim.pid(&b.id), namespaces(std::process::id() as i32));
    for (hostname, sysctl) in [("the-pod", "no number"), (&*"x".repeat(100), "77")] {
        create(&shim, hostname, sysctl).unwrap_err();
        assert_eq!(namespaces(server), own, "it is where it was");
        assert_eq!(namespaces(parent(server)), own);
    }
    create(&shim, "the-pod", "77").unwrap();
    let id = SandboxRequest { sandbox_id: "pod".into() }.encode_to_vec();
    let started = call(&shim, "StartSandbox", id.clone()).unwrap();
    let pid = StartSandboxResponse::decode(started.as_slice()).unwrap().pid as i32;
    let pods = namespaces(pid);
    assert!(pods[1] != own[1] && pods[2] != own[2] && namespaces(server) == pods);
    std::thread::sleep(Duration::from_millis(50));
    let shim = killed(shim, &b.id);
    let status = call(
        &shim,
        "SandboxStatus",
        SandboxStatusRequest { sandbox_id: "pod".into(), verbose: false }.encode_to_vec(),
    );
    let status = SandboxStatusResponse::decode(status.unwrap().as_slice()).unwrap();
    assert_eq!((status.state.as_str(), status.pid as i32), ("SANDBOX_READY", pid));
    assert!(Path::new(&format!("/proc/{pid}")).exists() && namespaces(pid) == pods);
    assert_eq!(namespaces(shim.pid(&b.id)), pods, "the next server is in the pod");
    call(&shim, "ShutdownSandbox", id).unwrap();
    until(|| conex::identity::proc_stat(pid).is_none_or(|s| s.0 == 'Z'), "the shim ends");
}

/// A client that connects again when its connection breaks, and takes up what it had begun.
pub struct Persistent {
    address: std::path::PathBuf,
    service: String,
    client: std::cell::RefCell<ttrpc::Client>,
    log: std::path::PathBuf,
}

impl Persistent {
    fn connect(address: &Path) -> ttrpc::Client {
        let uri = format!("unix://{}", address.display());
        let mut client = ttrpc::Client::connect(&uri);
        until(
            || {
                if client.is_err() {
                    client = ttrpc::Client::connect(&uri);
                }
                client.is_ok()
            },
            "a connection",
        );
        client.unwrap()
    }

    pub fn new(shim: &Shim) -> Persistent {
        let client = Persistent::connect(&shim.address).into();
        Persistent {
            address: shim.address.clone(),
            service: shim.service.clone(),
            client,
            log: shim.dir.join("shim.log"),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The answer, or `None` if the connection broke meanwhile; it is another one then.
    pub fn once<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Option<Result<A, Failed>> {
        let answer = raw(&self.client.borrow(), &self.service, method, request.encode_to_vec());
        match answer {
            Err(e) if e.code == -1 => {
                std::thread::sleep(Duration::from_millis(5));
                *self.client.borrow_mut() = Persistent::connect(&self.address);
                None
            }
            other => Some(other.map(|payload| A::decode(payload.as_slice()).unwrap())),
        }
    }

    pub fn always<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Failed> {
        let begun = std::time::Instant::now();
        loop {
            if let Some(answer) = self.once(method, request) {
                return answer;
            }
            assert!(begun.elapsed() < within(40), "{method}: no answer: {}", self.log());
        }
    }

    /// Exec, Start, Wait, Delete, whatever happens meanwhile: the status; `None` if the start came to nothing.
    pub fn run(&self, id: &str, exec: &str, script: &str, stdio: &Stdio) -> Option<u32> {
        let name = || (id.to_string(), exec.to_string());
        let mut restarted = false;
        loop {
            match self.always::<()>("Exec", &exec_request(id, exec, &["sh", "-c", script], stdio)) {
                Ok(()) => {}
                Err(e) => assert_eq!(e.code, 6, "{e:?}"),
            }
            let (i, e) = name();
            match self.once::<StartResponse>("Start", &StartRequest { id: i, exec_id: e }) {
                // The server was killed before anybody else knew of the name.
                Some(Err(e)) if e.code == 5 => continue,
                Some(Err(e)) if e.message.contains("running process") => {}
                Some(answer) => drop(answer.unwrap()),
                // It may have begun, or not: then it does now, and its streams may have been opened before.
                None => {
                    let (i, e) = name();
                    let request = StartRequest { id: i, exec_id: e };
                    let again = match self.once::<StartResponse>("Start", &request) {
                        Some(again) => {
                            restarted = again.is_ok();
                            again
                        }
                        // Whether it runs now by the first or by the second cannot be told.
                        None => {
                            restarted = true;
                            self.always("Start", &request)
                        }
                    };
                    match again {
                        Err(e) if e.code == 5 => return None,
                        Err(e) => assert!(e.message.contains("running process"), "{e:?}"),
                        Ok(_) => {}
                    }
                }
            }
            let (i, e) = name();
            let ended =
                match self.always::<WaitResponse>("Wait", &WaitRequest { id: i, exec_id: e }) {
                    // As above, and its streams may have been opened: whoever reads has seen their end.
                    Err(e) if e.code == 5 => return None,
                    other => other.unwrap(),
                };
            let (i, e) = name();
            // The next server hears of the end a moment later than the one that is gone had told it.
            let mut deleted = self.always::<DeleteResponse>(
                "Delete",
                &DeleteRequest { id: i.clone(), exec_id: e.clone() },
            );
            while deleted.as_ref().is_err_and(|e| e.message.contains("running process")) {
                std::thread::sleep(Duration::from_millis(2));
                deleted =
                    self.always("Delete", &DeleteRequest { id: i.clone(), exec_id: e.clone() });
            }
            match deleted {
                Ok(deleted) => {
                    assert_eq!(deleted.exit_status, ended.exit_status, "{exec}: {}", self.log())
                }
                Err(e) => assert_eq!(e.code, 5, "{e:?}"),
            }
            // Of a start that came to nothing: Go's time zero.
            return ended
                .exited_at
                .filter(|t| t.seconds > 0 && !restarted)
                .map(|_| ended.exit_status);
        }
    }
}
