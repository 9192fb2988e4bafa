//! `linux.resources` as settings with types, whatever the host has.
//!
//! Three renderers turn each into what a host takes: [`v1`] and [`v2`] into files and values, [`systemd`] into properties of a
//! unit. [`shown`] is the way back: what the files of a cgroup say. A new limit is one setting and one row of each renderer.

pub mod setting;
pub mod shown;
pub mod systemd;
pub mod unified;
mod v1;
mod v2;

use crate::hierarchy::Hierarchy;
pub use setting::{has_v2, Amount, Device, Rate, Setting, Weight};

/// A setting, and the field that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    pub field: String,
    pub setting: Setting,
    /// True if the host may lack it without anybody losing a limit.
    pub optional: bool,
}

/// One value for one file of a cgroup.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub field: String,
    /// The controller, which decides the hierarchy; empty for files that every v2 cgroup has.
    pub controller: &'static str,
    /// File and value; of several, the first whose file exists.
    pub choices: Vec<(String, String)>,
    pub optional: bool,
    /// The file whose value must change first if this one is refused: they bound each other.
    pub partner: Option<&'static str>,
}

/// The files of these hierarchies, in the order of the limits.
pub fn files(limits: &[Limit], hierarchies: &[Hierarchy]) -> Vec<Assignment> {
    let mut out = Vec::with_capacity(limits.len());
    for limit in limits {
        let rows = if limit.setting.is_v2(hierarchies) {
            v2::rows(&limit.setting)
        } else {
            v1::rows(&limit.setting)
        };
        for row in rows {
            out.push(Assignment {
                field: row
                    .field
                    .map_or_else(|| limit.field.clone(), |f| format!("linux.resources.{f}")),
                controller: limit.setting.controller_of(hierarchies),
                choices: row.choices,
                optional: limit.optional,
                partner: row.partner,
            });
        }
    }
    out
}

/// Quota and period both, where one of them was to stay as it is; `None` is no quota.
pub fn both_halves(limits: &mut [Limit], (quota_now, period_now): (Option<u64>, u64)) {
    for limit in limits {
        if let Setting::CpuBandwidth { quota, period } = &mut limit.setting {
            quota.get_or_insert(quota_now.map_or(Amount::Max, Amount::Is));
            period.get_or_insert(period_now);
        }
    }
}
