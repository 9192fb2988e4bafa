//! The commands and their flags, as data.

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

pub const fn switch(name: &'static str, short: Option<&'static str>, help: &'static str) -> Flag {
    Flag { name, short, value: None, help }
}

pub const fn value(
    name: &'static str,
    short: Option<&'static str>,
    value: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, short, value: Some(value), help }
}

pub const GLOBAL: &[Flag] = &[
    switch("debug", None, "write debug messages to the log"),
    value(
        "trace",
        None,
        "file",
        "write a timeline: .json (Perfetto), .svg, .html, or - for standard error",
    ),
    value("log", None, "file", "append messages to this file instead of standard error"),
    value("log-format", None, "format", "format of messages: text or json"),
    value("root", None, "dir", "directory for the state of containers"),
    switch("systemd-cgroup", None, "use the systemd cgroup driver"),
    value(
        "cgroup-manager",
        None,
        "driver",
        "cgroupfs, systemd or disabled: no cgroup for the container",
    ),
    value("rootless", None, "mode", "ignore permission errors of cgroups: true, false or auto"),
    value("criu", None, "path", "ignored; criu is found in PATH"),
    switch("help", Some("h"), "show help"),
    switch("version", Some("v"), "print the version"),
];

const BUNDLE: Flag =
    value("bundle", Some("b"), "dir", "directory of the bundle (default: the current one)");
const CONFIG: Flag =
    value("config", Some("f"), "file", "document to use instead of the bundle's config.json");
const CONSOLE: Flag =
    value("console-socket", None, "path", "Unix socket that receives the terminal's master side");
const PIDFD: Flag =
    value("pidfd-socket", None, "path", "Unix socket that receives a pidfd of the process");
const PID_FILE: Flag = value("pid-file", None, "file", "write the process id to this file");
const PRESERVE: Flag = value("preserve-fds", None, "n", "pass n further descriptors, from 3 on");
const PRESERVE_LIST: Flag =
    value("preserve-fd", None, "list", "pass these descriptors, such as 5,9");
const NO_PIVOT: Flag = switch("no-pivot", None, "move the root instead of pivot_root (ramdisk)");
const NO_KEYRING: Flag = switch("no-new-keyring", None, "keep the caller's session keyring");
const NO_SUBREAPER: Flag = switch("no-subreaper", None, "do not adopt orphans of the container");
const DETACH: Flag = switch("detach", Some("d"), "do not wait for the process");

pub const COMMANDS: &[Command] = &[
    Command {
        name: "checkpoint",
        args: "<container-id>",
        help: "write a running container down, by CRIU, to be restored",
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
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE,
            PIDFD,
            PID_FILE,
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
            PRESERVE_LIST,
        ],
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
            PRESERVE_LIST,
            value(
                "cgroup",
                None,
                "[controllers:]path",
                "run in a cgroup below the container's; may be repeated",
            ),
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
        flags: &[switch(
            "all",
            Some("a"),
            "accepted for compatibility; a stopped container is no error",
        )],
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
        help: "make a container from a checkpoint and let it go on, by CRIU",
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
            switch("lazy-pages", None, "use userfaultfd: criu lazy-pages serves the memory"),
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
        args: "<container-id> | <bundle>/ | .",
        help: "create, start and wait for a container",
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE,
            PIDFD,
            DETACH,
            switch("keep", None, "keep the container when its process has ended"),
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NO_KEYRING,
            PRESERVE,
            PRESERVE_LIST,
            value(
                "rootfs",
                None,
                "dir",
                "run a command there, without a config.json (conex run --rootfs . --help)",
            ),
            switch("seccomp-log", None, "say at the end what linux.seccomp has denied"),
        ],
        count: (1, 1),
        reorder: true,
    },
    Command {
        name: "spec",
        args: "[--] [command…]",
        help: "write a config.json to start from",
        flags: &[
            value("bundle", Some("b"), "dir", "directory to write it to"),
            value(
                "rootfs",
                None,
                "dir",
                "the container's root directory (default: rootfs in the bundle)",
            ),
            switch("rootless", None, "for an unprivileged user"),
            switch("terminal", Some("t"), "with a terminal (default: only without a command)"),
            value("of", None, "id", "print the config.json of a container instead"),
        ],
        count: (0, usize::MAX),
        reorder: false,
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
            value("cpus", None, "n", "number of CPUs, such as 1.5: a quota in a period of 100 ms"),
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

/// The commands of the second program, conex-tools, each with its line of help.
pub const TOOLS: &[(&str, &str)] = &[
    ("doctor", "say what this host can do, what is missing and what is slow"),
    ("lint", "check a config.json: every problem, with its line"),
    ("seccomp", "say what a seccomp profile does with a system call, and by which rule"),
    ("setup", "print the configuration that makes an engine use conex"),
    ("top", "show what containers use, again and again"),
    ("wait", "wait for the end of a container, and print its exit status"),
    ("why", "say what has become of a container, also of one that is gone"),
];

/// The line of help of a command of [`TOOLS`].
pub const fn tool(name: &str) -> &'static str {
    let mut i = 0;
    while i < TOOLS.len() {
        if same(TOOLS[i].0.as_bytes(), name.as_bytes()) {
            return TOOLS[i].1;
        }
        i += 1;
    }
    panic!("no such command in TOOLS")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
