//! Texts with conex added or taken out; all else stays as it was, to the byte.

use conex::bundle;
use conex::error::{Error, Kind, Result};
use serde_json::Value;
use std::path::Path;

fn bad(file: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Invalid, format!("{}: {what}", file.display()))
}

/// A whole daemon.json with one runtime.
pub(super) fn docker_document(entry: &Value) -> String {
    format!("{{\n  \"runtimes\": {{\n    \"conex\": {entry}\n  }}\n}}\n")
}

fn parse(text: &str, file: &Path) -> Result<Value> {
    let value: Value = serde_json::from_slice(text.as_bytes())
        .map_err(|e| bad(file, format_args!("not valid JSON: {e}")))?;
    let runtimes = value.get("runtimes");
    if !value.is_object() || runtimes.is_some_and(|r| !r.is_object()) {
        return Err(bad(
            file,
            "not a configuration of dockerd: an object is expected, and runtimes is one",
        ));
    }
    Ok(value)
}

/// Offset just behind the brace that opens the object at this place.
fn inside(text: &str, field: &str) -> Option<usize> {
    let (line, column) = match field {
        "" => return text.find('{').map(|at| at + 1),
        field => bundle::position(text.as_bytes(), field)?,
    };
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let at = start + column - 1;
    text[at..].starts_with('{').then_some(at + 1)
}

pub(super) fn add_docker(text: Option<&str>, entry: &Value, file: &Path) -> Result<String> {
    let Some(text) = text.filter(|t| !t.trim().is_empty()) else {
        return Ok(docker_document(entry));
    };
    let old = parse(text, file)?;
    match &old["runtimes"]["conex"] {
        Value::Null => {}
        same if same == entry => return Ok(text.to_string()),
        _ => {
            let (line, _) = bundle::position(text.as_bytes(), "runtimes.conex").unwrap_or_default();
            return Err(bad(
                file,
                format_args!("runtimes.conex is there already (line {line}), with other values"),
            ));
        }
    }
    let (at, empty, addition) = match old["runtimes"].as_object() {
        Some(runtimes) => {
            (inside(text, "runtimes"), runtimes.is_empty(), format!("\n    \"conex\": {entry}"))
        }
        None => {
            let whole = format!("\n  \"runtimes\": {{\n    \"conex\": {entry}\n  }}");
            (inside(text, ""), old.as_object().is_some_and(|o| o.is_empty()), whole)
        }
    };
    let at = at.ok_or_else(|| bad(file, "no place for runtimes found"))?;
    let comma = if empty { "\n" } else { "," };
    let new = format!("{}{addition}{comma}{}", &text[..at], &text[at..]);
    // The proof that nothing else has changed.
    let mut check = parse(&new, file)?;
    let had_runtimes = old.get("runtimes").is_some();
    match check["runtimes"]
        .as_object_mut()
        .and_then(|r| r.remove("conex").map(|e| (e, r.is_empty())))
    {
        Some((e, left_empty)) if e == *entry => {
            if left_empty && !had_runtimes {
                check.as_object_mut().map(|o| o.remove("runtimes"));
            }
        }
        _ => return Err(bad(file, "the edited file would not hold the runtime")),
    }
    match check == old {
        true => Ok(new),
        false => Err(bad(
            file,
            "the edited file would differ in more than the runtime; it is left alone",
        )),
    }
}

/// The text without the runtime; `None` if nothing else was in the file.
pub(super) fn remove_docker(text: &str, file: &Path) -> Result<Option<String>> {
    let old = parse(text, file)?;
    let entry = &old["runtimes"]["conex"];
    if entry.is_null() {
        return Ok(Some(text.to_string()));
    }
    if text == docker_document(entry) {
        return Ok(None);
    }
    let whole = format!("\n  \"runtimes\": {{\n    \"conex\": {entry}\n  }}");
    let alone = format!("\n    \"conex\": {entry}");
    for addition in [&whole, &alone] {
        for comma in [",", "\n"] {
            let added = format!("{addition}{comma}");
            if text.matches(&added).count() == 1 {
                let new = text.replacen(&added, "", 1);
                parse(&new, file)?;
                return Ok(Some(new));
            }
        }
    }
    let (line, _) = bundle::position(text.as_bytes(), "runtimes.conex").unwrap_or_default();
    Err(bad(
        file,
        format_args!(
            "runtimes.conex (line {line}) is not as conex setup wrote it; remove it by hand"
        ),
    ))
}

const BEGIN: &str = "# Added by conex setup; conex setup --undo removes it.\n";
const END: &str = "# End of what conex setup added.\n";

/// The version of a configuration; a file without one has the first.
fn version(text: &str) -> u32 {
    let number =
        |l: &str| l.strip_prefix("version")?.trim_start().strip_prefix('=')?.trim().parse().ok();
    text.lines()
        .take_while(|l| !l.trim_start().starts_with('['))
        .find_map(|l| number(l.trim()))
        .unwrap_or(1)
}

/// The tables that make conex a runtime of the CRI plugin. `path`: of the shim, where containerd knows it best as another
/// one of runc's type. `kept`: a further table.
pub(super) fn containerd_block(text: &str, path: Option<&str>, kept: &str) -> Result<String> {
    let plugin = match (text.trim().is_empty(), version(text)) {
        (true, _) | (_, 2) => "io.containerd.grpc.v1.cri",
        (_, 3 | 4) => "io.containerd.cri.v1.runtime",
        (_, n) => {
            let what =
                format!("a containerd configuration of version {n}: expected `version = 2` or 3");
            return Err(Error::new(Kind::Unsupported, what));
        }
    };
    let head = if text.trim().is_empty() { "version = 2\n" } else { "" };
    let kind = match path {
        Some(path) => {
            format!("  runtime_type = \"io.containerd.runc.v2\"\n  runtime_path = {path:?}\n")
        }
        None => "  runtime_type = \"io.containerd.conex.v2\"\n".to_string(),
    };
    Ok(format!("{head}{BEGIN}[plugins.\"{plugin}\".containerd.runtimes.conex]\n{kind}{kept}{END}"))
}

/// The table of the default runtime, if of two dumps only the first has it.
pub(super) fn lost_default(before: &str, after: &str) -> String {
    let mut lines = before.lines().map(str::trim);
    let name = lines.find_map(|l| l.strip_prefix("default_runtime_name = ")).unwrap_or_default();
    let end = format!(".containerd.runtimes.{}]", &name.trim_matches(['"', '\'']));
    let mut rest = before.lines().map(str::trim).skip_while(|l| !l.ends_with(&end));
    match rest.next() {
        Some(head) if !after.contains(head) => {
            let kind = rest.find(|l| l.starts_with("runtime_type = ")).unwrap_or_default();
            format!("{head}\n  {kind}\n")
        }
        _ => String::new(),
    }
}

/// 2.1 of `containerd github.com/containerd/containerd/v2 2.1.4 …`.
pub(super) fn release(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().nth(2)?.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn add_containerd(
    text: &str,
    file: &Path,
    path: Option<&str>,
    kept: &str,
) -> Result<String> {
    if text.contains(BEGIN) {
        return Ok(text.to_string());
    }
    if let Some(line) = text.lines().position(|l| l.contains(".runtimes.conex]")) {
        return Err(bad(
            file,
            format_args!("a runtime conex is there already (line {})", line + 1),
        ));
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{gap}{}", containerd_block(text, path, kept).map_err(|e| bad(file, e))?))
}

pub(super) fn remove_containerd(text: &str, file: &Path) -> Result<Option<String>> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        return Ok(Some(text.to_string()));
    };
    let Some((_, after)) = rest.split_once(END) else {
        return Err(bad(file, "the end of what conex setup added is missing; remove it by hand"));
    };
    let left = format!("{before}{after}");
    Ok((left != "version = 2\n").then_some(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn docker_files_come_back_to_the_byte() {
        let entry = json!({"path": "/usr/local/sbin/conex"});
        let file = Path::new("daemon.json");
        for text in [
            "{}",
            "{\n}\n",
            "{ \"debug\": true }",
            "{\n  \"log-driver\": \"local\",\n  \"runtimes\": {}\n}\n",
            "{\"runtimes\": {\"x\": {\"path\": \"/x\"}}, \"a\": [1, 2.50]}",
            "{\t\"hosts\":[\"unix:///a\"],\n\"runtimes\" : { \"kata\":{\"runtimeType\":\"k\"} } }",
        ] {
            let new = add_docker(Some(text), &entry, file).unwrap();
            let value: Value = serde_json::from_str(&new).unwrap();
            assert_eq!(value["runtimes"]["conex"], entry, "{new}");
            assert_eq!(add_docker(Some(&new), &entry, file).unwrap(), new);
            assert_eq!(remove_docker(&new, file).unwrap().as_deref(), Some(text));
        }
        assert_eq!(remove_docker(&add_docker(None, &entry, file).unwrap(), file).unwrap(), None);
        for bad in [
            "{",
            "[]",
            "{\"runtimes\": 5}",
            "{\"runtimes\": {\"conex\": {\"path\": \"/other\"}}}",
            "{\"a\": 1,}",
        ] {
            assert!(add_docker(Some(bad), &entry, file).is_err(), "{bad}");
        }
    }

    #[test]
    fn containerd_files_come_back_to_the_byte() {
        let file = Path::new("config.toml");
        for (text, plugin) in [
            ("version = 2\n", "grpc.v1.cri"),
            ("# x\nversion = 3\n[grpc]\n  address = \"/a\"", "cri.v1.runtime"),
            ("version=2\n[plugins]\nversion = 7\n", "grpc.v1.cri"),
        ] {
            let new = add_containerd(
                text,
                file,
                Some("/x/shim").filter(|_| plugin.contains("runtime")),
                "",
            )
            .unwrap();
            assert!(
                new.contains(plugin) && new.contains("runtime_path") == plugin.contains("runtime"),
                "{new}"
            );
            let back = remove_containerd(&new, file).unwrap();
            assert_eq!(back.unwrap_or("version = 2\n".into()).trim_end(), text.trim_end());
        }
        assert!(add_containerd("[grpc]\n", file, None, "").is_err());
        assert!(add_containerd(
            "version = 2\n[plugins.\"x\".containerd.runtimes.conex]\n",
            file,
            None,
            ""
        )
        .is_err());
    }

    #[test]
    fn releases_of_containerd() {
        let text = "containerd github.com/containerd/containerd/v2 2.1.4 75cb2b7193e4\n";
        assert_eq!(release(text), Some((2, 1)));
        assert_eq!(
            release("containerd github.com/containerd/containerd v1.7.24~ds1 x"),
            Some((1, 7))
        );
        assert_eq!(release("something else"), None);
    }
}
