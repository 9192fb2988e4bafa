//! Applying the planned writes in an order that the kernel accepts.

use super::files::{exists_at, open_to_write, read, read_at, write_at, write_value};
use super::group::{Dir, Group};
use crate::acts::hierarchy::Hierarchy;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::device_rules::Rules;
use crate::plan::resources::Write;
use nix::errno::Errno;
use std::os::fd::AsFd;
use std::path::Path;

/// Gives the v2 controllers to every level down to the container's parent.
pub(super) fn enable_controllers(path: &Path, h: &Hierarchy) -> Result<()> {
    let Some(below) = path.parent().and_then(|p| p.strip_prefix(&h.mount_point).ok()) else {
        return Ok(());
    };
    let mut level = h.mount_point.clone();
    let mut levels = vec![level.clone()];
    for name in below.components() {
        level.push(name);
        levels.push(level.clone());
    }
    for level in levels {
        let file = level.join("cgroup.subtree_control");
        let have = read(&file).unwrap_or_default();
        for controller in h.controllers.iter().filter(|c| !have.split_whitespace().any(|x| x == *c)) {
            // Best effort here: a controller that is needed and still missing shows when its file is written, with
            // the field that asked for it. A level with processes (EBUSY) or a threaded one refuses.
            let _ = std::fs::write(&file, format!("+{controller}"));
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes: those of its parent, which can be
/// new as well: another runtime has just made it and not yet come to this.
pub(super) fn inherit_cpuset(path: &Path, mount_point: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let at = path.join(file);
        if read(&at).is_ok_and(|t| !t.trim().is_empty()) {
            continue;
        }
        let Some(above) = path.parent().filter(|p| p.starts_with(mount_point)) else { continue };
        let mut parent = read(&above.join(file)).unwrap_or_default();
        if parent.trim().is_empty() {
            inherit_cpuset(above, mount_point)?;
            parent = read(&above.join(file)).unwrap_or_default();
        }
        std::fs::write(&at, parent.trim())
            .call(|| format!("write({}, {})", at.display(), parent.trim()))
            .map_err(|e| e.at("linux.cgroupsPath"))?;
    }
    Ok(())
}

impl Group {
    /// Applies the writes; the first failure names the field that asked for it.
    pub fn apply(&self, writes: &[Write]) -> Result<()> {
        for (i, write) in writes.iter().enumerate() {
            let Some(dir) = self.dir_of(write) else {
                let what = format!("no {} hierarchy", write.controller);
                return Err(Error::new(Kind::Unsupported, what).at(write.field.clone()));
            };
            match apply_one(dir, write) {
                Ok(()) => {}
                // Two files that limit each other (memory and memory+swap, quota and period) are accepted only in
                // one order, which depends on the values in force: try the partner first.
                Err(e) if matches!(e.errno, Some(Errno::EINVAL | Errno::EBUSY)) => {
                    let partner = writes[i + 1..].iter().find(|w| pair(&write.file, &w.file));
                    let retried = partner.map(|p| apply_one(dir, p).and_then(|()| apply_one(dir, write)));
                    retried.unwrap_or(Err(e))?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The device rules: by the v1 controller where it is mounted, else as an eBPF program on the v2 directory.
    pub fn devices(&self, rules: &Rules) -> Result<()> {
        let field = "linux.resources.devices";
        if let Some(dir) = self.dirs.iter().find(|d| !d.hierarchy.v2 && d.hierarchy.has("devices")) {
            return v1_devices(dir, rules).map_err(|e| e.at(field));
        }
        if rules.allow_all() {
            return Ok(());
        }
        let Some(dir) = self.unified() else {
            return Err(Error::unsupported(field, "this host has neither the v1 devices controller nor cgroup v2"));
        };
        attach(dir, rules).map_err(|e| e.at(field))
    }
}

/// One rule a write, in their order; each file is opened once.
fn v1_devices(dir: &Dir, rules: &Rules) -> Result<()> {
    let mut open = [None, None];
    // The plan has looked already.
    let lines = rules.v1_lines().map_err(|(_, what)| Error::new(Kind::Unsupported, what))?;
    for (allow, line) in lines {
        let (file, slot) = if allow { ("devices.allow", &mut open[0]) } else { ("devices.deny", &mut open[1]) };
        let written = match slot {
            Some(fd) => write_value(fd, &line),
            None => open_to_write(dir.as_fd(), file).and_then(|fd| write_value(slot.insert(fd), &line)),
        };
        written.call(|| format!("write({}/{file}, {line})", dir.path.display()))?;
    }
    Ok(())
}

/// Puts a new program in the place of an old one, without a moment with none.
fn attach(dir: &Dir, rules: &Rules) -> Result<()> {
    use conex_sys::bpf;
    let program = bpf::load_device_program(&rules.program()).call(|| "bpf(BPF_PROG_LOAD, CGROUP_DEVICE)")?;
    let old = bpf::attached(dir.as_fd()).call(|| format!("bpf(BPF_PROG_QUERY, {})", dir.path.display()))?;
    let replace = if let [one] = old.as_slice() { Some(one.as_fd()) } else { None };
    bpf::attach(dir.as_fd(), program.as_fd(), replace)
        .call(|| format!("bpf(BPF_PROG_ATTACH, {}, CGROUP_DEVICE)", dir.path.display()))?;
    for extra in old.iter().skip(usize::from(replace.is_some())) {
        let _ = bpf::detach(dir.as_fd(), extra.as_fd());
    }
    Ok(())
}

fn pair(a: &str, b: &str) -> bool {
    const PAIRS: [(&str, &str); 3] = [
        ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("cpu.cfs_period_us", "cpu.cfs_quota_us"),
        ("cpu.rt_period_us", "cpu.rt_runtime_us"),
    ];
    PAIRS.contains(&(a, b))
}

fn apply_one(dir: &Dir, write: &Write) -> Result<()> {
    let file = file_of(dir, write);
    let value = value_for(dir, file, write);
    let call = || format!("write({}/{file}, {value})", dir.path.display());
    match write_at(dir.as_fd(), file, &value) {
        Err(Errno::ENOENT) if write.optional => Ok(()),
        Err(Errno::ENOENT) => {
            let enabled = read_at(dir.as_fd(), "cgroup.controllers").unwrap_or_default();
            let delegated = !dir.hierarchy.v2
                || write.controller.is_empty()
                || enabled.split_whitespace().any(|c| c == write.controller);
            let what = if delegated {
                format!("this kernel has no {file} ({})", dir.path.display())
            } else {
                let above = dir.path.parent().unwrap_or(&dir.path).display();
                let name = write.controller;
                format!("the controller {name} is not delegated: it is not in {above}/cgroup.subtree_control")
            };
            Err(Error::new(Kind::Unsupported, what).at(write.field.clone()))
        }
        Err(Errno::EBUSY) if file == "memory.limit_in_bytes" => {
            let usage = read_at(dir.as_fd(), "memory.usage_in_bytes").unwrap_or_default();
            let what = format!("unable to set memory limit to {value} (current usage: {})", usage.trim());
            Err(Error { errno: Some(Errno::EBUSY), ..Error::new(Kind::System, what) }.at(write.field.clone()))
        }
        Err(e) => Err(refused(e, dir, file, &value, call()).at(write.field.clone())),
        Ok(()) => Ok(()),
    }
}

/// What the kernel means by the errno of a limit that it refuses.
fn refused(e: Errno, dir: &Dir, file: &str, value: &str, call: String) -> Error {
    let other = |file: &str| read_at(dir.as_fd(), file).unwrap_or_default().trim().to_string();
    let why = match (file, e) {
        ("cpuset.cpus" | "cpuset.mems", Errno::ERANGE | Errno::EINVAL) => {
            let (what, list) = match file {
                "cpuset.cpus" => ("CPUs", "/sys/devices/system/cpu/online"),
                _ => ("memory nodes", "/sys/devices/system/node/online"),
            };
            let here = read(Path::new(list)).unwrap_or_default();
            // The errno would be read as a riddle ("math result not representable").
            let what = format!(
                "{value:?} is no part of the {what} that can be had, of {} on this host: {call}: {e:?}",
                here.trim()
            );
            return Error::new(Kind::System, what);
        }
        ("memory.memsw.limit_in_bytes", Errno::EINVAL) => {
            let limit = other("memory.limit_in_bytes");
            format!("memory plus swap must not be below the limit of memory, {limit}")
        }
        ("memory.limit_in_bytes", Errno::EINVAL) => {
            let limit = other("memory.memsw.limit_in_bytes");
            format!("memory must not be above the limit of memory plus swap, {limit}")
        }
        _ => return Error::call(e, call),
    };
    Error::call(e, format!("{why}: {call}"))
}

/// `a|b`: the first one that exists.
fn file_of<'a>(dir: &Dir, write: &'a Write) -> &'a str {
    let mut names = write.file.split('|');
    names.clone().find(|f| exists_at(dir.as_fd(), f)).or(names.next()).unwrap_or(&write.file)
}

/// The file of a write and what would undo it, for [`write_at`] as it is; none if the file cannot be read, or takes other
/// words than it shows.
pub(super) fn previous(dir: &Dir, write: &Write) -> Option<(String, String)> {
    let file = file_of(dir, write);
    if file.starts_with("cgroup.") || file.ends_with(".pressure") {
        return None;
    }
    let text = read_at(dir.as_fd(), file).ok()?;
    // Files with an entry for each device or interface take one at a time, and show none that has no limit.
    let key = write.value.split_once(' ').map(|(key, _)| key).filter(|_| file != "cpu.max");
    let value = match key {
        // These two show more than they take.
        None if file == "memory.oom_control" => text.split_whitespace().nth(1)?.to_string(),
        None if text.starts_with("default ") => text.lines().next()?.to_string(),
        None => text.trim().to_string(),
        Some(key) => match text.lines().find(|l| l.split(' ').next() == Some(key)) {
            Some(line) => line.to_string(),
            None => match file {
                "io.max" => format!("{key} rbps=max wbps=max riops=max wiops=max"),
                "io.weight" | "io.bfq.weight" | "blkio.bfq.weight_device" => format!("{key} default"),
                "io.latency" => format!("{key} target=0"),
                _ => format!("{key} 0"),
            },
        },
    };
    Some((file.to_string(), value))
}

/// Values that depend on the file: weights by its scale, and the half of cpu.max that stays.
fn value_for(dir: &Dir, file: &str, write: &Write) -> String {
    let value = write.value.as_str();
    match file {
        // blockIO's weights, for whichever file there is; a `unified` one is written as it is.
        "io.weight" if write.file != file => {
            let (device, weight) = value.rsplit_once(' ').map_or(("", value), |(d, w)| (d, w));
            let weight = weight.parse::<u64>().map_or(100, crate::plan::weights::io_weight);
            format!("{device} {weight}").trim().to_string()
        }
        "cpu.max" if value.contains("keep") => {
            let now = read_at(dir.as_fd(), "cpu.max").unwrap_or_default();
            let mut now = now.split_whitespace();
            let (quota, period) = (now.next().unwrap_or("max"), now.next().unwrap_or("100000"));
            let (q, p) = value.split_once(' ').unwrap_or(("keep", "keep"));
            format!("{} {}", if q == "keep" { quota } else { q }, if p == "keep" { period } else { p })
        }
        _ => value.to_string(),
    }
}

impl Group {
    /// CPU quota (`None` for none) and period in force, in microseconds.
    pub fn bandwidth(&self) -> (Option<u64>, u64) {
        let Some(dir) = self.dir("cpu") else { return (None, 100_000) };
        let text = if dir.hierarchy.v2 {
            read_at(dir.as_fd(), "cpu.max").unwrap_or_default()
        } else {
            ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map(|f| read_at(dir.as_fd(), f).unwrap_or_default()).join(" ")
        };
        let mut words = text.split_whitespace().map(|w| w.parse().ok());
        (words.next().flatten(), words.next().flatten().unwrap_or(100_000))
    }

    /// The same writes with quota and period both, where one of them was to stay as it is.
    pub fn both_halves(&self, mut writes: Vec<Write>) -> Vec<Write> {
        let (quota, period) = self.bandwidth();
        let [quota_file, period_file] = ["cpu.cfs_quota_us", "cpu.cfs_period_us"];
        let given = |writes: &[Write], file: &str| writes.iter().find(|w| w.file == file).cloned();
        for w in writes.iter_mut().filter(|w| w.file == "cpu.max") {
            let quota = quota.map_or("max".to_string(), |q| q.to_string());
            w.value = w
                .value
                .split(' ')
                .zip([quota, period.to_string()])
                .map(|(v, now)| if v == "keep" { now } else { v.into() })
                .collect::<Vec<_>>()
                .join(" ");
        }
        match (given(&writes, quota_file), given(&writes, period_file)) {
            (Some(w), None) => writes.push(Write { file: period_file.into(), value: period.to_string(), ..w }),
            (None, Some(w)) => {
                let value = quota.map_or("-1".to_string(), |q| q.to_string());
                writes.push(Write { file: quota_file.into(), value, ..w });
            }
            _ => {}
        }
        writes
    }

    /// The directory that a write goes to.
    pub(super) fn dir_of(&self, w: &Write) -> Option<&Dir> {
        if w.controller.is_empty() {
            self.unified()
        } else {
            self.dir(w.controller)
        }
    }

    /// `checkBeforeUpdate` (config-linux.md): a limit below the usage would call the OOM killer.
    pub fn refuse_below_usage(&self, writes: &[Write]) -> Result<()> {
        let Some(dir) = self.dir("memory") else { return Ok(()) };
        let (limit, usage) = if dir.hierarchy.v2 {
            ("memory.max", "memory.current")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
        };
        let Some(w) = writes.iter().find(|w| w.file == limit) else {
            return Ok(());
        };
        let used = read_at(dir.as_fd(), usage).ok().and_then(|t| t.trim().parse::<i64>().ok()).unwrap_or(0);
        match w.value.parse::<i64>() {
            Ok(new) if new >= 0 && new < used => Err(Error::invalid(
                w.field.clone(),
                format!("rejecting memory limit {new}: usage is {used} (checkBeforeUpdate)"),
            )),
            _ => Ok(()),
        }
    }
}
