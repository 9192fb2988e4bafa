//! The host's side of a container's life: it acts on the plan and decides nothing.

pub mod cgroup;
pub mod exec;
pub mod facts;
pub mod foreground;
pub mod hooks;
pub mod listener;
pub mod netlink;
pub mod notify;
pub mod rdt;
pub mod seal;
pub mod undo;
pub mod userns;

use crate::child;
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::namespaces::{Hops, CLONE_NEWTIME, KINDS};
use crate::plan::Plan;
use crate::state::{identity, Entry, State};
use crate::sync::{pair, Channel, Message};
use cgroup::Group;
use conex_sys::clone::{clone3, Forked};
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A container whose init waits behind `Created`.
pub struct Container {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub sync: Channel,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
}

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
        let problems = undo::container(state, None);
        return Err(undo::with(e, problems));
    }
    made
}

fn build(plan: &Plan, entry: &Entry, state: &mut State, root: &Path, start: Start) -> Result<Container> {
    let hierarchies = plan.cgroup.hierarchies.clone();
    state.cgroups = cgroup::paths(&plan.cgroup, &hierarchies)?;
    if !plan.rootfs.private {
        state.rootfs_mounts = Some(undo::mounts_at(&plan.rootfs.path));
    }
    // Only the directory that the child is born in comes before it; the v1 ones are made while it mounts.
    let mut group = match make_group(entry, state, &hierarchies, true) {
        Err(e) if forbidden(&e) => without_cgroup(plan, state)?,
        other => other?,
    };
    let pure_v2 = hierarchies.len() == 1 && hierarchies[0].v2;
    if pure_v2 {
        // The child is born inside: the limits are there before it.
        limit(plan, &group)?;
    }
    let listener = match start {
        Start::Later => Some(start_socket(entry)?),
        Start::Now => None,
    };
    let program = match &plan.process.seccomp {
        Some(filter) => {
            let dir =
                nix::fcntl::open(root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty()).ok();
            Some(crate::seccomp::cache::program(dir.as_ref().map(|d| d.as_fd()), &filter.profile)?)
        }
        None => None,
    };
    let (ours, theirs) = pair()?;
    let inherited = child::Inherited {
        sync: theirs,
        sources: open_sources(plan)?,
        joins: Vec::new(),
        cgroups: state.cgroups.clone(),
        start: listener,
        program,
        has_runtime_hooks: !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty(),
        cgroup_first: pure_v2,
        into_cgroup: None,
    };
    let mut c = spawn(plan, inherited, ours, &group)?;
    let v1 = match make_group(entry, state, &hierarchies, false) {
        Err(e) if forbidden(&e) => without_cgroup(plan, state),
        other => other,
    };
    let talked = v1.and_then(|rest| {
        group.dirs.extend(rest.dirs);
        converse(plan, &mut c, &group, state, pure_v2)
    });
    match talked {
        Ok(()) => {
            state.init = Some(identity(c.pid.as_raw()));
            entry.save(state).map(|()| c)
        }
        Err(e) => {
            let e = explain(e, &c, &group);
            let _ = proc::pidfd_send_signal(c.pidfd.as_fd(), libc::SIGKILL);
            let _ = proc::wait_pidfd(c.pidfd.as_fd(), false);
            Err(e)
        }
    }
}

/// Records what will be made, then makes it. A parent that another container removes in between (it had made it, and
/// ended) is made again, under a new record.
fn make_group(entry: &Entry, state: &mut State, hierarchies: &[facts::Hierarchy], v2: bool) -> Result<Group> {
    let (paths, wanted): (Vec<_>, Vec<_>) =
        state.cgroups.iter().cloned().zip(hierarchies.iter().cloned()).filter(|(_, h)| h.v2 == v2).unzip();
    let mut attempts = 0;
    loop {
        let before = state.made_cgroups.len();
        for path in cgroup::missing(&state.cgroups, hierarchies) {
            if !state.made_cgroups.contains(&path) {
                state.made_cgroups.push(path);
            }
        }
        state.made_cgroups.sort();
        if v2 || state.made_cgroups.len() > before {
            entry.save(state)?;
        }
        match Group::create(&paths, &wanted, &state.made_cgroups) {
            Err(e) if e.errno == Some(nix::errno::Errno::ENOENT) && attempts < 10 => attempts += 1,
            other => return other,
        }
    }
}

/// Sends what the child may no longer hear: if it has failed meanwhile, its own message says more than EPIPE.
fn tell(c: &Container, message: &Message) -> Result<()> {
    match c.sync.send(message) {
        Err(e) if e.errno == Some(nix::errno::Errno::EPIPE) => Ok(()),
        other => other,
    }
}

/// An unprivileged runtime that was delegated no cgroup.
fn forbidden(e: &Error) -> bool {
    use nix::errno::Errno;
    let refused = matches!(e.errno, Some(Errno::EACCES | Errno::EPERM | Errno::EROFS));
    refused && !nix::unistd::geteuid().is_root()
}

/// Goes on without a cgroup if the document asks for no limit; a limit that would silently not hold is an error.
fn without_cgroup(plan: &Plan, state: &mut State) -> Result<Group> {
    if let Some(w) = plan.cgroup.writes.first() {
        let what = "cannot be applied: this user may not make a cgroup, and none was delegated";
        return Err(Error::unsupported(w.field.clone(), what));
    }
    state.cgroups.clear();
    state.made_cgroups.clear();
    Ok(Group { dirs: Vec::new() })
}

fn limit(plan: &Plan, group: &Group) -> Result<()> {
    if group.dirs.is_empty() {
        return Ok(());
    }
    group.apply(&plan.cgroup.writes)?;
    plan.cgroup.devices.as_ref().map_or(Ok(()), |d| group.devices(d))
}

/// A dead child without a word was killed: say by what.
fn explain(e: Error, c: &Container, group: &Group) -> Error {
    if !e.what.starts_with("the other side died") {
        return e;
    }
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

/// Bind sources that the child could not open or idmap: with a user namespace it is not root on the host any more.
fn open_sources(plan: &Plan) -> Result<Vec<Option<OwnedFd>>> {
    use crate::plan::mounts::Kind;
    // Without privileges the child can do more than this side: it is root of its namespace.
    let in_userns = plan.namespaces.private(libc::CLONE_NEWUSER) && nix::unistd::geteuid().is_root();
    let mut out = Vec::with_capacity(plan.mounts.len());
    for m in &plan.mounts {
        let Kind::Bind { recursive } = m.kind else {
            out.push(None);
            continue;
        };
        if m.idmap.is_none() && !in_userns {
            out.push(None);
            continue;
        }
        out.push(open_source(m, recursive, plan).at(|| format!("{}.source", m.field))?);
    }
    Ok(out)
}

fn open_source(m: &crate::plan::mounts::Mount, recursive: bool, plan: &Plan) -> Result<Option<OwnedFd>> {
    use conex_sys::mount::{mount_setattr, MountAttr, ATTR_IDMAP};
    let tree = child::paths::host_bind(Path::new(&m.source), recursive)?;
    let child::tree::Tree::Detached(fd) = tree else {
        // A kernel without open_tree: the child tries by itself.
        return if m.idmap.is_none() {
            Ok(None)
        } else {
            Err(Error::unsupported(m.field.clone(), "idmapped mounts need Linux 5.12"))
        };
    };
    // A clone of a shared host mount is its peer; what is mounted below it later must not reach the host.
    let slave = plan.rootfs.propagation & libc::MS_SHARED as u64 == 0;
    if slave {
        let attr = MountAttr { propagation: libc::MS_SLAVE as u64, ..MountAttr::default() };
        child::tree::setattr(fd.as_fd(), true, &attr)?;
    }
    if let Some(map) = &m.idmap {
        use std::os::fd::AsRawFd;
        let ns = userns::namespace_with(&map.maps)?;
        let attr = MountAttr { set: ATTR_IDMAP, userns: ns.as_raw_fd() as u64, ..MountAttr::default() };
        mount_setattr(fd.as_fd(), map.recursive, &attr)
            .call(|| "mount_setattr(MOUNT_ATTR_IDMAP): needs Linux 5.12 and a file system that supports it")
            .at(|| format!("{}.options", m.field))?;
    }
    Ok(Some(fd))
}

/// The runtime's own namespaces, to come back to.
struct Home(Vec<(OwnedFd, i32)>);

impl Home {
    fn remember(&mut self, flag: i32) -> Result<()> {
        let file = KINDS.iter().find(|k| k.2 == flag).map_or("", |k| k.1);
        let path = format!("/proc/self/ns/{file}");
        let fd = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .call(|| format!("open({path})"))?;
        self.0.push((fd, flag));
        Ok(())
    }
    fn back(&self) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|(fd, flag)| proc::setns(fd.as_fd(), *flag).call(|| format!("setns(own, {flag:#x})")))
    }
}

/// Clones the container's init. Namespaces that exist already are entered before the clone and left after it, so
/// that the child is born in them; see [`Hops`] for the one case where that is not possible.
fn spawn(plan: &Plan, mut inherited: child::Inherited, ours: Channel, group: &Group) -> Result<Container> {
    let ns = &plan.namespaces;
    let mut home = Home(Vec::new());
    let mut entered = Vec::new();
    for join in &ns.join {
        let fd = open_namespace(join)?;
        // A mount namespace changes the root of whoever enters it, a user namespace cannot be left.
        if join.flag == libc::CLONE_NEWUSER
            || join.flag == libc::CLONE_NEWNS
            || (ns.hops == Hops::Two && !nix::unistd::geteuid().is_root())
        {
            if let (libc::CLONE_NEWUSER, Some(maps)) = (join.flag, &ns.maps) {
                userns::check_same(&fd, maps, &join.field)?;
            }
            inherited.joins.push((fd, join.flag, join.field.clone()));
        } else {
            home.remember(join.flag)?;
            entered.push((fd, join));
        }
    }
    if ns.creates(CLONE_NEWTIME) {
        // The offsets must be written before the first process is in the namespace.
        home.remember(CLONE_NEWTIME)?;
        proc::unshare(CLONE_NEWTIME).call(|| "unshare(CLONE_NEWTIME)").at(|| "linux.namespaces")?;
        if let Some(text) = &ns.time_offsets {
            std::fs::write("/proc/self/timens_offsets", text)
                .call(|| format!("write(/proc/self/timens_offsets, {text:?})"))
                .at(|| "linux.timeOffsets")?;
        }
    }
    for (fd, join) in &entered {
        proc::setns(fd.as_fd(), join.flag)
            .call(|| format!("setns({}, {:#x})", join.path.display(), join.flag))
            .at(|| join.field.clone())?;
    }
    let unified = group.unified();
    let cgroup = unified.map(|d| d.as_fd());
    let flags = if ns.hops == Hops::Two { 0 } else { ns.new & !(libc::CLONE_NEWCGROUP | CLONE_NEWTIME) };
    if ns.hops == Hops::Two {
        inherited.into_cgroup = cgroup.map(|c| c.try_clone_to_owned()).transpose().call(|| "dup")?;
    }
    let into = if ns.hops == Hops::Two { None } else { cgroup };
    let forked = clone_into(flags as u64, into);
    if let Ok(Forked::Child) = forked {
        drop(ours);
        child::main(plan, inherited);
    }
    let back = home.back();
    let Forked::Parent { pid, pidfd } = forked.call(|| format!("clone3({flags:#x})")).at(|| "linux.namespaces")?
    else {
        return Err(Error::new(Kind::System, "clone3 returned twice"));
    };
    // Only the child keeps its end; end of stream must mean its death.
    drop(inherited);
    let mut c = Container { pid, pidfd, sync: ours, terminal: None };
    if let Err(e) = back.and_then(|()| if ns.hops == Hops::Two { meet_second_hop(&mut c) } else { Ok(()) }) {
        let _ = proc::pidfd_send_signal(c.pidfd.as_fd(), libc::SIGKILL);
        let _ = proc::wait_pidfd(c.pidfd.as_fd(), false);
        return Err(e);
    }
    Ok(c)
}

/// clone3 with a cgroup, or without where the kernel cannot (before 5.7) or may not (from inside a user namespace):
/// then the process is moved there later.
pub(crate) fn clone_into(flags: u64, cgroup: Option<std::os::fd::BorrowedFd>) -> nix::Result<Forked> {
    use nix::errno::Errno;
    match clone3(flags, cgroup) {
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::E2BIG | Errno::EOPNOTSUPP | Errno::EACCES)
            if cgroup.is_some() =>
        {
            clone3(flags, None)
        }
        other => other,
    }
}

fn meet_second_hop(c: &mut Container) -> Result<()> {
    let pid = c.sync.expect("joining the user namespace", |m| match m {
        Message::Hopped(pid) => Ok(pid),
        other => Err(other),
    })?;
    let _ = proc::wait_pidfd(c.pidfd.as_fd(), false);
    c.pid = Pid::from_raw(pid);
    // It is our child and not yet reaped, so the number cannot mean another process.
    c.pidfd = proc::pidfd_open(c.pid).call(|| format!("pidfd_open({pid})"))?;
    Ok(())
}

fn open_namespace(join: &crate::plan::namespaces::Join) -> Result<OwnedFd> {
    let fd = nix::fcntl::open(&join.path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty())
        .call(|| format!("open({})", join.path.display()))
        .at(|| join.field.clone())?;
    let own = KINDS.iter().find(|k| k.2 == join.flag).map_or("", |k| k.1);
    let inode = |r: nix::Result<nix::sys::stat::FileStat>| r.map(|s| (s.st_dev, s.st_ino)).ok();
    let same =
        inode(nix::sys::stat::fstat(&fd)) == inode(nix::sys::stat::stat(format!("/proc/self/ns/{own}").as_str()));
    if same && join.flag == libc::CLONE_NEWNS {
        // pivot_root and the unmounting of the old root would happen to the host.
        return Err(Error::invalid(
            join.field.clone(),
            "is the runtime's own mount namespace; leave the entry out to share it",
        ));
    }
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    if nix::sys::statfs::fstatfs(&fd).is_ok_and(|s| s.filesystem_type().0 as i64 != NSFS_MAGIC) {
        return Err(Error::invalid(join.field.clone(), format!("{}: not a namespace file", join.path.display())));
    }
    Ok(fd)
}

/// Our half of the conversation drawn in [`crate::sync`], up to `Ready`.
fn converse(plan: &Plan, c: &mut Container, group: &Group, state: &mut State, pure_v2: bool) -> Result<()> {
    let pid = c.pid.as_raw();
    let born =
        Path::new(&format!("/proc/{pid}/cgroup")).exists() && group.unified().is_some_and(|d| born_in(pid, d));
    // The limits first: between "deny all" and the device rules that follow, a member could not make its nodes.
    if !pure_v2 {
        limit(plan, group)?;
    }
    group.join(pid, born)?;
    if let Some(score) = plan.process.oom_score_adj {
        oom_score(pid, score, &plan.process.field)?;
    }
    if let Some(rdt) = &plan.rdt {
        state.rdt = rdt::join(rdt, &plan.id, pid)?;
    }
    move_devices(plan, pid)?;
    rlimits(pid, &plan.process.rlimits)?;
    tell(c, &Message::Joined)?;
    let document = |status| hooks::StateDocument {
        id: &plan.id,
        status,
        pid,
        bundle: &plan.bundle,
        annotations: &plan.annotations,
    };
    loop {
        match c.sync.receive()? {
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
                hooks::run(&plan.hooks.prestart, "prestart", &document("created"), Some(&plan.bundle))?;
                hooks::run(&plan.hooks.create_runtime, "createRuntime", &document("creating"), Some(&plan.bundle))?;
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

/// True if clone3 put the process into that v2 cgroup.
fn born_in(pid: i32, dir: &cgroup::Dir) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|l| l.strip_prefix("0::"));
    let below = dir.path.strip_prefix(&dir.hierarchy.mount_point).unwrap_or(Path::new(""));
    path.is_some_and(|p| Path::new(p).ends_with(below))
}

/// Written by the host: a process that is not dumpable cannot open its own file as another user.
pub fn oom_score(pid: i32, score: i32, field: &str) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, score.to_string()) {
        // Lowering takes CAP_SYS_RESOURCE; what is already so needs none.
        Err(_) if std::fs::read_to_string(&path).is_ok_and(|t| t.trim() == score.to_string()) => Ok(()),
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

/// Moves host interfaces into the container's network namespace, with their addresses, and brings them up there.
fn move_devices(plan: &Plan, pid: i32) -> Result<()> {
    if plan.net_devices.is_empty() {
        return Ok(());
    }
    let mut home = Home(Vec::new());
    home.remember(libc::CLONE_NEWNET)?;
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let inside = nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| format!("open({})", path.display()))?;
    for d in &plan.net_devices {
        let result = (|| {
            let addresses = netlink::addresses(netlink::index(&d.host_name)?)?;
            netlink::move_link(&d.host_name, &d.name, inside.as_fd())?;
            proc::setns(inside.as_fd(), libc::CLONE_NEWNET).call(|| "setns(container, CLONE_NEWNET)")?;
            let configured = (|| {
                let index = netlink::index(&d.name)?;
                addresses.iter().try_for_each(|a| netlink::add_address(index, a, &d.name))?;
                netlink::set_up(index)
            })();
            home.back()?;
            configured
        })();
        result.at(|| d.field.clone())?;
    }
    Ok(())
}
