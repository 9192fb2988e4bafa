//! How a container ended, as far as anybody has seen it: for `state`, `list` and `events`, and for a journal that tells it
//! when the container is gone.
//!
//! The kernel tells the status of a process to its parent. That is this program only for a `run` in the foreground;
//! otherwise a zombie still has it, or conex's shim, which was the parent, has left it in the bundle.

use crate::cgroup::Group;
use crate::identity::Identity;
use crate::log::rfc3339;
use crate::state::{End, State, Status};
use nix::fcntl::OFlag;
use serde_json::{json, Value};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Below the state root; no container's id begins with a dot.
pub const JOURNAL: &str = ".journal";
/// Where the journal goes when it has reached [`MOST`] bytes.
pub const OLDER: &str = ".journal.old";
const MOST: u64 = 256 << 10;
/// For so long a deleted container is told of.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What a shim leaves in a bundle: `pid`, `startTime` (proc_pid_stat(5), field 22), `exitCode`, `exitedAt` (nanoseconds since
/// 1970), `oomKills`.
pub const LEFT: &str = "exit.json";

/// `seen` is the status of a parent that has just waited for init.
pub fn of(state: &State, seen: Option<i32>) -> End {
    if let Some(kept) = state.end.as_ref().filter(|_| seen.is_none()) {
        return kept.clone();
    }
    let mut end = End::new();
    let mut set = |key: &str, value: Value| drop(end.insert(key.into(), value));
    let Some(init) = state.init else { return end };
    let mut code = seen.or_else(|| crate::identity::zombie_status(init));
    let mut at = seen.map(|_| SystemTime::now());
    let mut told_kills = 0;
    if code.is_none() {
        let same = |left: &Value| left["pid"] == init.pid && left["startTime"] == init.start_time;
        let left = left_by_shim(&state.bundle).filter(same);
        told_kills = left.as_ref().and_then(|left| left["oomKills"].as_u64()).unwrap_or(0);
        code = left.as_ref().and_then(|left| i32::try_from(left["exitCode"].as_i64()?).ok());
        let nanos = left.and_then(|left| left["exitedAt"].as_u64());
        at = nanos.map(|nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
    }
    code.into_iter().for_each(|code| set("exitCode", code.into()));
    at.into_iter().for_each(|at| set("exitedAt", rfc3339(at, 9).into()));
    let group = Group::open_memory(&state.cgroups);
    // A systemd that has removed an empty scope has taken the counters with it.
    let kills = group.oom_kills().max(told_kills);
    if kills > 0 {
        set("oomKills", kills.into());
        if let Some((cgroup, limit)) = group.oom_limit() {
            set("oomCgroup", cgroup.to_string_lossy().into());
            set("oomLimit", limit.into());
        }
    }
    if code == Some(128 + libc::SIGSYS) {
        for (key, value) in denied(init).into_iter().flatten() {
            set(key, value.into());
        }
    }
    end
}

/// A regular file of this user's, which no container has a way to.
fn left_by_shim(bundle: &Path) -> Option<Value> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(bundle.join(LEFT))
        .ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The call that a filter killed a process for, out of the kernel's log (`AUDIT_SECCOMP`, 1326), unless an audit daemon has
/// taken it. The log has the numbers of the first PID namespace, and comes a moment later.
fn denied(init: Identity) -> Option<[(&'static str, u64); 2]> {
    // PROC_PID_INIT_INO of the kernel's proc_ns.h.
    if crate::identity::pid_namespace() != 0xefff_fffc {
        return None;
    }
    (0..5).find_map(|n| {
        std::thread::sleep(Duration::from_millis(10 * n.min(1)));
        in_log(init)
    })
}

fn in_log(init: Identity) -> Option<[(&'static str, u64); 2]> {
    let log = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .ok()?;
    let (mut record, mut found) = ([0u8; 8192], None);
    // A read is one record: priority, number, microseconds since the boot, flags; text. EPIPE: it was overwritten while it was
    // read, the next one follows.
    loop {
        let text = match (&log).read(&mut record) {
            Ok(0) => break,
            Ok(n) => String::from_utf8_lossy(&record[..n]),
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => continue,
            Err(_) => break,
        };
        let at: Option<u64> = text.split(',').nth(2).and_then(|n| n.parse().ok());
        // A clock tick is a hundredth of a second for user space. What is older was another process of that number.
        let own = at.is_some_and(|at| at + 1_000_000 > init.start_time * 10_000);
        let field = |key: &str| {
            text.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
        };
        if own
            && text.contains("type=1326 ")
            && field("pid").and_then(|n| n.parse().ok()) == Some(init.pid)
        {
            let arch = field("arch").and_then(|n| u64::from_str_radix(n, 16).ok());
            let number = field("syscall").and_then(|n| n.parse().ok());
            found =
                number.zip(arch).map(|(number, arch)| [("deniedSyscall", number), ("arch", arch)]);
        }
    }
    found
}

/// Writes down a container that has just been deleted. `status` is what it was before. Nobody waits for the journal: what
/// cannot be written is not told later.
pub fn note(root: &Path, state: &State, status: Status, end: End) {
    let line = json!({
        "id": state.id, "bundle": state.bundle.to_string_lossy(), "created": state.created, "status": status.name(),
        "deleted": rfc3339(SystemTime::now(), 9), "end": end,
    });
    let path = root.join(JOURNAL);
    let mut options = std::fs::File::options();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let old = |meta: &std::fs::Metadata| {
        meta.modified().is_ok_and(|m| m.elapsed().is_ok_and(|age| age > KEPT))
    };
    let full = path.symlink_metadata().is_ok_and(|meta| meta.len() > MOST || old(&meta));
    if full {
        let _ = std::fs::rename(&path, root.join(OLDER));
    }
    // One write: lines of several deletes at once do not mix.
    let _ = options.open(&path).and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
}
