//! What a cgroup had in its files before they were written to, to go back to: after a failed update, and after a create
//! that failed in a cgroup that had been there before.

use super::files::{read_at, write_at};
use super::group::{Dir, Group};
use super::limits;
use crate::error::{Context, Error};
use crate::facts;
use crate::plan::device_rules::Rules;
use crate::plan::limits::Assignment;
use conex_sys::bpf;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// One file of a cgroup and what to write there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Before {
    #[serde(with = "crate::text::serde_path")]
    pub dir: PathBuf,
    /// [`DEVICES`] and [`PROGRAM`] are not written as they are.
    pub file: String,
    pub value: String,
}

/// The rules of the v1 device controller, as that file shows them.
const DEVICES: &str = "devices.list";
/// No device program was attached.
const PROGRAM: &str = "device program";

impl Group {
    /// The values in force of what will be changed, but for directories that were made for it.
    pub fn before(
        &self,
        files: &[Assignment],
        devices: Option<&Rules>,
        made: &[PathBuf],
    ) -> Vec<Before> {
        let foreign = |d: &&Dir| !made.contains(&d.path);
        let mut out = Vec::new();
        for a in files {
            let found =
                self.dir_of(a).filter(foreign).and_then(|d| Some((d, limits::previous(d, a)?)));
            if let Some((dir, (file, value))) = found {
                out.push(Before { dir: dir.path.clone(), file, value });
            }
        }
        if devices.is_some() && facts::host_root() {
            out.extend(self.devices_before().filter(|b| !made.contains(&b.dir)));
        }
        out
    }

    /// Where [`Group::devices`] will put the rules. Exceptions to "allow all" are not shown by the kernel, and are lost.
    fn devices_before(&self) -> Option<Before> {
        let v1 = self.dirs.iter().find(|d| !d.hierarchy.v2 && d.hierarchy.has("devices"));
        if let Some(dir) = v1 {
            let value = read_at(dir.as_fd(), DEVICES).ok()?;
            return Some(Before { dir: dir.path.clone(), file: DEVICES.into(), value });
        }
        let dir = self.unified()?;
        let none = bpf::attached(dir.as_fd()).is_ok_and(|list| list.is_empty());
        none.then(|| Before { dir: dir.path.clone(), file: PROGRAM.into(), value: String::new() })
    }
}

/// Writes everything back. What limits each other (memory and memory with swap) is taken only in one order, so what
/// was refused is tried again after the rest.
pub fn put_back(list: &[Before]) -> Vec<Error> {
    let refused: Vec<&Before> = list.iter().rev().filter(|b| write_back(b).is_err()).collect();
    refused.into_iter().filter_map(|b| write_back(b).err()).collect()
}

fn write_back(b: &Before) -> crate::error::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    let dir = match nix::fcntl::open(&b.dir, flags, Mode::empty()) {
        // Whoever made it has removed it.
        Err(Errno::ENOENT) => return Ok(()),
        other => other.call(|| format!("open({})", b.dir.display()))?,
    };
    let write = |file: &str, value: &str| {
        let written = write_at(dir.as_fd(), file, value);
        written.call(|| format!("write({}/{file}, {value})", b.dir.display()))
    };
    match b.file.as_str() {
        DEVICES => {
            write("devices.deny", "a")?;
            b.value.lines().try_for_each(|line| {
                // "a *:* rwm" is what an unlimited one shows; only the letter is taken.
                write("devices.allow", if line.starts_with('a') { "a" } else { line })
            })
        }
        PROGRAM => {
            let list = bpf::attached(dir.as_fd())
                .call(|| format!("bpf(BPF_PROG_QUERY, {})", b.dir.display()))?;
            list.iter().try_for_each(|program| {
                bpf::detach(dir.as_fd(), program.as_fd())
                    .call(|| format!("bpf(BPF_PROG_DETACH, {})", b.dir.display()))
            })
        }
        file => write(file, &b.value),
    }
}
