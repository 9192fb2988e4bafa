//! What init and exec share: from a place in the namespaces to execve.

use super::procfs::Procfs;
use super::{confined, console, hooks, identity, Report};
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::process::Process;
use crate::plan::Plan;
use crate::seccomp::Filter;
use crate::sync::{Channel, Message};
use crate::text;
use conex_sys::exec::Execve;
use conex_sys::seccomp::SockFilter;
use conex_sys::{fd, proc, sched, signal};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statvfs::FsFlags;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A session keyring of its own: the caller's keys must not be searchable from inside.
pub fn keyring(p: &Process) -> Result<()> {
    let Some(name) = &p.keyring else { return Ok(()) };
    match proc::join_session_keyring(name) {
        Ok(serial) => {
            // Without it a user other than root could not use the keyring after the switch; not having it is no
            // danger.
            let _ = proc::keyring_allow_user_search(serial);
            Ok(())
        }
        // A kernel without keys, or a filter of an outer container: nothing to hide.
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(e) => Err(Error::call(e, format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})"))),
    }
}

pub fn needs_procfs(p: &Process) -> bool {
    p.apparmor.is_some() || p.selinux.is_some()
}

/// `user:role:type`. The kernel has refused a level that is none, and writes others in its own way: c1.c3 for c1,c2,c3.
fn without_level(label: &str) -> &str {
    label.match_indices(':').nth(2).map_or(label, |(i, _)| &label[..i])
}

/// The security label of the program that will be executed, written and read back: a label that did not take is
/// an error, never a silent loss.
fn labels(p: &Process, procfs: Option<Procfs>) -> Result<()> {
    if !needs_procfs(p) {
        return Ok(());
    }
    let procfs = Procfs::or_new(procfs)?;
    let me = procfs.own().call(|| "readlinkat(/proc/self)")?;
    let set = |files: &[&str], value: String, field: &str| -> Result<()> {
        let mut last = Errno::ENOENT;
        for file in files {
            match procfs.write(&format!("{me}/attr/{file}"), &value) {
                Ok(()) => {
                    let now = procfs.read(&format!("{me}/attr/{file}")).unwrap_or_default();
                    let label = value.strip_prefix("exec ").unwrap_or(&value);
                    let known = if field == "selinuxLabel" { without_level(label) } else { label };
                    if now.trim_end_matches(['\0', '\n']).starts_with(known) {
                        return Ok(());
                    }
                    return Err(Error::new(
                        Kind::System,
                        format!("the kernel kept {now:?} instead of {label:?}"),
                    )
                    .at(format!("{}.{field}", p.field)));
                }
                Err(Errno::ENOENT) => continue,
                Err(e) => {
                    last = e;
                    break;
                }
            }
        }
        Err(Error::call(last, format!("write(/proc/self/attr/{}, {value:?})", files[0]))
            .at(format!("{}.{field}", p.field)))
    };
    if let Some(profile) = &p.apparmor {
        set(&["apparmor/exec", "exec"], format!("exec {profile}"), "apparmorProfile")?;
    }
    if let Some(label) = &p.selinux {
        set(&["exec"], label.clone(), "selinuxLabel")?;
    }
    Ok(())
}

/// The caller's CPU mask is the caller's: the container has what its cpuset gives (Linux from 6.2 on remembers a mask that
/// was set, and an engine pinned to one CPU would pin all its containers).
fn every_cpu() {
    let _ = sched::sched_setaffinity(&[u64::MAX; 128]);
}

const SCHED_DEADLINE: u32 = 6;

fn scheduling(p: &Process) -> Result<()> {
    let field = |name: &str| format!("{}.{name}", p.field);
    if let Some(attr) = p.scheduler {
        let set = sched::sched_setattr(attr);
        // sched_setattr(2): EPERM has two reasons.
        let why = match set {
            Err(Errno::EPERM) if attr.policy == SCHED_DEADLINE => {
                ", SCHED_DEADLINE: needs CAP_SYS_NICE, and every CPU: process scheduler can't be used together with AllowedCPUs"
            }
            _ => "",
        };
        set.call(|| format!("sched_setattr(policy {}{why})", attr.policy))
            .at(|| field("scheduler"))?;
    }
    if let Some((class, level)) = p.io_priority {
        sched::ioprio_set(class, level)
            .call(|| format!("ioprio_set(class {class}, {level})"))
            .at(|| field("ioPriority"))?;
    }
    if let Some(domain) = p.personality {
        proc::personality(domain)
            .call(|| format!("personality({domain:#x})"))
            .at(|| "linux.personality")?;
    }
    if let Some((mode, nodes)) = &p.memory_policy {
        sched::set_mempolicy(*mode, nodes)
            .call(|| format!("set_mempolicy({mode:#x})"))
            .at(|| "linux.memoryPolicy")?;
    }
    Ok(())
}

/// The working directory, entered as root; a user's own directory that root may not enter (a squashed network file
/// system) is entered again after the switch. A missing one was made with the container's mounts, for exec it is an error.
fn change_dir(p: &Process) -> Result<bool> {
    match nix::unistd::chdir(&*text::path(&p.cwd)) {
        Ok(()) => Ok(true),
        Err(Errno::EACCES | Errno::EPERM) => Ok(false),
        Err(e) => {
            let what = format!(
                "chdir to cwd ({:?}) set in config.json failed: {}",
                p.cwd,
                e.desc().to_lowercase()
            );
            Err(Error { errno: None, ..Error::new(Kind::System, what) })
        }
    }
}

/// A working directory outside the root, reached through a leaked descriptor, shows as "(unreachable)" or not at
/// all (CVE-2024-21626).
fn verify_cwd() -> Result<()> {
    match nix::unistd::getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        _ => Err(Error::new(Kind::Invalid, "current working directory is outside of container mount namespace root -- possible container breakout detected")),
    }
}

/// The image's /etc/passwd, if it is a regular file: a FIFO there must not stop the runtime.
fn passwd() -> Option<std::fs::File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open("/etc/passwd", flags, nix::sys::stat::Mode::empty()).ok()?;
    let file = std::fs::File::from(fd);
    file.metadata().is_ok_and(|m| m.is_file()).then_some(file)
}

/// HOME from the container's /etc/passwd if it is not set (or empty), as every runtime does.
fn home(p: &Process) -> Option<String> {
    if p.env.iter().any(|e| e.strip_prefix("HOME=").is_some_and(|v| !v.is_empty())) {
        return None;
    }
    // The file is the image's: bounded, and its lines are only compared.
    let found = passwd().and_then(|f| {
        use std::io::Read;
        let mut bytes = Vec::new();
        f.take(1 << 20).read_to_end(&mut bytes).ok()?;
        text::from_bytes(&bytes).lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            (fields.len() >= 6 && fields[2].parse() == Ok(p.uid)).then(|| fields[5].to_string())
        })
    });
    Some(found.filter(|h| !h.is_empty()).unwrap_or_else(|| "/".into()))
}

/// Where execve finds the program, by the PATH of the process itself.
///
/// # Errors
/// The texts of Go's os/exec, which the engines map to exit codes 126 and 127.
fn look_up(p: &Process) -> Result<PathBuf> {
    let name = &p.args[0];
    let fail = |errno: Errno, path: &Path| {
        let noexec = || {
            nix::sys::statvfs::statvfs(path).is_ok_and(|s| s.flags().contains(FsFlags::ST_NOEXEC))
        };
        let also = match errno {
            // execve of a directory is EACCES: Docker before 24 knows only that text for exit code 126.
            Errno::EISDIR => ": permission denied",
            Errno::EACCES if noexec() => ": it is on a mount with noexec",
            _ => "",
        };
        let what = format!("exec: {name:?}: {}{also}", errno.desc().to_lowercase());
        Error::new(Kind::System, what).at(format!("{}.args[0]", p.field))
    };
    let check = |path: &Path| match path.metadata() {
        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::ENOENT))),
        Ok(m) if m.is_dir() => Err(Errno::EISDIR),
        // As execve judges, with the effective capabilities: access(2), which eaccess(3) may become, leaves those of a user
        // other than 0 out of account (CAP_DAC_OVERRIDE, which pods have).
        Ok(m) if m.permissions().mode() & 0o111 == 0 => Err(Errno::EACCES),
        // An older kernel, or an outer seccomp profile that does not know the call: execve has the word.
        Ok(_) => match fd::may_execute(path) {
            Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => Ok(()),
            other => other,
        },
    };
    if name.contains('/') {
        let path = text::path(name).into_owned();
        return check(&path).map(|()| path.clone()).map_err(|e| match e {
            Errno::ENOENT => Error::new(
                Kind::System,
                format!("exec: {name:?}: stat {name}: no such file or directory"),
            )
            .at(format!("{}.args[0]", p.field)),
            e => fail(e, &path),
        });
    }
    let path = p.env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    let mut denied = None;
    for dir in path.split(':').filter(|_| !path.is_empty()) {
        let candidate = text::path(if dir.is_empty() { "." } else { dir }).join(text::path(name));
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => denied = denied.or(Some(candidate)),
            Err(_) => {}
        }
    }
    if let Some(candidate) = denied {
        return Err(fail(Errno::EACCES, &candidate));
    }
    Err(Error::new(Kind::System, format!("exec: {name:?}: executable file not found in $PATH"))
        .at(format!("{}.args[0]", p.field)))
}

/// The program and what it is given.
struct Image {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// The same, for hooks.
    environment: Vec<String>,
}

/// Becomes the process's user, as far as can be said before the container is started.
fn settle(p: &Process, procfs: Option<Procfs>) -> Result<Image> {
    if p.no_new_privileges {
        proc::set_no_new_privs()
            .call(|| "prctl(PR_SET_NO_NEW_PRIVS)")
            .at(|| format!("{}.noNewPrivileges", p.field))?;
    }
    crate::log::step(|| "process: scheduling, labels, working directory, user");
    scheduling(p)?;
    labels(p, procfs)?;
    let field = || format!("{}.cwd", p.field);
    let entered = change_dir(p).at(field)?;
    console::hand_over_stdio(p);
    identity::switch(p)?;
    if !entered {
        nix::unistd::chdir(&*text::path(&p.cwd)).call(|| format!("chdir({})", p.cwd)).at(field)?;
    }
    verify_cwd().at(field)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(p.umask));
    let path = if p.args.is_empty() { PathBuf::new() } else { look_up(p)? };
    let mut env = p.env.clone();
    if let Some(home) = home(p) {
        crate::plan::process::set_env(&mut env, "HOME", &home);
    }
    Ok(Image {
        path: text::c(&text::of_path(&path)),
        args: p.args.iter().map(|s| text::c(s)).collect(),
        env: env.iter().map(|s| text::c(s)).collect(),
        environment: env,
    })
}

/// Loads a filter that asks its listener. The host fetches the descriptor from this process by number while it is
/// stopped at nothing: after this call any system call may already be one that waits for the listener's answer.
fn load_with_listener(
    filter: &Filter,
    program: &[SockFilter],
    p: &Process,
    channel: &Channel,
) -> Result<()> {
    if !p.no_new_privileges {
        identity::raise_admin(p)?;
    }
    // seccomp(2) takes the lowest free number: find it by taking and closing it.
    let next = fd::dup_above(0, 3).call(|| "fcntl(F_DUPFD)")?.as_raw_fd();
    channel.send(&Message::Notify(next))?;
    let listener = conex_sys::seccomp::install(program, filter.flags)
        .call(|| format!("seccomp(SECCOMP_SET_MODE_FILTER, {:#x})", filter.flags))
        .at(|| "linux.seccomp")?;
    // The host closes it with everything else by close-on-exec; its number must stay until then.
    let _ = listener.map(std::os::fd::IntoRawFd::into_raw_fd);
    Ok(())
}

fn install(filter: &Filter, program: &[SockFilter]) -> Result<()> {
    match conex_sys::seccomp::install(program, filter.flags) {
        // A flag that this kernel does not know (SPEC_ALLOW before 4.17): the filter matters more.
        Err(Errno::EINVAL) if filter.flags != 0 => conex_sys::seccomp::install(program, 0),
        other => other,
    }
    .map(drop)
    .call(|| format!("seccomp(SECCOMP_SET_MODE_FILTER, {} instructions)", program.len()))
    .at(|| "linux.seccomp")
}

/// Says what comes now.
///
/// # Errors
/// There is no program.
fn last_step(p: &Process, program: Option<&[SockFilter]>, image: &Image) -> Result<()> {
    if p.args.is_empty() {
        return Err(Error::invalid(
            p.field.clone(),
            "required when the container is started (runtime-spec, config.md)",
        ));
    }
    crate::log::step(|| {
        format!(
            "capabilities, limits, seccomp ({} instructions), then {}",
            program.map_or(0, <[SockFilter]>::len),
            image.path.to_string_lossy()
        )
    });
    Ok(())
}

/// Capabilities, seccomp and execve, in the order that no_new_privs allows.
fn finish(
    p: &Process,
    program: Option<&[SockFilter]>,
    hooked: Option<(&Plan, &[Option<std::fs::File>; 2])>,
    channel: &Channel,
    image: &Image,
) -> Result<Infallible> {
    last_step(p, program, image)?;
    let filter = p.seccomp.as_ref().filter(|f| f.listener.is_none()).zip(program);
    let execve = Execve::new(&image.path, &image.args, &image.env);
    let mut words = None;
    if let Some((_, program)) = filter {
        confined::judge(p, program, &execve)?;
        words = confined::words(program, channel)?;
    }
    let keep = std::os::fd::AsFd::as_fd(channel).as_raw_fd();
    let load = || filter.map_or(Ok(()), |(filter, program)| install(filter, program));
    // A startContainer hook is confined as the program, in the same order.
    let first = || -> Result<()> {
        // Under the filter a limit could not be set any more if it does not allow prlimit64.
        limits(p)?;
        load()?;
        identity::finish(p)
    };
    let hooks = |confine: &dyn Fn() -> Result<()>| {
        hooked.map_or(Ok(()), |(plan, output)| {
            hooks::start_container(plan, &image.environment, output, confine)
        })
    };
    let ready = || -> Result<()> {
        if !p.no_new_privileges {
            // Loading takes CAP_SYS_ADMIN, so it comes before the capabilities go.
            if filter.is_some() {
                identity::raise_admin(p)?;
            }
            hooks(&first)?;
            clean(p, keep);
            first()?;
        } else {
            identity::finish(p)?;
            hooks(&|| limits(p).and_then(|()| load()))?;
            limits(p)?;
            clean(p, keep);
            load()?;
        }
        Ok(())
    };
    let e = match ready() {
        Ok(()) => super::refused::error(execve.run(), p, &image.path, &image.args, &image.env),
        Err(e) => e,
    };
    if let Some(words) = words {
        words.write(&crate::sync::last_words(&e));
    }
    Err(e)
}

/// Signals and descriptors as the program is to find them; before the filter, which need not allow any of these calls.
fn clean(p: &Process, keep: i32) {
    signal::reset_all();
    let empty = nix::sys::signal::SigSet::empty();
    let _ = nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&empty),
        None,
    );
    for n in &p.preserved {
        let _ = fd::clear_cloexec(*n);
    }
    // Leaves exactly 0, 1, 2 and the preserved descriptors to the program, beside the channel that reports a failed execve
    // and closes with a successful one. Close-on-exec alone is not enough: until execve is done, /proc/self/fd would lead
    // through what is still open.
    fd::close_all_but(&[p.preserved.as_slice(), &[keep]].concat());
}

/// The resource limits, last: a low RLIMIT_NOFILE would break the steps before. The host has raised what takes a
/// privilege.
fn limits(p: &Process) -> Result<()> {
    for r in &p.rlimits {
        proc::set_rlimit(nix::unistd::Pid::from_raw(0), r.resource, r.soft, r.hard)
            .call(|| format!("setrlimit({}, {}, {})", r.name, r.soft, r.hard))
            .at(|| r.field.clone())?;
    }
    Ok(())
}

/// What is needed only when the container is started.
pub(super) struct Later {
    /// Where `start` connects; absent for `run`.
    pub start: Option<OwnedFd>,
    pub program: Option<Vec<SockFilter>>,
    /// Of startContainer hooks ([`crate::acts::hooks::outputs`]).
    pub hook_output: [Option<std::fs::File>; 2],
}

/// The container's init: ready, created, started, executed.
pub(super) fn init(
    plan: &Plan,
    report: &mut Report,
    later: Later,
    procfs: Option<Procfs>,
) -> Result<Infallible> {
    let p = &plan.process;
    let Later { start, program, hook_output } = later;
    every_cpu();
    let image = settle(p, procfs)?;
    if let Some((filter, program)) =
        p.seccomp.as_ref().filter(|f| f.listener.is_some()).zip(program.as_ref())
    {
        load_with_listener(filter, program, p, report.sync()?)?;
    }
    report.sync()?.send(&Message::Ready)?;
    report.wait_for_creation()?;
    if let Some(listener) = start {
        crate::log::before_waiting();
        // Such a signal ends a container that was never started, as it ends runc's init: to the first process of a PID
        // namespace the kernel delivers nothing that has no handler (pid_namespaces(7)).
        signal::end_by(&[libc::SIGHUP, libc::SIGINT, libc::SIGTERM]);
        // From here on errors go to whoever starts the container; the creator hears that this one waits.
        report.sync = None;
        report.start = Some(wait_for_start(listener)?);
    }
    finish(p, program.as_deref(), Some((plan, &hook_output)), report.sync()?, &image)
}

/// Blocks until `start` connects and says so. A connection that closes without a word was a `start` that died after
/// it had taken the socket away: nobody can start this container any more.
fn wait_for_start(listener: OwnedFd) -> Result<Channel> {
    // Many containers may wait at once; the program's pages come back from the page cache when they are needed. Last of all:
    // with each page that is touched the kernel maps its neighbours.
    conex_sys::proc::drop_program_pages();
    let accepted = loop {
        match nix::sys::socket::accept4(
            listener.as_raw_fd(),
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        ) {
            Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
            other => break other.call(|| "accept4(start.sock)")?,
        }
    };
    let channel = Channel::new(fd::adopt(accepted));
    match channel.receive()? {
        Some(Message::Go) => Ok(channel),
        _ => Err(Error::new(Kind::System, "the starting runtime died")),
    }
}

/// A process that joined a running container.
pub fn exec(
    p: &Process,
    report: &mut Report,
    program: Option<Vec<SockFilter>>,
) -> Result<Infallible> {
    keyring(p)?;
    if p.terminal {
        let root = nix::fcntl::open(
            "/",
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .call(|| "open(/)")?;
        let pair = console::open(std::os::fd::AsFd::as_fd(&root), p)
            .at(|| format!("{}.terminal", p.field))?;
        console::own(&pair.slave)?;
        report.sync()?.send(&Message::Terminal(pair.master))?;
    }
    if p.affinity == (None, None) {
        every_cpu();
    }
    let image = settle(p, None)?;
    if let Some((filter, program)) =
        p.seccomp.as_ref().filter(|f| f.listener.is_some()).zip(program.as_ref())
    {
        load_with_listener(filter, program, p, report.sync()?)?;
    }
    report.sync()?.send(&Message::Ready)?;
    report.wait_for_creation()?;
    finish(p, program.as_deref(), None, report.sync()?, &image)
}
