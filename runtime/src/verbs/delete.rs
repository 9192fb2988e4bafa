//! `conex delete`.

use super::env::Env;
use crate::acts::hooks;
use crate::bundle;
use crate::end;
use crate::error::{Error, Kind, Result};
use crate::host::cgroup::Group;
use crate::host::undo;
use crate::oci::config::Hooks;
use crate::state::{End, Entry, State, Status, Store, BUNDLE};

pub fn main(env: &mut Env) -> Result<i32> {
    let force = env.args.is_set("force");
    let ended = if force { end_at_once(env) } else { None };
    let found = env.store().and_then(|store| store.find(env.id()));
    let entry = match found {
        Err(e) if force && e.kind == Kind::NotFound => return Ok(0),
        other => other?,
    };
    let (state, status) = match entry.load() {
        Ok(state) => {
            // By force it is killed and waited for below, where a frozen one is thawed.
            if !force {
                await_death(&state);
            }
            entry.state()?
        }
        // Nothing can be known of it; what the kernel holds by its id goes with the directory.
        Err(e) if !force => return Err(e),
        Err(_) => {
            let (state, unproven) = guess(&entry);
            // Without its record nobody would find it again.
            if let Some(e) = unproven {
                return Err(e);
            }
            let problems = undo::container(&state, None);
            entry.remove()?;
            return problems.into_iter().next().map_or(Ok(0), Err);
        }
    };
    match status {
        Status::Stopped | Status::Created => {}
        other if !force => {
            let what = format!(
                "cannot delete container {} that is not stopped: {}",
                state.id,
                other.name()
            );
            return Err(Error::new(Kind::Status, what));
        }
        _ => {}
    }
    let hooks = bundle::of(&entry).ok().and_then(|spec| spec.hooks).unwrap_or_default();
    // Its cgroups still count what the kernel killed.
    // What it was before this killed it.
    let was = ended.unwrap_or(status);
    let end = if was == Status::Stopped { end::of(&state, None) } else { End::new() };
    let problems = destroy(&entry, &state, Some(&hooks));
    if state.init.is_some() && !entry.path.exists() {
        end::note(&env.root, &state, was, end);
    }
    problems.into_iter().next().map_or(Ok(0), Err)
}

/// `kill` returns when the signal is sent: whoever deletes right after it need not guess how long dying takes (ten
/// seconds at most; a process in an uninterruptible sleep may never end).
fn await_death(state: &State) {
    state.init.filter(|init| crate::identity::dying(*init)).into_iter().for_each(|init| {
        crate::identity::await_end(init, 10_000);
    });
}

/// Before the lock is asked for: whoever holds it may be waiting for a hook or a process that never ends, and ends
/// with the process it works on. Only what the record proves to be that very process is touched.
///
/// Returns what it was.
fn end_at_once(env: &Env) -> Option<Status> {
    use std::os::fd::AsFd;
    let (state, status) = env.store().ok()?.peek(env.id()).ok()?;
    let target = if status == Status::Creating { Some(state.owner) } else { state.init };
    if let Some(Ok(Some(fd))) = target.map(crate::identity::pidfd) {
        let _ = conex_sys::proc::pidfd_send_signal(fd.as_fd(), libc::SIGKILL);
    }
    Some(status)
}

/// A damaged state still has the document it was made from, and the way to its bundle: the cgroup follows from it. What
/// is in it will be killed, so it must be proven: a directory that is named after the container, whose processes are in
/// the container's root.
///
/// # Errors
/// A cgroup of that name that is not proven is left alone.
fn guess(entry: &Entry) -> (State, Option<Error>) {
    let mut state = State { id: entry.id.clone(), ..State::default() };
    let text = entry.read("config.json").unwrap_or_default();
    let text = crate::text::from_bytes(&text);
    let Ok(spec) = serde_json::from_slice::<crate::oci::config::Spec>(text.as_bytes()) else {
        return (state, None);
    };
    let root = spec.root.as_ref().map_or("", |r| r.path.as_str());
    let root = entry.read_link(BUNDLE).map(|bundle| bundle.join(root));
    let options = crate::plan::Options { id: entry.id.clone(), ..crate::plan::Options::default() };
    let facts = crate::host::facts::read(&spec, std::path::Path::new(""));
    let linux = spec.linux.unwrap_or_default();
    let mut check = crate::check::Check::default();
    let planned =
        crate::plan::cgroup::make(&linux, &spec.annotations.0, &options, &facts, &mut check);
    let paths = planned
        .and_then(|c| crate::host::cgroup::paths(&c, &facts.cgroup.hierarchies, "".as_ref()).ok());
    let Some(paths) = paths.filter(|paths| paths.iter().all(|p| is_named_after(p, &entry.id)))
    else {
        return (state, None);
    };
    let group = Group::open(&paths);
    let mut strangers = group.pids();
    strangers.retain(|pid| !root.as_ref().is_some_and(|root| lives_in(*pid, root)));
    // One that has ended meanwhile says nothing.
    let left = group.pids();
    strangers.retain(|pid| left.contains(pid));
    let strangers = strangers.len();
    if strangers > 0 {
        let what = format!(
            "its record is damaged, and {strangers} process(es) in {} are not provably the container's: left alone",
            paths[0].display()
        );
        return (state, Some(Error::new(Kind::System, what)));
    }
    state.made_cgroups = paths.clone();
    state.cgroups = paths;
    (state, None)
}

/// The id by itself, or between signs that no id holds or that engines put there: `docker-ID.scope`.
fn is_named_after(path: &std::path::Path, id: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_suffix(".scope").unwrap_or(&name).strip_suffix(id).is_some_and(|rest| {
        rest.is_empty() || rest.strip_suffix(['-', ':']).is_some_and(|prefix| !prefix.is_empty())
    })
}

/// True if the process has that directory as its root, and so no other container's nor the host's.
fn lives_in(pid: i32, root: &std::path::Path) -> bool {
    let id = |s: nix::Result<nix::sys::stat::FileStat>| s.ok().map(|s| (s.st_dev, s.st_ino));
    let theirs = id(nix::sys::stat::stat(format!("/proc/{pid}/root").as_str()));
    theirs.is_some()
        && theirs == id(nix::sys::stat::stat(root))
        && theirs != id(nix::sys::stat::stat("/"))
}

/// Kills what is left, removes everything, and runs poststop last, when the container is gone.
pub fn destroy(entry: &Entry, state: &State, hooks: Option<&Hooks>) -> Vec<Error> {
    crate::log::step(|| "kills what is left; removes mounts and cgroups");
    let mut problems = undo::container(state, None);
    if problems.is_empty() {
        crate::log::step(|| "removes the state directory");
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
    let surroundings =
        hooks::Surroundings { cwd: Some(&state.bundle), ..hooks::Surroundings::default() };
    if let Some(h) = hooks {
        problems.extend(hooks::run_all(&h.poststop, "poststop", &document, &surroundings));
    }
    problems
}

/// Destroys a container by whoever made it, who has let go of the lock since: somebody else may have deleted it
/// already. `end` is what it has seen of it. Returns what could not be done.
///
/// # Errors
/// The state directory cannot be locked.
pub fn once_ended(
    root: &std::path::Path,
    state: &State,
    hooks: &Hooks,
    end: End,
) -> Result<Vec<Error>> {
    let Some(store) = Store::open(root, false)? else {
        return Ok(Vec::new());
    };
    let entry = match store.find(&state.id) {
        Err(e) if e.kind == Kind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    // The same id may be another container by now.
    match entry.load() {
        Ok(now) if now.init == state.init => {
            let problems = destroy(&entry, state, Some(hooks));
            if !entry.path.exists() {
                end::note(root, state, Status::Stopped, end);
            }
            Ok(problems)
        }
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_after_its_container() {
        let named = |name: &str| {
            is_named_after(std::path::Path::new("/sys/fs/cgroup/x").join(name).as_path(), "c1")
        };
        assert!(named("c1") && named("docker-c1.scope") && named("libpod-c1") && named("a:b:c1"));
        for name in ["c11", "c1x", "xc1", "c1-2", "-c1", "c1.slice", "", "c"] {
            assert!(!named(name), "{name}");
        }
    }
}
