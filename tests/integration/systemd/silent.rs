//! A systemd that has hung, and one that is another one's.

use super::*;

/// Sockets that take connections and say nothing, in a directory that stands for /run.
fn silent(dir: &Path) -> [std::os::unix::net::UnixListener; 2] {
    for sub in ["systemd/system", "dbus"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    let listen = |name: &str| std::os::unix::net::UnixListener::bind(dir.join(name)).unwrap();
    [listen("systemd/private"), listen("dbus/system_bus_socket")]
}

/// The verb in a mount namespace where `run` is /run.
fn beside(b: &Box, run: &Path, words: &str) -> Command {
    let line = format!(
        "mount --bind {} /run && exec {} --root {}/state --systemd-cgroup {words} </dev/null",
        run.display(),
        runtime().display(),
        b.dir.display(),
    );
    let mut c = Command::new("unshare");
    c.args(["--mount", "--propagation", "private", "sh", "-c", &line]).current_dir(&b.dir);
    c
}

/// A systemd that has hung is waited for once, not with each call, and the error says since when.
#[test]
fn a_systemd_that_does_not_answer() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    *b.at("linux.cgroupsPath") = json!("system.slice:conex-test:hung");
    b.write_config();
    let run = b.dir.join("run");
    let _silent = silent(&run);
    let begin = std::time::Instant::now();
    let r = finish_within(&mut beside(&b, &run, &format!("create {}", b.id)), b"", 100);
    assert!(r.code == 1 && r.err.contains("has not answered since"), "{}", r.err);
    assert!(r.err.contains("waiting"), "nobody was told: {}", r.err);
    assert!(begin.elapsed().as_secs() < 40, "{:?}", begin.elapsed());
    b.assert_gone();
}

/// The same for what is done to a container that runs: one deadline, one reason, and afterwards all of it can be done again.
#[test]
fn a_systemd_that_answers_no_more() {
    let Some(b) = unit("a_systemd_that_answers_no_more", "sleep 100") else { return };
    let _turn = turn();
    if !is_conex() {
        return;
    }
    b.up();
    let run = b.dir.join("run");
    let _silent = silent(&run);
    for words in [
        "update --pids-limit 50 ID",
        "update --memory 90M --cpu-quota 50000 ID",
        "delete --force ID",
    ] {
        let begin = std::time::Instant::now();
        let r = finish_within(&mut beside(&b, &run, &words.replace("ID", &b.id)), b"", 100);
        assert!(r.code == 1 && r.err.contains("has not answered since"), "{words}: {}", r.err);
        assert!(r.err.contains("waiting"), "{words}: nobody was told: {}", r.err);
        assert!(begin.elapsed().as_secs() < 40, "{words}: {:?}", begin.elapsed());
        if words.starts_with("update") {
            assert_ne!(show(&b, "TasksMax"), "50");
            b.exec(&["true"]).ok();
        }
    }
    b.verb("delete", &["--force"], &[]).ok();
    gone(&b);
}

/// A number names a process to systemd only where both count alike. This one shakes hands from a PID namespace of its own,
/// which conex sees, or outside of the one that conex is in.
#[test]
fn a_systemd_that_counts_processes_otherwise() {
    if !is_conex() {
        return;
    }
    let server = "use IO::Socket::UNIX; my $l = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die; \
        while (my $c = $l->accept) { while (my $line = <$c>) { if ($line =~ /AUTH/) { print $c \"OK 0123456789abcdef0123456789abcdef\\r\\n\"; } \
        elsif ($line =~ /NEGOTIATE/) { print $c \"AGREE_UNIX_FD\\r\\n\"; } $c->flush; last if $line =~ /BEGIN/; } sleep 1; }";
    for inside in [true, false] {
        let mut b = Box::sh("true");
        *b.at("linux.cgroupsPath") = json!("system.slice:conex-test:counts");
        b.write_config();
        let run = b.dir.join("run");
        std::fs::create_dir_all(run.join("systemd/system")).unwrap();
        let socket = run.join("systemd/private");
        let mut c = Command::new(if inside { "unshare" } else { "env" });
        if inside {
            c.args(["--pid", "--fork", "--kill-child"]);
        }
        let mut server = c.args(["perl", "-e", server]).arg(&socket).spawn().unwrap();
        until(|| socket.exists(), "the server");
        let mut verb = beside(&b, &run, &format!("create {}", b.id));
        if !inside {
            let mut outer = Command::new("unshare");
            outer
                .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
                .arg(verb.get_program())
                .args(verb.get_args());
            outer.current_dir(&b.dir);
            verb = outer;
        }
        let r = finish_within(&mut verb, b"", 60);
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(
            r.code == 1 && r.err.contains("systemd runs in another PID namespace"),
            "{inside}: {}",
            r.err
        );
        assert!(r.err.contains("linux.cgroupsPath"), "{}", r.err);
        b.assert_gone();
    }
}
