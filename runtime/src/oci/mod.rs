//! Documents of the runtime-spec: data, no logic.

pub mod config;
pub mod features;
pub mod lists;
pub mod shape;
pub mod template;
