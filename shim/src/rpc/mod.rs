//! ttrpc: frames, and a server that hands each request to whoever answers it. It knows no call by its name but those that only
//! wait.

pub mod frame;
pub mod server;
