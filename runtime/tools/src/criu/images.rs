//! The directories of the images and of CRIU's log.

use conex::error::{Context, Error, Named, Result};
use conex::text;
use nix::errno::Errno;
use nix::fcntl::{open, openat, AtFlags, OFlag};
use nix::sys::stat::{fstatat, Mode};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the standard streams of the init were: a JSON list of three strings, as runc writes it.
const DESCRIPTORS: &str = "descriptors.json";
/// A link to an earlier pre-dump, which CRIU makes.
const PARENT: &str = "parent";

/// An open directory.
pub struct Dir {
    pub fd: OwnedFd,
    pub path: PathBuf,
}

impl Dir {
    /// Opens `path`, made for nobody else where it is missing.
    ///
    /// # Errors
    /// mkdir(2), open(2), with the flag.
    pub fn make(path: &str, flag: &str) -> Result<Dir> {
        let place = text::path(path);
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .recursive(true)
            .create(&place)
            .call(|| format!("mkdir({path})"))
            .at(|| flag.to_string())?;
        Dir::open(path, flag)
    }

    /// # Errors
    /// open(2), with the flag.
    pub fn open(path: &str, flag: &str) -> Result<Dir> {
        let path = text::path(path).into_owned();
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let fd = open(&path, flags, Mode::empty())
            .call(|| format!("open({}, O_DIRECTORY)", path.display()))
            .at(|| flag.to_string())?;
        Ok(Dir { fd, path })
    }

    /// The same directory in the mount namespace that this process is in now: CRIU mounts in it, which the kernel allows only
    /// whoever sees it by a mount of its own namespace.
    ///
    /// # Errors
    /// open(2); another directory has its name by now.
    pub fn again(&self, flag: &str) -> Result<Dir> {
        let again = Dir::open(&self.path.to_string_lossy(), flag)?;
        let id = |dir: &Dir| nix::sys::stat::fstat(&dir.fd).map(|s| (s.st_dev, s.st_ino));
        match id(self) == id(&again) {
            true => Ok(again),
            false => {
                let what = format!("{} has become another directory", self.path.display());
                Err(Error::invalid(flag, what))
            }
        }
    }

    /// The number by which CRIU opens it: one of this process.
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// CRIU opens the images by their names, as root: a link would lead it elsewhere, a FIFO keep it.
    ///
    /// # Errors
    /// There is one.
    pub fn check(&self, flag: &str) -> Result<()> {
        let call = || format!("readdir({})", self.path.display());
        let list = std::fs::read_dir(conex::acts::tree::by_fd(self.as_fd()))
            .call(call)
            .at(|| flag.to_string())?;
        for entry in list {
            let name = entry.call(call)?.file_name();
            if name != PARENT {
                self.check_file(Path::new(&name), flag)?;
            }
        }
        Ok(())
    }

    /// The same of one file, which need not be there: the log, where other things lie beside it.
    ///
    /// # Errors
    /// It is no plain file, or has another name as well.
    pub fn check_file(&self, name: &Path, flag: &str) -> Result<()> {
        let at = || self.path.join(name).display().to_string();
        let stat = match fstatat(self.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other.call(|| format!("fstatat({})", at())).at(|| flag.to_string())?,
        };
        let what = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => return Ok(()),
            libc::S_IFREG if stat.st_nlink == 1 => return Ok(()),
            libc::S_IFREG => "has another name as well",
            libc::S_IFLNK => "is a symbolic link",
            _ => "is no regular file",
        };
        Err(Error::invalid(flag, format!("{} {what}: CRIU would open it as root", at())))
    }

    fn open_file(&self, name: &str, flags: OFlag) -> nix::Result<std::fs::File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self.as_fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(Into::into)
    }

    /// # Errors
    /// open(2), write(2).
    pub fn write_descriptors(&self, list: &[String; 3]) -> Result<()> {
        let at = || self.path.join(DESCRIPTORS).display().to_string();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let file = self.open_file(DESCRIPTORS, flags).call(|| format!("open({})", at()))?;
        serde_json::to_writer(file, list)
            .map_err(std::io::Error::from)
            .call(|| format!("write({})", at()))
    }

    /// # Errors
    /// There is no such file: this is no checkpoint; or it holds something else.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        let path = self.path.join(DESCRIPTORS);
        let file = self
            .open_file(DESCRIPTORS, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .call(|| format!("open({}): no checkpoint of a container", path.display()))
            .at(|| "--image-path")?;
        let mut bytes = Vec::new();
        file.take(1 << 16).read_to_end(&mut bytes).call(|| format!("read({})", path.display()))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid("--image-path", format!("{}: {e}", path.display())))
    }

    /// `e`, with what the log says of it.
    pub fn explain(&self, mut e: Error, log: &str) -> Error {
        let said = self.errors(log);
        if !said.is_empty() {
            e.what += &format!("; {} says: {}", self.path.join(log).display(), said.join(" | "));
        }
        e
    }

    /// The last errors of the log.
    fn errors(&self, log: &str) -> Vec<String> {
        let Ok(mut file) = self.open_file(log, OFlag::O_RDONLY | OFlag::O_NONBLOCK) else {
            return Vec::new();
        };
        let _ = file.seek(SeekFrom::End(-(1 << 18)));
        let mut bytes = Vec::new();
        let _ = file.take(1 << 18).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|l| l.find("Error (").map(|at| l[at..].trim().to_string()))
            .collect();
        lines.drain(..lines.len().saturating_sub(4));
        lines
    }
}

/// The directory of an earlier dump, relative to that of the images.
///
/// # Errors
/// It is absolute, or no directory.
pub fn check_parent(images: &Path, parent: &str) -> Result<()> {
    const FLAG: &str = "--parent-path";
    if parent.starts_with('/') {
        return Err(Error::invalid(FLAG, "must be relative to --image-path"));
    }
    let path = images.join(parent);
    match std::fs::metadata(&path) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(Error::invalid(FLAG, format!("{}: not a directory", path.display()))),
        Err(e) => Err(e).call(|| format!("invalid --parent-path: stat({})", path.display())),
    }
}
