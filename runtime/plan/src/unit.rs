//! The systemd unit of a container: its name and its properties.

use super::device_rules::{Rules, MKNOD, READ, WRITE};
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
    let plain = |n: &str| {
        n.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\".contains(c)) && n.len() <= 255
    };
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
                check
                    .bad(FIELD, format!("{name:?} is no slice such as machine.slice or a-b.slice"));
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

fn extra(
    annotations: &BTreeMap<String, String>,
    check: &mut Check,
) -> Vec<(String, String, Value)> {
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
            check.bad(
                field,
                format!("{name} is not among the properties that a container may set on its unit"),
            );
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

/// The device rules as systemd keeps them. It knows only lists of what is allowed. On v1 it writes the same files as we do,
/// whenever it likes: it is told what is left when all rules are applied, which such a host can hold. Where only order can
/// say it (v2), it is told all that some rule allows, and our own rules, which hold as well, take from it. Where the
/// document starts from "all allowed" systemd is told
/// nothing, and our own rules hold alone. `group` names a major number (proc_devices).
pub fn devices(
    rules: &Rules,
    group: impl Fn(u8, u32) -> Option<String>,
) -> Vec<(&'static str, Value)> {
    if rules.default_allow {
        return vec![("DevicePolicy", Value::str("auto"))];
    }
    let allowed =
        rules.list.iter().filter(|r| r.allow).map(|r| ((r.kind, r.major, r.minor), r.access));
    let list = rules.exceptions().unwrap_or_else(|_| allowed.collect());
    let entries = list.into_iter().filter_map(|((kind, major, minor), bits)| {
        let class = if kind == b'c' { "char" } else { "block" };
        let node = match (major, minor) {
            (Some(major), Some(minor)) => format!("/dev/{class}/{major}:{minor}"),
            (Some(major), None) => format!("{class}-{}", group(kind, major)?),
            (None, None) => format!("{class}-*"),
            (None, Some(_)) => return None,
        };
        let access =
            [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| bits & bit != 0);
        Some(Value::Struct(vec![Value::Str(node), Value::Str(access.map(|(_, c)| c).collect())]))
    });
    let entries: Vec<Value> = entries.collect();
    vec![
        ("DevicePolicy", Value::str("strict")),
        ("DeviceAllow", Value::Array("(ss)".into(), entries)),
    ]
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
