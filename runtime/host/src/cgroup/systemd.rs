//! The systemd driver: a transient unit per container (org.freedesktop.systemd1(5)).

use super::files::read;
use crate::dbus::{Connection, Failure, Value};
use crate::error::{Error, Kind, Named, Result};
use crate::plan::cgroup::Cgroup;
use crate::plan::limits;
use crate::plan::unit::{self, Unit};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// How long a job may take, and each call: a manager that is reloading thousands of units answers late.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = std::result::Result<Vec<Value>, Failure>;

/// A transient unit of systemd that belongs to a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UnitRecord {
    pub name: String,
    /// Unique to this container: a unit of the same name with another description is somebody else's.
    pub description: String,
    /// True for the user's own manager.
    pub user: bool,
}

pub struct Manager {
    connection: Connection,
    user: bool,
    /// True if the ends of jobs are announced to this connection.
    watching: bool,
}

impl Manager {
    /// Connects to the system's manager, or to that of the calling user. The manager's own socket comes first: it
    /// needs no bus daemon; a manager that does not have it is asked over the bus.
    ///
    /// # Errors
    /// Every address that was tried, with its reason.
    pub fn connect(user: bool) -> Result<Manager> {
        let mut reasons = Vec::new();
        for (path, direct) in addresses(user) {
            match Connection::open(&path, direct, SERVICE, PATIENCE) {
                Ok(connection) => return Ok(Manager { connection, user, watching: false }),
                Err(e) => reasons.push(e.to_string()),
            }
        }
        let who = if user { "the user's systemd (XDG_RUNTIME_DIR)" } else { "systemd" };
        let why =
            if reasons.is_empty() { "no address is known".to_string() } else { reasons.join("; ") };
        Err(Error::new(Kind::System, format!("--systemd-cgroup: no connection to {who}: {why}")))
    }

    fn manager(&mut self, member: &str, arguments: &[Value]) -> Answer {
        self.again(OBJECT, MANAGER, member, arguments)
    }

    /// A call that may be made twice: a manager that executes itself anew in between loses it.
    fn again(&mut self, path: &str, interface: &str, member: &str, arguments: &[Value]) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connection.call(path, interface, member, arguments) {
                Err(f) if lost(&f) && Instant::now() < deadline => self.reconnect(deadline)?,
                other => return other,
            }
        }
    }

    fn reconnect(&mut self, deadline: Instant) -> Result<()> {
        loop {
            std::thread::sleep(Duration::from_millis(20));
            match Manager::connect(self.user) {
                Ok(fresh) => {
                    let watching = self.watching;
                    *self = fresh;
                    return if watching { self.watch_jobs() } else { Ok(()) };
                }
                Err(_) if Instant::now() < deadline => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn property(
        &mut self,
        path: &str,
        interface: &str,
        name: &str,
    ) -> std::result::Result<String, Failure> {
        let out =
            self.again(path, PROPERTIES, "Get", &[Value::str(interface), Value::str(name)])?;
        Ok(out.first().and_then(Value::as_str).unwrap_or_default().to_string())
    }

    /// The cgroup that the manager itself is the root of, relative to the hierarchy's root.
    ///
    /// # Errors
    /// Also those of [`Manager::check_numbers`]: whoever asks wants to put a process there.
    pub fn control_group(&mut self) -> Result<PathBuf> {
        self.check_numbers()?;
        Ok(crate::root::clean(Path::new(&self.property(OBJECT, MANAGER, "ControlGroup")?)))
    }

    fn unit_property(&mut self, unit: &str, name: &str) -> std::result::Result<String, Failure> {
        self.property(&object_path(unit), UNIT, name)
    }

    /// Starts the container's unit with a process in it, and waits until systemd has moved it.
    pub fn start(
        &mut self,
        plan: &Cgroup,
        unit: &Unit,
        record: &UnitRecord,
        pid: i32,
    ) -> Result<()> {
        self.check_numbers()?;
        self.watch_jobs()?;
        let mut properties = self.properties(plan, unit, record, pid)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let arguments = [
                Value::str(unit.name.as_str()),
                Value::str("replace"),
                wrap(&properties),
                Value::Array("(sa(sv))".into(), Vec::new()),
            ];
            match self.manager("StartTransientUnit", &arguments) {
                Ok(reply) => {
                    let job = reply.first().and_then(Value::as_str).unwrap_or_default().to_string();
                    return self.finish(&job, &unit.name, "start", deadline);
                }
                // What is left of an earlier container of that name: failed, or just being stopped.
                Err(f) if f.name.ends_with(".UnitExists") && Instant::now() < deadline => {
                    let state = self.unit_property(&unit.name, "ActiveState").unwrap_or_default();
                    if self
                        .unit_property(&unit.name, "Description")
                        .is_ok_and(|d| d == record.description)
                    {
                        // Asked for twice, because the first answer was lost.
                        return self.effect(&unit.name, "start", deadline);
                    }
                    if matches!(state.as_str(), "active" | "activating" | "reloading") {
                        let what = format!("the unit {} exists already and is {state}", unit.name);
                        return Err(Error::new(Kind::Status, what));
                    }
                    let _ = self.manager("ResetFailedUnit", &[Value::str(unit.name.as_str())]);
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(f) => match without(&mut properties, &f) {
                    true => continue,
                    false => return Err(blame(unit, f)),
                },
            }
        }
    }

    /// All that the unit is given: conex's own, the limits, the device rules and what annotations ask for.
    fn properties(
        &self,
        plan: &Cgroup,
        unit: &Unit,
        record: &UnitRecord,
        pid: i32,
    ) -> Result<Vec<(String, Value)>> {
        let v2 = plan.hierarchies.iter().all(|h| h.v2);
        let mut properties = base(unit, &record.description, pid, v2);
        properties.extend(own(limits::systemd::properties(
            &plan.limits,
            &plan.hierarchies,
            (None, 100_000),
        )));
        if let Some(devices) = plan.devices.as_ref().filter(|_| !self.user) {
            let text = read(Path::new("/proc/devices")).unwrap_or_default();
            properties.extend(own(unit::devices(devices, |kind, major| {
                device_group(&text, kind, major)
            })));
        }
        for (field, name, value) in &unit.extra {
            // Whoever may annotate must not raise a limit of the document.
            if properties.iter().any(|(n, _)| n == name) {
                return Err(Error::invalid(
                    field.clone(),
                    format!("{name} follows from linux.resources"),
                ));
            }
            properties.push((name.clone(), value.clone()));
        }
        Ok(properties)
    }

    /// A process is named to systemd by its number, which must mean the same to both: otherwise a stranger would be moved
    /// into the unit, and die with it.
    fn check_numbers(&self) -> Result<()> {
        let peer = self.connection.peer()?;
        let theirs = nix::sys::stat::stat(format!("/proc/{peer}/ns/pid").as_str());
        if peer > 0 && theirs.map_or(true, |s| s.st_ino == crate::identity::pid_namespace()) {
            return Ok(());
        }
        let what = "systemd runs in another PID namespace, where the numbers of this one mean other processes";
        Err(Error::new(Kind::Unsupported, what).at("linux.cgroupsPath"))
    }

    fn watch_jobs(&mut self) -> Result<()> {
        self.connection.subscribe(MANAGER, "JobRemoved")?;
        if !self.connection.direct {
            self.connection.call(OBJECT, MANAGER, "Subscribe", &[])?;
        }
        self.watching = true;
        Ok(())
    }

    /// Waits for the end of a job. A manager that executes itself anew in between (daemon-reexec) closes the
    /// connection and keeps the job: then its effect is waited for.
    fn finish(&mut self, job: &str, unit: &str, verb: &str, deadline: Instant) -> Result<()> {
        let removed = self.connection.signal("JobRemoved", deadline, |body| match body {
            [_, path, _, result, ..] if path.as_str() == Some(job) => {
                result.as_str().map(str::to_string)
            }
            _ => None,
        });
        match removed {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => {
                let what = format!(
                    "systemd could not {verb} the unit {unit}: its job ended with {result:?}"
                );
                Err(Error::new(Kind::System, what))
            }
            Err(e) if e.errno.is_some() => {
                self.reconnect(deadline).and_then(|()| self.effect(unit, verb, deadline))
            }
            Err(e) => {
                Err(e.during(&format!("waiting until systemd has done the {verb} of {unit}")))
            }
        }
    }

    fn effect(&mut self, unit: &str, verb: &str, deadline: Instant) -> Result<()> {
        let wanted: &[&str] =
            if verb == "start" { &["active"] } else { &["inactive", "failed", ""] };
        let mut last = String::new();
        while Instant::now() < deadline {
            last = match self.unit_property(unit, "ActiveState") {
                Ok(state) => state,
                Err(f) if f.name.ends_with(".NoSuchUnit") || f.name.ends_with(".UnknownObject") => {
                    String::new()
                }
                Err(f) => return Err(f.error),
            };
            if wanted.contains(&last.as_str()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Error::new(
            Kind::System,
            format!("systemd was restarted during the {verb} of {unit}, and left it {last:?}"),
        ))
    }

    /// Stops the unit and makes systemd forget it. A unit that is not there, or is not the one that this container
    /// made, is left alone.
    pub fn stop(&mut self, record: &UnitRecord) -> Result<()> {
        let gone =
            |f: &Failure| f.name.ends_with(".NoSuchUnit") || f.name.ends_with(".UnknownObject");
        match self.unit_property(&record.name, "Description") {
            Ok(text) if text == record.description => {}
            Ok(_) => return Ok(()),
            Err(f) if gone(&f) => return Ok(()),
            Err(f) => return Err(f.error),
        }
        self.watch_jobs()?;
        let deadline = Instant::now() + PATIENCE;
        let stopped = loop {
            let arguments = [Value::str(record.name.as_str()), Value::str("replace")];
            let job = match self.manager("StopUnit", &arguments) {
                Ok(reply) => reply.first().and_then(Value::as_str).unwrap_or_default().to_string(),
                Err(f) if gone(&f) => return Ok(()),
                Err(f) => break Err(f.error),
            };
            match self.finish(&job, &record.name, "stop", deadline) {
                // Somebody has frozen it again; that is not the end of it.
                Err(e) if e.what.ends_with("\"frozen\"") && Instant::now() < deadline => {
                    if let Err(why) = self.thaw(&record.name) {
                        break Err(e.during(&why.to_string()));
                    }
                }
                other => break other,
            }
        };
        let _ = self.manager("ResetFailedUnit", &[Value::str(record.name.as_str())]);
        stopped
    }

    /// Thaws a unit that `systemctl freeze` has frozen (systemd 246); nothing to do for another one.
    pub fn thaw(&mut self, unit: &str) -> Result<()> {
        match self.unit_property(unit, "FreezerState") {
            Ok(state) if !matches!(state.as_str(), "" | "running" | "thawing") => {}
            _ => return Ok(()),
        }
        self.manager("ThawUnit", &[Value::str(unit)]).map(drop).map_err(Error::from)
    }

    /// The values in force of these properties, for [`Manager::set`]: what an update that fails goes back to. One that this
    /// systemd does not have is left out.
    pub fn get(&mut self, unit: &str, names: &[&'static str]) -> Vec<(&'static str, Value)> {
        let interface =
            format!("{SERVICE}.{}", if unit.ends_with(".slice") { "Slice" } else { "Scope" });
        let path = object_path(unit);
        let mut value = |name: &&'static str| {
            let arguments = [Value::str(interface.as_str()), Value::str(*name)];
            let out = self.again(&path, PROPERTIES, "Get", &arguments).ok()?;
            match out.into_iter().next()? {
                Value::Variant(v) => Some((*name, *v)),
                other => Some((*name, other)),
            }
        };
        names.iter().filter_map(&mut value).collect()
    }

    /// Tells systemd the new values. They last as long as the unit (`runtime`).
    pub fn set(&mut self, unit: &str, properties: Vec<(&'static str, Value)>) -> Result<()> {
        let mut properties: Vec<_> = own(properties).collect();
        while !properties.is_empty() {
            let arguments = [Value::str(unit), Value::Bool(true), wrap(&properties)];
            match self.manager("SetUnitProperties", &arguments) {
                Ok(_) => return Ok(()),
                Err(f) if without(&mut properties, &f) => {}
                Err(f) => return Err(f.error),
            }
        }
        Ok(())
    }

    /// Moves a process that its user may not move himself: the manager has the rights (systemd 238).
    pub fn attach(&mut self, unit: &str, pid: i32) -> Result<()> {
        self.check_numbers()?;
        let pids = Value::Array("u".into(), vec![Value::U32(pid as u32)]);
        self.manager("AttachProcessesToUnit", &[Value::str(unit), Value::str("/"), pids])?;
        Ok(())
    }
}

/// The manager, or the bus, went away before it answered.
fn lost(f: &Failure) -> bool {
    const NAMES: [&str; 4] = ["NoReply", "Disconnected", "ServiceUnknown", "NameHasNoOwner"];
    let connection = f.name.is_empty() && f.error.errno.is_some();
    connection || NAMES.iter().any(|n| f.name == format!("org.freedesktop.DBus.Error.{n}"))
}

fn addresses(user: bool) -> Vec<(PathBuf, bool)> {
    if !user {
        return vec![
            ("/run/systemd/private".into(), true),
            ("/run/dbus/system_bus_socket".into(), false),
        ];
    }
    let mut out = Vec::new();
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| format!("/run/user/{}", crate::facts::outer_uid()).into());
    out.push((dir.join("systemd/private"), true));
    let given = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    out.extend(
        given
            .split([';', ','])
            .filter_map(|a| a.strip_prefix("unix:path="))
            .map(|p| (p.into(), false)),
    );
    out.push((dir.join("bus"), false));
    out
}

/// org.freedesktop.systemd1(5): every byte but letters and digits is written as `_xx`.
fn object_path(unit: &str) -> String {
    let mut out = format!("{OBJECT}/unit/");
    for (i, b) in unit.bytes().enumerate() {
        if b.is_ascii_alphabetic() || (b.is_ascii_digit() && i > 0) {
            out.push(b as char);
        } else {
            out += &format!("_{b:02x}");
        }
    }
    out
}

fn own(list: Vec<(&'static str, Value)>) -> impl Iterator<Item = (String, Value)> {
    list.into_iter().map(|(name, value)| (name.to_string(), value))
}

fn wrap(properties: &[(String, Value)]) -> Value {
    let entry = |(name, value): &(String, Value)| {
        Value::Struct(vec![Value::str(name.as_str()), Value::Variant(Box::new(value.clone()))])
    };
    Value::Array("(sv)".into(), properties.iter().map(entry).collect())
}

/// What every unit of ours has. `Delegate`: systemd keeps out of what is below. Accounting: the controllers are there.
fn base(unit: &Unit, description: &str, pid: i32, v2: bool) -> Vec<(String, Value)> {
    let mut out = vec![
        ("Description".to_string(), Value::str(description)),
        ("DefaultDependencies".into(), Value::Bool(false)),
        ("MemoryAccounting".into(), Value::Bool(true)),
        ("CPUAccounting".into(), Value::Bool(true)),
        ("TasksAccounting".into(), Value::Bool(true)),
        (if v2 { "IOAccounting" } else { "BlockIOAccounting" }.into(), Value::Bool(true)),
    ];
    if unit.is_slice() {
        // A slice holds no process of its own start; its place follows from its name.
        out.push(("Wants".into(), Value::strings([unit.slice.as_str()])));
    } else {
        out.push(("Slice".into(), Value::str(unit.slice.as_str())));
        out.push(("Delegate".into(), Value::Bool(true)));
        out.push(("PIDs".into(), Value::Array("u".into(), vec![Value::U32(pid as u32)])));
    }
    out
}

/// Drops the property that this systemd does not know, if no limit is lost by it: the file of the cgroup is written
/// all the same.
fn without(properties: &mut Vec<(String, Value)>, f: &Failure) -> bool {
    const NEWER: [&str; 11] = [
        "OOMPolicy",
        "AllowedCPUs",
        "AllowedMemoryNodes",
        "CPUQuotaPeriodUSec",
        "IOAccounting",
        "BlockIOAccounting",
        "BlockIOWeight",
        "CPUShares",
        "MemoryLimit",
        "MemoryZSwapMax",
        "MemoryZSwapWriteback",
    ];
    let unknown = |name: &str| {
        f.error.what.contains(&format!("property {name},"))
            && f.error.what.contains("unknown property")
    };
    let before = properties.len();
    properties.retain(|(name, _)| !(NEWER.contains(&name.as_str()) && unknown(name)));
    properties.len() < before
}

/// Names the annotation if it is one of its properties that systemd does not take.
fn blame(unit: &Unit, f: Failure) -> Error {
    let culprit = unit.extra.iter().find(|(_, name, _)| f.error.what.contains(name.as_str()));
    f.error.at(culprit.map_or("linux.cgroupsPath", |(field, _, _)| field))
}

/// The name of a major number in /proc/devices (proc_devices(5)).
fn device_group(text: &str, kind: u8, major: u32) -> Option<String> {
    let title = if kind == b'c' { "Character devices:" } else { "Block devices:" };
    let section = text.split("\n\n").find(|s| s.trim_start().starts_with(title))?;
    section.lines().find_map(|l| {
        let (number, name) = l.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then(|| name.to_string())
    })
}

/// Thaws the unit of a record, if it is there and frozen.
pub fn thaw(record: &UnitRecord) -> Result<()> {
    Manager::connect(record.user).and_then(|mut m| m.thaw(&record.name))
}

/// Stops the unit of a record; all that can be said if the manager cannot be reached is why.
pub fn stop(record: &UnitRecord) -> Result<()> {
    Manager::connect(record.user)
        .and_then(|mut m| m.stop(record))
        .during(&format!("stop {}", record.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_groups() {
        assert_eq!(object_path("a-1.scope"), "/org/freedesktop/systemd1/unit/a_2d1_2escope");
        let text = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        assert_eq!(device_group(text, b'c', 136).as_deref(), Some("pts"));
        assert_eq!(device_group(text, b'b', 8).as_deref(), Some("sd"));
        assert_eq!(device_group(text, b'b', 136), None);
    }
}
