//! Loop devices: a file as a block device (loop(4)).

use crate::check;
use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// struct loop_info64 of include/uapi/linux/loop.h.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// struct loop_config.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Makes a loop device of an open file; it goes with its last user (`LO_FLAGS_AUTOCLEAR`), so the descriptor must be
/// kept until the device is mounted. Returns it with the path of the device node.
///
/// `LOOP_CTL_GET_FREE` (Linux 3.1) and `LOOP_CONFIGURE` (5.8).
pub fn attach(file: BorrowedFd, read_only: bool) -> Result<(OwnedFd, String)> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const READ_ONLY: u32 = 1;
    const AUTOCLEAR: u32 = 4;
    let control = open("/dev/loop-control", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    // Another process may take the free one first.
    for _ in 0..20 {
        // SAFETY: no argument.
        let number =
            check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) } as libc::c_long)?;
        let path = format!("/dev/loop{number}");
        let access = if read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        let device = open(path.as_str(), access | OFlag::O_CLOEXEC, Mode::empty())?;
        // SAFETY: all-zero is a valid value of this structure of integers.
        let mut config: Config = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.info.flags = AUTOCLEAR | if read_only { READ_ONLY } else { 0 };
        // SAFETY: config has the kernel's layout and outlives the call.
        let answer = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &config) };
        match check(answer as libc::c_long) {
            Ok(_) => return Ok((device, path)),
            Err(Errno::EBUSY) => continue,
            Err(e) => return Err(e),
        }
    }
    Err(Errno::EBUSY)
}
