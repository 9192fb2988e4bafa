//! The filter compiler against libseccomp and seccompiler, on random profiles, by an interpreter.

use crate::harness::*;
use conex::seccomp::compile::{compile, lookup, run};
use conex::seccomp::{self as ours, table::SYSCALLS, Abi, Arg, Op, Profile, Rule};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use serde_json::{json, Value};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const VALUES: [u64; 8] = [0, 1, 2, 0x7f, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0002, u64::MAX];

/// With `simple`, a call has one alternative, or several that compare one argument for equality. Beyond that
/// libseccomp 2.5 merges comparisons of 64-bit values wrongly (`a0 >= 1<<32` beside `a0 <= 127` lets 0xffffffff
/// pass), so that only [`expected`] can be the judge.
fn random_profile(r: &mut Random, names: &[&'static str], simple: bool) -> Profile {
    let default = r.pick(&[ours::RET_ERRNO | 1, ours::RET_ALLOW, 0x8000_0000]);
    let mut rules = Vec::new();
    let mut used = Vec::new();
    for _ in 0..1 + r.below(25) {
        let name = r.pick(names);
        if used.contains(&name) {
            continue;
        }
        used.push(name);
        let action =
            r.pick(&[ours::RET_ALLOW, ours::RET_ERRNO | 38, ours::RET_ERRNO | 13, 0x0003_0000, 0x7ffc_0000]);
        if action == default {
            continue;
        }
        let count = if r.below(3) == 0 { 1 + r.below(3) } else { 0 };
        let common = r.below(6) as u32;
        let equal = simple && count > 1;
        let any_of = (0..count)
            .map(|_| {
                let index = if equal { common } else { r.below(6) as u32 };
                let two = !equal && r.below(2) == 0;
                let arg = |r: &mut Random, index| Arg {
                    index,
                    op: if equal {
                        Op::Eq
                    } else {
                        r.pick(&[Op::Ne, Op::Lt, Op::Le, Op::Eq, Op::Ge, Op::Gt, Op::MaskedEq])
                    },
                    value: r.pick(&VALUES),
                    value_two: r.pick(&VALUES),
                };
                let mut args = vec![arg(r, index)];
                if two {
                    args.push(arg(r, (index + 1) % 6));
                }
                args
            })
            .collect();
        rules.push(Rule { names: vec![name.to_string()], action, any_of });
    }
    Profile { default, abis: vec![Abi::X86_64, Abi::X86, Abi::X32], rules }
}

/// What a profile means, without any program: the first alternative that holds decides.
fn expected(profile: &Profile, abi: Abi, nr: u32, args: [u64; 6]) -> Option<u32> {
    let rule = profile.rules.iter().find(|x| lookup(&x.names[0], abi) == Some(nr))?;
    let narrow = abi != Abi::X86_64;
    let cut = |v: u64| if narrow { v & 0xffff_ffff } else { v };
    let holds = |a: &Arg| {
        let (v, d) = (cut(args[a.index as usize]), cut(a.value));
        match a.op {
            Op::Ne => v != d,
            Op::Lt => v < d,
            Op::Le => v <= d,
            Op::Eq => v == d,
            Op::Ge => v >= d,
            Op::Gt => v > d,
            Op::MaskedEq => v & d == cut(a.value_two) & d,
        }
    };
    let any = rule.any_of.is_empty() || rule.any_of.iter().any(|all| all.iter().all(holds));
    Some(if any { rule.action } else { profile.default })
}

#[test]
fn the_verdict_that_the_profile_means() {
    let names: Vec<&'static str> = SYSCALLS.iter().filter(|e| e.1 >= 0).map(|e| e.0).collect();
    let mut r = Random(0xfeed);
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

fn action(value: u32) -> ScmpAction {
    match value & ours::ACTION_MASK {
        0x8000_0000 => ScmpAction::KillProcess,
        0 => ScmpAction::KillThread,
        0x0003_0000 => ScmpAction::Trap,
        0x0005_0000 => ScmpAction::Errno((value & 0xffff) as i32),
        0x7ffc_0000 => ScmpAction::Log,
        _ => ScmpAction::Allow,
    }
}

fn compare(arg: &Arg) -> ScmpArgCompare {
    let (op, value) = match arg.op {
        Op::Ne => (ScmpCompareOp::NotEqual, arg.value),
        Op::Lt => (ScmpCompareOp::Less, arg.value),
        Op::Le => (ScmpCompareOp::LessOrEqual, arg.value),
        Op::Eq => (ScmpCompareOp::Equal, arg.value),
        Op::Ge => (ScmpCompareOp::GreaterEqual, arg.value),
        Op::Gt => (ScmpCompareOp::Greater, arg.value),
        Op::MaskedEq => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
    };
    ScmpArgCompare::new(arg.index, op, value)
}

type Insn = conex_sys::seccomp::Insn;

fn oracle(profile: &Profile) -> Option<Vec<Insn>> {
    let mut ctx = ScmpFilterContext::new(action(profile.default)).unwrap();
    for arch in [ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32] {
        let _ = ctx.add_arch(arch);
    }
    for rule in &profile.rules {
        for name in &rule.names {
            let call = ScmpSyscall::from_name(name).ok()?;
            if rule.any_of.is_empty() {
                ctx.add_rule(action(rule.action), call).ok()?;
            }
            for all in &rule.any_of {
                let list: Vec<_> = all.iter().map(compare).collect();
                ctx.add_rule_conditional(action(rule.action), call, &list).ok()?;
            }
        }
    }
    let mut file = std::fs::File::from(conex_sys::fd::memfd_exec("oracle").unwrap());
    ctx.export_bpf(&file).unwrap();
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    Some(
        bytes
            .chunks_exact(8)
            .map(|b| Insn {
                code: u16::from_le_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect(),
    )
}

/// Names that libseccomp of this machine knows, so that both sides speak of the same calls.
fn common_names() -> Vec<&'static str> {
    SYSCALLS.iter().filter(|e| e.1 >= 0).map(|e| e.0).filter(|n| ScmpSyscall::from_name(n).is_ok()).collect()
}

const ARCHES: [(Abi, u32, u32); 3] =
    [(Abi::X86_64, 0xc000_003e, 0), (Abi::X86, 0x4000_0003, 0), (Abi::X32, 0xc000_003e, 0x4000_0000)];

#[test]
fn the_same_verdict_as_libseccomp() {
    let names = common_names();
    assert!(names.len() > 300);
    let mut r = Random(0x1234_5678_9abc_def1);
    let (mut profiles, mut calls) = (0, 0u64);
    while profiles < 2000 {
        let profile = random_profile(&mut r, &names, true);
        let Some(theirs) = oracle(&profile) else { continue };
        let mine = compile(&profile).unwrap();
        profiles += 1;
        for (abi, arch, base) in ARCHES {
            let highest = profile.rules.iter().flat_map(|x| &x.names).filter_map(|n| lookup(n, abi)).max();
            for i in 0..60 {
                let nr = if i % 2 == 0 && !profile.rules.is_empty() {
                    let rule = &profile.rules[r.below(profile.rules.len())];
                    lookup(&rule.names[0], abi).unwrap_or(0)
                } else {
                    r.below(480) as u32
                };
                let args = [0; 6].map(|_: u64| r.pick(&VALUES));
                let (a, b) = (run(&mine, arch, base + nr, args), run(&theirs, arch, base + nr, args));
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
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };
    let names = common_names();
    let mut r = Random(77);
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
                        SeccompCondition::new(a.index as u8, SeccompCmpArgLen::Qword, op, value).unwrap()
                    });
                    SeccompRule::new(conditions.collect()).unwrap()
                })
                .collect();
            map.insert(i64::from(nr), rules);
        }
        let filter =
            SeccompFilter::new(map, SeccompAction::Errno(1), SeccompAction::Allow, TargetArch::x86_64).unwrap();
        let program: seccompiler::BpfProgram = filter.try_into().unwrap();
        let theirs: Vec<Insn> = program.iter().map(|i| Insn { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
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
    let spec: conex::oci::config::Spec =
        conex::bundle::parse(include_bytes!("../data/docker-config.json"), "config.json").unwrap();
    let seccomp = spec.linux.clone().unwrap().seccomp.unwrap();
    let facts = conex::host::facts::Facts::read(&spec);
    let mut check = conex::plan::Check::default();
    let profile = ours::plan(&seccomp, &facts, &mut check).unwrap().profile;
    assert!(check.errors.is_empty());
    assert_eq!(profile.abis, [Abi::X86_64, Abi::X86, Abi::X32]);
    let mine = compile(&profile).unwrap();
    println!("{} instructions", mine.len());
    for (abi, arch, base) in ARCHES {
        let allowed = lookup("openat", abi).unwrap();
        assert_eq!(run(&mine, arch, base + allowed, [0; 6]), ours::RET_ALLOW, "{abi:?}");
        let denied = lookup("kexec_load", abi).unwrap();
        assert_eq!(run(&mine, arch, base + denied, [0; 6]), ours::RET_ERRNO | 1, "{abi:?}");
        assert_eq!(run(&mine, arch, base + lookup("clone3", abi).unwrap(), [0; 6]), ours::RET_ERRNO | 38);
        assert_eq!(run(&mine, arch, base + 600, [0; 6]), ours::RET_ERRNO | 38, "newer than the profile");
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
        assert!(b.output().starts_with(&format!("NoNewPrivs:\t{flag}\nSeccomp:\t2\n")), "{}", b.output());
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
    let b = with_seccomp("mkdir /x 2>&1", json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
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
}

/// A seccomp agent that answers every call with ENOSYS, and gives what it was told of so many processes.
fn agent(listener: std::os::unix::net::UnixListener, processes: usize) -> std::thread::JoinHandle<Vec<Value>> {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let one = move || {
        let (socket, _) = listener.accept().unwrap();
        let mut buffer = vec![0u8; 65536];
        let mut iov = [std::io::IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([i32; 1]);
        let m = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::empty()).unwrap();
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
    let mut b = with_seccomp("sleep 100", json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]));
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
        assert_eq!((&state["state"]["id"], &state["state"]["status"]), (&json!(b.id), &json!(status)));
        assert_eq!(state["state"]["pid"], b.pid());
    }
    // The further process has its own filter and is named.
    assert_eq!(told[0]["pid"], b.pid());
    assert!(told[1]["pid"].as_i64().is_some_and(|p| p > 0 && p != b.pid() as i64), "{}", told[1]);
}
