//! Mounts of a rootfs with mapped ids: `uidmap=0:100000:65536[,…]`, `gidmap=…` (mount_setattr(2), Linux 5.12).

use crate::status::{invalid, During, Result};
use conex_plan::namespaces::Maps;
use conex_plan::oci::config::IdMapping;
use conex_sys::mount::{mount_setattr, move_mount, open_tree_clone, MountAttr, ATTR_IDMAP};
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The user namespace whose maps the options give; `None` without any.
///
/// # Errors
/// An option that is no mapping, or one kind without the other.
pub fn namespace(options: &[String]) -> Result<Option<OwnedFd>> {
    let list = |key: &str| -> Result<Vec<IdMapping>> {
        let values = options.iter().filter_map(|o| o.strip_prefix(key));
        values.flat_map(|v| v.split(',')).map(|m| mapping(m, key)).collect()
    };
    let maps = Maps { uid: list("uidmap=")?, gid: list("gidmap=")? };
    match (maps.uid.is_empty(), maps.gid.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => conex_host::userns::namespace_with(&maps)
            .during(|| "user namespace of the mapping".into())
            .map(Some),
        _ => Err(invalid("mount options: uidmap and gidmap must be given together")),
    }
}

fn mapping(text: &str, key: &str) -> Result<IdMapping> {
    let numbers: Vec<u32> = text.split(':').filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [container_id, host_id, size] if text.split(':').count() == 3 => {
            Ok(IdMapping { container_id, host_id, size })
        }
        _ => Err(invalid(format!("mount option {key}{text}: expected container:host:size"))),
    }
}

/// A detached copy of the mount at `path`, with mapped ids.
pub fn tree(path: &Path, recursive: bool, namespace: &OwnedFd) -> Result<OwnedFd> {
    let root =
        open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).during(|| "open(/)".into())?;
    let tree = open_tree_clone(root.as_fd(), path, recursive, true)
        .during(|| format!("open_tree({})", path.display()))?;
    let attr =
        MountAttr { set: ATTR_IDMAP, userns: namespace.as_raw_fd() as u64, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), recursive, &attr)
        .during(|| format!("mount_setattr({}, MOUNT_ATTR_IDMAP)", path.display()))?;
    Ok(tree)
}

/// Attaches a detached mount.
pub fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    let at = open(target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .during(|| format!("open({})", target.display()))?;
    move_mount(tree.as_fd(), at.as_fd()).during(|| format!("move_mount({})", target.display()))
}

/// Makes an overlay of mapped layers while they are attached: before Linux 6.15 an overlay takes none that are not
/// (`clone_private_mount`, fs/namespace.c). They lie on `target` meanwhile, from where a shim that is killed takes them back with
/// everything else.
pub fn attached(
    layers: &[OwnedFd],
    target: &Path,
    make: &dyn Fn() -> Result<()>,
    unmount: &dyn Fn(&Path),
) -> Result<()> {
    let made = layers.iter().try_for_each(|tree| attach(tree, target)).and_then(|()| make());
    let overlay = made.and_then(|()| {
        let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .during(|| "open(/)".into())?;
        open_tree_clone(root.as_fd(), target, false, true)
            .during(|| format!("open_tree({})", target.display()))
    });
    // The layers, and what was mounted over them.
    unmount(target);
    attach(&overlay?, target)
}

/// The options of an overlay with each lower layer replaced by a mapped copy, which the descriptors keep alive until
/// the overlay is mounted.
pub fn layers(data: &mut [String], namespace: &OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    for option in data.iter_mut() {
        let Some(lower) = option.strip_prefix("lowerdir=") else { continue };
        let mut paths = Vec::new();
        for layer in lower.split(':') {
            let mapped = tree(Path::new(layer), false, namespace)?;
            paths.push(format!("/proc/self/fd/{}", mapped.as_raw_fd()));
            held.push(mapped);
        }
        *option = format!("lowerdir={}", paths.join(":"));
    }
    Ok(held)
}
