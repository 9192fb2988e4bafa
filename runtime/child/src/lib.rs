//! The container's side, from clone to execve. It acts on the plan; it parses nothing of config.json and decides
//! nothing.

#![forbid(unsafe_code)]

mod confined;
pub mod console;
pub mod devices;
pub mod hooks;
pub mod identity;
pub mod join;
pub mod mounts;
pub mod paths;
pub mod process;
pub mod procfs;
mod refused;

use crate::plan::mount::Action;
use crate::plan::namespaces::{self, Hops, CLONE_NEWTIME};
use crate::plan::Plan;
use crate::root::Root;
use crate::sync::{Channel, Message};
use acts::{log, root, sync, tree};
use conex_acts as acts;
use conex_plan as plan;
use conex_sys::clone::{exit_now, Forked};
use conex_sys::proc;
use error::{Context, Error, Named, Result};
use nix::errno::Errno;
use plan::{error, seccomp, text};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

/// Everything that the host hands to the child beside the plan; the memory is shared by the fork.
pub struct Inherited {
    pub sync: Channel,
    pub rest: Rest,
}

/// All of it but the channel.
pub struct Rest {
    /// What stands for the host's mounts, if the child does not see them.
    pub own: Option<Own>,
    /// Sources opened on the host's side, by index of the mount.
    pub sources: Vec<Option<mounts::Source>>,
    /// The host has /proc/kcore.
    pub kcore: bool,
    /// The namespaces that only the child can join: the user namespace of a second hop, the mount namespace.
    pub joins: Vec<(OwnedFd, i32, String)>,
    /// The container's cgroup directories, in the order of the host's hierarchies.
    pub cgroups: Vec<std::path::PathBuf>,
    /// Where `start` connects; absent for `run`.
    pub start: Option<OwnedFd>,
    pub program: Option<Vec<conex_sys::seccomp::SockFilter>>,
    pub has_runtime_hooks: bool,
    /// There is one hierarchy (v2): a fresh mount of it shows the cgroup namespace of its maker, so the namespace comes
    /// before the mounts. With v1 the mounts are bound from the host's, while the cgroups are made.
    pub cgroup_first: bool,
    pub into_cgroup: Option<OwnedFd>,
    /// It was born in its v2 cgroup, whatever is done to that until [`Message::Enter`].
    pub born: bool,
    /// Without the host's root only the child can make the time namespace.
    pub makes_time_namespace: bool,
    /// Standard output and error of the hooks that run in the container's namespaces, where an annotation says.
    pub hook_output: [Option<std::fs::File>; 2],
}

/// Detached trees of the host's, for a child whose mount namespace holds nothing of it.
pub struct Own {
    pub root: OwnedFd,
    /// /dev/null, where paths are to be masked.
    pub null: Option<OwnedFd>,
}

/// The child's whole life; never returns. What goes wrong is sent to the host, or to `start`.
pub fn main(plan: &Plan, inherited: Inherited) -> ! {
    close_the_rest(plan, &inherited);
    let Inherited { sync, rest } = inherited;
    let mut report = Report::new(sync);
    let Err(error) = init(plan, &mut report, rest);
    report.fail(error);
    exit_now(1)
}

/// Lets go of everything of the host's that the fork has copied: its open directories, and above all the lock of the
/// state directory, which a killed runtime would otherwise leave with this process.
fn close_the_rest(plan: &Plan, inherited: &Inherited) {
    use std::os::fd::AsRawFd;
    let Inherited { sync, rest } = inherited;
    let mut keep = plan.process.preserved.clone();
    keep.extend(crate::log::inside());
    keep.push(sync.as_fd().as_raw_fd());
    keep.extend(rest.sources.iter().flatten().filter_map(|source| match source {
        mounts::Source::Tree(fd) => Some(fd.as_raw_fd()),
        mounts::Source::Link(_) | mounts::Source::Inside(_) => None,
    }));
    keep.extend(rest.own.iter().map(|own| own.root.as_raw_fd()));
    keep.extend(rest.own.iter().filter_map(|own| own.null.as_ref()).map(AsRawFd::as_raw_fd));
    keep.extend(rest.joins.iter().map(|(fd, _, _)| fd.as_raw_fd()));
    keep.extend(rest.start.iter().chain(&rest.into_cgroup).map(AsRawFd::as_raw_fd));
    keep.extend(rest.hook_output.iter().flatten().map(AsRawFd::as_raw_fd));
    conex_sys::fd::close_all_but(&keep);
}

/// To whom an error goes: the host until the container is created, then whoever starts it.
pub struct Report {
    pub sync: Option<Channel>,
    pub start: Option<Channel>,
    /// The host makes the cgroups at its own pace: `Enter` may arrive before an answer that is waited for.
    entered: std::cell::Cell<bool>,
    /// `Created` has come already.
    created: std::cell::Cell<bool>,
    /// What [`Message::Trees`] has brought.
    trees: std::cell::RefCell<Option<Vec<(String, OwnedFd)>>>,
}

impl Report {
    pub fn new(sync: Channel) -> Report {
        Report {
            sync: Some(sync),
            start: None,
            entered: Default::default(),
            created: Default::default(),
            trees: Default::default(),
        }
    }

    /// Waits for one message of the host, entering the cgroups on the way when they are there.
    pub fn wait(&self, step: &str, wanted: fn(&Message) -> bool) -> Result<()> {
        while !self.step(step, wanted)? {}
        Ok(())
    }

    /// Waits for the word to go on, if it has not come yet.
    pub fn wait_for_creation(&self) -> Result<()> {
        match self.created.get() {
            true => Ok(()),
            false => self.wait("creation", |m| matches!(m, Message::Created)),
        }
    }

    /// Waits until this process is in its cgroups.
    pub fn wait_for_cgroups(&self) -> Result<()> {
        while !self.entered.get() {
            self.step("making the cgroups", |_| false)?;
        }
        Ok(())
    }

    /// What a mount of cgroups shows, once the host has opened it.
    fn trees(&self) -> Result<Vec<(String, OwnedFd)>> {
        loop {
            if let Some(trees) = self.trees.take() {
                return Ok(trees);
            }
            self.step("opening the cgroups", |_| false)?;
        }
    }

    /// One message: `Trees` or `Enter`, which are done here, or the wanted one.
    fn step(&self, name: &str, wanted: fn(&Message) -> bool) -> Result<bool> {
        let ours = |m: &Message| {
            matches!(m, Message::Enter(_) | Message::EnterAndGo(_) | Message::Trees(_))
        };
        let accept = |m: Message| if wanted(&m) || ours(&m) { Ok(m) } else { Err(m) };
        match self.sync()?.expect(name, accept)? {
            Message::Trees(trees) => *self.trees.borrow_mut() = Some(trees),
            Message::Enter(tasks) => {
                crate::acts::enter::enter(&tasks)?;
                self.entered.set(true);
            }
            Message::EnterAndGo(tasks) => {
                crate::acts::enter::enter(&tasks)?;
                self.entered.set(true);
                self.created.set(true);
            }
            _ => return Ok(true),
        }
        Ok(false)
    }

    pub fn sync(&self) -> Result<&Channel> {
        self.sync
            .as_ref()
            .or(self.start.as_ref())
            .ok_or_else(|| Error::new(error::Kind::System, "no channel to the host"))
    }
    fn fail(&self, error: Error) {
        if let Ok(channel) = self.sync() {
            let _ = channel.send(&Message::Failed(error));
        }
    }
}

fn init(plan: &Plan, report: &mut Report, mut rest: Rest) -> Result<Infallible> {
    // What is made below has exactly the mode that is asked for.
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    // Nobody may look into this process before it has become the container's (CVE-2016-9962): whoever lives in a PID
    // namespace that is joined sees it from now on. An unprivileged host could not write the id maps of a process
    // that is not dumpable; its new user namespace holds nobody yet.
    if nix::unistd::geteuid().is_root() || !plan.namespaces.creates(libc::CLONE_NEWUSER) {
        proc::set_dumpable(false).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    }
    if plan.namespaces.hops == Hops::Two {
        second_hop(plan, report, &mut rest)?;
    }
    user_namespace(plan, report)?;
    if rest.makes_time_namespace {
        time_namespace(plan)?;
    }
    for (fd, flag, field) in std::mem::take(&mut rest.joins) {
        proc::setns(fd.as_fd(), flag)
            .call(|| namespaces::setns(std::path::Path::new("joined"), flag))
            .map_err(|e| namespaces::not_one(e, flag).at(field))?;
    }
    // In a user namespace still with the host's uid: a directory that only the host's root may enter can be on the
    // way to the rootfs.
    crate::log::step(|| format!("root.path: {}", plan.rootfs.path.display()));
    let (own, null) = rest.own.take().map_or((None, None), |own| (Some(own.root), own.null));
    let detached = own.is_some();
    let root = match own {
        Some(tree) => paths::attach_tree(tree)?,
        None => paths::attach_root(&plan.rootfs)?,
    };
    if plan.namespaces.private(libc::CLONE_NEWUSER) {
        identity::become_root(plan.process.keep_groups)?;
    }
    // Again: the change of identity may have reset it.
    proc::set_dumpable(false).call(|| "prctl(PR_SET_DUMPABLE, 0)")?;
    let _ = nix::unistd::setsid();
    process::keyring(&plan.process)?;
    if rest.cgroup_first {
        if !rest.born {
            report.wait_for_cgroups()?;
        }
        cgroup_namespace(plan)?;
    }
    if plan.namespaces.creates(libc::CLONE_NEWNET) {
        crate::log::step(|| "brings up the loopback interface");
        crate::acts::netlink::up_loopback().during("bring up the loopback interface")?;
    }
    // Before the parameters of the kernel: what they say of the same name holds (runc).
    names(plan)?;
    // Its cgroups are made while this process mounts: what needs none of them comes first.
    let last = if detached { plan::detached::comes_last(plan) } else { None };
    let procfs = mounts_and_devices(plan, &root, report, &mut rest, (detached, last))?;
    let proc_root = root_file_system(plan, &root, report, &rest, (procfs, null, umask, last))?;
    // Whatever comes now is the container's.
    report.wait_for_cgroups()?;
    if !rest.cgroup_first {
        cgroup_namespace(plan)?;
    }
    let later =
        process::Later { start: rest.start, program: rest.program, hook_output: rest.hook_output };
    process::init(plan, report, later, proc_root)
}

/// Enters what the container joins, and clones the container's init as a sibling of this process: the parent could not
/// come back. See [`Hops`].
fn second_hop(plan: &Plan, report: &Report, rest: &mut Rest) -> Result<()> {
    // Those that belong to the host take its privileges, those of the user namespace take that namespace's.
    let (user, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut rest.joins).into_iter().partition(|j| j.1 == libc::CLONE_NEWUSER);
    let enter = |(fd, flag, field): &(OwnedFd, i32, String)| {
        proc::setns(fd.as_fd(), *flag)
            .call(|| namespaces::setns(std::path::Path::new("joined"), *flag))
            .map_err(|e| namespaces::not_one(e, *flag).at(field.clone()))
    };
    let mut after = Vec::new();
    for join in others {
        match enter(&join) {
            Err(e) if e.errno == Some(Errno::EPERM) => after.push(join),
            other => other?,
        }
    }
    if !plan.process.keep_groups {
        // Inside, it may be denied.
        let _ = proc::setgroups(&[]);
    }
    user.iter().chain(&after).try_for_each(enter)?;
    let into = rest.into_cgroup.take();
    let flags =
        (plan.namespaces.new & !(libc::CLONE_NEWCGROUP | CLONE_NEWTIME)) | libc::CLONE_PARENT;
    // The host must hear of the new process before it hears from it.
    let (told, teller) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).call(|| "pipe2(O_CLOEXEC)")?;
    let cgroup = into.as_ref().map(|f| f.as_fd());
    let forked = crate::acts::clone::clone_into(flags as u64, cgroup, &mut rest.born)
        .call(|| format!("clone3({flags:#x})"))
        .at(|| "linux.namespaces")?;
    if let Forked::Parent { pidfd, .. } = forked {
        let sent = report.sync().and_then(|s| s.send(&Message::Hopped(pidfd)));
        exit_now(if sent.is_ok() { 0 } else { 1 });
    }
    drop(teller);
    // The end: the other one has told and is gone.
    nix::unistd::read(&told, &mut [0]).map(drop).call(|| "read(pipe)")
}

/// Without the host's root only the user namespace's may make one. This process enters it: what unshare(2) makes is for
/// children. Before the change of identity, after which its files in /proc are somebody else's.
fn time_namespace(plan: &Plan) -> Result<()> {
    crate::acts::clone::new_time(&plan.namespaces)?;
    let path = "/proc/self/ns/time_for_children";
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
        .call(|| format!("open({path})"))?;
    proc::setns(fd.as_fd(), CLONE_NEWTIME).call(|| "setns(CLONE_NEWTIME)").at(|| "linux.namespaces")
}

/// Barrier 1: the host writes the maps, then this process is root inside.
fn user_namespace(plan: &Plan, report: &Report) -> Result<()> {
    if !plan.namespaces.creates(libc::CLONE_NEWUSER) {
        return Ok(());
    }
    report.sync()?.send(&Message::NeedMaps)?;
    report.wait("the id mapping", |m| matches!(m, Message::Mapped))
}

/// Once this process is in its cgroups: they become the root of the namespace.
fn cgroup_namespace(plan: &Plan) -> Result<()> {
    if plan.namespaces.creates(libc::CLONE_NEWCGROUP) {
        proc::unshare(libc::CLONE_NEWCGROUP)
            .call(|| "unshare(CLONE_NEWCGROUP)")
            .at(|| "linux.namespaces")?;
    }
    Ok(())
}

/// What a mount of cgroups shows: the directories, once the host has made them; none if it may not, which it finds out while
/// this process mounts.
fn cgroups(plan: &Plan, rest: &Rest, report: &Report, detached: bool) -> Result<mounts::Cgroups> {
    if detached {
        let trees = report.trees()?.into_iter().map(|(_, tree)| tree).collect();
        return Ok(mounts::Cgroups::Trees { trees, whole: plan.shows_all_cgroups() });
    }
    let made = rest.cgroups.iter().all(|dir| dir.exists());
    Ok(mounts::Cgroups::Paths(if made { rest.cgroups.clone() } else { Vec::new() }))
}

fn say(m: &plan::mount::Mount) {
    crate::log::step(|| format!("{}: {} on /{}", m.field, m.kind.name(), m.destination.display()));
}

/// A mount of cgroups, once there is what it shows.
fn mount_cgroups(
    plan: &Plan,
    root: &Root,
    m: &plan::mount::Mount,
    (report, rest, detached): (&Report, &Rest, bool),
) -> Result<Option<mounts::Mounted>> {
    let namespace = plan.namespaces.creates(libc::CLONE_NEWCGROUP);
    if rest.cgroup_first && rest.born && namespace && detached {
        // A fresh mount shows the cgroup namespace, which there is. Whoever may not make one is given the host's.
        let nothing = mounts::Cgroups::Trees { trees: Vec::new(), whole: false };
        if let Ok(mounted) = mounts::mount(root, m, None, nothing) {
            say(m);
            return Ok(mounted);
        }
    }
    if detached || matches!(m.kind, Action::Cgroup(_)) {
        // The directories to bind are made while this process mounts.
        report.wait_for_cgroups()?;
    }
    say(m);
    let shown = cgroups(plan, rest, report, detached)?;
    mounts::mount(root, m, None, shown).at(|| m.field.clone())
}

fn mounts_and_devices(
    plan: &Plan,
    root: &Root,
    report: &Report,
    rest: &mut Rest,
    (detached, last): (bool, Option<usize>),
) -> Result<Option<procfs::Procfs>> {
    let mut sources = std::mem::take(&mut rest.sources);
    let mut late = Vec::new();
    let mut procfs = None;
    for (i, m) in plan.mounts.iter().enumerate() {
        if last == Some(i) {
            continue;
        }
        let source = sources.get_mut(i).and_then(Option::take);
        if m.tmpcopyup {
            // What is copied there is the container's memory.
            report.wait_for_cgroups()?;
        }
        let mounted = if plan::detached::is_cgroup(m) {
            mount_cgroups(plan, root, m, (report, rest, detached))?
        } else {
            say(m);
            mounts::mount(root, m, source, Default::default()).at(|| m.field.clone())?
        };
        let Some(mounted) = mounted else { continue };
        if let Some(attr) = mounted.late {
            late.push((mounted.fd.try_clone().call(|| "dup")?, attr, m.field.clone()));
        }
        if mounted.is_proc {
            procfs = Some(procfs::Procfs::from_mount(mounted.fd));
        }
    }
    crate::log::step(|| "linux.devices");
    devices::create(root, &plan.devices, rest.kcore)?;
    console::attach(root, plan, report)?;
    for (fd, attr, field) in late {
        tree::setattr(fd.as_fd(), false, &attr).at(|| field)?;
    }
    Ok(procfs)
}

/// The container's procfs, the device for masks, the umask that it will have, and the mount that is still to be made.
type AfterMounts = (Option<procfs::Procfs>, Option<OwnedFd>, nix::sys::stat::Mode, Option<usize>);

fn root_file_system(
    plan: &Plan,
    root: &Root,
    report: &Report,
    rest: &Rest,
    (mut procfs, null, umask, last): AfterMounts,
) -> Result<Option<procfs::Procfs>> {
    // Hooks see, and those in the container are, members of the cgroups.
    if rest.has_runtime_hooks || !plan.hooks.create_container.is_empty() {
        report.wait_for_cgroups()?;
    }
    if rest.has_runtime_hooks {
        report.sync()?.send(&Message::Rooted)?;
        report.wait("the createRuntime hooks", |m| matches!(m, Message::Go))?;
    }
    hooks::create_container(plan, root.as_fd(), umask, &rest.hook_output)?;
    sysctls(plan, &mut procfs)?;
    let procfs =
        process::needs_procfs(&plan.process).then(|| procfs::Procfs::or_new(procfs)).transpose()?;
    if last.is_none() {
        working_directory(root, &plan.process)?;
    }
    let whole = paths::readonly(root, &plan.readonly_paths)?;
    // The labels are written there; the container's own mount will be read-only.
    let procfs =
        procfs.map(|own| if whole { procfs::Procfs::new() } else { Ok(own) }).transpose()?;
    paths::mask(root, &plan.masked_paths, null)?;
    if let Some(m) = last.and_then(|i| plan.mounts.get(i)) {
        mount_cgroups(plan, root, m, (report, rest, true))?;
        working_directory(root, &plan.process)?;
    }
    crate::log::step(|| "root.path: changes the root");
    finish_root(root, plan)?;
    if whole {
        paths::readonly_root(root, true).at(|| "linux.readonlyPaths")?;
    }
    Ok(procfs)
}

/// Makes a working directory that the image lacks, as runc does and engines rely on, while the root can be written.
fn working_directory(root: &Root, p: &crate::plan::process::Process) -> Result<()> {
    let path = &*crate::text::path(&p.cwd);
    match root.open(path, nix::fcntl::OFlag::O_DIRECTORY) {
        Err(Errno::ENOENT) => root.make_dir(path).map(drop).at(|| format!("{}.cwd", p.field)),
        // Whatever else is wrong with it is said when it is entered.
        _ => Ok(()),
    }
}

fn finish_root(root: &Root, plan: &Plan) -> Result<()> {
    if !plan.rootfs.private {
        paths::chroot(root).at(|| "root.path")?;
    } else if plan.rootfs.no_pivot {
        paths::move_root(root).at(|| "root.path")?;
    } else {
        paths::pivot(root).at(|| "root.path")?;
    }
    if plan.rootfs.propagation_given && plan.rootfs.private {
        paths::propagate("/", plan.rootfs.propagation).at(|| "linux.rootfsPropagation")?;
    }
    if plan.rootfs.readonly {
        paths::readonly_root(root, false).at(|| "root.readonly")?;
    }
    Ok(())
}

fn sysctls(plan: &Plan, procfs: &mut Option<procfs::Procfs>) -> Result<()> {
    for s in &plan.sysctls {
        let mut written = procfs::write_sysctl(procfs.as_ref(), s);
        // The container's own /proc may be mounted read-only.
        if procfs.is_none() || written.as_ref().is_err_and(|e| e.errno == Some(Errno::EROFS)) {
            let own = procfs::Procfs::new()?;
            written = procfs::write_sysctl(Some(&own), s);
        }
        written.at(|| s.field.clone())?;
    }
    Ok(())
}

fn names(plan: &Plan) -> Result<()> {
    if let Some(name) = &plan.hostname {
        nix::unistd::sethostname(name)
            .call(|| format!("sethostname({name:?})"))
            .at(|| "hostname")?;
    }
    if let Some(name) = &plan.domainname {
        proc::setdomainname(name)
            .call(|| format!("setdomainname({name:?})"))
            .at(|| "domainname")?;
    }
    Ok(())
}
