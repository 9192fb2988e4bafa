//! `gendocs DIR`: writes the man pages and shell completions below DIR from the same table that parses the command
//! line, so that no flag can be missing. The prose of each verb is here.

use conex::cli::{Command, Flag, COMMANDS, GLOBAL};
use std::fmt::Write;
use std::path::Path;

fn main() {
    let dir = std::env::args().nth(1).expect("gendocs DIR");
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir.join("docs/man")).expect("mkdir");
    std::fs::create_dir_all(dir.join("completions")).expect("mkdir");
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("write");
    write("docs/man/conex.8", overview());
    for c in COMMANDS {
        write(&format!("docs/man/conex-{}.8", c.name), page(c));
    }
    write("completions/conex.bash", bash());
    write("completions/_conex", zsh());
    write("completions/conex.fish", fish());
}

fn roff(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-").replace("\n.", "\n\\&.")
}

fn heading(name: &str, help: &str) -> String {
    format!(
        ".TH {} 8 \"\" \"conex {}\" \"conex\"\n.SH NAME\n{} \\- {}\n",
        name.to_uppercase().replace('-', "\\-"),
        env!("CARGO_PKG_VERSION"),
        roff(name),
        roff(help)
    )
}

fn flags(out: &mut String, list: &[Flag]) {
    for f in list {
        let short = f.short.map_or(String::new(), |s| format!(", \\fB\\-{s}\\fR"));
        let value = f.value.map_or(String::new(), |v| format!(" \\fI{}\\fR", roff(v)));
        let _ = write!(out, ".TP\n\\fB\\-\\-{}\\fR{short}{value}\n{}\n", roff(f.name), roff(f.help));
    }
}

fn overview() -> String {
    let mut out = heading("conex", "a low-level OCI container runtime");
    out +=
        ".SH SYNOPSIS\n.B conex\n[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]\n";
    out += ".SH DESCRIPTION\nconex creates and runs containers from bundles as the OCI runtime specification describes them. It takes the command line of runc, so that containerd, Docker, Podman and CRI\\-O can use it in its place.\n";
    out += ".PP\nA flag may be written with one or two dashes, its value may follow or be joined by =, and flags may come after the arguments, except for exec and ps.\n";
    out += ".SH GLOBAL OPTIONS\n";
    flags(&mut out, GLOBAL);
    out += ".SH COMMANDS\n";
    for c in COMMANDS {
        let _ = write!(out, ".TP\n\\fBconex\\-{}\\fR(8)\n{}\n", c.name, roff(c.help));
    }
    out += ".SH ERRORS\nA failure is one message: the path of the value in config.json, what was being done, the system call, and why:\n.PP\n.RS\n.nf\nfield: what: call(arguments): ERRNO (meaning)\n.fi\n.RE\n.PP\nWhere the field stands in config.json is given by line and column. Warnings are written only when the command succeeds.\n";
    out += ".SH EXIT STATUS\n0 on success, 1 on an error, 255 if \\fBexec\\fR itself fails. \\fBrun\\fR and \\fBexec\\fR in the foreground return the status of the process, 128+n if signal n ended it.\n";
    out += ".SH FILES\n.TP\n/run/conex\nstate of containers, if \\fB\\-\\-root\\fR is not given and the user is root\n.TP\n$XDG_RUNTIME_DIR/conex\nthe same for other users, and for root in another user's user namespace\n";
    out += ".SH ENVIRONMENT\n.TP\nLISTEN_FDS, LISTEN_PID\nsocket activation: descriptors from 3 on are passed to the container if LISTEN_PID is the runtime's own pid\n.TP\nNOTIFY_SOCKET\nreadiness of the container is forwarded to this socket by \\fBstart\\fR and \\fBrun\\fR\n";
    out
}

/// What a user needs to know of a verb beyond its flags.
fn prose(name: &str) -> &'static str {
    match name {
        "create" => "Makes a container from the bundle and leaves its first process waiting, fully confined, until start. Everything that can be wrong with config.json is found here, the program to execute included. On an error nothing is left behind. An id that a killed create left behind is cleaned up first.",
        "start" => "Lets the program of a created container begin, and returns when it has been executed. Hooks startContainer and poststart run here.",
        "run" => "Create and start in one step; unless detached, waits, relays signals and the terminal, and deletes the container afterwards. An argument with a slash is the bundle itself; the id is then its name and a short suffix.",
        "state" => "Prints the state as JSON: ociVersion, id, pid, status (creating, created, running, paused, stopped), bundle, rootfs, created, annotations, owner.",
        "kill" => "The signal is a number or a name with or without SIG, SIGRTMIN+n included. SIGKILL to a container without a PID namespace of its own kills everything in its cgroup.",
        "delete" => "Removes a stopped or created container: what is left of its processes, cgroups, the state, then runs the poststop hooks. A container whose state is damaged can be deleted with force.",
        "exec" => "Executes a process in the namespaces and cgroups of a running container, with its seccomp filter. Without a process file the container's own process object is the template. Users are numbers: names would come from a file of the image.",
        "list" => "Lists containers as a table or as JSON.",
        "ps" => "Lists the processes of the container's cgroup and the cgroups below it: as JSON an array of pids, as a table the lines of ps(1) with these pids.",
        "pause" => "Freezes the container's cgroup and returns when the kernel says that it is frozen.",
        "resume" => "Thaws the container's cgroup.",
        "update" => "Writes new limits to the container's cgroup; if one is refused, the earlier values are restored. Device rules are not changed.",
        "events" => "Prints one JSON object a line: stats at the interval, oom whenever the kernel kills a process of the container for want of memory. Ends with the container.",
        "spec" => "Writes config.json, never over an existing one.",
        "features" => "Prints the features document of the runtime specification. Touches no state and needs no privilege.",
        "checkpoint" | "restore" => "Not supported by this version: fails with an error that says so.",
        _ => "",
    }
}

fn page(c: &Command) -> String {
    let mut out = heading(&format!("conex-{}", c.name), c.help);
    let _ = write!(out, ".SH SYNOPSIS\n.B conex {}\n[\\fIoptions\\fR] {}\n", c.name, roff(c.args));
    let _ = write!(out, ".SH DESCRIPTION\n{}\n", roff(prose(c.name)));
    if !c.flags.is_empty() {
        out += ".SH OPTIONS\n";
        flags(&mut out, c.flags);
    }
    out += ".SH SEE ALSO\n\\fBconex\\fR(8)\n";
    out
}

fn takes_id(c: &Command) -> bool {
    c.args.starts_with("<container-id>") && !matches!(c.name, "create" | "restore")
}

fn long_flags(list: &[Flag]) -> String {
    list.iter().map(|f| format!("--{}", f.name)).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let mut out = String::from("# bash completion for conex\n_conex() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} verb= i\n\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n");
    let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    let _ = writeln!(out, "\t\t{}) verb=${{COMP_WORDS[i]}}; break ;;", names.join(" | "));
    out += "\t\tesac\n\tdone\n\tlocal words= ids=\n\tcase $verb in\n";
    let _ = writeln!(out, "\t'') words=\"{} {}\" ;;", names.join(" "), long_flags(GLOBAL));
    for c in COMMANDS {
        let ids = if takes_id(c) { " ids=1" } else { "" };
        let _ = writeln!(out, "\t{}) words=\"{}\"{ids} ;;", c.name, long_flags(c.flags));
    }
    out += "\tesac\n\t[[ -z $ids || $cur == -* ]] || words=$(conex list -q 2>/dev/null)\n\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -o default -F _conex conex\n";
    out
}

fn zsh() -> String {
    let quote = |t: &str| t.replace('\'', "").replace(':', "\\:").replace('[', "(").replace(']', ")");
    let option = |f: &Flag| {
        let value = f.value.map_or(String::new(), |v| format!(":{}:_files", quote(v)));
        format!("'--{}[{}]{value}'", f.name, quote(f.help))
    };
    let mut out = String::from("#compdef conex\n_conex_ids() { compadd -- ${(f)\"$(conex list -q 2>/dev/null)\"} }\n_conex() {\n\tlocal -a commands\n\tcommands=(\n");
    for c in COMMANDS {
        let _ = writeln!(out, "\t\t'{}:{}'", c.name, quote(c.help));
    }
    let globals: Vec<String> = GLOBAL.iter().map(option).collect();
    let _ = writeln!(out, "\t)\n\t_arguments -C {} '1: :->verb' '*:: :->rest'", globals.join(" "));
    out += "\tcase $state in\n\tverb) _describe command commands ;;\n\trest)\n\t\tcase $words[1] in\n";
    for c in COMMANDS {
        let options: Vec<String> = c.flags.iter().map(option).collect();
        let id = if takes_id(c) { "'1:container:_conex_ids'" } else { "'*:file:_files'" };
        let _ = writeln!(out, "\t\t{}) _arguments {} {id} ;;", c.name, options.join(" "));
    }
    out + "\t\tesac ;;\n\tesac\n}\n_conex \"$@\"\n"
}

fn fish() -> String {
    let quote = |t: &str| t.replace('\'', "");
    let mut out = String::from("# fish completion for conex\n");
    for f in GLOBAL {
        let _ = writeln!(out, "complete -c conex -n __fish_use_subcommand -l {} -d '{}'", f.name, quote(f.help));
    }
    for c in COMMANDS {
        let _ = writeln!(out, "complete -c conex -n __fish_use_subcommand -a {} -d '{}'", c.name, quote(c.help));
        let seen = format!("-n '__fish_seen_subcommand_from {}'", c.name);
        for f in c.flags {
            let value = if f.value.is_some() { " -r" } else { "" };
            let _ = writeln!(out, "complete -c conex {seen} -l {}{value} -d '{}'", f.name, quote(f.help));
        }
        if takes_id(c) {
            let _ = writeln!(out, "complete -c conex {seen} -f -a '(conex list -q 2>/dev/null)'");
        }
    }
    out
}
