//! The systemd unit of a container: its name and its properties.

use super::device_rules::{Rules, MKNOD, READ, WRITE};
use super::resources::Write;
use crate::check::Check;
use crate::gvariant::{self, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A transient unit (org.freedesktop.systemd1(5), StartTransientUnit).
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// `prefix-name.scope`, or `name.slice`.
    pub name: String,
    pub slice: String,
    /// True for the user's own manager.
    pub user: bool,
    /// Below the manager's own cgroup.
    pub path: PathBuf,
    /// From annotations: the key, the property's name, its value.
    pub extra: Vec<(String, String, Value)>,
}

const FIELD: &str = "linux.cgroupsPath";

impl Unit {
    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }
}

/// `slice:prefix:name`; each part may be empty, and so may the whole.
pub(super) fn make(
    given: &str,
    id: &str,
    user: bool,
    annotations: &BTreeMap<String, String>,
    check: &mut Check,
) -> Option<Unit> {
    let default = if user { "user.slice" } else { "system.slice" };
    let (slice, name) = if given.is_empty() {
        (default, format!("conex-{id}.scope"))
    } else {
        let parts: Vec<&str> = given.split(':').collect();
        let [slice, prefix, name] = parts.as_slice() else {
            check.bad(
                FIELD,
                format!("expected the format \"slice:prefix:name\" for systemd cgroups, got {given:?} instead"),
            );
            return None;
        };
        let name = if name.is_empty() { id } else { name };
        let unit = match (name.ends_with(".slice"), prefix.is_empty()) {
            (true, _) => name.to_string(),
            (false, true) => format!("{name}.scope"),
            (false, false) => format!("{prefix}-{name}.scope"),
        };
        (if slice.is_empty() { default } else { slice }, unit)
    };
    // systemd.unit(5): the characters of a unit's name, and its length.
    let plain = |n: &str| n.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\".contains(c)) && n.len() <= 255;
    if !plain(&name) || name.starts_with('.') {
        check.bad(
            FIELD,
            format!("{name:?} is no name of a unit: letters, digits and :-_.\\ are allowed, 255 at most"),
        );
        return None;
    }
    let Some(parent) = expand(slice) else {
        check.bad(FIELD, format!("{slice:?} is no slice such as machine.slice or a-b.slice"));
        return None;
    };
    let path = if name.ends_with(".slice") {
        match expand(&name) {
            Some(path) if !path.as_os_str().is_empty() => path,
            _ => {
                check.bad(FIELD, format!("{name:?} is no slice such as machine.slice or a-b.slice"));
                return None;
            }
        }
    } else {
        parent.join(&name)
    };
    let extra = extra(annotations, check);
    Some(Unit { name, slice: slice.to_string(), user, path, extra })
}

/// systemd.slice(5): `a-b.slice` lives in `a.slice/a-b.slice`; `-.slice` is the root.
fn expand(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
    if stem.is_empty() || stem.starts_with('.') || slice.len() > 255 || !stem.chars().all(plain) {
        return None;
    }
    let mut out = PathBuf::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return None;
        }
        prefix += part;
        out.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    Some(out)
}

/// Properties that concern the container's unit alone. Whoever may set annotations must neither start or stop other
/// units (Wants, Conflicts, OnFailure), nor run programs (Exec*), nor undo what the driver decides (Slice, Delegate,
/// DeviceAllow, and Description, by which the unit is known as ours): CVE-2024-3154.
const ALLOWED: [&str; 29] = [
    "After",
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "Before",
    "CollectMode",
    "CoredumpReceive",
    "Documentation",
    "FinalKillSignal",
    "IPAccounting",
    "IPAddressAllow",
    "IPAddressDeny",
    "KillMode",
    "KillSignal",
    "ManagedOOMMemoryPressure",
    "ManagedOOMMemoryPressureLimit",
    "ManagedOOMPreference",
    "ManagedOOMSwap",
    "OOMPolicy",
    "RestartKillSignal",
    "RuntimeMaxUSec",
    "RuntimeRandomizedExtraUSec",
    "SendSIGHUP",
    "SendSIGKILL",
    "TasksMax",
    "TimeoutStopFailureMode",
    "TimeoutStopUSec",
    "WatchdogSignal",
    "DefaultMemoryLow",
    "DefaultMemoryMin",
];
const ALLOWED_PREFIXES: [&str; 6] = ["CPU", "Memory", "IO", "BlockIO", "Startup", "Tasks"];

fn extra(annotations: &BTreeMap<String, String>, check: &mut Check) -> Vec<(String, String, Value)> {
    let mut out = Vec::new();
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else { continue };
        let field = format!("annotations[{key:?}]");
        let parsed = gvariant::parse(value).and_then(|v| in_microseconds(name, v));
        let (name, value) = match parsed {
            Ok(pair) => pair,
            Err(why) => {
                check.bad(field, format!("{value:?} is no GVariant text: {why}"));
                continue;
            }
        };
        let known = ALLOWED.contains(&name.as_str())
            || (name.chars().all(|c| c.is_ascii_alphanumeric())
                && ALLOWED_PREFIXES.iter().any(|p| name.starts_with(p)));
        if !known {
            check.bad(field, format!("{name} is not among the properties that a container may set on its unit"));
            continue;
        }
        out.push((field, name, value));
    }
    out
}

/// `…Sec` is the spelling of unit files; on the bus it is `…USec`, in microseconds.
fn in_microseconds(name: &str, value: Value) -> Result<(String, Value), String> {
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) else {
        return Ok((name.to_string(), value));
    };
    let seconds = match value {
        Value::I32(n) => n as f64,
        Value::U32(n) => f64::from(n),
        Value::I64(n) => n as f64,
        Value::U64(n) => n as f64,
        Value::Double(n) => n,
        _ => return Err("seconds must be a number".into()),
    };
    if seconds < 0.0 {
        return Err("seconds must not be negative".into());
    }
    Ok((format!("{stem}USec"), Value::U64((seconds * 1e6) as u64)))
}

/// A number as the files of cgroup v2 take it: `max`, `16M`, `0x20`, `020` (memparse and kstrtoull of the kernel). `None` for
/// what the kernel will refuse.
pub fn number(file: &str, text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" || text == "-1" {
        return Some(u64::MAX);
    }
    let memory = file.starts_with("memory.");
    let (digits, unit) = match text.char_indices().last().filter(|_| memory) {
        Some((at, c)) => match "KMGTPE"
            .find(c.to_ascii_uppercase())
            .filter(|_| !text.starts_with("0x") || !c.is_ascii_hexdigit())
        {
            Some(power) => (&text[..at], 10 * (power as u32 + 1)),
            None => (text, 0),
        },
        None => (text, 0),
    };
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let (digits, radix) = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)?.checked_mul(1u64.checked_shl(unit)?)
}

/// Files of one number that are a property of a unit.
const NUMBERS: [(&str, &str); 10] = [
    ("memory.max", "MemoryMax"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.min", "MemoryMin"),
    ("memory.swap.max", "MemorySwapMax"),
    // systemd 253.
    ("memory.zswap.max", "MemoryZSwapMax"),
    ("memory.limit_in_bytes", "MemoryLimit"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
    ("cpu.shares", "CPUShares"),
];

/// The rates of io.max and their properties.
const RATES: [(&str, &str); 4] = [
    ("rbps", "IOReadBandwidthMax"),
    ("wbps", "IOWriteBandwidthMax"),
    ("riops", "IOReadIOPSMax"),
    ("wiops", "IOWriteIOPSMax"),
];

/// The properties that say the same as the writes, so that systemd, when it applies its own view again
/// (daemon-reload), puts back what the document asks for. `cpu` is the quota and the period in force, for a write that
/// gives only one of them.
///
/// systemd has no property for hugetlb, rdma, misc and cpuset.cpus.partition; it does not touch these files either.
pub fn limits(writes: &[Write], cpu: (Option<u64>, u64)) -> Vec<(&'static str, Value)> {
    let mut out: Vec<(&'static str, Value)> = Vec::new();
    let (mut quota, mut period, mut bandwidth) = (cpu.0, cpu.1, false);
    let mut rates: [Vec<Value>; 4] = Default::default();
    let (mut weights, mut latencies) = (Vec::new(), Vec::new());
    for w in writes {
        let v = w.value.as_str();
        if let Some((file, name)) = NUMBERS.iter().find(|(file, _)| *file == w.file) {
            out.extend(number(file, v).map(|n| (*name, Value::U64(n))));
            continue;
        }
        match w.file.as_str() {
            // systemd 252: the weight "idle", and back to the default unless a weight follows.
            "cpu.idle" => match number("cpu.idle", v) {
                Some(1) => out.push(("CPUWeight", Value::U64(0))),
                Some(0) if !writes.iter().any(|w| matches!(w.file.as_str(), "cpu.weight" | "cpu.shares")) => {
                    out.push(("CPUWeight", Value::U64(100)));
                }
                _ => {}
            },
            "memory.oom.group" => {
                // systemd 253, and only while the unit is being made.
                let policy = |n| if n != 0 { "kill" } else { "continue" };
                out.extend(number("", v).map(|n| ("OOMPolicy", Value::str(policy(n)))));
            }
            "memory.zswap.writeback" => {
                // systemd 256.
                out.extend(number("", v).map(|n| ("MemoryZSwapWriteback", Value::Bool(n != 0))));
            }
            "cpuset.cpus" => out.extend(bits(v).map(|b| ("AllowedCPUs", b))),
            "cpuset.mems" => out.extend(bits(v).map(|b| ("AllowedMemoryNodes", b))),
            "blkio.bfq.weight|blkio.weight" => {
                out.extend(number("", v).map(|n| ("BlockIOWeight", Value::U64(n))));
            }
            "io.bfq.weight|io.weight" if !v.contains(' ') => {
                out.extend(number("", v).map(|n| ("IOWeight", Value::U64(super::weights::io_weight(n)))));
            }
            "io.bfq.weight|io.weight" => {
                let weight =
                    v.split_once(' ').and_then(|(d, n)| Some((d, super::weights::io_weight(number("", n)?))));
                weights.extend(weight.map(|(device, n)| per_device(device, n)));
            }
            "io.weight" => match v.split_once(' ').filter(|(device, _)| *device != "default") {
                Some((device, n)) => weights.extend(number("", n).map(|n| per_device(device, n))),
                None => {
                    let plain = v.strip_prefix("default ").unwrap_or(v);
                    out.extend(number("", plain).map(|n| ("IOWeight", Value::U64(n))));
                }
            },
            "io.latency" => {
                let target = v.split_once(" target=").and_then(|(d, n)| Some((d, number("", n)?)));
                latencies.extend(target.map(|(device, n)| per_device(device, n)));
            }
            "io.max" => io_max(v, &mut rates),
            "cpu.max" => {
                let (q, p) = v.trim().split_once(char::is_whitespace).unwrap_or((v.trim(), "keep"));
                quota = if q == "keep" { quota } else { number("", q).filter(|q| *q != u64::MAX) };
                period = if p == "keep" { period } else { number("", p).unwrap_or(period) };
                bandwidth = true;
            }
            "cpu.cfs_quota_us" => (quota, bandwidth) = (number("", v).filter(|q| *q != u64::MAX), true),
            "cpu.cfs_period_us" => (period, bandwidth) = (number("", v).unwrap_or(period), true),
            _ => {}
        }
    }
    let names = RATES.iter().map(|(_, name)| *name).chain(["IODeviceWeight", "IODeviceLatencyTargetUSec"]);
    for (name, list) in
        names.zip(rates.into_iter().chain([weights, latencies])).filter(|(_, list)| !list.is_empty())
    {
        out.push((name, Value::Array("(st)".into(), list)));
    }
    if bandwidth {
        out.push(("CPUQuotaPeriodUSec", Value::U64(period)));
        // Exact, because systemd writes the file again whenever it looks at the unit. A reload reads it back from
        // percents, with two decimals or (before systemd 250) none: less than one would become no limit at all.
        let per_second = |q: u64| u64::try_from(u128::from(q) * 1_000_000 / u128::from(period.max(1)));
        let rate = quota.map_or(u64::MAX, |q| per_second(q).unwrap_or(u64::MAX).max(10_000));
        out.push(("CPUQuotaPerSecUSec", Value::U64(rate)));
    }
    out
}

/// `8:0 rbps=1048576 wiops=max`.
fn io_max(text: &str, rates: &mut [Vec<Value>; 4]) {
    let mut words = text.split_whitespace();
    let device = words.next().unwrap_or_default();
    for (key, value) in words.filter_map(|w| w.split_once('=')) {
        let Some(place) = RATES.iter().position(|(k, _)| *k == key) else { continue };
        if let Some(n) = number("", value) {
            rates[place].push(per_device(device, n));
        }
    }
}

/// What systemd has for each device, `8:0`, as it names them.
fn per_device(device: &str, n: u64) -> Value {
    Value::Struct(vec![Value::Str(format!("/dev/block/{device}")), Value::U64(n)])
}

/// A list such as `0-3,7` as the bytes of a bit mask, lowest first.
fn bits(text: &str) -> Option<Value> {
    let mut bytes: Vec<u8> = crate::text::bit_set(text)?.iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(Value::bytes(&bytes))
}

/// The device rules as systemd keeps them. It knows only lists of what is allowed. On v1 it writes the same files as we do,
/// whenever it likes: it is told what is left when all rules are applied, which such a host can hold. Where only order can
/// say it (v2), it is told all that some rule allows, and our own rules, which hold as well, take from it. Where the
/// document starts from "all allowed" systemd is told
/// nothing, and our own rules hold alone. `group` names a major number (proc_devices).
pub fn devices(rules: &Rules, group: impl Fn(u8, u32) -> Option<String>) -> Vec<(&'static str, Value)> {
    if rules.default_allow {
        return vec![("DevicePolicy", Value::str("auto"))];
    }
    let allowed = rules.list.iter().filter(|r| r.allow).map(|r| ((r.kind, r.major, r.minor), r.access));
    let list = rules.exceptions().unwrap_or_else(|_| allowed.collect());
    let entries = list.into_iter().filter_map(|((kind, major, minor), bits)| {
        let class = if kind == b'c' { "char" } else { "block" };
        let node = match (major, minor) {
            (Some(major), Some(minor)) => format!("/dev/{class}/{major}:{minor}"),
            (Some(major), None) => format!("{class}-{}", group(kind, major)?),
            (None, None) => format!("{class}-*"),
            (None, Some(_)) => return None,
        };
        let access = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| bits & bit != 0);
        Some(Value::Struct(vec![Value::Str(node), Value::Str(access.map(|(_, c)| c).collect())]))
    });
    let entries: Vec<Value> = entries.collect();
    vec![("DevicePolicy", Value::str("strict")), ("DeviceAllow", Value::Array("(ss)".into(), entries))]
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
