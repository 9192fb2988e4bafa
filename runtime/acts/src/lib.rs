//! What both sides of a start do by descriptor: the host's and the container's. It knows neither of them.
//!
//! It may open, mount, clone and write what it is handed; it decides nothing and never looks at a document.
#![forbid(unsafe_code)]

pub mod clone;
pub mod enter;
pub mod hooks;
pub mod identity;
pub mod log;
pub mod netlink;
pub mod root;
pub mod sync;
pub mod tree;

use conex_plan as plan;
use plan::{error, oci, text};

pub use conex_cgroup::hierarchy;
pub use conex_cgroup::hierarchy::{read_bytes, read_text};
