//! Id maps of a user namespace, and the helper process behind an idmapped mount.

use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::namespaces::Maps;
use conex_sys::clone::{clone3, exit_now, Forked};
use conex_sys::proc;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};

/// Writes uid_map and gid_map of a process that has just been cloned.
///
/// An unprivileged writer may map only its own id, and must give up setgroups first (CVE-2014-8989); for ranges
/// the setuid helpers newuidmap and newgidmap write what /etc/subuid and /etc/subgid grant.
pub fn write_maps(pid: Pid, maps: &Maps, rootless: bool) -> Result<()> {
    let (uid, gid) = (Maps::text(&maps.uid), Maps::text(&maps.gid));
    if !rootless {
        write(pid, "gid_map", &gid).at(|| "linux.gidMappings")?;
        return write(pid, "uid_map", &uid).at(|| "linux.uidMappings");
    }
    let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let single = |list: &[crate::oci::config::IdMapping], id: u32| {
        list.len() == 1 && list[0].size == 1 && list[0].host_id == id
    };
    if single(&maps.gid, me.1) {
        write(pid, "setgroups", "deny").at(|| "linux.gidMappings")?;
        write(pid, "gid_map", &gid).at(|| "linux.gidMappings")?;
    } else {
        helper("newgidmap", pid, &maps.gid).at(|| "linux.gidMappings")?;
    }
    if single(&maps.uid, me.0) {
        write(pid, "uid_map", &uid).at(|| "linux.uidMappings")
    } else {
        helper("newuidmap", pid, &maps.uid).at(|| "linux.uidMappings")
    }
}

fn write(pid: Pid, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    // One write(2): the kernel takes the whole map at once.
    std::fs::write(&path, text).call(|| format!("write({path}, {:?})", text.trim_end()))
}

fn helper(program: &str, pid: Pid, list: &[crate::oci::config::IdMapping]) -> Result<()> {
    let mut command = std::process::Command::new(program);
    conex_sys::signal::unblocked(&mut command);
    command.arg(pid.to_string());
    for m in list {
        command.args([m.container_id.to_string(), m.host_id.to_string(), m.size.to_string()]);
    }
    let (succeeded, text) = super::helper::ask(command, true)
        .call(|| format!("exec({program}): needed for more than one's own id (package uidmap)"))?;
    if succeeded {
        return Ok(());
    }
    Err(Error::new(Kind::System, format!("{program} failed: {}", text.trim())))
}

/// A descriptor of a user namespace with these maps, for `MOUNT_ATTR_IDMAP`: a child is put into one, its maps are
/// written, its namespace is opened, and it is gone again.
pub fn namespace_with(maps: &Maps) -> Result<OwnedFd> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).call(|| "pipe2")?;
    match clone3(libc::CLONE_NEWUSER as u64, None).call(|| "clone3(CLONE_NEWUSER)")? {
        Forked::Child => {
            drop(writer);
            let _ = nix::unistd::read(&reader, &mut [0u8; 1]);
            exit_now(0);
        }
        Forked::Parent { pid, pidfd } => {
            let opened = write_maps(pid, maps, false).and_then(|()| {
                nix::fcntl::open(
                    format!("/proc/{pid}/ns/user").as_str(),
                    OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )
                .call(|| format!("open(/proc/{pid}/ns/user)"))
            });
            drop(writer);
            let _ = proc::wait_pidfd(pidfd.as_fd(), false);
            opened
        }
    }
}

/// config-linux.md leaves open what mappings mean for a joined user namespace: they must be the namespace's own.
pub fn check_same(ns: &OwnedFd, maps: &Maps, field: &str) -> Result<()> {
    let [uid, gid] = maps_of(ns)?;
    // A namespace that is not a descendant of ours reads as nothing; then setns will say why.
    let words = |t: &str| t.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    for (name, theirs, ours) in [("uidMappings", uid, &maps.uid), ("gidMappings", gid, &maps.gid)] {
        if !theirs.is_empty() && words(&theirs) != words(&Maps::text(ours)) {
            let what = format!(
                "differs from the map of the user namespace that {field} joins: {:?}",
                theirs.trim()
            );
            return Err(Error::invalid(format!("linux.{name}"), what));
        }
    }
    Ok(())
}

/// uid_map and gid_map of a user namespace, as its own processes see them: a child enters it and reads them.
fn maps_of(ns: &OwnedFd) -> Result<[String; 2]> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).call(|| "pipe2")?;
    match clone3(0, None).call(|| "clone3")? {
        Forked::Child => {
            drop(reader);
            let joined = proc::setns(ns.as_fd(), libc::CLONE_NEWUSER);
            let read =
                |file: &str| std::fs::read(format!("/proc/self/{file}")).map_err(|_| Errno::EIO);
            let text = joined.and_then(|()| Ok([read("uid_map")?, read("gid_map")?].join(&b'|')));
            let _ = std::io::Write::write_all(
                &mut std::fs::File::from(writer),
                &text.unwrap_or_default(),
            );
            exit_now(0);
        }
        Forked::Parent { pidfd, .. } => {
            drop(writer);
            let mut text = String::new();
            let read = std::io::Read::read_to_string(&mut std::fs::File::from(reader), &mut text);
            let _ = proc::wait_pidfd(pidfd.as_fd(), false);
            read.call(|| "read(uid_map)")?;
            let (uid, gid) = text.split_once('|').unwrap_or_default();
            Ok([uid.to_string(), gid.to_string()])
        }
    }
}
