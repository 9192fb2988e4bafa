//! The mounts that a create brings for its root file system.

use crate::client::*;
use crate::harness::*;
use conex_proto::task::*;
use conex_proto::types::Mount;
use std::path::PathBuf;

/// The box's root file system moved aside: what is mounted at `rootfs` decides.
fn aside(b: &Box) -> PathBuf {
    let path = b.dir.join("source");
    std::fs::rename(b.rootfs(), &path).unwrap();
    path
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        r#type: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|o| o.to_string()).collect(),
    }
}

fn mounted(b: &Box) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().any(|l| l.split(' ').nth(4) == Some(b.rootfs().to_str().unwrap()))
}

/// Runs the box on these mounts, and checks that nothing stays.
#[track_caller]
fn run(b: &Box, shim: Shim, rootfs: Vec<Mount>) -> String {
    let out = Reader::new(b.dir.join("o"));
    let stdio = Stdio { stdout: out.uri(), stderr: out.uri(), ..Stdio::default() };
    let request = CreateTaskRequest { rootfs, ..shim.create_request(b, &stdio) };
    shim.ok::<CreateTaskResponse>("Create", &request);
    shim.start_task(&b.id, "");
    shim.wait(&b.id, "");
    shim.delete(&b.id, "");
    assert!(!mounted(b), "the rootfs is still mounted");
    shim.finish(&b.id);
    out.text()
}

#[test]
fn an_overlay_of_a_hundred_layers() {
    let b = Box::sh("cat /n0 /n1 /n99; touch /written; echo done");
    let shim = Shim::start(&b);
    let base = aside(&b);
    // Together they exceed the page that mount(2) takes; from their common directory they fit.
    let parent = b.dir.join("a-directory-with-a-name-that-takes-its-room-in-the-options");
    std::fs::create_dir(&parent).unwrap();
    let base = {
        std::fs::rename(&base, parent.join("base")).unwrap();
        parent.join("base")
    };
    let layers: Vec<String> = (0..100)
        .map(|i| {
            let dir = parent.join(format!("l{i:03}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join(format!("n{i}")), format!("{i} ")).unwrap();
            dir.to_string_lossy().into_owned()
        })
        .chain([base.to_string_lossy().into_owned()])
        .collect();
    let (upper, work) = (b.dir.join("upper"), b.dir.join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    // An overlay on an overlay or tmpfs may have no upper directory: the test directory's own file system decides.
    let lower = format!("lowerdir={}", layers.join(":"));
    assert!(lower.len() > 4096);
    let options =
        [format!("workdir={}", work.display()), format!("upperdir={}", upper.display()), lower];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let out = run(&b, shim, vec![mount("overlay", "overlay", &options)]);
    assert_eq!(out, "0 1 99 done\n");
    assert!(upper.join("written").exists());
}

#[test]
fn a_bind_and_one_that_fails() {
    let b = Box::sh("touch /x 2>&1 || echo read-only");
    let shim = Shim::start(&b);
    let source = aside(&b);
    let bad = vec![
        mount("bind", source.to_str().unwrap(), &["rbind", "rw"]),
        mount("ext4", "/nothing/there", &["ro"]),
    ];
    let request = CreateTaskRequest { rootfs: bad, ..shim.create_request(&b, &Stdio::default()) };
    let e = shim.call::<CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(e.message.contains("failed to mount rootfs component"), "{e:?}");
    assert!(!mounted(&b), "the first mount is left");
    let out = run(&b, shim, vec![mount("bind", source.to_str().unwrap(), &["rbind", "ro"])]);
    assert!(out.contains("read-only"), "{out}");
}

#[test]
fn an_image_in_a_file() {
    let b = Box::sh("grep ' / ' /proc/mounts | cut -d' ' -f3; echo from-the-image");
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/cut")).unwrap();
    let shim = Shim::start(&b);
    let (source, image) = (aside(&b), b.dir.join("image.ext4"));
    let made = std::process::Command::new("/sbin/mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-d",
            source.to_str().unwrap(),
            image.to_str().unwrap(),
            "16M",
        ])
        .status();
    if !made.is_ok_and(|s| s.success()) || !std::path::Path::new("/dev/loop-control").exists() {
        skip("rootfs::an_image_in_a_file", "no mke2fs or no loop devices");
        return shim.finish(&b.id);
    }
    let out = run(&b, shim, vec![mount("ext4", image.to_str().unwrap(), &["loop", "rw"])]);
    assert_eq!(out, "ext4\nfrom-the-image\n");
}

#[test]
fn mapped_ids() {
    if lacks("mount_setattr", "mapped_ids") {
        return;
    }
    if !is_ours() {
        return;
    }
    let script = "stat -c %u /bin/busybox; touch /made; stat -c %u /made";
    let maps = ["uidmap=0:100000:65536", "gidmap=0:100000:65536"];
    // What is root's on disk is 100000's in the mount.
    let b = Box::sh(script);
    let shim = Shim::start(&b);
    if maps_no_ids(&b.dir, "mapped_ids") {
        return;
    }
    let source = aside(&b);
    let mut options = vec!["rbind"];
    options.extend(maps);
    let out = run(&b, shim, vec![mount("bind", source.to_str().unwrap(), &options)]);
    assert!(out.starts_with("100000\n"), "{out}");
    let b = Box::sh("stat -c %u /bin/busybox");
    let shim = Shim::start(&b);
    let lower = format!("lowerdir={}:{}", aside(&b).display(), b.dir.join("second").display());
    std::fs::create_dir(b.dir.join("second")).unwrap();
    let mut options = vec![lower.as_str()];
    options.extend(maps);
    assert_eq!(run(&b, shim, vec![mount("overlay", "overlay", &options)]), "100000\n");
    let b = Box::sh("true");
    let shim = Shim::start(&b);
    let bad = vec![mount("bind", "/tmp", &["bind", "uidmap=0:1"])];
    let request = CreateTaskRequest { rootfs: bad, ..shim.create_request(&b, &Stdio::default()) };
    shim.fails("Create", &request, 3, "expected container:host:size");
    shim.finish(&b.id);
}
