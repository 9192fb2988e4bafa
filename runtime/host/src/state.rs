//! The state directory: `<root>/<id>/` with `state.json`, `config.json` and, while created, `start.sock`.
//!
//! The record is on disk before the first side effect, with everything that undo needs (cgroup, owner), so that
//! whatever is killed at whatever moment, `delete --force` and a `create` of the same id can clean up.

use crate::cgroup::snapshot::Before;
use crate::cgroup::systemd::UnitRecord;
use crate::error::{Context, Error, Kind, Result};
use crate::identity::{alive, Identity};
use nix::errno::Errno;
use nix::fcntl::{openat, Flock, FlockArg, OFlag};
use nix::sys::stat::{fstat, Mode};
use nix::unistd::{unlinkat, UnlinkatFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Life cycle of runtime-spec (runtime.md "State"), plus runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What is known of an end, of `exitCode` (128 + n for signal n), `signal` (where it is certain), `exitedAt` (RFC 3339),
/// `oomKills`, `oomCgroup` with its `oomLimit` (bytes) and `deniedSyscall` with `arch` (AUDIT_ARCH_*).
pub type End = serde_json::Map<String, serde_json::Value>;

/// What is on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    pub oci_version: String,
    pub id: String,
    #[serde(with = "crate::text::serde_path")]
    pub bundle: PathBuf,
    #[serde(with = "crate::text::serde_path")]
    pub rootfs: PathBuf,
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 with nanoseconds, UTC.
    pub created: String,
    pub owner_uid: u32,
    /// The runtime that is creating the container; its death makes the record stale.
    pub owner: Identity,
    /// `None` while creating.
    pub init: Option<Identity>,
    /// The container's cgroup directories, one per hierarchy.
    #[serde(with = "crate::text::serde_paths")]
    pub cgroups: Vec<PathBuf>,
    /// Those of [`State::cgroups`] that this container made, which undo removes.
    #[serde(with = "crate::text::serde_paths")]
    pub made_cgroups: Vec<PathBuf>,
    /// While creating: what the other ones of [`State::cgroups`] held before their limits were changed.
    pub cgroups_before: Vec<Before>,
    /// The PID namespace that the numbers in this record belong to, by its inode; 0 in records of older builds.
    pub pid_namespace: u64,
    /// False if the PID namespace is not the container's own: killing init then does not end the others.
    pub private_pid: bool,
    /// The resctrl directory that this container made.
    pub rdt: Option<PathBuf>,
    /// The resctrl group that it is in.
    pub rdt_group: Option<PathBuf>,
    /// False for a container made with --no-new-keyring: its further processes keep the caller's as well.
    pub keyring: bool,
    /// The unit of a container made with the systemd driver.
    pub systemd_unit: Option<UnitRecord>,
    /// Without a mount namespace: how many mounts the rootfs had before the container's own.
    pub rootfs_mounts: Option<usize>,
    /// How it ended, if `run --keep` has seen that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// In a container's directory, a link to its bundle: what is left to go by when the record is damaged.
pub const BUNDLE: &str = "bundle";

/// The directory of all containers.
pub struct Store {
    fd: OwnedFd,
    pub path: PathBuf,
}

/// One container's directory, locked while this value lives.
pub struct Entry {
    dir: Flock<OwnedFd>,
    root: OwnedFd,
    pub id: String,
    pub path: PathBuf,
}

/// runc's rule: letters, digits and `_+-.`; but none that begins with a dot: such names in the root are ours.
pub fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 1024 || id.starts_with('.') || !id.chars().all(plain) {
        return Err(Error::new(
            Kind::Invalid,
            format!("invalid container ID format {id:?}: letters, digits and _+-. are allowed, not a dot at its beginning"),
        ));
    }
    Ok(())
}

impl Store {
    /// Opens the root directory. It is made with mode 0700 if `create`; a missing one is an empty store otherwise.
    pub fn open(path: &Path, create: bool) -> Result<Option<Store>> {
        if create && !path.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .call(|| format!("mkdir({})", path.display()))
                .map_err(|e| e.at("--root"))?;
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        match nix::fcntl::open(path, flags, Mode::empty()) {
            Err(Errno::ENOENT) if !create => Ok(None),
            other => {
                let fd = other
                    .call(|| format!("open({}, O_DIRECTORY)", path.display()))
                    .map_err(|e| e.at("--root"))?;
                Ok(Some(Store { fd, path: path.to_path_buf() }))
            }
        }
    }

    pub fn ids(&self) -> Result<Vec<String>> {
        let mut ids: Vec<String> = std::fs::read_dir(&self.path)
            .call(|| format!("readdir({})", self.path.display()))?
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && check_id(name).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Makes the directory of a new container and locks it.
    ///
    /// # Errors
    /// `container with given ID already exists`, unless what is there is a record whose owner died while creating:
    /// the caller replays it (see [`Store::find`]) and tries again.
    pub fn reserve(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        let taken =
            || Error::new(Kind::Status, format!("container with given ID already exists: {id}"));
        for _ in 0..100 {
            match nix::sys::stat::mkdirat(&self.fd, id, Mode::S_IRWXU) {
                Err(Errno::EEXIST) => return Err(taken()),
                made => made.call(|| format!("mkdir({}/{id})", self.path.display()))?,
            }
            match self.entry(id) {
                // Another create took the directory, still empty and not yet locked, for one that was left behind.
                Err(e) if e.kind == Kind::NotFound => continue,
                // One that lost its own directory that way has taken this one, and is done with its container.
                Ok(entry) if entry.read("state.json").is_ok() => return Err(taken()),
                other => return other,
            }
        }
        Err(missing(id))
    }

    /// Locks an existing container's directory.
    pub fn find(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        self.entry(id)
    }

    /// The same for somebody who only reads: many at once, but nobody who changes something.
    pub fn find_shared(&self, id: &str) -> Result<Entry> {
        check_id(id)?;
        self.entry_by(id, FlockArg::LockSharedNonblock)
    }

    fn entry(&self, id: &str) -> Result<Entry> {
        self.entry_by(id, FlockArg::LockExclusiveNonblock)
    }

    fn entry_by(&self, id: &str, how: FlockArg) -> Result<Entry> {
        loop {
            let dir = self.open_dir(id)?;
            let dir = self.lock(dir, id, how)?;
            // Deleted, and perhaps made anew, while we waited for the lock?
            if fstat(dir.as_fd()).is_ok_and(|s| s.st_nlink > 0) {
                let root = self.fd.try_clone().call(|| "dup")?;
                return Ok(Entry { dir, root, id: id.to_string(), path: self.path.join(id) });
            }
        }
    }

    /// Waits ten seconds at most: a hook may hang, or call the runtime for the very container that it belongs to.
    fn lock(&self, mut dir: OwnedFd, id: &str, how: FlockArg) -> Result<Flock<OwnedFd>> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut pause = std::time::Duration::from_micros(200);
        loop {
            match Flock::lock(dir, how) {
                Ok(locked) => return Ok(locked),
                Err((back, Errno::EWOULDBLOCK)) if std::time::Instant::now() < deadline => {
                    dir = back
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    let what = format!(
                        "container {id:?} is in use: others have held its lock for 10 seconds"
                    );
                    return Err(Error::new(Kind::Status, what));
                }
                Err((_, e)) => {
                    return Err(Error::call(e, format!("flock({}/{id})", self.path.display())))
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(std::time::Duration::from_millis(20));
        }
    }

    fn open_dir(&self, id: &str) -> Result<OwnedFd> {
        // O_NOFOLLOW: a symlink in the place of the directory would lead every later write astray.
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        match openat(&self.fd, id, flags, Mode::empty()) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Err(missing(id)),
            other => other.call(|| format!("openat({}/{id}, O_DIRECTORY)", self.path.display())),
        }
    }

    /// The state of a container without taking its lock: a query never waits for a slow `create`.
    pub fn peek(&self, id: &str) -> Result<(State, Status)> {
        let (dir, state) = self.look(id)?;
        let status = status(dir.as_fd(), &state)?;
        Ok((state, status))
    }

    /// The record alone, without what has become of the container: that costs ten times as much.
    pub fn record(&self, id: &str) -> Result<State> {
        self.look(id).map(|(_, state)| state)
    }

    fn look(&self, id: &str) -> Result<(OwnedFd, State)> {
        check_id(id)?;
        let dir = self.open_dir(id)?;
        let state = read_state(dir.as_fd(), id).map_err(|e| {
            // A create that has only just made the directory, or a delete that has emptied it: nothing to ask for.
            let bare = |name| read_file(dir.as_fd(), name) == Err(Errno::ENOENT);
            if bare("state.json") && bare("config.json") {
                missing(id)
            } else {
                e
            }
        })?;
        Ok((dir, state))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub fn missing(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("container {id:?} does not exist"))
}

fn read_file(dir: BorrowedFd, name: &str) -> nix::Result<Vec<u8>> {
    let fd =
        openat(dir, name, OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .read_to_end(&mut bytes)
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(bytes)
}

fn read_state(dir: BorrowedFd, id: &str) -> Result<State> {
    let bytes = read_file(dir, "state.json").map_err(|e| match e {
        Errno::ENOENT => Error::new(
            Kind::System,
            format!("container {id:?} has no state.json; delete --force removes it"),
        ),
        e => Error::call(e, format!("open({id}/state.json)")),
    })?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(
            Kind::System,
            format!("container {id:?}: state.json is damaged ({e}); delete --force removes it"),
        )
    })
}

/// The status as the kernel sees it now.
///
/// # Errors
/// The record's numbers mean nothing here: what looks ended could run on.
fn status(dir: BorrowedFd, state: &State) -> Result<Status> {
    if state.pid_namespace != 0 && state.pid_namespace != crate::identity::pid_namespace() {
        // A state directory outlives the namespace of its runtime (an engine in a container that is started again). The
        // cgroups are the same for all: they count processes of other namespaces as well.
        let group = crate::cgroup::Group::open(&state.cgroups);
        if !state.cgroups.is_empty()
            && group.dirs.iter().all(|d| d.processes() == 0 && !d.counts_any())
        {
            return Ok(Status::Stopped);
        }
        let what = format!(
            "container {:?} was made by a runtime in another PID namespace, and may live there: ask there",
            state.id
        );
        return Err(Error::new(Kind::Status, what));
    }
    Ok(match state.init {
        None if alive(state.owner) => Status::Creating,
        None => Status::Stopped,
        Some(init) if !alive(init) => Status::Stopped,
        Some(_) if crate::cgroup::is_frozen(&state.cgroups) => Status::Paused,
        Some(_)
            if nix::sys::stat::fstatat(
                dir,
                "start.sock",
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .is_ok() =>
        {
            Status::Created
        }
        Some(_) => Status::Running,
    })
}

impl Entry {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub fn load(&self) -> Result<State> {
        read_state(self.fd(), &self.id)
    }

    /// Loads the state together with the status.
    pub fn state(&self) -> Result<(State, Status)> {
        let state = self.load()?;
        let status = status(self.fd(), &state)?;
        Ok((state, status))
    }

    pub fn save(&self, state: &State) -> Result<()> {
        self.prepare(state)?;
        self.publish("state.json")
    }

    /// All of [`Entry::save`] but the last call, after which everybody sees it ([`Entry::publish`]).
    pub fn prepare(&self, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec(state)
            .map_err(|e| Error::new(Kind::System, format!("state.json: {e}")))?;
        self.write_beside("state.json", &bytes)
    }

    /// Writes a file that nobody reads yet: the directory is new.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let at = || format!("{}/{name}", self.path.display());
        let fd = openat(self.fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .call(|| format!("open({}, O_CREAT|O_EXCL)", at()))?;
        std::fs::File::from(fd).write_all(bytes).call(|| format!("write({})", at()))
    }

    /// Writes a file whole: a temporary one, then renameat.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_beside(name, bytes)?;
        self.publish(name)
    }

    fn write_beside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = format!(".{name}");
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let at = || format!("{}/{name}", self.path.display());
        let fd = openat(self.fd(), temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .call(|| format!("open({}, O_CREAT)", at()))?;
        std::fs::File::from(fd).write_all(bytes).call(|| format!("write({})", at()))
    }

    pub fn publish(&self, name: &str) -> Result<()> {
        nix::fcntl::renameat(self.fd(), format!(".{name}").as_str(), self.fd(), name)
            .call(|| format!("rename({}/{name})", self.path.display()))
    }

    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        read_file(self.fd(), name).call(|| format!("open({}/{name})", self.path.display()))
    }

    pub fn link(&self, name: &str, to: &Path) -> Result<()> {
        nix::unistd::symlinkat(to, self.fd(), name)
            .call(|| format!("symlinkat({}/{name})", self.path.display()))
    }

    pub fn read_link(&self, name: &str) -> Option<PathBuf> {
        nix::fcntl::readlinkat(self.fd(), name).ok().map(PathBuf::from)
    }

    pub fn unlink(&self, name: &str) {
        let _ = unlinkat(self.fd(), name, UnlinkatFlags::NoRemoveDir);
    }

    /// Removes the directory and what is in it, by descriptor: a planted symlink is removed, not followed.
    pub fn remove(&self) -> Result<()> {
        // In this order a query that comes in between sees the record, or nothing at all.
        self.unlink("config.json");
        self.unlink("state.json");
        remove_content(self.fd(), 0);
        match unlinkat(&self.root, self.id.as_str(), UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            other => other.call(|| format!("rmdir({})", self.path.display())),
        }
    }
}

fn remove_content(dir: BorrowedFd, depth: u32) {
    // A fresh description: reading a directory moves the offset that a duplicate would share.
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let Ok(fd) = openat(dir, ".", flags, Mode::empty()) else {
        return;
    };
    let Ok(mut entries) = nix::dir::Dir::from_fd(fd) else {
        return;
    };
    let names: Vec<_> = entries.iter().flatten().map(|e| e.file_name().to_owned()).collect();
    for name in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
        if unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) != Err(Errno::EISDIR)
            || depth > 8
        {
            continue;
        }
        if let Ok(sub) = openat(dir, name.as_c_str(), flags | OFlag::O_NOFOLLOW, Mode::empty()) {
            remove_content(sub.as_fd(), depth + 1);
        }
        let _ = unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", "A-1_b.c+d", "0"] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        let long = "x".repeat(1025);
        for bad in
            ["", ".", "..", ".cache", "a/b", "../x", "a b", "a:b", "é", "a\nb", long.as_str()]
        {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
