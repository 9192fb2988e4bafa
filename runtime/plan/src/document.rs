//! The text of config.json → [`Spec`], with the line of what cannot be read.

pub mod scan;
pub mod show;
mod walk;
mod words;

use crate::error::{Error, Kind, Result};
use crate::oci::config::Spec;
use crate::oci::shape::{self, Shape};
use scan::{steps, PathStep, Scan};
use std::path::PathBuf;

pub struct Bundle {
    pub path: PathBuf,
    /// config.json as it was read: kept with the state, and searched for the line of an error.
    pub text: Vec<u8>,
    /// The file that it was read from.
    pub document: PathBuf,
    pub spec: Spec,
    /// See [`Parsed`].
    pub bad: Vec<Error>,
    pub unknown: Vec<Error>,
}

impl Bundle {
    /// [`locate`], if there is a file that the reader can open: `run --rootfs` hands over a document by a descriptor.
    pub fn locate(&self, errors: Vec<Error>) -> Vec<Error> {
        match self.document.starts_with("/proc/self/fd") {
            true => errors,
            false => locate(&self.text, errors),
        }
    }

    /// True of a problem at or below a value of a wrong type: the plan has not seen that value.
    pub fn is_told(&self, e: &Error) -> bool {
        is_told(&self.bad, &e.field)
    }

    /// What was decided about the document, or all that is wrong with it: of what has the wrong type, the plan sees
    /// nothing, and what it says of such a field is no news.
    ///
    /// # Errors
    /// Every problem, by the order of the checks; never empty.
    pub fn judge<T>(
        &self,
        plan: std::result::Result<T, Vec<Error>>,
    ) -> std::result::Result<T, Vec<Error>> {
        if self.bad.is_empty() {
            return plan;
        }
        let mut all = self.bad.clone();
        all.extend(plan.err().unwrap_or_default().into_iter().filter(|e| !self.is_told(e)));
        let more = all.len().saturating_sub(crate::check::MOST);
        if more > 0 {
            all.truncate(crate::check::MOST);
            all.push(Error::invalid("", format!("and {more} or more others")));
        }
        Err(all)
    }
}

fn is_told(bad: &[Error], field: &str) -> bool {
    bad.iter().any(|b| {
        let rest = field.strip_prefix(&b.field);
        // mounts[1] is not above mounts[10].
        rest.is_some_and(|r| b.field.is_empty() || r.is_empty() || r.starts_with(['.', '[']))
    })
}

/// What has a wrong type in a part of a document that came by itself, and what the plan found beside it. The plan names its
/// fields by where the part belongs, such as `process.`.
pub fn with_plan(bad: Vec<Error>, plan: Vec<Error>, belongs: &str) -> Vec<Error> {
    let news = |e: &Error| !is_told(&bad, e.field.strip_prefix(belongs).unwrap_or(&e.field));
    let plan: Vec<Error> = plan.into_iter().filter(news).collect();
    bad.into_iter().chain(plan).collect()
}

/// What a text says.
pub struct Parsed<T> {
    pub value: T,
    /// Values of another type than their field has; they are left out of `value`.
    pub bad: Vec<Error>,
    /// Fields that this version does not know.
    pub unknown: Vec<Error>,
}

/// Parses; `null` is a document with nothing in it. A good document is read once; where something is wrong or unknown
/// the text is walked beside its [`Shape`], so that everything is found at once.
///
/// # Errors
/// The text is no JSON.
pub fn parse_all<T: serde::de::DeserializeOwned + Default + Shape>(
    text: &[u8],
    name: &str,
) -> Result<Parsed<T>> {
    // Where bytes are no UTF-8, they go on as [`crate::text`] writes them.
    let converted = crate::text::from_bytes(text);
    shape::forget_unknown();
    let read = serde_json::from_slice::<Option<T>>(converted.as_bytes());
    match read {
        Ok(value) if !shape::saw_unknown() => {
            Ok(Parsed { value: value.unwrap_or_default(), bad: Vec::new(), unknown: Vec::new() })
        }
        read => {
            // Whatever else is wrong comes after that: only JSON can be walked.
            let whole = serde_json::from_slice::<serde::de::IgnoredAny>(converted.as_bytes()).err();
            let broken = read.as_ref().err().filter(|e| !e.is_data()).or(whole.as_ref());
            if let Some(e) = broken {
                let said = Error::new(Kind::Invalid, format!("{name}: {}", words::syntax(e, text)));
                // In the middle of a value, it has a name.
                let inside = [
                    "\\u must",
                    "a string must not",
                    "a backslash",
                    "a number this large",
                    "this is no number",
                ];
                return Err(match inside.iter().any(|w| said.what.contains(w)) {
                    true => said.at(path_at(converted.as_bytes(), e.line(), e.column())),
                    false => said,
                });
            }
            let found = walk::compare(converted.as_bytes(), T::node);
            let value = match &found.mended {
                None => read,
                Some(mended) => serde_json::from_slice::<Option<T>>(mended),
            };
            let value = value.map_err(|e| {
                let path = path_at(converted.as_bytes(), e.line(), e.column());
                Error::new(Kind::Invalid, format!("{name}: {e}")).at(path)
            })?;
            Ok(Parsed { value: value.unwrap_or_default(), bad: found.bad, unknown: found.unknown })
        }
    }
}

/// As [`parse_all`], for those who ask for no warnings.
///
/// # Errors
/// The text is no JSON, or a value has another type than its field.
pub fn parse<T: serde::de::DeserializeOwned + Default + Shape>(
    text: &[u8],
    name: &str,
) -> Result<T> {
    let parsed = parse_all::<T>(text, name)?;
    if parsed.bad.is_empty() {
        return Ok(parsed.value);
    }
    Err(join(locate(text, parsed.bad)))
}

/// The path of the innermost value that ends at or after a position (both count from 1) and starts before it.
fn path_at(text: &[u8], line: usize, column: usize) -> String {
    let start = match line {
        0 | 1 => 0,
        n => text
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'\n')
            .nth(n - 2)
            .map_or(0, |(i, _)| i + 1),
    };
    let mut scan = Scan { text, at: 0 };
    let mut path = String::new();
    let _ = scan.path_to(start + column.saturating_sub(1), &mut path, 0);
    path
}

/// Adds the line and column of the field to errors that only know its path. Of a document that is one line long,
/// as engines write it, they would help nobody.
pub fn locate(text: &[u8], errors: Vec<Error>) -> Vec<Error> {
    if !text.trim_ascii().contains(&b'\n') {
        return errors;
    }
    errors
        .into_iter()
        .map(|mut e| {
            // A flag of the command line is no field.
            let place = if e.field.starts_with("--") { None } else { position(text, &e.field) };
            if let Some((line, column)) = place {
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
    let at = offset(text, field)?;
    let before = &text[..at];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.len() - before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1) + 1;
    Some((line, column))
}

/// The same place, as an index into the text.
pub fn offset(text: &[u8], field: &str) -> Option<usize> {
    let mut scan = Scan { text, at: 0 };
    // What is missing at the top is missing from the document as a whole.
    let mut best =
        if steps(field).is_empty() { None } else { Some(text.iter().position(|b| *b == b'{')?) };
    for step in steps(field) {
        let found = match step {
            PathStep::Key(key) => scan.enter_key(&key),
            PathStep::Index(i) => scan.enter_index(i),
        };
        if found.is_none() {
            break;
        }
        best = Some(scan.at);
    }
    best
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
        for text in ["{", "[", "{\"a\"", "{\"a\":", "]", "}", "{]", "\"", "", "{\"a\":[1,", "{5:1}"]
        {
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
        assert!(parse::<Spec>(b"[]", "config.json")
            .unwrap_err()
            .what
            .contains("expected an object"));
        for text in [
            "null",
            "{}",
            "{\"root\":null,\"mounts\":null,\"annotations\":null,\"ociVersion\":null}",
        ] {
            assert_eq!(
                parse::<Spec>(text.as_bytes(), "config.json").unwrap(),
                Spec::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        let spec = parse::<Spec>(b"{\"process\":{\"args\":[\"a\xffb\"]}}", "config.json").unwrap();
        assert_eq!(crate::text::bytes(&spec.process.unwrap().args[0]).as_ref(), b"a\xffb");
    }

    #[test]
    fn type_errors_name_the_path() {
        let e = parse::<Spec>(b"{\"mounts\":\n[{},{\"options\":[\"ro\",7]}]}", "config.json")
            .unwrap_err();
        assert_eq!(e.field, "mounts[1].options[1]");
        assert!(e.what.contains("line 2 column"), "{e}");
        // In a document of one line its number says nothing.
        let e = parse::<Spec>(b"{\"hostname\":7}", "config.json").unwrap_err();
        assert!(!e.what.contains("column"), "{e}");
    }

    #[test]
    fn everything_at_once() {
        let text = br#"{
            "ociVersion": "1.2.0", "secomp": 1, "hostname": 5, "hostname": "twice", "windows": {},
            "process": {"args": "sh", "user": {"uid": -1, "username": "root"}, "noNewPrivilege": true, "cwd": "/"},
            "mounts": [[1], {"destination": "/a", "options": ["ro", null]}],
            "annotations": {"a": "b", "c": 5},
            "linux": {"resources": {"memory": {"limit": 1.5}, "pids": null}, "sysctl": []}
        }"#;
        let all = parse_all::<Spec>(text, "config.json").unwrap();
        let fields = |list: &[Error]| list.iter().map(|e| e.field.clone()).collect::<Vec<_>>();
        assert_eq!(
            fields(&all.bad),
            [
                "hostname",
                "hostname",
                "process.args",
                "process.user.uid",
                "mounts[0]",
                "mounts[1].options[1]",
                "annotations.c",
                "linux.resources.memory.limit",
                "linux.sysctl"
            ]
        );
        assert_eq!(
            fields(&all.unknown),
            ["secomp", "windows", "process.user.username", "process.noNewPrivilege"]
        );
        assert!(
            all.unknown[3].what.contains("did you mean noNewPrivileges?"),
            "{}",
            all.unknown[3]
        );
        // What is right is read.
        assert_eq!(all.value.process.as_ref().map(|p| p.cwd.as_str()), Some("/"));
        assert_eq!(all.value.mounts[1].destination, "/a");
        assert_eq!(all.value.oci_version, "1.2.0");
        let good = parse_all::<Spec>(b"{\"hostname\": \"a\"}", "config.json").unwrap();
        assert!(good.bad.is_empty() && good.unknown.is_empty());
    }

    #[test]
    fn no_word_of_the_parser_reaches_a_reader() {
        for (text, said) in [
            (&b"\xef\xbb\xbf{}"[..], "byte order mark"),
            (b"", "the file is empty"),
            (b"{\"a\": ", "ends in the middle"),
            (b"{\"a\": 1,}", "nothing after it"),
            (b"{\"a\": nul}", "expected a value"),
            (b"{a: 1}", "a name in double quotes"),
            (b"{} {}", "follows the end"),
            (b"{\"hostname\": \"\\ud800\"}", "surrogate"),
            (b"{\"a\" 1}", "a colon"),
            (b"{\"a\": 01}", "no number"),
            (b"{\"hostname\": [1}", "the end of the array"),
        ] {
            let e = parse::<Spec>(text, "config.json").unwrap_err().to_string();
            assert!(e.contains(said), "{}: {e}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_wrong_type_hides_what_is_below_it_and_nothing_else() {
        let bundle = Bundle {
            path: PathBuf::new(),
            text: Vec::new(),
            document: PathBuf::new(),
            spec: Spec::default(),
            bad: vec![Error::invalid("mounts[1]", "x"), Error::invalid("process.user", "x")],
            unknown: Vec::new(),
        };
        let told = |field: &str| bundle.is_told(&Error::invalid(field, "y"));
        assert!(told("mounts[1]") && told("mounts[1].options[0]") && told("process.user.uid"));
        assert!(!told("mounts[10]") && !told("mounts") && !told("process.username"));
    }
}
