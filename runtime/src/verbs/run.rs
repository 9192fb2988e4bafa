//! `conex run`: create, start, and unless detached wait and delete.

use super::create::{make, Made, Request};
use super::env::Env;
use super::{create, delete, start};
use crate::bundle::Bundle;
use crate::end;
use crate::error::{Context, Result};
use crate::host::foreground::{self, Console, Ended, RawTerminal};
use crate::host::{self, notify, Start};
use crate::oci::config::Hooks;
use crate::state::{End, State, Store};
use crate::text;
use std::os::fd::AsFd;
use std::path::Path;

pub fn main(env: &mut Env) -> Result<i32> {
    host::seal::ensure()?;
    let detached = env.args.is_set("detach");
    let (id, bundle) = target(env)?;
    crate::state::check_id(&id)?;
    super::second::watched(env, &bundle)?;
    let request = Request::new(env, id, bundle, detached, Start::Now)?;
    let mut signals = None;
    if !detached {
        if !env.args.is_set("no-subreaper") {
            conex_sys::proc::set_child_subreaper().call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        signals = Some(foreground::catch_signals()?);
    }
    let mut made = make(env, &request)?;
    let released = match release(&mut made) {
        Ok(released) => released,
        Err(e) => return Err(host::undo::with(e, delete::destroy(&made.entry, &made.state, None))),
    };
    let Made { container, entry, state, plan } = made;
    // Others may work on the container while it runs, its own poststart hooks for example.
    drop(entry);
    start::poststart(&env.root, &state, &plan.hooks)?;
    let Released { mut notify, master, terminal } = released;
    let Some(signals) = signals else {
        let pid = container.pid.as_raw();
        if let Some(relay) = &mut notify {
            // A container that nobody has been told of would be nobody's.
            relay.wait(|| crate::identity::proc_stat(pid).is_some_and(|s| s.0 != 'Z')).map_err(
                |e| {
                    let ended =
                        delete::once_ended(&env.root, &state, &plan.hooks, end::of(&state, None));
                    host::undo::with(e, ended.unwrap_or_else(|e| vec![e]))
                },
            )?;
        }
        return Ok(0);
    };
    let console = Console { master, terminal: terminal.as_ref(), notify };
    let waited = foreground::wait(container.pid, container.pidfd.as_fd(), &signals, console);
    drop(terminal);
    ended(env, &state, &plan.hooks, waited)
}

/// What follows the end of a container that was waited for: it is deleted, or kept for whoever asks. The exit status.
pub fn ended(env: &mut Env, state: &State, hooks: &Hooks, waited: Result<Ended>) -> Result<i32> {
    let end = waited.as_ref().map_or_else(|_| End::new(), |ended| tell(state, ended));
    if env.args.is_set("keep") {
        keep(env, state, end).unwrap_or_else(|e| crate::log::step(|| e.to_string()));
    } else {
        // The program's status is what the caller asked for; what could not be tidied up is told beside it.
        for problem in delete::once_ended(&env.root, state, hooks, end).unwrap_or_else(|e| vec![e])
        {
            env.log.warn(problem.to_string());
        }
    }
    Ok(waited?.code())
}

/// Writes down how it ended: its parent alone has seen it. The container may have been deleted meanwhile.
fn keep(env: &Env, state: &State, end: End) -> Result<()> {
    let store = Store::open(&env.root, false)?;
    let Some(entry) = store.map(|store| store.find(&state.id)).transpose()? else { return Ok(()) };
    let mut now = entry.load()?;
    // The id may be another container's by now.
    if now.init != state.init || end.is_empty() {
        return Ok(());
    }
    now.end = Some(end);
    entry.save(&now)
}

/// `SIGKILL` and the like; a realtime signal by its number.
fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or(format!("signal {signal}"), |s| s.as_str().into())
}

/// What is known of the end; what a shell would not make clear is said to whoever waits.
fn tell(state: &State, ended: &Ended) -> End {
    let mut end = end::of(state, Some(ended.code()));
    ended.signal.into_iter().for_each(|signal| drop(end.insert("signal".into(), signal.into())));
    let killed = end.get("oomKills").map(|n| {
        let by = end.get("oomLimit").map_or("the host has none left".into(), |limit| {
            format!(
                "the limit is {limit} bytes, of {}",
                end["oomCgroup"].as_str().unwrap_or_default()
            )
        });
        format!("the kernel killed {n} of its processes for want of memory ({by})")
    });
    let signal = ended.signal.map(|signal| format!("ended by {}", signal_name(signal)));
    let told: Vec<String> = signal.into_iter().chain(killed).collect();
    if !told.is_empty() {
        crate::log::notice(&format!("{}: {}", state.id, told.join("; ")));
    }
    end
}

/// What a running foreground container keeps its runtime busy with.
struct Released {
    notify: Option<notify::Relay>,
    master: Option<std::os::fd::OwnedFd>,
    terminal: Option<RawTerminal>,
}

/// Prepares both ends of the terminal and of the notify socket, then lets the program begin.
fn release(made: &mut Made) -> Result<Released> {
    // A container that runs already would be nobody's if this failed.
    let relay = |manager: String| {
        let inside = notify::bind_inside(&made.entry.path)?;
        notify::Relay::new(inside, &manager, made.container.pid.as_raw())
    };
    let notify = notify::host_socket().map(relay).transpose()?;
    let master = made.container.terminal.take();
    let terminal = if master.is_some() { RawTerminal::open()? } else { None };
    foreground::fit(master.as_ref(), terminal.as_ref());
    start::release(
        &made.container,
        made.state.init.filter(|_| made.plan.process.seccomp.is_some()),
    )?;
    Ok(Released { notify, master, terminal })
}

/// The id and the bundle. An id cannot hold a slash and is no dot, so that such an argument is the bundle itself.
fn target(env: &Env) -> Result<(String, Bundle)> {
    let arg = env.id().to_string();
    if !arg.contains('/') && arg != "." {
        crate::state::check_id(&arg)?;
        return Ok((
            arg,
            create::bundle(env, &text::path(env.args.value("bundle").unwrap_or(".")))?,
        ));
    }
    let path = text::path(&arg).canonicalize().call(|| format!("bundle {arg}"))?;
    Ok((id_from(&path), create::bundle(env, &path)?))
}

/// An id for a person's terminal, after the name of a directory: unique enough, and a clash is an error, not a mix-up.
pub fn id_from(path: &Path) -> String {
    let name: String = path
        .file_name()
        .map_or("bundle".into(), |n| n.to_string_lossy().into_owned())
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_+-.".contains(c) { c } else { '-' })
        .collect();
    // No id begins with a dot.
    let name = match name.trim_start_matches('.') {
        "" => "bundle",
        name => name,
    };
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    format!("{name}-{:06x}", (nanos ^ std::process::id() << 8) & 0xff_ffff)
}
