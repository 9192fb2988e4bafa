//! `conex pause` and `conex resume`.

use super::env::Env;
use crate::error::{Error, Kind, Result};
use crate::host::cgroup::Group;
use crate::state::Status;

pub fn pause(env: &mut Env) -> Result<i32> {
    let (state, status) = env.store()?.find(env.id())?.state()?;
    if !matches!(status, Status::Running | Status::Created) {
        return Err(Error::new(
            Kind::Status,
            format!("container not running: it is {}", status.name()),
        ));
    }
    Group::open_all(&state.cgroups)?.freeze(true)?;
    Ok(0)
}

pub fn resume(env: &mut Env) -> Result<i32> {
    let (state, status) = env.store()?.find(env.id())?.state()?;
    if status != Status::Paused && !crate::host::cgroup::is_frozen(&state.cgroups) {
        return Err(Error::new(
            Kind::Status,
            format!("container not paused: it is {}", status.name()),
        ));
    }
    // `systemctl freeze`: systemd's own view must not stay behind. What only we froze needs nobody else.
    let told = state.systemd_unit.as_ref().map_or(Ok(()), crate::host::cgroup::systemd::thaw);
    let group = Group::open(&state.cgroups);
    let group = if group.dirs.is_empty() { Group::open_all(&state.cgroups)? } else { group };
    group.freeze(false)?;
    match told {
        Err(e) if crate::host::cgroup::is_frozen(&state.cgroups) => return Err(e),
        Err(e) => env.log.warn(e.to_string()),
        Ok(()) => {}
    }
    Ok(0)
}
