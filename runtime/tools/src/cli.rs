//! The table of commands; the runtime's own are in [`conex::cli`].

use conex::cli::{switch, value, Command};

pub const COMMANDS: &[Command] = &[
    Command {
        name: "doctor",
        args: "",
        help: conex::cli::tool("doctor"),
        flags: &[switch("json", None, "as JSON, for scripts")],
        count: (0, 0),
        reorder: true,
    },
    Command {
        name: "lint",
        args: "[<bundle> | <config.json>]",
        help: conex::cli::tool("lint"),
        flags: &[
            switch("json", None, "as JSON, for scripts"),
            switch("no-notes", None, "without notes on what is allowed but dangerous"),
            switch("json-schema", None, "print a JSON schema of config.json, for editors"),
        ],
        count: (0, 1),
        reorder: true,
    },
    Command {
        name: "seccomp",
        args: "explain <config.json | profile> <syscall> [<argument>...]",
        help: conex::cli::tool("seccomp"),
        flags: &[
            value(
                "cap",
                None,
                "name",
                "a capability that the container has, for a profile in Docker's format; may be repeated",
            ),
            switch("json", None, "as JSON, for scripts"),
        ],
        count: (3, 9),
        reorder: true,
    },
    Command {
        name: "setup",
        args: "<docker|containerd|podman|kubernetes>",
        help: conex::cli::tool("setup"),
        flags: &[
            switch("write", None, "write it to the engine's file, keeping a copy of the old one"),
            switch("undo", None, "take it out again"),
            value("config", None, "file", "the engine's file; with --by-name the directory of systemd's units"),
            switch("shim", None, "docker: with conex's own shim"),
            switch("by-name", None, "conex and its shim in the place of runc and its own: nothing else changes"),
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "top",
        args: "",
        help: conex::cli::tool("top"),
        flags: &[
            switch("own", None, "without those of the engines"),
            value("count", Some("n"), "n", "print so often and end (default: until it is interrupted)"),
        ],
        count: (0, 0),
        reorder: true,
    },
    Command {
        name: "wait",
        args: "<container-id>",
        help: conex::cli::tool("wait"),
        flags: &[],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "why",
        args: "<container-id>",
        help: conex::cli::tool("why"),
        flags: &[switch("json", None, "as JSON, for scripts")],
        count: (1, 1),
        reorder: true,
    },
];

/// `conex list` with more than runc's.
pub const LIST: Command = Command {
    name: "list",
    args: "",
    help: "list containers, with those of the engines, and what they use",
    flags: &[
        switch("all", Some("a"), "those of Docker, containerd, Podman and CRI-O as well"),
        switch("stats", None, "with CPU, memory, processes and uptime"),
        switch("quiet", Some("q"), "print only ids"),
        switch("help", Some("h"), "show this help"),
    ],
    count: (0, 0),
    reorder: true,
};

/// `conex run` with a root directory instead of a bundle.
pub const RUN: Command = Command {
    name: "run",
    args: "--rootfs <dir> [--] <command> [arguments]",
    help: "run a command in a root directory, without a config.json",
    flags: &[
        value("rootfs", None, "dir", "the container's root directory"),
        value("name", None, "id", "the container's id (default: after the directory)"),
        value(
            "volume",
            Some("v"),
            "source:destination[:ro]",
            "bind a path of the host; may be repeated",
        ),
        value(
            "env",
            Some("e"),
            "NAME[=value]",
            "a variable, or one of the caller's; may be repeated",
        ),
        value("memory", Some("m"), "bytes", "memory limit (k, m, g)"),
        value("cpus", None, "n", "number of CPUs, such as 1.5"),
        value("user", Some("u"), "uid[:gid]", "user of the process"),
        value("net", None, "host|none", "the host's network, or only a loopback (default: none)"),
        switch("help", Some("h"), "show this help"),
        switch("read-only", None, "the root directory cannot be written"),
        switch("terminal", Some("t"), "with a terminal (default: if this is one)"),
        switch("detach", Some("d"), "do not wait for the process"),
        switch("keep", None, "keep the container when its process has ended"),
        value(
            "console-socket",
            None,
            "path",
            "Unix socket that receives the terminal's master side",
        ),
        value("pidfd-socket", None, "path", "Unix socket that receives a pidfd of the process"),
        value("pid-file", None, "file", "write the process id to this file"),
        value("preserve-fds", None, "n", "pass n further descriptors, from 3 on"),
        switch("no-pivot", None, "move the root instead of pivot_root (ramdisk)"),
        switch("no-new-keyring", None, "keep the caller's session keyring"),
        switch("no-subreaper", None, "do not adopt orphans of the container"),
    ],
    count: (1, usize::MAX),
    reorder: false,
};

#[cfg(test)]
mod tests {
    use super::*;
    use conex::cli::{check_count, examples::EXAMPLES, parse, parse_global};

    #[test]
    fn examples_can_be_typed() {
        let mut seen = 0;
        for line in EXAMPLES.iter().flat_map(|(_, two)| two) {
            for part in line.split(['|', '&']).filter_map(|part| part.trim().strip_prefix("conex "))
            {
                let words: Vec<String> = part.split_whitespace().map(str::to_string).collect();
                let (_, rest) = parse_global(&words).unwrap();
                let more = [&RUN, &LIST].into_iter().filter(|c| {
                    part.contains("--all") || part.contains("--rootfs") || c.name != rest[0]
                });
                let own = COMMANDS
                    .iter()
                    .chain(more)
                    .find(|c| c.name == rest[0] && !part.starts_with("spec"));
                let own = own.filter(|c| c.name != "run" || part.contains("--rootfs"));
                let Some(command) = own else { continue };
                let args = parse(&rest[1..], command.flags, command.reorder)
                    .unwrap_or_else(|e| panic!("{line}: {e}"));
                check_count(command, &args).unwrap_or_else(|e| panic!("{line}: {e}"));
                seen += 1;
            }
        }
        assert!(seen >= 16, "{seen}");
    }
}
