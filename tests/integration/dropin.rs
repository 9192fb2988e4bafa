//! What users of runc and crun rely on without knowing it: owners, terminals, names, what is left over.

use crate::harness::*;
use serde_json::json;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// A program of another user opens /dev/stdout anew, whatever that is. (Detached: runc's foreground puts pipes between.)
#[test]
fn standard_output_of_any_kind_is_the_users() {
    let mut b = Box::sh("echo written > /dev/stdout; stat -L -c %u /dev/fd/1 >&2");
    *b.at("process.user") = json!({"uid": 1000, "gid": 1000});
    b.write_config();
    let said = b.dir.join("err");
    let run = |out: Stdio| {
        let mut c = b.command(&["run", "-d", &b.id]);
        c.stdin(Stdio::null()).stdout(out).stderr(std::fs::File::create(&said).unwrap());
        assert!(c.status().unwrap().success());
        b.wait_status("stopped");
        b.verb("delete", &[], &[]).ok();
        std::fs::read_to_string(&said).unwrap()
    };
    let path = b.dir.join("file");
    assert_eq!(run(std::fs::File::create(&path).unwrap().into()), "1000\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "written\n");
    let stat = path.metadata().unwrap();
    // The group stays.
    assert_eq!((stat.uid(), stat.gid()), (1000, 0));
    // In the foreground they are the caller's (runc: pipes between), and what can only be read stays in any case.
    let of = |flags: &[&str]| {
        let name = b.dir.join("another");
        std::fs::write(&name, "x").unwrap();
        let (read, write) = (
            std::fs::File::open(&name).unwrap(),
            std::fs::File::create(b.dir.join("written")).unwrap(),
        );
        let mut c = b.command(&[&["run"], flags, &[&b.id]].concat());
        assert!(c.stdin(read).stdout(write).stderr(Stdio::null()).status().unwrap().success());
        if !flags.is_empty() {
            b.wait_status("stopped");
        }
        (name.metadata().unwrap().uid(), b.dir.join("written").metadata().unwrap().uid())
    };
    if is_conex() {
        assert_eq!(of(&[]), (0, 0));
        assert_eq!(of(&["-d"]), (0, 1000));
        b.verb("delete", &[], &[]).ok();
    }
    // A terminal of the caller's that is not the container's own.
    let pair = nix::pty::openpty(None, None).unwrap();
    assert_eq!(run(pair.slave.try_clone().unwrap().into()), "1000\n");
    // Nobody's to give away.
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let before = null.metadata().unwrap().uid();
    run(null.try_clone().unwrap().into());
    assert_eq!(null.metadata().unwrap().uid(), before);
    // And a further process's, of a user of its own.
    *b.at("process.args.2") = json!("sleep 100");
    b.up();
    for (flags, owner) in [(&["-d"][..], 1001), (&[], 0)] {
        let file = b.dir.join("of-an-exec");
        let mut c =
            b.command(&[&["exec", "-u", "1001:1001"], flags, &[&b.id, "echo", "said"]].concat());
        c.stdin(Stdio::null()).stdout(std::fs::File::create(&file).unwrap()).stderr(Stdio::null());
        assert!(c.status().unwrap().success());
        until(|| std::fs::read_to_string(&file).unwrap() == "said\n", "what it says");
        assert_eq!(file.metadata().unwrap().uid(), owner, "{flags:?}");
        std::fs::remove_file(&file).unwrap();
    }
}

/// A runtime with a terminal of its own as standard input, and a file as standard output.
fn beside_a_terminal(b: &Box, args: &[&str]) -> (std::process::Child, OwnedFd) {
    let pair = nix::pty::openpty(None, None).unwrap();
    let mut command = b.command(args);
    let out = std::fs::File::create(b.dir.join("out")).unwrap();
    command.stdin(Stdio::from(pair.slave)).stdout(out).stderr(Stdio::piped());
    (command.spawn().unwrap(), pair.master)
}

#[test]
fn a_line_of_a_foreground_terminal_ends_as_anywhere() {
    let mut b = Box::sh("echo one; echo two; tty");
    *b.at("process.terminal") = json!(true);
    b.write_config();
    let (mut child, _master) = beside_a_terminal(&b, &["run", &b.id]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = std::fs::read_to_string(b.dir.join("out")).unwrap();
    assert!(text.starts_with("one\ntwo\n/dev/") && !text.contains('\r'), "{text:?}");
}

/// A new size of the caller's window is for the container's terminal alone.
#[test]
fn a_window_that_changes_is_no_signal_for_the_program() {
    let b = Box::sh("trap 'echo winch' WINCH; trap 'echo hup' HUP; echo ready; n=0; while [ $n -lt 40 ]; do sleep 0.02; n=$((n+1)); done");
    b.write_config();
    let mut child =
        b.command(&["run", &b.id]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 6];
    out.read_exact(&mut first).unwrap();
    for signal in [libc::SIGWINCH, libc::SIGHUP] {
        conex_sys::proc::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hup\n");
    child.wait().unwrap();
}

/// What a foreground run hands on, without a terminal and with one of the container's.
#[test]
fn signals_to_a_run_with_a_terminal() {
    let mut b = Box::sh("trap 'echo term' TERM; trap 'echo usr' USR1; trap 'echo hup' HUP; echo ready; i=0; while [ $i -lt 60 ]; do sleep 0.05; i=$((i+1)); done; stty size");
    *b.at("process.terminal") = json!(true);
    b.write_config();
    let (mut child, master) = beside_a_terminal(&b, &["run", &b.id]);
    let text = || std::fs::read_to_string(b.dir.join("out")).unwrap();
    until(|| text().contains("ready"), "the program is there");
    let run = nix::unistd::Pid::from_raw(child.id() as i32);
    for (signal, word) in [(libc::SIGTERM, "term"), (libc::SIGUSR1, "usr"), (libc::SIGHUP, "hup")] {
        conex_sys::proc::kill(run, signal).unwrap();
        until(|| text().contains(word), word);
    }
    // The window's new size is the container's terminal's as well; the signal itself is not the program's.
    conex_sys::tty::set_size(
        std::os::fd::AsFd::as_fd(&master),
        conex_sys::tty::Size { rows: 31, cols: 77 },
    )
    .unwrap();
    conex_sys::proc::kill(run, libc::SIGWINCH).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(text().trim_end().ends_with("31 77"), "{}", text());
}

#[test]
fn what_a_kernel_parameter_says_of_a_name_holds() {
    let mut b = Box::sh("cat /proc/sys/kernel/domainname");
    *b.at("domainname") = json!("one.example");
    assert_eq!(b.run().ok().out, "one.example\n");
    *b.at("linux.sysctl") = json!({"kernel.domainname": "two.example"});
    assert_eq!(b.run().ok().out, "two.example\n");
}

/// The kernel takes 255 bytes of a string by the new calls, and a page by mount(2).
#[test]
fn a_source_of_any_length() {
    let mut b = Box::sh("grep -c ttttttttttt /proc/self/mounts");
    let source = "t".repeat(1000);
    b.push(
        "mounts",
        json!({"destination": "/mnt", "type": "tmpfs", "source": source, "options": ["size=1m"]}),
    );
    assert_eq!(b.run().ok().out, "1\n");
    // A comma is part of a value only where the file system's parser says so.
    if is_conex() {
        b.push(
            "mounts",
            json!({"destination": "/mnt", "type": "tmpfs", "source": source, "options": ["size=1m,huge=never"]}),
        );
        b.run().fails_with("comma");
    }
}

/// Directories whose names hold commas, with more bytes of them than the new calls take.
#[test]
fn an_overlay_of_directories_with_commas() {
    let mut b = Box::sh("cat /mnt/file");
    let long = format!("{},with,commas", "d".repeat(200));
    let dirs: Vec<_> = ["a", "b"].iter().map(|n| b.dir.join(format!("{n}{long}"))).collect();
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(dirs[1].join("file"), "from below\n").unwrap();
    // A document has one string for each option; runc parts it at the commas, and these directories are its fault.
    if !is_conex() {
        return;
    }
    let lower = format!("lowerdir={}:{}", dirs[0].display(), dirs[1].display());
    b.push(
        "mounts",
        json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": [lower]}),
    );
    assert_eq!(b.run().ok().out, "from below\n");
}

/// Without a PID namespace the others live on when init has ended, and KILL is for them.
#[test]
fn kill_of_what_is_left() {
    let mut b = Box::sh("sleep 1000 & exit 0");
    b.drop_namespace("pid");
    b.create().ok();
    b.verb("start", &[], &[]).ok();
    b.wait_status("stopped");
    let processes = || {
        b.cgroups()
            .iter()
            .any(|c| std::fs::read_to_string(c.join("cgroup.procs")).is_ok_and(|t| !t.is_empty()))
    };
    assert!(processes());
    b.verb("kill", &[], &["KILL"]).ok();
    until(|| !processes(), "the rest is dead");
    b.verb("delete", &[], &[]).ok();
}

#[test]
fn an_event_is_a_line_in_runcs_order() {
    let b = Box::sh("sleep 1000");
    b.up();
    let line = b.verb("events", &["--stats"], &[]).ok().out;
    let start = format!("{{\"type\":\"stats\",\"id\":{:?},\"data\":{{\"cpu\":{{", b.id);
    assert!(line.starts_with(&start), "{line}");
    assert_eq!(line.lines().count(), 1);
}

/// A further process has the memory policy of the container.
#[test]
fn memory_policy_of_an_exec() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return skip("memory_policy_of_an_exec", "a kernel with NUMA");
    }
    let mut b = Box::sh("sleep 1000");
    *b.at("linux.memoryPolicy") = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"});
    if !is_conex() {
        // Of runc from 1.4 on.
        return;
    }
    b.up();
    let maps = b.exec(&["cat", "/proc/self/numa_maps"]).ok().out;
    assert!(maps.contains("interleave:0"), "{maps}");
}

/// The manager's socket cannot be spoken to: then no container may run that nobody watches.
#[test]
fn a_notify_socket_that_cannot_be() {
    let b = Box::sh("sleep 1000");
    b.write_config();
    let mut c = b.command(&["run", &b.id]);
    let ran = finish(c.env("NOTIFY_SOCKET", format!("/{}", "x".repeat(200))), b"");
    assert_ne!(ran.code, 0);
    if is_conex() {
        assert!(ran.err.contains("NOTIFY_SOCKET"), "{}", ran.err);
        b.assert_gone();
    }
}

/// Podman's keep-groups.
#[test]
fn groups_of_the_caller() {
    let mut b = Box::sh("grep Groups /proc/self/status; sleep 0.1");
    let run = |b: &Box| {
        b.write_config();
        let mut c = Command::new("setpriv");
        c.args(["--groups", "4242,4243"]).arg(runtime()).args([
            "--root",
            b.state_root().to_str().unwrap(),
            "run",
            &b.id,
        ]);
        finish(c.current_dir(&b.dir), b"").ok().out
    };
    assert_eq!(run(&b).trim(), "Groups:");
    if is_conex() {
        *b.at("annotations") = json!({"run.oci.keep_original_groups": "1"});
        assert_eq!(run(&b).trim(), "Groups:\t4242 4243");
        // Those of whoever makes the further process; in a user namespace they have no name.
        *b.at("process.args.2") = json!("sleep 100");
        b.up();
        let exec = |groups: &str| {
            let mut c = Command::new("setpriv");
            c.args(["--groups", groups]).arg(runtime()).arg("--root").arg(b.state_root());
            c.args(["exec", &b.id, "grep", "Groups", "/proc/self/status"]);
            finish(c.current_dir(&b.dir), b"").ok().out
        };
        assert_eq!(exec("4244").trim(), "Groups:\t4244");
        b.verb("delete", &["-f"], &[]).ok();
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        b.push("linux.namespaces", json!({"type": "user"}));
        (*b.at("linux.uidMappings"), *b.at("linux.gidMappings")) = (map.clone(), map);
        *b.at("process.args.2") = json!("grep Groups /proc/self/status; sleep 0.1");
        assert_eq!(run(&b).trim(), "Groups:\t65534 65534");
        b.at("annotations").as_object_mut().unwrap().clear();
        assert_eq!(run(&b).trim(), "Groups:");
    }
}

/// crun's annotations for the output of hooks.
#[test]
fn hooks_write_where_an_annotation_says() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    let (out, err) = (b.dir.join("hooks.out"), b.dir.join("hooks.err"));
    *b.at("annotations") = json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err});
    let hook = |word: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {word}; echo not {word} >&2")]}]);
    *b.at("hooks") = json!({"createRuntime": hook("runtime"), "poststart": hook("poststart"), "poststop": hook("poststop")});
    b.run().ok();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "runtime\npoststart\npoststop\n");
    assert_eq!(
        std::fs::read_to_string(&err).unwrap(),
        "not runtime\nnot poststart\nnot poststop\n"
    );
    *b.at("annotations") = json!({"run.oci.hooks.stdout": "/no/such/directory/out"});
    b.run().fails_with("run.oci.hooks.stdout");
    *b.at("annotations") = json!({"run.oci.hooks.stdout": "relative"});
    b.run().fails_with("must be absolute");
    // Those that run in the container's namespaces, where the path leads elsewhere, write to the host's file as well.
    std::fs::remove_file(&out).unwrap();
    *b.at("annotations") = json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err});
    *b.at("hooks") = json!({"createContainer": hook("create"), "startContainer": hook("start")});
    *b.at("process.args.2") = json!("ls /proc/self/fd | wc -l");
    assert_eq!(b.run().ok().out, "4\n", "the program has no more open");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "create\nstart\n");
    assert!(std::fs::read_to_string(&err).unwrap().ends_with("not create\nnot start\n"));
    *b.at("annotations") = json!({"run.oci.hooks.stdout": "/no/such/directory/out"});
    b.run().fails_with("run.oci.hooks.stdout");
    b.assert_gone();
}

/// crun's list of descriptors.
#[test]
fn descriptors_by_their_numbers() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("cat /proc/self/fd/7; ls /proc/self/fd | grep -c -e ^5$ -e ^6$");
    b.write_config();
    let file = b.dir.join("seven");
    std::fs::write(&file, "seven\n").unwrap();
    let run = |flag: &str, command: &str| {
        let line = format!(
            "exec 5</dev/null 6</dev/null 7<{}; {} --root {} {command}",
            file.display(),
            runtime().display(),
            b.state_root().display()
        );
        finish(
            Command::new("sh").arg("-c").arg(line.replace("FLAG", flag)).current_dir(&b.dir),
            b"",
        )
    };
    assert_eq!(run("--preserve-fd 7", &format!("run FLAG {}", b.id)).out, "seven\n0\n");
    assert_eq!(run("--preserve-fd 7,5", &format!("run FLAG {}", b.id)).out, "seven\n1\n");
    // The runtime's own, for its log, is nobody's.
    let ran = run("--preserve-fd 500", &format!("--debug run FLAG {}", b.id));
    assert!(
        ran.code == 1 && ran.err.contains("--preserve-fd: unable to stat preserved-fd 500"),
        "{}",
        ran.err
    );
    for wrong in ["7,9", "x", "1", "7,,5"] {
        run(&format!("--preserve-fd {wrong}"), &format!("run FLAG {}", b.id))
            .fails_with("--preserve-fd");
    }
    b.assert_gone();
}

/// Both processes say what they do: a hang shows where.
#[test]
fn every_step_with_debug() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    *b.at("hooks") = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.1"]}]});
    b.write_config();
    let log = b.dir.join("log.json");
    let call = |verb: &str| {
        let log = log.to_str().unwrap();
        let mut c = b.command(&["--debug", "--log", log, "--log-format", "json", verb, &b.id]);
        // The program keeps what it is given for as long as it waits.
        assert!(c
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success());
    };
    ["create", "start"].iter().for_each(|verb| call(verb));
    b.wait_status("stopped");
    call("delete");
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let said: Vec<&str> = lines.iter().map(|l| l["msg"].as_str().unwrap()).collect();
    let at = |part: &str| {
        said.iter().position(|s| s.contains(part)).unwrap_or_else(|| panic!("{part}: {said:#?}"))
    };
    // The host says that it has made the process when that may be at work already.
    assert!(["host: has the state directory ", "host: made the process ", "host: runs the hook "]
        .map(at)
        .is_sorted());
    let order = [
        "host: has read ",
        "host: has the state directory ",
        "container: mounts[0]: proc on /proc",
        "host: runs the hook /bin/sleep",
        "host: the hook /bin/sleep has ended",
        "container: root.path: changes the root",
        "container: sends Ready",
        "host: has reached the container",
        "container: capabilities, limits, seccomp (0 instructions), then /bin/sh",
    ];
    assert!(order.map(at).is_sorted(), "{said:#?}");
    // Microseconds, in UTC.
    assert!(
        lines.iter().all(|l| l["level"] == "debug" && l["time"].as_str().unwrap().len() == 27),
        "{text}"
    );
    // Nothing of it is the program's: not even its descriptor.
    let b = Box::sh("ls /proc/self/fd");
    b.write_config();
    let ran = b.call(&["--debug", "run", &b.id]).ok();
    assert_eq!(ran.out, "0\n1\n2\n3\n");
    // And of a process that joins.
    let c = Box::sh("sleep 1000");
    c.up();
    let joined = c.call(&["--debug", "exec", &c.id, "ls", "/proc/self/fd"]).ok();
    assert_eq!(joined.out, "0\n1\n2\n3\n");
    let steps = ["host: made the process that joins", "container: capabilities, limits"];
    assert!(steps.iter().all(|step| joined.err.contains(step)), "{}", joined.err);
    assert!(
        ran.err.lines().count() > 20
            && b.call(&["--debug", "state", "none"]).err.lines().count() == 1
    );
    b.assert_gone();
}

/// A user namespace of somebody else's, with the ids from 100,000 on; held by the process.
fn user_namespace() -> (std::process::Child, String) {
    let child = Command::new("unshare").args(["--user", "sleep", "1000"]).spawn().unwrap();
    let proc = format!("/proc/{}", child.id());
    let ours = std::fs::read_link("/proc/self/ns/user").unwrap();
    until(
        || std::fs::read_link(format!("{proc}/ns/user")).is_ok_and(|l| l != ours),
        "the namespace",
    );
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("{proc}/{file}"), "0 100000 65536").unwrap();
    }
    (child, format!("{proc}/ns/user"))
}

/// `idmap` without mappings means those of the container's user namespace, one that is joined too.
#[test]
fn an_idmapped_volume_in_a_namespace_that_is_joined() {
    if lacks("mount_setattr", "an_idmapped_volume_in_a_namespace_that_is_joined") {
        return;
    }
    let (mut holder, path) = user_namespace();
    let mut b = Box::sh("stat -c '%u %g' /mnt/file");
    if maps_no_ids(&b.dir, "an_idmapped_volume_in_a_namespace_that_is_joined") {
        let _ = (holder.kill(), holder.wait());
        return;
    }
    let volume = b.dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "x").unwrap();
    std::os::unix::fs::chown(b.rootfs(), Some(100_000), Some(100_000)).unwrap();
    b.push("linux.namespaces", json!({"type": "user", "path": path}));
    b.push(
        "mounts",
        json!({"destination": "/mnt", "type": "bind", "source": volume, "options": ["rbind", "idmap"]}),
    );
    let ran = b.run();
    let _ = (holder.kill(), holder.wait());
    // runc from 1.2 on.
    if is_conex() {
        assert_eq!(ran.ok().out, "0 0\n");
    }
}

/// The source of a bind is what an earlier mount has brought into the root, with a user namespace as well.
#[test]
fn a_source_on_an_earlier_mount() {
    for user in [false, true] {
        // Without it the user namespace's root opens the volume, which is below a directory of the host's root.
        let mut b = Box::sh("cat /second/file");
        let volume = b.dir.join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("file"), "found\n").unwrap();
        std::fs::set_permissions(&b.dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        for dir in ["first", "second"] {
            std::fs::create_dir(b.rootfs().join(dir)).unwrap();
        }
        if user {
            b.push("linux.namespaces", json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
            (*b.at("linux.uidMappings"), *b.at("linux.gidMappings")) = (map.clone(), map);
        }
        let source = b.rootfs().join("first");
        b.push("mounts", json!({"destination": "/first", "type": "bind", "source": volume, "options": ["rbind"]}));
        b.push("mounts", json!({"destination": "/second", "type": "bind", "source": source, "options": ["rbind"]}));
        assert_eq!(b.run().ok().out, "found\n", "user namespace: {user}");
    }
}

/// The source of an idmapped volume lies on an earlier mount, which only the container sees: an error, not the directory below.
#[test]
fn an_idmapped_source_on_an_earlier_mount() {
    if !is_conex() || lacks("mount_setattr", "an_idmapped_source_on_an_earlier_mount") {
        return;
    }
    let mut b = Box::sh("true");
    b.push("mounts", json!({"destination": "/vol", "type": "tmpfs", "source": "tmpfs"}));
    let source = b.rootfs().join("vol/sub");
    std::fs::create_dir_all(&source).unwrap();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    b.push(
        "mounts",
        json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["rbind"],
        "uidMappings": map, "gidMappings": map}),
    );
    b.run().fails_with(".source: ").fails_with("lies on an earlier mount");
    b.assert_gone();
}

/// A terminal whose name somebody else has opened and goes on writing to: `exec -t` ends with its process.
#[test]
fn a_terminal_that_never_ends() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 1000");
    b.up();
    for script in
        ["nohup yes >/dev/null 2>&1 & exit 4", "(exec setsid yes > $(tty)) & sleep 0.3; exit 4"]
    {
        let begun = std::time::Instant::now();
        let (mut child, terminal) =
            beside_a_terminal(&b, &["exec", "-t", &b.id, "sh", "-c", script]);
        let reader = std::thread::spawn(move || {
            let mut file = std::fs::File::from(terminal);
            let mut part = [0u8; 4096];
            while file.read(&mut part).is_ok_and(|n| n > 0) {}
        });
        let code = child.wait().unwrap().code();
        assert!(
            code == Some(4) && begun.elapsed().as_secs() < 8,
            "{script}: {code:?} {:?}",
            begun.elapsed()
        );
        drop(reader);
    }
}
