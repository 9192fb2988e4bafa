//! One error type: which field of config.json, what was wrong with it, which call said so.

use nix::errno::Errno;
use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed, for those who must tell the cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The input is wrong, on every host.
    Invalid,
    /// The input has a field that has no meaning.
    Unknown,
    /// The input is right, but this host or this version cannot honour it.
    Unsupported,
    /// There is no such container.
    NotFound,
    /// The container is not in the status that the operation needs.
    Status,
    /// A system call failed.
    System,
}

/// `field: what: call(args): ERRNO (meaning)`; every part but `what` may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    /// The path of the value in config.json, for example `linux.namespaces[2].path`; empty if there is none.
    pub field: String,
    pub what: String,
    pub errno: Option<Errno>,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, field: String::new(), what: crate::text::shortened(what.into()), errno: None }
    }

    /// The same with a text of any length: the output of somebody else's program, which nobody could see otherwise.
    pub fn whole(kind: Kind, what: String) -> Self {
        Error { kind, field: String::new(), what, errno: None }
    }

    pub fn invalid(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::new(Kind::Invalid, what).at(field)
    }

    pub fn unsupported(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::new(Kind::Unsupported, what).at(field)
    }

    /// A failed call, written as strace would.
    pub fn call(errno: Errno, call: impl Into<String>) -> Self {
        Error { errno: Some(errno), ..Error::new(Kind::System, call) }
    }

    /// Names the field, unless a deeper layer already did.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        if self.field.is_empty() {
            self.field = field.into();
        }
        self
    }

    /// Says what was being done when the inner error came up.
    pub fn during(mut self, what: &str) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if !self.field.is_empty() {
            // A name in it can be as long as its author likes.
            let field = crate::text::shortened_to(self.field.clone(), 120);
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.what)?;
        match self.errno {
            Some(e) => write!(f, ": {}", meaning(e)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// `EPERM (operation not permitted)`: the name for people, the lower-case text for the managers that match it.
pub fn meaning(errno: Errno) -> String {
    format!("{errno:?} ({})", errno.desc().to_lowercase())
}

/// Adds the call to a bare errno. The closure runs only on failure.
pub trait Context<T> {
    fn call<S: Into<String>>(self, call: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for nix::Result<T> {
    fn call<S: Into<String>>(self, call: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::call(e, call()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn call<S: Into<String>>(self, call: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| match e.raw_os_error() {
            Some(n) => Error::call(Errno::from_raw(n), call()),
            None => Error::new(Kind::System, format!("{}: {e}", call().into())),
        })
    }
}

/// Adds the field or the activity to an error on its way up.
pub trait Named<T> {
    fn at<S: Into<String>>(self, field: impl FnOnce() -> S) -> Result<T>;
    fn during(self, what: &str) -> Result<T>;
}

impl<T> Named<T> for Result<T> {
    fn at<S: Into<String>>(self, field: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.at(field()))
    }
    fn during(self, what: &str) -> Result<T> {
        self.map_err(|e| e.during(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_field_call_and_meaning() {
        let e = Error::call(Errno::EPERM, "setns(7</run/netns/x>, CLONE_NEWNET)")
            .at("linux.namespaces[2].path");
        assert_eq!(
            e.to_string(),
            "linux.namespaces[2].path: setns(7</run/netns/x>, CLONE_NEWNET): EPERM (operation not permitted)"
        );
    }

    #[test]
    fn the_deepest_field_wins() {
        let e = Error::invalid("mounts[1].options[0]", "x").at("mounts[1]");
        assert_eq!(e.field, "mounts[1].options[0]");
    }
}
