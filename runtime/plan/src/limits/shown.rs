//! What the files of a cgroup say: the way back from files to limits. Files are read by whoever is on the host; `read` gives the
//! text of one, empty if there is none.

use nix::errno::Errno;

/// CPU quota (`None` for none) and period in force, in microseconds.
pub fn bandwidth(v2: bool, read: impl Fn(&str) -> String) -> (Option<u64>, u64) {
    let text = if v2 {
        read("cpu.max")
    } else {
        ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map(read).join(" ")
    };
    let mut words = text.split_whitespace().map(|w| w.parse().ok());
    (words.next().flatten(), words.next().flatten().unwrap_or(100_000))
}

/// Bytes in use.
pub fn memory_used(v2: bool, read: impl Fn(&str) -> String) -> u64 {
    read(if v2 { "memory.current" } else { "memory.usage_in_bytes" }).trim().parse().unwrap_or(0)
}

/// What would undo writing `value` to a file that shows `text`, and that [`can_be_put_back`].
pub fn previous(file: &str, value: &str, text: &str) -> Option<String> {
    // Files with an entry for each device or interface take one at a time, and show none that has no limit.
    let key = value.split_once(' ').map(|(key, _)| key).filter(|_| file != "cpu.max");
    Some(match key {
        // These two show more than they take.
        None if file == "memory.oom_control" => text.split_whitespace().nth(1)?.to_string(),
        None if text.starts_with("default ") => text.lines().next()?.to_string(),
        None => text.trim().to_string(),
        Some(key) => match text.lines().find(|l| l.split(' ').next() == Some(key)) {
            Some(line) => line.to_string(),
            None => match file {
                "io.max" => format!("{key} rbps=max wbps=max riops=max wiops=max"),
                "io.weight" | "io.bfq.weight" | "blkio.bfq.weight_device" => {
                    format!("{key} default")
                }
                "io.latency" => format!("{key} target=0"),
                _ => format!("{key} 0"),
            },
        },
    })
}

/// False for files that are commands, and for triggers.
pub fn can_be_put_back(file: &str) -> bool {
    !(file.starts_with("cgroup.") || file.ends_with(".pressure"))
}

/// What the kernel means by the errno of a limit that it refuses; none where the errno says it.
pub fn refused(file: &str, e: Errno, read: impl Fn(&str) -> String) -> Option<String> {
    let limit = |file: &str| read(file).trim().to_string();
    match (file, e) {
        ("memory.memsw.limit_in_bytes", Errno::EINVAL) => Some(format!(
            "memory plus swap must not be below the limit of memory, {}",
            limit("memory.limit_in_bytes")
        )),
        ("memory.limit_in_bytes", Errno::EINVAL) => Some(format!(
            "memory must not be above the limit of memory plus swap, {}",
            limit("memory.memsw.limit_in_bytes")
        )),
        _ => None,
    }
}

/// The list of the host that a cpuset's must be a part of: what it is of, and where it is shown.
pub fn chosen_from(file: &str, e: Errno) -> Option<(&'static str, &'static str)> {
    match (file, e) {
        ("cpuset.cpus", Errno::ERANGE | Errno::EINVAL) => {
            Some(("CPUs", "/sys/devices/system/cpu/online"))
        }
        ("cpuset.mems", Errno::ERANGE | Errno::EINVAL) => {
            Some(("memory nodes", "/sys/devices/system/node/online"))
        }
        _ => None,
    }
}

/// True if a limit of memory was refused because more is in use (v1).
pub fn is_below_usage(file: &str, e: Errno) -> bool {
    file == "memory.limit_in_bytes" && e == Errno::EBUSY
}
