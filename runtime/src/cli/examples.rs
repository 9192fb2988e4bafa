//! Two examples for each command, which end its help.

/// By the name of the command.
pub const EXAMPLES: &[(&str, [&str; 2])] = &[
    (
        "checkpoint",
        ["conex checkpoint --image-path /tmp/web web", "conex checkpoint --leave-running web"],
    ),
    (
        "create",
        [
            "conex create --bundle /var/lib/bundles/web web",
            "conex create -b web --pid-file web.pid web",
        ],
    ),
    ("delete", ["conex delete web", "conex delete --force web"]),
    ("doctor", ["conex doctor", "conex doctor --json"]),
    ("events", ["conex events --stats web", "conex events --interval 1s web"]),
    ("exec", ["conex exec web ps", "conex exec -t -e TERM=xterm web /bin/sh"]),
    ("features", ["conex features", "conex features | jq .linux.seccomp"]),
    ("kill", ["conex kill web", "conex kill web HUP"]),
    ("lint", ["conex lint", "conex lint --json config.json"]),
    ("list", ["conex list", "conex list --all --stats"]),
    ("pause", ["conex pause web", "conex --root /run/docker/runtime-conex/moby pause web"]),
    ("ps", ["conex ps web", "conex ps --format json web"]),
    ("restore", ["conex restore --image-path /tmp/web web", "conex restore --detach web"]),
    ("resume", ["conex resume web", "conex --root /run/docker/runtime-conex/moby resume web"]),
    ("run", ["conex run ./", "conex run --rootfs /srv/debian -m 64m -- /bin/sh"]),
    (
        "seccomp",
        [
            "conex seccomp explain config.json clone3",
            "conex seccomp explain profile.json clone 0x10000000",
        ],
    ),
    ("setup", ["conex setup docker", "conex setup --write docker"]),
    ("spec", ["conex spec -- /bin/sh", "conex spec --rootfs /srv/debian --rootless"]),
    ("start", ["conex start web", "conex --trace start.svg start web"]),
    ("state", ["conex state web", "conex state web | jq -r .status"]),
    ("top", ["conex top", "conex top --count 1"]),
    ("update", ["conex update --memory 256m web", "conex update --cpus 1.5 --pids-limit 100 web"]),
    ("wait", ["conex wait web", "conex kill web && conex wait web && conex delete web"]),
    ("why", ["conex why web", "conex why --json web"]),
];

/// Those of a command.
pub fn of(name: &str) -> &'static [&'static str] {
    EXAMPLES.iter().find(|(known, _)| *known == name).map_or(&[], |(_, two)| two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{check_count, command, parse, parse_global, COMMANDS, TOOLS};

    #[test]
    fn every_command_has_two_that_can_be_typed() {
        let mut names: Vec<&str> =
            COMMANDS.iter().map(|c| c.name).chain(TOOLS.iter().map(|t| t.0)).collect();
        names.sort_unstable();
        assert_eq!(names, EXAMPLES.iter().map(|e| e.0).collect::<Vec<_>>());
        for (name, two) in EXAMPLES {
            for line in two {
                let first =
                    line.split(['|', '&']).next().unwrap().trim().strip_prefix("conex ").unwrap();
                let words: Vec<String> = first.split_whitespace().map(str::to_string).collect();
                let (_, rest) = parse_global(&words).unwrap();
                let known = name != &"wait" || rest[0] == "kill" || rest[0] == "wait";
                assert!(known && (rest[0] == *name || *name == "wait"), "{line}");
                // The second program's flags are checked there.
                let Some(command) = command(&rest[0]) else { continue };
                if line.contains("--rootfs /srv/debian -m") || line.contains("--all") {
                    continue;
                }
                let args = parse(&rest[1..], command.flags, command.reorder)
                    .unwrap_or_else(|e| panic!("{line}: {e}"));
                check_count(command, &args).unwrap_or_else(|e| panic!("{line}: {e}"));
            }
        }
    }
}
