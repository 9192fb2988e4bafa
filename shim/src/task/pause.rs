//! Pause and Resume, and what has become of one whose server was killed.

use crate::log;
use crate::status::Result;
use crate::task::container::Container;
use crate::task::service::Service;
use crate::task::settle::runtimes_gone;
use conex_proto::events;
use std::rc::Rc;

impl Service {
    pub async fn pause(self: &Rc<Self>, id: &str) -> Result<()> {
        let c = self.container(id)?;
        let _turn = c.turn.lock().await;
        c.allow("pause")?;
        self.turn(&c, "pause", true).await
    }

    pub async fn resume(self: &Rc<Self>, id: &str) -> Result<()> {
        let c = self.container(id)?;
        let _turn = c.turn.lock().await;
        c.allow("resume")?;
        self.turn(&c, "resume", false).await
    }

    async fn turn(self: &Rc<Self>, c: &Container, verb: &str, paused: bool) -> Result<()> {
        c.turning.set(true);
        // Whoever takes over from here on looks what has become of it.
        self.told_process(&c.id, "").await;
        let turned = self.simple(c, verb).await;
        c.turning.set(false);
        turned?;
        self.turned(c, paused);
        Ok(())
    }

    fn turned(&self, c: &Container, paused: bool) {
        c.paused.set(paused);
        let event = events::TaskPaused { container_id: c.id.clone() };
        match paused {
            true => self.events.publish("/tasks/paused", "TaskPaused", &event),
            false => self.events.publish("/tasks/resumed", "TaskResumed", &event),
        }
    }

    /// After a takeover: what has become of a pause or a resume that the earlier server had begun.
    pub fn settle_pause(self: &Rc<Self>, c: &Rc<Container>) {
        let (service, c) = (self.clone(), c.clone());
        tokio::task::spawn_local(async move {
            let _turn = c.turn.lock().await;
            runtimes_gone(&c).await;
            match service.state_of(&c).await {
                Ok(state) if (state == "paused") != c.paused.get() => {
                    service.turned(&c, state == "paused")
                }
                Ok(_) => {}
                Err(e) => {
                    log::error(
                        "a pause of the earlier server",
                        &[("id", &c.id), ("error", &e.message)],
                    );
                }
            }
            c.turning.set(false);
            service.told_process(&c.id, "").await;
        });
    }
}
