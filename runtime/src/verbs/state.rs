//! `conex state`.

use super::env::Env;
use crate::error::{Error, Kind, Result};
use crate::state::{State, Status};
use serde::Serialize;
use std::collections::BTreeMap;

/// runtime.md "State", with runc's further keys.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    oci_version: &'static str,
    id: &'a str,
    pid: i32,
    status: &'static str,
    #[serde(with = "crate::text::shown")]
    bundle: &'a std::path::Path,
    #[serde(with = "crate::text::shown")]
    rootfs: &'a std::path::Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "crate::state::End::is_empty")]
    end: crate::state::End,
}

impl<'a> Document<'a> {
    pub fn new(state: &'a State, status: Status, owner: String) -> Self {
        let pid = if status == Status::Stopped { 0 } else { state.init.map_or(0, |i| i.pid) };
        Document {
            oci_version: crate::oci::SPEC_VERSION,
            id: &state.id,
            pid,
            status: status.name(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: &state.annotations,
            owner,
            end: if status == Status::Stopped {
                crate::end::of(state, None)
            } else {
                crate::state::End::new()
            },
        }
    }
}

pub fn main(env: &mut Env) -> Result<i32> {
    let (state, status) = env.store()?.peek(env.id())?;
    print_json(&Document::new(&state, status, String::new()))?;
    Ok(0)
}

/// Indented by two, without a newline at the end, as runc prints it.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Error::new(Kind::System, e.to_string()))?;
    super::env::print(&text)
}
