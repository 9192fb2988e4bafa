//! Checks of the six lists of hooks (config.md, "POSIX-platform Hooks").

use crate::check::Check;
use crate::oci::config::{Hook, Hooks, Spec};
use std::path::Path;

/// The lists with their names, in the order in which they run.
pub fn lists(hooks: &Hooks) -> [(&'static str, &[Hook]); 6] {
    [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ]
}

pub(super) fn check(spec: &Spec, check: &mut Check) {
    let Some(hooks) = &spec.hooks else { return };
    for (name, list) in lists(hooks) {
        for (i, hook) in list.iter().enumerate() {
            let field = format!("hooks.{name}[{i}]");
            if !Path::new(&hook.path).is_absolute() {
                check.bad(
                    format!("{field}.path"),
                    format!("{:?} is not an absolute path", hook.path),
                );
            }
            if hook.timeout.is_some_and(|t| t <= 0) {
                check.bad(format!("{field}.timeout"), "must be greater than zero seconds");
            }
            for (j, entry) in hook.env.iter().flat_map(|env| env.iter()).enumerate() {
                if !entry.contains('=') || entry.starts_with('=') {
                    check.bad(format!("{field}.env[{j}]"), format!("{entry:?} is not NAME=value"));
                }
            }
        }
    }
}
