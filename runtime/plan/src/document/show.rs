//! Problems as a compiler shows them: the line, a mark below it, and what was expected.

use super::{offset, scan};
use crate::error::{Error, Kind};
use std::fmt::Write;

/// How a problem is headed, and in which colour of a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    Warning,
    Note,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Level::Error => "\x1b[1;31m",
            Level::Warning => "\x1b[1;33m",
            Level::Note => "\x1b[1;36m",
        }
    }
}

/// Where the words of a problem point to: line and column from 1, the line as far as it is shown, where the mark begins
/// in it, and how long the mark is.
pub struct Place {
    pub line: usize,
    pub column: usize,
    shown: String,
    before: usize,
    width: usize,
}

/// Characters of a line that are shown before and after the mark.
const ROOM: usize = 60;

/// The place of a field; of an unknown one, its name.
pub fn place(text: &[u8], e: &Error) -> Option<Place> {
    let value = offset(text, &e.field)?;
    Some(place_of(
        text,
        match e.kind {
            Kind::Unknown => scan::key_before(text, value).unwrap_or(value),
            _ => value,
        },
    ))
}

/// The place of a byte.
pub fn place_of(text: &[u8], at: usize) -> Place {
    let start = text[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let end = text[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |i| at + i);
    let line = text[..at].iter().filter(|b| **b == b'\n').count() + 1;
    let mut token = scan::Scan { text, at };
    let _ = token.skip();
    let plain = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace('\t', "    ");
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<Vec<char>>()
    };
    let (before, after) = (plain(&text[start..at]), plain(&text[at..end]));
    let width = plain(&text[at..token.at.clamp(at, end)]).len().clamp(1, ROOM);
    let cut = before.len().saturating_sub(ROOM);
    let mut shown: String = if cut > 0 { "…".into() } else { String::new() };
    shown.extend(&before[cut..]);
    let indent = shown.chars().count();
    shown.extend(after.iter().take(ROOM));
    if after.len() > ROOM {
        shown.push('…');
    }
    Place { line, column: at - start + 1, shown, before: indent, width }
}

/// One block. `name`: of the file, as the reader would type it.
pub fn block(level: Level, text: &[u8], name: &str, e: &Error, colour: bool) -> String {
    block_at(level, &e.to_string(), name, place(text, e).as_ref(), colour)
}

/// One block with its place, if it has one.
pub fn block_at(level: Level, e: &str, name: &str, place: Option<&Place>, colour: bool) -> String {
    let (on, bold, blue, off) = if colour {
        (level.colour(), "\x1b[1m", "\x1b[1;34m", "\x1b[0m")
    } else {
        ("", "", "", "")
    };
    let mut out = format!("{on}{}{off}{bold}: {e}{off}\n", level.name());
    let Some(place) = place else {
        let _ = writeln!(out, " {blue}-->{off} {name}");
        return out;
    };
    let number = place.line.to_string();
    let gap = " ".repeat(number.len());
    let _ = writeln!(out, "{gap}{blue}-->{off} {name}:{}:{}", place.line, place.column);
    let _ = writeln!(out, "{gap} {blue}|{off}");
    let _ = writeln!(out, "{blue}{number} |{off} {}", place.shown.trim_end());
    let _ = writeln!(
        out,
        "{gap} {blue}|{off} {}{on}{}{off}",
        " ".repeat(place.before),
        "^".repeat(place.width)
    );
    out
}
