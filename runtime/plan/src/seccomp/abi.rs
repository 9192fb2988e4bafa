//! The ABIs whose system calls conex knows: names of the profile, of the kernel, and numbers.

use super::table::{Row, ARM_PRIVATE, SYSCALLS};

/// In the order of the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
    S390x,
    Ppc64le,
}

/// `__X32_SYSCALL_BIT` (asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// `__ARM_NR_BASE` (arch/arm/include/uapi/asm/unistd.h).
pub const ARM_BASE: u32 = 0x0f_0000;

/// Behind the last call that the kernel counts from there (`get_tls`).
pub(super) const ARM_END: u32 = ARM_BASE + 7;

/// The ABI, its name in config.json, its name for people, and `AUDIT_ARCH_*` of linux/audit.h.
const ALL: [(Abi, &str, &str, u32); 8] = [
    (Abi::X86_64, "SCMP_ARCH_X86_64", "x86-64", 0xc000_003e),
    (Abi::X86, "SCMP_ARCH_X86", "x86", 0x4000_0003),
    (Abi::X32, "SCMP_ARCH_X32", "x32", 0xc000_003e),
    (Abi::Aarch64, "SCMP_ARCH_AARCH64", "arm64", 0xc000_00b7),
    (Abi::Arm, "SCMP_ARCH_ARM", "arm", 0x4000_0028),
    (Abi::Riscv64, "SCMP_ARCH_RISCV64", "riscv64", 0xc000_00f3),
    (Abi::S390x, "SCMP_ARCH_S390X", "s390x", 0x8000_0016),
    (Abi::Ppc64le, "SCMP_ARCH_PPC64LE", "ppc64le", 0xc000_0015),
];

/// The ABIs that a process of this machine can use, its own first. None where conex makes no filter: s390x stores the
/// arguments' halves in the other order, and none was ever tried on riscv64 and ppc64le.
pub const COMPILED: &[Abi] = if cfg!(target_arch = "x86_64") {
    &[Abi::X86_64, Abi::X86, Abi::X32]
} else if cfg!(target_arch = "aarch64") {
    &[Abi::Aarch64, Abi::Arm]
} else {
    &[]
};

impl Abi {
    /// As profiles name it.
    pub fn scmp(self) -> &'static str {
        ALL[self as usize].1
    }

    /// As people name it.
    pub fn name(self) -> &'static str {
        ALL[self as usize].2
    }

    /// `AUDIT_ARCH_*`: what the kernel puts into `seccomp_data.arch`.
    pub const fn arch(self) -> u32 {
        ALL[self as usize].3
    }

    /// True if a register has 64 bits, so that both halves of an argument count.
    pub fn is_wide(self) -> bool {
        !matches!(self, Abi::X86 | Abi::X32 | Abi::Arm)
    }

    fn number(self, row: &Row) -> Option<u32> {
        u32::try_from(row.1[self as usize]).ok()
    }
}

/// Every name of a call, on whatever ABI.
pub fn names() -> impl Iterator<Item = &'static str> {
    SYSCALLS.iter().map(|row| row.0).chain(ARM_PRIVATE.iter().map(|p| p.0))
}

/// The number of a name on an ABI; unknown names have none and are ignored.
pub fn lookup(name: &str, abi: Abi) -> Option<u32> {
    let row = SYSCALLS.binary_search_by(|e| e.0.cmp(name)).ok();
    let private = || {
        let found = ARM_PRIVATE.iter().find(|(n, _)| abi == Abi::Arm && *n == name);
        found.map(|(_, n)| ARM_BASE + n)
    };
    row.and_then(|i| abi.number(&SYSCALLS[i])).or_else(private)
}

/// The ABI of a call as the kernel tells of it (`AUDIT_ARCH_*` and the number), and its number there.
pub fn abi_of(arch: u32, nr: u32) -> Option<(Abi, u32)> {
    if arch == Abi::X32.arch() && nr & X32_BIT != 0 {
        return Some((Abi::X32, nr & !X32_BIT));
    }
    ALL.iter().find(|a| a.3 == arch).map(|a| (a.0, nr))
}

/// The reverse of [`abi_of`].
pub fn told_by_kernel(abi: Abi, nr: u32) -> (u32, u32) {
    (abi.arch(), if abi == Abi::X32 { nr | X32_BIT } else { nr })
}

/// The name of a call as the kernel tells of it, or its number.
pub fn name(arch: u32, nr: u32) -> String {
    let Some((abi, plain)) = abi_of(arch, nr) else {
        return format!("{nr} (architecture {arch:#x})");
    };
    let private = || {
        let of = |n: &u32| abi == Abi::Arm && ARM_BASE + n == plain;
        ARM_PRIVATE.iter().find(|(_, n)| of(n)).map(|p| p.0)
    };
    let found = SYSCALLS.iter().rfind(|e| abi.number(e) == Some(plain)).map(|e| e.0);
    found.or_else(private).map_or_else(|| format!("{nr}"), str::to_string)
}
