//! The shim's own cgroup: `shim_cgroup` of `containerd.runc.v1.Options`.

use crate::client::*;
use crate::harness::*;
use conex_proto::task::*;
use std::path::PathBuf;

/// Mount points of the hierarchies that limit: the v1 ones, or the one of v2.
fn limiting() -> (Vec<PathBuf>, Option<PathBuf>) {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of = |kind: &str| -> Vec<PathBuf> {
        let marker = format!(" - {kind} ");
        let lines = text.lines().filter(|l| l.contains(&marker));
        lines.map(|l| l.split(' ').nth(4).unwrap().into()).collect()
    };
    let (v1, v2) = (of("cgroup"), of("cgroup2"));
    match v1.is_empty() {
        true => (v2, None),
        false => (v1, v2.into_iter().next()),
    }
}

fn members(dir: &std::path::Path) -> Vec<i32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(|l| l.parse().unwrap()).collect()
}

/// Two shims in one cgroup below one that is somebody else's: the last one takes what they have made with it.
#[test]
fn a_cgroup_for_the_shims() {
    if !is_ours() {
        return;
    }
    let (limiting, other) = limiting();
    let above = format!("conex-test-shims-{}", std::process::id());
    let cgroup = format!("/{above}/made/here");
    limiting.iter().for_each(|m| std::fs::create_dir(m.join(&above)).unwrap());
    // What systemd does with its own; nobody can enter a cpuset of v1 without CPUs.
    for name in ["cpuset.cpus", "cpuset.mems"] {
        for m in limiting.iter().filter(|m| !m.join(&above).join("cgroup.type").exists() && m.join(name).exists()) {
            std::fs::write(m.join(&above).join(name), std::fs::read_to_string(m.join(name)).unwrap()).unwrap();
        }
    }
    let boxes = [Box::sh("sleep 100"), Box::sh("sleep 100")];
    let shims: Vec<_> = boxes.iter().map(|b| Shim::start_in(b, &cgroup)).collect();
    for (b, shim) in boxes.iter().zip(&shims) {
        shim.create(b, &Stdio::default());
        shim.start_task(&b.id, "");
        let server = shim.pid(&b.id);
        let task = shim.ok::<ConnectResponse>("Connect", &IdRequest { id: b.id.clone() }).task_pid as i32;
        let keeper = parent(server);
        for m in &limiting {
            let there = members(&m.join(&cgroup[1..]));
            assert!(there.contains(&server) && there.contains(&keeper), "{}: {there:?}", m.display());
            assert!(!there.contains(&task), "{}: the container is elsewhere", m.display());
        }
    }
    if let Some(unified) = other {
        assert!(!unified.join(&above).exists(), "not in the v2 tree of a hybrid host");
    }
    let mut shims = shims.into_iter();
    shims.next().unwrap().finish(&boxes[0].id);
    assert!(limiting.iter().all(|m| m.join(&cgroup[1..]).exists()), "the second one is in it");
    shims.next().unwrap().finish(&boxes[1].id);
    until(|| limiting.iter().all(|m| !m.join(&above).join("made").exists()), "the end of the shims' cgroup");
    for m in &limiting {
        std::fs::remove_dir(m.join(&above)).unwrap();
    }
}
