//! A shim at work, and whatever can happen to it, at random.

use crate::client::*;
use crate::harness::*;
use crate::survival::Persistent;
use conex_proto::{events, task::*};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::time::Duration;

/// A file's disk, which can be filled.
struct Disk(std::path::PathBuf);

impl Disk {
    fn new(b: &Box) -> Disk {
        let dir = b.dir.join("disk");
        std::fs::create_dir(&dir).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=512k", "tmpfs"];
        assert!(std::process::Command::new("mount")
            .args(mount)
            .arg(&dir)
            .status()
            .unwrap()
            .success());
        Disk(dir)
    }

    /// Full, for so many microseconds.
    fn fill(&self, time: u64) {
        use std::io::Write;
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        std::thread::sleep(Duration::from_micros(time));
        std::fs::remove_file(&filler).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

/// At random moments of a shim at work its server is killed or executed anew, its keeper is killed, containerd goes away and
/// comes back, or the disk of the log is full for a while: every exit status is told truly, every byte comes once and in
/// order, every exit is an event, nothing is left. The keeper stays where the kernel does not say how a process that it was the parent of
/// has ended (before Linux 6.15). One thing nobody can tell: of a file, to which the kernel does not splice at its end, whether
/// what a killed server had read is in it: there each kill may cost what was read at once. `CONEX_MOMENTS`: how many shims, each with three such moments.
#[test]
fn whatever_happens() {
    if !is_ours() {
        return;
    }
    let many: u64 = std::env::var("CONEX_MOMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let first: u64 = std::env::var("CONEX_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in first..first + many {
        let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed);
        let b = Box::sh(
            "i=0; while [ ! -e /tmp/go ]; do echo $i; i=$((i+1)); sleep 0.01; done; echo $i >/tmp/count; exit 33",
        );
        let shim = Shim::start(&b);
        // Every other one logs to a file.
        let disk = (seed % 2 == 0).then(|| Disk::new(&b));
        let out = disk.is_none().then(|| Reader::new(b.dir.join("o")));
        let file = disk.as_ref().map(|d| d.0.join("log"));
        let uri = file.as_ref().map(|f| format!("file://{}", f.display()));
        let stdout = uri.unwrap_or_else(|| out.as_ref().unwrap().uri());
        shim.create(&b, &Stdio { stdout, ..Stdio::default() });
        shim.start_task(&b.id, "");
        let server = || {
            let client = Persistent::new(&shim);
            let answer = client
                .always::<ConnectResponse>("Connect", &IdRequest { id: b.id.clone() })
                .unwrap();
            Pid::from_raw(answer.shim_pid as i32)
        };
        let (mut kills, mut killed) = (0, 0);
        std::thread::scope(|s| {
            let workers: Vec<_> = (0..3)
                .map(|worker: u32| {
                    let (shim, b) = (&shim, &b);
                    s.spawn(move || {
                        let client = Persistent::new(shim);
                        for i in 0..8 {
                            let status = worker * 8 + i;
                            let lines: String =
                                (1..=status * 150).map(|n| format!("{n}\n")).collect();
                            let script = format!("seq 1 {}; echo end; exit {status}", status * 150);
                            let done = (0..9).any(|attempt| {
                                let id = format!("w{worker}-{i}-{attempt}");
                                let reader = Reader::new(b.dir.join(&id));
                                let stdio = Stdio { stdout: reader.uri(), ..Stdio::default() };
                                let Some(code) = client.run(&b.id, &id, &script, &stdio) else {
                                    // Whoever reads is let go.
                                    drop(
                                        std::fs::OpenOptions::new()
                                            .read(true)
                                            .write(true)
                                            .open(&reader.path),
                                    );
                                    return false;
                                };
                                assert_eq!(code, status, "{id}, seed {seed}: {}", shim.log());
                                assert!(reader.ends(), "{id}, seed {seed}: no end: {}", shim.log());
                                let text = reader.text();
                                let whole = text == format!("{lines}end\n");
                                assert!(
                                    whole,
                                    "{id}, seed {seed}: {} bytes: {}",
                                    text.len(),
                                    shim.log()
                                );
                                true
                            });
                            assert!(done, "w{worker}-{i}, seed {seed}");
                        }
                    })
                })
                .collect();
            for n in 0..3 {
                std::thread::sleep(Duration::from_micros(random(&mut state, 60_000)));
                match (random(&mut state, 6), &disk) {
                    (0, _) => kill(server(), Signal::SIGUSR2).unwrap(),
                    (1, _) => {
                        shim.events.cut();
                        std::thread::sleep(Duration::from_micros(random(&mut state, 200_000)));
                        shim.events.again();
                        // What it has taken and not answered comes again.
                        kills += 1;
                    }
                    (2, Some(disk)) => disk.fill(random(&mut state, 300_000)),
                    // The last moment: a server without a keeper has nobody after it.
                    (3, _) if n == 2 && !older_than((6, 15)) => {
                        kill(Pid::from_raw(parent(server().as_raw())), Signal::SIGKILL).unwrap()
                    }
                    _ => {
                        kills += 1;
                        killed += 1;
                        kill(server(), Signal::SIGKILL).unwrap();
                    }
                }
            }
            workers.into_iter().for_each(|w| w.join().unwrap());
        });
        std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
        let client = Persistent::new(&shim);
        let ended = client
            .always::<WaitResponse>("Wait", &WaitRequest { id: b.id.clone(), ..Default::default() })
            .unwrap();
        assert_eq!(ended.exit_status, 33, "seed {seed}");
        let shim = reconnect(shim);
        assert_eq!(shim.delete(&b.id, "").exit_status, 33, "seed {seed}");
        let text = match (out, &file) {
            (Some(out), _) => out.text(),
            (None, file) => {
                let read = || std::fs::read_to_string(file.as_ref().unwrap()).unwrap();
                // What the disk had no room for is tried again once a second.
                let lines = std::fs::read_to_string(b.rootfs().join("tmp/count")).unwrap();
                let last = lines.trim().parse::<u64>().unwrap().checked_sub(1);
                let whole = || {
                    let text = read();
                    last.is_none_or(|last| text.lines().last() == Some(&last.to_string()))
                };
                let begun = std::time::Instant::now();
                while !whole() {
                    let late = begun.elapsed() > within(20);
                    let (text, log) = (read(), shim.log());
                    assert!(!late, "seed {seed}: of {} lines: {log}\n{text}", lines.trim());
                    std::thread::sleep(Duration::from_millis(50));
                }
                read()
            }
        };
        let numbers: Vec<usize> = text.lines().map(|l| l.parse().unwrap()).collect();
        let gaps = numbers.windows(2).filter(|w| w[1] != w[0] + 1).count();
        let allowed = if file.is_some() { killed } else { 0 };
        let in_order = numbers.windows(2).all(|w| w[0] < w[1]);
        let begins = numbers.first().is_none_or(|n| *n == 0) || allowed > gaps;
        assert!(in_order && begins && gaps <= allowed, "seed {seed}, {killed} kills: {text}");
        // Those of the last moment before a kill may be told twice; none is missing.
        let exits = || shim.events.of::<events::TaskExit>("/tasks/exit");
        until(|| exits().iter().any(|e| e.exit_status == 33), "init's exit");
        for status in 0..24u32 {
            let seen = exits().iter().filter(|e| e.exit_status == status).count();
            // An attempt that the client could not see the end of counts as well.
            assert!(
                seen >= 1 && seen <= 1 + 2 * kills,
                "seed {seed}: exit {status} told {seen} times"
            );
        }
        shim.finish(&b.id);
        b.assert_gone();
    }
}

/// The server is killed at the moment at which it begins to keep what a full disk does not take: its keeper knows of that before
/// anything is taken from the container.
#[test]
fn a_server_killed_as_it_begins_to_keep_output() {
    if !is_ours() {
        return;
    }
    let mut state = 1;
    let rounds: u64 =
        std::env::var("CONEX_MOMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    for round in 0..rounds {
        let b =
            Box::sh("i=0; while [ ! -e /tmp/go ]; do echo $i; i=$((i+1)); done; echo $i >/tmp/count; sleep 100");
        let shim = Shim::start(&b);
        let disk = Disk::new(&b);
        let log = disk.0.join("log");
        let stdout = format!("file://{}", log.display());
        shim.create(&b, &Stdio { stdout, ..Stdio::default() });
        shim.start_task(&b.id, "");
        let server = Pid::from_raw(shim.pid(&b.id));
        // The container fills its disk itself.
        until(|| shim.log().contains("output is kept"), "the ring");
        std::thread::sleep(Duration::from_micros(random(&mut state, 1500)));
        kill(server, Signal::SIGKILL).unwrap();
        let shim = reconnect(shim);
        let text = std::fs::read_to_string(&log).unwrap();
        // The disk takes no more, and the ring holds what follows: what is in the file then goes on there.
        std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
        assert!(std::process::Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(&disk.0)
            .status()
            .unwrap()
            .success());
        let said = || {
            std::fs::read_to_string(b.rootfs().join("tmp/count")).ok()?.trim().parse::<usize>().ok()
        };
        until(|| said().is_some(), "the end of the writing");
        let count = said().unwrap();
        let whole = || std::fs::read_to_string(&log).unwrap();
        until(|| whole().lines().last() == Some(&(count - 1).to_string()), "the last line");
        let want = (0..count).map(|n| format!("{n}\n")).collect::<String>();
        let now = whole();
        let lost = now.lines().zip(want.lines()).find(|(a, b)| a != b);
        assert!(
            now == want,
            "round {round}: {} bytes before the kill, then {lost:?}: {}",
            text.len(),
            shim.log()
        );
        shim.finish(&b.id);
    }
}
