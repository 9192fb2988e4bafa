//! One bundle, one binary, and what to ask of them.

use serde_json::{json, Value};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub fn runtime() -> PathBuf {
    std::env::var_os("CONEX")
        .map_or_else(|| panic!("CONEX must name the runtime's binary"), PathBuf::from)
}

/// True for conex itself, false when the tests are tried on a peer.
pub fn is_conex() -> bool {
    runtime().file_name().is_some_and(|n| n.to_string_lossy().starts_with("conex"))
}

/// A test that this host cannot run: recorded, counted, and compared with the list of expected skips.
pub fn skip(test: &str, missing: &str) {
    if let Some(file) = std::env::var_os("CONEX_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        // In one write: other tests skip at the same time.
        let _ = file.and_then(|mut f| f.write_all(format!("{test}: {missing}\n").as_bytes()));
    }
}

/// True, and a recorded skip, if the kernel has not this call, or the suite plays one without it (CONEX_MASK).
pub fn lacks(call: &str, test: &str) -> bool {
    let why = missing(call);
    if let Some(why) = why {
        skip(test, &format!("{call}, which is {why}"));
    }
    why.is_some()
}

/// False, and a recorded skip, where there is no CRIU that works with this kernel.
pub fn criu_works(test: &str) -> bool {
    let mut check = Command::new("criu");
    check.arg("check").stdout(Stdio::null()).stderr(Stdio::null());
    // Before, it cannot write down a program with rseq.
    let works = !older_than((5, 13)) && check.status().is_ok_and(|s| s.success());
    if !works {
        skip(test, "CRIU that works with this kernel (`make managers` runs it with one)");
    }
    works
}

/// True, and a recorded skip, if a mount of the directory's file system cannot have mapped ids: a tmpfs before Linux 6.3.
pub fn maps_no_ids(dir: &std::path::Path, test: &str) -> bool {
    let tmpfs = nix::sys::statfs::statfs(dir)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    let not = tmpfs && older_than((6, 3));
    if not {
        skip(test, "idmapped mounts on this file system");
    }
    not
}

/// True if the kernel's release is below this one.
pub fn older_than(release: (u32, u32)) -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(['.', '-']).map_while(|n| n.trim().parse::<u32>().ok());
    let own = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    own < release
}

/// Of [`missing`]: the kernel itself lacks it.
pub const OLDER: &str = "newer than this kernel";

/// Why there is no such call.
pub fn missing(call: &str) -> Option<&'static str> {
    let masked = std::env::var("CONEX_MASK").is_ok_and(|m| m.split([' ', ',']).any(|c| c == call));
    let older = call == "mount_setattr" && !conex::acts::tree::has_setattr();
    if masked {
        return Some("masked");
    }
    older.then_some(OLDER)
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    #[track_caller]
    pub fn fails_with(self, text: &str) -> Ran {
        assert_ne!(self.code, 0, "succeeded, expected: {text}");
        assert!(self.err.contains(text), "expected {text:?} in: {}", self.err);
        self
    }
}

/// Runs a command to its end, at most 30 seconds.
pub fn finish(command: &mut Command, input: &[u8]) -> Ran {
    finish_within(command, input, 30)
}

/// Writes a program. A process of its own does that: what another thread forks meanwhile would have the file open for
/// writing until its execve, and the kernel runs no such file (ETXTBSY).
pub fn executable(path: &Path, bytes: &[u8]) {
    let script = "rm -f \"$0\" && cat > \"$0\" && chmod 755 \"$0\"";
    finish(Command::new("/bin/sh").args(["-c", script]).arg(path), bytes).ok();
}

/// Copies a program, as [`executable`].
pub fn copied(from: &Path, to: &Path) {
    finish(Command::new("cp").arg(from).arg(to), b"").ok();
}

/// The same with another deadline, in seconds.
pub fn finish_within(command: &mut Command, input: &[u8], seconds: u64) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |r: &mut dyn std::io::Read| {
        let mut v = Vec::new();
        let _ = r.read_to_end(&mut v);
        v
    };
    let errors = std::thread::spawn(move || read(&mut err));
    let output = std::thread::spawn(move || read(&mut out));
    let deadline = Instant::now() + Duration::from_secs(seconds * slowness());
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                panic!("{command:?} hangs");
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    use std::os::unix::process::ExitStatusExt;
    let (stdout, stderr) = (output.join().unwrap(), errors.join().unwrap());
    let out = Output { status, stdout, stderr };
    Ran {
        code: status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or(0)),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// A bundle with a busybox root, its own state root, and a container id; everything is removed at the end.
pub struct Box {
    pub dir: PathBuf,
    pub config: Value,
    pub id: String,
    /// Options before the verb.
    pub global: Vec<&'static str>,
    /// The command that runs the runtime, for another user for example.
    pub prefix: Vec<String>,
    /// A copy of the runtime in a place where that user can reach it.
    pub binary: Option<PathBuf>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

pub const SAFE_CAPS: [&str; 3] = ["CAP_KILL", "CAP_AUDIT_WRITE", "CAP_NET_BIND_SERVICE"];

impl Box {
    /// The default document, running `sh -c script`.
    pub fn sh(script: &str) -> Box {
        Box::new(&["/bin/sh", "-c", script])
    }

    pub fn new(args: &[&str]) -> Box {
        let id = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        if let Some(file) = std::env::var_os("CONEX_TEST_IDS") {
            // Which test to ask when something with this id is left behind.
            let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
            let line = format!("{id} {}\n", std::thread::current().name().unwrap_or("?"));
            let _ = file.and_then(|mut f| f.write_all(line.as_bytes()));
        }
        let base =
            std::env::var_os("CONEX_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = base.join(&id);
        for sub in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
            std::fs::create_dir_all(dir.join("rootfs").join(sub)).unwrap();
        }
        let busybox = std::env::var("BUSYBOX").unwrap_or("/bin/busybox".into());
        copied(Path::new(&busybox), &dir.join("rootfs/bin/busybox"));
        for applet in [
            "sh", "cat", "ls", "id", "sleep", "true", "false", "stat", "mount", "env", "kill",
            "echo", "dd", "test", "touch", "mkdir", "readlink", "hostname", "head", "grep", "stty",
            "yes", "pwd", "ps", "setsid", "mknod", "chmod", "ip", "umount", "nice", "sort", "wc",
            "seq",
        ] {
            std::os::unix::fs::symlink("busybox", dir.join("rootfs/bin").join(applet)).unwrap();
        }
        Box {
            dir,
            config: document(args, &id),
            id,
            global: Vec::new(),
            prefix: Vec::new(),
            binary: None,
        }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn write_config(&self) {
        std::fs::write(
            self.dir.join("config.json"),
            serde_json::to_string_pretty(&self.config).unwrap(),
        )
        .unwrap();
    }

    /// `runtime --root … args`, in the bundle.
    pub fn command(&self, args: &[&str]) -> Command {
        // The whole suite as on an older kernel: CONEX_MASK is the program mask and the calls that the kernel lacks.
        let mask = std::env::var("CONEX_MASK").unwrap_or_default();
        let mut words: Vec<std::ffi::OsString> = mask.split_whitespace().map(Into::into).collect();
        words.extend(self.prefix.iter().map(Into::into));
        words.push(self.binary.clone().unwrap_or_else(runtime).into());
        let mut c = Command::new(&words[0]);
        c.args(&words[1..])
            .arg("--root")
            .arg(self.state_root())
            .args(&self.global)
            .args(args)
            .current_dir(&self.dir);
        c
    }

    pub fn call(&self, args: &[&str]) -> Ran {
        finish(&mut self.command(args), b"")
    }

    /// `verb flags… ID rest…` with this container's id.
    pub fn verb(&self, verb: &str, flags: &[&str], rest: &[&str]) -> Ran {
        let mut args = vec![verb];
        args.extend(flags);
        args.push(&self.id);
        args.extend(rest);
        self.call(&args)
    }

    pub fn run(&self) -> Ran {
        self.write_config();
        self.verb("run", &[], &[])
    }

    /// Runs it where the v1 devices hierarchy is out of sight: the rules become a program on the v2 tree.
    pub fn run_by_program(&self) -> Ran {
        self.write_config();
        let line = format!(
            "umount /sys/fs/cgroup/devices 2>/dev/null; exec {} --root {} run {}",
            runtime().display(),
            self.state_root().display(),
            self.id
        );
        let mut c = Command::new("unshare");
        finish(
            c.args(["-m", "--propagation", "private", "sh", "-c", &line]).current_dir(&self.dir),
            b"",
        )
    }

    /// A detached container: created (with its output in files) and started.
    pub fn up(&self) {
        self.create().ok();
        self.verb("start", &[], &[]).ok();
    }

    /// create, with the container's output in the file `out` of the bundle.
    pub fn create(&self) -> Ran {
        self.write_config();
        let file = |name: &str| std::fs::File::create(self.dir.join(name)).unwrap();
        let mut c = self.command(&["create", &self.id]);
        let status =
            c.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).status().unwrap();
        let read = |name: &str| std::fs::read_to_string(self.dir.join(name)).unwrap();
        Ran { code: status.code().unwrap_or(1000), out: read("out"), err: read("err") }
    }

    pub fn exec(&self, args: &[&str]) -> Ran {
        self.verb("exec", &[], args)
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.verb("state", &[], &[]).ok().out).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_string()
    }

    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap() as i32
    }

    pub fn wait_status(&self, want: &str) {
        until(|| self.status() == want, want);
    }

    /// What the detached container has printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.dir.join("out")).unwrap_or_default()
    }

    /// Directories of this container's cgroups that exist.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        hierarchies()
            .into_iter()
            .map(|h| h.join("conex-test").join(&self.id))
            .filter(|p| p.exists())
            .collect()
    }

    /// Nothing of the container is left: no state, no cgroup, no process.
    #[track_caller]
    pub fn assert_gone(&self) {
        let state = self.state_root().join(&self.id);
        assert!(!state.exists(), "state is left: {}", state.display());
        assert!(self.cgroups().is_empty(), "cgroups are left: {:?}", self.cgroups());
    }

    pub fn at(&mut self, pointer: &str) -> &mut Value {
        let mut value = &mut self.config;
        for key in pointer.split('.') {
            value = match key.parse::<usize>() {
                Ok(i) if value.is_array() => &mut value[i],
                _ => &mut value[key],
            };
        }
        value
    }

    pub fn push(&mut self, pointer: &str, item: Value) {
        let list = self.at(pointer);
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut().unwrap().push(item);
    }

    pub fn drop_namespace(&mut self, kind: &str) {
        self.at("linux.namespaces").as_array_mut().unwrap().retain(|n| n["type"] != kind);
    }

    /// The content of `v1_file`, or of `v2_file` on a pure cgroup v2 host.
    pub fn cgroup_value(&self, controller: &str, v1_file: &str, v2_file: &str) -> String {
        self.cgroup_file(controller, if v2() { v2_file } else { v1_file })
    }

    pub fn cgroup_file(&self, controller: &str, file: &str) -> String {
        let path = cgroup_path(controller, &self.id).join(file);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            .trim()
            .to_string()
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        // A verb that hangs must not abort all the other tests.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.verb("delete", &["--force"], &[])
        }));
        let _ = std::fs::remove_dir_all(&self.dir);
        // The parent of all test cgroups goes with the last container.
        for h in hierarchies() {
            let _ = std::fs::remove_dir(h.join("conex-test"));
        }
    }
}

/// True on a host with nothing but cgroup v2.
pub fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The roots of the cgroup trees.
pub fn hierarchies() -> Vec<PathBuf> {
    if v2() {
        return vec!["/sys/fs/cgroup".into()];
    }
    std::fs::read_dir("/sys/fs/cgroup")
        .map_or(Vec::new(), |list| list.flatten().map(|e| e.path()).collect())
}

/// A directory below the tests' own parent, in the tree that has the controller.
pub fn cgroup_path(controller: &str, name: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let root = if v2() { root.to_path_buf() } else { root.join(controller) };
    root.join("conex-test").join(name)
}

/// True if some tree of the host has the controller.
pub fn has_controller(controller: &str) -> bool {
    if v2() {
        let text = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return text.split_whitespace().any(|c| c == controller);
    }
    Path::new("/sys/fs/cgroup").join(controller).exists()
}

/// By how much this host is slower than the one that the tests were written on: `SLOWNESS`, which hosts in emulation measure;
/// six on another host in software.
pub fn slowness() -> u64 {
    let own = if std::env::var_os("OWN_HOST").is_some() { 6 } else { 1 };
    std::env::var("SLOWNESS").ok().and_then(|s| s.parse().ok()).unwrap_or(own)
}

/// So many seconds of a host that is as fast as the one that the tests were written on.
pub fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds * slowness())
}

/// How long a test waits, on a host that is as fast as this one. A virtual machine that stands still for that long, with
/// all that is in it, has only lost one look.
pub struct Patience {
    left: Duration,
    last: Instant,
}

impl Patience {
    pub fn of(seconds: u64) -> Patience {
        Patience { left: Duration::from_secs(seconds * slowness()), last: Instant::now() }
    }

    /// Waits a moment; false when it is at its end.
    pub fn is_left(&mut self) -> bool {
        std::thread::sleep(Duration::from_millis(5));
        self.left = self.left.saturating_sub(self.last.elapsed().min(Duration::from_millis(250)));
        self.last = Instant::now();
        !self.left.is_zero()
    }
}

#[track_caller]
pub fn until(mut done: impl FnMut() -> bool, what: &str) {
    let mut patience = Patience::of(10);
    while !done() {
        assert!(patience.is_left(), "it does not come: {what}");
    }
}

fn document(args: &[&str], id: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": SAFE_CAPS, "effective": SAFE_CAPS, "permitted": SAFE_CAPS},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/conex-test/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/not-there"],
            "readonlyPaths": ["/proc/sys", "/proc/not-there"]
        }
    })
}
