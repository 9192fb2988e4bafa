//! The end of processes, told in the order that containerd relies on.

use crate::log;
use crate::reap::Exit;
use crate::report::events::Publisher;
use crate::report::oom::Watch;
use crate::runtime::Streams;
use crate::status::Result;
use crate::task::container::Container;
use crate::task::process::{Process, Stage};
use crate::task::service::Service;
use conex_proto::events;
use std::ffi::OsStr;
use std::rc::Rc;

impl Service {
    /// Waits for the end of a process and tells it: exits of further processes before init's, OOM before init's.
    pub fn watch(self: &Rc<Self>, c: &Rc<Container>, p: &Rc<Process>) -> Result<()> {
        let pidfd = match p.reaped.get() {
            Some(_) => None,
            None => p.pidfd().ok(),
        };
        let (service, c, p) = (self.clone(), c.clone(), p.clone());
        tokio::task::spawn_local(async move {
            let waited = match pidfd {
                Some(fd) => {
                    let ended = service.reaper.seen(p.pid.get(), fd).await;
                    ended.map(|(exit, zombie)| (exit, Some(zombie), true))
                }
                None => {
                    let told = service.told_end(&p).await;
                    Ok((told.unwrap_or_else(Exit::unseen), None, told.is_some()))
                }
            };
            let (exit, zombie, seen) = match waited {
                Ok(waited) => waited,
                Err(e) => {
                    log::error(
                        "cannot wait for a process",
                        &[("id", &c.id), ("error", &e.message)],
                    );
                    return;
                }
            };
            p.reaped.set(Some(exit));
            // Should this server be killed, the keeper may not have to tell of it: it is reaped.
            service.told_process(&c.id, &p.id).await;
            drop(zombie);
            p.io().ended();
            p.settled().await;
            match p.id.as_str() {
                "" => {
                    let kills = service.init_ended(&c).await;
                    if seen {
                        leave(&c, &p, exit, kills);
                    }
                }
                _ => c.drop_leaf(&p),
            }
            p.exit.set(Some(exit));
            p.set(Stage::Stopped);
            service.events.publish("/tasks/exit", "TaskExit", &event(&c, &p, exit));
            service.told_process(&c.id, &p.id).await;
            log::info(
                "exited",
                &[("id", &c.id), ("exec", &p.id), ("status", &exit.status.to_string())],
            );
        });
        Ok(())
    }

    /// The end of a process that is reaped already, if anybody tells it.
    async fn told_end(&self, p: &Process) -> Option<Exit> {
        if let Some(exit) = p.reaped.get() {
            return Some(exit);
        }
        // It ended while there was no server.
        let told = self.reaper.told(p.pid.get()).await;
        // The number is free for others.
        self.reaper.forget(p.pid.get());
        told
    }

    /// Returns how often the kernel has killed something in it for want of memory.
    async fn init_ended(&self, c: &Rc<Container>) -> u64 {
        if c.shared_pid {
            // Without a PID namespace of its own the others outlive init.
            let args: [&OsStr; 4] =
                ["kill".as_ref(), "--all".as_ref(), c.id.as_ref(), "KILL".as_ref()];
            let _ = c.runtime.run(&self.reaper, "kill", &args, Streams::default()).await;
        }
        let execs: Vec<_> = c.execs.borrow().values().cloned().collect();
        let all = async {
            for exec in execs {
                exec.settled().await;
                if exec.is_alive() {
                    exec.ended().await;
                }
            }
        };
        // One that cannot be killed must not hide the end of the container.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(10), all).await;
        c.paused.set(false);
        if c.oom.borrow().as_ref().is_some_and(Watch::grown) {
            tell_oom(&self.events, &c.id);
        }
        c.oom.borrow_mut().take().map_or(0, |watch| watch.told())
    }
}

fn event(c: &Container, p: &Process, exit: Exit) -> events::TaskExit {
    events::TaskExit {
        container_id: c.id.clone(),
        id: if p.id.is_empty() { c.id.clone() } else { p.id.clone() },
        pid: p.pid.get() as u32,
        exit_status: exit.status,
        exited_at: Some(crate::report::events::timestamp(exit.at)),
    }
}

/// For the runtime, which is not the parent: how the container ended, for as long as the bundle is there. Only people ask
/// for it, so that a full disk is no error.
fn leave(c: &Container, init: &Process, exit: Exit, kills: u64) {
    let nanos = exit.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let text = serde_json::json!({
        "pid": init.pid.get(), "startTime": init.start_time.get(), "exitCode": exit.status, "exitedAt": nanos, "oomKills": kills,
    });
    let bundle = &c.runtime.bundle;
    let (whole, part) = (bundle.join(conex_host::end::LEFT), bundle.join(".exit.json"));
    let _ = std::fs::remove_file(&part);
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&part);
    let written =
        made.and_then(|mut file| std::io::Write::write_all(&mut file, text.to_string().as_bytes()));
    let _ = written.and_then(|()| std::fs::rename(&part, &whole));
}

/// Watches for OOM kills, from `told` of them on; none without a memory controller.
pub fn watch_oom(
    service: &Service,
    id: &str,
    cgroups: &[std::path::PathBuf],
    told: Option<u64>,
) -> Option<Watch> {
    let (events, name) = (service.events.clone(), id.to_string());
    let watch = Watch::begin(cgroups, told, move || tell_oom(&events, &name));
    watch.unwrap_or_else(|e| {
        log::warn(
            "OOM kills of this container will not be told",
            &[("id", id), ("error", &e.message)],
        );
        None
    })
}

fn tell_oom(events: &Publisher, id: &str) {
    events.publish("/tasks/oom", "TaskOOM", &events::TaskOom { container_id: id.to_string() });
    // With the number of those that were told.
    crate::marks::touch_process(id, "");
}
