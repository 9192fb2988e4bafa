//! What the files of cgroups say: the hierarchies of a host, statistics, the OOM killer's work. Both the runtime and the shim read
//! them by this.
//!
//! It reads, and opens what wakes a watcher; it writes nothing but the registration of an eventfd, and decides nothing.
#![forbid(unsafe_code)]

pub mod figures;
pub mod hierarchy;
pub mod oom;
