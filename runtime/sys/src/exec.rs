//! execve(2) as a call that can be looked at before it is made, and words that are left without any system call.

use nix::errno::Errno;
use nix::Result;
use std::ffi::{c_char, CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};

/// An execve that is still to come: its arguments stay where they are, so that a seccomp filter can be asked about them.
pub struct Execve<'a> {
    path: &'a CStr,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
}

impl<'a> Execve<'a> {
    pub fn new(path: &'a CStr, args: &'a [CString], env: &'a [CString]) -> Execve<'a> {
        let list = |of: &'a [CString]| {
            of.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        Execve { path, args: list(args), env: list(env) }
    }

    /// What the kernel will see in the registers.
    pub fn registers(&self) -> [u64; 6] {
        [self.path.as_ptr() as u64, self.args.as_ptr() as u64, self.env.as_ptr() as u64, 0, 0, 0]
    }

    /// Becomes the program; what it returns is why it has not.
    pub fn run(&self) -> Errno {
        // SAFETY: three NUL-terminated lists of C strings, which the lifetime keeps.
        unsafe { libc::execve(self.path.as_ptr(), self.args.as_ptr(), self.env.as_ptr()) };
        Errno::last()
    }
}

/// Memory that this process shares with whoever holds the descriptor. It goes with the program (execve, exit), and is written
/// without a system call: a process whose seccomp filter allows none can still say why it ends.
pub struct Words {
    at: *mut u8,
}

impl Words {
    /// As many bytes as are kept.
    pub const SIZE: usize = 16 << 10;

    /// The memory, and the descriptor by which another process reads it.
    pub fn new() -> Result<(Words, OwnedFd)> {
        let fd = crate::fd::memfd_data("words")?;
        nix::unistd::ftruncate(&fd, Words::SIZE as i64)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that has this size and cannot be cut by
        // anybody but whoever receives the descriptor.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Words::SIZE,
                access,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok((Words { at: at.cast() }, fd))
    }

    /// Leaves what fits.
    pub fn write(&self, bytes: &[u8]) {
        let len = bytes.len().min(Words::SIZE);
        // SAFETY: the mapping has SIZE bytes, and is never unmapped while the value lives (it has no Drop).
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at, len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_by_the_descriptor() {
        let (words, fd) = Words::new().unwrap();
        words.write(b"why");
        let mut bytes = [0u8; 4];
        assert_eq!(nix::sys::uio::pread(&fd, &mut bytes, 0), Ok(4));
        assert_eq!(&bytes, b"why\0");
    }

    #[test]
    fn an_execve_says_what_it_will_pass() {
        let (path, list) = (CString::new("/no/such").unwrap(), [CString::new("x").unwrap()]);
        let call = Execve::new(&path, &list, &[]);
        assert_eq!(call.registers()[0], path.as_ptr() as u64);
        assert!(call.registers()[1] != 0 && call.registers()[2] != 0);
        assert_eq!(call.run(), Errno::ENOENT);
    }
}
