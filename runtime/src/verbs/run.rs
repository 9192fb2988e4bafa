//! `conex run`: create, start, and unless detached wait and delete.

use super::create::{make, Made, Request};
use super::{delete, start, Env};
use crate::error::{Context, Result};
use crate::host::foreground::{self, RawTerminal};
use crate::host::{self, notify, Start};
use std::os::fd::AsFd;
use std::path::Path;

pub fn main(env: &mut Env) -> Result<i32> {
    host::seal::ensure()?;
    let detached = env.args.is_set("detach");
    let (id, dir) = target(env)?;
    let request = Request::new(env, id, &dir, detached)?;
    let mut signals = None;
    if !detached {
        if !env.args.is_set("no-subreaper") {
            conex_sys::proc::set_child_subreaper().call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        signals = Some(foreground::catch_signals()?);
    }
    let mut made = make(env, &request, Start::Now)?;
    let inside = match notify::host_socket() {
        Some(_) => Some(notify::bind_inside(&made.entry.path)?),
        None => None,
    };
    let master = made.container.terminal.take();
    let terminal = if master.is_some() { RawTerminal::open()? } else { None };
    foreground::copy_size(master.as_ref(), terminal.as_ref());
    if let Err(e) = start::release(&made.container.sync) {
        drop(terminal);
        let problems = delete::destroy(&made.entry, &made.state, None);
        return Err(host::undo::with(e, problems));
    }
    poststart(&made)?;
    if let (Some(socket), Some(manager)) = (&inside, notify::host_socket()) {
        let pid = made.container.pid.as_raw();
        notify::forward(socket, &manager, pid, || crate::state::proc_stat(pid).is_some_and(|s| s.0 != 'Z'))?;
    }
    let Some(signals) = signals else { return Ok(0) };
    let Made { container, entry, state, plan } = made;
    // Others may work on the container while it runs.
    drop(entry);
    let code = foreground::wait(container.pid, container.pidfd.as_fd(), &signals, master, terminal.as_ref())?;
    drop(terminal);
    if !env.args.is_set("keep") {
        delete::after_exit(env, &state, &plan.hooks)?;
    }
    Ok(code)
}

fn poststart(made: &Made) -> Result<()> {
    start::poststart(&made.entry, &made.state, &made.plan.hooks)
}

/// The id and the bundle. An id cannot hold a slash, so an argument with one is the bundle itself.
fn target(env: &Env) -> Result<(String, String)> {
    let arg = env.id().to_string();
    if !arg.contains('/') {
        return Ok((arg, env.args.value("bundle").unwrap_or(".").to_string()));
    }
    let path = Path::new(&arg).canonicalize().call(|| format!("bundle {arg}"))?;
    let name: String = path
        .file_name()
        .map_or("bundle".into(), |n| n.to_string_lossy().into_owned())
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_+-.".contains(c) { c } else { '-' })
        .collect();
    // Unique enough for a person's terminal; a clash is an error, not a mix-up.
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    Ok((format!("{name}-{:06x}", (nanos ^ std::process::id() << 8) & 0xff_ffff), arg))
}
