//! What managers rely on: argv, logs, error texts, exit statuses.

use crate::harness::*;
use serde_json::{json, Value};
use std::process::{Command, Stdio};

#[test]
fn version_lines() {
    let r = finish(Command::new(runtime()).arg("--version"), b"").ok();
    assert_eq!(
        r.out
            .lines()
            .filter(|l| l.contains("version"))
            .filter(|l| !l.starts_with("libseccomp"))
            .count(),
        1
    );
    assert_eq!(r.out.lines().filter(|l| l.starts_with("commit: ")).count(), 1);
    assert!(r.out.lines().any(|l| l.starts_with("spec: 1.")));
}

#[test]
fn a_failure_is_one_json_line_in_the_log_and_text_on_stderr() {
    let mut b = Box::new(&["nope"]);
    b.push("process.capabilities.bounding", json!("CAP_NO_SUCH"));
    b.write_config();
    let log = b.dir.join("log.json");
    for n in 1..=2 {
        let r = finish(
            &mut b.command(&["--log", log.to_str().unwrap(), "--log-format=json", "create", &b.id]),
            b"",
        );
        assert_eq!(r.code, 1);
        assert!(r.err.contains("executable file not found in $PATH"), "{}", r.err);
        let text = std::fs::read_to_string(&log).unwrap();
        let errors: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .filter(|v: &Value| v["level"] == "error")
            .collect();
        // Appended, never overwritten.
        assert_eq!(errors.len(), n, "{text}");
        assert!(errors[0]["msg"]
            .as_str()
            .unwrap()
            .contains("exec: \"nope\": executable file not found in $PATH"));
        assert!(errors[0]["time"].as_str().unwrap().contains('T'));
        if is_conex() {
            assert_eq!(text.lines().count(), n, "a warning beside the error breaks Podman: {text}");
        }
    }
    b.assert_gone();
}

#[test]
fn warnings_come_with_success() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    b.push("process.capabilities.bounding", json!("CAP_NO_SUCH"));
    let r = b.run().ok();
    assert!(
        r.err.contains("process.capabilities.bounding[3]") && r.err.contains("level=warning"),
        "{}",
        r.err
    );
}

#[test]
fn texts_that_engines_map_to_126_and_127() {
    for (arg, text) in [
        ("/nope", "no such file or directory"),
        ("/etc", "is a directory"),
        ("/etc", "permission denied"),
        ("/bin/noexec", "permission denied"),
    ] {
        let b = Box::new(&[arg]);
        std::fs::write(b.rootfs().join("bin/noexec"), "#!/bin/sh\n").unwrap();
        b.create().fails_with(text);
        b.assert_gone();
    }
}

#[test]
fn go_flags() {
    let b = Box::sh("sleep 100");
    b.write_config();
    let mut c = Command::new(runtime());
    c.arg(format!("-root={}", b.state_root().display())).args([
        "create",
        &b.id,
        "-bundle",
        b.dir.to_str().unwrap(),
        "--no-pivot=false",
    ]);
    let quiet = Stdio::null;
    assert!(c.stdin(quiet()).stdout(quiet()).stderr(quiet()).status().unwrap().success());
    assert_eq!(b.status(), "created");
    // The spellings of containerd, Docker and Podman.
    b.call(&["start", &b.id]).ok();
    b.call(&["kill", "--all", &b.id, "9"]).ok();
    b.wait_status("stopped");
    b.call(&["kill", "--all", &b.id, "9"]).ok();
    assert_ne!(b.call(&["nosuchverb"]).code, 0);
    assert_eq!(b.call(&["start"]).code, 1);
    assert_eq!(b.call(&["start", "--nope", &b.id]).code, 1);
}

#[test]
fn bad_ids() {
    let b = Box::sh("true");
    b.write_config();
    let long = "x".repeat(1100);
    for id in ["../x", "..", ".", "a b", "a:b", "é", "a\nb", long.as_str()] {
        let r = b.call(&["create", "--", id]);
        assert_ne!(r.code, 0, "{id:?}");
    }
    assert_ne!(b.call(&["delete", "--force", "../../outside"]).code, 0);
}

#[test]
fn root_may_not_be_slash() {
    let r = finish(Command::new(runtime()).args(["--root", "/", "list"]), b"");
    assert_ne!(r.code, 0);
    assert!(r.err.contains("--root argument should not be set to /"), "{}", r.err);
}

#[test]
fn empty_environment() {
    let b = Box::sh("sleep 100");
    b.up();
    for args in [vec!["state", b.id.as_str()], vec!["kill", b.id.as_str(), "KILL"]] {
        let mut c = b.command(&args);
        finish(c.env_clear(), b"").ok();
    }
}

#[test]
fn standard_descriptors_closed_by_the_caller() {
    let b = Box::sh("ls -l /proc/self/fd");
    b.write_config();
    let line = format!(
        "exec {} --root {} run {} <&- >&- 2>&-",
        runtime().display(),
        b.state_root().display(),
        b.id
    );
    let r = finish(Command::new("/bin/sh").args(["-c", &line]).current_dir(&b.dir), b"");
    assert_eq!(r.code, 0);
}

#[test]
fn stdin_reaches_the_container() {
    let b = Box::sh("cat; echo end");
    b.write_config();
    assert_eq!(
        finish(&mut b.command(&["run", &b.id]), b"from outside\n").ok().out,
        "from outside\nend\n"
    );
}

#[test]
fn every_byte_arrives_at_a_slow_reader() {
    let b = Box::sh("dd if=/dev/zero bs=65536 count=64 2>/dev/null");
    assert_eq!(b.run().ok().out.len(), 4 << 20);
}

#[test]
fn preserved_descriptors() {
    let b = Box::sh("cat <&3; ls /proc/self/fd | grep -v -E '^[0-2]$' | wc -l");
    b.write_config();
    std::fs::write(b.dir.join("passed"), "three\n").unwrap();
    let run = |flags: &str| {
        let line = format!(
            "exec {} --root {} run {flags} {} 3<passed 7</",
            runtime().display(),
            b.state_root().display(),
            b.id
        );
        finish(Command::new("/bin/sh").args(["-c", &line]).current_dir(&b.dir), b"")
    };
    // 3 itself and the descriptor of the listing.
    assert_eq!(run("--preserve-fds 1").ok().out, "three\n2\n");
    assert_ne!(run("--preserve-fds 2").code, 0);
}

/// The master of a terminal, as it comes over a console socket.
pub fn terminal(listener: &std::os::unix::net::UnixListener) -> std::fs::File {
    use std::os::fd::AsRawFd;
    let (socket, _) = listener.accept().unwrap();
    let mut buffer = [0u8; 4096];
    let mut iov = [std::io::IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!([i32; 1]);
    let message = nix::sys::socket::recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut control),
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    let fds: Vec<i32> = message
        .cmsgs()
        .unwrap()
        .flat_map(|c| match c {
            nix::sys::socket::ControlMessageOwned::ScmRights(fds) => fds,
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(fds.len(), 1);
    conex_sys::fd::adopt(fds[0]).into()
}

#[test]
fn console_socket_and_resize() {
    let mut b = Box::sh("stty size; test -t 0 && test -t 1 && test -t 2 && echo tty; stat -L -c %t:%T /dev/console | head -c 3; sleep 100");
    *b.at("process.terminal") = json!(true);
    *b.at("process.consoleSize") = json!({"height": 33, "width": 77});
    b.write_config();
    b.call(&["create", &b.id]).fails_with("console socket");
    let path = b.dir.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut c = b.command(&["create", "--console-socket", "console.sock", &b.id]);
    let status = c.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap().wait().unwrap();
    assert!(status.success());
    let master = terminal(&listener);
    b.verb("start", &[], &[]).ok();
    let mut text = String::new();
    until(
        || {
            let mut chunk = [0u8; 512];
            let n = nix::unistd::read(&master, &mut chunk).unwrap_or(0);
            text += &String::from_utf8_lossy(&chunk[..n]);
            text.contains("88:")
        },
        "terminal output",
    );
    // Line ends are the terminal's to translate: an engine's client has its own in raw mode.
    assert!(text.contains("33 77\r\n") && text.contains("tty\r\n"), "{text:?}");
}

#[test]
fn a_foreground_terminal() {
    let mut b = Box::sh("stty size; read line; echo got $line; exit 5");
    *b.at("process.terminal") = json!(true);
    b.write_config();
    // script(1) gives the runtime a terminal of its own.
    if !std::path::Path::new("/usr/bin/script").exists() {
        return skip("a_foreground_terminal", "script(1) of bsdutils");
    }
    let line = format!(
        "stty rows 21 cols 99; {} --root {} run {}; echo code=$?; stty -a | grep -o ' echo '",
        runtime().display(),
        b.state_root().display(),
        b.id
    );
    let mut child = Command::new("/usr/bin/script")
        .args(["-qec", &line, "/dev/null"])
        .current_dir(&b.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    use std::io::{Read, Write};
    child.stdin.as_mut().unwrap().write_all(b"typed\n").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    assert!(
        text.contains("21 99")
            && text.contains("got typed")
            && text.contains("code=5")
            && text.contains(" echo "),
        "{text}"
    );
}

#[test]
fn signals_are_forwarded() {
    let b = Box::sh("trap 'echo term; exit 9' TERM; echo ready; while true; do sleep 0.05; done");
    b.write_config();
    let mut child =
        b.command(&["run", &b.id]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    use std::io::{BufRead, BufReader};
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(out.next().unwrap().unwrap(), "ready");
    conex_sys::proc::kill(nix::unistd::Pid::from_raw(child.id() as i32), 15).unwrap();
    assert_eq!(out.next().unwrap().unwrap(), "term");
    assert_eq!(child.wait().unwrap().code(), Some(9));
    b.assert_gone();
}

#[test]
fn notify_socket_is_forwarded() {
    let mut b = Box::sh(
        "sleep 0.2; echo -n READY=1 | nc -u -w1 local:$NOTIFY_SOCKET 2>/dev/null; sleep 100",
    );
    // busybox has no datagram client for Unix sockets: only the environment and the mount are checked.
    *b.at("process.args") =
        json!(["/bin/sh", "-c", "echo $NOTIFY_SOCKET; ls -d /run/notify; sleep 100"]);
    b.write_config();
    let socket = b.dir.join("manager.sock");
    let _manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let file = std::fs::File::create(b.dir.join("out")).unwrap();
    let mut c = b.command(&["create", &b.id]);
    c.env("NOTIFY_SOCKET", &socket).stdin(Stdio::null()).stdout(file);
    assert!(c.status().unwrap().success());
    b.verb("start", &[], &[]).ok();
    until(|| b.output() == "/run/notify/notify.sock\n/run/notify\n", "the socket's directory");
}

#[test]
fn man_pages_and_completions_are_current() {
    let dir = std::env::temp_dir().join(format!("conex-docs-{}", std::process::id()));
    let mut c = Command::new(env!("CARGO_BIN_EXE_gendocs"));
    finish(c.arg(&dir), b"").ok();
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for e in std::fs::read_dir(dir.join("completions")).unwrap().flatten() {
        let kept = std::fs::read_to_string(top.join("completions").join(e.file_name()))
            .unwrap_or_default();
        assert!(
            kept == std::fs::read_to_string(e.path()).unwrap(),
            "{:?} is not current: make docs",
            e.file_name()
        );
    }
    std::fs::remove_dir_all(dir).unwrap();
    // Written by hand: every verb has its page, every flag is in it and known to bash.
    let bash = std::fs::read_to_string(top.join("completions/conex.bash")).unwrap();
    let check = |page: &str, flags: &[conex::cli::Flag]| {
        let text = std::fs::read_to_string(top.join("docs/man").join(page))
            .unwrap_or_else(|e| panic!("{page}: {e}"));
        let text = text.replace("\\-", "-");
        assert!(text.contains(".SH EXAMPLES\n.nf\nconex"), "{page} has no examples");
        for f in flags {
            assert!(text.contains(&format!("--{}", f.name)), "{page} does not name --{}", f.name);
            assert!(
                bash.contains(&format!("--{}", f.name)),
                "conex.bash does not know --{}",
                f.name
            );
        }
    };
    check("conex.8", conex::cli::GLOBAL);
    for c in conex::cli::COMMANDS.iter().chain(conex_tools::cli::COMMANDS) {
        check(&format!("conex-{}.8", c.name), c.flags);
        assert!(bash.contains(c.name), "conex.bash does not know {}", c.name);
        let all = std::fs::read_to_string(top.join("docs/man/conex.8")).unwrap();
        assert!(
            all.contains(&format!("conex\\-{}\\fR(8)", c.name)),
            "conex.8 does not name {}",
            c.name
        );
    }
}

/// `run DIR` takes the id from the directory's name; an id begins with no dot.
#[test]
fn a_bundle_with_a_dot_in_front() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    b.write_config();
    let real = b.dir.join(".b");
    std::fs::create_dir(&real).unwrap();
    for name in ["config.json", "rootfs"] {
        std::os::unix::fs::symlink(b.dir.join(name), real.join(name)).unwrap();
    }
    let r = finish(b.command(&["run", "./.b"]).current_dir(&b.dir), b"");
    assert_eq!(r.code, 0, "{}", r.err);
}

/// execve(2) looks at the effective capabilities: what a pod's user may read by CAP_DAC_OVERRIDE it may execute.
#[test]
fn permission_to_execute_is_the_kernels() {
    use std::os::unix::fs::{chown, PermissionsExt};
    let mut b = Box::new(&["/app/busybox", "id", "-u"]);
    let app = b.rootfs().join("app");
    std::fs::create_dir(&app).unwrap();
    copied(&b.rootfs().join("bin/busybox"), &app.join("busybox"));
    *b.at("process.user") = json!({"uid": 1000, "gid": 1000});
    *b.at("process.env") = json!(["PATH=/app"]);
    let caps = json!(["CAP_DAC_OVERRIDE"]);
    let with = json!({"bounding": caps, "effective": caps, "permitted": caps});
    let mode = |path: &std::path::Path, mode| {
        chown(path, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (directory, file, allowed) in
        [(0o755, 0o750, true), (0o755, 0o700, true), (0o700, 0o755, true), (0o755, 0o644, false)]
    {
        mode(&app, directory);
        mode(&app.join("busybox"), file);
        for program in ["/app/busybox", "busybox"] {
            *b.at("process.args") = json!([program, "id", "-u"]);
            *b.at("process.capabilities") = with.clone();
            let r = b.run();
            assert_eq!(
                (r.code == 0, r.out == "1000\n"),
                (allowed, allowed),
                "{program} {directory:o} {file:o}: {}",
                r.err
            );
            *b.at("process.capabilities") = json!({});
            let r = b.run();
            // Go's own look-up says only that it found nothing.
            let said = r.err.contains("permission denied")
                || !is_conex() && r.err.contains("not found in $PATH");
            assert!(r.code != 0 && said, "{program}: {}", r.err);
        }
    }
    // The same for exec.
    mode(&app, 0o755);
    mode(&app.join("busybox"), 0o750);
    *b.at("process.capabilities") = with;
    *b.at("process.args") = json!(["/app/busybox", "sleep", "1000"]);
    b.up();
    assert_eq!(b.exec(&["busybox", "id", "-u"]).ok().out, "1000\n");
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
}

/// What an engine passes on when nothing was asked for.
#[test]
fn empty_words_are_as_if_absent() {
    let mut b = Box::sh("exec sleep 1000");
    b.up();
    let r = b.verb("exec", &["--user", "", "--cwd", ""], &["/bin/sh", "-c", "id -u; pwd"]);
    if is_conex() {
        assert_eq!(r.ok().out, "0\n/\n");
    }
    b.verb("delete", &["--force"], &[]).ok();
    *b.at("process.args") = json!([""]);
    let r = b.run();
    assert!(
        r.code != 0
            && r.err
                .replace("\\\"", "\"")
                .contains("exec: \"\": executable file not found in $PATH"),
        "{}",
        r.err
    );
    b.assert_gone();
}

/// An engine that is pinned to one CPU does not pin its containers (runc from 1.2 on).
#[test]
fn the_callers_cpus_are_the_callers() {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let allowed = |text: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:").map(|v| v.trim().to_string()))
            .unwrap()
    };
    let all = allowed(&all);
    if !is_conex() || all == "0" {
        return skip("the_callers_cpus_are_the_callers", "a second CPU");
    }
    let b = Box::sh("grep Cpus_allowed_list /proc/self/status; exec sleep 1000");
    b.write_config();
    let pinned = |args: &[&str]| {
        let mut c = Command::new("taskset");
        c.args(["-c", "0"])
            .arg(runtime())
            .arg("--root")
            .arg(b.state_root())
            .args(args)
            .current_dir(&b.dir);
        c
    };
    let out = std::fs::File::create(b.dir.join("out")).unwrap();
    let mut c = pinned(&["run", "-d", &b.id]);
    assert!(c.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).status().unwrap().success());
    until(|| b.output().contains('\n'), "the container's word");
    assert_eq!(allowed(&b.output()), all);
    let r = finish(
        &mut pinned(&["exec", &b.id, "grep", "Cpus_allowed_list", "/proc/self/status"]),
        b"",
    )
    .ok();
    assert_eq!(allowed(&r.out), all);
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
}
