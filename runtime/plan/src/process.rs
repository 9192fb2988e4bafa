//! The process object, for the container's init and for `exec`.

use super::namespaces::{Maps, Namespaces};
use super::Options;
use crate::check::Check;
use crate::facts::Facts;
use crate::oci::config::{self, Spec};
use crate::seccomp::Filter;
use caps::{Capability, CapsHashSet};
use conex_sys::sched::SchedAttr;
use std::path::Path;
use std::str::FromStr;

/// A process as the child will become it.
#[derive(Debug)]
pub struct Process {
    /// Where the object is in config.json: `process`.
    pub field: String,
    pub terminal: bool,
    pub console_size: Option<conex_sys::tty::Size>,
    pub cwd: String,
    /// `NAME=value`, each name once, the last one given.
    pub env: Vec<String>,
    pub args: Vec<String>,
    pub rlimits: Vec<Rlimit>,
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub scheduler: Option<SchedAttr>,
    /// Class and level of ioprio_set(2).
    pub io_priority: Option<(u32, u32)>,
    /// CPU sets of `exec`, before and after joining the cgroup.
    pub affinity: (Option<Vec<u64>>, Option<Vec<u64>>),
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// False where the user namespace denies setgroups(2).
    pub can_setgroups: bool,
    pub umask: u32,
    pub personality: Option<u64>,
    /// Mode with flags, and the node set.
    pub memory_policy: Option<(i32, Vec<u64>)>,
    pub seccomp: Option<Filter>,
    /// Name of the new session keyring.
    pub keyring: Option<String>,
    pub preserved: Vec<i32>,
    /// The runtime ends before the process, which alone has its standard streams then.
    pub detached: bool,
    /// The supplementary groups of the caller stay, see [`keeps_groups`].
    pub keep_groups: bool,
}

#[derive(Debug)]
pub struct Rlimit {
    pub resource: u32,
    pub name: String,
    pub soft: u64,
    pub hard: u64,
    pub field: String,
}

#[derive(Debug, Default, Clone)]
pub struct Capabilities {
    pub bounding: CapsHashSet,
    pub effective: CapsHashSet,
    pub permitted: CapsHashSet,
    pub inheritable: CapsHashSet,
    pub ambient: CapsHashSet,
}

pub const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", 0),
    ("RLIMIT_FSIZE", 1),
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_CORE", 4),
    ("RLIMIT_RSS", 5),
    ("RLIMIT_NPROC", 6),
    ("RLIMIT_NOFILE", 7),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
    ("RLIMIT_LOCKS", 10),
    ("RLIMIT_SIGPENDING", 11),
    ("RLIMIT_MSGQUEUE", 12),
    ("RLIMIT_NICE", 13),
    ("RLIMIT_RTPRIO", 14),
    ("RLIMIT_RTTIME", 15),
];

pub(super) fn make(
    spec: &Spec,
    options: &Options,
    facts: &Facts,
    namespaces: &Namespaces,
    check: &mut Check,
) -> Option<Process> {
    let Some(process) = &spec.process else {
        // config.md: "process … is REQUIRED when start is called": the container can be created without one.
        let nothing = config::Process {
            cwd: "/".into(),
            args: config::List(vec!["-".into()]),
            ..config::Process::default()
        };
        let mut out = one(&nothing, "process", facts, namespaces.maps.as_ref(), check);
        out.args.clear();
        return Some(out);
    };
    let linux = spec.linux.as_ref();
    let seccomp =
        linux.and_then(|l| l.seccomp.as_ref()).and_then(|s| crate::seccomp::plan(s, check));
    let mut out = one(process, "process", facts, namespaces.maps.as_ref(), check);
    out.seccomp = seccomp;
    if let Some(filter) = &out.seccomp {
        crate::seccomp::needed(
            filter,
            out.no_new_privileges,
            !out.capabilities.ambient.is_empty(),
            check,
        );
    }
    out.personality = linux.and_then(|l| personality(l, check));
    out.memory_policy = linux.and_then(|l| super::placement::memory_policy(l, check));
    out.keyring = (!options.no_new_keyring).then(|| format!("_ses.{}", options.id));
    out.preserved = options.preserved.clone();
    out.detached = options.detached;
    out.keep_groups = keeps_groups(&spec.annotations);
    if options.listen_fds > 0 {
        set_env(&mut out.env, "LISTEN_FDS", &options.listen_fds.to_string());
        set_env(&mut out.env, "LISTEN_PID", "1");
    }
    if options.notify_dir.is_some() {
        set_env(&mut out.env, "NOTIFY_SOCKET", "/run/notify/notify.sock");
    }
    Some(out)
}

/// Resolves one process object. What belongs to the container (seccomp, personality, keyring) is left empty.
pub fn one(
    process: &config::Process,
    field: &str,
    facts: &Facts,
    maps: Option<&Maps>,
    check: &mut Check,
) -> Process {
    let at = |name: &str| format!("{field}.{name}");
    strings(process, field, facts, check);
    let console_size = process
        .console_size
        .as_ref()
        .filter(|_| process.terminal)
        .map(|s| conex_sys::tty::Size { rows: s.height, cols: s.width });
    user(&process.user, field, maps, check);
    Process {
        field: field.to_string(),
        terminal: process.terminal,
        console_size,
        cwd: process.cwd.clone(),
        env: env(&process.env, &at("env"), check),
        args: process.args.0.clone(),
        rlimits: rlimits(&process.rlimits, &at("rlimits"), check),
        apparmor: label(&process.apparmor_profile),
        selinux: label(&process.selinux_label),
        capabilities: capabilities(
            process.capabilities.as_ref(),
            &at("capabilities"),
            facts,
            maps.is_some(),
            check,
        ),
        no_new_privileges: process.no_new_privileges == Some(true),
        oom_score_adj: process.oom_score_adj,
        scheduler: process.scheduler.as_ref().and_then(|s| scheduler(s, &at("scheduler"), check)),
        io_priority: process
            .io_priority
            .as_ref()
            .and_then(|p| io_priority(p, &at("ioPriority"), check)),
        affinity: affinity(process, field, check),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.0.clone(),
        can_setgroups: !facts
            .setgroups_denied(maps.is_some_and(|m| m.gid.len() == 1 && m.gid[0].size == 1)),
        umask: process.user.umask.unwrap_or(0o022),
        personality: None,
        memory_policy: None,
        seccomp: None,
        keyring: None,
        preserved: Vec::new(),
        detached: false,
        keep_groups: false,
    }
}

/// An empty label is none.
fn label(given: &Option<String>) -> Option<String> {
    given.clone().filter(|l| !l.is_empty())
}

/// What is wrong with the plain values of a process object.
fn strings(process: &config::Process, field: &str, facts: &Facts, check: &mut Check) {
    let at = |name: &str| format!("{field}.{name}");
    if !Path::new(&process.cwd).is_absolute() {
        check.bad(at("cwd"), format!("Cwd must be an absolute path, not {:?}", process.cwd));
    }
    match process.args.first() {
        None => check.bad(at("args"), "args must not be empty"),
        // As Go's look-up says it: the engines make 127 of this text.
        Some(a) if a.is_empty() => {
            check.bad(at("args[0]"), "exec: \"\": executable file not found in $PATH")
        }
        Some(_) => {}
    }
    nul_free(&process.args, &at("args"), check);
    nul_free(&process.env, &at("env"), check);
    if label(&process.apparmor_profile).is_some() && !facts.apparmor {
        check.unsupported(
            at("apparmorProfile"),
            "apparmor: config provided but apparmor not supported",
        );
    }
    if label(&process.selinux_label).is_some() && !facts.selinux {
        check.unsupported(
            at("selinuxLabel"),
            "selinux label is specified in config, but selinux is disabled or not supported",
        );
    }
    if let Some(score) = process.oom_score_adj.filter(|s| !(-1000..=1000).contains(s)) {
        check.bad(at("oomScoreAdj"), format!("{score} is outside -1000 to 1000"));
    }
}

/// Podman's `--group-add keep-groups`, in crun's words: the process keeps the caller's supplementary groups.
pub fn keeps_groups(annotations: &std::collections::BTreeMap<String, String>) -> bool {
    annotations.get("run.oci.keep_original_groups").is_some_and(|v| v == "1")
}

fn nul_free(list: &[String], field: &str, check: &mut Check) {
    for (i, s) in list.iter().enumerate().filter(|(_, s)| s.contains('\0')) {
        check.bad(format!("{field}[{i}]"), format!("{s:?} holds a NUL byte"));
    }
}

fn user(user: &config::User, field: &str, maps: Option<&Maps>, check: &mut Check) {
    let mut id = |value: u32, list: Option<&[config::IdMapping]>, at: String| {
        if value == u32::MAX {
            check.bad(at, "4294967295 is no id: the kernel takes it for \"unchanged\"");
        } else if list.is_some_and(|l| !l.is_empty() && Maps::to_host(l, value).is_none()) {
            check.bad(at, format!("{value} is not mapped in the user namespace"));
        }
    };
    id(user.uid, maps.map(|m| m.uid.as_slice()), format!("{field}.user.uid"));
    id(user.gid, maps.map(|m| m.gid.as_slice()), format!("{field}.user.gid"));
    for (i, gid) in user.additional_gids.iter().enumerate() {
        id(*gid, maps.map(|m| m.gid.as_slice()), format!("{field}.user.additionalGids[{i}]"));
    }
    if user.umask.is_some_and(|u| u > 0o777) {
        check.bad(format!("{field}.user.umask"), "must be at most 511 (0777)");
    }
}

/// Replaces or appends one variable.
pub fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    env.retain(|e| e.split('=').next() != Some(name));
    env.push(format!("{name}={value}"));
}

/// The last value of a name wins, at the place of the first: what runc does and shells expect.
fn env(list: &[String], field: &str, check: &mut Check) -> Vec<String> {
    let mut out: Vec<&str> = Vec::with_capacity(list.len());
    let mut index: std::collections::HashMap<&str, usize> =
        std::collections::HashMap::with_capacity(list.len());
    for (i, entry) in list.iter().enumerate() {
        match entry.split_once('=') {
            None => check.bad(format!("{field}[{i}]"), format!("{entry:?} is not NAME=value")),
            Some(("", _)) => {
                check.bad(format!("{field}[{i}]"), format!("{entry:?} has an empty name"))
            }
            Some((name, _)) => match index.get(name) {
                Some(at) => out[*at] = entry,
                None => {
                    index.insert(name, out.len());
                    out.push(entry);
                }
            },
        }
    }
    out.into_iter().map(str::to_string).collect()
}

fn rlimits(list: &[config::Rlimit], field: &str, check: &mut Check) -> Vec<Rlimit> {
    let mut out: Vec<Rlimit> = Vec::new();
    for (i, limit) in list.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let Some((_, resource)) = RLIMITS.iter().find(|(name, _)| *name == limit.kind) else {
            check.bad(format!("{field}.type"), format!("invalid rlimit type {:?}", limit.kind));
            continue;
        };
        if out.iter().any(|r| r.resource == *resource) {
            check.bad(
                format!("{field}.type"),
                format!("{} is given twice (runtime-spec: MUST error)", limit.kind),
            );
            continue;
        }
        if limit.soft > limit.hard {
            check.bad(
                format!("{field}.soft"),
                format!("{} is above the hard limit {}", limit.soft, limit.hard),
            );
        }
        out.push(Rlimit {
            resource: *resource,
            name: limit.kind.clone(),
            soft: limit.soft,
            hard: limit.hard,
            field,
        });
    }
    out
}

/// Unknown names, and capabilities that this host cannot grant, are warnings (config.md: SHOULD NOT fail).
fn capabilities(
    caps: Option<&config::Capabilities>,
    field: &str,
    facts: &Facts,
    in_userns: bool,
    check: &mut Check,
) -> Capabilities {
    let Some(caps) = caps else {
        return Capabilities::default();
    };
    let mut set = |list: &[String], name: &str| -> CapsHashSet {
        let mut out = CapsHashSet::new();
        for (i, text) in list.iter().enumerate() {
            match Capability::from_str(text) {
                Err(_) => check.warn(
                    format!("{field}.{name}[{i}]"),
                    format!("unknown capability {text:?} is ignored"),
                ),
                // The first process of a user namespace has all of them there (user_namespaces(7)).
                Ok(cap) if !in_userns && !facts.capabilities.contains(&cap) => {
                    check.warn(
                        format!("{field}.{name}[{i}]"),
                        format!("{text} is not available to this runtime and is ignored"),
                    );
                }
                Ok(cap) => {
                    out.insert(cap);
                }
            }
        }
        out
    };
    let mut out = Capabilities {
        bounding: set(&caps.bounding, "bounding"),
        effective: set(&caps.effective, "effective"),
        permitted: set(&caps.permitted, "permitted"),
        inheritable: set(&caps.inheritable, "inheritable"),
        ambient: set(&caps.ambient, "ambient"),
    };
    for cap in out.effective.difference(&out.permitted) {
        check.bad(
            format!("{field}.effective"),
            format!("{cap} is not in permitted (capabilities(7))"),
        );
    }
    let able: CapsHashSet = out.permitted.intersection(&out.inheritable).copied().collect();
    for cap in out.ambient.difference(&able) {
        let what =
            format!("can't raise ambient capability {cap}: it is not both permitted and inheritable (capabilities(7))");
        check.warn(format!("{field}.ambient"), what);
    }
    out.ambient.retain(|c| able.contains(c));
    out
}

/// sched(7), sched_setattr(2).
pub const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];
const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 1),
    ("SCHED_FLAG_RECLAIM", 2),
    ("SCHED_FLAG_DL_OVERRUN", 4),
    ("SCHED_FLAG_KEEP_POLICY", 8),
    ("SCHED_FLAG_KEEP_PARAMS", 16),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 32),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 64),
];

fn scheduler(s: &config::Scheduler, field: &str, check: &mut Check) -> Option<SchedAttr> {
    let Some((_, policy)) = POLICIES.iter().find(|(n, _)| *n == s.policy) else {
        check.bad(format!("{field}.policy"), format!("{:?} is no scheduling policy", s.policy));
        return None;
    };
    let mut flags = 0;
    for (i, name) in s.flags.iter().enumerate() {
        match FLAGS.iter().find(|(n, _)| n == name) {
            Some((_, bit)) => flags |= bit,
            None => {
                check.bad(format!("{field}.flags[{i}]"), format!("{name:?} is no scheduling flag"))
            }
        }
    }
    let nice = s.nice.unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        check.bad(format!("{field}.nice"), format!("{nice} is outside -20 to 19"));
    }
    let realtime = matches!(policy, 1 | 2);
    let priority = s.priority.unwrap_or(0);
    if priority != 0 && !realtime {
        check.bad(format!("{field}.priority"), "only SCHED_FIFO and SCHED_RR have a priority");
    } else if realtime && !(1..=99).contains(&priority) {
        check.bad(
            format!("{field}.priority"),
            format!("{} needs a priority from 1 to 99", s.policy),
        );
    }
    let deadline = [s.runtime, s.deadline, s.period].iter().any(|v| v.is_some_and(|v| v != 0));
    if deadline && *policy != 6 {
        check.bad(format!("{field}.runtime"), "runtime, deadline and period need SCHED_DEADLINE");
    }
    Some(SchedAttr {
        policy: *policy,
        flags,
        nice,
        priority: priority.max(0) as u32,
        runtime: s.runtime.unwrap_or(0),
        deadline: s.deadline.unwrap_or(0),
        period: s.period.unwrap_or(0),
        ..SchedAttr::default()
    })
}

fn io_priority(p: &config::IoPriority, field: &str, check: &mut Check) -> Option<(u32, u32)> {
    let class = match p.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => {
            check.bad(format!("{field}.class"), format!("{other:?} is no I/O scheduling class"));
            return None;
        }
    };
    if !(0..=7).contains(&p.priority) {
        check.bad(format!("{field}.priority"), format!("{} is outside 0 to 7", p.priority));
        return None;
    }
    Some((class, p.priority as u32))
}

fn affinity(
    process: &config::Process,
    field: &str,
    check: &mut Check,
) -> (Option<Vec<u64>>, Option<Vec<u64>>) {
    let Some(affinity) = &process.exec_cpu_affinity else {
        return (None, None);
    };
    let mut set = |text: &Option<String>, name: &str| {
        let text = text.as_deref().filter(|t| !t.is_empty())?;
        let bits = crate::text::bit_set(text);
        if bits.is_none() {
            check.bad(
                format!("{field}.execCPUAffinity.{name}"),
                format!("{text:?} is not a list such as 0-3,7"),
            );
        }
        bits
    };
    (set(&affinity.initial, "initial"), set(&affinity.r#final, "final"))
}

pub fn personality(linux: &config::Linux, check: &mut Check) -> Option<u64> {
    let p = linux.personality.as_ref()?;
    if !p.flags.is_empty() {
        check.unsupported("linux.personality.flags", "runtime-spec 1.3 defines no flag");
    }
    match p.domain.as_str() {
        "LINUX" => Some(0),
        "LINUX32" => Some(8),
        other => {
            check.bad("linux.personality.domain", format!("{other:?}: expected LINUX or LINUX32"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_keeps_the_last_value() {
        let list: Vec<String> = ["A=1", "B=2", "A=3"].map(String::from).into();
        assert_eq!(env(&list, "process.env", &mut Check::default()), ["A=3", "B=2"]);
    }
}
