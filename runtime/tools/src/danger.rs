//! What a document may say, and should not without a reason; and what it names that is not there.

use conex::error::Error;
use conex::oci::config::{Mount, Process, Spec, Syscall, SyscallArg};
use conex::text;
use std::path::Path;

/// What is named and is not there: sources of bind mounts, namespaces, the program; file systems that this kernel has
/// not.
pub fn missing(spec: &Spec, bundle: &Path) -> Vec<Error> {
    let source = |(i, m): (usize, &Mount)| {
        if !is_bind(m) {
            let kind = m.kind.as_deref().filter(|k| !has_file_system(k))?;
            let what = format!(
                "{kind:?} is no file system of this kernel, and no module of its brings it"
            );
            return Some(Error::invalid(format!("mounts[{i}].type"), what));
        }
        let source = m.source.as_deref().filter(|s| !s.is_empty())?;
        let path = bundle.join(text::path(source));
        let why = path.symlink_metadata().err()?;
        Some(Error::invalid(
            format!("mounts[{i}].source"),
            format!("{}: {}", path.display(), words(&why)),
        ))
    };
    let mut out: Vec<Error> = spec.mounts.iter().enumerate().filter_map(source).collect();
    out.extend(namespaces(spec));
    out.extend(program(spec, bundle));
    out
}

fn is_bind(m: &Mount) -> bool {
    m.options.iter().any(|o| o == "bind" || o == "rbind")
}

fn namespaces(spec: &Spec) -> Vec<Error> {
    let Some(linux) = &spec.linux else { return Vec::new() };
    let given =
        linux.namespaces.iter().enumerate().filter_map(|(i, n)| Some((i, n.path.as_deref()?)));
    let missing = |(i, path): (usize, &str)| {
        let why = text::path(path).metadata().err()?;
        Some(Error::invalid(
            format!("linux.namespaces[{i}].path"),
            format!("{path}: {}", words(&why)),
        ))
    };
    given.filter(|(_, path)| path.starts_with('/')).filter_map(missing).collect()
}

/// The program in the root directory; what a mount may bring is not judged.
fn program(spec: &Spec, bundle: &Path) -> Option<Error> {
    let process = spec.process.as_ref()?;
    let name = process.args.first().filter(|a| !a.is_empty())?;
    let root = bundle.join(text::path(&spec.root.as_ref()?.path));
    let fd = std::fs::File::open(&root).ok().filter(|f| f.metadata().is_ok_and(|m| m.is_dir()))?;
    let root_fd = conex::root::Root::new(fd.into());
    let path = process.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    let candidates: Vec<std::path::PathBuf> = match name.contains('/') {
        true => vec![text::path(&process.cwd).join(text::path(name))],
        false => path.split(':').map(|d| text::path(d).join(text::path(name))).collect(),
    };
    let below_mount =
        |p: &Path| spec.mounts.iter().any(|m| p.starts_with(text::path(&m.destination)));
    let program = |p: &std::path::PathBuf| {
        let fd = root_fd.open(p, nix::fcntl::OFlag::empty()).ok()?;
        nix::sys::stat::fstat(&fd)
            .ok()
            .filter(|s| s.st_mode & libc::S_IFMT == libc::S_IFREG && s.st_mode & 0o111 != 0)
    };
    let found = |p: &std::path::PathBuf| below_mount(p) || program(p).is_some();
    if candidates.iter().any(found) {
        return None;
    }
    let place = if name.contains('/') {
        String::new()
    } else {
        format!(" in any directory of PATH={path}")
    };
    Some(Error::invalid(
        "process.args[0]",
        format!("there is no program {name:?}{place} in {}", root.display()),
    ))
}

/// proc_filesystems(5), and what the kernel would load (modules.alias of depmod(8)).
fn has_file_system(name: &str) -> bool {
    // What the runtime makes of it, or what is refused elsewhere.
    if ["", "cgroup", "cgroup2", "none", "bind", "rbind"].contains(&name) {
        return true;
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|l| l.split_whitespace().next_back() == Some(name)) {
        return true;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let aliases = std::fs::read_to_string(format!("/lib/modules/{}/modules.alias", release.trim()))
        .unwrap_or_default();
    aliases.lines().any(|l| l.starts_with(&format!("alias fs-{name} ")))
}

/// Two rules of a seccomp profile about one call that can hold at the same time, and say different things: the first decides
/// here; what libseccomp makes of it, and so runc, depends on its tree of conditions.
pub fn order(spec: &Spec) -> Vec<Error> {
    let Some(seccomp) = spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()) else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (later, rule) in seccomp.syscalls.iter().enumerate().filter(|(_, r)| !r.args.is_empty()) {
        let contradicts = |other: &Syscall| {
            (&other.action, other.errno_ret) != (&rule.action, rule.errno_ret)
                && !other.args.is_empty()
                && !exclude(other, rule)
        };
        let of = |name: &String| {
            let both = |(_, r): &(usize, &Syscall)| r.names.contains(name) && contradicts(r);
            seccomp.syscalls[..later]
                .iter()
                .enumerate()
                .find(both)
                .map(|(earlier, _)| (name.clone(), earlier))
        };
        if let Some((name, earlier)) = rule.names.iter().find_map(of) {
            let what = format!(
                "{name}: where this rule and syscalls[{earlier}] both hold, that one decides, as it stands first; \
                 with runc libseccomp decides"
            );
            out.push(Error::invalid(format!("linux.seccomp.syscalls[{later}].args"), what));
        }
    }
    out
}

/// One argument that would need two values at once.
fn exclude(a: &Syscall, b: &Syscall) -> bool {
    let equal = |x: &SyscallArg, y: &SyscallArg| {
        x.index == y.index && x.op == "SCMP_CMP_EQ" && y.op == "SCMP_CMP_EQ" && x.value != y.value
    };
    a.args.iter().any(|x| b.args.iter().any(|y| equal(x, y)))
}

fn words(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::NotFound => "there is no such file or directory on this host".into(),
        _ => e.to_string(),
    }
}

/// What weakens the wall between container and host.
pub fn notes(spec: &Spec) -> Vec<Error> {
    let mut out = Vec::new();
    let mut note = |field: &str, what: String| out.push(Error::invalid(field, what));
    if let Some(process) = &spec.process {
        of_process(process, &mut note);
    }
    mounts(spec, &mut note);
    linux(spec, &mut note);
    out
}

fn of_process(process: &Process, note: &mut impl FnMut(&str, String)) {
    if process.no_new_privileges != Some(true) {
        note(
            "process",
            "noNewPrivileges is not set: set-user-ID programs in the container gain privileges"
                .into(),
        );
    }
    const STRONG: [(&str, &str); 7] = [
        ("CAP_SYS_ADMIN", "is nearly root of the host"),
        ("CAP_SYS_MODULE", "loads kernel modules"),
        ("CAP_SYS_RAWIO", "reads and writes memory of the host"),
        ("CAP_SYS_PTRACE", "reads processes that it can see"),
        ("CAP_DAC_READ_SEARCH", "opens any file of a mounted file system by its handle"),
        ("CAP_BPF", "loads BPF programs"),
        ("CAP_SYS_BOOT", "reboots the host"),
    ];
    let Some(c) = &process.capabilities else { return };
    for (i, cap) in c.bounding.iter().enumerate() {
        if let Some((_, what)) = STRONG.iter().find(|(name, _)| name == cap) {
            note(&format!("process.capabilities.bounding[{i}]"), format!("{cap} {what}"));
        }
    }
}

fn mounts(spec: &Spec, note: &mut impl FnMut(&str, String)) {
    for (i, m) in spec.mounts.iter().enumerate() {
        let Some(source) = m.source.as_deref().filter(|_| is_bind(m)) else { continue };
        let writable = !m.options.iter().any(|o| o == "ro");
        let field = format!("mounts[{i}].source");
        if source.ends_with("docker.sock") || source.ends_with("containerd.sock") {
            note(&field, format!("{source}: whoever reaches this socket is root of the host"));
        } else if writable
            && ["/", "/etc", "/proc", "/sys", "/dev", "/boot", "/root"].contains(&source)
        {
            note(
                &field,
                format!("{source} of the host, writable: its files are the host's security"),
            );
        }
    }
}

fn linux(spec: &Spec, note: &mut impl FnMut(&str, String)) {
    let linux = spec.linux.clone().unwrap_or_default();
    let has = |kind: &str| linux.namespaces.iter().any(|n| n.kind == kind);
    let shared = [
        ("pid", "processes"),
        ("network", "network"),
        ("ipc", "System V IPC and POSIX message queues"),
        ("mount", "mounts"),
    ];
    for (kind, what) in shared {
        if !has(kind) {
            note(
                "linux.namespaces",
                format!("no {kind} namespace: the container shares the host's {what}"),
            );
        }
    }
    let root = spec.process.as_ref().is_some_and(|p| p.user.uid == 0);
    if root && !has("user") {
        note(
            "linux.namespaces",
            "no user namespace: the container's root is the host's, held by capabilities only"
                .into(),
        );
    }
    let proc = spec.mounts.iter().any(|m| m.kind.as_deref() == Some("proc"));
    let covers = |list: &[String], path: &str| list.iter().any(|p| p == path);
    if proc && !covers(&linux.readonly_paths, "/proc/sys") {
        note("linux.readonlyPaths", "/proc/sys is writable: it holds the kernel's settings".into());
    }
    if proc && !covers(&linux.masked_paths, "/proc/kcore") {
        note("linux.maskedPaths", "/proc/kcore is not masked: it is the kernel's memory".into());
    }
    if linux.seccomp.is_none() {
        note("linux", "no seccomp profile: every system call is allowed".into());
    }
    let resources = linux.resources.unwrap_or_default();
    for (i, rule) in resources.devices.iter().enumerate() {
        if rule.allow && rule.kind.as_deref().is_none_or(|k| k == "a") && rule.major.is_none() {
            note(
                &format!("linux.resources.devices[{i}]"),
                "allows every device of the host".into(),
            );
        }
    }
    if resources.memory.and_then(|m| m.limit).is_none() {
        note("linux.resources", "no memory limit: the container can use up the host's".into());
    }
    if resources.pids.and_then(|p| p.limit).is_none() {
        note("linux.resources", "no limit of processes: a fork bomb is the host's".into());
    }
}
