//! The sandbox service: a pod without a pause process.

use crate::client::*;
use crate::harness::*;
use conex_proto::prost::Message;
use conex_proto::sandbox::*;

const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

fn call<A: Message + Default>(shim: &Shim, method: &str, request: &impl Message) -> Result<A, Failed> {
    let payload = shim.raw(SERVICE, method, request.encode_to_vec())?;
    Ok(A::decode(payload.as_slice()).unwrap())
}

#[test]
fn from_create_to_shutdown() {
    if !is_ours() {
        return;
    }
    let b = Box::sh("trap 'exit 3' TERM; while :; do sleep 0.05; done");
    let shim = Shim::start(&b);
    let id = || SandboxRequest { sandbox_id: "pod".into() };
    assert_eq!(call::<()>(&shim, "PingSandbox", &id()).unwrap_err().code, 5);
    let create = CreateSandboxRequest {
        sandbox_id: "pod".into(),
        bundle_path: b.dir.to_string_lossy().into_owned(),
        ..Default::default()
    };
    call::<()>(&shim, "CreateSandbox", &create).unwrap();
    assert_eq!(call::<()>(&shim, "CreateSandbox", &create).unwrap_err().code, 6);
    let platform = call::<PlatformResponse>(&shim, "Platform", &id()).unwrap().platform.unwrap();
    assert_eq!(platform.os, "linux");
    let started = call::<StartSandboxResponse>(&shim, "StartSandbox", &id()).unwrap();
    assert!(started.pid > 0 && started.created_at.is_some());
    let status = |shim: &Shim| {
        let request = SandboxStatusRequest { sandbox_id: "pod".into(), verbose: false };
        call::<SandboxStatusResponse>(shim, "SandboxStatus", &request).unwrap()
    };
    assert_eq!(status(&shim).state, "SANDBOX_READY");
    // A container of the pod, which must end with it.
    shim.create(&b, &Stdio::default());
    shim.start_task(&b.id, "");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let exited = std::thread::scope(|s| {
        let waiting = s.spawn(|| call::<WaitSandboxResponse>(&shim, "WaitSandbox", &id()).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        let stop = StopSandboxRequest { sandbox_id: "pod".into(), timeout_secs: 10 };
        call::<()>(&shim, "StopSandbox", &stop).unwrap();
        waiting.join().unwrap()
    });
    assert_eq!((exited.exit_status, exited.exited_at.is_some()), (0, true));
    assert_eq!(shim.wait(&b.id, ""), 3, "it was asked before it was killed");
    assert_eq!(status(&shim).state, "SANDBOX_NOTREADY");
    shim.delete(&b.id, "");
    let server = shim.pid(&b.id);
    call::<()>(&shim, "ShutdownSandbox", &id()).unwrap();
    until(|| conex::state::proc_stat(server).is_none_or(|s| s.0 == 'Z'), "the shim ends");
    b.assert_gone();
}
