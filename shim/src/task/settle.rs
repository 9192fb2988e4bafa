//! After a takeover: starts that the earlier server had begun and whose answer nobody has seen.

use crate::log;
use crate::runtime::Streams;
use crate::status::{During, Result};
use crate::task::container::Container;
use crate::task::process::{Process, Stage};
use crate::task::service::Service;
use conex_acts::identity::proc_stat;
use conex_proto::events;
use serde::Deserialize;
use std::ffi::OsStr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A runtime that takes longer is waited for no more.
const MOST: Duration = Duration::from_secs(60);

impl Service {
    /// Finds out what became of it, and goes on as if the call had ended so.
    pub fn settle(self: &Rc<Self>, c: &Rc<Container>, p: &Rc<Process>) {
        let curious = self.reaper.curious();
        let (service, c, p) = (self.clone(), c.clone(), p.clone());
        tokio::task::spawn_local(async move {
            // As the start that it is: a Delete that comes meanwhile has to wait.
            let turn = if p.id.is_empty() { Some(c.turn.lock().await) } else { None };
            runtimes_gone(&c).await;
            let result = match p.id.is_empty() {
                true => service.settle_init(&c).await,
                false => service.settle_exec(&c, &p).await,
            };
            if let Err(e) = result {
                log::error(
                    "a start of the earlier server",
                    &[("id", &c.id), ("exec", &p.id), ("error", &e.message)],
                );
            }
            if p.stage.get() == Stage::Starting {
                p.set(Stage::Created);
            }
            drop((curious, turn));
            let stage = format!("{:?}", p.stage.get());
            log::info(
                "a start of the earlier server",
                &[("id", &c.id), ("exec", &p.id), ("came to", &stage)],
            );
            service.told_process(&c.id, &p.id).await;
        });
    }

    /// As the runtime says.
    pub(crate) async fn state_of(&self, c: &Container) -> Result<String> {
        let args: [&OsStr; 2] = ["state".as_ref(), c.id.as_ref()];
        let text = c
            .runtime
            .run(&self.reaper, "OCI runtime state failed", &args, Streams::default())
            .await?;
        #[derive(Deserialize)]
        struct State {
            status: String,
        }
        serde_json::from_str::<State>(&text).map(|s| s.status).during(|| format!("state: {text:?}"))
    }

    async fn settle_init(self: &Rc<Self>, c: &Rc<Container>) -> Result<()> {
        let p = &c.init;
        if p.pid.get() == 0 {
            // From a checkpoint: the runtime has made the process, or has not.
            let Some((pid, start_time)) = self.found(&c.bundle.join("init.pid")) else {
                return Ok(());
            };
            self.reaper.add(pid);
            p.pid.set(pid);
            p.start_time.set(start_time);
            self.joined(c);
            self.watch(c, p)?;
        }
        let state = self.state_of(c).await?;
        if state == "created" {
            return Ok(());
        }
        // Ended or not: it has been started.
        let event = events::TaskStart { container_id: c.id.clone(), pid: p.pid.get() as u32 };
        self.events.publish("/tasks/start", "TaskStart", &event);
        c.paused.set(state == "paused");
        p.set(Stage::Running);
        Ok(())
    }

    async fn settle_exec(self: &Rc<Self>, c: &Rc<Container>, p: &Rc<Process>) -> Result<()> {
        let files = ["json", "pid"].map(|kind| c.bundle.join(format!("{}.{kind}", p.id)));
        // A process with a terminal is known a moment before its start has come to its end.
        let known = p.pid.get() > 0;
        let mut found = self.found(&files[1]);
        for _ in 0..10 {
            // Its end may be on its way from the keeper.
            if known || found.is_some() || !files[1].exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            found = self.found(&files[1]);
        }
        if known {
            found = Some((p.pid.get(), p.start_time.get()));
        }
        let _ = std::fs::remove_file(&files[0]);
        let Some((pid, start_time)) = found else {
            let _ = std::fs::remove_file(&files[1]);
            c.drop_leaf(p);
            p.io().close().await;
            *p.io.borrow_mut() = Rc::default();
            p.set(Stage::Added);
            p.give_up();
            return Ok(());
        };
        if !known {
            self.reaper.add(pid);
            p.pid.set(pid);
            p.start_time.set(start_time);
        }
        p.spec.take();
        let event = events::TaskExecStarted {
            container_id: c.id.clone(),
            exec_id: p.id.clone(),
            pid: pid as u32,
        };
        self.events.publish("/tasks/exec-started", "TaskExecStarted", &event);
        p.set(Stage::Running);
        // Whoever takes over before that finds the process by its file.
        self.told_process(&c.id, &p.id).await;
        let _ = std::fs::remove_file(&files[1]);
        if known {
            return Ok(());
        }
        self.watch(c, p)
    }

    /// The process that a pid file names, with its start time: one that the runtime has left to the keeper, or that the
    /// keeper has reaped meanwhile. The file's number alone could be anybody's.
    fn found(&self, file: &Path) -> Option<(i32, u64)> {
        let pid: i32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        if self.reaper.has_told(pid) {
            return Some((pid, 0));
        }
        let start_time = proc_stat(pid)?.1;
        let ours =
            parent(pid)? == nix::unistd::getppid().as_raw() && proc_stat(pid)?.1 == start_time;
        ours.then_some((pid, start_time))
    }
}

/// Field 4 of /proc/PID/stat.
fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.iter().rposition(|b| *b == b')')? + 1..];
    String::from_utf8_lossy(rest).split_whitespace().nth(1)?.parse().ok()
}

/// Until no runtime is at work for the container any more that the earlier server had started: it is the keeper's child now,
/// and names the container and where the runtime keeps its state.
pub(crate) async fn runtimes_gone(c: &Container) {
    let begun = Instant::now();
    let keeper = nix::unistd::getppid();
    let root = c.runtime.root.as_os_str().as_encoded_bytes();
    let ours = |pid: &str| {
        let pid = pid.parse().unwrap_or(0);
        // An init that waits for its start is a clone of the runtime, with its command line.
        c.init.pid.get() == pid || c.execs.borrow().values().any(|p| p.pid.get() == pid)
    };
    let exe = |pid: &str| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let (own_pid, own) = (std::process::id().to_string(), exe("self"));
    let at_work = |pid: &str| {
        if pid != own_pid && own.is_some() && exe(pid) == own {
            // A clone of the earlier server that was to execute a runtime, and will.
            return true;
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        words.any(|w| w == root) && line.split(|b| *b == 0).any(|w| w == c.id.as_bytes())
    };
    // Twice: a process in the middle of its execve has no command line, and the list can miss one while another one ends
    // (proc_pid_children(5)).
    let mut looks = 0;
    loop {
        let list = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))
            .unwrap_or_default();
        let any = list.split_whitespace().any(|pid| !ours(pid) && at_work(pid));
        looks = if any { 0 } else { looks + 1 };
        if looks == 2 || begun.elapsed() > MOST {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
