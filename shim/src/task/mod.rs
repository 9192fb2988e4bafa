//! Containers, their processes, and the calls of the task and sandbox services.

pub mod checkpoint;
pub mod container;
pub mod exit;
pub mod life;
pub mod pause;
pub mod pod;
pub mod process;
pub mod restore;
pub mod sandbox;
pub mod service;
pub mod settle;
