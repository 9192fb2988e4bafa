//! The rules of the device cgroup (config-linux.md, "Allowed Device list"): applied in the listed order, so the last rule
//! that matches an access decides it. An access of two kinds (open for reading and writing) needs both.

use super::devices::in_dev_range;
use crate::check::Check;
use crate::oci::config::DeviceRule;
use std::collections::{HashMap, HashSet};

/// A rule, `None` meaning any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedRule {
    pub allow: bool,
    /// `b` or `c`; `a` (both) only before [`effective`].
    pub kind: u8,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// [`MKNOD`] | [`READ`] | [`WRITE`], the kernel's bits.
    pub access: u8,
    /// The place in `linux.resources.devices`; none for what every container has.
    pub index: Option<usize>,
}

pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// The devices that every container may use unless the document denies them by name: the default nodes, pseudo-terminals,
/// and tun, which runc has here as well.
const DEFAULTS: [(Option<u32>, Option<u32>); 9] = [
    (Some(1), Some(3)),
    (Some(1), Some(8)),
    (Some(1), Some(7)),
    (Some(5), Some(0)),
    (Some(1), Some(5)),
    (Some(1), Some(9)),
    (Some(136), None),
    (Some(5), Some(2)),
    (Some(10), Some(200)),
];

/// What is in force: the rules behind the last one of type `a`, which decides what no other matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub default_allow: bool,
    pub list: Vec<PlannedRule>,
}

/// Reads the list of the document.
pub(super) fn rules(list: &[DeviceRule], check: &mut Check) -> Rules {
    let read =
        list.iter().enumerate().flat_map(|(i, rule)| one(rule, i, check)).collect::<Vec<_>>();
    effective(&read)
}

/// Without a rule of type `a` everything is denied that no rule allows: runc and crun begin so, and a list that only
/// allows would mean nothing otherwise.
///
/// What every container may use comes right behind that beginning, so that the document can deny it. Making a node is
/// always allowed where the beginning denies, as with runc: it takes CAP_MKNOD, and opening the node is what is guarded.
pub fn effective(read: &[PlannedRule]) -> Rules {
    let reset = read.iter().rposition(|r| r.kind == b'a');
    let default_allow = reset.is_some_and(|i| read[i].allow);
    let mut list = Vec::with_capacity(read.len() + DEFAULTS.len() + 2);
    let own = |kind, major, minor, access| PlannedRule {
        allow: true,
        kind,
        major,
        minor,
        access,
        index: None,
    };
    if !default_allow {
        list.extend(DEFAULTS.iter().map(|(major, minor)| own(b'c', *major, *minor, ALL)));
    }
    list.extend(&read[reset.map_or(0, |i| i + 1)..]);
    if !default_allow {
        list.extend([b'c', b'b'].map(|kind| own(kind, None, None, MKNOD)));
    }
    Rules { default_allow, list }
}

fn one(rule: &DeviceRule, i: usize, check: &mut Check) -> Vec<PlannedRule> {
    let field = format!("linux.resources.devices[{i}]");
    let kind = match rule.kind.as_deref().unwrap_or("a") {
        "" | "a" => b'a',
        "b" => b'b',
        "c" => b'c',
        other => {
            check.bad(format!("{field}.type"), format!("{other:?}: expected a, b or c"));
            return Vec::new();
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
            // The letter of "all devices" of cgroup v1, which runc takes for nothing here.
            'a' => check.warn(format!("{field}.access"), "'a' is ignored: expected letters of rwm"),
            _ => check.bad(format!("{field}.access"), format!("{c:?}: expected letters of rwm")),
        }
    }
    if access == 0 {
        access = ALL;
    }
    let of = |kind| PlannedRule { allow: rule.allow, kind, major, minor, access, index: Some(i) };
    match kind {
        // All devices of these numbers, or this access to all of them; runc and crun open every device then
        // (`docker run --device-cgroup-rule "a 7:1 r"`).
        b'a' if rule.allow && (access != ALL || major.is_some() || minor.is_some()) => {
            vec![of(b'b'), of(b'c')]
        }
        // Denied is everything, as the kernel's own controller and the peers take it: the stricter reading.
        b'a' => vec![PlannedRule {
            allow: rule.allow,
            kind,
            major: None,
            minor: None,
            access: ALL,
            index: Some(i),
        }],
        kind => vec![of(kind)],
    }
}

/// A set of devices as the v1 controller names it.
type Devices = (u8, Option<u32>, Option<u32>);

fn devices(r: &PlannedRule) -> Devices {
    (r.kind, r.major, r.minor)
}

/// True if every device of `a` is one of `b`.
fn within(a: &Devices, b: &Devices) -> bool {
    a.0 == b.0 && (b.1.is_none() || a.1 == b.1) && (b.2.is_none() || a.2 == b.2)
}

/// The devices of both.
fn both(a: &Devices, b: &Devices) -> Option<Devices> {
    let one = |x: Option<u32>, y: Option<u32>| match (x, y) {
        (Some(x), Some(y)) if x != y => None,
        (x, y) => Some(x.or(y)),
    };
    (a.0 == b.0).then_some((a.0, one(a.1, b.1)?, one(a.2, b.2)?))
}

/// More than this many exceptions that follow from pairs of others are not written.
const MOST_PAIRS: usize = 10_000;

impl Rules {
    /// The lines for `devices.allow` and `devices.deny`, in order: (allow, text). The controller keeps a default and a set
    /// of exceptions from it, no order (security/device_cgroup.c).
    ///
    /// # Errors
    /// The index of the rule that it cannot hold, with the reason: one that takes a part out of what another rule with a
    /// wildcard gives.
    pub fn v1_lines(&self) -> Result<Vec<(bool, String)>, (usize, String)> {
        // devices.list shows them as they were written: what the document names comes first, as with crun, for whoever
        // reads it there. The controller itself keeps no order.
        let named: HashSet<Devices> =
            self.list.iter().filter(|r| r.index.is_some()).map(devices).collect();
        let (first, last): (Vec<_>, Vec<_>) =
            self.exceptions()?.into_iter().partition(|(d, _)| named.contains(d));
        let mut out = vec![(self.default_allow, "a".to_string())];
        out.extend(
            first.iter().chain(&last).map(|(d, access)| (!self.default_allow, line(d, *access))),
        );
        Ok(out)
    }

    /// What differs from the default, in the order of the rules.
    pub(super) fn exceptions(&self) -> Result<Vec<(Devices, u8)>, (usize, String)> {
        let mut list: Vec<(Devices, u8)> = Vec::new();
        let mut places: HashMap<Devices, usize> = HashMap::with_capacity(self.list.len());
        for rule in &self.list {
            let set = devices(rule);
            if rule.allow != self.default_allow {
                let place = *places.entry(set).or_insert_with(|| {
                    list.push((set, 0));
                    list.len() - 1
                });
                list[place].1 |= rule.access;
                continue;
            }
            // Back to the default. A rule for one device changes nothing but its own entry, unless a wildcard has it.
            let single = set.1.is_some() && set.2.is_some();
            let near = [set, (set.0, set.1, None), (set.0, None, set.2), (set.0, None, None)];
            let near: Vec<usize> = if single {
                near.iter().filter_map(|d| places.get(d).copied()).collect()
            } else {
                Vec::new()
            };
            let all = if single { 0..0 } else { 0..list.len() };
            for place in near.into_iter().chain(all) {
                let (other, access) = &mut list[place];
                if *access & rule.access == 0 {
                    continue;
                }
                if within(other, &set) {
                    *access &= !rule.access;
                } else if both(other, &set).is_some() {
                    let (a, b) = (line(&set, rule.access), line(other, *access));
                    let word =
                        if self.default_allow { ("allow", "deny") } else { ("deny", "allow") };
                    let what = format!(
                        "the v1 device controller cannot {} {a} after a rule that does {} {b}: it keeps no order (cgroup v2 can)",
                        word.0, word.1
                    );
                    return Err((rule.index.unwrap_or(0), what));
                }
            }
        }
        list.retain(|(_, access)| *access != 0);
        if !self.default_allow {
            complete(&mut list)?;
        }
        Ok(list)
    }

    /// The same as an eBPF program for `BPF_PROG_TYPE_CGROUP_DEVICE` (Linux 4.15): returns 1 to allow. The rules from the
    /// last to the first; each settles the kinds of access that it names and that no later one has settled.
    ///
    /// The numbers are loaded for each rule anew: a register whose value is known behind a comparison would be another
    /// state to the verifier, whose work then grows with the square of the list.
    pub fn program(&self) -> Vec<conex_sys::bpf::Insn> {
        use conex_sys::bpf::Insn;
        const LOAD: u8 = 0x61; // LDX | MEM | W
        const UNEQUAL: u8 = 0x56; // JMP32 | JNE | K
        const EQUAL: u8 = 0x16;
        let insn = |code, dst: u8, src: u8, off, imm| Insn { code, regs: dst | src << 4, off, imm };
        let end = |value: bool| [insn(0xb4, 0, 0, 0, i32::from(value)), insn(0x95, 0, 0, 0, 0)];
        // r1 = struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }; access_type = access << 16 | type.
        let mut out = vec![
            insn(LOAD, 2, 1, 0, 0),
            insn(0xbc, 3, 2, 0, 0),      // w3 = w2
            insn(0x54, 2, 0, 0, 0xffff), // w2 &= 0xffff: type
            insn(0x74, 3, 0, 0, 16),     // w3 >>= 16: what is not settled yet
            insn(UNEQUAL, 3, 0, 2, 0),
        ];
        out.extend(end(true));
        for r in self.list.iter().rev() {
            let mut block = Vec::with_capacity(12);
            block.push(insn(UNEQUAL, 2, 0, 0, if r.kind == b'b' { 1 } else { 2 }));
            if r.access != ALL {
                block.push(insn(0xbc, 0, 3, 0, 0));
                block.push(insn(0x54, 0, 0, 0, i32::from(r.access)));
                block.push(insn(EQUAL, 0, 0, 0, 0)); // if (w3 & access) == 0, next
            }
            for (number, at) in [(r.major, 4), (r.minor, 8)] {
                let Some(number) = number else { continue };
                block.push(insn(LOAD, 0, 1, at, 0));
                block.push(insn(UNEQUAL, 0, 0, 0, number as i32));
            }
            if r.allow && r.access != ALL {
                block.push(insn(0x54, 3, 0, 0, i32::from(ALL & !r.access))); // w3 &= ~access
                block.push(insn(UNEQUAL, 3, 0, 0, 0));
            }
            block.extend(end(r.allow));
            // Every conditional jump of the block leads behind it.
            let len = block.len();
            for (i, b) in
                block.iter_mut().enumerate().filter(|(_, b)| matches!(b.code, UNEQUAL | EQUAL))
            {
                b.off = (len - i - 1) as i16;
            }
            out.extend(block);
        }
        out.extend(end(self.default_allow));
        out
    }

    /// True if nothing is denied.
    pub fn allow_all(&self) -> bool {
        self.default_allow && self.list.iter().all(|r| r.allow)
    }
}

/// The controller allows an access for reading and writing only if one exception has both: where two overlap, one for
/// what they share is added.
fn complete(list: &mut Vec<(Devices, u8)>) -> Result<(), (usize, String)> {
    const OPEN: u8 = READ | WRITE;
    let half = |a: u8| matches!(a & OPEN, READ | WRITE);
    let wide: Vec<_> = list
        .iter()
        .filter(|(d, a)| half(*a) && (d.1.is_none() || d.2.is_none()))
        .copied()
        .collect();
    let most = list.len() + MOST_PAIRS;
    let mut places: HashMap<Devices, usize> =
        list.iter().enumerate().map(|(i, (d, _))| (*d, i)).collect();
    for (d, a) in list.clone().iter().filter(|(_, a)| half(*a)) {
        for (other, b) in wide.iter().filter(|(_, b)| a & OPEN | b & OPEN == OPEN) {
            let Some(shared) = both(d, other) else { continue };
            let place = *places.entry(shared).or_insert(list.len());
            if place == list.len() {
                list.push((shared, 0));
            }
            list[place].1 |= a | b;
            if list.len() > most {
                let what = "too many rules with wildcards overlap for the v1 device controller";
                return Err((0, what.into()));
            }
        }
    }
    Ok(())
}

fn line((kind, major, minor): &Devices, access: u8) -> String {
    let number = |n: &Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
    let letters =
        [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0);
    let letters: String = letters.map(|(_, c)| c).collect();
    format!("{} {}:{} {letters}", *kind as char, number(major), number(minor))
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
            let mut jump = false;
            match i.code {
                0x61 => reg[dst] = ctx[i.off as usize / 4],
                0xbc => reg[dst] = reg[src],
                0xb4 => reg[dst] = i.imm as u32,
                0x54 => reg[dst] &= i.imm as u32,
                0x74 => reg[dst] >>= i.imm,
                0x56 => jump = reg[dst] != i.imm as u32,
                0x16 => jump = reg[dst] == i.imm as u32,
                0x95 => return reg[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
            if jump {
                pc = (pc as i64 + i64::from(i.off)) as usize;
            }
        }
    }

    /// What the specification's sentence says, from the lines of the document: in order, each rule overwrites.
    fn meaning(read: &[PlannedRule], kind: u8, major: u32, minor: u32, bit: u8) -> bool {
        let closed = !read.iter().rev().find(|r| r.kind == b'a').is_some_and(|r| r.allow);
        if closed && bit == MKNOD {
            return true;
        }
        let mut now = false;
        let start = read.iter().rposition(|r| r.kind == b'a').map_or(0, |i| i + 1);
        if start > 0 {
            now = read[start - 1].allow;
        }
        for r in &read[start..] {
            if r.kind == kind
                && r.major.is_none_or(|m| m == major)
                && r.minor.is_none_or(|m| m == minor)
                && r.access & bit != 0
            {
                now = r.allow;
            }
        }
        now
    }

    /// security/device_cgroup.c on the lines that are written there.
    fn controller(lines: &[(bool, String)], kind: u8, major: u32, minor: u32, access: u8) -> bool {
        let default = lines[0].0;
        let mut exceptions: Vec<(String, String, u8)> = Vec::new();
        for (allow, text) in &lines[1..] {
            assert_ne!(*allow, default, "{text}: an exception from the default");
            let w: Vec<&str> = text.split(' ').collect();
            let bits = w[2].bytes().fold(0, |a, c| {
                a | if c == b'r' {
                    READ
                } else if c == b'w' {
                    WRITE
                } else {
                    MKNOD
                }
            });
            exceptions.push((w[0].into(), w[1].into(), bits));
        }
        let hit = |e: &&(String, String, u8)| {
            let (ma, mi) = e.1.split_once(':').unwrap();
            e.0.as_bytes()[0] == kind
                && (ma == "*" || ma.parse() == Ok(major))
                && (mi == "*" || mi.parse() == Ok(minor))
        };
        if default {
            !exceptions.iter().filter(hit).any(|e| e.2 & access != 0)
        } else {
            exceptions.iter().filter(hit).any(|e| e.2 & access == access)
        }
    }

    fn random(rnd: &mut impl FnMut(u64) -> u64) -> Vec<PlannedRule> {
        let count = rnd(8) as usize;
        (0..count)
            .map(|i| {
                let kind = [b'a', b'b', b'c', b'c', b'c'][rnd(5) as usize];
                // Numbers beside those of the defaults, so that the meaning needs no list of them.
                let opt = |v: u64| (v < 4).then_some(v as u32 + 40);
                let (major, minor) =
                    if kind == b'a' { (None, None) } else { (opt(rnd(6)), opt(rnd(6))) };
                let access = if kind == b'a' { ALL } else { 1 + rnd(7) as u8 };
                PlannedRule { allow: rnd(2) == 0, kind, major, minor, access, index: Some(i) }
            })
            .collect()
    }

    #[test]
    fn program_and_controller_mean_what_the_document_says() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut rnd = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        let (mut expressible, mut refused) = (0, 0);
        for _ in 0..3000 {
            let read = random(&mut rnd);
            let rules = effective(&read);
            let (program, lines) = (rules.program(), rules.v1_lines());
            match &lines {
                Ok(_) => expressible += 1,
                Err((i, what)) => {
                    refused += 1;
                    assert!(
                        read[*i].allow == rules.default_allow && what.contains("v1"),
                        "{read:?}: {i} {what}"
                    );
                }
            }
            for kind in [b'b', b'c'] {
                for (major, minor) in (40..45).flat_map(|a| (40..45).map(move |b| (a, b))) {
                    for access in [MKNOD, READ, WRITE, READ | WRITE] {
                        let mut bits = [MKNOD, READ, WRITE].into_iter().filter(|b| access & b != 0);
                        let want = bits.all(|b| meaning(&read, kind, major, minor, b));
                        let what = format!("{read:?} {} {major}:{minor} {access}", kind as char);
                        assert_eq!(
                            run(&program, kind, major, minor, access),
                            want,
                            "program: {what}"
                        );
                        if let Ok(lines) = &lines {
                            assert_eq!(
                                controller(lines, kind, major, minor, access),
                                want,
                                "controller: {what}"
                            );
                        }
                    }
                }
            }
        }
        assert!(expressible > 1000 && refused > 100, "{expressible} {refused}");
    }

    fn list(text: &[&str]) -> Vec<PlannedRule> {
        let rule = |(i, t): (usize, &&str)| {
            let w: Vec<&str> = t.split(' ').collect();
            let mut json = serde_json::json!({"allow": w[0] == "allow", "type": w[1]});
            if let Some((a, b)) = w.get(2).and_then(|n| n.split_once(':')) {
                let number = |n: &str| n.parse::<i64>().unwrap_or(-1);
                json["major"] = number(a).into();
                json["minor"] = number(b).into();
            }
            json["access"] = w.get(3).copied().unwrap_or("rwm").into();
            one(&serde_json::from_value(json).unwrap(), i, &mut Check::default()).remove(0)
        };
        text.iter().enumerate().map(rule).collect()
    }

    #[test]
    fn a_hole_in_a_wildcard() {
        let rules = effective(&list(&["deny a", "allow c *:* rwm", "deny c 1:5 rwm"]));
        assert!(!run(&rules.program(), b'c', 1, 5, READ));
        assert!(run(&rules.program(), b'c', 1, 3, READ | WRITE));
        let (i, what) = rules.v1_lines().unwrap_err();
        assert!(
            i == 2 && what.contains("deny c 1:5 rwm") && what.contains("allow c *:* rwm"),
            "{i} {what}"
        );
        let rules = effective(&list(&["allow a", "deny b *:* rw", "allow b 8:0 r"]));
        assert!(
            run(&rules.program(), b'b', 8, 0, READ)
                && !run(&rules.program(), b'b', 8, 0, READ | WRITE)
        );
        assert_eq!(rules.v1_lines().unwrap_err().0, 2);
        // A default can be denied by name.
        let rules = effective(&list(&["deny a", "deny c 1:5 rwm"]));
        assert!(
            !run(&rules.program(), b'c', 1, 5, READ) && run(&rules.program(), b'c', 1, 5, MKNOD)
        );
        assert!(!rules.v1_lines().unwrap().iter().any(|(_, l)| l.starts_with("c 1:5")));
    }

    #[test]
    fn closed_unless_the_document_opens() {
        for doc in [&[][..], &["allow c 250:0 r"], &["deny c 250:0 r"], &["deny a"]] {
            let rules = effective(&list(doc));
            assert!(!run(&rules.program(), b'c', 10, 229, READ), "{doc:?}");
            assert!(run(&rules.program(), b'c', 1, 3, READ | WRITE));
            assert!(run(&rules.program(), b'b', 7, 0, MKNOD));
            assert_eq!(rules.v1_lines().unwrap()[0], (false, "a".into()));
        }
        assert!(effective(&list(&["deny c 1:3 r", "allow a"])).allow_all());
        assert!(!effective(&list(&["allow a", "deny c 1:3 r"])).allow_all());
    }

    #[test]
    fn a_rule_that_is_not_about_everything() {
        let mut check = Check::default();
        let rule = DeviceRule {
            allow: true,
            kind: Some("a".into()),
            major: Some(7),
            ..DeviceRule::default()
        };
        let read = rules(&[rule], &mut check);
        assert!(check.errors.is_empty() && !read.allow_all());
        let of_seven =
            read.list.iter().filter(|r| r.major == Some(7) && r.access == ALL).map(|r| r.kind);
        assert_eq!(of_seven.collect::<Vec<_>>(), [b'b', b'c']);
    }

    /// What grows with the square of a list of 20,000 is not to be waited for.
    #[test]
    fn long_lists_are_fast() {
        let rule = |i: u32| PlannedRule {
            allow: !i.is_multiple_of(3),
            kind: b'c',
            major: Some(2000 + i % 2000),
            minor: Some(i),
            access: READ << (i % 2),
            index: Some(i as usize),
        };
        let begin = std::time::Instant::now();
        let rules = effective(&(0..20_000).map(rule).collect::<Vec<_>>());
        assert!(rules.v1_lines().is_ok() && rules.program().len() > 100_000);
        let wide = |i| PlannedRule { minor: None, ..rule(i) };
        assert!(effective(&(0..20_000).map(wide).collect::<Vec<_>>()).v1_lines().is_ok());
        assert!(begin.elapsed().as_secs() < 2, "{:?}", begin.elapsed());
    }
}
