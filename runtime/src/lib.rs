//! conex, a low-level OCI runtime: the data path `config.json → plan → host → child`, one crate each, none of which knows those
//! after it but for the host, which starts the child.
//!
//! - [`plan`] reads a document, decides everything and touches nothing;
//! - [`acts`] is what both sides do by descriptor;
//! - [`child`] is the container's side, from clone to execve, [`host`] the host's; neither decides;
//! - [`verbs`], here, has one file per command.
#![forbid(unsafe_code)]

pub mod cli;
pub mod verbs;

pub use conex_acts as acts;
pub use conex_acts::{identity, log, root, sync};
pub use conex_cgroup as cgroup;
pub use conex_child as child;
pub use conex_host as host;
pub use conex_host::{bundle, dbus, end, state};
pub use conex_plan as plan;
pub use conex_plan::{check, error, oci, seccomp, text};

pub use error::{Error, Result};
pub use plan::REVISION;
