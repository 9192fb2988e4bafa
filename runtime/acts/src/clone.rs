//! Making processes.

use crate::error::{Context, Named, Result};
use crate::plan::namespaces::CLONE_NEWTIME;
use conex_sys::clone::{clone3, Forked};
use conex_sys::proc;

/// A time namespace for the children of this process; the offsets must be written before the first one is in it.
pub fn new_time(ns: &crate::plan::namespaces::Namespaces) -> Result<()> {
    proc::unshare(CLONE_NEWTIME).call(|| "unshare(CLONE_NEWTIME)").at(|| "linux.namespaces")?;
    let Some(text) = &ns.time_offsets else { return Ok(()) };
    std::fs::write("/proc/self/timens_offsets", text)
        .call(|| format!("write(/proc/self/timens_offsets, {text:?})"))
        .at(|| "linux.timeOffsets")
}

/// clone3 with a cgroup, or without where a filter around the runtime denies it or the kernel may not (from inside a user
/// namespace): then the process is moved there later. `born` says which, to both processes.
pub fn clone_into(
    flags: u64,
    cgroup: Option<std::os::fd::BorrowedFd>,
    born: &mut bool,
) -> nix::Result<Forked> {
    use nix::errno::Errno;
    *born = cgroup.is_some();
    match clone3(flags, cgroup) {
        Err(
            Errno::ENOSYS
            | Errno::EINVAL
            | Errno::E2BIG
            | Errno::EOPNOTSUPP
            | Errno::EACCES
            // The directory cannot be seen from, or not be entered in, the cgroup namespace that was joined.
            | Errno::ENOENT
            | Errno::EBUSY,
        )
            if cgroup.is_some() =>
        {
            *born = false;
            clone3(flags, None)
        }
        other => other,
    }
}
