#![no_main]
//! The document that one server of the shim leaves to the next, the ring of a stream, and what a keeper tells of an exit.

use conex_proto::prost::Message;
use conex_proto::shim::{Connection, Container, Document, Process, Sandbox, Time};
use containerd_shim_conex::io::ring::Ring;
use containerd_shim_conex::report::events;
use containerd_shim_conex::survival::{save, store};
use std::io::Write;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Not `upgrade::read`: numbers of descriptors in it are this process's own.
    if let Ok(document) = Document::decode(data) {
        for r in &document.records {
            let _ = (Container::decode(&*r.text), Connection::decode(&*r.text));
            let sandbox = Sandbox::decode(&*r.text).unwrap_or_default();
            let process = Process::decode(&*r.text).unwrap_or_default();
            let exits = [process.exit, process.reaped].into_iter().flatten();
            let exits = exits.map(|e| Time { seconds: e.seconds, nanos: e.nanos });
            for time in [sandbox.created, sandbox.stopped].into_iter().flatten().chain(exits) {
                // As an event or an answer tells it.
                let _ = events::timestamp(save::time(time)).encode_to_vec();
            }
        }
        assert_eq!(
            Document::decode(&*document.encode_to_vec()).unwrap().records.len(),
            document.records.len()
        );
    }
    let _ = store::parse(&String::from_utf8_lossy(data));
    let fd = conex_sys::fd::memfd_data("ring").unwrap();
    let mut file = std::fs::File::from(fd);
    file.write_all(data).unwrap();
    if let Ok(ring) = Ring::resume(file.into()) {
        let mut buffer = [0u8; 100];
        let (push, n) = (ring.push(&data[..data.len().min(90)]), ring.peek(&mut buffer));
        if let (Ok(()), Ok(n)) = (push, n) {
            let _ = ring.consume(&buffer[..n]);
        }
    }
});
