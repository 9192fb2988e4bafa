//! `linux.netDevices`: host interfaces that become the container's.

use super::home::Home;
use crate::acts::netlink;
use crate::error::{Context, Named, Result};
use crate::plan::{NetDevice, Plan};
use conex_sys::proc;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// Moves the interfaces into the network namespace of the process, with their addresses, and brings them up there.
pub(super) fn move_all(plan: &Plan, pid: i32) -> Result<()> {
    if plan.net_devices.is_empty() {
        return Ok(());
    }
    let mut home = Home::default();
    home.remember(libc::CLONE_NEWNET)?;
    let path = format!("/proc/{pid}/ns/net");
    let inside = nix::fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| format!("open({path})"))?;
    plan.net_devices.iter().try_for_each(|d| move_one(d, &home, &inside).at(|| d.field.clone()))
}

fn move_one(d: &NetDevice, home: &Home, inside: &OwnedFd) -> Result<()> {
    let addresses = netlink::addresses(netlink::index(&d.host_name)?)?;
    let template = d.name.contains('%');
    let before = if template { within(home, inside, netlink::names)? } else { Vec::new() };
    netlink::move_link(&d.host_name, &d.name, inside.as_fd())?;
    within(home, inside, || {
        // The kernel has chosen the number of an eth%d.
        let new = if template {
            netlink::names()?.into_iter().find(|n| !before.contains(n))
        } else {
            None
        };
        let name = new.unwrap_or_else(|| d.name.clone());
        let index = netlink::index(&name)?;
        addresses.iter().try_for_each(|a| netlink::add_address(index, a, &name))?;
        netlink::set_up(index)
    })
}

/// Does something in the network namespace and comes back.
fn within<T>(home: &Home, inside: &OwnedFd, what: impl FnOnce() -> Result<T>) -> Result<T> {
    proc::setns(inside.as_fd(), libc::CLONE_NEWNET).call(|| "setns(container, CLONE_NEWNET)")?;
    let done = what();
    home.back()?;
    done
}
