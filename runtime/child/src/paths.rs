//! The root file system as a whole: attached, pivoted into, masked.

use crate::acts::tree::{self, Tree};
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::Rootfs;
use crate::root::Root;
use conex_sys::mount::{MountAttr, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sys::stat::{fstat, Mode};
use nix::unistd::{fchdir, pivot_root};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Changes the propagation of the mount at `path`; `flags` with `MS_REC` or without.
pub fn propagate(path: &str, flags: u64) -> Result<()> {
    let flags = MsFlags::from_bits_truncate(flags as _);
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .call(|| format!("mount(\"\", {path:?}, {flags:?})"))
}

/// Binds the rootfs onto itself, so that it is a mount that can become the root, and opens it.
pub fn attach_root(rootfs: &Rootfs) -> Result<Root> {
    // Without a mount namespace "/" is the host's, whose propagation is not ours to change.
    if rootfs.private {
        propagate("/", rootfs.propagation).at(|| "linux.rootfsPropagation")?;
    }
    // Shared by request, or left so below "/" by a propagation without MS_REC.
    let kept = rootfs.propagation & libc::MS_REC as u64 == 0;
    if rootfs.private && (kept || rootfs.propagation & libc::MS_SHARED as u64 != 0) {
        // The bind mount below would propagate to the host through a shared parent.
        let parent = mount_point_of(&rootfs.path)?;
        mount(None::<&str>, &parent, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            .call(|| format!("mount(\"\", {}, MS_PRIVATE)", parent.display()))
            .at(|| "linux.rootfsPropagation")?;
    }
    let target = nix::fcntl::open(
        &rootfs.path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .call(|| format!("open({}, O_DIRECTORY)", rootfs.path.display()))
    .at(|| "root.path")?;
    let attached = tree::bind(target.as_fd(), Path::new(""), true)
        .and_then(|tree| tree.attach(target.as_fd()));
    attached.map(Root::new).map_err(|e| match e.errno {
        // mount_namespaces(7): what may not be bound cannot become the container's root either.
        Some(Errno::EINVAL)
            if rootfs.private && rootfs.propagation & libc::MS_UNBINDABLE as u64 != 0 =>
        {
            e.at("linux.rootfsPropagation")
        }
        _ => e.at("root.path"),
    })
}

/// The same in a mount namespace that holds nothing of the host's: covers what is there.
pub fn attach_tree(tree: OwnedFd) -> Result<Root> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = nix::fcntl::open("/", flags, Mode::empty()).call(|| "open(/)")?;
    Tree(tree).attach(top.as_fd()).map(Root::new).at(|| "root.path")
}

/// The deepest mount point above a path (proc_pid_mountinfo(5), fifth field).
fn mount_point_of(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().call(|| format!("realpath({})", path.display()))?;
    let text =
        crate::acts::read_text("/proc/self/mountinfo").call(|| "open(/proc/self/mountinfo)")?;
    let points = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(crate::acts::hierarchy::unescape(p)));
    points.filter(|p| path.starts_with(p)).max_by_key(|p| p.as_os_str().len()).ok_or_else(|| {
        Error::call(Errno::ENOENT, format!("{}: no mount point in mountinfo", path.display()))
    })
}

/// Makes the rootfs the root and lets go of the old one.
pub fn pivot(root: &Root) -> Result<()> {
    let old = nix::fcntl::open(
        "/",
        OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .call(|| "open(/)")?;
    fchdir(root).call(|| "fchdir(rootfs)")?;
    // The old root ends up on top of the new one, at the same place; no directory is needed to put it.
    pivot_root(".", ".").call(|| "pivot_root(rootfs, rootfs)")?;
    fchdir(&old).call(|| "fchdir(old root)")?;
    // Unmounting must not propagate to the host.
    mount(None::<&str>, ".", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .call(|| "mount(\"\", old root, MS_SLAVE|MS_REC)")?;
    umount2(".", MntFlags::MNT_DETACH).call(|| "umount2(old root, MNT_DETACH)")?;
    nix::unistd::chdir("/").call(|| "chdir(/)")
}

/// `--no-pivot`: for a root on a ramdisk, which pivot_root refuses. The host's mounts stay in the mount namespace, out of
/// sight; but a procfs or sysfs that is there in full lets a user namespace inside mount a fresh one, without the masks.
pub fn move_root(root: &Root) -> Result<()> {
    fchdir(root).call(|| "fchdir(rootfs)")?;
    let own = nix::unistd::getcwd().call(|| "getcwd(rootfs)")?;
    for point in full_views(&own)? {
        let at = point.as_path();
        mount(None::<&str>, at, None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
            .call(|| format!("mount(\"\", {}, MS_SLAVE|MS_REC)", at.display()))?;
        match umount2(at, MntFlags::MNT_DETACH) {
            // One of a more privileged mount namespace cannot be taken away; it can be covered.
            Err(Errno::EINVAL | Errno::EPERM) => {
                mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)
                    .call(|| format!("mount(tmpfs, {})", at.display()))?
            }
            other => other.call(|| format!("umount2({}, MNT_DETACH)", at.display()))?,
        }
    }
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .call(|| "mount(rootfs, /, MS_MOVE)")?;
    nix::unistd::chroot(".").call(|| "chroot(rootfs)")?;
    nix::unistd::chdir("/").call(|| "chdir(/)")
}

/// Where the whole of a procfs or sysfs is mounted outside the rootfs, the latest first.
fn full_views(rootfs: &Path) -> Result<Vec<PathBuf>> {
    let text =
        crate::acts::read_text("/proc/self/mountinfo").call(|| "open(/proc/self/mountinfo)")?;
    let mut out: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut fields = head.split(' ').skip(3);
            let (inside, point) = (fields.next()?, fields.next()?);
            let full = inside == "/" && matches!(tail.split(' ').next(), Some("proc" | "sysfs"));
            full.then(|| PathBuf::from(crate::acts::hierarchy::unescape(point)))
        })
        .filter(|point| !point.starts_with(rootfs))
        .collect();
    out.reverse();
    Ok(out)
}

/// Without a mount namespace there is nothing to pivot.
pub fn chroot(root: &Root) -> Result<()> {
    fchdir(root).call(|| "fchdir(rootfs)")?;
    nix::unistd::chroot(".").call(|| "chroot(rootfs)")?;
    nix::unistd::chdir("/").call(|| "chdir(/)")
}

/// `recursive`: with everything that is mounted below.
pub fn readonly_root(root: &Root, recursive: bool) -> Result<()> {
    tree::setattr(root.as_fd(), recursive, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() })
}

/// Paths that are not there need no protection; one that cannot be looked at must not be left open. `..` is taken as the
/// kernel takes it: what the container's programs reach by that path is meant.
fn find(root: &Root, path: &str) -> Result<Option<OwnedFd>> {
    // Without what is after the last name: a file with a slash behind it would not be found.
    let given: PathBuf = crate::text::path(path).components().collect();
    match root.open_as_given(&given, OFlag::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        other => {
            other.map(Some).call(|| format!("openat2(rootfs, {path:?}, O_PATH, RESOLVE_IN_ROOT)"))
        }
    }
}

/// The root itself, by whatever path: what is mounted there now would be below it after pivot_root.
fn is_root(root: &Root, target: &OwnedFd) -> bool {
    let id = |fd: std::os::fd::BorrowedFd| fstat(fd).map(|s| (s.st_dev, s.st_ino)).ok();
    let mount = |fd| conex_sys::fd::mount_id(fd).ok();
    id(root.as_fd()) == id(target.as_fd()) && mount(root.as_fd()) == mount(target.as_fd())
}

/// Makes the paths read-only with everything mounted below them. True if the root is one of them, which is for later.
pub fn readonly(root: &Root, list: &[String]) -> Result<bool> {
    let mut whole = false;
    for (i, path) in list.iter().enumerate() {
        let field = || format!("linux.readonlyPaths[{i}]");
        let Some(target) = find(root, path).at(field)? else {
            continue;
        };
        if is_root(root, &target) {
            whole = true;
            continue;
        }
        let tree = tree::bind(target.as_fd(), Path::new(""), true).at(field)?;
        let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
        // Before Linux 5.12 only the mount itself, not what is mounted below it, can be made so.
        let recursive = tree::has_setattr();
        tree.attach_with(target.as_fd(), &[(recursive, attr)]).at(field)?;
    }
    Ok(whole)
}

/// Hides files behind the host's /dev/null and directories behind one empty read-only tmpfs.
///
/// The container's own /dev/null would do only if nobody else could prepare it (CVE-2025-31133). `detached`: a tree of the
/// host's, where this process cannot see that.
pub fn mask(root: &Root, list: &[String], mut detached: Option<OwnedFd>) -> Result<()> {
    let mut null: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for (i, path) in list.iter().enumerate() {
        let field = || format!("linux.maskedPaths[{i}]");
        let Some(target) = find(root, path).at(field)? else {
            continue;
        };
        if is_root(root, &target) {
            return Err(Error::invalid(
                field(),
                format!("{path:?} is the root: nothing would be left to run"),
            ));
        }
        let is_dir =
            fstat(&target).call(|| "fstat").at(field)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if is_dir {
            match &empty {
                None => empty = Some(empty_dir(target.as_fd()).at(field)?),
                Some(fd) => {
                    tree::bind(fd.as_fd(), Path::new(""), false)
                        .at(field)?
                        .attach(target.as_fd())
                        .at(field)?;
                }
            }
            continue;
        }
        if let Some(tree) = detached.take() {
            null = Some(Tree(tree).attach(target.as_fd()).at(field)?);
            continue;
        }
        let source = match null.take() {
            Some(fd) => fd,
            None => host_null().at(field)?,
        };
        tree::bind(source.as_fd(), Path::new(""), false)
            .at(field)?
            .attach(target.as_fd())
            .at(field)?;
        null = Some(source);
    }
    Ok(())
}

/// The host's /dev/null, if it is one.
pub fn host_null() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd =
        nix::fcntl::open("/dev/null", flags, Mode::empty()).call(|| "open(/dev/null, O_PATH)")?;
    let stat = fstat(&fd).call(|| "fstat(/dev/null)")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != libc::makedev(1, 3) {
        return Err(Error::new(
            Kind::System,
            "/dev/null of the host is not the character device 1:3",
        ));
    }
    Ok(fd)
}

fn empty_dir(target: std::os::fd::BorrowedFd) -> Result<OwnedFd> {
    use conex_sys::mount::{fsconfig, fscreate, fsmount, fsopen};
    let attrs = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    let fs = fsopen("tmpfs").call(|| "fsopen(tmpfs)")?;
    for (key, value) in
        [("nr_blocks", Some("1")), ("nr_inodes", Some("2")), ("mode", Some("0755")), ("ro", None)]
    {
        fsconfig(fs.as_fd(), key, value.map(str::as_bytes))
            .call(|| format!("fsconfig(tmpfs, {key})"))?;
    }
    fscreate(fs.as_fd()).call(|| "fsconfig(tmpfs, FSCONFIG_CMD_CREATE)")?;
    let fd = fsmount(fs.as_fd(), attrs).call(|| "fsmount(tmpfs)")?;
    Tree(fd).attach(target)
}
