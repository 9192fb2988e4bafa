//! A container ("task" in containerd's words): its init, its further processes, its runtime.

use crate::report::oom::Watch;
use crate::runtime::Runtime;
use crate::status::{self, unknown, During, Result};
use crate::task::process::{Process, Stage};
use crate::task::restore::Restore;
use conex_proto::runc::Options;
use conex_proto::types;
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

pub struct Container {
    pub id: String,
    pub bundle: PathBuf,
    pub runtime: Runtime,
    pub options: Options,
    pub init: Rc<Process>,
    pub execs: RefCell<BTreeMap<String, Rc<Process>>>,
    /// Whoever changes the container as a whole (start, pause, resume, update, delete) has its turn here. What only
    /// looks, kills or waits never asks for it: State must answer while a runtime hangs.
    pub turn: tokio::sync::Mutex<()>,
    pub paused: Cell<bool>,
    /// A runtime is at work to change that.
    pub turning: Cell<bool>,
    /// The PID namespace is not the container's own: when init ends the others have to be killed.
    pub shared_pid: bool,
    /// Its directories in the cgroup hierarchies, one each.
    pub cgroups: RefCell<Vec<PathBuf>>,
    pub oom: RefCell<Option<Watch>>,
    /// A checkpoint to start from.
    pub restore: Option<Restore>,
    /// Execs that have ended and left something in their cgroup.
    pub lingering: RefCell<BTreeSet<String>>,
    /// Bytes of init's output that wait for a reader, a stream.
    pub output_buffer: u64,
}

/// What the shim needs of config.json.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub linux: Linux,
}

/// `null` is the same as absent, as the runtime has it.
fn nullable<'de, T: Deserialize<'de> + Default, D: serde::Deserializer<'de>>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    #[serde(deserialize_with = "nullable")]
    namespaces: Vec<Namespace>,
    cgroups_path: Option<String>,
}

impl Config {
    /// True if linux.cgroupsPath is in the form of the systemd driver, `slice:prefix:name` (runc), which is no path.
    pub fn names_a_unit(&self) -> bool {
        let path = self.linux.cgroups_path.as_deref().unwrap_or("");
        let parts: Vec<_> = path.split(':').collect();
        parts.len() == 3
            && !path.contains('/')
            && (parts[0].is_empty() || parts[0].ends_with(".slice"))
    }
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    path: String,
}

impl Config {
    /// Reads `<bundle>/config.json`.
    pub fn read(bundle: &Path) -> Result<Config> {
        let path = bundle.join("config.json");
        // A FIFO or a device there must not stop the shim.
        let text =
            conex_host::bundle::read(&path, false).map_err(|e| status::invalid(e.to_string()))?;
        serde_json::from_str(&conex_plan::text::from_bytes(&text))
            .during(|| path.display().to_string())
    }

    /// How much output waits for a reader, in bytes a stream: as the annotation says, as the environment of containerd
    /// says, or 16 MiB. 0: none, the process waits.
    ///
    /// # Errors
    /// The annotation is no size. The environment's, which is no fault of this container, is only warned of.
    pub fn output_buffer(&self) -> Result<u64> {
        const NAME: &str = "dev.conex.output-buffer";
        if let Some(said) = self.annotations.get(NAME) {
            let wrong = || {
                status::invalid(format!(
                    "config.json: annotations[{NAME:?}]: {said:?} is no size (64M, 512K, 0)"
                ))
            };
            return size(said).ok_or_else(wrong);
        }
        let said = std::env::var("CONEX_OUTPUT_BUFFER").ok();
        let chosen = said.as_deref().and_then(size);
        if let (Some(said), None) = (&said, chosen) {
            crate::log::warn("CONEX_OUTPUT_BUFFER is no size (64M, 512K, 0)", &[("value", said)]);
        }
        Ok(chosen.unwrap_or(16 << 20))
    }

    pub fn shares_pid(&self) -> bool {
        !self.linux.namespaces.iter().any(|n| n.kind == "pid" && n.path.is_empty())
    }
}

/// A number of bytes, with K, M or G behind it for the powers of 1024; at most 1 GiB.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = ['K', 'M', 'G'].iter().position(|u| text.ends_with(*u));
    let (digits, shift) = unit.map_or((text, 0), |n| (&text[..text.len() - 1], 10 * (n + 1)));
    let number: u64 = digits.parse().ok()?;
    Some(number.checked_mul(1 << shift)?.min(1 << 30))
}

impl Container {
    /// Init for an empty name.
    pub fn process(&self, exec_id: &str) -> Result<Rc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let found = self.execs.borrow().get(exec_id).cloned();
        found.ok_or_else(|| status::not_found(format!("process does not exist {exec_id}")))
    }

    /// The cgroup of an exec's own, a leaf below the container's in the v2 hierarchy, whether it is there or not; `None`
    /// where that hierarchy cannot kill a cgroup (Linux 5.14) or the runtime is another one.
    pub fn leaf(&self, exec_id: &str) -> Option<PathBuf> {
        let name = self.runtime.binary.file_name()?.to_string_lossy().into_owned();
        let list = self.cgroups.borrow();
        let dir =
            list.iter().find(|d| name.starts_with("conex") && d.join("cgroup.kill").exists())?;
        Some(dir.join(format!("exec-{exec_id}")))
    }

    /// Makes it. False where the hierarchy does not allow it (a threaded subtree, a limit of descendants), or where an
    /// earlier exec of that name has left something in its own.
    pub fn make_leaf(&self, exec_id: &str) -> bool {
        let Some(leaf) = self.leaf(exec_id) else { return false };
        self.sweep();
        if std::fs::create_dir(&leaf).is_err() {
            return false;
        }
        let fits =
            std::fs::read_to_string(leaf.join("cgroup.type")).is_ok_and(|t| t.trim() == "domain");
        if !fits {
            let _ = std::fs::remove_dir(&leaf);
        }
        fits
    }

    /// Nobody needs it any more. Those that were killed with its process may take a moment; what goes on in it keeps it
    /// until the next exec looks, or the container goes.
    pub fn drop_leaf(self: &Rc<Self>, process: &Process) {
        let Some(leaf) = self.leaf(&process.id).filter(|_| process.leaf.take()) else { return };
        let busy = |e: std::io::Error| e.kind() == std::io::ErrorKind::ResourceBusy;
        if !std::fs::remove_dir(&leaf).is_err_and(busy) {
            return;
        }
        self.lingering.borrow_mut().insert(process.id.clone());
        let c = self.clone();
        tokio::task::spawn_local(async move {
            for pause in [1, 4, 16, 64, 256, 1024] {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                c.sweep();
            }
        });
    }

    /// Removes the leaves of execs that have ended, as far as nothing goes on in them.
    fn sweep(&self) {
        let in_use = |id: &String| self.execs.borrow().get(id).is_some_and(|p| p.leaf.get());
        let gone = |id: &String| {
            let removed = self.leaf(id).map(std::fs::remove_dir);
            !matches!(removed, Some(Err(e)) if e.kind() == std::io::ErrorKind::ResourceBusy)
        };
        self.lingering.borrow_mut().retain(|id| !in_use(id) && !gone(id));
    }

    pub fn status(&self, process: &Process) -> types::Status {
        match process.stage.get() {
            Stage::Added | Stage::Created | Stage::Starting => types::Status::Created,
            Stage::Running if process.id.is_empty() && self.paused.get() => types::Status::Paused,
            Stage::Running => types::Status::Running,
            Stage::Stopped => types::Status::Stopped,
        }
    }

    /// Refuses an operation by the state that init is in, in the words of containerd's own shim.
    pub fn allow(&self, operation: &str) -> Result<()> {
        let (stage, paused) = (self.init.stage.get(), self.paused.get());
        let refuse = |what: &str| Err(unknown(what.replace("{}", operation)));
        match (operation, stage) {
            (
                "pause" | "resume" | "checkpoint",
                Stage::Added | Stage::Created | Stage::Starting,
            ) => refuse("cannot {} task in created state"),
            ("start" | "delete", Stage::Running) if paused => refuse("cannot {} a paused process"),
            ("pause", Stage::Running) if paused => refuse("cannot {} a paused container"),
            ("exec", Stage::Running) if paused => refuse("cannot {} in a paused state"),
            ("resume" | "start" | "delete", Stage::Running) if !paused => {
                refuse("cannot {} a running process")
            }
            ("exec", Stage::Created | Stage::Starting) if self.init.pid.get() == 0 => {
                refuse("cannot {} in a created state")
            }
            ("start", Stage::Starting) => refuse("cannot {} a running process"),
            ("pause" | "resume" | "update" | "checkpoint", Stage::Stopped) => {
                refuse("cannot {} a stopped container")
            }
            ("start", Stage::Stopped) => refuse("cannot {} a stopped process"),
            ("exec", Stage::Stopped) => refuse("cannot {} in a stopped state"),
            _ => Ok(()),
        }
    }
}
