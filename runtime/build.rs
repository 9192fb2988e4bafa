//! For the release binary: the linker script that drops unwind tables (tests unwind), and the entry point that seals the
//! program before the C library starts.

include!("../.cargo/link.rs");

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    link_small(&format!("{dir}/../.cargo/no-unwind.ld"));
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    if var("PROFILE") == "release" && var("CARGO_CFG_TARGET_ARCH") == "x86_64" && !plain() {
        println!("cargo:rustc-link-arg-bin=conex=-Wl,--entry=conex_start");
    }
}
