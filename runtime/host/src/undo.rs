//! Taking back what a container left on the host, from its record alone.

use super::cgroup::{self, Group};
use crate::error::{Error, Kind};
use crate::identity::{alive, pidfd};
use crate::state::State;
use conex_sys::proc;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Kills what runs and removes cgroups and the resctrl group. Goes on after a failure; returns all of them.
///
/// Works the same for a container that was never finished: only what the record names and what was made for it is
/// touched, and init only if it is still that very process.
pub fn container(state: &State, init: Option<BorrowedFd>) -> Vec<Error> {
    let mut problems = Vec::new();
    // One for all that is waited for, as runc's: who calls may have a deadline of its own.
    let deadline = Instant::now() + Duration::from_secs(10);
    let own = match state.init.map(pidfd) {
        // What is in its cgroups is killed all the same.
        Some(Err(e)) => {
            problems.push(e);
            None
        }
        Some(Ok(fd)) => fd,
        None => None,
    };
    if let Some(fd) = init.or(own.as_ref().map(|f| f.as_fd())) {
        let _ = proc::pidfd_send_signal(fd, libc::SIGKILL);
    }
    // Mostly init was the last process, and the directories just go.
    let ended = state.init.is_none_or(|id| !alive(id));
    // But a unit's are systemd's until it has let go of the unit.
    let removed =
        ended && state.systemd_unit.is_none() && cgroup::remove_at_once(&state.made_cgroups);
    if let Some(unit) = state.systemd_unit.as_ref().filter(|_| cgroup::is_frozen(&state.cgroups)) {
        // What systemd has frozen cannot be killed on v1, and its unit cannot be stopped.
        let _ = cgroup::systemd::thaw(unit);
    }
    if !removed {
        kill_leftovers(state, deadline);
    }
    if let Some(unit) = &state.systemd_unit {
        problems.extend(cgroup::systemd::stop(unit).err());
    }
    let mut patience = Duration::from_secs(2);
    if let Some(id) = state.init.filter(|_| !ended) {
        while alive(id) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if alive(id) {
            let what = format!("container init {} still running 10 seconds after SIGKILL", id.pid);
            problems.push(Error::new(Kind::System, what));
        }
    }
    // Whatever keeps them busy has had its time.
    patience = patience.min(deadline.saturating_duration_since(Instant::now()));
    if let Some(before) = state.rootfs_mounts {
        problems.extend(unmount(&state.rootfs, before).err());
    }
    if !removed {
        problems.extend(cgroup::remove(&state.made_cgroups, patience).err());
    }
    if let Some(dir) = &state.rdt {
        if let Err(e) = std::fs::remove_dir(dir) {
            if e.kind() != std::io::ErrorKind::NotFound {
                problems.push(Error::new(Kind::System, format!("rmdir({}): {e}", dir.display())));
            }
        }
    }
    problems
}

/// After a create that failed: gives a cgroup that was there before its limits back. Not if somebody is in it by now: the
/// limits are theirs then. Apart from [`container`], because what cannot be put back is no reason to keep the record.
pub fn limits(state: &State) -> Vec<Error> {
    let dirs: Vec<_> = state.cgroups_before.iter().map(|b| b.dir.clone()).collect();
    if Group::open(&dirs).dirs.iter().any(|d| d.processes() > 0) {
        return Vec::new();
    }
    cgroup::snapshot::put_back(&state.cgroups_before)
}

/// Kills what is left in the cgroups that were made for this container. One that was there before is left alone:
/// what is in it now may be somebody else's.
fn kill_leftovers(state: &State, deadline: Instant) {
    let own: Vec<_> =
        state.cgroups.iter().filter(|p| state.made_cgroups.contains(p)).cloned().collect();
    let group = Group::open(&own);
    // A process in an uninterruptible sleep does not end however often it is killed.
    let mut pause = 2;
    while !group.pids().is_empty() && Instant::now() < deadline {
        group.kill_all(libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(pause));
        pause = (pause * 2).min(200);
    }
}

/// How many mounts are stacked on exactly this path (proc_pid_mountinfo(5)).
pub fn mounts_at(path: &Path) -> usize {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let text = crate::acts::read_text("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter(|l| {
            l.split(' ')
                .nth(4)
                .is_some_and(|p| Path::new(&crate::acts::hierarchy::unescape(p)) == path)
        })
        .count()
}

/// Takes back the mounts of a container without a mount namespace, all at once with the bind of its rootfs on itself;
/// what the engine had mounted there before stays.
fn unmount(rootfs: &Path, before: usize) -> crate::error::Result<()> {
    use crate::error::Context;
    while mounts_at(rootfs) > before {
        nix::mount::umount2(rootfs, nix::mount::MntFlags::MNT_DETACH)
            .call(|| format!("umount2({}, MNT_DETACH)", rootfs.display()))?;
    }
    Ok(())
}

/// One error for the user: the first cause, then what could not be undone.
pub fn with(mut e: Error, problems: Vec<Error>) -> Error {
    for p in problems {
        e.what = format!("{} (and while cleaning up: {p})", e.what);
    }
    e
}
