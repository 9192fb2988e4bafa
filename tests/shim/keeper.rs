//! A keeper that does not listen, and a server without one.

use crate::client::*;
use crate::harness::*;
use conex_proto::{task::*, types::Status};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// More happens while the keeper is stopped than its socket holds: nobody waits for ever, and it knows of everything when
/// it goes on.
#[test]
fn a_keeper_that_was_stopped() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let server = shim.pid(&b.id);
    let keeper = parent(server);
    signal(keeper, Signal::SIGSTOP);
    let many = 40;
    let readers: Vec<Reader> = (0..many)
        .map(|n| {
            let (id, reader) = (format!("e{n}"), Reader::new(b.dir.join(format!("o{n}"))));
            let stdio = Stdio { stdout: reader.uri(), ..Stdio::default() };
            shim.exec(&b.id, &id, &["sh", "-c", &format!("echo {n}; exit {n}")], &stdio).unwrap();
            shim.start_task(&b.id, &id);
            assert_eq!(shim.wait(&b.id, &id), n, "{id}");
            reader
        })
        .collect();
    signal(keeper, Signal::SIGCONT);
    // The server tries twice a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    // The end of a stream is one when the keeper has let go of it as well.
    for (n, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.text(), format!("{n}\n"));
    }
    signal(server, Signal::SIGKILL);
    let shim = reconnect(shim);
    for n in 0..many {
        let state = shim.state(&b.id, &format!("e{n}"));
        assert_eq!(
            (state.status(), state.exit_status),
            (Status::Stopped, n),
            "e{n}: {}",
            shim.log()
        );
    }
    assert_eq!(shim.state(&b.id, "").status(), Status::Running);
    shim.finish(&b.id);
    b.assert_gone();
}

/// The number by which the server knew its keeper is another descriptor's after an upgrade.
#[test]
fn an_upgrade_without_a_keeper() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("while read x; do echo $x; done; exit 6");
    let shim = Shim::start(&b);
    let (out, input) = (Reader::new(b.dir.join("o")), b.dir.join("i"));
    fifo(&input);
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
    let stdin = input.to_string_lossy().into_owned();
    shim.create(&b, &Stdio { stdin, stdout: out.uri(), ..Stdio::default() });
    shim.start_task(&b.id, "");
    let server = shim.pid(&b.id);
    signal(parent(server), Signal::SIGKILL);
    until(|| shim.log().contains("no keeper any more"), "the end of the keeper");
    // Whatever takes the lowest free number now.
    let others: Vec<_> =
        (0..4).map(|_| std::os::unix::net::UnixStream::connect(&shim.address).unwrap()).collect();
    for round in 1..4 {
        signal(server, Signal::SIGUSR2);
        let upgrades = || {
            shim.log().matches("live upgrade").count() == round
                && shim.log().matches("serving").count() == round + 1
        };
        until(upgrades, "the upgrade");
        use std::io::Write;
        writer.write_all(b"line\n").unwrap();
        let begun = std::time::Instant::now();
        shim.exec(&b.id, &format!("e{round}"), &["sh", "-c", "exit 3"], &Stdio::default()).unwrap();
        shim.start_task(&b.id, &format!("e{round}"));
        assert_eq!(shim.wait(&b.id, &format!("e{round}")), 3);
        assert!(begun.elapsed().as_secs() < 8, "nobody waits for a keeper that is not there");
    }
    drop(others);
    drop(writer);
    shim.ok::<()>(
        "CloseIO",
        &CloseIoRequest { id: b.id.clone(), stdin: true, ..CloseIoRequest::default() },
    );
    assert_eq!(shim.wait(&b.id, ""), 6);
    assert_eq!(out.text(), "line\n".repeat(3));
    shim.delete(&b.id, "");
    shim.finish(&b.id);
    b.assert_gone();
}

/// The keeper is told changes: what one exec costs does not grow with the number of processes. Bytes that the server sends
/// in one life of an exec, to the keeper and to the client, beside `CONEX_PROCESSES` others (200) and beside none.
#[test]
fn what_the_keeper_is_told_does_not_grow() {
    if !is_ours() {
        return;
    }
    if std::process::Command::new("strace")
        .arg("-V")
        .stdout(std::process::Stdio::null())
        .status()
        .is_err()
    {
        return skip("what_the_keeper_is_told_does_not_grow", "strace");
    }
    let many: usize =
        std::env::var("CONEX_PROCESSES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let server = shim.pid(&b.id);
    let life = |name: &str| {
        shim.exec(&b.id, name, &["true"], &Stdio::default()).unwrap();
        shim.start_task(&b.id, name);
        shim.wait(&b.id, name);
        shim.delete(&b.id, name);
    };
    let sent = |name: &str| -> u64 {
        let file = b.dir.join(name);
        let calls = "trace=sendmsg,sendto,write,writev";
        let strace = crate::moments::attach(server, &["-o", file.to_str().unwrap(), "-e", calls]);
        life(name);
        let _ = signal_child(strace);
        let text = std::fs::read_to_string(&file).unwrap();
        let sizes = text.lines().filter_map(|l| l.rsplit_once("= ")?.1.trim().parse::<u64>().ok());
        sizes.sum()
    };
    life("first");
    let alone = sent("alone");
    for n in 0..many {
        let name = format!("x{n}");
        shim.exec(&b.id, &name, &["sleep", "1000"], &Stdio::default()).unwrap();
        shim.start_task(&b.id, &name);
    }
    let beside = sent("beside");
    println!("{alone} bytes alone, {beside} beside {many} processes");
    assert!(alone > 500, "nothing was seen: {alone}");
    assert!(beside < alone * 3 / 2, "{alone} bytes alone, {beside} beside {many} processes");
    shim.finish(&b.id);
    b.assert_gone();
}

fn signal_child(mut child: std::process::Child) -> std::io::Result<std::process::ExitStatus> {
    signal(child.id() as i32, Signal::SIGINT);
    child.wait()
}

/// A keeper that is held up for longer than anybody would wait tells the true status all the same.
#[test]
fn a_keeper_that_is_slow_to_tell() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    shim.exec(
        &b.id,
        "e",
        &["sh", "-c", "while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 42"],
        &Stdio::default(),
    )
    .unwrap();
    shim.start_task(&b.id, "e");
    // From here on the keeper is the parent.
    signal(shim.pid(&b.id), Signal::SIGKILL);
    let shim = reconnect(shim);
    let keeper = parent(shim.pid(&b.id));
    signal(keeper, Signal::SIGSTOP);
    std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    let waiter = std::thread::spawn({
        let (dir, address, id) = (shim.dir.clone(), shim.address.clone(), b.id.clone());
        let events = Events::listen(&dir.join("other-events"));
        move || Shim::connect(&dir, &address, events).wait(&id, "e")
    });
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(!waiter.is_finished(), "{}", shim.log());
    signal(keeper, Signal::SIGCONT);
    assert_eq!(waiter.join().unwrap(), 42);
    shim.finish(&b.id);
    b.assert_gone();
}
