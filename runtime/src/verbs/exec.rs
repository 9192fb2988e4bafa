//! `conex exec`.

use super::create::{absolute, check_terminal, deliver, write_pid_file};
use super::env::Env;
use super::inherited::preserved;
use super::start;
use crate::bundle;
use crate::check::Check;
use crate::cli::Args;
use crate::error::{Context, Error, Kind, Result};
use crate::host;
use crate::host::exec::{spawn, Exec};
use crate::host::facts;
use crate::host::foreground::{self, RawTerminal};
use crate::identity::pidfd;
use crate::oci::config::{Capabilities, List, Process, Spec};
use crate::plan::namespaces::Maps;
use crate::plan::process;
use crate::state::{State, Status};
use crate::text;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// An error of exec itself, beside the exit status of the process, is 255 (runc).
pub fn main(env: &mut Env) -> Result<i32> {
    host::seal::ensure()?;
    let entry = env.store()?.find_shared(env.id())?;
    let (state, status) = entry.state()?;
    match status {
        Status::Stopped | Status::Creating => {
            return Err(Error::new(
                Kind::Status,
                format!("cannot exec in a {} container", status.name()),
            ));
        }
        Status::Paused if !env.args.is_set("ignore-paused") => {
            return Err(Error::new(
                Kind::Status,
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        _ => {}
    }
    let spec: Spec = bundle::parse(&entry.read("config.json")?, "config.json")?;
    // Two execs may run side by side, and a long one must not keep delete waiting.
    drop(entry);
    let bundle::Parsed { value: wanted, bad, unknown } = wanted(env, &spec)?;
    let detach = env.args.is_set("detach");
    let console = path_flag(env, "console-socket")?;
    check_terminal(wanted.terminal, detach, console.is_some())
        .map_err(|e| by_flag(e, &env.args, &spec))?;
    let (planned, warnings) = plan(env, &spec, &wanted, &state, bad)?;
    for w in unknown.into_iter().chain(warnings) {
        env.log.warn(w.to_string());
    }
    let init = state
        .init
        .map_or(Ok(None), pidfd)?
        .ok_or_else(|| Error::new(Kind::Status, "cannot exec in a stopped container"))?;
    let exec = Exec {
        process: &planned,
        state: &state,
        init,
        root: &env.root,
        ignore_paused: env.args.is_set("ignore-paused"),
        sub_cgroups: sub_cgroups(env)?,
        at_once: at_once(&planned, env),
    };
    run(env, &exec, console, detach).map_err(|e| by_flag(e, &env.args, &spec))
}

/// An error about a part of the process object that comes from the command line names the flag, no field of a document.
fn by_flag(mut e: Error, args: &Args, spec: &Spec) -> Error {
    let Some(path) = e.field.strip_prefix("process.").filter(|_| args.value("process").is_none())
    else {
        return e;
    };
    let (path, index) = path.split_once('[').unwrap_or((path, "0"));
    let index = index.trim_end_matches(']').parse::<usize>().unwrap_or(0);
    let own = spec.process.as_ref().map_or((0, 0), |p| (p.env.len(), p.user.additional_gids.len()));
    let given = |name| args.value(name).is_some_and(|v| !v.is_empty());
    let flag = match path {
        "args" => "the command",
        "env" if e.field.ends_with("env") => {
            // One string that is too long, by the name of its variable.
            let is = |v: &&String| {
                v.split_once('=')
                    .is_some_and(|(n, _)| e.what.contains(&format!(" bytes of {n} are ")))
            };
            args.values("env").iter().find(is).map_or("process.env", |_| "--env")
        }
        "env" if index >= own.0 => "--env",
        "user.additionalGids" if index >= own.1 => "--additional-gids",
        "user.uid" | "user.gid" if given("user") => "--user",
        "cwd" if given("cwd") => "--cwd",
        "terminal" if given("tty") => "--tty",
        "selinuxLabel" if given("process-label") => "--process-label",
        "apparmorProfile" if given("apparmor") => "--apparmor",
        _ if path.starts_with("capabilities")
            && args.values("cap").iter().any(|c| e.what.contains(c)) =>
        {
            "--cap"
        }
        _ => return e,
    };
    e.field = flag.into();
    e
}

/// True if nobody is to be given anything before the program runs.
fn at_once(process: &process::Process, env: &Env) -> bool {
    let asks = process.seccomp.as_ref().is_some_and(|filter| filter.listener.is_some());
    !process.terminal && !asks && env.args.value("pidfd-socket").is_none()
}

fn run(env: &Env, exec: &Exec, console: Option<PathBuf>, detach: bool) -> Result<i32> {
    let mut signals = None;
    if !detach {
        if !env.args.is_set("no-subreaper") {
            conex_sys::proc::set_child_subreaper().call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        signals = Some(foreground::catch_signals()?);
    }
    let mut c = spawn(exec)?;
    let pid_file = path_flag(env, "pid-file")?;
    let mut raw = None;
    let mut master = None;
    let released = (|| {
        deliver(&mut c, console.as_deref(), path_flag(env, "pidfd-socket")?.as_deref(), "setns")?;
        master = c.terminal.take();
        if master.is_some() {
            raw = RawTerminal::open()?;
        }
        foreground::fit(master.as_ref(), raw.as_ref());
        let confined =
            exec.process.seccomp.as_ref().map(|_| crate::identity::identity(c.pid.as_raw()));
        start::release(&c, confined)?;
        // conmon takes the file for the proof that the process itself has started.
        pid_file.as_deref().map_or(Ok(()), |f| write_pid_file(f, c.pid.as_raw()))
    })();
    if let Err(e) = released {
        drop(raw);
        c.end();
        return Err(e);
    }
    let Some(signals) = signals else { return Ok(0) };
    let console = foreground::Console { master, terminal: raw.as_ref(), notify: None };
    Ok(foreground::wait(c.pid, c.pidfd.as_fd(), &signals, console)?.code())
}

fn path_flag(env: &Env, name: &str) -> Result<Option<PathBuf>> {
    env.args.value(name).filter(|v| !v.is_empty()).map(|v| absolute(&text::path(v))).transpose()
}

/// The process object: a file as it is, or the container's own with the flags on top.
fn wanted(env: &Env, spec: &Spec) -> Result<bundle::Parsed<Process>> {
    if let Some(file) = env.args.value("process") {
        let mut parsed = bundle::process(&text::path(file))?;
        let p = &mut parsed.value;
        // As runc: engines write no umask into this document, and mean the container's.
        p.user.umask = p.user.umask.or(spec.process.as_ref().and_then(|own| own.user.umask));
        return Ok(parsed);
    }
    let command = &env.args.rest[1..];
    if command.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            "exec: no command given: process args cannot be empty",
        ));
    }
    let mut p = spec.process.clone().unwrap_or_default();
    p.args = List(command.to_vec());
    p.terminal = env.args.is_set("tty");
    p.console_size = None;
    if let Some(cwd) = env.args.value("cwd").filter(|c| !c.is_empty()) {
        p.cwd = cwd.to_string();
    }
    p.env.0.extend(env.args.values("env").iter().cloned());
    if let Some(user) = env.args.value("user").filter(|u| !u.is_empty()) {
        (p.user.uid, p.user.gid) = parse_user(user, p.user.gid)?;
    }
    for gid in env.args.values("additional-gids") {
        p.user.additional_gids.0.push(gid.parse().map_err(|_| {
            Error::new(Kind::Invalid, format!("--additional-gids {gid:?}: not a gid"))
        })?);
    }
    if let Some(label) = env.args.value("process-label") {
        p.selinux_label = Some(label.to_string());
    }
    if let Some(profile) = env.args.value("apparmor") {
        p.apparmor_profile = Some(profile.to_string());
    }
    if let Some(v) = env.args.value("no-new-privs") {
        p.no_new_privileges = Some(v == "true");
    }
    if !env.args.values("cap").is_empty() {
        add_capabilities(
            p.capabilities.get_or_insert_with(Capabilities::default),
            env.args.values("cap"),
        );
    }
    Ok(bundle::Parsed { value: p, bad: Vec::new(), unknown: Vec::new() })
}

/// Into bounding, effective and permitted; into ambient only what is inheritable, and never into inheritable
/// (CVE-2022-29162).
fn add_capabilities(c: &mut Capabilities, list: &[String]) {
    for cap in list {
        for set in [&mut c.bounding, &mut c.effective, &mut c.permitted] {
            if !set.0.contains(cap) {
                set.0.push(cap.clone());
            }
        }
        if c.inheritable.contains(cap) && !c.ambient.contains(cap) {
            c.ambient.0.push(cap.clone());
        }
    }
}

/// `uid[:gid]`, decimal numbers only: a name would have to be looked up in a file of the image (CVE-2016-3697), and
/// a missing gid keeps the container's.
pub fn parse_user(text: &str, gid: u32) -> Result<(u32, u32)> {
    let id = |s: &str| -> Option<u32> {
        let plain = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        s.parse().ok().filter(|n| plain && *n != u32::MAX)
    };
    let parsed = match text.split_once(':') {
        Some((u, g)) => id(u).zip(id(g)),
        None => id(text).map(|u| (u, gid)),
    };
    parsed.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("--user {text:?}: expected uid[:gid] in decimal"))
    })
}

/// The same checks as for init, and what the container has for all its processes: seccomp, keyring, personality. `bad` is
/// what the document has of a wrong type.
fn plan(
    env: &Env,
    spec: &Spec,
    wanted: &Process,
    state: &State,
    bad: Vec<Error>,
) -> Result<(process::Process, Vec<Error>)> {
    let facts = facts::read(&Spec::default(), std::path::Path::new(""));
    let linux = spec.linux.clone().unwrap_or_default();
    let maps = (!linux.uid_mappings.is_empty())
        .then(|| Maps { uid: linux.uid_mappings.0.clone(), gid: linux.gid_mappings.0.clone() });
    let mut check = Check::default();
    let mut p = process::one(wanted, "process", &facts, maps.as_ref(), &mut check);
    p.seccomp = linux.seccomp.as_ref().and_then(|s| crate::seccomp::plan(s, &mut check));
    if let Some(filter) = &p.seccomp {
        crate::seccomp::needed(
            filter,
            p.no_new_privileges,
            !p.capabilities.ambient.is_empty(),
            &mut check,
        );
    }
    p.keyring = state.keyring.then(|| format!("_ses.{}", state.id));
    p.personality = process::personality(&linux, &mut check);
    p.memory_policy = crate::plan::placement::memory_policy(&linux, &mut check);
    p.preserved = preserved(env, 0)?;
    p.detached = env.args.is_set("detach");
    p.keep_groups = process::keeps_groups(&spec.annotations);
    let named = |list: Vec<Error>| -> Vec<Error> {
        list.into_iter().map(|e| by_flag(e, &env.args, spec)).collect()
    };
    match check.finish() {
        Ok(_) if !bad.is_empty() => Err(bundle::join(bad)),
        Ok(warnings) => {
            // The same word in each of the sets is one.
            let mut warnings = named(warnings);
            warnings.dedup();
            Ok((p, warnings))
        }
        Err(errors) => Err(bundle::join(named(bundle::with_plan(bad, errors, "process.")))),
    }
}

/// `[controller[,controller…]:]path`; `:path` for the v2 hierarchy alone.
fn sub_cgroups(env: &Env) -> Result<Vec<(Vec<String>, PathBuf)>> {
    let parse = |text: &String| -> Result<(Vec<String>, PathBuf)> {
        let (controllers, path) = match text.split_once(':') {
            Some((c, p)) => (c.split(',').map(str::to_string).collect(), p),
            None => (Vec::new(), text.as_str()),
        };
        if Path::new(path).components().any(|c| c == std::path::Component::ParentDir) {
            return Err(Error::new(
                Kind::Invalid,
                format!("--cgroup: {path} is not a sub cgroup path: it must stay below the container's cgroup"),
            ));
        }
        Ok((controllers, text::path(path).into_owned()))
    };
    env.args.values("cgroup").iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("1", 7).unwrap(), (1, 7));
        assert_eq!(parse_user("1000:5", 7).unwrap(), (1000, 5));
        for bad in
            ["", "abc", "1x", "-1", "+1", "1:", ":1", "4294967295", "4294967296", "0x10", "1:1:1"]
        {
            assert!(parse_user(bad, 0).is_err(), "{bad}");
        }
    }
}
