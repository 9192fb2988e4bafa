//! Instructions of classic BPF (linux/bpf_common.h), as far as filters need them.

use conex_sys::seccomp::Insn;

pub(super) const LD: u16 = 0x20;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const JA: u16 = 0x05;
pub(super) const AND: u16 = 0x54;
pub(super) const RET: u16 = 0x06;

pub(super) fn insn(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}
