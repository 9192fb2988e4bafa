#![no_main]
//! config.json → Spec → Plan on four hosts, with both cgroup drivers; what is refused is told with its place.

#[path = "common.rs"]
mod common;

use conex::bundle::{self, show::Level};
use conex::oci::config::Spec;
use conex::plan::{self, cgroup::Driver, Options};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parsed = match bundle::parse_all::<Spec>(data, "config.json") {
        Ok(parsed) => parsed,
        Err(e) => return drop(e.to_string()),
    };
    for e in parsed.bad.iter().chain(&parsed.unknown) {
        assert!(
            bundle::show::block(Level::Error, data, "config.json", e, true).contains("config.json")
        );
    }
    let spec = parsed.value;
    for (i, facts) in common::hosts().iter().enumerate() {
        let options = Options {
            id: "c1".into(),
            bundle: "/bundle".into(),
            cgroup_driver: if i == 2 { Driver::Systemd } else { Driver::Cgroupfs },
            preserved: vec![3],
            listen_fds: (i % 2) as u32,
            notify_dir: (i == 1).then(|| "/run/x".into()),
            ..Options::default()
        };
        match plan::make(&spec, &options, facts) {
            Ok(plan) => {
                if let Some(filter) = &plan.process.seccomp {
                    let _ = conex::seccomp::compile::compile(&filter.profile);
                }
                if let Some(rules) = &plan.cgroup.devices {
                    let _ = (rules.program(), rules.v1_lines());
                }
                let cgroup = &plan.cgroup;
                let _ = plan::limits::systemd::properties(
                    &cgroup.limits,
                    &cgroup.hierarchies,
                    (None, 100_000),
                );
                let _ = plan::limits::files(&cgroup.limits, &cgroup.hierarchies);
            }
            Err(errors) => {
                assert!(!errors.is_empty() && errors.len() < 50);
                let told = bundle::join(bundle::locate(data, errors)).to_string();
                assert!(!told.is_empty());
            }
        }
    }
});
