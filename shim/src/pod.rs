//! The namespaces of a pod that has no pause process: the shim itself is in them, so that they live as long as it does
//! and containerd finds them at /proc/<shim>/ns. Its tasks then join them, or inherit them from the runtime.

use crate::namespaces::{own_namespaces, Entered};
use crate::status::{invalid, unimplemented, During, Result};
use conex_proto::cri::{NamespaceMode, NamespaceOption, PodSandboxConfig};
use conex_proto::Any;
use conex_sys::proc::{setns, unshare};
use prost::Message;
use std::os::fd::AsFd;

const POD: i32 = NamespaceMode::Pod as i32;
const NODE: i32 = NamespaceMode::Node as i32;

/// What a sandbox's options say of the pod; nothing where they are of another kind.
pub fn config(options: Option<&Any>) -> Result<Option<PodSandboxConfig>> {
    let ours = options.filter(|o| o.type_url.ends_with("runtime.v1.PodSandboxConfig"));
    let decode = |o: &Any| PodSandboxConfig::decode(o.value.as_slice());
    ours.map(decode).transpose().map_err(|e| invalid(format!("options: {e}")))
}

/// Puts this process into the namespaces of the pod: the network that containerd made, and new ones for host name and
/// IPC unless the pod has the node's; then sets what belongs to them.
///
/// # Errors
/// What no shim without a process in the pod can give: a process namespace and a user namespace for all its containers.
pub fn enter(config: Option<PodSandboxConfig>, netns: &str) -> Result<Entered> {
    let asked = config.is_some();
    let config = config.unwrap_or_default();
    let linux = config.linux.unwrap_or_default();
    let options = linux.security_context.and_then(|c| c.namespace_options).unwrap_or_default();
    if asked {
        refuse(&options)?;
    }
    let network = options.network != NODE && !netns.is_empty();
    // A pod with the node's network has the node's host name (CRI).
    let uts = options.network != NODE;
    let ipc = options.ipc != NODE;
    let sysctls = checked(&linux.sysctls, network, ipc)?;
    let names: Vec<&str> = [(network, "net"), (uts, "uts"), (ipc, "ipc")]
        .into_iter()
        .filter(|n| n.0)
        .map(|n| n.1)
        .collect();
    let old = own_namespaces(&names)?;
    let change = || {
        if network {
            let file = std::fs::File::open(netns).during(|| format!("open({netns})"))?;
            setns(file.as_fd(), libc::CLONE_NEWNET)
                .during(|| format!("setns({netns}, CLONE_NEWNET)"))?;
        }
        let own =
            if uts { libc::CLONE_NEWUTS } else { 0 } | if ipc { libc::CLONE_NEWIPC } else { 0 };
        unshare(own).during(|| format!("unshare({own:#x})"))?;
        if uts && !config.hostname.is_empty() {
            nix::unistd::sethostname(&config.hostname)
                .during(|| format!("sethostname({:?})", config.hostname))?;
        }
        for (path, value) in sysctls {
            std::fs::write(&path, value)
                .during(|| format!("linux.sysctls: write({path}, {value:?})"))?;
        }
        own_namespaces(&names)
    };
    match change() {
        Ok(new) => Ok(Entered { old, new }),
        Err(e) => {
            Entered { old, new: Vec::new() }.undo();
            Err(e)
        }
    }
}

fn refuse(options: &NamespaceOption) -> Result<()> {
    let field = "linux.security_context.namespace_options";
    // Also where nobody set a mode: POD is what CRI means then, and containerd would give the containers this process's
    // namespace, which is the host's.
    if options.pid == POD {
        return Err(unimplemented(format!(
            "{field}.pid: POD: a shared process namespace needs a process in it: use the sandboxer \"podsandbox\""
        )));
    }
    if options.userns_options.as_ref().is_some_and(|u| u.mode == POD) {
        return Err(unimplemented(format!(
            "{field}.userns_options: a user namespace for the pod needs a process in it: use the sandboxer \"podsandbox\""
        )));
    }
    Ok(())
}

/// The files of the pod's sysctls; only those of a namespace that is the pod's own.
fn checked(
    list: &std::collections::BTreeMap<String, String>,
    network: bool,
    ipc: bool,
) -> Result<Vec<(String, &str)>> {
    let mut out = Vec::new();
    for (key, value) in list {
        let own = match conex_plan::namespaces::sysctl_namespace(key) {
            Some((path, libc::CLONE_NEWNET)) if network => path,
            Some((path, libc::CLONE_NEWIPC)) if ipc => path,
            _ => {
                return Err(invalid(format!(
                    "linux.sysctls[{key:?}]: not of a namespace that the pod has for itself"
                )))
            }
        };
        out.push((format!("/proc/sys/{own}"), value.as_str()));
    }
    Ok(out)
}
