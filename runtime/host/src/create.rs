//! The spine of `create`: its steps in their order.

pub mod restore;

use crate::acts::hooks;
use crate::cgroup::systemd::{Manager, UnitRecord};
use crate::cgroup::{self, Dir, Group};
use crate::container::{
    explain, handshake, notified, oom_score, tell, unexpected, welcome, Container,
};
use crate::empty::Empty;
use crate::error::{Context, Error, Named, Result};
use crate::identity::identity;
use crate::order::{Order, Step, SYSTEMD, V1_AND_V2, V2};
use crate::plan::detached::is_cgroup;
use crate::plan::Plan;
use crate::spawn::spawn;
use crate::state::{Entry, State};
use crate::sync::{pair, Channel, Message};
use crate::{child, empty, facts, listener, netdev, rdt, sources, undo, userns};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How the container will be started.
#[derive(Clone, Copy)]
pub enum Start {
    /// By `start`, over a socket in the state directory.
    Later,
    /// By the caller of [`create`], who goes on with [`Container::sync`].
    Now,
    /// By nobody: it has the word for it as soon as it is in its cgroups, and goes on when it has prepared itself.
    AtOnce,
}

/// What is to be made, and what a record of it holds beside the plan.
pub struct Asked<'a> {
    pub plan: &'a Plan,
    /// The state root.
    pub root: &'a Path,
    pub start: Start,
    /// The text of config.json.
    pub document: &'a [u8],
}

/// Makes the container, up to the point where its program could be executed. On failure everything is undone.
pub fn create(asked: &Asked, entry: &Entry, state: &mut State) -> Result<Container> {
    let mut making = Making::new(asked, entry, state);
    match making.attempt() {
        // A source with the file of a mount namespace below it cannot come from outside (mnt_ns_loop, fs/namespace.c). A copy
        // of the host's mounts has no such files.
        Err(e) if making.detached && e.errno == Some(Errno::ELOOP) => {
            making.afresh();
            making.attempt()
        }
        made => made,
    }
}

/// A container that is being made.
struct Making<'a> {
    asked: &'a Asked<'a>,
    plan: &'a Plan,
    entry: &'a Entry,
    state: &'a mut State,
    group: Group,
    /// Of the cgroups in the record, those that it has made itself by now.
    made: Vec<PathBuf>,
    /// Limits that an unprivileged runtime could not apply.
    warnings: Vec<Error>,
    /// The child sees nothing of the host's mounts.
    detached: bool,
    /// It must see them.
    copies: bool,
    /// The document lies beside the record.
    documented: bool,
    /// What the child has still to hear before it may hear that it can go on.
    answers: usize,
}

impl<'a> Making<'a> {
    fn new(asked: &'a Asked<'a>, entry: &'a Entry, state: &'a mut State) -> Making<'a> {
        Making {
            asked,
            plan: asked.plan,
            entry,
            state,
            group: Group { dirs: Vec::new() },
            made: Vec::new(),
            warnings: Vec::new(),
            detached: false,
            copies: false,
            documented: false,
            answers: 0,
        }
    }

    fn attempt(&mut self) -> Result<Container> {
        let made = self.all();
        self.or_undone(made)
    }

    fn or_undone(&self, made: Result<Container>) -> Result<Container> {
        made.map_err(|e| {
            // Undo goes on after a failure and tells all of them.
            let mut problems = undo::container(self.state, None);
            problems.extend(undo::limits(self.state));
            undo::with(e, problems)
        })
    }

    /// As before the first attempt, which has been undone.
    fn afresh(&mut self) {
        self.group.dirs.clear();
        self.warnings.clear();
        (self.detached, self.copies) = (false, true);
        self.state.init = None;
        self.state.systemd_unit = None;
        self.state.made_cgroups.clear();
        self.made.clear();
        self.state.cgroups_before.clear();
    }

    /// The whole, beside what the child does meanwhile ([`crate::child`]).
    ///
    /// ```text
    /// 1  what will be made goes into the record
    /// 2  cgroups, as far as they come before the child
    /// 3  what the child inherits: sources, program, sockets
    /// 4  the clone ─────────────────────────────▶ user, time and mount namespaces; root file system
    /// 5  cgroups, as far as they come after it     mounts
    /// 6  the conversation ◀─────────────────────▶ maps, cgroups entered, hooks, terminal, listener (crate::sync)
    /// 7  ◀──────────────── Ready ────────────────  user, labels, program found; waits
    ///    the record says who it is; of `AtOnce` it has said so in 6
    /// ```
    fn all(&mut self) -> Result<Container> {
        let mut manager = self.announce()?;
        let order = self.order();
        self.steps(order.before, &mut manager, 0)?;
        let dir = open_dir(self.asked.root);
        let empty = self.empty(&dir);
        let (ours, inherited) = self.inherited(&dir, empty.as_ref())?;
        self.detached = empty.is_some();
        let mut c = spawn(self.plan, inherited, ours, &self.group, empty)?;
        crate::log::step(|| format!("made the process {}", c.pid));
        let made = self
            .steps(order.after, &mut manager, c.pid.as_raw())
            .and_then(|()| self.converse(&mut c));
        c.warnings = std::mem::take(&mut self.warnings);
        // It waits, and the record says who it is.
        match made.and_then(|()| if c.released { Ok(()) } else { self.publish() }) {
            Ok(()) => Ok(c),
            Err(e) => {
                let e = explain(e, "container init", Some(c.pidfd.as_fd()), &self.group);
                c.end();
                Err(e)
            }
        }
    }

    /// Our half of the conversation drawn in [`crate::sync`], up to `Ready`.
    fn converse(&mut self, c: &mut Container) -> Result<()> {
        let (plan, pid) = (self.plan, c.pid.as_raw());
        self.group.join(pid)?;
        oom_score(pid, &plan.process)?;
        if let Some(rdt) = &plan.rdt {
            rdt::join(rdt, &plan.id, pid)?;
        }
        netdev::move_all(plan, pid)?;
        welcome(c, &plan.process, self.group.tasks()?, false)?;
        if self.detached && plan.mounts.iter().any(is_cgroup) {
            // Opened while the child enters them.
            tell(c, &Message::Trees(sources::cgroups(plan, &self.state.cgroups)?))?;
        }
        self.prepare(c)?;
        self.answers = answers(plan);
        self.go_on(c, 0)?;
        let group = Group { dirs: std::mem::take(&mut self.group.dirs) };
        let talked = handshake(c, Some(&group), &mut |c, message| match message {
            Message::NeedMaps => {
                if let Some(maps) = &plan.namespaces.maps {
                    userns::write_maps(c.pid, maps, !nix::unistd::geteuid().is_root())?;
                }
                tell(c, &Message::Mapped)?;
                self.go_on(c, 1)
            }
            Message::Rooted => {
                runtime_hooks(plan, pid)?;
                tell(c, &Message::Go)?;
                self.go_on(c, 1)
            }
            Message::Notify(number) => {
                notified(&plan.process, c, number, &state_document(plan, "creating", pid))
            }
            other => Err(unexpected(&other)),
        });
        self.group = group;
        talked
    }

    /// The child has heard so many of its answers. After the last one it is told to go on, if nobody else will say so, and
    /// before that everybody who it is: from then on its program can run.
    fn go_on(&mut self, c: &mut Container, heard: usize) -> Result<()> {
        self.answers -= heard;
        let wanted = matches!(self.asked.start, Start::AtOnce) && self.warnings.is_empty();
        if wanted && self.answers == 0 {
            self.publish()?;
            tell(c, &Message::Created)?;
            c.released = true;
        }
        Ok(())
    }

    /// Everybody sees what [`Making::prepare`] has written.
    fn publish(&self) -> Result<()> {
        self.entry.publish("state.json")
    }

    fn order(&self) -> Order {
        match (&self.plan.cgroup.unit, self.plan.cgroup.hierarchies.as_slice()) {
            (Some(_), _) => SYSTEMD,
            (None, [only]) if only.v2 => V2,
            (None, _) => V1_AND_V2,
        }
    }

    /// Where everything will be; for a unit, systemd is asked, and named in the record.
    fn announce(&mut self) -> Result<Option<Manager>> {
        let (plan, state) = (self.plan, &mut *self.state);
        let hierarchies = &plan.cgroup.hierarchies;
        let mut manager = None;
        let mut base = PathBuf::new();
        if let Some(unit) = &plan.cgroup.unit {
            let mut connected = Manager::connect(unit.user).at(|| "linux.cgroupsPath")?;
            base = connected.control_group()?;
            let description = format!("conex container {}, created {}", plan.id, state.created);
            state.systemd_unit =
                Some(UnitRecord { name: unit.name.clone(), description, user: unit.user });
            manager = Some(connected);
        }
        state.cgroups = cgroup::paths(&plan.cgroup, hierarchies, &base)?;
        if !plan.rootfs.private {
            state.rootfs_mounts = Some(undo::mounts_at(&plan.rootfs.path));
        }
        if let Some(rdt) = &plan.rdt {
            state.rdt = rdt::to_make(rdt, &plan.id);
            state.rdt_group = Some(rdt::group(rdt));
        }
        Ok(manager)
    }

    fn steps(&mut self, steps: &[Step], manager: &mut Option<Manager>, pid: i32) -> Result<()> {
        for step in steps {
            let made = match (step, manager.as_mut()) {
                (Step::Limits, _) => {
                    // Who is frozen would not run, nor be waited for without an end.
                    self.group.check_thawed()?;
                    self.limit()?;
                    continue;
                }
                (Step::Devices, _) => {
                    self.devices()?;
                    continue;
                }
                (Step::Directories { v2 }, _) => self.directories(*v2),
                (Step::Unit, Some(manager)) => self.start_unit(manager, pid),
                (Step::Record | Step::Unit, _) => self.entry.save(self.state).map(|()| Vec::new()),
            };
            match made {
                Err(e) if forbidden(&e) => self.without_cgroup()?,
                made => self.group.dirs.extend(made?),
            }
        }
        // Before the child is born there.
        if steps.iter().any(|s| matches!(s, Step::Limits | Step::Devices)) {
            Ok(())
        } else {
            self.group.check_thawed()
        }
    }

    /// Writes the record that will hold from `Ready` on, and the document, while the child is at work: then it would be
    /// waited for.
    fn prepare(&mut self, c: &Container) -> Result<()> {
        self.document(self.asked.document)?;
        self.state.init = Some(identity(c.pid.as_raw()));
        // From then on the limits stay, whatever becomes of the container.
        let before = std::mem::take(&mut self.state.cgroups_before);
        let written = self.entry.prepare(self.state);
        // Until then, and with what the caller has still to do, it can fail.
        self.state.cgroups_before = before;
        written
    }

    /// The document of the record, the first time.
    fn document(&mut self, text: &[u8]) -> Result<()> {
        if std::mem::replace(&mut self.documented, true) {
            return Ok(());
        }
        self.entry.write_new("config.json", text)?;
        self.entry.link(crate::state::BUNDLE, &self.plan.bundle)
    }

    /// Everything that the child gets beside the plan, and our end of the channel.
    fn inherited(
        &self,
        root: &Option<OwnedFd>,
        empty: Option<&Empty>,
    ) -> Result<(Channel, child::Inherited)> {
        let plan = self.plan;
        let listener = match self.asked.start {
            Start::Later => Some(start_socket(self.entry)?),
            Start::Now | Start::AtOnce => None,
        };
        let program = plan.process.seccomp.as_ref().map(|filter| {
            crate::programs::program(root.as_ref().map(|d| d.as_fd()), &filter.profile)
        });
        let program = program.transpose()?;
        if let Some(maps) = &plan.namespaces.maps {
            hand_over_stdio(plan, maps);
        }
        crate::log::step(|| format!("cgroups: {:?}", self.state.cgroups));
        let inside =
            !plan.hooks.create_container.is_empty() || !plan.hooks.start_container.is_empty();
        let (ours, theirs) = pair()?;
        let (own, sources) = sources::open(plan, empty)?;
        let rest = child::Rest {
            own,
            sources,
            kcore: Path::new("/proc/kcore").exists(),
            joins: Vec::new(),
            cgroups: self.state.cgroups.clone(),
            start: listener,
            program,
            has_runtime_hooks: has_runtime_hooks(plan),
            cgroup_first: matches!(plan.cgroup.hierarchies.as_slice(), [only] if only.v2),
            into_cgroup: None,
            born: false,
            makes_time_namespace: plan.namespaces.creates(crate::plan::namespaces::CLONE_NEWTIME)
                && !facts::host_root(),
            hook_output: if inside { hooks::outputs(&plan.annotations)? } else { [None, None] },
        };
        Ok((ours, child::Inherited { sync: theirs, rest }))
    }

    /// The namespace that the child is born in, if it needs no copy of the host's mounts and there is one.
    fn empty(&self, root: &Option<OwnedFd>) -> Option<Empty> {
        let found = || empty::find(root.as_ref().map(|d| d.as_fd()), self.plan);
        let empty = (self.plan.rootfs.detached && !self.copies).then(found).flatten();
        crate::log::step(|| match empty {
            Some(_) => "mount namespace: of nothing, with trees of the host's",
            None => "mount namespace: a copy of the host's",
        });
        empty
    }

    /// From then on the unit's cgroups are the container's own; on v1 systemd has made only some of them.
    fn start_unit(&mut self, manager: &mut Manager, pid: i32) -> Result<Vec<Dir>> {
        let (plan, state) = (self.plan, &mut *self.state);
        let (Some(unit), Some(record)) = (&plan.cgroup.unit, state.systemd_unit.clone()) else {
            return Ok(Vec::new());
        };
        let hierarchies = &plan.cgroup.hierarchies;
        manager.start(&plan.cgroup, unit, &record, pid)?;
        let mut own = state.cgroups.clone();
        own.extend(cgroup::missing(&state.cgroups, hierarchies));
        own.sort();
        own.dedup();
        state.made_cgroups = own;
        self.entry.save(state)?;
        let mut made = state.cgroups.clone();
        Group::create(&state.cgroups, hierarchies, &state.made_cgroups, &mut made)
            .map(|group| group.dirs)
    }

    /// Records what will be made, then makes it. A parent that another container removes in between (it had made it, and
    /// ended) is made again, under a new record.
    fn directories(&mut self, v2: bool) -> Result<Vec<Dir>> {
        let (entry, state, hierarchies) =
            (self.entry, &mut *self.state, &self.plan.cgroup.hierarchies);
        let (paths, wanted): (Vec<_>, Vec<_>) = state
            .cgroups
            .iter()
            .cloned()
            .zip(hierarchies.iter().cloned())
            .filter(|(_, h)| h.v2 == v2)
            .unzip();
        let (mut attempts, made) = (0, &mut self.made);
        loop {
            let before = state.made_cgroups.len();
            for path in cgroup::missing(&paths, &wanted) {
                if !state.made_cgroups.contains(&path) {
                    state.made_cgroups.push(path);
                }
            }
            state.made_cgroups.sort();
            if v2 || state.made_cgroups.len() > before {
                entry.save(state)?;
            }
            match Group::create(&paths, &wanted, &state.made_cgroups, made) {
                // ENODEV: it was opened before and written to after that.
                Err(e)
                    if matches!(e.errno, Some(Errno::ENOENT | Errno::ENODEV)) && attempts < 10 =>
                {
                    attempts += 1
                }
                Err(e) if e.errno == Some(Errno::EEXIST) => {
                    // Somebody else's after all: undo must neither kill there nor remove it.
                    state.made_cgroups.retain(|p| made.contains(p) || !paths.contains(p));
                    entry.save(state)?;
                    return Err(e);
                }
                other => return other.map(|group| group.dirs),
            }
        }
    }

    /// Goes on without a cgroup. Each limit that will not hold is named: as a warning, or as an error if the caller wants
    /// none of them lost (`--rootless=false`).
    fn without_cgroup(&mut self) -> Result<()> {
        let (plan, state, warnings) = (self.plan, &mut *self.state, &mut self.warnings);
        let told: std::collections::HashSet<String> =
            warnings.iter().map(|w| w.field.clone()).collect();
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
            warnings
                .push(Error::unsupported("linux.resources", format!("and {} more", more.len())));
        }
        // Where only some hierarchies are delegated, what was made in these.
        let _ = cgroup::remove_at_once(&state.made_cgroups);
        state.cgroups.clear();
        // What the child was born in goes with the container. A directory that was to be made may have been made by
        // somebody else meanwhile: that one is not this user's to remove.
        let made = &self.made;
        state.made_cgroups.retain(|dir| made.contains(dir) && dir.exists());
        self.group.dirs.clear();
        Ok(())
    }

    fn limit(&mut self) -> Result<()> {
        let (plan, group, entry, state) = (self.plan, &self.group, self.entry, &mut *self.state);
        if group.dirs.is_empty() {
            return Ok(());
        }
        let files = group.files(&plan.cgroup.limits);
        crate::log::step(|| format!("linux.resources: {} values", files.len()));
        state.cgroups_before =
            group.before(&files, plan.cgroup.devices.as_ref(), &state.made_cgroups);
        if !state.cgroups_before.is_empty() {
            entry.save(state)?;
        }
        group.apply(&files)?;
        if let Some(uid) = plan.cgroup.owner.filter(|_| facts::host_root()) {
            group.give_to(uid)?;
        }
        Ok(())
    }

    fn devices(&self) -> Result<()> {
        let rules = self.plan.cgroup.devices.as_ref().filter(|_| !self.group.dirs.is_empty());
        match rules.map_or(Ok(()), |d| self.group.devices(d)) {
            // bpf(2) and devices.deny take host root. Without it nobody can make a device node either: the container gets
            // the host's nodes bound, which the file permissions guard.
            Err(e) if forbidden(&e) => Ok(()),
            other => other,
        }
    }
}

/// How many messages a child of this plan waits for between `Enter` and `Created`.
fn answers(plan: &Plan) -> usize {
    let maps = plan.namespaces.creates(libc::CLONE_NEWUSER);
    usize::from(maps) + usize::from(has_runtime_hooks(plan))
}

fn state_document<'a>(plan: &'a Plan, status: &'a str, pid: i32) -> hooks::StateDocument<'a> {
    hooks::StateDocument {
        id: &plan.id,
        status,
        pid,
        bundle: &plan.bundle,
        annotations: &plan.annotations,
    }
}

/// The hooks that run when the namespaces are there.
fn runtime_hooks(plan: &Plan, pid: i32) -> Result<()> {
    let document = |status| state_document(plan, status, pid);
    let setting = hooks::Surroundings { cwd: Some(&plan.bundle), ..hooks::Surroundings::default() };
    // The deprecated hook predates the status: the OCI's validation suite and crun have it "created".
    hooks::run(&plan.hooks.prestart, "prestart", &document("created"), &setting)?;
    hooks::run(&plan.hooks.create_runtime, "createRuntime", &document("creating"), &setting)
}

fn has_runtime_hooks(plan: &Plan) -> bool {
    !plan.hooks.prestart.is_empty() || !plan.hooks.create_runtime.is_empty()
}

/// An unprivileged runtime that was delegated no cgroup.
fn forbidden(e: &Error) -> bool {
    let refused = matches!(e.errno, Some(Errno::EACCES | Errno::EPERM | Errno::EROFS));
    refused && !facts::host_root()
}

/// In a user namespace the child owns nothing of the host's, so the caller's pipes are given to the container's user
/// from here: it could not reopen /dev/stdout otherwise. See [`child::console::hand_over_stdio`].
fn hand_over_stdio(plan: &Plan, maps: &crate::plan::namespaces::Maps) {
    use crate::plan::namespaces::Maps;
    if plan.process.terminal || !plan.namespaces.creates(libc::CLONE_NEWUSER) || !facts::host_root()
    {
        return;
    }
    if let Some(uid) = Maps::to_host(&maps.uid, plan.process.uid) {
        child::console::give_stdio_to(uid, false);
    }
}

/// The state root, for what is kept there from one run to the next.
fn open_dir(root: &Path) -> Option<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    nix::fcntl::open(root, flags, Mode::empty()).ok()
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
