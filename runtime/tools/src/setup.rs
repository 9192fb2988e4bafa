//! `conex setup`: the configuration that makes an engine use conex; printed, written or taken back.

mod by_name;
mod edit;
mod file;

use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use conex::verbs::env::print;
use file::{read, write_new};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is to be done with one engine's file.
struct Target {
    file: PathBuf,
    engine: &'static str,
    /// The path of this program, as the engine will call it.
    program: String,
    shim: bool,
}

fn bad(what: &str) -> Error {
    Error::new(Kind::Invalid, what)
}

pub fn main(env: &Invocation) -> Result<i32> {
    let (engine, default) = match env.args.rest.first().map_or("", String::as_str) {
        "docker" => ("docker", "/etc/docker/daemon.json"),
        "containerd" => ("containerd", "/etc/containerd/config.toml"),
        "kubernetes" => ("kubernetes", "/etc/containerd/config.toml"),
        "podman" => ("podman", "/etc/containers/containers.conf.d/50-conex.conf"),
        other => {
            return Err(bad(&format!(
                "setup {other:?}: expected docker, containerd, podman or kubernetes"
            )));
        }
    };
    let (write, undo) = (env.args.is_set("write"), env.args.is_set("undo"));
    if write && undo {
        return Err(bad("--write and --undo exclude each other"));
    }
    if env.args.is_set("by-name") {
        if env.args.is_set("shim") {
            return Err(bad(
                "--by-name and --shim exclude each other: by name conex's shim is used",
            ));
        }
        return by_name::main(env, env.args.rest.first().map_or("", String::as_str));
    }
    let target = Target {
        file: conex::text::path(env.args.value("config").unwrap_or(default)).into_owned(),
        engine,
        program: env.program.display().to_string(),
        shim: env.args.is_set("shim"),
    };
    if target.shim && !undo {
        if target.engine != "docker" {
            return Err(bad("--shim is for docker; the others use conex's shim anyway"));
        }
        knows_shims()?;
    }
    if !write && !undo {
        return print(&target.advice()?).map(|()| 0);
    }
    let before = read(&target.file)?;
    let after = if undo { target.without(&before)? } else { target.with(&before)? };
    if after == before {
        print(&format!("{}: nothing to change\n", target.file.display()))?;
        return Ok(0);
    }
    target.replace(&before, &after, undo)?;
    print(&target.report(undo))?;
    Ok(0)
}

/// Docker takes a `runtimeType` from 23.0 on. An older one reads over it, and runs runc under conex's name.
fn knows_shims() -> Result<()> {
    let Ok(answer) = Command::new("dockerd").arg("--version").output() else { return Ok(()) };
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let release =
        text.split("version ").nth(1).and_then(|t| t.split('.').next()?.trim().parse::<u32>().ok());
    match release {
        Some(release) if release < 23 => {
            let what = format!("{}: it takes no shim (Docker does from 23.0 on) and would run runc instead; without --shim it runs conex", text.trim());
            Err(Error::new(Kind::Unsupported, what))
        }
        _ => Ok(()),
    }
}

const RUNTIME_CLASS: &str =
    "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: conex\nhandler: conex\n";

impl Target {
    fn advice(&self) -> Result<String> {
        let now = read(&self.file)?.unwrap_or_default();
        let file = self.file.display();
        Ok(match self.engine {
            "docker" => format!("# {file}\n{}", edit::docker_document(&self.docker_entry())),
            "podman" => format!("# {file}\n{}", self.podman_file()),
            "kubernetes" => format!(
                "# {file}, on every node (conex setup --write kubernetes):\n{}# Once for the cluster (kubectl apply -f -); in a pod: spec.runtimeClassName: conex\n{RUNTIME_CLASS}",
                self.containerd_block(&now)?.lines().map(|l| format!("#   {l}\n")).collect::<String>()
            ),
            _ => format!("# {file}\n{}", self.containerd_block(&now)?),
        })
    }

    fn docker_entry(&self) -> serde_json::Value {
        match self.shim {
            true => serde_json::json!({"runtimeType": "io.containerd.conex.v2"}),
            false => serde_json::json!({"path": self.program}),
        }
    }

    /// containers.conf(5): a drop-in of its own, so that no file of somebody else's is touched.
    fn podman_file(&self) -> String {
        format!(
            "[engine]\nruntime_supports_json = [\"crun\", \"runc\", \"kata\", \"runsc\", \"youki\", \"krun\", \"conex\"]\nruntime_supports_nocgroup = [\"crun\", \"crun-vm\", \"krun\", \"conex\"]\n\n[engine.runtimes]\nconex = [{:?}]\n",
            self.program
        )
    }

    fn with(&self, now: &Option<String>) -> Result<Option<String>> {
        match self.engine {
            "docker" => {
                edit::add_docker(now.as_deref(), &self.docker_entry(), &self.file).map(Some)
            }
            "podman" => match now {
                Some(text) if *text != self.podman_file() => Err(self.changed()),
                _ => Ok(Some(self.podman_file())),
            },
            _ => {
                let (now, path) = (now.as_deref().unwrap_or(""), self.path_of_shim());
                let kept = self.lost(now, path.as_deref())?;
                let after = edit::add_containerd(now, &self.file, path.as_deref(), &kept)?;
                // As it is written now, containerd has the runtime that it had, and ours.
                let dump = self.dump(&after)?;
                if edit::lost_default(&self.dump(now)?, &dump).is_empty()
                    && dump.contains(".runtimes.conex]")
                {
                    return Ok(Some(after));
                }
                let what = format!(
                    "{}: containerd would not have both its default runtime and conex",
                    self.file.display()
                );
                Err(Error::new(Kind::Unsupported, what))
            }
        }
    }

    fn without(&self, now: &Option<String>) -> Result<Option<String>> {
        let Some(text) = now else { return Ok(None) };
        match self.engine {
            "docker" => edit::remove_docker(text, &self.file),
            "podman" if *text == self.podman_file() => Ok(None),
            "podman" => Err(self.changed()),
            _ => edit::remove_containerd(text, &self.file),
        }
    }

    fn changed(&self) -> Error {
        let what = format!(
            "{} is not what conex setup writes; change or remove it by hand",
            self.file.display()
        );
        Error::new(Kind::Invalid, what)
    }

    /// What is printed; without containerd, as for one whose file names its runtimes.
    fn containerd_block(&self, now: &str) -> Result<String> {
        let path = self.path_of_shim();
        let kept = self.lost(now, path.as_deref()).unwrap_or_default();
        edit::containerd_block(now, path.as_deref(), &kept)
    }

    /// The table that has to be written beside ours: containerd 1.6 has no runtimes of its own any more when a file has
    /// any, and its CRI plugin does not load without the default one.
    fn lost(&self, now: &str, path: Option<&str>) -> Result<String> {
        let before = self.dump(now)?;
        let after = edit::add_containerd(now, &self.file, path, "")?;
        Ok(edit::lost_default(&before, &self.dump(&after)?))
    }

    /// Where the shim is, for a containerd from 1.7 to 2.3: it asks only shims of runc's type what they can do, and tells
    /// them their options. Any other one gets the type of our own, which needs no path.
    fn path_of_shim(&self) -> Option<String> {
        let answer = Command::new("containerd").arg("--version").output().ok()?;
        let release = edit::release(&String::from_utf8_lossy(&answer.stdout))?;
        // Beside this program, or in bin beside its sbin.
        let shims = ["containerd-shim-conex-v2", "../bin/containerd-shim-conex-v2"];
        let shim = shims
            .iter()
            .find_map(|s| Path::new(&self.program).with_file_name(s).canonicalize().ok())?;
        ((1, 7)..(2, 4)).contains(&release).then(|| shim.display().to_string())
    }

    /// What containerd itself makes of a configuration.
    fn dump(&self, text: &str) -> Result<String> {
        // In a directory that nobody else can enter: in a shared one another user could wait with a symlink.
        let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("conex-setup-XXXXXX"))
            .call(|| "mkdtemp")?;
        let copy = dir.join("config.toml");
        let answer = write_new(&copy, text, &self.file).map(|()| {
            Command::new("containerd").arg("--config").arg(&copy).args(["config", "dump"]).output()
        });
        let _ = std::fs::remove_dir_all(&dir);
        let answer = answer?;
        let answer = answer.call(|| {
            "exec(containerd): it must be installed, to check the file; or append what `conex setup containerd` prints"
        })?;
        if answer.status.success() {
            return Ok(String::from_utf8_lossy(&answer.stdout).into_owned());
        }
        let why = String::from_utf8_lossy(&answer.stderr);
        let why = why.lines().last().unwrap_or("no reason given").trim();
        Err(Error::new(
            Kind::Invalid,
            format!("{}: containerd refuses it: {why}", self.file.display()),
        ))
    }

    /// Writes whole files only, with the mode of the old one; what was there is kept beside it, until it is there again.
    fn replace(&self, before: &Option<String>, after: &Option<String>, undo: bool) -> Result<()> {
        let file = if self.file.is_symlink() {
            self.file.canonicalize().call(|| format!("realpath({})", self.file.display()))?
        } else {
            self.file.clone()
        };
        let beside = |suffix: &str| {
            let mut name = file.file_name().unwrap_or_default().to_os_string();
            name.push(suffix);
            file.with_file_name(name)
        };
        let backup = beside(".before-conex");
        if let (Some(_), false) = (before, undo) {
            let (text, mode) =
                (std::fs::read(&file), std::fs::metadata(&file).map(|m| m.permissions()));
            let text = text.call(|| format!("read({})", file.display()))?;
            write_new(&backup, &text, &file)?;
            let _ = mode.and_then(|mode| std::fs::set_permissions(&backup, mode));
        }
        match after {
            None => std::fs::remove_file(&file).call(|| format!("unlink({})", file.display()))?,
            Some(text) => {
                if let Some(dir) = file.parent() {
                    std::fs::create_dir_all(dir).call(|| format!("mkdir({})", dir.display()))?;
                }
                let fresh = beside(".conex-new");
                write_new(&fresh, text, &file)?;
                if let Ok(old) = std::fs::metadata(&file) {
                    let _ = std::fs::set_permissions(&fresh, old.permissions());
                }
                std::fs::rename(&fresh, &file).call(|| format!("rename({})", file.display()))?;
            }
        }
        if undo && read(&backup)? == *after {
            let _ = std::fs::remove_file(&backup);
        }
        Ok(())
    }

    fn report(&self, undo: bool) -> String {
        let verb = if undo { "taken out of" } else { "written to" };
        let next = match self.engine {
            "docker" => "restart docker (systemctl restart docker); then: docker run --runtime conex …",
            "podman" => "nothing to restart: podman --runtime conex run …",
            "kubernetes" => "restart containerd; the RuntimeClass: conex setup kubernetes | kubectl apply -f -",
            _ => "restart containerd (systemctl restart containerd); then: ctr run --runtime io.containerd.conex.v2 …",
        };
        let next = if undo { "restart the engine if it runs" } else { next };
        format!("{verb} {}; {next}\n", self.file.display())
    }
}
