//! Tests of the shim from outside: a ttrpc client that plays containerd. `SHIM` names the binary; with containerd's own
//! in it the same tests prove themselves.

mod checkpoint;
mod client;
mod containerd;
#[path = "../integration/harness.rs"]
#[allow(dead_code)]
mod harness;
mod keeper;
mod moments;
mod pause;
mod place;
mod process;
mod readers;
mod rootfs;
mod rpc;
mod sandbox;
mod spill;
mod stdio;
mod survival;
mod upgrade;
mod waits;
mod whatever;
mod wire;
