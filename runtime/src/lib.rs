//! conex, a low-level OCI runtime: the data path `bundle → plan → host → child`, one module each.
//!
//! - [`bundle`] turns a directory into an [`oci::config::Spec`];
//! - [`plan`] decides everything and touches nothing;
//! - [`host`] acts on the host's side, [`child`] on the container's; neither decides;
//! - [`verbs`] has one file per command.
#![forbid(unsafe_code)]

pub mod acts;
pub mod bundle;
pub mod check;
pub mod child;
pub mod cli;
pub mod dbus;
pub mod end;
pub mod error;
pub mod host;
pub mod identity;
pub mod log;
pub mod oci;
pub mod plan;
pub mod root;
pub mod seccomp;
pub mod state;
pub mod sync;
pub mod text;
pub mod verbs;

pub use error::{Error, Result};

/// The commit that this build is of, if the build was told.
pub const REVISION: &str = match option_env!("CONEX_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};
