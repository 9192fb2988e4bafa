//! `conex doctor`: what this host can do, what is missing and what is slow. It reads and measures; it changes nothing.

mod engines;
mod host;
mod times;

use crate::Env;
use conex::error::Result;
use conex::verbs::print;
use serde_json::json;
use std::io::IsTerminal;

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

    pub fn missing(area: &'static str, what: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { verdict: Verdict::Missing, area, what: what.into(), advice: advice.into(), ms: None }
    }

    /// A measured time: slow from `most` milliseconds on.
    pub fn timed(area: &'static str, what: impl Into<String>, ms: f64, most: f64, advice: &str) -> Finding {
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

/// 0, or 1 if something is missing without which no container runs.
pub fn main(env: &Env) -> Result<i32> {
    let mut all = host::all();
    all.extend(engines::all(&env.program));
    // Last: what is measured may leave the namespaces of the beginning.
    all.extend(times::all());
    print(&match env.args.is_set("json") {
        true => as_json(&all),
        false => as_text(&all, conex::log::colour(std::io::stdout().is_terminal())),
    })?;
    let vital = |f: &Finding| f.verdict == Verdict::Missing && ["kernel", "namespaces"].contains(&f.area);
    Ok(i32::from(all.iter().any(vital)))
}

fn name(v: Verdict) -> &'static str {
    match v {
        Verdict::Ok => "ok",
        Verdict::Missing => "missing",
        Verdict::Slow => "slow",
    }
}

fn as_text(all: &[Finding], colour: bool) -> String {
    let mut out = String::new();
    for f in all {
        let paint = match f.verdict {
            _ if !colour => "",
            Verdict::Ok => "\x1b[32m",
            Verdict::Missing => "\x1b[1;31m",
            Verdict::Slow => "\x1b[1;33m",
        };
        let off = if paint.is_empty() { "" } else { "\x1b[0m" };
        let ms = f.ms.map_or(String::new(), |ms| format!(" ({ms:.1} ms)"));
        out += &format!("{paint}{:<8}{off}{:<12}{}{ms}\n", name(f.verdict), f.area, f.what);
        if !f.advice.is_empty() {
            out += &format!("{:20}{}\n", "", f.advice);
        }
    }
    out
}

fn as_json(all: &[Finding]) -> String {
    let one = |f: &Finding| json!({"verdict": name(f.verdict), "area": f.area, "what": f.what, "advice": f.advice, "ms": f.ms});
    let list: Vec<_> = all.iter().map(one).collect();
    serde_json::to_string_pretty(&list).unwrap_or_default() + "\n"
}
