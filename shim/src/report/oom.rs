//! The OOM killer at work in a container, told as events ([`conex_cgroup::oom`]).

use crate::status::{unknown, During, Result};
use conex_cgroup::oom;
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::task::AbortHandle;

pub struct Watch {
    counter: Rc<Counter>,
    task: AbortHandle,
}

struct Counter {
    kills: oom::Counter,
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
    pub fn begin(
        cgroups: &[PathBuf],
        told: Option<u64>,
        tell: impl Fn() + 'static,
    ) -> Result<Option<Watch>> {
        let has =
            |v2: bool| cgroups.iter().find(|c| c.join(oom::file(v2)).exists()).map(|dir| (dir, v2));
        let Some((dir, v2)) = has(false).or_else(|| has(true)) else { return Ok(None) };
        let (kills, wake) = oom::Counter::watch(dir, v2).map_err(|e| unknown(e.to_string()))?;
        let wake = conex_sys::ready::readable(wake).during(|| "epoll_ctl".into())?;
        let counter = Rc::new(Counter { kills, told: Cell::new(0) });
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
    /// What the kernel has counted, or what it last was when the cgroup is gone.
    fn value(&self) -> u64 {
        self.kills.kills().unwrap_or(self.told.get())
    }

    fn grown(&self) -> bool {
        let now = self.value();
        self.told.replace(now) < now
    }
}
