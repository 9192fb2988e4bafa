//! What a person types: a directory run without a document, a document from a command, help, and what was meant.

use crate::harness::*;
use serde_json::Value;
use std::process::{Command, Stdio};

fn conex(args: &[&str]) -> Ran {
    finish(Command::new(runtime()).args(args), b"")
}

#[test]
fn a_directory_runs_without_a_document() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    let rootfs = b.rootfs();
    let rootfs = rootfs.to_str().unwrap();
    let shared = b.dir.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host\n").unwrap();
    let volume = format!("{}:/mnt:ro", shared.display());
    let script = "cat /mnt/file; echo $A $B; id -u; hostname; touch /mnt/x; touch /x && echo writable; exit 7";
    let mut c = b.command(&[
        "run", "--rootfs", rootfs, "--name", &b.id, "-v", &volume, "-e", "A=b", "-e", "B", "--",
        "/bin/sh", "-c", script,
    ]);
    let r = finish(c.env("B", "taken"), b"");
    assert_eq!(r.code, 7, "{}", r.err);
    assert_eq!(r.out, format!("from the host\nb taken\n0\n{}\nwritable\n", b.id), "{}", r.err);
    assert!(r.err.contains("Read-only file system"), "{}", r.err);
    std::fs::remove_file(b.rootfs().join("x")).unwrap();
    // Flags of the command are the command's.
    let r =
        b.call(&["run", "--rootfs", rootfs, "--name", &b.id, "/bin/echo", "--detach", "-v"]).ok();
    assert_eq!(r.out, "--detach -v\n");
    b.assert_gone();
}

#[test]
fn its_document_is_kept_with_its_limits() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    let rootfs = b.rootfs();
    let mut args =
        vec!["run", "-d", "--rootfs", rootfs.to_str().unwrap(), "--name", &b.id, "--user", "7:8"];
    let limited = has_controller("memory") && has_controller("cpu");
    if limited {
        args.extend(["-m", "64m", "--cpus", "0.5"]);
    }
    args.extend(["--net", "host", "/bin/sleep", "1000"]);
    let mut c = b.command(&args);
    c.stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    assert_eq!(c.status().unwrap().code(), Some(0));
    let document: Value = serde_json::from_str(&b.call(&["spec", "--of", &b.id]).ok().out).unwrap();
    assert_eq!(document["process"]["user"], serde_json::json!({"uid": 7, "gid": 8}));
    if limited {
        assert_eq!(document["linux"]["resources"]["memory"]["limit"], 64 << 20);
        assert_eq!(document["linux"]["resources"]["cpu"]["quota"], 50_000);
    }
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(std::fs::read_link(format!("/proc/{}/ns/net", b.pid())).unwrap(), own);
    b.verb("delete", &["--force"], &[]).ok();
    b.call(&["spec", "--of", &b.id]).fails_with("does not exist");
    b.assert_gone();
}

#[test]
fn wrong_flags_of_it_are_named() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    let rootfs = b.rootfs();
    let rootfs = rootfs.to_str().unwrap();
    for (args, said) in [
        (&["--rootfs", "/no/such", "true"][..], "--rootfs /no/such"),
        (
            &["--rootfs", rootfs, "--net", "bridge", "true"],
            "--net \"bridge\": expected host or none",
        ),
        (
            &["--rootfs", rootfs, "-v", "/no/such:/x", "true"],
            "--volume \"/no/such:/x\": the source",
        ),
        (&["--rootfs", rootfs, "-v", "/tmp", "true"], "expected SOURCE:DESTINATION"),
        (&["--rootfs", rootfs, "-v", "/tmp:x", "true"], "the destination is not an absolute path"),
        (&["--rootfs", rootfs, "-m", "lots", "true"], "flag --memory: not a size"),
        (&["--rootfs", rootfs, "--cpus", "two", "true"], "--cpus \"two\""),
        (
            &["--rootfs", rootfs, "--user", "root", "true"],
            "--user \"root\": expected uid[:gid] in decimal",
        ),
        (&["--rootfs", rootfs, "-e", "=x", "true"], "--env \"=x\""),
        (&["--rootfs", rootfs], "takes 1 or more arguments"),
        (&["--rootfs", rootfs, "--name", "a/b", "true"], "invalid container ID format"),
        (&["--rootfs", rootfs, "--name", ".", "true"], "invalid container ID format"),
        (&["--rootfs", rootfs, "--bundel", "x", "true"], "unknown flag --bundel"),
    ] {
        let mut all = vec!["run"];
        all.extend(args);
        let r = b.call(&all);
        assert!(
            r.code == 1 && r.err.replace("\\\"", "\"").contains(said),
            "{args:?}: {} {}",
            r.code,
            r.err
        );
    }
    assert!(!b.state_root().exists() || std::fs::read_dir(b.state_root()).unwrap().count() == 0);
}

#[test]
fn a_document_from_a_command() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    // In the order in which people read it, and what its command line says.
    b.call(&["spec", "--", "/bin/echo", "a \"quoted\" word"]).ok();
    let text = std::fs::read_to_string(b.dir.join("config.json")).unwrap();
    let at =
        |key: &str| text.find(&format!("\"{key}\"")).unwrap_or_else(|| panic!("{key}: {text}"));
    let order =
        ["ociVersion", "process", "args", "cwd", "env", "root", "hostname", "mounts", "linux"];
    assert!(order.windows(2).all(|w| at(w[0]) < at(w[1])), "{text}");
    // As it is, it runs.
    let r = b.call(&["run", "."]).ok();
    assert_eq!(r.out, "a \"quoted\" word\n");
    std::fs::remove_file(b.dir.join("config.json")).unwrap();
    let elsewhere = Box::sh("true");
    b.call(&["spec", "--rootfs", elsewhere.rootfs().to_str().unwrap(), "/bin/true"]).ok();
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(b.dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        document["root"]["path"],
        elsewhere.rootfs().canonicalize().unwrap().to_str().unwrap()
    );
    std::fs::remove_file(b.dir.join("config.json")).unwrap();
    b.call(&["spec", "--rootfs", "rootfs", "--terminal", "/bin/true"]).ok();
    let document: Value =
        serde_json::from_str(&std::fs::read_to_string(b.dir.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&document["root"]["path"], &document["process"]["terminal"]),
        (&"rootfs".into(), &true.into())
    );
    b.call(&["spec", "--rootfs", "/no/such/dir", "x"]).fails_with("--rootfs /no/such/dir");
}

/// crun's flag.
#[test]
fn another_document_for_a_bundle() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("echo from the other");
    let other = b.dir.join("other.json");
    std::fs::write(&other, b.config.to_string()).unwrap();
    let r = b.verb("run", &["--config", other.to_str().unwrap()], &[]).ok();
    assert_eq!(r.out, "from the other\n");
    std::fs::write(&other, "{}").unwrap();
    b.verb("run", &["-f", other.to_str().unwrap()], &[]).fails_with("ociVersion: required");
    b.assert_gone();
}

/// runc refuses it as well; 0.1 waited for ever.
#[test]
fn a_terminal_without_one() {
    let mut b = Box::sh("true");
    *b.at("process.terminal") = true.into();
    b.write_config();
    let mut c = Command::new("setsid");
    c.arg("-w")
        .arg(runtime())
        .arg("--root")
        .arg(b.state_root())
        .args(["run", &b.id])
        .current_dir(&b.dir);
    let r = finish(&mut c, b"");
    assert_ne!(r.code, 0, "{}", r.err);
    if is_conex() {
        assert!(r.err.contains("process.terminal: needs a terminal"), "{}", r.err);
    }
    b.assert_gone();
    *b.at("process.terminal") = false.into();
    *b.at("process.args") = serde_json::json!(["/bin/sleep", "1000"]);
    b.up();
    let mut c = Command::new("setsid");
    c.arg("-w")
        .arg(runtime())
        .arg("--root")
        .arg(b.state_root())
        .args(["exec", "-t", &b.id, "true"]);
    let r = finish(c.current_dir(&b.dir), b"");
    assert_ne!(r.code, 0, "{}", r.err);
    b.verb("delete", &["--force"], &[]).ok();
}

#[test]
fn slips_are_understood() {
    if !is_conex() {
        return;
    }
    for (args, said) in [
        (&["killl", "x"][..], "conex: unknown command 'killl'; did you mean 'kill'?\n"),
        (&["lnit"], "conex: unknown command 'lnit'; did you mean 'lint'?\n"),
        (&["frobnicate"], "conex: unknown command 'frobnicate'\nAll commands: conex help\n"),
        (&["state"], "conex state: takes one argument (<container-id>), got 0\nHow it is used: conex help state\n"),
        (
            &["run", "--bundel", "x"],
            "conex run: unknown flag --bundel; did you mean --bundle?\nHow it is used: conex help run\n",
        ),
        (&["--rot", "/x", "list"], "conex: unknown flag --rot; did you mean --root?\nHow it is used: conex help\n"),
    ] {
        let r = conex(args);
        // runc's status for an unknown command.
        let code = if said.contains("unknown command") { 3 } else { 1 };
        assert_eq!((r.code, r.err.as_str(), r.out.as_str()), (code, said, ""), "{args:?}");
    }
    let help = conex(&["help"]).ok().out;
    for verb in ["lint", "doctor", "setup", "run", "spec"] {
        assert!(help.contains(&format!("\n   {verb} ")), "{help}");
        assert!(conex(&["help", verb]).ok().out.contains("USAGE:"));
        assert!(conex(&[verb, "--help"]).ok().out.contains("USAGE:"));
    }
}

#[test]
fn cpus_of_a_running_container() {
    if !is_conex() || !has_controller("cpu") {
        return;
    }
    let b = Box::sh("sleep 1000");
    b.up();
    b.verb("update", &["--cpus", "1.5"], &[]).ok();
    let quota = b.cgroup_value("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("150000"), "{quota}");
    b.verb("update", &["--cpus", "1", "--cpu-quota", "5000"], &[]).fails_with("exclude");
    b.verb("update", &["--cpus", "none"], &[]).fails_with("--cpus");
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
}

#[test]
fn the_doctor_looks_and_touches_nothing() {
    if !is_conex() {
        return;
    }
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ran = conex(&["doctor", "--json"]);
    // What the kernel lacks is told by the status too.
    assert_eq!(ran.code, i32::from(missing("mount_setattr") == Some(OLDER)), "{}", ran.out);
    let found: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    let of = |area: &str| {
        found.iter().find(|f| f["area"] == area).unwrap_or_else(|| panic!("{area}: {found:?}"))
    };
    for area in [
        "kernel",
        "cgroups",
        "namespaces",
        "seccomp",
        "LSM",
        "overlay",
        "CRIU",
        "conex",
        "systemd",
        "mounts",
    ] {
        let one = of(area);
        let verdict = one["verdict"].as_str().unwrap();
        // What is not well has its advice.
        assert_eq!(verdict == "ok", one["advice"] == "", "{one}");
    }
    assert!(of("mounts")["what"].as_str().unwrap().contains("mounts on this host"));
    let text = conex(&["doctor"]).ok().out;
    assert!(text.lines().any(|l| l.starts_with("ok      kernel ")), "{text}");
    assert_eq!(before, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
}

/// The second program lies beside the first, or in libexec; without it the message says where it was looked for.
#[test]
fn without_the_second_program() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    let bin = b.dir.join("sbin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("conex");
    copied(&runtime(), &program);
    let lint = || finish(Command::new(&program).args(["lint", "/no/such"]), b"");
    lint().fails_with("conex-tools");
    let libexec = b.dir.join("libexec/conex");
    std::fs::create_dir_all(&libexec).unwrap();
    copied(&runtime().with_file_name("conex-tools"), &libexec.join("conex-tools"));
    lint().fails_with("stat(/no/such)");
}

#[test]
fn a_log_that_cannot_be_is_told() {
    let b = Box::sh("true");
    b.write_config();
    let r = b.call(&["list"]);
    assert_eq!(r.code, 0, "{}", r.err);
    let mut c = Command::new(runtime());
    c.args(["--log", "/no/such/dir/log", "--root"])
        .arg(b.state_root())
        .args(["run", &b.id])
        .current_dir(&b.dir);
    let r = finish(&mut c, b"");
    assert!(r.code != 0 && r.err.contains("/no/such/dir/log"), "{} {}", r.code, r.err);
    b.assert_gone();
}

/// Descriptors that the caller hands on are the caller's, and what is bound read-only is so with all below it.
#[test]
fn what_is_handed_on_and_what_is_kept_from_writing() {
    if !is_conex() || lacks("mount_setattr", "what_is_handed_on_and_what_is_kept_from_writing") {
        return;
    }
    let b = Box::sh("true");
    let (outer, file) = (b.dir.join("outer"), b.dir.join("file"));
    std::fs::create_dir_all(outer.join("below")).unwrap();
    std::fs::write(&file, "through three\n").unwrap();
    let line = format!(
        "mount -t tmpfs tmpfs {outer}/below && exec {conex} --root {root} run --rootfs {rootfs} --name {id} --preserve-fds 1 \
         -v {outer}:/mnt:ro -- /bin/sh -c 'cat <&3; touch /mnt/below/x; ls /proc/self/fd | wc -l' 3<{file}",
        outer = outer.display(),
        conex = runtime().display(),
        root = b.state_root().display(),
        rootfs = b.rootfs().display(),
        id = b.id,
        file = file.display(),
    );
    let r = finish(
        Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &line]),
        b"",
    );
    // 0, 1, 2, 3 and the one that ls has open.
    assert_eq!(r.out, "through three\n5\n", "{}", r.err);
    assert!(r.err.contains("Read-only file system"), "{}", r.err);
    b.assert_gone();
}

/// `wait` says how a container has ended, whoever its parent is.
#[test]
fn the_end_is_waited_for() {
    if !is_conex() {
        return;
    }
    if older_than((6, 15)) {
        let what = "how a process has ended, told by its pidfd (Linux 6.15)";
        return skip("the_end_is_waited_for", what);
    }
    let told = |b: &Box| {
        let mut waiting = b.command(&["wait", &b.id]);
        let waiting = waiting
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        waiting
    };
    let b = Box::sh("while [ ! -e /go ]; do sleep 0.02; done; exit 7");
    b.create().ok();
    let child = told(&b);
    b.verb("start", &[], &[]).ok();
    std::fs::write(b.rootfs().join("go"), "").unwrap();
    let ran = child.wait_with_output().unwrap();
    assert_eq!((ran.status.code(), ran.stdout.as_slice()), (Some(0), &b"7\n"[..]), "{ran:?}");
    b.verb("wait", &[], &[]).fails_with("has ended already");
    b.verb("delete", &[], &[]).ok();
    b.verb("wait", &[], &[]).fails_with("does not exist");
    let b = Box::sh("sleep 1000");
    b.up();
    let child = told(&b);
    b.verb("kill", &[], &["KILL"]).ok();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"137\n");
}

/// `list --all` and `--stats`: for people, in the second program.
#[test]
fn what_is_there_and_what_it_uses() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("while :; do :; done");
    *b.at("linux.resources.memory") = serde_json::json!({"limit": 64 << 20});
    b.up();
    let row = |flags: &[&str]| {
        let out = b.call(&[&["list"], flags].concat()).ok().out;
        let line = out
            .lines()
            .find(|l| l.starts_with(&format!("{} ", b.id)))
            .unwrap_or_else(|| panic!("{out}"));
        (
            out.lines().next().unwrap().to_string(),
            line.split("   ").map(|w| w.trim().to_string()).collect::<Vec<_>>(),
        )
    };
    let (head, all) = row(&["--all"]);
    assert!(head.starts_with("ID") && head.ends_with("ROOT"), "{head}");
    assert!(
        all.contains(&"running".into())
            && all.last().unwrap() == &b.state_root().display().to_string(),
        "{all:?}"
    );
    let (head, stats) = row(&["--stats"]);
    assert!(head.ends_with("UPTIME"), "{head}");
    let stats: Vec<_> = stats.into_iter().filter(|w| !w.is_empty()).collect();
    let percent: f64 = stats[4].strip_suffix(" %").unwrap().parse().unwrap();
    // Where the host is slow, its clock of the looks is not that of the counters.
    let most = 110.0 * if slowness() > 1 { 4.0 } else { 1.0 };
    assert!(percent > 2.0 && percent <= most, "{stats:?}");
    if has_controller("memory") {
        assert_eq!(stats[6], "64.0 MiB", "{stats:?}");
    }
    assert!(stats[8].ends_with(" s"), "{stats:?}");
    let ids = b.call(&["list", "-a", "-q"]).ok().out;
    assert!(ids.lines().any(|l| l == b.id), "{ids}");
    // Of nobody, and a wrong flag.
    assert_eq!(b.call(&["list", "--all", "--nothing"]).code, 1);
}

/// `--trace`: the verb does what it does without, and the timeline of both processes is in the file.
#[test]
fn a_timeline_in_each_form() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("cat; exit 3");
    *b.at("hooks") = serde_json::json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.1"]}],
        "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", "echo $TRACEPARENT > parent"]}]});
    b.write_config();
    let of = |name: &str| {
        let file = b.dir.join(name);
        let mut c = b.command(&["--trace", file.to_str().unwrap(), "run", &b.id]);
        let ran = finish(c.env("TRACEPARENT", "00-aa-bb-01"), b"given");
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (3, "given", ""));
        std::fs::read_to_string(&file).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&of("t.json")).unwrap();
    assert_eq!(json["otherData"]["traceparent"], "00-aa-bb-01");
    // The spec gives a hook's variables; this one is the caller's.
    assert_eq!(std::fs::read_to_string(b.dir.join("parent")).unwrap(), "00-aa-bb-01\n");
    let events = json["traceEvents"].as_array().unwrap();
    let find = |text: &str, thread: u64| {
        let fits = |e: &&serde_json::Value| {
            e["tid"] == thread && e["name"].as_str().unwrap().contains(text)
        };
        events.iter().find(fits).unwrap_or_else(|| panic!("{text}: {json:#}"))
    };
    let hook = find("runs the hook /bin/sleep", 1);
    assert!(
        hook["cat"] == "hook" && (100_000..2_000_000).contains(&hook["dur"].as_u64().unwrap()),
        "{hook}"
    );
    assert_eq!(find("mounts[0]: proc on /proc", 2)["cat"], "work");
    find("then /bin/sh", 2);
    let svg = of("t.svg");
    assert!(
        svg.starts_with("<svg ")
            && svg.ends_with("</svg>\n")
            && svg.contains("runs the hook /bin/sleep"),
        "{svg}"
    );
    let html = of("t.html");
    assert!(
        html.contains("<svg ") && html.ends_with("</html>\n") && html.contains("00-aa-bb-01"),
        "{html}"
    );
    // As text, of each verb, beside what it says by itself.
    let text = |args: &[&str]| b.call(&[&["--trace", "-"], args].concat());
    for (args, step) in [
        (&["create", &b.id][..], "the hook /bin/sleep has ended"),
        (&["start", &b.id], "has reached the container"),
    ] {
        let mut c = b.command(&[&["--trace=-"], args].concat());
        let err = b.dir.join("err");
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&err).unwrap());
        assert!(c.status().unwrap().success());
        let err = std::fs::read_to_string(&err).unwrap();
        assert!(err.contains(step) && err.contains(" in all;"), "{err}");
    }
    b.wait_status("stopped");
    let gone = text(&["delete", &b.id]);
    assert!(gone.code == 0 && gone.err.contains(" in all;"), "{}", gone.err);
    let none = text(&["delete", &b.id]);
    // Found out before the first step.
    assert!(none.err.contains("no step was taken"), "{}", none.err);
    assert!(none.code == 1 && none.err.contains("does not exist"), "{}", none.err);
    // The last one counts, as with every flag.
    let (one, two) = (b.dir.join("one.json"), b.dir.join("two.svg"));
    let flags = [format!("--trace={}", one.display()), format!("--trace={}", two.display())];
    assert_eq!(b.call(&[&flags[0], &flags[1], "state", &b.id]).code, 1);
    assert!(!one.exists() && std::fs::read_to_string(&two).unwrap().starts_with("<svg "));
    b.call(&["--trace", "x.txt", "run", &b.id]).fails_with("ends in .json, .svg or .html");
    b.call(&["--trace", "/no/x.svg", "run", &b.id]).fails_with("--trace: open(/no/x.svg");
    b.assert_gone();
}

/// The signals that a traced `run` gets are the container's.
#[test]
fn a_signal_to_a_traced_run() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("trap 'exit 5' USR1; echo up; while :; do sleep 0.05; done");
    b.write_config();
    let mut c = b.command(&["--trace", "-", "run", &b.id]);
    let mut child =
        c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = [0u8; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGUSR1,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    b.assert_gone();
}
