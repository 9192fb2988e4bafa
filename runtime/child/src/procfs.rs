//! A procfs that nobody else can have prepared.
//!
//! A write to /proc/self/attr/exec or to a sysctl is only worth something if it reaches the real file: a rootfs may
//! hold a fake /proc, and a bind mount may cover a file of the real one (CVE-2019-16884, CVE-2025-52881). So all
//! such writes go through the root of a procfs mount that this process made itself, without leaving that mount.

use crate::error::{Context, Error, Result};
use crate::plan::namespaces::Sysctl;
use conex_sys::fd::{
    openat2, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};
use conex_sys::mount::{fscreate, fsmount, fsopen};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub struct Procfs {
    root: OwnedFd,
}

impl Procfs {
    /// The root of a mount that this process created with fsmount.
    pub fn from_mount(root: OwnedFd) -> Self {
        Procfs { root }
    }

    /// A procfs of its own, never attached to any tree. Where the kernel has no fsopen, the /proc in sight, if it is
    /// a real one and nothing covers its files.
    pub fn new() -> Result<Self> {
        let fresh = fsopen("proc").and_then(|fs| {
            fscreate(fs.as_fd())?;
            fsmount(fs.as_fd(), 0)
        });
        if let Ok(root) = fresh {
            return Ok(Procfs { root });
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/proc", flags, nix::sys::stat::Mode::empty())
            .call(|| "open(/proc)")?;
        if !crate::root::is_procfs(root.as_fd()) {
            return Err(Error::call(Errno::ENOTSUP, "/proc is not a procfs"));
        }
        Ok(Procfs { root })
    }

    /// The directory of this process: `self` is a symlink, which [`Procfs::open`] refuses, and the number is that of
    /// this mount's PID namespace.
    pub fn own(&self) -> nix::Result<String> {
        nix::fcntl::readlinkat(&self.root, "self").map(|p| p.to_string_lossy().into_owned())
    }

    pub fn or_new(have: Option<Self>) -> Result<Self> {
        have.map_or_else(Procfs::new, Ok)
    }

    /// Opens a file of this very mount.
    pub fn open(&self, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve =
            RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
        let fd = openat2(self.root.as_fd(), Path::new(path), flags.bits(), 0, resolve)?;
        if !crate::root::is_procfs(fd.as_fd()) {
            return Err(Errno::EXDEV);
        }
        Ok(fd)
    }

    /// Writes a value in one write(2), as procfs wants it.
    pub fn write(&self, path: &str, value: &str) -> nix::Result<()> {
        let fd = self.open(path, OFlag::O_WRONLY)?;
        nix::unistd::write(&fd, value.as_bytes()).map(drop)
    }

    pub fn read(&self, path: &str) -> nix::Result<String> {
        let fd = self.open(path, OFlag::O_RDONLY)?;
        let mut buffer = [0u8; 4096];
        let n = nix::unistd::read(&fd, &mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
    }
}

pub fn write_sysctl(procfs: Option<&Procfs>, s: &Sysctl) -> Result<()> {
    let call = || format!("write(/proc/sys/{}, {:?})", s.path, s.value);
    procfs.map_or(Err(Errno::EROFS), |p| p.write(&format!("sys/{}", s.path), &s.value)).call(call)
}
