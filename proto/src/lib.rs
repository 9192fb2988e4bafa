//! The messages between containerd and its shims: ttrpc, task, sandbox, events, metrics, options.
//!
//! `make proto` writes the types from the files in `proto/`; they are committed, so that a build needs no protoc.

pub use prost;
pub use prost_types::{Any, Timestamp};

macro_rules! package {
    ($name:ident, $file:literal) => {
        #[allow(clippy::all, clippy::pedantic, missing_docs)]
        pub mod $name {
            include!(concat!("generated/", $file, ".rs"));
        }
    };
}

// The generated code names other packages by their path from a common root.
#[allow(clippy::all)]
pub mod containerd {
    package!(types, "containerd.types");
    package!(task, "containerd.task");
    package!(events, "containerd.events");
    pub mod runc {
        package!(v1, "containerd.runc.v1");
    }
    pub mod runtime {
        pub mod bootstrap {
            package!(v1, "containerd.runtime.bootstrap.v1");
        }
        pub mod sandbox {
            package!(v1, "containerd.runtime.sandbox.v1");
        }
    }
}
package!(cri, "runtime.v1");
package!(shim, "conex.shim.v1");
package!(ttrpc, "ttrpc");
package!(cgroups1, "io.containerd.cgroups.v1");
package!(cgroups2, "io.containerd.cgroups.v2");

pub use containerd::events;
pub use containerd::runc::v1 as runc;
pub use containerd::runtime::bootstrap::v1 as bootstrap;
pub use containerd::runtime::sandbox::v1 as sandbox;
pub use containerd::task;
pub use containerd::types;

/// A message in an `Any`, under its bare full name as containerd expects it.
pub fn any<M: prost::Message>(name: &str, message: &M) -> Any {
    Any { type_url: name.to_string(), value: message.encode_to_vec() }
}
