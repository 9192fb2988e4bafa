//! For the release binary only: the linker script that drops unwind tables (tests unwind), and the entry point that
//! seals the program before the C library starts.

fn main() {
    println!("cargo:rerun-if-changed=../.cargo/no-unwind.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{dir}/../.cargo/no-unwind.ld");
        if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
            println!("cargo:rustc-link-arg-bin=conex=-Wl,--entry=conex_start");
        }
    }
}
