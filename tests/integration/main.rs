//! Tests of the binary from outside. `CONEX` names it (any runc-compatible runtime will do for most of them),
//! `BUSYBOX` a static busybox. Run them through tests/run.sh, which isolates and checks the host.

mod apparmor;
mod checkpoint;
mod config;
mod confinement;
mod contract;
mod detached;
mod devices;
mod dropin;
mod ends;
mod explain;
mod fallbacks;
mod faults;
mod harness;
mod identity;
mod inputs;
mod invalid;
mod lifecycle;
mod lint;
mod messages;
mod mounts;
mod mutated;
mod nested;
mod people;
mod processes;
mod resources;
mod rootless;
mod safety;
mod seccomp;
mod selinux;
mod setup;
mod systemd;
mod vanished;
