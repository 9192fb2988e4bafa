//! Files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst).

use super::setting::{row, Amount, Rate, Row, Setting};

fn number(a: Amount) -> String {
    match a {
        Amount::Max => "max".into(),
        Amount::Is(n) => n.to_string(),
    }
}

/// The files of a setting; none for one that only v1 has, which the plan refuses, and none for what `unified` alone can ask
/// for: that is written as it is given.
pub fn rows(s: &Setting) -> Vec<Row> {
    let one = |file: &str, value: String| vec![row(file, value)];
    match s {
        Setting::MemoryMax(a) => one("memory.max", number(*a)),
        Setting::SwapMax(a) => one("memory.swap.max", number(*a)),
        Setting::MemoryLow(a) => one("memory.low", number(*a)),
        Setting::CpuShares(n) => one("cpu.weight", crate::weights::weight(*n).to_string()),
        // The host has filled the half that stays ([`super::both_halves`]).
        Setting::CpuBandwidth { quota, period } => {
            let quota = number(quota.unwrap_or(Amount::Max));
            one("cpu.max", period.map_or(quota.clone(), |period| format!("{quota} {period}")))
        }
        Setting::CpuBurst(n) => one("cpu.max.burst", n.to_string()),
        Setting::CpuIdle(n) => one("cpu.idle", n.to_string()),
        Setting::Cpus(list) => one("cpuset.cpus", list.clone()),
        Setting::MemoryNodes(list) => one("cpuset.mems", list.clone()),
        Setting::Pids(a) => one("pids.max", number(*a)),
        Setting::IoWeight(device, weight) => {
            let of = |n: u64| device.as_ref().map_or(n.to_string(), |d| format!("{} {n}", d.0));
            let mut choices = vec![("io.weight".to_string(), of(weight.io()))];
            if let super::setting::Weight::Blkio(n) = weight {
                // The scale of config.json, which the BFQ scheduler has as well.
                choices.insert(0, ("io.bfq.weight".to_string(), of(*n)));
            }
            vec![Row { choices, field: None, partner: None }]
        }
        Setting::IoRate(device, rate, limit) => {
            one("io.max", format!("{} {}={}", device.0, rate_key(*rate), number(*limit)))
        }
        Setting::Hugepages(size, n) => one(&format!("hugetlb.{size}.max"), n.to_string()),
        Setting::HugepagesReserved(size, n) => {
            one(&format!("hugetlb.{size}.rsvd.max"), n.to_string())
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

fn rate_key(rate: Rate) -> &'static str {
    match rate {
        Rate::ReadBps => "rbps",
        Rate::WriteBps => "wbps",
        Rate::ReadIops => "riops",
        Rate::WriteIops => "wiops",
    }
}
