//! SELinux, on a host that enforces the policy of tests/hosts/selinux.cil.

use crate::harness::*;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const LABEL: &str = "system_u:system_r:container_t:s0:c1,c2";

fn enforced(test: &str) -> bool {
    let on = std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|t| t.trim() == "1");
    if !on {
        skip(test, "SELinux");
    }
    on
}

fn labelled(script: &str) -> Box {
    let mut b = Box::sh(script);
    std::fs::write(b.rootfs().join("secret"), "secret\n").unwrap();
    let secret = b.rootfs().join("secret");
    finish(Command::new("chcon").arg("system_u:object_r:secret_file_t:s0").arg(&secret), b"").ok();
    *b.at("process.selinuxLabel") = json!(LABEL);
    b
}

#[test]
fn a_label_is_in_force() {
    if !enforced("a_label_is_in_force") {
        return;
    }
    let b = labelled("cat /proc/self/attr/current; echo; cat /secret 2>&1; sleep 100");
    b.up();
    until(|| b.output().lines().count() == 2, "both lines");
    assert!(b.output().starts_with(LABEL), "{}", b.output());
    assert!(b.output().contains("Permission denied"), "{}", b.output());
    // A further process is like init without a label of its own, and may have another one.
    let line = "cat /proc/self/attr/current; echo; cat /secret 2>&1; true";
    let out = b.exec(&["sh", "-c", line]).ok().out;
    assert!(out.starts_with(LABEL) && out.contains("Permission denied"), "{out}");
    let other = "system_u:system_r:kernel_t:s0";
    let out = b.verb("exec", &["--process-label", other], &["sh", "-c", line]).ok().out;
    assert!(out.starts_with(other) && out.ends_with("secret\n"), "{out}");
    b.verb("exec", &["--process-label", "nonsense"], &["true"]).fails_with(if is_conex() {
        "--process-label: "
    } else {
        ""
    });
}

/// The label is written to a procfs that is the runtime's own where all of the root is read-only.
#[test]
fn a_label_below_a_root_that_is_read_only() {
    let name = "a_label_below_a_root_that_is_read_only";
    if !enforced(name) || lacks("mount_setattr", name) {
        return;
    }
    let mut b = labelled("cat /proc/self/attr/current; echo; touch /x 2>/dev/null || echo ro");
    *b.at("linux.readonlyPaths") = json!(["/"]);
    if is_conex() {
        let out = b.run().ok().out;
        assert!(out.starts_with(LABEL) && out.ends_with("ro\n"), "{out}");
    }
}

#[test]
fn the_kernel_writes_a_label_in_its_own_way() {
    if !enforced("the_kernel_writes_a_label_in_its_own_way") {
        return;
    }
    let mut b = labelled("cat /proc/self/attr/current");
    *b.at("process.selinuxLabel") = json!("system_u:system_r:container_t:s0:c1,c2,c3");
    assert!(b.run().ok().out.starts_with("system_u:system_r:container_t:s0:c1.c3"));
}

#[test]
fn a_label_that_is_none_is_an_error() {
    if !enforced("a_label_that_is_none_is_an_error") {
        return;
    }
    let mut b = labelled("true");
    for label in
        ["nonsense", "system_u:system_r:no_such_t:s0", "system_u:system_r:container_t:s0:c9"]
    {
        *b.at("process.selinuxLabel") = json!(label);
        b.create().fails_with(if is_conex() { "process.selinuxLabel" } else { "" });
        b.assert_gone();
    }
    // What the policy forbids is told when the program is executed.
    *b.at("process.selinuxLabel") = json!("system_u:system_r:forbidden_t:s0");
    let r = b.run();
    assert!(r.code != 0 && r.err.to_lowercase().contains("permission denied"), "{}", r.err);
    *b.at("process.selinuxLabel") = json!(LABEL);
    *b.at("linux.mountLabel") = json!("nonsense");
    b.create().fails_with(if is_conex() { "mounts[" } else { "" });
    b.assert_gone();
}

#[test]
fn mounts_have_the_label_of_the_config() {
    if !enforced("mounts_have_the_label_of_the_config") {
        return;
    }
    let mut b = labelled("touch /scratch/file; sleep 100");
    std::fs::create_dir_all(b.rootfs().join("scratch")).unwrap();
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    *b.at("linux.mountLabel") = json!(label);
    b.push("mounts", json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}));
    b.up();
    for path in ["scratch/file", "dev/null"] {
        let path = Path::new("/proc").join(b.pid().to_string()).join("root").join(path);
        until(|| path.exists(), &format!("{}", path.display()));
        let out = finish(Command::new("stat").args(["-c", "%C"]).arg(&path), b"").ok().out;
        assert_eq!(out.trim(), label, "{}", path.display());
    }
}

/// Podman's annotation: what of the mount gets the label.
#[test]
fn the_kind_of_a_mounts_label() {
    if !enforced("the_kind_of_a_mounts_label") || !is_conex() {
        return;
    }
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    for kind in ["context", "fscontext", "rootcontext"] {
        let mut b = labelled("grep ' /scratch ' /proc/self/mountinfo");
        *b.at("linux.mountLabel") = json!(label);
        *b.at("annotations") = json!({"run.oci.mount_context_type": kind});
        b.push("mounts", json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}));
        let out = b.run().ok().out;
        assert!(out.contains(&format!(",{kind}=\"{label}\"")), "{kind}: {out}");
        let others = ["context", "fscontext", "defcontext", "rootcontext"];
        assert!(
            others.iter().all(|o| *o == kind || !out.contains(&format!(",{o}="))),
            "{kind}: {out}"
        );
    }
    let mut b = labelled("true");
    *b.at("linux.mountLabel") = json!(label);
    // The kernel takes this one only for file systems that keep labels in attributes, which a tmpfs does not.
    *b.at("annotations") = json!({"run.oci.mount_context_type": "defcontext"});
    b.run().fails_with("mounts[").fails_with("defcontext=").fails_with("EINVAL");
    b.assert_gone();
    *b.at("annotations") = json!({"run.oci.mount_context_type": "Context"});
    b.run().fails_with("mount_context_type").fails_with("expected context, fscontext");
    b.assert_gone();
}
