//! `conex events`: statistics at an interval, and out-of-memory kills as they happen.

use super::env::Env;
use crate::error::{Error, Kind, Result};
use crate::host::cgroup::stats::Stats;
use crate::host::cgroup::Group;
use crate::identity::alive;
use crate::state::{State, Status};
use conex_cgroup::oom;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub fn main(env: &mut Env) -> Result<i32> {
    let interval = duration(env.args.value("interval").unwrap_or("5s"))?;
    let (state, status) = env.store()?.peek(env.id())?;
    if status == Status::Stopped {
        return Err(Error::new(
            Kind::Status,
            format!("container with id {} is not running", state.id),
        ));
    }
    let group = Group::open_all(&state.cgroups)?;
    if env.args.is_set("stats") {
        print(&state, "stats", Some(group.stats()))?;
        return Ok(0);
    }
    follow(&state, &group, interval)
}

/// One line, its keys in runc's order, which scripts compare as text.
#[derive(serde::Serialize)]
struct Event<'a, T> {
    r#type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

/// Statistics with the keys of each object in runc's order (its types/events.go), which `json!` does not keep.
struct InOrder<'a>(&'a serde_json::Value);

/// The whole of one order that holds for every object; what it lacks comes behind, by name.
const ORDER: [&str; 56] = [
    "cpu",
    "cpuset",
    "memory",
    "pids",
    "blkio",
    "hugetlb",
    "intel_rdt",
    "network_interfaces",
    "cache",
    "current",
    "limit",
    "usage",
    "max",
    "failcnt",
    "swap",
    "avg10",
    "avg60",
    "avg300",
    "total",
    "percpu",
    "percpu_kernel",
    "percpu_user",
    "kernel",
    "kernelTCP",
    "raw",
    "user",
    "periods",
    "throttledPeriods",
    "throttledTime",
    "throttling",
    "major",
    "minor",
    "op",
    "value",
    "ioServiceBytesRecursive",
    "ioServicedRecursive",
    "ioQueueRecursive",
    "ioServiceTimeRecursive",
    "ioWaitTimeRecursive",
    "ioMergedRecursive",
    "ioTimeRecursive",
    "sectorsRecursive",
    "some",
    "full",
    "cpus",
    "cpu_exclusive",
    "mems",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
    "sched_relax_domain_level",
    "psi",
];

impl serde::Serialize for InOrder<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            serde_json::Value::Object(map) => {
                let place =
                    |key: &String| ORDER.iter().position(|k| k == key).unwrap_or(ORDER.len());
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_by_key(|key| place(key));
                to.collect_map(keys.into_iter().map(|key| match key.as_str() {
                    // A map there too, by name.
                    "raw" => (key, Part::Plain(&map[key])),
                    _ => (key, Part::Ordered(InOrder(&map[key]))),
                }))
            }
            serde_json::Value::Array(list) => to.collect_seq(list.iter().map(InOrder)),
            other => other.serialize(to),
        }
    }
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Plain(&'a serde_json::Value),
    Ordered(InOrder<'a>),
}

fn print<T: serde::Serialize>(state: &State, kind: &str, data: Option<T>) -> Result<()> {
    let data = data.map(|data| serde_json::to_value(data).unwrap_or_default());
    let event = Event { r#type: kind, id: &state.id, data: data.as_ref().map(InOrder) };
    let line =
        serde_json::to_string(&event).map_err(|e| Error::new(Kind::System, e.to_string()))?;
    super::env::print(&format!("{line}\n"))
}

fn follow(state: &State, group: &Group, interval: Duration) -> Result<i32> {
    let init = state.init.unwrap_or_default();
    let pidfd = crate::identity::pidfd(init)?;
    let watch = watch_oom(group)?;
    let mut kills = group.oom_kills();
    let mut next = Instant::now() + interval;
    while alive(init) {
        let left = next.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        if let Some(fd) = &pidfd {
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        }
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::call(e, "poll")),
        }
        let _ = nix::unistd::read(&watch, &mut [0u8; 4096]);
        report_kills(state, group, &mut kills)?;
        if Instant::now() >= next {
            print(state, "stats", Some(group.stats()))?;
            next += interval;
        }
    }
    report_kills(state, group, &mut kills)?;
    let seen = pidfd.and_then(|fd| crate::identity::exit_status(init, fd.as_fd()));
    print(state, "exit", Some(crate::end::of(state, seen)))?;
    Ok(0)
}

fn report_kills(state: &State, group: &Group, seen: &mut u64) -> Result<()> {
    let now = group.oom_kills();
    while *seen < now {
        *seen += 1;
        print::<Stats>(state, "oom", None)?;
    }
    Ok(())
}

/// Readable when the kernel may have killed for want of memory.
fn watch_oom(group: &Group) -> Result<OwnedFd> {
    match group.dir("memory") {
        Some(dir) => oom::Counter::watch(&dir.path, dir.hierarchy.v2).map(|(_, wake)| wake),
        None => oom::idle(),
    }
}

/// Go's time.ParseDuration for the units that make sense here.
fn duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::new(
            Kind::Invalid,
            format!("duration interval must be greater than 0, such as 5s or 100ms: {text:?}"),
        )
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let unit = match &text[end..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let microseconds = crate::text::decimal(&text[..end], unit * 1000);
    microseconds
        .filter(|n| (1..=1_000_000_000_000_000).contains(n))
        .map(Duration::from_micros)
        .ok_or_else(bad)
}
