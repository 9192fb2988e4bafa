//! When the cgroups of a container are made, before its process or after it.

/// A step with the cgroups.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// The record says what will be.
    Record,
    /// The directories of v2, or those of v1.
    Directories { v2: bool },
    /// systemd makes the unit with the child in it.
    Unit,
    /// Before a process is in it, or before the process goes on.
    Limits,
    /// Not while somebody is in it who makes nodes: on v1 it is everything that is denied first. Of v2 it is a program, which
    /// takes the kernel as long as all other limits together, and comes at once.
    Devices,
}

/// The order of the steps, before and after the child is born.
pub(super) struct Order {
    pub before: &'static [Step],
    pub after: &'static [Step],
}

/// The child is born in its cgroup, whose limits hold already. Until the device program is there it does only what the plan
/// says: before [`crate::sync::Message::Enter`] nothing of the container's own is executed.
pub(super) const V2: Order =
    Order { before: &[Step::Directories { v2: true }, Step::Limits], after: &[Step::Devices] };
/// Only the directory that the child is born in comes before it; those of v1 are made while it mounts.
pub(super) const V1_AND_V2: Order = Order {
    before: &[Step::Directories { v2: true }],
    after: &[Step::Directories { v2: false }, Step::Limits, Step::Devices],
};
/// A unit comes after the child, which systemd puts into it.
pub(super) const SYSTEMD: Order =
    Order { before: &[Step::Record], after: &[Step::Unit, Step::Limits, Step::Devices] };
