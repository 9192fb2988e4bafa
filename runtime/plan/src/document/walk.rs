//! A text beside the shape of its document: what is unknown, and what has the wrong type, all at once.

use super::scan::Scan;
use super::words;
use crate::check::MOST;
use crate::error::{Error, Kind};
use crate::oci::shape::Node;
use crate::text;

#[derive(Default)]
pub struct Found {
    pub bad: Vec<Error>,
    pub unknown: Vec<Error>,
    /// The text with another value in place of each bad one; `None` if there is none.
    pub mended: Option<Vec<u8>>,
}

struct Walk<'a> {
    scan: Scan<'a>,
    path: String,
    found: Found,
    root: Node,
    /// Start and end of what is replaced, and by what.
    mends: Vec<(usize, usize, &'static str)>,
}

/// Walks a text that is known to be JSON.
pub fn compare(text: &[u8], node: fn() -> Node) -> Found {
    let (scan, again) = (Scan { text, at: 0 }, node());
    let mut walk = Walk {
        scan,
        path: String::new(),
        found: Found::default(),
        root: node(),
        mends: Vec::new(),
    };
    let _ = walk.value(&again, true);
    let Walk { mut found, mends, .. } = walk;
    if mends.is_empty() {
        return found;
    }
    let mut out = Vec::with_capacity(text.len());
    let mut done = 0;
    for (start, end, by) in mends {
        out.extend_from_slice(&text[done..start]);
        out.extend_from_slice(by.as_bytes());
        done = end;
    }
    out.extend_from_slice(&text[done..]);
    found.mended = Some(out);
    found
}

/// What is known to be meant otherwise; the others may be a slip of the pen.
const ELSEWHERE: [(&str, &str); 7] = [
    ("process.user.username", "only Windows takes a name; on Linux the user is uid and gid"),
    ("process.commandLine", "only Windows takes it; on Linux the command is args"),
    ("windows", "for Windows; it has no effect here"),
    ("solaris", "for Solaris; it has no effect here"),
    ("vm", "for virtual machines; it has no effect here"),
    ("zos", "for z/OS; it has no effect here"),
    ("freebsd", "for FreeBSD; it has no effect here"),
];

/// Where a field of that name, or nearly that name, belongs; not inside lists.
fn place_of(key: &str, node: &Node, path: &str) -> Option<String> {
    let Node::Object { names, types } = node else { return None };
    let (dot, names) = (if path.is_empty() { "" } else { "." }, names());
    if let Some(name) = text::closest(key, names.iter().copied()).filter(|_| key.len() > 4) {
        return Some(format!("{path}{dot}{name}"));
    }
    names
        .iter()
        .zip(*types)
        .find_map(|(name, node)| place_of(key, &node(), &format!("{path}{dot}{name}")))
}

impl Walk<'_> {
    /// One value; `null` is nothing where the value may be absent.
    fn value(&mut self, node: &Node, optional: bool) -> Option<()> {
        let first = self.scan.space()?;
        let start = self.scan.at;
        if optional && self.scan.text[start..].starts_with(b"null") {
            return self.scan.skip();
        }
        match (node, first) {
            (Node::Object { names, types }, b'{') => self.object(names(), types),
            (Node::Map(inner), b'{') => self.map(*inner),
            (Node::List(inner), b'[') => self.list(*inner),
            _ => {
                self.scan.skip()?;
                let value = self.scan.text.get(start..self.scan.at)?;
                let default = match node {
                    Node::Leaf { check, .. } if check(value) => return Some(()),
                    Node::Leaf { default, .. } => default,
                    Node::List(_) => "[]",
                    _ => "{}",
                };
                self.bad(format!(
                    "expected {}, found {}",
                    words::expected(node),
                    words::value(value)
                ));
                self.mends.push((start, self.scan.at, default));
                Some(())
            }
        }
    }

    fn bad(&mut self, what: String) {
        if self.found.bad.len() < MOST {
            self.found.bad.push(Error::invalid(self.path.clone(), what));
        }
    }

    /// Over one key; the path names it.
    fn key(&mut self) -> Option<String> {
        let start = self.scan.at;
        let raw = self.scan.string()?;
        let key = match raw.contains(&b'\\') {
            true => serde_json::from_slice(self.scan.text.get(start..self.scan.at)?).ok()?,
            false => String::from_utf8_lossy(raw).into_owned(),
        };
        super::scan::push_key(&mut self.path, &key);
        Some(key)
    }

    fn object(&mut self, names: &[&'static str], types: &[fn() -> Node]) -> Option<()> {
        let mut seen = vec![false; names.len()];
        self.each(b'}', |walk, _| {
            let key = walk.key()?;
            let Some(i) = names.iter().position(|n| *n == key) else {
                walk.unknown(&key, names);
                return walk.scan.skip();
            };
            if std::mem::replace(&mut seen[i], true) {
                // The first one stays: both are under one name, so that the second is renamed.
                walk.bad("is given twice".into());
                let end = walk.scan.at;
                walk.scan.skip()?;
                let quote = walk.scan.text[..end].iter().rposition(|b| *b == b'"')?;
                walk.mends.push((quote, quote, " "));
                return Some(());
            }
            walk.value(&types[i](), true)
        })
    }

    fn map(&mut self, inner: fn() -> Node) -> Option<()> {
        self.each(b'}', |walk, _| {
            walk.key()?;
            walk.value(&inner(), false)
        })
    }

    fn list(&mut self, inner: fn() -> Node) -> Option<()> {
        self.each(b']', |walk, i| {
            walk.path += &format!("[{i}]");
            walk.value(&inner(), false)
        })
    }

    /// Every member of an object or array, each with the path of the whole before it.
    fn each(
        &mut self,
        close: u8,
        mut member: impl FnMut(&mut Self, usize) -> Option<()>,
    ) -> Option<()> {
        self.scan.at += 1;
        let before = self.path.len();
        let mut index = 0;
        while self.scan.space()? != close {
            member(self, index)?;
            self.path.truncate(before);
            index += 1;
        }
        self.scan.at += 1;
        Some(())
    }

    fn unknown(&mut self, key: &str, names: &[&'static str]) {
        if self.found.unknown.len() >= MOST {
            return;
        }
        let what = match ELSEWHERE.iter().find(|(path, _)| *path == self.path) {
            Some((_, what)) => (*what).to_string(),
            None => match text::closest(key, names.iter().copied()) {
                Some(meant) => format!("unknown field; did you mean {meant}?"),
                None => match place_of(key, &self.root, "") {
                    Some(path) => format!("unknown field here; did you mean {path}?"),
                    None => "unknown field; it has no effect".into(),
                },
            },
        };
        self.found.unknown.push(Error::new(Kind::Unknown, what).at(self.path.clone()));
    }
}
