//! What containerd-shim-conex-v2 is made of. A library so that the readers of what comes from outside can be fuzzed (`fuzz/`).
//!
//! - [`args`] turns the command line into an action: [`start`], [`serve`], [`delete`], [`survival::keep`];
//! - the rooms, each of which knows only those before it: [`rpc`] (frames, server), [`report`] (events, statistics, OOM),
//!   [`io`] (streams), [`task`] (containers, processes and the calls), [`survival`] (keeper, records, upgrade);
//! - below all of them what each needs: [`status`], [`log`], [`reap`], [`runtime`], [`cgroup`], [`rootfs`], [`marks`].
#![forbid(unsafe_code)]

pub mod args;
pub mod cgroup;
pub mod delete;
pub mod dump;
pub mod idmap;
pub mod info;
pub mod io;
pub mod limit;
pub mod log;
pub mod marks;
pub mod pod;
pub mod reap;
pub mod report;
pub mod rootfs;
pub mod rpc;
pub mod runtime;
pub mod serve;
pub mod start;
pub mod status;
pub mod survival;
pub mod task;
