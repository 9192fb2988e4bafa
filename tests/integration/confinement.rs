//! Everything of a container is inside what the document asks for: its hooks, its further processes, what is made for it.

use crate::harness::*;
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A startContainer hook runs under the limits, the filter and the capabilities of the container's program.
#[test]
fn a_start_container_hook_is_confined_as_the_program() {
    let look = "ulimit -n; grep -E '^(Seccomp|CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs):' /proc/self/status; mkdir /made 2>&1 | grep -o permitted; umask; env | grep -vE '^(_|SHLVL|PWD|OLDPWD)=' | sort";
    for no_new_privileges in [true, false] {
        for own_env in [false, true] {
            let mut b =
                Box::sh(&format!("{{ {look}; }} >/program; cat /hook; echo ==; cat /program"));
            *b.at("process.noNewPrivileges") = json!(no_new_privileges);
            *b.at("process.rlimits") = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
            *b.at("process.env") = json!(["PATH=/bin", "WHO=program"]);
            *b.at("linux.seccomp") = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            });
            let mut hook =
                json!({"path": "/bin/sh", "args": ["sh", "-c", format!("{{ {look}; }} >/hook")]});
            if own_env {
                hook["env"] = json!(["PATH=/bin", "WHO=hook"]);
            }
            *b.at("hooks") = json!({"startContainer": [hook]});
            let out = b.run().ok().out;
            let (hook, program) = out.split_once("==\n").unwrap();
            assert!(
                program.contains("77\n")
                    && program.contains("Seccomp:\t2")
                    && program.contains("permitted"),
                "{out}"
            );
            // HOME is the runtime's addition to the program's environment.
            let without_home = |text: &str| {
                text.lines()
                    .filter(|l| !l.starts_with("HOME="))
                    .map(|l| format!("{l}\n"))
                    .collect::<String>()
            };
            let want = if own_env {
                program.replace("WHO=program", "WHO=hook")
            } else {
                program.to_string()
            };
            assert_eq!(
                without_home(hook),
                without_home(&want),
                "no_new_privileges {no_new_privileges}, env {own_env}"
            );
        }
    }
}

/// Outside the container nothing of the caller's reaches a hook that names no environment.
#[test]
fn other_hooks_have_no_environment_by_themselves() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    let file = b.dir.join("env");
    *b.at("hooks") = json!({"createRuntime": [{"path": "/usr/bin/env", "args": ["env", "sh", "-c", format!("/usr/bin/env >{}", file.display())]}]});
    b.write_config();
    let mut c = b.command(&["run", &b.id]);
    finish(c.env("SECRET", "1"), b"").ok();
    assert!(!std::fs::read_to_string(file).unwrap().contains("SECRET"));
}

fn mode(path: PathBuf) -> u32 {
    path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o777
}

/// Whatever umask the caller has, nothing is made that more may write than was meant.
#[test]
fn nothing_is_made_for_everybody() {
    for mask in ["000", "022", "077"] {
        let mut b = Box::sh("true");
        let write = |name: &str| {
            let script = format!(
                "echo x >{}; mkdir {}.d",
                b.dir.join(name).display(),
                b.dir.join(name).display()
            );
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
        };
        let hooks = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
        *b.at("hooks") = json!(hooks
            .iter()
            .map(|h| (*h, write(h)))
            .collect::<std::collections::BTreeMap<_, _>>());
        *b.at("process.cwd") = json!("/work/sub");
        std::fs::write(b.dir.join("file"), "").unwrap();
        b.push(
            "mounts",
            json!({"destination": "/made/by/mount", "type": "tmpfs", "source": "tmpfs"}),
        );
        b.push(
            "mounts",
            json!({"destination": "/made/by/file", "source": b.dir.join("file"), "options": ["bind"]}),
        );
        b.push(
            "linux.devices",
            json!({"path": "/made/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}),
        );
        b.write_config();
        let line = format!(
            "umask {mask}; exec {} --root {} --log {} run --pid-file {} {}",
            runtime().display(),
            b.state_root().display(),
            b.dir.join("log").display(),
            b.dir.join("pid").display(),
            b.id
        );
        finish(Command::new("/bin/sh").args(["-c", &line]).current_dir(&b.dir), b"").ok();
        let caller = u32::from_str_radix(mask, 8).unwrap();
        for hook in hooks {
            assert_eq!(mode(b.dir.join(hook)), 0o666 & !caller, "{hook} with umask {mask}");
            assert_eq!(
                mode(b.dir.join(format!("{hook}.d"))),
                0o777 & !caller,
                "{hook} with umask {mask}"
            );
        }
        assert_eq!(
            mode(b.dir.join("pid")) & !(if is_conex() { 0o644 } else { 0o666 } & !caller),
            0,
            "pid file with umask {mask}"
        );
        if !is_conex() {
            // What runc makes inside has the caller's umask taken from it.
            continue;
        }
        for made in ["work", "work/sub", "made", "made/by", "made/by/mount", "made/dev"] {
            assert_eq!(mode(b.rootfs().join(made)), 0o755, "{made} with umask {mask}");
        }
        assert_eq!(mode(b.rootfs().join("made/by/file")), 0o644, "with umask {mask}");
        assert_eq!(mode(b.rootfs().join("made/dev/null")), 0o666, "with umask {mask}");
        assert_eq!(mode(b.state_root()), 0o700, "with umask {mask}");
    }
}

/// The same for what verbs write beside a container that runs: state, journal, log, pid file of an exec.
#[test]
fn what_verbs_write_is_the_owners() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("sleep 100");
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]});
    b.write_config();
    std::fs::create_dir(b.dir.join("other")).unwrap();
    let verb = |words: &str| {
        let begin = format!(
            "umask 0; exec {} --root state --log log --debug --trace trace.json",
            runtime().display()
        );
        let line = format!("{begin} {words} >/dev/null 2>&1 </dev/null");
        assert!(
            Command::new("/bin/sh")
                .args(["-c", &line])
                .current_dir(&b.dir)
                .status()
                .unwrap()
                .success(),
            "{words}"
        );
    };
    verb("spec --bundle other");
    verb(&format!("create --pid-file pid {}", b.id));
    verb(&format!("start {}", b.id));
    verb(&format!("exec -d --pid-file exec-pid {} sleep 100", b.id));
    verb(&format!("exec {} true", b.id));
    verb(&format!("update --pids-limit 50 {}", b.id));
    verb(&format!("pause {}", b.id));
    verb(&format!("resume {}", b.id));
    verb(&format!("ps {}", b.id));
    let mut seen = Vec::new();
    let mut open = Vec::new();
    let mut look = |dir: &std::path::Path| {
        let mut list = vec![dir.to_path_buf()];
        while let Some(path) = list.pop() {
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                list.extend(std::fs::read_dir(&path).unwrap().flatten().map(|e| e.path()));
            }
            if !meta.is_symlink() && meta.mode() & 0o022 != 0 {
                open.push(format!("{} {:o}", path.display(), meta.mode()));
            }
            seen.push(path.strip_prefix(&b.dir).unwrap().display().to_string());
        }
    };
    look(&b.state_root());
    for name in ["log", "pid", "exec-pid", "trace.json", "other/config.json"] {
        look(&b.dir.join(name));
    }
    // Not by its own end: its namespace waits until the exec's parent, which is somebody else, has reaped it.
    verb(&format!("delete --force {}", b.id));
    look(&b.state_root());
    assert!(open.is_empty(), "others may write {open:?}");
    for part in
        [format!("state/{}/state.json", b.id), "state/.journal".into(), "state/.cache".into()]
    {
        assert!(seen.contains(&part), "{part} is not among {seen:?}");
    }
}

/// A missing working directory is made with the container, before the root is read-only; by exec it is an error.
#[test]
fn a_missing_working_directory() {
    for readonly in [false, true] {
        let mut b = Box::sh("pwd; sleep 100");
        *b.at("root.readonly") = json!(readonly);
        *b.at("process.cwd") = json!("/work/deep");
        b.up();
        until(|| b.output() == "/work/deep\n", "the program is in its directory");
        let r = b.verb("exec", &["--cwd", "/misspelt"], &["pwd"]);
        assert_eq!((r.code, r.out.as_str()), (255, ""), "{}", r.err);
        assert!(r.err.contains("chdir to cwd") && r.err.contains("/misspelt"), "{}", r.err);
        assert!(
            r.err.contains("set in config.json failed: no such file or directory"),
            "{}",
            r.err
        );
        b.verb("exec", &["--cwd", "/also"], &["/no/such"]).fails_with("/also");
        for name in ["misspelt", "also"] {
            assert!(!b.rootfs().join(name).exists(), "{name} was made");
        }
        assert_eq!(b.verb("exec", &["--cwd", "/tmp"], &["pwd"]).ok().out, "/tmp\n");
    }
    // Where it cannot be made the error says so.
    let mut b = Box::sh("true");
    std::fs::create_dir(b.dir.join("vol")).unwrap();
    b.push(
        "mounts",
        json!({"destination": "/vol", "source": b.dir.join("vol"), "options": ["rbind", "ro"]}),
    );
    *b.at("process.cwd") = json!("/vol/missing");
    let r = b.run();
    assert_ne!(r.code, 0);
    if is_conex() {
        r.fails_with("process.cwd").fails_with("EROFS");
    }
    b.assert_gone();
}

#[test]
fn exec_in_a_cgroup_that_is_asked_for() {
    let b = Box::sh("sleep 100");
    b.up();
    let dirs = b.cgroups();
    dirs.iter().for_each(|d| std::fs::create_dir(d.join("sub")).unwrap());
    for d in dirs.iter().filter(|d| d.join("cpuset.cpus").exists()) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let text = std::fs::read_to_string(d.join(file)).unwrap_or_default();
            let _ = std::fs::write(d.join("sub").join(file), text.trim());
        }
    }
    if is_conex() {
        let r = b.verb("exec", &["--cgroup", "/sub"], &["cat", "/proc/self/cgroup"]).ok();
        let named: Vec<&str> = r.out.lines().filter(|l| l.ends_with("/sub")).collect();
        assert_eq!(named.len(), dirs.len(), "{}", r.out);
    }
    if !v2() && std::fs::read_link("/sys/fs/cgroup/cpuacct").is_ok() {
        // Two controllers of one hierarchy: one directory.
        let (a, b_) = (["--cgroup", "cpu:/sub"], ["--cgroup", "cpuacct:/sub"]);
        let r = b.verb("exec", &[a, b_].concat(), &["cat", "/proc/self/cgroup"]).ok();
        assert_eq!(r.out.lines().filter(|l| l.ends_with("/sub")).count(), 1, "{}", r.out);
        let r = b.verb("exec", &["--cgroup", "cpu:/sub", "--cgroup", "cpuacct:/"], &["true"]);
        assert_ne!(r.code, 0);
    }
    if is_conex() && dirs.iter().any(|d| d.join("cgroup.type").exists()) {
        // The v2 hierarchy has no name.
        let r = b.verb("exec", &["--cgroup", ":/sub"], &["cat", "/proc/self/cgroup"]).ok();
        assert_eq!(r.out.lines().filter(|l| l.ends_with("/sub")).count(), 1, "{}", r.out);
        assert!(r.out.lines().any(|l| l.starts_with("0::") && l.ends_with("/sub")), "{}", r.out);
    }
    for wrong in ["/nosuch", "nosuchcontroller:/sub", "../x"] {
        let r = b.verb("exec", &["--cgroup", wrong], &["true"]);
        assert_ne!(r.code, 0, "{wrong}");
    }
    b.verb("kill", &[], &["KILL"]).ok();
    b.wait_status("stopped");
    b.verb("delete", &[], &[]).ok();
    b.assert_gone();
}

/// A damaged record leads to a cgroup by name. What is in it is killed only if it is the container's.
#[test]
fn a_damaged_record_does_not_kill_a_stranger() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.up();
    std::fs::write(b.state_root().join(&b.id).join("state.json"), "{").unwrap();
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let dirs = b.cgroups();
    for d in &dirs {
        std::fs::write(d.join("cgroup.procs"), stranger.id().to_string()).unwrap();
    }
    b.verb("delete", &["--force"], &[]).fails_with("not provably");
    assert!(stranger.try_wait().unwrap().is_none(), "the stranger was killed");
    // Nobody would find it without its record. Once the stranger has gone, all goes.
    assert!(b.state_root().join(&b.id).exists());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
    // What is left of the container is this test's to remove.
    for d in &dirs {
        let pids = std::fs::read_to_string(d.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|l| l.parse().ok()) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        until(|| std::fs::remove_dir(d).is_ok() || !d.exists(), "the cgroup is removed");
    }
}

#[test]
fn names_that_begin_with_a_dot_are_ours() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    b.write_config();
    for id in [".cache", ".x", "..x"] {
        b.call(&["run", id]).fails_with("invalid container ID format");
        assert!(!b.state_root().join(id).exists());
    }
}

/// `unshare -U` with these maps, then the command.
fn in_user_namespace(b: &Box, map: &str, line: &str) -> Ran {
    let mut c = Command::new("unshare");
    c.args(["--user", "sh", "-c", &format!("read x; {line}")]).current_dir(&b.dir);
    let mut child =
        c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let own = std::fs::metadata("/proc/self/ns/user").unwrap().ino();
    let path = format!("/proc/{}/ns/user", child.id());
    until(|| std::fs::metadata(&path).unwrap().ino() != own, "the user namespace");
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{file}", child.id()), map).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let out = child.wait_with_output().unwrap();
    Ran {
        code: out.status.code().unwrap_or(1000),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Root of a user namespace that maps every id to itself is not the host's root: it may not set device rules.
#[test]
fn a_user_namespace_with_the_maps_of_the_first() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("echo inside");
    b.write_config();
    let line =
        format!("exec {} --root {} run {}", runtime().display(), b.state_root().display(), b.id);
    let r = in_user_namespace(&b, "0 0 4294967295", &line).ok();
    assert_eq!(r.out, "inside\n", "{}", r.err);
    b.assert_gone();
}

/// The maps of the document must be those of the user namespace that is joined, for groups as well.
#[test]
fn the_groups_of_a_joined_user_namespace() {
    let mut holder = Command::new("unshare");
    let mut holder = holder.args(["--user", "sleep", "1000"]).spawn().unwrap();
    let own = std::fs::metadata("/proc/self/ns/user").unwrap().ino();
    let path = format!("/proc/{}/ns/user", holder.id());
    until(|| std::fs::metadata(&path).unwrap().ino() != own, "the user namespace");
    for (file, map) in [("uid_map", "0 0 65536"), ("gid_map", "0 0 100\n100 200 100")] {
        std::fs::write(format!("/proc/{}/{file}", holder.id()), map).unwrap();
    }
    let mut b = Box::sh("echo joined");
    b.at("mounts").as_array_mut().unwrap().retain(|m| m["type"] != "sysfs");
    b.push("linux.namespaces", json!({"type": "user", "path": path}));
    let map = |size: u32| json!({"containerID": 0, "hostID": 0, "size": size});
    *b.at("linux.uidMappings") = json!([map(65536)]);
    *b.at("linux.gidMappings") = json!([map(65536)]);
    if is_conex() {
        b.run().fails_with("linux.gidMappings").fails_with("differs");
        b.assert_gone();
    }
    *b.at("linux.gidMappings") =
        json!([map(100), {"containerID": 100, "hostID": 200, "size": 100}]);
    assert_eq!(b.run().ok().out, "joined\n");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// A temporary file of root's is never at a place that another user can prepare.
#[test]
fn setup_follows_no_symlink_in_a_shared_directory() {
    if !is_conex() || !std::path::Path::new("/usr/bin/containerd").exists() {
        return;
    }
    let b = Box::sh("true");
    let shared = b.dir.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let victim = b.dir.join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    // Every name that the process number could give.
    for pid in 1..4000 {
        std::os::unix::fs::symlink(&victim, shared.join(format!("conex-setup-{pid}.toml")))
            .unwrap();
    }
    let config = b.dir.join("config.toml");
    std::os::unix::fs::symlink(&victim, b.dir.join("config.toml.conex-new")).unwrap();
    std::os::unix::fs::symlink(&victim, b.dir.join("config.toml.before-conex")).unwrap();
    std::fs::write(&config, "version = 2\n").unwrap();
    let mut c =
        b.command(&["setup", "--write", "--config", config.to_str().unwrap(), "containerd"]);
    finish(c.env("TMPDIR", &shared), b"").ok();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(std::fs::read_to_string(&config).unwrap().contains("conex"));
    let left = std::fs::read_dir(&shared)
        .unwrap()
        .flatten()
        .filter(|e| !e.file_type().unwrap().is_symlink())
        .count();
    assert_eq!(left, 0, "files are left in the temporary directory");
}

/// A user namespace that an unprivileged user has made denies setgroups(2); the caller's groups stay outside all the same.
#[test]
fn a_joined_user_namespace_without_setgroups() {
    if !is_conex() {
        return;
    }
    let mut holder = Command::new("unshare");
    let mut holder = holder.args(["--user", "--map-root-user", "sleep", "1000"]).spawn().unwrap();
    let pid = holder.id();
    let denied =
        || std::fs::read_to_string(format!("/proc/{pid}/setgroups")).is_ok_and(|t| t == "deny\n");
    until(denied, "the user namespace");
    until(
        || std::fs::read_to_string(format!("/proc/{pid}/gid_map")).is_ok_and(|t| !t.is_empty()),
        "its maps",
    );
    let mut b = Box::sh("id -G; grep Groups: /proc/self/status; sleep 100");
    b.at("mounts").as_array_mut().unwrap().retain(|m| m["type"] != "sysfs");
    b.push("linux.namespaces", json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    b.up();
    until(|| b.output() == "0\nGroups:\t \n", "no group but the own one");
    assert_eq!(b.exec(&["grep", "Groups:", "/proc/self/status"]).ok().out, "Groups:\t \n");
    holder.kill().unwrap();
    holder.wait().unwrap();
}
