//! Reading and writing cgroup files: one open, one read or write.

use nix::errno::Errno;
use nix::fcntl::{openat, OFlag};
use nix::sys::stat::Mode;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

pub fn write_at(dir: BorrowedFd, file: &str, value: &str) -> nix::Result<()> {
    write_value(&open_to_write(dir, file)?, value)
}

pub fn open_to_write(dir: BorrowedFd, file: &str) -> nix::Result<OwnedFd> {
    openat(dir, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
}

/// One value in one write, as these files want it. Nothing at all would not reach them (`cgroup_file_write`).
pub fn write_value(fd: &OwnedFd, value: &str) -> nix::Result<()> {
    let value = if value.is_empty() { "\n" } else { value };
    loop {
        match nix::unistd::write(fd, value.as_bytes()) {
            Err(Errno::EINTR) => continue,
            other => return other.map(drop),
        }
    }
}

pub fn read_at(dir: BorrowedFd, file: &str) -> nix::Result<String> {
    let fd =
        openat(dir, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())?;
    let mut out = Vec::with_capacity(4096);
    let mut buffer = [0u8; 4096];
    loop {
        match nix::unistd::read(&fd, &mut buffer) {
            Ok(0) => return String::from_utf8(out).map_err(|_| Errno::EILSEQ),
            Ok(n) => out.extend_from_slice(&buffer[..n]),
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e),
        }
    }
}

pub fn exists_at(dir: BorrowedFd, file: &str) -> bool {
    nix::sys::stat::fstatat(dir, file, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

pub fn read(path: &Path) -> std::io::Result<String> {
    crate::acts::read_text(path)
}
