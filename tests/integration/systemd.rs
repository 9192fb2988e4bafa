//! The systemd driver, against the systemd that runs the host.

mod limits;
mod silent;

use crate::harness::*;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

/// One test at a time: some of them reload systemd or have it execute itself anew, which systemctl of another one would
/// notice.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

/// True if systemd is here, and counts processes as this PID namespace does: `make test` runs in one of its own, so that a
/// host with systemd is tested in it by OWN_HOST=1 alone, as `make hosts` does.
pub fn booted() -> bool {
    let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    Path::new("/run/systemd/system").is_dir() && ["systemd\n", "init\n"].contains(&first.as_str())
}

/// A container in a unit of its own slice; `None` is a recorded skip.
fn unit(test: &str, script: &str) -> Option<Box> {
    if !booted() {
        skip(test, "systemd, in this PID namespace");
        return None;
    }
    let mut b = Box::sh(script);
    b.global.push("--systemd-cgroup");
    *b.at("linux.cgroupsPath") = json!(format!("{}:cx:{}", slice(&b), b.id));
    Some(b)
}

fn systemctl(args: &[&str]) -> Ran {
    finish(Command::new("systemctl").args(args), b"")
}

/// One for each test, so that the end of one does not stop the units of another.
fn slice(b: &Box) -> String {
    format!("conextest{}.slice", b.id.replace('-', "x"))
}

fn name(b: &Box) -> String {
    format!("cx-{}.scope", b.id)
}

fn show(b: &Box, property: &str) -> String {
    systemctl(&["show", "--value", "-p", property, &name(b)]).ok().out.trim().to_string()
}

fn dir(b: &Box, controller: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let root = if v2() { root.to_path_buf() } else { root.join(controller) };
    root.join(slice(b)).join(name(b))
}

fn file(b: &Box, controller: &str, v1: &str, v2_name: &str) -> String {
    let path = dir(b, controller).join(if v2() { v2_name } else { v1 });
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .trim()
        .to_string()
}

#[track_caller]
fn gone(b: &Box) {
    until(|| show(b, "LoadState") == "not-found", "systemd has forgotten the unit");
    for controller in ["memory", "cpu", "pids", "freezer", "devices"] {
        assert!(!dir(b, controller).exists(), "{}", dir(b, controller).display());
    }
    b.assert_gone();
    // As the engines' slices, ours stays for the next container; here it goes with the last one.
    let _ = systemctl(&["stop", &slice(b)]);
}

#[test]
fn annotations_become_properties() {
    let _turn = turn();
    let Some(mut b) = unit("annotations_become_properties", "sleep 100") else { return };
    *b.at("annotations") = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    });
    b.up();
    assert_eq!(show(&b, "TimeoutStopUSec"), "7s");
    assert_eq!(show(&b, "CollectMode"), "inactive-or-failed");
    b.verb("delete", &["-f"], &[]).ok();
    *b.at("linux.resources.pids") = json!({"limit": 9});
    for (key, value) in [
        ("ExecStop", "'/bin/true'"),
        ("Wants", "['a.service']"),
        ("TimeoutStopSec", "'x'"),
        ("KillMode", "mixed"),
        ("KillMode", "'nonsense'"),
        ("MemoryNonsense", "uint64 5"),
        ("Description", "'somebody else'"),
        ("TasksMax", "uint64 1000"),
    ] {
        let key = format!("org.systemd.property.{key}");
        *b.at("annotations") = json!({ key.clone(): value });
        let r = b.create();
        assert!(r.code == 1 && r.err.contains(&key), "{key}={value}: {}", r.err);
        gone(&b);
    }
}

#[test]
fn a_unit_of_somebody_else_is_refused_and_lives() {
    let _turn = turn();
    let Some(b) = unit("a_unit_of_somebody_else_is_refused_and_lives", "sleep 100") else { return };
    let unit = format!("--unit={}", name(&b));
    let mut other = Command::new("systemd-run")
        .args(["--scope", "--quiet", &unit, "sleep", "100"])
        .spawn()
        .unwrap();
    until(|| show(&b, "ActiveState") == "active", "the other unit");
    b.create().fails_with("exists already");
    let _ = b.verb("delete", &["--force"], &[]);
    assert_eq!(show(&b, "ActiveState"), "active");
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    // On v1 nobody tells a systemd in a container that a cgroup is empty.
    let _ = systemctl(&["stop", &name(&b)]);
    until(|| show(&b, "LoadState") == "not-found", "the other unit is gone");
}

#[test]
fn the_same_unit_again_and_again() {
    let _turn = turn();
    let Some(mut b) = unit("the_same_unit_again_and_again", "true") else { return };
    for _ in 0..5 {
        b.run().ok();
    }
    // A unit that failed is kept by systemd, but is in nobody's way.
    *b.at("linux.resources.memory") = json!({"limit": 20 << 20, "swap": 20 << 20});
    *b.at("process.args.2") = json!("x=1234567890; while true; do x=$x$x; done");
    assert_eq!(b.run().code, 137);
    *b.at("process.args.2") = json!("exit 3");
    assert_eq!(b.run().code, 3);
    gone(&b);
}

#[test]
fn systemd_executes_itself_anew_meanwhile() {
    let _turn = turn();
    let Some(b) = unit("systemd_executes_itself_anew_meanwhile", "sleep 100") else { return };
    b.write_config();
    let mut again = Command::new("sh")
        .args(["-c", "for i in 1 2 3 4; do systemctl daemon-reexec; sleep 0.2; done"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut rounds = 0;
    while again.try_wait().unwrap().is_none() {
        b.create().ok();
        assert!(file(&b, "memory", "cgroup.procs", "cgroup.procs").contains(&b.pid().to_string()));
        b.verb("delete", &["--force"], &[]).ok();
        rounds += 1;
    }
    assert!(rounds > 0);
    gone(&b);
}

#[test]
fn a_create_killed_at_any_moment_leaves_no_unit() {
    let _turn = turn();
    let Some(b) = unit("a_create_killed_at_any_moment_leaves_no_unit", "sleep 100") else { return };
    b.write_config();
    for i in 0..20u64 {
        let mut c = b.command(&["create", &b.id]);
        let mut child =
            c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(i * 600));
        let _ = child.kill();
        let _ = child.wait();
        b.verb("delete", &["--force"], &[]).ok();
        gone(&b);
    }
}

#[test]
fn paths_that_are_no_unit() {
    let _turn = turn();
    let mut b = Box::sh("true");
    b.global.push("--systemd-cgroup");
    if !Path::new("/run/systemd/system").is_dir() {
        b.create().fails_with("systemd not running on this host");
        return b.assert_gone();
    }
    if !booted() {
        *b.at("linux.cgroupsPath") = json!("system.slice:conex-test:other");
        if is_conex() {
            b.create().fails_with("systemd runs in another PID namespace");
        }
        return b.assert_gone();
    }
    for path in [
        "/conex-test/x",
        "a:b",
        "no-slice:p:n",
        "a--b.slice:p:n",
        "a/b.slice:p:n",
        "a.slice:p:../n",
        "a.slice:p:n/m",
    ] {
        *b.at("linux.cgroupsPath") = json!(path);
        b.create().fails_with("linux.cgroupsPath");
        b.assert_gone();
    }
    // A missing path is system.slice:conex:ID.
    b.at("linux").as_object_mut().unwrap().remove("cgroupsPath");
    *b.at("process.args.2") = json!("sleep 100");
    b.up();
    let unit = format!("conex-{}.scope", b.id);
    assert_eq!(systemctl(&["show", "--value", "-p", "Slice", &unit]).out.trim(), "system.slice");
    b.verb("delete", &["-f"], &[]).ok();
    b.assert_gone();
}

/// `systemctl freeze` is not the end of a container: it is resumed and deleted, and the unit is forgotten.
#[test]
fn a_frozen_unit() {
    let name = "a_frozen_unit";
    let Some(b) = unit(name, "while true; do :; done") else { return };
    if !v2() {
        return skip(name, "a pure cgroup v2 host");
    }
    let _turn = turn();
    for i in 0..12 {
        b.up();
        systemctl(&["freeze", &super::systemd::name(&b)]).ok();
        assert_eq!(b.status(), "paused");
        if i % 3 == 0 {
            b.verb("resume", &[], &[]).ok();
            assert_eq!(
                (b.status(), show(&b, "FreezerState")),
                ("running".into(), "running".into())
            );
        }
        if i % 2 == 0 {
            let _ = systemctl(&["freeze", &super::systemd::name(&b)]);
        }
        b.verb("delete", &["--force"], &[]).ok();
        gone(&b);
    }
    // The container's own pause is none of systemd's.
    b.up();
    b.verb("pause", &[], &[]).ok();
    b.verb("delete", &["--force"], &[]).ok();
    gone(&b);
}

/// In a slice that is frozen create gives up, says whose freezer it is, and leaves nothing.
#[test]
fn a_frozen_slice() {
    let name = "a_frozen_slice";
    let Some(b) = unit(name, "sleep 100") else { return };
    if !v2() {
        return skip(name, "a pure cgroup v2 host");
    }
    let _turn = turn();
    systemctl(&["start", &slice(&b)]).ok();
    systemctl(&["freeze", &slice(&b)]).ok();
    b.write_config();
    let begin = std::time::Instant::now();
    let mut c = b.command(&["create", &b.id]);
    let r = finish_within(c.stdin(Stdio::null()), b"", 120);
    assert!(r.code == 1 && (r.err.contains("frozen") || r.err.contains(&slice(&b))), "{}", r.err);
    assert!(begin.elapsed().as_secs() < 90, "{:?}", begin.elapsed());
    systemctl(&["thaw", &slice(&b)]).ok();
    let _ = b.verb("delete", &["--force"], &[]);
    gone(&b);
    // By the kernel's own file, which systemd knows nothing of: it starts the unit, and the process in it stands still.
    systemctl(&["start", &slice(&b)]).ok();
    let above = Path::new("/sys/fs/cgroup").join(slice(&b)).join("cgroup.freeze");
    std::fs::write(&above, "1").unwrap();
    let begin = std::time::Instant::now();
    let mut c = b.command(&["create", &b.id]);
    let r = finish_within(c.stdin(Stdio::null()), b"", 60);
    assert!(r.code == 1 && r.err.contains("frozen") && r.err.contains(&slice(&b)), "{}", r.err);
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    std::fs::write(&above, "0").unwrap();
    let _ = b.verb("delete", &["--force"], &[]);
    gone(&b);
    // And exec into one that was there before; the kernel's file alone, as systemd freezes each cgroup below by itself.
    b.up();
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", b.pid())).unwrap();
    let own = format!("/sys/fs/cgroup{}", text.trim().strip_prefix("0::").unwrap());
    let freezer = std::path::Path::new(&own).with_file_name("cgroup.freeze");
    std::fs::write(&freezer, "1").unwrap();
    if is_conex() {
        b.exec(&["true"]).fails_with("frozen");
    }
    std::fs::write(&freezer, "0").unwrap();
    b.exec(&["true"]).ok();
    // What conex froze is thawed by conex, whether systemd can be reached or not.
    b.verb("pause", &[], &[]).ok();
    let mut c = b.command(&["resume", &b.id]);
    let line = format!(
        "mount -t tmpfs none /run/dbus; mount --bind /dev/null /run/systemd/private; {c:?}"
    );
    let mut alone = Command::new("unshare");
    alone.args(["--mount", "--propagation", "private", "sh", "-c", &line]);
    if is_conex() {
        finish(alone.current_dir(&b.dir), b"").ok();
    } else {
        finish(&mut c, b"").ok();
    }
    assert_eq!(b.status(), "running");
    b.verb("delete", &["--force"], &[]).ok();
    gone(&b);
}

/// A mount of cgroup2 shows the tree from the cgroup namespace that it was made in.
#[test]
fn the_container_sees_its_own_cgroup_alone() {
    let name = "the_container_sees_its_own_cgroup_alone";
    let script = "grep ' /sys/fs/cgroup' /proc/self/mountinfo | cut -d' ' -f4 | sort -u; cat /proc/self/cgroup; ls /sys/fs/cgroup";
    let Some(mut b) = unit(name, script) else { return };
    if !v2() {
        return skip(name, "a pure cgroup v2 host");
    }
    let _turn = turn();
    b.push("mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}));
    *b.at("linux.resources") = json!({"memory": {"limit": 64 << 20}});
    let out = b.run().ok().out;
    assert!(out.starts_with("/\n0::/\n"), "{out}");
    assert!(out.contains("memory.max") && !out.contains(".slice"), "{out}");
    gone(&b);
}
