//! What a mount option or a protected path asks for is in force, or the container does not come up.

use crate::harness::*;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::process::Command;

/// A volume may not be redirected into /proc by a symlink of the image, nor by one in an earlier volume.
#[test]
fn no_way_leads_into_proc() {
    for target in ["/proc/self/attr", "/proc", "/proc/1/environ", "../../proc/sys/kernel"] {
        for kind in ["bind", "tmpfs", "below"] {
            if !is_conex() && kind == "tmpfs" {
                // runc before 1.2 lets it through.
                continue;
            }
            let mut b = Box::sh("cat /proc/self/mountinfo");
            let volume = b.dir.join("vol");
            std::fs::create_dir(&volume).unwrap();
            std::fs::write(volume.join("file"), "").unwrap();
            let source =
                if target.ends_with("environ") { volume.join("file") } else { volume.clone() };
            let link = if kind == "below" { volume.join("link") } else { b.rootfs().join("data") };
            symlink(target, link).unwrap();
            match kind {
                "tmpfs" => b.push(
                    "mounts",
                    json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}),
                ),
                "bind" => b.push(
                    "mounts",
                    json!({"destination": "/data", "source": source, "options": ["rbind"]}),
                ),
                _ => {
                    b.push(
                        "mounts",
                        json!({"destination": "/vol", "source": volume, "options": ["rbind"]}),
                    );
                    b.push(
                        "mounts",
                        json!({"destination": "/vol/link", "source": source, "options": ["bind"]}),
                    );
                }
            }
            let r = b.run();
            assert_ne!(r.code, 0, "{target} {kind}: {}", r.out);
            if is_conex() && !(kind == "tmpfs" && target.ends_with("environ")) {
                assert!(r.err.contains("because it is inside /proc"), "{target} {kind}: {}", r.err);
                assert!(r.err.contains(".destination"), "{target} {kind}: {}", r.err);
            }
            b.assert_gone();
        }
    }
}

/// What lxcfs puts there stays allowed, by its own path alone.
#[test]
fn lxcfs_files_in_proc() {
    let mut b = Box::sh("cat /proc/uptime");
    std::fs::write(b.dir.join("uptime"), "forged\n").unwrap();
    b.push(
        "mounts",
        json!({"destination": "/proc/uptime", "source": b.dir.join("uptime"), "options": ["bind"]}),
    );
    assert_eq!(b.run().ok().out, "forged\n");
}

/// mount(2): MS_REMOUNT, MS_BIND and MS_RDONLY are bits. No order of the words makes a new mount.
#[test]
fn remount_is_no_bind_in_any_order() {
    let words = ["remount", "bind", "rbind", "ro", "rw"];
    let mut orders = vec![vec![]];
    for _ in 0..words.len() {
        orders = orders
            .into_iter()
            .flat_map(|o: Vec<&str>| {
                let left: Vec<&str> = words.into_iter().filter(|w| !o.contains(w)).collect();
                left.into_iter().map(move |w| [o.clone(), vec![w]].concat())
            })
            .collect();
    }
    assert_eq!(orders.len(), 120);
    let left_out: [&[&str]; 6] = [&[], &["ro"], &["rw"], &["bind"], &["rbind", "ro"], &["remount"]];
    let mut sets: Vec<Vec<&str>> = Vec::new();
    for order in &orders {
        for without in left_out {
            let options: Vec<&str> =
                order.iter().filter(|w| !without.contains(w)).copied().collect();
            if !sets.contains(&options) {
                sets.push(options);
            }
        }
    }
    for options in sets {
        let mut b = Box::sh(
            "ls /data; (echo x >/data/x) 2>/dev/null && echo writable; grep -c ' /data ' /proc/self/mountinfo",
        );
        std::fs::create_dir(b.dir.join("vol")).unwrap();
        std::fs::write(b.dir.join("vol/wrong"), "").unwrap();
        b.push("mounts", json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
        b.push(
            "mounts",
            json!({"destination": "/data", "source": b.dir.join("vol"), "options": options}),
        );
        let read_only = options.iter().rev().find(|w| matches!(**w, "ro" | "rw")) == Some(&"ro");
        let bound = !options.contains(&"remount");
        let want = match (bound, read_only) {
            (false, true) => "1\n",
            (false, false) => "writable\n1\n",
            (true, true) => "wrong\n2\n",
            (true, false) => "wrong\nwritable\n2\n",
        };
        assert_eq!(b.run().ok().out, want, "{options:?}");
    }
}

/// Each is in force or refused: the mount must not come up as if nothing had been asked for.
#[test]
fn options_that_restrict_are_never_ignored() {
    if !is_conex() {
        // runc before 1.2 takes any option of a bind mount.
        return;
    }
    for option in [
        "size=1k",
        "nosuch",
        "rsync",
        "rmand",
        "uid=5",
        "idmap=",
        "idmap=uids=0-1-1",
        "ridmap=x",
        "subdir=x",
    ] {
        let mut b = Box::sh("true");
        std::fs::create_dir(b.dir.join("vol")).unwrap();
        b.push(
            "mounts",
            json!({"destination": "/m", "source": b.dir.join("vol"), "options": ["rbind", option]}),
        );
        let r = b.run();
        assert_ne!(r.code, 0, "{option}");
        if is_conex() {
            assert!(r.err.contains("mounts[4].options"), "{option}: {}", r.err);
        }
        b.assert_gone();
    }
    if !is_conex() {
        return;
    }
    for option in ["src-nofollow", "dest-nofollow", "copy-symlink"] {
        let mut b = Box::sh("true");
        b.push(
            "mounts",
            json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": [option]}),
        );
        b.run().fails_with("mounts[4].options");
    }
}

/// crun(1): mappings in the option, absolute and relative to the container's user namespace, without and with one.
#[test]
fn idmap_with_mappings_in_the_option() {
    if !is_conex() || lacks("mount_setattr", "idmap_with_mappings_in_the_option") {
        return;
    }
    if maps_no_ids(&Box::sh("true").dir, "idmap_with_mappings_in_the_option") {
        return;
    }
    let probe = "stat -c %u:%g /m/f /m/g";
    let case = |userns: bool, option: &str| {
        let mut b = Box::sh(probe);
        let volume = b.dir.join("vol");
        std::fs::create_dir(&volume).unwrap();
        for (name, uid, gid) in [("f", 0, 0), ("g", 5, 7)] {
            std::fs::write(volume.join(name), "").unwrap();
            std::os::unix::fs::chown(volume.join(name), Some(uid), Some(gid)).unwrap();
        }
        if userns {
            b.push("linux.namespaces", json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
            *b.at("linux.uidMappings") = map.clone();
            *b.at("linux.gidMappings") = map;
            std::fs::create_dir(b.rootfs().join("m")).unwrap();
            // The way to the bundle must be open to the container's root.
            open_the_way(&b);
        }
        b.push(
            "mounts",
            json!({"destination": "/m", "source": volume, "options": ["rbind", option]}),
        );
        b.run().ok().out
    };
    assert_eq!(case(false, "idmap=uids=0-1000-10;gids=0-2000-10"), "1000:2000\n1005:2007\n");
    assert_eq!(case(false, "ridmap=uids=0-1000-1#5-77-1;gids=0-2000-10"), "1000:2000\n77:2007\n");
    // In a user namespace the host's ids 100000 and following are 0 and following.
    assert_eq!(case(true, "idmap=uids=@0-0-10;gids=@0-3-10"), "0:3\n5:10\n");
    assert_eq!(case(true, "idmap=uids=0-100001-10;gids=0-100000-10"), "1:0\n6:7\n");
    assert_eq!(case(true, "idmap"), "0:0\n5:7\n");
}

pub fn open_the_way(b: &Box) {
    use std::os::unix::fs::PermissionsExt;
    for dir in b.dir.ancestors().take_while(|d| *d != std::path::Path::new("/tmp")) {
        let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755));
    }
}

#[test]
fn links_that_are_not_followed() {
    if !is_conex() {
        return;
    }
    let bundle = |script: &str| {
        let b = Box::sh(script);
        std::fs::write(b.dir.join("secret"), "secret\n").unwrap();
        symlink(b.dir.join("secret"), b.dir.join("link")).unwrap();
        b
    };
    // The symlink itself is the mount, whose target is not there inside.
    let mut b = bundle("readlink /m; cat /m 2>/dev/null || echo dangling");
    let to = b.dir.join("secret");
    std::fs::write(b.rootfs().join("m"), "").unwrap();
    b.push(
        "mounts",
        json!({"destination": "/m", "source": "link", "options": ["bind", "src-nofollow"]}),
    );
    assert_eq!(b.run().ok().out, format!("{}\ndangling\n", to.display()));
    // A link that is to be copied, made at each run and found at the next.
    let mut b = bundle("readlink /sub/m");
    b.push(
        "mounts",
        json!({"destination": "/sub/m", "source": "link", "options": ["bind", "copy-symlink"]}),
    );
    for _ in 0..2 {
        assert_eq!(b.run().ok().out, format!("{}\n", b.dir.join("secret").display()));
    }
    std::fs::remove_file(b.rootfs().join("sub/m")).unwrap();
    std::fs::write(b.rootfs().join("sub/m"), "").unwrap();
    b.run().fails_with("mounts[4].destination").fails_with("EEXIST");
    // A source that is no link is bound as ever.
    let mut b = bundle("cat /m");
    b.push(
        "mounts",
        json!({"destination": "/m", "source": "secret", "options": ["bind", "copy-symlink"]}),
    );
    assert_eq!(b.run().ok().out, "secret\n");
    // The symlink of the image is covered, not what it leads to.
    let mut b = bundle("cat /m; cat /target");
    std::fs::write(b.rootfs().join("target"), "target\n").unwrap();
    symlink("target", b.rootfs().join("m")).unwrap();
    b.push(
        "mounts",
        json!({"destination": "/m", "source": "secret", "options": ["bind", "dest-nofollow"]}),
    );
    assert_eq!(b.run().ok().out, "secret\ntarget\n");
    let mut b = bundle("ls /d; cat /n/f");
    std::fs::create_dir(b.dir.join("vol")).unwrap();
    std::fs::write(b.dir.join("vol/f"), "f\n").unwrap();
    b.push(
        "mounts",
        json!({"destination": "/d", "source": "vol", "options": ["bind", "dest-nofollow"]}),
    );
    b.push(
        "mounts",
        json!({"destination": "/n/f", "source": "vol/f", "options": ["bind", "dest-nofollow"]}),
    );
    assert_eq!(b.run().ok().out, "f\nf\n");
}

/// Whatever path the document names is read-only, and so is what is mounted below it.
#[test]
fn read_only_paths_are_in_force() {
    let write = "for f in /a /a/b /a/vol /l; do (echo x >$f/x) 2>/dev/null && echo \"$f open\"; done; echo end";
    let bundle = |paths: &[&str]| {
        let mut b = Box::sh(write);
        for dir in ["a/b", "a/vol", "other"] {
            std::fs::create_dir_all(b.rootfs().join(dir)).unwrap();
        }
        symlink("/a/b", b.rootfs().join("l")).unwrap();
        std::fs::create_dir(b.dir.join("vol")).unwrap();
        b.push(
            "mounts",
            json!({"destination": "/a/vol", "source": b.dir.join("vol"), "options": ["rbind"]}),
        );
        *b.at("linux.readonlyPaths") = json!(paths);
        b
    };
    let recursive = !lacks("mount_setattr", "read_only_paths_are_in_force (below, and the root)");
    assert_eq!(bundle(&[]).run().ok().out, "/a open\n/a/b open\n/a/vol open\n/l open\nend\n");
    for paths in [
        &["/a"][..],
        &["/a", "/a"],
        &["/a/b", "/a"],
        &["/a", "/a/b"],
        &["/not", "/a"],
        &["/a/vol/../../a"],
    ] {
        if !is_conex() && paths.len() == 1 {
            // runc leaves what is mounted below writable.
            continue;
        }
        let b = bundle(paths);
        let r = b.run().ok();
        // Before Linux 5.12 what is mounted below stays as it is.
        let below = if recursive { "" } else { "/a/vol open\n" };
        if is_conex() {
            assert_eq!(r.out, format!("{below}end\n"), "{paths:?}");
        }
    }
    assert_eq!(bundle(&["/l"]).run().ok().out, "/a open\n/a/vol open\nend\n");
    if !is_conex() || !recursive {
        return;
    }
    for path in ["/", "/.", "/a/..", "//"] {
        assert_eq!(bundle(&[path]).run().ok().out, "end\n", "{path}");
    }
    // By a symlink to the root; and `..` behind a symlink leaves what it led to: /deep/up is /a.
    let b = bundle(&["/root-link"]);
    symlink("/", b.rootfs().join("root-link")).unwrap();
    assert_eq!(b.run().ok().out, "end\n");
    let b = bundle(&["/deep/up"]);
    std::fs::create_dir(b.rootfs().join("deep")).unwrap();
    symlink("../l/..", b.rootfs().join("deep/up")).unwrap();
    assert_eq!(b.run().ok().out, "end\n");
}

/// A path inside a volume, a file in one, one behind a symlink of the volume, and a volume on a volume.
#[test]
fn read_only_paths_inside_volumes() {
    if lacks("mount_setattr", "read_only_paths_inside_volumes") {
        return;
    }
    let script = "for f in /vol/x /vol/in/x /vol/file /vol/on/x /vol/in/deep/x; do (echo x >$f) 2>/dev/null && echo \"$f open\"; done; echo end";
    let bundle = |path: &str| {
        let mut b = Box::sh(script);
        for dir in ["vol/in/deep", "vol/on", "second"] {
            std::fs::create_dir_all(b.dir.join(dir)).unwrap();
        }
        std::fs::write(b.dir.join("vol/file"), "").unwrap();
        symlink("in", b.dir.join("vol/link")).unwrap();
        b.push(
            "mounts",
            json!({"destination": "/vol", "source": b.dir.join("vol"), "options": ["rbind"]}),
        );
        b.push(
            "mounts",
            json!({"destination": "/vol/on", "source": b.dir.join("second"), "options": ["bind"]}),
        );
        *b.at("linux.readonlyPaths") = json!([path]);
        b
    };
    let all = ["/vol/x", "/vol/in/x", "/vol/file", "/vol/on/x", "/vol/in/deep/x"];
    for (path, closed) in [
        ("/vol/in", &["/vol/in/x", "/vol/in/deep/x"][..]),
        ("/vol/link", &["/vol/in/x", "/vol/in/deep/x"]),
        ("/vol/in/deep", &["/vol/in/deep/x"]),
        ("/vol/file", &["/vol/file"]),
        ("/vol/on", &["/vol/on/x"]),
        ("/vol/on/../in", &["/vol/in/x", "/vol/in/deep/x"]),
        ("/vol", &all),
    ] {
        if !is_conex() && path == "/vol" {
            // runc leaves what is mounted below writable.
            continue;
        }
        let b = bundle(path);
        let open = all.iter().filter(|f| !closed.contains(f)).map(|f| format!("{f} open\n"));
        assert_eq!(b.run().ok().out, format!("{}end\n", open.collect::<String>()), "{path}");
        // The volume itself, outside, is as it was.
        std::fs::write(b.dir.join("vol/in/deep/y"), "").unwrap();
    }
}

#[test]
fn masked_paths_are_in_force() {
    let look = "cat /s/key /t/key /l/key /vol/key 2>/dev/null; ls /s /t; echo end";
    let bundle = |paths: &[&str]| {
        let mut b = Box::sh(look);
        for dir in ["s", "t"] {
            std::fs::create_dir(b.rootfs().join(dir)).unwrap();
            std::fs::write(b.rootfs().join(dir).join("key"), format!("{dir}\n")).unwrap();
        }
        symlink("t", b.rootfs().join("l")).unwrap();
        std::fs::create_dir(b.dir.join("vol")).unwrap();
        std::fs::write(b.dir.join("vol/key"), "vol\n").unwrap();
        b.push(
            "mounts",
            json!({"destination": "/vol", "source": b.dir.join("vol"), "options": ["rbind"]}),
        );
        *b.at("linux.maskedPaths") = json!(paths);
        b
    };
    let all = ["/s", "/l", "/vol/key"];
    assert_eq!(bundle(&all).run().ok().out, "/s:\n\n/t:\nend\n");
    for end in ["/", "/.", "//", "/./"] {
        let paths = all.map(|p| format!("{p}{end}"));
        let paths = paths.each_ref().map(String::as_str);
        assert_eq!(bundle(&paths).run().ok().out, "/s:\n\n/t:\nend\n", "{end}");
    }
    let twice = ["/s", "/l/key", "/vol/key", "/s", "/l/key", "/vol/key", "/t"];
    assert_eq!(bundle(&twice).run().ok().out, "/s:\n\n/t:\nend\n");
    if !is_conex() {
        return;
    }
    // Where `..` leads behind a symlink is decided by the kernel for the container's programs as well.
    let b = bundle(&["/deep/link/../key", "/s", "/vol/key"]);
    std::fs::create_dir(b.rootfs().join("deep")).unwrap();
    std::fs::create_dir(b.rootfs().join("t/below")).unwrap();
    symlink("/t/below", b.rootfs().join("deep/link")).unwrap();
    assert!(!b.run().ok().out.contains("t\n/"), "the key behind the link is open");
    for path in ["/", "/s/..", "/root-link"] {
        let b = bundle(&[path]);
        symlink("/", b.rootfs().join("root-link")).unwrap();
        b.run().fails_with("linux.maskedPaths[0]");
        b.assert_gone();
    }
}

/// The host's procfs and sysfs do not stay behind in the mount namespace: where one is to be seen in full, the kernel lets a
/// user namespace inside mount a fresh one, without the masks.
#[test]
fn no_pivot_leaves_no_procfs_of_the_host() {
    let nested =
        "mount -t proc proc /tmp 2>&1 && ls -d /tmp/keys; mount -t sysfs sysfs /tmp 2>&1 && ls -d /tmp/kernel";
    let mut b = Box::sh(&format!("busybox unshare -U -r -n -p -f -m sh -c '{nested}'; echo end"));
    *b.at("linux.maskedPaths") = json!(["/proc/keys", "/sys/kernel"]);
    // The host's root may not be mapped without CAP_SETFCAP.
    *b.at("process.user") = json!({"uid": 1000, "gid": 1000});
    std::fs::set_permissions(
        b.rootfs().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    for flag in ["--no-new-keyring", "--no-pivot"] {
        b.write_config();
        let r = b.verb("run", &[flag], &[]).ok();
        assert!(r.out.contains("end") && !r.out.contains("/tmp/"), "{flag}: {}", r.out);
        assert_eq!(
            r.out.matches("ermission denied").count() + r.out.matches("not permitted").count(),
            2,
            "{flag}: {}",
            r.out
        );
    }
}

/// Images have /etc/resolv.conf -> ../run/systemd/…, /var/run -> /run without /run: what is missing is made inside the root.
#[test]
fn destinations_behind_dangling_links() {
    let mut b =
        Box::sh("cat /etc/resolv.conf /deep/a/b/file; ls /data; ls -d /run/x/data /tmp/made/a/b");
    std::fs::write(b.dir.join("file"), "from the host\n").unwrap();
    std::fs::create_dir(b.dir.join("data")).unwrap();
    std::fs::write(b.dir.join("data/inside"), "").unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, b.rootfs().join(at)).unwrap();
    link("../run/systemd/resolve/stub-resolv.conf", "etc/resolv.conf");
    link("/run/x/data", "data");
    link("/../../tmp/made", "deep");
    let (file, data) = (b.dir.join("file"), b.dir.join("data"));
    for (source, destination) in
        [(&file, "/etc/resolv.conf"), (&data, "/data"), (&file, "/deep/a/b/file")]
    {
        b.push(
            "mounts",
            json!({"destination": destination, "source": source, "options": ["bind"]}),
        );
    }
    let r = b.run().ok();
    assert_eq!(
        r.out, "from the host\nfrom the host\ninside\n/run/x/data\n/tmp/made/a/b\n",
        "{}",
        r.err
    );
    // Inside the root, and nowhere else.
    assert!(b.rootfs().join("run/systemd/resolve/stub-resolv.conf").exists());
    assert!(
        !std::path::Path::new("/tmp/made").exists() && !std::path::Path::new("/run/x").exists()
    );
    b.assert_gone();
    // A circle is an error, not a loop.
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, b.rootfs().join(at)).unwrap();
    link("round", "round");
    b.push("mounts", json!({"destination": "/round/x", "source": file, "options": ["bind"]}));
    assert_ne!(b.run().code, 0);
    b.assert_gone();
}

/// A bind without flags keeps those of its source; with one it has what it asks for and no other, as mount(2) has it.
#[test]
fn a_bind_has_the_flags_that_it_asks_for() {
    let mut b = Box::sh("grep ' /v' /proc/self/mountinfo | sort | cut -d' ' -f5,6");
    let source = b.dir.join("source");
    std::fs::create_dir(&source).unwrap();
    let mount = |args: &[&str]| {
        assert!(Command::new("mount").args(args).arg(&source).status().unwrap().success());
    };
    mount(&["-t", "tmpfs", "tmpfs"]);
    mount(&["-o", "remount,bind,ro,nosuid,nodev,noexec,nosymfollow"]);
    let cases = [
        (json!(["bind"]), "ro,nosuid,nodev,noexec,relatime,nosymfollow"),
        (json!(["rbind", "rprivate"]), "ro,nosuid,nodev,noexec,relatime,nosymfollow"),
        (json!(["bind", "rw"]), "rw,relatime"),
        (json!(["rbind", "rslave", "nosuid"]), "rw,nosuid,relatime"),
        (json!(["bind", "ro"]), "ro,relatime"),
        (json!(["bind", "dev"]), "rw,relatime"),
        (json!(["bind", "ro", "noexec", "nosymfollow"]), "ro,noexec,relatime,nosymfollow"),
    ];
    for (i, (options, _)) in cases.iter().enumerate() {
        // As the host has it, below the root file system: some callers write that.
        let at = if i == 2 { b.rootfs().join(format!("v{i}")) } else { format!("/v{i}").into() };
        b.push(
            "mounts",
            json!({"destination": at, "type": "bind", "source": source, "options": options}),
        );
    }
    let r = b.run();
    nix::mount::umount2(&source, nix::mount::MntFlags::MNT_DETACH).unwrap();
    let out = r.ok().out;
    let want: Vec<String> =
        cases.iter().enumerate().map(|(i, (_, flags))| format!("/v{i} {flags}")).collect();
    assert_eq!(out.lines().collect::<Vec<_>>(), want);
    b.assert_gone();
}
