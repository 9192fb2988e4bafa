//! The sum by which a cache of compiled filters knows its compiler.
#![allow(clippy::disallowed_methods)]

fn main() {
    println!("cargo:rerun-if-changed=src/seccomp");
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rustc-env=CONEX_SECCOMP_SUM={:016x}", sum(&format!("{dir}/src/seccomp")));
}

/// FNV-1a over the files of a directory, in the order of their names, and the architecture.
fn sum(dir: &str) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    let mut bytes = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default().into_bytes();
    for file in files {
        bytes.extend(std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    }
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}
