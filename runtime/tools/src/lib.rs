//! The commands of conex that are for people rather than for engines. `conex NAME` executes `conex-tools` for each of
//! them, so that what they need costs the runtime neither size nor time.
//!
//! They read bundles, hosts, states and engines' files. Those that run a container (`run --rootfs`, `run --seccomp-log`,
//! `--trace`) do it by executing conex.
#![forbid(unsafe_code)]

pub mod adhoc;
pub mod checkpoint;
pub mod cli;
pub mod containers;
pub mod criu;
pub mod danger;
pub mod doctor;
pub mod lint;
pub mod restore;
pub mod schema;
pub mod seccomp;
pub mod setup;
pub mod trace;
pub mod values;
pub mod why;

use conex::cli::{Args, Command};
use conex::error::{Context, Error, Kind, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// What every command gets.
pub struct Invocation {
    /// The runtime whose command this is, as engines will call it.
    pub program: PathBuf,
    /// The global flags as they were given.
    pub global: Vec<OsString>,
    /// The directory of the containers' states.
    pub root: PathBuf,
    /// The name of the command.
    pub verb: &'static str,
    pub args: Args,
}

/// Runs one command; the result is the exit status of the program.
///
/// # Errors
/// What the command says, and a name that is none of [`cli::COMMANDS`].
pub fn dispatch(command: &Command, env: &Invocation) -> Result<i32> {
    match command.name {
        "doctor" => doctor::main(env),
        "lint" => lint::main(env),
        "list" => containers::list(env),
        "top" => containers::top(env),
        "wait" => containers::wait(env),
        "why" => why::main(env),
        "run" if env.args.is_set("seccomp-log") => seccomp::watch::main(env),
        "run" | "create" if std::env::var_os(conex::verbs::second::WATCH).is_some() => {
            seccomp::watch::main(env)
        }
        "run" => adhoc::main(env),
        "seccomp" => seccomp::main(env),
        "setup" => setup::main(env),
        other => Err(Error::new(Kind::Invalid, format!("no such command: {other:?}"))),
    }
}

/// The path of conex: it calls this program by its own path, and lies beside it otherwise.
///
/// # Errors
/// Neither is there.
pub fn program() -> Result<PathBuf> {
    let called = std::env::args_os()
        .next()
        .map(PathBuf::from)
        .filter(|p| p.is_absolute() && !p.ends_with("conex-tools"));
    if let Some(path) = called.filter(|p| p.is_file()) {
        return Ok(path);
    }
    let exe = std::env::current_exe().call(|| "readlink(/proc/self/exe)")?;
    ["conex", "../../sbin/conex"]
        .iter()
        .find_map(|p| exe.with_file_name(p).canonicalize().ok())
        .ok_or_else(|| Error::new(Kind::System, format!("conex is not beside {}", exe.display())))
}
