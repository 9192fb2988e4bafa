//! Clients that open the ends of their FIFOs when they please, as containerd's does: in a thread of its own, by an open(2)
//! that waits. Whenever that is, every byte comes and then the end.

use crate::client::*;
use crate::harness::*;
use conex_proto::task::*;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A reader that opens its end after a while.
fn late(path: PathBuf, after: Duration) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        std::thread::sleep(after);
        std::fs::read(path).unwrap()
    })
}

#[track_caller]
fn all(reader: std::thread::JoinHandle<Vec<u8>>) -> String {
    until(|| reader.is_finished(), "the end of the stream");
    String::from_utf8(reader.join().unwrap()).unwrap().replace('\r', "")
}

/// The open comes at a random moment around a short process: before Exec, between the calls, after the process has ended.
/// `CONEX_READERS` sets how many (400).
#[test]
fn a_reader_may_come_at_any_moment() {
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let many: u64 = std::env::var("CONEX_READERS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    std::thread::scope(|s| {
        for thread in 0..4u64 {
            let (shim, b) = (&shim, &b);
            s.spawn(move || {
                let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (thread + 1);
                for i in 0..many / 4 {
                    let id = format!("r{thread}-{i}");
                    let (out, err) = (b.dir.join(format!("{id}.o")), b.dir.join(format!("{id}.e")));
                    fifo(&out);
                    fifo(&err);
                    let mut when = || Duration::from_micros(random(&mut seed, 25_000));
                    let readers = (late(out.clone(), when()), late(err.clone(), when()));
                    let terminal = i % 4 == 3;
                    let path = |p: &PathBuf| p.to_string_lossy().into_owned();
                    let stderr = if terminal { String::new() } else { path(&err) };
                    let stdio = Stdio { stdout: path(&out), stderr, terminal, ..Stdio::default() };
                    let script = format!("echo out {id}; echo err {id} >&2");
                    shim.exec(&b.id, &id, &["sh", "-c", &script], &stdio).unwrap();
                    shim.start_task(&b.id, &id);
                    assert_eq!(shim.wait(&b.id, &id), 0, "{id}");
                    if terminal {
                        assert_eq!(all(readers.0), format!("out {id}\nerr {id}\n"));
                        drop(std::fs::OpenOptions::new().write(true).open(&err));
                    } else {
                        assert_eq!(all(readers.0), format!("out {id}\n"));
                        assert_eq!(all(readers.1), format!("err {id}\n"));
                    }
                    shim.delete(&b.id, &id);
                    let _ = (std::fs::remove_file(out), std::fs::remove_file(err));
                }
            });
        }
    });
    shim.finish(&b.id);
}

/// Delete does not wait for a client that never came, and nothing of its process stays for long. One that comes soon
/// after still finds everything.
#[test]
fn nobody_waits_for_a_reader_that_never_comes() {
    if !is_ours() {
        // containerd's own shim waits in Start for the reader of each stream.
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let before = descriptors(shim.pid(&b.id));
    for i in 0..20 {
        let id = format!("n{i}");
        let out = b.dir.join(&id);
        fifo(&out);
        let stdio = Stdio { stdout: out.to_string_lossy().into_owned(), ..Stdio::default() };
        shim.exec(&b.id, &id, &["echo", "hello"], &stdio).unwrap();
        shim.start_task(&b.id, &id);
        assert_eq!(shim.wait(&b.id, &id), 0);
        let begun = Instant::now();
        shim.delete(&b.id, &id);
        assert!(begun.elapsed() < within(2), "{:?}", begun.elapsed());
        if i % 2 == 0 {
            assert_eq!(all(late(out, Duration::from_millis(20 * i))), "hello\n");
        }
    }
    closed(&shim, &b.id, &before);
    shim.finish(&b.id);
}

/// The shim's server is killed, or another build takes over, between the end of the process and the open.
#[test]
fn output_waits_through_takeover_and_upgrade() {
    if !is_ours() {
        return;
    }
    for signal in [Signal::SIGKILL, Signal::SIGUSR2] {
        let b = Box::sh("sleep 1000");
        let mut shim = Shim::start(&b);
        shim.create(&b, &Stdio::default());
        shim.start_task(&b.id, "");
        let path = |name: &str| {
            fifo(&b.dir.join(name));
            b.dir.join(name)
        };
        let (ended, alive) = (path("ended"), path("alive"));
        for (id, out, script) in
            [("e", &ended, "echo early"), ("a", &alive, "echo one; sleep 1; echo two")]
        {
            let stdio = Stdio { stdout: out.to_string_lossy().into_owned(), ..Stdio::default() };
            shim.exec(&b.id, id, &["sh", "-c", script], &stdio).unwrap();
            shim.start_task(&b.id, id);
        }
        assert_eq!(shim.wait(&b.id, "e"), 0);
        // The keeper is told a moment later.
        std::thread::sleep(Duration::from_millis(100));
        let server = shim.pid(&b.id);
        kill(Pid::from_raw(server), signal).unwrap();
        if signal == Signal::SIGKILL {
            let (dir, address) = (shim.dir.clone(), shim.address.clone());
            shim = Shim::connect(&dir, &address, shim.events);
        } else {
            until(|| shim.log().matches("msg=\"serving\"").count() == 2, "the other build serves");
        }
        assert_eq!(shim.wait(&b.id, "a"), 0);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(all(late(ended, Duration::ZERO)), "early\n");
        assert_eq!(all(late(alive, Duration::ZERO)), "one\ntwo\n");
        shim.delete(&b.id, "e");
        shim.delete(&b.id, "a");
        shim.finish(&b.id);
    }
}

/// The request's `terminal` decides, whatever the process document says.
#[test]
fn the_request_decides_on_the_terminal() {
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    for terminal in [true, false] {
        let id = format!("t{terminal}");
        let out = Reader::new(b.dir.join(&id));
        let stdio = Stdio { stdout: out.uri(), terminal: !terminal, ..Stdio::default() };
        let mut request = exec_request(&b.id, &id, &["sh", "-c", "test -t 1; echo $?"], &stdio);
        request.terminal = terminal;
        shim.ok::<()>("Exec", &request);
        shim.start_task(&b.id, &id);
        assert_eq!(shim.wait(&b.id, &id), 0);
        shim.ok::<DeleteResponse>("Delete", &DeleteRequest { id: b.id.clone(), exec_id: id });
        assert_eq!(out.text().trim(), if terminal { "0" } else { "1" });
    }
    shim.finish(&b.id);
}
