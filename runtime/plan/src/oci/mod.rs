//! Documents of the runtime-spec: data, no logic.

pub mod config;
pub mod lists;
pub mod shape;
pub mod template;

/// The newest version of the specification that this runtime implements, and the oldest.
pub const SPEC_VERSION: &str = "1.3.0";
pub const SPEC_MINIMUM: &str = "1.0.0";
