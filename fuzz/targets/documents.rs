#![no_main]
//! The process document of exec, the resources document of update, the record of a container.

#[path = "common.rs"]
mod common;

use conex::bundle::parse;
use conex::check::Check;
use conex::oci::config::{Process, Resources};
use conex::plan;
use conex::state::State;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let hosts = common::hosts();
    if let Ok(process) = parse::<Process>(data, "process.json") {
        for facts in &hosts {
            let mut check = Check::default();
            plan::process::one(&process, "process", facts, None, &mut check);
            let _ = check.finish();
        }
    }
    if let Ok(resources) = parse::<Resources>(data, "r.json") {
        for facts in &hosts {
            let mut check = Check::default();
            let mut limits = plan::resources::limits(&resources, &facts.cgroup, &mut check);
            let hierarchies = &facts.cgroup.hierarchies;
            let _ = (
                check.finish(),
                plan::limits::systemd::properties(&limits, hierarchies, (Some(50_000), 100_000)),
            );
            plan::limits::both_halves(&mut limits, (None, 1));
            let _ = plan::limits::files(&limits, hierarchies);
        }
    }
    if let Ok(state) = serde_json::from_slice::<State>(data) {
        // What was read is written as it was.
        let text = serde_json::to_string(&state).unwrap();
        let again: State = serde_json::from_slice(text.as_bytes()).unwrap();
        assert_eq!(text, serde_json::to_string(&again).unwrap());
    }
});
