//! What both sides of a start do by descriptor: the host's and the container's. It knows neither of them.
//!
//! It may open, mount, clone and write what it is handed; it decides nothing and never looks at a document.
#![forbid(unsafe_code)]

pub mod clone;
pub mod hierarchy;
pub mod hooks;
pub mod identity;
pub mod log;
pub mod netlink;
pub mod root;
pub mod sync;
pub mod tree;

use conex_plan as plan;
use plan::error::Result;
use plan::{error, oci, text};
use std::path::Path;

/// A file of the kernel's, some of whose words are names that anybody chose.
pub fn read_text(path: impl AsRef<Path>) -> std::io::Result<String> {
    std::fs::read(path).map(|bytes| text::from_bytes(&bytes).into_owned())
}
