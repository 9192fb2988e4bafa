#![no_main]
//! The frames of a connection, and the request of every method of the task and sandbox services.

use conex_proto::ttrpc::Request;
use conex_proto::{runc, sandbox, task, types};
use containerd_shim_conex::rpc::frame::{Header, HEADER, MAX_MESSAGE};
use containerd_shim_conex::task::{life::options, service::decode};
use containerd_shim_conex::{args, pod, rootfs};
use prost::Message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some(header) = Header::parse(rest) {
        let message = &rest[HEADER..];
        if header.length > MAX_MESSAGE || header.length > message.len() {
            break;
        }
        let (message, after) = message.split_at(header.length);
        rest = after;
        let payload = Request::decode(message).map_or(message.to_vec(), |r| r.payload);
        every(&payload);
    }
    every(data);
});

fn every(payload: &[u8]) {
    if let Ok(r) = decode::<task::CreateTaskRequest>(payload) {
        let _ = (args::check_name("id", &r.id), options(r.options.as_ref()));
        for m in &r.rootfs {
            let target = rootfs::target("/rootfs".as_ref(), &m.target);
            assert!(target.starts_with("/rootfs"));
            let _ = rootfs::shorter(&m.r#type, &m.options.join(","));
            for o in &m.options {
                let _ = rootfs::flag(o);
            }
        }
    }
    if let Ok(r) = decode::<task::ExecProcessRequest>(payload) {
        let _ = args::check_name("exec id", &r.exec_id);
    }
    if let Ok(r) = decode::<sandbox::CreateSandboxRequest>(payload) {
        let _ = pod::config(r.options.as_ref());
    }
    let _ = decode::<task::StartRequest>(payload);
    let _ = decode::<task::DeleteRequest>(payload);
    let _ = decode::<task::KillRequest>(payload);
    let _ = decode::<task::StateRequest>(payload);
    let _ = decode::<task::IdRequest>(payload);
    let _ = decode::<task::UpdateTaskRequest>(payload);
    let _ = decode::<task::CheckpointTaskRequest>(payload);
    let _ = decode::<task::CloseIoRequest>(payload);
    let _ = decode::<task::ResizePtyRequest>(payload);
    let _ = decode::<task::ShutdownRequest>(payload);
    let _ = decode::<task::WaitRequest>(payload);
    let _ = decode::<sandbox::StopSandboxRequest>(payload);
    let _ = decode::<sandbox::SandboxRequest>(payload);
    let _ = decode::<runc::Options>(payload);
    let _ = decode::<types::Envelope>(payload);
}
