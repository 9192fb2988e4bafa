//! AppArmor, on a host that has it: the profile is in force, a wrong one is an error.

use crate::harness::*;
use serde_json::json;
use std::process::Command;

/// Loads a profile, and removes it at the end.
struct Profile(String);

impl Profile {
    fn load(test: &str) -> Option<Profile> {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|b| b.starts_with(b"Y"));
        let usable = std::path::Path::new("/sys/kernel/security/apparmor/profiles").exists();
        if !enabled || !usable {
            skip(test, "AppArmor");
            return None;
        }
        let name = format!("conex-{}-{test}", std::process::id());
        let rules =
            "file, capability, network, signal, ptrace, mount, umount, pivot_root, unix, deny /denied/** rwklx,";
        let text =
            format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{ {rules} }}\n");
        finish(Command::new("apparmor_parser").args(["-K", "--replace"]), text.as_bytes()).ok();
        Some(Profile(name))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let text = format!("profile {} {{ }}\n", self.0);
        finish(Command::new("apparmor_parser").args(["-K", "--remove"]), text.as_bytes());
    }
}

fn confined(script: &str, profile: &Profile) -> Box {
    let mut b = Box::sh(script);
    std::fs::create_dir(b.rootfs().join("denied")).unwrap();
    std::fs::write(b.rootfs().join("denied/secret"), "secret\n").unwrap();
    *b.at("process.apparmorProfile") = json!(profile.0);
    b
}

#[test]
fn a_profile_is_in_force() {
    let Some(profile) = Profile::load("a_profile_is_in_force") else { return };
    let b = confined("cat /proc/self/attr/current; cat /denied/secret 2>&1; sleep 100", &profile);
    b.up();
    until(|| b.output().lines().count() == 2, "both lines");
    assert!(b.output().starts_with(&format!("{} (enforce)\n", profile.0)), "{}", b.output());
    assert!(b.output().contains("Permission denied"), "{}", b.output());
    // A further process is confined by its own flag, and like init without one.
    let line = "cat /proc/self/attr/current; cat /denied/secret 2>&1; true";
    let out = b.exec(&["sh", "-c", line]).ok().out;
    assert!(out.contains(&profile.0) && out.contains("Permission denied"), "{out}");
    let out = b.verb("exec", &["--apparmor", "unconfined"], &["sh", "-c", line]).ok().out;
    assert!(out.contains("unconfined") && out.contains("secret"), "{out}");
    b.verb("exec", &["--apparmor", "no-such-profile"], &["true"]).fails_with("--apparmor: ");
}

#[test]
fn a_profile_that_is_not_loaded_is_an_error() {
    let Some(profile) = Profile::load("a_profile_that_is_not_loaded_is_an_error") else { return };
    let mut b = confined("true", &profile);
    for name in ["no-such-profile", "a b\n", "../x"] {
        *b.at("process.apparmorProfile") = json!(name);
        b.create().fails_with("process.apparmorProfile");
        b.assert_gone();
    }
    *b.at("process.apparmorProfile") = json!("unconfined");
    assert_eq!(b.run().code, 0);
    // The attack of CVE-2019-16884 and CVE-2023-28642: a mount that hides the real /proc from the runtime.
    let fake = b.dir.join("fake");
    std::fs::create_dir_all(fake.join("self/attr/apparmor")).unwrap();
    std::fs::write(fake.join("self/attr/apparmor/exec"), "").unwrap();
    std::fs::write(fake.join("self/attr/exec"), "").unwrap();
    *b.at("process.apparmorProfile") = json!(profile.0);
    *b.at("mounts.0") = json!({"destination": "/proc", "source": fake, "options": ["rbind"]});
    assert_ne!(b.create().code, 0);
    b.assert_gone();
}
