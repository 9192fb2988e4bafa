//! The server is killed at each of its system calls: between two of them it does nothing that anybody could see, so these
//! are all the moments that there are.

use crate::client::*;
use crate::harness::*;
use crate::survival::Persistent;
use conex_proto::{events, task::*};
use std::process::{Child, Command, Stdio as Standard};
use std::time::Duration;

/// A system call of a process: its name, and which one of that name it is, counted from when strace is attached.
type Moment = (String, u64);

pub fn attach(pid: i32, more: &[&str]) -> Child {
    let mut c = Command::new("strace");
    c.arg("-q").args(more).args(["-p", &pid.to_string()]);
    let child = c
        .stdin(Standard::null())
        .stdout(Standard::null())
        .stderr(Standard::null())
        .spawn()
        .unwrap();
    let tracer = format!("TracerPid:\t{}", child.id());
    until(
        // Or it has made that call already.
        || {
            std::fs::read_to_string(format!("/proc/{pid}/status"))
                .map_or(true, |s| s.lines().any(|l| l == tracer || l.starts_with("State:\tZ")))
        },
        "strace is attached",
    );
    child
}

/// strace, which kills the process when it makes that call.
fn kill_at(pid: i32, moment: &Moment) -> Child {
    let (call, n) = moment;
    attach(pid, &["-o", "/dev/null", "-e", &format!("inject={call}:signal=SIGKILL:when={n}")])
}

/// What is done from then on, and what must be true of it: true if the server was killed meanwhile. Without a moment it is
/// counted what the server calls.
fn at(moment: Option<&Moment>, counts: &std::path::Path) -> bool {
    let n = moment.map_or("none".into(), |(call, n)| format!("{call} {n}"));
    let b =
        Box::sh("i=0; while [ ! -e /tmp/go ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 33");
    let shim = Shim::start(&b);
    let out = Reader::new(b.dir.join("o"));
    shim.create(&b, &Stdio { stdout: out.uri(), ..Stdio::default() });
    shim.start_task(&b.id, "");
    let server = shim.pid(&b.id);
    let born = conex::identity::proc_stat(server).unwrap().1;
    let mut strace = match moment {
        Some(moment) => kill_at(server, moment),
        None => attach(server, &["-c", "-o", counts.to_str().unwrap()]),
    };
    let client = Persistent::new(&shim);
    for status in [3u32, 4] {
        let script = format!("seq 1 2000; echo end; exit {status}");
        let lines: String = (1..=2000).map(|n| format!("{n}\n")).collect();
        let done = (0..5).any(|attempt| {
            let id = format!("x{status}-{attempt}");
            let reader = Reader::new(b.dir.join(&id));
            let Some(code) = client.run(
                &b.id,
                &id,
                &script,
                &Stdio { stdout: reader.uri(), ..Stdio::default() },
            ) else {
                // Whoever reads is let go.
                drop(std::fs::OpenOptions::new().read(true).write(true).open(&reader.path));
                return false;
            };
            assert_eq!(code, status, "{n}: {}", shim.log());
            assert!(reader.ends(), "{n}: no end: {}", shim.log());
            let text = reader.text();
            assert!(text == format!("{lines}end\n"), "{n}: {} bytes: {}", text.len(), shim.log());
            true
        });
        assert!(done, "{n}: {}", shim.log());
    }
    std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    let wait = WaitRequest { id: b.id.clone(), ..Default::default() };
    assert_eq!(client.always::<WaitResponse>("Wait", &wait).unwrap().exit_status, 33, "{n}");
    // It writes what it has counted, and kills nothing any more.
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(strace.id() as i32),
        nix::sys::signal::Signal::SIGINT,
    );
    let _ = strace.wait();
    let killed = conex::identity::proc_stat(server)
        .is_none_or(|(letter, start)| letter == 'Z' || start != born);
    let shim = reconnect(shim);
    assert_eq!(shim.delete(&b.id, "").exit_status, 33, "{n}");
    let text = out.text();
    assert_eq!(
        text,
        (0..text.lines().count()).map(|n| format!("{n}\n")).collect::<String>(),
        "{n}"
    );
    for status in [3u32, 4, 33] {
        let told = || {
            shim.events
                .of::<events::TaskExit>("/tasks/exit")
                .iter()
                .filter(|e| e.exit_status == status)
                .count()
        };
        until(|| told() > 0, "the exit is told");
        std::thread::sleep(Duration::from_millis(5));
        // The one that was on its way when the server was killed may come twice, and an attempt whose end nobody saw counts.
        assert!(told() <= if killed { 3 } else { 1 }, "{n}: exit {status} told {} times", told());
    }
    shim.finish(&b.id);
    b.assert_gone();
    killed
}

/// Some of all calls; `CONEX_CALLS=1` takes each one, which are all moments.
#[test]
fn a_server_killed_at_each_of_its_calls() {
    if !is_ours() {
        return;
    }
    if Command::new("strace").arg("-V").stdout(Standard::null()).status().is_err() {
        skip("a_server_killed_at_each_of_its_calls", "strace");
        return;
    }
    let step: usize = std::env::var("CONEX_CALLS").ok().and_then(|n| n.parse().ok()).unwrap_or(31);
    let counts = std::env::temp_dir().join(format!("counts-{}", std::process::id()));
    assert!(!at(None, &counts));
    // % time, seconds, usecs/call, calls, [errors,] syscall.
    let text = std::fs::read_to_string(&counts).unwrap();
    let _ = std::fs::remove_file(&counts);
    let calls = text.lines().filter_map(|l| {
        let words: Vec<&str> = l.split_whitespace().collect();
        let n = words.get(3)?.parse::<u64>().ok()?;
        Some((words.last()?.to_string(), n)).filter(|(name, _)| name != "total")
    });
    let moments: Vec<Moment> =
        calls.flat_map(|(call, n)| (1..=n).map(move |n| (call.clone(), n))).collect();
    // So many calls at least: nothing was misread.
    assert!(moments.len() > 100, "{text}");
    let chosen = moments.iter().skip(std::process::id() as usize % step).step_by(step);
    let (mut tried, mut killed) = (0, 0);
    for moment in chosen {
        tried += 1;
        killed += u32::from(at(Some(moment), &counts));
    }
    // How often it waits, for example, is never quite the same.
    assert!(killed * 2 > tried, "{killed} of {tried}");
    println!("killed at {killed} of {} calls", moments.len());
}
