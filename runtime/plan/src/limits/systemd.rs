//! Properties of a systemd unit (systemd.resource-control(5), org.freedesktop.systemd1(5)).

use super::setting::{Amount, Device, Rate, Setting};
use super::Limit;
use crate::gvariant::Value;
use crate::hierarchy::Hierarchy;

/// What is told as one list, or as two numbers that belong together.
#[derive(Default)]
struct Gathered {
    /// By the place of [`RATES`], then weights and latencies.
    lists: [Vec<Value>; 6],
    bandwidth: Option<(Option<u64>, u64)>,
}

const RATES: [(Rate, &str); 4] = [
    (Rate::ReadBps, "IOReadBandwidthMax"),
    (Rate::WriteBps, "IOWriteBandwidthMax"),
    (Rate::ReadIops, "IOReadIOPSMax"),
    (Rate::WriteIops, "IOWriteIOPSMax"),
];
const WEIGHTS: usize = RATES.len();
const LATENCIES: usize = WEIGHTS + 1;

/// The properties that say the same as the limits, so that systemd, when it applies its own view again (daemon-reload), puts
/// back what the document asks for. `cpu` is the quota and the period in force, for a limit that gives only one of them.
///
/// systemd has no property for hugetlb, rdma, misc and cpuset.cpus.partition; it does not touch these files either.
pub fn properties(
    limits: &[Limit],
    hierarchies: &[Hierarchy],
    cpu: (Option<u64>, u64),
) -> Vec<(&'static str, Value)> {
    let mut all: Vec<(&Setting, bool)> = Vec::new();
    for limit in limits {
        match &limit.setting {
            Setting::File { means, .. } => all.extend(means.iter().map(|s| (s, true))),
            s => all.push((s, s.is_v2(hierarchies))),
        }
    }
    let weighed =
        all.iter().any(|(s, _)| matches!(s, Setting::CpuShares(_) | Setting::CpuWeight(_)));
    let mut gathered = Gathered::default();
    let mut out: Vec<_> = all.iter().filter_map(|(s, v2)| property(s, *v2, weighed)).collect();
    all.iter().for_each(|(s, v2)| gather(s, *v2, cpu, &mut gathered));
    let names =
        RATES.iter().map(|(_, name)| *name).chain(["IODeviceWeight", "IODeviceLatencyTargetUSec"]);
    for (name, list) in names.zip(gathered.lists).filter(|(_, list)| !list.is_empty()) {
        out.push((name, Value::Array("(st)".into(), list)));
    }
    if let Some((quota, period)) = gathered.bandwidth {
        out.push(("CPUQuotaPeriodUSec", Value::U64(period)));
        // Exact, because systemd writes the file again whenever it looks at the unit. A reload reads it back from
        // percents, with two decimals or (before systemd 250) none: less than one would become no limit at all.
        let per_second =
            |q: u64| u64::try_from(u128::from(q) * 1_000_000 / u128::from(period.max(1)));
        let rate = quota.map_or(u64::MAX, |q| per_second(q).unwrap_or(u64::MAX).max(10_000));
        out.push(("CPUQuotaPerSecUSec", Value::U64(rate)));
    }
    out
}

/// One property that says one setting. `weighed`: another setting gives the weight.
fn property(s: &Setting, v2: bool, weighed: bool) -> Option<(&'static str, Value)> {
    let number = |name, a: &Amount| Some((name, Value::U64(a.number())));
    match s {
        Setting::MemoryMax(a) if v2 => number("MemoryMax", a),
        Setting::MemoryMax(a) => number("MemoryLimit", a),
        Setting::MemoryLow(a) if v2 => number("MemoryLow", a),
        Setting::MemoryHigh(a) => number("MemoryHigh", a),
        Setting::MemoryMin(a) => number("MemoryMin", a),
        Setting::SwapMax(a) => number("MemorySwapMax", a),
        // systemd 253.
        Setting::ZswapMax(a) => number("MemoryZSwapMax", a),
        // systemd 256.
        Setting::ZswapWriteback(on) => Some(("MemoryZSwapWriteback", Value::Bool(*on))),
        // systemd 253, and only while the unit is being made.
        Setting::OomGroup(on) => {
            Some(("OOMPolicy", Value::str(if *on { "kill" } else { "continue" })))
        }
        Setting::Pids(a) => number("TasksMax", a),
        Setting::CpuShares(n) if v2 => Some(("CPUWeight", Value::U64(crate::weights::weight(*n)))),
        Setting::CpuShares(n) => Some(("CPUShares", Value::U64((*n).clamp(2, 262_144)))),
        Setting::CpuWeight(n) => Some(("CPUWeight", Value::U64(*n))),
        // systemd 252: the weight "idle", and back to the default unless a weight follows.
        Setting::CpuIdle(1) => Some(("CPUWeight", Value::U64(0))),
        Setting::CpuIdle(0) if !weighed => Some(("CPUWeight", Value::U64(100))),
        Setting::Cpus(list) => bits(list).map(|b| ("AllowedCPUs", b)),
        Setting::MemoryNodes(list) => bits(list).map(|b| ("AllowedMemoryNodes", b)),
        Setting::IoWeight(None, weight) if v2 => Some(("IOWeight", Value::U64(weight.io()))),
        Setting::IoWeight(None, super::setting::Weight::Blkio(n)) => {
            Some(("BlockIOWeight", Value::U64(*n)))
        }
        _ => None,
    }
}

fn gather(s: &Setting, v2: bool, cpu: (Option<u64>, u64), out: &mut Gathered) {
    match s {
        Setting::CpuBandwidth { quota, period } => {
            let (quota_now, period_now) = out.bandwidth.unwrap_or(cpu);
            let quota =
                quota.map_or(quota_now, |q| if let Amount::Is(n) = q { Some(n) } else { None });
            out.bandwidth = Some((quota, period.unwrap_or(period_now)));
        }
        Setting::IoWeight(Some(device), weight) if v2 => {
            out.lists[WEIGHTS].push(per_device(device, weight.io()))
        }
        Setting::IoLatency(device, n) => out.lists[LATENCIES].push(per_device(device, *n)),
        Setting::IoRate(device, rate, a) if v2 => {
            let place = RATES.iter().position(|(r, _)| r == rate).unwrap_or_default();
            out.lists[place].push(per_device(device, a.number()));
        }
        _ => {}
    }
}

/// What systemd has for each device, `8:0`, as it names them.
fn per_device(device: &Device, n: u64) -> Value {
    Value::Struct(vec![Value::Str(format!("/dev/block/{}", device.0)), Value::U64(n)])
}

/// A list such as `0-3,7` as the bytes of a bit mask, lowest first.
fn bits(text: &str) -> Option<Value> {
    let mut bytes: Vec<u8> =
        crate::text::bit_set(text)?.iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(Value::bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::super::setting::Weight;
    use super::super::unified;
    use super::*;

    fn hosts() -> [Vec<Hierarchy>; 2] {
        let one = |v2| {
            let controllers =
                ["cpu", "cpuset", "memory", "io", "blkio", "pids"].map(String::from).to_vec();
            vec![Hierarchy { mount_point: "/sys/fs/cgroup".into(), controllers, v2 }]
        };
        [one(false), one(true)]
    }

    fn limits(list: &[Setting], v2: bool, cpu: (Option<u64>, u64)) -> Vec<(&'static str, Value)> {
        let list: Vec<_> = list
            .iter()
            .map(|s| Limit { field: String::new(), setting: s.clone(), optional: false })
            .collect();
        properties(&list, &hosts()[usize::from(v2)], cpu)
    }

    /// A line of `unified`.
    fn file(file: &str, value: &str) -> Setting {
        let means = unified::means(file, value);
        Setting::File { controller: "cpu", file: file.into(), value: value.into(), means }
    }

    #[test]
    fn limits_are_told_twice() {
        let half = |quota, period| Setting::CpuBandwidth { quota, period };
        let rate = |s: Setting, cpu| limits(&[s], true, cpu)[1].1.clone();
        assert_eq!(rate(file("cpu.max", "50000 100000"), (None, 100_000)), Value::U64(500_000));
        assert_eq!(
            rate(half(Some(Amount::Is(33_333)), None), (None, 100_000)),
            Value::U64(333_330)
        );
        assert_eq!(rate(half(Some(Amount::Is(100)), None), (None, 100_000)), Value::U64(10_000));
        assert_eq!(rate(half(None, Some(200_000)), (Some(50_000), 100_000)), Value::U64(250_000));
        assert_eq!(
            rate(half(Some(Amount::Max), None), (Some(50_000), 100_000)),
            Value::U64(u64::MAX)
        );
        assert_eq!(rate(file("cpu.max", "50000"), (None, 100_000)), Value::U64(500_000));
        assert_eq!(
            rate(file("cpu.max", "18446744073709551614 1000"), (None, 1)),
            Value::U64(u64::MAX)
        );
        let one = |s: Setting| limits(&[s], true, (None, 1));
        assert_eq!(one(Setting::Cpus("0,9".into()))[0].1, Value::bytes(&[1, 2]));
        assert_eq!(one(Setting::Pids(Amount::Max))[0].1, Value::U64(u64::MAX));
        assert_eq!(one(file("memory.high", "16M")), [("MemoryHigh", Value::U64(16 << 20))]);
        assert_eq!(one(Setting::CpuIdle(0)), [("CPUWeight", Value::U64(100))]);
        assert_eq!(
            limits(&[Setting::CpuIdle(0), file("cpu.weight", "7")], true, (None, 1)).len(),
            1
        );
        let on_v1 = limits(&[Setting::CpuIdle(0), Setting::CpuShares(512)], false, (None, 1));
        assert_eq!(on_v1, [("CPUShares", Value::U64(512))]);
    }

    #[test]
    fn devices_are_lists() {
        let per = |device: &str, n| {
            Value::Struct(vec![Value::Str(format!("/dev/block/{device}")), Value::U64(n)])
        };
        let list = |one| Value::Array("(st)".into(), vec![one]);
        let io = limits(
            &[file("io.max", "8:0 rbps=7 wiops=max"), file("io.max", "8:16 rbps=9")],
            true,
            (None, 1),
        );
        assert_eq!((io[0].0, io[1].0, io.len()), ("IOReadBandwidthMax", "IOWriteIOPSMax", 2));
        let each = [
            file("io.weight", "8:0 200"),
            file("io.weight", "default 70"),
            file("io.latency", "8:16 target=75000"),
        ];
        assert_eq!(
            limits(&each, true, (None, 1)),
            [
                ("IOWeight", Value::U64(70)),
                ("IODeviceWeight", list(per("8:0", 200))),
                ("IODeviceLatencyTargetUSec", list(per("8:16", 75_000)))
            ]
        );
        let weight = Setting::IoWeight(Some(Device("8:0".into())), Weight::Blkio(10));
        let converted = crate::weights::io_weight(10);
        assert_eq!(
            limits(std::slice::from_ref(&weight), true, (None, 1)),
            [("IODeviceWeight", list(per("8:0", converted)))]
        );
        assert_eq!(limits(&[weight], false, (None, 1)), []);
        let whole = Setting::IoWeight(None, Weight::Blkio(500));
        assert_eq!(limits(&[whole], false, (None, 1)), [("BlockIOWeight", Value::U64(500))]);
    }
}
