//! `conex delete`.

use super::{start, Env};
use crate::error::{Error, Kind, Result};
use crate::host::{hooks, undo};
use crate::oci::config::Hooks;
use crate::state::{Entry, State, Status, Store};

pub fn main(env: &mut Env) -> Result<i32> {
    let force = env.args.is_set("force");
    let found = env.store().and_then(|store| store.find(env.id()));
    let entry = match found {
        Err(e) if force && e.kind == Kind::NotFound => return Ok(0),
        other => other?,
    };
    let (state, status) = match entry.state() {
        Ok(found) => found,
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
    let planned = crate::plan::cgroup::make(&linux, &options, &facts, &mut check);
    if let Some(paths) = planned.and_then(|c| crate::host::cgroup::paths(&c, &facts.cgroup.hierarchies).ok()) {
        state.made_cgroups = paths.clone();
        state.cgroups = paths;
    }
    state
}

/// Kills what is left, removes everything, and runs poststop last, when the container is gone.
pub fn destroy(entry: &Entry, state: &State, hooks: Option<&Hooks>) -> Vec<Error> {
    let mut problems = undo::container(state, None);
    if problems.is_empty() {
        problems.extend(entry.remove().err());
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

/// After a foreground `run`: somebody else may have deleted the container already.
pub fn after_exit(env: &Env, state: &State, hooks: &Hooks) -> Result<()> {
    let Some(store) = Store::open(&env.root, false)? else {
        return Ok(());
    };
    let entry = match store.find(&state.id) {
        Err(e) if e.kind == Kind::NotFound => return Ok(()),
        other => other?,
    };
    // The same id may be another container by now.
    match entry.load() {
        Ok(now) if now.init == state.init => {}
        _ => return Ok(()),
    }
    destroy(&entry, state, Some(hooks)).into_iter().next().map_or(Ok(()), Err)
}
