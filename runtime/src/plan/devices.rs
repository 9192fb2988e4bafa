//! Device nodes below /dev, and the rules of the device cgroup.

use super::mounts::{Kind, Mount};
use super::Check;
use crate::oci::config::{DeviceRule, Linux};
use crate::root::clean;
use std::path::PathBuf;

/// What to put into the container's /dev.
#[derive(Debug, Default)]
pub struct Nodes {
    /// The default nodes and links: left out where /dev itself is a bind mount, because they would land on the
    /// host.
    pub defaults: bool,
    pub list: Vec<Node>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub field: String,
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO` with the permissions.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

/// config-linux.md "Default Devices"; /dev/console and /dev/ptmx are made with the terminal and with devpts.
const DEFAULTS: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

pub(super) fn nodes(linux: &Linux, mounts: &[Mount], check: &mut Check) -> Nodes {
    let dev_is_bind = mounts.iter().any(|m| m.destination == *"dev" && matches!(m.kind, Kind::Bind { .. }));
    let mut out = Nodes { defaults: !dev_is_bind, list: Vec::new() };
    if out.defaults {
        out.list = DEFAULTS
            .iter()
            .map(|(name, major, minor)| Node {
                field: "linux.devices".into(),
                path: PathBuf::from("dev").join(name),
                mode: libc::S_IFCHR | 0o666,
                major: *major,
                minor: *minor,
                uid: 0,
                gid: 0,
            })
            .collect();
    }
    for (i, d) in linux.devices.iter().enumerate() {
        let field = format!("linux.devices[{i}]");
        let kind = match d.kind.as_str() {
            "c" | "u" => libc::S_IFCHR,
            "b" => libc::S_IFBLK,
            "p" => libc::S_IFIFO,
            other => {
                check.bad(format!("{field}.type"), format!("{other:?}: expected c, u, b or p"));
                continue;
            }
        };
        if !d.path.starts_with('/') || clean(d.path.as_ref()).as_os_str().is_empty() {
            check.bad(format!("{field}.path"), format!("{:?} is not the absolute path of a file", d.path));
            continue;
        }
        if kind != libc::S_IFIFO && !(in_dev_range(d.major, 12) && in_dev_range(d.minor, 20)) {
            check.bad(format!("{field}.major"), format!("{}:{} is no device number", d.major, d.minor));
            continue;
        }
        if d.file_mode.is_some_and(|m| m & !0o177_777 != 0) {
            check.bad(format!("{field}.fileMode"), "more than permission bits");
        }
        let node = Node {
            path: clean(d.path.as_ref()),
            // Some engines store the type bits as well (runc: & 07777).
            mode: kind | (d.file_mode.unwrap_or(0o666) & 0o7777),
            major: d.major as u32,
            minor: d.minor as u32,
            uid: d.uid.unwrap_or(0),
            gid: d.gid.unwrap_or(0),
            field,
        };
        match out.list.iter_mut().find(|n| n.path == node.path) {
            Some(same) => *same = node,
            None => out.list.push(node),
        }
    }
    out
}

fn in_dev_range(number: i64, bits: u32) -> bool {
    (0..1 << bits).contains(&number)
}

/// A rule of the device cgroup, `None` meaning any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    /// `a` (both), `b` or `c`.
    pub kind: u8,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// [`MKNOD`] | [`READ`] | [`WRITE`], the kernel's bits.
    pub access: u8,
}

pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What every container may use, after the rules of the document, as runc does: making any node, the default
/// nodes, the console, ptmx and pseudo-terminals, and tun.
const ALWAYS: [(u8, Option<u32>, Option<u32>, u8); 11] = [
    (b'c', None, None, MKNOD),
    (b'b', None, None, MKNOD),
    (b'c', Some(1), Some(3), ALL),
    (b'c', Some(1), Some(8), ALL),
    (b'c', Some(1), Some(7), ALL),
    (b'c', Some(5), Some(0), ALL),
    (b'c', Some(1), Some(5), ALL),
    (b'c', Some(1), Some(9), ALL),
    (b'c', Some(136), None, ALL),
    (b'c', Some(5), Some(2), ALL),
    (b'c', Some(10), Some(200), ALL),
];

/// The rules in the order in which they are applied: those of the document, then [`ALWAYS`]. Without any rule in
/// the document the cgroup starts closed, like runc's.
pub(super) fn rules(list: &[DeviceRule], check: &mut Check) -> Vec<Rule> {
    let mut out = Vec::with_capacity(list.len() + ALWAYS.len() + 1);
    for (i, rule) in list.iter().enumerate() {
        let field = format!("linux.resources.devices[{i}]");
        let kind = match rule.kind.as_deref().unwrap_or("a") {
            "" | "a" => b'a',
            "b" => b'b',
            "c" => b'c',
            other => {
                check.bad(format!("{field}.type"), format!("{other:?}: expected a, b or c"));
                continue;
            }
        };
        let mut number = |value: Option<i64>, bits, name: &str| match value {
            None | Some(-1) => None,
            Some(n) if in_dev_range(n, bits) => Some(n as u32),
            Some(n) => {
                check.bad(format!("{field}.{name}"), format!("{n} is no device number"));
                None
            }
        };
        let (major, minor) = (number(rule.major, 12, "major"), number(rule.minor, 20, "minor"));
        let mut access = 0;
        for c in rule.access.as_deref().unwrap_or("rwm").chars() {
            match c {
                'r' => access |= READ,
                'w' => access |= WRITE,
                'm' => access |= MKNOD,
                _ => check.bad(format!("{field}.access"), format!("{c:?}: expected letters of rwm")),
            }
        }
        if access == 0 {
            access = ALL;
        }
        if kind == b'a' && (access != ALL || major.is_some() || minor.is_some()) {
            check.bad(field, "a rule for type a matches everything: it takes no number and only access rwm");
            continue;
        }
        out.push(Rule { allow: rule.allow, kind, major, minor, access });
    }
    if out.is_empty() {
        out.push(Rule { allow: false, kind: b'a', major: None, minor: None, access: ALL });
    }
    if out.last().is_some_and(|r| r.kind == b'a' && r.allow) {
        // Everything is open: the list below would change nothing.
        return out;
    }
    out.extend(ALWAYS.iter().map(|(kind, major, minor, access)| Rule {
        allow: true,
        kind: *kind,
        major: *major,
        minor: *minor,
        access: *access,
    }));
    out
}

/// The v1 cgroup's state after a list of rules: a default, and exceptions from it. Writing `a` resets it; an
/// exception in the direction of the default is dropped, as security/device_cgroup.c does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub default_allow: bool,
    pub exceptions: Vec<Rule>,
}

pub fn state(rules: &[Rule]) -> State {
    let mut out = State { default_allow: true, exceptions: Vec::new() };
    for rule in rules {
        if rule.kind == b'a' {
            out = State { default_allow: rule.allow, exceptions: Vec::new() };
        } else if rule.allow == out.default_allow {
            remove(&mut out.exceptions, rule);
        } else {
            add(&mut out.exceptions, rule);
        }
    }
    out
}

fn same(a: &Rule, b: &Rule) -> bool {
    (a.kind, a.major, a.minor) == (b.kind, b.major, b.minor)
}

fn add(list: &mut Vec<Rule>, rule: &Rule) {
    match list.iter_mut().find(|r| same(r, rule)) {
        Some(r) => r.access |= rule.access,
        None => list.push(*rule),
    }
}

fn remove(list: &mut Vec<Rule>, rule: &Rule) {
    for r in list.iter_mut().filter(|r| same(r, rule)) {
        r.access &= !rule.access;
    }
    list.retain(|r| r.access != 0);
}

impl State {
    /// The lines for `devices.allow` and `devices.deny`, in order: (allow, text).
    pub fn v1_lines(&self) -> Vec<(bool, String)> {
        let mut out = vec![(self.default_allow, "a".to_string())];
        out.extend(self.exceptions.iter().map(|r| (r.allow, line(r))));
        out
    }

    /// What the state says about one access.
    pub fn allows(&self, kind: u8, major: u32, minor: u32, access: u8) -> bool {
        let hit =
            |r: &Rule| r.kind == kind && r.major.is_none_or(|m| m == major) && r.minor.is_none_or(|m| m == minor);
        if self.default_allow {
            // Denied as soon as one exception covers a bit of it.
            !self.exceptions.iter().any(|r| hit(r) && r.access & access != 0)
        } else {
            // Allowed only if one exception covers all of it.
            self.exceptions.iter().any(|r| hit(r) && r.access & access == access)
        }
    }
}

fn line(r: &Rule) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
    let mut access = String::new();
    for (bit, c) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if r.access & bit != 0 {
            access.push(c);
        }
    }
    format!("{} {}:{} {access}", r.kind as char, number(r.major), number(r.minor))
}

/// The same state as an eBPF program for `BPF_PROG_TYPE_CGROUP_DEVICE` (Linux 4.15): returns 1 to allow.
pub fn program(state: &State) -> Vec<conex_sys::bpf::Insn> {
    use conex_sys::bpf::Insn;
    const W: u8 = 0x61; // LDX | MEM | W
    let insn = |code, dst: u8, src: u8, off, imm| Insn { code, regs: dst | src << 4, off, imm };
    // r1 = struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }; access_type = access << 16 | type.
    let mut out = vec![
        insn(W, 2, 1, 0, 0),
        insn(0xbc, 3, 2, 0, 0),      // w3 = w2
        insn(0x54, 2, 0, 0, 0xffff), // w2 &= 0xffff: type
        insn(0x74, 3, 0, 0, 16),     // w3 >>= 16: access
        insn(W, 4, 1, 4, 0),         // w4 = major
        insn(W, 5, 1, 8, 0),         // w5 = minor
    ];
    for r in &state.exceptions {
        let mut block = Vec::new();
        let kind = if r.kind == b'b' { 1 } else { 2 };
        block.push(insn(0x56, 2, 0, 0, kind)); // if w2 != kind, next
        if state.default_allow {
            // Denied if any requested bit is in the exception.
            block.push(insn(0xbc, 1, 3, 0, 0));
            block.push(insn(0x54, 1, 0, 0, i32::from(r.access)));
            block.push(insn(0x16, 1, 0, 0, 0)); // if (w1 & access) == 0, next
        } else if r.access != ALL {
            // Allowed if every requested bit is in the exception.
            block.push(insn(0xbc, 1, 3, 0, 0));
            block.push(insn(0x54, 1, 0, 0, i32::from(r.access)));
            block.push(insn(0x5e, 1, 3, 0, 0)); // if w1 != w3, next
        }
        if let Some(major) = r.major {
            block.push(insn(0x56, 4, 0, 0, major as i32));
        }
        if let Some(minor) = r.minor {
            block.push(insn(0x56, 5, 0, 0, minor as i32));
        }
        block.push(insn(0xb4, 0, 0, 0, i32::from(!state.default_allow)));
        block.push(insn(0x95, 0, 0, 0, 0));
        // Every conditional jump of the block leads behind it.
        let len = block.len();
        for (i, b) in block.iter_mut().enumerate() {
            if matches!(b.code, 0x56 | 0x16 | 0x5e) {
                b.off = (len - i - 1) as i16;
            }
        }
        out.extend(block);
    }
    out.push(insn(0xb4, 0, 0, 0, i32::from(state.default_allow)));
    out.push(insn(0x95, 0, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program on one access, as the kernel would.
    fn run(program: &[conex_sys::bpf::Insn], kind: u8, major: u32, minor: u32, access: u8) -> bool {
        let ctx = [u32::from(access) << 16 | if kind == b'b' { 1 } else { 2 }, major, minor];
        let (mut reg, mut pc) = ([0u32; 11], 0usize);
        loop {
            let i = program[pc];
            let (dst, src) = ((i.regs & 15) as usize, (i.regs >> 4) as usize);
            pc += 1;
            let jump = match i.code {
                0x61 => {
                    reg[dst] = ctx[i.off as usize / 4];
                    false
                }
                0xbc => {
                    reg[dst] = reg[src];
                    false
                }
                0xb4 => {
                    reg[dst] = i.imm as u32;
                    false
                }
                0x54 => {
                    reg[dst] &= i.imm as u32;
                    false
                }
                0x74 => {
                    reg[dst] >>= i.imm;
                    false
                }
                0x56 => reg[dst] != i.imm as u32,
                0x16 => reg[dst] == i.imm as u32,
                0x5e => reg[dst] != reg[src],
                0x95 => return reg[0] == 1,
                other => panic!("opcode {other:#x}"),
            };
            if jump {
                pc = (pc as i64 + i64::from(i.off)) as usize;
            }
        }
    }

    #[test]
    fn program_agrees_with_the_v1_semantics() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut rnd = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        let mut cases = 0;
        for _ in 0..400 {
            let mut rules = Vec::new();
            for _ in 0..rnd(8) {
                let kind = [b'a', b'b', b'c', b'c'][rnd(4) as usize];
                let opt = |v: u64| (v < 4).then_some(v as u32);
                let (major, minor) = if kind == b'a' { (None, None) } else { (opt(rnd(6)), opt(rnd(6))) };
                let access = if kind == b'a' { ALL } else { 1 + rnd(7) as u8 };
                rules.push(Rule { allow: rnd(2) == 0, kind, major, minor, access });
            }
            let state = state(&rules);
            let program = program(&state);
            for kind in [b'b', b'c'] {
                for major in 0..5 {
                    for minor in 0..5 {
                        for access in 1..8 {
                            cases += 1;
                            assert_eq!(
                                run(&program, kind, major, minor, access),
                                state.allows(kind, major, minor, access),
                                "{rules:?} {} {major}:{minor} {access}",
                                kind as char
                            );
                        }
                    }
                }
            }
        }
        assert_eq!(cases, 400 * 2 * 25 * 7);
    }

    #[test]
    fn closed_by_default() {
        let rules = rules(&[], &mut Check::default());
        let state = state(&rules);
        assert!(!state.allows(b'c', 10, 229, READ));
        assert!(state.allows(b'c', 1, 3, READ | WRITE));
        assert!(state.allows(b'b', 7, 0, MKNOD));
        assert_eq!(state.v1_lines()[0], (false, "a".into()));
    }

    #[test]
    fn a_rule_that_is_not_about_everything() {
        let mut check = Check::default();
        let rule = DeviceRule { allow: true, kind: Some("a".into()), major: Some(1), ..DeviceRule::default() };
        rules(&[rule], &mut check);
        assert_eq!(check.errors[0].field, "linux.resources.devices[0]");
    }
}
