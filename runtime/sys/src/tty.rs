//! Pseudo-terminals by descriptor.

use crate::check;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Size {
    pub rows: u16,
    pub cols: u16,
}

pub fn set_size(tty: BorrowedFd, size: Size) -> Result<()> {
    let ws = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &ws) } as libc::c_long).map(drop)
}

pub fn size(tty: BorrowedFd) -> Result<Size> {
    let mut ws = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &mut ws) } as libc::c_long)?;
    Ok(Size { rows: ws.ws_row, cols: ws.ws_col })
}

/// Makes the terminal the controlling one of this session.
pub fn set_controlling(tty: BorrowedFd) -> Result<()> {
    // SAFETY: integer argument.
    check(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) } as libc::c_long).map(drop)
}

/// Unlocks the slave of a master (TIOCSPTLCK).
pub fn unlock(master: BorrowedFd) -> Result<()> {
    let zero: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &zero) } as libc::c_long)
        .map(drop)
}

/// The number N of /dev/pts/N.
pub fn number(master: BorrowedFd) -> Result<u32> {
    let mut n: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut n) } as libc::c_long)?;
    Ok(n)
}

/// The slave side of a master, opened without any path (TIOCGPTPEER, Linux 4.13).
pub fn peer(master: BorrowedFd) -> Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: integer argument; the returned descriptor is fresh.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } as libc::c_long)
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
