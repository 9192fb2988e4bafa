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
        for m in limiting
            .iter()
            .filter(|m| !m.join(&above).join("cgroup.type").exists() && m.join(name).exists())
        {
            std::fs::write(
                m.join(&above).join(name),
                std::fs::read_to_string(m.join(name)).unwrap(),
            )
            .unwrap();
        }
    }
    let boxes = [Box::sh("sleep 100"), Box::sh("sleep 100")];
    let shims: Vec<_> = boxes.iter().map(|b| Shim::start_in(b, &cgroup)).collect();
    for (b, shim) in boxes.iter().zip(&shims) {
        shim.create(b, &Stdio::default());
        shim.start_task(&b.id, "");
        let server = shim.pid(&b.id);
        let task =
            shim.ok::<ConnectResponse>("Connect", &IdRequest { id: b.id.clone() }).task_pid as i32;
        let keeper = parent(server);
        for m in &limiting {
            let there = members(&m.join(&cgroup[1..]));
            assert!(
                there.contains(&server) && there.contains(&keeper),
                "{}: {there:?}",
                m.display()
            );
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
    until(
        || limiting.iter().all(|m| !m.join(&above).join("made").exists()),
        "the end of the shims' cgroup",
    );
    for m in &limiting {
        std::fs::remove_dir(m.join(&above)).unwrap();
    }
}

/// Whatever umask containerd gave it, what a shim makes is written by nobody else: files beside the bundle, directories and
/// files of a log, the pid file of an exec, the socket.
#[test]
fn what_a_shim_writes_is_the_owners() {
    use std::os::unix::fs::PermissionsExt;
    if !is_ours() {
        return;
    }
    let walk = |dir: &std::path::Path| {
        let (mut found, mut todo) = (Vec::new(), vec![dir.to_path_buf()]);
        while let Some(path) = todo.pop() {
            let Ok(meta) = path.symlink_metadata() else { continue };
            // The client's own.
            let ours = ["rootfs", "events.sock", "log", "shim.log", "config.json"];
            if ours.iter().any(|n| path == dir.join(n)) {
                continue;
            }
            if meta.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().flatten().map(|e| e.path()));
            }
            if !meta.is_symlink() {
                found.push((path, meta.permissions().mode() & 0o777));
            }
        }
        found
    };
    let b = Box::sh("echo x; sleep 100");
    b.write_config();
    let shim = Shim::start_below(&b, &["sh", "-c", "umask 0; exec \"$@\"", "sh"]);
    let out = b.dir.join("logs/of/it");
    shim.create(&b, &Stdio { stdout: format!("file://{}", out.display()), ..Stdio::default() });
    shim.start_task(&b.id, "");
    let mut all = Vec::new();
    for n in 0..3 {
        let exec = format!("e{n}");
        shim.exec(&b.id, &exec, &["sleep", if n == 0 { "100" } else { "0" }], &Stdio::default())
            .unwrap();
        shim.start_task(&b.id, &exec);
        all.extend(walk(&b.dir));
    }
    all.push((
        shim.address.clone(),
        std::fs::metadata(&shim.address).unwrap().permissions().mode() & 0o777,
    ));
    let above = shim.address.parent().unwrap();
    all.push((above.to_path_buf(), std::fs::metadata(above).unwrap().permissions().mode() & 0o777));
    all.extend(walk(
        &std::env::var_os("CONEX_TEST_DIR")
            .map(PathBuf::from)
            .unwrap()
            .join("shim-state/conex-test")
            .join(&b.id),
    ));
    assert!(all.iter().any(|(p, _)| *p == out), "{all:?}");
    assert!(all.iter().any(|(p, _)| p.ends_with("state.json")), "{all:?}");
    let open: Vec<_> = all
        .iter()
        .filter(|(_, mode)| mode & 0o022 != 0)
        .map(|(p, m)| format!("{} {m:o}", p.display()))
        .collect();
    assert!(open.is_empty(), "others may write {open:?}");
    let dir = b.dir.clone();
    shim.finish(&b.id);
    let open: Vec<_> = walk(&dir).into_iter().filter(|(_, mode)| mode & 0o022 != 0).collect();
    assert!(open.is_empty(), "others may write {open:?}");
}
