//! The document of one server for the next one, and how a program is executed that goes on with it.

use crate::status::{unknown, During, Result};
use conex_proto::shim::{Document, Record};
use conex_sys::fd;
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow, Signal};
use prost::Message;
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// The form of the records. A new field has a default; what an older build would misread is another version.
pub const VERSION: u32 = 2;

/// The key of the listener's record.
pub const LISTENER: &str = "listener";

/// Names the descriptor of the document for the next build.
pub const RESUME: &str = "_CONEX_SHIM_RESUME";

/// Names the server's end of the socket to its keeper.
pub const KEEPER: &str = "_CONEX_SHIM_KEEPER";

/// What `document` prints: the versions that this build reads, one a line.
pub fn versions() -> Vec<u8> {
    format!("{VERSION}\n").into_bytes()
}

/// The signals that would end this process between execve and its handlers.
pub fn delicate() -> SigSet {
    [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// The path of this program: "… (deleted)" if the file was replaced, the new one is at the same path.
pub fn program() -> Result<String> {
    let exe = std::fs::read_link("/proc/self/exe").during(|| "readlink(/proc/self/exe)".into())?;
    Ok(exe.to_string_lossy().trim_end_matches(" (deleted)").to_string())
}

/// A variable as execve(2) takes it, whatever bytes it has.
pub fn variable(name: &OsStr, value: &OsStr) -> Result<CString> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).during(|| "environment".into())
}

/// What an earlier server left to this one, if there was one: the number of the listener, and the records.
///
/// # Errors
/// The document cannot be read: another format.
pub fn inherited() -> Result<Option<(RawFd, Vec<Record>)>> {
    let Some(number) = std::env::var(RESUME).ok().and_then(|n| n.parse::<RawFd>().ok()) else {
        return Ok(None);
    };
    std::env::remove_var(RESUME);
    if !fd::is_open(number) {
        return Err(unknown(format!("{RESUME}={number}: not open")));
    }
    let mut text = Vec::new();
    std::fs::File::from(fd::adopt(number))
        .read_to_end(&mut text)
        .during(|| "read(state)".into())?;
    read(&text).map(Some)
}

/// The listener's number and the records of a document.
///
/// # Errors
/// It is none of this build's.
pub fn read(text: &[u8]) -> Result<(RawFd, Vec<Record>)> {
    let document = Document::decode(text).during(|| "state".into())?;
    if document.version != VERSION {
        return Err(unknown(format!(
            "the state has version {}, this build reads {VERSION}",
            document.version
        )));
    }
    let listener =
        document.records.iter().find(|r| r.key == LISTENER).and_then(|r| r.descriptors.first());
    let listener = *listener.ok_or_else(|| unknown("the state names no listener"))?;
    for n in document.records.iter().flat_map(|r| &r.descriptors) {
        let _ = fd::set_cloexec(*n);
    }
    Ok((listener, document.records))
}

/// Once the handlers of this build are installed.
pub fn settled() {
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&delicate()), None);
}

/// A file in memory that holds a text: the stdin of a runtime, or a record too large for a message.
///
/// # Errors
/// It cannot be made or written.
pub fn input(text: &[u8]) -> Result<OwnedFd> {
    use std::io::{Seek, Write};
    let fd = fd::memfd_data("input").during(|| "memfd_create".into())?;
    let mut file = std::fs::File::from(fd);
    file.write_all(text).and_then(|()| file.rewind()).during(|| "write(memfd)".into())?;
    Ok(file.into())
}
