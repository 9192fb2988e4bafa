//! resctrl groups (`linux.intelRdt`).

use crate::error::{Context, Error, Named, Result};
use crate::plan::placement::Rdt;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/resctrl";

/// Puts a process into the group; returns the directory to remove with the container, if this call made it.
pub fn join(rdt: &Rdt, id: &str, pid: i32) -> Result<Option<PathBuf>> {
    join_at(Path::new(ROOT), rdt, id, pid)
}

fn join_at(root: &Path, rdt: &Rdt, id: &str, pid: i32) -> Result<Option<PathBuf>> {
    let field = || "linux.intelRdt";
    let group = if rdt.clos.is_empty() { root.to_path_buf() } else { root.join(&rdt.clos) };
    let existed = group.is_dir();
    if !existed {
        std::fs::create_dir(&group).call(|| format!("mkdir({})", group.display())).at(field)?;
    }
    let made = (!existed).then(|| group.clone());
    let file = group.join("schemata");
    if existed && rdt.shared && !rdt.schemata.is_empty() {
        // config-linux.md: with closID naming a group that exists, its schemata must be the same.
        let now = std::fs::read_to_string(&file).call(|| format!("read({})", file.display())).at(field)?;
        let lines: Vec<&str> = now.lines().map(str::trim).collect();
        if let Some(other) = rdt.schemata.iter().find(|s| !lines.contains(&s.trim())) {
            let what = format!("the existing group {} has other schemata than {other:?}", group.display());
            return Err(Error::invalid("linux.intelRdt.closID", what));
        }
    } else {
        for line in &rdt.schemata {
            std::fs::write(&file, format!("{line}\n"))
                .call(|| format!("write({}, {line:?})", file.display()))
                .at(|| "linux.intelRdt.schemata")?;
        }
    }
    std::fs::write(group.join("tasks"), pid.to_string())
        .call(|| format!("write({}/tasks, {pid})", group.display()))
        .at(field)?;
    if !rdt.monitoring {
        return Ok(made);
    }
    let monitor = group.join("mon_groups").join(id);
    std::fs::create_dir(&monitor).call(|| format!("mkdir({})", monitor.display())).at(field)?;
    std::fs::write(monitor.join("tasks"), pid.to_string())
        .call(|| format!("write({}/tasks, {pid})", monitor.display()))
        .at(field)?;
    Ok(made.or(Some(monitor)))
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
        let made = join_at(&root, &rdt(&["L3:0=f"]), "c", 42).unwrap();
        assert_eq!(made, Some(root.join("g")));
        assert_eq!(std::fs::read_to_string(root.join("g/tasks")).unwrap(), "42");
        assert_eq!(join_at(&root, &rdt(&["L3:0=f"]), "c", 43).unwrap(), None);
        let e = join_at(&root, &rdt(&["L3:0=3"]), "c", 44).unwrap_err();
        assert_eq!(e.field, "linux.intelRdt.closID");
        std::fs::remove_dir_all(root).unwrap();
    }
}
