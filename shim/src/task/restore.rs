//! From which checkpoint a task begins.

use crate::status::{invalid, Result};
use conex_proto::task::CreateTaskRequest;
use conex_proto::{runc, Any};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// From which checkpoint a task begins, when it is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restore {
    pub image: PathBuf,
    pub parent: String,
    pub work: PathBuf,
}

/// The options of a call, if they are of this type.
pub fn options(any: Option<&Any>) -> Result<Option<runc::CheckpointOptions>> {
    match any {
        Some(a) if a.type_url.ends_with("containerd.runc.v1.CheckpointOptions") => {
            let decoded = runc::CheckpointOptions::decode(a.value.as_slice());
            decoded.map(Some).map_err(|e| invalid(format!("options: {e}")))
        }
        _ => Ok(None),
    }
}

impl Restore {
    /// What a create names; `None` for a task that begins at its program's beginning.
    pub fn of(
        r: &CreateTaskRequest,
        options: &runc::Options,
        bundle: &Path,
    ) -> Result<Option<Restore>> {
        if r.checkpoint.is_empty() {
            return Ok(None);
        }
        let own = self::options(r.options.as_ref())?.unwrap_or_default();
        let work = [&own.work_path, &options.criu_work_path].into_iter().find(|w| !w.is_empty());
        let work = work.map_or(bundle.join("work"), PathBuf::from);
        Ok(Some(Restore {
            image: r.checkpoint.clone().into(),
            parent: r.parent_checkpoint.clone(),
            work,
        }))
    }
}
