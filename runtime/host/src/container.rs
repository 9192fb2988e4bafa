//! A container's process from its birth to `Ready`: the host's half of the conversation.

use crate::acts::hooks::StateDocument;
use crate::cgroup::Group;
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::process::Process;
use crate::sync::{Channel, Message};
use crate::{freezer, listener};
use conex_sys::proc;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A container whose init waits behind `Created`.
pub struct Container {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub sync: Channel,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Limits that an unprivileged runtime could not apply.
    pub warnings: Vec<Error>,
    /// It has been told to go on already.
    pub released: bool,
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

/// Sends what the child may no longer hear: if it has failed meanwhile, its own message says more than EPIPE, or than
/// ECONNRESET, which is EPIPE for one that ended with something unread, or ECONNREFUSED, for one that is just ending.
pub fn tell(c: &Container, message: &Message) -> Result<()> {
    match c.sync.send(message) {
        Err(e)
            if matches!(e.errno, Some(Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// `who`, a dead child without a word, was killed: say by what. Without its descriptor its end was taken already.
pub fn explain(mut e: Error, who: &str, pidfd: Option<BorrowedFd>, group: &Group) -> Error {
    let Some(when) = e.what.strip_prefix("the other side died ").map(str::to_string) else {
        return e;
    };
    let ended = pidfd.and_then(|fd| {
        // Its end of the channel is closed a moment before it can be waited for.
        let _ = nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], 2000u16);
        match proc::wait_pidfd(fd, true) {
            Ok(proc::Waited::Signaled(n)) => Some(format!("killed by signal {n}")),
            Ok(proc::Waited::Exited(n)) => Some(format!("exited with {n}")),
            _ => None,
        }
    });
    if let Some(how) = ended {
        e.what = format!("{who} {how} {when}");
    }
    if group.oom_kills() > 0 {
        e.what += " (possibly OOM-killed: linux.resources.memory.limit may be too low)";
    }
    e
}

/// Hands the descriptor of a filter that asks to the agent that the profile names.
pub fn notified(
    process: &Process,
    c: &Container,
    number: i32,
    document: &StateDocument,
) -> Result<()> {
    let agent = process.seccomp.as_ref().and_then(|filter| filter.listener.as_ref());
    agent.map_or(Ok(()), |agent| {
        listener::seccomp(agent, number, c.pidfd.as_fd(), &document.json(), c.pid.as_raw())
    })
}

/// What [`Group::tasks`] has opened.
pub type Tasks = Vec<(String, OwnedFd)>;

/// What a message means that only one side of create and exec understands.
pub type Meaning<'a> = dyn FnMut(&mut Container, Message) -> Result<()> + 'a;

/// The first word of every conversation: the process may enter its cgroups; `at_once`: and go on when it is ready.
pub fn welcome(c: &mut Container, process: &Process, tasks: Tasks, at_once: bool) -> Result<()> {
    rlimits(c.pid.as_raw(), &process.rlimits)?;
    c.released = at_once;
    tell(c, &if at_once { Message::EnterAndGo(tasks) } else { Message::Enter(tasks) })
}

/// The host's half of every conversation from there to `Ready`. `watched`: whose freezing is looked for while nothing is heard.
pub fn handshake(c: &mut Container, watched: Option<&Group>, meaning: &mut Meaning) -> Result<()> {
    loop {
        match c.next(watched)? {
            None => {
                return Err(Error::new(Kind::System, "the other side died during its preparation"))
            }
            Some(Message::Failed(e)) => return Err(e),
            Some(Message::Terminal(fd)) => c.terminal = Some(fd),
            Some(Message::Ready) => return Ok(()),
            Some(other) => meaning(c, other)?,
        }
    }
}

pub fn unexpected(message: &Message) -> Error {
    Error::new(Kind::System, format!("unexpected message {message:?}"))
}

/// Written by the host: a process that is not dumpable cannot open its own file as another user.
pub fn oom_score(pid: i32, process: &Process) -> Result<()> {
    let (Some(score), field) = (process.oom_score_adj, &process.field) else { return Ok(()) };
    let path = format!("/proc/{pid}/oom_score_adj");
    match std::fs::write(&path, score.to_string()) {
        // Lowering takes CAP_SYS_RESOURCE; what is already so needs none.
        Err(_) if std::fs::read_to_string(&path).is_ok_and(|t| t.trim() == score.to_string()) => {
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let now =
                std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<i32>().ok());
            let why = match now.filter(|now| score < *now) {
                Some(now) => format!("lowering it from {now} takes CAP_SYS_RESOURCE: "),
                None => String::new(),
            };
            Err(e)
                .call(|| format!("{why}write({path}, {score})"))
                .at(|| format!("{field}.oomScoreAdj"))
        }
        other => {
            other.call(|| format!("write({path}, {score})")).at(|| format!("{field}.oomScoreAdj"))
        }
    }
}

/// Raises the hard limits that are below the wanted ones, while the process is still of our user: afterwards it would
/// take CAP_SYS_RESOURCE even to lower them. The process sets the final values itself.
pub fn rlimits(pid: i32, list: &[crate::plan::process::Rlimit]) -> Result<()> {
    for r in list {
        let pid = Pid::from_raw(pid);
        let (soft, hard) = proc::rlimit(pid, r.resource)
            .call(|| format!("prlimit({})", r.name))
            .at(|| r.field.clone())?;
        if r.hard > hard {
            proc::set_rlimit(pid, r.resource, soft, r.hard)
                .call(|| {
                    format!(
                        "prlimit({}, {}): raising the hard limit {hard} takes CAP_SYS_RESOURCE",
                        r.name, r.hard
                    )
                })
                .at(|| r.field.clone())?;
        }
    }
    Ok(())
}
