//! The clone of the container's init, and the namespaces that it is born into.

use super::cgroup::Group;
use super::container::Container;
use super::empty::Empty;
use super::home::Home;
use super::userns;
use crate::child;
use crate::error::{Context, Error, Kind, Named, Result};
use crate::identity::adopted;
use crate::plan::namespaces::{self, Hops, CLONE_NEWTIME, KINDS};
use crate::plan::Plan;
use crate::sync::{Channel, Message};
use conex_sys::clone::Forked;
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// Clones the container's init. Namespaces that exist already are entered before the clone and left after it, so
/// that the child is born in them; see [`Hops`] for the one case where that is not possible.
pub(super) fn spawn(
    plan: &Plan,
    mut inherited: child::Inherited,
    ours: Channel,
    group: &Group,
    empty: Option<Empty>,
) -> Result<Container> {
    let ns = &plan.namespaces;
    let mut home = enter(plan, &mut inherited)?;
    if let Some(Err(e)) = empty.map(|empty| empty.enter(&mut home)) {
        home.back()?;
        return Err(e.at("linux.namespaces"));
    }
    let unified = group.unified();
    let cgroup = unified.map(|d| d.as_fd());
    let flags =
        if ns.hops == Hops::Two { 0 } else { ns.new & !(libc::CLONE_NEWCGROUP | CLONE_NEWTIME) };
    if ns.hops == Hops::Two {
        inherited.rest.into_cgroup =
            cgroup.map(|c| c.try_clone_to_owned()).transpose().call(|| "dup")?;
    }
    let into = if ns.hops == Hops::Two { None } else { cgroup };
    let forked = crate::acts::clone::clone_into(flags as u64, into, &mut inherited.rest.born);
    if let Ok(Forked::Child) = forked {
        drop(ours);
        child::main(plan, inherited);
    }
    let back = home.back();
    let Forked::Parent { pid, pidfd } =
        forked.call(|| format!("clone3({flags:#x})")).at(|| "linux.namespaces")?
    else {
        return Err(Error::new(Kind::System, "clone3 returned twice"));
    };
    // Only the child keeps its end; end of stream must mean its death.
    drop(inherited);
    let mut c =
        Container { pid, pidfd, sync: ours, terminal: None, warnings: Vec::new(), released: false };
    if let Err(e) =
        back.and_then(|()| if ns.hops == Hops::Two { meet_second_hop(&mut c) } else { Ok(()) })
    {
        c.end();
        return Err(e);
    }
    Ok(c)
}

/// Enters what the child is to be born in; what only it can enter goes along. The way back is what is returned.
fn enter(plan: &Plan, inherited: &mut child::Inherited) -> Result<Home> {
    let ns = &plan.namespaces;
    let mut home = Home::default();
    let mut entered = Vec::new();
    for join in &ns.join {
        let fd = open_namespace(join)?;
        // A mount namespace changes the root of whoever enters it, a user namespace cannot be left. And the first hop is a
        // process of the host: it must not be born into a PID namespace where others see it.
        let by_child = match join.flag {
            libc::CLONE_NEWUSER | libc::CLONE_NEWNS => true,
            libc::CLONE_NEWPID => ns.hops == Hops::Two,
            _ => ns.hops == Hops::Two && !super::facts::host_root(),
        };
        if by_child {
            if let (libc::CLONE_NEWUSER, Some(maps)) = (join.flag, &ns.maps) {
                userns::check_same(&fd, maps, &join.field)?;
            }
            inherited.rest.joins.push((fd, join.flag, join.field.clone()));
        } else {
            home.remember(join.flag)?;
            entered.push((fd, join));
        }
    }
    if ns.creates(CLONE_NEWTIME) && super::facts::host_root() {
        home.remember(CLONE_NEWTIME)?;
        crate::acts::clone::new_time(ns)?;
    }
    for (fd, join) in &entered {
        proc::setns(fd.as_fd(), join.flag)
            .call(|| namespaces::setns(&join.path, join.flag))
            .map_err(|e| namespaces::not_one(e, join.flag).at(join.field.clone()))?;
    }
    Ok(home)
}

fn meet_second_hop(c: &mut Container) -> Result<()> {
    let second = c.sync.expect("joining the user namespace", |m| match m {
        Message::Hopped(pidfd) => Ok(pidfd),
        other => Err(other),
    })?;
    let _ = proc::wait_pidfd(c.pidfd.as_fd(), false);
    c.pidfd = second;
    c.pid = adopted(c.pidfd.as_fd())?;
    Ok(())
}

fn open_namespace(join: &crate::plan::namespaces::Join) -> Result<OwnedFd> {
    let fd = nix::fcntl::open(
        &join.path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
        Mode::empty(),
    )
    .call(|| format!("open({})", join.path.display()))
    .at(|| join.field.clone())?;
    let own = KINDS.iter().find(|k| k.2 == join.flag).map_or("", |k| k.1);
    let inode = |r: nix::Result<nix::sys::stat::FileStat>| r.map(|s| (s.st_dev, s.st_ino)).ok();
    let same = inode(nix::sys::stat::fstat(&fd))
        == inode(nix::sys::stat::stat(format!("/proc/self/ns/{own}").as_str()));
    if same {
        // With a mount namespace, pivot_root and the unmounting of the old root would happen to the host. The plan has
        // left out the other kinds: one that is here now was exchanged since.
        return Err(Error::invalid(
            join.field.clone(),
            format!("is the runtime's own {own} namespace; leave the entry out to share it"),
        ));
    }
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    if nix::sys::statfs::fstatfs(&fd).is_ok_and(|s| s.filesystem_type().0 as i64 != NSFS_MAGIC) {
        return Err(Error::invalid(
            join.field.clone(),
            format!("{}: not a namespace file", join.path.display()),
        ));
    }
    Ok(fd)
}
