//! What `events --stats` reports, in the keys of runc's types/events.go; v1 and v2 into one shape.

use super::files::{exists_at, read, read_at};
use super::group::{Dir, Group};
use conex_cgroup::figures::{self, key, pairs, Block};
use conex_cgroup::oom;
use serde::Serialize;
use serde_json::{json, Map, Value};

#[derive(Default, Serialize)]
pub struct Stats {
    pub cpu: Value,
    pub cpuset: Value,
    pub memory: Value,
    pub pids: Value,
    pub blkio: Value,
    pub hugetlb: Map<String, Value>,
    pub intel_rdt: Value,
    pub network_interfaces: Value,
}

fn text(dir: &Dir, file: &str) -> String {
    read_at(dir.as_fd(), file).unwrap_or_default()
}

fn number(dir: &Dir, file: &str) -> u64 {
    figures::number(&text(dir, file))
}

impl Group {
    pub fn stats(&self) -> Stats {
        Stats {
            cpu: self.cpu(),
            cpuset: self.cpuset(),
            memory: self.memory(),
            pids: self.pids_stats(),
            blkio: self.blkio(),
            hugetlb: self.hugetlb(),
            intel_rdt: json!({}),
            network_interfaces: json!([]),
        }
    }

    /// How often the kernel has killed something here for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(dir) = self.dir("memory") else { return 0 };
        oom::kills(&text(dir, oom::file(dir.hierarchy.v2)))
    }

    /// By whose limit: the nearest cgroup, from this one on up, that has a limit of memory and has run into it, and the
    /// limit in bytes. `None` if the host itself ran out.
    pub fn oom_limit(&self) -> Option<(std::path::PathBuf, u64)> {
        let dir = self.dir("memory")?;
        let top = dir.hierarchy.mount_point.as_path();
        dir.path.ancestors().take_while(|path| *path != top && path.starts_with(top)).find_map(
            |path| {
                let read = |file: &str| read(&path.join(file)).unwrap_or_default();
                let number = |file: &str| read(file).trim().parse::<u64>().ok();
                let limit = if dir.hierarchy.v2 {
                    number("memory.max").filter(|_| key(&read("memory.events.local"), "oom") > 0)
                } else {
                    // The counters of cgroup v1 do not count all that is refused (Linux 6.18). The peak is as near to the limit as
                    // the kernel's charges are large: 64 pages at once.
                    ["memory", "memory.memsw"].into_iter().find_map(|kind| {
                        let limit = number(&format!("{kind}.limit_in_bytes"))?;
                        (number(&format!("{kind}.max_usage_in_bytes"))? + (64 << 12) >= limit)
                            .then_some(limit)
                    })
                };
                limit.map(|limit| (path.to_path_buf(), limit))
            },
        )
    }

    fn cpu(&self) -> Value {
        if let Some(dir) = self.dir("cpu").filter(|d| d.hierarchy.v2) {
            let stat = text(dir, "cpu.stat");
            // v2 counts microseconds, v1 nanoseconds; runc reports nanoseconds.
            let ns = |name| key(&stat, name) * 1000;
            return json!({
                "usage": {"total": ns("usage_usec"), "kernel": ns("system_usec"), "user": ns("user_usec")},
                "throttling": {
                    "periods": key(&stat, "nr_periods"),
                    "throttledPeriods": key(&stat, "nr_throttled"),
                    "throttledTime": ns("throttled_usec"),
                },
                "psi": psi(dir, "cpu.pressure"),
            });
        }
        let throttling = self.dir("cpu").map(|d| text(d, "cpu.stat")).unwrap_or_default();
        let usage = self.dir("cpuacct").map_or(json!({}), |d| {
            let percpu = |file: &str| -> Vec<u64> {
                text(d, file).split_whitespace().filter_map(|n| n.parse().ok()).collect()
            };
            json!({
                "total": number(d, "cpuacct.usage"),
                "percpu": percpu("cpuacct.usage_percpu"),
                "kernel": number(d, "cpuacct.usage_sys"),
                "user": number(d, "cpuacct.usage_user"),
            })
        });
        json!({
            "usage": usage,
            "throttling": {
                "periods": key(&throttling, "nr_periods"),
                "throttledPeriods": key(&throttling, "nr_throttled"),
                "throttledTime": key(&throttling, "throttled_time"),
            },
        })
    }

    fn cpuset(&self) -> Value {
        let Some(dir) = self.dir("cpuset") else {
            return json!({});
        };
        let list = |file: &str| -> Vec<u64> {
            let bits = crate::text::bit_set(text(dir, file).trim()).unwrap_or_default();
            (0..bits.len() as u64 * 64)
                .filter(|b| bits[(*b / 64) as usize] >> (b % 64) & 1 == 1)
                .collect()
        };
        let flag = |name: &str| number(dir, &format!("cpuset.{name}"));
        json!({
            "cpus": list("cpuset.cpus"),
            "cpu_exclusive": flag("cpu_exclusive"),
            "mems": list("cpuset.mems"),
            "mem_hardwall": flag("mem_hardwall"),
            "mem_exclusive": flag("mem_exclusive"),
            "memory_migrate": flag("memory_migrate"),
            "memory_spread_page": flag("memory_spread_page"),
            "memory_spread_slab": flag("memory_spread_slab"),
            "memory_pressure": flag("memory_pressure"),
            "sched_load_balance": flag("sched_load_balance"),
            "sched_relax_domain_level": text(dir, "cpuset.sched_relax_domain_level").trim().parse::<i64>().unwrap_or(0),
        })
    }

    fn memory(&self) -> Value {
        let Some(dir) = self.dir("memory") else {
            return json!({});
        };
        let stat = text(dir, "memory.stat");
        let raw: Map<String, Value> =
            pairs(&stat).map(|(k, v)| (k.to_string(), json!(v))).collect();
        if dir.hierarchy.v2 {
            // v1 counts memory and swap together, and so does runc for both.
            let sum =
                |swap: &str, memory: &str| number(dir, swap).saturating_add(number(dir, memory));
            let swap = json!({
                "limit": sum("memory.swap.max", "memory.max"),
                "usage": sum("memory.swap.current", "memory.current"),
                "max": number(dir, "memory.swap.peak"),
                "failcnt": 0,
            });
            return json!({
                "cache": key(&stat, "file"),
                "usage": {
                    "limit": number(dir, "memory.max"),
                    "usage": number(dir, "memory.current"),
                    "max": number(dir, "memory.peak"),
                    "failcnt": key(&text(dir, "memory.events"), "max"),
                },
                "swap": swap,
                "raw": raw,
                "psi": psi(dir, "memory.pressure"),
            });
        }
        let entry = |prefix: &str| {
            json!({
                "limit": number(dir, &format!("{prefix}.limit_in_bytes")),
                "usage": number(dir, &format!("{prefix}.usage_in_bytes")),
                "max": number(dir, &format!("{prefix}.max_usage_in_bytes")),
                "failcnt": number(dir, &format!("{prefix}.failcnt")),
            })
        };
        json!({
            "cache": key(&stat, "cache"),
            "usage": entry("memory"),
            "swap": entry("memory.memsw"),
            "kernel": entry("memory.kmem"),
            "kernelTCP": entry("memory.kmem.tcp"),
            "raw": raw,
        })
    }

    fn pids_stats(&self) -> Value {
        let Some(dir) = self.dir("pids") else { return json!({}) };
        let limit = match number(dir, "pids.max") {
            u64::MAX => 0,
            n => n,
        };
        json!({"current": number(dir, "pids.current"), "limit": limit})
    }

    fn blkio(&self) -> Value {
        if let Some(dir) = self.dir("io") {
            return blkio_v2(dir);
        }
        let Some(dir) = self.dir("blkio") else { return json!({}) };
        let list = |names: [&str; 2]| -> Vec<Value> {
            let file = names.iter().find(|f| exists_at(dir.as_fd(), f)).unwrap_or(&names[0]);
            figures::blocks(&text(dir, file)).map(entry).collect()
        };
        json!({
            "ioServiceBytesRecursive": list(["blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"]),
            "ioServicedRecursive": list(["blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"]),
            "ioQueueRecursive": list(["blkio.io_queued_recursive", ""]),
            "ioServiceTimeRecursive": list(["blkio.io_service_time_recursive", ""]),
            "ioWaitTimeRecursive": list(["blkio.io_wait_time_recursive", ""]),
            "ioMergedRecursive": list(["blkio.io_merged_recursive", ""]),
            "ioTimeRecursive": list(["blkio.time_recursive", ""]),
            "sectorsRecursive": list(["blkio.sectors_recursive", ""]),
        })
    }

    fn hugetlb(&self) -> Map<String, Value> {
        let Some(dir) = self.dir("hugetlb") else {
            return Map::new();
        };
        let (usage, max, failures) = if dir.hierarchy.v2 {
            ("current", "max", "events")
        } else {
            ("usage_in_bytes", "max_usage_in_bytes", "failcnt")
        };
        figures::hugepage_sizes(&dir.path, &format!(".{usage}"))
            .into_iter()
            .map(|size| {
                let at = |what: &str| format!("hugetlb.{size}.{what}");
                let failcnt = if dir.hierarchy.v2 {
                    key(&text(dir, &at(failures)), "max")
                } else {
                    number(dir, &at(failures))
                };
                let value =
                    json!({"usage": number(dir, &at(usage)), "max": number(dir, &at(max)), "failcnt": failcnt});
                (size, value)
            })
            .collect()
    }
}

fn entry(b: Block) -> Value {
    json!({"major": b.major, "minor": b.minor, "op": b.op, "value": b.value})
}

fn blkio_v2(dir: &Dir) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for io in figures::io(&text(dir, "io.stat")) {
        let one = |op, value| entry(Block { major: io.major, minor: io.minor, op, value });
        bytes.extend([one("Read", io.rbytes), one("Write", io.wbytes)]);
        operations.extend([one("Read", io.rios), one("Write", io.wios)]);
    }
    json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations, "psi": psi(dir, "io.pressure")})
}

/// Null where the kernel has no PSI.
fn psi(dir: &Dir, file: &str) -> Value {
    let text = text(dir, file);
    let one = |kind: &str| {
        let p = figures::pressure(&text, kind)?;
        Some((
            kind.to_string(),
            json!({"avg10": p.avg10, "avg60": p.avg60, "avg300": p.avg300, "total": p.total}),
        ))
    };
    let found: Map<String, Value> = ["some", "full"].into_iter().filter_map(one).collect();
    if found.is_empty() {
        Value::Null
    } else {
        Value::Object(found)
    }
}
