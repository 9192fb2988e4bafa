//! Trees that the host's side opens ahead of the child.

use super::empty::Empty;
use super::{locked, userns};
use crate::acts::tree::{bind, bind_with, cwd, setattr, Tree};
use crate::child::mounts::Source;
use crate::child::Own;
use crate::error::{Context, Error, Named, Result};
use crate::plan::detached::is_cgroup;
use crate::plan::mount::{Action, Mount};
use crate::plan::Plan;
use conex_sys::mount::{mount_setattr, MountAttr, ATTR_IDMAP};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The trees that the child begins with and those that it mounts. Those for a user namespace have their flags locked, as if
/// the child had found them in a copy of the host's mounts.
pub(super) fn open(
    plan: &Plan,
    empty: Option<&Empty>,
) -> Result<(Option<Own>, Vec<Option<Source>>)> {
    let mut own = if empty.is_some() { Some(own(plan)?) } else { None };
    let mut sources = to_mount(plan, empty.is_some())?;
    if in_userns(plan) {
        let mut trees: Vec<&mut OwnedFd> = own.iter_mut().map(|own| &mut own.root).collect();
        trees.extend(sources.iter_mut().flatten().filter_map(|source| match source {
            Source::Tree(tree) => Some(tree),
            Source::Link(_) | Source::Inside(_) => None,
        }));
        let lent: Vec<_> = trees.iter().map(|tree| tree.as_fd()).collect();
        let locked = locked::lock(&lent, empty).at(|| "mounts")?;
        trees.into_iter().zip(locked).for_each(|(tree, locked)| *tree = locked);
    }
    Ok((own, sources))
}

/// Without privileges the child can do more than this side: it is root of its namespace.
fn in_userns(plan: &Plan) -> bool {
    plan.namespaces.private(libc::CLONE_NEWUSER) && nix::unistd::geteuid().is_root()
}

/// Symlinks to copy, and bind sources that the child could not open or idmap: with a user namespace it is not root on the host
/// any more, and without a copy of the host's mounts (`detached`) it sees none of them.
fn to_mount(plan: &Plan, detached: bool) -> Result<Vec<Option<Source>>> {
    let in_userns = in_userns(plan);
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
        if m.idmap.is_none() && !in_userns && !detached {
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
    let Tree(fd) = bind_with(cwd(), &crate::text::path(&m.source), recursive, !m.source_nofollow)?;
    if plan.rootfs.propagation & libc::MS_SHARED as u64 == 0 {
        unshare(&fd, plan)?;
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

/// A clone of a shared mount of the host's is its peer: what is mounted below it later must not reach the host.
fn unshare(tree: &OwnedFd, plan: &Plan) -> Result<()> {
    let private = plan.rootfs.propagation == (libc::MS_PRIVATE | libc::MS_REC) as u64;
    let propagation = if private { libc::MS_PRIVATE } else { libc::MS_SLAVE } as u64;
    let attr = MountAttr { propagation, ..MountAttr::default() };
    setattr(tree.as_fd(), true, &attr)
}

/// What a child without a copy of the host's mounts begins with.
fn own(plan: &Plan) -> Result<Own> {
    let path = &plan.rootfs.path;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(path, flags, Mode::empty())
        .call(|| format!("open({}, O_DIRECTORY)", path.display()))
        .at(|| "root.path")?;
    let Tree(root) = bind(root.as_fd(), Path::new(""), true).at(|| "root.path")?;
    unshare(&root, plan).at(|| "root.path")?;
    let null = if plan.masked_paths.is_empty() { None } else { Some(null(plan)?) };
    Ok(Own { root, null })
}

fn null(plan: &Plan) -> Result<OwnedFd> {
    let field = || "linux.maskedPaths";
    let device = crate::child::paths::host_null().at(field)?;
    let Tree(tree) = bind(device.as_fd(), Path::new(""), false).at(field)?;
    unshare(&tree, plan).at(field)?;
    Ok(tree)
}

/// What the document's mount of cgroups shows, if it has one: the whole hierarchy to a container in the first cgroup
/// namespace of a host with v2 alone, else the container's cgroups, in the order of the hierarchies.
pub(super) fn cgroups(plan: &Plan, dirs: &[PathBuf]) -> Result<Vec<(String, OwnedFd)>> {
    let Some(m) = plan.mounts.iter().find(|m| is_cgroup(m)) else { return Ok(Vec::new()) };
    let whole = plan.cgroup.hierarchies.iter().find(|_| plan.shows_all_cgroups());
    let shown = whole.map_or(dirs, |h| std::slice::from_ref(&h.mount_point));
    let open = |path: &PathBuf| {
        let Tree(tree) = bind(cwd(), path, true)?;
        unshare(&tree, plan)?;
        Ok((path.display().to_string(), tree))
    };
    shown.iter().map(|path| open(path).at(|| m.field.clone())).collect()
}
