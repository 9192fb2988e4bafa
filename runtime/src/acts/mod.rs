//! What both sides of a start do by descriptor: the host's and the container's. It knows neither of them.

pub mod clone;
pub mod hierarchy;
pub mod hooks;
pub mod netlink;
pub mod tree;
