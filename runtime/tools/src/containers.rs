//! What is there: `conex list --all` and `--stats`, `conex top`, `conex wait`.

use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use conex::host::cgroup::Group;
use conex::identity::{exit_status, pidfd};
use conex::state::{State, Status, Store};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the engines of a host keep the state of their containers; `*` is one directory, the namespace or the runtime.
const ROOTS: [(&str, &str); 7] = [
    ("conex", "/run/conex"),
    ("docker", "/run/docker/runtime-*/*"),
    ("containerd", "/run/containerd/runc/*"),
    // Below conex's own shim.
    ("containerd", "/run/containerd/conex/*"),
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

/// The containers of a root, and with `all` of those of the engines.
///
/// # Errors
/// The root that was asked for cannot be read. Of those of the engines, what is not conex's is passed over, and what could be
/// somebody else's: a user could make the reader wait, or write to his terminal.
fn find(env: &Invocation, all: bool) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for root in roots(&env.root, all) {
        let asked = root == env.root;
        let store = match Store::open(&root, false) {
            Err(e) if asked => return Err(e),
            other => other.ok().flatten(),
        };
        let Some(store) = store else { continue };
        let ids = store.ids();
        for id in if asked { ids? } else { ids.unwrap_or_default() } {
            match store.peek(&id) {
                Ok((state, status)) => {
                    found.push(Found { engine: engine(&root), root: root.clone(), state, status });
                }
                Err(e) if asked && e.kind != Kind::NotFound => eprintln!("conex list: {e}"),
                // Deleted meanwhile, or no record of conex's.
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// Where containers are recorded: the root that was asked for, and with `all` those of the engines.
pub fn roots(own: &Path, all: bool) -> Vec<PathBuf> {
    let engines = if all { &ROOTS[..] } else { &[] };
    let others = engines.iter().flat_map(|(_, pattern)| matches(pattern));
    std::iter::once(own.to_path_buf())
        .chain(others.filter(|root| root != own && is_own(root)))
        .collect()
}

/// Whose a root is; the one that was asked for may be an engine's.
pub fn engine(root: &Path) -> &'static str {
    let of = |(_, pattern): &&(&str, &str)| matches(pattern).iter().any(|path| path == root);
    ROOTS.iter().find(of).map_or("conex", |(engine, _)| engine)
}

/// # Errors
/// The state root cannot be read.
pub fn list(env: &Invocation) -> Result<i32> {
    let found = find(env, env.args.is_set("all"))?;
    if env.args.is_set("quiet") {
        found.iter().for_each(|f| println!("{}", f.state.id));
        return Ok(0);
    }
    if env.args.is_set("stats") {
        let before: Vec<u64> = found.iter().map(cpu).collect();
        let begun = Instant::now();
        std::thread::sleep(Duration::from_millis(250));
        print!("{}", usage(&found, &before, begun.elapsed()));
        return Ok(0);
    }
    let more = |f: &Found| vec![f.state.created.clone(), f.root.display().to_string()];
    print!("{}", table(&rows(&found, &["CREATED", "ROOT"], |_, f| more(f))));
    Ok(0)
}

/// The list with what each container uses, again every two seconds until it is interrupted.
///
/// # Errors
/// Standard output is no terminal, where `list --stats` is what a script wants; the state root cannot be read.
pub fn top(env: &Invocation) -> Result<i32> {
    use std::io::IsTerminal;
    let once = env.args.value("count").map(|n| n.parse::<u64>());
    let mut left = match once {
        Some(Ok(n)) if n > 0 => Some(n),
        Some(_) => return Err(Error::new(Kind::Invalid, "--count takes a number from 1 on")),
        None if !std::io::stdout().is_terminal() => {
            return Err(Error::new(
                Kind::Invalid,
                "standard output is no terminal: `conex list --stats` prints once",
            ));
        }
        None => None,
    };
    let mut before: HashMap<(PathBuf, String, String), u64> = HashMap::new();
    let mut begun = Instant::now();
    let mut wait = Duration::from_millis(250);
    loop {
        let found = find(env, !env.args.is_set("own"))?;
        let key = |f: &Found| (f.root.clone(), f.state.id.clone(), f.state.created.clone());
        // One that is new has used what it has used since it was made.
        let used: Vec<u64> =
            found.iter().map(|f| before.get(&key(f)).copied().unwrap_or_else(|| cpu(f))).collect();
        if !before.is_empty() || wait > Duration::from_secs(1) {
            let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            conex::verbs::env::print(&format!("{clear}{}", usage(&found, &used, begun.elapsed())))?;
            left = left.map(|n| n - 1);
        }
        if left == Some(0) {
            return Ok(0);
        }
        before = found.iter().map(|f| (key(f), cpu(f))).collect();
        begun = Instant::now();
        std::thread::sleep(wait);
        wait = Duration::from_secs(2);
    }
}

/// A table of containers and what they use; `before` is what each had computed `over` ago, in nanoseconds.
fn usage(found: &[Found], before: &[u64], over: Duration) -> String {
    let columns = ["CPU", "MEMORY", "LIMIT", "PIDS", "UPTIME"];
    table(&rows(found, &columns, |i, f| figures(f, before[i], over).to_vec()))
}

fn rows(
    found: &[Found],
    columns: &[&str],
    more: impl Fn(usize, &Found) -> Vec<String>,
) -> Vec<Vec<String>> {
    let heads =
        ["ID", "STATUS", "PID", "ENGINE"].iter().chain(columns).map(|s| (*s).to_string()).collect();
    let row = |(i, f): (usize, &Found)| {
        let pid = f.state.init.filter(|_| f.status != Status::Stopped).map_or(0, |i| i.pid);
        let own = vec![f.state.id.clone(), status(f), pid.to_string(), f.engine.into()];
        own.into_iter().chain(more(i, f)).collect()
    };
    std::iter::once(heads).chain(found.iter().enumerate().map(row)).collect()
}

/// With the exit status of one that has stopped, where it is known.
fn status(f: &Found) -> String {
    let code = if f.status == Status::Stopped {
        conex::end::of(&f.state, None).remove("exitCode")
    } else {
        None
    };
    code.map_or(f.status.name().into(), |code| format!("{} ({code})", f.status.name()))
}

/// The directories that a path with `*` for whole names leads to.
fn matches(pattern: &str) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|p| !p.is_empty()) {
        let Some((start, end)) = part.split_once('*') else {
            all.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let names = |path: &PathBuf| {
            std::fs::read_dir(path).into_iter().flatten().flatten().collect::<Vec<_>>()
        };
        let fits = |name: &std::ffi::OsStr| {
            name.to_str().is_some_and(|n| n.starts_with(start) && n.ends_with(end))
        };
        all =
            all.iter().flat_map(names).filter(|e| fits(&e.file_name())).map(|e| e.path()).collect();
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

pub fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

pub fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<_> =
            row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}")).collect();
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
pub fn wait(env: &Invocation) -> Result<i32> {
    let id = env.args.rest[0].as_str();
    let store = Store::open(&env.root, false)?.ok_or_else(|| conex::state::missing(id))?;
    let (state, status) = store.peek(id)?;
    if status == Status::Creating {
        return Err(Error::new(
            Kind::Status,
            format!("{id} is being created: there is no process yet"),
        ));
    }
    let Some(init) = state.init else { return ended(&env.root, id) };
    let Some(fd) = pidfd(init)? else { return ended(&env.root, id) };
    loop {
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other.map(drop).call(|| "poll(pidfd)")?,
        }
    }
    match exit_status(init, fd.as_fd()) {
        Some(status) => println!("{status}"),
        None => eprintln!("conex wait: {id} has ended; how, only its parent knows"),
    }
    Ok(0)
}

fn ended(root: &Path, id: &str) -> Result<i32> {
    Err(Error::new(Kind::Status, format!("{id} in {} has ended already", root.display())))
}
