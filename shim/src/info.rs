//! `-info`: what this shim and its runtime can do.

use crate::runtime::Runtime;
use crate::status::{During, Result};
use conex_proto::types::{RuntimeInfo, RuntimeVersion};
use conex_proto::Any;
use prost::Message;
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// The answer for stdout: RuntimeInfo, with the runtime's own features document.
pub fn main() -> Result<Vec<u8>> {
    let mut stdin = Vec::new();
    std::io::stdin().take(10 << 20).read_to_end(&mut stdin).during(|| "read(stdin)".into())?;
    let given = Any::decode(stdin.as_slice()).during(|| "stdin: not an Any".into())?;
    let options = crate::task::life::options(Some(&given))?;
    let runtime = Runtime::new(&options, "", Path::new("/"));
    let ask = |arg: &str| {
        let out = Command::new(&runtime.binary).arg(arg).output();
        out.ok().filter(|o| o.status.success()).map(|o| o.stdout)
    };
    let version =
        ask("--version").map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default();
    let first = version.lines().next().unwrap_or("");
    let features = ask("features").map(|value| Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".into(),
        value,
    });
    let revision = version.lines().find_map(|l| l.strip_prefix("commit: ")).unwrap_or("");
    Ok(RuntimeInfo {
        name: "io.containerd.conex.v2".into(),
        version: Some(RuntimeVersion {
            version: format!("{} ({first})", env!("CARGO_PKG_VERSION")),
            revision: revision.to_string(),
        }),
        options: Some(given).filter(|o| !o.type_url.is_empty()),
        features,
        ..RuntimeInfo::default()
    }
    .encode_to_vec())
}
