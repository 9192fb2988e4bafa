//! One step of a trace.

/// One step of one side. Microseconds; those of the first step are 0.
pub struct Stage {
    pub side: Side,
    pub begin: u64,
    /// Until the next step of the same side.
    pub length: u64,
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Host,
    Container,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Host => "host",
            Side::Container => "container",
        }
    }
}

impl Stage {
    /// What a side waits for: the other one, a hook, the container's program.
    pub fn kind(&self) -> &'static str {
        let begins = |words: &[&str]| words.iter().any(|w| self.text.starts_with(w));
        match () {
            () if begins(&["sends ", "waits"]) => "wait",
            () if begins(&["runs the hook"]) => "hook",
            () if begins(&["D-Bus"]) => "D-Bus",
            () if begins(&["the other end is closed"]) => "program",
            () => "work",
        }
    }
}
