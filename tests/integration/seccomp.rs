//! The filter compiler against libseccomp and seccompiler, on random profiles, by an interpreter.

use crate::harness::*;
use conex::seccomp::bpf::run;
use conex::seccomp::compile::{compile, lookup};
use conex::seccomp::{self as ours, table::SYSCALLS, Abi, Op};
use libseccomp::{ScmpArch, ScmpSyscall};
use serde_json::{json, Value};

#[path = "../oracle/seccomp.rs"]
mod oracle;
use oracle::*;

#[test]
fn the_verdict_that_the_profile_means() {
    let names: Vec<&'static str> = SYSCALLS.iter().filter(|e| e.1[0] >= 0).map(|e| e.0).collect();
    let mut r = Random::new(0xfeed);
    let mut compared = 0u64;
    for _ in 0..3000 {
        let profile = random_profile(&mut r, &names, false);
        let program = compile(&profile).unwrap();
        for (abi, arch, base) in ARCHES {
            for rule in &profile.rules {
                let Some(nr) = lookup(&rule.names[0], abi) else {
                    continue;
                };
                for _ in 0..6 {
                    let args = [0; 6].map(|_: u64| r.pick(&VALUES));
                    // i386 alone reaches these two by other rules as well.
                    if abi == Abi::X86 && matches!(rule.names[0].as_str(), "socketcall" | "ipc") {
                        continue;
                    }
                    compared += 1;
                    assert_eq!(
                        Some(run(&program, arch, base + nr, args)),
                        expected(&profile, abi, nr, args),
                        "{abi:?} {nr} {args:x?} {profile:#?}"
                    );
                }
            }
        }
    }
    assert!(compared > 100_000, "{compared}");
}

#[test]
fn the_same_verdict_as_libseccomp() {
    let names = common_names();
    assert!(names.len() > 300);
    let mut r = Random::new(0x1234_5678_9abc_def1);
    let (mut profiles, mut calls) = (0, 0u64);
    while profiles < 2000 {
        let profile = random_profile(&mut r, &names, true);
        let Some(theirs) = oracle(&profile) else { continue };
        let mine = compile(&profile).unwrap();
        profiles += 1;
        for (abi, arch, base) in ARCHES {
            let highest =
                profile.rules.iter().flat_map(|x| &x.names).filter_map(|n| lookup(n, abi)).max();
            for i in 0..60 {
                let nr = if i % 2 == 0 && !profile.rules.is_empty() {
                    let rule = &profile.rules[r.below(profile.rules.len())];
                    lookup(&rule.names[0], abi).unwrap_or(0)
                } else {
                    r.below(480) as u32
                };
                let args = [0; 6].map(|_: u64| r.pick(&VALUES));
                let (a, b) =
                    (run(&mine, arch, base + nr, args), run(&theirs, arch, base + nr, args));
                calls += 1;
                let newer = highest.is_none_or(|h| nr > h);
                if newer && a == (ours::RET_ERRNO | 38) && b == profile.default {
                    continue; // Our ENOSYS for calls that are newer than the profile.
                }
                assert_eq!(a, b, "{abi:?} call {nr} args {args:x?}\n{profile:#?}");
            }
        }
    }
    println!("{profiles} profiles, {calls} calls");
}

#[test]
fn the_same_verdict_as_seccompiler_where_it_can_express_the_profile() {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };
    let names = common_names();
    let mut r = Random::new(77);
    let mut profiles = 0;
    while profiles < 500 {
        let mut profile = random_profile(&mut r, &names, false);
        // One architecture, one action for all rules, no inequality with the default of a match.
        profile.abis = vec![Abi::X86_64];
        profile.default = ours::RET_ERRNO | 1;
        for rule in &mut profile.rules {
            rule.action = ours::RET_ALLOW;
        }
        let mut map = std::collections::BTreeMap::new();
        for rule in &profile.rules {
            let Some(nr) = lookup(&rule.names[0], Abi::X86_64) else {
                continue;
            };
            let rules: Vec<_> = rule
                .any_of
                .iter()
                .map(|all| {
                    let conditions = all.iter().map(|a| {
                        let (op, value) = match a.op {
                            Op::Ne => (SeccompCmpOp::Ne, a.value),
                            Op::Lt => (SeccompCmpOp::Lt, a.value),
                            Op::Le => (SeccompCmpOp::Le, a.value),
                            Op::Eq => (SeccompCmpOp::Eq, a.value),
                            Op::Ge => (SeccompCmpOp::Ge, a.value),
                            Op::Gt => (SeccompCmpOp::Gt, a.value),
                            Op::MaskedEq => (SeccompCmpOp::MaskedEq(a.value), a.value_two),
                        };
                        SeccompCondition::new(a.index as u8, SeccompCmpArgLen::Qword, op, value)
                            .unwrap()
                    });
                    SeccompRule::new(conditions.collect()).unwrap()
                })
                .collect();
            map.insert(i64::from(nr), rules);
        }
        let filter = SeccompFilter::new(
            map,
            SeccompAction::Errno(1),
            SeccompAction::Allow,
            TargetArch::x86_64,
        )
        .unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        let theirs: Vec<SockFilter> = program
            .iter()
            .map(|i| SockFilter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
            .collect();
        let mine = compile(&profile).unwrap();
        profiles += 1;
        for _ in 0..80 {
            let nr = r.below(480) as u32;
            let args = [0; 6].map(|_: u64| r.pick(&VALUES));
            let (a, b) = (run(&mine, 0xc000_003e, nr, args), run(&theirs, 0xc000_003e, nr, args));
            if a == (ours::RET_ERRNO | 38) && b == (ours::RET_ERRNO | 1) {
                continue;
            }
            assert_eq!(a, b, "call {nr} args {args:x?}\n{profile:#?}");
        }
    }
}

#[test]
fn dockers_default_profile_gives_libseccomps_verdicts() {
    // As Docker writes it on either architecture.
    let (own, arches): (_, &[(Abi, u32, u32)]) = if cfg!(target_arch = "aarch64") {
        let arm = [Abi::Aarch64, Abi::Arm].map(|abi| (abi, abi.arch(), 0));
        (["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_ARM"], &arm.clone())
    } else {
        (["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], &ARCHES)
    };
    let text = include_str!("../data/docker-config.json")
        .replace("SCMP_ARCH_X86_64", own[0])
        .replace("SCMP_ARCH_X86\"", &format!("{}\"", own[1]))
        .replace("SCMP_ARCH_X32", own[2]);
    let spec: conex::oci::config::Spec =
        conex::bundle::parse(text.as_bytes(), "config.json").unwrap();
    let seccomp = spec.linux.clone().unwrap().seccomp.unwrap();
    let mut check = conex::check::Check::default();
    let profile = ours::plan(&seccomp, &mut check).unwrap().profile;
    assert!(check.errors.is_empty());
    assert_eq!(profile.abis, arches.iter().map(|a| a.0).collect::<Vec<_>>());
    let mine = compile(&profile).unwrap();
    println!("{} instructions", mine.len());
    for &(abi, arch, base) in arches {
        let allowed = lookup("openat", abi).unwrap();
        assert_eq!(run(&mine, arch, base + allowed, [0; 6]), ours::RET_ALLOW, "{abi:?}");
        let denied = lookup("kexec_load", abi).unwrap();
        assert_eq!(run(&mine, arch, base + denied, [0; 6]), ours::RET_ERRNO | 1, "{abi:?}");
        assert_eq!(
            run(&mine, arch, base + lookup("clone3", abi).unwrap(), [0; 6]),
            ours::RET_ERRNO | 38
        );
        assert_eq!(
            run(&mine, arch, base + 600, [0; 6]),
            ours::RET_ERRNO | 38,
            "newer than the profile"
        );
        let personality = lookup("personality", abi).unwrap();
        assert_eq!(run(&mine, arch, base + personality, [8, 0, 0, 0, 0, 0]), ours::RET_ALLOW);
        assert_eq!(run(&mine, arch, base + personality, [9, 0, 0, 0, 0, 0]), ours::RET_ERRNO | 1);
    }
}

fn with_seccomp(script: &str, syscalls: serde_json::Value) -> Box {
    let mut b = Box::sh(script);
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls});
    b
}

#[test]
fn in_force_with_and_without_no_new_privs() {
    for nnp in [json!(true), json!(false), json!(null)] {
        let mut b = with_seccomp(
            "grep -E 'Seccomp:|NoNew' /proc/self/status; mkdir /x 2>&1; sleep 100",
            json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]),
        );
        *b.at("process.noNewPrivileges") = nnp.clone();
        b.up();
        let flag = u8::from(nnp == json!(true));
        until(|| b.output().contains("No space left"), "errno 28");
        assert!(
            b.output().starts_with(&format!("NoNewPrivs:\t{flag}\nSeccomp:\t2\n")),
            "{}",
            b.output()
        );
        let r = b.exec(&["sh", "-c", "grep -E 'Seccomp:' /proc/self/status; mkdir /y 2>&1"]);
        assert!(r.out.contains("Seccomp:\t2") && r.out.contains("No space left"), "{}", r.out);
    }
}

#[test]
fn an_empty_object_is_no_filter() {
    if lacks("clone3", "an_empty_object_is_no_filter") {
        return;
    }
    let mut b = Box::sh("grep Seccomp: /proc/self/status");
    *b.at("linux.seccomp") = json!({});
    assert_eq!(b.run().ok().out, "Seccomp:\t0\n");
}

#[test]
fn the_cache_is_verified() {
    if !is_conex() {
        return;
    }
    let b = with_seccomp(
        "mkdir /x 2>&1",
        json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]),
    );
    assert!(b.run().out.contains("not permitted"));
    let cache = b.state_root().join(".cache");
    let file = std::fs::read_dir(&cache).unwrap().flatten().next().unwrap().path();
    let good = std::fs::read(&file).unwrap();
    // A filter that allows everything, in the place of ours.
    let mut evil = good.clone();
    let at = evil.len() - 8;
    evil[at..].copy_from_slice(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f]);
    std::fs::write(&file, &evil).unwrap();
    assert!(b.run().out.contains("not permitted"));
    // Another build's filter, whole and with its own sum: what is not of this build is not read, but made again.
    let mut lines = good.splitn(3, |c| *c == b'\n');
    let (head, profile) =
        (String::from_utf8(lines.next().unwrap().to_vec()).unwrap(), lines.next().unwrap());
    let build = head.split(' ').nth(2).unwrap_or_else(|| panic!("{head}"));
    assert!(head.starts_with("conex-seccomp ") && build.len() == 16, "{head}");
    let allow = [6u8, 0, 0, 0, 0, 0, 0xff, 0x7f];
    let sum = allow
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    for other in ["0".repeat(16), build.chars().rev().collect()] {
        let head = head.replace(build, &other);
        let old = [head.as_bytes(), b"\n", profile, b"\n", &sum.to_le_bytes(), &allow].concat();
        std::fs::write(&file, &old).unwrap();
        assert!(b.run().out.contains("not permitted"));
        assert_eq!(std::fs::read(&file).unwrap(), good);
    }
    // With the head of this build that file would be taken: the test's own proof that it is well made.
    let ours = [head.as_bytes(), b"\n", profile, b"\n", &sum.to_le_bytes(), &allow].concat();
    std::fs::write(&file, &ours).unwrap();
    assert!(!b.run().out.contains("not permitted"));
}

/// A seccomp agent that answers every call with ENOSYS, and gives what it was told of so many processes.
fn agent(
    listener: std::os::unix::net::UnixListener,
    processes: usize,
) -> std::thread::JoinHandle<Vec<Value>> {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let one = move || {
        let (socket, _) = listener.accept().unwrap();
        let mut buffer = vec![0u8; 65536];
        let mut iov = [std::io::IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([i32; 1]);
        let m = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::empty())
            .unwrap();
        let fd = m.cmsgs().unwrap().find_map(|c| match c {
            ControlMessageOwned::ScmRights(f) => Some(f[0]),
            _ => None,
        });
        let n = m.bytes;
        // Closing the descriptor answers every waiting call with ENOSYS.
        drop(conex_sys::fd::adopt(fd.unwrap()));
        serde_json::from_slice(&buffer[..n]).unwrap()
    };
    std::thread::spawn(move || (0..processes).map(|_| one()).collect())
}

#[test]
fn a_listener_gets_the_descriptor_and_the_state() {
    let mut b = with_seccomp(
        "sleep 100",
        json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]),
    );
    let path = b.dir.join("agent");
    *b.at("linux.seccomp.listenerPath") = json!(path);
    *b.at("linux.seccomp.listenerMetadata") = json!("meta");
    let agent = agent(std::os::unix::net::UnixListener::bind(&path).unwrap(), 2);
    b.up();
    let out = b.exec(&["sh", "-c", "mkdir /x 2>&1; echo done"]).ok().out;
    assert!(out.contains("not implemented") && out.ends_with("done\n"), "{out}");
    let told = agent.join().unwrap();
    for (state, status) in told.iter().zip(["creating", "running"]) {
        assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("meta")));
        assert_eq!(
            (&state["state"]["id"], &state["state"]["status"]),
            (&json!(b.id), &json!(status))
        );
        assert_eq!(state["state"]["pid"], b.pid());
    }
    // The further process has its own filter and is named.
    assert_eq!(told[0]["pid"], b.pid());
    assert!(told[1]["pid"].as_i64().is_some_and(|p| p > 0 && p != b.pid() as i64), "{}", told[1]);
}

/// An allow-list made from a trace of the program lacks what the runtime calls before it: nobody would hear why it never ran.
#[test]
fn a_profile_that_the_program_could_not_start_under() {
    let mut b = Box::sh("true");
    let profile = |names: &[&str]| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let program = [
        "read",
        "write",
        "close",
        "mmap",
        "mprotect",
        "munmap",
        "brk",
        "rt_sigaction",
        "rt_sigprocmask",
        "ioctl",
        "exit_group",
        "arch_prctl",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "getrandom",
        "readlink",
        "readlinkat",
        "getuid",
        "getgid",
        "geteuid",
        "getegid",
        "getppid",
        "getpid",
        "fstat",
        "newfstatat",
        "openat",
        "getcwd",
        "fcntl",
        "uname",
        "time",
        "clock_gettime",
        "prctl",
    ];
    *b.at("process.noNewPrivileges") = json!(false);
    for (more, lacks) in [
        (&[][..], "capget, capset, execve"),
        (&["capget", "capset"][..], "execve"),
        (&["execve"], "capget, capset"),
    ] {
        let names: Vec<&str> = program.iter().chain(more).copied().collect();
        *b.at("linux.seccomp") = profile(&names);
        for r in [b.run(), b.create()] {
            assert_ne!(r.code, 0, "{more:?}: {}", r.err);
            if is_conex() {
                assert!(
                    r.err.contains(&format!("linux.seccomp: denies {lacks}, which")),
                    "{more:?}: {}",
                    r.err
                );
            } else {
                b.verb("delete", &["--force"], &[]);
            }
            b.assert_gone();
        }
    }
    // With noNewPrivileges the filter comes last.
    *b.at("process.noNewPrivileges") = json!(true);
    let names: Vec<&str> = program.iter().chain(&["execve"]).copied().collect();
    *b.at("linux.seccomp") = profile(&names);
    if is_conex() {
        b.run().ok();
    }
    b.assert_gone();
}

/// A profile that runc takes: thousands of values of one argument, in force.
#[test]
fn a_profile_of_thousands_of_values() {
    let rule = |first: u32| {
        let one = |value| json!([{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}]);
        // busybox of newer systems asks for TCGETS2 on arm64.
        let other = if cfg!(target_arch = "aarch64") { first | 0x802c_0000 } else { first };
        let rules = (first..first + 3000)
            .chain(other..other + 3000)
            .map(|v| json!({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": one(v)}));
        serde_json::Value::from(rules.collect::<Vec<_>>())
    };
    for (first, what) in [(0x5000, "Input/output error"), (0x6000, "Inappropriate ioctl")] {
        let mut b = Box::sh("stty -F /dev/null 2>&1; true");
        *b.at("linux.seccomp") = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": [if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" }],
            "syscalls": rule(first),
        });
        let out = b.run().ok().out;
        assert!(out.contains(what), "{out}");
    }
}

/// What the runtime itself needs is denied in every way that there is: `run` and `start` say so, and nobody takes it for done.
#[test]
fn a_program_that_was_never_executed() {
    if !is_conex() {
        return;
    }
    let names = |without: &[&str]| -> Vec<String> {
        include_str!("../../runtime/plan/src/seccomp/table.rs")
            .lines()
            .filter_map(|l| l.trim().strip_prefix("(\"")?.split('"').next().map(str::to_string))
            .filter(|n| !without.contains(&n.as_str()))
            .collect()
    };
    let execve = |op: &str| json!({"names": ["execve"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": op}]});
    for (profile, nnp) in [
        // A tracer would have to answer.
        (
            json!({"defaultAction": "SCMP_ACT_TRACE", "syscalls": [{"names": names(&["execve", "sendmsg"]), "action": "SCMP_ACT_ALLOW"}]}),
            true,
        ),
        // By its arguments, which are known when the process is ready.
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names(&["execve", "sendmsg"]), "action": "SCMP_ACT_ALLOW"}, execve("SCMP_CMP_EQ")]}),
            true,
        ),
        (
            json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": names(&["execve"]), "action": "SCMP_ACT_ALLOW"}, execve("SCMP_CMP_EQ")]}),
            true,
        ),
    ] {
        let mut b = Box::sh("echo ran");
        *b.at("linux.seccomp") = profile;
        *b.at("process.noNewPrivileges") = json!(nnp);
        let r = b.run();
        assert!(
            r.code == 1 && r.err.contains("linux.seccomp: ") && r.out.is_empty(),
            "{} {} {}",
            r.code,
            r.out,
            r.err
        );
        b.assert_gone();
        // In two steps: by whichever of them.
        let made = b.create();
        if made.code == 0 {
            let r = b.verb("start", &[], &[]);
            assert!(r.code != 0 && r.err.contains("linux.seccomp: "), "{} {}", r.code, r.err);
            b.wait_status("stopped");
            b.verb("delete", &[], &[]).ok();
        }
        b.assert_gone();
    }
}

/// Rules on arguments that kill for what the runtime still has to do, and errors of a process that may not send them: whoever
/// starts it hears of both, however soon the ended process is reaped.
#[test]
fn what_a_confined_runtime_cannot_say() {
    if !is_conex() {
        return;
    }
    let kill = |call: &str, index: u32, value: u64, op: &str| json!({"names": [call], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": index, "value": value, "op": op}]});
    let mute = |action: &str| json!({"names": ["sendmsg"], "action": action});
    let no_program = |b: &Box| executable(&b.rootfs().join("empty"), b"");
    for (rule, args, nnp, words) in [
        (
            kill("execve", 0, 0, "SCMP_CMP_NE"),
            "/bin/true",
            true,
            "linux.seccomp: denies execve by a rule on its arguments",
        ),
        (
            kill("capset", 0, 0, "SCMP_CMP_GT"),
            "/bin/true",
            false,
            "linux.seccomp: denies capset by a rule",
        ),
        (
            kill("prctl", 1, 2, "SCMP_CMP_EQ"),
            "/bin/true",
            false,
            "linux.seccomp: denies prctl by a rule",
        ),
        // Without an ambient set, which is looked at all the same.
        (
            kill("prctl", 0, 47, "SCMP_CMP_EQ"),
            "/bin/true",
            false,
            "linux.seccomp: denies prctl by a rule on",
        ),
        (mute("SCMP_ACT_ERRNO"), "/empty", true, "exec /empty: exec format error"),
        (mute("SCMP_ACT_KILL_PROCESS"), "/empty", true, "exec /empty: exec format error"),
        (mute("SCMP_ACT_KILL_PROCESS"), "/empty", false, "exec /empty: exec format error"),
    ] {
        let mut b = Box::new(&[args]);
        *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        *b.at("process.noNewPrivileges") = json!(nnp);
        if words.ends_with("prctl by a rule") {
            for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
                *b.at(&format!("process.capabilities.{set}")) = json!(["CAP_CHOWN"]);
            }
        }
        no_program(&b);
        for _ in 0..20 {
            let r = b.run();
            assert!(r.code != 0 && r.err.contains(words), "{words}: {} {}", r.code, r.err);
            b.create().ok();
            let r = b.verb("start", &[], &[]);
            assert!(r.code != 0 && r.err.contains(words), "{words}: {} {}", r.code, r.err);
            b.verb("delete", &[], &[]).ok();
            b.assert_gone();
        }
        // A process document's exec is under the same filter.
        let mut other = Box::sh("sleep 100");
        *other.at("linux.seccomp") = b.at("linux.seccomp").clone();
        if words.contains("exec format") {
            *other.at("process.noNewPrivileges") = json!(nnp);
            no_program(&other);
            other.create().ok();
            other.verb("start", &[], &[]).ok();
            let r = other.exec(&["/empty"]);
            assert!(r.code != 0 && r.err.contains(words), "{words}: {} {}", r.code, r.err);
        }
    }
}

/// The table against a second one that others keep. What libseccomp does not have is newer than it, or a call that it
/// reaches by another (a negative number).
#[test]
fn numbers_on_every_architecture_as_libseccomp_has_them() {
    let arches = [
        (Abi::X86_64, ScmpArch::X8664),
        (Abi::X86, ScmpArch::X86),
        (Abi::X32, ScmpArch::X32),
        (Abi::Aarch64, ScmpArch::Aarch64),
        (Abi::Arm, ScmpArch::Arm),
        (Abi::Riscv64, ScmpArch::Riscv64),
        (Abi::S390x, ScmpArch::S390X),
        (Abi::Ppc64le, ScmpArch::Ppc64Le),
    ];
    for (abi, arch) in arches {
        let mut same = 0;
        for name in ours::abi::names() {
            let Ok(call) = ScmpSyscall::from_name_by_arch(name, arch) else { continue };
            let theirs = u32::try_from(i32::from(call)).ok().map(|n| match abi {
                Abi::X32 => n & !0x4000_0000,
                _ => n,
            });
            if theirs.is_some() {
                assert_eq!(lookup(name, abi), theirs, "{name} on {abi:?}");
                same += 1;
            }
        }
        // And the other way round: no name of theirs is missing.
        for nr in 0..600 {
            let base = if abi == Abi::X32 { 0x4000_0000 } else { 0 };
            let Ok(name) = ScmpSyscall::from(base + nr).get_name_by_arch(arch) else { continue };
            assert_eq!(lookup(&name, abi), Some(nr as u32), "{name} on {abi:?}");
        }
        // The smallest of them, riscv64, has about 300.
        assert!(same > 290, "{abi:?}: {same} calls compared");
    }
}
