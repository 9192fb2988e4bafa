//! A pause or a resume whose server is killed.

use crate::client::*;
use crate::harness::*;
use crate::survival::Persistent;
use conex_proto::{task::*, types};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::time::Duration;

/// The server is killed at some moment of a pause or a resume: what it says then is what the container is, and the last
/// event says the same.
#[test]
fn a_pause_that_nobody_saw_the_end_of() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("while :; do sleep 0.01; done");
    let mut shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let task = shim.ok::<ConnectResponse>("Connect", &IdRequest { id: b.id.clone() }).task_pid;
    let mut state = 7;
    let mut unanswered = 0;
    for round in 0..40 {
        let client = Persistent::new(&shim);
        let paused = status_of(&shim, &b.id) == types::Status::Paused as i32;
        let method = if paused { "Resume" } else { "Pause" };
        let server = Pid::from_raw(shim.pid(&b.id));
        let after = Duration::from_micros(random(&mut state, 6_000));
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(after);
                kill(server, Signal::SIGKILL).unwrap();
            });
            unanswered +=
                u32::from(client.once::<()>(method, &IdRequest { id: b.id.clone() }).is_none());
        });
        shim = reconnect(shim);
        let last = || {
            shim.events
                .topics()
                .into_iter()
                .rev()
                .find(|t| t == "/tasks/paused" || t == "/tasks/resumed")
        };
        // A runtime may be at work still: the call is settled when it is done.
        let settled = || {
            let frozen = is_frozen(task);
            let wanted = if frozen { "/tasks/paused" } else { "/tasks/resumed" };
            let told = last().map_or(!frozen, |t| t == wanted);
            told && (status_of(&shim, &b.id) == types::Status::Paused as i32) == frozen
        };
        until(settled, &format!("round {round}: {method}, {:?}", last()));
    }
    assert!(unanswered > 0, "no server was killed at work");
    // The last one may be at work still, and be done between the question and the call.
    let running = || {
        let _ = shim.call::<()>("Resume", &IdRequest { id: b.id.clone() });
        status_of(&shim, &b.id) == types::Status::Running as i32
    };
    until(running, "the container runs");
    shim.finish(&b.id);
}

fn status_of(shim: &Shim, id: &str) -> i32 {
    shim.ok::<StateResponse>("State", &StateRequest { id: id.into(), ..StateRequest::default() })
        .status
}

/// As the kernel says: the v1 freezer, or the v2 cgroup.
fn is_frozen(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let read = |dir: &str, path: &str, file: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup{dir}{path}/{file}"))
    };
    text.lines().any(|line| {
        let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        match controllers {
            "freezer" => {
                read("/freezer", path, "freezer.state").is_ok_and(|t| t.trim() == "FROZEN")
            }
            "" => ["", "/unified"]
                .iter()
                .any(|d| read(d, path, "cgroup.freeze").is_ok_and(|t| t.trim() == "1")),
            _ => false,
        }
    })
}
