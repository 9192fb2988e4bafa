//! What makes a start slow on this host, measured.

use super::finding::Finding;
use conex_sys::proc;
use std::path::Path;
use std::time::{Duration, Instant};

pub fn all() -> Vec<Finding> {
    let mut out = vec![systemd()];
    out.extend(rcu());
    out.push(mounts());
    out
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

fn systemd() -> Finding {
    if !Path::new("/run/systemd/system").is_dir() {
        return Finding::ok("systemd", "does not run this host: the cgroup driver is cgroupfs");
    }
    let begin = Instant::now();
    match conex::dbus::Connection::open(
        Path::new("/run/systemd/private"),
        true,
        "org.freedesktop.systemd1",
        Duration::from_secs(5),
    ) {
        Ok(_) => Finding::timed(
            "systemd",
            "answers on its private socket",
            ms(begin.elapsed()),
            20.0,
            "each start with --systemd-cgroup waits for it: too many units, or a busy manager (systemd-analyze dump)",
        ),
        Err(e) => Finding::missing("systemd", format!("does not answer: {e}"), "--systemd-cgroup does not work here"),
    }
}

/// membarrier(2) waits for one grace period; a start that moves a process between cgroups, or unmounts, does too.
fn rcu() -> Option<Finding> {
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        proc::membarrier_global().ok()?;
        times.push(ms(begin.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    let advice = "each start waits for several; on servers: rcupdate.rcu_expedited=1 at boot, or fewer idle CPUs (nohz_full, rcu_nocbs)";
    Some(Finding::timed("RCU", "one grace period", times[2], 30.0, advice))
}

/// The kernel copies every mount of the host for a mount namespace.
fn mounts() -> Finding {
    let count = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
    let what = format!("{count} mounts on this host, copied for each container");
    let begin = Instant::now();
    match proc::unshare(libc::CLONE_NEWNS) {
        Ok(()) => Finding::timed(
            "mounts",
            what,
            ms(begin.elapsed()),
            3.0,
            "every runtime is slowed by that at each start; unmount what nobody uses (findmnt)",
        ),
        Err(_) => Finding::ok(
            "mounts",
            format!("{count} mounts on this host; the copy could not be timed without root"),
        ),
    }
}
