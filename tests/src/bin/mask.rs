//! `mask NAME[,NAME…] PROGRAM ARGS…`: executes a program on a kernel that seems to lack these system calls: a seccomp
//! filter answers them with ENOSYS. Our own compiler makes the filter; its tests prove it by two oracles.

use conex::seccomp::{compile::compile, Profile, SyscallRule, RET_ALLOW, RET_ERRNO};
use std::os::unix::process::CommandExt;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let names = args.next().expect("mask NAMES PROGRAM ARGS…");
    let rule = SyscallRule {
        names: names.to_string_lossy().split(',').map(str::to_string).collect(),
        action: RET_ERRNO | libc::ENOSYS as u32,
        any_of: Vec::new(),
    };
    let native = conex::seccomp::COMPILED[0];
    let profile = Profile { default: RET_ALLOW, abis: vec![native], rules: vec![rule] };
    conex_sys::seccomp::install(&compile(&profile).expect("small"), 0).expect("seccomp(2) as root");
    let error = std::process::Command::new(args.next().expect("a program")).args(args).exec();
    panic!("exec: {error}");
}
