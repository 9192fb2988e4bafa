//! Files of other programs, read and written anew.

use conex::error::{Context, Result};
use std::path::Path;

/// A file that was not there: what an earlier try left is removed, and what somebody puts there meanwhile is an error.
///
/// `like`: whose mode it has from the beginning, as it may hold secrets.
pub fn write_new(file: &Path, bytes: impl AsRef<[u8]>, like: &Path) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let _ = std::fs::remove_file(file);
    let mode = std::fs::metadata(like).map_or(0o644, |m| m.permissions().mode() & 0o777);
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(file);
    made.and_then(|mut f| f.write_all(bytes.as_ref()))
        .call(|| format!("open({}, O_CREAT|O_EXCL)", file.display()))
}

/// The file's content; `None` if there is no file.
pub fn read(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.call(|| format!("read({})", file.display())).map(Some),
    }
}
