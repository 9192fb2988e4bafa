//! What happens before the C library starts: the program executes itself from a place that cannot be written, if it is
//! about to enter a container: a read-only overlay of the program's directory, which has no upper layer. `host::seal` of
//! the runtime says why, looks whether it is so, and copies the program into memory where this fails.
//!
//! The first of the two runs ends here, so it need not initialize anything: asking the processor what it can do, as
//! glibc does at every start, costs 0.4 ms in a virtual machine (each CPUID leaves it), a twentieth of `conex run`.
//!
//! # Rules of this file
//! No thread-local storage, no errno, no allocation, and no call that the compiler makes of a loop or an initializer
//! (`memcpy`, `memset`, `strlen`: indirect functions of glibc that are not resolved yet). Hence volatile accesses and
//! uninitialized buffers. Whatever is unexpected: return, and start as usual.

use crate::fd::{ATTR_VERITY, EROFS_MAGIC, SQUASHFS_MAGIC};
use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::ptr::{addr_of, addr_of_mut};

/// The environment entry of the second run.
pub const MARK: &[u8] = b"_CONEX_SEALED=1\0";
/// Two layers are the minimum without an upper one; the first is a directory of every Linux system that holds no program.
const LOWER: &[u8] = b"/sys/fs/cgroup:";
const MAX_ENV: usize = 1000;
const MAX_PATH: usize = 200;

// The entry point of the program `conex` (runtime/build.rs): the stack holds argc, argv and envp, and is aligned to 16.
// glibc's `_start` finds stack and rdx as the kernel left them.
global_asm!(
    ".globl conex_start",
    ".type conex_start,@function",
    "conex_start:",
    "xor ebp, ebp",
    "mov r12, rsp",
    "mov r13, rdx",
    "mov rdi, rsp",
    "call {early}",
    "mov rsp, r12",
    "mov rdx, r13",
    "jmp _start",
    early = sym early,
);

/// # Safety
/// `stack` is the process's initial stack: argc, argv, NULL, envp, NULL (System V ABI, "Process initialization").
unsafe extern "C" fn early(stack: *const usize) {
    // SAFETY: the kernel has laid out the stack so; every string in it ends with a zero byte. The buffers are written
    // before they are read, and the calls get pointers to what lives until they return.
    unsafe {
        let argc = stack.read_volatile();
        let argv = stack.add(1) as *const *const u8;
        if !enters(argv, argc) || cannot_be_written() {
            return;
        }
        let mut env = MaybeUninit::<[*const u8; MAX_ENV + 2]>::uninit();
        let mut path = MaybeUninit::<[u8; LOWER.len() + MAX_PATH + 1]>::uninit();
        let env = addr_of_mut!(env) as *mut *const u8;
        let path = addr_of_mut!(path) as *mut u8;
        if mark(argv.add(argc + 1), env) {
            if let Some(name) = lower_dirs(path) {
                execute(path, name, argv, env);
            }
        }
    }
}

/// The verbs of the second program that take an argument. (Pointers in a table are right this early: the program is not
/// position-independent.)
const TOOLS: [&[u8]; 6] = [b"lint\0", b"doctor\0", b"setup\0", b"wait\0", b"why\0", b"seccomp\0"];

/// True if an argument is a verb that enters a container. A container of that name costs half a millisecond. The verbs
/// of the second program do not, and it is found from where this one lies; so do `run --rootfs` and
/// `run --seccomp-log`, which are among them.
unsafe fn enters(argv: *const *const u8, argc: usize) -> bool {
    let mut i = 1;
    let mut found = false;
    while i < argc {
        // SAFETY: i < argc, and a string of argv.
        unsafe {
            let arg = argv.add(i).read_volatile();
            let adhoc = begins(arg, b"--rootfs") || begins(arg, b"-rootfs");
            if adhoc || begins(arg, b"--seccomp-log") || begins(arg, b"-seccomp-log") {
                return false;
            }
            if !found {
                let mut tool = 0;
                while tool < TOOLS.len() {
                    if begins(arg, TOOLS[tool]) {
                        return false;
                    }
                    tool += 1;
                }
                // A timeline is drawn by the second program, which executes this one once more, with a descriptor.
                if (begins(arg, b"--trace") || begins(arg, b"-trace"))
                    && !begins(arg, b"--trace=fd:")
                {
                    return false;
                }
                found = begins(arg, b"run\0") || begins(arg, b"create\0") || begins(arg, b"exec\0");
            }
        }
        i += 1;
    }
    found
}

/// True if nobody can write to this program where it lies ([`crate::fd::is_unwritable`] says the same later).
unsafe fn cannot_be_written() -> bool {
    let exe = c"/proc/self/exe".as_ptr() as usize;
    let mut buffer = MaybeUninit::<[u64; 32]>::uninit();
    let buffer = addr_of_mut!(buffer) as *mut u64;
    // SAFETY: the buffer is as large as struct statx (256 bytes), the larger of the two; what is read was filled.
    unsafe {
        if call(libc::SYS_statfs, [exe, buffer as usize, 0, 0, 0]) == 0 {
            let kind = buffer.read_volatile() as i64;
            if kind == SQUASHFS_MAGIC || kind == EROFS_MAGIC {
                return true;
            }
        }
        let at = libc::AT_FDCWD as usize;
        // struct statx: stx_mask and stx_blksize, 32 bits each, then stx_attributes.
        call(libc::SYS_statx, [at, exe, 0, 0, buffer as usize]) == 0
            && buffer.add(1).read_volatile() & ATTR_VERITY != 0
    }
}

/// Copies the environment and adds the mark; false if this is the second run, or if there are too many entries.
unsafe fn mark(envp: *const *const u8, to: *mut *const u8) -> bool {
    let mut n = 0;
    // SAFETY: envp ends with a null pointer, and `to` has room for MAX_ENV entries, the mark and its end.
    unsafe {
        loop {
            let entry = envp.add(n).read_volatile();
            if entry.is_null() {
                break;
            }
            if n == MAX_ENV || begins(entry, MARK) {
                return false;
            }
            to.add(n).write_volatile(entry);
            n += 1;
        }
        to.add(n).write_volatile(MARK.as_ptr());
        to.add(n + 1).write_volatile(core::ptr::null());
    }
    true
}

/// Writes the value of `lowerdir` for the directory of this program, and returns its name in it. A path this odd that
/// the option string cannot hold it is left to the usual way.
unsafe fn lower_dirs(path: *mut u8) -> Option<*const u8> {
    let mut i = 0;
    // SAFETY: `path` has room for the prefix, MAX_PATH bytes and a zero.
    unsafe {
        while i < LOWER.len() {
            path.add(i).write_volatile(addr_of!(LOWER[i]).read_volatile());
            i += 1;
        }
        let exe = path.add(LOWER.len());
        let len = call(
            libc::SYS_readlink,
            [c"/proc/self/exe".as_ptr() as usize, exe as usize, MAX_PATH, 0, 0],
        );
        if len <= 0
            || len as usize >= MAX_PATH
            || begins(exe, b"/proc/")
            || begins(exe, &LOWER[..14])
        {
            return None;
        }
        let len = len as usize;
        exe.add(len).write_volatile(0);
        let mut slash = 0;
        let mut i = 0;
        while i < len {
            match exe.add(i).read_volatile() {
                b':' | b',' | b'\\' => return None,
                b'/' => slash = i,
                _ => {}
            }
            i += 1;
        }
        if slash == 0 {
            return None;
        }
        exe.add(slash).write_volatile(0);
        Some(exe.add(slash + 1))
    }
}

/// Does not return if it succeeds. The descriptors are close-on-exec.
unsafe fn execute(
    lower: *const u8,
    name: *const u8,
    argv: *const *const u8,
    env: *const *const u8,
) {
    const CLOEXEC: usize = 1;
    const SET_STRING: usize = 1;
    const CMD_CREATE: usize = 6;
    const RDONLY_NOSUID_NODEV: usize = 7;
    const PATH_ONLY: usize = (libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW) as usize;
    let overlay = c"overlay".as_ptr() as usize;
    let key = c"lowerdir".as_ptr() as usize;
    // SAFETY: strings end with zero, argv and env with null pointers; the other arguments are numbers.
    unsafe {
        let fs = call(libc::SYS_fsopen, [overlay, CLOEXEC, 0, 0, 0]);
        if fs < 0 {
            return;
        }
        let set = call(libc::SYS_fsconfig, [fs as usize, SET_STRING, key, lower as usize, 0]);
        let made = call(libc::SYS_fsconfig, [fs as usize, CMD_CREATE, 0, 0, 0]);
        if set == 0 && made == 0 {
            let root = call(libc::SYS_fsmount, [fs as usize, CLOEXEC, RDONLY_NOSUID_NODEV, 0, 0]);
            if root >= 0 {
                let exe = call(libc::SYS_openat, [root as usize, name as usize, PATH_ONLY, 0, 0]);
                if exe >= 0 {
                    let empty = c"".as_ptr() as usize;
                    let flags = libc::AT_EMPTY_PATH as usize;
                    if is_this_program(exe as usize) {
                        call(
                            libc::SYS_execveat,
                            [exe as usize, empty, argv as usize, env as usize, flags],
                        );
                    }
                    call(libc::SYS_close, [exe as usize, 0, 0, 0, 0]);
                }
                call(libc::SYS_close, [root as usize, 0, 0, 0, 0]);
            }
        }
        call(libc::SYS_close, [fs as usize, 0, 0, 0, 0]);
    }
}

/// True if what was found by its name is the program that runs. A layer of an overlay has no mounts: where the program is a
/// bind mount on another file, or its directory lies below a later mount or beyond another root, the name says another file.
unsafe fn is_this_program(found: usize) -> bool {
    /// Of struct statx, in 64 bits: stx_ino, stx_size, stx_ctime and stx_mtime (seconds, then nanoseconds in 32 bits).
    static SAME: [usize; 6] = [4, 5, 12, 13, 14, 15];
    const BASIC_STATS: usize = 0x7ff;
    let mut ours = MaybeUninit::<[u64; 32]>::uninit();
    let mut theirs = MaybeUninit::<[u64; 32]>::uninit();
    let (ours, theirs) = (addr_of_mut!(ours) as *mut u64, addr_of_mut!(theirs) as *mut u64);
    let empty_path = libc::AT_EMPTY_PATH as usize;
    let (at, exe) = (libc::AT_FDCWD as usize, c"/proc/self/exe".as_ptr() as usize);
    // SAFETY: the buffers are as large as struct statx (256 bytes); what is read was filled.
    unsafe {
        let by_fd = [found, c"".as_ptr() as usize, empty_path, BASIC_STATS, theirs as usize];
        if call(libc::SYS_statx, [at, exe, 0, BASIC_STATS, ours as usize]) != 0
            || call(libc::SYS_statx, by_fd) != 0
        {
            return false;
        }
        let mut i = 0;
        while i < SAME.len() {
            let word = addr_of!(SAME[i]).read_volatile();
            // An overlay may say which of its layers it means in the upper bits of an inode's number; what follows the
            // nanoseconds is not defined.
            let mask = if word == 5 || word == 12 || word == 14 { u64::MAX } else { 0xffff_ffff };
            if (ours.add(word).read_volatile() ^ theirs.add(word).read_volatile()) & mask != 0 {
                return false;
            }
            i += 1;
        }
    }
    true
}

/// True if the string begins with these bytes; is them, if they end with a zero byte.
unsafe fn begins(a: *const u8, b: &'static [u8]) -> bool {
    let mut i = 0;
    while i < b.len() {
        // SAFETY: up to the first difference, and a's own zero byte is one unless b ends there.
        if unsafe { a.add(i).read_volatile() != addr_of!(b[i]).read_volatile() } {
            return false;
        }
        i += 1;
    }
    true
}

/// A system call with up to five arguments; the negative error number if it fails.
unsafe fn call(number: libc::c_long, args: [usize; 5]) -> isize {
    let result;
    // SAFETY: the caller's pointers are valid for the call; the kernel changes rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3], in("r8") args[4],
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    result
}
