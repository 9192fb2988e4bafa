//! resctrl groups (`linux.intelRdt`).

use crate::error::{Context, Error, Named, Result};
use crate::plan::placement::Rdt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/resctrl";

/// The directory of the container's group.
pub fn group(rdt: &Rdt) -> PathBuf {
    group_at(Path::new(ROOT), rdt)
}

fn group_at(root: &Path, rdt: &Rdt) -> PathBuf {
    if rdt.clos.is_empty() {
        root.to_path_buf()
    } else {
        root.join(&rdt.clos)
    }
}

/// The directory that [`join`] will make, if any: what is to be removed with the container.
pub fn to_make(rdt: &Rdt, id: &str) -> Option<PathBuf> {
    let group = group(rdt);
    if !group.is_dir() {
        return Some(group);
    }
    rdt.monitoring.then(|| group.join("mon_groups").join(id))
}

/// Writes schemata, one line each, to a group that exists.
pub fn update(group: &Path, schemata: &[&str], field: &str) -> Result<()> {
    let file = group.join("schemata");
    schemata.iter().try_for_each(|line| {
        std::fs::write(&file, format!("{line}\n"))
            .call(|| format!("write({}, {line:?})", file.display()))
            .at(|| field.to_string())
    })
}

/// Puts a process into the group.
pub fn join(rdt: &Rdt, id: &str, pid: i32) -> Result<()> {
    join_at(Path::new(ROOT), rdt, id, pid)
}

fn join_at(root: &Path, rdt: &Rdt, id: &str, pid: i32) -> Result<()> {
    let field = || "linux.intelRdt";
    let group = group_at(root, rdt);
    let existed = group.is_dir();
    if !existed {
        std::fs::create_dir(&group).call(|| format!("mkdir({})", group.display())).at(field)?;
    }
    let file = group.join("schemata");
    if existed && rdt.shared && !rdt.schemata.is_empty() {
        // config-linux.md: with closID naming a group that exists, its schemata must be the same.
        let now = std::fs::read_to_string(&file)
            .call(|| format!("read({})", file.display()))
            .at(field)?;
        let lines: Vec<&str> = now.lines().map(str::trim).collect();
        if let Some(other) = rdt.schemata.iter().find(|s| !lines.contains(&s.trim())) {
            let what =
                format!("the existing group {} has other schemata than {other:?}", group.display());
            return Err(Error::invalid("linux.intelRdt.closID", what));
        }
    } else {
        let lines: Vec<&str> = rdt.schemata.iter().map(String::as_str).collect();
        update(&group, &lines, "linux.intelRdt.schemata")?;
    }
    std::fs::write(group.join("tasks"), pid.to_string())
        .call(|| format!("write({}/tasks, {pid})", group.display()))
        .at(field)?;
    if !rdt.monitoring {
        return Ok(());
    }
    let monitor = group.join("mon_groups").join(id);
    std::fs::create_dir(&monitor).call(|| format!("mkdir({})", monitor.display())).at(field)?;
    std::fs::write(monitor.join("tasks"), pid.to_string())
        .call(|| format!("write({}/tasks, {pid})", monitor.display()))
        .at(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_made_joined_and_compared() {
        let root = std::env::temp_dir().join(format!("conex-rdt-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let rdt = |schemata: &[&str]| Rdt {
            clos: "g".into(),
            shared: true,
            schemata: schemata.iter().map(|s| s.to_string()).collect(),
            monitoring: false,
        };
        join_at(&root, &rdt(&["L3:0=f"]), "c", 42).unwrap();
        assert!(root.join("g").is_dir());
        assert_eq!(std::fs::read_to_string(root.join("g/tasks")).unwrap(), "42");
        join_at(&root, &rdt(&["L3:0=f"]), "c", 43).unwrap();
        let e = join_at(&root, &rdt(&["L3:0=3"]), "c", 44).unwrap_err();
        assert_eq!(e.field, "linux.intelRdt.closID");
        std::fs::remove_dir_all(root).unwrap();
    }
}
