//! Checkpoints: taken by the runtime's `checkpoint`, and tasks that `restore` makes from one. The shim hands over what
//! containerd says; whether it can be done is the runtime's word.

use crate::log;
use crate::runtime::Streams;
use crate::status::{self, Result};
use crate::task::container::Container;
use crate::task::restore::{options, Restore};
use crate::task::service::Service;
use conex_proto::runc;
use conex_proto::task::CheckpointTaskRequest;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

impl Service {
    /// Makes and starts the container from its checkpoint. On failure it is again one that could be started.
    pub async fn restore(self: &Rc<Self>, c: &Rc<Container>, from: &Restore) -> Result<()> {
        let pid_file = c.bundle.join("init.pid");
        let mut args: Vec<&OsStr> =
            vec!["restore".as_ref(), "--detach".as_ref(), "--bundle".as_ref()];
        args.extend([c.bundle.as_os_str(), "--image-path".as_ref(), from.image.as_ref()]);
        args.extend(["--work-path".as_ref(), from.work.as_os_str()]);
        if !from.parent.is_empty() {
            args.extend([OsStr::new("--parent-path"), from.parent.as_ref()]);
        }
        if c.options.no_pivot_root {
            args.push("--no-pivot".as_ref());
        }
        let what = "OCI runtime restore failed";
        if let Err(e) = self.begin(c, &c.init, (what, &pid_file), args).await {
            self.undo_create(c).await;
            *c.init.io.borrow_mut() = Rc::default();
            return Err(e);
        }
        self.joined(c);
        Ok(())
    }

    pub async fn checkpoint(&self, r: CheckpointTaskRequest) -> Result<()> {
        let c = self.container(&r.id)?;
        let _turn = c.turn.lock().await;
        c.allow("checkpoint")?;
        let options = options(r.options.as_ref())?.unwrap_or_default();
        // CRIU's logs: kept where they were asked for, else only of a failure.
        let (work, own) = match (options.work_path.as_str(), c.options.criu_work_path.as_str()) {
            ("", "") => (c.bundle.join("criu-work"), true),
            ("", work) | (work, _) => (PathBuf::from(work), false),
        };
        let arguments = arguments(&options, &r.path, &work);
        let mut args: Vec<&OsStr> = vec!["checkpoint".as_ref()];
        args.extend(arguments.iter().map(OsStr::new));
        args.push(c.id.as_ref());
        let (what, begun) = ("OCI runtime checkpoint failed", SystemTime::now());
        let result = c.runtime.run(&self.reaper, what, &args, Streams::default()).await.map(drop);
        // Another call may have left its own there.
        let log = work.join("dump.log");
        let fresh = log
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|at| at + Duration::from_secs(1) >= begun);
        let result = result.map_err(|e| match std::fs::copy(log, c.bundle.join("criu-dump.log")) {
            Ok(_) if fresh => status::unknown(format!(
                "{} path= {}",
                e.message,
                c.bundle.join("criu-dump.log").display()
            )),
            // The runtime did not come as far as CRIU.
            _ => e,
        });
        if own {
            let _ = std::fs::remove_dir_all(&work);
        }
        log::info("checkpoint", &[("id", &c.id), ("ok", &result.is_ok().to_string())]);
        result
    }
}

fn arguments(o: &runc::CheckpointOptions, path: &str, work: &Path) -> Vec<String> {
    let image = if path.is_empty() { o.image_path.as_str() } else { path };
    let work = work.to_string_lossy().into_owned();
    let mut out =
        vec!["--image-path".to_string(), image.to_string(), "--work-path".to_string(), work];
    for (set, flag) in [
        (!o.exit, "--leave-running"),
        (o.open_tcp, "--tcp-established"),
        (o.external_unix_sockets, "--ext-unix-sk"),
        (o.terminal, "--shell-job"),
        (o.file_locks, "--file-locks"),
    ] {
        if set {
            out.push(flag.to_string());
        }
    }
    for (flag, value) in
        [("--manage-cgroups-mode", &o.cgroups_mode), ("--parent-path", &o.parent_path)]
    {
        if !value.is_empty() {
            out.extend([flag.to_string(), value.clone()]);
        }
    }
    for ns in &o.empty_namespaces {
        out.extend(["--empty-ns".to_string(), ns.clone()]);
    }
    out
}
