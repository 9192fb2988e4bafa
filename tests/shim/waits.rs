//! Calls that wait: each is answered, dropped with its connection, or refused; none stops the others.

use crate::client::*;
use crate::harness::*;
use conex_proto::{prost::Message, task::*, ttrpc as wire};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

struct Raw(UnixStream);

impl Raw {
    fn connect(shim: &Shim) -> Raw {
        let stream = UnixStream::connect(&shim.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Raw(stream)
    }

    fn send(&mut self, stream: u32, shim: &Shim, method: &str, request: &impl Message) {
        let request = wire::Request {
            service: shim.service.clone(),
            method: method.into(),
            payload: request.encode_to_vec(),
            ..wire::Request::default()
        }
        .encode_to_vec();
        let mut frame = (request.len() as u32).to_be_bytes().to_vec();
        frame.extend(stream.to_be_bytes());
        frame.extend([1, 0]);
        frame.extend(request);
        self.0.write_all(&frame).unwrap();
    }

    /// Stream and answer.
    fn receive(&mut self) -> (u32, wire::Response) {
        let mut head = [0u8; 10];
        self.0.read_exact(&mut head).unwrap();
        let mut body = vec![0u8; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize];
        self.0.read_exact(&mut body).unwrap();
        (
            u32::from_be_bytes(head[4..8].try_into().unwrap()),
            wire::Response::decode(body.as_slice()).unwrap(),
        )
    }
}

fn up(b: &Box) -> Shim {
    let shim = Shim::start(b);
    shim.create(b, &Stdio::default());
    shim.start_task(&b.id, "");
    shim
}

fn wait_request(b: &Box, exec: &str) -> WaitRequest {
    WaitRequest { id: b.id.clone(), exec_id: exec.into() }
}

/// CRI leaves two Waits for each exec whose start fails. `CONEX_FAILING` sets how many (1,500).
#[test]
fn failing_execs_are_answered() {
    let b = Box::sh("sleep 1000");
    let shim = up(&b);
    let many: u32 =
        std::env::var("CONEX_FAILING").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    let mut raw = Raw::connect(&shim);
    for i in 0..many {
        let id = format!("f{i}");
        shim.exec(&b.id, &id, &["/no/such/program"], &Stdio::default()).unwrap();
        raw.send(4 * i + 1, &shim, "Wait", &wait_request(&b, &id));
        shim.fails(
            "Start",
            &StartRequest { id: b.id.clone(), exec_id: id.clone() },
            2,
            "no such file",
        );
        raw.send(4 * i + 3, &shim, "Wait", &wait_request(&b, &id));
        for _ in 0..2 {
            let (_, answer) = raw.receive();
            assert!(answer.status.is_none(), "{answer:?}");
            let answer = WaitResponse::decode(answer.payload.as_slice()).unwrap();
            assert_eq!(
                (answer.exit_status, answer.exited_at.unwrap().seconds),
                (0, -62_135_596_800)
            );
        }
        shim.delete(&b.id, &id);
    }
    // Deleted before it was started, and with its container.
    if is_ours() {
        for id in ["deleted", "left"] {
            shim.exec(&b.id, id, &["true"], &Stdio::default()).unwrap();
            raw.send(
                if id == "left" { 1_000_001 } else { 1_000_003 },
                &shim,
                "Wait",
                &wait_request(&b, id),
            );
        }
        std::thread::sleep(Duration::from_millis(50));
        shim.delete(&b.id, "deleted");
        assert_eq!(raw.receive().0, 1_000_003);
        shim.kill(&b.id, "", 9);
        shim.wait(&b.id, "");
        shim.delete(&b.id, "");
        assert_eq!(raw.receive().0, 1_000_001);
    }
    shim.finish(&b.id);
}

/// Beyond the limit a call is refused by a code; the connection goes on when others are answered.
#[test]
fn no_number_of_calls_stops_a_connection() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("sleep 1000");
    let shim = up(&b);
    let mut raw = Raw::connect(&shim);
    let many = 20_000;
    let mut reader = Raw(raw.0.try_clone().unwrap());
    let refused = std::thread::spawn(move || {
        (0..many - 16384).map(|_| reader.receive().1).collect::<Vec<_>>()
    });
    for i in 0..many {
        raw.send(2 * i + 1, &shim, "Wait", &wait_request(&b, ""));
    }
    let refused = refused.join().unwrap();
    assert!(refused.iter().all(|r| r.status.as_ref().is_some_and(|s| s.code == 8)));
    // Others are served meanwhile.
    assert_eq!(shim.state(&b.id, "").status(), conex_proto::types::Status::Running);
    shim.kill(&b.id, "", 9);
    for _ in 0..16384 {
        let answer = WaitResponse::decode(raw.receive().1.payload.as_slice()).unwrap();
        assert_eq!(answer.exit_status, 137);
    }
    raw.send(
        2 * many + 1,
        &shim,
        "State",
        &StateRequest { id: b.id.clone(), ..StateRequest::default() },
    );
    let (stream, answer) = raw.receive();
    assert_eq!((stream, answer.status), (2 * many + 1, None));
    shim.finish(&b.id);
}

/// Connections that go away with their calls unanswered leave nothing with the shim.
#[test]
fn calls_go_with_their_connection() {
    let b = Box::sh("sleep 1000");
    let shim = up(&b);
    let rss = || {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", shim.pid(&b.id))).unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let idle = descriptors(shim.pid(&b.id));
    let state = StateRequest { id: b.id.clone(), ..StateRequest::default() };
    let round = || {
        let mut all = Vec::new();
        for n in 0..40u32 {
            let mut raw = Raw::connect(&shim);
            for i in 0..250 {
                raw.send(2 * i + 1, &shim, "Wait", &wait_request(&b, ""));
            }
            // The shim has all of them when it answers a call that came after them, so that each round has 10,000
            // calls at once: what the heap needs at most does not depend on who ran when.
            raw.send(501, &shim, "State", &state);
            assert_eq!(raw.receive().0, 501);
            // Some are cut in the middle of a frame.
            if n % 3 == 0 {
                raw.0.write_all(&[0, 0, 1]).unwrap();
            }
            all.push(raw);
        }
        drop(all);
        closed(&shim, &b.id, &idle);
    };
    // What is free stays with the allocator.
    let grown = |rounds: u32| {
        let before = rss();
        (0..rounds).for_each(|_| round());
        rss().saturating_sub(before) * 4096
    };
    // 40,000 calls, each with its task and request, would be more than 100 megabytes. A leak grows each time; how the
    // allocator cuts its heap does not come thrice.
    let all: Vec<_> = (0..4).map(|_| grown(4)).collect();
    assert!(all.iter().any(|g| *g < 1 << 20), "the shim has grown by {all:?} bytes");
    assert_eq!(shim.state(&b.id, "").status(), conex_proto::types::Status::Running);
    shim.finish(&b.id);
}
