//! `conex setup --by-name`: conex under the names that an engine calls anyway, `runc` and `containerd-shim-runc-v2`.
//!
//! A directory of links stands first in the PATH of the engine's systemd units. Nothing of the distribution is changed: the
//! packages' own programs stay where they are, and without the two files everything is as before.

use super::file::{read, write_new};
use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use conex::verbs::env::print;
use std::path::{Path, PathBuf};

/// Where the administrator's drop-ins are (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";
const DROP_IN: &str = "50-conex.conf";
/// What systemd gives a service on Debian, Fedora and their like.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Two engines can need the drop-in of one unit: Docker, and whoever else uses containerd.
const FOR: &str = "# For: ";

struct Plan {
    engine: String,
    units: PathBuf,
    /// The units that execute the two programs.
    engines: &'static [&'static str],
    links: PathBuf,
    /// Name of the link and what it leads to.
    programs: [(&'static str, PathBuf); 2],
}

/// # Errors
/// Another engine, no shim beside this program, a file that is somebody else's.
pub fn main(env: &Invocation, engine: &str) -> Result<i32> {
    let plan = Plan::new(env, engine)?;
    if env.args.is_set("undo") {
        plan.undo()?;
    } else if env.args.is_set("write") {
        plan.write()?;
    } else {
        print(&plan.advice(engine))?;
    }
    Ok(0)
}

impl Plan {
    fn new(env: &Invocation, engine: &str) -> Result<Plan> {
        let engines: &[&str] = match engine {
            // Docker's containers are started by containerd's shim, or by that of its own containerd.
            "docker" => &["docker.service", "containerd.service"],
            "containerd" | "kubernetes" => &["containerd.service"],
            _ => {
                let what = format!("setup --by-name is for docker, containerd and kubernetes; {engine} takes a runtime by its path");
                return Err(Error::new(Kind::Invalid, what));
            }
        };
        let beside = |names: &[&str]| {
            names.iter().find_map(|n| env.program.with_file_name(n).canonicalize().ok())
        };
        let shim = beside(&["containerd-shim-conex-v2", "../bin/containerd-shim-conex-v2"]);
        let shim = shim.ok_or_else(|| {
            Error::new(
                Kind::System,
                format!("containerd-shim-conex-v2 is not beside {}", env.program.display()),
            )
        })?;
        // Beside the second program, which is nobody's to call either.
        let libexec = beside(&["../libexec/conex", "."]).unwrap_or_else(|| PathBuf::from("/"));
        Ok(Plan {
            engine: engine.to_string(),
            units: conex::text::path(env.args.value("config").unwrap_or(UNITS)).into_owned(),
            engines,
            links: libexec.join("by-name"),
            programs: [("runc", env.program.clone()), ("containerd-shim-runc-v2", shim)],
        })
    }

    /// `names` are those for whom it is there, in order.
    fn drop_in(&self, names: &[&str]) -> String {
        format!(
            "# Written by `conex setup --by-name --write`; `--undo` takes it away.\n{FOR}{}\n[Service]\nEnvironment=\"PATH={}:{PATH}\"\n",
            names.join(" "),
            self.links.display()
        )
    }

    /// For whom a drop-in is there; nobody if there is none.
    ///
    /// # Errors
    /// It is not what this writes.
    fn names<'a>(&self, file: &Path, text: &'a Option<String>) -> Result<Vec<&'a str>> {
        let Some(text) = text else { return Ok(Vec::new()) };
        let names: Vec<&str> =
            text.lines().find_map(|l| l.strip_prefix(FOR)).unwrap_or_default().split(' ').collect();
        if *text == self.drop_in(&names) {
            Ok(names)
        } else {
            Err(changed(file))
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        self.engines.iter().map(|unit| self.units.join(format!("{unit}.d")).join(DROP_IN)).collect()
    }

    fn advice(&self, engine: &str) -> String {
        let mut out = format!(
            "# What `conex setup --by-name --write {engine}` does:\nmkdir -p {}\n",
            self.links.display()
        );
        for (name, program) in &self.programs {
            out += &format!("ln -s {} {}\n", program.display(), self.links.join(name).display());
        }
        for file in self.files() {
            let text: String = self.drop_in(&[engine]).lines().map(|l| format!("{l}\n")).collect();
            out += &format!(
                "mkdir -p {}\ncat >{} <<'END'\n{text}END\n",
                parent(&file).display(),
                file.display()
            );
        }
        out + &format!("systemctl daemon-reload\nsystemctl restart {}\n", self.engines.join(" "))
    }

    /// Everything is looked at before anything is written.
    fn write(&self) -> Result<()> {
        for file in self.files() {
            self.names(&file, &read(&file)?)?;
        }
        for (name, program) in &self.programs {
            let link = self.links.join(name);
            match std::fs::read_link(&link) {
                Ok(to) if to == *program => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                _ => return Err(changed(&link)),
            }
        }
        directory(&self.links)?;
        for (name, program) in &self.programs {
            let link = self.links.join(name);
            match std::os::unix::fs::symlink(program, &link) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => {
                    other.call(|| format!("symlink({}, {})", program.display(), link.display()))?
                }
            }
        }
        for file in self.files() {
            directory(parent(&file))?;
            let before = read(&file)?;
            let mut names = self.names(&file, &before)?;
            if !names.contains(&self.engine.as_str()) {
                names.push(&self.engine);
                replace(&file, &self.drop_in(&names))?;
            }
        }
        let units = self.engines.join(" ");
        print(&format!(
            "written to {}; systemctl daemon-reload && systemctl restart {units}. The engine calls conex as runc from then on; \
             containers that run keep their shim until they end\n",
            self.files().iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" and ")
        ))
    }

    fn undo(&self) -> Result<()> {
        let mut taken = Vec::new();
        for file in self.files() {
            let before = read(&file)?;
            let names = self.names(&file, &before)?;
            if !names.contains(&self.engine.as_str()) {
                continue;
            }
            let left: Vec<&str> = names.into_iter().filter(|name| *name != self.engine).collect();
            if left.is_empty() {
                std::fs::remove_file(&file).call(|| format!("unlink({})", file.display()))?;
                // A directory that others use stays.
                let _ = std::fs::remove_dir(parent(&file));
            } else {
                replace(&file, &self.drop_in(&left))?;
            }
            taken.push(file.display().to_string());
        }
        // Those of another engine may need the links.
        let units = std::fs::read_dir(&self.units).into_iter().flatten().flatten();
        let needed = units.into_iter().any(|unit| unit.path().join(DROP_IN).exists());
        if !needed {
            for (name, program) in &self.programs {
                let link = self.links.join(name);
                if std::fs::read_link(&link).is_ok_and(|to| to == *program) {
                    std::fs::remove_file(&link).call(|| format!("unlink({})", link.display()))?;
                }
            }
            let _ = std::fs::remove_dir(&self.links);
        }
        print(&match taken.as_slice() {
            [] => "nothing to take back\n".to_string(),
            files => format!(
                "taken away: {}; systemctl daemon-reload && systemctl restart {}\n",
                files.join(" and "),
                self.engines.join(" ")
            ),
        })
    }
}

/// Whole, or not at all.
fn replace(file: &Path, text: &str) -> Result<()> {
    let fresh = file.with_extension("conf.new");
    write_new(&fresh, text, file)?;
    std::fs::rename(&fresh, file).call(|| format!("rename({})", file.display()))
}

/// Writable for nobody else, whatever the caller's umask is: an engine executes what lies there as root.
fn directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.call(|| format!("mkdir({})", path.display()))
}

fn parent(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

fn changed(file: &Path) -> Error {
    let what = format!(
        "{} is not what conex setup --by-name writes: change or remove it by hand",
        file.display()
    );
    Error::new(Kind::Invalid, what)
}
