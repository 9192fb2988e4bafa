#![no_main]
//! Profiles: the compiled filter, run on system calls, against what the profile means and against libseccomp's filter.

#[allow(dead_code)]
#[path = "../../tests/oracle/seccomp.rs"]
mod oracle;

use conex::seccomp::bpf::run;
use conex::seccomp::compile::{compile, lookup};
use conex::seccomp::{self as ours, Abi};
use oracle::*;
use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    let names = NAMES.get_or_init(common_names);
    let mut r = Random::from_bytes(data);
    let simple = r.below(2) == 0;
    let profile = random_profile(&mut r, names, simple);
    let Ok(mine) = compile(&profile) else { return };
    let theirs = if simple { oracle(&profile) } else { None };
    for (abi, arch, base) in ARCHES {
        let highest =
            profile.rules.iter().flat_map(|x| &x.names).filter_map(|n| lookup(n, abi)).max();
        for i in 0..20 {
            let nr = match profile.rules.is_empty() || i % 4 == 3 {
                true => r.below(480) as u32,
                false => {
                    let rule = r.below(profile.rules.len());
                    lookup(&profile.rules[rule].names[0], abi).unwrap_or(0)
                }
            };
            let args = [0; 6].map(|_: u64| r.pick(&VALUES));
            let verdict = run(&mine, arch, base + nr, args);
            let by_rule = profile.rules.iter().any(|x| lookup(&x.names[0], abi) == Some(nr));
            let shared = abi == Abi::X86
                && profile.rules.iter().any(|x| {
                    matches!(x.names[0].as_str(), "socketcall" | "ipc")
                        && lookup(&x.names[0], abi) == Some(nr)
                });
            if by_rule && !shared {
                assert_eq!(
                    Some(verdict),
                    expected(&profile, abi, nr, args),
                    "{abi:?} {nr} {args:x?} {profile:#?}"
                );
            }
            // libseccomp 2.5 gets some comparisons wrong (two inequalities with 0 in one rule, see the corpus): where a rule
            // speaks, the profile's meaning is the judge.
            if let Some(theirs) = theirs.as_ref().filter(|_| !by_rule || shared) {
                let other = run(theirs, arch, base + nr, args);
                let newer = highest.is_none_or(|h| nr > h);
                let ours_alone =
                    newer && verdict == (ours::RET_ERRNO | 38) && other == profile.default;
                assert!(
                    verdict == other || ours_alone,
                    "{abi:?} {nr} {args:x?} {verdict:#x} {other:#x} {profile:#?}"
                );
            }
        }
    }
});
