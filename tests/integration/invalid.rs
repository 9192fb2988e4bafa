//! bundles/invalid/: each file is a document with one mistake, and its name is the field that the error must name.

use crate::harness::*;

/// The field that is wrong, and the document: at least a hundred. In a file's name a slash is a percent sign.
pub fn broken_bundles() -> Vec<(String, String)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles/invalid");
    let one = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap().replace('%', "/");
        (
            name.strip_suffix(".json").unwrap().to_string(),
            std::fs::read_to_string(entry.path()).unwrap(),
        )
    };
    let all: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(one).collect();
    assert!(all.len() >= 100, "only {} bundles", all.len());
    all
}

#[test]
fn every_broken_bundle_names_its_field_and_leaves_nothing() {
    if !is_conex() {
        return;
    }
    let mut failures = Vec::new();
    for (field, text) in broken_bundles() {
        let field = field.as_str();
        let mut b = Box::sh("true");
        b.config = serde_json::from_str(&text).unwrap();
        if b.config["linux"].is_object() && b.config["linux"]["cgroupsPath"].is_null() {
            b.config["linux"]["cgroupsPath"] = serde_json::json!(format!("/conex-test/{}", b.id));
        }
        let r = b.create();
        // The text format quotes the message.
        let named = r.err.replace("\\\"", "\"").contains(&format!(" {field}: "));
        let located = r.err.contains("config.json line") || r.err.contains("at line");
        if r.code != 1
            || !named
            || !located
            || b.state_root().join(&b.id).exists()
            || !b.cgroups().is_empty()
        {
            failures.push(format!(
                "{field}: code {}, cgroups {:?}: {}",
                r.code,
                b.cgroups(),
                r.err
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn all_problems_are_reported_at_once() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    *b.at("process.cwd") = serde_json::json!("x");
    *b.at("linux.rootfsPropagation") = serde_json::json!("y");
    let r = b.create();
    assert!(
        r.err.contains("process.cwd") && r.err.contains("linux.rootfsPropagation"),
        "{}",
        r.err
    );
}

#[test]
fn bundles_that_are_not() {
    let b = Box::sh("true");
    assert_ne!(b.call(&["create", "--bundle", "/no/such/dir", "x"]).code, 0);
    std::fs::write(b.dir.join("config.json"), "{ not json").unwrap();
    let r = b.call(&["create", "x"]);
    assert_eq!(r.code, 1);
    assert!(!b.state_root().join("x").exists());
}
