//! `conex kill`.

use super::env::Env;
use crate::error::{Context, Error, Kind, Result};
use crate::host::cgroup::Group;
use crate::identity::pidfd;
use crate::state::Status;
use std::os::fd::AsFd;

pub fn main(env: &mut Env) -> Result<i32> {
    let number = signal(env.args.rest.get(1).map_or("SIGTERM", String::as_str))?;
    let all = env.args.is_set("all");
    let (state, status) = env.store()?.peek(env.id())?;
    let group = Group::open(&state.cgroups);
    // Without a PID namespace of its own, init's death does not end the others.
    if number == libc::SIGKILL && !state.private_pid && !state.made_cgroups.is_empty() {
        group.kill_all(libc::SIGKILL);
        // Its cgroup can have been removed, or init moved out of it.
        if let Some(fd) = state.init.map_or(Ok(None), pidfd)? {
            let _ = conex_sys::proc::pidfd_send_signal(fd.as_fd(), libc::SIGKILL);
        }
        return Ok(0);
    }
    let fd = if status == Status::Stopped { None } else { state.init.map_or(Ok(None), pidfd)? };
    let Some(fd) = fd else {
        if all {
            return Ok(0);
        }
        return Err(Error::new(Kind::Status, "container not running"));
    };
    conex_sys::proc::pidfd_send_signal(fd.as_fd(), number)
        .call(|| format!("pidfd_send_signal(init, {number})"))?;
    // A frozen process dies only once it runs again.
    if number == libc::SIGKILL && crate::host::cgroup::is_frozen(&state.cgroups) {
        group.freeze(false)?;
    }
    Ok(0)
}

/// A number, or a name with or without SIG, in any case; SIGRTMIN+n as well.
pub fn signal(text: &str) -> Result<i32> {
    let bad = || Error::new(Kind::Invalid, format!("unknown signal {text:?}"));
    if let Ok(n) = text.parse::<i32>() {
        return if (0..=64).contains(&n) { Ok(n) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let n = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+').and_then(|o| o.parse::<i32>().ok()).ok_or_else(bad)?
        };
        return if (0..=30).contains(&n) { Ok(34 + n) } else { Err(bad()) };
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let n = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('-').and_then(|o| o.parse::<i32>().ok()).ok_or_else(bad)?
        };
        return if (0..=30).contains(&n) { Ok(64 - n) } else { Err(bad()) };
    }
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        "STKFLT" => return Ok(16),
        other => other,
    };
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().map(|s| s as i32).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("RTMIN+3", 37),
            ("SIGRTMAX", 64),
            ("iot", 6),
        ] {
            assert_eq!(signal(text).unwrap(), want, "{text}");
        }
        for bad in ["", "SIGNOPE", "65", "-1", "RTMIN+31"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
