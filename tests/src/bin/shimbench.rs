//! `shimbench NAME=SHIM=RUNTIME…`: the figures of shims side by side, each with its own runtime, interleaved.
//!
//! Prints one Markdown row a figure; `make bench` calls it.

#[allow(dead_code)]
#[path = "../../shim/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../../integration/harness.rs"]
mod harness;

use client::*;
use harness::Box;
use std::io::Read;
use std::time::{Duration, Instant};

struct Candidate {
    name: String,
    shim: String,
    runtime: String,
}

impl Candidate {
    /// The harness takes both from the environment.
    fn choose(&self) {
        std::env::set_var("SHIM", &self.shim);
        std::env::set_var("CONEX", &self.runtime);
        // The one in Rust and containerd's since 2.0 have version 3 alone.
        let version = if self.shim.ends_with("-rs") || self.name.contains(" 2.") { 3 } else { 2 };
        std::env::set_var("TASK_SERVICE", format!("containerd.task.v{version}.Task"));
    }
}

fn candidates() -> Vec<Candidate> {
    let one = |a: String| {
        let mut parts = a.split('=').map(str::to_string);
        let mut next = || parts.next().expect("NAME=SHIM=RUNTIME");
        Candidate { name: next(), shim: next(), runtime: next() }
    };
    std::env::args().skip(1).map(one).collect()
}

fn main() {
    let list = candidates();
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(15);
    row("figure", list.iter().map(|c| c.name.clone()).collect());
    println!("|---|{}", "---|".repeat(list.len()));
    let timed = |name: &str, measure: fn(&Candidate) -> f64| {
        let mut samples = vec![Vec::new(); list.len()];
        for _ in 0..rounds {
            for (c, s) in list.iter().zip(&mut samples) {
                c.choose();
                s.push(measure(c));
            }
        }
        row(name, samples.iter_mut().map(|s| format!("{:.2} ms", median(s) * 1e3)).collect());
    };
    timed("`start` action to a connection (median)", start);
    timed("create + start of a task (median)", task);
    let mut samples = vec![Vec::new(); list.len()];
    for _ in 0..rounds.min(5) {
        for (c, s) in list.iter().zip(&mut samples) {
            c.choose();
            s.push(throughput());
        }
    }
    row(
        "1 GiB through a FIFO (median)",
        samples.iter_mut().map(|s| format!("{:.2} GB/s", median(s))).collect(),
    );
    let each = |name: &str, measure: &dyn Fn(&Candidate) -> String| {
        let cells = list.iter().map(|c| {
            c.choose();
            measure(c)
        });
        row(name, cells.collect());
    };
    for buffer in ["16M", "128M"] {
        let name = format!(
            "100 MB of lines while nobody reads for 10 s (room for {buffer}): done after, lost"
        );
        each(&name, &|_| nobody_reads(buffer));
    }
    each("200 parallel execs", &|_| format!("{:.0} /s", execs()));
    each("100 pods, one exec probe a second each: CPU of the machine, per probe; probes done; median, 99 %", &|_| probes());
    each("50 idle shims: private, PSS, threads (mean of a pod's processes)", &|_| idle());
    each("300 create/start/delete: growth of private memory, descriptors, threads", &|_| cycles());
}

fn row(name: &str, cells: Vec<String>) {
    println!("| {name} | {} |", cells.join(" | "));
}

fn median(list: &mut [f64]) -> f64 {
    list.sort_by(f64::total_cmp);
    list[list.len() / 2]
}

fn start(_: &Candidate) -> f64 {
    let b = Box::sh("sleep 100");
    b.write_config();
    fifo(&b.dir.join("log"));
    let _log = std::fs::OpenOptions::new().read(true).write(true).open(b.dir.join("log")).unwrap();
    let events = Events::listen(&b.dir.join("events.sock"));
    let begin = Instant::now();
    let out =
        start_command(&b.dir, &b.dir, &b.id).stdin(std::process::Stdio::null()).output().unwrap();
    let address = address(&String::from_utf8_lossy(&out.stdout));
    std::os::unix::net::UnixStream::connect(&address).unwrap();
    let took = begin.elapsed().as_secs_f64();
    Shim::connect(&b.dir, &address, events).finish(&b.id);
    took
}

fn task(_: &Candidate) -> f64 {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    shim.pid(&b.id);
    let begin = Instant::now();
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let took = begin.elapsed().as_secs_f64();
    shim.finish(&b.id);
    took
}

fn execs() -> f64 {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let begin = Instant::now();
    std::thread::scope(|s| {
        for thread in 0..20 {
            let (shim, b) = (&shim, &b);
            s.spawn(move || {
                for i in 0..10 {
                    let id = format!("e{thread}-{i}");
                    shim.exec(&b.id, &id, &["true"], &Stdio::default()).unwrap();
                    shim.start_task(&b.id, &id);
                    shim.wait(&b.id, &id);
                    shim.delete(&b.id, &id);
                }
            });
        }
    });
    let took = begin.elapsed().as_secs_f64();
    shim.finish(&b.id);
    200.0 / took
}

/// Seconds that the machine's CPUs were busy since it started, without those of this program, which stands for containerd and
/// the kubelet (proc_stat(5), proc_pid_stat(5): in USER_HZ, which is 100).
fn busy() -> f64 {
    let numbers = |path: &str, skip: usize| -> Vec<f64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.split_whitespace().skip(skip).take(8).map(|n| n.parse().unwrap()).collect()
    };
    let all = numbers("/proc/stat", 1);
    let own = numbers("/proc/self/stat", 13);
    (all.iter().sum::<f64>() - all[3] - all[4] - own[0] - own[1]) / 100.0
}

/// What a kubelet with exec probes costs a node: each pod has a shim, and a program executed in it once a second.
fn probes() -> String {
    const PODS: usize = 100;
    const SECONDS: u32 = 10;
    let boxes: Vec<Box> = (0..PODS).map(|_| Box::sh("sleep 1000")).collect();
    let pods: Vec<(Shim, &Box)> = boxes
        .iter()
        .map(|b| {
            let shim = Shim::start(b);
            shim.create(b, &Stdio::default());
            shim.start_task(&b.id, "");
            (shim, b)
        })
        .collect();
    let idle = busy();
    std::thread::sleep(Duration::from_secs(2));
    let rest = (busy() - idle) / 2.0;
    let (before, begin) = (busy(), Instant::now());
    let mut took: Vec<f64> = std::thread::scope(|s| {
        let workers: Vec<_> = pods
            .chunks(5)
            .enumerate()
            .map(|(worker, pods)| s.spawn(move || probe(pods, begin, worker, SECONDS)))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let spent = busy() - before - rest * begin.elapsed().as_secs_f64();
    let rate = took.len() as f64 / begin.elapsed().as_secs_f64();
    pods.into_iter().for_each(|(shim, b)| shim.finish(&b.id));
    took.sort_by(f64::total_cmp);
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize] * 1e3;
    let each = spent * 1e3 / took.len() as f64;
    format!("{each:.1} ms; {rate:.0} /s; {:.1} ms, {:.0} ms", at(0.5), at(0.99))
}

/// One second after the other, and one pod after the other; late ones are not made up for.
fn probe(pods: &[(Shim, &Box)], begin: Instant, worker: usize, seconds: u32) -> Vec<f64> {
    let mut took = Vec::new();
    for second in 0..seconds {
        for (i, (shim, b)) in pods.iter().enumerate() {
            let due = f64::from(second) + i as f64 / 5.0 + worker as f64 / 100.0;
            std::thread::sleep(
                (begin + Duration::from_secs_f64(due)).saturating_duration_since(Instant::now()),
            );
            if begin.elapsed().as_secs() > u64::from(seconds) {
                return took;
            }
            let (id, start) = (format!("p{second}"), Instant::now());
            shim.exec(&b.id, &id, &["true"], &Stdio::default()).unwrap();
            shim.start_task(&b.id, &id);
            shim.wait(&b.id, &id);
            took.push(start.elapsed().as_secs_f64());
            shim.delete(&b.id, &id);
        }
    }
    took
}

fn throughput() -> f64 {
    let b = Box::sh("dd if=/dev/zero bs=1M count=1024 2>/dev/null");
    let shim = Shim::start(&b);
    let path = b.dir.join("o");
    fifo(&path);
    let uri = path.to_string_lossy().into_owned();
    let reader = std::thread::spawn(move || {
        let mut file = std::fs::File::open(path).unwrap();
        let (mut buffer, mut total) = (vec![0u8; 1 << 16], 0);
        let mut begin = Instant::now();
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => return (total, begin.elapsed()),
                n if total == 0 => {
                    begin = Instant::now();
                    total += n;
                }
                n => total += n,
            }
        }
    });
    shim.create(&b, &Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() });
    shim.start_task(&b.id, "");
    shim.wait(&b.id, "");
    shim.delete(&b.id, "");
    let (total, took): (usize, Duration) = reader.join().unwrap();
    assert_eq!(total, 1 << 30);
    shim.finish(&b.id);
    total as f64 / took.as_secs_f64() / 1e9
}

/// A containerd that is stopped: it has the FIFO open and takes nothing for ten seconds.
fn nobody_reads(buffer: &str) -> String {
    let script = "yes 000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 | head -n 1000000";
    let mut b = Box::sh(script);
    *b.at("annotations") = serde_json::json!({"dev.conex.output-buffer": buffer});
    let shim = Shim::start(&b);
    let path = b.dir.join("o");
    fifo(&path);
    let uri = path.to_string_lossy().into_owned();
    let reader = std::thread::spawn(move || {
        let mut file = std::fs::File::open(path).unwrap();
        std::thread::sleep(Duration::from_secs(10));
        let mut out = Vec::new();
        file.read_to_end(&mut out).unwrap();
        out.iter().filter(|b| **b == b'0').count()
    });
    shim.create(&b, &Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() });
    shim.start_task(&b.id, "");
    let begin = Instant::now();
    shim.wait(&b.id, "");
    let took = begin.elapsed().as_secs_f64();
    shim.delete(&b.id, "");
    // 99 digits a line.
    let lost = 1_000_000 - reader.join().unwrap() / 99;
    shim.finish(&b.id);
    format!("{took:.1} s, {} MB", lost / 10_000)
}

/// Sums of `Private_*` and `Pss` in KiB, threads and descriptors, over the processes of a shim.
fn usage(server: i32) -> [u64; 4] {
    let mut out = [0; 4];
    let parent = |pid: i32| conex::identity::proc_stat(pid).and_then(|_| ppid(pid));
    let exe = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let keeper = parent(server).filter(|p| exe(*p) == exe(server));
    for pid in std::iter::once(server).chain(keeper) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let sum = |key: &str| -> u64 {
            let lines = text.lines().filter(|l| l.starts_with(key));
            lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        };
        out[0] += sum("Private_");
        out[1] += sum("Pss:");
        out[2] += std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() as u64;
        out[3] += std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    }
    out
}

fn ppid(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn idle() -> String {
    let boxes: Vec<Box> = (0..50).map(|_| Box::sh("sleep 1000")).collect();
    let shims: Vec<Shim> = boxes
        .iter()
        .map(|b| {
            let shim = Shim::start(b);
            shim.create(b, &Stdio::default());
            shim.start_task(&b.id, "");
            shim
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let all: Vec<[u64; 4]> = shims.iter().zip(&boxes).map(|(s, b)| usage(s.pid(&b.id))).collect();
    let mean = |i: usize| all.iter().map(|u| u[i]).sum::<u64>() as f64 / all.len() as f64;
    let text = format!("{:.0} KiB, {:.0} KiB, {:.0}", mean(0), mean(1), mean(2));
    for (shim, b) in shims.into_iter().zip(&boxes) {
        shim.finish(&b.id);
    }
    text
}

fn cycles() -> String {
    let a = Box::sh("sleep 1000");
    let shim = Shim::start(&a);
    shim.create(&a, &Stdio::default());
    shim.start_task(&a.id, "");
    let cycle = |count: usize| {
        for _ in 0..count {
            let b = Box::sh("true");
            b.write_config();
            shim.create(&b, &Stdio::default());
            shim.start_task(&b.id, "");
            shim.wait(&b.id, "");
            shim.delete(&b.id, "");
        }
    };
    // The allocator settles first.
    cycle(400);
    let before = usage(shim.pid(&a.id));
    cycle(300);
    std::thread::sleep(Duration::from_millis(200));
    let after = usage(shim.pid(&a.id));
    let grown = |i: usize| after[i] as i64 - before[i] as i64;
    let text = format!("{:+} KiB, {:+}, {:+}", grown(0), grown(3), grown(2));
    shim.finish(&a.id);
    text
}
