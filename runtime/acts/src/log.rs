//! The log file and standard error, in the formats that managers read.
//!
//! containerd takes the last `level=error` entry of the file; Podman parses the whole file as one JSON value. So an
//! operation that fails writes exactly one line, and warnings are kept until it has succeeded.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

/// Where `--debug` writes what is being done, for both processes: the container's has no other way to the file once it has
/// another root.
static STEPS: OnceLock<Steps> = OnceLock::new();
static INSIDE: AtomicBool = AtomicBool::new(false);

struct Steps {
    fd: OwnedFd,
    json: bool,
    /// It is the caller's standard error, whose reader may wait for its end.
    borrowed: bool,
}

/// Says what comes next, with microseconds, if `--debug` was given. The text is made only then.
pub fn step<S: Into<String>>(what: impl FnOnce() -> S) {
    let Some(steps) = STEPS.get() else { return };
    let side = if INSIDE.load(Ordering::Relaxed) { "container" } else { "host" };
    let now = rfc3339(std::time::SystemTime::now(), 6);
    let what: String = what().into();
    let message = format!("{side}: {what}");
    let _ =
        nix::unistd::write(&steps.fd, line(steps.json, "debug", &message, &now, false).as_bytes());
}

/// From here on this process is the container's. Its descriptor for [`step`] is closed with the others before the program
/// is executed.
pub fn inside() -> Option<RawFd> {
    INSIDE.store(true, Ordering::Relaxed);
    STEPS.get().map(|s| s.fd.as_raw_fd())
}

/// A container that only waits holds nobody's standard error.
pub fn before_waiting() {
    if let Some(steps) = STEPS.get().filter(|s| s.borrowed) {
        conex_sys::fd::close_raw(steps.fd.as_raw_fd());
    }
}

/// True for the descriptor of [`step`], which no caller can have meant.
pub fn is_own(fd: RawFd) -> bool {
    STEPS.get().is_some_and(|s| s.fd.as_raw_fd() == fd)
}

/// Tells whoever waits at standard error why an operation takes its time.
pub fn notice(message: &str) {
    let _ = writeln!(std::io::stderr(), "conex: {message}");
}

/// The same for a text of several lines, as it is.
pub fn notice_block(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Colour is for a terminal whose user has not asked for none (no-color.org).
pub fn colour(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

pub struct Log {
    pub path: Option<PathBuf>,
    pub json: bool,
    pub debug: bool,
    /// `--trace fd:N`: the steps, as JSON.
    pub trace: Option<RawFd>,
    warnings: Vec<String>,
    /// What a failure shows in place of its line.
    shown: Option<String>,
}

impl Log {
    pub fn new(path: Option<PathBuf>, json: bool, debug: bool) -> Log {
        Log { path, json, debug, trace: None, warnings: Vec::new(), shown: None }
    }

    pub fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    /// Where [`step`] writes, if `--debug` was given: under a number that no caller means to hand on.
    fn steps_to(&self, fd: std::os::fd::BorrowedFd, borrowed: bool) {
        if !self.debug && self.trace.is_none() {
            return;
        }
        // A low RLIMIT_NOFILE allows only smaller ones.
        let copy =
            [500, 100, 20].iter().find_map(|n| conex_sys::fd::dup_above(fd.as_raw_fd(), *n).ok());
        if let Some(fd) = copy {
            let _ = STEPS.set(Steps { fd, json: self.json || self.trace.is_some(), borrowed });
        }
    }

    /// True if messages go to somebody who reads them on a terminal.
    pub fn to_terminal(&self) -> bool {
        self.path.is_none() && !self.json && std::io::stderr().is_terminal()
    }

    /// What the failure that is on its way shows on a terminal.
    pub fn show_instead(&mut self, text: String) {
        self.shown = Some(text);
    }

    /// Writes the warnings of an operation that went well.
    pub fn succeed(&mut self) {
        for w in std::mem::take(&mut self.warnings) {
            self.write("warning", &w);
        }
    }

    /// Writes the one line of a failure, and repeats it on standard error, which CRI-O reads.
    pub fn fail(&self, message: &str) {
        if let Some(text) = &self.shown {
            return notice_block(text);
        }
        self.write("error", message);
        if self.path.is_some() {
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    /// A wrong command line: people read it on standard error as it is, and the log gets its line.
    pub fn fail_usage(&self, message: &str) {
        if self.path.is_some() || self.json {
            self.write("error", message);
        }
        if self.path.is_some() || !self.json {
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    /// # Errors
    /// The file cannot be written.
    pub fn check(&self) -> crate::error::Result<()> {
        use crate::error::Context;
        if let Some(fd) = self.trace.filter(|fd| conex_sys::fd::is_open(*fd)) {
            self.steps_to(conex_sys::fd::borrow(fd), true);
        }
        let Some(path) = &self.path else {
            self.steps_to(std::io::stderr().as_fd(), true);
            return Ok(());
        };
        use std::os::unix::fs::FileTypeExt;
        // Whoever reads a FIFO would take the end of this for the end of everything; open for the steps, it would not end as
        // long as a container that is only created has it.
        if path.metadata().is_ok_and(|m| m.file_type().is_fifo()) {
            return Ok(());
        }
        let file =
            open(path).call(|| format!("--log: open({}, O_CREAT|O_APPEND)", path.display()))?;
        self.steps_to(file.as_fd(), false);
        Ok(())
    }

    fn write(&self, level: &str, message: &str) {
        let now = rfc3339(std::time::SystemTime::now(), 0);
        let Some(path) = &self.path else {
            let line = line(self.json, level, message, &now, std::io::stderr().is_terminal());
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        };
        let line = line(self.json, level, message, &now, false);
        if let Ok(mut file) = open(path) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

fn line(json: bool, level: &str, message: &str, now: &str, tty: bool) -> String {
    if json {
        return format!("{}\n", serde_json::json!({"level": level, "msg": message, "time": now}));
    }
    if tty {
        let short = level.to_uppercase().chars().take(4).collect::<String>();
        return format!("{short}[0000] {message}\n");
    }
    format!("time=\"{now}\" level={level} msg={}\n", serde_json::Value::from(message))
}

fn open(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    // Several operations write to the same file during the life of a bundle.
    options.create(true).append(true).mode(0o644).custom_flags(libc::O_CLOEXEC).open(path)
}

/// RFC 3339 in UTC with the given number of decimals.
pub fn rfc3339(time: std::time::SystemTime, decimals: usize) -> String {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = match decimals {
        0 => String::new(),
        n => format!(".{}", &format!("{:09}", since.subsec_nanos())[..n.min(9)]),
    };
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates() {
        assert_eq!(rfc3339(UNIX_EPOCH, 0), "1970-01-01T00:00:00Z");
        let leap = UNIX_EPOCH + Duration::new(951_782_400, 5);
        assert_eq!(rfc3339(leap, 9), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH + Duration::from_secs(1_798_761_599), 0),
            "2026-12-31T23:59:59Z"
        );
    }
}
