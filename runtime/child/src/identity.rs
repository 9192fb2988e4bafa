//! Users, groups and capabilities of the process.

use crate::error::{Context, Named, Result};
use crate::plan::process::{Capabilities, Process};
use caps::{CapSet, CapsHashSet};
use conex_sys::proc;
use nix::errno::Errno;

/// Root of the user namespace this process has just entered.
pub fn become_root(keep_groups: bool) -> Result<()> {
    proc::setresgid(0).call(|| "setresgid(0)").at(|| "linux.gidMappings")?;
    // Where a rootless runtime had to deny setgroups, the kernel refuses; no group can be kept out then.
    if !keep_groups {
        let _ = proc::setgroups(&[]);
    }
    proc::setresuid(0).call(|| "setresuid(0)").at(|| "linux.uidMappings")
}

/// Drops the bounding set and takes over the ids; the capabilities stay, until [`finish`].
///
/// The groups are always set, with an empty list too: a container must not keep those of its caller, unless it is asked for.
pub fn switch(p: &Process) -> Result<()> {
    let field = |name: &str| format!("{}.user.{name}", p.field);
    for cap in caps::all().difference(&p.capabilities.bounding) {
        // Without asking first whether it is there, which is a call for each: what is not there need not be dropped.
        if let Err(e) = caps::drop(None, CapSet::Bounding, *cap) {
            if proc::bounding_has(u32::from(cap.index())) == Ok(true) {
                return Err(caps_error("bounding", e, p));
            }
        }
    }
    // Those that are newer than the crate's list, which no document can name.
    drop_newer(proc::bounding_has, proc::bounding_drop)
        .call(|| "prctl(PR_CAPBSET_DROP)")
        .at(|| format!("{}.capabilities.bounding", p.field))?;
    proc::set_keepcaps(true).call(|| "prctl(PR_SET_KEEPCAPS, 1)")?;
    if p.can_setgroups && !p.keep_groups {
        match proc::setgroups(&p.groups) {
            // A user namespace that was joined can deny it (user_namespaces(7)); they were dropped before.
            Err(Errno::EPERM)
                if p.groups.is_empty() && nix::unistd::getgroups().is_ok_and(|g| g.is_empty()) => {}
            other => {
                other
                    .call(|| format!("setgroups({:?})", p.groups))
                    .at(|| field("additionalGids"))?;
            }
        }
    }
    proc::setresgid(p.gid).call(|| format!("setresgid({})", p.gid)).at(|| field("gid"))?;
    proc::setresuid(p.uid).call(|| format!("setresuid({})", p.uid)).at(|| field("uid"))?;
    let now = nix::unistd::getresuid().call(|| "getresuid")?;
    if [now.real, now.effective, now.saved].iter().any(|u| u.as_raw() != p.uid) {
        return Err(crate::Error::invalid(
            field("uid"),
            format!("the kernel reports uid {}", now.effective),
        ));
    }
    proc::set_keepcaps(false).call(|| "prctl(PR_SET_KEEPCAPS, 0)")?;
    // What the container's user may see and run is decided with its own effective set from here on.
    let visible: CapsHashSet = effective(&p.capabilities)?;
    caps::set(None, CapSet::Effective, &visible).map_err(|e| caps_error("effective", e, p))
}

/// From the first number that the crate does not know to the kernel's last one.
fn drop_newer(
    has: impl Fn(u32) -> nix::Result<bool>,
    mut drop: impl FnMut(u32) -> nix::Result<()>,
) -> nix::Result<()> {
    let known = caps::all().iter().map(|c| u32::from(c.index())).max().unwrap_or(0);
    for number in known + 1..64 {
        match has(number) {
            Err(Errno::EINVAL) => break,
            Ok(true) => drop(number)?,
            other => other.map(|_| ())?,
        }
    }
    Ok(())
}

fn effective(wanted: &Capabilities) -> Result<CapsHashSet> {
    let permitted = caps::read(None, CapSet::Permitted).unwrap_or_default();
    Ok(wanted.effective.intersection(&permitted).copied().collect())
}

/// Raises CAP_SYS_ADMIN once more, to load a seccomp filter without no_new_privs.
pub fn raise_admin(p: &Process) -> Result<()> {
    caps::raise(None, CapSet::Effective, caps::Capability::CAP_SYS_ADMIN)
        .map_err(|e| caps_error("effective", e, p))
}

/// The final sets. Inheritable first, while everything is still permitted; effective before permitted, of which it
/// must stay a subset.
pub fn finish(p: &Process) -> Result<()> {
    let c = &p.capabilities;
    let sets = [
        ("inheritable", CapSet::Inheritable, &c.inheritable),
        ("effective", CapSet::Effective, &c.effective),
        ("permitted", CapSet::Permitted, &c.permitted),
    ];
    // A set that is empty now (user namespace without that capability) keeps what the kernel allows.
    for (name, set, wanted) in sets {
        caps::set(None, set, wanted).map_err(|e| caps_error(name, e, p))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(|e| caps_error("ambient", e, p))?;
    for cap in &c.ambient {
        caps::raise(None, CapSet::Ambient, *cap).map_err(|e| caps_error("ambient", e, p))?;
    }
    Ok(())
}

fn caps_error(set: &str, e: caps::errors::CapsError, p: &Process) -> crate::Error {
    crate::Error::new(crate::error::Kind::System, e.to_string())
        .at(format!("{}.capabilities.{set}", p.field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_a_newer_kernel_are_dropped() {
        // A kernel with 43 capabilities, of which the last but one is not there.
        let has = |n: u32| if n > 43 { Err(Errno::EINVAL) } else { Ok(n != 42) };
        let mut dropped = Vec::new();
        drop_newer(has, |n| {
            dropped.push(n);
            Ok(())
        })
        .unwrap();
        assert_eq!(dropped, [41, 43]);
        assert_eq!(drop_newer(has, |_| Err(Errno::EPERM)), Err(Errno::EPERM));
        // This kernel's own.
        drop_newer(proc::bounding_has, |n| panic!("the crate lacks capability {n}")).unwrap();
    }
}
