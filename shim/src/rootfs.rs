//! The mounts that containerd asks for below a bundle's rootfs.

use crate::idmap;
use crate::status::{invalid, During, Result};
use conex_proto::types::Mount;
use nix::fcntl::OFlag;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What mount(2) takes of options.
const PAGE: usize = 4096;

/// Mounts all of them, in order; on a failure those already there are taken back.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(rootfs).during(|| format!("mkdir({})", rootfs.display()))?;
    for (i, m) in mounts.iter().enumerate() {
        let target = target(rootfs, &m.target);
        if let Err(mut e) = mount_one(m, &target) {
            e.message =
                format!("failed to mount rootfs component {i} ({}): {}", m.r#type, e.message);
            unmount(rootfs);
            return Err(e);
        }
    }
    Ok(())
}

/// Where a mount goes: the rootfs, or a place below it that cannot lead out of it.
pub fn target(rootfs: &Path, below: &str) -> PathBuf {
    let parts =
        Path::new(below).components().filter(|c| matches!(c, std::path::Component::Normal(_)));
    let mut out = rootfs.to_path_buf();
    out.extend(parts);
    out
}

/// Everything mounted at the rootfs and below it, the last first.
pub fn unmount(rootfs: &Path) {
    for _ in 0..64 {
        // Lazily: a process that a runtime left behind must not keep the bundle busy.
        if umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_err() {
            return;
        }
    }
}

fn mount_one(m: &Mount, target: &Path) -> Result<()> {
    let (flags, propagation, mut data) = sorted(m);
    let namespace = idmap::namespace(&m.options)?;
    // Both must live until the mount is made.
    let device =
        if m.options.iter().any(|o| o == "loop") { Some(loop_device(m, flags)?) } else { None };
    let source = device.as_ref().map_or(Path::new(&m.source), |d| Path::new(&d.1));
    let layers = match &namespace {
        Some(ns) if m.r#type == "overlay" => idmap::layers(&mut data, ns)?,
        _ => Vec::new(),
    };
    let call =
        |what: &str| format!("mount({}, {}, {what}{})", m.source, target.display(), m.r#type);
    if m.r#type == "bind" || flags.contains(MsFlags::MS_BIND) {
        bind(source, target, flags, namespace.as_ref(), &call)?;
    } else {
        let kind = m.r#type.as_str();
        let text = data.join(",");
        // mount(2) takes one page of data. Many overlay layers are longer: named from their common directory, they fit.
        let short = shorter(kind, &text);
        let length = short.as_ref().map_or(text.len(), |(_, t)| t.len());
        if length >= PAGE {
            // The kernel would cut it off without a word.
            return Err(invalid(format!(
                "options of {length} bytes: mount(2) takes less than {PAGE}"
            )));
        }
        let make = || match &short {
            Some((dir, text)) => {
                from(dir, || mount(Some(source), target, Some(kind), flags, Some(text.as_str())))
            }
            None => mount(Some(source), target, Some(kind), flags, Some(text.as_str()))
                .during(|| call("")),
        };
        match make() {
            // The first error says more.
            Err(e) if !layers.is_empty() => {
                idmap::attached(&layers, target, &make, &unmount).map_err(|_| e)?;
            }
            made => made?,
        }
    }
    if !propagation.is_empty() {
        mount(None::<&str>, target, None::<&str>, propagation, None::<&str>)
            .during(|| call("propagation, "))?;
    }
    Ok(())
}

/// The options of a mount: flags, propagation, and what is the file system's.
fn sorted(m: &Mount) -> (MsFlags, MsFlags, Vec<String>) {
    let mut flags = MsFlags::empty();
    let mut data: Vec<String> = Vec::new();
    let mut propagation = MsFlags::empty();
    for option in &m.options {
        match flag(option) {
            Some((f, true)) if is_propagation(f) => propagation |= f,
            Some((f, true)) => flags |= f,
            Some((f, false)) => flags &= !f,
            None if option == "loop"
                || option.starts_with("uidmap=")
                || option.starts_with("gidmap=") => {}
            None if option.starts_with("X-containerd.") || option == "defaults" => {}
            None => data.push(option.clone()),
        }
    }
    (flags, propagation, data)
}

/// A bind mount, whose flags take a second call.
fn bind(
    source: &Path,
    target: &Path,
    flags: MsFlags,
    namespace: Option<&OwnedFd>,
    call: &dyn Fn(&str) -> String,
) -> Result<()> {
    let recursive = flags & MsFlags::MS_REC;
    match namespace {
        Some(ns) => idmap::attach(&idmap::tree(source, !recursive.is_empty(), ns)?, target)?,
        None => {
            mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | recursive, None::<&str>)
                .during(|| call("MS_BIND, "))?
        }
    }
    let rest = flags & !(MsFlags::MS_BIND | MsFlags::MS_REC);
    if rest.is_empty() {
        return Ok(());
    }
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | rest;
    mount(None::<&str>, target, None::<&str>, again, None::<&str>).during(|| call("MS_REMOUNT, "))
}

/// A loop device for the file that is the source.
fn loop_device(m: &Mount, flags: MsFlags) -> Result<(OwnedFd, String)> {
    let read_only = flags.contains(MsFlags::MS_RDONLY);
    let access = if read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR };
    let file = nix::fcntl::open(
        m.source.as_str(),
        access | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .during(|| format!("open({})", m.source))?;
    conex_sys::loopdev::attach(file.as_fd(), read_only)
        .during(|| format!("ioctl(LOOP_CONFIGURE, {})", m.source))
}

fn is_propagation(f: MsFlags) -> bool {
    f.intersects(
        MsFlags::MS_PRIVATE | MsFlags::MS_SHARED | MsFlags::MS_SLAVE | MsFlags::MS_UNBINDABLE,
    )
}

/// The options of mount(8) that are flags, and whether they set or clear.
pub fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, true),
        "private" => (MsFlags::MS_PRIVATE, true),
        "rprivate" => (MsFlags::MS_PRIVATE | MsFlags::MS_REC, true),
        "shared" => (MsFlags::MS_SHARED, true),
        "rshared" => (MsFlags::MS_SHARED | MsFlags::MS_REC, true),
        "slave" => (MsFlags::MS_SLAVE, true),
        "rslave" => (MsFlags::MS_SLAVE | MsFlags::MS_REC, true),
        "unbindable" => (MsFlags::MS_UNBINDABLE, true),
        "runbindable" => (MsFlags::MS_UNBINDABLE | MsFlags::MS_REC, true),
        _ => return None,
    })
}

/// For an overlay whose options exceed a page: the directory common to its layers, and the options from there.
pub fn shorter(kind: &str, text: &str) -> Option<(PathBuf, String)> {
    if kind != "overlay" || text.len() < PAGE - 512 {
        return None;
    }
    let lower = text.split(',').find_map(|o| o.strip_prefix("lowerdir="))?;
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut common = layers.first()?.parent()?.to_path_buf();
    while !layers.iter().all(|l| l.starts_with(&common)) {
        common = common.parent()?.to_path_buf();
    }
    let short: Vec<String> = layers
        .iter()
        .filter_map(|l| Some(l.strip_prefix(&common).ok()?.to_string_lossy().into_owned()))
        .map(|l| if l.is_empty() { ".".to_string() } else { l })
        .collect();
    Some((common, text.replace(lower, &short.join(":"))))
}

/// Calls with another working directory; there is one thread, and it does not pause here.
fn from(dir: &Path, call: impl FnOnce() -> nix::Result<()>) -> Result<()> {
    let here = std::fs::File::open(".").during(|| "open(.)".into())?;
    nix::unistd::chdir(dir).during(|| format!("chdir({})", dir.display()))?;
    let result = call();
    nix::unistd::fchdir(&here).during(|| "fchdir".into())?;
    result.during(|| format!("mount(overlay) in {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_below() {
        for (below, want) in
            [("", "/r"), ("a/b", "/r/a/b"), ("/a", "/r/a"), ("../../etc", "/r/etc")]
        {
            assert_eq!(target(Path::new("/r"), below), Path::new(want));
        }
    }

    #[test]
    fn many_layers_are_named_from_their_common_directory() {
        let layers: Vec<String> =
            (0..120).map(|i| format!("/var/lib/containerd/snapshots/{i}/fs")).collect();
        let text = format!("workdir=/w,upperdir=/u,lowerdir={}", layers.join(":"));
        let (dir, short) = shorter("overlay", &text).unwrap();
        assert_eq!(dir, Path::new("/var/lib/containerd/snapshots"));
        assert!(
            short.starts_with("workdir=/w,upperdir=/u,lowerdir=0/fs:1/fs:") && short.len() < 2000
        );
        assert!(shorter("overlay", "lowerdir=/a:/b").is_none());
    }
}
