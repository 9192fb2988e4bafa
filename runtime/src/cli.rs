//! The command line as runc's (urfave/cli on Go's flag package) takes it.
//!
//! One or two dashes are the same; a value follows or is joined by `=`; flags may come after positional arguments,
//! except for `exec` and `ps`, whose arguments are those of another program.

use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;

pub struct Flag {
    pub name: &'static str,
    pub short: Option<&'static str>,
    /// Name of the value; `None` for a switch.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

pub struct Command {
    pub name: &'static str,
    pub args: &'static str,
    pub help: &'static str,
    pub flags: &'static [Flag],
    /// Least and most positional arguments.
    pub count: (usize, usize),
    /// False if everything after the first positional argument belongs to another program.
    pub reorder: bool,
}

const fn switch(name: &'static str, short: Option<&'static str>, help: &'static str) -> Flag {
    Flag { name, short, value: None, help }
}

const fn value(name: &'static str, short: Option<&'static str>, value: &'static str, help: &'static str) -> Flag {
    Flag { name, short, value: Some(value), help }
}

pub const GLOBAL: &[Flag] = &[
    switch("debug", None, "write debug messages to the log"),
    value("log", None, "file", "append messages to this file instead of standard error"),
    value("log-format", None, "format", "format of messages: text or json"),
    value("root", None, "dir", "directory for the state of containers"),
    switch("systemd-cgroup", None, "use the systemd cgroup driver"),
    value("cgroup-manager", None, "driver", "cgroupfs, systemd or disabled: no cgroup for the container"),
    value("rootless", None, "mode", "ignore permission errors of cgroups: true, false or auto"),
    value("criu", None, "path", "ignored; criu is found in PATH"),
    switch("help", Some("h"), "show help"),
    switch("version", Some("v"), "print the version"),
];

const BUNDLE: Flag = value("bundle", Some("b"), "dir", "directory of the bundle (default: the current one)");
const CONSOLE: Flag = value("console-socket", None, "path", "Unix socket that receives the terminal's master side");
const PIDFD: Flag = value("pidfd-socket", None, "path", "Unix socket that receives a pidfd of the process");
const PID_FILE: Flag = value("pid-file", None, "file", "write the process id to this file");
const PRESERVE: Flag = value("preserve-fds", None, "n", "pass n further descriptors, from 3 on");
const NO_PIVOT: Flag = switch("no-pivot", None, "move the root instead of pivot_root (ramdisk)");
const NO_KEYRING: Flag = switch("no-new-keyring", None, "keep the caller's session keyring");
const NO_SUBREAPER: Flag = switch("no-subreaper", None, "do not adopt orphans of the container");
const DETACH: Flag = switch("detach", Some("d"), "do not wait for the process");

pub const COMMANDS: &[Command] = &[
    Command {
        name: "checkpoint",
        args: "<container-id>",
        help: "checkpoint a running container (unsupported in this version)",
        flags: &[
            value("image-path", None, "dir", "directory for the images"),
            value("work-path", None, "dir", "directory for temporary files and logs"),
            value("parent-path", None, "dir", "directory of an earlier pre-dump"),
            switch("leave-running", None, "let the container run on"),
            switch("tcp-established", None, "allow open TCP connections"),
            switch("tcp-skip-in-flight", None, "skip connections being made"),
            switch("link-remap", None, "allow unlinked files"),
            switch("ext-unix-sk", None, "allow external Unix sockets"),
            switch("shell-job", None, "allow shell jobs"),
            switch("lazy-pages", None, "use userfaultfd"),
            value("status-fd", None, "n", "criu writes a byte here when lazy pages can be served"),
            value("page-server", None, "address", "address of a page server"),
            switch("file-locks", None, "handle file locks"),
            switch("pre-dump", None, "dump memory only and let the container run on"),
            value("manage-cgroups-mode", None, "mode", "soft, full, strict or ignore"),
            value("empty-ns", None, "namespace", "create a namespace without restoring it"),
            switch("auto-dedup", None, "deduplicate images"),
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "create",
        args: "<container-id>",
        help: "create a container, to be started by start",
        flags: &[BUNDLE, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "delete",
        args: "<container-id>",
        help: "delete what a container holds",
        flags: &[switch("force", Some("f"), "kill the container first; a missing one is no error")],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "events",
        args: "<container-id>",
        help: "print resource usage and out-of-memory events",
        flags: &[
            value("interval", None, "duration", "time between two statistics (default 5s)"),
            switch("stats", None, "print the statistics once and end"),
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "exec",
        args: "<container-id> <command> [command options]",
        help: "execute a process in a running container",
        flags: &[
            CONSOLE,
            PIDFD,
            value("cwd", None, "dir", "working directory in the container"),
            value("env", Some("e"), "NAME=value", "set an environment variable; may be repeated"),
            switch("tty", Some("t"), "allocate a terminal"),
            value("user", Some("u"), "uid[:gid]", "user of the process"),
            value("additional-gids", Some("g"), "gid", "a further group; may be repeated"),
            value("process", Some("p"), "file", "process.json: the whole process object"),
            DETACH,
            PID_FILE,
            value("process-label", None, "label", "SELinux label"),
            value("apparmor", None, "profile", "AppArmor profile"),
            switch("no-new-privs", None, "set no_new_privs"),
            value("cap", Some("c"), "capability", "add a capability; may be repeated"),
            PRESERVE,
            value("cgroup", None, "[controllers:]path", "run in a cgroup below the container's; may be repeated"),
            switch("ignore-paused", None, "allow exec in a paused container"),
            NO_SUBREAPER,
        ],
        count: (1, usize::MAX),
        reorder: false,
    },
    Command {
        name: "features",
        args: "",
        help: "print what this runtime supports, as JSON",
        flags: &[],
        count: (0, 0),
        reorder: true,
    },
    Command {
        name: "kill",
        args: "<container-id> [signal]",
        help: "send a signal to the container's init (default SIGTERM)",
        flags: &[switch("all", Some("a"), "accepted for compatibility; a stopped container is no error")],
        count: (1, 2),
        reorder: true,
    },
    Command {
        name: "list",
        args: "",
        help: "list the containers below the root",
        flags: &[
            value("format", Some("f"), "format", "table or json"),
            switch("quiet", Some("q"), "print ids only"),
        ],
        count: (0, 0),
        reorder: true,
    },
    Command {
        name: "pause",
        args: "<container-id>",
        help: "suspend all processes of the container",
        flags: &[],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "ps",
        args: "<container-id> [ps options]",
        help: "show the processes of the container",
        flags: &[value("format", Some("f"), "format", "table or json")],
        count: (1, usize::MAX),
        reorder: false,
    },
    Command {
        name: "restore",
        args: "<container-id>",
        help: "restore a container from a checkpoint (unsupported in this version)",
        flags: &[
            CONSOLE,
            value("image-path", None, "dir", "directory of the images"),
            value("work-path", None, "dir", "directory for temporary files and logs"),
            switch("tcp-established", None, "allow open TCP connections"),
            switch("tcp-close", None, "restore connections as closed"),
            switch("ext-unix-sk", None, "allow external Unix sockets"),
            switch("shell-job", None, "allow shell jobs"),
            switch("file-locks", None, "handle file locks"),
            value("manage-cgroups-mode", None, "mode", "soft, full, strict or ignore"),
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_KEYRING,
            value("empty-ns", None, "namespace", "create a namespace without restoring it"),
            switch("auto-dedup", None, "deduplicate images"),
            switch("lazy-pages", None, "use userfaultfd"),
            value("lsm-profile", None, "type:label", "security label to restore with"),
            value("lsm-mount-context", None, "context", "SELinux mount context to restore with"),
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "resume",
        args: "<container-id>",
        help: "resume what pause suspended",
        flags: &[],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "run",
        args: "<container-id> | <bundle>/",
        help: "create, start and wait for a container",
        flags: &[
            BUNDLE,
            CONSOLE,
            PIDFD,
            DETACH,
            switch("keep", None, "keep the container when its process has ended"),
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "setup",
        args: "<docker|containerd|podman|kubernetes>",
        help: "print the configuration that makes an engine use conex",
        flags: &[
            switch("write", None, "write it to the engine's file, keeping a copy of the old one"),
            switch("undo", None, "take it out again"),
            value("config", None, "file", "the engine's file"),
            switch("shim", None, "docker: with conex's own shim"),
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "spec",
        args: "",
        help: "write a config.json to start from",
        flags: &[
            value("bundle", Some("b"), "dir", "directory to write it to"),
            switch("rootless", None, "for an unprivileged user"),
        ],
        count: (0, 0),
        reorder: true,
    },
    Command {
        name: "start",
        args: "<container-id>",
        help: "start the program of a created container",
        flags: &[],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "state",
        args: "<container-id>",
        help: "print the state of a container, as JSON",
        flags: &[],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "update",
        args: "<container-id>",
        help: "change the resource limits of a container",
        flags: &[
            value(
                "resources",
                Some("r"),
                "file",
                "linux.resources as JSON (- for standard input); other flags are ignored then",
            ),
            value("blkio-weight", None, "n", "I/O weight, 10 to 1000"),
            value("cpu-period", None, "us", "CPU period"),
            value("cpu-quota", None, "us", "CPU time in a period"),
            value("cpu-burst", None, "us", "CPU time that may be saved up"),
            value("cpu-share", None, "n", "CPU shares"),
            value("cpu-rt-period", None, "us", "real-time period"),
            value("cpu-rt-runtime", None, "us", "real-time runtime"),
            value("cpuset-cpus", None, "list", "CPUs"),
            value("cpuset-mems", None, "list", "memory nodes"),
            value("cpu-idle", None, "0|1", "SCHED_IDLE for the cgroup"),
            value("kernel-memory", None, "bytes", "ignored by the kernel"),
            value("kernel-memory-tcp", None, "bytes", "ignored by the kernel"),
            value("memory", None, "bytes", "memory limit, -1 for none"),
            value("memory-reservation", None, "bytes", "soft memory limit"),
            value("memory-swap", None, "bytes", "memory plus swap, -1 for none"),
            value("pids-limit", None, "n", "number of processes, -1 for unlimited"),
            value("l3-cache-schema", None, "schema", "Intel RDT L3 cache schema"),
            value("mem-bw-schema", None, "schema", "Intel RDT memory bandwidth schema"),
        ],
        count: (1, 1),
        reorder: true,
    },
];

/// Parsed flags and what was left.
#[derive(Default, Debug)]
pub struct Args {
    flags: BTreeMap<&'static str, Vec<String>>,
    pub rest: Vec<String>,
}

impl Args {
    /// The last value given.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.get(name).and_then(|v| v.last()).map(String::as_str)
    }
    pub fn values(&self, name: &str) -> &[String] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
    /// A number, or an error that names the flag.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.value(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| usage(format!("invalid value {text:?} for flag --{name}: not a number")))
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, format!("Incorrect Usage: {}", what.into()))
}

/// Splits `argv` (without the program) into flags of the table and the rest.
pub fn parse(argv: &[String], table: &'static [Flag], reorder: bool) -> Result<Args> {
    let mut out = Args::default();
    let mut list = argv.iter();
    while let Some(arg) = list.next() {
        if arg == "--" {
            out.rest.extend(list.cloned());
            break;
        }
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|n| !n.is_empty()) else {
            out.rest.push(arg.clone());
            if !reorder {
                out.rest.extend(list.cloned());
                break;
            }
            continue;
        };
        let (name, joined) = match name.split_once('=') {
            Some((n, v)) => (n, Some(v.to_string())),
            None => (name, None),
        };
        let Some(flag) = table.iter().find(|f| f.name == name || f.short == Some(name)) else {
            return Err(usage(format!("flag provided but not defined: -{name}")));
        };
        let given = match (flag.value, joined) {
            (None, None) => "true".to_string(),
            (None, Some(v)) => match v.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => "true".into(),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => "false".into(),
                _ => return Err(usage(format!("invalid boolean value {v:?} for -{name}"))),
            },
            (Some(_), Some(v)) => v,
            (Some(_), None) => {
                list.next().cloned().ok_or_else(|| usage(format!("flag needs an argument: -{name}")))?
            }
        };
        out.flags.entry(flag.name).or_default().push(given);
    }
    Ok(out)
}

/// Global flags end at the first word that is none: the command.
pub fn parse_global(argv: &[String]) -> Result<(Args, Vec<String>)> {
    let mut args = parse(argv, GLOBAL, false)?;
    let rest = std::mem::take(&mut args.rest);
    Ok((args, rest))
}

pub fn command(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name)
}

pub fn check_count(command: &Command, args: &Args) -> Result<()> {
    let n = args.rest.len();
    if n < command.count.0 || n > command.count.1 {
        let want = match command.count {
            (a, b) if a == b => format!("exactly {a} argument(s)"),
            (a, usize::MAX) => format!("a minimum of {a} argument(s)"),
            (a, b) => format!("{a} to {b} arguments"),
        };
        return Err(usage(format!("{:?} requires {want}, got {n}", command.name)));
    }
    Ok(())
}

pub fn global_help() -> String {
    let mut out = String::from("NAME:\n   conex - a low-level OCI container runtime\n\nUSAGE:\n   conex [global options] command [command options] [arguments...]\n\nCOMMANDS:\n");
    for c in COMMANDS {
        out += &format!("   {:<12}{}\n", c.name, c.help);
    }
    out += "\nGLOBAL OPTIONS:\n";
    out + &flags_help(GLOBAL)
}

pub fn command_help(c: &Command) -> String {
    let mut out = format!(
        "NAME:\n   conex {} - {}\n\nUSAGE:\n   conex {} [command options] {}\n",
        c.name, c.help, c.name, c.args
    );
    if !c.flags.is_empty() {
        out += "\nOPTIONS:\n";
        out += &flags_help(c.flags);
    }
    out
}

fn flags_help(flags: &[Flag]) -> String {
    let line = |f: &Flag| {
        let short = f.short.map_or(String::new(), |s| format!(", -{s}"));
        let value = f.value.map_or(String::new(), |v| format!(" {v}"));
        format!("   {:<40}{}\n", format!("--{}{short}{value}", f.name), f.help)
    };
    flags.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn go_style() {
        let c = command("create").unwrap();
        let a = parse(&words("-bundle=/b --pid-file p ID -no-pivot"), c.flags, c.reorder).unwrap();
        assert_eq!((a.value("bundle"), a.value("pid-file")), (Some("/b"), Some("p")));
        assert!(a.is_set("no-pivot"));
        assert_eq!(a.rest, ["ID"]);
    }

    #[test]
    fn exec_stops_at_the_container() {
        let c = command("exec").unwrap();
        let a = parse(&words("-t -e A=b ID sh -c -t"), c.flags, c.reorder).unwrap();
        assert_eq!(a.rest, ["ID", "sh", "-c", "-t"]);
        assert_eq!(a.values("env"), ["A=b"]);
    }

    #[test]
    fn unknown_flags_and_missing_values() {
        let c = command("start").unwrap();
        assert!(parse(&words("--nope ID"), c.flags, true).unwrap_err().what.contains("not defined: -nope"));
        let c = command("create").unwrap();
        assert!(parse(&words("ID --bundle"), c.flags, true).is_err());
    }
}
