//! config.json → Spec → Plan: every check, default and look-up, with no side effect.
//!
//! This crate makes no system call (clippy.toml and tests/invariants.sh list what it may not use). What it must know of a host is a value ([`facts::Facts`]), and
//! what a document makes it ask about a path is a question that it returns ([`questions::questions`]).
//!
//! [`make`] collects all problems of a document, each with the path of the value, before anything has happened.
//! What it returns holds only resolved values: nobody behind this point looks at config.json again.

#![forbid(unsafe_code)]

pub mod cgroup;
pub mod check;
pub mod detached;
pub mod device_rules;
pub mod devices;
pub mod document;
pub mod error;
pub mod facts;
pub mod features;
pub mod gvariant;
pub mod hierarchy;
pub mod hooks;
pub mod limits;
pub mod mount;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod oci;
pub mod placement;
pub mod process;
pub mod questions;
pub mod resources;
pub mod seccomp;
pub mod text;
pub mod unit;
pub mod weights;

use crate::check::Check;
pub use crate::error::Error;
use crate::facts::Facts;
use crate::oci::config::{Hooks, Spec};
use std::path::{Path, PathBuf};

/// The commit that this build is of, if the build was told.
pub const REVISION: &str = match option_env!("CONEX_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// What the command line adds to the document.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub id: String,
    pub bundle: PathBuf,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub cgroup_driver: cgroup::Driver,
    /// See [`cgroup::Cgroup::required`].
    pub cgroup_required: bool,
    /// See [`process::Process::detached`].
    pub detached: bool,
    /// Descriptors that the process keeps.
    pub preserved: Vec<i32>,
    /// How many of them, from 3 on, are socket-activation sockets (`LISTEN_FDS`).
    pub listen_fds: u32,
    /// The container's view of a NOTIFY_SOCKET directory, bind-mounted from this directory of ours.
    pub notify_dir: Option<PathBuf>,
}

/// Everything that `host` and `child` will do.
#[derive(Debug)]
pub struct Plan {
    pub id: String,
    pub bundle: PathBuf,
    pub annotations: std::collections::BTreeMap<String, String>,
    pub rootfs: Rootfs,
    pub namespaces: namespaces::Namespaces,
    pub mounts: Vec<mount::Mount>,
    pub devices: devices::Nodes,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctls: Vec<namespaces::Sysctl>,
    pub net_devices: Vec<NetDevice>,
    pub process: process::Process,
    pub cgroup: cgroup::Cgroup,
    pub hooks: Hooks,
    pub rdt: Option<placement::Rdt>,
    pub warnings: Vec<Error>,
}

#[derive(Debug)]
pub struct Rootfs {
    pub path: PathBuf,
    pub readonly: bool,
    /// `MS_*` propagation of `/` in the new mount namespace, `MS_REC` included.
    pub propagation: u64,
    /// True if the document asked for that propagation, so that it is applied to the new root as well.
    pub propagation_given: bool,
    pub no_pivot: bool,
    /// False without a mount namespace: the mounts are then made in the runtime's own, and taken back with the
    /// container.
    pub private: bool,
    /// True if a mount namespace that is no copy of the host's will do ([`detached::possible`]).
    pub detached: bool,
}

impl Plan {
    /// True if a mount of cgroups shows those of the whole host: there is only v2, and the container is in the first
    /// cgroup and user namespace. A fresh mount there would set the options of the one superblock anew.
    pub fn shows_all_cgroups(&self) -> bool {
        let private = |flag| self.namespaces.private(flag);
        self.cgroup.hierarchies.iter().all(|h| h.v2)
            && !private(libc::CLONE_NEWCGROUP)
            && !private(libc::CLONE_NEWUSER)
    }
}

/// A host network device that moves into the container.
#[derive(Debug)]
pub struct NetDevice {
    pub host_name: String,
    pub name: String,
    pub field: String,
}

/// Decides everything about a container.
///
/// # Errors
/// Every problem of the document, in the order of the checks; never empty.
pub fn make(spec: &Spec, options: &Options, facts: &Facts) -> Result<Plan, Vec<Error>> {
    let mut check = Check::default();
    let plan = decide(spec, options, facts, &mut check);
    let warnings = check.finish()?;
    let plan = plan
        .ok_or_else(|| vec![Error::invalid("", "the document has neither a plan nor a problem")])?;
    Ok(Plan { warnings, ..plan })
}

/// The same for those who want problems and warnings alike.
pub fn judge(spec: &Spec, options: &Options, facts: &Facts) -> (Vec<Error>, Vec<Error>) {
    let mut check = Check::default();
    decide(spec, options, facts, &mut check);
    check.all()
}

/// Everything that is wrong is in `check`; without it there is a plan.
fn decide(spec: &Spec, options: &Options, facts: &Facts, check: &mut Check) -> Option<Plan> {
    version(spec, check);
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = namespaces::make(&linux, facts, check);
    let rootfs = rootfs(spec, options, facts, namespaces.private(libc::CLONE_NEWNS), check);
    let process = process::make(spec, options, facts, &namespaces, check);
    let mounts = mounts::make(spec, options, &namespaces, facts, check);
    let devices = devices::nodes(&linux, &mounts, check);
    let mut cgroup = cgroup::make(&linux, &spec.annotations.0, options, facts, check);
    if let (Some(cgroup), Some(process)) = (&mut cgroup, &process) {
        cgroup.owner = cgroup_owner(&mounts, &namespaces, process.uid);
    }
    hooks::check(spec, check);
    names(spec, &namespaces, check);
    let sysctls = namespaces::sysctls(&linux, &namespaces, check);
    let net_devices = net_devices(&linux, &namespaces, facts, check);
    let rdt = placement::rdt(&linux, &options.id, facts, check);
    for (list, name) in
        [(&linux.masked_paths, "maskedPaths"), (&linux.readonly_paths, "readonlyPaths")]
    {
        paths(list, name, &namespaces, check);
    }
    let hooks = spec.hooks.clone().unwrap_or_default();
    let mut rootfs = rootfs?;
    rootfs.detached = !facts.rootless
        && facts.initial_userns
        && detached::possible(&rootfs, &mounts, &hooks, &namespaces);
    Some(Plan {
        id: options.id.clone(),
        bundle: options.bundle.clone(),
        annotations: spec.annotations.0.clone(),
        rootfs,
        namespaces,
        mounts,
        devices,
        masked_paths: linux.masked_paths.0,
        readonly_paths: linux.readonly_paths.0,
        hostname: spec.hostname.clone().filter(|s| !s.is_empty()),
        domainname: spec.domainname.clone().filter(|s| !s.is_empty()),
        sysctls,
        net_devices,
        process: process?,
        cgroup: cgroup?,
        hooks,
        rdt,
        warnings: Vec::new(),
    })
}

/// config.md "Specification version": MUST be SemVer 2.0.0. Peers accept anything, so a wrong one only warns,
/// unless it is missing altogether or announces a major version that we cannot know.
fn version(spec: &Spec, check: &mut Check) {
    let field = "ociVersion";
    let core = spec.oci_version.split(['-', '+']).next().unwrap_or("");
    let numbers: Vec<_> = core.split('.').map(|n| n.parse::<u32>()).collect();
    match numbers.as_slice() {
        [Ok(1), Ok(_), Ok(_)] => {}
        [Ok(major), Ok(_), Ok(_)] if *major > 1 => {
            check
                .bad(field, format!("version {:?}: this runtime implements 1.x", spec.oci_version));
        }
        [Ok(0), Ok(_), Ok(_)] => check.warn(field, "a version before 1.0.0"),
        _ if spec.oci_version.is_empty() => check.bad(field, "required (runtime-spec, config.md)"),
        _ => check
            .bad(field, format!("{:?} is not a semantic version such as 1.3.0", spec.oci_version)),
    }
    for key in spec.annotations.keys().filter(|k| k.is_empty()) {
        check.bad(format!("annotations[{key:?}]"), "keys must not be empty");
    }
}

fn rootfs(
    spec: &Spec,
    options: &Options,
    facts: &Facts,
    private: bool,
    check: &mut Check,
) -> Option<Rootfs> {
    let Some(root) = &spec.root else {
        check.bad("root", "required on Linux (runtime-spec, config.md)");
        return None;
    };
    if root.path.is_empty() {
        check.bad("root.path", "required: the directory of the root file system");
        return None;
    }
    let path = options.bundle.join(crate::text::path(&root.path));
    match facts.root {
        None => {
            check.bad("root.path", format!("{}: no such file or directory", path.display()));
        }
        Some(false) => check.bad("root.path", format!("{}: not a directory", path.display())),
        Some(true) => {}
    }
    let given =
        spec.linux.as_ref().and_then(|l| l.rootfs_propagation.as_deref()).filter(|s| !s.is_empty());
    let propagation = match given {
        None => (libc::MS_SLAVE | libc::MS_REC) as u64,
        Some(name) => match mount_options::propagation(name) {
            Some(flag) => flag,
            None => {
                check.bad(
                    "linux.rootfsPropagation",
                    format!("{name:?}: expected shared, slave, private, unbindable or one of them with r in front"),
                );
                0
            }
        },
    };
    if options.no_pivot && propagation & libc::MS_PRIVATE as u64 != 0 {
        check.bad("linux.rootfsPropagation", "private cannot be combined with --no-pivot");
    }
    Some(Rootfs {
        path,
        readonly: root.readonly,
        propagation,
        propagation_given: given.is_some(),
        no_pivot: options.no_pivot,
        private,
        detached: false,
    })
}

/// The specification's conditions: cgroup v2, a cgroup namespace, and a cgroup mount that may be written. Root of the
/// host owns it already.
fn cgroup_owner(
    mounts: &[mount::Mount],
    namespaces: &namespaces::Namespaces,
    uid: u32,
) -> Option<u32> {
    use conex_sys::mount::ATTR_RDONLY;
    let writable = |m: &&mount::Mount| {
        matches!(&m.kind, mount::Action::Fs(kind) if kind == "cgroup2")
            && (m.attr.set | m.recursive.set) & ATTR_RDONLY == 0
    };
    mounts.iter().find(writable)?;
    let host = match &namespaces.maps {
        Some(maps) => namespaces::Maps::to_host(&maps.uid, uid)?,
        None if namespaces.private(libc::CLONE_NEWUSER) => return None,
        None => uid,
    };
    (host != 0 && namespaces.private(libc::CLONE_NEWCGROUP)).then_some(host)
}

fn names(spec: &Spec, namespaces: &namespaces::Namespaces, check: &mut Check) {
    let has_uts = namespaces.private(libc::CLONE_NEWUTS);
    for (value, field) in [(&spec.hostname, "hostname"), (&spec.domainname, "domainname")] {
        let Some(value) = value.as_deref().filter(|v| !v.is_empty()) else {
            continue;
        };
        if !has_uts {
            check.bad(
                field,
                "unable to set hostname without a private UTS namespace (linux.namespaces)",
            );
        }
        if value.len() > 64 {
            check.bad(field, format!("{} bytes; the kernel takes at most 64", value.len()));
        }
    }
}

fn paths(list: &[String], name: &str, namespaces: &namespaces::Namespaces, check: &mut Check) {
    if !list.is_empty() && !namespaces.private(libc::CLONE_NEWNS) {
        check.bad(format!("linux.{name}"), "needs a mount namespace (linux.namespaces)");
    }
    for (i, path) in list.iter().enumerate() {
        if !Path::new(path).is_absolute() {
            check.bad(format!("linux.{name}[{i}]"), format!("{path:?} is not an absolute path"));
        }
    }
}

fn net_devices(
    linux: &crate::oci::config::Linux,
    namespaces: &namespaces::Namespaces,
    facts: &Facts,
    check: &mut Check,
) -> Vec<NetDevice> {
    let mut out: Vec<NetDevice> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for (host_name, device) in &linux.net_devices {
        let field = format!("linux.netDevices[{host_name:?}]");
        if !namespaces.private(libc::CLONE_NEWNET) {
            check.bad(field.clone(), "needs a network namespace (linux.namespaces)");
        }
        if facts.rootless {
            check.unsupported(
                field.clone(),
                "network devices cannot be moved by an unprivileged runtime",
            );
        }
        let name =
            device.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| host_name.clone());
        for (n, at) in [(host_name, field.clone()), (&name, format!("{field}.name"))] {
            // dev_valid_name() of the kernel; a % template is allowed for the new name.
            if n.is_empty() || n.len() > 15 || n == "." || n == ".." || n.contains(['/', ':', ' '])
            {
                check.bad(at, format!("{n:?} is not a network device name"));
            }
        }
        if !names.insert(name.clone()) && !name.contains('%') {
            check.bad(format!("{field}.name"), format!("{name:?} is used twice"));
        }
        out.push(NetDevice { host_name: host_name.clone(), name, field });
    }
    out
}
