//! Device nodes and the links below /dev.

use crate::acts::tree;
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::devices::{DeviceNode, Nodes};
use crate::root::Root;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{fstat, fstatat, Mode};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// `kcore`: the host has /proc/kcore.
pub fn create(root: &Root, plan: &Nodes, kcore: bool) -> Result<()> {
    let dev = if plan.defaults {
        Some(root.make_dir(Path::new("dev")).at(|| "linux.devices")?)
    } else {
        None
    };
    for node in &plan.list {
        // Nearly all nodes are right in /dev, which is resolved once.
        let result = match (&dev, node.path.strip_prefix("dev")) {
            (Some(dev), Ok(name)) if name.components().count() == 1 => {
                create_at(root, dev.as_fd(), name, node)
            }
            _ => root
                .make_parent(&node.path)
                .and_then(|(dir, name)| create_at(root, dir.as_fd(), &name, node)),
        };
        result.at(|| node.field.clone())?;
    }
    let Some(dev) = dev else { return Ok(()) };
    null_streams(dev.as_fd());
    links(dev, kcore).at(|| "linux.devices")
}

/// Standard streams that are the host's /dev/null become the container's: they would lie on a mount that nobody sees in there,
/// which /proc/self/fd shows and CRIU cannot write down. runc does so too (`reOpenDevNull`).
fn null_streams(dev: BorrowedFd) {
    let is_null = |stat: nix::sys::stat::FileStat| {
        stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3)
    };
    let mut streams =
        (0..3).filter(|n| fstat(conex_sys::fd::borrow(*n)).is_ok_and(is_null)).peekable();
    if streams.peek().is_none() {
        return;
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    // An image's /dev/null may be anything, and a user namespace's may not be opened.
    let Ok(null) = nix::fcntl::openat(dev, "null", flags, Mode::empty()) else { return };
    if fstat(&null).is_ok_and(is_null) {
        let plain = nix::fcntl::FcntlArg::F_SETFL(OFlag::empty());
        let _ = nix::fcntl::fcntl(&null, plain);
        for n in streams {
            let _ = conex_sys::fd::dup_to(null.as_fd(), n);
        }
    }
}

fn create_at(root: &Root, dir: BorrowedFd, name: &Path, node: &DeviceNode) -> Result<()> {
    let dev = libc::makedev(node.major, node.minor);
    match conex_sys::fd::mknodat(dir, name, node.mode, dev) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return existing(dir, name, node),
        // A user namespace may not make nodes: the host's is bound instead.
        Err(Errno::EPERM) if node.mode & libc::S_IFMT != libc::S_IFIFO => {
            return bind_host(root, node)
        }
        Err(e) => {
            let call = format!(
                "mknodat({}, {:o}, {}:{})",
                node.path.display(),
                node.mode,
                node.major,
                node.minor
            );
            return Err(Error::call(e, call));
        }
    }
    if node.uid != 0 || node.gid != 0 {
        nix::unistd::fchownat(
            dir,
            name,
            Some(node.uid.into()),
            Some(node.gid.into()),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .call(|| format!("fchownat({}, {}, {})", node.path.display(), node.uid, node.gid))?;
    }
    Ok(())
}

/// What the image already has there is kept if it is the same device.
fn existing(dir: BorrowedFd, name: &Path, node: &DeviceNode) -> Result<()> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .call(|| format!("fstatat({})", node.path.display()))?;
    let same_kind = stat.st_mode & libc::S_IFMT == node.mode & libc::S_IFMT;
    let is_fifo = node.mode & libc::S_IFMT == libc::S_IFIFO;
    if same_kind && (is_fifo || stat.st_rdev == libc::makedev(node.major, node.minor)) {
        return Ok(());
    }
    Err(Error::call(
        Errno::EEXIST,
        format!("mknodat({}): another file is there", node.path.display()),
    ))
}

fn bind_host(root: &Root, node: &DeviceNode) -> Result<()> {
    let path = Path::new("/").join(&node.path);
    let tree = tree::bind(tree::cwd(), &path, false)?;
    let stat = fstat(tree.fd()).call(|| format!("fstat({})", path.display()))?;
    if stat.st_mode & libc::S_IFMT != node.mode & libc::S_IFMT
        || stat.st_rdev != libc::makedev(node.major, node.minor)
    {
        let what = format!(
            "{} of the host is not the device {}:{}",
            path.display(),
            node.major,
            node.minor
        );
        return Err(Error::new(Kind::System, what));
    }
    let target = root.make_file(&node.path)?;
    tree.attach(target.as_fd()).map(drop)
}

fn links(dev: OwnedFd, kcore: bool) -> Result<()> {
    let link = |target: &str, name: &str| match nix::unistd::symlinkat(target, &dev, name) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(Error::call(e, format!("symlinkat({target}, /dev/{name})"))),
    };
    for (name, target) in LINKS {
        link(target, name)?;
    }
    if kcore {
        link("/proc/kcore", "core")?;
    }
    // A node of the image would be a terminal of another devpts.
    let has_pts = nix::fcntl::openat(
        &dev,
        "pts",
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .is_ok();
    if has_pts {
        let _ = nix::unistd::unlinkat(&dev, "ptmx", nix::unistd::UnlinkatFlags::NoRemoveDir);
    }
    link("pts/ptmx", "ptmx")
}
