//! Descriptors of the caller that the container's process keeps.

use super::env::Env;
use crate::error::{Error, Kind, Result};

/// sd_listen_fds(3): only if they are meant for this very process.
pub fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    match (number("LISTEN_FDS"), number("LISTEN_PID")) {
        (Some(n), Some(pid)) if pid == std::process::id() => n.min(1024),
        _ => 0,
    }
}

/// What `--preserve-fds N` and `--preserve-fd LIST` name, and `listen_fds` sockets before the former.
///
/// # Errors
/// One of them is not open, or is a standard descriptor.
pub fn preserved(env: &Env, listen_fds: u32) -> Result<Vec<i32>> {
    let count = env.args.number::<u32>("preserve-fds")?.unwrap_or(0);
    let bad = |flag: &str, what: String| Error::new(Kind::Invalid, format!("--{flag}: {what}"));
    let open = |n: i32, flag: &str| match conex_sys::fd::is_open(n) && !crate::log::is_own(n) {
        true => Ok(n),
        false => Err(bad(flag, format!("unable to stat preserved-fd {n}: it is not open"))),
    };
    // No table of descriptors is larger (fs.nr_open), and nothing that is added to the number may wrap.
    if count > 1 << 30 {
        return Err(bad("preserve-fds", format!("{count} descriptors cannot be open")));
    }
    let mut all = Vec::new();
    for n in 3..3 + (count + listen_fds) as i32 {
        all.push(open(n, "preserve-fds")?);
    }
    for text in env.args.values("preserve-fd").iter().flat_map(|list| list.split(',')) {
        let number = text.parse().ok().filter(|n| *n > 2);
        let n = number.ok_or_else(|| {
            bad("preserve-fd", format!("{text:?}: expected numbers above 2 and commas"))
        })?;
        all.push(open(n, "preserve-fd")?);
    }
    Ok(all)
}
