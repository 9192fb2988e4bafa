//! The sandbox service: a pod without a pause process.

use crate::client::*;
use crate::harness::*;
use conex_proto::cri::*;
use conex_proto::prost::Message;
use conex_proto::sandbox::*;
use conex_proto::Any;

fn options(config: &PodSandboxConfig) -> Option<Any> {
    Some(Any { type_url: "runtime.v1.PodSandboxConfig".into(), value: config.encode_to_vec() })
}

const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

fn call<A: Message + Default>(
    shim: &Shim,
    method: &str,
    request: &impl Message,
) -> Result<A, Failed> {
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
    // containerd asks this of the shim of every container that it deletes; the sandbox is still to be shut down.
    let request = conex_proto::task::ShutdownRequest { id: b.id.clone(), now: true };
    shim.ok::<()>("Shutdown", &request);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(status(&shim).state, "SANDBOX_NOTREADY");
    let server = shim.pid(&b.id);
    call::<()>(&shim, "ShutdownSandbox", &id()).unwrap();
    until(|| conex::identity::proc_stat(server).is_none_or(|s| s.0 == 'Z'), "the shim ends");
    b.assert_gone();
}

/// A pod of the kubelet: its own host name, IPC and network, with the sysctls that belong to them; the node's of none.
#[test]
fn a_pod_has_namespaces_of_its_own() {
    if !is_ours() {
        return;
    }
    let mut b = Box::sh(
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmni",
    );
    let shim = Shim::start(&b);
    // Somebody's network namespace, as containerd has it by a path.
    let mut holder = std::process::Command::new("/usr/bin/unshare")
        .args(["--net", "sleep", "100"])
        .spawn()
        .unwrap();
    let netns = format!("/proc/{}/ns/net", holder.id());
    let namespace = |path: &str| std::fs::read_link(path).unwrap();
    until(|| namespace(&netns) != namespace("/proc/self/ns/net"), "a network namespace");
    let mut linux = LinuxPodSandboxConfig::default();
    linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "81".into());
    linux.sysctls.insert("kernel.msgmni".into(), "77".into());
    let mode = |pid: NamespaceMode, network: NamespaceMode| {
        let namespace_options = Some(NamespaceOption {
            pid: pid.into(),
            network: network.into(),
            ..Default::default()
        });
        Some(LinuxSandboxSecurityContext { namespace_options })
    };
    linux.security_context = mode(NamespaceMode::Container, NamespaceMode::Pod);
    let create = |linux: &LinuxPodSandboxConfig| {
        let config = PodSandboxConfig { hostname: "the-pod".into(), linux: Some(linux.clone()) };
        let request = CreateSandboxRequest {
            sandbox_id: "pod".into(),
            netns_path: netns.clone(),
            options: options(&config),
            ..Default::default()
        };
        call::<()>(&shim, "CreateSandbox", &request)
    };
    let server = shim.pid(&b.id);
    let own = |name: &str| namespace(&format!("/proc/{server}/ns/{name}"));
    // What cannot be given is refused before anything has changed.
    let shared = LinuxPodSandboxConfig {
        security_context: mode(NamespaceMode::Pod, NamespaceMode::Pod),
        ..linux.clone()
    };
    let refused = create(&shared).unwrap_err();
    assert!(refused.code == 12 && refused.message.contains("namespace_options.pid"), "{refused:?}");
    let silent = LinuxPodSandboxConfig { security_context: None, ..linux.clone() };
    assert_eq!(create(&silent).unwrap_err().code, 12, "a mode that nobody set is POD");
    for (key, network) in
        [("vm.swappiness", NamespaceMode::Pod), ("net.ipv4.ip_forward", NamespaceMode::Node)]
    {
        let mut bad = linux.clone();
        bad.security_context = mode(NamespaceMode::Container, network);
        bad.sysctls.insert(key.into(), "1".into());
        let refused = create(&bad).unwrap_err();
        assert!(refused.code == 3 && refused.message.contains("linux.sysctls["), "{refused:?}");
    }
    for name in ["net", "uts", "ipc"] {
        assert_eq!(
            own(name),
            namespace(&format!("/proc/self/ns/{name}")),
            "{name}: nothing has changed"
        );
    }
    create(&linux).unwrap();
    assert_eq!(own("net"), namespace(&netns));
    let started: StartSandboxResponse =
        call(&shim, "StartSandbox", &SandboxRequest { sandbox_id: "pod".into() }).unwrap();
    // containerd gives the containers the namespaces of the pid that it was told.
    let list = b.at("linux.namespaces").as_array_mut().unwrap();
    list.retain(|n| !["network", "uts", "ipc"].contains(&n["type"].as_str().unwrap()));
    for (kind, file) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc")] {
        list.push(
            serde_json::json!({"type": kind, "path": format!("/proc/{}/ns/{file}", started.pid)}),
        );
        assert_ne!(own(file), namespace(&format!("/proc/self/ns/{file}")), "{file}");
    }
    b.config.as_object_mut().unwrap().remove("hostname");
    b.write_config();
    let out = b.dir.join("out");
    shim.create(&b, &Stdio { stdout: format!("file://{}", out.display()), ..Default::default() });
    shim.start_task(&b.id, "");
    assert_eq!(shim.wait(&b.id, ""), 0);
    until(
        || std::fs::read_to_string(&out).is_ok_and(|t| t == "the-pod\n81\n77\n"),
        "the pod's name and sysctls",
    );
    let metrics: SandboxMetricsResponse =
        call(&shim, "SandboxMetrics", &SandboxRequest { sandbox_id: "pod".into() }).unwrap();
    assert!(metrics.metrics.unwrap().data.unwrap().type_url.starts_with("io.containerd.cgroups."));
    shim.delete(&b.id, "");
    call::<()>(&shim, "ShutdownSandbox", &SandboxRequest { sandbox_id: "pod".into() }).unwrap();
    until(|| conex::identity::proc_stat(server).is_none_or(|s| s.0 == 'Z'), "the shim ends");
    holder.kill().unwrap();
    holder.wait().unwrap();
    b.assert_gone();
}
