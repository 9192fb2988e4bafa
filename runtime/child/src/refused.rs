//! Why execve(2) refused a program, in words: its errno alone leaves people to guess.

use crate::error::{Error, Kind};
use crate::plan::process::Process;
use nix::errno::Errno;
use std::ffi::CString;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The error of a failed execve. Its text begins as Go's, which the engines map to exit statuses.
pub fn error(e: Errno, p: &Process, path: &CString, args: &[CString], env: &[CString]) -> Error {
    let (mut field, mut why) = (format!("{}.args[0]", p.field), String::new());
    match e {
        Errno::E2BIG => {
            let (place, what) = too_big(args, env);
            field = place.map_or(field, |place| format!("{}.{place}", p.field));
            why = what;
        }
        // A filter that kills for a call that it does not name must not do so now.
        Errno::ENOENT | Errno::ENOEXEC if !kills(p) => why = file(e, path).unwrap_or_default(),
        _ => {}
    }
    let path = crate::text::shortened_to(path.to_string_lossy().into_owned(), 120);
    // The engines look for the errno's text: it must not be what is left out of a long message.
    Error::new(Kind::System, format!("exec {path}: {}{why}", e.desc().to_lowercase())).at(field)
}

/// True if a call to look at the file could end this process: it would be taken for a success.
fn kills(p: &Process) -> bool {
    // SECCOMP_RET_KILL_PROCESS, KILL_THREAD and TRAP, whose signal has its default action now.
    let ends = |action: u32| matches!(action & 0xffff_0000, 0x8000_0000 | 0 | 0x0003_0000);
    let used = ["open", "openat", "read", "stat", "newfstatat", "statx", "close"];
    p.seccomp.as_ref().is_some_and(|f| {
        let named = |r: &crate::seccomp::SyscallRule| {
            ends(r.action) && r.names.iter().any(|n| used.contains(&n.as_str()))
        };
        ends(f.profile.default) || f.profile.rules.iter().any(named)
    })
}

/// MAX_ARG_STRLEN of include/uapi/linux/binfmts.h: 32 pages for one string, its NUL included.
fn too_big(args: &[CString], env: &[CString]) -> (Option<String>, String) {
    let page =
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    let most = 32 * page as usize;
    for (list, strings) in [("args", args), ("env", env)] {
        let Some(i) = strings.iter().position(|s| s.as_bytes_with_nul().len() > most) else {
            continue;
        };
        let text = strings[i].to_string_lossy();
        let name = text
            .split_once('=')
            .filter(|_| list == "env")
            .map_or(String::new(), |(name, _)| format!(" of {name}"));
        let what = format!(
            ": the {} bytes{name} are more than Linux takes in one string, {}",
            text.len(),
            most - 1
        );
        // The variables are not in the document's order any more.
        return (Some(if list == "env" { list.into() } else { format!("{list}[{i}]") }), what);
    }
    let sum: usize = args.iter().chain(env).map(|s| s.as_bytes_with_nul().len() + 8).sum();
    let what = format!(
        ": args and env have {sum} bytes; Linux takes a quarter of the stack's limit (RLIMIT_STACK), and 6 MiB"
    );
    (None, what)
}

/// What the file's beginning says of a program that is there and cannot be executed.
fn file(e: Errno, path: &CString) -> Option<String> {
    let head = head(path.to_bytes())?;
    let Some(line) = head.strip_prefix(b"#!").map(|l| l.split(|b| *b == b'\n').next().unwrap_or(l))
    else {
        return match e {
            Errno::ENOEXEC if !head.starts_with(b"\x7fELF") => {
                Some(": neither a program nor a script that begins with #!".into())
            }
            _ => program(e, &head),
        };
    };
    let line = line.trim_ascii_start();
    let name = line.split(|b| matches!(b, b' ' | b'\t')).next().filter(|n| !n.is_empty())?;
    let shown = crate::text::shortened_to(String::from_utf8_lossy(name).into_owned(), 80);
    let exists = Path::new(&*crate::text::from_bytes(name)).exists();
    let why = match self::head(name) {
        _ if !exists => {
            format!(
                "is missing{}",
                if name.ends_with(b"\r") { " (the line ends with CR LF)" } else { "" }
            )
        }
        Some(head) => program(e, &head)?.trim_start_matches(": ").to_string(),
        None => return None,
    };
    Some(format!(": the interpreter {shown:?} of its first line {why}"))
}

fn head(path: &[u8]) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let path = crate::text::from_bytes(path).into_owned();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&*crate::text::path(&path))
        .ok()?;
    file.metadata().ok().filter(|m| m.is_file())?;
    file.take(4096).read_to_end(&mut head).ok()?;
    Some(head)
}

/// The same of a program that is no script.
fn program(e: Errno, head: &[u8]) -> Option<String> {
    head.strip_prefix(b"\x7fELF")?;
    match e {
        Errno::ENOEXEC => Some(": is a program for another machine than this".into()),
        _ => loader(head).map(|l| format!(": lacks its dynamic loader {l:?}")),
    }
}

/// PT_INTERP of a 64-bit little-endian program (elf(5)).
fn loader(head: &[u8]) -> Option<String> {
    let word = |at: usize, n: usize| {
        Some(head.get(at..at + n)?.iter().rev().fold(0, |v, b| v << 8 | *b as usize))
    };
    if head.get(4..6)? != [2, 1] {
        return None;
    }
    let (table, size, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    let at =
        (0..count).map(|i| table.saturating_add(i * size)).find(|at| word(*at, 4) == Some(3))?;
    let (offset, length) = (word(at + 8, 8)?, word(at + 32, 8)?);
    let text = head.get(offset..offset.checked_add(length)?)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_string())
}
