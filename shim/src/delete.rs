//! `delete`: after a shim that is gone. Ends and removes what it left, from the bundle alone.

use crate::args::{check_name, Args};
use crate::events::timestamp;
use crate::rootfs;
use crate::runtime::Runtime;
use crate::status::{unknown, Call, Result};
use conex_proto::task::DeleteResponse;
use prost::Message;
use std::path::PathBuf;
use std::time::SystemTime;

/// The answer for stdout.
pub async fn main(args: &Args, reaper: &std::rc::Rc<crate::reap::Reaper>) -> Result<Vec<u8>> {
    check_name("id", &args.id).map_err(unknown)?;
    let bundle = match args.bundle.as_str() {
        "" => std::env::current_dir().call(|| "getcwd".into())?,
        b => PathBuf::from(b),
    };
    let runtime = std::fs::read(bundle.join("options.json")).ok().and_then(|t| serde_json::from_slice(&t).ok());
    // Without it the shim died before it could make anything.
    if let Some(runtime) = runtime {
        let runtime = Runtime { bundle: bundle.clone(), ..runtime };
        let args: [&std::ffi::OsStr; 3] = ["delete".as_ref(), "--force".as_ref(), args.id.as_ref()];
        let removed = runtime.run(reaper, "delete", &args, crate::runtime::Streams::default()).await;
        if let Err(e) =
            removed.as_ref().map(drop).or_else(|e| if e.code == crate::status::NOT_FOUND { Ok(()) } else { Err(e) })
        {
            // containerd logs it, and goes on: what follows must happen all the same.
            eprintln!("{}", e.message);
        }
    }
    rootfs::unmount(&bundle.join("rootfs"));
    let pid = std::fs::read_to_string(bundle.join("init.pid")).ok().and_then(|t| t.trim().parse().ok());
    Ok(DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: 128 + libc::SIGKILL as u32,
        exited_at: Some(timestamp(SystemTime::now())),
    }
    .encode_to_vec())
}
