//! Descriptors: openat2, close_range, memfd seals, statx mount ids.

use crate::check;
use nix::errno::Errno;
use nix::Result;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

pub const RESOLVE_NO_XDEV: u64 = 0x01;
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
pub const RESOLVE_BENEATH: u64 = 0x08;
pub const RESOLVE_IN_ROOT: u64 = 0x10;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// A path as the kernel takes it; a NUL inside is `EINVAL`.
pub(crate) fn cpath(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// faccessat2(2) with X_OK and AT_EACCESS (Linux 5.8), by itself: glibc would put a guess of its own in the place of a
/// call that the kernel lacks.
pub fn may_execute(path: &Path) -> Result<()> {
    let path =
        std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the path ends with a zero byte and lives until the call returns.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    check(ret).map(drop)
}

/// File systems that have no way to write (linux/magic.h).
pub const SQUASHFS_MAGIC: i64 = 0x7371_7368;
pub const EROFS_MAGIC: i64 = 0xe0f5_e1e2;
/// STATX_ATTR_VERITY (Linux 5.5): fs-verity opens such a file for nobody's writing, for ever.
pub const ATTR_VERITY: u64 = 0x0010_0000;

/// True for a file that nobody can write to, root of the host included: by its file system, or by fs-verity.
pub fn is_unwritable(fd: BorrowedFd) -> bool {
    let kind = nix::sys::statfs::fstatfs(fd).map_or(0, |s| s.filesystem_type().0 as i64);
    if kind == SQUASHFS_MAGIC || kind == EROFS_MAGIC {
        return true;
    }
    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is NUL-terminated, and the kernel fills the structure.
    let filled = unsafe {
        libc::syscall(libc::SYS_statx, fd.as_raw_fd(), c"".as_ptr(), flags, 0, buffer.as_mut_ptr())
    };
    // SAFETY: all zeros is a valid value of it, and it was filled.
    check(filled).is_ok() && unsafe { buffer.assume_init() }.stx_attributes & ATTR_VERITY != 0
}

/// openat2(2) (Linux 5.6); `O_CLOEXEC` is always set. Retries `EAGAIN`, which the kernel returns when a rename
/// or a mount raced with `..` inside a scoped lookup.
///
pub fn openat2(
    dir: BorrowedFd,
    path: &Path,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd> {
    let path = cpath(path)?;
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    for _ in 0..128 {
        // SAFETY: path is NUL-terminated and how has the kernel's layout and size; both outlive the call.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                &how as *const OpenHow,
                size_of::<OpenHow>(),
            )
        };
        match check(ret) {
            // SAFETY: a fresh descriptor from the kernel, owned by nobody else.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(e) => return Err(e),
        }
    }
    Err(Errno::EAGAIN)
}

/// Marks every descriptor from `first` on close-on-exec (Linux 5.11). `ENOSYS`/`EINVAL`: walk /proc/self/fd.
pub fn cloexec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes every descriptor from `first` to `last` (Linux 5.9).
///
/// The caller promises that no `OwnedFd` in that range is used again; this is called right before execve, when
/// nothing else runs.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: no memory is passed; owners of the closed descriptors never run again (see above).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Closes every descriptor above 2 but those in `keep`. For a child that was just cloned and owns only what it was
/// handed: the promise is that no owner of another descriptor runs again in this process.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter(|n| **n > 2).map(|n| *n as u32).collect();
    keep.sort_unstable();
    let mut next = 3;
    for n in keep.iter().copied().chain([u32::MAX]) {
        if n > next && close_range(next, n - 1).is_err() {
            break;
        }
        next = n.saturating_add(1);
        if n == u32::MAX {
            return;
        }
    }
    // Before Linux 5.9. The listing's own descriptor is among the numbers and is gone when they are closed.
    let Ok(list) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    numbers.into_iter().filter(|n| *n > 2 && !keep.contains(&(*n as u32))).for_each(close_raw);
}

/// Closes one descriptor by number; errors (not open) are ignored.
pub fn close_raw(fd: RawFd) {
    // SAFETY: closing by number has no memory precondition; the callers do it right before execve or on
    // descriptors inherited from the caller of the program.
    unsafe { libc::close(fd) };
}

/// Sets close-on-exec on an inherited descriptor.
pub fn set_cloexec(fd: RawFd) -> Result<()> {
    // SAFETY: fcntl with integer arguments only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } as libc::c_long).map(drop)
}

/// Clears close-on-exec on an inherited descriptor.
pub fn clear_cloexec(fd: RawFd) -> Result<()> {
    // SAFETY: fcntl with integer arguments only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } as libc::c_long).map(drop)
}

/// Takes ownership of an inherited descriptor (`LISTEN_FDS`, a number received from a caller) by duplicating it
/// with close-on-exec, at `at_least` or above.
pub fn dup_above(fd: RawFd, at_least: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl with integer arguments; the returned descriptor is fresh.
    let new = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, at_least) } as libc::c_long)?;
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(new as RawFd) })
}

/// dup2 to a fixed number, without close-on-exec; the old owner of `to` must be a number nobody owns (0, 1, 2 or
/// a preserved descriptor).
pub fn dup_to(from: BorrowedFd, to: RawFd) -> Result<()> {
    if from.as_raw_fd() == to {
        return clear_cloexec(to);
    }
    // SAFETY: integers only.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) } as libc::c_long).map(drop)
}

/// True if the number is an open descriptor.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: integers only.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// A borrowed view on one of the three standard descriptors (or another number known to be open).
pub fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: BorrowedFd demands an open descriptor for the lifetime; 0, 1 and 2 are made valid at program start
    // (`open_standard_fds`) and never closed. Callers use it for these and for numbers they have just checked.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// memfd_create with sealing, executable where the kernel distinguishes (`MFD_EXEC`, Linux 6.3).
pub fn memfd_exec(name: &str) -> Result<OwnedFd> {
    const MFD_EXEC: libc::c_uint = 0x10;
    memfd(name, libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING, MFD_EXEC)
}

/// memfd_create for data: never executable, so that a host with vm.memfd_noexec=2 allows it (Linux 6.3).
pub fn memfd_data(name: &str) -> Result<OwnedFd> {
    const MFD_NOEXEC_SEAL: libc::c_uint = 0x8;
    memfd(name, libc::MFD_CLOEXEC, MFD_NOEXEC_SEAL)
}

/// With the newer flag, or without where the kernel does not know it.
fn memfd(name: &str, base: libc::c_uint, newer: libc::c_uint) -> Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    for flags in [base | newer, base] {
        // SAFETY: name is NUL-terminated and outlives the call.
        match check(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) }) {
            // SAFETY: fresh descriptor.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            Err(Errno::EINVAL) => continue,
            Err(e) => return Err(e),
        }
    }
    Err(Errno::EINVAL)
}

/// How much a pipe or a terminal has to be read (ioctl_tty(2), FIONREAD).
pub fn readable(fd: BorrowedFd) -> Result<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut n) } as libc::c_long)?;
    Ok(n.max(0) as usize)
}

/// Seals of a memfd that make its content final.
pub const SEALS: i32 =
    libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// Adds [`SEALS`] (fcntl F_ADD_SEALS).
pub fn seal(fd: BorrowedFd) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } as libc::c_long)
        .map(drop)
}

/// The seals of a memfd; `EINVAL` for any other file.
pub fn seals(fd: BorrowedFd) -> Result<i32> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) } as libc::c_long)
        .map(|v| v as i32)
}

/// The id of the mount that a descriptor is on (statx, `STATX_MNT_ID`, Linux 5.8), and whether it is that
/// mount's root.
pub fn mount_id(fd: BorrowedFd) -> Result<(u64, bool)> {
    let mut buf = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: buf is a statx the kernel fills; the empty path with AT_EMPTY_PATH means the descriptor itself.
    let ret = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            buf.as_mut_ptr(),
        )
    };
    check(ret as libc::c_long)?;
    // SAFETY: zero-initialised and then written by the kernel; any bit pattern is valid.
    let stx = unsafe { buf.assume_init() };
    if stx.stx_mask & libc::STATX_MNT_ID == 0 {
        return Err(Errno::ENOSYS);
    }
    let root = stx.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok((stx.stx_mnt_id, root))
}

/// fchownat(2) with AT_EMPTY_PATH: the owner of the very file behind a descriptor, of one with `O_PATH` as well. `u32::MAX`
/// leaves an id as it is.
pub fn chown_fd(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: the empty string is NUL-terminated.
    check(unsafe {
        libc::fchownat(fd.as_fd().as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH)
    } as libc::c_long)
    .map(drop)
}

/// mknodat(2) with a `type | permissions` mode.
pub fn mknodat(dir: BorrowedFd, name: &Path, mode: u32, dev: u64) -> Result<()> {
    let name = cpath(name)?;
    // SAFETY: name is NUL-terminated and outlives the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) } as libc::c_long)
        .map(drop)
}

/// Owns a descriptor that the kernel just handed over by number (SCM_RIGHTS, an inherited one named by protocol).
/// The caller promises that nobody else owns it.
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the number comes from a control message of recvmsg or from execve's inheritance, where it has no
    // owner yet (promised above).
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Gives a program that will be spawned descriptors under fixed numbers, the first of the list as 3, and so on.
pub fn pass(command: &mut std::process::Command, list: Vec<OwnedFd>) -> Result<()> {
    use std::os::unix::process::CommandExt;
    // Out of the way first: a source must not be a target of one before it.
    let high = list.iter().map(|fd| dup_above(fd.as_raw_fd(), 64)).collect::<Result<Vec<_>>>()?;
    let place = move || {
        for (i, fd) in high.iter().enumerate() {
            // SAFETY: integers only; dup2 leaves the copy without close-on-exec.
            if unsafe { libc::dup2(fd.as_raw_fd(), 3 + i as RawFd) } == -1 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe calls only and allocates nothing.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// setxattr(2).
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    let (path, name) = (cpath(path)?, cpath(Path::new(name))?);
    // SAFETY: both are strings that end, and the value is as long as said.
    Errno::result(unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    })
    .map(drop)
}

/// Whether a file has an extended attribute: getxattr(2).
pub fn has_xattr(path: &Path, name: &str) -> bool {
    let (Ok(path), Ok(name)) = (cpath(path), cpath(Path::new(name))) else { return false };
    // SAFETY: both are strings that end; a size of 0 asks for the length alone.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}
