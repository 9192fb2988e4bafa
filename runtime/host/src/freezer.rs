//! Whoever is frozen says nothing: a look at the freezers while an answer is waited for.

use super::cgroup::Group;
use crate::error::Result;
use std::time::{Duration, Instant};

/// How long a container that is being made may stay frozen: somebody may pause and resume all of a slice.
const FROZEN: Duration = Duration::from_secs(10);

/// Looks whether the cgroup of somebody that is waited for is frozen.
pub struct Freezer<'a> {
    group: Option<&'a Group>,
    since: Option<Instant>,
}

impl<'a> Freezer<'a> {
    /// `None`: whoever it is may be frozen.
    pub fn of(group: Option<&'a Group>) -> Freezer<'a> {
        Freezer { group, since: None }
    }

    /// # Errors
    /// It has been frozen for [`FROZEN`], and by whom.
    pub fn look(&mut self) -> Result<()> {
        match self.group.map_or(Ok(()), Group::check_thawed) {
            Ok(()) => self.since = None,
            Err(e) if self.since.get_or_insert_with(Instant::now).elapsed() > FROZEN => {
                return Err(e)
            }
            Err(_) => {}
        }
        Ok(())
    }
}
