//! Device rules: the v1 controller and the eBPF program must agree, on this kernel, with the model that both are made
//! from.

use crate::harness::*;
use serde_json::{json, Value};

/// Devices that no driver has, so that opening one gives ENXIO if it is allowed and EPERM if not.
const NODES: [(&str, u32, u32); 8] = [
    ("c", 250, 0),
    ("c", 250, 1),
    ("c", 250, 2),
    ("c", 251, 0),
    ("c", 251, 1),
    ("b", 250, 0),
    ("b", 250, 1),
    ("b", 251, 1),
];

fn name((kind, major, minor): (&str, u32, u32)) -> String {
    format!("/dev/{kind}{major}-{minor}")
}

/// Prints one letter per node and access: y or n, reading first.
fn prober() -> Box {
    let nodes: Vec<String> = NODES.iter().map(|n| name(*n)).collect();
    let mut b = Box::sh(&format!(
        "for n in {}; do case $( {{ true < $n; }} 2>&1 ) in *permitted*) r=n;; *) r=y;; esac; case $( {{ true > $n; }} 2>&1 ) in *permitted*) r=${{r}}n;; *) r=${{r}}y;; esac; out=$out$r; done; echo $out",
        nodes.join(" ")
    ));
    for (kind, major, minor) in NODES {
        b.push(
            "linux.devices",
            json!({"path": name((kind, major, minor)), "type": kind, "major": major, "minor": minor}),
        );
    }
    b
}

/// What the model says: runtime/src/plan/devices.rs, as conex itself uses it.
fn expected(list: &[Value]) -> String {
    use conex::plan::devices::{state, Rule, MKNOD, READ, WRITE};
    let number = |v: &Value| v.as_u64().map(|n| n as u32);
    let rules: Vec<Rule> = list
        .iter()
        .map(|r| Rule {
            allow: r["allow"].as_bool().unwrap(),
            kind: r["type"].as_str().unwrap_or("a").as_bytes()[0],
            major: number(&r["major"]),
            minor: number(&r["minor"]),
            access: r["access"].as_str().unwrap().bytes().fold(0, |a, c| {
                a | match c {
                    b'r' => READ,
                    b'w' => WRITE,
                    _ => MKNOD,
                }
            }),
        })
        .collect();
    let state = state(&rules);
    let letter = |yes| if yes { 'y' } else { 'n' };
    NODES
        .iter()
        .flat_map(|(kind, major, minor)| {
            [READ, WRITE].map(|access| letter(state.allows(kind.as_bytes()[0], *major, *minor, access)))
        })
        .collect()
}

fn random_rules(rnd: &mut impl FnMut(u64) -> u64) -> Vec<Value> {
    let mut rules = vec![json!({"allow": rnd(4) == 0, "type": "a", "access": "rwm"})];
    for _ in 0..rnd(7) {
        // Never m: the nodes must be made, and a denial of it would outlast the rule that allows it to everybody.
        let mut rule = json!({
            "allow": rnd(2) == 0,
            "type": (["c", "c", "b"][rnd(3) as usize]),
            "access": (["r", "w", "rw"][rnd(3) as usize]),
        });
        match rnd(4) {
            0 => {}
            _ => rule["major"] = json!(250 + rnd(2)),
        }
        match rnd(3) {
            0 => {}
            _ => rule["minor"] = json!(rnd(3)),
        }
        rules.push(rule);
    }
    rules
}

#[test]
fn controller_program_and_model_agree() {
    if !is_conex() {
        return;
    }
    let controller = std::path::Path::new("/sys/fs/cgroup/devices").exists();
    let program = v2() || std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    if !controller || !program {
        skip("controller_program_and_model_agree (both on one host)", "the v1 devices controller beside cgroup v2");
    }
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut rnd = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    let mut b = prober();
    let mut cases = 0;
    for _ in 0..if controller { 150 } else { 40 } {
        let rules = random_rules(&mut rnd);
        let want = expected(&rules);
        *b.at("linux.resources.devices") = json!(rules);
        if controller {
            assert_eq!(b.run().ok().out.trim(), want, "devices.allow and devices.deny: {rules:?}");
            cases += NODES.len() * 2;
        }
        if program {
            assert_eq!(b.run_by_program().ok().out.trim(), want, "the program: {rules:?}");
            cases += NODES.len() * 2;
        }
    }
    assert!(cases >= 600, "{cases}");
}

#[test]
fn a_long_list_of_rules_loads() {
    // Docker with --privileged=false and every device of a large host, or a Kubernetes device plugin: hundreds.
    let mut b = prober();
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend((0..2000).map(
        |i| json!({"allow": true, "type": "c", "major": 240 + i / 500, "minor": 10 + i % 500, "access": "rw"}),
    ));
    rules.push(json!({"allow": true, "type": "b", "major": 251, "minor": 1, "access": "r"}));
    *b.at("linux.resources.devices") = json!(rules);
    let want = format!("{}yn", "n".repeat(14));
    assert_eq!(b.run().ok().out.trim(), want);
    if is_conex() && !v2() && std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        assert_eq!(b.run_by_program().ok().out.trim(), want);
    }
}
