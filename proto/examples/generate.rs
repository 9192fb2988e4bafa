//! `generate DIR`: writes the Rust types of proto/*.proto to DIR. Needs protoc; the result is committed, so that a
//! build does not.

fn main() -> std::io::Result<()> {
    let out = std::env::args().nth(1).expect("generate DIR");
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let mut files: Vec<_> = std::fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    files.sort();
    prost_build::Config::new().out_dir(out).btree_map(["."]).compile_protos(&files, &[dir])
}
