//! What containerd-shim-conex-v2 is made of. A library so that the readers of what comes from outside can be fuzzed (`fuzz/`).
//!
//! - [`args`] turns the command line into an action: [`start`], [`serve`], [`delete`], [`conex_keeper::keep`];
//! - the rooms, each of which knows only those before it: [`rpc`] (frames, server), [`report`] (events, statistics, OOM),
//!   [`io`] (streams), [`task`] (containers, processes and the calls), [`survival`] (records, upgrade);
//! - below all of them what each needs: [`status`], [`log`], [`reap`], [`runtime`], [`cgroup`], [`rootfs`], [`marks`].
#![forbid(unsafe_code)]

pub use conex_keeper::{args, cgroup, document, limit, log, namespaces, status};

pub mod delete;
pub mod dump;
pub mod idmap;
pub mod info;
pub mod io;
pub mod marks;
pub mod pod;
pub mod reap;
pub mod report;
pub mod rootfs;
pub mod rpc;
pub mod runtime;
pub mod serve;
pub mod start;
pub mod survival;
pub mod task;
