//! `conex ps`.

use super::env::Env;
use crate::error::{Context, Error, Kind, Result};
use crate::host::cgroup::Group;
use crate::state::Status;

pub fn main(env: &mut Env) -> Result<i32> {
    let (state, status) = env.store()?.peek(env.id())?;
    // What a container that has ended left of its cgroup can go at any time.
    let group = if status == Status::Stopped {
        Group::open(&state.cgroups)
    } else {
        Group::open_all(&state.cgroups)?
    };
    let pids = group.pids();
    match env.args.value("format").unwrap_or("table") {
        "json" => super::env::print(&serde_json::json!(pids).to_string())?,
        "table" => super::env::print(&table(&pids, &group.execs(), &env.args.rest[1..])?)?,
        other => {
            return Err(Error::new(Kind::Invalid, format!("invalid format option: {other:?}")))
        }
    }
    Ok(0)
}

/// The lines of ps(1) whose PID column names a process of the container; before them the names of `execs`, where there are
/// any, in a column of their own.
fn table(pids: &[i32], execs: &[(i32, String)], args: &[String]) -> Result<String> {
    let args: Vec<&str> =
        if args.is_empty() { vec!["-ef"] } else { args.iter().map(String::as_str).collect() };
    let mut command = std::process::Command::new("ps");
    command.args(&args);
    let (succeeded, text) =
        crate::host::helper::ask(command, false).call(|| format!("exec(ps {})", args.join(" ")))?;
    if !succeeded {
        return Err(Error::new(Kind::System, format!("ps {} failed", args.join(" "))));
    }
    let mut lines = text.lines();
    let header = lines.next().unwrap_or("");
    let column = header
        .split_whitespace()
        .position(|w| w == "PID")
        .ok_or_else(|| Error::new(Kind::Invalid, "couldn't find PID field in ps output"))?;
    let width = execs.iter().map(|(_, name)| name.len() + 1).max().unwrap_or(0).max("EXEC ".len());
    let named =
        |name: &str| if execs.is_empty() { String::new() } else { format!("{name:width$}") };
    let mut result = format!("{}{header}\n", named("EXEC"));
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|w| w.parse::<i32>().ok());
        if let Some(pid) = pid.filter(|p| pids.contains(p)) {
            let exec = execs.iter().find(|(p, _)| *p == pid).map_or("-", |(_, name)| name);
            result += &named(exec);
            result += line;
            result.push('\n');
        }
    }
    Ok(result)
}
