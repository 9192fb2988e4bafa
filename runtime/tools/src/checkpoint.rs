//! `conex checkpoint`: a running container as files, by CRIU.

use crate::criu::external::{check, namespaces_of_dump, of_dump};
use crate::criu::images::{check_parent, Dir};
use crate::criu::message::{Features, Kind, Notify, Options, PageServer, Request};
use crate::criu::{check_features, check_version, Criu};
use conex::error::{Context, Error, Kind as ErrorKind, Result};
use conex::host::facts;
use conex::oci::config::Spec;
use conex::plan::{self, Plan};
use conex::state::{End, Entry, State, Status};
use conex::verbs::{delete, Env};
use std::os::fd::AsRawFd;
use std::path::Path;

const LOG: &str = "dump.log";

/// What is written down.
struct Subject {
    state: State,
    spec: Spec,
    plan: Plan,
    pid: i32,
}

/// Writes the container down, and unless it is to go on deletes it.
///
/// # Errors
/// A flag, the container's status, what CRIU says with what its log says.
pub fn main(env: &mut Env) -> Result<i32> {
    conex::host::seal::close_on_exec();
    let entry = env.store()?.find(env.id())?;
    let mut ready = status_fd(env)?;
    let subject = subject(env, &entry)?;
    // A dump takes its time, in which others may ask for the container, or end it.
    drop(entry);
    check_version()?;
    let pre_dump = env.args.is_set("pre-dump");
    let wanted = Features {
        mem_track: pre_dump.then_some(true),
        lazy_pages: env.args.is_set("lazy-pages").then_some(true),
    };
    if wanted != Features::default() {
        check_features(&wanted)?;
    }
    let images = Dir::make(image_path(env), "--image-path")?;
    if let Some(parent) = env.args.value("parent-path").filter(|p| !p.is_empty()) {
        check_parent(&images.path, parent)?;
    }
    let work = work_dir(env)?;
    let log_dir = work.as_ref().unwrap_or(&images);
    images.check("--image-path")?;
    log_dir.check_file(Path::new(LOG), "--work-path")?;
    let request = request(env, &subject, &images, work.as_ref())?;
    Criu::start()?
        .ask(&request, &mut |notify, _| served(notify, &mut ready))
        .map_err(|e| log_dir.explain(e, LOG))?;
    if pre_dump || env.args.is_set("leave-running") {
        return Ok(0);
    }
    let hooks = subject.spec.hooks.unwrap_or_default();
    let ended = delete::once_ended(&env.root, &subject.state, &hooks, End::new());
    for problem in ended.unwrap_or_else(|e| vec![e]) {
        env.log.warn(problem.to_string());
    }
    Ok(0)
}

fn subject(env: &Env, entry: &Entry) -> Result<Subject> {
    let (state, status) = entry.state()?;
    let pid = match (state.init, status) {
        (Some(init), Status::Running | Status::Paused) => init.pid,
        _ => {
            let what = format!("Container cannot be checkpointed in {} state", status.name());
            return Err(Error::new(ErrorKind::Status, what));
        }
    };
    let spec = conex::bundle::of(entry)?;
    let plan = plan_of(env, entry, &state, &spec)?;
    check(&plan)?;
    Ok(Subject { state, spec, plan, pid })
}

fn request(env: &Env, subject: &Subject, images: &Dir, work: Option<&Dir>) -> Result<Request> {
    let pre_dump = env.args.is_set("pre-dump");
    let mut options = options(env, images, work, &subject.spec)?;
    options.pid = Some(subject.pid);
    options.root = Some(subject.plan.rootfs.path.to_string_lossy().into_owned());
    options.freeze_cgroup = freezer(&subject.state).map(|p| p.to_string_lossy().into_owned());
    options.external = namespaces_of_dump(&subject.plan)?;
    if !pre_dump {
        options.ext_mnt = of_dump(&subject.plan, subject.pid)?;
        images.write_descriptors(&streams(subject.pid))?;
    }
    let kind = if pre_dump { Kind::PreDump } else { Kind::Dump };
    Ok(Request { kind: kind.into(), options: Some(options), ..Request::default() })
}

/// `--status-fd`: whoever waits there may connect to the server of pages now.
fn served(notify: &Notify, ready: &mut Option<std::os::fd::OwnedFd>) -> Result<()> {
    if notify.script.as_deref() == Some("status-ready") {
        // Nobody may wait there any more, which is not the dump's trouble.
        let _ = ready.take().map(|fd| nix::unistd::write(&fd, &[0]));
    }
    Ok(())
}

fn status_fd(env: &Env) -> Result<Option<std::os::fd::OwnedFd>> {
    let Some(n) = env.args.number::<i32>("status-fd")?.filter(|n| *n >= 0) else { return Ok(None) };
    let bad = |what: &str| {
        Error::invalid("--status-fd", format!("invalid --status-fd argument {n}: {what}"))
    };
    if n < 3 || !conex_sys::fd::is_open(n) {
        return Err(bad("it is not open"));
    }
    let flags = nix::fcntl::fcntl(conex_sys::fd::borrow(n), nix::fcntl::FcntlArg::F_GETFL)
        .call(|| format!("fcntl({n}, F_GETFL)"))?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(bad("not writable"));
    }
    Ok(Some(conex_sys::fd::adopt(n)))
}

/// The default of runc.
pub fn image_path(env: &Env) -> &str {
    env.args.value("image-path").filter(|p| !p.is_empty()).unwrap_or("checkpoint")
}

/// Where CRIU works and logs, if not beside the images.
pub fn work_dir(env: &Env) -> Result<Option<Dir>> {
    let path = env.args.value("work-path").filter(|p| !p.is_empty());
    path.map(|path| Dir::make(path, "--work-path")).transpose()
}

/// What a dump and a restore have in common.
pub fn options(env: &Env, images: &Dir, work: Option<&Dir>, spec: &Spec) -> Result<Options> {
    let is = |name: &str| Some(env.args.is_set(name));
    let parent = env.args.value("parent-path").filter(|p| !p.is_empty());
    Ok(Options {
        images_dir_fd: images.number(),
        work_dir_fd: work.map(|dir| dir.fd.as_raw_fd()),
        leave_running: is("leave-running"),
        ext_unix_sk: is("ext-unix-sk"),
        tcp_established: is("tcp-established"),
        tcp_skip_in_flight: is("tcp-skip-in-flight"),
        shell_job: is("shell-job"),
        file_locks: is("file-locks"),
        link_remap: is("link-remap"),
        auto_dedup: is("auto-dedup"),
        lazy_pages: is("lazy-pages"),
        log_level: Some(4),
        log_file: Some(LOG.into()),
        page_server: page_server(env)?,
        notify_scripts: Some(true),
        parent_img: parent.map(str::to_string),
        track_mem: parent.map(|_| true),
        manage_cgroups: Some(true),
        manage_cgroups_mode: Some(cgroups_mode(env)?),
        empty_ns: empty_namespaces(env)?,
        orphan_pts_master: Some(true),
        config_file: config_file(spec),
        ..Options::default()
    })
}

fn page_server(env: &Env) -> Result<Option<PageServer>> {
    let Some(text) = env.args.value("page-server").filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let parts = text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    let Some((host, Ok(port))) = parts.filter(|(host, _)| !host.is_empty()) else {
        return Err(Error::invalid("--page-server", format!("{text:?}: expected address:port")));
    };
    Ok(Some(PageServer { address: Some(host.into()), port: Some(port.into()) }))
}

/// `criu_cg_mode`.
fn cgroups_mode(env: &Env) -> Result<i32> {
    match env.args.value("manage-cgroups-mode").unwrap_or("") {
        "" => Ok(6),
        "soft" => Ok(3),
        "full" => Ok(4),
        "strict" => Ok(5),
        "ignore" => Ok(0),
        other => {
            let what = format!("{other:?}: expected soft, full, strict or ignore");
            Err(Error::invalid("--manage-cgroups-mode", what))
        }
    }
}

fn empty_namespaces(env: &Env) -> Result<Option<u32>> {
    // Network devices are the engine's: its hooks make them anew (runc, setEmptyNsMask).
    let flags = libc::CLONE_NEWNET as u32;
    for name in env.args.values("empty-ns") {
        match name.as_str() {
            "network" => {}
            other => {
                let what = format!("{other:?}: CRIU makes an empty network namespace only");
                return Err(Error::invalid("--empty-ns", what));
            }
        }
    }
    Ok(Some(flags))
}

/// runc's rule: an annotation names CRIU's own configuration, or an empty one says that there is none.
fn config_file(spec: &Spec) -> Option<String> {
    match spec.annotations.get("org.criu.config") {
        Some(path) => Some(path.clone()).filter(|p| !p.is_empty()),
        None => {
            let own = "/etc/criu/conex.conf";
            let path = if Path::new(own).exists() { own } else { "/etc/criu/runc.conf" };
            Some(path.into())
        }
    }
}

/// The cgroup by which its processes are stopped.
fn freezer(state: &State) -> Option<&Path> {
    let with = |file: &str| state.cgroups.iter().find(|dir| dir.join(file).exists());
    with("freezer.state").or_else(|| with("cgroup.freeze")).map(|p| p.as_path())
}

/// What the standard streams of the init are.
fn streams(pid: i32) -> [String; 3] {
    [0, 1, 2].map(|n| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{n}"));
        link.map_or("/dev/null".into(), |path| path.to_string_lossy().into_owned())
    })
}

/// What the document of the container had made.
fn plan_of(env: &Env, entry: &Entry, state: &State, spec: &Spec) -> Result<Plan> {
    let notify_dir = conex::host::notify::directory(&entry.path);
    let options = plan::Options {
        id: state.id.clone(),
        bundle: state.bundle.clone(),
        no_pivot: false,
        no_new_keyring: !state.keyring,
        cgroup_driver: env.cgroup_driver,
        cgroup_required: false,
        detached: true,
        preserved: Vec::new(),
        listen_fds: 0,
        notify_dir: notify_dir.exists().then_some(notify_dir),
    };
    let facts = facts::read(spec, &state.bundle);
    plan::make(spec, &options, &facts).map_err(conex::bundle::join)
}
