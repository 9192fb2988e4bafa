// Included by the build scripts of the programs.

/// What makes the programs small where the linker can do it: one copy of equal functions, and no unwind tables (a panic
/// aborts). lld can; GNU ld can only the second, and links larger programs that do the same. The toolchain's own linker is asked first.
fn link_small(script: &str) {
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("PROFILE").as_deref() != Ok("release") || plain() {
        return;
    }
    let small = ["-Wl,--icf=all".to_string(), format!("-Wl,-T,{script}")];
    let by_lld = [&["-fuse-ld=lld".to_string()][..], &small].concat();
    let found = [&small[..], &by_lld, &small[1..]].into_iter().find(|args| links(args));
    found.into_iter().flatten().for_each(|a| println!("cargo:rustc-link-arg-bins={a}"));
}

/// `CONEX_PLAIN=1`: a program as any other, with its unwind tables and the C library's entry. What it lacks is for size and speed
/// alone.
fn plain() -> bool {
    println!("cargo:rerun-if-env-changed=CONEX_PLAIN");
    std::env::var_os("CONEX_PLAIN").is_some_and(|v| !v.is_empty())
}

/// True if an empty program links with these arguments.
fn links(args: &[String]) -> bool {
    use std::io::Write;
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let out = std::path::Path::new(&var("OUT_DIR")).join("probe");
    let mut command = std::process::Command::new(var("RUSTC"));
    command.args(["-", "--crate-name", "probe", "--target", &var("TARGET"), "-Cpanic=abort", "-o"]).arg(&out);
    command.args(var("CARGO_ENCODED_RUSTFLAGS").split('\u{1f}').filter(|f| !f.is_empty()));
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        command.arg(format!("-Clinker={}", linker.to_string_lossy()));
    }
    command.args(args.iter().map(|a| format!("-Clink-arg={a}")));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let written = child.stdin.take().is_some_and(|mut stdin| stdin.write_all(b"fn main() {}").is_ok());
    child.wait().is_ok_and(|status| written && status.success())
}
