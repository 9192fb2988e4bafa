//! The runtime's own namespaces.

use crate::error::{Context, Result};
use crate::plan::namespaces::KINDS;
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::mount::{mount, MsFlags};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// Does something with a copy of the mounts, in which what is mounted on the host appears and nothing of what is mounted here
/// is seen outside. A program that is started there keeps it; this one comes back.
///
/// # Errors
/// This user may not, or a call failed; what `act` says.
pub fn in_a_copy<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    visit(libc::CLONE_NEWNS, || {
        proc::unshare(libc::CLONE_NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
        let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
            .call(|| "mount(/, MS_REC|MS_SLAVE)")?;
        act()
    })
}

/// Does something that enters another namespace of a kind, `CLONE_NEW*`, and comes back.
///
/// # Errors
/// What `act` says; there is no way back.
pub fn visit<T>(kind: i32, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut home = Home::default();
    home.remember(kind)?;
    let done = act();
    home.back()?;
    done
}

/// The runtime's own namespaces, to come back to.
#[derive(Default)]
pub(super) struct Home {
    namespaces: Vec<(OwnedFd, i32)>,
    /// Root and working directory, which setns(2) into a mount namespace changes.
    places: Option<(OwnedFd, OwnedFd)>,
}

impl Home {
    pub(super) fn remember(&mut self, flag: i32) -> Result<()> {
        let file = KINDS.iter().find(|k| k.2 == flag).map_or("", |k| k.1);
        let path = format!("/proc/self/ns/{file}");
        let fd = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .call(|| format!("open({path})"))?;
        if flag == libc::CLONE_NEWNS {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let place = |path: &str| {
                nix::fcntl::open(path, flags, Mode::empty())
                    .call(|| format!("open({path}, O_PATH)"))
            };
            self.places = Some((place("/")?, place(".")?));
        }
        self.namespaces.push((fd, flag));
        Ok(())
    }

    pub(super) fn back(&self) -> Result<()> {
        self.namespaces.iter().try_for_each(|(fd, flag)| {
            proc::setns(fd.as_fd(), *flag).call(|| format!("setns(own, {flag:#x})"))
        })?;
        let Some((root, cwd)) = &self.places else { return Ok(()) };
        nix::unistd::fchdir(root).call(|| "fchdir(own root)")?;
        nix::unistd::chroot(".").call(|| "chroot(own root)")?;
        nix::unistd::fchdir(cwd).call(|| "fchdir(own working directory)")
    }
}
