//! The features document (runtime-spec features.md, features-linux.md), as JSON; oci-spec reads it back in
//! the tests.

use crate::oci::{SPEC_MINIMUM, SPEC_VERSION};
use crate::seccomp;
use crate::{mount_options, namespaces, placement};
use serde_json::{json, Value};

/// What this runtime knows, whatever the host has, but for the fields that say "enabled".
pub fn document() -> Value {
    let names = |list: &mut dyn Iterator<Item = &'static str>| {
        let mut v: Vec<&str> = list.collect();
        v.sort_unstable();
        v.dedup();
        json!(v)
    };
    let flags = || seccomp::FLAGS.iter().map(|f| f.0);
    let supported: Vec<&str> = flags().collect();
    let capabilities: Vec<String> = {
        let all = caps::all();
        let in_order = (0..64).filter_map(|i| all.iter().find(|c| c.index() == i));
        in_order.map(ToString::to_string).collect()
    };
    json!({
        "ociVersionMin": SPEC_MINIMUM,
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options::names(),
        "linux": {
            "namespaces": names(&mut namespaces::KINDS.iter().map(|k| k.0)),
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": !seccomp::COMPILED.is_empty(),
                "actions": names(&mut seccomp::ACTIONS.iter().map(|a| a.0)),
                "operators": names(&mut seccomp::OPERATORS.iter().map(|o| o.0)),
                // Those that a filter is made for; the names of others are accepted, and no process here can use them.
                "archs": names(&mut seccomp::COMPILED.iter().map(|abi| abi.scmp())),
                "knownFlags": supported,
                "supportedFlags": supported,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": names(&mut placement::MODES.iter().map(|m| m.0)),
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "conex.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": ["dev.conex.seccomp-log", "org.systemd.property.", "run.oci.hooks.", "run.oci.keep_original_groups", "run.oci.mount_context_type"],
    })
}
