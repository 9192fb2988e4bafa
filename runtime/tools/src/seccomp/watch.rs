//! `conex run --seccomp-log`, and the annotation of that kind: which calls the profile of a bundle has denied is said at the
//! end of its container.
//!
//! The kernel's own log of denials is incomplete (it is throttled, and an audit daemon takes it). So every call that the
//! profile does not allow whatever its arguments are is made to ask this program, which answers as the profile would, and
//! counts. A call that may go on is made with the registers that were judged: another thread cannot change them.

use super::judge::{allows, Place, Watch};
use super::profile::PlacedProfile;
use crate::trace::pass_signals_on;
use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use conex::seccomp::abi;
use conex::verbs::second::{SECCOMP_LOG, WATCH};
use serde_json::{json, Value};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

/// # Errors
/// The bundle has no profile, or one with a listener of its own. Those of `run` are its own.
pub fn main(env: &Invocation) -> Result<i32> {
    let a = &env.args;
    let annotated = std::env::var_os(WATCH).is_some();
    let asked = match annotated {
        true => format!("annotations[{SECCOMP_LOG:?}]"),
        false => "run --seccomp-log".into(),
    };
    let bad = |what: &str| Error::new(Kind::Invalid, what).at(asked.clone());
    if a.is_set("detach") && !annotated {
        return Err(bad(&format!(
            "only in the foreground: somebody has to answer for as long as the container runs; the annotation {SECCOMP_LOG} does it for any"
        )));
    }
    let target = a.rest[0].as_str();
    let file = config(a, target);
    let (text, profile, mut document) = read(&file)?;
    if document["linux"]["seccomp"]["listenerPath"].as_str().is_some_and(|p| !p.is_empty()) {
        return Err(bad(
            "linux.seccomp.listenerPath: the profile has a listener already, and the kernel takes one",
        ));
    }
    // What `run` refuses is refused here as well: with a listener it would go on.
    profile.check_needed(&document)?;
    let log = annotated_log(&mut document, annotated).map_err(|e| bad(&e))?;
    let place = Place::new()?;
    document["linux"]["seccomp"]["syscalls"] = asking(&profile);
    document["linux"]["seccomp"]["listenerPath"] = json!(place.socket);
    let config = place.dir.join("config.json");
    std::fs::write(&config, document.to_string())
        .call(|| format!("write({})", config.display()))?;
    let listener =
        UnixListener::bind(&place.socket).call(|| format!("bind({})", place.socket.display()))?;

    let mut command = std::process::Command::new(&env.program);
    command.args(&env.global).arg(env.verb).arg("--config").arg(&config).env_remove(WATCH);
    hand_on(&mut command, env);
    if let Some(log) = log {
        let waits = env.verb == "run" && !a.is_set("detach");
        let order = super::agent::Order { log: &log, document: &text, whose: target, waits };
        return super::agent::begin(command, listener, place, &order);
    }
    let mut child = command.spawn().call(|| format!("exec({})", env.program.display()))?;
    let watch = Arc::new(Watch::new(profile));
    let judge = watch.clone();
    let begin = move || std::thread::spawn(move || judge.accept(&listener));
    let status = pass_signals_on(&mut child, begin)?;
    let _ = std::io::stderr().write_all(watch.report("").as_bytes());
    use std::os::unix::process::ExitStatusExt;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// The container's config.json: `run` may be given a path in place of an id.
fn config(a: &conex::cli::Args, target: &str) -> std::path::PathBuf {
    let is_path = target.contains('/') || target == ".";
    let bundle = if is_path { target } else { a.value("bundle").unwrap_or(".") };
    a.value("config").map_or_else(
        || conex::text::path(bundle).join("config.json"),
        |c| conex::text::path(c).into_owned(),
    )
}

/// A config.json as it stands, its profile, and the document.
fn read(file: &std::path::Path) -> Result<(Vec<u8>, PlacedProfile, Value)> {
    let text = std::fs::read(file).call(|| format!("open({})", file.display()))?;
    let profile = PlacedProfile::read(&text, &[]).map_err(|e| e.at("linux.seccomp"))?;
    let document = serde_json::from_slice(&text)
        .map_err(|e| Error::new(Kind::Invalid, format!("{}: no JSON: {e}", file.display())))?;
    Ok((text, profile, document))
}

fn hand_on(command: &mut std::process::Command, env: &Invocation) {
    let run = conex::cli::command(env.verb).expect("in the table");
    for flag in run.flags.iter().filter(|f| !matches!(f.name, "config" | "seccomp-log")) {
        for value in env.args.values(flag.name) {
            command.arg(&*conex::text::os(&format!("--{}={value}", flag.name)));
        }
    }
    command.args(env.args.rest.iter().map(|a| conex::text::os(a).into_owned()));
}

/// The file that the annotation names; taken from the document, so that the runtime does not begin all this again.
fn annotated_log(
    document: &mut Value,
    annotated: bool,
) -> std::result::Result<Option<PathBuf>, String> {
    match document["annotations"].as_object_mut().and_then(|list| list.remove(SECCOMP_LOG)) {
        Some(path) if annotated => {
            let path = path.as_str().filter(|p| p.starts_with('/')).map(PathBuf::from);
            path.map(Some).ok_or_else(|| "must be the absolute path of a file".into())
        }
        _ => Ok(None),
    }
}

/// Rules under which each call goes on that the profile allows whatever its arguments are, and each other one asks.
fn asking(profile: &PlacedProfile) -> Value {
    let (mut free, mut asks) = (Vec::new(), Vec::new());
    for name in abi::names() {
        let rules = profile.rules_for(name);
        let allowed = match rules.as_slice() {
            [] => allows(profile.default_action()),
            rules => rules.iter().all(|r| r.rule.any_of.is_empty() && allows(r.rule.action)),
        };
        if allowed { &mut free } else { &mut asks }.push(name);
    }
    // A rule must name something.
    let rules = [(free, "SCMP_ACT_ALLOW"), (asks, "SCMP_ACT_NOTIFY")];
    let rules = rules.into_iter().filter(|(names, _)| !names.is_empty());
    rules.map(|(names, action)| json!({"names": names, "action": action})).collect()
}
