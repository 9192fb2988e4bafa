//! Bind sources that the host's side opens ahead of the child.

use super::userns;
use crate::child::mounts::Source;
use crate::error::{Context, Error, Named, Result};
use crate::plan::mount::{Action, Mount};
use crate::plan::Plan;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};

/// Symlinks to copy, and bind sources that the child could not open or idmap: with a user namespace it is not root on the host
/// any more.
pub(super) fn open(plan: &Plan) -> Result<Vec<Option<Source>>> {
    // Without privileges the child can do more than this side: it is root of its namespace.
    let in_userns =
        plan.namespaces.private(libc::CLONE_NEWUSER) && nix::unistd::geteuid().is_root();
    let mut out = Vec::with_capacity(plan.mounts.len());
    for (i, m) in plan.mounts.iter().enumerate() {
        let Action::Bind { recursive } = m.kind else {
            out.push(None);
            continue;
        };
        if m.copy_symlink {
            if let Ok(to) = std::fs::read_link(crate::text::path(&m.source)) {
                out.push(Some(Source::Link(to)));
                continue;
            }
        }
        if m.idmap.is_none() && !in_userns {
            out.push(None);
            continue;
        }
        // What an earlier mount brings into the root is there only for the child, once it has made that.
        let source = crate::text::path(&m.source);
        let inside = source.strip_prefix(&plan.rootfs.path).ok().filter(|path| {
            let over = |e: &Mount| {
                !e.destination.as_os_str().is_empty() && path.starts_with(&e.destination)
            };
            plan.mounts[..i].iter().any(over)
        });
        if inside.is_some() && m.idmap.is_some() {
            // The host would map what the earlier mount hides.
            let what = "idmap: its source lies on an earlier mount of this document, which only the container sees";
            return Err(Error::unsupported(format!("{}.source", m.field), what));
        }
        if let Some(path) = inside {
            out.push(Some(Source::Inside(path.to_path_buf())));
            continue;
        }
        let opened = one(m, recursive, plan).at(|| format!("{}.source", m.field))?;
        out.push(Some(Source::Tree(opened)));
    }
    Ok(out)
}

fn one(m: &Mount, recursive: bool, plan: &Plan) -> Result<OwnedFd> {
    use conex_sys::mount::{mount_setattr, MountAttr, ATTR_IDMAP};
    let crate::acts::tree::Tree(fd) = crate::acts::tree::bind_with(
        crate::acts::tree::cwd(),
        &crate::text::path(&m.source),
        recursive,
        !m.source_nofollow,
    )?;
    // A clone of a shared host mount is its peer; what is mounted below it later must not reach the host.
    let slave = plan.rootfs.propagation & libc::MS_SHARED as u64 == 0;
    if slave {
        let attr = MountAttr { propagation: libc::MS_SLAVE as u64, ..MountAttr::default() };
        crate::acts::tree::setattr(fd.as_fd(), true, &attr)?;
    }
    if let Some(map) = &m.idmap {
        use std::os::fd::AsRawFd;
        let joined = || plan.namespaces.join.iter().find(|j| j.flag == libc::CLONE_NEWUSER);
        let ns = match joined().filter(|_| map.maps.uid.is_empty()) {
            // Without mappings of its own: those of the container's namespace, whatever they are.
            Some(join) => {
                nix::fcntl::open(&join.path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                    .call(|| format!("open({})", join.path.display()))
                    .at(|| join.field.clone())?
            }
            None => userns::namespace_with(&map.maps)?,
        };
        let attr =
            MountAttr { set: ATTR_IDMAP, userns: ns.as_raw_fd() as u64, ..MountAttr::default() };
        mount_setattr(fd.as_fd(), map.recursive, &attr)
            .call(|| "mount_setattr(MOUNT_ATTR_IDMAP): needs Linux 5.12 and a file system that supports it")
            .at(|| format!("{}.options", m.field))?;
    }
    Ok(fd)
}
