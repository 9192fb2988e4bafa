//! Prints where it runs: the program of the bundle `hello`.

use std::fs::{read_link, read_to_string};

const KINDS: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

fn main() {
    println!("Hello from inside a container.\n");
    println!("pid        {}", std::process::id());
    println!("hostname   {}", text("/proc/sys/kernel/hostname"));
    namespaces();
    limits();
    identity();
    mounts();
}

fn text(path: &str) -> String {
    read_to_string(path).map_or_else(|e| format!("({path}: {e})"), |t| t.trim().to_string())
}

/// The host's namespaces were written to /host-namespaces by `make run`, one "kind inode" a line.
fn namespaces() {
    let host = read_to_string("/host-namespaces").unwrap_or_default();
    println!("\nnamespace  here             host");
    for kind in KINDS {
        let here = read_link(format!("/proc/self/ns/{kind}"))
            .map_or("-".into(), |l| l.display().to_string());
        let there =
            host.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(' ')).unwrap_or("?");
        let number = |t: &str| {
            t.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches(']').to_string()
        };
        let note = if number(&here) == number(there) { "shared with the host" } else { "its own" };
        println!("{kind:<10} {:<16} {:<16} {note}", number(&here), number(there));
    }
}

fn limits() {
    println!("\ncgroup limits in force");
    let files = [
        ("memory", ["memory/memory.limit_in_bytes", "memory.max"]),
        ("pids", ["pids/pids.max", "pids.max"]),
        ("cpu shares", ["cpu/cpu.shares", "cpu.weight"]),
        ("cpu quota", ["cpu/cpu.cfs_quota_us", "cpu.max"]),
    ];
    for (name, paths) in files {
        let found = paths.iter().find_map(|p| read_to_string(format!("/sys/fs/cgroup/{p}")).ok());
        println!("  {name:<10} {}", found.as_deref().map_or("(no such file)", str::trim));
    }
}

fn identity() {
    let status = text("/proc/self/status");
    println!("\nidentity and restrictions");
    for line in status.lines() {
        if ["Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp:"]
            .iter()
            .any(|k| line.starts_with(k))
        {
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            let mode = match (key, value.trim()) {
                ("Seccomp", "2") => "   (a filter)",
                ("Seccomp", "0") => "   (none)",
                _ => "",
            };
            println!("  {key:<10} {}{mode}", value.trim().replace('\t', " "));
        }
    }
}

fn mounts() {
    println!("\nmounts");
    for line in text("/proc/self/mounts").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [_, at, kind, options, ..] = fields.as_slice() {
            println!("  {at:<28} {kind:<8} {}", options.chars().take(60).collect::<String>());
        }
    }
}
