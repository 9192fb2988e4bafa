//! The commands, one file each.

pub mod create;
pub mod delete;
pub mod env;
pub mod events;
pub mod exec;
pub mod features;
pub mod inherited;
pub mod kill;
pub mod list;
pub mod pause;
pub mod ps;
pub mod run;
pub mod second;
pub mod spec;
pub mod start;
pub mod state;
pub mod update;

use crate::error::{Error, Kind, Result};
pub use env::{root, Env};

/// Runs one verb; the result is the exit status of the program.
pub fn dispatch(name: &str, env: &mut Env) -> Result<i32> {
    if !matches!(name, "create" | "run" | "exec") {
        // Nothing of the caller's reaches a hook. The others do this once they run sealed, because what is to be
        // preserved must survive the second execution.
        crate::host::seal::close_on_exec();
    }
    match name {
        "create" => create::main(env),
        "run" => run::main(env),
        "start" => start::main(env),
        "state" => state::main(env),
        "kill" => kill::main(env),
        "delete" => delete::main(env),
        "exec" => exec::main(env),
        "list" => list::main(env),
        "ps" => ps::main(env),
        "pause" => pause::pause(env),
        "resume" => pause::resume(env),
        "update" => update::main(env),
        "events" => events::main(env),
        "spec" => spec::main(env),
        "features" => features::main(),
        other => Err(Error::new(Kind::Invalid, format!("no such command: {other:?}"))),
    }
}
