#![no_main]
//! What the kernel shows of mounts and cgroups, in which anybody's names are; lists of processors; sysctl names; signals.

use conex::acts::hierarchy::{parse_mountinfo, unescape};
use conex::host::cgroup::stats;
use conex::plan::{namespaces, unit};
use std::os::unix::ffi::OsStrExt;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = conex::text::from_bytes(data);
    assert_eq!(conex::text::bytes(&text).as_ref(), data);
    for h in parse_mountinfo(&text, |_| true) {
        assert!(h.v2 || !h.controllers.is_empty() || h.mount_point.as_os_str().len() < data.len());
    }
    assert!(unescape(&text).as_bytes().len() <= data.len());
    for line in text.lines() {
        let _ = stats::blkio_v1_line(line);
    }
    let _ = (stats::psi_of(&text), conex::text::bit_set(&text), namespaces::sysctl_namespace(&text));
    let _ = (unit::number("memory.max", &text), unit::number("pids.max", &text), conex::verbs::kill::signal(&text));
});
