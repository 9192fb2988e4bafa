//! `crowd ROUNDS CONEX FLOOR [quick [LANDED]]`: what a verb costs on a host that is full of other things: mounts, containers, cgroups,
//! processes, records. Prints one line for each figure: `load size runtime verb median low high`, milliseconds.
//!
//! Run it in namespaces of its own (tests/forky/enter.sh): it mounts, and ends with what it has made.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const DIR: &str = "/tmp/crowd";

struct Runtime {
    name: &'static str,
    binary: String,
    /// All verbs, or only `run`.
    verbs: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rounds: usize = args[1].parse().expect("ROUNDS CONEX FLOOR [quick]");
    let quick = args.get(4).is_some_and(|a| a == "quick");
    bundle(&args[2]);
    let mut all = vec![
        Runtime { name: "conex", binary: args[2].clone(), verbs: true },
        Runtime { name: "floor", binary: args[3].clone(), verbs: false },
    ];
    for (name, path) in [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc")] {
        if !quick && Path::new(path).exists() {
            all.push(Runtime { name, binary: path.into(), verbs: false });
        }
    }
    if let Some(landed) = args.get(5) {
        all.push(Runtime { name: "landed", binary: landed.into(), verbs: false });
    }
    measure(&all, rounds, "nothing", 0);
    mounts(&all, rounds, if quick { &[3_000] } else { &[1_000, 3_000, 10_000] });
    if quick {
        return;
    }
    containers(&all, rounds, &[1, 100, 1_000]);
    cgroups(&all, rounds, 10_000);
    processes(&all, rounds, 10_000);
    records(&all, rounds, 1_000);
    storm(&all, 100);
    storm(&all, 500);
}

fn bundle(conex: &str) {
    let dir = Path::new(DIR);
    std::fs::create_dir_all(dir.join("rootfs/bin")).expect("mkdir");
    for name in ["true", "sleep"] {
        std::fs::copy("/usr/bin/busybox", dir.join("rootfs/bin").join(name)).expect("busybox");
    }
    let spec = Command::new(conex).arg("spec").current_dir(dir).status();
    assert!(spec.expect("conex spec").success());
    let file = dir.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("json");
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = ["/bin/true"].as_slice().into();
    std::fs::write(&file, config.to_string()).expect("write");
    config["process"]["args"] = ["/bin/sleep", "1000"].as_slice().into();
    // runc refuses a rootfs that is a symlink.
    config["root"]["path"] = "/tmp/crowd/rootfs".into();
    std::fs::create_dir_all("/tmp/crowd-sleeps").expect("mkdir");
    std::fs::write("/tmp/crowd-sleeps/config.json", config.to_string()).expect("write");
}

fn command(binary: &str, args: &[&str], dir: &str) -> Command {
    let mut c = Command::new(binary);
    if binary.ends_with("/landed") {
        // A build that landed keeps what it keeps between runs elsewhere.
        c.args(["--root", "/run/landed"]);
    }
    c.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c
}

fn call(binary: &str, args: &[&str], dir: &str) -> f64 {
    let begun = Instant::now();
    let status = command(binary, args, dir).status().expect("spawn");
    let elapsed = begun.elapsed().as_secs_f64() * 1000.0;
    assert!(status.success(), "{binary} {args:?}");
    elapsed
}

fn print(load: &str, size: usize, runtime: &str, verb: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |tenths: usize| times[(times.len() * tenths / 10).min(times.len() - 1)];
    println!("{load}\t{size}\t{runtime}\t{verb}\t{:.3}\t{:.3}\t{:.3}", at(5), at(1), at(9));
}

/// Every verb of every runtime, one after the other in each round.
fn measure(all: &[Runtime], rounds: usize, load: &str, size: usize) {
    let verbs = ["run", "create", "start", "exec", "state", "list", "delete"];
    let mut times = vec![vec![Vec::new(); verbs.len()]; all.len()];
    for round in 0..rounds {
        for (runtime, times) in all.iter().zip(&mut times) {
            let binary = runtime.binary.as_str();
            let id = format!("m{round}");
            if runtime.name == "floor" {
                floor(binary, &all[0].binary, times);
                continue;
            }
            times[0].push(call(binary, &["run", &id], DIR));
            if !runtime.verbs {
                continue;
            }
            let sleeps = "/tmp/crowd-sleeps";
            times[1].push(call(binary, &["create", &id], sleeps));
            times[2].push(call(binary, &["start", &id], sleeps));
            times[3].push(call(binary, &["exec", &id, "/bin/true"], sleeps));
            times[4].push(call(binary, &["state", &id], sleeps));
            times[5].push(call(binary, &["list", "-q"], sleeps));
            times[6].push(call(binary, &["delete", "--force", &id], sleeps));
        }
    }
    for (runtime, times) in all.iter().zip(&mut times) {
        for (verb, times) in verbs.iter().zip(times).filter(|(_, t)| !t.is_empty()) {
            print(load, size, runtime.name, verb, times);
        }
    }
}

/// What the kernel itself takes for `run` and `exec`.
fn floor(floor: &str, conex: &str, times: &mut [Vec<f64>]) {
    let begun = Instant::now();
    let mut run = command(floor, &["/tmp/crowd/rootfs", "/bin/true"], DIR);
    // As conex has it, where the kernel's own cannot be seen.
    let kept = "/run/conex/.empty/mnt";
    if Path::new(kept).exists() {
        run.env("FLOOR_NAMESPACE", kept);
    }
    assert!(run.status().expect("spawn").success());
    times[0].push(begun.elapsed().as_secs_f64() * 1000.0);
    let file = "/tmp/crowd/pid";
    call(conex, &["run", "-d", "--pid-file", file, "floor"], "/tmp/crowd-sleeps");
    let pid = std::fs::read_to_string(file).expect("pid file");
    times[3].push(call(floor, &["exec", &pid, "/bin/true"], DIR));
    call(conex, &["delete", "--force", "floor"], DIR);
}

fn mounts(all: &[Runtime], rounds: usize, sizes: &[usize]) {
    let base = PathBuf::from("/tmp/crowd-mounts");
    std::fs::create_dir_all(&base).expect("mkdir");
    let flags = nix::mount::MsFlags::empty();
    let mount = |at: &Path| {
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, None::<&str>).expect("mount")
    };
    mount(&base);
    let mut have = 0;
    for size in sizes {
        while have < *size {
            let at = base.join(have.to_string());
            std::fs::create_dir(&at).expect("mkdir");
            mount(&at);
            have += 1;
        }
        measure(all, rounds, "mounts", *size);
    }
    nix::mount::umount2(&base, nix::mount::MntFlags::MNT_DETACH).expect("umount");
}

fn containers(all: &[Runtime], rounds: usize, sizes: &[usize]) {
    let conex = all[0].binary.as_str();
    let mut have = 0;
    for size in sizes {
        while have < *size {
            call(conex, &["run", "-d", &format!("c{have}")], "/tmp/crowd-sleeps");
            have += 1;
        }
        measure(all, rounds, "containers", *size);
    }
    for n in 0..have {
        call(conex, &["delete", "--force", &format!("c{n}")], DIR);
    }
}

fn cgroups(all: &[Runtime], rounds: usize, size: usize) {
    let base = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .into_iter()
        .find(|d| Path::new(d).join("cgroup.procs").exists())
        .expect("a hierarchy");
    let base = Path::new(base).join("conex-crowd");
    let dirs: Vec<PathBuf> = (0..size / 100)
        .flat_map(|a| (0..100).map(move |b| (a, b)))
        .map(|(a, b)| base.join(a.to_string()).join(b.to_string()))
        .collect();
    dirs.iter().for_each(|d| std::fs::create_dir_all(d).expect("mkdir"));
    measure(all, rounds, "cgroups", size);
    dirs.iter().for_each(|d| std::fs::remove_dir(d).expect("rmdir"));
    (0..size / 100).for_each(|a| std::fs::remove_dir(base.join(a.to_string())).expect("rmdir"));
    std::fs::remove_dir(&base).expect("rmdir");
}

fn processes(all: &[Runtime], rounds: usize, size: usize) {
    // A shell of busybox that waits costs the least.
    let list: Vec<_> = (0..size)
        .map(|_| command("/usr/bin/busybox", &["sleep", "3000"], "/").spawn().expect("spawn"))
        .collect();
    measure(all, rounds, "processes", size);
    for mut child in list {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Containers that have ended and were not deleted.
fn records(all: &[Runtime], rounds: usize, size: usize) {
    let conex = all[0].binary.as_str();
    for n in 0..size {
        call(conex, &["run", "-d", &format!("e{n}")], DIR);
    }
    measure(all, rounds, "records", size);
    for n in 0..size {
        call(conex, &["delete", "--force", &format!("e{n}")], DIR);
    }
}

/// So many creates at once: how long until all are made, and the slowest one.
fn storm(all: &[Runtime], size: usize) {
    for runtime in all.iter().filter(|r| r.name != "floor") {
        let begun = Instant::now();
        let mut running: Vec<_> = (0..size)
            .map(|n| {
                let create = ["create", &format!("s{n}")].map(str::to_string);
                let args: Vec<&str> = create.iter().map(String::as_str).collect();
                (Instant::now(), command(&runtime.binary, &args, "/tmp/crowd-sleeps").spawn())
            })
            .map(|(begun, child)| (begun, child.expect("spawn")))
            .collect();
        let (mut times, mut failed) = (Vec::new(), 0);
        while !running.is_empty() {
            running.retain_mut(|(begun, child)| match child.try_wait().expect("wait") {
                None => true,
                Some(status) => {
                    times.push(begun.elapsed().as_secs_f64() * 1000.0);
                    failed += usize::from(!status.success());
                    false
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let total = begun.elapsed().as_secs_f64() * 1000.0;
        let slowest = times.iter().copied().fold(0.0, f64::max);
        println!("storm\t{size}\t{}\ttotal\t{total:.1}\t{slowest:.1}\t{failed}", runtime.name);
        for n in 0..size {
            let args = ["delete", "--force", &format!("s{n}")];
            let _ = command(&runtime.binary, &args, DIR).status();
        }
    }
}
