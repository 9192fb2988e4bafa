//! `conex start`.

use super::delete;
use super::env::Env;
use crate::acts::hooks;
use crate::bundle;
use crate::error::{Context, Error, Kind, Result};
use crate::host::Container;
use crate::host::{listener, notify, undo};
use crate::identity::Identity;
use crate::oci::config::Hooks;
use crate::state::{Entry, State, Status};
use crate::sync::{Channel, Message};
use nix::errno::Errno;
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType};
use std::os::fd::{AsFd, AsRawFd};

pub fn main(env: &mut Env) -> Result<i32> {
    let entry = env.store()?.find(env.id())?;
    let (state, status) = entry.state()?;
    match status {
        Status::Created => {}
        Status::Stopped => {
            return Err(Error::new(Kind::Status, "cannot start a container that has stopped"))
        }
        Status::Running => {
            return Err(Error::new(Kind::Status, "cannot start an already running container"))
        }
        other => {
            return Err(Error::new(
                Kind::Status,
                format!("cannot start a container in the {} state", other.name()),
            ))
        }
    }
    let document = bundle::of(&entry)?;
    let confined = document.linux.as_ref().is_some_and(|linux| linux.seccomp.is_some());
    let hooks = document.hooks.unwrap_or_default();
    let inside = match notify::host_socket() {
        Some(_) if notify::directory(&entry.path).is_dir() => {
            Some(notify::bind_inside(&entry.path)?)
        }
        _ => None,
    };
    // Before the program runs: it would run without anybody who passes its word on.
    let relay = match inside.zip(notify::host_socket()).zip(state.init) {
        Some(((socket, manager), init)) => {
            Some((notify::Relay::new(socket, &manager, init.pid)?, init))
        }
        None => None,
    };
    let channel = reach(&entry)?;
    // Without its socket the container counts as started; init ends itself if nothing follows.
    entry.unlink("start.sock");
    crate::log::step(|| "has reached the container");
    channel.send(&Message::Go)?;
    if let Err(e) = executed(&channel, state.init.filter(|_| confined)) {
        // Whoever asks next is to hear that it has stopped.
        state.init.into_iter().for_each(|init| crate::identity::await_end(init, 5000));
        let text = entry.read("config.json").unwrap_or_default();
        return Err(bundle::locate(&text, vec![e]).remove(0));
    }
    // A hook may call the runtime for this container, and readiness may take its time.
    drop(entry);
    poststart(&env.root, &state, &hooks)?;
    if let Some((mut relay, init)) = relay {
        // It runs, and whoever made it has it.
        if let Err(e) = relay.wait(|| crate::identity::alive(init)) {
            env.log.warn(e.to_string());
        }
    }
    Ok(0)
}

fn reach(entry: &Entry) -> Result<Channel> {
    let path = entry.path.join("start.sock");
    let (_dir, address) = listener::address(&path)?;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .call(|| "socket(AF_UNIX)")?;
    match connect(fd.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Err(Error::new(
            Kind::Status,
            "cannot start a container that has stopped: container process is already dead",
        )),
        other => {
            other.call(|| format!("connect({})", path.display()))?;
            Ok(Channel::new(fd))
        }
    }
}

/// Lets the process go, if it was not told to already, and waits until its program is executed.
pub fn release(c: &Container, confined: Option<Identity>) -> Result<()> {
    if !c.released {
        crate::host::container::tell(c, &Message::Created)?;
    }
    executed(&c.sync, confined)
}

/// End of stream: the channel was closed by execve. Or the process ended without a word: one that is `confined` by a seccomp
/// filter may not be able to say why.
pub fn executed(channel: &Channel, confined: Option<Identity>) -> Result<()> {
    let mut words = None;
    let mut message = channel.receive()?;
    if let Some(Message::Words(memory)) = message {
        words = Some(memory);
        message = channel.receive()?;
    }
    if let Some(e) = words
        .filter(|_| message.is_none())
        .and_then(|memory| crate::sync::read_words(memory.as_fd()))
    {
        return Err(e);
    }
    match message {
        None if confined.is_some_and(denied) => Err(Error::invalid(
            "linux.seccomp",
            "the program was never executed: the profile denies a call that this takes",
        )),
        None => Ok(()),
        Some(Message::Failed(e)) => Err(e),
        Some(other) => Err(Error::new(Kind::System, format!("unexpected message {other:?}"))),
    }
}

/// True if it never executed a program, and nobody has killed it: a memory limit or a `kill` can come at any moment.
fn denied(id: Identity) -> bool {
    if !crate::identity::never_executed(id) {
        return false;
    }
    crate::identity::await_end(id, 1000);
    crate::identity::zombie_status(id) != Some(128 + libc::SIGKILL)
}

/// Runs poststart; a failure ends the container (runtime.md, "Lifecycle", step 9).
pub fn poststart(root: &std::path::Path, state: &State, hooks: &Hooks) -> Result<()> {
    let document = hooks::StateDocument {
        id: &state.id,
        status: "running",
        pid: state.init.map_or(0, |i| i.pid),
        bundle: &state.bundle,
        annotations: &state.annotations,
    };
    let surroundings =
        hooks::Surroundings { cwd: Some(&state.bundle), ..hooks::Surroundings::default() };
    let ran = hooks::run(&hooks.poststart, "poststart", &document, &surroundings);
    ran.map_err(|e| {
        undo::with(
            e,
            delete::once_ended(root, state, hooks, crate::end::of(state, None))
                .unwrap_or_else(|e| vec![e]),
        )
    })
}
