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
        let map = pairs.iter().map(|(k, v)| (format!("org.systemd.property.{k}"), v.to_string())).collect();
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

#[test]
fn numbers_are_the_kernels() {
    for (text, want) in [
        ("max", Some(u64::MAX)),
        ("16M", Some(16 << 20)),
        ("1g", Some(1 << 30)),
        ("0x20", Some(32)),
        ("0x1E", Some(30)),
        ("0x2K", Some(2048)),
        ("020", Some(16)),
        ("0", Some(0)),
        (" 7\n", Some(7)),
        ("16E", None),
        ("x", None),
        ("", None),
        ("M", None),
        ("-5", None),
        ("1 2", None),
    ] {
        assert_eq!(number("memory.max", text), want, "{text:?}");
    }
    assert_eq!(number("pids.max", "0x20"), Some(32));
    assert_eq!(number("pids.max", "1K"), None);
}

/// A deny behind an allow for the same device is no longer in what systemd is told.
#[test]
fn devices_are_what_is_left() {
    let rule = |allow, major, minor, access| super::super::device_rules::Rule {
        allow,
        kind: b'c',
        major,
        minor,
        access,
        index: Some(0),
    };
    let told = |list: &[super::super::device_rules::Rule]| {
        let told = devices(&super::super::device_rules::effective(list), |_, _| None);
        let Value::Array(_, entries) = told.into_iter().nth(1).unwrap().1 else { panic!("no list") };
        entries
    };
    let entry = |node: &str, access: &str| Value::Struct(vec![Value::str(node), Value::str(access)]);
    let list = told(&[rule(true, Some(10), Some(229), 6), rule(false, Some(10), Some(229), WRITE)]);
    assert!(list.contains(&entry("/dev/char/10:229", "r")), "{list:?}");
    let list = told(&[rule(false, Some(10), Some(200), 7)]);
    assert!(!list.iter().any(|e| format!("{e:?}").contains("10:200")), "{list:?}");
    // Only order can say this: all that some rule allows.
    let list = told(&[rule(true, None, None, 7), rule(false, Some(1), Some(5), 7)]);
    assert!(list.contains(&entry("char-*", "rwm")), "{list:?}");
}

#[test]
fn limits_are_told_twice() {
    let write = |file: &str, value: &str| Write {
        field: String::new(),
        controller: "cpu",
        file: file.into(),
        value: value.into(),
        optional: false,
    };
    let rate = |q: &str, cpu| limits(&[write("cpu.max", q)], cpu)[1].1.clone();
    assert_eq!(rate("50000 100000", (None, 100_000)), Value::U64(500_000));
    assert_eq!(rate("33333 keep", (None, 100_000)), Value::U64(333_330));
    assert_eq!(rate("100 keep", (None, 100_000)), Value::U64(10_000));
    assert_eq!(rate("keep 200000", (Some(50_000), 100_000)), Value::U64(250_000));
    assert_eq!(rate("max keep", (Some(50_000), 100_000)), Value::U64(u64::MAX));
    assert_eq!(limits(&[write("cpuset.cpus", "0,9")], (None, 1))[0].1, Value::bytes(&[1, 2]));
    assert_eq!(limits(&[write("pids.max", "max")], (None, 1))[0].1, Value::U64(u64::MAX));
    assert_eq!(limits(&[write("memory.high", "16M")], (None, 1)), [("MemoryHigh", Value::U64(16 << 20))]);
    assert_eq!(limits(&[write("cpu.idle", "0")], (None, 1)), [("CPUWeight", Value::U64(100))]);
    assert_eq!(limits(&[write("cpu.idle", "0"), write("cpu.weight", "7")], (None, 1)).len(), 1);
    assert_eq!(limits(&[write("cpu.idle", "0"), write("cpu.shares", "512")], (None, 1)).len(), 1);
    assert_eq!(rate("50000", (None, 100_000)), Value::U64(500_000));
    assert_eq!(rate("18446744073709551614 1000", (None, 1)), Value::U64(u64::MAX));
    let io = limits(&[write("io.max", "8:0 rbps=7 wiops=max"), write("io.max", "8:16 rbps=9")], (None, 1));
    assert_eq!((io[0].0, io[1].0, io.len()), ("IOReadBandwidthMax", "IOWriteIOPSMax", 2));
    let each =
        [write("io.weight", "8:0 200"), write("io.weight", "default 70"), write("io.latency", "8:16 target=75000")];
    let per = |device: &str, n| Value::Struct(vec![Value::Str(format!("/dev/block/{device}")), Value::U64(n)]);
    let list = |one| Value::Array("(st)".into(), vec![one]);
    assert_eq!(
        limits(&each, (None, 1)),
        [
            ("IOWeight", Value::U64(70)),
            ("IODeviceWeight", list(per("8:0", 200))),
            ("IODeviceLatencyTargetUSec", list(per("8:16", 75_000)))
        ]
    );
    let device = [write("io.bfq.weight|io.weight", "8:0 10")];
    let converted = super::super::weights::io_weight(10);
    assert_eq!(limits(&device, (None, 1)), [("IODeviceWeight", list(per("8:0", converted)))]);
}
