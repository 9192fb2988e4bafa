//! Why execve(2) refused a program, in words: its errno alone leaves people to guess.

use crate::error::{Error, Kind};
use crate::plan::process::Process;
use nix::errno::Errno;
use std::ffi::CString;
use std::io::Read;
use std::path::Path;

/// The error of a failed execve. Its text begins as Go's, which the engines map to exit statuses.
pub fn error(e: Errno, p: &Process, path: &CString, args: &[CString], env: &[CString]) -> Error {
    let (mut field, mut why) = (format!("{}.args[0]", p.field), String::new());
    match e {
        Errno::E2BIG => {
            let (place, what) = too_big(args, env);
            field = place.map_or(field, |(list, i)| format!("{}.{list}[{i}]", p.field));
            why = what;
        }
        // A filter that kills for a call that it does not name must not do so now.
        Errno::ENOENT | Errno::ENOEXEC if !kills(p) => why = file(e, path).unwrap_or_default(),
        _ => {}
    }
    let what = format!("exec {}: {}{why}", path.to_string_lossy(), e.desc().to_lowercase());
    Error::new(Kind::System, what).at(field)
}

fn kills(p: &Process) -> bool {
    const KILL_PROCESS: u32 = 0x8000_0000;
    p.seccomp.as_ref().is_some_and(|f| matches!(f.profile.default, KILL_PROCESS | 0))
}

/// MAX_ARG_STRLEN of include/uapi/linux/binfmts.h: 32 pages for one string, its NUL included.
fn too_big(args: &[CString], env: &[CString]) -> (Option<(&'static str, usize)>, String) {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    let most = 32 * page as usize;
    for (list, strings) in [("args", args), ("env", env)] {
        let Some(i) = strings.iter().position(|s| s.as_bytes_with_nul().len() > most) else { continue };
        let text = strings[i].to_string_lossy();
        let name =
            text.split_once('=').filter(|_| list == "env").map_or(String::new(), |(name, _)| format!(" of {name}"));
        let what =
            format!(": the {} bytes{name} are more than Linux takes in one string, {}", text.len(), most - 1);
        return (Some((list, i)), what);
    }
    let sum: usize = args.iter().chain(env).map(|s| s.as_bytes_with_nul().len() + 8).sum();
    let what = format!(
        ": args and env have {sum} bytes; Linux takes a quarter of the stack's limit (RLIMIT_STACK), and 6 MiB"
    );
    (None, what)
}

/// What the file's beginning says of a program that is there and cannot be executed.
fn file(e: Errno, path: &CString) -> Option<String> {
    let mut head = [0; 4096];
    let mut open = std::fs::File::open(Path::new(&*crate::text::from_bytes(path.to_bytes()))).ok()?;
    let n = open.read(&mut head).ok()?;
    let head = &head[..n];
    let Some(line) = head.strip_prefix(b"#!").map(|l| l.split(|b| *b == b'\n').next().unwrap_or(l)) else {
        return match (e, head.strip_prefix(b"\x7fELF")) {
            (Errno::ENOEXEC, Some(_)) => Some(": a program for another machine than this".into()),
            (Errno::ENOEXEC, None) => Some(": neither a program nor a script that begins with #!".into()),
            (_, Some(_)) => loader(head).map(|l| format!(": its dynamic loader {l:?} is missing")),
            _ => None,
        };
    };
    let line = String::from_utf8_lossy(line);
    let interpreter = line.trim_start_matches([' ', '\t']).split([' ', '\t']).next()?;
    let ends = if interpreter.ends_with('\r') { " (the line ends with CR LF)" } else { "" };
    Some(format!(": the interpreter {interpreter:?} of its first line is missing{ends}"))
}

/// PT_INTERP of a 64-bit little-endian program (elf(5)).
fn loader(head: &[u8]) -> Option<String> {
    let word = |at: usize, n: usize| Some(head.get(at..at + n)?.iter().rev().fold(0, |v, b| v << 8 | *b as usize));
    if head.get(4..6)? != [2, 1] {
        return None;
    }
    let (table, size, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    let at = (0..count).map(|i| table.saturating_add(i * size)).find(|at| word(*at, 4) == Some(3))?;
    let (offset, length) = (word(at + 8, 8)?, word(at + 32, 8)?);
    let text = head.get(offset..offset.checked_add(length)?)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_string())
}
