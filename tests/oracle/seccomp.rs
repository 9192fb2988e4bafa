//! Judges of the filter compiler: random profiles, what a profile means, and libseccomp. For the tests and for fuzzing.

use conex::seccomp::compile::lookup;
use conex::seccomp::{self as ours, table::SYSCALLS, Abi, Arg, Op, Profile, SyscallRule};
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};

/// Choices: first those that the bytes make, then a sequence of its own.
pub struct Random<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Random<'a> {
    pub fn new(state: u64) -> Random<'static> {
        Random { bytes: &[], state }
    }
    #[allow(dead_code)] // The fuzzer's.
    pub fn from_bytes(bytes: &'a [u8]) -> Random<'a> {
        Random { bytes, state: 0x9e37_79b9_7f4a_7c15 }
    }
    fn next(&mut self) -> u64 {
        if let Some((first, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return u64::from(*first);
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

pub const VALUES: [u64; 8] = [0, 1, 2, 0x7f, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0002, u64::MAX];

/// With `simple`, a call has one alternative, or several that compare one argument for equality. Beyond that
/// libseccomp 2.5 merges comparisons of 64-bit values wrongly (`a0 >= 1<<32` beside `a0 <= 127` lets 0xffffffff
/// pass), so that only [`expected`] can be the judge.
pub fn random_profile(r: &mut Random, names: &[&'static str], simple: bool) -> Profile {
    let default = r.pick(&[ours::RET_ERRNO | 1, ours::RET_ALLOW, 0x8000_0000]);
    let mut rules = Vec::new();
    let mut used = Vec::new();
    for _ in 0..1 + r.below(25) {
        let name = r.pick(names);
        if used.contains(&name) {
            continue;
        }
        used.push(name);
        let action = r.pick(&[
            ours::RET_ALLOW,
            ours::RET_ERRNO | 38,
            ours::RET_ERRNO | 13,
            0x0003_0000,
            0x7ffc_0000,
        ]);
        if action == default {
            continue;
        }
        let count = if r.below(3) == 0 { 1 + r.below(3) } else { 0 };
        let common = r.below(6) as u32;
        let equal = simple && count > 1;
        let any_of = (0..count)
            .map(|_| {
                let index = if equal { common } else { r.below(6) as u32 };
                let two = !equal && r.below(2) == 0;
                let arg = |r: &mut Random, index| Arg {
                    index,
                    op: if equal {
                        Op::Eq
                    } else {
                        r.pick(&[Op::Ne, Op::Lt, Op::Le, Op::Eq, Op::Ge, Op::Gt, Op::MaskedEq])
                    },
                    value: r.pick(&VALUES),
                    value_two: r.pick(&VALUES),
                };
                let mut args = vec![arg(r, index)];
                if two {
                    args.push(arg(r, (index + 1) % 6));
                }
                args
            })
            .collect();
        rules.push(SyscallRule { names: vec![name.to_string()], action, any_of });
    }
    Profile { default, abis: vec![Abi::X86_64, Abi::X86, Abi::X32], rules }
}

/// What a profile means, without any program: the first alternative that holds decides.
pub fn expected(profile: &Profile, abi: Abi, nr: u32, args: [u64; 6]) -> Option<u32> {
    let rule = profile.rules.iter().find(|x| lookup(&x.names[0], abi) == Some(nr))?;
    let narrow = abi != Abi::X86_64;
    let cut = |v: u64| if narrow { v & 0xffff_ffff } else { v };
    let holds = |a: &Arg| {
        let (v, d) = (cut(args[a.index as usize]), cut(a.value));
        match a.op {
            Op::Ne => v != d,
            Op::Lt => v < d,
            Op::Le => v <= d,
            Op::Eq => v == d,
            Op::Ge => v >= d,
            Op::Gt => v > d,
            Op::MaskedEq => v & d == cut(a.value_two) & d,
        }
    };
    let any = rule.any_of.is_empty() || rule.any_of.iter().any(|all| all.iter().all(holds));
    Some(if any { rule.action } else { profile.default })
}

fn action(value: u32) -> ScmpAction {
    match value & ours::ACTION_MASK {
        0x8000_0000 => ScmpAction::KillProcess,
        0 => ScmpAction::KillThread,
        0x0003_0000 => ScmpAction::Trap,
        0x0005_0000 => ScmpAction::Errno((value & 0xffff) as i32),
        0x7ffc_0000 => ScmpAction::Log,
        _ => ScmpAction::Allow,
    }
}

fn compare(arg: &Arg) -> ScmpArgCompare {
    let (op, value) = match arg.op {
        Op::Ne => (ScmpCompareOp::NotEqual, arg.value),
        Op::Lt => (ScmpCompareOp::Less, arg.value),
        Op::Le => (ScmpCompareOp::LessOrEqual, arg.value),
        Op::Eq => (ScmpCompareOp::Equal, arg.value),
        Op::Ge => (ScmpCompareOp::GreaterEqual, arg.value),
        Op::Gt => (ScmpCompareOp::Greater, arg.value),
        Op::MaskedEq => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
    };
    ScmpArgCompare::new(arg.index, op, value)
}

pub type SockFilter = conex_sys::seccomp::SockFilter;

/// libseccomp's program. None where it knows a call otherwise, and where no call of the profile is one of x32: version 2.5.4
/// then does not load the number for x86-64 and compares the architecture with it.
pub fn oracle(profile: &Profile) -> Option<Vec<SockFilter>> {
    let mut names = profile.rules.iter().flat_map(|rule| &rule.names).peekable();
    if names.peek().is_some() && !names.any(|name| lookup(name, Abi::X32).is_some()) {
        return None;
    }
    let mut ctx = ScmpFilterContext::new(action(profile.default)).unwrap();
    for arch in [ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32] {
        let _ = ctx.add_arch(arch);
    }
    for rule in &profile.rules {
        for name in &rule.names {
            let call = ScmpSyscall::from_name(name).ok()?;
            if rule.any_of.is_empty() {
                ctx.add_rule(action(rule.action), call).ok()?;
            }
            for all in &rule.any_of {
                let list: Vec<_> = all.iter().map(compare).collect();
                ctx.add_rule_conditional(action(rule.action), call, &list).ok()?;
            }
        }
    }
    let mut file = std::fs::File::from(conex_sys::fd::memfd_exec("oracle").unwrap());
    ctx.export_bpf(&file).unwrap();
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    Some(
        bytes
            .chunks_exact(8)
            .map(|b| SockFilter {
                code: u16::from_le_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect(),
    )
}

/// Names that libseccomp of this machine knows, so that both sides speak of the same calls. One that a newer kernel has on
/// x32 as well is none of them.
pub fn common_names() -> Vec<&'static str> {
    let theirs = |name: &str| {
        ScmpSyscall::from_name_by_arch(name, ScmpArch::X32).is_ok_and(|call| i32::from(call) >= 0)
    };
    SYSCALLS
        .iter()
        .filter(|e| e.1[0] >= 0)
        .map(|e| e.0)
        .filter(|n| ScmpSyscall::from_name(n).is_ok())
        .filter(|n| lookup(n, Abi::X32).is_none() || theirs(n))
        .collect()
}

pub const ARCHES: [(Abi, u32, u32); 3] = [
    (Abi::X86_64, 0xc000_003e, 0),
    (Abi::X86, 0x4000_0003, 0),
    (Abi::X32, 0xc000_003e, 0x4000_0000),
];
