//! The checks of `linux.resources`, and the settings that it asks for.

use crate::check::Check;
use crate::facts::CgroupFacts;
use crate::limits::{self, Amount, Device, Limit, Rate, Setting, Weight};
use crate::oci::config::*;

struct Out<'a> {
    list: Vec<Limit>,
    facts: &'a CgroupFacts,
    check: &'a mut Check,
}

impl Out<'_> {
    fn add(&mut self, field: &str, setting: Setting) {
        self.list.push(Limit {
            field: format!("linux.resources.{field}"),
            setting,
            optional: false,
        });
    }
    /// Nobody loses a limit where the kernel lacks the file of the last one.
    fn last_is_optional(&mut self) {
        if let Some(last) = self.list.last_mut() {
            last.optional = true;
        }
    }
    fn v2(&self, controller: &str) -> bool {
        limits::has_v2(&self.facts.hierarchies, controller)
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

/// Every setting that the resources ask for. A limit without a controller is an error: a container must never run without a
/// limit that was asked for.
pub fn limits(r: &Resources, facts: &CgroupFacts, check: &mut Check) -> Vec<Limit> {
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
    let Out { mut list, check, .. } = out;
    list.retain(|limit| {
        let controller = limit.setting.controller_of(&facts.hierarchies);
        if controller.is_empty() || facts.hierarchies.iter().any(|h| h.has(controller)) {
            return true;
        }
        check.unsupported(limit.field.clone(), format!("this host has no {controller} controller"));
        false
    });
    list
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
            out.warn(
                &format!("memory.{name}"),
                "ignored: the kernel no longer limits kernel memory apart",
            );
        }
    }
    let limit = m.limit.filter(|l| *l != 0);
    let swap = m.swap.filter(|s| *s != 0);
    if let (Some(limit), Some(swap)) = (limit, swap) {
        if swap != -1 && (limit == -1 || swap < limit) {
            out.bad(
                "memory.swap",
                format!("{swap} (memory plus swap) is below memory.limit {limit}"),
            );
            return;
        }
    }
    // v2: swap first, v1: memory first; the host writes those of v1, of which one may never exceed the other, in the
    // order that fits the values in force.
    let memory = limit.map(|l| Setting::MemoryMax(Amount::of(l)));
    if out.v2("memory") {
        swap_v2(limit, swap, out);
        memory.into_iter().for_each(|s| out.add("memory.limit", s));
    } else {
        memory.into_iter().for_each(|s| out.add("memory.limit", s));
        swap_v1(m, limit, swap, out);
    }
    if let Some(v) = m.reservation.filter(|v| *v != 0) {
        out.add("memory.reservation", Setting::MemoryLow(Amount::of(v)));
    }
    memory_only_v1(m, out);
}

/// Unlimited memory without a word about swap means unlimited swap.
fn swap_v1(m: &Memory, limit: Option<i64>, swap: Option<i64>, out: &mut Out) {
    let swap = if limit == Some(-1) && swap.is_none() { Some(-1) } else { swap };
    if let Some(swap) = swap {
        out.add("memory.swap", Setting::MemoryAndSwap(Amount::of(swap)));
        if swap == -1 || m.swap.is_none() {
            out.last_is_optional();
        }
    }
}

/// v2 limits swap alone, where the document says memory plus swap.
fn swap_v2(limit: Option<i64>, swap: Option<i64>, out: &mut Out) {
    match (limit, swap) {
        (None, Some(s)) if s > 0 => {
            out.bad(
                "memory.swap",
                "needs memory.limit: v2 limits swap alone, and the value is memory plus swap",
            );
        }
        // A kernel without swap has no such file, and no swap to limit.
        (Some(-1), None) | (_, Some(-1)) => {
            out.add("memory.swap", Setting::SwapMax(Amount::Max));
            out.last_is_optional();
        }
        (Some(l), Some(s)) => {
            out.add("memory.swap", Setting::SwapMax(Amount::of(s - l)));
            if s == l {
                out.last_is_optional();
            }
        }
        _ => {}
    }
}

/// What only v1 has.
fn memory_only_v1(m: &Memory, out: &mut Out) {
    if out.v2("memory") {
        if m.swappiness.is_some() {
            out.warn("memory.swappiness", "ignored: cgroup v2 has no swappiness");
        }
        if m.disable_oom_killer == Some(true) {
            out.unsupported("memory.disableOOMKiller", "cgroup v2 cannot disable the OOM killer");
        }
        return;
    }
    if let Some(v) = m.swappiness {
        if v > 100 {
            out.bad("memory.swappiness", format!("{v} is outside 0 to 100"));
        }
        out.add("memory.swappiness", Setting::Swappiness(v));
    }
    if m.disable_oom_killer == Some(true) {
        out.add("memory.disableOOMKiller", Setting::OomKillerDisabled);
    }
    if m.use_hierarchy == Some(true) {
        out.add("memory.useHierarchy", Setting::UseHierarchy);
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
            let list = text.to_string();
            let setting =
                if name == "cpus" { Setting::Cpus(list) } else { Setting::MemoryNodes(list) };
            out.add(&format!("cpu.{name}"), setting);
        }
    }
    let v2 = out.v2("cpu");
    // An idle cgroup of v2 has no weight: the kernel refuses the write. Before it, idle goes away.
    let weight = c.shares.filter(|v| *v != 0 && !(v2 && c.idle == Some(1))).map(Setting::CpuShares);
    let idle = c.idle.map(Setting::CpuIdle);
    let (quota, period) = (c.quota.filter(|v| *v != 0), c.period.filter(|v| *v != 0));
    let bandwidth = (quota.is_some() || period.is_some())
        .then(|| Setting::CpuBandwidth { quota: quota.map(Amount::of), period });
    let (first, last) = if v2 { (idle, None) } else { (None, idle) };
    let runtime = c.realtime_runtime.filter(|v| *v != 0);
    let realtime_period = c.realtime_period.filter(|v| *v != 0);
    for (setting, field) in [
        (first, "idle"),
        (weight, "shares"),
        (bandwidth, if quota.is_some() { "quota" } else { "period" }),
        (c.burst.map(Setting::CpuBurst), "burst"),
        (realtime_period.filter(|_| !v2).map(Setting::RealtimePeriod), "realtimePeriod"),
        (runtime.filter(|_| !v2).map(Setting::RealtimeRuntime), "realtimeRuntime"),
        (last, "idle"),
    ] {
        if let Some(setting) = setting {
            out.add(&format!("cpu.{field}"), setting);
        }
    }
    for (given, name) in
        [(runtime.is_some(), "realtimeRuntime"), (realtime_period.is_some(), "realtimePeriod")]
    {
        if given && v2 {
            out.unsupported(&format!("cpu.{name}"), "cgroup v2 has no real-time bandwidth");
        }
    }
}

fn pids(limit: i64, out: &mut Out) {
    // 0 would let nothing run; runc writes 1, because systemd's TasksMax cannot be 0 either.
    out.add("pids.limit", Setting::Pids(Amount::of(if limit == 0 { 1 } else { limit })));
}

fn block_io(io: &BlockIo, out: &mut Out) {
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
        out.add("blockIO.weight", Setting::IoWeight(None, Weight::Blkio(w.into())));
    }
    for (i, d) in io.weight_device.iter().enumerate() {
        let field = format!("blockIO.weightDevice[{i}]");
        if d.leaf_weight.is_some_and(|w| w != 0) {
            out.unsupported(
                &format!("{field}.leafWeight"),
                "removed from the kernel with CFQ (Linux 5.0)",
            );
        }
        if let Some(w) = d.weight {
            let device = Device(format!("{}:{}", d.major, d.minor));
            out.add(&field, Setting::IoWeight(Some(device), Weight::Blkio(w.into())));
        }
    }
    let lists = [
        (&io.throttle_read_bps_device, "throttleReadBpsDevice", Rate::ReadBps),
        (&io.throttle_write_bps_device, "throttleWriteBpsDevice", Rate::WriteBps),
        (&io.throttle_read_iops_device, "throttleReadIOPSDevice", Rate::ReadIops),
        (&io.throttle_write_iops_device, "throttleWriteIOPSDevice", Rate::WriteIops),
    ];
    for (list, field, rate) in lists {
        for (i, d) in list.iter().enumerate() {
            let limit = if d.rate == 0 { Amount::Max } else { Amount::Is(d.rate) };
            let device = Device(format!("{}:{}", d.major, d.minor));
            out.add(&format!("blockIO.{field}[{i}]"), Setting::IoRate(device, rate, limit));
        }
    }
}

fn hugepages(list: &[HugepageLimit], out: &mut Out) {
    for (i, h) in list.iter().enumerate() {
        let field = format!("hugepageLimits[{i}]");
        let digits = h.page_size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &h.page_size[digits.len()..];
        if digits.is_empty()
            || !digits.bytes().all(|b| b.is_ascii_digit())
            || !matches!(unit, "KB" | "MB" | "GB")
        {
            out.bad(
                &format!("{field}.pageSize"),
                format!("{:?} is not a size such as 2MB", h.page_size),
            );
            continue;
        }
        if !out.facts.hugepage_sizes.contains(&h.page_size) {
            out.unsupported(
                &format!("{field}.pageSize"),
                format!("this host has no huge pages of {}", h.page_size),
            );
            continue;
        }
        let field = format!("{field}.limit");
        out.add(&field, Setting::Hugepages(h.page_size.clone(), h.limit));
        out.add(&field, Setting::HugepagesReserved(h.page_size.clone(), h.limit));
        // Reservations are limited since Linux 5.7.
        out.last_is_optional();
    }
}

fn network(n: &Network, out: &mut Out) {
    if let Some(id) = n.class_id.filter(|id| *id != 0) {
        out.add("network.classID", Setting::NetworkClass(id));
    }
    for (i, p) in n.priorities.iter().enumerate() {
        let setting = Setting::NetworkPriority { interface: p.name.clone(), priority: p.priority };
        out.add(&format!("network.priorities[{i}]"), setting);
    }
}

fn rdma(r: &Resources, out: &mut Out) {
    for (device, limit) in &r.rdma {
        let field = format!("rdma[{device:?}]");
        let mut value = Vec::new();
        for (n, key) in [(limit.hca_handles, "hca_handle"), (limit.hca_objects, "hca_object")] {
            if let Some(n) = n {
                value.push(format!("{key}={n}"));
            }
        }
        if device.contains(char::is_whitespace) || value.is_empty() {
            out.bad(&field, "needs hcaHandles or hcaObjects, and a device name without spaces");
            continue;
        }
        out.add(&field, Setting::Rdma(device.clone(), value.join(" ")));
    }
}

/// The controllers by the prefix of their files, for `unified`.
const V2_CONTROLLERS: [&str; 9] =
    ["cpu", "cpuset", "memory", "io", "pids", "hugetlb", "rdma", "misc", "dmem"];

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
                out.unsupported(
                    &field,
                    format!("invalid configuration: controller {c:?} is not available in cgroup v2 on this host"),
                );
                continue;
            }
            Some(_) => {}
        }
        for line in value.lines().filter(|l| !l.is_empty()) {
            let (controller, means) =
                (controller.copied().unwrap_or(""), limits::unified::means(file, line));
            out.add(
                &field,
                Setting::File { controller, file: file.clone(), value: line.to_string(), means },
            );
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
            hierarchies: vec![Hierarchy {
                mount_point: "/sys/fs/cgroup".into(),
                controllers,
                v2: true,
            }],
            hugepage_sizes: vec!["2MB".into()],
        }
    }

    fn pairs(r: &Resources, facts: &CgroupFacts) -> Vec<(String, String)> {
        let mut check = Check::default();
        let list = limits(r, facts, &mut check);
        assert!(check.errors.is_empty(), "{:?}", check.errors);
        let files = crate::limits::files(&list, &facts.hierarchies);
        files.into_iter().map(|a| a.choices.into_iter().next().unwrap()).collect()
    }

    #[test]
    fn swap_arithmetic_on_v2() {
        let memory = |limit, swap| Resources {
            memory: Some(Memory { limit, swap, ..Memory::default() }),
            ..Resources::default()
        };
        let files = |r| pairs(&r, &v2());
        assert_eq!(files(memory(Some(100), Some(100)))[0], ("memory.swap.max".into(), "0".into()));
        assert_eq!(
            files(memory(Some(100), Some(300)))[0],
            ("memory.swap.max".into(), "200".into())
        );
        assert_eq!(files(memory(Some(-1), None))[0], ("memory.swap.max".into(), "max".into()));
        assert_eq!(files(memory(Some(100), Some(0))).len(), 1);
        let mut check = Check::default();
        limits(&memory(None, Some(300)), &v2(), &mut check);
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
        assert_eq!(on_v2[1], ("cpu.max".into(), "max".into()));
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
        limits(&r, &v2(), &mut check);
        assert_eq!(check.errors.len(), 2);
    }
}
