//! Applying the planned writes in an order that the kernel accepts.

use super::files::{exists_at, open_to_write, read, read_at, write_at, write_value};
use super::group::{Dir, Group};
use crate::acts::hierarchy::Hierarchy;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::device_rules::Rules;
use crate::plan::limits::{self, shown, Assignment, Limit, Setting};
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
        for controller in h.controllers.iter().filter(|c| !have.split_whitespace().any(|x| x == *c))
        {
            // Best effort here: a controller that is needed and still missing shows when its file is written, with
            // the field that asked for it. A level with processes (EBUSY) or a threaded one refuses.
            let _ = std::fs::write(&file, format!("+{controller}"));
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes: those of its parent, which can be
/// new as well: another runtime has just made it and not yet come to this. `own` has just been made by this process.
pub(super) fn inherit_cpuset(path: &Path, mount_point: &Path, own: bool) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let at = path.join(file);
        if !own && read(&at).is_ok_and(|t| !t.trim().is_empty()) {
            continue;
        }
        let Some(above) = path.parent().filter(|p| p.starts_with(mount_point)) else { continue };
        let mut parent = read(&above.join(file)).unwrap_or_default();
        if parent.trim().is_empty() {
            inherit_cpuset(above, mount_point, false)?;
            parent = read(&above.join(file)).unwrap_or_default();
        }
        std::fs::write(&at, parent.trim())
            .call(|| format!("write({}, {})", at.display(), parent.trim()))
            .map_err(|e| e.at("linux.cgroupsPath"))?;
    }
    Ok(())
}

impl Group {
    /// The files and values of limits, as this cgroup has them.
    pub fn files(&self, limits: &[Limit]) -> Vec<Assignment> {
        let hierarchies: Vec<Hierarchy> = self.dirs.iter().map(|d| d.hierarchy.clone()).collect();
        let half = |l: &Limit| matches!(l.setting, Setting::CpuBandwidth { quota, period } if quota.is_none() || period.is_none());
        // A file of v2 takes both halves of a bandwidth.
        if limits.iter().any(half) && limits::has_v2(&hierarchies, "cpu") {
            let mut whole = limits.to_vec();
            limits::both_halves(&mut whole, self.bandwidth());
            return limits::files(&whole, &hierarchies);
        }
        limits::files(limits, &hierarchies)
    }

    /// Applies them; the first failure names the field that asked for it.
    pub fn apply(&self, files: &[Assignment]) -> Result<()> {
        for (i, a) in files.iter().enumerate() {
            let Some(dir) = self.dir_of(a) else {
                let what = format!("no {} hierarchy", a.controller);
                return Err(Error::new(Kind::Unsupported, what).at(a.field.clone()));
            };
            match apply_one(dir, a) {
                Ok(()) => {}
                // Two files that limit each other (memory and memory+swap, quota and period) are accepted only in
                // one order, which depends on the values in force: try the partner first.
                Err(e) if matches!(e.errno, Some(Errno::EINVAL | Errno::EBUSY)) => {
                    let is_partner =
                        |f: &&Assignment| f.choices.iter().any(|(file, _)| a.partner == Some(file));
                    let partner = files[i + 1..].iter().find(is_partner);
                    let retried =
                        partner.map(|p| apply_one(dir, p).and_then(|()| apply_one(dir, a)));
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
        if let Some(dir) = self.dirs.iter().find(|d| !d.hierarchy.v2 && d.hierarchy.has("devices"))
        {
            return v1_devices(dir, rules).map_err(|e| e.at(field));
        }
        if rules.allow_all() {
            return Ok(());
        }
        let Some(dir) = self.unified() else {
            return Err(Error::unsupported(
                field,
                "this host has neither the v1 devices controller nor cgroup v2",
            ));
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
        let (file, slot) =
            if allow { ("devices.allow", &mut open[0]) } else { ("devices.deny", &mut open[1]) };
        let written = match slot {
            Some(fd) => write_value(fd, &line),
            None => {
                open_to_write(dir.as_fd(), file).and_then(|fd| write_value(slot.insert(fd), &line))
            }
        };
        written.call(|| format!("write({}/{file}, {line})", dir.path.display()))?;
    }
    Ok(())
}

/// Puts a new program in the place of an old one, without a moment with none.
fn attach(dir: &Dir, rules: &Rules) -> Result<()> {
    use conex_sys::bpf;
    let program =
        bpf::load_device_program(&rules.program()).call(|| "bpf(BPF_PROG_LOAD, CGROUP_DEVICE)")?;
    let old = bpf::attached(dir.as_fd())
        .call(|| format!("bpf(BPF_PROG_QUERY, {})", dir.path.display()))?;
    let replace = if let [one] = old.as_slice() { Some(one.as_fd()) } else { None };
    bpf::attach(dir.as_fd(), program.as_fd(), replace)
        .call(|| format!("bpf(BPF_PROG_ATTACH, {}, CGROUP_DEVICE)", dir.path.display()))?;
    for extra in old.iter().skip(usize::from(replace.is_some())) {
        let _ = bpf::detach(dir.as_fd(), extra.as_fd());
    }
    Ok(())
}

/// The text of a file, empty if there is none.
fn text(dir: &Dir, file: &str) -> String {
    read_at(dir.as_fd(), file).unwrap_or_default()
}

fn apply_one(dir: &Dir, a: &Assignment) -> Result<()> {
    let Some((file, value)) = chosen(dir, a) else { return Ok(()) };
    let call = || format!("write({}/{file}, {value})", dir.path.display());
    match write_at(dir.as_fd(), file, value) {
        Err(Errno::ENOENT) if a.optional => Ok(()),
        Err(Errno::ENOENT) => {
            let enabled = text(dir, "cgroup.controllers");
            let delegated = !dir.hierarchy.v2
                || a.controller.is_empty()
                || enabled.split_whitespace().any(|c| c == a.controller);
            let what = if delegated {
                format!("this kernel has no {file} ({})", dir.path.display())
            } else {
                let above = dir.path.parent().unwrap_or(&dir.path).display();
                let name = a.controller;
                format!("the controller {name} is not delegated: it is not in {above}/cgroup.subtree_control")
            };
            Err(Error::new(Kind::Unsupported, what).at(a.field.clone()))
        }
        Err(e) => Err(refused(e, dir, file, value, call()).at(a.field.clone())),
        Ok(()) => Ok(()),
    }
}

/// What the kernel means by the errno of a limit that it refuses.
fn refused(e: Errno, dir: &Dir, file: &str, value: &str, call: String) -> Error {
    if shown::is_below_usage(file, e) {
        let usage = shown::memory_used(dir.hierarchy.v2, |file| text(dir, file));
        let what = format!("unable to set memory limit to {value} (current usage: {usage})");
        return Error { errno: Some(e), ..Error::new(Kind::System, what) };
    }
    if let Some((what, list)) = shown::chosen_from(file, e) {
        let here = read(Path::new(list)).unwrap_or_default();
        // The errno would be read as a riddle ("math result not representable").
        let what = format!(
            "{value:?} is no part of the {what} that can be had, of {} on this host: {call}: {e:?}",
            here.trim()
        );
        return Error::new(Kind::System, what);
    }
    match shown::refused(file, e, |file| text(dir, file)) {
        Some(why) => Error::call(e, format!("{why}: {call}")),
        None => Error::call(e, call),
    }
}

/// The first choice whose file exists, or the first.
fn chosen<'a>(dir: &Dir, a: &'a Assignment) -> Option<&'a (String, String)> {
    let exists =
        |(file, _): &&(String, String)| a.choices.len() == 1 || exists_at(dir.as_fd(), file);
    a.choices.iter().find(exists).or(a.choices.first())
}

/// The file of an assignment and what would undo it, for [`write_at`] as it is; none if that cannot be known.
pub(super) fn previous(dir: &Dir, a: &Assignment) -> Option<(String, String)> {
    let (file, value) = chosen(dir, a)?;
    if !shown::can_be_put_back(file) {
        return None;
    }
    let now = read_at(dir.as_fd(), file).ok()?;
    shown::previous(file, value, &now).map(|before| (file.clone(), before))
}

impl Group {
    /// CPU quota (`None` for none) and period in force, in microseconds.
    pub fn bandwidth(&self) -> (Option<u64>, u64) {
        let Some(dir) = self.dir("cpu") else { return (None, 100_000) };
        shown::bandwidth(dir.hierarchy.v2, |file| text(dir, file))
    }

    /// The directory that an assignment goes to.
    pub(super) fn dir_of(&self, a: &Assignment) -> Option<&Dir> {
        if a.controller.is_empty() {
            self.unified()
        } else {
            self.dir(a.controller)
        }
    }

    /// `checkBeforeUpdate` (config-linux.md): a limit below the usage would call the OOM killer.
    pub fn refuse_below_usage(&self, limits: &[Limit]) -> Result<()> {
        let Some(dir) = self.dir("memory") else { return Ok(()) };
        let max = |s: &Setting| {
            if let Setting::MemoryMax(limits::Amount::Is(n)) = s {
                Some(*n)
            } else {
                None
            }
        };
        let used = shown::memory_used(dir.hierarchy.v2, |file| text(dir, file));
        let below = limits.iter().find_map(|l| {
            let given = match &l.setting {
                Setting::File { means, .. } => means.iter().find_map(max),
                s => max(s),
            };
            given.filter(|new| *new < used).map(|new| (l, new))
        });
        below.map_or(Ok(()), |(limit, new)| {
            let what = format!("rejecting memory limit {new}: usage is {used} (checkBeforeUpdate)");
            Err(Error::invalid(limit.field.clone(), what))
        })
    }
}
