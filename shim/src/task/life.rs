//! The calls that change a task.

use crate::cgroup::cgroups_of;
use crate::io::console::Socket;
use crate::io::{Io, Owner, Stdio};
use crate::reap;
use crate::runtime::{Runtime, Streams};
use crate::status::{self, invalid, unknown, During, Result};
use crate::task::container::{Config, Container};
use crate::task::process::{Process, Stage};
use crate::task::restore::Restore;
use crate::task::service::Service;
use crate::{log, rootfs};
use conex_proto::task::*;
use conex_proto::{any, events, runc, types, Any};
use prost::Message;
use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The options in an `Any`, told by the last part of its type; none for another type (a client of a newer kind).
pub fn options(any: Option<&Any>) -> Result<runc::Options> {
    match any {
        Some(a) if a.type_url.ends_with("containerd.runc.v1.Options") => {
            runc::Options::decode(a.value.as_slice()).map_err(|e| invalid(format!("options: {e}")))
        }
        _ => Ok(runc::Options::default()),
    }
}

impl Service {
    pub async fn create(self: &Rc<Self>, r: CreateTaskRequest) -> Result<CreateTaskResponse> {
        crate::args::check_name("id", &r.id).map_err(invalid)?;
        if self.containers.borrow().contains_key(&r.id)
            || !self.creating.borrow_mut().insert(r.id.clone())
        {
            return Err(status::exists(format!("task {}", r.id)));
        }
        let made = self.make(&r).await;
        self.creating.borrow_mut().remove(&r.id);
        let container = made?;
        let pid = container.init.pid.get() as u32;
        self.containers.borrow_mut().insert(r.id.clone(), container.clone());
        self.events.publish(
            "/tasks/create",
            "TaskCreate",
            &events::TaskCreate {
                container_id: r.id.clone(),
                bundle: r.bundle,
                rootfs: r.rootfs,
                io: Some(events::TaskIo {
                    stdin: r.stdin,
                    stdout: r.stdout,
                    stderr: r.stderr,
                    terminal: r.terminal,
                }),
                checkpoint: r.checkpoint,
                pid,
            },
        );
        if pid > 0 {
            self.watch(&container, &container.init)?;
        }
        log::info("created", &[("id", &r.id), ("pid", &pid.to_string())]);
        Ok(CreateTaskResponse { pid })
    }

    async fn make(self: &Rc<Self>, r: &CreateTaskRequest) -> Result<Rc<Container>> {
        let bundle = PathBuf::from(&r.bundle);
        let config = Config::read(&bundle)?;
        let options = options(r.options.as_ref())?;
        let output_buffer = config.output_buffer()?;
        let mut runtime = Runtime::new(&options, &self.namespace, &bundle);
        // Docker has no way to tell a shim given by `runtimeType` which driver it uses; its path does.
        runtime.systemd_cgroup |=
            config.names_a_unit() && Path::new("/run/systemd/system").is_dir();
        let record = serde_json::to_vec(&runtime).during(|| "options.json".into())?;
        write_private(&bundle.join("options.json"), &record)?;
        let restore = Restore::of(r, &options, &bundle)?;
        let root = bundle.join("rootfs");
        rootfs::mount_all(&r.rootfs, &root)?;
        let stdio = Stdio {
            stdin: r.stdin.clone(),
            stdout: r.stdout.clone(),
            stderr: r.stderr.clone(),
            terminal: r.terminal,
        };
        let container = Container {
            id: r.id.clone(),
            bundle,
            runtime,
            options,
            lingering: RefCell::default(),
            output_buffer,
            init: Rc::new(Process::new("", stdio, Vec::new())),
            execs: RefCell::default(),
            turn: tokio::sync::Mutex::default(),
            paused: Cell::new(false),
            turning: Cell::new(false),
            shared_pid: config.shares_pid(),
            cgroups: RefCell::default(),
            oom: RefCell::default(),
            restore,
        };
        if container.restore.is_some() {
            // `start` makes the process.
            container.init.set(Stage::Created);
            return Ok(Rc::new(container));
        }
        if let Err(e) = self.runtime_create(&container).await {
            self.undo_create(&container).await;
            if !r.rootfs.is_empty() {
                rootfs::unmount(&root);
            }
            return Err(e);
        }
        self.joined(&container);
        Ok(Rc::new(container))
    }

    /// Looks up the cgroups of a container that has a process, and watches them for OOM kills.
    pub(crate) fn joined(&self, c: &Container) {
        *c.cgroups.borrow_mut() = cgroups_of(c.init.pid.get());
        *c.oom.borrow_mut() = crate::task::exit::watch_oom(self, &c.id, &c.cgroups.borrow(), None);
    }

    /// After a create that failed: a runtime that made the container all the same (and then sent no terminal, say) must
    /// not leave it behind.
    pub(crate) async fn undo_create(&self, c: &Container) {
        if c.init.pid.get() > 0 || c.bundle.join("init.pid").exists() {
            let args: [&OsStr; 3] = ["delete".as_ref(), "--force".as_ref(), c.id.as_ref()];
            let _ = c.runtime.run(&self.reaper, "delete", &args, Streams::default()).await;
            self.end(&c.init).await;
        }
        c.init.io().close().await;
    }

    /// Kills and reaps a process that nobody will hear of.
    pub(crate) async fn end(&self, p: &Process) {
        if let Ok(pidfd) = p.pidfd() {
            let _ = conex_sys::proc::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = self.reaper.wait(p.pid.get(), pidfd).await;
        }
        self.reaper.forget(p.pid.get());
        p.pid.set(0);
    }

    async fn runtime_create(self: &Rc<Self>, c: &Container) -> Result<()> {
        let pid_file = c.bundle.join("init.pid");
        let mut args: Vec<&OsStr> = vec!["create".as_ref(), "--bundle".as_ref(), c.bundle.as_ref()];
        if c.options.no_pivot_root {
            args.push("--no-pivot".as_ref());
        }
        if c.options.no_new_keyring {
            args.push("--no-new-keyring".as_ref());
        }
        self.begin(c, &c.init, ("OCI runtime create failed", &pid_file), args).await?;
        c.init.set(Stage::Created);
        Ok(())
    }

    /// Lets the runtime make one process (create or exec): streams or terminal, pid file, pid.
    pub(crate) async fn begin<'a>(
        self: &Rc<Self>,
        c: &'a Container,
        p: &Rc<Process>,
        (what, pid_file): (&str, &'a Path),
        mut args: Vec<&'a OsStr>,
    ) -> Result<()> {
        let owner = Rc::new(Owner::new(
            (&self.namespace, &self.events),
            (&c.id, &p.id),
            &c.bundle,
            &c.options,
        ));
        // What a client takes from an exec are data, not a log: they wait for it, as in a pipe.
        let capacity = if p.id.is_empty() { c.output_buffer } else { 0 };
        let socket = if p.stdio.terminal { Some(Socket::new()?) } else { None };
        let socket_path = socket.as_ref().map(Socket::path);
        let (io, streams) = match &socket {
            Some(_) => (Io::default(), Streams::default()),
            None => Io::pipes(&p.stdio, &owner, capacity).await?,
        };
        *p.io.borrow_mut() = Rc::new(io);
        // Whoever takes over from here on has the process's streams, and knows that a runtime is at work.
        if self.containers.borrow().contains_key(&c.id) {
            self.told_process(&c.id, &p.id).await;
        }
        args.extend(["--pid-file".as_ref(), pid_file.as_os_str()]);
        if let Some(path) = &socket_path {
            args.extend(["--console-socket".as_ref(), path.as_os_str()]);
        }
        args.push(c.id.as_ref());
        // Until its pid is known, nobody may reap what could be it.
        let _hold = self.reaper.hold();
        c.runtime.run(&self.reaper, what, &args, streams).await?;
        let text =
            std::fs::read_to_string(pid_file).during(|| format!("open({})", pid_file.display()))?;
        let pid: i32 =
            text.trim().parse().during(|| format!("{}: {text:?}", pid_file.display()))?;
        // Nobody reaps meanwhile: a child's number is its own. The file's could be of another PID namespace.
        if !conex_sys::proc::is_child(reap::pidfd(pid)?.as_fd())
            .during(|| format!("waitid({pid})"))?
        {
            let file = pid_file.display();
            return Err(unknown(format!(
                "{file}: process {pid} is not one that the runtime left to this shim"
            )));
        }
        self.reaper.add(pid);
        p.io().begin(&owner);
        p.pid.set(pid);
        p.start_time.set(conex_acts::identity::identity(pid).start_time);
        if let Some(socket) = socket {
            let master = socket.receive().await?;
            p.io().attach(&p.stdio, &owner, master).await?;
        }
        Ok(())
    }

    pub async fn start(self: &Rc<Self>, r: StartRequest) -> Result<StartResponse> {
        let c = self.container(&r.id)?;
        let p = c.process(&r.exec_id)?;
        if r.exec_id.is_empty() {
            let _turn = c.turn.lock().await;
            c.allow("start")?;
            p.set(Stage::Starting);
            // Whoever takes over from here on knows that a runtime is at work.
            self.told_process(&c.id, "").await;
            let started = match &c.restore {
                Some(from) => self.restore(&c, from).await,
                None => self.simple(&c, "start").await,
            };
            if let Err(e) = started {
                p.set(Stage::Created);
                return Err(e);
            }
            let event = events::TaskStart { container_id: r.id, pid: p.pid.get() as u32 };
            self.events.publish("/tasks/start", "TaskStart", &event);
            p.set(Stage::Running);
            if c.restore.is_some() {
                self.watch(&c, &p)?;
            }
        } else {
            self.start_exec(&c, &p).await?;
        }
        Ok(StartResponse { pid: p.pid.get() as u32 })
    }

    async fn start_exec(self: &Rc<Self>, c: &Rc<Container>, p: &Rc<Process>) -> Result<()> {
        if p.stage.get() != Stage::Added {
            return Err(unknown("cannot start a running process"));
        }
        if c.init.exit.get().is_some() {
            return Err(status::precondition("container is stopped"));
        }
        p.never.set(false);
        p.set(Stage::Starting);
        let spec = c.bundle.join(format!("{}.json", p.id));
        let pid_file = c.bundle.join(format!("{}.pid", p.id));
        // Of an earlier one of that name.
        let _ = std::fs::remove_file(&pid_file);
        p.leaf.set(c.make_leaf(&p.id));
        let below = OsString::from(format!(":/exec-{}", p.id));
        let result = async {
            write_private(&spec, &p.spec.borrow())?;
            let mut args: Vec<&OsStr> =
                vec!["exec".as_ref(), "--process".as_ref(), spec.as_ref(), "--detach".as_ref()];
            if p.leaf.get() {
                args.extend([OsStr::new("--cgroup"), below.as_ref()]);
            }
            self.begin(c, p, ("OCI runtime exec failed", &pid_file), args).await
        }
        .await;
        let _ = std::fs::remove_file(&spec);
        if let Err(e) = result {
            let _ = std::fs::remove_file(&pid_file);
            if p.pid.get() > 0 {
                self.end(p).await;
            }
            c.drop_leaf(p);
            p.io().close().await;
            *p.io.borrow_mut() = Rc::default();
            p.set(Stage::Added);
            p.give_up();
            return Err(e);
        }
        let event = events::TaskExecStarted {
            container_id: c.id.clone(),
            exec_id: p.id.clone(),
            pid: p.pid.get() as u32,
        };
        self.events.publish("/tasks/exec-started", "TaskExecStarted", &event);
        p.spec.take();
        p.set(Stage::Running);
        // Whoever takes over before that finds the process by its file.
        self.told_process(&c.id, &p.id).await;
        let _ = std::fs::remove_file(pid_file);
        self.watch(c, p)
    }

    pub fn exec(&self, r: ExecProcessRequest) -> Result<()> {
        crate::args::check_name("exec id", &r.exec_id).map_err(invalid)?;
        let c = self.container(&r.id)?;
        if c.execs.borrow().contains_key(&r.exec_id) {
            return Err(status::exists(format!("id {}", r.exec_id)));
        }
        c.allow("exec")?;
        let spec = r.spec.ok_or_else(|| invalid("spec: missing"))?.value;
        let stdio =
            Stdio { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, terminal: r.terminal };
        let process = Rc::new(Process::new(&r.exec_id, stdio, with_terminal(spec, r.terminal)));
        c.execs.borrow_mut().insert(r.exec_id.clone(), process);
        let event = events::TaskExecAdded { container_id: r.id, exec_id: r.exec_id };
        self.events.publish("/tasks/exec-added", "TaskExecAdded", &event);
        Ok(())
    }

    pub async fn delete(self: &Rc<Self>, r: DeleteRequest) -> Result<DeleteResponse> {
        let c = self.container(&r.id)?;
        let p = c.process(&r.exec_id)?;
        if r.exec_id.is_empty() {
            return self.delete_init(&c).await;
        }
        if p.is_alive() || p.stage.get() == Stage::Starting {
            return Err(unknown("cannot delete a running process"));
        }
        p.io().close().await;
        c.execs.borrow_mut().remove(&r.exec_id);
        p.give_up();
        Ok(answer(&p))
    }

    async fn delete_init(self: &Rc<Self>, c: &Rc<Container>) -> Result<DeleteResponse> {
        let _turn = c.turn.lock().await;
        c.allow("delete")?;
        if c.init.stage.get() == Stage::Created && c.init.pid.get() > 0 {
            // Never started: it waits for that, and ends when it is killed.
            let pidfd = c.init.pidfd()?;
            let _ = conex_sys::proc::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            c.init.ended().await;
        } else if c.init.stage.get() == Stage::Created {
            // Never restored: whoever waits for it is told, as of one that was never started.
            c.init.exit.set(Some(reap::Exit { status: 137, at: std::time::SystemTime::now() }));
            c.init.set(Stage::Stopped);
        }
        self.reaper.reaped(c.init.pid.get()).await;
        let args: [&OsStr; 2] = ["delete".as_ref(), c.id.as_ref()];
        match c
            .runtime
            .run(&self.reaper, "OCI runtime delete failed", &args, Streams::default())
            .await
        {
            // A checkpoint that ended it, or another hand, was first.
            Err(e) if e.code != status::NOT_FOUND => return Err(e),
            Err(e) => log::warn(
                "was gone when it was to be deleted",
                &[("id", &c.id), ("error", &e.message)],
            ),
            Ok(_) => log::info("deleted", &[("id", &c.id)]),
        }
        c.init.io().close().await;
        rootfs::unmount(&c.bundle.join("rootfs"));
        self.containers.borrow_mut().remove(&c.id);
        c.execs.borrow().values().filter(|p| !p.is_alive()).for_each(|p| p.give_up());
        let response = answer(&c.init);
        let event = events::TaskDelete {
            container_id: c.id.clone(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
            id: String::new(),
        };
        self.events.publish("/tasks/delete", "TaskDelete", &event);
        Ok(response)
    }

    pub async fn kill(&self, r: KillRequest) -> Result<()> {
        let c = self.container(&r.id)?;
        let p = c.process(&r.exec_id)?;
        if p.exit.get().is_some() {
            return Err(status::not_found("process already finished"));
        }
        if !r.exec_id.is_empty() {
            if !p.is_alive() {
                return Err(status::precondition("process not created"));
            }
            let pidfd = p.pidfd()?;
            if r.signal as i32 == libc::SIGKILL {
                // Its whole tree: what a probe has left behind would hold its streams, and nobody could end it.
                if let Some(leaf) = c.leaf(&p.id).filter(|_| p.leaf.get()) {
                    let _ = std::fs::write(leaf.join("cgroup.kill"), "1");
                }
            }
            return conex_sys::proc::pidfd_send_signal(pidfd.as_fd(), r.signal as i32)
                .map_err(|_| status::not_found("process already finished"));
        }
        let signal = r.signal.to_string();
        let mut args: Vec<&OsStr> = vec!["kill".as_ref()];
        if r.all {
            args.push("--all".as_ref());
        }
        args.extend([OsStr::new(&c.id), signal.as_ref()]);
        c.runtime.run(&self.reaper, "OCI runtime kill failed", &args, Streams::default()).await?;
        if c.paused.get() && r.signal as i32 == libc::SIGKILL {
            // Frozen processes die when they run again.
            let args: [&OsStr; 2] = ["resume".as_ref(), c.id.as_ref()];
            let _ = c
                .runtime
                .run(&self.reaper, "OCI runtime resume failed", &args, Streams::default())
                .await;
        }
        Ok(())
    }

    pub async fn pids(&self, id: &str) -> Result<PidsResponse> {
        let c = self.container(id)?;
        let args: [&OsStr; 4] =
            ["ps".as_ref(), "--format".as_ref(), "json".as_ref(), c.id.as_ref()];
        let text =
            c.runtime.run(&self.reaper, "OCI runtime ps failed", &args, Streams::default()).await?;
        let list: Option<Vec<i32>> =
            serde_json::from_str(text.trim()).during(|| format!("ps: {text:?}"))?;
        let name = |pid: &i32| {
            let execs = c.execs.borrow();
            let exec = execs.values().find(|p| p.pid.get() == *pid)?;
            Some(any(
                "containerd.runc.v1.ProcessDetails",
                &runc::ProcessDetails { exec_id: exec.id.clone() },
            ))
        };
        let list = list.unwrap_or_default();
        let processes = list
            .iter()
            .map(|pid| types::ProcessInfo { pid: *pid as u32, info: name(pid) })
            .collect();
        Ok(PidsResponse { processes })
    }

    /// A verb that takes only the id.
    pub(crate) async fn simple(&self, c: &Container, verb: &str) -> Result<()> {
        let args: [&OsStr; 2] = [verb.as_ref(), c.id.as_ref()];
        let what = format!("OCI runtime {verb} failed");
        c.runtime.run(&self.reaper, &what, &args, Streams::default()).await.map(drop)
    }

    pub async fn update(&self, r: UpdateTaskRequest) -> Result<()> {
        let c = self.container(&r.id)?;
        let _turn = c.turn.lock().await;
        c.allow("update")?;
        let resources = r.resources.ok_or_else(|| invalid("resources: missing"))?.value;
        let streams =
            Streams { stdin: Some(crate::document::input(&resources)?), ..Streams::default() };
        let args: [&OsStr; 4] =
            ["update".as_ref(), "--resources".as_ref(), "-".as_ref(), c.id.as_ref()];
        c.runtime.run(&self.reaper, "OCI runtime update failed", &args, streams).await.map(drop)
    }

    pub fn stats(&self, id: &str) -> Result<StatsResponse> {
        let c = self.container(id)?;
        if c.init.exit.get().is_some() {
            return Err(status::not_found("cgroup does not exist: container is stopped"));
        }
        if c.init.pid.get() == 0 {
            return Err(status::precondition("the container is not restored yet"));
        }
        let stats = crate::report::metrics::read(&c.cgroups.borrow(), c.init.pid.get())?;
        Ok(StatsResponse { stats: Some(stats) })
    }
}

fn answer(p: &Process) -> DeleteResponse {
    let exit = p.exit.get();
    DeleteResponse {
        pid: p.pid.get() as u32,
        exit_status: exit.map_or(0, |e| e.status),
        exited_at: exit.map(|e| crate::report::events::timestamp(e.at)),
    }
}

/// process.json with the terminal that the request asks for: the request decides, as with containerd's own shim. What is
/// no document stays as it is, for the runtime to say why.
fn with_terminal(spec: Vec<u8>, terminal: bool) -> Vec<u8> {
    use serde_json::Value;
    let Ok(Value::Object(mut document)) = serde_json::from_slice(&spec) else { return spec };
    if document.get("terminal").and_then(Value::as_bool).unwrap_or(false) == terminal {
        return spec;
    }
    document.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&document).unwrap_or(spec)
}

/// A file for root alone: a process document can hold secrets in its environment.
fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut open = std::fs::OpenOptions::new();
    open.write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let written = open.open(path).and_then(|mut f| f.write_all(bytes));
    written.during(|| format!("write({})", path.display()))
}
