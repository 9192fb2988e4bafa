//! Instructions of classic BPF (linux/bpf_common.h), as far as filters need them.

use conex_sys::seccomp::SockFilter;

pub(super) const LD: u16 = 0x20;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const JA: u16 = 0x05;
pub(super) const AND: u16 = 0x54;
pub(super) const RET: u16 = 0x06;
const OR: u16 = 0x44;
const JSET: u16 = 0x45;

/// `AUDIT_ARCH_*` of a program of this build (linux/audit.h).
pub const NATIVE: u32 = match super::COMPILED {
    [abi, ..] => abi.arch(),
    // No filter is made there.
    [] => 0,
};

pub(super) fn insn(code: u16, k: u32) -> SockFilter {
    SockFilter { code, jt: 0, jf: 0, k }
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter { code, jt, jf, k }
}

/// What a program answers for one call (`SECCOMP_RET_*`), as the kernel's interpreter. `u32::MAX` for an instruction that the
/// compiler never writes.
pub fn run(program: &[SockFilter], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => nr,
        4 => arch,
        16..64 => {
            let value = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) {
                value as u32
            } else {
                (value >> 32) as u32
            }
        }
        _ => 0,
    };
    let (mut a, mut pc) = (0u32, 0usize);
    loop {
        let i = program[pc];
        pc += 1;
        let hit = match i.code {
            LD => {
                a = word(i.k);
                continue;
            }
            AND => {
                a &= i.k;
                continue;
            }
            OR => {
                a |= i.k;
                continue;
            }
            JA => {
                pc += i.k as usize;
                continue;
            }
            RET => return i.k,
            JEQ => a == i.k,
            JGT => a > i.k,
            JGE => a >= i.k,
            JSET => a & i.k != 0,
            _ => return u32::MAX,
        };
        pc += if hit { i.jt } else { i.jf } as usize;
    }
}
