//! containerd.runtime.sandbox.v1: a pod without a pause process. The shim itself is the sandbox: the pod's containers
//! are tasks in it, and what they share are the namespaces that the shim is in (`pod`).

use crate::report::events::timestamp;
use crate::status::{self, precondition, Result};
use crate::task::service::{decode, Service};
use conex_proto::sandbox::*;
use conex_proto::types::{Metric, Platform};
use prost::Message;
use std::rc::Rc;
use std::time::SystemTime;

impl Service {
    pub async fn sandbox_call(self: &Rc<Self>, method: &str, payload: &[u8]) -> Result<Vec<u8>> {
        let s = &self.sandbox;
        if method == "CreateSandbox" {
            return self.create_sandbox(&decode(payload)?).await.map(|()| Vec::new());
        }
        // The first field of every request is the id.
        let id = decode::<SandboxRequest>(payload)?.sandbox_id;
        s.check(&id)?;
        Ok(match method {
            "StartSandbox" => {
                if s.stopped.get().is_some() {
                    return Err(precondition("the sandbox has stopped"));
                }
                s.started.set(true);
                let created_at = s.created.get().map(timestamp);
                StartSandboxResponse { pid: self.sandbox_pid(), created_at }.encode_to_vec()
            }
            "Platform" => PlatformResponse { platform: Some(platform()) }.encode_to_vec(),
            "StopSandbox" => {
                self.stop_sandbox(decode::<StopSandboxRequest>(payload)?.timeout_secs).await?;
                Vec::new()
            }
            "WaitSandbox" => {
                while s.stopped.get().is_none() {
                    s.changed.notified().await;
                }
                WaitSandboxResponse { exit_status: 0, exited_at: s.stopped.get().map(timestamp) }
                    .encode_to_vec()
            }
            "SandboxStatus" => SandboxStatusResponse {
                sandbox_id: id,
                pid: self.sandbox_pid(),
                state: s.state().into(),
                created_at: s.created.get().map(timestamp),
                exited_at: s.stopped.get().map(timestamp),
                ..SandboxStatusResponse::default()
            }
            .encode_to_vec(),
            "PingSandbox" => Vec::new(),
            "ShutdownSandbox" => {
                self.stop_sandbox(0).await?;
                s.id.borrow_mut().clear();
                self.shutdown.notify_one();
                Vec::new()
            }
            "SandboxMetrics" => {
                SandboxMetricsResponse { metrics: self.sandbox_metrics(id)? }.encode_to_vec()
            }
            other => return Err(status::unimplemented(format!("method {other}"))),
        })
    }

    /// What the pod's cgroup counts, which is above that of every container; nothing while there is no container.
    fn sandbox_metrics(&self, id: String) -> Result<Option<Metric>> {
        let list = self.containers.borrow();
        let Some(one) = list.values().find(|c| !c.cgroups.borrow().is_empty()) else {
            return Ok(None);
        };
        let above: Vec<_> = one
            .cgroups
            .borrow()
            .iter()
            .filter_map(|c| c.parent().map(std::path::PathBuf::from))
            .collect();
        let data = crate::report::metrics::read(&above, std::process::id().cast_signed())?;
        Ok(Some(Metric { timestamp: Some(timestamp(SystemTime::now())), id, data: Some(data) }))
    }

    /// The process whose namespaces are the pod's for good: the keeper, which servers come and go below.
    fn sandbox_pid(&self) -> u32 {
        match crate::marks::keeper().is_some_and(|keeper| keeper.is_there()) {
            true => nix::unistd::getppid().as_raw() as u32,
            false => std::process::id(),
        }
    }

    async fn create_sandbox(&self, r: &CreateSandboxRequest) -> Result<()> {
        crate::args::check_name("sandbox id", &r.sandbox_id).map_err(status::invalid)?;
        if !self.sandbox.id.borrow().is_empty() {
            return Err(status::exists(format!("sandbox {}", self.sandbox.id.borrow())));
        }
        let entered = crate::pod::enter(crate::pod::config(r.options.as_ref())?, &r.netns_path)?;
        if let Some(keeper) = crate::marks::keeper() {
            if let Err(e) = keeper.enter(&entered.new).await {
                entered.undo();
                return Err(e);
            }
        }
        *self.sandbox.id.borrow_mut() = r.sandbox_id.clone();
        self.sandbox.created.set(Some(SystemTime::now()));
        Ok(())
    }

    /// Ends what still runs in the pod: SIGTERM, the time that was given, SIGKILL.
    async fn stop_sandbox(self: &Rc<Self>, seconds: u32) -> Result<()> {
        let alive = || {
            let list = self.containers.borrow();
            list.values().map(|c| c.init.clone()).filter(|p| p.is_alive()).collect::<Vec<_>>()
        };
        for (signal, wait) in [(libc::SIGTERM, u64::from(seconds)), (libc::SIGKILL, 10)] {
            if wait == 0 {
                continue;
            }
            for p in alive() {
                if let Ok(fd) = p.pidfd() {
                    let _ =
                        conex_sys::proc::pidfd_send_signal(std::os::fd::AsFd::as_fd(&fd), signal);
                }
            }
            let all = async {
                for p in alive() {
                    p.ended().await;
                }
            };
            let _ = tokio::time::timeout(std::time::Duration::from_secs(wait), all).await;
        }
        if !alive().is_empty() {
            return Err(status::unknown("a container of the sandbox does not end"));
        }
        self.sandbox.stop();
        Ok(())
    }
}

fn platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() }
}
