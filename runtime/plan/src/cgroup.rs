//! Which cgroup, and what to write there.

use super::device_rules::Rules;
use super::limits::Limit;
use super::resources::limits;
use super::unit::Unit;
use super::Options;
use crate::check::Check;
use crate::facts::Facts;
use crate::hierarchy::Hierarchy;
use crate::oci::config::Linux;
use crate::text::clean;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The container's cgroup: one path below every hierarchy of the host.
#[derive(Debug, Clone, Default)]
pub struct Cgroup {
    /// Relative to the root of each hierarchy, cleaned; never empty. Where `relative` is true, relative to the
    /// runtime's own cgroup in that hierarchy instead.
    pub path: PathBuf,
    pub relative: bool,
    /// The host's, in its order.
    pub hierarchies: Vec<Hierarchy>,
    pub limits: Vec<Limit>,
    pub devices: Option<Rules>,
    /// With the systemd driver: the unit, whose path is relative to the manager's cgroup.
    pub unit: Option<Unit>,
    /// True if an unprivileged runtime may not go on without a cgroup.
    pub required: bool,
    /// The host's uid that the container's own cgroup is given to, so that its user can manage what is below
    /// (config-linux.md, "Cgroup ownership").
    pub owner: Option<u32>,
}

/// Who makes the cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Driver {
    #[default]
    Cgroupfs,
    Systemd,
    /// Nobody: the container stays in the runtime's own.
    Disabled,
}

/// # Errors
/// A limit, where there is no cgroup to hold it.
fn none(linux: &Linux, facts: &Facts, check: &mut Check) -> Cgroup {
    let resources = linux.resources.clone().unwrap_or_default();
    for limit in limits(&resources, &facts.cgroup, check) {
        check.unsupported(limit.field, "not applied: --cgroup-manager disabled");
    }
    if !resources.devices.is_empty() {
        check.warn("linux.resources.devices", "not enforced: --cgroup-manager disabled");
    }
    Cgroup::default()
}

pub fn make(
    linux: &Linux,
    annotations: &BTreeMap<String, String>,
    options: &Options,
    facts: &Facts,
    check: &mut Check,
) -> Option<Cgroup> {
    if options.cgroup_driver == Driver::Disabled {
        return Some(none(linux, facts, check));
    }
    let given = linux.cgroups_path.as_deref().unwrap_or("");
    let (path, relative, unit) = if options.cgroup_driver == Driver::Systemd {
        if !facts.systemd {
            check.unsupported(
                "linux.cgroupsPath",
                "systemd not running on this host, cannot use systemd cgroups manager (--systemd-cgroup)",
            );
            return None;
        }
        let unit = super::unit::make(given, &options.id, facts.of_a_user, annotations, check)?;
        (unit.path.clone(), false, Some(unit))
    } else {
        let (path, relative) = path(given, &options.id, check)?;
        (path, relative, None)
    };
    let resources = linux.resources.clone().unwrap_or_default();
    let limits = limits(&resources, &facts.cgroup, check);
    let rules = super::device_rules::rules(&resources.devices, check);
    if !facts.rootless && facts.cgroup.hierarchies.iter().any(|h| !h.v2 && h.has("devices")) {
        if let Err((i, what)) = rules.v1_lines() {
            check.unsupported(format!("linux.resources.devices[{i}]"), what);
        }
    }
    Some(Cgroup {
        path,
        relative,
        hierarchies: facts.cgroup.hierarchies.clone(),
        limits,
        devices: Some(rules),
        unit,
        required: options.cgroup_required,
        owner: None,
    })
}

/// The path of the cgroupfs driver, and whether it is relative. `..` ends at the root of the hierarchy, as runc has it, for
/// `docker run --cgroup-parent ../../x`; the root itself is nobody's.
fn path(given: &str, id: &str, check: &mut Check) -> Option<(PathBuf, bool)> {
    let field = "linux.cgroupsPath";
    if given.chars().any(char::is_control) {
        check.bad(field, format!("{given:?} is not a path"));
        return None;
    }
    let (path, relative) = match given {
        "" => (PathBuf::from(id), true),
        p => (clean(&crate::text::path(p)), !p.starts_with('/')),
    };
    if path.as_os_str().is_empty() {
        check.bad(field, format!("{given:?} is the root cgroup, which no container may use"));
        return None;
    }
    Some((path, relative))
}
