//! The shim under a real containerd, used by ctr(8).

use crate::harness::*;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct Daemon {
    b: Box,
    child: Option<Child>,
}

impl Daemon {
    /// A containerd of its own, or none if the host has none.
    fn new(test: &str) -> Option<Daemon> {
        if !std::path::Path::new("/usr/bin/containerd").exists() {
            skip(test, "no /usr/bin/containerd");
            return None;
        }
        let mut d = Daemon { b: Box::sh("true"), child: None };
        let path = |name: &str| d.b.dir.join(name).to_string_lossy().into_owned();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            path("root"), path("state-c"), path("c.sock")
        );
        std::fs::write(d.b.dir.join("config.toml"), config).unwrap();
        d.up();
        Some(d)
    }

    fn up(&mut self) {
        let shim = crate::client::binary();
        let search = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", shim.parent().unwrap().display());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.b.dir.join("containerd.log"));
        let log = log.unwrap();
        let mut c = Command::new("/usr/bin/containerd");
        c.arg("-c").arg(self.b.dir.join("config.toml")).env("PATH", search);
        c.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(c.spawn().unwrap());
        until(|| self.ctr(&["version"]).code == 0, "containerd answers");
    }

    fn down(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn ctr(&self, args: &[&str]) -> Ran {
        let mut c = Command::new("/usr/bin/ctr");
        c.arg("-a").arg(self.b.dir.join("c.sock")).args(["-n", "conex-test"]).args(args);
        finish(&mut c, b"")
    }

    /// `ctr run flags… ROOTFS NAME command…`.
    fn run(&self, flags: &[&str], name: &str, command: &[&str]) -> Ran {
        let rootfs = self.b.rootfs().to_string_lossy().into_owned();
        let id = self.id(name);
        let runtime = if crate::client::is_ours() {
            "io.containerd.conex.v2"
        } else {
            "io.containerd.runc.v2"
        };
        let mut args = vec!["run", "--runtime", runtime, "--env", "PATH=/bin", "--rootfs"];
        args.extend(flags);
        args.extend([rootfs.as_str(), id.as_str()]);
        args.extend(command);
        self.ctr(&args)
    }

    fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.b.id)
    }

    fn status(&self, name: &str) -> String {
        let list = self.ctr(&["task", "ls"]).ok().out;
        let id = self.id(name);
        let line = list.lines().find(|l| l.starts_with(&id)).unwrap_or("");
        line.split_whitespace().nth(2).unwrap_or("none").to_string()
    }

    fn task_pid(&self, name: &str) -> i32 {
        let list = self.ctr(&["task", "ls"]).ok().out;
        let id = self.id(name);
        list.lines()
            .find(|l| l.starts_with(&id))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }

    fn shim_pid(&self, name: &str) -> i32 {
        let id = self.id(name);
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let server = !crate::client::is_ours() || line.trim_end().ends_with(" serve");
            if server && line.contains("containerd-shim") && line.contains(&format!("-id {id} ")) {
                return pid;
            }
        }
        panic!("no shim of {id}");
    }

    fn remove(&self, name: &str) {
        let id = self.id(name);
        self.ctr(&["task", "rm", "-f", &id]);
        self.ctr(&["container", "rm", &id]);
    }

    fn cgroups(&self, name: &str) -> Vec<PathBuf> {
        let id = self.id(name);
        crate::harness::hierarchies()
            .iter()
            .map(|h| h.join("conex-test").join(&id))
            .filter(|p| p.exists())
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            for line in self.ctr(&["container", "ls", "-q"]).out.lines() {
                self.ctr(&["task", "rm", "-f", line]);
                self.ctr(&["container", "rm", line]);
            }
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

fn version_2() -> bool {
    finish(Command::new("/usr/bin/containerd").arg("--version"), b"").ok().out.contains("/v2 ")
}

#[test]
fn output_status_and_errors_reach_the_user() {
    let Some(d) = Daemon::new("containerd::output_status_and_errors_reach_the_user") else {
        return;
    };
    let r = d.run(&["--rm"], "a", &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((r.code, r.out.as_str()), (7, "out\n"));
    assert!(r.err.contains("err\n"), "{}", r.err);
    let r = d.run(&["--rm"], "b", &["/bin/nope"]);
    assert_ne!(r.code, 0);
    if crate::client::is_ours() {
        assert!(
            r.err.contains("process.args[0]: exec: \"/bin/nope\": stat /bin/nope: no such file"),
            "{}",
            r.err
        );
        // ctr writes a document of one line: its number would say nothing.
        assert!(!r.err.contains("config.json line"), "{}", r.err);
    }
    assert!(d.cgroups("a").is_empty() && d.cgroups("b").is_empty());
}

#[test]
fn the_verbs_of_ctr() {
    let Some(d) = Daemon::new("containerd::the_verbs_of_ctr") else { return };
    d.run(&["-d", "--memory-limit", "67108864"], "a", &["sleep", "1000"]).ok();
    let id = d.id("a");
    let r = d.ctr(&["task", "exec", "--exec-id", "e", &id, "sh", "-c", "echo inside; exit 3"]);
    assert_eq!((r.code, r.out.as_str()), (3, "inside\n"));
    d.ctr(&["task", "pause", &id]).ok();
    assert_eq!(d.status("a"), "PAUSED");
    d.ctr(&["task", "resume", &id]).ok();
    assert_eq!(d.status("a"), "RUNNING");
    let metrics = d.ctr(&["task", "metrics", &id]).ok().out;
    assert!(metrics.contains("67108864"), "{metrics}");
    assert!(d.ctr(&["task", "ps", &id]).ok().out.contains(&d.task_pid("a").to_string()));
    d.ctr(&["task", "kill", "-s", "SIGKILL", &id]).ok();
    until(|| d.status("a") == "STOPPED", "the task stops");
    let removed = d.ctr(&["task", "rm", &id]).ok();
    assert!(removed.err.contains("exit code 137"), "{}", removed.err);
    d.ctr(&["container", "rm", &id]).ok();
    assert!(d.cgroups("a").is_empty());
}

#[test]
fn containerd_may_be_killed_and_come_back() {
    let Some(mut d) = Daemon::new("containerd::containerd_may_be_killed_and_come_back") else {
        return;
    };
    d.run(&["-d"], "long", &["sleep", "1000"]).ok();
    d.run(&["-d"], "short", &["sh", "-c", "while [ ! -e /stop ]; do sleep 0.05; done; exit 9"])
        .ok();
    let (pid, shim) = (d.task_pid("long"), d.shim_pid("long"));
    d.down();
    // One ends while nobody listens.
    std::fs::write(d.b.rootfs().join("stop"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    d.up();
    assert_eq!(
        (d.task_pid("long"), d.shim_pid("long")),
        (pid, shim),
        "the same process under the same shim"
    );
    assert_eq!(d.status("long"), "RUNNING");
    let r = d.ctr(&["task", "exec", "--exec-id", "e", &d.id("long"), "echo", "again"]);
    assert_eq!(r.ok().out, "again\n");
    if version_2() {
        // From 1.7 on containerd removes, when it starts, a task that has no process.
        until(
            || d.status("short") == "none" && d.cgroups("short").is_empty(),
            "the other one is removed",
        );
        d.remove("long");
        return;
    }
    until(|| d.status("short") == "STOPPED", "the other one has stopped");
    let removed = d.ctr(&["task", "rm", &d.id("short")]).ok();
    assert!(removed.err.contains("exit code 9"), "its status was kept: {}", removed.err);
    d.remove("short");
    d.remove("long");
}

#[test]
fn a_killed_shim_leaves_nothing() {
    let Some(d) = Daemon::new("containerd::a_killed_shim_leaves_nothing") else { return };
    d.run(&["-d"], "a", &["sleep", "1000"]).ok();
    let (pid, shim) = (d.task_pid("a"), d.shim_pid("a"));
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    until(|| d.status("a") != "RUNNING", "containerd notices");
    until(|| conex::identity::proc_stat(pid).is_none_or(|s| s.0 == 'Z'), "the container is gone");
    until(|| d.cgroups("a").is_empty(), "its cgroups are gone");
    d.remove("a");
}
