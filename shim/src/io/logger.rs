//! `binary://`: a logging program that reads the container's output (containerd's core/runtime/v2/README, "Logging").

use super::owner::{self, Owner};
use crate::reap::{self, Exit, Reaper};
use crate::status::{invalid, unknown, During, Result};
use conex_sys::proc::pidfd_send_signal;
use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

pub struct Logger {
    pub pid: i32,
    pub pidfd: Rc<OwnedFd>,
    ended: Rc<Ended>,
}

/// How a logger says that it is ready, on its descriptor 5.
#[derive(Clone, Copy, PartialEq)]
pub enum Ready {
    /// `binary://`: it writes a byte or closes it, which it does as well when it crashes.
    Closed,
    /// `binary-v2://` (containerd 2.3): it writes a byte.
    Said,
}

#[derive(Default)]
struct Ended {
    exit: Cell<Option<Exit>>,
    changed: Notify,
}

impl Logger {
    /// One that runs. Somebody waits for it from the first moment: a zombie that nobody takes would stop all reaping.
    pub fn again(reaper: &Rc<Reaper>, pid: i32, pidfd: Rc<OwnedFd>) -> Logger {
        reaper.add(pid);
        let ended = Rc::new(Ended::default());
        let (told, reaper, waiter) =
            (ended.clone(), reaper.clone(), pidfd.as_fd().try_clone_to_owned());
        tokio::task::spawn_local(async move {
            let Ok(waiter) = waiter else { return };
            let Ok(exit) = reaper.wait(pid, waiter).await else { return };
            let (number, status) = (pid.to_string(), exit.status.to_string());
            crate::log::info("logger ended", &[("pid", &number), ("status", &status)]);
            told.exit.set(Some(exit));
            told.changed.notify_waiters();
        });
        Logger { pid, pidfd, ended }
    }

    /// Starts `path?key=value…` with the arguments `key value …`, the container's stdout as 3, its stderr as 4 and a
    /// pipe as 5 on which it says that it is ready.
    ///
    /// # Errors
    /// The program is not root's own, cannot be executed, or ends before it is ready.
    pub async fn start(
        (uri, how): (&str, Ready),
        owner: &Owner,
        out: OwnedFd,
        err: OwnedFd,
    ) -> Result<Logger> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = decode(path);
        trusted(&path)?;
        let (ready, theirs) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).during(|| "pipe2".into())?;
        let mut command = Command::new(conex_plan::text::os(&path));
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            command.arg(conex_plan::text::os(&decode(key)));
            if !value.is_empty() {
                command.arg(conex_plan::text::os(&decode(value)));
            }
        }
        command
            .env_clear()
            .env("CONTAINER_ID", &owner.id)
            .env("CONTAINER_NAMESPACE", &owner.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        conex_sys::fd::pass(&mut command, vec![out, err, theirs]).during(|| "dup".into())?;
        crate::limit::as_given(&mut command);
        let child = command.spawn().during(|| format!("exec({path})"))?;
        drop(command);
        let pid = child.id() as i32;
        let logger = Logger::again(&reap::reaper(), pid, Rc::new(reap::pidfd(pid)?));
        crate::log::info("logger started", &[("binary", &path), ("pid", &pid.to_string())]);
        owner::nonblocking(&ready)?;
        let ready = conex_sys::ready::readable(ready).during(|| "epoll_ctl".into())?;
        let told = tokio::time::timeout(Duration::from_secs(12), ready.readable()).await.is_ok();
        if !told {
            logger.end();
            return Err(unknown(format!("{path}: not ready within 12 seconds")));
        }
        let mut byte = [0u8];
        let said = matches!(nix::unistd::read(ready.get_ref(), &mut byte), Ok(1));
        tokio::task::yield_now().await;
        if let Some(exit) = logger.ended.exit.get() {
            return Err(unknown(format!("{path} exited with {} before it was ready", exit.status)));
        }
        if how == Ready::Said && !said {
            logger.end();
            return Err(unknown(format!(
                "{path}: closed descriptor 5 without a byte: a logger of binary-v2:// writes one"
            )));
        }
        Ok(logger)
    }

    /// The container's end of its pipes is closed: two seconds to read the rest, then SIGTERM, 12 seconds, SIGKILL.
    pub fn end(self) {
        tokio::task::spawn_local(async move {
            for (signal, seconds) in [(0, 2), (libc::SIGTERM, 12), (libc::SIGKILL, 12)] {
                let _ = pidfd_send_signal(self.pidfd.as_fd(), signal);
                let gone = async {
                    while self.ended.exit.get().is_none() {
                        self.ended.changed.notified().await;
                    }
                };
                if tokio::time::timeout(Duration::from_secs(seconds), gone).await.is_ok() {
                    return;
                }
            }
        });
    }
}

/// The shim runs it as the host's root, and the URI may come from an image's label (CVE-2026-53488).
fn trusted(path: &str) -> Result<()> {
    if !path.starts_with('/') {
        return Err(invalid(format!("binary://{path}: not an absolute path")));
    }
    let meta =
        std::fs::metadata(conex_plan::text::path(path)).during(|| format!("stat({path})"))?;
    if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(invalid(format!(
            "binary://{path}: must belong to the shim's user and be writable for nobody else"
        )));
    }
    Ok(())
}

/// Percent-encoding, with + for a space. What is no UTF-8 is kept as [`conex_plan::text`] does.
fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let rest = bytes.clone();
                let digits: Vec<u8> = rest.take(2).collect();
                let code =
                    std::str::from_utf8(&digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok());
                match code.filter(|_| digits.len() == 2) {
                    Some(code) => {
                        out.push(code);
                        bytes.nth(1);
                    }
                    None => out.push(b'%'),
                }
            }
            b => out.push(b),
        }
    }
    conex_plan::text::from_bytes(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn percent_encoding() {
        assert_eq!(super::decode("a%20b+c%2Fd%zz%4"), "a b c/d%zz%4");
        use std::os::unix::ffi::OsStrExt;
        assert_eq!(conex_plan::text::os(&super::decode("%ff=%C3%BC")).as_bytes(), b"\xff=\xc3\xbc");
    }
}
