//! Where memory and cache come from: NUMA policy and resctrl.

use crate::check::Check;
use crate::facts::Facts;
use crate::oci::config::Linux;

/// `MPOL_*` of linux/mempolicy.h.
pub const MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// `linux.memoryPolicy` as set_mempolicy(2) takes it.
pub fn memory_policy(linux: &Linux, check: &mut Check) -> Option<(i32, Vec<u64>)> {
    const FLAGS: [(&str, i32); 3] = [
        ("MPOL_F_STATIC_NODES", 1 << 15),
        ("MPOL_F_RELATIVE_NODES", 1 << 14),
        ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ];
    let policy = linux.memory_policy.as_ref()?;
    let field = "linux.memoryPolicy";
    let Some((_, mut mode)) = MODES.iter().find(|(n, _)| *n == policy.mode) else {
        check.bad(format!("{field}.mode"), format!("{:?} is no memory policy", policy.mode));
        return None;
    };
    let takes_nodes = !matches!(mode, 0 | 4);
    for (i, name) in policy.flags.iter().enumerate() {
        match FLAGS.iter().find(|(n, _)| n == name) {
            Some((_, bit)) => mode |= bit,
            None => check
                .bad(format!("{field}.flags[{i}]"), format!("{name:?} is no memory policy flag")),
        }
    }
    let text = policy.nodes.as_deref().unwrap_or("");
    if text.is_empty() {
        if takes_nodes && policy.mode != "MPOL_PREFERRED" {
            check.bad(format!("{field}.nodes"), format!("{} needs nodes", policy.mode));
        }
        return Some((mode, Vec::new()));
    }
    if !takes_nodes {
        check.bad(format!("{field}.nodes"), format!("{} takes no nodes", policy.mode));
    }
    match crate::text::bit_set(text) {
        Some(bits) => Some((mode, bits)),
        None => {
            check.bad(format!("{field}.nodes"), format!("{text:?} is not a list such as 0-3,7"));
            None
        }
    }
}

/// A resctrl group for `linux.intelRdt`.
#[derive(Debug, Clone)]
pub struct Rdt {
    /// Directory name below /sys/fs/resctrl; empty for the root group.
    pub clos: String,
    /// True if the group may already exist because the document names it.
    pub shared: bool,
    pub schemata: Vec<String>,
    pub monitoring: bool,
}

pub(super) fn rdt(linux: &Linux, id: &str, facts: &Facts, check: &mut Check) -> Option<Rdt> {
    let rdt = linux.intel_rdt.as_ref()?;
    let field = "linux.intelRdt";
    if !facts.resctrl {
        check.unsupported(field, "this host has no resctrl file system at /sys/fs/resctrl");
        return None;
    }
    let given = rdt.clos_id.as_deref().filter(|c| !c.is_empty());
    let clos = match given {
        Some("/") => "",
        Some(c) if c.contains('/') || c == "." || c == ".." => {
            check.bad(format!("{field}.closID"), format!("{c:?} is no directory name"));
            return None;
        }
        Some(c) => c,
        None => id,
    };
    let mut schemata = Vec::new();
    for text in [&rdt.l3_cache_schema, &rdt.mem_bw_schema].into_iter().flatten() {
        schemata.extend(text.lines().filter(|l| !l.is_empty()).map(str::to_string));
    }
    // config-linux.md: schemata overrides the other two, so it is written last.
    schemata.extend(rdt.schemata.iter().cloned());
    for (i, line) in schemata.iter().enumerate().filter(|(_, l)| l.contains('\n')) {
        check.bad(format!("{field}.schemata[{i}]"), format!("{line:?} is more than one line"));
    }
    if rdt.enable_cmt || rdt.enable_mbm {
        check.warn(field, "enableCMT and enableMBM are deprecated; use enableMonitoring");
    }
    Some(Rdt {
        clos: clos.to_string(),
        shared: given.is_some(),
        schemata,
        monitoring: rdt.enable_monitoring || rdt.enable_cmt || rdt.enable_mbm,
    })
}
