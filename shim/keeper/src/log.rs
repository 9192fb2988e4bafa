//! The shim's log: the FIFO `log` of the bundle, which containerd reads.
//!
//! A line is written whole or not at all, and never waited for: a containerd that is down must not stop a container
//! (containerd's issue 4509).

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

thread_local! {
    static OUT: RefCell<Option<File>> = const { RefCell::new(None) };
    static DEBUG: Cell<bool> = const { Cell::new(false) };
    static LOST: Cell<u64> = const { Cell::new(0) };
}

/// Opens `<bundle>/log`. Read and write, so that the FIFO stays usable while nobody reads (containerd's issue 4168).
pub fn open(bundle: &Path, debug: bool) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(bundle.join("log"));
    OUT.set(file.ok());
    DEBUG.set(debug);
}

/// Writes one line in logrus's text format.
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    if level == Level::Debug && !DEBUG.get() {
        return;
    }
    let name = match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    let time = conex_acts::log::rfc3339(std::time::SystemTime::now(), 9);
    let mut line = format!("time=\"{time}\" level={name} msg={message:?}");
    for (key, value) in fields.iter().filter(|(_, v)| !v.is_empty()) {
        line += &format!(" {key}={value:?}");
    }
    let lost = LOST.get();
    if lost > 0 {
        line += &format!(" lost={lost}");
    }
    line.push('\n');
    // Lines up to PIPE_BUF (4096) are written whole or refused (pipe(7)).
    if line.len() > 4096 {
        let mut end = 4090;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line += "…\"\n";
    }
    OUT.with_borrow_mut(|out| {
        let Some(out) = out else { return };
        match nix::unistd::write(&*out, line.as_bytes()) {
            Ok(_) => LOST.set(0),
            Err(_) => LOST.set(lost + 1),
        }
    });
}

pub fn info(message: &str, fields: &[(&str, &str)]) {
    write(Level::Info, message, fields);
}

pub fn warn(message: &str, fields: &[(&str, &str)]) {
    write(Level::Warning, message, fields);
}

pub fn debug(message: &str, fields: &[(&str, &str)]) {
    write(Level::Debug, message, fields);
}

pub fn error(message: &str, fields: &[(&str, &str)]) {
    write(Level::Error, message, fields);
}
