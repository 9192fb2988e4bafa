//! argv → verb → exit status. This is the only place that prints errors or ends the program.
#![forbid(unsafe_code)]

use conex::cli::{self, Args};
use conex::error::Error;
use conex::log::Log;
use conex::text;
use conex::verbs::{self, Env};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    open_standard_fds();
    let argv: Vec<String> =
        std::env::args_os().skip(1).map(|a| text::from_bytes(a.as_bytes()).into_owned()).collect();
    let (global, rest) = match cli::parse_global(&argv) {
        Ok(parsed) => parsed,
        Err(e) => {
            eprintln!("conex: {e}\nHow it is used: conex help");
            return ExitCode::from(1);
        }
    };
    let log = match global.log() {
        Ok(log) => log,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(1);
        }
    };
    // Nobody would find what went wrong in a log that is not there.
    if let Err(e) = log.check() {
        eprintln!("conex: {e}");
        return ExitCode::from(1);
    }
    match run(&global, rest, log) {
        Ok(code) => ExitCode::from(code as u8),
        Err(code) => ExitCode::from(code),
    }
}

/// The error has been reported when this returns its exit status.
fn run(global: &Args, rest: Vec<String>, log: Log) -> std::result::Result<i32, u8> {
    if global.is_set("version") {
        print!("{}", version());
        return Ok(0);
    }
    let (name, argv, help) = cli::split(global, &rest);
    if name.is_empty() {
        print!("{}", cli::global_help());
        return Ok(0);
    }
    let adhoc = adhoc(global, &name, argv);
    let Some(command) = cli::command(&name).filter(|_| !adhoc) else {
        if adhoc || cli::TOOLS.iter().any(|t| t.0 == name) {
            return Err(second(&log));
        }
        log.fail_usage(&format!("conex: {}", cli::unknown(&name)));
        return Err(3);
    };
    if help {
        print!("{}", cli::command_help(command));
        return Ok(0);
    }
    let args = match cli::parse(argv, command.flags, command.reorder)
        .and_then(|a| cli::check_count(command, &a).map(|()| a))
    {
        Ok(args) => args,
        Err(e) => {
            log.fail_usage(&cli::wrong_usage(command, &e));
            return Err(1);
        }
    };
    if matches!(command.name, "checkpoint" | "restore") {
        return Err(second(&log));
    }
    let settings = verbs::env::settings(global, args).map_err(|e| {
        log.fail(&e.to_string());
        1
    });
    let (root, cgroup_driver, cgroup_required, args) = settings?;
    let mut env = Env { root, cgroup_driver, cgroup_required, log, args };
    match verbs::dispatch(command.name, &mut env) {
        Ok(code) => {
            env.log.succeed();
            Ok(code)
        }
        Err(e) => {
            env.log.fail(&message(command.name, &e));
            // What exec itself could not do must differ from what the process returned (runc).
            Err(if command.name == "exec" { 255 } else { 1 })
        }
    }
}

/// Executes conex-tools. Returns only when it cannot.
fn second(log: &Log) -> u8 {
    log.fail(&verbs::second::execute().to_string());
    1
}

/// What people ask beyond what engines do, which is conex-tools' work.
fn adhoc(global: &Args, name: &str, argv: &[String]) -> bool {
    let asked = match name {
        "run" => cli::given(argv, "rootfs") || cli::given(argv, "seccomp-log"),
        "list" => ["all", "a", "stats"].iter().any(|f| cli::given(argv, f)),
        _ => false,
    };
    // Somebody has to read the steps and draw them when this is done.
    asked || global.value("trace").is_some_and(|to| !to.starts_with("fd:"))
}

/// runc's prefixes, which people and scripts know.
fn message(name: &str, e: &Error) -> String {
    match name {
        "create" | "run" => format!("conex {name} failed: unable to start container process: {e}"),
        "exec" => format!("exec failed: unable to start container process: {e}"),
        _ => e.to_string(),
    }
}

fn version() -> String {
    let commit = conex::REVISION;
    format!(
        "conex version {}\ncommit: {commit}\nspec: {}\n",
        env!("CARGO_PKG_VERSION"),
        conex::oci::SPEC_VERSION
    )
}

/// A caller may have closed 0, 1 or 2; the next file to be opened would take that number and be mistaken for it.
fn open_standard_fds() {
    for n in 0..3 {
        if !conex_sys::fd::is_open(n) {
            if let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
                let _ = conex_sys::fd::dup_to(std::os::fd::AsFd::as_fd(&file), n);
                // The lowest free number is n itself: then the file stays open as what it is.
                if std::os::fd::AsRawFd::as_raw_fd(&file) == n {
                    let _ = std::os::fd::IntoRawFd::into_raw_fd(file);
                }
            }
        }
    }
    conex::host::seal::forget_mark();
}
