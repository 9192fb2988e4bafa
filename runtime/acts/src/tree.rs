//! Mounts as descriptors; attributes with mount(2) where the kernel has no mount_setattr (before Linux 5.12).

use crate::error::{Context, Error, Result};
use conex_sys::mount::{self as sys, MountAttr};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A mount that is not attached yet.
pub struct Tree(pub OwnedFd);

pub fn cwd() -> BorrowedFd<'static> {
    nix::fcntl::AT_FDCWD
}

/// The path by which mount(2) reaches a descriptor.
pub fn by_fd(fd: BorrowedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A detached bind of `path` as seen from `dir`; an empty path binds `dir` itself.
pub fn bind(dir: BorrowedFd, path: &Path, recursive: bool) -> Result<Tree> {
    bind_with(dir, path, recursive, true)
}

/// The same; `follow` is false for the symlink itself that the path may end in.
pub fn bind_with(dir: BorrowedFd, path: &Path, recursive: bool, follow: bool) -> Result<Tree> {
    sys::open_tree_clone(dir, path, recursive, follow).map(Tree).call(|| {
        let flag = if recursive { "|AT_RECURSIVE" } else { "" };
        format!("open_tree({}, OPEN_TREE_CLONE{flag})", path.display())
    })
}

impl Tree {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sets attributes (each for the mount alone or for everything below it) and attaches: in this order where the
    /// kernel can, so that nobody sees the mount without them.
    pub fn attach_with(self, target: BorrowedFd, attrs: &[(bool, MountAttr)]) -> Result<OwnedFd> {
        self.attach_after(target, |fd| {
            attrs.iter().try_for_each(|(recursive, attr)| setattr(fd, *recursive, attr))
        })
    }

    /// The same for a bind: the first of `flags`, or the other where the kernel refuses it (EPERM); then `recursive` for all
    /// below it.
    pub fn attach_bind(
        self,
        target: BorrowedFd,
        flags: [MountAttr; 2],
        recursive: &MountAttr,
    ) -> Result<OwnedFd> {
        self.attach_after(target, |fd| {
            let [wanted, otherwise] = &flags;
            match setattr(fd, false, wanted) {
                Err(e) if e.errno == Some(Errno::EPERM) && wanted != otherwise => {
                    setattr(fd, false, otherwise)?;
                }
                other => other?,
            }
            setattr(fd, true, recursive)
        })
    }

    fn attach_after(
        self,
        target: BorrowedFd,
        set: impl Fn(BorrowedFd) -> Result<()>,
    ) -> Result<OwnedFd> {
        if has_setattr() {
            set(self.fd())?;
            return self.attach(target);
        }
        // mount(2) changes only what is attached.
        let fd = self.attach(target)?;
        set(fd.as_fd())?;
        Ok(fd)
    }

    /// Attaches the mount to `target` and returns a descriptor of its root.
    pub fn attach(self, target: BorrowedFd) -> Result<OwnedFd> {
        sys::move_mount(self.fd(), target).call(|| "move_mount(fd, target)")?;
        Ok(self.0)
    }
}

/// A descriptor of the mount that now covers `target`, which itself still refers to what is below: up and down again.
/// The kernel renames no mount point (EBUSY), so the name is the directory's own, whoever else writes there. A file
/// has no `..`: for it the whole path is resolved.
pub fn reopen(target: BorrowedFd) -> Result<OwnedFd> {
    let path = nix::fcntl::readlink(by_fd(target).as_str()).call(|| "readlink(/proc/self/fd)")?;
    let path = Path::new(&path);
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let up = nix::fcntl::openat(
        target,
        "..",
        OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY,
        Mode::empty(),
    );
    match (up, path.file_name()) {
        (Ok(parent), Some(name)) => nix::fcntl::openat(parent, name, flags, Mode::empty()),
        _ => nix::fcntl::open(path, flags, Mode::empty()),
    }
    .call(|| format!("open({}, O_PATH)", path.display()))
}

/// Linux 5.12: a kernel that has the call complains of the descriptor. Asked once: each mount of a container wants to know.
pub fn has_setattr() -> bool {
    static KNOWN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KNOWN.get_or_init(|| {
        let nothing = MountAttr { set: u64::MAX, ..MountAttr::default() };
        sys::mount_setattr(cwd(), false, &nothing) != Err(Errno::ENOSYS)
    })
}

/// mount_setattr, or the remount that does the same for a single mount.
pub fn setattr(fd: BorrowedFd, recursive: bool, attr: &MountAttr) -> Result<()> {
    if *attr == MountAttr::default() {
        return Ok(());
    }
    match sys::mount_setattr(fd, recursive, attr) {
        Err(Errno::ENOSYS) if attr.userns == 0 => legacy_setattr(fd, recursive, attr),
        other => other.call(|| {
            let rec = if recursive { ", AT_RECURSIVE" } else { "" };
            format!(
                "mount_setattr(fd{rec}, set {:#x}, clear {:#x}, propagation {:#x})",
                attr.set, attr.clear, attr.propagation
            )
        }),
    }
}

fn legacy_setattr(fd: BorrowedFd, recursive: bool, attr: &MountAttr) -> Result<()> {
    let at = by_fd(fd);
    if attr.propagation != 0 {
        let mut flags = MsFlags::from_bits_truncate(attr.propagation as _);
        flags.set(MsFlags::MS_REC, recursive);
        nix::mount::mount(None::<&str>, at.as_str(), None::<&str>, flags, None::<&str>)
            .call(|| format!("mount(fd, {flags:?})"))?;
    }
    if attr.set == 0 && attr.clear == 0 {
        return Ok(());
    }
    if recursive {
        return Err(Error::call(
            Errno::ENOSYS,
            "mount_setattr(AT_RECURSIVE): recursive mount options need Linux 5.12",
        ));
    }
    let flags = legacy_flags(fd, attr)? | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    nix::mount::mount(None::<&str>, at.as_str(), None::<&str>, flags, None::<&str>)
        .call(|| format!("mount(fd, {flags:?})"))?;
    check_symlinks(fd, attr)
}

/// mount(2) ignores flags that it does not know: an older kernel would follow what is not to be followed.
///
/// # Errors
/// `nosymfollow` was asked for, and is not in force.
pub fn check_symlinks(fd: BorrowedFd, attr: &MountAttr) -> Result<()> {
    if attr.set & sys::ATTR_NOSYMFOLLOW == 0 || sys::follows_no_symlinks(fd).call(|| "fstatfs")? {
        return Ok(());
    }
    Err(Error::call(Errno::ENOSYS, "mount(MS_NOSYMFOLLOW): nosymfollow needs Linux 5.10"))
}

/// The flags in force with the wanted changes: a remount replaces all of them.
fn legacy_flags(fd: BorrowedFd, attr: &MountAttr) -> Result<MsFlags> {
    use nix::sys::statvfs::FsFlags;
    let now = nix::sys::statvfs::fstatvfs(fd).call(|| "fstatvfs")?.flags();
    let pairs = [
        (sys::ATTR_RDONLY, FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (sys::ATTR_NOSUID, FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (sys::ATTR_NODEV, FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (sys::ATTR_NOEXEC, FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (sys::ATTR_NOATIME, FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (sys::ATTR_NODIRATIME, FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    let mut out = MsFlags::empty();
    for (bit, have, flag) in pairs {
        if attr.set & bit != 0 || (now.contains(have) && attr.clear & bit == 0) {
            out |= flag;
        }
    }
    if attr.set & sys::ATTR_STRICTATIME != 0 {
        out |= MsFlags::MS_STRICTATIME;
    }
    // What nix has no name for.
    let kept =
        sys::follows_no_symlinks(fd).call(|| "fstatfs")? && attr.clear & sys::ATTR_NOSYMFOLLOW == 0;
    if kept || attr.set & sys::ATTR_NOSYMFOLLOW != 0 {
        out |= MsFlags::from_bits_retain(sys::MS_NOSYMFOLLOW);
    }
    Ok(out)
}

/// The flags of mount(2) for a new file system with these attributes.
pub fn mount_flags(attr: &MountAttr) -> MsFlags {
    let pairs = [
        (sys::ATTR_RDONLY, MsFlags::MS_RDONLY),
        (sys::ATTR_NOSUID, MsFlags::MS_NOSUID),
        (sys::ATTR_NODEV, MsFlags::MS_NODEV),
        (sys::ATTR_NOEXEC, MsFlags::MS_NOEXEC),
        (sys::ATTR_NOATIME, MsFlags::MS_NOATIME),
        (sys::ATTR_NODIRATIME, MsFlags::MS_NODIRATIME),
        (sys::ATTR_STRICTATIME, MsFlags::MS_STRICTATIME),
        (sys::ATTR_NOSYMFOLLOW, MsFlags::from_bits_retain(sys::MS_NOSYMFOLLOW)),
    ];
    pairs.iter().filter(|(bit, _)| attr.set & bit != 0).map(|(_, flag)| *flag).collect()
}
