//! Files of cgroup v1 (Documentation/admin-guide/cgroup-v1).

use super::setting::{row, Amount, Device, Rate, Row, Setting, Weight};

/// -1 is no limit.
fn number(a: Amount) -> String {
    match a {
        Amount::Max => "-1".into(),
        Amount::Is(n) => n.to_string(),
    }
}

fn one(file: impl Into<String>, value: impl ToString) -> Vec<Row> {
    vec![row(file, value)]
}

/// Two files that bound each other.
fn bound(file: &str, value: String, partner: &'static str) -> Row {
    Row { partner: Some(partner), ..row(file, value) }
}

/// The files of a setting; none for one that only v2 has, which the plan refuses.
pub fn rows(s: &Setting) -> Vec<Row> {
    match s {
        Setting::MemoryMax(a) => {
            vec![bound("memory.limit_in_bytes", number(*a), "memory.memsw.limit_in_bytes")]
        }
        Setting::MemoryAndSwap(a) => one("memory.memsw.limit_in_bytes", number(*a)),
        Setting::MemoryLow(a) => one("memory.soft_limit_in_bytes", number(*a)),
        Setting::Swappiness(n) => one("memory.swappiness", n),
        Setting::OomKillerDisabled => one("memory.oom_control", 1),
        Setting::UseHierarchy => one("memory.use_hierarchy", 1),
        // The kernel clamps silently; a reader of the file would see another value than the document's.
        Setting::CpuShares(n) => one("cpu.shares", (*n).clamp(2, 262_144)),
        Setting::CpuBandwidth { quota, period } => {
            let mut out = Vec::new();
            if let Some(period) = period {
                let row = bound("cpu.cfs_period_us", period.to_string(), "cpu.cfs_quota_us");
                out.push(Row { field: Some("cpu.period"), ..row });
            }
            out.extend(quota.map(|quota| row("cpu.cfs_quota_us", number(quota))));
            out
        }
        Setting::CpuBurst(n) => one("cpu.cfs_burst_us", n),
        Setting::RealtimePeriod(n) => {
            vec![bound("cpu.rt_period_us", n.to_string(), "cpu.rt_runtime_us")]
        }
        Setting::RealtimeRuntime(n) => one("cpu.rt_runtime_us", n),
        Setting::CpuIdle(n) => one("cpu.idle", n),
        Setting::Cpus(list) => one("cpuset.cpus", list),
        Setting::MemoryNodes(list) => one("cpuset.mems", list),
        Setting::Pids(Amount::Max) => one("pids.max", "max"),
        Setting::Pids(a) => one("pids.max", number(*a)),
        Setting::IoWeight(device, weight) => vec![io_weight(device.as_ref(), *weight)],
        Setting::IoRate(device, rate, limit) => vec![io_rate(device, *rate, *limit)],
        Setting::Hugepages(size, n) => one(format!("hugetlb.{size}.limit_in_bytes"), n),
        Setting::HugepagesReserved(size, n) => {
            one(format!("hugetlb.{size}.rsvd.limit_in_bytes"), n)
        }
        Setting::NetworkClass(id) => one("net_cls.classid", id),
        Setting::NetworkPriority { interface, priority } => {
            one("net_prio.ifpriomap", format!("{interface} {priority}"))
        }
        Setting::Rdma(device, limits) => one("rdma.max", format!("{device} {limits}")),
        Setting::SwapMax(_)
        | Setting::MemoryHigh(_)
        | Setting::MemoryMin(_)
        | Setting::ZswapMax(_)
        | Setting::ZswapWriteback(_)
        | Setting::OomGroup(_)
        | Setting::CpuWeight(_)
        | Setting::IoLatency(..)
        | Setting::File { .. } => Vec::new(),
    }
}

fn io_weight(device: Option<&Device>, (Weight::Blkio(n) | Weight::Io(n)): Weight) -> Row {
    let (suffix, value) = match device {
        None => ("", n.to_string()),
        Some(device) => ("_device", format!("{} {n}", device.0)),
    };
    let choices =
        ["blkio.bfq.weight", "blkio.weight"].map(|name| (format!("{name}{suffix}"), value.clone()));
    Row { choices: choices.to_vec(), field: None, partner: None }
}

fn io_rate(device: &Device, rate: Rate, limit: Amount) -> Row {
    let key = match rate {
        Rate::ReadBps => "read_bps",
        Rate::WriteBps => "write_bps",
        Rate::ReadIops => "read_iops",
        Rate::WriteIops => "write_iops",
    };
    let limit = if let Amount::Is(n) = limit { n } else { 0 };
    row(format!("blkio.throttle.{key}_device"), format!("{} {limit}", device.0))
}
