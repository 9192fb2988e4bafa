//! `conex create`, and what it shares with `run`.

use super::env::Env;
use super::inherited::{listen_fds, preserved};
use crate::bundle::show::Level;
use crate::bundle::{self, Bundle};
use crate::error::{Context, Error, Kind, Named, Result};
use crate::host::facts;
use crate::host::{self, listener, notify, undo, Container, Start};
use crate::identity::identity;
use crate::log::notice_block;
use crate::plan::{self, Options, Plan};
use crate::state::{Entry, State, Store};
use crate::sync::Message;
use crate::text;
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

pub fn main(env: &mut Env) -> Result<i32> {
    host::seal::ensure()?;
    crate::state::check_id(env.id())?;
    let bundle = bundle(env, &text::path(env.args.value("bundle").unwrap_or(".")))?;
    super::second::watched(env, &bundle)?;
    let request = Request::new(env, env.id().to_string(), bundle, true, Start::Later)?;
    let made = make(env, &request)?;
    made.container.sync.send(&Message::Created)?;
    Ok(0)
}

/// The bundle with its own document, or the one of `--config` (crun's flag).
pub fn bundle(env: &Env, dir: &Path) -> Result<Bundle> {
    match env.args.value("config") {
        Some(file) => bundle::open_with(dir, &text::path(file)),
        None => bundle::open(dir),
    }
}

/// A checked command line.
pub struct Request {
    pub options: Options,
    pub bundle: Bundle,
    console_socket: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    /// True if nobody will wait at a terminal here.
    detached: bool,
    start: Start,
}

pub struct Made {
    pub container: Container,
    pub plan: Plan,
    pub entry: Entry,
    pub state: State,
}

impl Request {
    pub fn new(
        env: &Env,
        id: String,
        bundle: Bundle,
        detached: bool,
        start: Start,
    ) -> Result<Request> {
        let path = |name: &str| {
            env.args
                .value(name)
                .filter(|v| !v.is_empty())
                .map(|v| absolute(&text::path(v)))
                .transpose()
        };
        let listen_fds = listen_fds();
        let preserved = preserved(env, listen_fds)?;
        let notify_dir = notify::host_socket().map(|_| notify::directory(&env.root.join(&id)));
        let request = Request {
            options: Options {
                id,
                bundle: bundle.path.clone(),
                no_pivot: env.args.is_set("no-pivot"),
                no_new_keyring: env.args.is_set("no-new-keyring"),
                cgroup_driver: env.cgroup_driver,
                cgroup_required: env.cgroup_required,
                detached,
                preserved,
                listen_fds,
                notify_dir,
            },
            bundle,
            console_socket: path("console-socket")?,
            pidfd_socket: path("pidfd-socket")?,
            pid_file: path("pid-file")?,
            detached,
            start,
        };
        let terminal = request.bundle.spec.process.as_ref().is_some_and(|p| p.terminal);
        // Of a document with wrong types nobody knows whether it asks for a terminal; it is refused anyway.
        if request.bundle.bad.is_empty() {
            check_terminal(terminal, request.detached, request.console_socket.is_some())
                .map_err(|e| request.bundle.locate(vec![e]).remove(0))?;
        }
        Ok(request)
    }
}

/// The rules for terminals of runc (utils_linux.go, setupIO).
pub fn check_terminal(terminal: bool, detached: bool, socket: bool) -> Result<()> {
    match (terminal, detached, socket) {
        (true, true, false) => Err(Error::invalid(
            "process.terminal",
            "cannot allocate tty if conex will detach without setting console socket (--console-socket)",
        )),
        (true, false, true) | (false, _, true) => {
            Err(Error::new(Kind::Invalid, "cannot use console socket if conex will not detach or allocate tty"))
        }
        // Whoever asked for a terminal cannot be served without one; runc refuses as well.
        (true, false, false) if host::foreground::terminal()?.is_none() => Err(Error::invalid(
            "process.terminal",
            "needs a terminal, and neither standard input, output, error nor /dev/tty is one",
        )),
        _ => Ok(()),
    }
}

pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).call(|| format!("getcwd for {}", path.display()))
}

/// Makes the container of a plan: [`host::create`], or somebody who restores one.
pub type Maker<'a> = dyn FnMut(&host::Asked, &Entry, &mut State) -> Result<Container> + 'a;

/// Plans and makes the container; on return its init waits for `Created`. Nothing is left behind on failure.
pub fn make(env: &mut Env, request: &Request) -> Result<Made> {
    make_by(env, request, &mut host::create)
}

/// The same with another maker.
pub fn make_by(env: &mut Env, request: &Request, maker: &mut Maker) -> Result<Made> {
    let facts = facts::read(&request.bundle.spec, &request.bundle.path);
    let plan = request
        .bundle
        .judge(plan::make(&request.bundle.spec, &request.options, &facts))
        .map_err(|errors| told(env, &request.bundle, errors))?;
    warn(env, &request.bundle, request.bundle.unknown.iter().chain(&plan.warnings));
    crate::log::step(|| format!("has read {} and checked it", request.bundle.document.display()));
    let Some(store) = Store::open(&env.root, true)? else {
        return Err(Error::new(Kind::System, "no state root"));
    };
    let entry = reserve(&store, &plan.id)?;
    crate::log::step(|| format!("has the state directory {}", entry.path.display()));
    let mut state = record(&plan, &request.bundle);
    let asked = host::Asked {
        plan: &plan,
        root: &env.root,
        start: if at_once(&plan, request) { Start::AtOnce } else { request.start },
        document: &request.bundle.text,
    };
    let made = keep(&entry, &mut state, &asked, request, maker);
    match made {
        Ok(mut container) => {
            let warnings = std::mem::take(&mut container.warnings);
            for w in request.bundle.locate(warnings) {
                env.log.warn(w.to_string());
            }
            Ok(Made { container, plan, entry, state })
        }
        Err(e) => {
            let e = match entry.remove() {
                Ok(()) => e,
                Err(other) => undo::with(e, vec![other]),
            };
            Err(request.bundle.locate(vec![e]).remove(0))
        }
    }
}

/// All problems in one error; on a terminal they are shown one by one instead, each with its line.
fn told(env: &mut Env, bundle: &Bundle, errors: Vec<Error>) -> Error {
    if env.log.to_terminal() {
        let blocks = errors.iter().map(|e| bundle::block(bundle, Level::Error, e));
        env.log.show_instead(blocks.collect::<Vec<_>>().join("\n"));
    }
    bundle::join(bundle.locate(errors))
}

fn warn<'a>(env: &mut Env, bundle: &Bundle, warnings: impl Iterator<Item = &'a Error>) {
    let warnings: Vec<Error> = warnings.cloned().collect();
    if env.log.to_terminal() {
        // Somebody is watching: they hear of it before the container has its say.
        for w in &warnings {
            notice_block(&bundle::block(bundle, Level::Warning, w));
        }
        return;
    }
    for w in bundle.locate(warnings) {
        env.log.warn(w.to_string());
    }
}

/// Takes the id. A record that a killed runtime left is replayed first.
fn reserve(store: &Store, id: &str) -> Result<Entry> {
    match store.reserve(id) {
        Err(e) if e.kind == Kind::Status => {
            // Peek without the lock: a create that is at work holds it.
            let stale = match store.peek(id) {
                Ok((state, _)) => state.init.is_none() && !crate::identity::alive(state.owner),
                // A directory without a record: killed before it could write one.
                Err(e) => e.kind == Kind::NotFound,
            };
            if !stale {
                return Err(e);
            }
            let entry = store.find(id)?;
            // Judged again under the lock: another create may have been here first.
            let recorded = entry.load();
            let bare = recorded.is_err()
                && entry.read("state.json").is_err_and(|e| e.errno == Some(Errno::ENOENT));
            if !bare
                && !recorded
                    .as_ref()
                    .is_ok_and(|s| s.init.is_none() && !crate::identity::alive(s.owner))
            {
                return Err(e);
            }
            let state = recorded.unwrap_or_default();
            let during = |p: Error| Err(p.during("clean up after a runtime that was killed"));
            undo::container(&state, None).into_iter().next().map_or(Ok(()), during)?;
            let kept = undo::limits(&state);
            entry.remove()?;
            drop(entry);
            kept.into_iter().next().map_or(Ok(()), during)?;
            store.reserve(id)
        }
        other => other,
    }
}

fn record(plan: &Plan, bundle: &Bundle) -> State {
    State {
        oci_version: bundle.spec.oci_version.clone(),
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.path.clone(),
        annotations: plan.annotations.clone(),
        created: crate::log::rfc3339(std::time::SystemTime::now(), 9),
        owner_uid: nix::unistd::getuid().as_raw(),
        owner: identity(std::process::id() as i32),
        pid_namespace: crate::identity::pid_namespace(),
        keyring: plan.process.keyring.is_some(),
        private_pid: plan.namespaces.creates(libc::CLONE_NEWPID),
        ..State::default()
    }
}

/// True for a `run` in which nobody is to be given anything before the program runs.
fn at_once(plan: &Plan, request: &Request) -> bool {
    let told = [&request.console_socket, &request.pidfd_socket, &request.pid_file];
    let p = &plan.process;
    let asks = p.seccomp.as_ref().is_some_and(|filter| filter.listener.is_some());
    matches!(request.start, Start::Now)
        && told.iter().all(|path| path.is_none())
        && !p.terminal
        && !asks
        && notify::host_socket().is_none()
}

fn keep(
    entry: &Entry,
    state: &mut State,
    asked: &host::Asked,
    request: &Request,
    maker: &mut Maker,
) -> Result<Container> {
    if asked.plan.cgroup.unit.is_some() {
        // systemd is asked before anything is made; that may take long.
        entry.save(state)?;
    }
    if let Some(dir) = &request.options.notify_dir {
        std::fs::create_dir(dir).call(|| format!("mkdir({})", dir.display()))?;
    }
    let mut container = maker(asked, entry, state)?;
    let delivered = deliver(
        &mut container,
        request.console_socket.as_deref(),
        request.pidfd_socket.as_deref(),
        "standard",
    )
    .and_then(|()| {
        request.pid_file.as_deref().map_or(Ok(()), |f| write_pid_file(f, container.pid.as_raw()))
    });
    if let Err(e) = delivered {
        let mut problems = undo::container(state, Some(container.pidfd.as_fd()));
        problems.extend(undo::limits(state));
        return Err(undo::with(e, problems));
    }
    state.cgroups_before.clear();
    Ok(container)
}

/// Hands the terminal and the pidfd to those who asked for them.
pub fn deliver(
    c: &mut Container,
    console: Option<&Path>,
    pidfd: Option<&Path>,
    payload: &str,
) -> Result<()> {
    if let Some(path) = console {
        let master: OwnedFd = c
            .terminal
            .take()
            .ok_or_else(|| Error::new(Kind::System, "the process has no terminal"))?;
        let name = conex_sys::tty::number(master.as_fd())
            .map_or("/dev/ptmx".into(), |n| format!("/dev/pts/{n}"));
        listener::connect_stream(path)
            .and_then(|socket| listener::send_fd(socket.as_fd(), name.as_bytes(), master.as_fd()))
            .at(|| "--console-socket")?;
    }
    if let Some(path) = pidfd {
        listener::connect_stream(path)
            .and_then(|socket| {
                listener::send_fd(socket.as_fd(), payload.as_bytes(), c.pidfd.as_fd())
            })
            .at(|| "--pidfd-socket")?;
    }
    Ok(())
}

/// The pid, without a newline, under its name only when it is complete; whatever the caller's umask is, nobody else may
/// write another one.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let name = path.file_name().ok_or_else(|| {
        Error::new(Kind::Invalid, format!("--pid-file {}: not a file name", path.display()))
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    let temporary = path.with_file_name(temporary);
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temporary)
        .call(|| format!("open({}, O_CREAT|O_EXCL)", temporary.display()))
        .at(|| "--pid-file")?;
    file.write_all(pid.to_string().as_bytes())
        .call(|| format!("write({})", temporary.display()))
        .and_then(|()| {
            std::fs::rename(&temporary, path).call(|| format!("rename({})", path.display()))
        })
        .at(|| "--pid-file")
}
