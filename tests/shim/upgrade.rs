//! SIGUSR2: another build takes over the same process, its socket, its calls, its streams and its containers.

use crate::client::*;
use crate::harness::*;
use conex_proto::{events, task::*, types::Status};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A copy of the binary that is another file: bytes after the end of an ELF program change nothing.
fn build(b: &Box, note: &[u8]) -> std::path::PathBuf {
    let path = b.dir.join("containerd-shim-conex-v2");
    let temporary = b.dir.join("shim.new");
    let mut text = std::fs::read(binary()).unwrap();
    text.extend(note);
    executable(&temporary, &text);
    std::fs::rename(&temporary, &path).unwrap();
    path
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

fn upgrade(server: i32, program: &Path) {
    kill(Pid::from_raw(server), Signal::SIGUSR2).unwrap();
    let exe = format!("/proc/{server}/exe");
    until(|| inode(Path::new(&exe)) == inode(program), "the other build runs");
}

#[test]
fn another_build_takes_over_under_load() {
    if !is_ours() {
        return;
    }
    // 40,000 lines through a pipe that is full most of the time, a terminal, a waiting call, calls all the time.
    let b = Box::sh("seq 1 40000; read go; exit 42");
    let program = build(&b, b"");
    let shim = Shim::start_from(&b, &program);
    let input = b.dir.join("i");
    fifo(&input);
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
    let slow = b.dir.join("o");
    fifo(&slow);
    let reading = slow.clone();
    let reader = std::thread::spawn(move || {
        use std::io::Read;
        let (mut out, mut buffer) = (Vec::new(), [0u8; 3000]);
        let mut file = std::fs::File::open(reading).unwrap();
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => return out,
                n => out.extend_from_slice(&buffer[..n]),
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    let stdio = Stdio {
        stdin: input.to_string_lossy().into_owned(),
        stdout: slow.to_string_lossy().into_owned(),
        ..Stdio::default()
    };
    let pid = shim.create(&b, &stdio);
    shim.start_task(&b.id, "");
    let mut terminal = Stdio { terminal: true, ..Stdio::default() };
    let tty = Reader::new(b.dir.join("tty"));
    terminal.stdout = tty.uri();
    shim.exec(&b.id, "tty", &["sh", "-c", "echo one; sleep 1; echo two; exit 6"], &terminal)
        .unwrap();
    shim.start_task(&b.id, "tty");
    let server = shim.pid(&b.id);
    let (seen, count) = std::thread::scope(|s| {
        let waiting = s.spawn(|| shim.wait(&b.id, ""));
        let calling = s.spawn(|| {
            let mut count = 0;
            for i in 0..60 {
                let id = format!("e{i}");
                shim.exec(&b.id, &id, &["sh", "-c", &format!("exit {i}")], &Stdio::default())
                    .unwrap();
                shim.start_task(&b.id, &id);
                assert_eq!(shim.wait(&b.id, &id), i);
                shim.delete(&b.id, &id);
                count += 1;
            }
            count
        });
        for n in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(60));
            upgrade(server, &build(&b, format!("build {n}").as_bytes()));
        }
        assert_eq!(shim.pid(&b.id), server);
        assert_eq!(shim.state(&b.id, "").status(), Status::Running);
        let count = calling.join().unwrap();
        assert_eq!(shim.wait(&b.id, "tty"), 6);
        writer.write_all(b"go\n").unwrap();
        (waiting.join().unwrap(), count)
    });
    assert_eq!((seen, count), (42, 60));
    shim.delete(&b.id, "tty");
    assert_eq!(tty.text().replace('\r', ""), "one\ntwo\n");
    let deleted = shim.delete(&b.id, "");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 42));
    let out = String::from_utf8(reader.join().unwrap()).unwrap();
    let want: String = (1..=40000).map(|n| format!("{n}\n")).collect();
    assert!(out == want, "{} bytes of {}", out.len(), want.len());
    shim.events.wait("/tasks/delete", 1);
    let exits = shim.events.of::<events::TaskExit>("/tasks/exit");
    assert_eq!(exits.len(), 62, "every exit once");
    shim.finish(&b.id);
}

#[test]
fn an_upgrade_that_cannot_be_is_none() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 100");
    let program = build(&b, b"");
    let shim = Shim::start_from(&b, &program);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let server = shim.pid(&b.id);
    // Gone; a program that is another one; a build that writes its state in another form.
    std::fs::remove_file(&program).unwrap();
    let scripts = [
        ("", "fork/exec "),
        ("exit 3", "(status 3, said"),
        ("echo 0; echo 9999", "(status 0, said"),
    ];
    for (script, why) in scripts {
        if !script.is_empty() {
            executable(&program, format!("#!/bin/sh\n{script}\n").as_bytes());
        }
        kill(Pid::from_raw(server), Signal::SIGUSR2).unwrap();
        until(|| shim.log().contains(why) && shim.log().contains("live upgrade: "), why);
        assert_eq!(shim.pid(&b.id), server);
    }
    assert_eq!(shim.state(&b.id, "").status(), Status::Running);
    // The state dump, on the way.
    kill(Pid::from_raw(server), Signal::SIGUSR1).unwrap();
    until(
        || shim.log().contains("msg=\"process\"") && shim.log().contains("stage=\"Running\""),
        "the dump",
    );
    let _ = shim.call::<()>(
        "CloseIO",
        &CloseIoRequest { id: b.id.clone(), stdin: true, ..Default::default() },
    );
    shim.finish(&b.id);
}

#[test]
fn nothing_is_lost_when_the_server_is_killed() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("seq 1 30000; while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 23");
    let shim = Shim::start(&b);
    let out = Reader::new(b.dir.join("o"));
    let stdio = Stdio { stdout: out.uri(), stderr: out.uri(), ..Stdio::default() };
    let pid = shim.create(&b, &stdio);
    shim.start_task(&b.id, "");
    shim.exec(&b.id, "long", &["sh", "-c", "sleep 1; exit 8"], &Stdio::default()).unwrap();
    let exec = shim.start_task(&b.id, "long");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (server, keeper) = (shim.pid(&b.id), parent(shim.pid(&b.id)));
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    let mut shim = reconnect(shim);
    assert_ne!(shim.pid(&b.id), server);
    assert_eq!(parent(shim.pid(&b.id)), keeper);
    let state = shim.state(&b.id, "");
    assert_eq!((state.pid, state.status()), (pid, Status::Running));
    assert_eq!((shim.state(&b.id, "long").pid, shim.wait(&b.id, "long")), (exec, 8));
    shim.exec(&b.id, "new", &["sh", "-c", "exit 9"], &Stdio::default()).unwrap();
    shim.start_task(&b.id, "new");
    assert_eq!(shim.wait(&b.id, "new"), 9);
    assert!(shim.ok::<StatsResponse>("Stats", &IdRequest { id: b.id.clone() }).stats.is_some());
    // Ended while there is no server, and nobody who could start one.
    std::thread::sleep(std::time::Duration::from_millis(50));
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).unwrap();
    kill(Pid::from_raw(shim.pid(&b.id)), Signal::SIGKILL).unwrap();
    std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    until(
        || conex::identity::proc_stat(pid as i32).is_none_or(|s| s.0 == 'Z'),
        "the container ends",
    );
    kill(Pid::from_raw(keeper), Signal::SIGCONT).unwrap();
    shim = reconnect(shim);
    assert_eq!(shim.wait(&b.id, ""), 23);
    let deleted = shim.delete(&b.id, "");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 23));
    let want: String = (1..=30000).map(|n| format!("{n}\n")).collect();
    assert!(out.text() == want);
    let told =
        || shim.events.of::<events::TaskExit>("/tasks/exit").iter().any(|e| e.exit_status == 23);
    until(told, "the event of its exit");
    shim.finish(&b.id);
    until(
        || {
            !Path::new(&format!("/proc/{keeper}")).exists()
                || conex::identity::proc_stat(keeper).is_none_or(|s| s.0 == 'Z')
        },
        "the keeper ends",
    );
}

#[test]
fn the_keeper_has_a_build_of_its_own() {
    if !is_ours() {
        return;
    }
    // What lies at the shim's path cannot be executed, or ends at once, when the server is killed.
    for script in ["", "#!/bin/sh\nexit 3\n"] {
        let b = Box::sh("sleep 100");
        let program = build(&b, b"");
        let shim = Shim::start_from(&b, &program);
        let pid = shim.create(&b, &Stdio::default());
        shim.start_task(&b.id, "");
        let server = shim.pid(&b.id);
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::remove_file(&program).unwrap();
        if !script.is_empty() {
            executable(&program, script.as_bytes());
        }
        kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
        let shim = reconnect(shim);
        let state = shim.state(&b.id, "");
        assert_eq!((state.pid, state.status()), (pid, Status::Running));
        shim.finish(&b.id);
    }
}
