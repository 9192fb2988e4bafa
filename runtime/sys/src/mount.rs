//! The mount API by descriptor (Linux 5.2), mount_setattr (5.12) and the old calls.

use crate::check;
use crate::fd::cpath;
use nix::errno::Errno;
use nix::Result;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

pub const ATTR_RDONLY: u64 = 0x01;
pub const ATTR_NOSUID: u64 = 0x02;
pub const ATTR_NODEV: u64 = 0x04;
pub const ATTR_NOEXEC: u64 = 0x08;
pub const ATTR_ATIME: u64 = 0x70;
pub const ATTR_RELATIME: u64 = 0x00;
pub const ATTR_NOATIME: u64 = 0x10;
pub const ATTR_STRICTATIME: u64 = 0x20;
pub const ATTR_NODIRATIME: u64 = 0x80;
pub const ATTR_IDMAP: u64 = 0x10_0000;
pub const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;

fn owned(ret: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: only called with the result of a system call that returns a fresh descriptor.
    check(ret).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// fsopen(2): a file system being configured.
pub fn fsopen(fstype: &str) -> Result<OwnedFd> {
    let name = CString::new(fstype).map_err(|_| Errno::EINVAL)?;
    // SAFETY: NUL-terminated, outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), 1) })
}

/// fsconfig(2): sets `key` to `value`, or as a flag without one.
pub fn fsconfig(fs: BorrowedFd, key: &str, value: Option<&[u8]>) -> Result<()> {
    let key = CString::new(key).map_err(|_| Errno::EINVAL)?;
    let value = value.map(CString::new).transpose().map_err(|_| Errno::EINVAL)?;
    let (cmd, ptr) = match &value {
        Some(v) => (FSCONFIG_SET_STRING, v.as_ptr()),
        None => (FSCONFIG_SET_FLAG, std::ptr::null()),
    };
    // SAFETY: key and value are NUL-terminated and outlive the call; a flag takes a null value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), cmd, key.as_ptr(), ptr, 0) })
        .map(drop)
}

/// fsconfig(FSCONFIG_CMD_CREATE).
pub fn fscreate(fs: BorrowedFd) -> Result<()> {
    command(fs, FSCONFIG_CMD_CREATE)
}

/// fsconfig(FSCONFIG_CMD_RECONFIGURE), after [`fspick`].
pub fn fsreconfigure(fs: BorrowedFd) -> Result<()> {
    command(fs, FSCONFIG_CMD_RECONFIGURE)
}

fn command(fs: BorrowedFd, cmd: libc::c_uint) -> Result<()> {
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: these commands take no key and no value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs.as_raw_fd(), cmd, null, null, 0) })
        .map(drop)
}

/// The superblock of the mount at `path` below `dir`, for [`fsreconfigure`].
pub fn fspick(at: BorrowedFd) -> Result<OwnedFd> {
    const FSPICK_CLOEXEC: libc::c_uint = 1;
    const FSPICK_EMPTY_PATH: libc::c_uint = 8;
    // SAFETY: the empty string is NUL-terminated.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fspick,
            at.as_raw_fd(),
            c"".as_ptr(),
            FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
        )
    })
}

/// What the kernel logged for a file system context: the reason behind an `EINVAL`.
pub fn fslog(fs: BorrowedFd) -> String {
    let mut out = String::new();
    let mut buf = [0u8; 256];
    for _ in 0..8 {
        // SAFETY: buf is valid for its length; the context never blocks on read.
        let n = unsafe { libc::read(fs.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        if n <= 0 {
            break;
        }
        let line = String::from_utf8_lossy(&buf[..n as usize]);
        if !out.is_empty() {
            out.push_str("; ");
        }
        // Messages carry a level prefix, "e ", "w " or "i ".
        out.push_str(line.trim_end().get(2..).unwrap_or(""));
    }
    out
}

/// fsmount(2): a detached mount of a created context, with `ATTR_*`.
pub fn fsmount(fs: BorrowedFd, attrs: u64) -> Result<OwnedFd> {
    // SAFETY: integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, attrs) })
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached bind of `path` below `dir`, with everything under it if
/// `recursive`. An empty path means `dir` itself; `follow` is about a symlink at the end of the path.
pub fn open_tree_clone(
    dir: BorrowedFd,
    path: &Path,
    recursive: bool,
    follow: bool,
) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    if !follow {
        flags |= libc::AT_SYMLINK_NOFOLLOW as libc::c_uint;
    }
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    let path = cpath(path)?;
    // SAFETY: NUL-terminated, outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// move_mount(2) from a mount descriptor onto a target descriptor: no path is resolved.
pub fn move_mount(mount: BorrowedFd, target: BorrowedFd) -> Result<()> {
    // SAFETY: both paths are the empty NUL-terminated string.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// The argument of mount_setattr(2).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    pub userns: u64,
}

/// mount_setattr(2) on the mount behind `fd` (Linux 5.12).
pub fn mount_setattr(fd: BorrowedFd, recursive: bool, attr: &MountAttr) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: attr has the kernel's layout (version 0) and the size passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// MS_NOSYMFOLLOW of mount(2) (Linux 5.10), which nix lacks.
pub const MS_NOSYMFOLLOW: libc::c_ulong = 256;

/// True if symlinks are not followed on the mount behind `fd` (ST_NOSYMFOLLOW of statfs(2), Linux 5.10).
pub fn follows_no_symlinks(fd: BorrowedFd) -> Result<bool> {
    const ST_NOSYMFOLLOW: libc::c_ulong = 0x2000;
    let mut buffer = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the C library fills the structure.
    check(unsafe { libc::fstatvfs(fd.as_raw_fd(), buffer.as_mut_ptr()) } as libc::c_long)?;
    // SAFETY: all zeros is a valid value of it, and it was filled.
    Ok(unsafe { buffer.assume_init() }.f_flag & ST_NOSYMFOLLOW != 0)
}
