//! conex-tools, the program that has the commands for people.

use super::env::Env;
use crate::bundle::Bundle;
use crate::error::{Error, Kind, Result};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The annotation that names a file for what `linux.seccomp` has denied, written when the container has ended.
pub const SECCOMP_LOG: &str = "dev.conex.seccomp-log";
/// Tells conex-tools that the annotation is why it has been executed.
pub const WATCH: &str = "_CONEX_SECCOMP_LOG";

/// Executes conex-tools with this program's command line. Returns only when it cannot.
pub fn execute() -> Error {
    match command() {
        Ok((mut command, path)) => {
            let e = command.exec();
            Error::new(Kind::System, format!("execve({}): {e}", path.display()))
        }
        Err(e) => e,
    }
}

/// Executes it where an annotation asks what the profile denies: somebody has to answer as long as the container runs.
///
/// # Errors
/// It is not there.
pub fn watched(env: &Env, bundle: &Bundle) -> Result<()> {
    if !bundle.spec.annotations.contains_key(SECCOMP_LOG) {
        return Ok(());
    }
    let preserved = super::inherited::preserved(env, super::inherited::listen_fds())?;
    let (mut command, path) =
        command().map_err(|e| e.at(format!("annotations[{SECCOMP_LOG:?}]")))?;
    // It executes this program anew, from where it lies, and with the descriptors that are to be handed on.
    command.env(WATCH, "1").env_remove(crate::host::seal::MARK);
    for n in preserved {
        let _ = conex_sys::fd::clear_cloexec(n);
    }
    let e = command.exec();
    Err(Error::new(Kind::System, format!("execve({}): {e}", path.display())))
}

fn command() -> Result<(Command, PathBuf)> {
    const NAMES: [&str; 2] = ["conex-tools", "../libexec/conex/conex-tools"];
    let mut from = from();
    let found = from.find_map(|exe| {
        let tools = NAMES.iter().find_map(|n| exe.with_file_name(n).canonicalize().ok())?;
        Some((exe, tools))
    });
    let Some((exe, tools)) = found else {
        let what = format!(
            "this is done by the program conex-tools, which is not at {NAMES:?} from conex"
        );
        return Err(Error::new(Kind::System, what));
    };
    let mut command = Command::new(&tools);
    // The caller's descriptors go along: `run --rootfs` may hand them on, and nothing else does.
    command.arg0(&exe).args(std::env::args_os().skip(1));
    Ok((command, tools))
}

/// Where this program lies. The sealed one has no place of its own: then as whoever called it has found it.
fn from() -> impl Iterator<Item = PathBuf> {
    let own = std::env::current_exe()
        .ok()
        .filter(|_| std::env::var_os(crate::host::seal::MARK).is_none());
    let called = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = match called.parent() {
        Some(dir) if dir != Path::new("") => vec![dir.to_path_buf()],
        _ => std::env::split_paths(&path).collect(),
    };
    let called =
        dirs.into_iter().filter_map(move |dir| dir.join(called.file_name()?).canonicalize().ok());
    own.into_iter().chain(called)
}
