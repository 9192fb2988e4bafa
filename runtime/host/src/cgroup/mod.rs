//! The container's cgroup in every hierarchy of the host: made, limited, joined, removed.

pub mod files;
pub mod group;
pub mod limits;
mod processes;
pub mod snapshot;
pub mod stats;
pub mod systemd;

use crate::acts::hierarchy::Hierarchy;
use crate::error::{Context, Error, Kind, Result};
use crate::facts;
use crate::plan::cgroup::Cgroup;
use crate::text::is_below;
use files::{read, read_at, write_at};
pub use group::{Dir, Group};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use processes::{children, collect_pids};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directories of a planned cgroup, whether they exist or not. `base` is where the paths of a systemd unit begin.
pub fn paths(plan: &Cgroup, hierarchies: &[Hierarchy], base: &Path) -> Result<Vec<PathBuf>> {
    let own = if plan.relative {
        crate::acts::read_text("/proc/self/cgroup").unwrap_or_default()
    } else {
        String::new()
    };
    hierarchies
        .iter()
        .map(|h| {
            let parent = if plan.relative {
                own_path(&own, h).unwrap_or_default()
            } else {
                base.to_path_buf()
            };
            let below = crate::root::clean(&parent.join(&plan.path));
            if below.as_os_str().is_empty() {
                // Everything that follows may kill, freeze or attach a device program: never to the root.
                return Err(Error::invalid("linux.cgroupsPath", "resolves to the root cgroup"));
            }
            Ok(h.mount_point.join(below))
        })
        .collect()
}

/// Our own cgroup in a hierarchy (`id:controllers:path` of /proc/self/cgroup), or its parent on v2, where a cgroup
/// with processes cannot give controllers to its children.
fn own_path(text: &str, h: &Hierarchy) -> Option<PathBuf> {
    let line = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let same =
            if h.v2 { controllers.is_empty() } else { controllers == h.controllers.join(",") };
        same.then_some(path)
    })?;
    let path = &*crate::text::path(line);
    Some(if h.v2 { path.parent().unwrap_or(path).to_path_buf() } else { path.to_path_buf() })
}

/// Those of the directories, and of their parents, that do not exist yet; parents first. This goes into the record
/// before anything is made, so that a runtime killed in between leaves nothing unnamed.
pub fn missing(paths: &[PathBuf], hierarchies: &[Hierarchy]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for (path, h) in paths.iter().zip(hierarchies) {
        let mut levels: Vec<_> = path
            .ancestors()
            .take_while(|p| *p != h.mount_point && !p.exists())
            .map(Path::to_path_buf)
            .collect();
        levels.reverse();
        out.extend(levels);
    }
    out
}

impl Group {
    /// Makes the directories, `missing` being those that do not exist, and refuses existing ones that are in use.
    /// `made` is added to, so that a second attempt knows its own.
    ///
    /// # Errors
    /// `EEXIST` if a container's own directory was made by somebody else since `missing` was looked up.
    pub fn create(
        paths: &[PathBuf],
        hierarchies: &[Hierarchy],
        missing: &[PathBuf],
        made: &mut Vec<PathBuf>,
    ) -> Result<Group> {
        let mut dirs = Vec::with_capacity(paths.len());
        for (path, h) in paths.iter().zip(hierarchies) {
            for level in missing.iter().filter(|m| is_below(path, m)) {
                match nix::unistd::mkdir(level, Mode::from_bits_truncate(0o755)) {
                    Ok(()) => made.push(level.clone()),
                    // A parent that another container has made meanwhile.
                    Err(Errno::EEXIST) if level != path || made.contains(level) => {}
                    Err(e) => {
                        return Err(Error::call(e, format!("mkdir({})", level.display()))
                            .at("linux.cgroupsPath"))
                    }
                }
                if !h.v2 && h.has("cpuset") {
                    limits::inherit_cpuset(level, &h.mount_point, made.contains(level))?;
                }
            }
            let dir = open(path, h)?;
            if h.v2 {
                dir.check_domain()?;
                limits::enable_controllers(path, h)?;
            }
            if !made.contains(path) {
                dir.check_usable()?;
            }
            dirs.push(dir);
        }
        Ok(Group { dirs })
    }

    /// Opens what exists of the recorded directories.
    pub fn open(paths: &[PathBuf]) -> Group {
        Group::open_of(paths, |_| true)
    }

    /// Those of the hierarchy with the counters of memory alone.
    pub fn open_memory(paths: &[PathBuf]) -> Group {
        Group::open_of(paths, |h| h.has("memory"))
    }

    fn open_of(paths: &[PathBuf], wanted: fn(&Hierarchy) -> bool) -> Group {
        let hierarchies = facts::hierarchies();
        let dirs = paths
            .iter()
            .filter_map(|p| {
                let below = |h: &&Hierarchy| is_below(p, &h.mount_point) && *p != h.mount_point;
                let h = hierarchies.iter().filter(below);
                let h = h.max_by_key(|h| h.mount_point.as_os_str().len())?;
                if wanted(h) {
                    open(p, h).ok()
                } else {
                    None
                }
            })
            .collect();
        Group { dirs }
    }

    /// Opens every recorded directory.
    ///
    /// # Errors
    /// One of them is gone: whoever removed it has taken the container's limits and device rules with it, and nothing may
    /// be said or done as if it were there.
    pub fn open_all(paths: &[PathBuf]) -> Result<Group> {
        let group = Group::open(paths);
        let there = |p: &&PathBuf| group.dirs.iter().any(|d| d.path == **p);
        match paths.iter().find(|p| !there(p)) {
            None => Ok(group),
            Some(path) => {
                let what =
                    format!("the container's cgroup {} does not exist any more", path.display());
                Err(Error { errno: Some(Errno::ENOENT), ..Error::new(Kind::System, what) })
            }
        }
    }

    /// # Errors
    /// What is in the cgroup would not run, and be waited for in vain.
    pub fn check_thawed(&self) -> Result<()> {
        match frozen_by(&self.dirs) {
            None => Ok(()),
            Some(path) => {
                let what = format!(
                    "the cgroup {} is frozen: a container in or below it cannot start",
                    path.display()
                );
                Err(Error::new(Kind::Status, what).at("linux.cgroupsPath"))
            }
        }
    }

    /// The v2 directory: the target of CLONE_INTO_CGROUP, of cgroup.kill and of device programs.
    pub fn unified(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.hierarchy.v2)
    }

    pub fn dir(&self, controller: &str) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.hierarchy.has(controller))
    }

    /// The `tasks` files of the v1 directories, by which a process with one thread can [`enter`] them by itself: whoever
    /// moves another process waits, on an idle host, for every processor to pass a quiescent state (10 ms;
    /// `cgroup_threadgroup_rwsem`), which a thread that moves itself does not (Linux 5.4, `cgroup_procs_write_start`).
    ///
    /// None without the host's root: the kernel then compares the users of opener and process, and the latter changes.
    pub fn tasks(&self) -> Result<Vec<(String, OwnedFd)>> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let v1 = self.dirs.iter().filter(|d| self.by_itself(d));
        v1.map(|d| {
            let fd = nix::fcntl::openat(&d.fd, "tasks", flags, Mode::empty());
            let path = d.path.display().to_string();
            let fd =
                fd.call(|| format!("open({path}/tasks)")).map_err(|e| e.at("linux.cgroupsPath"))?;
            Ok((path, fd))
        })
        .collect()
    }

    fn by_itself(&self, dir: &Dir) -> bool {
        !dir.hierarchy.v2 && self.dirs.len() <= crate::sync::MAX_FDS && facts::host_root()
    }

    /// Moves a process into every directory that it was not born in and does not enter by its [`Group::tasks`].
    pub fn join(&self, pid: i32) -> Result<()> {
        self.to_join(pid).try_for_each(|dir| dir.join(pid))
    }

    /// The directories of [`Group::join`].
    pub fn to_join(&self, pid: i32) -> impl Iterator<Item = &Dir> {
        self.dirs.iter().filter(move |d| !(self.by_itself(d) || d.hierarchy.v2 && d.holds(pid)))
    }

    /// True if the v2 cgroup has room for so many further processes.
    pub fn has_room_for(&self, processes: u64) -> bool {
        let number = |file| {
            self.unified()
                .and_then(|d| read_at(d.fd.as_fd(), file).ok()?.trim().parse::<u64>().ok())
        };
        let (Some(max), Some(now)) = (number("pids.max"), number("pids.current")) else {
            return true;
        };
        now + processes <= max
    }

    /// Gives the directory and the files that move processes and enable controllers to a user; the limits stay ours
    /// (cgroups(7), "Delegation").
    pub fn give_to(&self, uid: u32) -> Result<()> {
        let Some(dir) = self.unified() else { return Ok(()) };
        let list = read(Path::new("/sys/kernel/cgroup/delegate"))
            .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads".into());
        for file in std::iter::once("").chain(list.lines()) {
            let path = dir.path.join(file);
            match std::os::unix::fs::lchown(&path, Some(uid), None) {
                // Files of controllers that are not enabled here.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.call(|| format!("lchown({}, {uid})", path.display()))?,
            }
        }
        Ok(())
    }

    /// The hierarchy to ask for processes: one that a container cannot leave by itself.
    fn process_dir(&self) -> Option<&Dir> {
        self.dir("devices")
            .or_else(|| self.dir("memory"))
            .or_else(|| self.unified())
            .or(self.dirs.first())
    }

    /// Kills every process: atomically by cgroup.kill (Linux 5.14), else frozen first so that no fork escapes.
    pub fn kill_all(&self, signal: i32) {
        if signal == libc::SIGKILL {
            if let Some(dir) = self.unified() {
                // With those of sub-cgroups, which alone may hold processes.
                let populated = read_at(dir.fd.as_fd(), "cgroup.events")
                    .is_ok_and(|t| t.contains("populated 1"));
                if populated
                    && write_at(dir.fd.as_fd(), "cgroup.kill", "1").is_ok()
                    && self.dirs.len() == 1
                {
                    return;
                }
            }
        }
        // The signal comes first: a process in an uninterruptible sleep never freezes, and one that freezes slowly
        // must not keep the others alive.
        self.signal(signal);
        let frozen = self.freeze_within(true, Duration::from_millis(500)).is_ok();
        if frozen {
            self.signal(signal);
            let _ = self.freeze(false);
        }
    }

    /// Signals each process by a descriptor. The number in a cgroup's file can be a stranger's by the time it is opened:
    /// a process that is listed again while its descriptor is open is that one.
    fn signal(&self, signal: i32) {
        let open = |pid: &i32| {
            Some((*pid, conex_sys::proc::pidfd_open(nix::unistd::Pid::from_raw(*pid)).ok()?))
        };
        for some in self.pids().chunks(256) {
            let opened: Vec<(i32, OwnedFd)> = some.iter().filter_map(open).collect();
            let still = self.pids();
            for (_, fd) in opened.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
                let _ = conex_sys::proc::pidfd_send_signal(fd.as_fd(), signal);
            }
        }
    }

    /// Freezes or thaws, and waits until the kernel says so.
    pub fn freeze(&self, on: bool) -> Result<()> {
        self.freeze_within(on, Duration::from_secs(10))
    }

    fn freeze_within(&self, on: bool, limit: Duration) -> Result<()> {
        let v1 = self.dirs.iter().find(|d| !d.hierarchy.v2 && d.hierarchy.has("freezer"));
        let (dir, file, value) = match v1 {
            Some(d) => (d, "freezer.state", if on { "FROZEN" } else { "THAWED" }),
            None => {
                let dir = self.unified().ok_or_else(|| {
                    Error::new(
                        Kind::Unsupported,
                        "this host has no freezer: neither cgroup v2 nor the v1 freezer controller",
                    )
                })?;
                (dir, "cgroup.freeze", if on { "1" } else { "0" })
            }
        };
        let call = || format!("write({}/{file}, {value})", dir.path.display());
        let started = std::time::Instant::now();
        for attempt in 0u32.. {
            if started.elapsed() >= limit {
                break;
            }
            // A v1 cgroup whose task is just forking stays FREEZING; writing again makes it look anew, and thawing
            // shortly in between lets a task out that waits for another one.
            if v1.is_none() && attempt > 0 {
            } else {
                write_at(dir.fd.as_fd(), file, value).call(call)?;
            }
            if is_frozen(std::slice::from_ref(&dir.path)) == on {
                return Ok(());
            }
            if v1.is_some() && on && attempt % 50 == 49 {
                let _ = write_at(dir.fd.as_fd(), file, "THAWED");
            }
            std::thread::sleep(Duration::from_millis(if attempt < 10 { 1 } else { 10 }));
        }
        let _ = write_at(dir.fd.as_fd(), file, if v1.is_some() { "THAWED" } else { "0" });
        Err(Error::new(
            Kind::System,
            format!("{}: still not {value} after {limit:?}; thawed again", dir.path.display()),
        ))
    }
}

fn open(path: &Path, h: &Hierarchy) -> Result<Dir> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    let fd = nix::fcntl::open(path, flags, Mode::empty())
        .call(|| format!("open({}, O_DIRECTORY)", path.display()))
        .map_err(|e| e.at("linux.cgroupsPath"))?;
    Ok(Dir { path: path.to_path_buf(), fd, hierarchy: h.clone() })
}

impl Dir {
    /// A threaded cgroup, or one below it, takes threads alone, and no limit of memory (cgroups(7), "Thread mode").
    fn check_domain(&self) -> Result<()> {
        let kind = read_at(self.fd.as_fd(), "cgroup.type").unwrap_or_default();
        match kind.trim() {
            kind @ ("threaded" | "domain invalid") => Err(Error::invalid(
                "linux.cgroupsPath",
                format!("{} takes no process: its cgroup.type is {kind:?}", self.path.display()),
            )),
            _ => Ok(()),
        }
    }

    /// Moves a process here.
    pub fn join(&self, pid: i32) -> Result<()> {
        write_at(self.fd.as_fd(), "cgroup.procs", &pid.to_string())
            .call(|| format!("write({}/cgroup.procs, {pid})", self.path.display()))
            .map_err(|e| e.at("linux.cgroupsPath"))
    }

    /// True if the process is in this very directory.
    pub fn holds(&self, pid: i32) -> bool {
        read_at(self.fd.as_fd(), "cgroup.procs")
            .is_ok_and(|t| t.lines().any(|l| l.parse() == Ok(pid)))
    }

    /// Those below count as well: a limit, a kill and a device program reach them too.
    pub fn processes(&self) -> usize {
        let mut found = Vec::new();
        collect_pids(&self.path, 0, &mut found);
        found.len()
    }

    /// True if the controller of numbers counts somebody here or below. On v1 `cgroup.procs` leaves out processes that the
    /// reader's PID namespace does not see; this counts all, and those that have ended until somebody reaps them.
    pub fn counts_any(&self) -> bool {
        read_at(self.fd.as_fd(), "pids.current").is_ok_and(|t| t.trim() != "0")
    }

    /// A directory that was there before must hold nobody and must not be frozen: we would limit, kill or wait for
    /// processes that are not ours.
    fn check_usable(&self) -> Result<()> {
        let count = self.processes();
        if count > 0 {
            let what = format!(
                "container's cgroup is not empty: {count} process(es) found in {}",
                self.path.display()
            );
            return Err(Error::invalid("linux.cgroupsPath", what));
        }
        let holds_freezer = self.hierarchy.v2 || self.hierarchy.has("freezer");
        if holds_freezer && is_frozen(std::slice::from_ref(&self.path)) {
            return Err(Error::invalid(
                "linux.cgroupsPath",
                format!("container's cgroup unexpectedly frozen: {}", self.path.display()),
            ));
        }
        Ok(())
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cgroup whose freezer holds what is in one of these directories: itself, or one above it.
pub fn frozen_by(dirs: &[Dir]) -> Option<PathBuf> {
    let v1 = dirs.iter().find(|d| !d.hierarchy.v2 && d.hierarchy.has("freezer"));
    let (dir, file) = match v1 {
        Some(dir) => (dir, "freezer.self_freezing"),
        None => (dirs.iter().find(|d| d.hierarchy.v2)?, "cgroup.freeze"),
    };
    let levels = dir.path.ancestors().take_while(|p| p.starts_with(&dir.hierarchy.mount_point));
    let mut frozen = levels.filter(|p| read(&p.join(file)).is_ok_and(|t| t.trim() == "1"));
    frozen.next().map(Path::to_path_buf)
}

/// True if one of the recorded directories is a frozen freezer.
pub fn is_frozen(paths: &[PathBuf]) -> bool {
    let hierarchies = facts::hierarchies();
    paths.iter().any(|p| {
        // Without asking in nine hierarchies for a file that they never have.
        let of = hierarchies.iter().find(|h| is_below(p, &h.mount_point));
        if of.is_some_and(|h| !h.v2 && !h.has("freezer")) {
            return false;
        }
        read(&p.join("freezer.state")).is_ok_and(|t| t.trim() == "FROZEN")
            || (read(&p.join("cgroup.freeze")).is_ok_and(|t| t.trim() == "1")
                && read(&p.join("cgroup.events")).is_ok_and(|t| t.lines().any(|l| l == "frozen 1")))
    })
}

/// The processes in a cgroup and below it; 0 for each outside our PID namespace.
/// Removes the directories that a container made, with what it made below them. `made` is in the order of making.
///
/// A cgroup whose last process is still dying is busy: one `patience` for all of them, then an error that names the
/// directory.
pub fn remove(made: &[PathBuf], patience: Duration) -> Result<()> {
    let mut first = None;
    let until = Instant::now() + patience;
    // Parents were recorded before their children.
    for (i, path) in made.iter().enumerate().rev() {
        let is_parent = made[i + 1..].iter().any(|later| is_below(later, path));
        match remove_one(path, Some(until).filter(|_| !is_parent)) {
            // Another container may live in a parent that this one happened to make.
            Err(e) if !is_parent => first = first.or(Some(e)),
            _ => {}
        }
    }
    first.map_or(Ok(()), Err)
}

/// Tries to remove the directories without any waiting; true if all of a container's own are gone.
pub fn remove_at_once(made: &[PathBuf]) -> bool {
    let mut all = true;
    for (i, path) in made.iter().enumerate().rev() {
        let is_parent = made[i + 1..].iter().any(|later| is_below(later, path));
        match std::fs::remove_dir(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => all &= is_parent,
            _ => {}
        }
    }
    all
}

/// Without a deadline only what is empty goes.
fn remove_one(path: &Path, until: Option<Instant>) -> Result<()> {
    for attempt in 0u32.. {
        match std::fs::remove_dir(path)
            .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) if until.is_some() => {
                for sub in children(path) {
                    let _ = remove_one(&sub, Some(Instant::now()));
                }
            }
            Err(e) => return Err(Error::call(e, format!("rmdir({})", path.display()))),
        }
        if attempt > 0 && until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        // 1, 2, 4 … 256 ms, then that again.
        std::thread::sleep(Duration::from_millis(1 << attempt.min(8)));
    }
    let left = read(&path.join("cgroup.procs")).map_or(0, |t| t.lines().count());
    Err(Error::call(
        Errno::EBUSY,
        format!("rmdir({}) with {left} process(es) left in it", path.display()),
    ))
}
