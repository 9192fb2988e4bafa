//! `conex update`.

use super::env::Env;
use crate::bundle;
use crate::check::Check;
use crate::dbus::Value;
use crate::error::{Context, Error, Kind, Result};
use crate::host::cgroup::snapshot::put_back;
use crate::host::cgroup::systemd::Manager;
use crate::host::cgroup::Group;
use crate::host::facts;
use crate::host::rdt;
use crate::oci::config::*;
use crate::plan;
use crate::plan::hierarchy::Hierarchy;
use crate::plan::limits::Limit;
use crate::state::{State, Status};

pub fn main(env: &mut Env) -> Result<i32> {
    let entry = env.store()?.find(env.id())?;
    let (state, status) = entry.state()?;
    if !matches!(status, Status::Running | Status::Created | Status::Paused) {
        let what = format!("container not running: it is {}", status.name());
        return Err(Error::new(Kind::Status, what));
    }
    schemata(env, &state)?;
    let (resources, bad, text) = match env.args.value("resources").map(str::to_string) {
        Some(file) => from_file(env, &file)?,
        None => (from_flags(env)?, Vec::new(), Vec::new()),
    };
    let facts = facts_for(&resources);
    let mut check = Check::default();
    let mut limits = plan::resources::limits(&resources, &facts.cgroup, &mut check);
    let checked = check.finish().map_err(|errors| bundle::locate(&text, errors));
    let warnings = match checked {
        Ok(warnings) if bad.is_empty() => warnings,
        checked => {
            let errors = checked.err().unwrap_or_default();
            return Err(bundle::join(bundle::with_plan(bad, errors, "linux.resources.")));
        }
    };
    let document = remembered(&entry, &text, &limits)?;
    let group = Group::open_all(&state.cgroups)?;
    if resources.memory.as_ref().and_then(|m| m.check_before_update) == Some(true) {
        group.refuse_below_usage(&limits)?;
    }
    // What systemd is told it rounds, and it writes the file at once: the half that stays is read before.
    if state.systemd_unit.is_some() {
        plan::limits::both_halves(&mut limits, group.bandwidth());
    }
    let files = group.files(&limits);
    // Device rules are not part of an update: what a process has opened stays open.
    let before = group.before(&files, None, &[]);
    let mut unit = Unit::of(&state)?;
    let told =
        unit.as_mut().map(|unit| unit.tell(&group, &facts.cgroup.hierarchies, &limits)).transpose();
    if let Err(e) = told.and_then(|_| group.apply(&files)) {
        if let Some(unit) = &mut unit {
            unit.back();
        }
        let _ = put_back(&before);
        return Err(e);
    }
    if let Some(document) = document {
        entry.write("config.json", &document)?;
    }
    for w in warnings {
        env.log.warn(w.to_string());
    }
    Ok(0)
}

/// What the host says about these limits.
fn facts_for(resources: &Resources) -> plan::facts::Facts {
    let spec = Spec {
        linux: Some(Linux { resources: Some(resources.clone()), ..Linux::default() }),
        ..Spec::default()
    };
    facts::read(&spec, std::path::Path::new(""))
}

/// The lines of resctrl that flags give.
fn schemata(env: &Env, state: &State) -> Result<()> {
    for name in ["l3-cache-schema", "mem-bw-schema"] {
        let Some(schema) = env.args.value(name) else { continue };
        let Some(group) = &state.rdt_group else {
            return Err(Error::new(
                Kind::Unsupported,
                format!("--{name}: the container is in no resctrl group"),
            ));
        };
        let lines: Vec<&str> = schema.lines().filter(|l| !l.is_empty()).collect();
        rdt::update(group, &lines, &format!("--{name}"))?;
    }
    Ok(())
}

/// The unit of a container, told before the files are written: what systemd rounds or cannot express is set right
/// afterwards.
struct Unit<'a> {
    name: &'a str,
    manager: Manager,
    before: Vec<(&'static str, Value)>,
}

impl Unit<'_> {
    fn of(state: &State) -> Result<Option<Unit<'_>>> {
        let Some(unit) = &state.systemd_unit else { return Ok(None) };
        Ok(Some(Unit {
            name: &unit.name,
            manager: Manager::connect(unit.user)?,
            before: Vec::new(),
        }))
    }

    fn tell(&mut self, group: &Group, hierarchies: &[Hierarchy], limits: &[Limit]) -> Result<()> {
        let properties = plan::limits::systemd::properties(limits, hierarchies, group.bandwidth());
        if properties.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = properties.iter().map(|(name, _)| *name).collect();
        self.before = self.manager.get(self.name, &names);
        self.manager.set(self.name, properties)
    }

    /// After a failure: the unit keeps nothing of what is not in force.
    fn back(&mut self) {
        let _ = self.manager.set(self.name, std::mem::take(&mut self.before));
    }
}

/// The document, what it has of a wrong type, and its text.
fn from_file(env: &mut Env, file: &str) -> Result<(Resources, Vec<Error>, Vec<u8>)> {
    let text = match file {
        "-" => bundle::read_all(std::io::stdin())
            .call(|| "read(stdin)")?
            .ok_or_else(|| Error::new(Kind::Invalid, "stdin: the document is too large"))?,
        file => bundle::read(&crate::text::path(file), true)?,
    };
    let parsed = bundle::parse_all::<Resources>(&text, if file == "-" { "stdin" } else { file })?;
    for w in parsed.unknown {
        env.log.warn(w.to_string());
    }
    Ok((parsed.value, parsed.bad, text))
}

fn from_flags(env: &Env) -> Result<Resources> {
    let a = &env.args;
    let bytes = |name: &str| a.value(name).map(|v| size(name, v)).transpose();
    let some = |given: &[&str]| given.iter().any(|n| a.value(n).is_some());
    let mut r = Resources::default();
    let idle = a.number::<i64>("cpu-idle")?;
    let cpus = a.value("cpus").map(cpu_quota).transpose()?;
    if cpus.is_some() && some(&["cpu-quota", "cpu-period"]) {
        return Err(Error::new(
            Kind::Invalid,
            "--cpus is a quota and a period: --cpu-quota and --cpu-period exclude it",
        ));
    }
    let cpu = Cpu {
        // An idle cgroup has no weight of its own.
        shares: a.number::<u64>("cpu-share")?.or(idle.filter(|i| *i == 1).map(|_| 0)),
        quota: a.number("cpu-quota")?.or(cpus),
        burst: a.number("cpu-burst")?,
        period: a.number("cpu-period")?.or(cpus.map(|_| 100_000)),
        realtime_runtime: a.number("cpu-rt-runtime")?,
        realtime_period: a.number("cpu-rt-period")?,
        cpus: a.value("cpuset-cpus").map(str::to_string),
        mems: a.value("cpuset-mems").map(str::to_string),
        idle,
    };
    if cpu != Cpu::default() {
        r.cpu = Some(cpu);
    }
    if some(&["memory", "memory-reservation", "memory-swap", "kernel-memory", "kernel-memory-tcp"])
    {
        r.memory = Some(Memory {
            limit: bytes("memory")?,
            reservation: bytes("memory-reservation")?,
            swap: bytes("memory-swap")?,
            kernel: bytes("kernel-memory")?,
            kernel_tcp: bytes("kernel-memory-tcp")?,
            ..Memory::default()
        });
    }
    if let Some(limit) = a.number("pids-limit")? {
        r.pids = Some(Pids { limit: Some(limit) });
    }
    if let Some(weight) = a.number("blkio-weight")? {
        r.block_io = Some(BlockIo { weight: Some(weight), ..BlockIo::default() });
    }
    Ok(r)
}

/// docker/go-units RAMInBytes: a number with an optional k, m, g, t (b, ib after it), or -1.
pub fn size(flag: &str, text: &str) -> Result<i64> {
    let bad = || {
        Error::new(Kind::Invalid, format!("invalid value {text:?} for flag --{flag}: not a size"))
    };
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let unit = match lower[end..].trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    let bytes = crate::text::decimal(&lower[..end], 1 << unit);
    bytes.and_then(|n| i64::try_from(n).ok()).ok_or_else(bad)
}

/// A number of CPUs as the microseconds of CPU time in each 100,000; the kernel takes no less than 1,000.
pub fn cpu_quota(text: &str) -> Result<i64> {
    let quota = crate::text::decimal(text, 100_000).filter(|n| (1000..=10_000_000_000).contains(n));
    quota.map(|n| n as i64).ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            format!("--cpus {text:?}: expected a number from 0.01 to 100000, such as 1.5"),
        )
    })
}

/// The document in step with what will be in force, made before anything is changed. What came as JSON is merged into it;
/// flags have no document of their own, and the cgroup files hold their values.
fn remembered(
    entry: &crate::state::Entry,
    new: &[u8],
    limits: &[Limit],
) -> Result<Option<Vec<u8>>> {
    use serde_json::Value;
    if new.is_empty() || limits.is_empty() {
        return Ok(None);
    }
    // A document that is deeper than this reader goes is as it was: only what nobody knows can be so deep.
    let read = |text: &[u8]| {
        serde_json::from_slice::<Value>(crate::text::from_bytes(text).as_bytes()).ok()
    };
    let (Some(mut document), Some(new)) = (read(&entry.read("config.json")?), read(new)) else {
        return Ok(None);
    };
    let linux = document.as_object_mut().map(|d| d.entry("linux").or_insert(Value::Null));
    let Some(linux) = linux else { return Ok(None) };
    if !linux.is_object() {
        *linux = Value::Object(serde_json::Map::new());
    }
    merge(&mut linux["resources"], new);
    Ok(Some(crate::text::bytes(&document.to_string()).into_owned()))
}

fn merge(old: &mut serde_json::Value, new: serde_json::Value) {
    use serde_json::Value;
    match (old, new) {
        (_, Value::Null) => {}
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

#[cfg(test)]
mod tests {
    use super::{cpu_quota, size};

    #[test]
    fn sizes() {
        for (text, want) in [
            ("-1", -1),
            ("100", 100),
            ("1k", 1024),
            ("2M", 2 << 20),
            ("1.5g", 3 << 29),
            ("1gib", 1 << 30),
        ] {
            assert_eq!(size("memory", text).unwrap(), want, "{text}");
        }
        for bad in ["x", "", ".", "1.5.1", "16777216t", "-2"] {
            assert!(size("memory", bad).is_err(), "{bad}");
        }
        assert_eq!(cpu_quota("1.5").unwrap(), 150_000);
        assert!(cpu_quota("0.001").is_err() && cpu_quota("two").is_err());
    }
}
