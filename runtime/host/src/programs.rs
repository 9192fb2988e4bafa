//! Compiled filters on disk, keyed by the content of the profile.
//!
//! The file holds the profile it was made from, and is used only if that is equal to the profile at hand byte for
//! byte: the hash in the name is an index, not a proof. The directory is the state root, 0700 and owned by us; a
//! file that is not a plain one of ours is not read.

use crate::error::{Context, Error, Result};
use crate::seccomp::{compile, Profile, SUM};
use conex_sys::seccomp::SockFilter;
use nix::fcntl::{openat, OFlag};
use nix::sys::stat::{fstat, Mode};
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

/// Changes whenever the compiler's output may.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Of the file itself.
const FORM: u32 = 1;

/// The program for a profile, from the cache below `root` or compiled and stored there. A cache that cannot be
/// read or written costs time only.
pub fn program(root: Option<BorrowedFd>, profile: &Profile) -> Result<Vec<SockFilter>> {
    let key = format!("conex-seccomp {VERSION} {SUM} {FORM}\n{profile:?}\n").into_bytes();
    let name = format!("seccomp-{:016x}", hash(&key));
    if let Some(found) = root.and_then(|root| load(root, &name, &key)) {
        return Ok(found);
    }
    let program = compile::compile(profile).map_err(|n| {
        Error::invalid(
            "linux.seccomp.syscalls",
            format!("the filter has {n} instructions; the kernel takes 4096"),
        )
    })?;
    if let Some(root) = root {
        let _ = store(root, &name, &key, &program);
    }
    Ok(program)
}

fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn load(root: BorrowedFd, name: &str, key: &[u8]) -> Option<Vec<SockFilter>> {
    let cache = openat(
        root,
        ".cache",
        OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY,
        Mode::empty(),
    )
    .ok()?;
    let fd =
        openat(&cache, name, OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty())
            .ok()?;
    let stat = fstat(&fd).ok()?;
    let ours =
        stat.st_uid == nix::unistd::geteuid().as_raw() && stat.st_mode & 0o177_077 == libc::S_IFREG;
    if !ours || stat.st_size > 4 << 20 {
        return None;
    }
    let mut bytes = Vec::with_capacity(stat.st_size as usize);
    std::fs::File::from(fd).read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(key)?;
    let (sum, body) = rest.split_at_checked(8)?;
    if sum != hash(body).to_le_bytes() || body.len() % 8 != 0 {
        return None;
    }
    let insn = |b: &[u8]| SockFilter {
        code: u16::from_le_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
    };
    Some(body.chunks_exact(8).map(insn).collect())
}

fn store(root: BorrowedFd, name: &str, key: &[u8], program: &[SockFilter]) -> Result<()> {
    let _ = nix::sys::stat::mkdirat(root, ".cache", Mode::S_IRWXU);
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let cache = openat(root, ".cache", flags, Mode::empty()).call(|| "openat(.cache)")?;
    let mut body = Vec::with_capacity(program.len() * 8);
    for i in program {
        body.extend_from_slice(&i.code.to_le_bytes());
        body.extend_from_slice(&[i.jt, i.jf]);
        body.extend_from_slice(&i.k.to_le_bytes());
    }
    let temporary = format!(".{name}.{}", std::process::id());
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&cache, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .call(|| "openat(.cache)")?;
    let mut file = std::fs::File::from(fd);
    let written =
        [key, &hash(&body).to_le_bytes(), &body].iter().try_for_each(|part| file.write_all(part));
    let done = written.call(|| format!("write({temporary})")).and_then(|()| {
        nix::fcntl::renameat(&cache, temporary.as_str(), &cache, name)
            .call(|| format!("renameat({name})"))
    });
    if done.is_err() {
        let _ = nix::unistd::unlinkat(
            &cache,
            temporary.as_str(),
            nix::unistd::UnlinkatFlags::NoRemoveDir,
        );
    }
    done
}
