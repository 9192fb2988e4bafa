//! `conex restore`: a container from the files of `checkpoint`.

use crate::checkpoint::{image_path, options, work_dir};
use crate::criu::external::{check, namespaces_of_restore, of_restore};
use crate::criu::images::Dir;
use crate::criu::message::{CgroupRoot, ExternalMount, InheritFd, Kind, Options, Request};
use crate::criu::{check_features, check_version, message, Criu};
use conex::error::{Context, Error, Kind as ErrorKind, Result};
use conex::host::create::restore::{restore, Event, Restorer, Told};
use conex::host::foreground::{self, Console, RawTerminal};
use conex::host::home::in_a_copy;
use conex::host::{undo, Start};
use conex::oci::config::Spec;
use conex::plan::Plan;
use conex::state::Entry;
use conex::verbs::{create, delete, run, Env};
use nix::mount::{mount, MsFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

const LOG: &str = "restore.log";
/// Below the state directory: CRIU wants a root that is a mount.
const ROOT: &str = "criu-root";

/// Makes the container, and unless detached waits for its end and deletes it.
///
/// # Errors
/// As `run`'s; and what CRIU says with what its log says.
pub fn main(env: &mut Env) -> Result<i32> {
    conex::host::seal::close_on_exec();
    conex::state::check_id(env.id())?;
    let detached = env.args.is_set("detach");
    let dir = env.args.value("bundle").unwrap_or(".").to_string();
    let bundle = create::bundle(env, &conex::text::path(&dir))?;
    let images = Dir::open(image_path(env), "--image-path")?;
    images.check("--image-path")?;
    let work = work_dir(env)?;
    let log_dir = work.as_ref().unwrap_or(&images);
    log_dir.check_file(Path::new(LOG), "--work-path")?;
    let options = prepared(env, &images, work.as_ref(), &bundle.spec)?;
    let request = create::Request::new(env, env.id().to_string(), bundle, detached, Start::Now)?;
    let mut signals = None;
    if !detached {
        if !env.args.is_set("no-subreaper") {
            conex_sys::proc::set_child_subreaper().call(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
        }
        signals = Some(foreground::catch_signals()?);
    }
    let mut made = create::make_by(env, &request, &mut |asked, entry, state| {
        check(asked.plan)?;
        let mut images = Images {
            plan: asked.plan,
            options: options.clone(),
            images: &images,
            work: work.as_ref(),
            seen: Vec::new(),
            criu: None,
            mounts: Vec::new(),
            root: PathBuf::new(),
            files: Vec::new(),
        };
        restore(asked, entry, state, &mut images)
    })?;
    let Some(signals) = signals else { return Ok(0) };
    let master = made.container.terminal.take();
    let terminal = match master.as_ref().map(|_| RawTerminal::open()).transpose() {
        Ok(terminal) => terminal.flatten(),
        Err(e) => {
            return Err(undo::with(e, delete::destroy(&made.entry, &made.state, None)));
        }
    };
    drop(made.entry);
    foreground::fit(master.as_ref(), terminal.as_ref());
    let console = Console { master, terminal: terminal.as_ref(), notify: None };
    let c = &made.container;
    let waited = foreground::wait(c.pid, c.pidfd.as_fd(), &signals, console);
    drop(terminal);
    run::ended(env, &made.state, &made.plan.hooks, waited)
}

/// What CRIU is asked for, as far as it does not depend on the container that is made.
fn prepared(env: &Env, images: &Dir, work: Option<&Dir>, spec: &Spec) -> Result<Options> {
    check_version()?;
    if env.args.is_set("lazy-pages") {
        check_features(&message::Features { lazy_pages: Some(true), ..Default::default() })?;
    }
    let value = |name: &str| env.args.value(name).filter(|v| !v.is_empty()).map(str::to_string);
    Ok(Options {
        log_file: Some(LOG.into()),
        rst_sibling: Some(true),
        evasive_devices: Some(true),
        tcp_close: Some(env.args.is_set("tcp-close")),
        lsm_profile: value("lsm-profile"),
        lsm_mount_context: value("lsm-mount-context"),
        inherit_fd: images.descriptors()?.iter().zip(0..3).filter_map(pipe).collect(),
        ..options(env, images, work, spec)?
    })
}

/// A pipe of the checkpoint becomes the caller's stream of the same number.
fn pipe((name, fd): (&String, i32)) -> Option<InheritFd> {
    name.starts_with("pipe:").then(|| InheritFd { key: name.clone(), fd })
}

/// The cgroups of a process, by hierarchy (cgroups(7), "/proc/pid/cgroup"): where those of the images begin now.
fn cgroup_roots(pid: i32) -> Result<Vec<CgroupRoot>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).call(|| format!("read({path})"))?;
    let mut out = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        out.extend(controllers.split(',').map(|controller| CgroupRoot {
            controller: Some(controller.into()),
            path: path.into(),
        }));
    }
    Ok(out)
}

/// Images from which CRIU restores a process.
struct Images<'a> {
    plan: &'a Plan,
    options: Options,
    images: &'a Dir,
    work: Option<&'a Dir>,
    /// Both as CRIU sees them.
    seen: Vec<Dir>,
    criu: Option<Criu>,
    mounts: Vec<ExternalMount>,
    root: PathBuf,
    /// Open in CRIU as well.
    files: Vec<OwnedFd>,
}

impl Restorer for Images<'_> {
    fn begin(&mut self, entry: &Entry, cgroups: &[PathBuf]) -> Result<i32> {
        let joined = namespaces_of_restore(self.plan)?;
        self.options.inherit_fd.extend(joined.inherit);
        self.options.join_ns = joined.join;
        self.files = joined.files;
        let root = entry.path.join(ROOT);
        std::fs::create_dir(&root).call(|| format!("mkdir({})", root.display()))?;
        // Paths in it are compared with what the kernel says of them.
        self.root = root.canonicalize().call(|| format!("realpath({})", root.display()))?;
        // The caller's keys must not be searchable from inside.
        conex::child::process::keyring(&self.plan.process)?;
        // A runtime that is killed leaves no mount behind, and CRIU's are seen nowhere else.
        let criu = in_a_copy(|| {
            let (from, to) = (&self.plan.rootfs.path, &self.root);
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(from), to, None::<&str>, flags, None::<&str>)
                .call(|| format!("mount({}, {}, MS_BIND|MS_REC)", from.display(), to.display()))?;
            self.mounts = of_restore(self.plan, &self.root, cgroups)?;
            self.seen.push(self.images.again("--image-path")?);
            self.options.images_dir_fd = self.seen[0].number();
            if let Some(work) = self.work {
                let work = work.again("--work-path")?;
                self.options.work_dir_fd = Some(work.number());
                self.seen.push(work);
            }
            Criu::start()
        })?;
        // Not for hooks.
        for file in &self.files {
            let _ = conex_sys::fd::set_cloexec(file.as_raw_fd());
        }
        let pid = criu.pid();
        self.criu = Some(criu);
        Ok(pid)
    }

    fn restore(&mut self, told: &mut Told) -> Result<Option<OwnedFd>> {
        let criu = self.criu.take();
        let criu = criu.ok_or_else(|| Error::new(ErrorKind::System, "criu was not started"))?;
        let mut options = self.options.clone();
        options.root = Some(self.root.to_string_lossy().into_owned());
        options.ext_mnt = std::mem::take(&mut self.mounts);
        options.cg_root = cgroup_roots(criu.pid())?;
        let request =
            Request { kind: Kind::Restore.into(), options: Some(options), ..Request::default() };
        let mut terminal = None;
        let restored = criu.ask(&request, &mut |notify, fd| {
            let pid = notify.pid.unwrap_or(0);
            match notify.script.as_deref() {
                Some("setup-namespaces") => told(Event::Namespaces(pid))?,
                Some("post-restore") => told(Event::Whole(pid))?,
                Some("orphan-pts-master") => terminal = fd,
                _ => {}
            }
            Ok(())
        });
        restored.map_err(|e| self.work.unwrap_or(self.images).explain(e, LOG))?;
        let _ = std::fs::remove_dir(&self.root);
        Ok(terminal)
    }
}
