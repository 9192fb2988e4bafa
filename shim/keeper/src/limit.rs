//! How many descriptors this program may have: as many as the hard limit allows, and what it starts as many as it was
//! given itself (RLIMIT_NOFILE, setrlimit(2)).

use conex_sys::proc::{rlimit, set_rlimit};
use nix::unistd::Pid;

/// Names the soft limit that the keeper was started with.
const GIVEN: &str = "_CONEX_SHIM_NOFILE";

const NOFILE: u32 = libc::RLIMIT_NOFILE;

/// In the keeper, for it and its servers: a process with streams takes six.
pub fn raise() {
    let itself = Pid::from_raw(0);
    let Ok((soft, hard)) = rlimit(itself, NOFILE) else { return };
    if soft < hard && set_rlimit(itself, NOFILE, hard, hard).is_ok() {
        std::env::set_var(GIVEN, soft.to_string());
    }
}

/// Lets a program start with the limit that containerd gave.
pub fn as_given(command: &mut std::process::Command) {
    let given = std::env::var(GIVEN).ok().and_then(|n| n.parse::<u64>().ok());
    if let (Some(given), Ok((_, hard))) = (given, rlimit(Pid::from_raw(0), NOFILE)) {
        conex_sys::proc::rlimit_at_birth(command, NOFILE, given.min(hard), hard);
    }
}
