//! For the release binary: the linker script that drops unwind tables, as for conex itself.

include!("../../.cargo/link.rs");

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    link_small(&format!("{dir}/../../.cargo/no-unwind.ld"));
}
