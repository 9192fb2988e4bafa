//! Protection of the runtime's own binary (CVE-2019-5736).
//!
//! A container may get hold of `/proc/PID/exe` of a runtime process that enters it, and write to it once that
//! process is gone. So before anything enters a container, the runtime executes itself from a place that cannot be
//! written: `conex_sys::early` has done it already, from an overlay without an upper layer, which is no copy. Where
//! it could not (no overlayfs, a path that its options cannot say, a processor that it is not written for), this file
//! does, from a sealed copy in memory. A read-only bind mount is no such place: whoever holds its descriptor can make
//! it writable. A program that lies on a file system without a way to write (squashfs, erofs) or under fs-verity is
//! executed once.

use crate::error::{Context, Error, Kind, Result};
use conex_sys::{clone, fd};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Marks the second run of the program. It is not trusted: [`is_sealed`] looks at the executable itself.
pub const MARK: &str = "_CONEX_SEALED";

/// Executes the program again from a sealed copy, unless it already runs from one.
pub fn ensure() -> Result<()> {
    let exe = nix::fcntl::open("/proc/self/exe", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| "open(/proc/self/exe)")?;
    if is_sealed(&exe) {
        close_on_exec();
        return Ok(());
    }
    if second_run() {
        return Err(Error::new(Kind::System, "the sealed copy of the runtime is not sealed"));
    }
    let sealed = copy(exe)?;
    let args: Vec<CString> =
        std::env::args_os().filter_map(|a| CString::new(a.as_bytes()).ok()).collect();
    let mut env: Vec<CString> = std::env::vars_os()
        .filter_map(|(k, v)| CString::new([k.as_bytes(), b"=", v.as_bytes()].concat()).ok())
        .collect();
    env.push(CString::new(format!("{MARK}=1")).unwrap_or_default());
    let e = clone::fexecve(sealed.as_fd(), &args, &env);
    Err(Error::call(e, "execveat(sealed copy, AT_EMPTY_PATH)"))
}

/// Keeps every inherited descriptor above 2 from programs that this one executes; what is preserved on purpose is
/// let through by name at the end.
pub fn close_on_exec() {
    if fd::cloexec_from(3).is_ok() {
        return;
    }
    // Before Linux 5.11.
    let Ok(list) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<i32> =
        list.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for n in numbers.into_iter().filter(|n| *n > 2) {
        let _ = fd::set_cloexec(n);
    }
}

/// True for a file that nobody can write to where it is installed, for a memfd with all seals, and for a file on an overlay
/// without an upper layer.
fn is_sealed(exe: &OwnedFd) -> bool {
    if fd::is_unwritable(exe.as_fd()) {
        return true;
    }
    if fd::seals(exe.as_fd()).is_ok_and(|s| s & fd::SEALS == fd::SEALS) {
        return true;
    }
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    let on_overlay = || {
        nix::sys::statfs::fstatfs(exe)
            .is_ok_and(|s| s.filesystem_type().0 as i64 == OVERLAYFS_SUPER_MAGIC)
    };
    // Only believed together: an ordinary container's root is an overlay as well, and a writable one.
    second_run() && on_overlay() && writing_is_impossible(exe)
}

/// An overlay without an upper layer answers EROFS to every attempt to write, whoever asks.
fn writing_is_impossible(exe: &OwnedFd) -> bool {
    use nix::sys::statvfs::{fstatvfs, FsFlags};
    fstatvfs(exe).is_ok_and(|s| s.flags().contains(FsFlags::ST_RDONLY))
}

/// The binary in sealed memory.
fn copy(exe: OwnedFd) -> Result<OwnedFd> {
    let memory = fd::memfd_exec("conex").call(|| "memfd_create(MFD_ALLOW_SEALING)")?;
    let mut from = std::fs::File::from(exe);
    let mut to = std::fs::File::from(memory);
    let size = from.metadata().call(|| "fstat(/proc/self/exe)")?.len();
    let mut sent = 0;
    while sent < size {
        match nix::sys::sendfile::sendfile(&to, &from, None, (size - sent) as usize) {
            Ok(0) | Err(_) => break,
            Ok(n) => sent += n as u64,
        }
    }
    if sent < size {
        std::io::copy(&mut Read::by_ref(&mut from), &mut to).call(|| "write(memfd)")?;
    }
    let memory = OwnedFd::from(to);
    fd::seal(memory.as_fd()).call(|| "fcntl(F_ADD_SEALS)")?;
    Ok(memory)
}

/// Whether this is the second run is known from now on only to this program: hooks and containers do not inherit it.
pub fn forget_mark() {
    if std::env::var_os(MARK).is_some() {
        SEALED.store(true, std::sync::atomic::Ordering::Relaxed);
        std::env::remove_var(MARK);
    }
}

fn second_run() -> bool {
    SEALED.load(std::sync::atomic::Ordering::Relaxed)
}

static SEALED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    /// Otherwise the program would execute itself for ever.
    #[test]
    fn both_ways_set_one_mark() {
        assert_eq!(conex_sys::early::MARK, format!("{}=1\0", super::MARK).as_bytes());
    }
}
