//! `conex lint`, and what create and run say of a document: everything at once, with its line, in the reader's words.

use crate::harness::*;
use crate::invalid::broken_bundles;
use serde_json::{json, Value};
use std::io::Read;
use std::process::Command;

fn lint(args: &[&str]) -> Ran {
    finish(Command::new(runtime()).arg("lint").args(args), b"")
}

/// A bundle whose config.json is this text.
fn with(text: &str) -> Box {
    let b = Box::sh("true");
    std::fs::write(b.dir.join("config.json"), text).unwrap();
    b
}

const MANY: &str = r#"{
  "ociVersion": "1.2.0",
  "secomp": {},
  "process": {
    "user": {"uid": "x", "gid": 0, "username": "root"},
    "args": "sh",
    "cwd": "tmp",
    "noNewPrivilege": true,
    "capabilities": {"bounding": ["NET_ADMIN"]}
  },
  "root": {"path": "rootfs", "readOnly": true},
  "mounts": [
    [1],
    {"destination": "/x", "source": "/no/such/source", "options": ["bind", "noexecc"]}
  ],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "mnt"}, {"type": "mount"}],
    "seccomp": {"defaultAction": "SCMP_ACT_ERRN", "syscalls": [{"names": ["open"], "action": "ALLOW"}]},
    "resources": {"memory": {"limit": 1.5}}
  }
}
"#;

/// Line, level, field, and the word that was meant.
const FINDINGS: [(u64, &str, &str, Option<&str>); 16] = [
    (3, "warning", "secomp", None),
    (5, "error", "process.user.uid", None),
    (5, "warning", "process.user.username", None),
    (6, "error", "process.args", None),
    (7, "error", "process.cwd", None),
    (8, "warning", "process.noNewPrivilege", None),
    (9, "warning", "process.capabilities.bounding[0]", Some("CAP_NET_ADMIN")),
    (11, "warning", "root.readOnly", None),
    (13, "error", "mounts[0]", None),
    (14, "error", "mounts[1].source", None),
    (14, "error", "mounts[1].options[1]", Some("noexec")),
    (17, "error", "linux.namespaces[1].type", Some("mount")),
    (18, "error", "linux.seccomp.defaultAction", Some("SCMP_ACT_ERRNO")),
    (18, "error", "linux.seccomp.syscalls[0].action", Some("SCMP_ACT_ALLOW")),
    (19, "error", "linux.resources.memory.limit", None),
    (4, "note", "process", None),
];

#[test]
fn every_problem_at_once() {
    if !is_conex() {
        return;
    }
    let b = with(MANY);
    let dir = b.dir.to_str().unwrap();
    let r = lint(&["--json", dir]);
    assert_eq!(r.code, 1, "{}", r.err);
    let found: Vec<Value> = serde_json::from_str(&r.out).unwrap();
    for (line, level, field, meant) in FINDINGS {
        let one = found.iter().find(|f| f["field"] == field && f["level"] == level);
        let one = one.unwrap_or_else(|| panic!("{level} {field} is missing: {}", r.out));
        assert_eq!(one["line"], line, "{one}");
        assert_eq!(one["meant"].as_str(), meant, "{one}");
    }
    for name in ["linux.seccomp", "noNewPrivileges", "readonly"] {
        assert!(r.out.contains(&format!("did you mean {name}?")), "{name}: {}", r.out);
    }
    let others = found.iter().filter(|f| f["level"] != "note").count();
    assert_eq!(others, FINDINGS.len() - 1, "{}", r.out);
    // The same as lines for scripts, and the file by its own name.
    let lines = lint(&[&format!("{dir}/config.json")]);
    assert_eq!(lines.code, 1);
    let errors =
        lines.out.lines().filter(|l| l.contains("config.json:") && l.contains(" error: ")).count();
    assert_eq!(errors, FINDINGS.iter().filter(|f| f.1 == "error").count(), "{}", lines.out);
    // create tells the same errors, and leaves nothing.
    let r = b.call(&["create", &b.id]);
    for (_, level, field, _) in
        FINDINGS.iter().filter(|f| f.1 == "error" && f.2 != "mounts[1].source")
    {
        assert!(r.err.contains(&format!("{field}: ")), "{level} {field}: {}", r.err);
    }
    b.assert_gone();
}

#[test]
fn exit_codes() {
    if !is_conex() {
        return;
    }
    let b = Box::sh("true");
    b.write_config();
    let dir = b.dir.to_str().unwrap();
    assert_eq!(lint(&[dir]).code, 0);
    let plain = serde_json::to_string_pretty(&b.config).unwrap();
    let c = with(&plain.replace("\"ociVersion\"", "\"unheardOf\": 1,\n\"ociVersion\""));
    let r = lint(&[c.dir.to_str().unwrap()]);
    assert_eq!(
        (r.code, r.out.contains("warning: unheardOf: unknown field")),
        (2, true),
        "{}",
        r.out
    );
    assert_eq!(lint(&["/no/such/bundle"]).code, 1);
    let c = with("{\n  \"ociVersion\": \"1.2.0\"\n  \"root\": {}\n}");
    let r = lint(&[c.dir.to_str().unwrap()]);
    assert!(
        r.code == 1 && r.out.contains("config.json:3:") && r.out.contains("expected a comma"),
        "{}",
        r.out
    );
}

/// What engines write has no problem.
#[test]
fn a_document_of_docker_is_clean() {
    if !is_conex() {
        return;
    }
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/docker-config.json");
    let mut document: Value =
        serde_json::from_str(&std::fs::read_to_string(data).unwrap()).unwrap();
    let b = Box::sh("true");
    // Its sources and its AppArmor profile were on another host.
    document["root"]["path"] = json!("rootfs");
    document["process"].as_object_mut().unwrap().remove("apparmorProfile");
    document["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "bind");
    document["linux"]["cgroupsPath"] = json!(format!("/conex-test/{}", b.id));
    std::fs::write(b.dir.join("config.json"), document.to_string()).unwrap();
    let r = lint(&["--no-notes", b.dir.to_str().unwrap()]);
    assert_eq!((r.code, r.out.lines().count()), (0, 1), "{}", r.out);
}

/// Every document of bundles/invalid has an error at the field of its name, where an editor finds it.
#[test]
fn every_broken_bundle() {
    if !is_conex() {
        return;
    }
    let mut failures = Vec::new();
    for (field, text) in broken_bundles() {
        let field = field.as_str();
        // Whether there is a terminal depends on how it is run, and what a file system takes only its mount says.
        if ["process.terminal", "mounts[1].options"].contains(&field) {
            continue;
        }
        let b = with(&text);
        let r = lint(&["--json", b.dir.to_str().unwrap()]);
        let found: Vec<Value> = serde_json::from_str(&r.out).unwrap_or_default();
        let right = |f: &Value| {
            f["field"] == field && f["level"] == "error" && f["line"].as_u64() > Some(0)
        };
        if r.code != 1 || !found.iter().any(right) {
            failures.push(format!("{field}: {}: {}", r.code, r.out));
        }
        // No word of the parser or of Rust.
        if ["invalid type", "struct ", "EOF", "ident", "i64", "u32"]
            .iter()
            .any(|w| r.out.contains(w))
        {
            failures.push(format!("{field}: not in the reader's words: {}", r.out));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_schema_takes_what_conex_takes() {
    if !is_conex() {
        return;
    }
    let schema: Value = serde_json::from_str(&lint(&["--json-schema"]).ok().out).unwrap();
    let kinds =
        &schema["properties"]["linux"]["properties"]["namespaces"]["items"]["properties"]["type"];
    assert!(kinds.to_string().contains("\"cgroup\""), "{kinds}");
    let uid = &schema["properties"]["process"]["properties"]["user"]["properties"]["uid"];
    assert_eq!(uid["maximum"], 4_294_967_295u64 as f64);
    assert_eq!(schema["properties"]["process"]["additionalProperties"], false);
}

/// Runs a command on a terminal of its own; what it writes there.
fn on_terminal(command: &mut Command) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = || std::process::Stdio::from(pty.slave.try_clone().unwrap());
    let mut child =
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm").spawn().unwrap();
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    drop(pty.slave);
    let mut out = Vec::new();
    // EIO is the end of a terminal.
    let _ = std::fs::File::from(pty.master).read_to_end(&mut out);
    child.wait().unwrap();
    String::from_utf8_lossy(&out).replace('\r', "")
}

#[test]
fn a_terminal_shows_the_line() {
    if !is_conex() {
        return;
    }
    let b = with(MANY);
    for args in [vec!["lint"], vec!["create", &b.id]] {
        let shown = on_terminal(b.command(&args).env("NO_COLOR", "1"));
        let block = "--> config.json:6:13\n  |\n6 |     \"args\": \"sh\",\n  |             ^^^^\n";
        assert!(shown.contains(block), "{args:?}: {shown}");
        assert!(!shown.contains('\x1b'), "{args:?}: {shown}");
    }
    let colours = on_terminal(b.command(&["lint"]).env_remove("NO_COLOR"));
    assert!(colours.contains("\x1b[1;31merror"), "{colours}");
    // A warning comes before the container's own words.
    let mut b = Box::sh("echo the container speaks");
    b.config["unheardOf"] = json!(1);
    b.write_config();
    let shown = on_terminal(&mut b.command(&["run", &b.id]));
    let at = |text: &str| shown.find(text).unwrap_or_else(|| panic!("{text}: {shown}"));
    assert!(at("unknown field") < at("the container speaks"), "{shown}");
    b.assert_gone();
}

/// An unknown field is told, in the log too, and stops nothing.
#[test]
fn unknown_fields_are_warnings() {
    if !is_conex() {
        return;
    }
    let mut b = Box::sh("true");
    b.config["process"]["noNewPrivilege"] = json!(true);
    b.write_config();
    let log = b.dir.join("log");
    b.call(&["--log", log.to_str().unwrap(), "run", &b.id]).ok();
    let told = std::fs::read_to_string(&log).unwrap();
    let said =
        "process.noNewPrivilege: unknown field; did you mean noNewPrivileges? (config.json line";
    assert!(told.contains("level=warning") && told.contains(said), "{told}");
    *b.at("process.args") = json!(["/bin/sleep", "1000"]);
    b.up();
    let process = b.dir.join("process.json");
    std::fs::write(&process, r#"{"args": ["/bin/true"], "cwd": "/", "usr": {}}"#).unwrap();
    let r = b.verb("exec", &["--process", process.to_str().unwrap()], &[]).ok();
    assert!(r.err.contains("usr: unknown field; did you mean user?"), "{}", r.err);
    let update = b.dir.join("resources.json");
    std::fs::write(&update, r#"{"memry": {"limit": 1}}"#).unwrap();
    let r = b.verb("update", &["--resources", update.to_str().unwrap()], &[]).ok();
    assert!(r.err.contains("memry: unknown field; did you mean memory?"), "{}", r.err);
    b.verb("delete", &["--force"], &[]).ok();
    b.assert_gone();
}

/// A profile that means one thing here and another with runc.
#[test]
fn rules_of_seccomp_that_contradict() {
    if !is_conex() {
        return;
    }
    let rule = |action: &str, index: u32, op: &str, value: u32| json!({"names": ["read", "ioctl"], "action": action, "args": [{"index": index, "op": op, "value": value}]});
    let told = |rules: Value| {
        let mut b = Box::sh("true");
        *b.at("linux.seccomp") = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
        b.write_config();
        lint(&["--no-notes", b.dir.to_str().unwrap()])
    };
    let (errno, log) = ("SCMP_ACT_ERRNO", "SCMP_ACT_LOG");
    let r = told(json!([rule(errno, 0, "SCMP_CMP_EQ", 1), rule(log, 1, "SCMP_CMP_GT", 7)]));
    assert_eq!(r.code, 2, "{}", r.out);
    assert!(
        r.out.contains(
            "linux.seccomp.syscalls[1].args: read: where this rule and syscalls[0] both hold"
        ),
        "{}",
        r.out
    );
    for fine in [
        json!([rule(errno, 0, "SCMP_CMP_EQ", 1), rule(log, 0, "SCMP_CMP_EQ", 2)]),
        json!([rule(errno, 0, "SCMP_CMP_EQ", 1), rule(errno, 1, "SCMP_CMP_EQ", 2)]),
    ] {
        let r = told(fine);
        assert_eq!(r.code, 0, "{}", r.out);
    }
}
