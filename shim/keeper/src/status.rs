//! Errors as they go over the wire: a gRPC code and a text. Clients match both (containerd's errdefs).

use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub code: i32,
    pub message: String,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

pub const UNKNOWN: i32 = 2;
pub const INVALID_ARGUMENT: i32 = 3;
pub const DEADLINE_EXCEEDED: i32 = 4;
pub const NOT_FOUND: i32 = 5;
pub const ALREADY_EXISTS: i32 = 6;
pub const RESOURCE_EXHAUSTED: i32 = 8;
pub const FAILED_PRECONDITION: i32 = 9;
pub const UNIMPLEMENTED: i32 = 12;

macro_rules! kinds {
    ($($name:ident $code:ident $suffix:literal;)*) => {
        $(pub fn $name(message: impl fmt::Display) -> Failure {
            Failure { code: $code, message: format!("{message}{}", $suffix) }
        })*
    };
}

// errdefs appends the class to the text, and older clients tell the class by it.
kinds! {
    unknown UNKNOWN "";
    invalid INVALID_ARGUMENT ": invalid argument";
    not_found NOT_FOUND ": not found";
    exists ALREADY_EXISTS ": already exists";
    precondition FAILED_PRECONDITION ": failed precondition";
    unimplemented UNIMPLEMENTED ": not implemented";
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A call of this program itself that failed, with its arguments.
pub trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| unknown(format!("{}: {e}", what())))
    }
}
