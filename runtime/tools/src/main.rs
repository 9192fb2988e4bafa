//! argv → command → exit status, as conex passed it on. This is the only place that prints errors or ends the program.
#![forbid(unsafe_code)]

use conex::cli;
use conex::error::{Error, Kind, Result};
use conex::log::Log;
use conex::text;
use conex::verbs::{self, Env};
use conex_tools::{checkpoint, dispatch, program, restore, trace, Invocation};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<String> =
        std::env::args_os().skip(1).map(|a| text::from_bytes(a.as_bytes()).into_owned()).collect();
    // Executed by this program itself, with descriptors in place of the standard streams.
    if let [agent, rest @ ..] = argv.as_slice() {
        if agent == conex_tools::seccomp::agent::NAME {
            return ExitCode::from(conex_tools::seccomp::agent::main(rest));
        }
    }
    match run(&argv) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("conex: {e}");
            ExitCode::from(1)
        }
    }
}

fn run(argv: &[String]) -> Result<u8> {
    let argv_len = argv.len();
    let (global, rest) = cli::parse_global(argv)?;
    let to = global.value("trace").filter(|to| !to.starts_with("fd:"));
    if let Some(to) = to {
        let (global, args) = (Vec::new(), cli::Args::default());
        let env = Invocation { program: program()?, global, root: "".into(), verb: "", args };
        return trace::main(&env, to, &without_trace(argv_len - rest.len())).map(|code| code as u8);
    }
    let (name, argv, help) = cli::split(&global, &rest);
    let Some(command) = command(&name, argv) else {
        eprintln!("conex: {}", cli::unknown(&name));
        return Ok(1);
    };
    if help {
        print!("{}", cli::command_help(command));
        return Ok(0);
    }
    let args = cli::parse(argv, command.flags, command.reorder);
    if args.as_ref().is_ok_and(|a| a.is_set("help")) {
        print!("{}", cli::command_help(command));
        return Ok(0);
    }
    let args = match args.and_then(|a| cli::check_count(command, &a).map(|()| a)) {
        Ok(args) => args,
        Err(e) => {
            eprintln!("{}", cli::wrong_usage(command, &e));
            return Ok(1);
        }
    };
    let log = global.log().map_err(|e| Error::new(Kind::Invalid, e))?;
    if of_engines(command.name).is_some() {
        return of_container(&global, args, log, command.name);
    }
    // All that precedes the command.
    let before = argv_len - rest.len();
    let root = conex::verbs::root(&global)?;
    let global = std::env::args_os().skip(1).take(before).collect();
    match program().and_then(|program| {
        dispatch(command, &Invocation { program, global, root, verb: command.name, args })
    }) {
        Ok(code) => Ok(code as u8),
        Err(e) => {
            log.fail(&e.to_string());
            Ok(1)
        }
    }
}

/// Those that this program is for.
fn command(name: &str, argv: &[String]) -> Option<&'static cli::Command> {
    let annotated = std::env::var_os(conex::verbs::second::WATCH).is_some();
    let watched = annotated || name == "run" && cli::given(argv, "seccomp-log");
    let run = cli::command(name)
        .filter(|_| watched && matches!(name, "run" | "create"))
        .unwrap_or(&conex_tools::cli::RUN);
    let more = [run, &conex_tools::cli::LIST].into_iter().find(|c| c.name == name);
    let mut commands = conex_tools::cli::COMMANDS.iter();
    commands.find(|c| c.name == name).or(more).or_else(|| of_engines(name))
}

/// Those of them that engines call.
fn of_engines(name: &str) -> Option<&'static cli::Command> {
    cli::command(name).filter(|c| matches!(c.name, "checkpoint" | "restore"))
}

/// Checkpoint and restore, which get what the verbs of conex get.
fn of_container(global: &cli::Args, args: cli::Args, log: Log, name: &str) -> Result<u8> {
    let (root, cgroup_driver, cgroup_required, args) = match verbs::env::settings(global, args) {
        Ok(settings) => settings,
        Err(e) => {
            log.fail(&e.to_string());
            return Ok(1);
        }
    };
    let mut env = Env { root, cgroup_driver, cgroup_required, log, args };
    let done = match name {
        "checkpoint" => checkpoint::main(&mut env),
        _ => restore::main(&mut env),
    };
    match done {
        Ok(code) => {
            env.log.succeed();
            Ok(code as u8)
        }
        Err(e) => {
            env.log.fail(&e.to_string());
            Ok(1)
        }
    }
}

/// The command line without `--trace`, of which the flags before the verb are the first `before`.
fn without_trace(before: usize) -> Vec<OsString> {
    let mut out = Vec::new();
    let mut argv = std::env::args_os().skip(1).enumerate();
    while let Some((i, arg)) = argv.next() {
        let name = arg
            .as_bytes()
            .strip_prefix(b"--")
            .or(arg.as_bytes().strip_prefix(b"-"))
            .unwrap_or_default();
        match name.strip_prefix(b"trace").filter(|_| i < before) {
            // Its value is the next word.
            Some(b"") => drop(argv.next()),
            Some(rest) if rest.starts_with(b"=") => {}
            _ => out.push(arg),
        }
    }
    out
}
