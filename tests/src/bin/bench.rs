//! `bench ROUNDS CONEX FLOOR [quick [LANDED]]`: times `run` and `exec` of conex, runc and crun against the kernel floor, interleaved,
//! and prints medians, spread, ratios and the private memory of the waiting init. `quick`: conex alone, or beside
//! an earlier build, without rests.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rounds: usize = args[1].parse().expect("ROUNDS CONEX FLOOR");
    let (conex, floor) = (args[2].as_str(), args[3].as_str());
    let dir = Path::new("/tmp/bundle");
    bundle(dir, conex);
    // The first run makes what is kept between runs.
    time(Command::new(conex).args(["run", "first"]).current_dir(dir));
    let quick = args.get(4).is_some_and(|a| a == "quick");
    let all = [("conex", conex), ("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc")];
    let pair = args.get(5).map(|landed| [all[0], ("landed", landed.as_str())]);
    let alone = if quick { &all[..1] } else { &all };
    let runtimes = pair.as_ref().map_or(alone, |pair| pair.as_slice());
    let mut run: Vec<(&str, Vec<f64>)> = vec![("floor", Vec::new())];
    run.extend(runtimes.iter().map(|(n, _)| (*n, Vec::new())));
    let mut rested = run.clone();
    let measure = |into: &mut Vec<(&str, Vec<f64>)>, pause: u64, i: usize| {
        let rest = || std::thread::sleep(Duration::from_millis(pause));
        rest();
        let mut floor = Command::new(floor);
        // As conex has it, where the kernel's own cannot be seen.
        let kept = "/run/conex/.empty/mnt";
        if Path::new(kept).exists() {
            floor.env("FLOOR_NAMESPACE", kept);
        }
        into[0].1.push(time(floor.args(["/tmp/bundle/rootfs", "/bin/true"]).current_dir(dir)));
        for (slot, (_, binary)) in runtimes.iter().enumerate() {
            rest();
            into[slot + 1]
                .1
                .push(time(of(binary).args(["run", &format!("r{i}")]).current_dir(dir)));
        }
    };
    (0..rounds).for_each(|i| measure(&mut run, 0, i));
    // Back to back, the kernel's lock for moving processes between cgroups stays taken; after a rest it waits for RCU.
    report("run of /bin/true, to its end and removal", &run);
    if !quick {
        (0..rounds.div_ceil(3)).for_each(|i| measure(&mut rested, 100, i));
        report("the same after 0.1 s of rest", &rested);
        run.iter_mut().for_each(|(_, times)| times.clear());
        let mut loops: Vec<_> = (0..2)
            .map(|_| Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn())
            .map(|child| child.expect("spawn"))
            .collect();
        (0..rounds.div_ceil(3)).for_each(|i| measure(&mut run, 0, i));
        for child in &mut loops {
            let _ = child.kill();
            let _ = child.wait();
        }
        report("the same beside two busy loops", &run);
    }
    waiting(dir, runtimes, floor, rounds);
}

fn bundle(dir: &Path, conex: &str) {
    std::fs::create_dir_all(dir.join("rootfs/bin")).expect("mkdir");
    for name in ["true", "sleep"] {
        std::fs::copy("/usr/bin/busybox", dir.join("rootfs/bin").join(name))
            .expect("busybox-static");
    }
    assert!(Command::new(conex)
        .arg("spec")
        .current_dir(dir)
        .status()
        .expect("conex spec")
        .success());
    rewrite(dir, &["/bin/true"]);
}

fn rewrite(dir: &Path, args: &[&str]) {
    let file = dir.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("json");
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = args.into();
    std::fs::write(file, config.to_string()).expect("write");
}

/// A build that landed keeps what it keeps between runs elsewhere.
fn of(binary: &str) -> Command {
    let mut c = Command::new(binary);
    if binary.ends_with("/landed") {
        c.args(["--root", "/run/landed"]);
    }
    c
}

fn time(command: &mut Command) -> f64 {
    let begun = Instant::now();
    let out = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .expect("spawn");
    let elapsed = begun.elapsed().as_secs_f64() * 1000.0;
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    elapsed
}

fn report(what: &str, list: &[(&str, Vec<f64>)]) {
    println!("{what}");
    let mut base = 0.0;
    for (name, times) in list {
        let mut t = times.clone();
        t.sort_by(f64::total_cmp);
        let median = t[t.len() / 2];
        if base == 0.0 {
            base = median;
        }
        let (low, high) = (t[t.len() / 10], t[t.len() * 9 / 10]);
        println!(
            "  {name:<6} median {median:6.2} ms   10-90 % {low:.2} to {high:.2} ms   x {:.2}",
            median / base
        );
    }
    // For the plots; every figure of one title is in it.
    for (name, times) in list {
        let all: Vec<String> = times.iter().map(|ms| format!("{ms:.2}")).collect();
        println!("  samples {name} {}", all.join(" "));
    }
}

/// exec of /bin/true in the containers that [`waiting`] has started, and its floor.
fn execs<'a>(
    dir: &Path,
    runtimes: &[(&'a str, &str)],
    floor: &str,
    rounds: usize,
) -> Vec<(&'a str, Vec<f64>)> {
    let mut exec: Vec<(&str, Vec<f64>)> = vec![("floor", Vec::new())];
    exec.extend(runtimes.iter().map(|(n, _)| (*n, Vec::new())));
    let init = std::fs::read_to_string("/tmp/conex.pid").expect("pid file");
    for _ in 0..rounds {
        exec[0].1.push(time(Command::new(floor).args(["exec", init.trim(), "/bin/true"])));
        for (slot, (name, binary)) in runtimes.iter().enumerate() {
            exec[slot + 1].1.push(time(
                of(binary).args(["exec", &format!("e-{name}"), "/bin/true"]).current_dir(dir),
            ));
        }
    }
    exec
}

/// exec into a running container, and the memory of an init that waits for `start`.
fn waiting(dir: &Path, runtimes: &[(&str, &str)], floor: &str, rounds: usize) {
    rewrite(dir, &["/bin/sleep", "1000"]);
    let call = |binary: &str, args: &[&str]| {
        let mut c = of(binary);
        let quiet = Stdio::null;
        c.args(args)
            .current_dir(dir)
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .status()
            .expect("spawn")
            .success()
    };
    let mut memory = Vec::new();
    for (name, binary) in runtimes {
        let pid_file = format!("/tmp/{name}.pid");
        let create = ["create", "--pid-file", &pid_file, &format!("e-{name}")];
        assert!(call(binary, &create), "{name} create");
        let pid = std::fs::read_to_string(&pid_file).expect("pid file");
        memory.push((*name, private(&pid)));
        assert!(call(binary, &["start", &format!("e-{name}")]), "{name} start");
    }
    let exec = execs(dir, runtimes, floor, rounds);
    // The runtime itself, in the foreground: all that it did to get there lies behind it, and its heap does not shrink.
    let mut foreground = Vec::new();
    for (name, binary) in runtimes {
        let run = watched(dir, binary, name, &["run"], &[&format!("f-{name}")]);
        let exec =
            watched(dir, binary, name, &["exec"], &[&format!("e-{name}"), "/bin/sleep", "1000"]);
        foreground.push((*name, run, exec));
    }
    for (name, binary) in runtimes {
        call(binary, &["delete", "--force", &format!("f-{name}")]);
        call(binary, &["delete", "--force", &format!("e-{name}")]);
    }
    report("exec of /bin/true in a running container", &exec);
    println!(
        "private memory of the init that waits for start, of run in the foreground, of exec in the foreground"
    );
    for ((name, init), (_, run, exec)) in memory.iter().zip(foreground) {
        println!("  {name:<6} {init:>6} KiB {run:>6} KiB {exec:>6} KiB");
    }
}

/// `Private_*` of a process, in KiB (proc_pid_smaps(5)).
fn private(pid: &str) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = smaps.lines().filter(|l| l.starts_with("Private_"));
    lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// The private memory of a runtime that waits for its process, which is then ended.
fn watched(dir: &Path, binary: &str, name: &str, verb: &[&str], rest: &[&str]) -> u64 {
    let pid_file = format!("/tmp/{name}.{}", verb[0]);
    let quiet = Stdio::null;
    let mut c = of(binary);
    c.args(verb).args(["--pid-file", &pid_file]).args(rest).current_dir(dir);
    let mut child = c.stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().expect("spawn");
    while !Path::new(&pid_file).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // What stays gives memory back.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let memory = private(&child.id().to_string());
    let pid = std::fs::read_to_string(&pid_file).expect("pid file").trim().parse().expect("pid");
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    let _ = child.wait();
    memory
}
