//! eBPF programs of type CGROUP_DEVICE: load, attach, query, detach.

use crate::check;
use nix::Result;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;

/// One eBPF instruction as the kernel lays it out: opcode, registers, offset, immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    pub code: u8,
    /// Destination register in the low nibble, source in the high one.
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C, align(8))]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    pad: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

fn bpf<T>(cmd: libc::c_int, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: attr is a prefix of union bpf_attr with the size passed; pointers in it are kept alive by the
    // callers in this file.
    check(unsafe { libc::syscall(libc::SYS_bpf, cmd, attr as *mut T, size_of::<T>()) })
}

/// Loads a CGROUP_DEVICE program.
///
/// # Errors
/// `EINVAL`/`EACCES` if the verifier refuses it, `EPERM` without CAP_BPF or CAP_SYS_ADMIN.
pub fn load_device_program(insns: &[Insn]) -> Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_name: *b"conex_devices\0\0\0",
        ..LoadAttr::default()
    };
    // SAFETY: a fresh descriptor on success.
    bpf(BPF_PROG_LOAD, &mut attr).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a program to a cgroup directory, in place of `replace` if given (Linux 5.6).
pub fn attach(cgroup: BorrowedFd, program: BorrowedFd, replace: Option<BorrowedFd>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | if replace.is_some() { F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
        pad: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Detaches a program from a cgroup directory.
pub fn detach(cgroup: BorrowedFd, program: BorrowedFd) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_DETACH, &mut attr).map(drop)
}

/// The programs attached to that very cgroup (not those of its ancestors).
pub fn attached(cgroup: BorrowedFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids[..attr.prog_cnt.min(64) as usize]
        .iter()
        .map(|id| {
            let mut attr = [*id, 0, 0, 0];
            // SAFETY: a fresh descriptor on success.
            bpf(BPF_PROG_GET_FD_BY_ID, &mut attr)
                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
        })
        .collect()
}
