//! A container's process from its birth to `Ready`: the host's half of the conversation.

use crate::acts::hooks;
use crate::cgroup::Group;
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::Plan;
use crate::sync::{Channel, Message};
use crate::{freezer, listener, netdev, rdt, userns};
use conex_sys::proc;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};

/// A container whose init waits behind `Created`.
pub struct Container {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub sync: Channel,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Limits that an unprivileged runtime could not apply.
    pub warnings: Vec<Error>,
}

impl Container {
    /// Kills and reaps a process that nobody will hear of. In a frozen v1 cgroup it ends when somebody thaws that, which is
    /// not waited for.
    pub fn end(&self) {
        let _ = proc::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = nix::poll::poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], 5000u16);
        let _ = proc::wait_pidfd(self.pidfd.as_fd(), true);
    }

    /// The next message. While none comes, a freezer is looked for: who is frozen says nothing.
    ///
    /// # Errors
    /// It has been frozen for too long, and by whom.
    pub fn next(&self, group: Option<&Group>) -> Result<Option<Message>> {
        let mut freezer = freezer::Freezer::of(group);
        while group.is_some() && !self.sync.waiting(1000)? {
            freezer.look()?;
        }
        self.sync.receive()
    }
}

/// Sends what the child may no longer hear: if it has failed meanwhile, its own message says more than EPIPE.
pub fn tell(c: &Container, message: &Message) -> Result<()> {
    match c.sync.send(message) {
        Err(e) if e.errno == Some(Errno::EPIPE) => Ok(()),
        other => other,
    }
}

/// A dead child without a word was killed: say by what.
pub fn explain(e: Error, c: &Container, group: &Group) -> Error {
    if !e.what.starts_with("the other side died") {
        return e;
    }
    // Its end of the channel is closed a moment before it can be waited for.
    let mut fds = [PollFd::new(c.pidfd.as_fd(), PollFlags::POLLIN)];
    let _ = nix::poll::poll(&mut fds, 2000u16);
    let how = match proc::wait_pidfd(c.pidfd.as_fd(), true) {
        Ok(proc::Waited::Signaled(n)) => format!("killed by signal {n}"),
        Ok(proc::Waited::Exited(n)) => format!("exited with {n}"),
        _ => return e,
    };
    let oom = if group.oom_kills() > 0 {
        " (possibly OOM-killed: linux.resources.memory.limit may be too low)"
    } else {
        ""
    };
    Error::new(
        Kind::System,
        format!("container init {how} {}{oom}", e.what.trim_start_matches("the other side died ")),
    )
}

/// Our half of the conversation drawn in [`crate::sync`], up to `Ready`.
pub fn converse(plan: &Plan, c: &mut Container, group: &Group) -> Result<()> {
    let pid = c.pid.as_raw();
    group.join(pid)?;
    if let Some(score) = plan.process.oom_score_adj {
        oom_score(pid, score, &plan.process.field)?;
    }
    if let Some(rdt) = &plan.rdt {
        rdt::join(rdt, &plan.id, pid)?;
    }
    netdev::move_all(plan, pid)?;
    rlimits(pid, &plan.process.rlimits)?;
    tell(c, &Message::Enter(group.tasks()?))?;
    let document = |status| hooks::StateDocument {
        id: &plan.id,
        status,
        pid,
        bundle: &plan.bundle,
        annotations: &plan.annotations,
    };
    loop {
        match c.next(Some(group))? {
            None => return Err(Error::new(Kind::System, "the other side died during its preparation")),
            Some(Message::Failed(e)) => return Err(e),
            Some(Message::NeedMaps) => {
                if let Some(maps) = &plan.namespaces.maps {
                    userns::write_maps(c.pid, maps, !nix::unistd::geteuid().is_root())?;
                }
                tell(c, &Message::Mapped)?;
            }
            Some(Message::Rooted) => {
                // The deprecated hook predates the status: the OCI's validation suite and crun have it "created".
                let setting = hooks::Setting { cwd: Some(&plan.bundle), ..hooks::Setting::default() };
                hooks::run(&plan.hooks.prestart, "prestart", &document("created"), &setting)?;
                hooks::run(&plan.hooks.create_runtime, "createRuntime", &document("creating"), &setting)?;
                tell(c, &Message::Go)?;
            }
            Some(Message::Terminal(fd)) => c.terminal = Some(fd),
            Some(Message::Notify(number)) => {
                if let Some(l) = plan.process.seccomp.as_ref().and_then(|f| f.listener.as_ref()) {
                    listener::seccomp(l, number, c.pidfd.as_fd(), &document("creating").json(), pid)?;
                }
            }
            Some(Message::Ready) => break,
            Some(other) => return Err(Error::new(Kind::System, format!("unexpected message {other:?}"))),
        }
    }
    Ok(())
}

/// Written by the host: a process that is not dumpable cannot open its own file as another user.
pub fn oom_score(pid: i32, score: i32, field: &str) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, score.to_string()) {
        // Lowering takes CAP_SYS_RESOURCE; what is already so needs none.
        Err(_) if std::fs::read_to_string(&path).is_ok_and(|t| t.trim() == score.to_string()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let now = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<i32>().ok());
            let why = match now.filter(|now| score < *now) {
                Some(now) => format!("lowering it from {now} takes CAP_SYS_RESOURCE: "),
                None => String::new(),
            };
            Err(e).call(|| format!("{why}write({path}, {score})")).at(|| format!("{field}.oomScoreAdj"))
        }
        other => other.call(|| format!("write({path}, {score})")).at(|| format!("{field}.oomScoreAdj")),
    }
}

/// Raises the hard limits that are below the wanted ones, while the process is still of our user: afterwards it would
/// take CAP_SYS_RESOURCE even to lower them. The process sets the final values itself.
pub fn rlimits(pid: i32, list: &[crate::plan::process::Rlimit]) -> Result<()> {
    for r in list {
        let pid = Pid::from_raw(pid);
        let (soft, hard) =
            proc::rlimit(pid, r.resource).call(|| format!("prlimit({})", r.name)).at(|| r.field.clone())?;
        if r.hard > hard {
            proc::set_rlimit(pid, r.resource, soft, r.hard)
                .call(|| {
                    format!("prlimit({}, {}): raising the hard limit {hard} takes CAP_SYS_RESOURCE", r.name, r.hard)
                })
                .at(|| r.field.clone())?;
        }
    }
    Ok(())
}
