#![no_main]
//! What the kernel shows of mounts and cgroups, in which anybody's names are; lists of processors; sysctl names; signals.

use conex::acts::hierarchy::{parse_mountinfo, unescape};
use conex::cgroup::figures;
use conex::plan::limits::unified;
use conex::plan::namespaces;
use std::os::unix::ffi::OsStrExt;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = conex::text::from_bytes(data);
    assert_eq!(conex::text::bytes(&text).as_ref(), data);
    for h in parse_mountinfo(&text, |_| true) {
        assert!(h.v2 || !h.controllers.is_empty() || h.mount_point.as_os_str().len() < data.len());
    }
    assert!(unescape(&text).as_bytes().len() <= data.len());
    let _ =
        (figures::blocks(&text).count(), figures::io(&text).count(), figures::key(&text, "max"));
    let _ = (
        figures::pressure(&text, "some"),
        conex::text::bit_set(&text),
        namespaces::sysctl_namespace(&text),
    );
    let _ = (
        unified::number("memory.max", &text),
        unified::means("io.max", &text),
        conex::verbs::kill::signal(&text),
    );
});
