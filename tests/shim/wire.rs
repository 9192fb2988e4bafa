//! Bytes that no client should send, and the forms in which the shim is started.

use crate::client::*;
use crate::harness::*;
use conex_proto::{bootstrap, prost::Message, task::*, ttrpc as wire, types};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn frame(length: u32, stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = length.to_be_bytes().to_vec();
    out.extend(stream.to_be_bytes());
    out.extend([kind, 0]);
    out.extend(body);
    out
}

fn answer(stream: &mut UnixStream) -> Option<(u32, wire::Response)> {
    let mut head = [0u8; 10];
    stream.read_exact(&mut head).ok()?;
    let mut body = vec![0u8; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize];
    stream.read_exact(&mut body).ok()?;
    Some((
        u32::from_be_bytes(head[4..8].try_into().unwrap()),
        wire::Response::decode(body.as_slice()).unwrap(),
    ))
}

fn code(r: &wire::Response) -> i32 {
    r.status.as_ref().map_or(0, |s| s.code)
}

#[test]
fn malformed_frames() {
    let b = Box::sh("true");
    let shim = Shim::start(&b);
    if !is_ours() {
        return shim.finish(&b.id);
    }
    let connect = || {
        let s = UnixStream::connect(&shim.address).unwrap();
        s.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        s
    };
    let good = wire::Request {
        service: "containerd.task.v2.Task".into(),
        method: "Connect".into(),
        ..wire::Request::default()
    }
    .encode_to_vec();
    // Not a message.
    let mut s = connect();
    s.write_all(&frame(3, 1, 1, &[0xff; 3])).unwrap();
    assert_eq!(code(&answer(&mut s).unwrap().1), 3);
    // An even stream, then a good one on the same connection.
    s.write_all(&frame(good.len() as u32, 2, 1, &good)).unwrap();
    assert_eq!(code(&answer(&mut s).unwrap().1), 3);
    // Byte by byte.
    for byte in frame(good.len() as u32, 3, 1, &good) {
        s.write_all(&[byte]).unwrap();
    }
    let (stream, response) = answer(&mut s).unwrap();
    assert_eq!((stream, code(&response)), (3, 0));
    // Longer than allowed: refused, the connection goes on.
    let long = (4 << 20) + 1;
    s.write_all(&frame(long, 5, 1, &[])).unwrap();
    assert_eq!(code(&answer(&mut s).unwrap().1), 8);
    s.write_all(&vec![0u8; long as usize]).unwrap();
    s.write_all(&frame(good.len() as u32, 7, 1, &good)).unwrap();
    assert_eq!(answer(&mut s).unwrap().0, 7);
    // Far out of step: closed.
    let mut s = connect();
    s.write_all(&frame(u32::MAX, 1, 1, &[])).unwrap();
    assert_eq!(code(&answer(&mut s).unwrap().1), 8);
    assert!(answer(&mut s).is_none());
    // Half a frame, then gone.
    connect().write_all(&frame(100, 1, 1, &[1, 2, 3])).unwrap();
    shim.finish(&b.id);
}

/// The server keeps a call's deadline by itself; a client that has given up is no reason to leave the work half done.
#[test]
fn deadlines_of_calls() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    if !is_ours() {
        return shim.finish(&b.id);
    }
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    let mut s = UnixStream::connect(&shim.address).unwrap();
    s.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut number = 1;
    let mut call = |method: &str, payload: Vec<u8>, timeout: i64| {
        let request = wire::Request {
            service: "containerd.task.v2.Task".into(),
            method: method.into(),
            payload,
            timeout_nano: timeout,
            ..wire::Request::default()
        };
        let bytes = request.encode_to_vec();
        let begun = std::time::Instant::now();
        s.write_all(&frame(bytes.len() as u32, number, 1, &bytes)).unwrap();
        let (stream, answer) = answer(&mut s).unwrap();
        assert_eq!(stream, number);
        number += 2;
        (code(&answer), begun.elapsed().as_millis())
    };
    let wait = || WaitRequest { id: b.id.clone(), ..WaitRequest::default() }.encode_to_vec();
    let (code, took) = call("Wait", wait(), 300_000_000);
    assert!(code == 4 && (250..5000).contains(&took), "code {code} after {took} ms");
    // The shortest one: what was begun comes to its end all the same.
    let exec = exec_request(&b.id, "e", &["sh", "-c", "exit 9"], &Stdio::default());
    shim.ok::<()>("Exec", &exec);
    let start = StartRequest { id: b.id.clone(), exec_id: "e".into() };
    let (code, _) = call("Start", start.encode_to_vec(), 1);
    assert_eq!(code, 4);
    assert_eq!(shim.wait(&b.id, "e"), 9);
    // Without a deadline, or with one that is none, it is waited for.
    for none in [0, -1] {
        let state = StateRequest { id: b.id.clone(), ..StateRequest::default() };
        assert_eq!(call("State", state.encode_to_vec(), none).0, 0);
    }
    shim.finish(&b.id);
    b.assert_gone();
}

#[test]
fn ten_thousand_random_messages() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    shim.create(&b, &Stdio::default());
    let server = shim.pid(&b.id);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let methods = [
        "State",
        "Create",
        "Start",
        "Delete",
        "Pids",
        "Pause",
        "Resume",
        "Checkpoint",
        "Kill",
        "Exec",
        "ResizePty",
        "CloseIO",
        "Update",
        "Wait",
        "Stats",
        "Connect",
    ];
    for _ in 0..10_000 {
        let method = methods[(random() % methods.len() as u64) as usize];
        let length = (random() % 40) as usize;
        let body: Vec<u8> = (0..length).map(|_| (random() >> 32) as u8).collect();
        let _ = shim.raw("containerd.task.v2.Task", method, body);
    }
    assert_eq!(shim.pid(&b.id), server);
    assert_eq!(shim.start_task(&b.id, ""), shim.state(&b.id, "").pid);
    shim.finish(&b.id);
}

#[test]
fn the_answer_has_the_form_of_the_question() {
    let b = Box::sh("true");
    b.write_config();
    if !is_ours() {
        return;
    }
    let events = Events::listen(&b.dir.join("events.sock"));
    // containerd 2.3: protobuf both ways.
    let params = bootstrap::BootstrapParams {
        instance_id: b.id.clone(),
        namespace: "conex-test".into(),
        containerd_ttrpc_address: events.path.to_string_lossy().into_owned(),
        socket_dir: Some(b.dir.join("s").to_string_lossy().into_owned()),
        extensions: vec![bootstrap::Extension { value: Some(options()) }],
        ..bootstrap::BootstrapParams::default()
    };
    let r = start_command(&b.dir, &b.dir, &b.id)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .and_then(|mut c| {
            c.stdin.take().unwrap().write_all(&params.encode_to_vec())?;
            c.wait_with_output()
        })
        .unwrap();
    assert!(r.status.success() && r.stderr.is_empty());
    let result = bootstrap::BootstrapResult::decode(r.stdout.as_slice()).unwrap();
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    let path = result.address.strip_prefix("unix://").unwrap().to_string();
    assert!(path.starts_with(b.dir.join("s").to_str().unwrap()));
    use std::os::unix::fs::PermissionsExt;
    let mode = |p: &str| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(b.dir.join("s").to_str().unwrap())), (0o600, 0o700));
    // The golden bytes: field 1 the version as varint, 2 the address, 3 the protocol.
    let mut golden = vec![0x08, 3, 0x12, result.address.len() as u8];
    golden.extend(result.address.bytes());
    golden.extend([0x1a, 5]);
    golden.extend(b"ttrpc");
    assert_eq!(r.stdout, golden);
    let mut shim = Shim::connect(&b.dir, path.as_ref(), events);
    shim.service = "containerd.task.v3.Task".into();
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    assert_eq!(shim.wait(&b.id, ""), 0);
    shim.delete(&b.id, "");
    shim.events.wait("/tasks/delete", 1);
    shim.finish(&b.id);
    // containerd 1.7 to 2.2 read JSON, older ones the address alone.
    for json in [true, false] {
        let mut c = start_command(&b.dir, &b.dir, &b.id);
        if json {
            c.env("MAX_SHIM_VERSION", "2");
        }
        let out = finish(&mut c, &options().encode_to_vec()).ok().out;
        if json {
            let v: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert_eq!((v["version"].as_u64(), v["protocol"].as_str()), (Some(2), Some("ttrpc")));
        } else {
            assert!(out.starts_with("unix://") && !out.ends_with('\n'), "{out}");
        }
        let shim =
            Shim::connect(&b.dir, &address(&out), Events::listen(&b.dir.join("events.sock")));
        shim.finish(&b.id);
    }
}

#[test]
fn what_it_can_do() {
    if !is_ours() {
        return;
    }
    let mut c = std::process::Command::new(binary());
    let r = finish(c.arg("-v"), b"").ok();
    assert!(r.out.contains("Version:"), "{}", r.out);
    use std::process::Stdio;
    let mut child = std::process::Command::new(binary())
        .arg("-info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&options().encode_to_vec()).unwrap();
    let out = child.wait_with_output().unwrap();
    let info = types::RuntimeInfo::decode(out.stdout.as_slice()).unwrap();
    let features = info.features.unwrap();
    assert!(features.type_url.ends_with("runtime-spec/1/features/Features"));
    let features: serde_json::Value = serde_json::from_slice(&features.value).unwrap();
    assert!(features["ociVersionMax"].is_string());
}

#[test]
fn nothing_can_be_named_outside_the_bundle() {
    let b = Box::sh("sleep 100");
    let shim = Shim::start(&b);
    if is_ours() {
        shim.create(&b, &Stdio::default());
        let e = shim.exec(&b.id, "../../../x", &["true"], &Stdio::default()).unwrap_err();
        assert_eq!(e.code, 3, "{e:?}");
        let mut c = start_command(&b.dir, &b.dir, "../x");
        finish(&mut c, b"").fails_with("is not an identifier");
        let request =
            CreateTaskRequest { id: "../x".into(), ..shim.create_request(&b, &Stdio::default()) };
        shim.fails("Create", &request, 3, "is not an identifier");
    }
    shim.finish(&b.id);
}
