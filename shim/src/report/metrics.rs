//! What a container uses: io.containerd.cgroups.v1.Metrics where the host has v1 controllers (times in nanoseconds),
//! io.containerd.cgroups.v2.Metrics elsewhere (microseconds). A file that is missing counts as 0, `max` as 2^64-1.

use crate::status::{not_found, Result};
use conex_cgroup::figures::{self, key, number as parse};
use conex_proto::{any, cgroups1 as v1, cgroups2 as v2, Any};
use std::path::{Path, PathBuf};

/// Reads the figures of a container's cgroups, and the interfaces of its network namespace.
///
/// # Errors
/// There is no cgroup to read, or one of them does not exist any more.
pub fn read(cgroups: &[PathBuf], pid: i32) -> Result<Any> {
    // Half of the figures would be read as zeros.
    if let Some(gone) = cgroups.iter().find(|c| !c.exists()) {
        return Err(not_found(format!(
            "the container's cgroup {} does not exist any more",
            gone.display()
        )));
    }
    let has = |file: &str| cgroups.iter().find(|c| c.join(file).exists());
    if let Some(dir) =
        has("memory.current").or_else(|| has("cgroup.controllers").filter(|_| cgroups.len() == 1))
    {
        return Ok(any("io.containerd.cgroups.v2.Metrics", &unified(dir, pid)));
    }
    if cgroups.is_empty() {
        return Err(not_found("the container has no cgroup of its own: metrics"));
    }
    Ok(any("io.containerd.cgroups.v1.Metrics", &legacy(&has, pid)))
}

fn text(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> u64 {
    parse(&text(dir, file))
}

/// name, then 8 counters each way (proc_pid_net(5), dev).
fn network<T>(pid: i32, make: impl Fn(String, [u64; 8]) -> T) -> Vec<T> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut out = Vec::new();
    for line in text.lines().skip(2) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let n: Vec<u64> = rest.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        if n.len() >= 12 && name.trim() != "lo" {
            out.push(make(
                name.trim().to_string(),
                [n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11]],
            ));
        }
    }
    out
}

fn hugetlb<T>(dir: &Path, end: &str, make: impl Fn(&str) -> T) -> Vec<T> {
    figures::hugepage_sizes(dir, end).iter().map(|s| make(s)).collect()
}

fn rdma<T>(text: &str, make: impl Fn(String, u32, u32) -> T) -> Vec<T> {
    let value = |line: &str, name: &str| {
        let found = line.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        found.map_or(0, |v| if v == "max" { u32::MAX } else { v.parse().unwrap_or(0) })
    };
    let device = |l: &str| l.split_whitespace().next().unwrap_or("").to_string();
    text.lines().map(|l| make(device(l), value(l, "hca_handle"), value(l, "hca_object"))).collect()
}

fn unified(dir: &Path, pid: i32) -> v2::Metrics {
    let events = text(dir, "memory.events");
    let rdma = |file: &str| {
        rdma(&text(dir, file), |device, hca_handles, hca_objects| v2::RdmaEntry {
            device,
            hca_handles,
            hca_objects,
        })
    };
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: number(dir, "pids.current"),
            limit: number(dir, "pids.max"),
        }),
        cpu: Some(cpu(dir)),
        memory: Some(memory(dir)),
        rdma: Some(v2::RdmaStat { current: rdma("rdma.current"), limit: rdma("rdma.max") }),
        io: Some(v2::IoStat { usage: io(&text(dir, "io.stat")), psi: psi(dir, "io.pressure") }),
        hugetlb: hugetlb(dir, ".current", |size| v2::HugeTlbStat {
            current: number(dir, &format!("hugetlb.{size}.current")),
            max: number(dir, &format!("hugetlb.{size}.max")),
            pagesize: size.to_string(),
            failcnt: key(&text(dir, &format!("hugetlb.{size}.events")), "max"),
        }),
        memory_events: Some(v2::MemoryEvents {
            low: key(&events, "low"),
            high: key(&events, "high"),
            max: key(&events, "max"),
            oom: key(&events, "oom"),
            oom_kill: key(&events, "oom_kill"),
            oom_group_kill: key(&events, "oom_group_kill"),
        }),
        network: network(pid, |name, n| v2::NetworkStat {
            name,
            rx_bytes: n[0],
            rx_packets: n[1],
            rx_errors: n[2],
            rx_dropped: n[3],
            tx_bytes: n[4],
            tx_packets: n[5],
            tx_errors: n[6],
            tx_dropped: n[7],
        }),
    }
}

fn cpu(dir: &Path) -> v2::CpuStat {
    let stat = text(dir, "cpu.stat");
    v2::CpuStat {
        usage_usec: key(&stat, "usage_usec"),
        user_usec: key(&stat, "user_usec"),
        system_usec: key(&stat, "system_usec"),
        nr_periods: key(&stat, "nr_periods"),
        nr_throttled: key(&stat, "nr_throttled"),
        throttled_usec: key(&stat, "throttled_usec"),
        psi: psi(dir, "cpu.pressure"),
        nr_bursts: key(&stat, "nr_bursts"),
        burst_usec: key(&stat, "burst_usec"),
    }
}

fn memory(dir: &Path) -> v2::MemoryStat {
    let stat = text(dir, "memory.stat");
    let k = |name| key(&stat, name);
    v2::MemoryStat {
        anon: k("anon"),
        file: k("file"),
        kernel_stack: k("kernel_stack"),
        slab: k("slab"),
        sock: k("sock"),
        shmem: k("shmem"),
        file_mapped: k("file_mapped"),
        file_dirty: k("file_dirty"),
        file_writeback: k("file_writeback"),
        anon_thp: k("anon_thp"),
        inactive_anon: k("inactive_anon"),
        active_anon: k("active_anon"),
        inactive_file: k("inactive_file"),
        active_file: k("active_file"),
        unevictable: k("unevictable"),
        slab_reclaimable: k("slab_reclaimable"),
        slab_unreclaimable: k("slab_unreclaimable"),
        pgfault: k("pgfault"),
        pgmajfault: k("pgmajfault"),
        // Linux 5.9 counts these for anonymous and file memory apart.
        workingset_refault: k("workingset_refault")
            + k("workingset_refault_anon")
            + k("workingset_refault_file"),
        workingset_activate: k("workingset_activate")
            + k("workingset_activate_anon")
            + k("workingset_activate_file"),
        workingset_nodereclaim: k("workingset_nodereclaim"),
        pgrefill: k("pgrefill"),
        pgscan: k("pgscan"),
        pgsteal: k("pgsteal"),
        pgactivate: k("pgactivate"),
        pgdeactivate: k("pgdeactivate"),
        pglazyfree: k("pglazyfree"),
        pglazyfreed: k("pglazyfreed"),
        thp_fault_alloc: k("thp_fault_alloc"),
        thp_collapse_alloc: k("thp_collapse_alloc"),
        usage: number(dir, "memory.current"),
        usage_limit: number(dir, "memory.max"),
        swap_usage: number(dir, "memory.swap.current"),
        swap_limit: number(dir, "memory.swap.max"),
        max_usage: number(dir, "memory.peak"),
        swap_max_usage: number(dir, "memory.swap.peak"),
        psi: psi(dir, "memory.pressure"),
    }
}

fn psi(dir: &Path, file: &str) -> Option<v2::PsiStats> {
    let text = std::fs::read_to_string(dir.join(file)).ok()?;
    let line = |kind: &str| {
        let figures::Pressure { avg10, avg60, avg300, total } = figures::pressure(&text, kind)?;
        Some(v2::PsiData { avg10, avg60, avg300, total })
    };
    Some(v2::PsiStats { some: line("some"), full: line("full") })
}

fn io(text: &str) -> Vec<v2::IoEntry> {
    let entry = |io: figures::BlockIo| {
        let figures::BlockIo { major, minor, rbytes, wbytes, rios, wios } = io;
        v2::IoEntry { major, minor, rbytes, wbytes, rios, wios }
    };
    figures::io(text).map(entry).collect()
}

fn legacy<'a>(has: &impl Fn(&str) -> Option<&'a PathBuf>, pid: i32) -> v1::Metrics {
    let none = PathBuf::new();
    let dir = |file: &str| has(file).unwrap_or(&none).clone();
    let (pids, memory, blkio) =
        (dir("pids.current"), dir("memory.usage_in_bytes"), dir("blkio.reset_stats"));
    let huge = dir("hugetlb.2MB.usage_in_bytes");
    let rdma_dir = dir("rdma.current");
    let rdma = |file: &str| {
        rdma(&text(&rdma_dir, file), |device, hca_handles, hca_objects| v1::RdmaEntry {
            device,
            hca_handles,
            hca_objects,
        })
    };
    v1::Metrics {
        hugetlb: hugetlb(&huge, ".usage_in_bytes", |size| v1::HugetlbStat {
            usage: number(&huge, &format!("hugetlb.{size}.usage_in_bytes")),
            max: number(&huge, &format!("hugetlb.{size}.max_usage_in_bytes")),
            failcnt: number(&huge, &format!("hugetlb.{size}.failcnt")),
            pagesize: size.to_string(),
        }),
        // cgroup1 of containerd reports an unlimited number of pids as 0.
        pids: Some(v1::PidsStat {
            current: number(&pids, "pids.current"),
            limit: Some(number(&pids, "pids.max")).filter(|l| *l != u64::MAX).unwrap_or(0),
        }),
        cpu: Some(legacy_cpu(&dir("cpuacct.usage"), &dir("cpu.shares"))),
        memory: Some(legacy_memory(&memory)),
        blkio: Some(legacy_blkio(&blkio)),
        rdma: Some(v1::RdmaStat { current: rdma("rdma.current"), limit: rdma("rdma.max") }),
        network: network(pid, |name, n| v1::NetworkStat {
            name,
            rx_bytes: n[0],
            rx_packets: n[1],
            rx_errors: n[2],
            rx_dropped: n[3],
            tx_bytes: n[4],
            tx_packets: n[5],
            tx_errors: n[6],
            tx_dropped: n[7],
        }),
        cgroup_stats: None,
        memory_oom_control: Some(oom_control(&memory)),
    }
}

fn oom_control(dir: &Path) -> v1::MemoryOomControl {
    let text = text(dir, "memory.oom_control");
    v1::MemoryOomControl {
        oom_kill_disable: key(&text, "oom_kill_disable"),
        under_oom: key(&text, "under_oom"),
        oom_kill: key(&text, "oom_kill"),
    }
}

fn legacy_cpu(acct: &Path, cpu: &Path) -> v1::CpuStat {
    let stat = text(cpu, "cpu.stat");
    let percpu = text(acct, "cpuacct.usage_percpu");
    v1::CpuStat {
        usage: Some(v1::CpuUsage {
            total: number(acct, "cpuacct.usage"),
            kernel: number(acct, "cpuacct.usage_sys"),
            user: number(acct, "cpuacct.usage_user"),
            per_cpu: percpu.split_whitespace().map(parse).collect(),
        }),
        throttling: Some(v1::Throttle {
            periods: key(&stat, "nr_periods"),
            throttled_periods: key(&stat, "nr_throttled"),
            throttled_time: key(&stat, "throttled_time"),
        }),
    }
}

fn legacy_memory(dir: &Path) -> v1::MemoryStat {
    let stat = text(dir, "memory.stat");
    let k = |name| key(&stat, name);
    let entry = |prefix: &str| {
        let n = |file: &str| number(dir, &format!("{prefix}.{file}"));
        Some(v1::MemoryEntry {
            limit: n("limit_in_bytes"),
            usage: n("usage_in_bytes"),
            max: n("max_usage_in_bytes"),
            failcnt: n("failcnt"),
        })
    };
    v1::MemoryStat {
        cache: k("cache"),
        rss: k("rss"),
        rss_huge: k("rss_huge"),
        mapped_file: k("mapped_file"),
        dirty: k("dirty"),
        writeback: k("writeback"),
        pg_pg_in: k("pgpgin"),
        pg_pg_out: k("pgpgout"),
        pg_fault: k("pgfault"),
        pg_maj_fault: k("pgmajfault"),
        inactive_anon: k("inactive_anon"),
        active_anon: k("active_anon"),
        inactive_file: k("inactive_file"),
        active_file: k("active_file"),
        unevictable: k("unevictable"),
        hierarchical_memory_limit: k("hierarchical_memory_limit"),
        hierarchical_swap_limit: k("hierarchical_memsw_limit"),
        total_cache: k("total_cache"),
        total_rss: k("total_rss"),
        total_rss_huge: k("total_rss_huge"),
        total_mapped_file: k("total_mapped_file"),
        total_dirty: k("total_dirty"),
        total_writeback: k("total_writeback"),
        total_pg_pg_in: k("total_pgpgin"),
        total_pg_pg_out: k("total_pgpgout"),
        total_pg_fault: k("total_pgfault"),
        total_pg_maj_fault: k("total_pgmajfault"),
        total_inactive_anon: k("total_inactive_anon"),
        total_active_anon: k("total_active_anon"),
        total_inactive_file: k("total_inactive_file"),
        total_active_file: k("total_active_file"),
        total_unevictable: k("total_unevictable"),
        usage: entry("memory"),
        swap: entry("memory.memsw"),
        kernel: entry("memory.kmem"),
        kernel_tcp: entry("memory.kmem.tcp"),
    }
}

fn legacy_blkio(dir: &Path) -> v1::BlkIoStat {
    // The files of a weight-based scheduler where there is one, those of the throttle otherwise.
    let list = |names: &[&str]| {
        let found = names.iter().map(|n| blkio_entries(&text(dir, &format!("blkio.{n}"))));
        found.filter(|l| !l.is_empty()).collect::<Vec<_>>().into_iter().next().unwrap_or_default()
    };
    v1::BlkIoStat {
        io_service_bytes_recursive: list(&[
            "bfq.io_service_bytes_recursive",
            "io_service_bytes_recursive",
            "throttle.io_service_bytes_recursive",
            "throttle.io_service_bytes",
        ]),
        io_serviced_recursive: list(&[
            "bfq.io_serviced_recursive",
            "io_serviced_recursive",
            "throttle.io_serviced_recursive",
            "throttle.io_serviced",
        ]),
        io_queued_recursive: list(&["bfq.io_queued_recursive", "io_queued_recursive"]),
        io_service_time_recursive: list(&[
            "bfq.io_service_time_recursive",
            "io_service_time_recursive",
        ]),
        io_wait_time_recursive: list(&["bfq.io_wait_time_recursive", "io_wait_time_recursive"]),
        io_merged_recursive: list(&["bfq.io_merged_recursive", "io_merged_recursive"]),
        io_time_recursive: list(&["bfq.time_recursive", "time_recursive"]),
        sectors_recursive: list(&["bfq.sectors_recursive", "sectors_recursive"]),
    }
}

fn blkio_entries(text: &str) -> Vec<v1::BlkIoEntry> {
    let entry = |b: figures::Block| v1::BlkIoEntry {
        op: b.op.to_string(),
        device: device(&format!("{}:{}", b.major, b.minor)),
        major: b.major,
        minor: b.minor,
        value: b.value,
    };
    figures::blocks(text).map(entry).collect()
}

/// The node of a block device, by its numbers.
fn device(numbers: &str) -> String {
    let text =
        std::fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("DEVNAME="))
        .map_or(String::new(), |n| format!("/dev/{n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel() {
        let dir = std::env::temp_dir().join(format!("conex-metrics-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (file, text) in [
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 7\nnr_bursts 1\n"),
            (
                "memory.stat",
                "anon 1\nanon_thp 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\n",
            ),
            ("memory.events", "oom 1\noom_kill 2\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
            ("cpu.pressure", "some avg10=0.50 avg60=0.00 avg300=0.00 total=9\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ] {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let m = unified(&dir, 0);
        let memory = m.memory.unwrap();
        assert_eq!(
            (memory.usage, memory.usage_limit, memory.anon, memory.workingset_refault),
            (4096, u64::MAX, 1, 7)
        );
        assert_eq!(m.pids.unwrap().limit, u64::MAX);
        let cpu = m.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_bursts), (10, 7, 0, 1));
        assert_eq!(cpu.psi.unwrap().some.unwrap().avg10, 0.5);
        assert_eq!(m.memory_events.unwrap().oom_kill, 2);
        assert_eq!(m.io.unwrap().usage[0].wios, 4);
        assert_eq!(m.hugetlb.len(), 1);
        assert_eq!(blkio_entries("8:0 Read 5\n8:0 7\nTotal 12\n").len(), 2);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
