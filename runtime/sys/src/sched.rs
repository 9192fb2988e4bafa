//! Scheduling, I/O priority, NUMA memory policy, CPU affinity.

use crate::check;
use nix::Result;

/// `struct sched_attr` of sched_setattr(2), 56 bytes (with utilization clamps, Linux 5.3).
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// sched_setattr(2) on the calling process; fills in `size`.
pub fn sched_setattr(mut attr: SchedAttr) -> Result<()> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: attr has the kernel's layout and says its size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attr as *const SchedAttr, 0) })
        .map(drop)
}

/// ioprio_set(2) on the calling process's group: class (1 real time, 2 best effort, 3 idle) and level 0 to 7.
pub fn ioprio_set(class: u32, level: u32) -> Result<()> {
    const IOPRIO_WHO_PGRP: libc::c_int = 2;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, (class << 13) | level) })
        .map(drop)
}

/// set_mempolicy(2): mode (with flags) and the nodes as a bit set.
pub fn set_mempolicy(mode: i32, nodes: &[u64]) -> Result<()> {
    let (ptr, bits) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        // The kernel reads maxnode - 1 bits.
        (nodes.as_ptr(), nodes.len() * 64 + 1)
    };
    // SAFETY: ptr covers bits - 1 bits, or is null with 0.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, ptr, bits) }).map(drop)
}

/// sched_setaffinity(2) on the calling process with the given CPUs as a bit set.
pub fn sched_setaffinity(mask: &[u64]) -> Result<()> {
    // SAFETY: pointer and length in bytes describe the slice.
    check(unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr())
    })
    .map(drop)
}

/// A new core scheduling cookie for the process group of the caller (prctl(2) PR_SCHED_CORE_CREATE, Linux 5.14).
pub fn new_core_cookie() -> Result<()> {
    const PIDTYPE_PGID: libc::c_ulong = 2;
    // SAFETY: integers only.
    let ret =
        unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, 0, PIDTYPE_PGID, 0) };
    check(ret as libc::c_long).map(drop)
}
