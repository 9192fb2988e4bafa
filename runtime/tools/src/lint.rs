//! `conex lint`: every problem of a config.json, each with its line.

use crate::{danger, schema, values, Invocation};
use conex::bundle::show::{self, Level, Place};
use conex::bundle::{self, Bundle};
use conex::error::{Context, Error, Kind, Result};
use conex::host::facts;
use conex::plan::{self, Options};
use conex::text;
use conex::verbs::env::print;
use serde_json::{json, Value};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// One finding.
struct Problem {
    level: Level,
    /// With the field in front of it.
    message: String,
    field: String,
    /// What was probably meant.
    meant: Option<String>,
    place: Option<Place>,
}

/// 0: nothing is wrong; 1: errors; 2: warnings only.
pub fn main(env: &Invocation) -> Result<i32> {
    if env.args.is_set("json-schema") {
        let text = serde_json::to_string_pretty(&schema::document()).unwrap_or_default();
        return print(&(text + "\n")).map(|()| 0);
    }
    let given = env.args.rest.first().map_or(".", String::as_str);
    let (dir, file) = target(&text::path(given))?;
    let mut problems = match bundle::open_with(&dir, &file) {
        Ok(bundle) => look(&bundle),
        Err(e) => vec![syntax(&file, e)?],
    };
    if env.args.is_set("no-notes") {
        problems.retain(|p| p.level != Level::Note);
    }
    problems.sort_by_key(|p| p.place.as_ref().map_or((0, 0), |p| (p.line, p.column)));
    let name = shown(&file);
    print(&match env.args.is_set("json") {
        true => as_json(&problems, &name),
        false if std::io::stdout().is_terminal() => as_blocks(&problems, &name),
        false => as_lines(&problems, &name),
    })?;
    let has = |level| problems.iter().any(|p| p.level == level);
    Ok(if has(Level::Error) {
        1
    } else if has(Level::Warning) {
        2
    } else {
        0
    })
}

/// The bundle's directory and its document; a document by itself is one too.
fn target(given: &Path) -> Result<(PathBuf, PathBuf)> {
    let meta = given.metadata().call(|| format!("stat({})", given.display()))?;
    if meta.is_dir() {
        return Ok((given.into(), given.join("config.json")));
    }
    let dir = given.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((dir.into(), given.into()))
}

/// As the reader would type it.
fn shown(file: &Path) -> String {
    file.strip_prefix(".").unwrap_or(file).display().to_string()
}

/// A text that is no JSON has one problem only: nobody knows what follows it.
fn syntax(file: &Path, e: Error) -> Result<Problem> {
    let text = bundle::read(file, false)?;
    let converted = text::from_bytes(&text);
    let Err(at) = serde_json::from_str::<serde::de::IgnoredAny>(&converted) else { return Err(e) };
    let start = text
        .split_inclusive(|b| *b == b'\n')
        .take(at.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    let offset = (start + at.column().saturating_sub(1)).min(text.len().saturating_sub(1));
    let place = (!text.is_empty()).then(|| show::place_of(&text, offset));
    Ok(Problem {
        level: Level::Error,
        message: e.to_string(),
        field: String::new(),
        meant: None,
        place,
    })
}

fn look(bundle: &Bundle) -> Vec<Problem> {
    let facts = facts::read(&bundle.spec, &bundle.path);
    let options = Options { id: "lint".into(), bundle: bundle.path.clone(), ..Options::default() };
    let (errors, warnings) = plan::judge(&bundle.spec, &options, &facts);
    let later = errors
        .into_iter()
        .chain(danger::missing(&bundle.spec, &bundle.path))
        .filter(|e| !bundle.is_told(e));
    let errors: Vec<Error> = bundle.bad.iter().cloned().chain(later).collect();
    let warnings =
        bundle.unknown.iter().cloned().chain(warnings).chain(danger::order(&bundle.spec));
    let notes = danger::notes(&bundle.spec);
    let all = [(Level::Error, errors), (Level::Warning, warnings.collect()), (Level::Note, notes)];
    let document: Value = serde_json::from_str(&text::from_bytes(&bundle.text)).unwrap_or_default();
    let problem = |level: Level, e: Error| Problem {
        level,
        message: e.to_string(),
        meant: values::meant(&document, &e.field)
            .filter(|_| e.kind == Kind::Invalid && level != Level::Note),
        place: show::place(&bundle.text, &e),
        field: e.field,
    };
    all.into_iter()
        .flat_map(|(level, list)| list.into_iter().map(move |e| (level, e)))
        .map(|(l, e)| problem(l, e))
        .collect()
}

impl Problem {
    fn help(&self) -> Option<String> {
        self.meant.as_ref().map(|m| format!("did you mean {m:?}?"))
    }
}

fn count(problems: &[Problem]) -> String {
    let n = |level, one: &str| match problems.iter().filter(|p| p.level == level).count() {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {one}s")),
    };
    let all = [(Level::Error, "error"), (Level::Warning, "warning"), (Level::Note, "note")];
    let all: Vec<String> = all.into_iter().filter_map(|(l, one)| n(l, one)).collect();
    if all.is_empty() {
        return "nothing to say".into();
    }
    all.join(", ")
}

fn as_blocks(problems: &[Problem], name: &str) -> String {
    let mut out = String::new();
    for p in problems {
        out +=
            &show::block_at(p.level, &p.message, name, p.place.as_ref(), conex::log::colour(true));
        out += &p.help().map_or(String::new(), |h| format!("   = help: {h}\n"));
        out.push('\n');
    }
    out + &format!("{name}: {}\n", count(problems))
}

fn as_lines(problems: &[Problem], name: &str) -> String {
    let line = |p: &Problem| {
        let place = p.place.as_ref().map_or(String::new(), |p| format!(":{}:{}", p.line, p.column));
        let help = p.help().map_or(String::new(), |h| format!("; {h}"));
        format!("{name}{place}: {}: {}{help}\n", p.level.name(), p.message)
    };
    problems.iter().map(line).collect::<String>() + &format!("{name}: {}\n", count(problems))
}

fn as_json(problems: &[Problem], name: &str) -> String {
    let one = |p: &Problem| {
        json!({
            "level": p.level.name(), "file": name, "field": p.field, "message": p.message, "meant": p.meant,
            "line": p.place.as_ref().map(|p| p.line), "column": p.place.as_ref().map(|p| p.column),
        })
    };
    let list: Vec<Value> = problems.iter().map(one).collect();
    serde_json::to_string_pretty(&list).unwrap_or_default() + "\n"
}
