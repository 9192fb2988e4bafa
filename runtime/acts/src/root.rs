//! Resolution of container paths by descriptor.
//!
//! Whoever controls the rootfs can swap a directory for a symlink at any moment (CVE-2019-19921, CVE-2021-30465,
//! CVE-2024-45310, CVE-2025-31133 and others are all one bug: a path that was resolved twice). So a container path
//! is resolved exactly once, inside the root, and from then on only the descriptor is used.

use crate::error::{Context, Error, Result};
pub use crate::text::clean;
use conex_sys::fd::{openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use nix::errno::Errno;
use nix::fcntl::{openat, readlinkat, OFlag};
use nix::sys::stat::{fstat, Mode, SFlag};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory that path look-ups below it cannot leave.
pub struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    pub fn new(fd: OwnedFd) -> Self {
        Root { fd }
    }

    /// Opens what `path` names inside the root, with `O_PATH` and the given extra flags. Symlinks are followed,
    /// absolute ones from the root; magic links are refused.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` (a magic link or too many links), `EACCES`.
    pub fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.resolve(&dot(path), flags | OFlag::O_PATH)
    }

    /// The same without cleaning the path first: `..` leaves the directory that a symlink before it led to.
    pub fn open_as_given(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.resolve(path, flags | OFlag::O_PATH)
    }

    fn resolve(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        openat2(self.as_fd(), path, flags.bits(), 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    }

    /// The directory `path`, made with mode 0755 where it does not exist.
    pub fn make_dir(&self, path: &Path) -> Result<OwnedFd> {
        let path = clean(path);
        match self.open(&path, OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => self.make_missing(&path, true),
            other => {
                other.call(|| format!("openat2(rootfs, {path:?}, O_DIRECTORY, RESOLVE_IN_ROOT)"))
            }
        }
    }

    /// The regular file `path` (or whatever file exists there), made empty with mode 0644 where it is missing.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        let path = clean(path);
        match self.open(&path, OFlag::empty()) {
            Err(Errno::ENOENT) => self.make_missing(&path, false),
            other => other.call(|| format!("openat2(rootfs, {path:?}, O_PATH, RESOLVE_IN_ROOT)")),
        }
    }

    /// `path` itself, not what it may be a symlink to; made as a directory or an empty file where it is missing.
    pub fn make_last(&self, path: &Path, directory: bool) -> Result<OwnedFd> {
        let (dir, name) = self.make_parent(path)?;
        let open = || {
            openat(
                &dir,
                name.as_path(),
                OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
        };
        match open() {
            Err(Errno::ENOENT) if directory => make_component(dir.as_fd(), &name.into_os_string())
                .call(|| format!("mkdirat(rootfs, {path:?})")),
            Err(Errno::ENOENT) => self.make_file(path),
            other => other.call(|| format!("openat(rootfs, {path:?}, O_PATH|O_NOFOLLOW)")),
        }
    }

    /// The directory that holds the last component of `path`, made where missing, and that component.
    pub fn make_parent(&self, path: &Path) -> Result<(OwnedFd, PathBuf)> {
        let path = clean(path);
        let name = path
            .file_name()
            .ok_or_else(|| Error::call(Errno::EINVAL, "the root itself is no file"))?;
        let dir = self.make_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name.into()))
    }

    /// What is missing of `path`, made inside the root, behind symlinks that lead nowhere yet as well: an image whose
    /// /etc/resolv.conf points into /run, where nothing is. A step at a time, so that nothing is resolved twice.
    fn make_missing(&self, path: &Path, directory: bool) -> Result<OwnedFd> {
        make_each(self.as_fd(), path, directory).call(|| {
            format!("making {path:?} inside the root file system, a step at a time (openat, mkdirat, O_NOFOLLOW)")
        })
    }
}

fn make_component(dir: BorrowedFd, name: &OsString) -> nix::Result<OwnedFd> {
    match nix::sys::stat::mkdirat(dir, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(e),
    }
    // O_NOFOLLOW: a component that appeared in between as a symlink is an attack, not a directory.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name.as_os_str(), flags, Mode::empty())
}

fn make_empty(dir: BorrowedFd, name: &OsString) -> nix::Result<OwnedFd> {
    let flags =
        OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    openat(dir, name.as_os_str(), flags, Mode::from_bits_truncate(0o644))
}

/// openat2 takes no empty path.
fn dot(path: &Path) -> PathBuf {
    let path = clean(path);
    if path.as_os_str().is_empty() {
        return PathBuf::from(".");
    }
    path
}

/// Makes what is missing of a path, one component at a time, `..` by a stack of the descriptors that were walked, so that
/// a concurrent rename cannot lead outside: directories with mode 0755, the last component as one or as an empty file with
/// mode 0644. Returns what the path names then.
fn make_each(root: BorrowedFd, path: &Path, directory: bool) -> nix::Result<OwnedFd> {
    let step = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut todo: Vec<OsString> =
        path.components().rev().map(|c| c.as_os_str().to_owned()).collect();
    let mut stack: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == "/" {
            stack.clear();
            continue;
        }
        if name == "." || name == ".." {
            if name == ".." {
                stack.pop();
            }
            continue;
        }
        let at = stack.last().map_or(root, |fd| fd.as_fd());
        let fd = match openat(at, name.as_os_str(), step, Mode::empty()) {
            Err(Errno::ENOENT) if directory || !todo.is_empty() => make_component(at, &name)?,
            Err(Errno::ENOENT) => make_empty(at, &name)?,
            opened => opened?,
        };
        let mode = fstat(&fd)?.st_mode;
        if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFLNK {
            stack.push(fd);
            continue;
        }
        links += 1;
        // procfs links are magic: they jump to an object without a path.
        if links > 40 || is_procfs(fd.as_fd()) {
            return Err(Errno::ELOOP);
        }
        let target = PathBuf::from(readlinkat(&fd, "")?);
        todo.extend(target.components().rev().map(|c| c.as_os_str().to_owned()));
    }
    stack.pop().map_or_else(|| openat(root, ".", step, Mode::empty()), Ok)
}

/// True if the descriptor is on a real procfs.
pub fn is_procfs(fd: BorrowedFd) -> bool {
    nix::sys::statfs::fstatfs(fd)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn scratch(name: &str) -> (PathBuf, Root) {
        let dir = std::env::temp_dir().join(format!("conex-root-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("in/a/b")).unwrap();
        std::fs::create_dir_all(dir.join("out")).unwrap();
        let fd =
            nix::fcntl::open(&dir.join("in"), OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
                .unwrap();
        (dir, Root::new(fd))
    }

    #[test]
    fn clean_never_leaves() {
        assert_eq!(clean(Path::new("/../../a/./b//../c")), Path::new("a/c"));
        assert_eq!(clean(Path::new("/..")), Path::new(""));
    }

    #[test]
    fn links_stay_inside_by_openat2_and_when_made() {
        let (dir, root) = scratch("links");
        std::os::unix::fs::symlink("/a", dir.join("in/abs")).unwrap();
        std::os::unix::fs::symlink("../../../../out", dir.join("in/a/up")).unwrap();
        std::fs::create_dir(dir.join("in/out")).unwrap();
        let inode = |p: &str| std::fs::metadata(dir.join(p)).unwrap().ino();
        for (path, want) in [("abs/b", "in/a/b"), ("a/up", "in/out"), ("abs/../a/b", "in/a/b")] {
            let by_kernel = root.open(Path::new(path), OFlag::empty()).unwrap();
            let by_hand = make_each(root.as_fd(), Path::new(path), true).unwrap();
            assert_eq!(fstat(&by_kernel).unwrap().st_ino, inode(want), "{path}");
            assert_eq!(fstat(&by_hand).unwrap().st_ino, inode(want), "{path} by hand");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn made_directories_stay_inside() {
        let (dir, root) = scratch("made");
        std::os::unix::fs::symlink("/../../out", dir.join("in/link")).unwrap();
        assert!(root.make_dir(Path::new("/link/x")).is_err() || !dir.join("out/x").exists());
        root.make_dir(Path::new("/../../new/deep/dir")).unwrap();
        assert!(dir.join("in/new/deep/dir").is_dir());
        root.make_file(Path::new("/new/file")).unwrap();
        assert!(dir.join("in/new/file").is_file());
        assert_eq!(std::fs::read_dir(dir.join("out")).unwrap().count(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
