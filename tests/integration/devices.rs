//! Device rules: what the v1 controller and the eBPF program let through, on this kernel, is what the document says.

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

/// What the specification says (config-linux.md, "Allowed Device list"): the entries apply in the listed order, so the last
/// one that matches decides. Nothing is allowed that no entry allows.
fn expected(list: &[Value]) -> String {
    let letter = |yes| if yes { 'y' } else { 'n' };
    let matches = |rule: &Value, (kind, major, minor): (&str, u32, u32), access: char| {
        let number =
            |key: &str, n: u32| rule[key].as_i64().is_none_or(|v| v == -1 || v == i64::from(n));
        matches!(rule["type"].as_str(), None | Some("a")) && rule["major"].is_null()
            || rule["type"] == kind
                && number("major", major)
                && number("minor", minor)
                && rule["access"].as_str().unwrap().contains(access)
    };
    let decided = |node, access| {
        let last = list.iter().rev().find(|rule| matches(rule, node, access));
        letter(last.is_some_and(|rule| rule["allow"] == true))
    };
    NODES.iter().flat_map(|node| ['r', 'w'].map(|access| decided(*node, access))).collect()
}

fn random_rules(rnd: &mut impl FnMut(u64) -> u64) -> Vec<Value> {
    let mut rules = Vec::new();
    // A list that only allows begins closed as well.
    if rnd(4) != 0 {
        rules.push(json!({"allow": rnd(4) == 0, "type": "a", "access": "rwm"}));
    }
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
fn controller_and_program_do_what_the_document_says() {
    if !is_conex() {
        return;
    }
    let controller = std::path::Path::new("/sys/fs/cgroup/devices").exists();
    let program = v2() || std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    if !controller || !program {
        skip(
            "controller_and_program_do_what_the_document_says (both on one host)",
            "the v1 devices controller beside cgroup v2",
        );
    }
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut rnd = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    let mut b = prober();
    let (mut cases, mut refused) = (0, 0);
    for _ in 0..if controller { 150 } else { 40 } {
        let rules = random_rules(&mut rnd);
        let want = expected(&rules);
        *b.at("linux.resources.devices") = json!(rules);
        if controller {
            let r = b.run();
            if r.code == 0 {
                assert_eq!(r.out.trim(), want, "devices.allow and devices.deny: {rules:?}");
                cases += NODES.len() * 2;
            } else {
                // The controller keeps no order. What it cannot hold is an error that names the rule.
                assert!(
                    r.err.contains("linux.resources.devices[") && r.err.contains("v1"),
                    "{rules:?}: {}",
                    r.err
                );
                refused += 1;
            }
        }
        if program {
            assert_eq!(b.run_by_program().ok().out.trim(), want, "the program: {rules:?}");
            cases += NODES.len() * 2;
        }
    }
    assert!(cases >= 600 && refused * 2 < 150, "{cases} {refused}");
}

#[test]
fn a_long_list_of_rules_loads() {
    // Docker with --privileged=false and every device of a large host, or a Kubernetes device plugin: hundreds.
    let mut b = prober();
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend((0..2000).map(
        |i| json!({"allow": true, "type": "c", "major": 240 + i / 500, "minor": 10 + i % 500, "access": "rw"}),
    ));
    // Numbers that all differ, and rules that settle one kind of access only.
    rules.extend((0..500).map(
        |i| json!({"allow": true, "type": "c", "major": 1000 + i, "minor": i, "access": (["r", "w"][i % 2])}),
    ));
    rules.push(json!({"allow": true, "type": "b", "major": 251, "minor": 1, "access": "r"}));
    *b.at("linux.resources.devices") = json!(rules);
    let want = format!("{}yn", "n".repeat(14));
    assert_eq!(b.run().ok().out.trim(), want);
    if is_conex() && !v2() && std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        assert_eq!(b.run_by_program().ok().out.trim(), want);
    }
}

#[test]
fn a_device_denied_after_a_wildcard() {
    let mut b =
        Box::sh("head -c 1 /dev/zero >/dev/null && echo open; head -c 1 /dev/urandom >/dev/null && echo random");
    *b.at("linux.resources.devices") = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "access": "rwm"},
        {"allow": false, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
    ]);
    if std::path::Path::new("/sys/fs/cgroup/devices").exists() {
        let r = b.run();
        if is_conex() {
            r.fails_with("linux.resources.devices[2]").fails_with("deny c 1:5 rwm");
        } else {
            assert_ne!(r.code, 0);
        }
        b.assert_gone();
    }
    if is_conex() && (v2() || std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists())
    {
        let r = b.run_by_program();
        assert_eq!(r.out, "random\n", "{}", r.err);
    }
}

/// A rule for all types with numbers or with a part of the access opens no more than it says; a denying one denies all.
#[test]
fn a_rule_for_all_types() {
    if !is_conex() {
        // runc opens every device.
        return;
    }
    let all = |rw: [char; 2]| NODES.map(|_| rw.iter().collect::<String>()).concat();
    let only = |open: &dyn Fn(u32, u32) -> [char; 2]| {
        NODES.iter().map(|n| open(n.1, n.2).iter().collect::<String>()).collect::<String>()
    };
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "type": "a", "access": "rwm"});
    let cases = [
        (json!([deny, {"allow": true, "type": "a", "access": "r"}]), all(['y', 'n'])),
        (json!([deny, {"allow": true, "access": "wm"}]), all(['n', 'y'])),
        (
            json!([deny, {"allow": true, "type": "a", "major": 250, "minor": 1, "access": "rwm"}]),
            only(&|major, minor| if (major, minor) == (250, 1) { ['y', 'y'] } else { ['n', 'n'] }),
        ),
        (
            json!([deny, {"allow": true, "type": "a", "major": 250, "access": "r"}]),
            only(&|major, _| if major == 250 { ['y', 'n'] } else { ['n', 'n'] }),
        ),
        (json!([allow]), all(['y', 'y'])),
        (
            json!([allow, {"allow": false, "type": "a", "major": 250, "minor": 1, "access": "w"}]),
            all(['n', 'n']),
        ),
        (json!([allow, {"allow": false, "type": "a", "access": "w"}]), all(['n', 'n'])),
    ];
    let controller = std::path::Path::new("/sys/fs/cgroup/devices").exists();
    let program = v2() || std::path::Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
    let mut b = prober();
    for (rules, want) in cases {
        *b.at("linux.resources.devices") = rules.clone();
        if controller {
            assert_eq!(b.run().ok().out.trim(), want, "devices.allow and devices.deny: {rules}");
        }
        if program {
            assert_eq!(b.run_by_program().ok().out.trim(), want, "the program: {rules}");
        }
    }
}

/// A default device can be denied, and nothing is open that a list which only allows does not name.
#[test]
fn the_ends_of_the_list() {
    let probe =
        "for d in null zero; do (true <$d) 2>/dev/null && echo $d; done; (true <k) 2>&1 | grep -c permitted";
    let mut b = Box::sh(&format!("cd /dev; {probe}"));
    b.push("linux.devices", json!({"path": "/dev/k", "type": "c", "major": 250, "minor": 7}));
    *b.at("linux.resources.devices") =
        json!([{"allow": true, "type": "c", "major": 250, "minor": 8, "access": "rwm"}]);
    assert_eq!(b.run().ok().out, "null\nzero\n1\n");
    if !is_conex() {
        // runc puts its own list behind the document's.
        return;
    }
    *b.at("linux.resources.devices") = json!([{"allow": false, "access": "rwm"}, {"allow": false, "type": "c", "major": 1, "minor": 5, "access": "rw"}]);
    assert_eq!(b.run().ok().out, "null\n1\n");
}
