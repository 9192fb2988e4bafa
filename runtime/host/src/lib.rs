//! The host's side of a container's life: it acts on the plan and decides nothing.

#![forbid(unsafe_code)]

pub mod bundle;
pub mod cgroup;
pub mod dbus;
pub mod end;
pub mod exec;
pub mod facts;
pub mod foreground;
pub mod freezer;
pub mod helper;
pub mod listener;
mod netdev;
pub mod notify;
pub mod programs;
pub mod rdt;
pub mod seal;
mod sources;
mod spawn;
pub mod state;
pub mod undo;
pub mod userns;

use crate::identity::identity;
use crate::plan::unit::Unit;
use crate::plan::Plan;
use crate::state::{Entry, State};
use crate::sync::{pair, Channel, Message};
use acts::hierarchy::Hierarchy;
use acts::{hooks, identity, log, root, sync};
use cgroup::systemd::{Manager, UnitRecord};
use cgroup::Group;
use conex_acts as acts;
use conex_child as child;
use conex_plan as plan;
use conex_sys::proc;
use error::{Context, Error, Kind, Named, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use plan::{check, error, gvariant, oci, seccomp, text};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A container whose init waits behind `Created`.
pub struct Container {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub sync: Channel,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Limits that an unprivileged runtime could not apply.
    pub warnings: Vec<Error>,
}

impl Container {
    /// Kills and reaps a process that nobody will hear of. In a frozen v1 cgroup it ends when somebody thaws that, which is
    /// not waited for.
    pub fn end(&self) {
        let _ = proc::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = nix::poll::poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], 5000u16);
        let _ = proc::wait_pidfd(self.pidfd.as_fd(), true);
    }

    /// The next message. While none comes, a freezer is looked for: who is frozen says nothing.
    ///
    /// # Errors
    /// It has been frozen for too long, and by whom.
    pub fn next(&self, group: Option<&Group>) -> Result<Option<Message>> {
        let mut freezer = freezer::Freezer::of(group);
        while group.is_some() && !self.sync.waiting(1000)? {
            freezer.look()?;
        }
        self.sync.receive()
    }
}

use spawn::spawn;

/// How the container will be started.
pub enum Start {
    /// By `start`, over a socket in the state directory.
    Later,
    /// By the caller of [`create`], who goes on with [`Container::sync`].
    Now,
}

/// Makes the container, up to the point where its program could be executed. On failure everything is undone.
pub fn create(plan: &Plan, entry: &Entry, state: &mut State, root: &Path, start: Start) -> Result<Container> {
    let made = build(plan, entry, state, root, start);
    if let Err(e) = made {
        // Undo goes on after a failure and tells all of them.
        let mut problems = undo::container(state, None);
        problems.extend(undo::limits(state));
        return Err(undo::with(e, problems));
    }
    made
}

fn build(plan: &Plan, entry: &Entry, state: &mut State, root: &Path, start: Start) -> Result<Container> {
    let hierarchies = plan.cgroup.hierarchies.clone();
    let mut manager = plan.cgroup.unit.as_ref().map(|u| announce(plan, u, state)).transpose()?;
    if manager.is_none() {
        state.cgroups = cgroup::paths(&plan.cgroup, &hierarchies, Path::new(""))?;
    }
    if !plan.rootfs.private {
        state.rootfs_mounts = Some(undo::mounts_at(&plan.rootfs.path));
    }
    if let Some(rdt) = &plan.rdt {
        state.rdt = rdt::to_make(rdt, &plan.id);
        state.rdt_group = Some(rdt::group(rdt));
    }
    // Only the directory that the child is born in comes before it; the v1 ones are made while it mounts.
    // A unit comes after the child, which systemd puts into it.
    let mut group = match &manager {
        Some(_) => entry.save(state).map(|()| Group { dirs: Vec::new() }),
        None => make_group(entry, state, &hierarchies, true),
    };
    let mut warnings = Vec::new();
    if group.as_ref().is_err_and(forbidden) {
        group = without_cgroup(plan, state, &mut warnings);
    }
    let mut group = group?;
    // Before the child is born there: it would not run, nor be waited for without an end.
    group.check_thawed()?;
    let pure_v2 = hierarchies.len() == 1 && hierarchies[0].v2;
    let cgroup_first = pure_v2 && manager.is_none();
    if cgroup_first {
        // The child is born inside: the limits are there before it.
        limit(plan, &group, entry, state)?;
    }
    let listener = match start {
        Start::Later => Some(start_socket(entry)?),
        Start::Now => None,
    };
    let program = match &plan.process.seccomp {
        Some(filter) => {
            let dir =
                nix::fcntl::open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty()).ok();
            Some(crate::programs::program(dir.as_ref().map(|d| d.as_fd()), &filter.profile)?)
        }
        None => None,
    };
    if let Some(maps) = &plan.namespaces.maps {
        hand_over_stdio(plan, maps);
    }
    crate::log::step(|| format!("cgroups: {:?}", state.cgroups));
    let (ours, theirs) = pair()?;
    let inherited = child::Inherited {
        sync: theirs,
        sources: sources::open(plan)?,
        joins: Vec::new(),
        cgroups: state.cgroups.clone(),
        start: listener,
        program,
        has_runtime_hooks: !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty(),
        cgroup_first: pure_v2,
        into_cgroup: None,
        makes_time_namespace: plan.namespaces.creates(crate::plan::namespaces::CLONE_NEWTIME)
            && !facts::host_root(),
        hook_output: match plan.hooks.create_container.is_empty() && plan.hooks.start_container.is_empty() {
            true => [None, None],
            false => hooks::outputs(&plan.annotations)?,
        },
    };
    let mut c = spawn(plan, inherited, ours, &group)?;
    crate::log::step(|| format!("made the process {}", c.pid));
    let rest = match &mut manager {
        Some(manager) => start_unit(manager, plan, entry, state, c.pid.as_raw()),
        None => make_group(entry, state, &hierarchies, false),
    };
    let rest = if rest.as_ref().is_err_and(forbidden) { without_cgroup(plan, state, &mut warnings) } else { rest };
    c.warnings = warnings;
    let talked = rest.and_then(|rest| {
        group.dirs.extend(rest.dirs);
        group.check_thawed()?;
        // The limits first: between "deny all" and the device rules that follow, a member could not make its nodes.
        if !cgroup_first {
            limit(plan, &group, entry, state)?;
        }
        converse(plan, &mut c, &group)
    });
    match talked {
        Ok(()) => {
            state.init = Some(identity(c.pid.as_raw()));
            // From now on the limits stay, whatever becomes of the container.
            let before = std::mem::take(&mut state.cgroups_before);
            let saved = entry.save(state).map(|()| c);
            // What the caller has still to do can fail.
            state.cgroups_before = before;
            saved
        }
        Err(e) => {
            let e = explain(e, &c, &group);
            c.end();
            Err(e)
        }
    }
}

/// Connects to systemd and names, in the record, the unit that will be made.
fn announce(plan: &Plan, unit: &Unit, state: &mut State) -> Result<Manager> {
    let mut manager = Manager::connect(unit.user).at(|| "linux.cgroupsPath")?;
    let base = manager.control_group()?;
    state.cgroups = cgroup::paths(&plan.cgroup, &plan.cgroup.hierarchies, &base)?;
    let description = format!("conex container {}, created {}", plan.id, state.created);
    state.systemd_unit = Some(UnitRecord { name: unit.name.clone(), description, user: unit.user });
    Ok(manager)
}

/// Starts the unit with the child in it. From then on its cgroups are the container's own; on v1 systemd has made only
/// some of them.
fn start_unit(manager: &mut Manager, plan: &Plan, entry: &Entry, state: &mut State, pid: i32) -> Result<Group> {
    let (Some(unit), Some(record)) = (&plan.cgroup.unit, state.systemd_unit.clone()) else {
        return Ok(Group { dirs: Vec::new() });
    };
    let hierarchies = &plan.cgroup.hierarchies;
    manager.start(&plan.cgroup, unit, &record, pid, hierarchies.iter().all(|h| h.v2))?;
    let mut own = state.cgroups.clone();
    own.extend(cgroup::missing(&state.cgroups, hierarchies));
    own.sort();
    own.dedup();
    state.made_cgroups = own;
    entry.save(state)?;
    let mut made = state.cgroups.clone();
    Group::create(&state.cgroups, hierarchies, &state.made_cgroups, &mut made)
}

/// Records what will be made, then makes it. A parent that another container removes in between (it had made it, and
/// ended) is made again, under a new record.
fn make_group(entry: &Entry, state: &mut State, hierarchies: &[Hierarchy], v2: bool) -> Result<Group> {
    let (paths, wanted): (Vec<_>, Vec<_>) =
        state.cgroups.iter().cloned().zip(hierarchies.iter().cloned()).filter(|(_, h)| h.v2 == v2).unzip();
    let (mut attempts, mut made) = (0, Vec::new());
    loop {
        let before = state.made_cgroups.len();
        // The first pass, for v2, has looked for those of all hierarchies.
        let look = v2 || attempts > 0;
        for path in if look { cgroup::missing(&state.cgroups, hierarchies) } else { Vec::new() } {
            if !state.made_cgroups.contains(&path) {
                state.made_cgroups.push(path);
            }
        }
        state.made_cgroups.sort();
        if v2 || state.made_cgroups.len() > before {
            entry.save(state)?;
        }
        match Group::create(&paths, &wanted, &state.made_cgroups, &mut made) {
            // ENODEV: it was opened before and written to after that.
            Err(e) if matches!(e.errno, Some(Errno::ENOENT | Errno::ENODEV)) && attempts < 10 => attempts += 1,
            Err(e) if e.errno == Some(Errno::EEXIST) => {
                // Somebody else's after all: undo must neither kill there nor remove it.
                state.made_cgroups.retain(|p| made.contains(p) || !paths.contains(p));
                entry.save(state)?;
                return Err(e);
            }
            other => return other,
        }
    }
}

/// Sends what the child may no longer hear: if it has failed meanwhile, its own message says more than EPIPE.
fn tell(c: &Container, message: &Message) -> Result<()> {
    match c.sync.send(message) {
        Err(e) if e.errno == Some(Errno::EPIPE) => Ok(()),
        other => other,
    }
}

/// An unprivileged runtime that was delegated no cgroup.
fn forbidden(e: &Error) -> bool {
    let refused = matches!(e.errno, Some(Errno::EACCES | Errno::EPERM | Errno::EROFS));
    refused && !facts::host_root()
}

/// Goes on without a cgroup. Each limit that will not hold is named: as a warning, or as an error if the caller wants
/// none of them lost (`--rootless=false`).
fn without_cgroup(plan: &Plan, state: &mut State, warnings: &mut Vec<Error>) -> Result<Group> {
    let told: std::collections::HashSet<String> = warnings.iter().map(|w| w.field.clone()).collect();
    let mut fields: Vec<&String> =
        plan.cgroup.limits.iter().map(|l| &l.field).filter(|f| !told.contains(*f)).collect();
    fields.dedup();
    let more = fields.split_off(fields.len().min(crate::check::MOST));
    for field in fields {
        let what = "not applied: this user may not make a cgroup, and none was delegated";
        let problem = Error::unsupported(field.clone(), what);
        if plan.cgroup.required {
            return Err(problem);
        }
        warnings.push(problem);
    }
    if !more.is_empty() {
        // Each would be looked up in the document.
        warnings.push(Error::unsupported("linux.resources", format!("and {} more", more.len())));
    }
    // Where only some hierarchies are delegated, what was made in these.
    let _ = cgroup::remove_at_once(&state.made_cgroups);
    state.cgroups.clear();
    state.made_cgroups.clear();
    Ok(Group { dirs: Vec::new() })
}

fn limit(plan: &Plan, group: &Group, entry: &Entry, state: &mut State) -> Result<()> {
    if group.dirs.is_empty() {
        return Ok(());
    }
    let files = group.files(&plan.cgroup.limits);
    crate::log::step(|| format!("linux.resources: {} values", files.len()));
    state.cgroups_before = group.before(&files, plan.cgroup.devices.as_ref(), &state.made_cgroups);
    if !state.cgroups_before.is_empty() {
        entry.save(state)?;
    }
    group.apply(&files)?;
    if let Some(uid) = plan.cgroup.owner.filter(|_| facts::host_root()) {
        group.give_to(uid)?;
    }
    match plan.cgroup.devices.as_ref().map_or(Ok(()), |d| group.devices(d)) {
        // bpf(2) and devices.deny take host root. Without it nobody can make a device node either: the container gets
        // the host's nodes bound, which the file permissions guard.
        Err(e) if forbidden(&e) => Ok(()),
        other => other,
    }
}

/// In a user namespace the child owns nothing of the host's, so the caller's pipes are given to the container's user
/// from here: it could not reopen /dev/stdout otherwise. See [`child::console::hand_over_stdio`].
fn hand_over_stdio(plan: &Plan, maps: &crate::plan::namespaces::Maps) {
    use crate::plan::namespaces::Maps;
    if plan.process.terminal || !plan.namespaces.creates(libc::CLONE_NEWUSER) || !facts::host_root() {
        return;
    }
    if let Some(uid) = Maps::to_host(&maps.uid, plan.process.uid) {
        child::console::give_stdio_to(uid, false);
    }
}

/// A dead child without a word was killed: say by what.
fn explain(e: Error, c: &Container, group: &Group) -> Error {
    if !e.what.starts_with("the other side died") {
        return e;
    }
    // Its end of the channel is closed a moment before it can be waited for.
    let mut fds = [PollFd::new(c.pidfd.as_fd(), PollFlags::POLLIN)];
    let _ = nix::poll::poll(&mut fds, 2000u16);
    let how = match proc::wait_pidfd(c.pidfd.as_fd(), true) {
        Ok(proc::Waited::Signaled(n)) => format!("killed by signal {n}"),
        Ok(proc::Waited::Exited(n)) => format!("exited with {n}"),
        _ => return e,
    };
    let oom = if group.oom_kills() > 0 {
        " (possibly OOM-killed: linux.resources.memory.limit may be too low)"
    } else {
        ""
    };
    Error::new(
        Kind::System,
        format!("container init {how} {}{oom}", e.what.trim_start_matches("the other side died ")),
    )
}

/// The socket on which `start` reaches the waiting init. Only root can enter the directory.
fn start_socket(entry: &Entry) -> Result<OwnedFd> {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    entry.unlink("start.sock");
    let path = entry.path.join("start.sock");
    let (_dir, address) = listener::address(&path)?;
    bind(fd.as_raw_fd(), &address).call(|| format!("bind({})", path.display()))?;
    listen(&fd, Backlog::new(1).unwrap_or(Backlog::MAXCONN)).call(|| "listen(start.sock)")?;
    Ok(fd)
}

/// Our half of the conversation drawn in [`crate::sync`], up to `Ready`.
fn converse(plan: &Plan, c: &mut Container, group: &Group) -> Result<()> {
    let pid = c.pid.as_raw();
    group.join(pid)?;
    if let Some(score) = plan.process.oom_score_adj {
        oom_score(pid, score, &plan.process.field)?;
    }
    if let Some(rdt) = &plan.rdt {
        rdt::join(rdt, &plan.id, pid)?;
    }
    netdev::move_all(plan, pid)?;
    rlimits(pid, &plan.process.rlimits)?;
    tell(c, &Message::Enter(group.tasks()?))?;
    let document = |status| hooks::StateDocument {
        id: &plan.id,
        status,
        pid,
        bundle: &plan.bundle,
        annotations: &plan.annotations,
    };
    loop {
        match c.next(Some(group))? {
            None => return Err(Error::new(Kind::System, "the other side died during its preparation")),
            Some(Message::Failed(e)) => return Err(e),
            Some(Message::NeedMaps) => {
                if let Some(maps) = &plan.namespaces.maps {
                    userns::write_maps(c.pid, maps, !nix::unistd::geteuid().is_root())?;
                }
                tell(c, &Message::Mapped)?;
            }
            Some(Message::Rooted) => {
                // The deprecated hook predates the status: the OCI's validation suite and crun have it "created".
                let setting = hooks::Setting { cwd: Some(&plan.bundle), ..hooks::Setting::default() };
                hooks::run(&plan.hooks.prestart, "prestart", &document("created"), &setting)?;
                hooks::run(&plan.hooks.create_runtime, "createRuntime", &document("creating"), &setting)?;
                tell(c, &Message::Go)?;
            }
            Some(Message::Terminal(fd)) => c.terminal = Some(fd),
            Some(Message::Notify(number)) => {
                if let Some(l) = plan.process.seccomp.as_ref().and_then(|f| f.listener.as_ref()) {
                    listener::seccomp(l, number, c.pidfd.as_fd(), &document("creating").json(), pid)?;
                }
            }
            Some(Message::Ready) => break,
            Some(other) => return Err(Error::new(Kind::System, format!("unexpected message {other:?}"))),
        }
    }
    Ok(())
}

/// Written by the host: a process that is not dumpable cannot open its own file as another user.
pub fn oom_score(pid: i32, score: i32, field: &str) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, score.to_string()) {
        // Lowering takes CAP_SYS_RESOURCE; what is already so needs none.
        Err(_) if std::fs::read_to_string(&path).is_ok_and(|t| t.trim() == score.to_string()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let now = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<i32>().ok());
            let why = match now.filter(|now| score < *now) {
                Some(now) => format!("lowering it from {now} takes CAP_SYS_RESOURCE: "),
                None => String::new(),
            };
            Err(e).call(|| format!("{why}write({path}, {score})")).at(|| format!("{field}.oomScoreAdj"))
        }
        other => other.call(|| format!("write({path}, {score})")).at(|| format!("{field}.oomScoreAdj")),
    }
}

/// Raises the hard limits that are below the wanted ones, while the process is still of our user: afterwards it would
/// take CAP_SYS_RESOURCE even to lower them. The process sets the final values itself.
pub fn rlimits(pid: i32, list: &[crate::plan::process::Rlimit]) -> Result<()> {
    for r in list {
        let pid = Pid::from_raw(pid);
        let (soft, hard) =
            proc::rlimit(pid, r.resource).call(|| format!("prlimit({})", r.name)).at(|| r.field.clone())?;
        if r.hard > hard {
            proc::set_rlimit(pid, r.resource, soft, r.hard)
                .call(|| {
                    format!("prlimit({}, {}): raising the hard limit {hard} takes CAP_SYS_RESOURCE", r.name, r.hard)
                })
                .at(|| r.field.clone())?;
        }
    }
    Ok(())
}
