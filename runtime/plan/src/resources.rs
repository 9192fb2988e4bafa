//! The conversions from `linux.resources` to files of cgroup v1 and v2.

use crate::check::Check;
use crate::facts::CgroupFacts;
use crate::oci::config::*;

/// One value for one file of the container's cgroup.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub field: String,
    /// The controller, which decides the hierarchy; empty for files that every v2 cgroup has.
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    /// True if the write may fail because this kernel lacks the file, without anybody losing a limit.
    pub optional: bool,
}

struct Out<'a> {
    list: Vec<Write>,
    facts: &'a CgroupFacts,
    check: &'a mut Check,
}

impl Out<'_> {
    fn put(&mut self, controller: &'static str, field: &str, file: impl Into<String>, value: impl ToString) {
        let field = format!("linux.resources.{field}");
        self.list.push(Write { field, controller, file: file.into(), value: value.to_string(), optional: false });
    }
    /// Nobody loses a limit where the kernel lacks the file of the last write.
    fn last_is_optional(&mut self) {
        if let Some(last) = self.list.last_mut() {
            last.optional = true;
        }
    }
    fn v2(&self, controller: &str) -> bool {
        self.facts.hierarchies.iter().any(|h| h.v2 && h.has(controller))
    }
    fn bad(&mut self, field: &str, what: impl Into<String>) {
        self.check.bad(format!("linux.resources.{field}"), what);
    }
    fn warn(&mut self, field: &str, what: impl Into<String>) {
        self.check.warn(format!("linux.resources.{field}"), what);
    }
    fn unsupported(&mut self, field: &str, what: impl Into<String>) {
        self.check.unsupported(format!("linux.resources.{field}"), what);
    }
}

pub(super) fn writes(r: &Resources, facts: &CgroupFacts, check: &mut Check) -> Vec<Write> {
    let mut out = Out { list: Vec::new(), facts, check };
    if let Some(memory) = &r.memory {
        self::memory(memory, &mut out);
    }
    if let Some(cpu) = &r.cpu {
        self::cpu(cpu, &mut out);
    }
    if let Some(limit) = r.pids.as_ref().and_then(|p| p.limit) {
        pids(limit, &mut out);
    }
    if let Some(io) = &r.block_io {
        block_io(io, &mut out);
    }
    hugepages(&r.hugepage_limits, &mut out);
    if let Some(network) = &r.network {
        self::network(network, &mut out);
    }
    rdma(r, &mut out);
    unified(r, &mut out);
    out.list
}

/// `-1` is `max` on v2; v1 takes -1 itself.
fn max(value: i64) -> String {
    if value < 0 {
        "max".into()
    } else {
        value.to_string()
    }
}

fn memory(m: &Memory, out: &mut Out) {
    for (value, name) in [(m.limit, "limit"), (m.swap, "swap"), (m.reservation, "reservation")] {
        if value.is_some_and(|v| v < -1) {
            out.bad(&format!("memory.{name}"), "must be a number of bytes, or -1 for unlimited");
            return;
        }
    }
    for (given, name) in [(m.kernel.is_some(), "kernel"), (m.kernel_tcp.is_some(), "kernelTCP")] {
        if given {
            out.warn(&format!("memory.{name}"), "ignored: the kernel no longer limits kernel memory apart");
        }
    }
    let limit = m.limit.filter(|l| *l != 0);
    let swap = m.swap.filter(|s| *s != 0);
    if let (Some(limit), Some(swap)) = (limit, swap) {
        if swap != -1 && (limit == -1 || swap < limit) {
            out.bad("memory.swap", format!("{swap} (memory plus swap) is below memory.limit {limit}"));
            return;
        }
    }
    if out.v2("memory") {
        memory_v2(m, limit, swap, out);
    } else {
        memory_v1(m, limit, swap, out);
    }
}

fn memory_v1(m: &Memory, limit: Option<i64>, swap: Option<i64>, out: &mut Out) {
    // memory.limit_in_bytes may never exceed memory.memsw.limit_in_bytes: the host writes them in the order that
    // fits the values in force. Unlimited memory without a word about swap means unlimited swap.
    let swap = if limit == Some(-1) && swap.is_none() { Some(-1) } else { swap };
    if let Some(limit) = limit {
        out.put("memory", "memory.limit", "memory.limit_in_bytes", limit);
    }
    if let Some(swap) = swap {
        out.put("memory", "memory.swap", "memory.memsw.limit_in_bytes", swap);
        if swap == -1 || m.swap.is_none() {
            out.last_is_optional();
        }
    }
    if let Some(v) = m.reservation.filter(|v| *v != 0) {
        out.put("memory", "memory.reservation", "memory.soft_limit_in_bytes", v);
    }
    if let Some(v) = m.swappiness {
        if v > 100 {
            out.bad("memory.swappiness", format!("{v} is outside 0 to 100"));
        }
        out.put("memory", "memory.swappiness", "memory.swappiness", v);
    }
    if m.disable_oom_killer == Some(true) {
        out.put("memory", "memory.disableOOMKiller", "memory.oom_control", 1);
    }
    if m.use_hierarchy == Some(true) {
        out.put("memory", "memory.useHierarchy", "memory.use_hierarchy", 1);
    }
}

fn memory_v2(m: &Memory, limit: Option<i64>, swap: Option<i64>, out: &mut Out) {
    match (limit, swap) {
        (None, Some(s)) if s > 0 => {
            out.bad("memory.swap", "needs memory.limit: v2 limits swap alone, and the value is memory plus swap");
        }
        // A kernel without swap has no such file, and no swap to limit.
        (Some(-1), None) | (_, Some(-1)) => {
            out.put("memory", "memory.swap", "memory.swap.max", "max");
            out.last_is_optional();
        }
        (Some(l), Some(s)) => {
            out.put("memory", "memory.swap", "memory.swap.max", s - l);
            if s == l {
                out.last_is_optional();
            }
        }
        _ => {}
    }
    if let Some(l) = limit {
        out.put("memory", "memory.limit", "memory.max", max(l));
    }
    if let Some(v) = m.reservation.filter(|v| *v != 0) {
        out.put("memory", "memory.reservation", "memory.low", max(v));
    }
    if m.swappiness.is_some() {
        out.warn("memory.swappiness", "ignored: cgroup v2 has no swappiness");
    }
    if m.disable_oom_killer == Some(true) {
        out.unsupported("memory.disableOOMKiller", "cgroup v2 cannot disable the OOM killer");
    }
}

fn cpu(c: &Cpu, out: &mut Out) {
    if c.quota.is_some_and(|q| q != -1 && q != 0 && q < 1000) {
        out.bad("cpu.quota", "must be at least 1000 microseconds, or -1 for none");
    }
    if c.period.is_some_and(|p| p != 0 && !(1000..=1_000_000).contains(&p)) {
        out.bad("cpu.period", "must be from 1000 to 1000000 microseconds");
    }
    if c.idle.is_some_and(|i| !(0..=1).contains(&i)) {
        out.bad("cpu.idle", "must be 0 or 1");
    }
    for (text, name) in [(&c.cpus, "cpus"), (&c.mems, "mems")] {
        if let Some(text) = text.as_deref().filter(|t| !t.is_empty()) {
            if crate::text::bit_set(text).is_none() {
                out.bad(&format!("cpu.{name}"), format!("{text:?} is not a list such as 0-3,7"));
            }
            out.put("cpuset", &format!("cpu.{name}"), format!("cpuset.{name}"), text);
        }
    }
    if out.v2("cpu") {
        cpu_v2(c, out);
    } else {
        cpu_v1(c, out);
    }
}

fn cpu_v1(c: &Cpu, out: &mut Out) {
    if let Some(v) = c.shares.filter(|v| *v != 0) {
        // The kernel clamps silently; a reader of the file would see another value than the document's.
        out.put("cpu", "cpu.shares", "cpu.shares", v.clamp(2, 262_144));
    }
    // A period below the quota in force, or a quota above, fails in between; the host tries both orders.
    if let Some(v) = c.period.filter(|v| *v != 0) {
        out.put("cpu", "cpu.period", "cpu.cfs_period_us", v);
    }
    if let Some(v) = c.quota.filter(|v| *v != 0) {
        out.put("cpu", "cpu.quota", "cpu.cfs_quota_us", v);
    }
    if let Some(v) = c.burst {
        out.put("cpu", "cpu.burst", "cpu.cfs_burst_us", v);
    }
    if let Some(v) = c.realtime_period.filter(|v| *v != 0) {
        out.put("cpu", "cpu.realtimePeriod", "cpu.rt_period_us", v);
    }
    if let Some(v) = c.realtime_runtime.filter(|v| *v != 0) {
        out.put("cpu", "cpu.realtimeRuntime", "cpu.rt_runtime_us", v);
    }
    if let Some(v) = c.idle {
        out.put("cpu", "cpu.idle", "cpu.idle", v);
    }
}

fn cpu_v2(c: &Cpu, out: &mut Out) {
    if let Some(v) = c.idle {
        out.put("cpu", "cpu.idle", "cpu.idle", v);
    }
    // An idle cgroup has no weight: the kernel refuses the write.
    if let Some(v) = c.shares.filter(|v| *v != 0 && c.idle != Some(1)) {
        out.put("cpu", "cpu.shares", "cpu.weight", super::weights::weight(v));
    }
    let (quota, period) = (c.quota.filter(|v| *v != 0), c.period.filter(|v| *v != 0));
    if quota.is_some() || period.is_some() {
        // The half that is missing is taken from the file when the host writes it.
        let quota = quota.map_or("keep".to_string(), max);
        let value = format!("{quota} {}", period.map_or("keep".to_string(), |p| p.to_string()));
        out.put("cpu", "cpu.quota", "cpu.max", value);
    }
    if let Some(v) = c.burst {
        out.put("cpu", "cpu.burst", "cpu.max.burst", v);
    }
    for (given, name) in [
        (c.realtime_runtime.is_some_and(|v| v != 0), "realtimeRuntime"),
        (c.realtime_period.is_some_and(|v| v != 0), "realtimePeriod"),
    ] {
        if given {
            out.unsupported(&format!("cpu.{name}"), "cgroup v2 has no real-time bandwidth");
        }
    }
}

fn pids(limit: i64, out: &mut Out) {
    // 0 would let nothing run; runc writes 1, because systemd's TasksMax cannot be 0 either.
    out.put("pids", "pids.limit", "pids.max", max(if limit == 0 { 1 } else { limit }));
}

fn block_io(io: &BlockIo, out: &mut Out) {
    let v2 = out.v2("io");
    let name = if v2 { "io" } else { "blkio" };
    for (value, field) in [(io.weight, "weight"), (io.leaf_weight, "leafWeight")] {
        let Some(w) = value.filter(|w| *w != 0) else { continue };
        if !(10..=1000).contains(&w) {
            out.bad(&format!("blockIO.{field}"), format!("{w} is outside 10 to 1000"));
        }
    }
    if io.leaf_weight.is_some_and(|w| w != 0) {
        out.unsupported("blockIO.leafWeight", "removed from the kernel with CFQ (Linux 5.0)");
    }
    if let Some(w) = io.weight.filter(|w| *w != 0) {
        // The host picks the file that exists: (io|blkio).bfq.weight takes the value, io.weight its conversion.
        let file = if v2 { "io.bfq.weight|io.weight" } else { "blkio.bfq.weight|blkio.weight" };
        out.put(name, "blockIO.weight", file, w);
    }
    for (i, d) in io.weight_device.iter().enumerate() {
        let field = format!("blockIO.weightDevice[{i}]");
        if d.leaf_weight.is_some_and(|w| w != 0) {
            out.unsupported(&format!("{field}.leafWeight"), "removed from the kernel with CFQ (Linux 5.0)");
        }
        if let Some(w) = d.weight {
            let file = if v2 { "io.bfq.weight|io.weight" } else { "blkio.bfq.weight_device|blkio.weight_device" };
            out.put(name, &field, file, format!("{}:{} {w}", d.major, d.minor));
        }
    }
    let lists = [
        (&io.throttle_read_bps_device, "throttleReadBpsDevice", "read_bps", "rbps"),
        (&io.throttle_write_bps_device, "throttleWriteBpsDevice", "write_bps", "wbps"),
        (&io.throttle_read_iops_device, "throttleReadIOPSDevice", "read_iops", "riops"),
        (&io.throttle_write_iops_device, "throttleWriteIOPSDevice", "write_iops", "wiops"),
    ];
    for (list, field, v1_key, v2_key) in lists {
        for (i, d) in list.iter().enumerate() {
            let field = format!("blockIO.{field}[{i}]");
            if v2 {
                let rate = if d.rate == 0 { "max".to_string() } else { d.rate.to_string() };
                out.put(name, &field, "io.max", format!("{}:{} {v2_key}={rate}", d.major, d.minor));
            } else {
                let file = format!("blkio.throttle.{v1_key}_device");
                out.put(name, &field, file, format!("{}:{} {}", d.major, d.minor, d.rate));
            }
        }
    }
}

fn hugepages(list: &[HugepageLimit], out: &mut Out) {
    for (i, h) in list.iter().enumerate() {
        let field = format!("hugepageLimits[{i}]");
        let digits = h.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &h.page_size[digits.len()..];
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || !matches!(unit, "KB" | "MB" | "GB") {
            out.bad(&format!("{field}.pageSize"), format!("{:?} is not a size such as 2MB", h.page_size));
            continue;
        }
        if !out.facts.hugepage_sizes.contains(&h.page_size) {
            out.unsupported(
                &format!("{field}.pageSize"),
                format!("this host has no huge pages of {}", h.page_size),
            );
            continue;
        }
        let (limit, rsvd) =
            if out.v2("hugetlb") { ("max", "rsvd.max") } else { ("limit_in_bytes", "rsvd.limit_in_bytes") };
        out.put("hugetlb", &format!("{field}.limit"), format!("hugetlb.{}.{limit}", h.page_size), h.limit);
        out.put("hugetlb", &format!("{field}.limit"), format!("hugetlb.{}.{rsvd}", h.page_size), h.limit);
        if let Some(w) = out.list.last_mut() {
            w.optional = true; // Reservations are limited since Linux 5.7.
        }
    }
}

fn network(n: &Network, out: &mut Out) {
    if let Some(id) = n.class_id.filter(|id| *id != 0) {
        out.put("net_cls", "network.classID", "net_cls.classid", id);
    }
    for (i, p) in n.priorities.iter().enumerate() {
        let value = format!("{} {}", p.name, p.priority);
        out.put("net_prio", &format!("network.priorities[{i}]"), "net_prio.ifpriomap", value);
    }
}

fn rdma(r: &Resources, out: &mut Out) {
    for (device, limit) in &r.rdma {
        let field = format!("rdma[{device:?}]");
        let mut value = device.clone();
        for (n, key) in [(limit.hca_handles, "hca_handle"), (limit.hca_objects, "hca_object")] {
            if let Some(n) = n {
                value += &format!(" {key}={n}");
            }
        }
        if device.contains(char::is_whitespace) || value == *device {
            out.bad(&field, "needs hcaHandles or hcaObjects, and a device name without spaces");
            continue;
        }
        out.put("rdma", &field, "rdma.max", value);
    }
}

/// The controllers by the prefix of their files, for `unified`.
const V2_CONTROLLERS: [&str; 9] = ["cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc", "dmem"];

fn unified(r: &Resources, out: &mut Out) {
    for (file, value) in r.unified.iter() {
        let field = format!("unified[{file:?}]");
        if file.contains('/') || file.is_empty() || file == "." || file == ".." {
            out.bad(&field, "must be a file name, without a slash");
            continue;
        }
        if !out.facts.hierarchies.iter().any(|h| h.v2) {
            out.unsupported(&field, "this host has no cgroup v2 hierarchy");
            continue;
        }
        let prefix = file.split('.').next().unwrap_or("");
        let controller = V2_CONTROLLERS.iter().find(|c| **c == prefix);
        match controller {
            None if prefix == "cgroup" => {}
            None => {
                out.bad(&field, format!("{prefix:?} is no cgroup v2 controller"));
                continue;
            }
            Some(c) if !out.v2(c) => {
                out.unsupported(&field, format!("controller {c:?} is not available in cgroup v2 on this host"));
                continue;
            }
            Some(_) => {}
        }
        for line in value.lines().filter(|l| !l.is_empty()) {
            out.put(controller.copied().unwrap_or(""), &field, file.clone(), line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::Hierarchy;

    fn v2() -> CgroupFacts {
        let controllers = V2_CONTROLLERS.iter().map(|c| c.to_string()).collect();
        CgroupFacts {
            hierarchies: vec![Hierarchy { mount_point: "/sys/fs/cgroup".into(), controllers, v2: true }],
            hugepage_sizes: vec!["2MB".into()],
        }
    }

    fn pairs(r: &Resources, facts: &CgroupFacts) -> Vec<(String, String)> {
        let mut check = Check::default();
        let list = writes(r, facts, &mut check);
        assert!(check.errors.is_empty(), "{:?}", check.errors);
        list.into_iter().map(|w| (w.file, w.value)).collect()
    }

    #[test]
    fn swap_arithmetic_on_v2() {
        let memory = |limit, swap| Resources {
            memory: Some(Memory { limit, swap, ..Memory::default() }),
            ..Resources::default()
        };
        let files = |r| pairs(&r, &v2());
        assert_eq!(files(memory(Some(100), Some(100)))[0], ("memory.swap.max".into(), "0".into()));
        assert_eq!(files(memory(Some(100), Some(300)))[0], ("memory.swap.max".into(), "200".into()));
        assert_eq!(files(memory(Some(-1), None))[0], ("memory.swap.max".into(), "max".into()));
        assert_eq!(files(memory(Some(100), Some(0))).len(), 1);
        let mut check = Check::default();
        writes(&memory(None, Some(300)), &v2(), &mut check);
        assert_eq!(check.errors[0].field, "linux.resources.memory.swap");
    }

    #[test]
    fn v1_and_v2_differ() {
        let r = Resources {
            cpu: Some(Cpu { shares: Some(1024), quota: Some(-1), ..Cpu::default() }),
            pids: Some(Pids { limit: Some(0) }),
            ..Resources::default()
        };
        let on_v2 = pairs(&r, &v2());
        assert_eq!(on_v2[0], ("cpu.weight".into(), "100".into()));
        assert_eq!(on_v2[1], ("cpu.max".into(), "max keep".into()));
        assert_eq!(on_v2[2], ("pids.max".into(), "1".into()));
        let mut v1 = v2();
        v1.hierarchies[0].v2 = false;
        assert_eq!(pairs(&r, &v1)[0], ("cpu.shares".into(), "1024".into()));
    }

    #[test]
    fn unified_keys_cannot_escape() {
        let mut r = Resources::default();
        r.unified.0.insert("../x".into(), "1".into());
        r.unified.0.insert("nosuch.max".into(), "1".into());
        let mut check = Check::default();
        writes(&r, &v2(), &mut check);
        assert_eq!(check.errors.len(), 2);
    }
}
