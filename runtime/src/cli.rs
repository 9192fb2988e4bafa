//! The command line as runc's (urfave/cli on Go's flag package) takes it.
//!
//! One or two dashes are the same; a value follows or is joined by `=`; flags may come after positional arguments,
//! except for `exec` and `ps`, whose arguments are those of another program.

pub mod examples;
mod table;

use crate::error::{Error, Kind, Result};
use crate::log::Log;
use crate::text;
use std::collections::BTreeMap;
pub use table::{switch, tool, value, Command, Flag, COMMANDS, GLOBAL, TOOLS};

/// Parsed flags and what was left.
#[derive(Default, Debug)]
pub struct Args {
    flags: BTreeMap<&'static str, Vec<String>>,
    pub rest: Vec<String>,
}

impl Args {
    /// The last value given.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.get(name).and_then(|v| v.last()).map(String::as_str)
    }
    pub fn values(&self, name: &str) -> &[String] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
    /// A number, or an error that names the flag.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.value(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| usage(format!("invalid value {text:?} for flag --{name}: not a number")))
    }
    /// The log that the global flags ask for; an empty value is none.
    ///
    /// # Errors
    /// A format that there is not.
    pub fn log(&self) -> std::result::Result<Log, String> {
        let given = |name: &str| self.value(name).filter(|v| !v.is_empty());
        let json = match given("log-format").unwrap_or("text") {
            "json" => true,
            "text" => false,
            other => return Err(format!("invalid log-format: {other:?}")),
        };
        let path = given("log").map(|p| text::path(p).into_owned());
        let mut log = Log::new(path, json, self.is_set("debug"));
        log.trace = given("trace").and_then(|to| to.strip_prefix("fd:")?.parse().ok());
        Ok(log)
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, what)
}

/// Splits `argv` (without the program) into flags of the table and the rest.
pub fn parse(argv: &[String], table: &'static [Flag], reorder: bool) -> Result<Args> {
    let mut out = Args::default();
    let mut list = argv.iter();
    while let Some(arg) = list.next() {
        if arg == "--" {
            out.rest.extend(list.cloned());
            break;
        }
        let Some(name) =
            arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            out.rest.push(arg.clone());
            if !reorder {
                out.rest.extend(list.cloned());
                break;
            }
            continue;
        };
        let (name, joined) = match name.split_once('=') {
            Some((n, v)) => (n, Some(v.to_string())),
            None => (name, None),
        };
        let Some(flag) = table.iter().find(|f| f.name == name || f.short == Some(name)) else {
            let known = table.iter().map(|f| f.name);
            let dashes = if arg.starts_with("--") { "--" } else { "-" };
            let meant = text::closest(name, known)
                .map_or(String::new(), |n| format!("; did you mean --{n}?"));
            return Err(usage(format!("unknown flag {dashes}{name}{meant}")));
        };
        let given = match (flag.value, joined) {
            (None, None) => "true".to_string(),
            (None, Some(v)) => match v.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => "true".into(),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => "false".into(),
                _ => return Err(usage(format!("invalid boolean value {v:?} for -{name}"))),
            },
            (Some(_), Some(v)) => v,
            (Some(_), None) => list
                .next()
                .cloned()
                .ok_or_else(|| usage(format!("flag needs an argument: -{name}")))?,
        };
        out.flags.entry(flag.name).or_default().push(given);
    }
    Ok(out)
}

/// True if a flag is on the command line.
pub fn given(argv: &[String], flag: &str) -> bool {
    let is = |a: &String| a.trim_start_matches('-').split('=').next() == Some(flag);
    argv.iter().take_while(|a| *a != "--").any(|a| a.starts_with('-') && is(a))
}

/// Global flags end at the first word that is none: the command.
pub fn parse_global(argv: &[String]) -> Result<(Args, Vec<String>)> {
    let mut args = parse(argv, GLOBAL, false)?;
    let rest = std::mem::take(&mut args.rest);
    Ok((args, rest))
}

pub fn command(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name)
}

pub fn check_count(command: &Command, args: &Args) -> Result<()> {
    let n = args.rest.len();
    if n < command.count.0 || n > command.count.1 {
        let want = match command.count {
            (0, 0) => "no arguments".into(),
            (a, usize::MAX) => format!("{a} or more arguments"),
            (1, 1) => format!("one argument ({})", command.args),
            (a, b) if a == b => format!("{a} arguments ({})", command.args),
            (a, b) => format!("{a} to {b} arguments ({})", command.args),
        };
        return Err(usage(format!("takes {want}, got {n}")));
    }
    Ok(())
}

/// The command's name, its arguments, and whether only its help is asked for. Without a command the name is empty.
pub fn split<'a>(global: &Args, rest: &'a [String]) -> (String, &'a [String], bool) {
    let Some((name, argv)) = rest.split_first() else { return (String::new(), &[], true) };
    match (name.as_str(), argv.first()) {
        ("help" | "h", Some(command)) => (command.clone(), &[], true),
        ("help" | "h", None) => (String::new(), &[], true),
        (_, first) => {
            let asked = first.is_some_and(|a| matches!(a.as_str(), "-h" | "--help" | "-help"));
            (name.clone(), argv, asked || global.is_set("help"))
        }
    }
}

/// What is said of a command that does not exist.
pub fn unknown(name: &str) -> String {
    let known = COMMANDS.iter().map(|c| c.name).chain(TOOLS.iter().map(|t| t.0));
    match text::closest(name, known) {
        Some(meant) => format!("unknown command '{name}'; did you mean '{meant}'?"),
        None => format!("unknown command '{name}'\nAll commands: conex help"),
    }
}

/// A wrong command line: what is wrong, and where to read more.
pub fn wrong_usage(command: &Command, e: &Error) -> String {
    format!("conex {}: {e}\nHow it is used: conex help {}", command.name, command.name)
}

pub fn global_help() -> String {
    let mut out = String::from("NAME:\n   conex - a low-level OCI container runtime\n\nUSAGE:\n   conex [global options] command [command options] [arguments...]\n\nCOMMANDS:\n");
    let mut all: Vec<_> =
        COMMANDS.iter().map(|c| (c.name, c.help)).chain(TOOLS.iter().copied()).collect();
    all.sort_unstable();
    for (name, help) in all {
        out += &format!("   {name:<12}{help}\n");
    }
    out += "\nGLOBAL OPTIONS:\n";
    out + &flags_help(GLOBAL)
}

pub fn command_help(c: &Command) -> String {
    let mut out = format!(
        "NAME:\n   conex {} - {}\n\nUSAGE:\n   conex {} [command options] {}\n",
        c.name, c.help, c.name, c.args
    );
    if !c.flags.is_empty() {
        out += "\nOPTIONS:\n";
        out += &flags_help(c.flags);
    }
    out += "\nEXAMPLES:\n";
    examples::of(c.name).iter().for_each(|line| out += &format!("   {line}\n"));
    out
}

fn flags_help(flags: &[Flag]) -> String {
    let line = |f: &Flag| {
        let short = f.short.map_or(String::new(), |s| format!(", -{s}"));
        let value = f.value.map_or(String::new(), |v| format!(" {v}"));
        format!("   {:<40}{}\n", format!("--{}{short}{value}", f.name), f.help)
    };
    flags.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn go_style() {
        let c = command("create").unwrap();
        let a = parse(&words("-bundle=/b --pid-file p ID -no-pivot"), c.flags, c.reorder).unwrap();
        assert_eq!((a.value("bundle"), a.value("pid-file")), (Some("/b"), Some("p")));
        assert!(a.is_set("no-pivot"));
        assert_eq!(a.rest, ["ID"]);
    }

    #[test]
    fn exec_stops_at_the_container() {
        let c = command("exec").unwrap();
        let a = parse(&words("-t -e A=b ID sh -c -t"), c.flags, c.reorder).unwrap();
        assert_eq!(a.rest, ["ID", "sh", "-c", "-t"]);
        assert_eq!(a.values("env"), ["A=b"]);
    }

    #[test]
    fn unknown_flags_and_missing_values() {
        let c = command("start").unwrap();
        assert!(parse(&words("--nope ID"), c.flags, true)
            .unwrap_err()
            .what
            .contains("unknown flag --nope"));
        let c = command("create").unwrap();
        assert!(parse(&words("ID --bundle"), c.flags, true).is_err());
    }
}
