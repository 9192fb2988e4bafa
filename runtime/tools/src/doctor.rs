//! `conex doctor`: what this host can do, what is missing and what is slow. It reads and measures; it changes nothing.

mod engines;
mod finding;
mod host;
mod times;

use crate::Invocation;
use conex::error::Result;
use conex::verbs::env::print;
use finding::{Finding, Verdict};
use serde_json::json;
use std::io::IsTerminal;

/// 0, or 1 if something is missing without which no container runs.
pub fn main(env: &Invocation) -> Result<i32> {
    let mut all = host::all();
    all.extend(engines::all(&env.program));
    // Last: what is measured may leave the namespaces of the beginning.
    all.extend(times::all());
    print(&match env.args.is_set("json") {
        true => as_json(&all),
        false => as_text(&all, conex::log::colour(std::io::stdout().is_terminal())),
    })?;
    let vital =
        |f: &Finding| f.verdict == Verdict::Missing && ["kernel", "namespaces"].contains(&f.area);
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
