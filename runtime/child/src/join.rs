//! A process that joins a running container: from the clone by the host to [`super::process::exec`].

use super::{identity, process, Report};
use crate::acts::identity::{alive, Identity};
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::namespaces::KINDS;
use crate::plan::process::Process;
use crate::sync::{Channel, Message};
use conex_sys::clone::{clone3, exit_now, Forked};
use conex_sys::seccomp::SockFilter;
use conex_sys::{proc, sched};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What the host hands over.
pub struct Joining<'a> {
    pub process: &'a Process,
    /// The container's init.
    pub init: Identity,
    pub pidfd: BorrowedFd<'a>,
    /// `CLONE_NEW*` of its namespaces that are not ours.
    pub flags: i32,
    pub sync: Channel,
    pub program: Option<Vec<SockFilter>>,
}

/// The first hop: enters every namespace of the container in one call, not yet visible inside, and clones the
/// process from there. When the clone appears in the container's PID namespace, it has the container's root and
/// nothing of the host any more (CVE-2016-9962).
pub fn main(joining: Joining) -> ! {
    let Joining { process, init, pidfd, flags, sync, program } = joining;
    let mut report = Report::new(sync);
    let result =
        enter(process, init, pidfd, flags).and_then(|()| hop(process, &mut report, program));
    let Err(e) = result;
    report.fail(e);
    exit_now(1)
}

/// Into the namespaces, as their root.
fn enter(process: &Process, init: Identity, pidfd: BorrowedFd, flags: i32) -> Result<()> {
    nix::sys::stat::umask(Mode::empty());
    if let (Some(mask), _) = &process.affinity {
        affinity(mask, process, "initial")?;
    }
    // Non-dumpable across the join: setns into a user namespace and the clone keep it.
    proc::set_dumpable(false).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    let _ = nix::unistd::setsid();
    if flags & libc::CLONE_NEWNS == 0 {
        // The container shares our mount namespace: its root is only a chroot, which setns does not bring.
        let path = format!("/proc/{}/root", init.pid);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path.as_str(), flags, Mode::empty())
            .call(|| format!("open({path})"))?;
        if !alive(init) {
            return Err(Error::new(Kind::Status, "cannot exec in a stopped container"));
        }
        nix::unistd::fchdir(&root).call(|| "fchdir(root of the container)")?;
        nix::unistd::chroot(".").call(|| "chroot(root of the container)")?;
    }
    if flags & libc::CLONE_NEWUSER != 0 && !process.keep_groups {
        // Inside, it may be denied.
        let _ = proc::setgroups(&[]);
    }
    if flags != 0 {
        let joined = match proc::setns(pidfd, flags) {
            // A kernel without one of the kinds.
            Err(Errno::EINVAL) => proc::setns(pidfd, flags & known()),
            other => other,
        };
        joined.call(|| format!("setns(init, {flags:#x})"))?;
    }
    if flags & libc::CLONE_NEWUSER != 0 {
        identity::become_root(process.keep_groups)?;
    }
    // setns with the mount namespace has made its root ours.
    nix::unistd::chdir("/").call(|| "chdir(/)")
}

/// The kinds of namespaces that this kernel has.
fn known() -> i32 {
    let has = |file: &str| std::path::Path::new("/proc/self/ns").join(file).exists();
    KINDS.iter().filter(|k| has(k.1)).fold(0, |flags, k| flags | k.2)
}

/// The second process, which appears inside.
fn hop(
    process: &Process,
    report: &mut Report,
    program: Option<Vec<SockFilter>>,
) -> Result<Infallible> {
    // Nothing of the host's may be open in the process that becomes visible inside, not even its own cgroup's
    // directory: the host sends it the files that it enters by, when it is one whom nobody may look into. The log of
    // --debug is the exception, which nobody but who has CAP_SYS_PTRACE over this process could reach.
    let mut keep = process.preserved.clone();
    keep.push(report.sync()?.as_fd().as_raw_fd());
    keep.extend(crate::log::inside());
    conex_sys::fd::close_all_but(&keep);
    match clone3(libc::CLONE_PARENT as u64, None).call(|| "clone3(CLONE_PARENT)")? {
        Forked::Parent { pidfd, .. } => {
            report.sync()?.send(&Message::Hopped(pidfd))?;
            exit_now(0);
        }
        Forked::Child => {
            report.wait_for_cgroups()?;
            let _ = nix::unistd::setsid();
            if let (_, Some(mask)) = &process.affinity {
                affinity(mask, process, "final")?;
            }
            process::exec(process, report, program)
        }
    }
}

fn affinity(mask: &[u64], process: &Process, name: &str) -> Result<()> {
    sched::sched_setaffinity(mask)
        .call(|| format!("sched_setaffinity({mask:x?})"))
        .at(|| format!("{}.execCPUAffinity.{name}", process.field))
}
