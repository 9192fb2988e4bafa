//! What is not the container's own and so no part of the images: mounts from the host, and namespaces that were joined.

use super::message::{ExternalMount, InheritFd, JoinNamespace};
use conex::acts::root::Root;
use conex::acts::tree::by_fd;
use conex::error::{Context, Error, Named, Result};
use conex::plan::mount::{Action, Mount};
use conex::plan::namespaces::KINDS;
use conex::plan::Plan;
use nix::fcntl::{open, readlink, OFlag};
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const NULL: &str = "/dev/null";

fn named(key: &Path, value: &Path) -> ExternalMount {
    let text = |p: &Path| p.to_string_lossy().into_owned();
    ExternalMount { key: text(key), value: text(value) }
}

/// A directory as the root of what is looked up.
fn root(path: &Path) -> Result<Root> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
        .call(|| format!("open({}, O_PATH)", path.display()))
        .map(Root::new)
}

/// Where that is inside the root, without links.
fn place(fd: &OwnedFd, root: &Path) -> Result<PathBuf> {
    let path = by_fd(fd.as_fd());
    let found = readlink(path.as_str()).call(|| format!("readlink({path})"))?;
    let mut found = PathBuf::from(found);
    if nameless(fd) {
        // The kernel says so behind the path.
        let text = found.to_string_lossy();
        found = PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text));
    }
    let outside = || {
        let what = format!("{} is not below {}", found.display(), root.display());
        Error::new(conex::error::Kind::System, what)
    };
    let below = found.strip_prefix(root).map_err(|_| outside())?;
    Ok(Path::new("/").join(below))
}

fn nameless(fd: &OwnedFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|s| s.st_nlink == 0)
}

/// What CRIU cannot make again: who is written down would be lost.
///
/// # Errors
/// The field.
pub fn check(plan: &Plan) -> Result<()> {
    if let Some(m) = plan.mounts.iter().find(|m| m.idmap.is_some()) {
        let field = format!("{}.uidMappings", m.field);
        return Err(Error::unsupported(field, "CRIU does not restore an idmapped mount"));
    }
    if plan.namespaces.private(libc::CLONE_NEWUSER) {
        let what = "CRIU does not restore a container with a user namespace: its processes may not enter the directories that CRIU \
                    works in";
        return Err(Error::unsupported("linux.namespaces", what));
    }
    if !plan.rootfs.private {
        let what = "a container in the host's mount namespace cannot be checkpointed";
        return Err(Error::unsupported("linux.namespaces", what));
    }
    Ok(())
}

/// The mounts of a running container that come from the host, by the names that [`of_restore`] knows.
///
/// # Errors
/// Its root cannot be opened.
pub fn of_dump(plan: &Plan, pid: i32) -> Result<Vec<ExternalMount>> {
    let root = root(Path::new(&format!("/proc/{pid}/root")))?;
    let mut out = Vec::new();
    let resolved = |path: &Path| root.open(path, OFlag::empty()).ok();
    for m in &plan.mounts {
        let lexical = Path::new("/").join(&m.destination);
        let path = match resolved(&m.destination) {
            Some(fd) if matches!(m.kind, Action::Bind { .. }) && nameless(&fd) => {
                let what =
                    "the file has no name on the host any more: CRIU does not restore its mount";
                return Err(Error::unsupported(format!("{}.source", m.field), what));
            }
            Some(fd) => place(&fd, Path::new("/"))?,
            None => lexical,
        };
        out.extend(names(plan, m, &path).into_iter().map(|path| named(&path, &path)));
    }
    for path in &plan.masked_paths {
        let Some(fd) = resolved(Path::new(path)) else { continue };
        let kind = nix::sys::stat::fstat(&fd).call(|| format!("fstat({path})"))?.st_mode;
        if kind & libc::S_IFMT != libc::S_IFDIR {
            out.push(named(&place(&fd, Path::new("/"))?, Path::new(NULL)));
        }
    }
    // In a user namespace they are bound.
    let nodes = plan.devices.list.iter().map(|node| Path::new("/").join(&node.path));
    out.extend(nodes.map(|path| named(&path, &path)));
    Ok(out)
}

/// The paths at which the host's mounts of an entry lie.
fn names(plan: &Plan, m: &Mount, path: &Path) -> Vec<PathBuf> {
    match &m.kind {
        Action::Bind { .. } => vec![path.to_path_buf()],
        // A cgroup namespace makes them the container's own.
        Action::Cgroup(views) if !plan.namespaces.private(libc::CLONE_NEWCGROUP) => {
            views.iter().filter(|v| !v.v2).map(|v| path.join(&v.name)).collect()
        }
        _ => Vec::new(),
    }
}

/// What [`of_dump`] has named, as it is on this host. The places of the mounts are made where the root file system lacks them, as a
/// create would: `at` is where it is mounted for CRIU.
///
/// # Errors
/// A place cannot be made, a source is not there.
pub fn of_restore(plan: &Plan, at: &Path, cgroups: &[PathBuf]) -> Result<Vec<ExternalMount>> {
    let root = root(at)?;
    let mut out = Vec::new();
    let mut covered = Vec::new();
    let mut restored: Vec<&Path> = Vec::new();
    let mut places = || {
        for m in &plan.mounts {
            // What lies in another file system CRIU finds there, or restores with it.
            let inside = |t: &&Path| m.destination.starts_with(t) && m.destination != **t;
            let path = if restored.iter().any(inside) {
                Path::new("/").join(&m.destination)
            } else {
                make(plan, m, &root, at, &mut covered)?
            };
            if matches!(m.kind, Action::Fs(_) | Action::Cgroup(_)) {
                restored.push(&m.destination);
            }
            let found = names(plan, m, &path);
            match &m.kind {
                Action::Cgroup(views) => {
                    let own = views.iter().zip(cgroups).filter(|(v, _)| !v.v2).map(|(_, dir)| dir);
                    out.extend(found.iter().zip(own).map(|(key, dir)| named(key, dir)));
                }
                _ => out.extend(found.iter().map(|key| named(key, &plan.bundle.join(&m.source)))),
            }
        }
        Ok(())
    };
    let made: Result<()> = places();
    // CRIU mounts anew.
    for fd in covered.iter().rev() {
        let _ = umount2(by_fd(fd.as_fd()).as_str(), MntFlags::MNT_DETACH);
    }
    made?;
    if !plan.masked_paths.is_empty() {
        out.push(named(Path::new(NULL), Path::new(NULL)));
    }
    let nodes = plan.devices.list.iter().map(|node| Path::new("/").join(&node.path));
    out.extend(nodes.map(|path| named(&path, &path)));
    Ok(out)
}

/// Makes the place of a mount, and for a bind mounts it meanwhile: a later one may lie in it. The result is where it is.
fn make(
    plan: &Plan,
    m: &Mount,
    root: &Root,
    at: &Path,
    covered: &mut Vec<OwnedFd>,
) -> Result<PathBuf> {
    let field = || format!("{}.destination", m.field);
    if matches!(m.kind, Action::Remount) {
        return Ok(Path::new("/").join(&m.destination));
    }
    let Action::Bind { .. } = m.kind else {
        return place(&root.make_dir(&m.destination).at(field)?, at);
    };
    let source = plan.bundle.join(&m.source);
    let directory = std::fs::metadata(&source)
        .call(|| format!("stat({})", source.display()))
        .at(|| format!("{}.source", m.field))?
        .is_dir();
    let fd = match directory {
        true => root.make_dir(&m.destination),
        false => root.make_file(&m.destination),
    };
    let fd = fd.at(field)?;
    let path = place(&fd, at)?;
    let target = by_fd(fd.as_fd());
    mount(
        Some(&source),
        target.as_str(),
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .call(|| format!("mount({}, {}, MS_BIND|MS_REC)", source.display(), path.display()))
    .at(field)?;
    // The descriptor is of what lies below; the mount is found from the root.
    covered.push(
        root.open(&m.destination, OFlag::empty()).call(|| format!("openat2(rootfs, {path:?})"))?,
    );
    Ok(path)
}

/// The namespaces that a restored container joins.
#[derive(Default)]
pub struct Joined {
    pub inherit: Vec<InheritFd>,
    pub join: Vec<JoinNamespace>,
    /// Open in the `criu` process as well.
    pub files: Vec<OwnedFd>,
}

/// By which name CRIU knows a namespace that stays outside: runc's.
fn key(kind: i32) -> Option<(&'static str, &'static str)> {
    match kind {
        libc::CLONE_NEWNET => Some(("net", "extRootNetNS")),
        libc::CLONE_NEWPID => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// `--external` for the namespaces that the container has joined.
///
/// # Errors
/// One of them is gone.
pub fn namespaces_of_dump(plan: &Plan) -> Result<Vec<String>> {
    let joined = plan.namespaces.join.iter().filter_map(|j| key(j.flag).map(|key| (j, key)));
    joined
        .map(|(j, (kind, key))| {
            let inode = nix::sys::stat::stat(&j.path)
                .call(|| format!("stat({})", j.path.display()))
                .at(|| j.field.clone())?
                .st_ino;
            Ok(format!("{kind}[{inode}]:{key}"))
        })
        .collect()
}

/// The same for a restore.
///
/// # Errors
/// One of them is gone, or is of a kind that CRIU cannot join.
pub fn namespaces_of_restore(plan: &Plan) -> Result<Joined> {
    let mut out = Joined::default();
    for j in &plan.namespaces.join {
        if let Some((_, key)) = key(j.flag) {
            let file = open(&j.path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .call(|| format!("open({})", j.path.display()))
                .at(|| j.field.clone())?;
            conex_sys::fd::clear_cloexec(file.as_raw_fd()).call(|| "fcntl(F_SETFD)")?;
            out.inherit.push(InheritFd { key: key.into(), fd: file.as_raw_fd() });
            out.files.push(file);
            continue;
        }
        let kind = KINDS.iter().find(|k| k.2 == j.flag).map_or("", |k| k.1);
        if j.flag == libc::CLONE_NEWCGROUP {
            let what = "CRIU cannot let a container join a cgroup namespace";
            return Err(Error::unsupported(j.field.clone(), what));
        }
        let file = j.path.to_string_lossy().into_owned();
        out.join.push(JoinNamespace { kind: kind.into(), file });
    }
    Ok(out)
}
