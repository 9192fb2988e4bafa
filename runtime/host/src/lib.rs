//! The host's side of a container's life: it acts on the plan and decides nothing.
//! [`create`] and [`exec`] are its two spines; the child is started in one place ([`create`] by `spawn`, [`exec`] itself).

#![forbid(unsafe_code)]

pub mod bundle;
pub mod cgroup;
pub mod container;
pub mod create;
pub mod dbus;
mod empty;
pub mod end;
pub mod exec;
pub mod facts;
pub mod foreground;
pub mod freezer;
pub mod helper;
pub mod home;
pub mod listener;
mod locked;
mod netdev;
pub mod notify;
mod order;
pub mod programs;
pub mod rdt;
pub mod seal;
mod sources;
mod spawn;
pub mod state;
pub mod undo;
pub mod userns;

use acts::{identity, log, root, sync};
use conex_acts as acts;
use conex_child as child;
use conex_plan as plan;
pub use container::Container;
pub use create::{create, Asked, Start};
use plan::{check, error, gvariant, oci, seccomp, text};
