//! `start`: makes the socket, starts the server behind it, tells containerd where it is.

use crate::args::{check_name, Args};
use crate::status::{unknown, During, Result};
use crate::task::container::Config;
use conex_proto::bootstrap::{BootstrapParams, BootstrapResult};
use conex_proto::{runc, Any};
use prost::Message;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What containerd wrote to stdin, in either of its two forms.
struct Params {
    options: runc::Options,
    socket_dir: PathBuf,
    /// Where events go.
    ttrpc_address: Option<String>,
    debug: bool,
    /// containerd 2.3 and later: it reads a protobuf message, an older one JSON.
    bootstrap: bool,
}

/// The answer for stdout; nothing else may be written, to stderr neither.
pub fn main(args: &Args) -> Result<Vec<u8>> {
    check_name("namespace", &args.namespace).map_err(unknown)?;
    check_name("id", &args.id).map_err(unknown)?;
    let mut stdin = Vec::new();
    std::io::stdin().take(10 << 20).read_to_end(&mut stdin).during(|| "read(stdin)".into())?;
    let params = Params::read(&stdin, args)?;
    let bundle = std::env::current_dir().during(|| "getcwd".into())?;
    let group = group(&bundle).unwrap_or_else(|| args.id.clone());
    let path = socket_path(&params.socket_dir, &args.address, &args.namespace, &group);
    let version = match bind(&path)? {
        Some(listener) => {
            if let Err(e) = spawn(args, &params, &bundle, listener) {
                let _ = std::fs::remove_file(&path);
                return Err(e);
            }
            if params.bootstrap {
                3
            } else {
                2
            }
        }
        // The pod's shim is there: its word counts, whatever build it is.
        None => version_of(&path, params.bootstrap),
    };
    let address = format!("unix://{}", path.display());
    std::fs::write(bundle.join("address"), &address).during(|| "write(address)".into())?;
    let protocol = "ttrpc".to_string();
    if params.bootstrap {
        return Ok(BootstrapResult { version, address, protocol, ..BootstrapResult::default() }
            .encode_to_vec());
    }
    if std::env::var_os("MAX_SHIM_VERSION").is_none() {
        // containerd 1.6 and before know no JSON: the address alone.
        return Ok(address.into_bytes());
    }
    Ok(format!(r#"{{"version":{version},"address":{address:?},"protocol":"{protocol}"}}"#)
        .into_bytes())
}

impl Params {
    fn read(stdin: &[u8], args: &Args) -> Result<Params> {
        let mut out = Params {
            options: runc::Options::default(),
            socket_dir: "/run/containerd/s".into(),
            ttrpc_address: None,
            debug: args.debug,
            bootstrap: false,
        };
        // An Any decodes as the other as well; only the ids, which containerd gives twice, tell them apart.
        let new = BootstrapParams::decode(stdin).ok();
        if let Some(p) = new.filter(|p| p.instance_id == args.id && p.namespace == args.namespace) {
            out.bootstrap = true;
            out.debug |= p.log_level <= -4;
            out.ttrpc_address = Some(p.containerd_ttrpc_address).filter(|a| !a.is_empty());
            if let Some(dir) = p.socket_dir.filter(|d| !d.is_empty()) {
                out.socket_dir = dir.into();
            }
            for value in p.extensions.into_iter().filter_map(|e| e.value) {
                if value.type_url.ends_with("containerd.runc.v1.Options") {
                    out.options = crate::task::life::options(Some(&value))?;
                }
            }
        } else if !stdin.is_empty() {
            let any = Any::decode(stdin)
                .during(|| "stdin: neither options nor bootstrap parameters".into())?;
            out.options = crate::task::life::options(Some(&any))?;
        }
        Ok(out)
    }
}

/// The containers of a pod share one shim: those with the same value of the first of these annotations.
fn group(bundle: &Path) -> Option<String> {
    let annotations = Config::read(bundle).ok()?.annotations;
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"]
        .iter()
        .find_map(|name| annotations.get(*name).filter(|v| !v.is_empty()).cloned())
}

/// `<dir>/<sha256 of address/namespace/group>`: short enough for a socket, the same for every caller.
fn socket_path(dir: &Path, address: &str, namespace: &str, group: &str) -> PathBuf {
    // path.Join of containerd, which drops a trailing slash.
    let joined = format!("{}/{namespace}/{group}", address.trim_end_matches('/'));
    let digest = Sha256::digest(joined.as_bytes());
    let name: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    dir.join(name)
}

/// A listening socket for root alone; `None` if somebody listens there already.
fn bind(path: &Path) -> Result<Option<OwnedFd>> {
    use nix::sys::socket::*;
    if let Some(dir) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.during(|| format!("mkdir({})", dir.display()))?;
    }
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
    .during(|| "socket(AF_UNIX)".into())?;
    let address = UnixAddr::new(path).during(|| format!("socket address {}", path.display()))?;
    for attempt in 0..2 {
        // 0600 from the first moment: no chmod between bind and it.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = nix::sys::socket::bind(fd.as_raw_fd(), &address);
        nix::sys::stat::umask(before);
        match bound {
            Ok(()) => break,
            Err(nix::errno::Errno::EADDRINUSE) if attempt == 0 => {
                if UnixStream::connect(path).is_ok() {
                    return Ok(None);
                }
                // Left behind by a shim that was killed.
                let _ = std::fs::remove_file(path);
            }
            Err(e) => return Err(e).during(|| format!("bind({})", path.display())),
        }
    }
    listen(&fd, Backlog::MAXALLOWABLE).during(|| "listen".into())?;
    Ok(Some(fd))
}

fn spawn(args: &Args, params: &Params, bundle: &Path, listener: OwnedFd) -> Result<()> {
    let exe = std::env::current_exe().during(|| "readlink(/proc/self/exe)".into())?;
    // Nobody sees whether it can be executed later.
    nix::unistd::access(&exe, nix::unistd::AccessFlags::X_OK)
        .during(|| format!("access({})", exe.display()))?;
    if std::env::var_os("SCHED_CORE").is_some_and(|v| !v.is_empty()) {
        // A core scheduling domain of the pod's own (prctl(2), Linux 5.14), inherited by everything in it.
        conex_sys::sched::new_core_cookie().during(|| "prctl(PR_SCHED_CORE)".into())?;
    }
    let mut command = Command::new(exe);
    command.args(["-namespace", &args.namespace, "-id", &args.id, "-address", &args.address]);
    if params.debug {
        command.arg("-debug");
    }
    if let Some(address) = &params.ttrpc_address {
        command.env("TTRPC_ADDRESS", address);
    }
    if !params.options.shim_cgroup.is_empty() {
        command.env(crate::cgroup::NAME, crate::cgroup::note(&params.options.shim_cgroup));
    }
    command.arg("keep").current_dir(bundle).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    conex_sys::fd::pass(&mut command, vec![listener]).during(|| "dup(listener)".into())?;
    // This process first: what it starts inherits both.
    place(std::process::id() as i32, &params.options.shim_cgroup)?;
    conex_sys::clone::spawn_unseen(command).during(|| "clone3".into())
}

/// The shim's own cgroup, and an OOM score just above containerd's: it is killed before containerd, after containers.
fn place(pid: i32, cgroup: &str) -> Result<()> {
    let parent = nix::unistd::getppid();
    let score =
        std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj")).unwrap_or_default();
    if let Ok(score) = score.trim().parse::<i32>() {
        let wanted = (score + 1).min(1000);
        std::fs::write(format!("/proc/{pid}/oom_score_adj"), wanted.to_string())
            .during(|| format!("write(/proc/{pid}/oom_score_adj, {wanted})"))?;
    }
    match cgroup {
        "" => Ok(()),
        cgroup => crate::cgroup::place(pid, cgroup),
    }
}

/// Which API the shim that listens there has: an older build may have version 2 alone.
fn version_of(path: &Path, bootstrap: bool) -> i32 {
    use conex_proto::ttrpc::Request;
    if !bootstrap {
        return 2;
    }
    let ask = async {
        let stream = tokio::net::UnixStream::connect(path).await?;
        let request = Request {
            service: "containerd.task.v3.Task".into(),
            method: "Connect".into(),
            ..Request::default()
        };
        crate::report::events::exchange(&stream, 1, &request).await
    };
    let answered =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async {
                tokio::time::timeout(std::time::Duration::from_secs(2), ask).await?
            })
        });
    match answered {
        Ok(response)
            if response.status.as_ref().is_some_and(|s| s.code == crate::status::UNIMPLEMENTED) =>
        {
            2
        }
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_socket() {
        // sha256("/run/containerd/containerd.sock/k8s.io/x"), by sha256sum.
        let path = socket_path(Path::new("/s"), "/run/containerd/containerd.sock", "k8s.io", "x");
        assert_eq!(path.file_name().unwrap().len(), 64);
        assert_eq!(
            path,
            socket_path(Path::new("/s"), "/run/containerd/containerd.sock/", "k8s.io", "x")
        );
    }

    #[test]
    fn both_forms_of_stdin() {
        let args = Args { id: "i".into(), namespace: "n".into(), ..Args::default() };
        let options = runc::Options { binary_name: "runc".into(), ..runc::Options::default() };
        let any = conex_proto::any("containerd.runc.v1.Options", &options);
        let legacy = Params::read(&any.encode_to_vec(), &args).unwrap();
        assert!(!legacy.bootstrap && legacy.options.binary_name == "runc");
        let new = BootstrapParams {
            instance_id: "i".into(),
            namespace: "n".into(),
            log_level: -4,
            extensions: vec![conex_proto::bootstrap::Extension { value: Some(any) }],
            ..BootstrapParams::default()
        };
        let new = Params::read(&new.encode_to_vec(), &args).unwrap();
        assert!(new.bootstrap && new.debug && new.options.binary_name == "runc");
        assert!(!Params::read(b"", &args).unwrap().bootstrap);
        assert!(Params::read(b"\xff\xff", &args).is_err());
    }
}
