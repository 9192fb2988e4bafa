//! `conex seccomp explain`: what a profile does with a system call, and which of its rules says so.

pub mod agent;
mod judge;
pub mod profile;
pub mod watch;

use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use conex::seccomp::{abi, compile, Abi, Arg, Op};
use profile::{told, PlacedProfile};
use serde_json::json;

/// # Errors
/// The profile is none, or there is no such call.
pub fn main(env: &Invocation) -> Result<i32> {
    let [what, file, call, args @ ..] = env.args.rest.as_slice() else {
        unreachable!("counted by the parser")
    };
    if what != "explain" {
        return Err(Error::new(
            Kind::Invalid,
            format!("seccomp {what:?}: expected `seccomp explain PROFILE SYSCALL [ARGS]`"),
        ));
    }
    let path = conex::text::path(file).into_owned();
    let path = if path.is_dir() { path.join("config.json") } else { path };
    let text = std::fs::read(&path).call(|| format!("open({})", path.display()))?;
    let profile = PlacedProfile::read(&text, env.args.values("cap"))
        .map_err(|e| e.at(path.display().to_string()))?;
    let known = abi::names().any(|name| name == call);
    if !known {
        let meant = conex::text::closest(call, abi::names());
        let meant = meant.map_or(String::new(), |m| format!("; did you mean {m:?}?"));
        return Err(Error::new(Kind::Invalid, format!("no system call is named {call:?}{meant}")));
    }
    let args = args.iter().map(|a| number(a)).collect::<Result<Vec<u64>>>()?;
    if args.len() > 6 {
        return Err(Error::new(Kind::Invalid, "a system call takes at most 6 arguments"));
    }
    let lines: Vec<Line> =
        profile.abis().iter().map(|abi| line(&profile, *abi, call, &args)).collect();
    let out =
        if env.args.is_set("json") { as_json(call, &lines) } else { as_text(call, file, &lines) };
    conex::verbs::env::print(&out)?;
    Ok(0)
}

/// Decimal, or hexadecimal with 0x; a negative one as the kernel gets it.
fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(|n| n as u64)),
    };
    parsed.ok_or_else(|| Error::new(Kind::Invalid, format!("argument {text:?} is no number")))
}

/// What happens on one ABI.
struct Line {
    abi: Abi,
    nr: Option<u32>,
    /// With the conditions on arguments under which each holds, none for the last.
    cases: Vec<Case>,
}

struct Case {
    condition: Option<String>,
    action: u32,
    by: String,
}

fn line(profile: &PlacedProfile, abi: Abi, call: &str, args: &[u64]) -> Line {
    let nr = compile::lookup(call, abi);
    let Some(number) = nr else { return Line { abi, nr, cases: Vec::new() } };
    let cases = if args.is_empty() {
        cases(profile, abi, call, number)
    } else {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let (action, by) = profile.decide(abi, number, all);
        vec![Case { condition: None, action, by }]
    };
    Line { abi, nr, cases }
}

/// All that can happen, in the order in which the filter asks.
fn cases(profile: &PlacedProfile, abi: Abi, call: &str, nr: u32) -> Vec<Case> {
    let mut out = Vec::new();
    for rule in profile.rules_for(call) {
        if rule.rule.any_of.is_empty() {
            return vec![Case {
                condition: None,
                action: rule.rule.action,
                by: rule.place.clone(),
            }];
        }
        for all in &rule.rule.any_of {
            let condition = Some(all.iter().map(condition).collect::<Vec<_>>().join(" and "));
            out.push(Case { condition, action: rule.rule.action, by: rule.place.clone() });
        }
    }
    let (action, by) = profile.without_a_rule(abi, nr);
    out.push(Case { condition: None, action, by });
    out
}

fn condition(arg: &Arg) -> String {
    let (i, v) = (arg.index, arg.value);
    match arg.op {
        Op::Ne => format!("args[{i}] != {v:#x}"),
        Op::Lt => format!("args[{i}] < {v:#x}"),
        Op::Le => format!("args[{i}] <= {v:#x}"),
        Op::Eq => format!("args[{i}] == {v:#x}"),
        Op::Ge => format!("args[{i}] >= {v:#x}"),
        Op::Gt => format!("args[{i}] > {v:#x}"),
        Op::MaskedEq => format!("args[{i}] & {v:#x} == {:#x}", arg.value_two),
    }
}

fn as_text(call: &str, file: &str, lines: &[Line]) -> String {
    let mut out = format!("{call} under {file}:\n");
    for line in lines {
        let name = line.abi.name();
        let Some(nr) = line.nr else {
            out += &format!("  {name}: has no such call\n");
            continue;
        };
        match line.cases.as_slice() {
            [one] => out += &format!("  {name} ({nr}): {}, by {}\n", told(one.action), one.by),
            several => {
                out += &format!("  {name} ({nr}): by its arguments\n");
                for case in several {
                    let condition =
                        case.condition.as_ref().map_or("otherwise".into(), |c| format!("if {c}"));
                    out += &format!("    {condition}: {}, by {}\n", told(case.action), case.by);
                }
            }
        }
    }
    out
}

fn as_json(call: &str, lines: &[Line]) -> String {
    let case = |c: &Case| json!({"if": c.condition, "action": told(c.action), "value": c.action, "by": c.by});
    let line = |l: &Line| json!({"abi": l.abi.name(), "number": l.nr, "cases": l.cases.iter().map(case).collect::<Vec<_>>()});
    format!("{:#}\n", json!({"syscall": call, "abis": lines.iter().map(line).collect::<Vec<_>>()}))
}
