//! What a call's arguments decide: conjunctions in the order of the document, and searches among many values.

use super::bpf::{insn, jump, AND, JA, JEQ, JGE, JGT, LD, RET};
use super::*;
use conex_sys::seccomp::SockFilter;
use std::collections::BTreeMap;

pub(super) fn conditions(
    list: &[(&[Arg], Option<Arg>, u32)],
    default: u32,
    abi: Abi,
    out: &mut Vec<SockFilter>,
) {
    let wide = abi.is_wide();
    let mut rest = list;
    while let [(args, multiplex, action), others @ ..] = rest {
        let run = rest.iter().take_while(|other| same_question(other, &rest[0])).count();
        if run > 2 {
            switch(&rest[..run], wide, out);
            rest = &rest[run..];
            continue;
        }
        rest = others;
        let mut block = Block::default();
        // libseccomp puts the multiplexed call into the first argument's place, over a condition on it.
        let args = args.iter().filter(|a| multiplex.is_none() || a.index != 0).chain(multiplex);
        for arg in args {
            block.condition(arg, wide);
        }
        block.list.push(insn(RET, *action));
        out.extend(block.resolve());
    }
    out.push(insn(RET, default));
}

/// Two alternatives that ask whether one argument has one value, and answer the same: of many such in a row the order says
/// nothing.
fn same_question(a: &(&[Arg], Option<Arg>, u32), b: &(&[Arg], Option<Arg>, u32)) -> bool {
    match (a, b) {
        (([x], None, this), ([y], None, that)) => {
            this == that && x.index == y.index && x.op == Op::Eq && y.op == Op::Eq
        }
        _ => false,
    }
}

/// A search among the values of one argument, of each high half on its own; falls to its end without a match. Profiles of
/// thousands of values (ioctl) would not fit into a filter as blocks of five instructions.
fn switch(list: &[(&[Arg], Option<Arg>, u32)], wide: bool, out: &mut Vec<SockFilter>) {
    let (at, action) = (16 + list[0].0[0].index * 8, list[0].2);
    let mut halves: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (args, _, _) in list {
        let high = if wide { (args[0].value >> 32) as u32 } else { 0 };
        halves.entry(high).or_default().push(args[0].value as u32);
    }
    for (high, mut values) in halves {
        values.sort_unstable();
        values.dedup();
        let mut below = vec![insn(LD, at)];
        among(&values, action, &mut below);
        if wide {
            out.push(insn(LD, at + 4));
            out.push(jump(JEQ, high, 1, 0));
            out.push(insn(JA, below.len() as u32));
        }
        out.extend(below);
    }
}

/// The accumulator holds the low half. Every part that does not match falls to the end of all.
fn among(values: &[u32], action: u32, out: &mut Vec<SockFilter>) {
    const CHAIN: usize = 64;
    if values.len() > CHAIN {
        let (low, high) = values.split_at(values.len() / 2);
        let (mut below, mut above) = (Vec::new(), Vec::new());
        among(low, action, &mut below);
        among(high, action, &mut above);
        below.push(insn(JA, above.len() as u32));
        out.push(jump(JGE, high[0], 0, 1));
        out.push(insn(JA, below.len() as u32));
        out.extend(below);
        out.extend(above);
        return;
    }
    let count = values.len();
    out.extend(values.iter().enumerate().map(|(i, v)| jump(JEQ, *v, (count - i) as u8, 0)));
    out.push(insn(JA, 1));
    out.push(insn(RET, action));
}

/// The code of one conjunction: falls to its end when a condition fails.
#[derive(Default)]
struct Block {
    list: Vec<SockFilter>,
    /// Instructions whose `jt` (true) or `jf` (false) leads behind the block.
    fails: Vec<(usize, bool)>,
}

impl Block {
    fn condition(&mut self, arg: &Arg, wide: bool) {
        let at = 16 + arg.index * 8;
        let (high, low) = ((arg.value >> 32) as u32, arg.value as u32);
        if arg.op == Op::MaskedEq {
            let want = arg.value & arg.value_two;
            if wide {
                self.masked(at + 4, high, (want >> 32) as u32);
            }
            self.masked(at, low, want as u32);
            return;
        }
        // With the high half decided, the low half decides alone; `done` says how far its code reaches.
        if wide {
            self.list.push(insn(LD, at + 4));
            match arg.op {
                Op::Eq => self.fail_unless(JEQ, high),
                // A different high half already holds: over the two instructions on the low half.
                Op::Ne => self.list.push(jump(JEQ, high, 0, 2)),
                Op::Gt | Op::Ge => {
                    self.list.push(jump(JGT, high, 3, 0));
                    self.fail_unless(JEQ, high);
                }
                Op::Lt | Op::Le => {
                    self.fail_if(JGT, high);
                    self.list.push(jump(JEQ, high, 0, 2));
                }
                Op::MaskedEq => {}
            }
        }
        self.list.push(insn(LD, at));
        match arg.op {
            Op::Eq => self.fail_unless(JEQ, low),
            Op::Ne => self.fail_if(JEQ, low),
            Op::Gt => self.fail_unless(JGT, low),
            Op::Ge => self.fail_unless(JGE, low),
            Op::Lt => self.fail_if(JGE, low),
            Op::Le => self.fail_if(JGT, low),
            Op::MaskedEq => {}
        }
    }

    fn masked(&mut self, at: u32, mask: u32, want: u32) {
        self.list.push(insn(LD, at));
        self.list.push(insn(AND, mask));
        self.fail_unless(JEQ, want);
    }

    fn fail_unless(&mut self, code: u16, k: u32) {
        self.fails.push((self.list.len(), false));
        self.list.push(insn(code, k));
    }

    fn fail_if(&mut self, code: u16, k: u32) {
        self.fails.push((self.list.len(), true));
        self.list.push(insn(code, k));
    }

    fn resolve(mut self) -> Vec<SockFilter> {
        let end = self.list.len();
        for (i, on_true) in self.fails {
            // Six conditions of at most seven instructions: always within 255.
            let distance = (end - i - 1) as u8;
            if on_true {
                self.list[i].jt = distance;
            } else {
                self.list[i].jf = distance;
            }
        }
        self.list
    }
}
