//! A further process in a running container.

use super::cgroup::Group;
use super::container::{
    explain, handshake, notified, oom_score, unexpected, welcome, Container, Tasks,
};
use crate::child::join;
use crate::error::{Context, Error, Kind, Result};
use crate::identity::adopted;
use crate::plan::namespaces::KINDS;
use crate::plan::process::Process;
use crate::seccomp::Filter;
use crate::state::State;
use crate::sync::{pair, Channel, Message};
use conex_sys::clone::Forked;
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::sys::stat::{stat, Mode};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

pub struct Exec<'a> {
    pub process: &'a Process,
    pub state: &'a State,
    /// A verified pidfd of the container's init.
    pub init: OwnedFd,
    pub root: &'a std::path::Path,
    /// `--ignore-paused`: it starts when the container is resumed.
    pub ignore_paused: bool,
    /// `--cgroup`: directories below the container's, by hierarchy; empty for the container's own.
    pub sub_cgroups: Vec<(Vec<String>, PathBuf)>,
    /// Nobody has anything to do between its `Ready` and its program.
    pub at_once: bool,
}

/// Starts the process, up to where its program could be executed; beside it what the child does ([`crate::child::join`]).
///
/// ```text
/// 1  the cgroup: the container's own, a part of it, or init's
/// 2  the clone, born in it ─────────────────▶ init's namespaces, as their root; closes everything; clones
/// 3  ◀──────────────── Hopped{pidfd} ────────  the first process ends
/// 4  who that is: a child of ours; cgroups     (appears inside)
/// 5  the conversation ◀─────────────────────▶ cgroups entered, terminal, listener (crate::sync)
/// 6  ◀──────────────── Ready ────────────────  user, labels, program found; waits
/// ```
pub fn spawn(exec: &Exec) -> Result<Container> {
    // Born in the v2 cgroup, nobody has to move it there (see [`Group::tasks`]). Its initial affinity, though, lasts until
    // it joins; and a cgroup that has reached its pids limit takes what is moved into it, but no fork: for a moment there
    // are two.
    let group = cgroup(exec)?;
    let born =
        exec.process.affinity.0.is_none() && super::facts::host_root() && group.has_room_for(2);
    match attempt(exec, &group, born) {
        Err(e) if born && e.errno == Some(nix::errno::Errno::EAGAIN) => {
            attempt(exec, &group, false)
        }
        other => other,
    }
}

fn attempt(exec: &Exec, group: &Group, born: bool) -> Result<Container> {
    if !exec.ignore_paused {
        group.check_thawed()?;
    }
    let program =
        exec.process.seccomp.as_ref().map(|filter| compiled(exec.root, filter)).transpose()?;
    let (pidfd, ours) = joiner(exec, group.unified().filter(|_| born).map(|d| d.as_fd()), program)?;
    crate::log::step(|| "made the process that joins");
    // While that is at work; it has no descriptor of these.
    let tasks = group.tasks();
    let step = "joining the container";
    // Killed between its clone and its word (the container's memory limit holds for it), it leaves a clone that waits: the
    // end of our side ends it.
    let mut freezer = super::freezer::Freezer::of(Some(group).filter(|_| !exec.ignore_paused));
    let hopped = match ours.ready(pidfd.as_fd(), &mut || freezer.look()) {
        Ok(true) => ours.expect(step, |m| match m {
            Message::Hopped(pidfd) => Ok(pidfd),
            other => Err(other),
        }),
        Ok(false) => Err(Error::new(Kind::System, format!("the other side died during {step}"))),
        Err(e) => {
            // Frozen, it is killed all the same (v2), or when it is thawed (v1): it is not waited for.
            let _ = proc::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            return Err(e);
        }
    };
    let _ = proc::wait_pidfd(pidfd.as_fd(), false);
    let pidfd = hopped.map_err(|e| explain(e, "the process", None, group))?;
    let mut c = Container {
        pid: Pid::from_raw(0),
        pidfd,
        sync: ours,
        terminal: None,
        warnings: Vec::new(),
        released: false,
    };
    let talked = adopted(c.pidfd.as_fd()).and_then(|pid| {
        c.pid = pid;
        converse(exec, &mut c, group, tasks?)
    });
    match talked {
        Ok(()) => Ok(c),
        Err(e) => {
            let e = explain(e, "the process", Some(c.pidfd.as_fd()), group);
            c.end();
            Err(e)
        }
    }
}

/// The process that joins, as a pidfd, and our end of the channel to it.
fn joiner(
    exec: &Exec,
    into: Option<BorrowedFd>,
    program: Option<Vec<conex_sys::seccomp::SockFilter>>,
) -> Result<(OwnedFd, Channel)> {
    let flags = foreign_namespaces(exec.state)?;
    let (ours, theirs) = pair()?;
    match crate::acts::clone::clone_into(0, into, &mut false).call(|| "clone3")? {
        Forked::Child => {
            drop(ours);
            let init = exec.state.init.unwrap_or_default();
            let pidfd = exec.init.as_fd();
            join::main(join::Joining {
                process: exec.process,
                init,
                pidfd,
                flags,
                sync: theirs,
                program,
            });
        }
        Forked::Parent { pidfd, .. } => Ok((pidfd, ours)),
    }
}

fn compiled(
    root: &std::path::Path,
    filter: &Filter,
) -> Result<Vec<conex_sys::seccomp::SockFilter>> {
    let dir = nix::fcntl::open(
        root,
        OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY,
        Mode::empty(),
    )
    .ok();
    crate::programs::program(dir.as_ref().map(|d| d.as_fd()), &filter.profile)
}

/// The namespaces of init to join, as flags: those that are not ours. setns refuses to join one's own user namespace.
fn foreign_namespaces(state: &State) -> Result<i32> {
    let pid = state.init.map_or(0, |i| i.pid);
    // Of these the host's root may join its own: nothing happens. Two calls a kind are a twentieth of an exec.
    let harmless = libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWCGROUP;
    let mut flags = if super::facts::host_root() { harmless } else { 0 };
    for (_, file, flag) in KINDS {
        if flags & flag != 0 {
            continue;
        }
        let theirs = match stat(format!("/proc/{pid}/ns/{file}").as_str()) {
            // A kernel without that kind.
            Err(nix::errno::Errno::ENOENT) => continue,
            other => other.call(|| format!("stat(/proc/{pid}/ns/{file})"))?,
        };
        let ours = stat(format!("/proc/self/ns/{file}").as_str())
            .call(|| format!("stat(/proc/self/ns/{file})"))?;
        if theirs.st_ino != ours.st_ino {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// The container's cgroups, or those below it that were asked for. No process of a container runs outside: without a limit
/// or a device rule that the document asks for.
fn cgroup(exec: &Exec) -> Result<Group> {
    let mut group = match Group::open_all(&exec.state.cgroups) {
        // On a host with nothing but v2 init may have moved on, and its directory may be removed behind it (a container
        // that runs systemd). Then the process joins init.
        Err(e) if exec.sub_cgroups.is_empty() => own_cgroup_of_init(exec).ok_or(e)?,
        other => other?,
    };
    // The v2 hierarchy has no name, as in /proc/PID/cgroup.
    let named = |d: &super::cgroup::Dir, c: &String| {
        if c.is_empty() {
            d.hierarchy.v2
        } else {
            d.hierarchy.has(c)
        }
    };
    for (controllers, _) in &exec.sub_cgroups {
        if let Some(unknown) = controllers.iter().find(|c| !group.dirs.iter().any(|d| named(d, c)))
        {
            let what = format!(
                "--cgroup: unknown controller {unknown:?}: the container is in no hierarchy with it"
            );
            return Err(Error::new(Kind::Invalid, what));
        }
    }
    for dir in &mut group.dirs {
        // Two controllers of one hierarchy mean the same directory.
        let mut wanted = exec
            .sub_cgroups
            .iter()
            .filter(|(list, _)| list.is_empty() || list.iter().any(|c| named(dir, c)))
            .map(|(_, sub)| crate::root::clean(sub));
        let Some(sub) = wanted.next() else { continue };
        if let Some(other) = wanted.find(|other| *other != sub) {
            let (at, a, b) = (dir.path.display(), sub.display(), other.display());
            return Err(Error::new(
                Kind::Invalid,
                format!("--cgroup: both {a:?} and {b:?} below {at}"),
            ));
        }
        let path = dir.path.join(sub);
        dir.fd = nix::fcntl::open(
            &path,
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY,
            Mode::empty(),
        )
        .call(|| format!("--cgroup: open({})", path.display()))?;
        dir.path = path;
    }
    Ok(group)
}

/// The v2 cgroup that init is in, if that is all that the container has.
fn own_cgroup_of_init(exec: &Exec) -> Option<Group> {
    let [h] = super::facts::hierarchies() else { return None };
    let path = h.mount_point.join(path_of_init(exec).filter(|_| h.v2)?);
    Group::open_all(&[path]).ok()
}

/// Where init is in the v2 hierarchy, relative to its root; never the root itself.
fn path_of_init(exec: &Exec) -> Option<PathBuf> {
    let init = exec.state.init.unwrap_or_default();
    let text = crate::acts::read_text(format!("/proc/{}/cgroup", init.pid)).ok()?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::/")).filter(|p| !p.is_empty())?;
    // What was read can be another process's otherwise.
    crate::identity::alive(init).then(|| crate::text::path(path).into_owned())
}

fn converse(exec: &Exec, c: &mut Container, group: &Group, tasks: Tasks) -> Result<()> {
    let pid = c.pid.as_raw();
    for dir in group.to_join(pid) {
        let Err(e) = dir.join(pid) else { continue };
        // A container that runs systemd or Docker has moved init deeper, where its own cgroup has no processes and
        // takes none (EBUSY): then the process joins init. Not where somebody asked for this very cgroup.
        let elsewhere = exec.sub_cgroups.is_empty() && dir.hierarchy.v2;
        if !(elsewhere && (join_init(exec, pid) || attach(exec, pid, &e))) {
            return Err(e);
        }
    }
    oom_score(pid, exec.process)?;
    let s = exec.state;
    let document = crate::acts::hooks::StateDocument {
        id: &s.id,
        status: "running",
        pid: s.init.map_or(0, |i| i.pid),
        bundle: &s.bundle,
        annotations: &s.annotations,
    };
    let watched = Some(group).filter(|_| !exec.ignore_paused);
    welcome(c, exec.process, tasks, exec.at_once)?;
    handshake(c, watched, &mut |c, message| match message {
        Message::Notify(number) => notified(exec.process, c, number, &document),
        other => Err(unexpected(&other)),
    })
}

/// A user may not move a process between two subtrees that are both his; his manager may.
fn attach(exec: &Exec, pid: i32, e: &Error) -> bool {
    use nix::errno::Errno;
    let Some(unit) = &exec.state.systemd_unit else { return false };
    matches!(e.errno, Some(Errno::EACCES | Errno::EPERM))
        && super::cgroup::systemd::Manager::connect(unit.user)
            .and_then(|mut m| m.attach(&unit.name, pid))
            .is_ok()
}

fn join_init(exec: &Exec, pid: i32) -> bool {
    let Some(path) = path_of_init(exec) else { return false };
    let hierarchies = super::facts::hierarchies();
    let procs =
        hierarchies.iter().filter(|h| h.v2).map(|h| h.mount_point.join(&path).join("cgroup.procs"));
    procs.into_iter().any(|file| std::fs::write(file, pid.to_string()).is_ok())
}
