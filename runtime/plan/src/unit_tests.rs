//! Tests of [`super`].

use super::*;

fn unit(path: &str) -> Result<Unit, String> {
    let mut check = Check::default();
    let made = make(path, "c1", false, &BTreeMap::new(), &mut check);
    made.ok_or_else(|| check.errors[0].to_string())
}

#[test]
fn names_and_paths() {
    for (given, name, path) in [
        ("", "conex-c1.scope", "system.slice/conex-c1.scope"),
        ("a-b.slice:docker:x", "docker-x.scope", "a.slice/a-b.slice/docker-x.scope"),
        (":libpod:x", "libpod-x.scope", "system.slice/libpod-x.scope"),
        ("-.slice::x", "x.scope", "x.scope"),
        ("a.slice:p:p-q.slice", "p-q.slice", "p.slice/p-q.slice"),
    ] {
        let u = unit(given).unwrap();
        assert_eq!((u.name.as_str(), u.path.to_str().unwrap()), (name, path), "{given}");
    }
    for bad in [
        "/a/b",
        "a:b",
        "a:b:c:d",
        "a:b:c",
        "a--b.slice:p:n",
        "-a.slice:p:n",
        "a/b.slice:p:n",
        "..slice:p:n",
        "x.slice:p:../n",
        "x.slice:p:a/b",
        "x.slice::-.slice",
    ] {
        assert!(unit(bad).unwrap_err().contains("linux.cgroupsPath"), "{bad}");
    }
}

#[test]
fn annotations() {
    let list = |pairs: &[(&str, &str)]| {
        let map = pairs
            .iter()
            .map(|(k, v)| (format!("org.systemd.property.{k}"), v.to_string()))
            .collect();
        let mut check = Check::default();
        let out: Vec<_> = extra(&map, &mut check).into_iter().map(|(_, n, v)| (n, v)).collect();
        (out, check.errors.len())
    };
    assert_eq!(
        list(&[("TimeoutStopSec", "5"), ("CollectMode", "'inactive-or-failed'")]).0,
        [
            ("CollectMode".to_string(), Value::str("inactive-or-failed")),
            ("TimeoutStopUSec".to_string(), Value::U64(5_000_000)),
        ]
    );
    for bad in [
        ("ExecStop", "'x'"),
        ("Wants", "['a.service']"),
        ("Slice", "'a.slice'"),
        ("Delegate", "false"),
        ("TimeoutStopSec", "'x'"),
        ("KillMode", "mixed"),
        ("", "5"),
        ("Memory/../x", "5"),
        ("DeviceAllow", "@as []"),
    ] {
        assert_eq!(list(&[bad]), (vec![], 1), "{bad:?}");
    }
}

/// A deny behind an allow for the same device is no longer in what systemd is told.
#[test]
fn devices_are_what_is_left() {
    let rule = |allow, major, minor, access| super::super::device_rules::PlannedRule {
        allow,
        kind: b'c',
        major,
        minor,
        access,
        index: Some(0),
    };
    let told = |list: &[super::super::device_rules::PlannedRule]| {
        let told = devices(&super::super::device_rules::effective(list), |_, _| None);
        let Value::Array(_, entries) = told.into_iter().nth(1).unwrap().1 else {
            panic!("no list")
        };
        entries
    };
    let entry =
        |node: &str, access: &str| Value::Struct(vec![Value::str(node), Value::str(access)]);
    let list = told(&[rule(true, Some(10), Some(229), 6), rule(false, Some(10), Some(229), WRITE)]);
    assert!(list.contains(&entry("/dev/char/10:229", "r")), "{list:?}");
    let list = told(&[rule(false, Some(10), Some(200), 7)]);
    assert!(!list.iter().any(|e| format!("{e:?}").contains("10:200")), "{list:?}");
    // Only order can say this: all that some rule allows.
    let list = told(&[rule(true, None, None, 7), rule(false, Some(1), Some(5), 7)]);
    assert!(list.contains(&entry("char-*", "rwm")), "{list:?}");
}
