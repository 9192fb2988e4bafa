//! A bundle directory → [`Spec`], with the line of what cannot be read.

use crate::error::{Context, Error, Kind, Result};
use crate::oci::config::{Process, Spec};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub struct Bundle {
    pub path: PathBuf,
    /// config.json as it was read: kept with the state, and searched for the line of an error.
    pub text: Vec<u8>,
    pub spec: Spec,
}

/// Larger documents are refused before they are parsed.
const MAX: u64 = 64 << 20;

/// Reads `<dir>/config.json`.
pub fn open(dir: &Path) -> Result<Bundle> {
    let path = dir.canonicalize().call(|| format!("bundle {}", dir.display()))?;
    let text = read(&path.join("config.json"), false)?;
    let spec = parse::<Spec>(&text, "config.json")?;
    Ok(Bundle { path, text, spec })
}

/// Reads a process object from a file, for `exec --process`.
pub fn process(path: &Path) -> Result<Process> {
    let text = read(path, true)?;
    parse(&text, &path.display().to_string())
}

/// A document of bounded size. `pipe`: somebody may write it to a pipe for us (`-p <(…)`); otherwise the open must not
/// wait for a writer that never comes.
///
/// # Errors
/// A device or a directory; more than [`MAX`] bytes.
pub fn read(path: &Path, pipe: bool) -> Result<Vec<u8>> {
    let call = || format!("open({})", path.display());
    let bad = |what: String| Error::new(Kind::Invalid, format!("{}: {what}", path.display()));
    let wait = if pipe { OFlag::empty() } else { OFlag::O_NONBLOCK };
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | wait;
    let file = std::fs::File::from(nix::fcntl::open(path, flags, Mode::empty()).call(call)?);
    let kind = file.metadata().call(call)?.file_type();
    if !(kind.is_file() || pipe && kind.is_fifo()) {
        return Err(bad("not a regular file".into()));
    }
    read_all(file).call(call)?.ok_or_else(|| bad(format!("at most {MAX} bytes are read")))
}

/// The whole of a stream; `None` if it is larger than [`MAX`].
pub fn read_all(from: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX).then_some(bytes))
}

/// Parses; `null` is a document with nothing in it. serde_json says at which line and column it failed; the path of the
/// value there is found by walking the text once more, so that a good document pays nothing for it.
pub fn parse<T: serde::de::DeserializeOwned + Default>(text: &[u8], name: &str) -> Result<T> {
    // Where bytes are no UTF-8, they go on as [`crate::text`] writes them.
    let converted = crate::text::from_bytes(text);
    serde_json::from_slice::<Option<T>>(converted.as_bytes()).map(Option::unwrap_or_default).map_err(|e| {
        let text = converted.as_bytes();
        let path = if e.is_data() { path_at(text, e.line(), e.column()) } else { String::new() };
        Error::new(Kind::Invalid, format!("{name}: {e}")).at(path)
    })
}

/// The path of the innermost value that ends at or after a position (both count from 1) and starts before it.
fn path_at(text: &[u8], line: usize, column: usize) -> String {
    let start = match line {
        0 | 1 => 0,
        n => text.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(n - 2).map_or(0, |(i, _)| i + 1),
    };
    let mut scan = Scan { text, at: 0 };
    let mut path = String::new();
    let _ = scan.path_to(start + column.saturating_sub(1), &mut path, 0);
    path
}

/// Adds the line and column of the field to errors that only know its path.
pub fn locate(text: &[u8], errors: Vec<Error>) -> Vec<Error> {
    errors
        .into_iter()
        .map(|mut e| {
            if let Some((line, column)) = position(text, &e.field) {
                e.what = format!("{} (config.json line {line} column {column})", e.what);
            }
            e
        })
        .collect()
}

/// All problems in one error, for those who can take only one.
pub fn join(errors: Vec<Error>) -> Error {
    let mut list = errors.into_iter();
    let Some(mut first) = list.next() else {
        return Error::new(Kind::Invalid, "unknown problem");
    };
    for e in list {
        first.what = format!("{}; {e}", first.what);
    }
    first
}

/// Where the value of `linux.namespaces[2].path` starts, or the nearest part of the path that exists. Line and
/// column count from 1.
pub fn position(text: &[u8], field: &str) -> Option<(usize, usize)> {
    let mut scan = Scan { text, at: 0 };
    // What is missing at the top is missing from the document as a whole.
    let mut best = if steps(field).is_empty() { None } else { Some(text.iter().position(|b| *b == b'{')?) };
    for step in steps(field) {
        let found = match step {
            Step::Key(key) => scan.enter_key(&key),
            Step::Index(i) => scan.enter_index(i),
        };
        if found.is_none() {
            break;
        }
        best = Some(scan.at);
    }
    let before = &text[..best?];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.len() - before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1) + 1;
    Some((line, column))
}

enum Step {
    Key(String),
    Index(usize),
}

/// `linux.sysctl["net.ipv4.x"]` and `mounts[1].options[0]` as steps.
fn steps(field: &str) -> Vec<Step> {
    let mut out = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[\"") {
            let Some(end) = inner.find("\"]") else { break };
            out.push(Step::Key(inner[..end].to_string()));
            rest = &inner[end + 2..];
        } else if let Some(inner) = rest.strip_prefix('[') {
            let Some(end) = inner.find(']') else { break };
            let Ok(i) = inner[..end].parse() else { break };
            out.push(Step::Index(i));
            rest = &inner[end + 1..];
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            out.push(Step::Key(rest[..end].to_string()));
            rest = &rest[end..];
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    out
}

/// Walks a document that is known to be valid JSON.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn space(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|b| b.is_ascii_whitespace() || *b == b',' || *b == b':') {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// A string; `None` if there is none.
    fn string(&mut self) -> Option<&[u8]> {
        if self.text.get(self.at) != Some(&b'"') {
            return None;
        }
        let from = self.at + 1;
        self.at = from;
        loop {
            match self.text.get(self.at)? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(from..self.at - 1)
    }

    /// Over a value, however deep it is.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.space()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    if !matches!(self.space()?, b'}' | b']') {
                        continue;
                    }
                }
                b'}' | b']' => {}
                _ => {
                    while self.text.get(self.at).is_some_and(|b| !b",:}] \t\r\n".contains(b)) {
                        self.at += 1;
                    }
                }
            }
            // A value is over, and with it all that end here.
            while depth > 0 && matches!(self.space()?, b'}' | b']') {
                depth -= 1;
                self.at += 1;
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Goes down to the value that covers `offset`; true if this one does. What ended before it has been passed already, and
    /// of a value of another kind than expected serde_json tells the place right before it. No deeper than serde_json reads what it knows.
    fn path_to(&mut self, offset: usize, path: &mut String, depth: u32) -> Option<bool> {
        let open = self.space()?;
        if open != b'{' && open != b'[' || depth > 130 {
            self.skip()?;
            return Some(offset < self.at);
        }
        if offset < self.at {
            self.skip()?;
            return Some(true);
        }
        self.at += 1;
        let mut index = 0;
        while !matches!(self.space()?, b'}' | b']') {
            let before = path.len();
            if open == b'{' {
                let key = String::from_utf8_lossy(self.string()?).into_owned();
                let plain = key.bytes().all(|b| b.is_ascii_alphanumeric());
                let dot = if path.is_empty() || !plain { "" } else { "." };
                *path += &if plain { format!("{dot}{key}") } else { format!("[{key:?}]") };
                // A wrong key, rather than a wrong value.
                if offset < self.at {
                    return Some(true);
                }
            } else {
                *path += &format!("[{index}]");
                index += 1;
            }
            if self.path_to(offset, path, depth + 1)? {
                return Some(true);
            }
            path.truncate(before);
        }
        self.at += 1;
        Some(offset < self.at)
    }

    fn enter_key(&mut self, key: &str) -> Option<()> {
        if self.space()? != b'{' {
            return None;
        }
        self.at += 1;
        while self.space()? == b'"' {
            let found = self.string()? == key.as_bytes();
            self.space()?;
            if found {
                return Some(());
            }
            self.skip()?;
        }
        None
    }

    fn enter_index(&mut self, index: usize) -> Option<()> {
        if self.space()? != b'[' {
            return None;
        }
        self.at += 1;
        for _ in 0..index {
            if self.space()? == b']' {
                return None;
            }
            self.skip()?;
        }
        (self.space()? != b']').then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"{\n  \"a\": [1, {\"b\\\"c\": 2}],\n  \"linux\": {\"sysctl\": {\"net.x\": \"1\"},\n    \"n\": [ {\"p\": \"q\"} ] }\n}";

    #[test]
    fn positions() {
        assert_eq!(position(TEXT, "a[1]"), Some((2, 12)));
        assert_eq!(position(TEXT, "linux.sysctl[\"net.x\"]"), Some((3, 33)));
        assert_eq!(position(TEXT, "linux.n[0].p"), Some((4, 18)));
        // What is missing is shown at its parent.
        assert_eq!(position(TEXT, "linux.n[3].p"), Some((4, 10)));
        assert_eq!(position(TEXT, "nothing"), Some((1, 1)));
        assert_eq!(position(TEXT, ""), None);
    }

    #[test]
    fn depth_is_no_danger() {
        for open in ["[", "{\"x\":", "[[],{},"] {
            let (count, close) = (200_000, if open.starts_with('{') { "}" } else { "]" });
            let deep = format!("{}1{}", open.repeat(count), close.repeat(count));
            let text = format!("{{\"unknown\": {deep}, \"hostname\": 5}}");
            assert_eq!(position(text.as_bytes(), "hostname").map(|p| p.0), Some(1), "{open}");
            let e = parse::<Spec>(text.as_bytes(), "config.json").unwrap_err();
            assert_eq!(e.field, "hostname", "{open}: {}", &e.what[..60]);
            let known = format!("{{\"mounts\": {deep}}}");
            assert!(parse::<Spec>(known.as_bytes(), "config.json").is_err());
        }
        for text in ["{", "[", "{\"a\"", "{\"a\":", "]", "}", "{]", "\"", "", "{\"a\":[1,", "{5:1}"] {
            let _ = (position(text.as_bytes(), "a[1].b"), path_at(text.as_bytes(), 1, 3));
        }
    }

    #[test]
    fn arrays_are_no_objects_and_null_is_nothing() {
        for (text, field) in [
            ("{\"linux\":[]}", "linux"),
            ("{\"process\":[true]}", "process"),
            ("{\"linux\":{\"resources\":[[]]}}", "linux.resources"),
            ("{\"mounts\":[[]]}", "mounts[0]"),
        ] {
            let e = parse::<Spec>(text.as_bytes(), "config.json").unwrap_err();
            assert!(e.field == field && e.what.contains("expected an object"), "{text}: {e}");
        }
        assert!(parse::<Spec>(b"[]", "config.json").unwrap_err().what.contains("expected an object"));
        for text in ["null", "{}", "{\"root\":null,\"mounts\":null,\"annotations\":null,\"ociVersion\":null}"] {
            assert_eq!(parse::<Spec>(text.as_bytes(), "config.json").unwrap(), Spec::default(), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        let spec = parse::<Spec>(b"{\"process\":{\"args\":[\"a\xffb\"]}}", "config.json").unwrap();
        assert_eq!(crate::text::bytes(&spec.process.unwrap().args[0]).as_ref(), b"a\xffb");
    }

    #[test]
    fn type_errors_name_the_path() {
        let e = parse::<Spec>(b"{\"mounts\":[{},{\"options\":[\"ro\",7]}]}", "config.json").unwrap_err();
        assert_eq!(e.field, "mounts[1].options[1]");
        assert!(e.what.contains("line 1 column"), "{e}");
    }
}
