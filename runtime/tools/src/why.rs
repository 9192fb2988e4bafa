//! `conex why`: what has become of a container, in a sentence, also when it is gone.

use crate::containers::{engine, roots, size, span};
use crate::Invocation;
use conex::end;
use conex::error::{Error, Kind, Result};
use conex::state::{End, Status, Store};
use serde_json::Value;
use std::path::Path;

/// A container as it was when it was last seen.
struct Case {
    id: String,
    engine: &'static str,
    /// Of a deleted one that which it had before.
    status: String,
    created: String,
    /// When it was deleted, if it is.
    deleted: Option<String>,
    end: End,
}

/// # Errors
/// Nothing is known of such a container, or the beginning of an id fits several.
pub fn main(env: &Invocation) -> Result<i32> {
    let wanted = env.args.rest[0].as_str();
    let mut cases: Vec<Case> =
        roots(&env.root, true).iter().flat_map(|root| known(root, wanted)).collect();
    if cases.iter().any(|c| c.id == wanted) {
        cases.retain(|c| c.id == wanted);
    }
    let mut ids: Vec<&str> = cases.iter().map(|c| c.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > 1 {
        return Err(Error::new(
            Kind::Invalid,
            format!("{wanted} is the beginning of several: {}", ids.join(", ")),
        ));
    }
    // One that is there, else the one that was deleted last: an id can be used again.
    let Some(case) = cases.iter().max_by_key(|c| (c.deleted.is_none(), c.deleted.clone())) else {
        let what = format!(
            "nothing is known of {wanted}: conex has no container of that name, neither here nor under an engine, and \
             of none that was deleted is there a word in its journal (24 hours at most)"
        );
        return Err(Error::new(Kind::NotFound, what));
    };
    if env.args.is_set("json") {
        let value = serde_json::json!({
            "id": case.id, "engine": case.engine, "status": case.status, "created": case.created,
            "deleted": case.deleted, "end": case.end,
        });
        conex::verbs::env::print(&format!("{value:#}\n"))?;
        return Ok(0);
    }
    conex::verbs::env::print(&format!("{}\n", sentence(case)))?;
    Ok(0)
}

/// Those below a root whose id is, or begins with, what was asked for.
fn known(root: &Path, wanted: &str) -> Vec<Case> {
    let engine = engine(root);
    let mut cases = Vec::new();
    if let Ok(Some(store)) = Store::open(root, false) {
        for id in store.ids().unwrap_or_default().into_iter().filter(|id| id.starts_with(wanted)) {
            let Ok((state, status)) = store.peek(&id) else { continue };
            let end = if status == Status::Stopped { end::of(&state, None) } else { End::new() };
            let status = status.name().to_string();
            cases.push(Case { id, engine, status, created: state.created, deleted: None, end });
        }
    }
    let oldest = conex::log::rfc3339(std::time::SystemTime::now() - end::KEPT, 9);
    for file in [end::OLDER, end::JOURNAL] {
        let text = std::fs::read(root.join(file)).unwrap_or_default();
        for line in text.split(|b| *b == b'\n') {
            let Ok(Value::Object(mut line)) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            let mut text = |key: &str| {
                line.remove(key).and_then(|v| Some(v.as_str()?.to_string())).unwrap_or_default()
            };
            let (id, status, created, deleted) =
                (text("id"), text("status"), text("created"), text("deleted"));
            let end = line.remove("end").and_then(|v| v.as_object().cloned()).unwrap_or_default();
            if id.starts_with(wanted) && deleted >= oldest {
                cases.push(Case { id, engine, status, created, deleted: Some(deleted), end });
            }
        }
    }
    cases
}

fn sentence(c: &Case) -> String {
    let whose = if c.engine == "conex" { String::new() } else { format!(" (of {})", c.engine) };
    let name = format!("{}{whose}", c.id);
    let deleted = c
        .deleted
        .as_ref()
        .map_or(String::new(), |at| format!(" It was deleted at {}.", moment(at)));
    match (c.status.as_str(), &c.deleted) {
        ("stopped", _) => format!("{name} has ended{}: {}.{deleted}", when(c), reason(&c.end)),
        ("created", Some(_)) => format!("{name} was never started.{deleted}"),
        ("created", None) => format!("{name} has been created and waits for its start."),
        (status, Some(_)) => format!("{name} was {status} when it was deleted by force.{deleted}"),
        (status, None) => format!("{name} is {status}; it was created at {}.", moment(&c.created)),
    }
}

/// When it ended, and after what time.
fn when(c: &Case) -> String {
    let Some(at) = c.end.get("exitedAt").and_then(Value::as_str) else { return String::new() };
    let ran = seconds(at).zip(seconds(&c.created)).map(|(end, begin)| end.saturating_sub(begin));
    format!(
        " at {}{}",
        moment(at),
        ran.map_or(String::new(), |s| format!(", {} after it was created", span(s)))
    )
}

/// To the second.
fn moment(time: &str) -> &str {
    time.get(..19).unwrap_or(time)
}

/// Seconds since 1970 of a time in RFC 3339, UTC.
pub fn seconds(time: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        y / 400 * 146_097 + y % 400 * 365 + y % 400 / 4 - y % 400 / 100 + (153 * m + 2) / 5 + day
            - 1;
    Some(
        (days - 719_468) * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?,
    )
}

fn reason(end: &End) -> String {
    let number = |key: &str| end.get(key).and_then(Value::as_u64);
    let kills = number("oomKills").unwrap_or(0);
    let by = || match (number("oomLimit"), end.get("oomCgroup").and_then(Value::as_str)) {
        (Some(limit), Some(cgroup)) => {
            format!("the limit of {} that {cgroup} has was reached", size(limit))
        }
        _ => "the host had none left".to_string(),
    };
    let Some(code) = number("exitCode") else {
        let oom = if kills > 0 {
            format!("; the kernel killed {kills} of its processes for want of memory: {}", by())
        } else {
            String::new()
        };
        return format!(
            "its exit status was told to its parent alone, an engine if there is one{oom}"
        );
    };
    let killed = u64::from(128 + libc::SIGKILL.unsigned_abs());
    // Or somebody has, after the kernel had killed another process.
    if code == killed && kills > 0 {
        return format!(
            "as it seems, the kernel killed its first process for want of memory ({code}, SIGKILL): {}",
            by()
        );
    }
    let oom = if kills > 0 {
        format!(
            ", after the kernel had killed {kills} of its processes for want of memory: {}",
            by()
        )
    } else {
        String::new()
    };
    let told = match code {
        0 => "its program was done (exit status 0)".to_string(),
        126 => "exit status 126, which shells and engines give when a program cannot be executed"
            .to_string(),
        127 => {
            "exit status 127, which shells and engines give when a program is not found".to_string()
        }
        _ if end.contains_key("deniedSyscall") => denied(end),
        159 => "SIGSYS ended it (exit status 159), which is what a seccomp profile kills with"
            .to_string(),
        129..=192 if number("signal").is_some() => {
            format!("{} ended it (exit status {code})", signal(code - 128))
        }
        129..=192 => format!("exit status {code}, which is that of {}", signal(code - 128)),
        _ => format!("its program ended with exit status {code}"),
    };
    format!("{told}{oom}")
}

fn signal(number: u64) -> String {
    let known = i32::try_from(number).ok().and_then(|n| nix::sys::signal::Signal::try_from(n).ok());
    known.map_or(format!("signal {number}"), |s| s.as_str().to_string())
}

fn denied(end: &End) -> String {
    let number = |key: &str| end.get(key).and_then(Value::as_u64).unwrap_or(0) as u32;
    let name = conex::seccomp::compile::name(number("arch"), number("deniedSyscall"));
    format!("its seccomp profile killed it for the call {name} (SIGSYS, exit status 159)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-03-01T00:00:01.5Z"), Some(951_868_801));
        assert_eq!(seconds("2026-11-26T17:34:38Z"), Some(1_795_714_478));
        assert_eq!(seconds("yesterday"), None);
    }
}
