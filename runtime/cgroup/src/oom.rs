//! The OOM killer at work in a cgroup. The counter `oom_kill` decides, not the wake-up: v1 wakes as well when the cgroup is
//! removed, v2 for every other event.

use conex_plan::error::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where the kernel counts its kills.
pub fn file(v2: bool) -> &'static str {
    if v2 {
        "memory.events"
    } else {
        "memory.oom_control"
    }
}

/// `oom_kill` in the text of that file.
pub fn kills(text: &str) -> u64 {
    crate::figures::key(text, "oom_kill")
}

/// The counter of a cgroup.
pub struct Counter(File);

impl Counter {
    /// Of the cgroup that is this directory of the hierarchy with the memory controller, and what becomes readable when it may
    /// have grown: inotify on v2, an eventfd on v1.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn watch(dir: &Path, v2: bool) -> Result<(Counter, OwnedFd)> {
        let path = dir.join(file(v2));
        let counter = File::open(&path).call(|| format!("open({})", path.display()))?;
        if v2 {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
                .call(|| "inotify_init1")?;
            let watched = inotify.add_watch(&path, AddWatchFlags::IN_MODIFY);
            watched.call(|| format!("inotify_add_watch({})", path.display()))?;
            return Ok((Counter(counter), inotify.into()));
        }
        let event = idle()?;
        let line = format!("{} {}", event.as_fd().as_raw_fd(), counter.as_raw_fd());
        let register = dir.join("cgroup.event_control");
        std::fs::write(&register, line).call(|| format!("write({})", register.display()))?;
        Ok((Counter(counter), event))
    }

    /// What the counter says; `None` if the cgroup is gone.
    pub fn kills(&self) -> Option<u64> {
        let mut buffer = [0u8; 512];
        let n = self.0.read_at(&mut buffer, 0).ok()?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        let mut pairs = crate::figures::pairs(&text);
        pairs.find(|(key, _)| *key == "oom_kill").map(|(_, n)| n)
    }
}

/// What never wakes anybody, for a host without the controller.
pub fn idle() -> Result<OwnedFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
    event.map(OwnedFd::from).call(|| "eventfd2")
}
