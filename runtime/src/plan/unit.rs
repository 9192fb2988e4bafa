//! The systemd unit of a container: its name and its properties.

use super::device_rules::{Rules, MKNOD, READ, WRITE};
use super::resources::Write;
use super::Check;
use crate::dbus::{text, Value};
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
        let parsed = text::parse(value).and_then(|v| in_microseconds(name, v));
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

/// The properties that say the same as the writes, so that systemd, when it applies its own view again
/// (daemon-reload), puts back what the document asks for. `cpu` is the quota and the period in force, for a write that
/// gives only one of them.
pub fn limits(writes: &[Write], cpu: (Option<u64>, u64)) -> Vec<(&'static str, Value)> {
    let mut out = Vec::new();
    let (mut quota, mut period, mut bandwidth) = (cpu.0, cpu.1, false);
    let number = |v: &str| if v == "max" || v == "-1" { u64::MAX } else { v.parse().unwrap_or(u64::MAX) };
    let finite = |v: &str| v.parse::<u64>().ok();
    for w in writes {
        let v = w.value.as_str();
        match w.file.as_str() {
            "memory.max" => out.push(("MemoryMax", Value::U64(number(v)))),
            "memory.low" => out.push(("MemoryLow", Value::U64(number(v)))),
            "memory.high" => out.push(("MemoryHigh", Value::U64(number(v)))),
            "memory.min" => out.push(("MemoryMin", Value::U64(number(v)))),
            "memory.swap.max" => out.push(("MemorySwapMax", Value::U64(number(v)))),
            "memory.limit_in_bytes" => out.push(("MemoryLimit", Value::U64(number(v)))),
            "pids.max" => out.push(("TasksMax", Value::U64(number(v)))),
            "cpu.weight" => out.push(("CPUWeight", Value::U64(number(v)))),
            "cpu.shares" => out.push(("CPUShares", Value::U64(number(v)))),
            // systemd 252: the weight "idle".
            "cpu.idle" if v == "1" => out.push(("CPUWeight", Value::U64(0))),
            "cpuset.cpus" => out.extend(bits(v).map(|b| ("AllowedCPUs", b))),
            "cpuset.mems" => out.extend(bits(v).map(|b| ("AllowedMemoryNodes", b))),
            "blkio.bfq.weight|blkio.weight" => out.push(("BlockIOWeight", Value::U64(number(v)))),
            "io.bfq.weight|io.weight" if !v.contains(' ') => {
                out.push(("IOWeight", Value::U64(super::resources::io_weight(number(v)))));
            }
            "cpu.max" => {
                let (q, p) = v.split_once(' ').unwrap_or((v, "keep"));
                quota = if q == "keep" { quota } else { finite(q) };
                period = if p == "keep" { period } else { number(p) };
                bandwidth = true;
            }
            "cpu.cfs_quota_us" => (quota, bandwidth) = (finite(v), true),
            "cpu.cfs_period_us" => (period, bandwidth) = (number(v), true),
            _ => {}
        }
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

/// A list such as `0-3,7` as the bytes of a bit mask, lowest first.
fn bits(text: &str) -> Option<Value> {
    let mut bytes: Vec<u8> = super::process::bit_set(text)?.iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(Value::bytes(&bytes))
}

/// The device rules as systemd keeps them. It knows only lists of what is allowed: it is told all that some rule allows,
/// and our own rules, which hold as well, take from it. Where the document starts from "all allowed" systemd is told
/// nothing, and our own rules hold alone. `group` names a major number (proc_devices).
pub fn devices(rules: &Rules, group: impl Fn(u8, u32) -> Option<String>) -> Vec<(&'static str, Value)> {
    if rules.default_allow {
        return vec![("DevicePolicy", Value::str("auto"))];
    }
    let entries = rules.list.iter().filter(|r| r.allow).filter_map(|r| {
        let class = if r.kind == b'c' { "char" } else { "block" };
        let node = match (r.major, r.minor) {
            (Some(major), Some(minor)) => format!("/dev/{class}/{major}:{minor}"),
            (Some(major), None) => format!("{class}-{}", group(r.kind, major)?),
            (None, None) => format!("{class}-*"),
            (None, Some(_)) => return None,
        };
        let access = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| r.access & bit != 0);
        Some(Value::Struct(vec![Value::Str(node), Value::Str(access.map(|(_, c)| c).collect())]))
    });
    let entries: Vec<Value> = entries.collect();
    vec![("DevicePolicy", Value::str("strict")), ("DeviceAllow", Value::Array("(ss)".into(), entries))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Result<Unit, String> {
        let mut check = Check::default();
        let made = make(path, "c1", false, &BTreeMap::new(), &mut check);
        made.ok_or_else(|| check.errors[0].to_string())
    }

    #[test]
    fn names_and_paths() {
        for (given, name, path) in [
            ("", "conex-c1.scope", "system.slice/conex-c1.scope"),
            ("a-b.slice:docker:x", "docker-x.scope", "a.slice/a-b.slice/docker-x.scope"),
            (":libpod:x", "libpod-x.scope", "system.slice/libpod-x.scope"),
            ("-.slice::x", "x.scope", "x.scope"),
            ("a.slice:p:p-q.slice", "p-q.slice", "p.slice/p-q.slice"),
        ] {
            let u = unit(given).unwrap();
            assert_eq!((u.name.as_str(), u.path.to_str().unwrap()), (name, path), "{given}");
        }
        for bad in [
            "/a/b",
            "a:b",
            "a:b:c:d",
            "a:b:c",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "a/b.slice:p:n",
            "..slice:p:n",
            "x.slice:p:../n",
            "x.slice:p:a/b",
            "x.slice::-.slice",
        ] {
            assert!(unit(bad).unwrap_err().contains("linux.cgroupsPath"), "{bad}");
        }
    }

    #[test]
    fn annotations() {
        let list = |pairs: &[(&str, &str)]| {
            let map = pairs.iter().map(|(k, v)| (format!("org.systemd.property.{k}"), v.to_string())).collect();
            let mut check = Check::default();
            let out: Vec<_> = extra(&map, &mut check).into_iter().map(|(_, n, v)| (n, v)).collect();
            (out, check.errors.len())
        };
        assert_eq!(
            list(&[("TimeoutStopSec", "5"), ("CollectMode", "'inactive-or-failed'")]).0,
            [
                ("CollectMode".to_string(), Value::str("inactive-or-failed")),
                ("TimeoutStopUSec".to_string(), Value::U64(5_000_000)),
            ]
        );
        for bad in [
            ("ExecStop", "'x'"),
            ("Wants", "['a.service']"),
            ("Slice", "'a.slice'"),
            ("Delegate", "false"),
            ("TimeoutStopSec", "'x'"),
            ("KillMode", "mixed"),
            ("", "5"),
            ("Memory/../x", "5"),
            ("DeviceAllow", "@as []"),
        ] {
            assert_eq!(list(&[bad]), (vec![], 1), "{bad:?}");
        }
    }

    #[test]
    fn limits_are_told_twice() {
        let write = |file: &str, value: &str| Write {
            field: String::new(),
            controller: "cpu",
            file: file.into(),
            value: value.into(),
            optional: false,
        };
        let rate = |q: &str, cpu| limits(&[write("cpu.max", q)], cpu)[1].1.clone();
        assert_eq!(rate("50000 100000", (None, 100_000)), Value::U64(500_000));
        assert_eq!(rate("33333 keep", (None, 100_000)), Value::U64(333_330));
        assert_eq!(rate("100 keep", (None, 100_000)), Value::U64(10_000));
        assert_eq!(rate("keep 200000", (Some(50_000), 100_000)), Value::U64(250_000));
        assert_eq!(rate("max keep", (Some(50_000), 100_000)), Value::U64(u64::MAX));
        assert_eq!(limits(&[write("cpuset.cpus", "0,9")], (None, 1))[0].1, Value::bytes(&[1, 2]));
        assert_eq!(limits(&[write("pids.max", "max")], (None, 1))[0].1, Value::U64(u64::MAX));
    }
}
