//! Checkpoints, as far as the runtime behind the shim has them.

use crate::client::*;
use crate::harness::*;
use conex_proto::{any, events, runc, task::*, types::Status};

const UNKNOWN: i32 = 2;

fn from_checkpoint(shim: &Shim, b: &Box, path: &std::path::Path) -> CreateTaskRequest {
    CreateTaskRequest {
        checkpoint: path.to_string_lossy().into_owned(),
        ..shim.create_request(b, &Stdio::default())
    }
}

#[test]
fn the_word_of_a_runtime_that_cannot_is_passed_on() {
    if !is_ours() || !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    let request = from_checkpoint(&shim, &b, &b.dir.join("image"));
    assert_eq!(shim.ok::<CreateTaskResponse>("Create", &request).pid, 0);
    assert_eq!(shim.state(&b.id, "").status(), Status::Created);
    shim.fails(
        "Exec",
        &exec_request(&b.id, "e", &["true"], &Stdio::default()),
        UNKNOWN,
        "in a created state",
    );
    shim.fails("Stats", &IdRequest { id: b.id.clone() }, 9, "not restored yet");
    let start = StartRequest { id: b.id.clone(), ..Default::default() };
    shim.fails("Start", &start, UNKNOWN, "OCI runtime restore failed: ");
    shim.fails("Start", &start, UNKNOWN, "image");
    assert_eq!(shim.state(&b.id, "").status(), Status::Created);
    shim.delete(&b.id, "");
    b.assert_gone();
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let checkpoint =
        CheckpointTaskRequest { id: b.id.clone(), path: "/proc/nowhere".into(), options: None };
    shim.fails("Checkpoint", &checkpoint, UNKNOWN, "OCI runtime checkpoint failed: ");
    assert_eq!(shim.state(&b.id, "").status(), Status::Running);
    shim.finish(&b.id);
}

/// The process goes on where it was.
#[test]
fn a_task_goes_on_from_its_checkpoint() {
    if !criu_works("a_task_goes_on_from_its_checkpoint") {
        return;
    }
    let b = Box::sh("i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.05; done");
    let count = || {
        std::fs::read_to_string(b.rootfs().join("tmp/n"))
            .ok()
            .and_then(|t| t.trim().parse::<u64>().ok())
    };
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    until(|| count() > Some(10), "it counts");
    let image = b.dir.join("image");
    let options = |exit| {
        Some(any(
            "containerd.runc.v1.CheckpointOptions",
            &runc::CheckpointOptions { exit, ..Default::default() },
        ))
    };
    let checkpoint = |exit| CheckpointTaskRequest {
        id: b.id.clone(),
        path: image.to_string_lossy().into_owned(),
        options: options(exit),
    };
    // It goes on after the first.
    shim.ok::<()>("Checkpoint", &checkpoint(false));
    assert_eq!(shim.state(&b.id, "").status(), Status::Running);
    std::fs::remove_dir_all(&image).unwrap();
    shim.ok::<()>("Checkpoint", &checkpoint(true));
    assert_eq!(shim.wait(&b.id, ""), 137);
    let before = count().unwrap();
    shim.delete(&b.id, "");
    let request = from_checkpoint(&shim, &b, &image);
    assert_eq!(shim.ok::<CreateTaskResponse>("Create", &request).pid, 0);
    assert_eq!(shim.state(&b.id, "").status(), Status::Created);
    let pid = shim.start_task(&b.id, "");
    assert!(pid > 0);
    until(|| count() > Some(before + 3), "it goes on");
    assert!(shim.ok::<StatsResponse>("Stats", &IdRequest { id: b.id.clone() }).stats.is_some());
    shim.exec(&b.id, "e", &["sh", "-c", "exit 5"], &Stdio::default()).unwrap();
    shim.start_task(&b.id, "e");
    assert_eq!(shim.wait(&b.id, "e"), 5);
    shim.delete(&b.id, "e");
    shim.kill(&b.id, "", 9);
    assert_eq!(shim.wait(&b.id, ""), 137);
    let deleted = shim.delete(&b.id, "");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    shim.events.wait("/tasks/delete", 2);
    let created = shim.events.of::<events::TaskCreate>("/tasks/create");
    assert_eq!((created[1].pid, created[1].checkpoint.as_str()), (0, request.checkpoint.as_str()));
    assert_eq!(shim.events.of::<events::TaskStart>("/tasks/start")[1].pid, pid);
    shim.finish(&b.id);
}
