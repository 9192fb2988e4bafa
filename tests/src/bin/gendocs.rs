//! `gendocs DIR`: writes the completions for zsh and fish below DIR from the same table that parses the command line.
//! Man pages and the completion for bash are written by hand; a test compares their flags with the table.

use conex::cli::{Command, Flag, GLOBAL};
use std::fmt::Write;
use std::path::Path;

fn main() {
    let dir = std::env::args().nth(1).expect("gendocs DIR");
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir.join("completions")).expect("mkdir");
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).expect("write");
    write("completions/_conex", zsh());
    write("completions/conex.fish", fish());
}

/// The commands of both programs, by name.
fn commands() -> Vec<&'static Command> {
    let mut all: Vec<_> = conex::cli::COMMANDS.iter().chain(conex_tools::cli::COMMANDS).collect();
    all.sort_by_key(|c| c.name);
    all
}

fn takes_id(c: &Command) -> bool {
    c.args.starts_with("<container-id>") && !matches!(c.name, "create" | "restore")
}

fn zsh() -> String {
    let quote =
        |t: &str| t.replace('\'', "").replace(':', "\\:").replace('[', "(").replace(']', ")");
    let option = |f: &Flag| {
        let value = f.value.map_or(String::new(), |v| format!(":{}:_files", quote(v)));
        format!("'--{}[{}]{value}'", f.name, quote(f.help))
    };
    let mut out = String::from("#compdef conex\n_conex_ids() { compadd -- ${(f)\"$(conex list -q 2>/dev/null)\"} }\n_conex() {\n\tlocal -a commands\n\tcommands=(\n");
    for c in commands() {
        let _ = writeln!(out, "\t\t'{}:{}'", c.name, quote(c.help));
    }
    let globals: Vec<String> = GLOBAL.iter().map(option).collect();
    let _ = writeln!(out, "\t)\n\t_arguments -C {} '1: :->verb' '*:: :->rest'", globals.join(" "));
    out +=
        "\tcase $state in\n\tverb) _describe command commands ;;\n\trest)\n\t\tcase $words[1] in\n";
    for c in commands() {
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
        let _ = writeln!(
            out,
            "complete -c conex -n __fish_use_subcommand -l {} -d '{}'",
            f.name,
            quote(f.help)
        );
    }
    for c in commands() {
        let _ = writeln!(
            out,
            "complete -c conex -n __fish_use_subcommand -a {} -d '{}'",
            c.name,
            quote(c.help)
        );
        let seen = format!("-n '__fish_seen_subcommand_from {}'", c.name);
        for f in c.flags {
            let value = if f.value.is_some() { " -r" } else { "" };
            let _ = writeln!(
                out,
                "complete -c conex {seen} -l {}{value} -d '{}'",
                f.name,
                quote(f.help)
            );
        }
        if takes_id(c) {
            let _ = writeln!(out, "complete -c conex {seen} -f -a '(conex list -q 2>/dev/null)'");
        }
    }
    out
}
