//! Whose streams they are, and what the client asked for.

use crate::report::events::Publisher;
use crate::status::{During, Result};
use conex_proto::runc;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What the client asked for: a path (a FIFO), or a URI with one of the schemes fifo, file and binary; empty for
/// nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stdio {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Whose the pipes are (`io_uid`, `io_gid` of the options), and for whom a logger works.
#[derive(Clone, Default)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    pub namespace: String,
    pub id: String,
    /// Empty for init.
    pub exec: String,
    pub bundle: PathBuf,
    /// Who is told of output that is lost.
    pub events: Option<Rc<Publisher>>,
}

impl Owner {
    /// Of the process `(container, exec)`, in a namespace whose events go there.
    pub fn new(
        (namespace, events): (&str, &Rc<Publisher>),
        name: (&str, &str),
        bundle: &Path,
        options: &runc::Options,
    ) -> Owner {
        Owner {
            uid: options.io_uid,
            gid: options.io_gid,
            namespace: namespace.to_string(),
            id: name.0.to_string(),
            exec: name.1.to_string(),
            bundle: bundle.to_path_buf(),
            events: Some(events.clone()),
        }
    }
}

pub fn nonblocking(fd: &OwnedFd) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).during(|| "fcntl(O_NONBLOCK)".into())
}
