//! What managers are told without asking twice: events, statistics, the OOM killer's work.

pub mod events;
pub mod metrics;
pub mod oom;
