//! `delete`: after a shim that is gone. Ends and removes what it left, from the bundle alone.

use crate::args::{check_name, Args};
use crate::report::events::timestamp;
use crate::rootfs;
use crate::runtime::Runtime;
use crate::status::{unknown, During, Result};
use conex_proto::task::{DeleteRequest, DeleteResponse, ShutdownRequest};
use prost::Message;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// The answer for stdout.
pub async fn main(args: &Args, reaper: &std::rc::Rc<crate::reap::Reaper>) -> Result<Vec<u8>> {
    check_name("id", &args.id).map_err(unknown)?;
    let bundle = match args.bundle.as_str() {
        "" => std::env::current_dir().during(|| "getcwd".into())?,
        b => PathBuf::from(b),
    };
    let runtime = std::fs::read(bundle.join("options.json"))
        .ok()
        .and_then(|t| serde_json::from_slice(&t).ok());
    // Without it the shim died before it could make anything.
    if let Some(runtime) = runtime {
        let runtime = Runtime { bundle: bundle.clone(), ..runtime };
        let line: [&std::ffi::OsStr; 3] = ["delete".as_ref(), "--force".as_ref(), args.id.as_ref()];
        let removed =
            runtime.run(reaper, "delete", &line, crate::runtime::Streams::default()).await;
        if let Err(e) = removed.as_ref().map(drop).or_else(|e| {
            if e.code == crate::status::NOT_FOUND {
                Ok(())
            } else {
                Err(e)
            }
        }) {
            // containerd logs it, and goes on: what follows must happen all the same.
            eprintln!("{}", e.message);
        }
    }
    release(&bundle, &args.id).await;
    rootfs::unmount(&bundle.join("rootfs"));
    let pid =
        std::fs::read_to_string(bundle.join("init.pid")).ok().and_then(|t| t.trim().parse().ok());
    Ok(DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: 128 + libc::SIGKILL as u32,
        exited_at: Some(timestamp(SystemTime::now())),
    }
    .encode_to_vec())
}

/// The keeper may have started another server, which still has the task: it must let go of it, and go itself if it has
/// no other.
async fn release(bundle: &std::path::Path, id: &str) {
    let Ok(address) = std::fs::read_to_string(bundle.join("address")) else { return };
    let path = address.trim().trim_start_matches("unix://").to_string();
    let ask = async {
        let stream = tokio::net::UnixStream::connect(&path).await?;
        // Up to 8 seconds: on a slow host the new server is still starting, and a container of many processes dying.
        for n in 0..24u64 {
            tokio::time::sleep(Duration::from_millis((n * n * 10).min(500))).await;
            let r = DeleteRequest { id: id.to_string(), ..DeleteRequest::default() };
            let answer = call(&stream, n as u32 * 2 + 1, "Delete", &r).await?;
            // It has not seen the end of the process yet otherwise.
            if answer.status.is_none_or(|s| s.code == 0 || s.code == crate::status::NOT_FOUND) {
                break;
            }
        }
        let r = ShutdownRequest { id: id.to_string(), now: true };
        call(&stream, 101, "Shutdown", &r).await
    };
    // Refused where nobody listens: the usual case.
    let _ = tokio::time::timeout(Duration::from_secs(9), ask).await;
}

async fn call(
    stream: &tokio::net::UnixStream,
    id: u32,
    method: &str,
    message: &impl Message,
) -> std::io::Result<conex_proto::ttrpc::Response> {
    let request = conex_proto::ttrpc::Request {
        service: "containerd.task.v2.Task".into(),
        method: method.into(),
        payload: message.encode_to_vec(),
        ..Default::default()
    };
    crate::report::events::exchange(stream, id, &request).await
}
