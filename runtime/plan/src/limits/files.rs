//! Settings as files and values, of cgroup v1 and of v2 side by side.

use super::setting::{row, Amount, Device, Limit, Rate, Row, Setting, Weight};
use crate::hierarchy::Hierarchy;

/// One value for one file of a cgroup.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub field: String,
    /// The controller, which decides the hierarchy; empty for files that every v2 cgroup has.
    pub controller: &'static str,
    /// File and value; of several, the first whose file exists.
    pub choices: Vec<(String, String)>,
    pub optional: bool,
    /// The file whose value must change first if this one is refused: they bound each other.
    pub partner: Option<&'static str>,
}

/// The files of these hierarchies, in the order of the limits.
pub fn files(limits: &[Limit], hierarchies: &[Hierarchy]) -> Vec<Assignment> {
    let mut out = Vec::with_capacity(limits.len());
    for limit in limits {
        let rows =
            if limit.setting.is_v2(hierarchies) { v2(&limit.setting) } else { v1(&limit.setting) };
        for row in rows {
            out.push(Assignment {
                field: row
                    .field
                    .map_or_else(|| limit.field.clone(), |f| format!("linux.resources.{f}")),
                controller: limit.setting.controller_of(hierarchies),
                choices: row.choices,
                optional: limit.optional,
                partner: row.partner,
            });
        }
    }
    out
}

/// -1 is no limit.
fn v1_number(a: Amount) -> String {
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

/// The files of cgroup v1 (Documentation/admin-guide/cgroup-v1); none for one that only v2 has, which the plan refuses.
fn v1(s: &Setting) -> Vec<Row> {
    match s {
        Setting::MemoryMax(a) => {
            vec![bound("memory.limit_in_bytes", v1_number(*a), "memory.memsw.limit_in_bytes")]
        }
        Setting::MemoryAndSwap(a) => one("memory.memsw.limit_in_bytes", v1_number(*a)),
        Setting::MemoryLow(a) => one("memory.soft_limit_in_bytes", v1_number(*a)),
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
            out.extend(quota.map(|quota| row("cpu.cfs_quota_us", v1_number(quota))));
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
        Setting::Pids(a) => one("pids.max", v1_number(*a)),
        Setting::IoWeight(device, weight) => vec![v1_weight(device.as_ref(), *weight)],
        Setting::IoRate(device, rate, limit) => vec![v1_rate(device, *rate, *limit)],
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

fn v1_weight(device: Option<&Device>, (Weight::Blkio(n) | Weight::Io(n)): Weight) -> Row {
    let (suffix, value) = match device {
        None => ("", n.to_string()),
        Some(device) => ("_device", format!("{} {n}", device.0)),
    };
    let choices =
        ["blkio.bfq.weight", "blkio.weight"].map(|name| (format!("{name}{suffix}"), value.clone()));
    Row { choices: choices.to_vec(), field: None, partner: None }
}

fn v1_rate(device: &Device, rate: Rate, limit: Amount) -> Row {
    let key = match rate {
        Rate::ReadBps => "read_bps",
        Rate::WriteBps => "write_bps",
        Rate::ReadIops => "read_iops",
        Rate::WriteIops => "write_iops",
    };
    let limit = if let Amount::Is(n) = limit { n } else { 0 };
    row(format!("blkio.throttle.{key}_device"), format!("{} {limit}", device.0))
}

fn v2_number(a: Amount) -> String {
    match a {
        Amount::Max => "max".into(),
        Amount::Is(n) => n.to_string(),
    }
}

/// The files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst); none for one that only v1 has, which the plan refuses, and none for what `unified` alone can ask
/// for: that is written as it is given.
fn v2(s: &Setting) -> Vec<Row> {
    match s {
        Setting::MemoryMax(a) => one("memory.max", v2_number(*a)),
        Setting::SwapMax(a) => one("memory.swap.max", v2_number(*a)),
        Setting::MemoryLow(a) => one("memory.low", v2_number(*a)),
        Setting::CpuShares(n) => one("cpu.weight", crate::weights::weight(*n).to_string()),
        // The host has filled the half that stays ([`super::both_halves`]).
        Setting::CpuBandwidth { quota, period } => {
            let quota = v2_number(quota.unwrap_or(Amount::Max));
            one("cpu.max", period.map_or(quota.clone(), |period| format!("{quota} {period}")))
        }
        Setting::CpuBurst(n) => one("cpu.max.burst", n.to_string()),
        Setting::CpuIdle(n) => one("cpu.idle", n.to_string()),
        Setting::Cpus(list) => one("cpuset.cpus", list.clone()),
        Setting::MemoryNodes(list) => one("cpuset.mems", list.clone()),
        Setting::Pids(a) => one("pids.max", v2_number(*a)),
        Setting::IoWeight(device, weight) => {
            let of = |n: u64| device.as_ref().map_or(n.to_string(), |d| format!("{} {n}", d.0));
            let mut choices = vec![("io.weight".to_string(), of(weight.io()))];
            if let Weight::Blkio(n) = weight {
                // The scale of config.json, which the BFQ scheduler has as well.
                choices.insert(0, ("io.bfq.weight".to_string(), of(*n)));
            }
            vec![Row { choices, field: None, partner: None }]
        }
        Setting::IoRate(device, rate, limit) => {
            one("io.max", format!("{} {}={}", device.0, v2_rate(*rate), v2_number(*limit)))
        }
        Setting::Hugepages(size, n) => one(format!("hugetlb.{size}.max"), n.to_string()),
        Setting::HugepagesReserved(size, n) => {
            one(format!("hugetlb.{size}.rsvd.max"), n.to_string())
        }
        Setting::Rdma(device, limits) => one("rdma.max", format!("{device} {limits}")),
        Setting::File { file, value, .. } => one(file, value.clone()),
        Setting::MemoryAndSwap(_)
        | Setting::MemoryHigh(_)
        | Setting::MemoryMin(_)
        | Setting::ZswapMax(_)
        | Setting::ZswapWriteback(_)
        | Setting::Swappiness(_)
        | Setting::OomKillerDisabled
        | Setting::UseHierarchy
        | Setting::OomGroup(_)
        | Setting::CpuWeight(_)
        | Setting::RealtimePeriod(_)
        | Setting::RealtimeRuntime(_)
        | Setting::IoLatency(..)
        | Setting::NetworkClass(_)
        | Setting::NetworkPriority { .. } => Vec::new(),
    }
}

fn v2_rate(rate: Rate) -> &'static str {
    match rate {
        Rate::ReadBps => "rbps",
        Rate::WriteBps => "wbps",
        Rate::ReadIops => "riops",
        Rate::WriteIops => "wiops",
    }
}
