//! Limits and device rules in a unit, and what is left of them when systemd applies its own view.

use super::*;

#[test]
fn a_unit_with_all_limits() {
    let _turn = turn();
    let Some(mut b) = unit("a_unit_with_all_limits", "sleep 100") else { return };
    *b.at("linux.resources.memory") = json!({"limit": 64 << 20, "reservation": 32 << 20});
    *b.at("linux.resources.cpu") = json!({"shares": 512, "quota": 33333, "period": 100000});
    *b.at("linux.resources.pids") = json!({"limit": 44});
    b.up();
    assert_eq!(show(&b, "ActiveState"), "active");
    assert_eq!((show(&b, "Slice"), show(&b, "Delegate")), (slice(&b), "yes".into()));
    assert!(show(&b, "Description").contains(&b.id));
    assert_eq!(show(&b, "TasksMax"), "44");
    assert!(
        show(&b, "CPUQuotaPerSecUSec").starts_with("333.33"),
        "{}",
        show(&b, "CPUQuotaPerSecUSec")
    );
    assert_eq!(show(&b, if v2() { "MemoryMax" } else { "MemoryLimit" }), (64 << 20).to_string());
    assert_eq!(file(&b, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(file(&b, "cpu", "cpu.shares", "cpu.weight"), if v2() { "59" } else { "512" });
    let quota = file(&b, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("33333"), "{quota}");
    assert!(file(&b, "memory", "cgroup.procs", "cgroup.procs").contains(&b.pid().to_string()));
    b.exec(&["true"]).ok();
    assert_eq!(b.exec(&["sh", "-c", "head -c1 /dev/null; echo in"]).ok().out, "in\n");

    b.verb("update", &["--memory", "80M", "--cpu-quota", "50000", "--pids-limit", "55"], &[]).ok();
    assert_eq!(file(&b, "memory", "memory.limit_in_bytes", "memory.max"), (80 << 20).to_string());
    assert_eq!(
        (show(&b, "TasksMax").as_str(), show(&b, "CPUQuotaPerSecUSec").as_str()),
        ("55", "500ms")
    );
    // systemd applies its own view again: it must be the same.
    systemctl(&["daemon-reload"]).ok();
    assert_eq!(file(&b, "memory", "memory.limit_in_bytes", "memory.max"), (80 << 20).to_string());
    assert_eq!(file(&b, "pids", "pids.max", "pids.max"), "55");
    assert!(file(&b, "cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    b.verb("pause", &[], &[]).ok();
    assert_eq!(b.status(), "paused");
    b.verb("resume", &[], &[]).ok();
    b.verb("delete", &["--force"], &[]).ok();
    gone(&b);
}

/// What makes systemd apply its own view of a unit again.
fn looks_again(b: &Box) -> Vec<Vec<String>> {
    let words = |w: &[&str]| w.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    vec![
        words(&["daemon-reload"]),
        words(&["daemon-reexec"]),
        words(&["set-property", "--runtime", &name(b), "CPUWeight=55"]),
        words(&["daemon-reload"]),
    ]
}

fn step(words: &[String]) {
    systemctl(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    let _ = systemctl(&["is-system-running", "--wait"]);
}

/// Created and updated, through each of these steps.
#[test]
fn device_rules_outlive_a_reload() {
    let _turn = turn();
    let script =
        "mkdir /tmp/x; echo up; i=0; while [ $i -lt 9 ]; do while ! [ -e /tmp/go$i ]; do sleep 0.05; done; \
        head -c1 /dev/mine 2>&1; head -c1 /dev/zero | wc -c; echo round $i; i=$((i+1)); done";
    let Some(mut b) = unit("device_rules_outlive_a_reload", script) else { return };
    b.push("linux.devices", json!({"path": "/dev/mine", "type": "c", "major": 10, "minor": 229}));
    b.up();
    until(|| b.output().contains("up"), "running");
    let mut round = 0;
    let mut check = |b: &Box, what: &str| {
        std::fs::write(b.rootfs().join(format!("tmp/go{round}")), "").unwrap();
        until(|| b.output().ends_with(&format!("round {round}\n")), what);
        let out = b.output();
        let last = out.rsplit("round ").nth(1).unwrap();
        assert!(
            last.contains("Operation not permitted") && last.ends_with("\n1\n"),
            "{what}: {out}"
        );
        round += 1;
    };
    check(&b, "created");
    for words in looks_again(&b) {
        step(&words);
        check(&b, &format!("created, after {words:?}"));
    }
    b.verb("update", &["--pids-limit", "50"], &[]).ok();
    for words in looks_again(&b) {
        step(&words);
        check(&b, &format!("updated, after {words:?}"));
    }
    b.wait_status("stopped");
    b.verb("delete", &[], &[]).ok();
    gone(&b);
}

/// A file of a cgroup that has all controllers this host can give.
fn has_file(file: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    for controller in
        std::fs::read_to_string(root.join("cgroup.controllers")).unwrap().split_whitespace()
    {
        let _ = std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    let probe = root.join(format!("conex-test-probe-{}", std::process::id()));
    let _ = std::fs::create_dir(&probe);
    let found = probe.join(file).exists();
    std::fs::remove_dir(&probe).unwrap();
    found
}

/// A file; a value as given and as the kernel has it; and by an update.
type Row<'a> = [&'a str; 5];

/// Every value as the kernel takes it; systemd applies its own view at a reload, and must not undo one of them.
#[test]
fn no_limit_is_lost_at_a_reload() {
    let name = "no_limit_is_lost_at_a_reload";
    let Some(mut b) = unit(name, "sleep 100") else { return };
    if !v2() {
        return skip(name, "a pure cgroup v2 host");
    }
    if older_than((5, 15)) {
        return skip(name, "cpu.idle, which is newer than this kernel");
    }
    let _turn = turn();
    let disk = std::os::linux::fs::MetadataExt::st_dev(&std::fs::metadata("/").unwrap());
    let disk = format!("{}:{}", nix::sys::stat::major(disk), nix::sys::stat::minor(disk));
    let io = format!("{disk} rbps=1048576 wiops=100");
    let io_told = format!("{disk} rbps=1048576 wbps=max riops=max wiops=100");
    let all: [Row; 13] = [
        ["memory.high", "48M", "50331648", "60M", "62914560"],
        ["memory.max", "0x4000000", "67108864", "80M", "83886080"],
        ["memory.low", "1m", "1048576", "max", "max"],
        ["memory.min", "4096", "4096", "8192", "8192"],
        ["memory.swap.max", "16M", "16777216", "0x800000", "8388608"],
        ["memory.zswap.max", "8M", "8388608", "max", "max"],
        ["pids.max", "0x20", "32", "50", "50"],
        ["cpu.weight", "0x37", "55", "55", "55"],
        ["cpu.max", "30000", "30000 100000", "500000 1000000", "500000 1000000"],
        ["cpuset.cpus", "0", "0", "0", "0"],
        ["cpuset.mems", "0", "0", "0", "0"],
        ["io.max", &io, &io_told, &io, &io_told],
        ["memory.oom.group", "1", "1", "1", "1"],
    ];
    let rows: Vec<_> = all
        .into_iter()
        .filter(|[f, ..]| {
            let there = has_file(f) && (*f != "io.max" || !disk.starts_with("0:"));
            if !there {
                skip(&format!("{name} ({f})"), "the file");
            }
            there
        })
        .collect();
    let document = |pick: &dyn Fn(&Row) -> String| {
        json!(rows
            .iter()
            .map(|r| (r[0].to_string(), pick(r)))
            .collect::<std::collections::BTreeMap<_, _>>())
    };
    let check = |b: &Box, what: &str, want: &dyn Fn(&Row) -> String| {
        for r in &rows {
            assert_eq!(file(b, "", r[0], r[0]), want(r), "{what}: {}", r[0]);
        }
    };
    *b.at("linux.resources.unified") = document(&|r| r[1].to_string());
    b.up();
    check(&b, "created", &|r| r[2].to_string());
    for words in looks_again(&b) {
        step(&words);
        check(&b, &format!("created, after {words:?}"), &|r| r[2].to_string());
    }
    let mut update = document(&|r| r[3].to_string());
    // systemd takes this one only while the unit is being made (docs/limits.md).
    update.as_object_mut().unwrap().remove("memory.oom.group");
    std::fs::write(b.dir.join("r.json"), json!({"unified": update}).to_string()).unwrap();
    b.verb("update", &["-r", "r.json"], &[]).ok();
    check(&b, "updated", &|r| r[4].to_string());
    for words in looks_again(&b) {
        step(&words);
        check(&b, &format!("updated, after {words:?}"), &|r| r[4].to_string());
    }
    // And by the fields of linux.resources.
    let resources = json!({
        "memory": {"limit": 81 << 20}, "cpu": {"quota": 500_000, "period": 1_000_000}, "pids": {"limit": 51},
    });
    std::fs::write(b.dir.join("r.json"), resources.to_string()).unwrap();
    b.verb("update", &["-r", "r.json"], &[]).ok();
    for words in looks_again(&b) {
        step(&words);
        let now = ["memory.max", "cpu.max", "pids.max"].map(|f| file(&b, "", f, f));
        assert_eq!(
            now,
            [(81 << 20).to_string(), "500000 1000000".into(), "51".into()],
            "after {words:?}"
        );
    }
    // What is no whole hundredth of a percent is rounded by the reload, never to more (docs/limits.md).
    b.verb("update", &["--cpu-period", "100000", "--cpu-quota", "33333"], &[]).ok();
    assert_eq!(file(&b, "", "cpu.max", "cpu.max"), "33333 100000");
    systemctl(&["daemon-reload"]).ok();
    let quota = file(&b, "", "cpu.max", "cpu.max");
    assert!(["33333 100000", "33330 100000"].contains(&quota.as_str()), "{quota}");
    b.verb("update", &["--cpu-period", "1000000", "--cpu-quota", "500000"], &[]).ok();
    // One half of the bandwidth stays what it was to the microsecond.
    for (period, want) in [("333333", "500000 333333"), ("1000000", "500000 1000000")] {
        b.verb("update", &["--cpu-period", period], &[]).ok();
        assert_eq!(file(&b, "", "cpu.max", "cpu.max"), want);
    }
    b.verb("update", &["--cpu-quota", "1000"], &[]).ok();
    b.verb("update", &["--cpu-period", "200000"], &[]).ok();
    assert_eq!(file(&b, "", "cpu.max", "cpu.max"), "1000 200000");
    b.verb("update", &["--cpu-idle", "1"], &[]).ok();
    b.verb("update", &["--cpu-idle", "0"], &[]).ok();
    systemctl(&["daemon-reload"]).ok();
    assert_eq!(file(&b, "", "cpu.idle", "cpu.idle"), "0");
    // What fails leaves the unit as it was.
    let weight = show(&b, "IOWeight");
    let tasks = show(&b, "TasksMax");
    let failed = b.verb(
        "update",
        &[
            "--blkio-weight",
            "500",
            "--pids-limit",
            "60",
            "--memory",
            "79M",
            "--cpuset-cpus",
            "4000",
        ],
        &[],
    );
    assert_ne!(failed.code, 0);
    assert_eq!((show(&b, "IOWeight"), show(&b, "TasksMax")), (weight, tasks));
    // runc's events count memory and swap together.
    let r = b.verb("events", &["--stats"], &[]).ok();
    let stats: serde_json::Value = serde_json::from_str(&r.out).unwrap();
    let swap = |key: &str| stats["data"]["memory"]["swap"][key].as_u64().unwrap();
    assert!(
        swap("usage") >= stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap()
            && swap("limit") >= 80 << 20,
        "{stats}"
    );
    b.verb("delete", &["--force"], &[]).ok();
    gone(&b);
}
