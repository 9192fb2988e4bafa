//! `linux.seccomp`: the profile as checked, compiled and cached.
//!
//! seccompiler holds one architecture per filter and one action per filter, so Docker's default profile cannot be
//! expressed in it; this compiler puts all ABIs of the machine into one program (docs/decisions.md).

pub mod abi;
mod arguments;
pub mod bpf;
pub mod compile;
pub mod table;

pub use abi::{Abi, COMPILED};

use crate::check::Check;
use crate::oci::config;
use conex_sys::seccomp as sys;

/// A sum of this compiler and its table (build.rs): a cache of programs knows by it who has made them.
pub const SUM: &str = env!("CONEX_SECCOMP_SUM");

/// A checked profile with what the kernel needs beside it.
#[derive(Debug, Clone)]
pub struct Filter {
    pub profile: Profile,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
    pub listener: Option<Listener>,
}

/// Where the notification descriptor goes.
#[derive(Debug, Clone)]
pub struct Listener {
    pub path: String,
    pub metadata: String,
}

/// What the compiler takes: actions as `SECCOMP_RET_*` values, syscalls still by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub default: u32,
    /// ABIs of this machine, the native one first.
    pub abis: Vec<Abi>,
    pub rules: Vec<SyscallRule>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SyscallRule {
    pub names: Vec<String>,
    pub action: u32,
    /// Alternatives; each a conjunction. Empty: the rule holds for any arguments.
    pub any_of: Vec<Vec<Arg>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arg {
    pub index: u32,
    pub op: Op,
    pub value: u64,
    /// The mask's expected value; only for [`Op::MaskedEq`], where `value` is the mask.
    pub value_two: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    MaskedEq,
}

pub const ACTIONS: [(&str, u32); 9] = [
    ("SCMP_ACT_KILL", 0x0000_0000),
    ("SCMP_ACT_KILL_THREAD", 0x0000_0000),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_ERRNO", 0x0005_0000),
    ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_ALLOW", 0x7fff_0000),
];

pub const RET_ERRNO: u32 = 0x0005_0000;
pub const RET_ALLOW: u32 = 0x7fff_0000;
pub const RET_LOG: u32 = 0x7ffc_0000;
pub const RET_TRACE: u32 = 0x7ff0_0000;
pub const RET_NOTIFY: u32 = 0x7fc0_0000;
pub const RET_KILL_THREAD: u32 = 0;
pub const ACTION_MASK: u32 = 0xffff_0000;

pub const OPERATORS: [(&str, Op); 7] = [
    ("SCMP_CMP_NE", Op::Ne),
    ("SCMP_CMP_LT", Op::Lt),
    ("SCMP_CMP_LE", Op::Le),
    ("SCMP_CMP_EQ", Op::Eq),
    ("SCMP_CMP_GE", Op::Ge),
    ("SCMP_CMP_GT", Op::Gt),
    ("SCMP_CMP_MASKED_EQ", Op::MaskedEq),
];

/// All names that config.md knows. Those of other machines are accepted: no process of this kernel can use them,
/// so their part of the filter is empty.
pub const ARCHITECTURES: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

pub const FLAGS: [(&str, u64); 4] = [
    // Applies the filter to all threads: there is only one.
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", sys::FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", sys::FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", sys::FLAG_WAIT_KILLABLE_RECV),
];

/// Checks the object. An empty one means no seccomp, as engines write it.
pub fn plan(s: &config::Seccomp, check: &mut Check) -> Option<Filter> {
    let field = "linux.seccomp";
    if s.default_action.is_empty() && s.syscalls.is_empty() {
        return None;
    }
    let default =
        action(&s.default_action, s.default_errno_ret, &format!("{field}.defaultAction"), check);
    if default == Some(RET_NOTIFY) {
        check.bad(
            format!("{field}.defaultAction"),
            "SCMP_ACT_NOTIFY cannot be the default action: the container could not even start",
        );
    }
    let abis = architectures(s, check);
    let mut rules = Vec::with_capacity(s.syscalls.len());
    for (i, call) in s.syscalls.iter().enumerate() {
        rules.extend(rule(call, &format!("{field}.syscalls[{i}]"), default, check));
    }
    let notify = rules.iter().any(|r| r.action == RET_NOTIFY);
    let listener = s.listener_path.as_deref().filter(|p| !p.is_empty()).map(|path| Listener {
        path: path.to_string(),
        metadata: s.listener_metadata.clone().unwrap_or_default(),
    });
    if notify && listener.is_none() {
        check.bad(format!("{field}.listenerPath"), "required with SCMP_ACT_NOTIFY");
    }
    if !notify
        && listener.is_none()
        && s.listener_metadata.as_deref().is_some_and(|m| !m.is_empty())
    {
        check.bad(format!("{field}.listenerMetadata"), "needs listenerPath");
    }
    let mut flags = flags(s, check);
    if notify {
        flags |= sys::FLAG_NEW_LISTENER;
    } else {
        flags &= !sys::FLAG_WAIT_KILLABLE_RECV;
    }
    Some(Filter {
        profile: Profile { default: default?, abis, rules },
        flags,
        listener: listener.filter(|_| notify),
    })
}

/// The calls that the runtime itself still makes under the profile, before the program is there: without them it would
/// never run, and under a profile that forbids to tell why nobody would hear of it.
pub fn needed(filter: &Filter, no_new_privileges: bool, ambient: bool, check: &mut Check) {
    let profile = &filter.profile;
    let action = |name: &str| {
        let of = |always: bool| {
            let rules = profile.rules.iter().filter(|r| r.names.iter().any(|n| n == name));
            rules.filter(|r| r.any_of.is_empty() == always).map(|r| r.action & ACTION_MASK).next()
        };
        // With conditions alone it is up to the arguments.
        of(true).or(of(false).map(|_| RET_ALLOW)).unwrap_or(profile.default & ACTION_MASK)
    };
    // Without a tracer the kernel answers a traced call with ENOSYS.
    let denied = |name: &str| !matches!(action(name), RET_ALLOW | RET_LOG | RET_NOTIFY);
    const LATE: [&str; 9] = [
        "capget",
        "capset",
        "sendmsg",
        "recvmsg",
        "accept4",
        "close",
        "prctl",
        "prlimit64",
        "rt_sigprocmask",
    ];
    let mut missing: Vec<&str> = Vec::new();
    if filter.listener.is_some() {
        // Loaded before the container waits for its start: all that is done from then on is done under it.
        missing.extend(LATE.into_iter().filter(|n| denied(n)));
    } else if !no_new_privileges {
        // Without no_new_privs the kernel takes a filter only from who has CAP_SYS_ADMIN: the capabilities go after that.
        missing.extend(["capget", "capset"].into_iter().filter(|n| denied(n)));
        // An error is no obstacle where there is no ambient set; a signal is.
        if denied("prctl") && (ambient || action("prctl") != RET_ERRNO) {
            missing.push("prctl");
        }
    }
    if denied("execve") {
        missing.push("execve");
    }
    if missing.is_empty() {
        return;
    }
    let or = if missing == ["execve"] { "" } else { ", or set process.noNewPrivileges" };
    let what = format!(
        "denies {}, which the runtime still calls under it to start the program: allow it{or}",
        missing.join(", ")
    );
    check.bad("linux.seccomp", what);
}

fn action(name: &str, errno: Option<u32>, field: &str, check: &mut Check) -> Option<u32> {
    let Some((_, value)) = ACTIONS.iter().find(|(n, _)| *n == name) else {
        check.bad(field, format!("{name:?} is no seccomp action"));
        return None;
    };
    let takes_errno = matches!(*value, RET_ERRNO | RET_TRACE);
    match errno {
        Some(n) if takes_errno => {
            // The kernel keeps 16 bits and caps ERRNO at 4095.
            if n > 4095 && *value == RET_ERRNO || n > 0xffff {
                check.bad(
                    field.replace("Action", "ErrnoRet").replace(".action", ".errnoRet"),
                    format!("{n} is no errno"),
                );
            }
            Some(value | (n & 0xffff))
        }
        // runc and crun answer EPERM by default.
        None if takes_errno => Some(value | libc::EPERM as u32),
        Some(0) | None => Some(*value),
        Some(_) => {
            check.bad(
                field.replace(".action", ".errnoRet").replace("defaultAction", "defaultErrnoRet"),
                format!("{name} takes no errno"),
            );
            None
        }
    }
}

fn architectures(s: &config::Seccomp, check: &mut Check) -> Vec<Abi> {
    // libseccomp always has the native architecture in a filter.
    let mut out: Vec<Abi> = COMPILED.first().copied().into_iter().collect();
    if out.is_empty() {
        let what = format!("conex makes no filter for {}", std::env::consts::ARCH);
        check.bad("linux.seccomp", what);
    }
    for (i, name) in s.architectures.iter().enumerate() {
        if !ARCHITECTURES.contains(&name.as_str()) {
            check.bad(
                format!("linux.seccomp.architectures[{i}]"),
                format!("{name:?} is no seccomp architecture"),
            );
        }
        match COMPILED.iter().find(|abi| abi.scmp() == name.as_str()) {
            Some(abi) if !out.contains(abi) => out.push(*abi),
            _ => {}
        }
    }
    out
}

fn rule(
    call: &config::Syscall,
    field: &str,
    default: Option<u32>,
    check: &mut Check,
) -> Option<SyscallRule> {
    let action = action(&call.action, call.errno_ret, &format!("{field}.action"), check);
    if call.names.is_empty() {
        check.bad(format!("{field}.names"), "must name at least one system call");
    }
    let mut args = Vec::with_capacity(call.args.len());
    for (i, a) in call.args.iter().enumerate() {
        let at = format!("{field}.args[{i}]");
        if a.index > 5 {
            check.bad(format!("{at}.index"), format!("{} is outside 0 to 5", a.index));
        }
        match OPERATORS.iter().find(|(n, _)| *n == a.op) {
            None => check.bad(format!("{at}.op"), format!("{:?} is no seccomp operator", a.op)),
            Some((_, op)) => {
                args.push(Arg { index: a.index, op: *op, value: a.value, value_two: a.value_two });
            }
        }
    }
    // What is the default anyway needs no rule (runc skips it too).
    if action == default {
        return None;
    }
    Some(SyscallRule { names: call.names.0.clone(), action: action?, any_of: alternatives(args) })
}

/// Conditions on different arguments are all needed; as soon as one argument appears twice, every condition is a
/// rule of its own (runc and crun; libseccomp takes each argument once per rule).
fn alternatives(args: Vec<Arg>) -> Vec<Vec<Arg>> {
    if args.is_empty() {
        return Vec::new();
    }
    let twice = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| b.index == a.index));
    if twice {
        return args.into_iter().map(|a| vec![a]).collect();
    }
    vec![args]
}

fn flags(s: &config::Seccomp, check: &mut Check) -> u64 {
    let Some(list) = &s.flags else {
        return sys::FLAG_SPEC_ALLOW;
    };
    let mut out = 0;
    for (i, name) in list.iter().enumerate() {
        match FLAGS.iter().find(|(n, _)| n == name) {
            Some((_, bit)) => out |= bit,
            None => check
                .bad(format!("linux.seccomp.flags[{i}]"), format!("{name:?} is no seccomp flag")),
        }
    }
    out
}
