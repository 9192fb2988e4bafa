//! `conex setup`: what it prints is what engines read; what it writes it can take back; what is wrong it leaves alone.

use crate::harness::*;
use std::path::PathBuf;
use std::process::Command;

fn setup(args: &[&str]) -> Ran {
    finish(Command::new(runtime()).arg("setup").args(args), b"")
}

fn place(name: &str) -> PathBuf {
    let base = std::env::var_os("CONEX_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("setup-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    all.sort();
    all
}

#[test]
fn docker_is_set_up_and_back() {
    if !is_conex() {
        return;
    }
    let dir = place("docker");
    let file = dir.join("daemon.json");
    let flag = format!("--config={}", file.display());
    // Printing writes nothing.
    let text = setup(&[&flag, "docker"]).ok().out;
    assert!(text.contains("\"runtimes\"") && names(&dir).is_empty(), "{text}");
    let old = "{\n  \"log-driver\": \"local\"\n}\n";
    std::fs::write(&file, old).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    setup(&["docker", "--write", &flag]).ok();
    let value: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(value["runtimes"]["conex"]["path"], runtime().to_str().unwrap());
    assert_eq!(value["log-driver"], "local");
    assert_eq!(std::fs::read_to_string(dir.join("daemon.json.before-conex")).unwrap(), old);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert!(setup(&["docker", "--write", &flag]).ok().out.contains("nothing to change"));
    setup(&["docker", "--undo", &flag]).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), old);
    assert_eq!(names(&dir), ["daemon.json"]);
    // What only root may read is in the copy for nobody else either, from its first moment: this one ends at the first byte.
    let line =
        format!("umask 0; ulimit -f 0; {} setup docker --write '{flag}'", runtime().display());
    assert_ne!(finish(std::process::Command::new("sh").args(["-c", &line]), b"").code, 0);
    assert_eq!(names(&dir), ["daemon.json", "daemon.json.before-conex"]);
    assert_eq!(
        std::fs::metadata(dir.join("daemon.json.before-conex")).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), old);
    std::fs::remove_file(dir.join("daemon.json.before-conex")).unwrap();
    // A file that is not valid stays as it is.
    for bad in
        ["{ not json", "{\"runtimes\": []}", "{\"runtimes\": {\"conex\": {\"path\": \"/other\"}}}"]
    {
        std::fs::write(&file, bad).unwrap();
        setup(&["docker", "--write", &flag]).fails_with("daemon.json: ");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bad);
        assert_eq!(names(&dir), ["daemon.json"]);
    }
    std::fs::remove_file(&file).unwrap();
    setup(&["docker", "--write", "--shim", &flag]).ok();
    assert!(std::fs::read_to_string(&file).unwrap().contains("io.containerd.conex.v2"));
    setup(&["docker", "--undo", &flag]).ok();
    assert!(names(&dir).is_empty());
}

/// containerd asks shims of runc's type for what they can do.
fn newer() -> bool {
    let text = Command::new("containerd").arg("--version").output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let release = text.split_whitespace().nth(2).unwrap().trim_start_matches('v');
    ["1.7.", "2.0.", "2.1.", "2.2.", "2.3."].iter().any(|r| release.starts_with(r))
}

#[test]
fn containerd_judges_its_own_file() {
    if !is_conex() {
        return;
    }
    let dir = place("containerd");
    let file = dir.join("config.toml");
    let flag = format!("--config={}", file.display());
    if Command::new("containerd").arg("--version").output().is_err() {
        setup(&["containerd", "--write", &flag]).fails_with("must be installed");
        return assert!(names(&dir).is_empty());
    }
    for old in [None, Some("version = 2\n[grpc]\n  address = \"/run/x.sock\"\n")] {
        if let Some(old) = old {
            std::fs::write(&file, old).unwrap();
        }
        setup(&["kubernetes", "--write", &flag]).ok();
        let dump = Command::new("containerd")
            .arg("--config")
            .arg(&file)
            .args(["config", "dump"])
            .output()
            .unwrap();
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.contains("runtimes.conex]"), "{dump}");
        let block = &dump[dump.find("runtimes.conex]").unwrap()..];
        let (kind, path) = match newer() {
            true => (
                "io.containerd.runc.v2",
                runtime().with_file_name("containerd-shim-conex-v2").display().to_string(),
            ),
            false => ("io.containerd.conex.v2", String::new()),
        };
        let (has, at) =
            (block.find(kind), block.replace('\'', "\"").find(&format!("runtime_path = {path:?}")));
        assert!(
            has.is_some_and(|n| n < 2000) && (path.is_empty() || at.is_some_and(|n| n < 2000)),
            "{block}"
        );
        setup(&["containerd", "--undo", &flag]).ok();
        assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), old);
    }
    the_default_runtime_stays(&file, &flag);
    std::fs::write(&file, "version = 2\n[grpc\n").unwrap();
    setup(&["containerd", "--write", &flag]).fails_with("containerd refuses it");
    assert_eq!(names(&dir), ["config.toml"]);
    std::fs::write(&file, "[grpc]\n").unwrap();
    setup(&["containerd", "--write", &flag]).fails_with("version");
    // What is not a comment is the manifest.
    let text = setup(&["kubernetes", &format!("--config={}/none", dir.display())]).ok().out;
    let manifest: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(
        (manifest[1], manifest.last().copied()),
        ("kind: RuntimeClass", Some("handler: conex"))
    );
}

/// containerd 1.6 takes the file's runtimes for all there are: files as Debian, Docker and kubeadm write them, and one that
/// names its own.
fn the_default_runtime_stays(file: &std::path::Path, flag: &str) {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let debian = format!(
        "version = 2\n\n[plugins]\n  [{cri}]\n    [{cri}.cni]\n      bin_dir = \"/usr/lib/cni\"\n"
    );
    let own = format!("version = 2\n[{cri}.containerd]\ndefault_runtime_name = \"mine\"\n[{cri}.containerd.runtimes.mine]\nruntime_type = \"io.containerd.runc.v2\"\n");
    let kubeadm = format!("version = 2\n[{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n[{cri}.containerd.runtimes.runc.options]\nSystemdCgroup = true\n");
    for (text, name) in [
        ("", "runc"),
        ("version = 2\n", "runc"),
        (&debian, "runc"),
        (&own, "mine"),
        (&kubeadm, "runc"),
    ] {
        std::fs::write(file, text).unwrap();
        setup(&["kubernetes", "--write", flag]).ok();
        let dump = Command::new("containerd")
            .arg("--config")
            .arg(file)
            .args(["config", "dump"])
            .output()
            .unwrap();
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        for name in [name, "conex"] {
            assert!(
                dump.contains(&format!("containerd.runtimes.{name}]")),
                "{text}: no {name}: {dump}"
            );
        }
        assert!(text != kubeadm || dump.contains("SystemdCgroup = true"), "{dump}");
        let printed = std::fs::read_to_string(file).unwrap();
        setup(&["containerd", "--undo", flag]).ok();
        let back = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            back == text
                || text.is_empty() && back.is_empty()
                || text == "version = 2\n" && back.is_empty(),
            "{back}"
        );
        // What is printed is what is written.
        let _ = std::fs::remove_file(file);
        if !back.is_empty() {
            std::fs::write(file, &back).unwrap();
            let advice = setup(&["containerd", flag]).ok().out;
            let block = advice.split_once('\n').unwrap().1;
            assert!(printed.ends_with(block), "{printed} {block}");
        }
    }
}

#[test]
fn podman_has_a_file_of_ours() {
    if !is_conex() {
        return;
    }
    let dir = place("podman");
    let file = dir.join("conf.d/50-conex.conf");
    let flag = format!("--config={}", file.display());
    setup(&["podman", "--write", &flag]).ok();
    assert!(std::fs::read_to_string(&file).unwrap().contains("[engine.runtimes]\nconex = ["));
    setup(&["podman", "--undo", &flag]).ok();
    assert!(!file.exists());
    std::fs::write(&file, "mine\n").unwrap();
    setup(&["podman", "--write", &flag]).fails_with("by hand");
    setup(&["podman", "--undo", &flag]).fails_with("by hand");
    setup(&["cri-o"]).fails_with("expected docker, containerd, podman or kubernetes");
    setup(&["podman", "--write", "--undo"]).fails_with("exclude each other");
}

/// Docker before 23.0 reads over `runtimeType`, and would run runc.
#[test]
fn an_old_docker_takes_no_shim() {
    if !is_conex() {
        return;
    }
    let dir = place("old-docker");
    let file = dir.join("daemon.json");
    let with = |version: &str, args: &[&str]| {
        executable(
            &dir.join("dockerd"),
            format!("#!/bin/sh\necho Docker version {version}, build x\n").as_bytes(),
        );
        let mut c = Command::new(runtime());
        c.arg("setup").args(args).arg(format!("--config={}", file.display())).arg("docker");
        c.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.display()));
        finish(&mut c, b"")
    };
    with("20.10.24+dfsg1", &["--shim", "--write"]).fails_with("would run runc instead");
    assert!(!file.exists());
    with("20.10.24+dfsg1", &["--write"]).ok();
    with("20.10.24+dfsg1", &["--undo"]).ok();
    with("28.5.2", &["--shim", "--write"]).ok();
    assert!(std::fs::read_to_string(&file).unwrap().contains("runtimeType"));
    setup(&["--shim", "podman"]).fails_with("--shim is for docker");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// By name: links and drop-ins of its own, taken back to nothing, and nobody else's file touched.
#[test]
fn conex_by_the_name_of_runc() {
    if !is_conex() {
        return;
    }
    let dir = place("by-name");
    let (units, program) = (dir.join("units"), dir.join("conex"));
    std::fs::create_dir(&units).unwrap();
    let shim = PathBuf::from(std::env::var("SHIM").unwrap());
    for (from, to) in [
        (runtime(), program.clone()),
        (runtime().with_file_name("conex-tools"), dir.join("conex-tools")),
        (shim, dir.join("containerd-shim-conex-v2")),
    ] {
        copied(&from, &to);
    }
    let flag = format!("--config={}", units.display());
    let setup = |args: &[&str]| {
        finish(Command::new(&program).args(["setup", "--by-name", &flag]).args(args), b"")
    };
    let text = setup(&["docker"]).ok().out;
    assert!(
        text.contains("ln -s ")
            && text.contains("docker.service.d/50-conex.conf")
            && names(&units).is_empty(),
        "{text}"
    );
    let line =
        format!("umask 0; exec '{}' setup --by-name '{flag}' --write docker", program.display());
    let written = finish(Command::new("sh").args(["-c", &line]), b"").ok().out;
    assert!(written.contains("systemctl restart docker.service containerd.service"), "{written}");
    use std::os::unix::fs::PermissionsExt;
    for made in [
        dir.join("by-name"),
        units.join("docker.service.d"),
        units.join("docker.service.d/50-conex.conf"),
    ] {
        assert_eq!(made.metadata().unwrap().permissions().mode() & 0o022, 0, "{}", made.display());
    }
    assert_eq!(names(&units), ["containerd.service.d", "docker.service.d"]);
    // A unit's drop-in, as a shell can read its one variable.
    let file = units.join("docker.service.d/50-conex.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    let path = text
        .lines()
        .find_map(|l| l.strip_prefix("Environment=\"PATH=")?.strip_suffix('"'))
        .unwrap();
    let mut c = Command::new("sh");
    let version =
        finish(c.env("PATH", path).args(["-c", "runc --version; containerd-shim-runc-v2 -v"]), b"")
            .ok()
            .out;
    assert!(
        version.starts_with("conex version ") && version.contains("containerd-shim-"),
        "{version}"
    );
    setup(&["--write", "kubernetes"]).ok();
    // Another engine still needs the links, and the drop-in of the unit that both have.
    setup(&["--undo", "docker"]).ok();
    let kept = std::fs::read_to_string(units.join("containerd.service.d/50-conex.conf")).unwrap();
    assert!(
        kept.contains("# For: kubernetes\n") && names(&units) == ["containerd.service.d"],
        "{kept}"
    );
    setup(&["--write", "docker"]).ok();
    setup(&["--undo", "kubernetes"]).ok();
    setup(&["--write", "containerd"]).ok();
    assert!(setup(&["--undo", "containerd"]).ok().out.contains("taken away"));
    assert!(
        dir.join("by-name/runc").is_symlink()
            && names(&units) == ["containerd.service.d", "docker.service.d"]
    );
    std::fs::write(units.join("docker.service.d/other.conf"), "").unwrap();
    setup(&["--undo", "docker"]).ok();
    assert!(
        !dir.join("by-name").exists() && names(&units.join("docker.service.d")) == ["other.conf"]
    );
    assert!(setup(&["--undo", "docker"]).ok().out.contains("nothing to take back"));
    // What is somebody else's stays, and nothing beside it is written.
    std::fs::write(&file, "[Service]\n").unwrap();
    setup(&["--write", "docker"]).fails_with("is not what conex setup --by-name writes");
    assert!(!dir.join("by-name").exists());
    setup(&["--undo", "docker"]).fails_with("is not what conex setup --by-name writes");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(dir.join("by-name")).unwrap();
    std::fs::write(dir.join("by-name/runc"), "").unwrap();
    setup(&["--write", "docker"]).fails_with("by-name/runc is not what");
    setup(&["podman"]).fails_with("podman takes a runtime by its path");
    setup(&["--shim", "docker"]).fails_with("exclude each other");
}
