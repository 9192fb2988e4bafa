//! ttrpc in, call of the task, ttrpc out.

use crate::reap::{Exit, Reaper};
use crate::report::events::{timestamp, Publisher};
use crate::status::{self, Result};
use crate::task::container::Container;
use conex_proto::task::*;
use prost::Message;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

pub struct Service {
    pub namespace: String,
    pub containers: RefCell<BTreeMap<String, Rc<Container>>>,
    /// Ids that a create is at work for.
    pub creating: RefCell<BTreeSet<String>>,
    pub events: Rc<Publisher>,
    pub reaper: Rc<Reaper>,
    /// Calls at work that must not be cut in two by an upgrade.
    pub busy: Cell<u32>,
    /// Calls at work for a container, by its id.
    calls: RefCell<BTreeMap<String, u32>>,
    pub shutdown: Notify,
    pub sandbox: crate::task::pod::Sandbox,
}

/// `time.Time{}` of Go, the first of January of the year 1, in seconds since the epoch.
const GO_ZERO: i64 = -62_135_596_800;

/// A call at work, and the container that it is for.
struct Busy<'a>(&'a Service, String);

impl Busy<'_> {
    fn new<'a>(service: &'a Service, method: &str, payload: &[u8]) -> Busy<'a> {
        service.busy.set(service.busy.get() + 1);
        // All of them begin with the id.
        let id = match method {
            "Shutdown" => String::new(),
            _ => decode::<IdRequest>(payload).map_or(String::new(), |r| r.id),
        };
        *service.calls.borrow_mut().entry(id.clone()).or_default() += 1;
        Busy(service, id)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        let mut calls = self.0.calls.borrow_mut();
        if let Some(n) = calls.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                calls.remove(&self.1);
            }
        }
    }
}

/// A request, or the status for one that is none.
pub fn decode<M: Message + Default>(payload: &[u8]) -> Result<M> {
    M::decode(payload).map_err(|e| status::invalid(format!("request: {e}")))
}

fn encode(message: impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

impl Service {
    pub fn new(namespace: &str, events: Rc<Publisher>, reaper: Rc<Reaper>) -> Service {
        Service {
            namespace: namespace.to_string(),
            containers: RefCell::default(),
            creating: RefCell::default(),
            events,
            reaper,
            busy: Cell::new(0),
            calls: RefCell::default(),
            shutdown: Notify::new(),
            sandbox: crate::task::pod::Sandbox::default(),
        }
    }

    /// One request. The payload of the answer, or the status of a failure.
    pub async fn call(
        self: &Rc<Self>,
        service: &str,
        method: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        match service {
            // The two differ in nothing but the name.
            "containerd.task.v2.Task" | "containerd.task.v3.Task" => {
                if method == "Wait" {
                    return self.wait(decode(payload)?).await;
                }
                let _busy = Busy::new(self, method, payload);
                let result = self.task(method, payload).await;
                self.keep(method, payload).await;
                result
            }
            "containerd.runtime.sandbox.v1.Sandbox" => {
                let _busy = (method != "WaitSandbox").then(|| Busy::new(self, method, &[]));
                let result = self.sandbox_call(method, payload).await;
                self.told().await;
                result
            }
            other => Err(status::unimplemented(format!("service {other}"))),
        }
    }

    /// The keeper hears of a change of a process or of its container.
    pub async fn told_process(&self, container: &str, exec: &str) {
        crate::marks::touch_process(container, exec);
        crate::marks::told().await;
    }

    /// The same of the whole state.
    pub async fn told(&self) {
        if let Some(keeper) = crate::marks::keeper() {
            keeper.told(true).await;
        }
    }

    /// Whoever takes over knows what a call has come to before its client does.
    async fn keep(self: &Rc<Self>, method: &str, payload: &[u8]) {
        // All of them begin with the id; the second field is the exec's name only of some.
        let Ok(container) = decode::<IdRequest>(payload) else { return };
        let exec = match method {
            "Start" | "Exec" | "Delete" | "Kill" | "CloseIO" => {
                decode(payload).map_or(String::new(), |r: DeleteRequest| r.exec_id)
            }
            "Create" | "Pause" | "Resume" | "Update" => String::new(),
            _ => return,
        };
        self.told_process(&container.id, &exec).await;
    }

    async fn task(self: &Rc<Self>, method: &str, payload: &[u8]) -> Result<Vec<u8>> {
        match method {
            "Create" => self.create(decode(payload)?).await.map(encode),
            "Start" => self.start(decode(payload)?).await.map(encode),
            "Delete" => self.delete(decode(payload)?).await.map(encode),
            "Exec" => self.exec(decode(payload)?).map(encode),
            "Kill" => self.kill(decode(payload)?).await.map(encode),
            "State" => self.state(&decode(payload)?).map(encode),
            "Pids" => self.pids(&decode::<IdRequest>(payload)?.id).await.map(encode),
            "Pause" => self.pause(&decode::<IdRequest>(payload)?.id).await.map(encode),
            "Resume" => self.resume(&decode::<IdRequest>(payload)?.id).await.map(encode),
            "Update" => self.update(decode(payload)?).await.map(encode),
            "Checkpoint" => self.checkpoint(decode(payload)?).await.map(encode),
            "CloseIO" => self.close_io(&decode(payload)?).map(encode),
            "ResizePty" => self.resize(&decode(payload)?).map(encode),
            "Stats" => self.stats(&decode::<IdRequest>(payload)?.id).map(encode),
            "Connect" => self.connect(&decode::<IdRequest>(payload)?.id).map(encode),
            "Shutdown" => self.shutdown(&decode(payload)?).await.map(encode),
            other => Err(status::unimplemented(format!("method {other}"))),
        }
    }

    pub fn container(&self, id: &str) -> Result<Rc<Container>> {
        let found = self.containers.borrow().get(id).cloned();
        found.ok_or_else(|| status::not_found("container not created"))
    }

    async fn wait(&self, r: WaitRequest) -> Result<Vec<u8>> {
        let process = self.container(&r.id)?.process(&r.exec_id)?;
        // Of a process that never was, containerd's own shim says so: status 0 at Go's time zero.
        let none = || (0, conex_proto::Timestamp { seconds: GO_ZERO, nanos: 0 });
        let (exit_status, at) =
            process.outcome().await.map_or_else(none, |exit| (exit.status, timestamp(exit.at)));
        Ok(encode(WaitResponse { exit_status, exited_at: Some(at) }))
    }

    fn state(&self, r: &StateRequest) -> Result<StateResponse> {
        let container = self.container(&r.id)?;
        let process = container.process(&r.exec_id)?;
        let exit: Option<Exit> = process.exit.get();
        Ok(StateResponse {
            id: r.id.clone(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid.get() as u32,
            status: container.status(&process).into(),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.map_or(0, |e| e.status),
            exited_at: exit.map(|e| timestamp(e.at)),
            exec_id: r.exec_id.clone(),
        })
    }

    fn connect(&self, id: &str) -> Result<ConnectResponse> {
        // Also asked before there is a container.
        let pid = self.container(id).map_or(0, |c| c.init.pid.get());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid as u32,
            version: String::new(),
        })
    }

    async fn shutdown(&self, r: &ShutdownRequest) -> Result<()> {
        // After the answer containerd lets go of the container's connection. Told of the container's end it is here while its
        // own Kill still waits for the runtime: that is answered first. It waits for three seconds.
        let answered = async {
            while !r.id.is_empty() && self.calls.borrow().contains_key(&r.id) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), answered).await;
        // A pod's shim serves the others; containerd asks again after the last one.
        if self.containers.borrow().is_empty()
            && self.creating.borrow().is_empty()
            && !self.sandbox.exists()
        {
            self.shutdown.notify_one();
        }
        Ok(())
    }

    fn close_io(&self, r: &CloseIoRequest) -> Result<()> {
        let process = self.container(&r.id)?.process(&r.exec_id)?;
        if r.stdin {
            process.io().stdin_hold.borrow_mut().take();
        }
        Ok(())
    }

    fn resize(&self, r: &ResizePtyRequest) -> Result<()> {
        let process = self.container(&r.id)?.process(&r.exec_id)?;
        if process.exit.get().is_some() {
            return Err(status::unknown("cannot resize a stopped container"));
        }
        let io = process.io();
        let console = io.console.borrow().clone();
        if let Some(console) = console {
            let size = conex_sys::tty::Size { rows: r.height as u16, cols: r.width as u16 };
            conex_sys::tty::set_size(std::os::fd::AsFd::as_fd(&*console), size)
                .map_err(|e| status::unknown(format!("ioctl(TIOCSWINSZ): {e}")))?;
        }
        Ok(())
    }
}
