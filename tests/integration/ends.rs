//! How a container ended: `why`, `state`, `list`, `events`, and the line of a foreground `run`.

use crate::harness::*;
use serde_json::{json, Value};
use std::process::Stdio;

fn why(b: &Box) -> String {
    b.call(&["why", &b.id]).ok().out
}

/// Each end in a sentence, after the container is gone.
#[test]
fn every_end_is_told() {
    if !is_conex() {
        return;
    }
    for (script, code, sentence) in [
        ("true", 0, "its program was done (exit status 0)"),
        ("exit 3", 3, "its program ended with exit status 3"),
        ("exit 127", 127, "is not found"),
        ("kill -9 $$", 137, "SIGKILL ended it (exit status 137)"),
        ("kill -TERM $$; sleep 10", 143, "SIGTERM ended it (exit status 143)"),
        ("kill -40 $$", 168, "signal 40 ended it (exit status 168)"),
    ] {
        // Init of a PID namespace would not get its own signals.
        let mut b = Box::sh(script);
        b.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
        let ran = b.run();
        assert_eq!(ran.code, code, "{script}: {}", ran.err);
        let line = format!("conex: {}: ended by ", b.id);
        assert_eq!(
            ran.err.contains(&line),
            sentence.contains(" ended it"),
            "{script}: {}",
            ran.err
        );
        let told = why(&b);
        assert!(
            told.contains(sentence) && told.contains("It was deleted at 2"),
            "{script}: {told}"
        );
        b.assert_gone();
    }
    let b = Box::sh("true");
    assert_eq!(b.call(&["why", "nobody-has-this"]).code, 1);
    b.call(&["why", "nobody-has-this"]).fails_with("nothing is known of nobody-has-this");
}

/// Whose status nobody has told to conex, one that was never started, one that delete itself has ended.
#[test]
fn ends_that_nobody_has_seen() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("sleep 1000");
    b.create().ok();
    assert!(why(&b).contains("waits for its start"), "{}", why(&b));
    b.verb("delete", &[], &[]).ok();
    assert!(why(&b).contains("was never started. It was deleted at"), "{}", why(&b));
    b.up();
    assert!(why(&b).contains(" is running; it was created at "), "{}", why(&b));
    b.verb("delete", &["--force"], &[]).ok();
    assert!(why(&b).contains("was running when it was deleted by force"), "{}", why(&b));
    // The same id once more: what came last counts, and the beginning of an id is enough.
    *b.at("process.args") = json!(["/bin/sh", "-c", "exit 5"]);
    b.run();
    let json: Value =
        serde_json::from_str(&b.call(&["why", "--json", &b.id[..b.id.len() - 1]]).ok().out)
            .unwrap();
    assert_eq!(
        (&json["id"], &json["status"], &json["end"]["exitCode"]),
        (&json!(b.id), &json!("stopped"), &json!(5))
    );
    assert!(
        json["end"]["exitedAt"].as_str().unwrap() >= json["created"].as_str().unwrap(),
        "{json}"
    );
}

/// `run --keep` has seen how the container ended that it keeps.
#[test]
fn a_kept_container_has_its_end() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("exit 9");
    for (script, code) in [("exit 9", 9), ("exit 0", 0)] {
        *b.at("process.args.2") = json!(script);
        b.write_config();
        assert_eq!(b.verb("run", &["--keep"], &[]).code, code);
        let state = b.state();
        assert_eq!(
            (&state["status"], &state["end"]["exitCode"]),
            (&json!("stopped"), &json!(code)),
            "{state}"
        );
        assert!(
            state["end"]["exitedAt"].as_str().unwrap() >= state["created"].as_str().unwrap(),
            "{state}"
        );
        let told = why(&b);
        let status = format!("exit status {code}");
        assert!(told.contains(&status), "{told}");
        b.verb("delete", &[], &[]).ok();
        assert!(why(&b).contains(&status) && why(&b).contains("It was deleted at"), "{}", why(&b));
    }
}

/// A zombie, whose parent does not ask, still has its status; and so does the journal when it is deleted.
#[test]
fn a_zombie_is_asked() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("exit 9");
    b.write_config();
    // Its parent waits for the runtime alone. 36 is PR_SET_CHILD_SUBREAPER, 157 prctl on x86-64.
    let conex = runtime().display().to_string();
    let [root, dir] = [b.state_root(), b.dir.clone()].map(|p| p.display().to_string());
    let script = "syscall($^V && `uname -m` =~ /x86/ ? 157 : 167, 36, 1, 0, 0, 0); system(@ARGV); sleep 1000";
    let mut parent = std::process::Command::new("perl");
    parent.args(["-e", script, &conex, "--root", &root, "run", "-d", "-b", &dir, &b.id]);
    let mut parent = parent.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    until(|| b.call(&["state", &b.id]).code == 0 && b.status() == "stopped", "the end");
    let state: Value = serde_json::from_str(&b.call(&["state", &b.id]).ok().out).unwrap();
    assert_eq!(state["end"]["exitCode"], 9, "{state}");
    let list = b.call(&["list", "--format", "json"]).ok().out;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        list.as_array().unwrap().iter().find(|c| c["id"] == b.id).unwrap()["end"]["exitCode"],
        9,
        "{list}"
    );
    let all = b.call(&["list", "--all"]).ok().out;
    assert!(all.lines().any(|l| l.starts_with(&b.id) && l.contains("stopped (9)")), "{all}");
    assert!(why(&b).contains("has ended: its program ended with exit status 9."), "{}", why(&b));
    b.verb("delete", &[], &[]).ok();
    assert!(why(&b).contains("exit status 9. It was deleted at"), "{}", why(&b));
    let _ = (parent.kill(), parent.wait());
}

/// `events` ends with how the container did.
#[test]
fn the_last_event() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("while [ ! -e /go ]; do sleep 0.02; done; exit 7");
    b.up();
    let mut c = b.command(&["events", "--interval", "10ms", &b.id]);
    let out = b.dir.join("events");
    let mut child =
        c.stdin(Stdio::null()).stdout(std::fs::File::create(&out).unwrap()).spawn().unwrap();
    // It watches.
    until(|| out.metadata().is_ok_and(|m| m.len() > 0), "statistics");
    std::fs::write(b.rootfs().join("go"), "").unwrap();
    child.wait().unwrap();
    let out = std::fs::read_to_string(&out).unwrap();
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["type"], &last["id"]), (&json!("exit"), &json!(b.id)), "{out}");
    // A kernel before Linux 6.15 tells it to the parent alone.
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let kernel_tells = (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15);
    let told = &last["data"]["exitCode"];
    assert!(told == 7 || told.is_null() && !kernel_tells, "{out}");
}

/// The killer of the kernel: of init, of a child, and by an ancestor's limit.
#[test]
fn whose_limit_it_was() {
    if !is_conex() || !has_controller("memory") {
        return;
    }
    let eat = "x=$(head -c 100000000 /dev/zero | tr '\\0' x)";
    let mut b = Box::sh(&format!("exec 2>/dev/null; {eat}; {eat}$x"));
    *b.at("linux.resources.memory") = json!({"limit": 16 << 20, "swap": 16 << 20});
    let ran = b.run();
    assert_eq!(ran.code, 137, "{}", ran.err);
    let cgroup = "conex-test/";
    let line = "the limit is 16777216 bytes, of /sys/fs/cgroup/";
    assert!(
        ran.err.contains("ended by SIGKILL; the kernel killed ") && ran.err.contains(line),
        "{}",
        ran.err
    );
    assert!(ran.err.contains(&format!("{cgroup}{}", b.id)), "{}", ran.err);
    let told = why(&b);
    assert!(
        told.contains(
            "killed its first process for want of memory (137, SIGKILL): the limit of 16.0 MiB"
        ),
        "{told}"
    );
    // A child alone.
    let mut b =
        Box::sh(&format!("sh -c 'exec 2>/dev/null; {}'; exit 4", eat.replace('\'', "'\\''")));
    *b.at("linux.resources.memory") = json!({"limit": 16 << 20, "swap": 16 << 20});
    let ran = b.run();
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(
        !ran.err.contains("ended by") && ran.err.contains("the kernel killed 1 of its processes"),
        "{}",
        ran.err
    );
    assert!(
        why(&b).contains("exit status 4, after the kernel had killed 1 of its processes"),
        "{}",
        why(&b)
    );
    b.assert_gone();
}

/// The call that a profile kills for, where the kernel has it in its log.
#[test]
fn a_call_that_a_profile_kills_for() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("mkdir /tmp/x; exec mkdir /y");
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    b.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    let ran = b.run();
    assert_eq!(ran.code, 159, "{}", ran.err);
    let told = why(&b);
    let named = told.contains("for the call mkdir (SIGSYS")
        || told.contains("for the call mkdirat (SIGSYS");
    // An audit daemon, or a kernel without audit, has kept it from the log.
    assert!(named || told.contains("SIGSYS ended it (exit status 159)"), "{told}");
    let log = std::process::Command::new("dmesg")
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    // Numbers of processes in the log are those of the first PID namespace.
    let first =
        std::fs::read_link("/proc/self/ns/pid").unwrap().to_string_lossy() == "pid:[4026531836]";
    assert!(named || !first || !log.unwrap_or_default().contains("type=1326"), "{told}");
}

/// The journal is bounded, and old lines are not told.
#[test]
fn the_journal_does_not_grow() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    b.run();
    let journal = b.state_root().join(".journal");
    let line = std::fs::read_to_string(&journal).unwrap();
    let old = line.replace(
        &format!("\"deleted\":\"{}", &line[line.find("\"deleted\":\"").unwrap() + 11..][..4]),
        "\"deleted\":\"2020",
    );
    std::fs::write(&journal, old).unwrap();
    b.call(&["why", &b.id]).fails_with("nothing is known");
    let many = line.repeat((256 << 10) / line.len() + 1);
    std::fs::write(&journal, many).unwrap();
    b.run();
    assert!(journal.metadata().unwrap().len() < 2000, "{:?}", journal.metadata());
    assert!(b.state_root().join(".journal.old").metadata().unwrap().len() > 256 << 10);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(journal.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(why(&b).contains("exit status 0"), "{}", why(&b));
}

/// `top`: the list again and again; without a terminal only so often as it is told.
#[test]
fn what_they_use_again_and_again() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("while :; do :; done");
    b.up();
    let out = b.call(&["top", "--own", "-n", "2"]).ok().out;
    assert_eq!(out.lines().filter(|l| l.starts_with("ID ")).count(), 2, "{out}");
    let rows: Vec<&str> = out.lines().filter(|l| l.starts_with(&format!("{} ", b.id))).collect();
    assert!(
        rows.len() == 2 && rows.iter().all(|r| r.contains(" %")) && !out.contains('\x1b'),
        "{out}"
    );
    b.call(&["top"]).fails_with("standard output is no terminal");
    b.call(&["top", "-n", "0"]).fails_with("--count takes a number from 1 on");
}
