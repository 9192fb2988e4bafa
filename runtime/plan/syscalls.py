#!/usr/bin/env python3
"""syscalls.py UAPI VERSION >src/seccomp/table.rs: the table of system calls from the kernel's user API headers.

UAPI is the folder that has one folder of headers for each architecture, as Debian's linux-libc-dev installs it in
usr/lib/linux/uapi; VERSION is the kernel's that they are of. The columns are in the order of `Abi` in src/seccomp/abi.rs."""
import re
import sys

COLUMNS = [
    ("x86-64", "x86/asm/unistd_64.h"),
    ("x86", "x86/asm/unistd_32.h"),
    ("x32", "x86/asm/unistd_x32.h"),
    ("arm64", "arm64/asm/unistd_64.h"),
    ("arm", "arm/asm/unistd-eabi.h"),
    ("riscv64", "riscv/asm/unistd_64.h"),
    ("s390x", "s390/asm/unistd_64.h"),
    ("ppc64le", "powerpc/asm/unistd_64.h"),
]
DEFINE = re.compile(r"^#define\s+__NR_(\w+)\s+\(?(?:__X32_SYSCALL_BIT \+ |__NR_SYSCALL_BASE\s*\+\s*)?(\d+)\)?\s*$", re.M)
# Calls that the header of 32-bit arm counts from __ARM_NR_BASE (0x0f0000): the compiler adds it.
PRIVATE = re.compile(r"^#define\s+__ARM_NR_(\w+)\s+\(__ARM_NR_BASE\+(\d+)\)", re.M)


def main(uapi, version):
    names = {}
    for column, (_, header) in enumerate(COLUMNS):
        with open(f"{uapi}/{header}") as file:
            found = DEFINE.findall(file.read())
        if len(found) < 300:
            sys.exit(f"{header}: only {len(found)} calls: it is written in a form that this script does not read")
        for name, number in found:
            names.setdefault(name, [-1] * len(COLUMNS))[column] = int(number)
    with open(f"{uapi}/arm/asm/unistd.h") as file:
        private = PRIVATE.findall(file.read())
    # One call of arm has two names (asm/unistd.h); profiles use either.
    arm = names.get("arm_sync_file_range")
    if arm:
        names["sync_file_range2"] = [a if a >= 0 else b for a, b in zip(names.get("sync_file_range2", arm), arm)]
    heads = ", ".join(name for name, _ in COLUMNS)
    print(f"""//! System call numbers of the kernel's user API headers, of Linux {version}. Written by runtime/plan/syscalls.py.

/// The calls of one name on each ABI; -1 where it has none. Columns: {heads} (x32 without its bit).
pub type Row = (&'static str, [i16; {len(COLUMNS)}]);

/// Sorted by name.
#[rustfmt::skip]
pub const SYSCALLS: &[Row] = &[""")
    for name in sorted(names):
        print(f'    ("{name}", {names[name]}),')
    print("""];

/// Calls of 32-bit arm alone, by what is added to `__ARM_NR_BASE`.
pub const ARM_PRIVATE: &[(&str, u32)] = &[""")
    for name, number in private:
        print(f'    ("{name}", {number}),')
    print("];")


main(*sys.argv[1:])
