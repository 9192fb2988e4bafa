//! What containerd-shim-conex-v2 is made of: [`args`] turns the command line into an action; `start`, `serve`, `delete`, `keep`
//! are the actions; `server` and `service` speak ttrpc; `task`, `container` and `process` are what they speak of. A library
//! so that the readers of what comes from outside can be fuzzed (`fuzz/`).
#![forbid(unsafe_code)]

pub mod args;
pub mod cgroup;
pub mod changes;
pub mod checkpoint;
pub mod container;
pub mod delete;
pub mod dump;
pub mod events;
pub mod exit;
pub mod frame;
pub mod idmap;
pub mod info;
pub mod io;
pub mod keep;
pub mod limit;
pub mod log;
pub mod metrics;
pub mod oom;
pub mod pause;
pub mod pod;
pub mod process;
pub mod reap;
pub mod rootfs;
pub mod runtime;
pub mod sandbox;
pub mod saved;
pub mod serve;
pub mod server;
pub mod service;
pub mod settle;
pub mod start;
pub mod status;
pub mod store;
pub mod task;
pub mod upgrade;
