//! A bundle directory, read.

pub use crate::plan::document::*;

use crate::error::{Context, Error, Kind, Result};
use crate::oci::config::{Process, Spec};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Larger documents are refused before they are parsed.
const MAX: u64 = 64 << 20;

/// Reads `<dir>/config.json`.
pub fn open(dir: &Path) -> Result<Bundle> {
    let path = dir.canonicalize().call(|| format!("bundle {}", dir.display()))?;
    open_with(&path, &path.join("config.json"))
}

/// The same directory with another document.
pub fn open_with(dir: &Path, document: &Path) -> Result<Bundle> {
    let path = dir.canonicalize().call(|| format!("bundle {}", dir.display()))?;
    let text = read(document, false)?;
    let Parsed { value: spec, bad, unknown } = parse_all::<Spec>(&text, "config.json")?;
    Ok(Bundle { path, text, document: document.into(), spec, bad, unknown })
}

/// Reads a process object from a file, for `exec --process`. What is wrong in it names the file.
pub fn process(path: &Path) -> Result<Parsed<Process>> {
    let name = path.display().to_string();
    let mut parsed = parse_all::<Process>(&read(path, true)?, &name)?;
    parsed.bad = parsed.bad.into_iter().map(|e| e.during(&name)).collect();
    Ok(parsed)
}

/// A document of bounded size. `pipe`: somebody may write it to a pipe for us (`-p <(…)`); otherwise the open must not
/// wait for a writer that never comes.
///
/// # Errors
/// A device or a directory; more than [`MAX`] bytes.
pub fn read(path: &Path, pipe: bool) -> Result<Vec<u8>> {
    let call = || format!("open({})", path.display());
    let bad = |what: String| Error::new(Kind::Invalid, format!("{}: {what}", path.display()));
    let wait = if pipe { OFlag::empty() } else { OFlag::O_NONBLOCK };
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | wait;
    let file = std::fs::File::from(nix::fcntl::open(path, flags, Mode::empty()).call(call)?);
    let kind = file.metadata().call(call)?.file_type();
    if !(kind.is_file() || pipe && kind.is_fifo()) {
        return Err(bad("not a regular file".into()));
    }
    read_all(file).call(call)?.ok_or_else(|| bad(format!("at most {MAX} bytes are read")))
}

/// The whole of a stream; `None` if it is larger than [`MAX`].
pub fn read_all(from: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    // Room for most documents: a reader without any asks for 32 bytes first, then for 64 …
    let mut bytes = Vec::with_capacity(16 << 10);
    from.take(MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX).then_some(bytes))
}

/// The document that a container was created with, which is kept with its state.
pub fn of(entry: &crate::state::Entry) -> Result<Spec> {
    parse::<Spec>(&entry.read("config.json")?, "config.json")
}

/// One problem as a terminal shows it.
pub fn block(bundle: &Bundle, level: show::Level, e: &Error) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let name = bundle.document.strip_prefix(&here).unwrap_or(&bundle.document);
    if name.starts_with("/proc/self/fd") {
        return show::block_at(
            level,
            &e.to_string(),
            "the command line",
            None,
            crate::log::colour(true),
        );
    }
    show::block(level, &bundle.text, &name.display().to_string(), e, crate::log::colour(true))
}
