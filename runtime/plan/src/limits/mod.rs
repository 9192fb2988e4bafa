//! `linux.resources` as settings with types, whatever the host has.
//!
//! Three renderers turn each into what a host takes: [`files`] into files and values, of v1 and of v2, [`systemd`] into
//! properties of a unit. [`shown`] is the way back: what the files of a cgroup say. A new limit is one setting and one row of each renderer.

mod files;
pub mod setting;
pub mod shown;
pub mod systemd;
pub mod unified;

pub use files::{files, Assignment};
pub use setting::{has_v2, Amount, Device, Limit, Rate, Setting, Weight};

/// Quota and period both, where one of them was to stay as it is; `None` is no quota.
pub fn both_halves(limits: &mut [Limit], (quota_now, period_now): (Option<u64>, u64)) {
    for limit in limits {
        if let Setting::CpuBandwidth { quota, period } = &mut limit.setting {
            quota.get_or_insert(quota_now.map_or(Amount::Max, Amount::Is));
            period.get_or_insert(period_now);
        }
    }
}
