//! The engines of this host, and how each of them knows conex.

use super::finding::Finding;
use std::path::Path;
use std::process::Command;

/// Where each engine is told of its runtimes, and how conex is recognized there.
const ENGINES: [(&str, &[&str], &[&str], &str); 5] = [
    ("dockerd", &["--version"], &["/etc/docker/daemon.json"], "docker"),
    (
        "containerd",
        &["--version"],
        &["/etc/containerd/config.toml", "/etc/containerd/conf.d"],
        "containerd",
    ),
    (
        "podman",
        &["--version"],
        &[
            "/etc/containers/containers.conf",
            "/etc/containers/containers.conf.d",
            "/usr/share/containers/containers.conf",
        ],
        "podman",
    ),
    ("crio", &["--version"], &["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"], ""),
    ("kubelet", &["--version"], &[], ""),
];

pub fn all(program: &Path) -> Vec<Finding> {
    let mut out = vec![conex(program)];
    out.extend(shim(program));
    for (name, ask, files, setup) in ENGINES {
        let Some(version) = version_of(name, ask) else { continue };
        out.push(Finding::ok("engine", version));
        if !files.is_empty() {
            out.push(configured(name, files, setup));
        }
    }
    out
}

/// The first line that a program says of itself; `None` if it is not there.
pub fn version_of(name: &str, ask: &[&str]) -> Option<String> {
    let answer = Command::new(name).args(ask).output().ok()?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let line = text.lines().next().unwrap_or("it does not tell its version").trim().to_string();
    Some(if line.to_lowercase().contains(name) { line } else { format!("{name}: {line}") })
}

fn conex(program: &Path) -> Finding {
    Finding::ok(
        "conex",
        format!("{} {}, commit {}", program.display(), env!("CARGO_PKG_VERSION"), conex::REVISION),
    )
}

/// Where an engine finds the shim: beside conex, or in bin beside its sbin.
fn shim(program: &Path) -> Vec<Finding> {
    let beside = ["containerd-shim-conex-v2", "../bin/containerd-shim-conex-v2"];
    match beside.iter().find_map(|s| program.with_file_name(s).canonicalize().ok()) {
        Some(path) => vec![Finding::ok("conex", format!("its shim: {}", path.display()))],
        None => vec![Finding::missing(
            "conex",
            format!("no containerd-shim-conex-v2 near {}", program.display()),
            "containerd cannot use conex's own shim; make install puts both in place",
        )],
    }
}

fn configured(engine: &str, files: &[&str], setup: &str) -> Finding {
    let texts = files.iter().flat_map(|f| texts(Path::new(f)));
    match texts.into_iter().find(|(_, text)| text.contains("conex")) {
        Some((file, _)) => {
            Finding::ok("engine", format!("{engine}: conex is configured in {file}"))
        }
        None if setup.is_empty() => {
            Finding::ok("engine", format!("{engine}: conex is not configured"))
        }
        None => Finding::ok(
            "engine",
            format!("{engine}: conex is not configured (conex setup --write {setup})"),
        ),
    }
}

/// A file, or the files of a directory.
fn texts(path: &Path) -> Vec<(String, String)> {
    let files = match std::fs::read_dir(path) {
        Ok(dir) => dir.flatten().map(|e| e.path()).collect(),
        Err(_) => vec![path.to_path_buf()],
    };
    let read =
        |p: std::path::PathBuf| Some((p.display().to_string(), std::fs::read_to_string(&p).ok()?));
    files.into_iter().filter_map(read).collect()
}
