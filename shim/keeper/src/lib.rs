//! The keeper of a shim's server, and what both programs have in common.
//!
//! The keeper is the parent of the server, and of the containers once the server is dead. It holds the descriptors and the
//! records that the server has told it, and starts another one with them ([`keep`]). It knows a record's name and its
//! descriptors and never what a record says: a server of another version may have written it. It reads no message of
//! containerd, and of a container it knows the pid.
//!
//! Both need: the command line ([`args`]), the log ([`log`]), errors ([`status`]), the state document that is handed from one to
//! the other ([`document`]), the limit of descriptors ([`limit`]), the shim's own cgroup ([`cgroup`]) and the namespaces of its
//! pod ([`namespaces`]).
#![forbid(unsafe_code)]

pub mod args;
pub mod cgroup;
pub mod document;
pub mod keep;
pub mod limit;
pub mod log;
pub mod namespaces;
pub mod status;
