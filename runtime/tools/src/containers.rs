//! What is there: `conex list --all` and `--stats`, `conex wait`.

use crate::Env;
use conex::error::{Context, Error, Kind, Result};
use conex::host::cgroup::Group;
use conex::identity::{pidfd, proc_stat, Identity};
use conex::state::{State, Status, Store};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the engines of a host keep the state of their containers; `*` is one directory, the namespace or the runtime.
const ROOTS: [(&str, &str); 6] = [
    ("conex", "/run/conex"),
    ("docker", "/run/docker/runtime-*/*"),
    ("containerd", "/run/containerd/runc/*"),
    ("podman", "/run/crun"),
    ("runc", "/run/runc"),
    ("cri-o", "/run/crio/*"),
];

struct Found {
    engine: &'static str,
    root: PathBuf,
    state: State,
    status: Status,
}

/// # Errors
/// The root that was asked for cannot be read. Of those of the engines, what is not conex's is passed over, and what could be
/// somebody else's: a user could make the reader wait, or write to his terminal.
pub fn list(env: &Env) -> Result<i32> {
    let mut found = Vec::new();
    if let Some(store) = Store::open(&env.root, false)? {
        for id in store.ids()? {
            match store.peek(&id) {
                Ok((state, status)) => found.push(Found { engine: "", root: env.root.clone(), state, status }),
                // Deleted meanwhile.
                Err(e) if e.kind == Kind::NotFound => {}
                Err(e) => eprintln!("conex list: {e}"),
            }
        }
    }
    let engines = if env.args.is_set("all") { &ROOTS[..] } else { &[] };
    for root in
        engines.iter().flat_map(|(_, pattern)| matches(pattern)).filter(|root| *root != env.root && is_own(root))
    {
        let Ok(Some(store)) = Store::open(&root, false) else { continue };
        for id in store.ids().unwrap_or_default() {
            let Ok((state, status)) = store.peek(&id) else { continue };
            found.push(Found { engine: "", root: root.clone(), state, status });
        }
    }
    for f in &mut found {
        // The root that was asked for may be an engine's.
        let of = |(_, pattern): &&(&str, &str)| matches(pattern).contains(&f.root);
        f.engine = ROOTS.iter().find(of).map_or("conex", |(engine, _)| engine);
    }
    if env.args.is_set("quiet") {
        found.iter().for_each(|f| println!("{}", f.state.id));
        return Ok(0);
    }
    let stats = env.args.is_set("stats");
    let mut rows = vec![vec!["ID", "STATUS", "PID", "ENGINE"].into_iter().map(String::from).collect::<Vec<_>>()];
    rows[0].extend(
        if stats { &["CPU", "MEMORY", "LIMIT", "PIDS", "UPTIME"][..] } else { &["CREATED", "ROOT"] }
            .iter()
            .map(|s| (*s).to_string()),
    );
    let before: Vec<u64> = if stats { found.iter().map(cpu).collect() } else { Vec::new() };
    let begun = Instant::now();
    if stats {
        std::thread::sleep(Duration::from_millis(250));
    }
    for (i, f) in found.iter().enumerate() {
        let pid = f.state.init.filter(|_| f.status != Status::Stopped).map_or(0, |i| i.pid);
        let mut row = vec![f.state.id.clone(), f.status.name().into(), pid.to_string(), f.engine.into()];
        match stats {
            true => row.extend(figures(f, before[i], begun.elapsed())),
            false => row.extend([f.state.created.clone(), f.root.display().to_string()]),
        }
        rows.push(row);
    }
    print!("{}", table(&rows));
    Ok(0)
}

/// The directories that a path with `*` for whole names leads to.
fn matches(pattern: &str) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|p| !p.is_empty()) {
        let Some((start, end)) = part.split_once('*') else {
            all.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let names = |path: &PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().collect::<Vec<_>>();
        let fits = |name: &std::ffi::OsStr| name.to_str().is_some_and(|n| n.starts_with(start) && n.ends_with(end));
        all = all.iter().flat_map(names).filter(|e| fits(&e.file_name())).map(|e| e.path()).collect();
    }
    all.retain(|path| path.is_dir());
    all.sort();
    all
}

/// True of a directory, no symlink, that nobody but this user can write.
fn is_own(root: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::geteuid().as_raw();
    root.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == own && m.mode() & 0o022 == 0)
}

fn group(f: &Found) -> Group {
    let running = if f.status == Status::Stopped { &[][..] } else { &f.state.cgroups };
    Group::open(running)
}

/// Nanoseconds that the container has computed.
fn cpu(f: &Found) -> u64 {
    group(f).stats().cpu["usage"]["total"].as_u64().unwrap_or(0)
}

/// CPU as a part of one, memory, its limit, processes, time since the start of init.
fn figures(f: &Found, before: u64, over: Duration) -> [String; 5] {
    if f.status == Status::Stopped {
        return Default::default();
    }
    let stats = group(f).stats();
    let used = stats.cpu["usage"]["total"].as_u64().unwrap_or(0).saturating_sub(before);
    let percent = used as f64 * 100.0 / over.as_nanos() as f64;
    let memory = &stats.memory["usage"];
    let limit = memory["limit"].as_u64().filter(|n| *n < 1 << 60);
    let number = |v: &serde_json::Value| v.as_u64();
    [
        format!("{percent:.1} %"),
        number(&memory["usage"]).map_or("-".into(), size),
        limit.map_or("none".into(), size),
        number(&stats.pids["current"]).map_or("-".into(), |n| n.to_string()),
        uptime(f).map_or("-".into(), |d| span(d.as_secs())),
    ]
}

fn uptime(f: &Found) -> Option<Duration> {
    let now = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = now.split(' ').next()?.parse().ok()?;
    // Clock ticks are hundredths of a second for user space, on every architecture (USER_HZ).
    Some(Duration::from_secs_f64((now - f.state.init?.start_time as f64 / 100.0).max(0.0)))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> =
        (0..columns).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<_> = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
        out += line.join("   ").trim_end();
        out.push('\n');
    }
    out
}

/// Waits until the container's first process has ended, and prints how, as a shell counts: 128 + n for signal n. Once its
/// parent has taken notice, a kernel before Linux 6.15 does not tell it any more; then nothing is printed.
///
/// # Errors
/// There is no such container.
pub fn wait(env: &Env) -> Result<i32> {
    let id = env.args.rest[0].as_str();
    let store = Store::open(&env.root, false)?.ok_or_else(|| conex::state::missing(id))?;
    let (state, status) = store.peek(id)?;
    if status == Status::Creating {
        return Err(Error::new(Kind::Status, format!("{id} is being created: there is no process yet")));
    }
    let Some(init) = state.init else { return ended(&env.root, id) };
    let Some(fd) = pidfd(init)? else { return ended(&env.root, id) };
    loop {
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.map(drop).call(|| "poll(pidfd)")?,
        }
    }
    if let Some(status) = status_of(init, fd.as_fd()) {
        println!("{}", if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) });
        return Ok(0);
    }
    eprintln!("conex wait: {id} has ended; how, only its parent knows");
    Ok(0)
}

/// The wait status of a process that has ended: of a zombie from its last field in /proc/PID/stat, else from its descriptor.
///
/// The field is 0 for whoever may not look into the process (PTRACE_MODE_READ_FSCREDS), so that only root's 0 is believed.
fn status_of(init: Identity, fd: BorrowedFd) -> Option<i32> {
    let of_zombie = || {
        let before = proc_stat(init.pid).filter(|(letter, start)| *letter == 'Z' && *start == init.start_time)?;
        let text = std::fs::read_to_string(format!("/proc/{}/stat", init.pid)).ok()?;
        let status: i32 = text.trim_end().rsplit(' ').next()?.parse().ok()?;
        let same = proc_stat(init.pid) == Some(before);
        (same && (status != 0 || nix::unistd::geteuid().is_root())).then_some(status)
    };
    for _ in 0..200 {
        match (conex_sys::proc::pidfd_exit_status(fd), of_zombie()) {
            (Ok(Some(status)), _) | (Ok(None), Some(status)) => return Some(status),
            (Ok(None), None) => std::thread::sleep(Duration::from_millis(1)),
            (Err(_), status) => return status,
        }
    }
    None
}

fn ended(root: &Path, id: &str) -> Result<i32> {
    Err(Error::new(Kind::Status, format!("{id} in {} has ended already", root.display())))
}
