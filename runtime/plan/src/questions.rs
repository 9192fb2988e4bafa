//! What a document makes the plan ask about paths of the host.

use crate::namespaces::KINDS;
use crate::oci::config::Spec;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, PartialEq)]
pub struct Questions {
    /// The root file system.
    pub root: Option<PathBuf>,
    /// Paths of namespaces, each with its file name below /proc/PID/ns.
    pub namespaces: Vec<(PathBuf, &'static str)>,
}

/// The questions of a document in that bundle, for [`crate::facts::Facts::root`] and [`crate::facts::Facts::own_namespaces`].
pub fn questions(spec: &Spec, bundle: &Path) -> Questions {
    let root = spec.root.as_ref().filter(|r| !r.path.is_empty());
    let mut out = Questions {
        root: root.map(|r| bundle.join(crate::text::path(&r.path))),
        namespaces: Vec::new(),
    };
    for ns in spec.linux.iter().flat_map(|l| l.namespaces.iter()) {
        let kind =
            KINDS.iter().find(|(name, _, flag)| *name == ns.kind && *flag != libc::CLONE_NEWNS);
        if let (Some((_, file, _)), Some(path)) =
            (kind, ns.path.as_deref().filter(|p| p.starts_with('/')))
        {
            out.namespaces.push((crate::text::path(path).into_owned(), file));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_a_path_is_asked_about() {
        let text = br#"{"root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "network", "path": "/n"}, {"type": "pid"},
            {"type": "mount", "path": "/m"}, {"type": "ipc", "path": "relative"}]}}"#;
        let spec = crate::document::parse::<Spec>(text, "config.json").unwrap();
        let want =
            Questions { root: Some("/b/rootfs".into()), namespaces: vec![("/n".into(), "net")] };
        assert_eq!(questions(&spec, Path::new("/b")), want);
        assert_eq!(questions(&Spec::default(), Path::new("/b")), Questions::default());
    }
}
