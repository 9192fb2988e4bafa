//! `conex delete`.

use super::{start, Env};
use crate::error::{Error, Kind, Result};
use crate::host::{hooks, undo};
use crate::oci::config::Hooks;
use crate::state::{Entry, State, Status, Store};

pub fn main(env: &mut Env) -> Result<i32> {
    let force = env.args.is_set("force");
    if force {
        end_at_once(env);
    }
    let found = env.store().and_then(|store| store.find(env.id()));
    let entry = match found {
        Err(e) if force && e.kind == Kind::NotFound => return Ok(0),
        other => other?,
    };
    let (state, status) = match entry.load() {
        Ok(_) => entry.state()?,
        // Nothing can be known of it; what the kernel holds by its id goes with the directory.
        Err(e) if !force => return Err(e),
        Err(_) => {
            let problems = undo::container(&guess(&entry), None);
            entry.remove()?;
            return problems.into_iter().next().map_or(Ok(0), Err);
        }
    };
    match status {
        Status::Stopped | Status::Created => {}
        Status::Creating if !force => {
            return Err(Error::new(
                Kind::Status,
                format!("cannot delete container {} that is not stopped: creating", state.id),
            ));
        }
        other if !force => {
            let what = format!("cannot delete container {} that is not stopped: {}", state.id, other.name());
            return Err(Error::new(Kind::Status, what));
        }
        _ => {}
    }
    let hooks = start::read_hooks(&entry).unwrap_or_default();
    let problems = destroy(&entry, &state, Some(&hooks));
    problems.into_iter().next().map_or(Ok(0), Err)
}

/// Before the lock is asked for: whoever holds it may be waiting for a hook or a process that never ends, and ends
/// with the process it works on. Only what the record proves to be that very process is touched.
fn end_at_once(env: &Env) {
    use std::os::fd::AsFd;
    let Some((state, status)) = env.store().ok().and_then(|store| store.peek(env.id()).ok()) else {
        return;
    };
    let target = if status == Status::Creating { Some(state.owner) } else { state.init };
    if let Some(Ok(Some(fd))) = target.map(crate::identity::pidfd) {
        let _ = conex_sys::proc::pidfd_send_signal(fd.as_fd(), libc::SIGKILL);
    }
}

/// A damaged state still has the document it was made from: the cgroup follows from it.
fn guess(entry: &Entry) -> State {
    let mut state = State { id: entry.id.clone(), ..State::default() };
    let Ok(text) = entry.read("config.json") else {
        return state;
    };
    let Ok(spec) = serde_json::from_slice::<crate::oci::config::Spec>(&text) else {
        return state;
    };
    let options = crate::plan::Options { id: entry.id.clone(), ..crate::plan::Options::default() };
    let facts = crate::host::facts::Facts::read(&spec);
    let linux = spec.linux.unwrap_or_default();
    let mut check = crate::plan::Check::default();
    let planned = crate::plan::cgroup::make(&linux, &spec.annotations.0, &options, &facts, &mut check);
    let paths = planned.and_then(|c| crate::host::cgroup::paths(&c, &facts.cgroup.hierarchies, "".as_ref()).ok());
    // Everything in it will be killed: only a directory named after the container is surely its own.
    let own = |p: &std::path::PathBuf| {
        p.file_name().is_some_and(|name| name.to_string_lossy().contains(entry.id.as_str()))
    };
    if let Some(paths) = paths.filter(|p| p.iter().all(own)) {
        state.made_cgroups = paths.clone();
        state.cgroups = paths;
    }
    state
}

/// Kills what is left, removes everything, and runs poststop last, when the container is gone.
pub fn destroy(entry: &Entry, state: &State, hooks: Option<&Hooks>) -> Vec<Error> {
    let mut problems = undo::container(state, None);
    if problems.is_empty() {
        let kept = undo::limits(state);
        problems.extend(entry.remove().err());
        problems.extend(kept);
    }
    let document = hooks::StateDocument {
        id: &state.id,
        status: "stopped",
        pid: 0,
        bundle: &state.bundle,
        annotations: &state.annotations,
    };
    if let Some(h) = hooks {
        problems.extend(hooks::run_all(&h.poststop, "poststop", &document, Some(&state.bundle)));
    }
    problems
}

/// Destroys a container by whoever made it, who has let go of the lock since: somebody else may have deleted it
/// already. Returns what could not be done.
///
/// # Errors
/// The state directory cannot be locked.
pub fn once_ended(root: &std::path::Path, state: &State, hooks: &Hooks) -> Result<Vec<Error>> {
    let Some(store) = Store::open(root, false)? else {
        return Ok(Vec::new());
    };
    let entry = match store.find(&state.id) {
        Err(e) if e.kind == Kind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // The same id may be another container by now.
    match entry.load() {
        Ok(now) if now.init == state.init => Ok(destroy(&entry, state, Some(hooks))),
        _ => Ok(Vec::new()),
    }
}
