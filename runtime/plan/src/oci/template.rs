//! A document to start from, as text: in the order in which people read it, the command first.

use std::fmt::Write;

/// What of the document is asked for.
pub struct Template {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub terminal: bool,
    pub uid: u32,
    pub gid: u32,
    pub rootfs: String,
    pub readonly: bool,
    pub hostname: String,
    /// Each in quotes.
    pub capabilities: &'static str,
    /// Further mounts and limits, as JSON, each with a comma before it.
    pub mounts: String,
    pub resources: String,
    /// False: the host's network.
    pub network: bool,
    /// False: the caller's cgroup namespace.
    pub cgroup: bool,
    /// The caller's ids on the host, for a user namespace of an unprivileged user.
    pub rootless: Option<(u32, u32)>,
}

/// What runc's document gives.
const FEW: &str = r#""CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE""#;

impl Default for Template {
    /// runc's document.
    fn default() -> Template {
        Template {
            args: vec!["sh".into()],
            env: vec![
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
                "TERM=xterm".into(),
            ],
            terminal: true,
            uid: 0,
            gid: 0,
            rootfs: "rootfs".into(),
            readonly: true,
            hostname: "conex".into(),
            capabilities: FEW,
            mounts: String::new(),
            resources: String::new(),
            network: true,
            cgroup: true,
            rootless: None,
        }
    }
}

const MOUNTS: &str = r#"		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
		{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"@]},
		{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
		{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
"#;

const SYS: &str = r#"		{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
"#;

/// An unprivileged user can mount a sysfs only with a network namespace, so that it is the host's.
const HOST_SYS: &str = r#"		{"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]},
"#;

const CGROUP: &str = r#"		{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}"#;

const PATHS: &str = r#"		"maskedPaths": [
			"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
		],
		"readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
"#;

impl Template {
    pub fn text(&self) -> String {
        let quote = |s: &str| serde_json::Value::from(s).to_string();
        let list = |l: &[String]| l.iter().map(|s| quote(s)).collect::<Vec<_>>().join(", ");
        let caps = self.capabilities;
        let mut out =
            format!("{{\n\t\"ociVersion\": \"{}\",\n\t\"process\": {{\n", super::SPEC_VERSION);
        let _ = writeln!(out, "\t\t\"args\": [{}],", list(&self.args));
        let _ = writeln!(out, "\t\t\"cwd\": \"/\",\n\t\t\"env\": [{}],", list(&self.env));
        let _ = writeln!(out, "\t\t\"terminal\": {},", self.terminal);
        let _ = writeln!(out, "\t\t\"user\": {{\"uid\": {}, \"gid\": {}}},", self.uid, self.gid);
        out += "\t\t\"noNewPrivileges\": true,\n\t\t\"capabilities\": {\n";
        for set in ["bounding", "effective", "permitted"] {
            let _ = writeln!(
                out,
                "\t\t\t\"{set}\": [{caps}]{}",
                if set == "permitted" { "" } else { "," }
            );
        }
        out += "\t\t},\n\t\t\"rlimits\": [{\"type\": \"RLIMIT_NOFILE\", \"soft\": 1024, \"hard\": 1024}]\n\t},\n";
        let _ = writeln!(
            out,
            "\t\"root\": {{\"path\": {}, \"readonly\": {}}},",
            quote(&self.rootfs),
            self.readonly
        );
        let _ = writeln!(out, "\t\"hostname\": {},\n\t\"mounts\": [", quote(&self.hostname));
        // Group 5 is tty; a user namespace of one id does not have it.
        out += &MOUNTS.replace('@', if self.rootless.is_some() { "" } else { ", \"gid=5\"" });
        out += if self.network || self.rootless.is_none() { SYS } else { HOST_SYS };
        out += CGROUP;
        out += &self.mounts;
        out += "\n\t],\n\t\"linux\": {\n\t\t\"namespaces\": [\n";
        out += "\t\t\t{\"type\": \"pid\"}, {\"type\": \"ipc\"}, {\"type\": \"uts\"}, {\"type\": \"mount\"}";
        if self.cgroup {
            out += ", {\"type\": \"cgroup\"}";
        }
        if self.network {
            out += ", {\"type\": \"network\"}";
        }
        self.owner(&mut out);
        out + PATHS + "\t}\n}\n"
    }

    /// The end of the namespaces, and whose the container is: mapped ids, or limits.
    fn owner(&self, out: &mut String) {
        if let Some((uid, gid)) = self.rootless {
            *out += ", {\"type\": \"user\"}\n\t\t],\n";
            for (name, id) in [("uid", uid), ("gid", gid)] {
                let _ = writeln!(
                    out,
                    "\t\t\"{name}Mappings\": [{{\"containerID\": 0, \"hostID\": {id}, \"size\": 1}}],"
                );
            }
        } else {
            *out += "\n\t\t],\n";
            *out += "\t\t\"resources\": {\n\t\t\t\"devices\": [{\"allow\": false, \"access\": \"rwm\"}]";
            *out += &self.resources;
            *out += "\n\t\t},\n";
        }
    }
}
