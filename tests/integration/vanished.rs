//! Cgroups that are gone, or stand still, while a container is in them or about to be.

use crate::harness::*;
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

/// Somebody removes a running container's cgroup, in all hierarchies or in one: no further process runs without what it
/// held, and nobody is told what is not true.
#[test]
fn a_vanished_cgroup() {
    let own: Vec<PathBuf> = hierarchies();
    let mut gone: Vec<Vec<PathBuf>> = vec![own.clone()];
    if !v2() {
        for name in ["pids", "devices", "memory", "freezer"] {
            gone.extend(own.iter().find(|h| h.ends_with(name)).map(|h| vec![h.clone()]));
        }
    }
    for list in gone {
        let b = Box::sh("sleep 100");
        b.up();
        let pid = b.pid();
        for h in &list {
            let dir = h.join("conex-test").join(&b.id);
            if dir.exists() {
                std::fs::write(h.join("cgroup.procs"), pid.to_string()).unwrap();
                until(
                    || std::fs::remove_dir(&dir).is_ok() || !dir.exists(),
                    "the cgroup is removed",
                );
            }
        }
        let r = b.exec(&["true"]);
        assert_eq!(r.code, 255, "{list:?}: {}{}", r.out, r.err);
        if is_conex() {
            let says = "does not exist any more";
            assert!(r.err.contains(says), "{}", r.err);
            b.verb("pause", &[], &[]).fails_with(says);
            b.verb("update", &["--pids-limit", "5"], &[]).fails_with(says);
            b.verb("ps", &[], &[]).fails_with(says);
            b.verb("events", &["--stats"], &[]).fails_with(says);
        }
        assert_eq!(b.status(), "running");
        b.verb("kill", &[], &["KILL"]).ok();
        b.wait_status("stopped");
        b.verb("delete", &[], &[]).ok();
        b.assert_gone();
    }
}

/// The same where a whole hierarchy has been unmounted since.
#[test]
fn a_vanished_hierarchy() {
    if !is_conex() {
        // runc runs the process outside.
        return;
    }
    let trees = hierarchies();
    let b = Box::sh("sleep 100");
    b.up();
    let mounted: Vec<_> = trees
        .iter()
        .filter(|h| h.join("conex-test").join(&b.id).exists() && !h.is_symlink())
        .collect();
    assert!(!mounted.is_empty());
    for tree in mounted {
        for (verb, rest) in [
            (&["exec"][..], &["true"][..]),
            (&["pause"], &[]),
            (&["ps"], &[]),
            (&["events", "--stats"], &[]),
            (&["update", "--pids-limit", "5"], &[]),
        ] {
            let words = [verb, &[b.id.as_str()], rest].concat().join(" ");
            let line = format!(
                "umount -l {} && exec {} --root state {words}",
                tree.display(),
                runtime().display()
            );
            let mut c = Command::new("unshare");
            c.args(["-m", "--propagation", "private", "sh", "-c", &line]).current_dir(&b.dir);
            let r = finish(&mut c, b"");
            let says = ["does not exist any more", "this host has no pids controller", "mounted"];
            assert!(
                r.code != 0 && says.iter().any(|s| r.err.contains(s)),
                "{}, {words}: {}{}",
                tree.display(),
                r.out,
                r.err
            );
        }
        assert_eq!(b.status(), "running");
    }
    b.exec(&["true"]).ok();
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
}

/// In a cgroup that is frozen, by its own freezer or by one above, nothing would run and everything be waited for.
#[test]
fn a_frozen_ancestor() {
    let mut b = Box::sh("sleep 100");
    let parent = format!("frozen-{}", b.id);
    *b.at("linux.cgroupsPath") = json!(format!("/conex-test/{parent}/{}", b.id));
    let dir = cgroup_path("freezer", &parent);
    std::fs::create_dir_all(&dir).unwrap();
    let (file, on, off) =
        if v2() { ("cgroup.freeze", "1", "0") } else { ("freezer.state", "FROZEN", "THAWED") };
    std::fs::write(dir.join(file), on).unwrap();
    if is_conex() {
        // runc waits for ever.
        let begin = std::time::Instant::now();
        let r = b.create();
        assert!(r.code == 1 && r.err.contains("frozen") && r.err.contains(&parent), "{}", r.err);
        assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
        assert!(!b.state_root().join(&b.id).exists());
    }
    std::fs::write(dir.join(file), off).unwrap();
    b.up();
    b.verb("delete", &["--force"], &[]).ok();
    // conex takes what it made; the parent in this tree was there before.
    for h in hierarchies() {
        let dir = h.join("conex-test").join(&parent);
        let _ = std::fs::remove_dir(dir.join(&b.id));
        let _ = std::fs::remove_dir(&dir);
        assert!(!dir.exists(), "{}", dir.display());
    }
}
