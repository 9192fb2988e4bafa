//! Readiness of descriptors in tokio's reactor (feature `tokio`, for the shim).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

fn register<T: AsRawFd>(fd: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: T is OwnedFd or BorrowedFd (the callers below): its number is that of one open descriptor, and stays so
    // until it is dropped, which the returned value does.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// Takes a descriptor into the reactor; it is closed with the returned value.
pub fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE)
}

/// A descriptor that stays the caller's.
pub fn borrowed(fd: BorrowedFd, interest: Interest) -> std::io::Result<AsyncFd<BorrowedFd>> {
    register(fd, interest)
}
