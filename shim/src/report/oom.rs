//! The OOM killer at work in a container: memory.oom_control with an eventfd on cgroup v1, memory.events with inotify
//! on v2. The counter `oom_kill` decides, not the wake-up: v1 wakes as well when the cgroup is removed, v2 for every
//! other event.

use crate::status::{Call, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::task::AbortHandle;

pub struct Watch {
    counter: Rc<Counter>,
    task: AbortHandle,
}

struct Counter {
    file: File,
    told: Cell<u64>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to watch; `tell` is called once for each growth, from `told` kills on (from now on without it). `None`
    /// without a memory controller.
    ///
    /// # Errors
    /// The kernel refuses the watch.
    pub fn begin(cgroups: &[PathBuf], told: Option<u64>, tell: impl Fn() + 'static) -> Result<Option<Watch>> {
        let v1 = cgroups.iter().map(|c| c.join("memory.oom_control")).find(|p| p.exists());
        let v2 = cgroups.iter().map(|c| c.join("memory.events")).find(|p| p.exists());
        let Some(path) = v1.as_ref().or(v2.as_ref()) else { return Ok(None) };
        let file = File::open(path).call(|| format!("open({})", path.display()))?;
        let wake: OwnedFd = if v1.is_some() {
            let event =
                EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).call(|| "eventfd2".into())?;
            let control = path.with_file_name("cgroup.event_control");
            std::fs::write(&control, format!("{} {}", event.as_raw_fd(), file.as_raw_fd()))
                .call(|| format!("write({})", control.display()))?;
            event.into()
        } else {
            let inotify =
                Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).call(|| "inotify_init1".into())?;
            inotify
                .add_watch(path, AddWatchFlags::IN_MODIFY)
                .call(|| format!("inotify_add_watch({})", path.display()))?;
            inotify.into()
        };
        let wake = conex_sys::ready::readable(wake).call(|| "epoll_ctl".into())?;
        let counter = Rc::new(Counter { file, told: Cell::new(0) });
        counter.told.set(told.unwrap_or_else(|| counter.value()));
        let watched = counter.clone();
        let task = tokio::task::spawn_local(async move {
            let mut buffer = [0u8; 512];
            if watched.grown() {
                tell();
            }
            while let Ok(mut ready) = wake.readable().await {
                let _ = nix::unistd::read(wake.get_ref(), &mut buffer);
                ready.clear_ready();
                if watched.grown() {
                    tell();
                }
            }
        });
        Ok(Some(Watch { counter, task: task.abort_handle() }))
    }

    /// Kills that have been told.
    pub fn told(&self) -> u64 {
        self.counter.told.get()
    }

    /// True if there was a kill that has not been told: asked last, before the exit is.
    pub fn grown(&self) -> bool {
        self.counter.grown()
    }
}

impl Counter {
    /// `oom_kill` of the file, or what it last was when the cgroup is gone.
    fn value(&self) -> u64 {
        let mut buffer = [0u8; 512];
        let Ok(n) = self.file.read_at(&mut buffer, 0) else { return self.told.get() };
        let text = String::from_utf8_lossy(&buffer[..n]);
        let found = text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok());
        found.unwrap_or(self.told.get())
    }

    fn grown(&self) -> bool {
        let now = self.value();
        self.told.replace(now) < now
    }
}
