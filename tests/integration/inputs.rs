//! Inputs that nobody meant: deep, long, of another shape, no text, from a device or a pipe. Each ends in a clear error
//! within seconds, and leaves nothing.

use crate::harness::*;
use serde_json::{json, Value};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Command, Stdio};
use std::time::Instant;

/// A document as text, with the mark `"@"` replaced.
fn with(b: &Box, text: &str) -> String {
    serde_json::to_string(&b.config).unwrap().replace("\"@\"", text)
}

fn deep(open: &str) -> String {
    let close = if open.starts_with('{') { "}" } else { "]" };
    format!("{}0{}", open.repeat(300_000), close.repeat(300_000))
}

#[test]
fn depth_overflows_nothing() {
    for open in ["[", "{\"x\":"] {
        let mut b = Box::sh("sleep 100");
        // Nobody knows the field: skipped. With another fault the place of that one is told.
        *b.at("unknown") = json!("@");
        std::fs::write(b.dir.join("config.json"), with(&b, &deep(open))).unwrap();
        let file = |name: &str| std::fs::File::create(b.dir.join(name)).unwrap();
        let mut c = b.command(&["create", &b.id]);
        let ran = c.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).status().unwrap();
        assert!(
            ran.success(),
            "{:?}: {}",
            ran,
            std::fs::read_to_string(b.dir.join("err")).unwrap()
        );
        b.verb("start", &[], &[]).ok();
        // What engines pass on unread.
        let process = format!(
            "{{\"unknown\":{},\"cwd\":\"/\",\"args\":[\"/bin/true\"],\"user\":{{}}}}",
            deep(open)
        );
        std::fs::write(b.dir.join("process.json"), &process).unwrap();
        if is_conex() {
            b.verb("exec", &["-p", "process.json"], &[]).ok();
        }
        std::fs::write(b.dir.join("process.json"), process.replace("\"/\"", "7")).unwrap();
        let r = b.verb("exec", &["-p", "process.json"], &[]);
        assert!((1..=255).contains(&r.code), "{}", r.code);
        if is_conex() {
            r.fails_with("cwd");
        }
        let resources = format!("{{\"unknown\":{},\"pids\":{{\"limit\":77}}}}", deep(open));
        std::fs::write(b.dir.join("r.json"), &resources).unwrap();
        if is_conex() {
            b.verb("update", &["-r", "r.json"], &[]).ok();
            assert_eq!(b.cgroup_file("pids", "pids.max"), "77");
        }
        std::fs::write(b.dir.join("r.json"), resources.replace("77", "\"x\"")).unwrap();
        let r = b.verb("update", &["-r", "r.json"], &[]);
        assert!((1..=255).contains(&r.code), "{}", r.code);
        b.verb("delete", &["--force"], &[]).ok();
        *b.at("hostname") = json!(7);
        std::fs::write(b.dir.join("config.json"), with(&b, &deep(open))).unwrap();
        let r = b.verb("create", &[], &[]);
        assert_eq!(r.code, 1, "{}", r.err);
        if is_conex() {
            r.fails_with("hostname");
        }
        b.assert_gone();
    }
    if is_conex() {
        let mut b = Box::sh("true");
        for value in ["[", "uint32 ", "@as "] {
            b.config["annotations"] =
                json!({"org.systemd.property.CollectMode": value.repeat(200_000)});
            b.write_config();
            // The annotation is only read with the systemd driver, which this host need not have.
            let mut c = b.command(&["--systemd-cgroup", "create", &b.id]);
            let r = finish(&mut c, b"");
            assert_eq!(r.code, 1, "{}", &r.err[..r.err.len().min(200)]);
        }
        b.assert_gone();
    }
}

/// A structure of the document is an object. Anything else is an error in the reader's words, before anything is changed.
#[test]
fn another_shape_changes_nothing() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.up();
    let before = b.cgroup_file("pids", "pids.max");
    for (text, field) in [
        ("[]", ""),
        ("[[1]]", ""),
        ("{\"pids\":[5]}", "pids"),
        ("{\"memory\":[],\"pids\":{\"limit\":5}}", "memory"),
        ("{\"devices\":{},\"pids\":{\"limit\":5}}", "devices"),
        ("{\"unified\":[],\"pids\":{\"limit\":5}}", "unified"),
        ("5", ""),
        ("\"x\"", ""),
        ("{\"pids\":{\"limit\":5}", ""),
    ] {
        std::fs::write(b.dir.join("r.json"), text).unwrap();
        b.verb("update", &["-r", "r.json"], &[]).fails_with(field);
        assert_eq!(b.cgroup_file("pids", "pids.max"), before, "{text}");
    }
    for text in ["null", "{}", "{\"pids\":null,\"memory\":null,\"unified\":null,\"rdma\":null}"] {
        std::fs::write(b.dir.join("r.json"), text).unwrap();
        b.verb("update", &["-r", "r.json"], &[]).ok();
    }
    for (path, value) in [
        ("linux", json!([])),
        ("process", json!([true])),
        ("linux.resources", json!([[]])),
        ("mounts.0", json!(["/proc"])),
        ("hooks", json!([])),
        ("process.user", json!([0, 0])),
        ("root", json!(["rootfs"])),
    ] {
        let mut b = Box::sh("true");
        *b.at(path) = value;
        b.run().fails_with("expected an object");
        b.assert_gone();
    }
}

/// The paths of all fields, as [`Box::at`] takes them.
fn fields(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                out.push(path.clone());
                fields(value, path, out);
            }
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, value)| fields(value, format!("{path}.{i}"), out))
        }
        _ => {}
    }
}

/// An answer without its numbers, which are places in the document, ids and times.
fn words(r: &Ran) -> (i32, String, String) {
    let plain = |s: &str| s.chars().filter(|c| !c.is_ascii_digit()).collect();
    (r.code, plain(&r.out), plain(&r.err))
}

/// In an element of a list, and in a process document: with null the same comes out, and the same is said, as without
/// the field.
#[test]
fn null_is_absent_in_lists_too() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("id -u; umask; cat /proc/self/limits | grep -c files; grep -E ' /(more|there) ' /proc/self/mountinfo | wc -l; stat -c %a:%u /dev/x; mkdir /y 2>&1");
    std::fs::create_dir(b.dir.join("vol")).unwrap();
    b.push("mounts", json!({"destination": "/more", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"], "uidMappings": [], "gidMappings": []}));
    b.push(
        "mounts",
        json!({"destination": "/there", "type": "bind", "source": b.dir.join("vol"), "options": ["rbind"]}),
    );
    *b.at("process.rlimits") = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]);
    b.push(
        "linux.devices",
        json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 384, "uid": 0, "gid": 0}),
    );
    b.push(
        "linux.resources.devices",
        json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}),
    );
    *b.at("linux.resources.hugepageLimits") = json!([]);
    *b.at("hooks") = json!({"createRuntime": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 10}]});
    *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": []},
        {"names": ["getcpu"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}]});
    let whole = b.run();
    assert!(whole.out.contains("not permitted"), "{} {}", whole.out, whole.err);
    let mut list = Vec::new();
    fields(&b.config, String::new(), &mut list);
    let mut tried = 0;
    for path in list.iter().filter(|p| p.split('.').any(|w| w.parse::<usize>().is_ok())) {
        let (above, key) = path.rsplit_once('.').unwrap();
        let (above, key) = (above.to_string(), key.to_string());
        let saved = std::mem::replace(b.at(path), Value::Null);
        let null = words(&b.run());
        b.at(&above).as_object_mut().unwrap().remove(&key);
        let absent = words(&b.run());
        assert_eq!(null, absent, "{path}");
        b.at(&above)[key] = saved;
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
    // And of `exec -p`.
    *b.at("process.args.2") = json!("sleep 100");
    b.up();
    let document = b.dir.join("process.json");
    let whole = json!({
        "args": ["/bin/sh", "-c", "id -u; umask; pwd"], "cwd": "/tmp", "env": ["PATH=/bin"], "terminal": false,
        "consoleSize": {"height": 5, "width": 5}, "user": {"uid": 7, "gid": 8, "umask": 18, "additionalGids": [5]},
        "capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}], "noNewPrivileges": true, "oomScoreAdj": 100,
        "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "priority": 0, "flags": []},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}, "apparmorProfile": "", "selinuxLabel": "",
        "execCPUAffinity": {"initial": "", "final": ""},
    });
    let exec = |value: &Value| {
        std::fs::write(&document, value.to_string()).unwrap();
        words(&b.verb("exec", &["-p", "process.json"], &[]))
    };
    assert_eq!(exec(&whole).0, 0);
    let mut list = Vec::new();
    fields(&whole, String::new(), &mut list);
    for path in &list {
        let at = format!("/{}", path.replace('.', "/"));
        let (above, key) = at.rsplit_once('/').unwrap();
        let (mut null, mut absent) = (whole.clone(), whole.clone());
        *null.pointer_mut(&at).unwrap() = Value::Null;
        absent.pointer_mut(above).unwrap().as_object_mut().unwrap().remove(key);
        assert_eq!(exec(&null), exec(&absent), "{path}");
    }
    assert!(list.len() > 30, "{}", list.len());
}

/// Go and C take null for absent, and generators write it: for every field at every place.
#[test]
fn null_is_absent_everywhere() {
    let mut full = Box::sh("true");
    let extra = json!({
        "process": {
            "terminal": false, "consoleSize": {"height": 5, "width": 5}, "apparmorProfile": "", "selinuxLabel": "",
            "oomScoreAdj": 5, "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "flags": []},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}, "rlimits": [],
            "execCPUAffinity": {"initial": "", "final": ""}, "user": {"umask": 18, "additionalGids": [5]},
            "capabilities": {"ambient": [], "inheritable": []},
        },
        "root": {"readonly": true}, "domainname": "d", "annotations": {},
        "hooks": {"prestart": [], "createRuntime": [], "createContainer": [], "startContainer": [], "poststart": [], "poststop": []},
        "linux": {
            "timeOffsets": {}, "netDevices": {}, "sysctl": {}, "rootfsPropagation": "", "mountLabel": "", "uidMappings": [],
            "gidMappings": [], "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": [], "flags": [], "listenerPath": "", "listenerMetadata": "", "syscalls": []},
            "resources": {"memory": {"limit": 100000000, "swappiness": 10}, "cpu": {"shares": 100, "cpus": "", "mems": ""}, "pids": {"limit": 50},
                "blockIO": {"weightDevice": [], "throttleReadBpsDevice": []}, "hugepageLimits": [], "network": {"priorities": []}, "rdma": {}, "unified": {}},
        },
    });
    fn merge(to: &mut Value, from: &Value) {
        match (to, from) {
            (Value::Object(to), Value::Object(from)) => {
                from.iter().for_each(|(k, v)| merge(to.entry(k.clone()).or_insert(Value::Null), v))
            }
            (to, from) => *to = from.clone(),
        }
    }
    merge(&mut full.config, &extra);
    // Required, or required by another one.
    let needed = [
        "ociVersion",
        "root",
        "root.path",
        "process.cwd",
        "process.args",
        "linux.namespaces",
        "linux",
        "linux.seccomp.defaultAction",
        "process.capabilities.permitted",
        "process.scheduler.policy",
        "process.ioPriority.class",
    ];
    let mut list = Vec::new();
    fields(&full.config, String::new(), &mut list);
    let mut tried = 0;
    for path in list {
        if needed.contains(&path.as_str())
            || path.rsplit('.').nth(1).is_some_and(|i| i.parse::<usize>().is_ok())
            || path == "process.env" && !is_conex()
        {
            continue;
        }
        let saved = std::mem::replace(full.at(&path), Value::Null);
        let r = full.run();
        // Without its PATH or its mounts the program may not be found; the document was read.
        let read = r.code == 0 || matches!(path.as_str(), "process.env" | "process" | "mounts");
        assert!(read && !r.err.contains("invalid type"), "{path}: {}", r.err);
        *full.at(&path) = saved;
        tried += 1;
    }
    assert!(tried > 60, "{tried}");
    if is_conex() {
        *full.at("ociVersion") = Value::Null;
        full.run().fails_with("ociVersion: required");
    }
}

/// The time for a document grows with its length, not with the square of it.
#[test]
fn long_documents_take_no_minutes() {
    let many = |item: &dyn Fn(usize) -> Value| json!((0..20_000).map(item).collect::<Vec<_>>());
    let cases: Vec<(&str, Value)> = vec![
        ("process.env", many(&|i| json!(format!("novalue{i}")))),
        ("process.env", many(&|i| json!(format!("A{i}=x")))),
        ("process.capabilities.bounding", many(&|i| json!(format!("CAP_{i}")))),
        ("process.rlimits", many(&|_| json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1}))),
        ("process.user.additionalGids", many(&|i| json!(i))),
        ("linux.devices", many(&|i| json!({"path": format!("/dev/x/{i}"), "type": "x"}))),
        (
            "linux.devices",
            many(&|i| json!({"path": "/dev/same", "type": "c", "major": 1, "minor": i})),
        ),
        (
            "linux.resources.devices",
            many(&|i| json!({"allow": true, "type": "c", "major": i, "access": "q"})),
        ),
        ("mounts", many(&|i| json!({"destination": format!("/m{i}")}))),
        ("mounts.0.options", many(&|i| json!(format!("o{i}=1")))),
        ("linux.uidMappings", many(&|i| json!({"containerID": i, "hostID": i, "size": 1}))),
        ("linux.namespaces", many(&|_| json!({"type": "pid"}))),
        ("linux.maskedPaths", many(&|i| json!(format!("relative{i}")))),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many(&|i| json!({"names": [format!("call{i}")], "action": "SCMP_ACT_ERRNO"}))}),
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": many(&|i| json!(format!("call{i}"))), "action": "SCMP_ACT_ERRNO"}]}),
        ),
        (
            "linux.seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": many(&|i| json!({"index": i, "op": "SCMP_CMP_EQ", "value": i}))}]}),
        ),
        ("hooks", json!({"poststop": many(&|i| json!({"path": format!("x{i}")}))})),
        (
            "annotations",
            json!((0..20_000)
                .map(|i| (format!("k{i}"), "v"))
                .collect::<std::collections::BTreeMap<_, _>>()),
        ),
        (
            "linux.sysctl",
            json!((0..20_000)
                .map(|i| (format!("vm.k{i}"), "v"))
                .collect::<std::collections::BTreeMap<_, _>>()),
        ),
        (
            "linux.netDevices",
            json!((0..20_000)
                .map(|i| (format!("eth{i}x"), json!({})))
                .collect::<std::collections::BTreeMap<_, _>>()),
        ),
        (
            "linux.resources.unified",
            json!((0..20_000)
                .map(|i| (format!("cpu/{i}"), "1"))
                .collect::<std::collections::BTreeMap<_, _>>()),
        ),
    ];
    for (path, value) in cases {
        let mut b = Box::sh("true");
        if path.starts_with("linux.seccomp") {
            b.config["linux"]["seccomp"] = json!({});
        }
        *b.at(path) = value;
        b.write_config();
        let begin = Instant::now();
        let r = b.verb("run", &[], &[]);
        let took = begin.elapsed();
        assert!(took < within(5), "{path}: {took:?}");
        assert!(r.err.len() < 40_000, "{path}: an error of {} bytes", r.err.len());
        if is_conex() && r.code != 0 {
            // At most 20 are told, with how many more there are.
            let told = r.err.matches("(config.json line ").count();
            assert!(told <= 20, "{path}: {told} problems in {}", r.err);
        }
        b.assert_gone();
    }
}

/// A document is a regular file: neither a device without an end nor a pipe without a writer is waited for.
#[test]
fn documents_that_are_no_files() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("sleep 100");
    b.up();
    let other = Box::sh("true");
    for kind in ["/dev/zero", "fifo", "directory", "/dev/tty", "socket"] {
        let config = other.dir.join("config.json");
        let _ = std::fs::remove_file(&config);
        let _socket = match kind {
            "fifo" => {
                nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRUSR).map(|()| None).unwrap()
            }
            "directory" => std::fs::create_dir(&config).map(|()| None).unwrap(),
            "socket" => Some(std::os::unix::net::UnixListener::bind(&config).unwrap()),
            device => std::os::unix::fs::symlink(device, &config).map(|()| None).unwrap(),
        };
        let begin = Instant::now();
        other.verb("run", &[], &[]).fails_with("config.json");
        let path = config.to_str().unwrap();
        if kind != "fifo" {
            b.verb("exec", &["-p", path], &[]).fails_with("config.json");
            b.verb("update", &["-r", path], &[]).fails_with("config.json");
        }
        assert!(begin.elapsed() < within(5), "{kind}");
        if kind == "directory" {
            std::fs::remove_dir(&config).unwrap();
        }
    }
    // A pipe that somebody writes to is what a shell's <( ) gives.
    let line = format!(
        "exec {} --root {} exec -p <(echo '{{\"cwd\":\"/\",\"args\":[\"echo\",\"piped\"],\"env\":[\"PATH=/bin\"]}}') {}",
        runtime().display(),
        b.state_root().display(),
        b.id
    );
    let r = finish(Command::new("/bin/bash").args(["-c", &line]).current_dir(&b.dir), b"");
    assert_eq!(r.out, "piped\n", "{}", r.err);
}

/// Arguments, variables and paths are bytes to the kernel.
#[test]
fn what_is_no_text_passes_unchanged() {
    if !is_conex() {
        // Go replaces what is no UTF-8 on its way through JSON.
        return;
    }
    let odd = OsString::from_vec(b"o\xff\xfe\xc3d".to_vec());
    let odd_dir = std::env::temp_dir()
        .join(OsString::from_vec(format!("conex-{}-", std::process::id()).into_bytes()));
    let odd_dir = OsString::from_vec([odd_dir.as_os_str().as_bytes(), odd.as_bytes()].concat());
    let mut b = Box::sh("true");
    // The whole bundle lies below a name that is no text.
    std::fs::rename(&b.dir, &odd_dir).unwrap();
    b.dir = odd_dir.clone().into();
    std::fs::create_dir(b.dir.join("vol")).unwrap();
    std::fs::write(b.dir.join("vol").join(&odd), "content\n").unwrap();
    std::fs::create_dir(b.rootfs().join(&odd)).unwrap();
    let raw = |text: &str| [b"\"".as_slice(), text.as_bytes(), odd.as_bytes(), b"\""].concat();
    // sh -c 'script' name argument: what is printed is compared as bytes.
    *b.at("process.args") = json!([
        "/bin/sh",
        "-c",
        "echo \"$1|$V|$PWD\"; cd /m; echo *; cat *; head -c 4 /masked/*; sleep 100",
        "sh",
        "@arg"
    ]);
    *b.at("process.env") = json!(["PATH=/bin", "@env"]);
    *b.at("process.cwd") = json!("@cwd");
    b.push("mounts", json!({"destination": "/m", "source": "vol", "options": ["bind"]}));
    b.push("mounts", json!({"destination": "@dest", "source": "@source", "options": ["bind"]}));
    b.push("linux.maskedPaths", json!("@masked"));
    let mut text = serde_json::to_vec(&b.config).unwrap();
    for (mark, with) in [
        ("\"@arg\"", raw("")),
        ("\"@env\"", raw("V=")),
        ("\"@cwd\"", raw("/")),
        ("\"@dest\"", raw("/copied/")),
        ("\"@source\"", raw("vol/")),
        ("\"@masked\"", raw("/masked/")),
    ] {
        let at = text.windows(mark.len()).position(|w| w == mark.as_bytes()).unwrap();
        text.splice(at..at + mark.len(), with);
    }
    std::fs::create_dir(b.rootfs().join("masked")).unwrap();
    std::fs::write(b.rootfs().join("masked").join(&odd), "secret").unwrap();
    std::fs::write(b.dir.join("config.json"), text).unwrap();
    let file = |name: &str| std::fs::File::create(b.dir.join(name)).unwrap();
    let pid_file = OsString::from_vec([b"pid-".as_slice(), odd.as_bytes()].concat());
    let mut c = b.command(&["run", "--detach"]);
    c.arg("--bundle").arg(&b.dir).arg("--pid-file").arg(&pid_file).arg(&b.id);
    let ran = c.stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).status().unwrap();
    assert!(
        ran.success(),
        "{}",
        String::from_utf8_lossy(&std::fs::read(b.dir.join("err")).unwrap())
    );
    let want = [
        odd.as_bytes(),
        b"|",
        odd.as_bytes(),
        b"|/",
        odd.as_bytes(),
        b"\n",
        odd.as_bytes(),
        b"\ncontent\n",
    ]
    .concat();
    until(|| std::fs::read(b.dir.join("out")).unwrap() == want, "the bytes of the document");
    assert_eq!(
        std::fs::read(b.rootfs().join("copied").join(&odd)).unwrap(),
        b"",
        "the mount point"
    );
    assert!(b.dir.join(&pid_file).exists());
    // The same on the command line of exec.
    let mut c = b.command(&["exec", "--env"]);
    c.arg(OsString::from_vec([b"W=".as_slice(), odd.as_bytes()].concat())).arg("--cwd");
    c.arg(OsString::from_vec([b"/".as_slice(), odd.as_bytes()].concat())).arg(&b.id);
    let out = c.args(["sh", "-c", "echo \"$1|$W|$PWD\"", "sh"]).arg(&odd).output().unwrap();
    let want = [odd.as_bytes(), b"|", odd.as_bytes(), b"|/", odd.as_bytes(), b"\n"].concat();
    assert_eq!(out.stdout, want, "{}", String::from_utf8_lossy(&out.stderr));
    // What is to be printed as JSON is readable.
    assert!(b.state()["bundle"].as_str().unwrap().contains("conex-"));
    b.verb("kill", &[], &["KILL"]).ok();
    b.wait_status("stopped");
    b.verb("delete", &[], &[]).ok();
    assert_ne!(odd, OsStr::new(""));
}
