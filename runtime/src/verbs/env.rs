//! What every command gets, and where it prints.

use crate::cli::Args;
use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::plan::cgroup::Driver;
use crate::state::Store;
use std::path::PathBuf;

/// What every verb gets.
pub struct Env {
    pub root: PathBuf,
    pub cgroup_driver: Driver,
    /// `--rootless=false`: no limit may be lost, whoever calls.
    pub cgroup_required: bool,
    pub log: Log,
    pub args: Args,
}

impl Env {
    pub fn id(&self) -> &str {
        self.args.rest.first().map_or("", String::as_str)
    }

    /// The store as it is; a missing root means that there is no container.
    pub fn store(&self) -> Result<Store> {
        crate::state::check_id(self.id())?;
        Store::open(&self.root, false)?.ok_or_else(|| crate::state::missing(self.id()))
    }
}

/// runc's rule (rootless_linux.go): the same answer whatever is left of the environment.
pub fn root(global: &crate::cli::Args) -> Result<std::path::PathBuf> {
    let given = global.value("root").filter(|r| !r.is_empty());
    let path = match given {
        Some(root) => std::path::absolute(crate::text::path(root))
            .unwrap_or_else(|_| crate::text::path(root).into_owned()),
        None => {
            let rootless = crate::host::facts::of_a_user();
            match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| rootless && !d.is_empty()) {
                Some(dir) => std::path::Path::new(&dir).join("conex"),
                None => "/run/conex".into(),
            }
        }
    };
    if path == std::path::Path::new("/") {
        return Err(Error::new(Kind::Invalid, "Option --root argument should not be set to /"));
    }
    Ok(path)
}

/// What the global flags say to every verb: root, driver, and whether no limit may be lost.
pub fn settings(global: &Args, args: Args) -> Result<(PathBuf, Driver, bool, Args)> {
    let root = root(global)?;
    let required = match global.value("rootless").unwrap_or("auto") {
        "true" | "auto" => false,
        "false" => true,
        other => {
            return Err(Error::new(
                Kind::Invalid,
                format!("--rootless {other:?}: expected true, false or auto"),
            ))
        }
    };
    Ok((root, driver(global)?, required, args))
}

/// `--systemd-cgroup` is runc's flag, `--cgroup-manager` crun's, which Podman uses for `--cgroups=disabled`.
fn driver(global: &Args) -> Result<Driver> {
    let systemd = global.is_set("systemd-cgroup");
    match global.value("cgroup-manager") {
        None if systemd => Ok(Driver::Systemd),
        None => Ok(Driver::Cgroupfs),
        Some("systemd") => Ok(Driver::Systemd),
        Some(other @ ("cgroupfs" | "disabled")) if systemd => Err(Error::new(
            Kind::Invalid,
            format!("--cgroup-manager {other} and --systemd-cgroup exclude each other"),
        )),
        Some("cgroupfs") => Ok(Driver::Cgroupfs),
        Some("disabled") => Ok(Driver::Disabled),
        Some(other) => {
            let what =
                format!("--cgroup-manager {other:?}: expected cgroupfs, systemd or disabled");
            Err(Error::new(Kind::Invalid, what))
        }
    }
}

/// Writes to standard output; a reader that is gone is an error, not a panic.
pub fn print(text: &str) -> Result<()> {
    use crate::error::Context;
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).call(|| "write(stdout)")
}
