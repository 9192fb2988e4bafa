//! For the release binary: the linker script that drops unwind tables, as for conex itself.

fn main() {
    println!("cargo:rerun-if-changed=../../.cargo/no-unwind.ld");
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if std::env::var("PROFILE").as_deref() == Ok("release") {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{dir}/../../.cargo/no-unwind.ld");
    }
}
