//! The words that fields of a closed set take, for suggestions and for the schema.

use conex::{plan, seccomp, text};
use serde_json::Value;

/// The words of a field; empty for one that takes any text. `field`: its path, or its pattern with `[]` for any index.
pub fn of(field: &str) -> Vec<String> {
    let plain = |list: &[&str]| list.iter().map(|s| (*s).to_string()).collect::<Vec<String>>();
    let parts: Vec<&str> = field.split('.').map(|p| p.split('[').next().unwrap_or(p)).collect();
    match parts.as_slice() {
        ["process", "capabilities", _] => caps(),
        ["process", "rlimits", "type"] => {
            plan::process::RLIMITS.iter().map(|r| r.0.into()).collect()
        }
        ["process", "scheduler", "policy"] => {
            plan::process::POLICIES.iter().map(|p| p.0.into()).collect()
        }
        ["process", "ioPriority", "class"] => {
            plain(&["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"])
        }
        ["linux", "namespaces", "type"] => {
            plan::namespaces::KINDS.iter().map(|k| k.0.into()).collect()
        }
        ["linux", "rootfsPropagation"] => plain(&[
            "shared",
            "slave",
            "private",
            "unbindable",
            "rshared",
            "rslave",
            "rprivate",
            "runbindable",
        ]),
        ["linux", "seccomp", "defaultAction"] | ["linux", "seccomp", "syscalls", "action"] => {
            seccomp::ACTIONS.iter().map(|a| a.0.into()).collect()
        }
        ["linux", "seccomp", "architectures"] => plain(&seccomp::ARCHITECTURES),
        ["linux", "seccomp", "flags"] => seccomp::FLAGS.iter().map(|a| a.0.into()).collect(),
        ["linux", "seccomp", "syscalls", "args", "op"] => {
            seccomp::OPERATORS.iter().map(|a| a.0.into()).collect()
        }
        ["linux", "seccomp", "syscalls", "names"] => {
            seccomp::abi::names().map(str::to_string).collect()
        }
        ["linux", "devices", "type"] => plain(&["c", "b", "u", "p"]),
        ["linux", "resources", "devices", "type"] => plain(&["a", "b", "c"]),
        ["linux", "personality", "domain"] => plain(&["LINUX", "LINUX32"]),
        ["linux", "memoryPolicy", "mode"] => {
            plan::placement::MODES.iter().map(|m| m.0.into()).collect()
        }
        ["linux", "timeOffsets", ..] => plain(&["monotonic", "boottime"]),
        ["mounts", "options"] => plan::mount_options::names(),
        _ => Vec::new(),
    }
}

fn caps() -> Vec<String> {
    let mut names: Vec<String> = caps::all().into_iter().map(|c| c.to_string()).collect();
    names.sort();
    names
}

/// The word that the value of a field was probably meant to be.
pub fn meant(document: &Value, field: &str) -> Option<String> {
    let known = of(field);
    let given = at(document, field)?.as_str()?;
    if known.iter().any(|k| k == given) {
        return None;
    }
    // The prefix that people leave out: NET_ADMIN, ALLOW, BIND.
    let upper = given.to_uppercase();
    let ends = |k: &&String| k.ends_with(&format!("_{upper}")) || k.eq_ignore_ascii_case(given);
    if let Some(word) = known.iter().find(ends).filter(|_| !given.is_empty()) {
        return Some(word.clone());
    }
    let short = [("mnt", "mount"), ("net", "network"), ("readonly", "ro"), ("rw-only", "rw")];
    if let Some((_, word)) = short.iter().find(|(s, w)| *s == given && known.iter().any(|k| k == w))
    {
        return Some((*word).into());
    }
    text::closest(given, known.iter().map(String::as_str)).map(str::to_string)
}

/// The value at a path such as `mounts[1].options[0]`.
fn at<'a>(document: &'a Value, field: &str) -> Option<&'a Value> {
    use conex::bundle::scan::{steps, PathStep};
    steps(field).into_iter().try_fold(document, |value, step| match step {
        PathStep::Key(key) => value.get(&key),
        PathStep::Index(i) => value.get(i),
    })
}
