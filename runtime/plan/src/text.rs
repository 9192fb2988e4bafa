//! Text that need not be UTF-8: arguments, variables and paths are bytes to the kernel, and pass through unchanged.
//!
//! Inside the program they are `String`s. A byte that is no part of UTF-8 is the character `U+10FF00` plus the byte, and
//! a character of that range, which is private to nobody, is its four bytes so. What comes in by [`from_bytes`] goes out by
//! [`bytes`] and the others as it was.

use std::borrow::Cow;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

const FIRST: u32 = 0x10_FF00;

/// `Path::starts_with` for two clean paths, without looking at every component.
pub fn is_below(path: &Path, level: &Path) -> bool {
    let rest =
        path.as_os_str().as_encoded_bytes().strip_prefix(level.as_os_str().as_encoded_bytes());
    rest.is_some_and(|r| r.is_empty() || r[0] == b'/')
}

/// The byte that a character stands for.
fn byte_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(FIRST)?).ok().filter(|b| *b >= 0x80)
}

fn char_of(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// True if nothing has to be written in another way.
fn is_plain(text: &str) -> bool {
    // All characters of the range begin with this byte.
    !text.as_bytes().contains(&0xf4) || !text.chars().any(|c| byte_of(c).is_some())
}

pub fn from_bytes(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if is_plain(text) {
            return Cow::Borrowed(text);
        }
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match byte_of(c) {
                None => out.push(c),
                Some(_) => out.extend(c.encode_utf8(&mut [0; 4]).bytes().map(char_of)),
            }
        }
        out.extend(chunk.invalid().iter().map(|b| char_of(*b)));
    }
    Cow::Owned(out)
}

pub fn bytes(text: &str) -> Cow<'_, [u8]> {
    if is_plain(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(out)
}

pub fn os(text: &str) -> Cow<'_, OsStr> {
    match bytes(text) {
        Cow::Borrowed(b) => Cow::Borrowed(OsStr::from_bytes(b)),
        Cow::Owned(b) => Cow::Owned(OsString::from_vec(b)),
    }
}

pub fn path(text: &str) -> Cow<'_, Path> {
    match os(text) {
        Cow::Borrowed(o) => Cow::Borrowed(Path::new(o)),
        Cow::Owned(o) => Cow::Owned(PathBuf::from(o)),
    }
}

pub fn of_path(path: &Path) -> String {
    from_bytes(path.as_os_str().as_bytes()).into_owned()
}

/// `path` without `.`, `..` and doubled slashes, relative to its root: `/../a//b/.` is `a/b`.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// As execve takes it; the plan has refused every string with a NUL.
pub fn c(text: &str) -> CString {
    CString::new(bytes(text).as_ref()).unwrap_or_default()
}

/// Paths in a JSON document of ours.
pub mod serde_path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::path::{Path, PathBuf};

    pub fn serialize<S: Serializer>(path: &Path, s: S) -> Result<S::Ok, S::Error> {
        super::of_path(path).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        String::deserialize(d).map(|text| super::path(&text).into_owned())
    }
}

/// Paths in a document for others, who cannot be told what is no text.
pub mod shown {
    use serde::{Serialize, Serializer};
    use std::path::Path;

    pub fn serialize<S: Serializer>(path: &&Path, s: S) -> Result<S::Ok, S::Error> {
        path.to_string_lossy().serialize(s)
    }
}

/// The same for a list.
pub mod serde_paths {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::path::PathBuf;

    pub fn serialize<S: Serializer>(list: &[PathBuf], s: S) -> Result<S::Ok, S::Error> {
        list.iter().map(|p| super::of_path(p)).collect::<Vec<_>>().serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PathBuf>, D::Error> {
        let list = Vec::<String>::deserialize(d)?;
        Ok(list.iter().map(|text| super::path(text).into_owned()).collect())
    }
}

/// A decimal such as `1.5` in units of `1 / unit`, cut to a whole number; `None` for another text or a number too large.
pub fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && part.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    // More digits say nothing for the units that there are.
    let part = &part[..part.len().min(18)];
    let tenths = 10u128.pow(part.len() as u32);
    let part = if part.is_empty() { 0 } else { part.parse::<u128>().ok()? };
    u64::try_from(u128::from(whole) * u128::from(unit) + part * u128::from(unit) / tenths).ok()
}

/// The name that somebody may have meant: the nearest of `known`, if it is near for its length.
pub fn closest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = given.chars().count().div_ceil(3).min(3);
    known
        .map(|name| (distance(given, name), name))
        .filter(|(d, name)| *d <= most && *d < name.chars().count())
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Letters to insert, remove, replace or swap with the next one; letters that differ by case are the same
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let lower = |t: &str| t.chars().take(64).map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>();
    let (a, b) = (lower(a), lower(b));
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (row[j] + 1).min(next[j - 1] + 1).min(row[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

/// A text for people: of one beyond 300 characters the middle is left out, where long values stand.
pub fn shortened(text: String) -> String {
    shortened_to(text, 300)
}

pub fn shortened_to(text: String, most: usize) -> String {
    // Bytes are quick to count, and never fewer.
    if text.len() <= most || text.chars().count() <= most {
        return text;
    }
    let all: Vec<char> = text.chars().collect();
    let (start, end) = (&all[..most / 2], &all[all.len() - most / 2 + 3..]);
    start.iter().copied().chain("...".chars()).chain(end.iter().copied()).collect()
}

/// cpuset(7) list format, `0-3,7`, as a bit set; at most 8192 bits.
pub fn bit_set(text: &str) -> Option<Vec<u64>> {
    let mut bits: Vec<u64> = Vec::new();
    for part in text.split(',') {
        let (from, to) = match part.trim().split_once('-') {
            Some((a, b)) => (a.parse::<usize>().ok()?, b.parse::<usize>().ok()?),
            None => (part.trim().parse().ok()?, part.trim().parse().ok()?),
        };
        if from > to || to >= 8192 {
            return None;
        }
        bits.resize(bits.len().max(to / 64 + 1), 0);
        for bit in from..=to {
            bits[bit / 64] |= 1 << (bit % 64);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for (text, unit, want) in [
            ("1.5", 1 << 30, Some(3 << 29)),
            ("0.01", 100_000, Some(1000)),
            (".5", 2, Some(1)),
            ("7.", 3, Some(21)),
            ("12.34", 100, Some(1234)),
            ("0.9999999999999999999999", 1, Some(0)),
            ("18446744073709551615", 1, Some(u64::MAX)),
            ("18446744073709551616", 1, None),
            ("18446744073709551615", 2, None),
            (".", 1, None),
            ("", 1, None),
            ("-1", 1, None),
            ("1.-5", 1, None),
        ] {
            assert_eq!(decimal(text, unit), want, "{text}");
        }
    }

    #[test]
    fn what_was_meant() {
        let names = ["seccomp", "readonly", "noNewPrivileges", "kill", "run", "uid"];
        for (given, meant) in [
            ("secomp", Some("seccomp")),
            ("readOnly", Some("readonly")),
            ("noNewPrivilege", Some("noNewPrivileges")),
            ("killl", Some("kill")),
            ("rnu", Some("run")),
            ("x", None),
            ("", None),
            ("username", None),
        ] {
            assert_eq!(closest(given, names.into_iter()), meant, "{given}");
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let private = "x\u{10ff80}\u{10ffff}\u{10ff7f}\u{10fffe}y".as_bytes();
        for input in [
            &all[..],
            b"plain",
            "gr\u{fc}n".as_bytes(),
            b"\xff\xfe",
            b"a\xc3",
            b"\xf4\x8f\xbe",
            private,
            b"",
        ] {
            let text = from_bytes(input);
            assert_eq!(bytes(&text).as_ref(), input);
            assert_eq!(
                path(&of_path(Path::new(OsStr::from_bytes(input)))).as_os_str().as_bytes(),
                input
            );
        }
        assert!(matches!(from_bytes(b"plain"), Cow::Borrowed("plain")));
        assert!(matches!(bytes("gr\u{fc}n \u{1f980}"), Cow::Borrowed(_)));
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(bit_set("0-2,64"), Some(vec![7, 1]));
        for bad in ["", "3-1", "a", "1-", "9999"] {
            assert_eq!(bit_set(bad), None, "{bad}");
        }
    }
}
