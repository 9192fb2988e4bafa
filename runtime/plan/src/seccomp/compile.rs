//! Profile → classic BPF.
//!
//! ```text
//! ld arch ─┬─ x86-64 ─ ld nr ─┬─ below the x32 bit: tree
//!          │                  └─ x32: tree, or kill
//!          ├─ x86 ── ld nr ── tree
//!          └─ other: kill
//! ```
//! On arm64 the first two are arm64 and arm, each with one tree.
//! A tree is a binary search over ranges of numbers with the same verdict; a leaf returns an action or checks
//! arguments. Numbers above the highest one that the profile knows get ENOSYS, so that a program falls back from
//! a call that is newer than its profile, instead of failing with EPERM (what runc does, and libseccomp cannot).

pub use super::abi::{abi_of, lookup, name, told_by_kernel};
use super::abi::{ARM_BASE, ARM_END, X32_BIT};
use super::arguments::conditions;
use super::bpf::{insn, jump, JA, JEQ, JGE, LD, RET};
use super::*;
use conex_sys::seccomp::SockFilter;
use std::collections::BTreeMap;

const ENOSYS: u32 = RET_ERRNO | libc::ENOSYS as u32;

/// What happens for one system call number.
#[derive(Debug, Clone, PartialEq)]
enum Verdict<'a> {
    Action(u32),
    /// The first alternative that matches decides; none: the default.
    Conditions(Vec<(&'a [Arg], Option<Arg>, u32)>),
}

/// A run of numbers from `low` on, up to the next leaf.
struct Leaf<'a> {
    low: u32,
    verdict: Verdict<'a>,
}

/// Compiles the profile; the result is what `seccomp(2)` takes, at most 4096 instructions.
///
/// # Errors
/// The number of instructions, if the kernel would refuse the program for it.
pub fn compile(profile: &Profile) -> Result<Vec<SockFilter>, usize> {
    let tree = |abi: Abi| {
        profile.abis.contains(&abi).then(|| {
            let mut out = Vec::new();
            search(&leaves(profile, abi), profile.default, abi, &mut out);
            out
        })
    };
    let mut out = vec![insn(LD, 4)];
    // The machine's own first, as nearly every call is one of it. One architecture for the kernel, two ABIs.
    if let Some(mut body) = tree(Abi::X86_64) {
        let x32 = tree(Abi::X32).unwrap_or_else(|| vec![insn(RET, RET_KILL_THREAD)]);
        // if nr >= X32_BIT: the x32 part, which follows.
        let mut jump = vec![jump(JGE, X32_BIT, 0, 1), insn(JA, body.len() as u32)];
        jump.append(&mut body);
        jump.extend(x32);
        section(&mut out, Abi::X86_64.arch(), jump);
    }
    for abi in profile.abis.iter().filter(|a| !matches!(a, Abi::X86_64 | Abi::X32)) {
        section(&mut out, abi.arch(), tree(*abi).unwrap_or_default());
    }
    // A call of an architecture that the profile does not name: libseccomp's bad-architecture action.
    out.push(insn(RET, RET_KILL_THREAD));
    // BPF_MAXINSNS of linux/bpf_common.h.
    if out.len() > 4096 {
        return Err(out.len());
    }
    Ok(out)
}

/// `if arch == value { ld nr; body }`, the accumulator holding the architecture.
fn section(out: &mut Vec<SockFilter>, value: u32, body: Vec<SockFilter>) {
    out.push(jump(JEQ, value, 1, 0));
    out.push(insn(JA, body.len() as u32 + 1));
    out.push(insn(LD, 0));
    out.extend(body);
}

/// i386 reaches the socket and System V calls through `socketcall` and `ipc` as well, with the call in the first
/// argument; a rule for `connect` must hold on both ways, as libseccomp makes it.
fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    const SOCKET: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(i) = SOCKET.iter().position(|n| *n == name) {
        return Some(("socketcall", i as u64 + 1));
    }
    IPC.iter().find(|(n, _)| *n == name).map(|(_, k)| ("ipc", *k))
}

fn verdicts(profile: &Profile, abi: Abi) -> BTreeMap<u32, Verdict<'_>> {
    let mut map: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in &profile.rules {
        for name in &rule.names {
            if let Some(nr) = lookup(name, abi) {
                add(&mut map, nr, rule, None);
            }
            let Some((call, k)) = (abi == Abi::X86).then(|| multiplexed(name)).flatten() else {
                continue;
            };
            if let Some(nr) = lookup(call, abi) {
                add(&mut map, nr, rule, Some(Arg { index: 0, op: Op::Eq, value: k, value_two: 0 }));
            }
        }
    }
    map
}

/// libseccomp's merging: a rule without conditions replaces those with conditions, and the first of its kind stays.
fn add<'a>(
    map: &mut BTreeMap<u32, Verdict<'a>>,
    nr: u32,
    rule: &'a SyscallRule,
    multiplex: Option<Arg>,
) {
    if rule.any_of.is_empty() && multiplex.is_none() {
        match map.get(&nr) {
            Some(Verdict::Action(_)) => {}
            _ => {
                map.insert(nr, Verdict::Action(rule.action));
            }
        }
        return;
    }
    let entry = map.entry(nr).or_insert_with(|| Verdict::Conditions(Vec::new()));
    if let Verdict::Conditions(list) = entry {
        if rule.any_of.is_empty() {
            list.push((&[], multiplex, rule.action));
        }
        for alternative in &rule.any_of {
            list.push((alternative, multiplex, rule.action));
        }
    }
}

fn leaves(profile: &Profile, abi: Abi) -> Vec<Leaf<'_>> {
    let base = if abi == Abi::X32 { X32_BIT } else { 0 };
    let map = verdicts(profile, abi);
    let mut out: Vec<Leaf> = Vec::new();
    let mut push = |low: u32, verdict| match out.last() {
        Some(last) if last.verdict == verdict => {}
        _ => out.push(Leaf { low: base + low, verdict }),
    };
    let permissive =
        matches!(profile.default & ACTION_MASK, RET_ALLOW | RET_LOG | RET_TRACE | RET_NOTIFY);
    // Those that 32-bit arm counts from ARM_BASE say nothing of how new a call the profile knows.
    let ordinary = map.keys().any(|nr| *nr < ARM_BASE);
    let rest = if !ordinary || permissive { profile.default } else { ENOSYS };
    let mut next = 0;
    for (nr, verdict) in map {
        if nr >= ARM_BASE && next < ARM_BASE {
            push(next, Verdict::Action(rest));
            next = ARM_BASE;
        }
        if nr > next {
            push(next, Verdict::Action(profile.default));
        }
        push(nr, verdict);
        next = nr + 1;
    }
    if abi == Abi::Arm {
        if next < ARM_BASE {
            push(next, Verdict::Action(rest));
            next = ARM_BASE;
        }
        if next < ARM_END {
            push(next, Verdict::Action(profile.default));
            next = ARM_END;
        }
    }
    push(next, Verdict::Action(rest));
    out
}

/// Emits a binary search; the accumulator holds the number.
fn search(leaves: &[Leaf], default: u32, abi: Abi, out: &mut Vec<SockFilter>) {
    let [first, ..] = leaves else { return };
    if leaves.len() == 1 {
        match &first.verdict {
            Verdict::Action(action) => out.push(insn(RET, *action)),
            Verdict::Conditions(list) => conditions(list, default, abi, out),
        }
        return;
    }
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let mut below = Vec::new();
    search(low, default, abi, &mut below);
    // Conditional jumps reach 255 instructions; JA reaches any.
    match u8::try_from(below.len()) {
        Ok(len) => out.push(jump(JGE, high[0].low, len, 0)),
        Err(_) => {
            out.push(jump(JGE, high[0].low, 0, 1));
            out.push(insn(JA, below.len() as u32));
        }
    }
    out.extend(below);
    search(high, default, abi, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::bpf::run;

    fn rule(name: &str, action: u32, args: &[Arg]) -> SyscallRule {
        SyscallRule { names: vec![name.into()], action, any_of: alternatives(args.to_vec()) }
    }

    fn profile(rules: Vec<SyscallRule>) -> Profile {
        Profile { default: RET_ERRNO | 1, abis: vec![Abi::X86_64, Abi::X86, Abi::X32], rules }
    }

    #[test]
    fn calls_of_32_bit_arm_alone() {
        let profile = Profile {
            default: RET_ERRNO | 1,
            abis: vec![Abi::Aarch64, Abi::Arm],
            rules: vec![
                rule("openat2", RET_ALLOW, &[]),
                rule("cacheflush", RET_ALLOW, &[]),
                rule("set_tls", RET_ALLOW, &[]),
            ],
        };
        let p = compile(&profile).unwrap();
        let verdict = |abi: Abi, nr| run(&p, abi.arch(), nr, [0; 6]);
        assert_eq!(verdict(Abi::Arm, 437), RET_ALLOW);
        assert_eq!(verdict(Abi::Arm, 436), RET_ERRNO | 1);
        assert_eq!(verdict(Abi::Arm, 438), ENOSYS);
        assert_eq!(verdict(Abi::Arm, 0x0f_0002), RET_ALLOW);
        assert_eq!(verdict(Abi::Arm, 0x0f_0001), RET_ERRNO | 1);
        assert_eq!(verdict(Abi::Arm, 0x0f_0005), RET_ALLOW);
        assert_eq!(verdict(Abi::Arm, 0x0f_0006), RET_ERRNO | 1);
        assert_eq!(verdict(Abi::Arm, 0x0f_0007), ENOSYS);
        assert_eq!(verdict(Abi::Aarch64, 437), RET_ALLOW);
        assert_eq!(verdict(Abi::Aarch64, 0x0f_0002), ENOSYS);
        assert_eq!(verdict(Abi::X86_64, 437), RET_KILL_THREAD);
        assert_eq!(name(Abi::Arm.arch(), 0x0f_0002), "cacheflush");
        assert_eq!(lookup("cacheflush", Abi::Aarch64), None);
        assert_eq!(lookup("arm_sync_file_range", Abi::Arm), lookup("sync_file_range2", Abi::Arm));
        let abis = vec![Abi::Aarch64, Abi::Arm];
        let verdict = |name: &str, nr| {
            let rules = vec![rule(name, RET_ALLOW, &[])];
            let profile = Profile { default: RET_KILL_THREAD, abis: abis.clone(), rules };
            run(&compile(&profile).unwrap(), Abi::Arm.arch(), nr, [0; 6])
        };
        // None of the calls before is newer than what the profile knows.
        assert_eq!(verdict("cacheflush", 437), RET_KILL_THREAD);
        assert_eq!(verdict("openat2", 0x0f_0002), RET_KILL_THREAD);
        assert_eq!(verdict("openat2", 438), ENOSYS);
    }

    #[test]
    fn table_is_sorted() {
        assert!(super::super::table::SYSCALLS.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn newer_calls_get_enosys() {
        let p = compile(&profile(vec![rule("openat2", RET_ALLOW, &[])])).unwrap();
        assert_eq!(run(&p, Abi::X86_64.arch(), 437, [0; 6]), RET_ALLOW);
        assert_eq!(run(&p, Abi::X86_64.arch(), 436, [0; 6]), RET_ERRNO | 1);
        assert_eq!(run(&p, Abi::X86_64.arch(), 438, [0; 6]), ENOSYS);
        assert_eq!(run(&p, Abi::X86_64.arch(), X32_BIT + 437, [0; 6]), RET_ALLOW);
        assert_eq!(run(&p, Abi::Aarch64.arch(), 437, [0; 6]), RET_KILL_THREAD);
    }

    #[test]
    fn every_operator_on_both_halves() {
        let values = [0u64, 1, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX];
        for (_, op) in OPERATORS {
            for datum in values {
                for two in values {
                    let arg = Arg { index: 3, op, value: datum, value_two: two };
                    let p = compile(&profile(vec![rule("read", RET_ALLOW, &[arg])])).unwrap();
                    for v in values {
                        let want = match op {
                            Op::Ne => v != datum,
                            Op::Lt => v < datum,
                            Op::Le => v <= datum,
                            Op::Eq => v == datum,
                            Op::Ge => v >= datum,
                            Op::Gt => v > datum,
                            Op::MaskedEq => v & datum == two & datum,
                        };
                        let got = run(&p, Abi::X86_64.arch(), 0, [0, 0, 0, v, 0, 0]);
                        assert_eq!(got == RET_ALLOW, want, "{v:#x} {op:?} {datum:#x} {two:#x}");
                    }
                }
            }
        }
    }

    /// More values of one argument than blocks of them would fit, with neighbours of every kind.
    #[test]
    fn thousands_of_values() {
        let equal = |value: u64, index: u32| Arg { index, op: Op::Eq, value, value_two: 0 };
        let mut list: Vec<Vec<Arg>> = (0..3000u64).map(|i| vec![equal(i * 7, 1)]).collect();
        list.push(vec![equal(5 << 32 | 3, 1)]);
        list.push(vec![equal(5 << 32 | 7, 1)]);
        list.push(vec![equal(1, 2), equal(2, 3)]);
        let many = SyscallRule { names: vec!["ioctl".into()], action: RET_ALLOW, any_of: list };
        let then = SyscallRule {
            names: vec!["ioctl".into()],
            action: RET_ERRNO | 9,
            any_of: vec![vec![equal(8, 1)]],
        };
        let only =
            Profile { default: RET_ERRNO | 1, abis: vec![Abi::X86_64], rules: vec![many, then] };
        let p = compile(&only).unwrap();
        let of = |a: u64, b: u64, c: u64| run(&p, Abi::X86_64.arch(), 16, [0, a, b, c, 0, 0]);
        for i in 0..21_100u64 {
            let want = match i {
                8 => RET_ERRNO | 9,
                _ if i % 7 == 0 && i < 21_000 => RET_ALLOW,
                _ => RET_ERRNO | 1,
            };
            assert_eq!(of(i, 0, 0), want, "{i}");
        }
        assert_eq!([of(5 << 32 | 3, 0, 0), of(5 << 32 | 7, 0, 0)], [RET_ALLOW; 2]);
        assert_eq!(
            [of(5 << 32 | 14, 0, 0), of(4 << 32 | 3, 0, 0), of(9, 1, 3)],
            [RET_ERRNO | 1; 3]
        );
        assert_eq!(of(9, 1, 2), RET_ALLOW);
        // What the document says first holds.
        let (a, b) = (
            vec![vec![equal(1, 0)], vec![equal(2, 0)], vec![equal(3, 0)]],
            vec![vec![equal(2, 0)]],
        );
        let rules = vec![
            SyscallRule { names: vec!["ioctl".into()], action: RET_ERRNO | 9, any_of: b },
            SyscallRule { names: vec!["ioctl".into()], action: RET_ALLOW, any_of: a },
        ];
        let p = compile(&profile(rules)).unwrap();
        for (arch, nr) in [(Abi::X86_64.arch(), 16), (Abi::X86.arch(), 54)] {
            let of = |a| run(&p, arch, nr, [a, 0, 0, 0, 0, 0]);
            assert_eq!(
                [of(1), of(2), of(3), of(4)],
                [RET_ALLOW, RET_ERRNO | 9, RET_ALLOW, RET_ERRNO | 1]
            );
        }
    }

    #[test]
    fn i386_is_filtered_behind_socketcall() {
        let p = compile(&profile(vec![rule("connect", RET_ALLOW, &[])])).unwrap();
        let socketcall = lookup("socketcall", Abi::X86).unwrap();
        assert_eq!(run(&p, Abi::X86.arch(), socketcall, [3, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(run(&p, Abi::X86.arch(), socketcall, [2, 0, 0, 0, 0, 0]), RET_ERRNO | 1);
    }
}
