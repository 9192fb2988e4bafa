//! A container does not wait for its log: nobody reads, somebody reads slowly, a file or a logger fails.

use crate::client::*;
use crate::harness::*;
use conex_proto::{prost::Message, shim::OutputLost};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use serde_json::json;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Numbered lines of 100 bytes.
fn lines(from: u64, to: u64) -> String {
    (from..=to).map(|n| format!("{n:099}\n")).collect()
}

/// The same, written by a shell.
fn numbers(from: u64, to: u64) -> String {
    format!(
        "/bin/busybox awk 'BEGIN {{ for (i = {from}; i <= {to}; i++) printf \"%099d\\n\", i }}'"
    )
}

/// A container that writes that many of them, with this much room in the shim.
fn writer(count: u64, buffer: &str) -> Box {
    let script = format!("{}; exit 5", numbers(1, count));
    let mut b = Box::sh(&script);
    *b.at("annotations") = json!({"dev.conex.output-buffer": buffer});
    b
}

fn up(b: &Box, stdout: &Path) -> Shim {
    let shim = Shim::start(b);
    shim.create(b, &Stdio { stdout: stdout.to_string_lossy().into_owned(), ..Stdio::default() });
    shim.start_task(&b.id, "");
    shim
}

/// What comes of a FIFO up to its end.
fn read(path: &Path) -> Vec<u8> {
    let path = path.to_path_buf();
    let thread = std::thread::spawn(move || std::fs::read(path).unwrap());
    until(|| thread.is_finished(), "the end of the stream");
    thread.join().unwrap()
}

#[test]
fn a_size_that_is_none_is_refused() {
    for wrong in ["much", "", "-1", "16MB", "99999999999999999999", "1.5M"] {
        let b = writer(1, wrong);
        b.write_config();
        let shim = Shim::start(&b);
        let request = shim.create_request(&b, &Stdio::default());
        if is_ours() {
            shim.fails(
                "Create",
                &request,
                3,
                &format!("annotations[\"dev.conex.output-buffer\"]: {wrong:?}"),
            );
        }
        shim.finish(&b.id);
        b.assert_gone();
    }
}

/// Nobody reads while 5 MB are written: the process ends all the same, and who comes then finds every byte.
#[test]
fn a_container_does_not_wait_for_its_reader() {
    if !is_ours() {
        return;
    }
    let b = writer(50_000, "16M");
    let out = b.dir.join("o");
    fifo(&out);
    let shim = up(&b, &out);
    assert_eq!(shim.wait(&b.id, ""), 5);
    assert!(shim.log().contains("nobody reads"), "{}", shim.log());
    assert!(read(&out) == lines(1, 50_000).into_bytes());
    shim.finish(&b.id);
}

/// More than there is room for: whole lines go, the oldest first; how many is said where they were, in the log and as an
/// event.
#[test]
fn what_is_lost_is_counted() {
    if !is_ours() {
        return;
    }
    let b = writer(50_000, "1M");
    let out = b.dir.join("o");
    fifo(&out);
    let shim = up(&b, &out);
    assert_eq!(shim.wait(&b.id, ""), 5);
    let text = String::from_utf8(read(&out)).unwrap();
    let (mut next, mut lost, mut notices) = (1, 0, 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("conex: ") {
            let words: Vec<&str> = rest.split(' ').collect();
            let (count, bytes): (u64, u64) =
                (words[0].parse().unwrap(), words[2].trim_start_matches('(').parse().unwrap());
            assert_eq!((bytes, words[1], words[5]), (count * 100, "lines", "stdout"), "{line}");
            next += count;
            lost += count;
            notices += 1;
        } else {
            assert_eq!(line, format!("{next:099}"), "after {lost} lost lines");
            next += 1;
        }
    }
    assert_eq!(next, 50_001, "every line is there or counted");
    // The FIFO and a full ring are with the reader.
    assert!(notices >= 1 && (50_000 - lost) * 100 >= 1 << 20, "{notices} notices, {lost} lost");
    let told = || -> u64 {
        let all = shim.events.all();
        let of = all.iter().filter(|e| e.topic == "/conex/output-lost");
        of.map(|e| OutputLost::decode(e.event.as_ref().unwrap().value.as_slice()).unwrap().lines)
            .sum()
    };
    until(|| told() == lost, "the events");
    assert!(shim.log().contains("output is lost"), "{}", shim.log());
    shim.finish(&b.id);
}

/// A reader that is slow, and slower than the container for ever, loses nothing: then the container waits.
#[test]
fn a_slow_reader_loses_nothing() {
    let b = writer(20_000, "100K");
    let out = b.dir.join("o");
    fifo(&out);
    let shim = up(&b, &out);
    let mut file = std::fs::File::open(&out).unwrap();
    let (mut all, mut buffer) = (Vec::new(), vec![0u8; 60_000]);
    // The first second and a half without a byte.
    std::thread::sleep(Duration::from_millis(1500));
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            n => all.extend_from_slice(&buffer[..n]),
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(shim.wait(&b.id, ""), 5);
    let first = all.iter().position(|b| *b == b'c').unwrap_or(all.len());
    if first == all.len() {
        assert!(all == lines(1, 20_000).into_bytes());
    } else {
        // What came in the time without a byte could be lost, nothing after it.
        let text = String::from_utf8(all).unwrap();
        assert_eq!(text.matches("conex: ").count(), 1, "lost while it read");
    }
    shim.finish(&b.id);
}

/// With 0 the process waits, as with containerd's shim; and what an exec writes is data: it waits, too.
#[test]
fn who_wants_to_wait_waits() {
    let b = writer(5_000, "0");
    let out = b.dir.join("o");
    fifo(&out);
    let shim = up(&b, &out);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(shim.state(&b.id, "").status(), conex_proto::types::Status::Running);
    assert!(read(&out) == lines(1, 5_000).into_bytes());
    assert_eq!(shim.wait(&b.id, ""), 5);
    shim.finish(&b.id);

    let b = Box::sh("sleep 100");
    let shim = up(&b, Path::new(""));
    let data = b.dir.join("data");
    fifo(&data);
    let stdio = Stdio { stdout: data.to_string_lossy().into_owned(), ..Stdio::default() };
    shim.exec(&b.id, "tar", &["sh", "-c", &numbers(1, 3000)], &stdio).unwrap();
    shim.start_task(&b.id, "tar");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(shim.state(&b.id, "tar").status(), conex_proto::types::Status::Running);
    assert!(read(&data) == lines(1, 3000).into_bytes());
    assert_eq!(shim.wait(&b.id, "tar"), 0);
    shim.finish(&b.id);
}

/// The server is killed, and upgraded, while it keeps output.
#[test]
fn what_is_kept_outlives_the_server() {
    if !is_ours() {
        return;
    }
    for signal in [Signal::SIGKILL, Signal::SIGUSR2] {
        let mut b = writer(30_000, "16M");
        let script = b.at("process.args.2").as_str().unwrap().replace(
            "exit 5",
            &format!(
                "while [ ! -e /tmp/go ]; do sleep 0.02; done; {}; exit 5",
                numbers(30_001, 31_000)
            ),
        );
        *b.at("process.args.2") = json!(script);
        let out = b.dir.join("o");
        fifo(&out);
        let shim = up(&b, &out);
        until(|| shim.log().contains("nobody reads"), "the ring");
        std::thread::sleep(Duration::from_millis(500));
        let server = shim.pid(&b.id);
        kill(Pid::from_raw(server), signal).unwrap();
        let shim = match signal {
            Signal::SIGKILL => reconnect(shim),
            _ => {
                until(|| shim.log().contains("live upgrade"), "the upgrade");
                shim
            }
        };
        std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
        assert_eq!(shim.wait(&b.id, ""), 5, "{signal}");
        assert!(read(&out) == lines(1, 31_000).into_bytes(), "{signal}");
        shim.finish(&b.id);
    }
}

/// Lines that come one by one, at any moment of the shim's own work, are all in the file.
#[test]
fn a_file_has_every_line() {
    let b = Box::sh("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done");
    let shim = Shim::start(&b);
    let file = b.dir.join("lines");
    shim.create(&b, &Stdio { stdout: format!("file://{}", file.display()), ..Stdio::default() });
    shim.start_task(&b.id, "");
    assert_eq!(shim.wait(&b.id, ""), 0);
    shim.delete(&b.id, "");
    assert!(
        std::fs::read_to_string(&file).unwrap()
            == (0..20_000).map(|i| format!("{i}\n")).collect::<String>()
    );
    shim.finish(&b.id);
}

/// A file that cannot be written is tried again, told of once, and stops nobody.
#[test]
fn a_full_disk_stops_nobody() {
    if !is_ours() {
        return;
    }
    let mut b = writer(20_000, "16M");
    let disk = b.dir.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |args: &[&str]| {
        assert!(std::process::Command::new("mount")
            .args(args)
            .arg(&disk)
            .status()
            .unwrap()
            .success())
    };
    mount(&["-t", "tmpfs", "-o", "size=500k", "tmpfs"]);
    let script = b.at("process.args.2").as_str().unwrap().replace(
        "exit 5",
        "touch /tmp/written; while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 5",
    );
    *b.at("process.args.2") = json!(script);
    let file = disk.join("log");
    let shim = Shim::start(&b);
    let begun = Instant::now();
    shim.create(&b, &Stdio { stdout: format!("file://{}", file.display()), ..Stdio::default() });
    shim.start_task(&b.id, "");
    let written = || b.rootfs().join("tmp/written").exists();
    while !written() && begun.elapsed() < within(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(written(), "after {:?}: {}", begun.elapsed(), shim.log());
    let told = || shim.log().matches("output cannot be written").count();
    assert_eq!(told(), 1, "{}", shim.log());
    mount(&["-o", "remount,size=5m"]);
    until(|| std::fs::metadata(&file).unwrap().len() == 2_000_000, "the rest");
    assert_eq!(told(), 1, "{}", shim.log());
    assert!(std::fs::read(&file).unwrap() == lines(1, 20_000).into_bytes());
    std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
    assert_eq!(shim.wait(&b.id, ""), 5);
    shim.delete(&b.id, "");
    shim.finish(&b.id);
    assert!(std::process::Command::new("umount").arg(&disk).status().unwrap().success());
}

/// A logger that hangs, and one that ends: the container goes on, and nobody's zombies stay.
#[test]
fn a_logger_that_fails_stops_nobody() {
    if !is_ours() {
        return;
    }
    for (rest, ends) in [("sleep 1000", false), ("exit 0", true)] {
        let mut b = writer(20_000, "16M");
        let text = b.at("process.args.2").as_str().unwrap().replace(
            "exit 5",
            "touch /tmp/written; while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 5",
        );
        *b.at("process.args.2") = json!(text);
        let program = b.dir.join("logger.sh");
        executable(
            &program,
            format!(
                "#!/bin/sh\nexec 5>&-\nexec 4<&-\nhead -c 1000 <&3 >{}/first\n{rest}\n",
                b.dir.display()
            )
            .as_bytes(),
        );
        let shim = Shim::start(&b);
        shim.create(
            &b,
            &Stdio { stdout: format!("binary://{}", program.display()), ..Stdio::default() },
        );
        shim.start_task(&b.id, "");
        until(|| b.rootfs().join("tmp/written").exists(), "all is written");
        if ends {
            until(|| shim.log().contains("logger ended"), "the word of it");
        }
        // Reaping goes on: an exec leaves an orphan, which becomes the shim's.
        shim.exec(&b.id, "x", &["sh", "-c", "sleep 0.1 & exit 3"], &Stdio::default()).unwrap();
        shim.start_task(&b.id, "x");
        assert_eq!(shim.wait(&b.id, "x"), 3);
        let server = shim.pid(&b.id);
        let zombies = || {
            let list =
                std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
            list.split_whitespace()
                .filter(|p| {
                    conex::identity::proc_stat(p.parse().unwrap()).is_some_and(|s| s.0 == 'Z')
                })
                .count()
        };
        until(|| zombies() == 0, "no zombie");
        std::fs::write(b.rootfs().join("tmp/go"), "").unwrap();
        assert_eq!(shim.wait(&b.id, ""), 5);
        let begun = Instant::now();
        shim.delete(&b.id, "");
        assert!(!ends || begun.elapsed() < within(3), "{:?}", begun.elapsed());
        shim.finish(&b.id);
    }
}
