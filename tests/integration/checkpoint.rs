//! Checkpoint and restore, with CRIU.

use crate::harness::*;
use crate::mounts::open_the_way;
use serde_json::{json, Value};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Counts in a file and on a pipe.
const COUNTS: &str = "i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); echo $i >/tmp/n; echo $i; sleep 0.05; done; exit 7";

struct Case {
    b: Box,
    /// What reads the container's output.
    readers: Vec<Child>,
}

impl Case {
    fn new(script: &str) -> Case {
        let mut b = Box::sh(script);
        *b.at("root.readonly") = json!(false);
        Case { b, readers: Vec::new() }
    }

    /// A command whose standard output and error are a pipe to the file `out`.
    fn piped(&mut self, args: &[&str]) -> Command {
        let mut append = std::fs::OpenOptions::new();
        let out = append.append(true).create(true).open(self.b.dir.join("out")).unwrap();
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(out).spawn().unwrap();
        let pipe: std::os::fd::OwnedFd = cat.stdin.take().unwrap().into();
        self.readers.push(cat);
        let mut c = self.b.command(args);
        c.stdin(Stdio::null()).stderr(pipe.try_clone().unwrap()).stdout(pipe);
        c
    }

    fn start(&mut self) {
        self.b.write_config();
        let id = self.b.id.clone();
        let status = self.piped(&["run", "-d", &id]).status().unwrap();
        assert!(status.success(), "{}", self.b.output());
        until(|| self.count() > 3, "it counts");
    }

    fn count(&self) -> u64 {
        let text = std::fs::read_to_string(self.b.rootfs().join("tmp/n")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn image(&self) -> String {
        self.b.dir.join("image").display().to_string()
    }

    fn checkpoint(&self, flags: &[&str]) -> Ran {
        let (image, work) = (self.image(), self.b.dir.join("work").display().to_string());
        let mut all = vec!["--image-path", &image, "--work-path", &work];
        all.extend(flags);
        self.b.verb("checkpoint", &all, &[])
    }

    fn restore(&mut self) {
        let image = self.image();
        let id = self.b.id.clone();
        let status = self.piped(&["restore", "-d", "--image-path", &image, &id]).status().unwrap();
        let log =
            std::fs::read_to_string(Path::new(&image).join("restore.log")).unwrap_or_default();
        let errors: Vec<_> = log.lines().filter(|l| l.contains("Error")).collect();
        assert!(status.success(), "{} {errors:?}", self.b.output());
    }

    fn end(mut self) {
        self.b.verb("kill", &[], &["KILL"]).ok();
        self.b.wait_status("stopped");
        self.b.verb("delete", &[], &[]).ok();
        self.b.assert_gone();
        self.readers.iter_mut().for_each(|r| drop(r.wait()));
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = self.b.verb("delete", &["-f"], &[]);
    }
}

fn mounts(pid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut out: Vec<String> = text
        .lines()
        .map(|l| {
            let f: Vec<&str> = l.split(' ').collect();
            let kind = l.split(" - ").nth(1).unwrap().split(' ').next().unwrap();
            format!("{} {} {kind}", f[4], f[5])
        })
        .collect();
    out.sort();
    out
}

/// A container with what people have: volumes, one of them read-only, one on a link, one in another; masks, limits, hooks.
fn everyday() -> Case {
    let mut c = Case::new(COUNTS);
    let volume = c.b.dir.join("volume");
    std::fs::create_dir_all(volume.join("inner")).unwrap();
    std::fs::write(volume.join("file"), "of the volume").unwrap();
    std::fs::create_dir(c.b.rootfs().join("real")).unwrap();
    std::os::unix::fs::symlink("real", c.b.rootfs().join("link")).unwrap();
    let inner = c.b.dir.join("inner");
    std::fs::create_dir(&inner).unwrap();
    for (to, source, options) in [
        ("/volume", &volume, vec!["rbind", "ro"]),
        ("/link/below", &volume, vec!["bind"]),
        ("/etc/one", &volume.join("file"), vec!["bind"]),
        ("/volume/inner", &inner, vec!["bind", "nosuid"]),
    ] {
        let mount =
            json!({"destination": to, "type": "bind", "source": source, "options": options});
        c.b.push("mounts", mount);
    }
    c.b.push("mounts", json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}));
    *c.b.at("linux.resources.pids") = json!({"limit": 77});
    // As /var/run is a link of every Linux system.
    std::fs::create_dir(c.b.dir.join("state-behind-a-link")).unwrap();
    std::os::unix::fs::symlink("state-behind-a-link", c.b.state_root()).unwrap();
    let tell = |what: &str| {
        let file = c.b.dir.join("hooks").display().to_string();
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {what} >>{file}")]}])
    };
    let mut hooks = json!({"createRuntime": tell("createRuntime"), "poststop": tell("poststop")});
    // As engines connect a container.
    let device = "pid=$(sed 's/.*\"pid\"://; s/[^0-9].*//'); ip link add eth0 netns $pid type veth peer name v$pid";
    let connect = json!({"path": "/bin/sh", "args": ["sh", "-c", device], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
    hooks["createRuntime"].as_array_mut().unwrap().push(connect);
    *c.b.at("hooks") = hooks;
    c
}

#[test]
fn it_goes_on_where_it_was() {
    if !criu_works("it_goes_on_where_it_was") {
        return;
    }
    let mut c = everyday();
    c.start();
    let before = mounts(c.b.pid());
    c.b.exec(&["sh", "-c", "echo kept >/scratch/file"]).ok();
    c.checkpoint(&[]).ok();
    c.b.assert_gone();
    let counted = c.count();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(c.count(), counted);
    // Another host has the image's files and the volumes, but no place for these yet.
    for place in ["etc/one", "real/below", "volume/inner", "volume", "scratch"] {
        let place = c.b.rootfs().join(place);
        let _ = std::fs::remove_dir(&place);
        let _ = std::fs::remove_file(&place);
    }
    c.restore();
    until(|| c.count() > counted + 3, "it goes on");
    assert_eq!(c.b.status(), "running");
    let now = c.b.pid();
    assert!(now > 1);
    if is_conex() {
        assert_eq!(mounts(now), before);
    }
    // runc warns there as well.
    let output = c.b.output();
    let lines = output.lines().filter(|l| is_conex() || l.parse::<u64>().is_ok());
    let numbers: Vec<u64> = lines.map(|l| l.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
    let look = "cat /volume/file; echo; cat /scratch/file; touch /volume/x 2>&1; wc -c </proc/keys; ls -A /proc/acpi /sys/firmware; cat /proc/self/uid_map";
    let seen = c.b.exec(&["sh", "-c", look]).ok().out;
    assert!(seen.starts_with("of the volume\nkept\n") && seen.contains("Read-only"), "{seen}");
    assert!(seen.contains("\n0\n"), "a mask is gone: {seen}");
    assert_eq!(c.b.cgroup_value("pids", "pids.max", "pids.max"), "77");
    let hooks = || std::fs::read_to_string(c.b.dir.join("hooks")).unwrap();
    assert_eq!(hooks(), "createRuntime\npoststop\ncreateRuntime\n");
    let devices = c.b.exec(&["ip", "-o", "link"]).ok().out;
    // runc leaves the loopback down.
    let up = !is_conex() || devices.contains("lo: <LOOPBACK,UP");
    assert!(devices.contains("eth0") && up, "{devices}");
    let clock = |who: &str| c.b.exec(&["readlink", &format!("/proc/{who}/ns/time")]).ok().out;
    assert!(!is_conex() || clock("self") == clock("1"));
    c.end();
}

#[test]
fn it_may_go_on_after_its_checkpoint() {
    if !criu_works("it_may_go_on_after_its_checkpoint") {
        return;
    }
    let mut c = Case::new(COUNTS);
    c.start();
    let pid = c.b.pid();
    for _ in 0..2 {
        c.checkpoint(&["--leave-running"]).ok();
        let counted = c.count();
        until(|| c.count() > counted + 2, "it goes on");
        assert_eq!((c.b.pid(), c.b.status()), (pid, "running".into()));
        std::fs::remove_dir_all(c.image()).unwrap();
    }
    // A paused one can be written down as well.
    c.b.verb("pause", &[], &[]).ok();
    c.checkpoint(&["--leave-running"]).ok();
    assert_eq!(c.b.status(), "paused");
    c.b.verb("resume", &[], &[]).ok();
    let counted = c.count();
    until(|| c.count() > counted + 2, "it goes on");
    c.end();
}

/// In the foreground: its output, its exit status, and then it is deleted.
#[test]
fn a_restore_waits_for_the_end() {
    if !criu_works("a_restore_waits_for_the_end") {
        return;
    }
    let mut c = Case::new(COUNTS);
    c.start();
    c.checkpoint(&[]).ok();
    let (image, id) = (c.image(), c.b.id.clone());
    let pid_file = c.b.dir.join("pid").display().to_string();
    let flags = ["restore", "--image-path", &image, "--pid-file", &pid_file, &id];
    let mut running = c.piped(&flags).spawn().unwrap();
    let counted = c.count();
    until(|| c.count() > counted + 2, "it goes on");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), c.b.pid().to_string());
    assert_eq!(parent(c.b.pid()), running.id() as i32);
    std::fs::write(c.b.rootfs().join("tmp/end"), "").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(7));
    c.b.assert_gone();
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_restored_terminal() {
    if !criu_works("a_restored_terminal") {
        return;
    }
    let mut c = Case::new("while read x; do echo got $x; echo $x >/tmp/n; done");
    *c.b.at("process.terminal") = json!(true);
    c.b.write_config();
    let socket = c.b.dir.join("console.sock");
    let flag = socket.display().to_string();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    c.b.verb("run", &["-d", "--console-socket", &flag], &[]).ok();
    let master = crate::contract::terminal(&listener);
    type_and_see(&master, "1");
    c.checkpoint(&["--shell-job"]).ok();
    drop(master);
    let image = c.image();
    c.b.verb("restore", &["-d", "--image-path", &image, "--console-socket", &flag], &[]).ok();
    let master = crate::contract::terminal(&listener);
    type_and_see(&master, "2");
    until(|| c.count() == 2, "the second line");
    // Its end would be the container's.
    c.end();
    drop(master);
}

fn type_and_see(mut master: &std::fs::File, line: &str) {
    use std::io::{Read, Write};
    writeln!(master, "{line}").unwrap();
    let mut seen = String::new();
    while !seen.contains(&format!("got {line}")) {
        let mut bytes = [0; 100];
        let n = master.read(&mut bytes).unwrap();
        seen += &String::from_utf8_lossy(&bytes[..n]);
    }
}

/// Changes a document, and what lies beside it.
type Change = fn(&mut Box);

#[test]
fn in_namespaces_of_every_kind() {
    if !criu_works("in_namespaces_of_every_kind") {
        return;
    }
    let cases: [(&str, Change); 3] = [
        ("no cgroup", |b| b.drop_namespace("cgroup")),
        ("no ipc, no uts", |b| {
            b.drop_namespace("ipc");
            b.drop_namespace("uts");
            b.config.as_object_mut().unwrap().remove("hostname");
        }),
        ("network by path", |b| {
            b.drop_namespace("network");
            let path = format!("/proc/{}/ns/net", std::process::id());
            b.push("linux.namespaces", json!({"type": "network", "path": path}));
        }),
    ];
    for (what, change) in cases {
        let mut c = Case::new(COUNTS);
        change(&mut c.b);
        c.start();
        let net = std::fs::read_link(format!("/proc/{}/ns/net", c.b.pid())).unwrap();
        let ran = c.checkpoint(&["--tcp-established"]);
        assert_eq!(ran.code, 0, "{what}: {}", ran.err);
        let counted = c.count();
        c.restore();
        until(|| c.count() > counted + 2, what);
        if what.ends_with("by path") {
            assert_eq!(std::fs::read_link(format!("/proc/{}/ns/net", c.b.pid())).unwrap(), net);
        }
        c.end();
    }
}

#[test]
fn what_cannot_be_restored_leaves_nothing() {
    if !criu_works("what_cannot_be_restored_leaves_nothing") || !is_conex() {
        return;
    }
    let mut c = everyday();
    c.start();
    c.checkpoint(&[]).ok();
    let image = PathBuf::from(c.image());
    let table = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let hosts = table();
    let restore = || c.b.verb("restore", &["-d", "--image-path", &c.image()], &[]);
    // A file of the images that is none.
    let file = image.join("pstree.img");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, b"no image").unwrap();
    let ran = restore().fails_with("criu failed: type RESTORE");
    assert!(ran.err.contains("restore.log says: Error ("), "{}", ran.err);
    c.b.assert_gone();
    std::fs::write(&file, &bytes).unwrap();
    // A volume that is not there.
    std::fs::rename(c.b.dir.join("inner"), c.b.dir.join("away")).unwrap();
    restore().fails_with("inner");
    c.b.assert_gone();
    std::fs::rename(c.b.dir.join("away"), c.b.dir.join("inner")).unwrap();
    // A link would lead CRIU, which is root, elsewhere.
    let victim = c.b.dir.join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let log = image.join("restore.log");
    let _ = std::fs::remove_file(&log);
    std::os::unix::fs::symlink(&victim, &log).unwrap();
    restore().fails_with("restore.log is a symbolic link");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    std::fs::remove_file(&log).unwrap();
    let descriptors = image.join("descriptors.json");
    let text = std::fs::read(&descriptors).unwrap();
    std::fs::write(&descriptors, "{").unwrap();
    restore().fails_with("descriptors.json");
    std::fs::remove_file(&descriptors).unwrap();
    restore().fails_with("no checkpoint of a container");
    std::fs::write(&descriptors, text).unwrap();
    c.b.assert_gone();
    assert_eq!(table(), hosts);
    // After all of it.
    c.restore();
    assert_eq!(table(), hosts);
    c.end();
}

/// A restore that is killed, or whose CRIU is, leaves nothing that a delete by force does not take away.
#[test]
fn a_restore_killed_at_any_moment() {
    if !criu_works("a_restore_killed_at_any_moment") || !is_conex() {
        return;
    }
    let mut c = Case::new(COUNTS);
    c.start();
    c.checkpoint(&[]).ok();
    let hosts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (image, id) = (c.image(), c.b.id.clone());
    let mut state = 5;
    for round in 0..30 {
        let mut restore = c.piped(&["restore", "-d", "--image-path", &image, &id]);
        let mut running = restore.process_group(0).spawn().unwrap();
        drop(restore);
        std::thread::sleep(std::time::Duration::from_micros(
            random(&mut state, 250_000) * slowness(),
        ));
        let own = running.id();
        let criu = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let criu = criu.ok().and_then(|t| t.split(' ').next()?.parse::<i32>().ok());
        // Of every second round it is CRIU itself: whoever waits for it must not wait for ever.
        let pid = criu.filter(|_| round % 2 == 1).unwrap_or(own as i32);
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        until(|| running.try_wait().unwrap().is_some(), &format!("round {round}: an answer"));
        // CRIU ends by itself when nobody asks any more.
        c.b.verb("delete", &["-f"], &[]).ok();
        until(|| c.b.cgroups().is_empty(), &format!("round {round}: no cgroup"));
        c.b.assert_gone();
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), hosts, "{round}");
    }
    c.restore();
    let counted = c.count();
    until(|| c.count() > counted + 2, "it goes on");
    c.end();
}

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

#[test]
fn flags_and_states_that_are_wrong() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.verb("checkpoint", &[], &[]).fails_with("does not exist");
    b.write_config();
    b.verb("restore", &["-d", "--image-path", "nowhere"], &[])
        .fails_with("--image-path: open(nowhere, O_DIRECTORY)");
    std::fs::create_dir(b.dir.join("empty")).unwrap();
    b.create().ok();
    b.verb("checkpoint", &[], &[]).fails_with("Container cannot be checkpointed in created state");
    b.verb("start", &[], &[]).ok();
    // Without CRIU each says what it wants.
    let without = |args: &[&str]| {
        let mut command = b.command(args);
        command.env("PATH", "/nowhere");
        finish(&mut command, b"")
    };
    let wanted = "there is no program criu in PATH";
    without(&["checkpoint", &b.id]).fails_with(wanted);
    assert_eq!(b.status(), "running");
    without(&["restore", "--image-path", "empty", "other"]).fails_with(wanted);
    assert!(!b.state_root().join("other").exists());
    if !criu_works("flags_and_states_that_are_wrong") {
        b.verb("delete", &["-f"], &[]).ok();
        return;
    }
    for (flags, text) in [
        (["--page-server", "nonsense"], "nonsense\\\": expected address:port"),
        (["--manage-cgroups-mode", "much"], "much\\\": expected soft, full, strict or ignore"),
        (["--empty-ns", "ipc"], "CRIU makes an empty network namespace only"),
        (["--status-fd", "77"], "invalid --status-fd argument 77: it is not open"),
        (["--parent-path", "/absolute"], "--parent-path: must be relative"),
        (["--parent-path", "none"], "invalid --parent-path: stat(checkpoint/none)"),
    ] {
        b.verb("checkpoint", &flags, &[]).fails_with(text);
        assert_eq!(b.status(), "running", "{flags:?}");
    }
    b.verb("delete", &["-f"], &[]).ok();
    b.assert_gone();
}

/// One checkpoint is the beginning of many containers, at the same time.
#[test]
fn one_checkpoint_many_containers() {
    if !criu_works("one_checkpoint_many_containers") || !is_conex() {
        return;
    }
    let mut c = everyday();
    c.start();
    let cgroup = c.b.at("linux.cgroupsPath").as_str().unwrap().to_string();
    c.checkpoint(&[]).ok();
    let (image, first) = (c.image(), c.b.id.clone());
    let ids: Vec<String> = (0..3).map(|i| format!("{first}-{i}")).collect();
    for id in &ids {
        *c.b.at("linux.cgroupsPath") = json!(cgroup.replace(&first, id));
        c.b.write_config();
        let work = c.b.dir.join(format!("work-{id}")).display().to_string();
        let flags = ["restore", "-d", "--image-path", &image, "--work-path", &work, id];
        let status = c.piped(&flags).status().unwrap();
        assert!(status.success(), "{id}: {}", c.b.output());
    }
    c.b.id = first;
    for id in &ids {
        let state: Value = serde_json::from_str(&c.b.call(&["state", id]).ok().out).unwrap();
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).unwrap();
        assert!(cgroups.contains(&format!("/{id}\n")), "{cgroups}");
        c.b.call(&["kill", id, "KILL"]).ok();
        c.b.call(&["delete", "-f", id]).ok();
    }
    c.b.assert_gone();
}

/// What CRIU writes down and cannot restore, or restores otherwise: the container would be lost.
#[test]
fn what_could_not_be_restored_is_refused() {
    let name = "what_could_not_be_restored_is_refused";
    if !criu_works(name) || !is_conex() {
        return;
    }
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 65536}]);
    let mut mapped = Box::sh("sleep 100");
    std::fs::create_dir(mapped.dir.join("v")).unwrap();
    mapped.push("mounts", json!({"destination": "/v", "source": "v", "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}));
    let mut user = Box::sh("sleep 100");
    user.push("linux.namespaces", json!({"type": "user"}));
    *user.at("linux.uidMappings") = map.clone();
    *user.at("linux.gidMappings") = map;
    open_the_way(&user);
    let mut replaced = Box::sh("sleep 100");
    std::fs::write(replaced.dir.join("file"), "one").unwrap();
    replaced.push(
        "mounts",
        json!({"destination": "/etc/file", "type": "bind", "source": "file", "options": ["bind"]}),
    );
    for (b, text) in [
        (replaced, "has no name on the host any more"),
        (user, "CRIU does not restore a container with a user namespace"),
        (mapped, "CRIU does not restore an idmapped mount"),
    ] {
        if text.ends_with("mount") && (lacks("mount_setattr", name) || maps_no_ids(&b.dir, name)) {
            continue;
        }
        b.up();
        if text.contains("mapped") || text.contains("namespace") {
            b.verb("checkpoint", &[], &[]).fails_with(text);
        } else {
            // An editor replaces the file on the host.
            std::fs::write(b.dir.join("new"), "another").unwrap();
            std::fs::rename(b.dir.join("new"), b.dir.join("file")).unwrap();
            b.verb("checkpoint", &[], &[]).fails_with(text);
        }
        assert_eq!(b.status(), "running");
        b.verb("delete", &["-f"], &[]).ok();
        b.assert_gone();
    }
}
