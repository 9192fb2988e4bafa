//! `conex run --rootfs DIR -- COMMAND…`: a directory run without a config.json. The document is made here, and kept with
//! the state as any other.

use crate::Invocation;
use conex::error::{Context, Error, Kind, Result};
use conex::oci::template::Template;
use conex::text;
use conex::verbs::{exec, run, spec, update};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;

/// Flags that are conex's own, which are handed on.
const SWITCHES: [&str; 5] = ["detach", "keep", "no-subreaper", "no-pivot", "no-new-keyring"];
const VALUES: [&str; 4] = ["console-socket", "pidfd-socket", "pid-file", "preserve-fds"];

/// Makes the document and executes conex with it.
///
/// # Errors
/// Returns only with one.
pub fn main(env: &Invocation) -> Result<i32> {
    let (id, root, document) = describe(env)?;
    let file =
        nix::sys::memfd::memfd_create(c"config.json", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = std::fs::File::from(file.call(|| "memfd_create")?);
    file.write_all(&document).call(|| "write(memfd)")?;
    // Above those that the caller hands on by their numbers; conex reads it there.
    let kept = env.args.number::<i32>("preserve-fds")?.unwrap_or(0).clamp(0, 1 << 20);
    let listen = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse::<i32>().ok())
        .unwrap_or(0)
        .clamp(0, 1024);
    let file =
        conex_sys::fd::dup_above(file.as_raw_fd(), 3 + kept + listen).call(|| "fcntl(F_DUPFD)")?;
    conex_sys::fd::clear_cloexec(file.as_raw_fd()).call(|| "fcntl(F_SETFD)")?;
    let mut command = std::process::Command::new(&env.program);
    command.args(&env.global).arg("run").arg("--bundle").arg(&root);
    command.arg("--config").arg(format!("/proc/self/fd/{}", file.as_raw_fd()));
    for flag in SWITCHES.into_iter().filter(|f| env.args.is_set(f)) {
        command.arg(format!("--{flag}"));
    }
    for flag in VALUES {
        if let Some(value) = env.args.value(flag) {
            command.arg(OsString::from(format!("--{flag}"))).arg(&*text::os(value));
        }
    }
    let e = command.arg(id).exec();
    Err(Error::new(Kind::System, format!("execve({}): {e}", env.program.display())))
}

/// What `--memory` and `--cpus` give, as members of `linux.resources`.
fn limits(env: &Invocation) -> Result<String> {
    let mut out = String::new();
    if let Some(text) = env.args.value("memory") {
        out += &format!(",\n\t\t\t\"memory\": {{\"limit\": {}}}", update::size("memory", text)?);
    }
    if let Some(text) = env.args.value("cpus") {
        let quota = update::cpu_quota(text)?;
        out += &format!(",\n\t\t\t\"cpu\": {{\"quota\": {quota}, \"period\": 100000}}");
    }
    Ok(out)
}

/// What `--env` gives.
fn variables(env: &Invocation) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for variable in env.args.values("env") {
        match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => out.push(variable.clone()),
            // Docker: a name alone takes the caller's value, if there is one.
            None if !variable.is_empty() => {
                let value = std::env::var_os(&*text::os(variable));
                out.extend(value.map(|v| format!("{variable}={}", text::of_path(Path::new(&v)))));
            }
            _ => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("--env {variable:?}: expected NAME=value or NAME"),
                ))
            }
        }
    }
    Ok(out)
}

/// The id, the root directory and the document that the command line asks for.
///
/// # Errors
/// Names the flag that is wrong.
fn describe(env: &Invocation) -> Result<(String, std::path::PathBuf, Vec<u8>)> {
    let bad = |what: String| Error::new(Kind::Invalid, what);
    let a = &env.args;
    let root = spec::directory(a.value("rootfs").unwrap_or("."))?;
    let terminal = match a.value("terminal") {
        Some(given) => given == "true",
        None => {
            !a.is_set("detach") && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
        }
    };
    if a.rest.is_empty() {
        return Err(bad("run --rootfs: no command given".into()));
    }
    let id = a.value("name").map_or_else(|| run::id_from(&root), str::to_string);
    conex::state::check_id(&id)?;
    let mut t = Template {
        args: a.rest.clone(),
        terminal,
        rootfs: text::of_path(&root),
        readonly: a.is_set("read-only"),
        hostname: id.chars().take(64).collect(),
        capabilities: USUAL,
        ..Template::default()
    };
    t.env.extend(variables(env)?);
    for text in a.values("volume") {
        let (source, destination, readonly) = volume(text)?;
        t.mounts += &bind(&source, &destination, readonly);
    }
    t.resources += &limits(env)?;
    if let Some(user) = a.value("user") {
        (t.uid, t.gid) = exec::parse_user(user, 0)?;
    }
    match a.value("net").unwrap_or("none") {
        "none" => {}
        "host" => share_network(&mut t, &root),
        other => return Err(bad(format!("--net {other:?}: expected host or none"))),
    }
    if conex::host::facts::of_a_user() {
        if !t.resources.is_empty() {
            return Err(bad(
                "--memory and --cpus are not given to the containers of a user without privileges"
                    .into(),
            ));
        }
        t.rootless = Some((nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    }
    Ok((id, root, text::bytes(&t.text()).into_owned()))
}

fn share_network(t: &mut Template, root: &Path) {
    t.network = false;
    // Names are looked up as on the host.
    let file =
        Path::new("/etc/resolv.conf").canonicalize().ok().filter(|_| root.join("etc").is_dir());
    if let Some(file) = file {
        t.mounts += &bind(&text::of_path(&file), "/etc/resolv.conf", true);
    }
}

/// What Docker gives a container.
const USUAL: &str = r#""CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE""#;

/// A mount of the document, with a comma before it.
fn bind(source: &str, destination: &str, readonly: bool) -> String {
    let quote = |s: &str| serde_json::Value::from(s).to_string();
    // With what is mounted below it, where the kernel can (Linux 5.12).
    let ro = match readonly {
        true if conex::acts::tree::has_setattr() => ", \"rro\"",
        true => ", \"ro\"",
        false => "",
    };
    format!(
        ",\n\t\t{{\"destination\": {}, \"type\": \"bind\", \"source\": {}, \"options\": [\"rbind\", \"rprivate\"{ro}]}}",
        quote(destination),
        quote(source)
    )
}

/// `SOURCE:DESTINATION[:ro|rw]`
fn volume(text: &str) -> Result<(String, String, bool)> {
    let bad = |why: &str| Error::new(Kind::Invalid, format!("--volume {text:?}: {why}"));
    let mut parts = text.split(':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(bad("expected SOURCE:DESTINATION or SOURCE:DESTINATION:ro"));
    };
    let readonly = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(bad("only ro or rw may follow the destination")),
    };
    let source = text::path(source).canonicalize().map_err(|e| bad(&format!("the source: {e}")))?;
    if !destination.starts_with('/') {
        return Err(bad("the destination is not an absolute path"));
    }
    Ok((text::of_path(&source), destination.to_string(), readonly))
}
