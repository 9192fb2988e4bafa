//! What `conex doctor` tells of one thing.

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Missing,
    Slow,
}

/// One line.
pub struct Finding {
    pub verdict: Verdict,
    pub area: &'static str,
    pub what: String,
    /// What breaks, and what to do; only where something is missing or slow.
    pub advice: String,
    /// Milliseconds, where a time was measured.
    pub ms: Option<f64>,
}

impl Finding {
    pub fn ok(area: &'static str, what: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Ok, area, what: what.into(), advice: String::new(), ms: None }
    }

    pub fn missing(
        area: &'static str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            verdict: Verdict::Missing,
            area,
            what: what.into(),
            advice: advice.into(),
            ms: None,
        }
    }

    /// A measured time: slow from `most` milliseconds on.
    pub fn timed(
        area: &'static str,
        what: impl Into<String>,
        ms: f64,
        most: f64,
        advice: &str,
    ) -> Finding {
        let slow = ms > most;
        Finding {
            verdict: if slow { Verdict::Slow } else { Verdict::Ok },
            area,
            what: what.into(),
            advice: if slow { advice.into() } else { String::new() },
            ms: Some(ms),
        }
    }
}
