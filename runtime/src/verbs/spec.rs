//! `conex spec`: a document to start from, and the document of a container.

use super::env::{print, Env};
use crate::error::{Context, Error, Kind, Result};
use crate::oci::template::Template;
use crate::text;
use std::path::Path;

pub fn main(env: &mut Env) -> Result<i32> {
    if let Some(id) = env.args.value("of") {
        return show(env, id);
    }
    let dir = text::path(env.args.value("bundle").unwrap_or(".")).into_owned();
    let path = dir.join("config.json");
    // As runc: on v1, tools inside would take the container's own cgroup for the root of the hierarchy.
    let v2_alone = matches!(crate::acts::hierarchy::hierarchies().as_slice(), [only] if only.v2);
    let mut t = Template { cgroup: v2_alone, ..Template::default() };
    if env.args.is_set("rootless") {
        t.network = false;
        t.rootless = Some((nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    }
    if !env.args.rest.is_empty() {
        t.args.clone_from(&env.args.rest);
        t.terminal = false;
    }
    if let Some(terminal) = env.args.value("terminal") {
        t.terminal = terminal == "true";
    }
    if let Some(rootfs) = env.args.value("rootfs") {
        t.rootfs = rootfs_of(rootfs, &dir)?;
    }
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::new(Kind::Invalid, "File config.json exists. Remove it first"))
        }
        other => other
            .and_then(|mut f| f.write_all(&text::bytes(&t.text())))
            .call(|| format!("open({}, O_CREAT|O_EXCL)", path.display())),
    }?;
    if !env.args.rest.is_empty() && !dir.join(text::path(&t.rootfs).as_ref()).is_dir() {
        env.log.warn(format!(
            "{} is not there yet: it is to be the container's root directory",
            t.rootfs
        ));
    }
    Ok(0)
}

/// The directory as config.json names it: below the bundle by its relative path, elsewhere by its absolute one.
fn rootfs_of(rootfs: &str, bundle: &Path) -> Result<String> {
    let real = directory(rootfs)?;
    let bundle = bundle.canonicalize().call(|| format!("bundle {}", bundle.display()))?;
    Ok(match real.strip_prefix(&bundle) {
        Ok(below) if !below.as_os_str().is_empty() => text::of_path(below),
        _ => text::of_path(&real),
    })
}

/// A directory that a flag names, by its real path.
pub fn directory(rootfs: &str) -> Result<std::path::PathBuf> {
    let real = text::path(rootfs).canonicalize().call(|| format!("--rootfs {rootfs}"))?;
    if !real.is_dir() {
        return Err(Error::new(Kind::Invalid, format!("--rootfs {rootfs}: not a directory")));
    }
    Ok(real)
}

/// The document that a container was made of, with what `update` has changed.
fn show(env: &Env, id: &str) -> Result<i32> {
    crate::state::check_id(id)?;
    let store =
        crate::state::Store::open(&env.root, false)?.ok_or_else(|| crate::state::missing(id))?;
    let text = store.find(id)?.read("config.json")?;
    let shown = String::from_utf8_lossy(&text);
    print(&if shown.ends_with('\n') { shown.into_owned() } else { format!("{shown}\n") })
        .map(|()| 0)
}
