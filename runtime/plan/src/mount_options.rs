//! What each mount option means to the kernel.

use super::mount;
use super::namespaces::{Maps, Namespaces};
use crate::check::Check;
use crate::oci::config::{self, IdMapping};
use conex_sys::mount::*;

enum Effect {
    Set(u64),
    Clear(u64),
    Atime(u64),
    Propagation(u64),
    /// A flag of the superblock: fsconfig takes these names for every file system.
    Super,
    Bind(bool),
    Remount,
    CopyUp,
    Idmap(bool),
    SourceNoFollow,
    DestinationNoFollow,
    CopySymlink,
    Nothing,
}

use Effect::*;

/// Every option of runtime-spec 1.3 (config.md, "Linux mount options") and of crun (crun(1), "Extensions to OCI") that is
/// not data of a file system, without the recursive forms: for these, `r` is put in front (see [`RECURSIVE`]).
const OPTIONS: &[(&str, Effect)] = &[
    ("async", Super),
    ("atime", Atime(ATTR_RELATIME)),
    ("bind", Bind(false)),
    ("copy-symlink", CopySymlink),
    ("defaults", Nothing),
    ("dest-nofollow", DestinationNoFollow),
    ("dev", Clear(ATTR_NODEV)),
    ("diratime", Clear(ATTR_NODIRATIME)),
    ("dirsync", Super),
    ("exec", Clear(ATTR_NOEXEC)),
    ("idmap", Idmap(false)),
    ("iversion", Nothing),
    ("lazytime", Super),
    ("loud", Nothing),
    ("mand", Super),
    ("noatime", Atime(ATTR_NOATIME)),
    ("nodev", Set(ATTR_NODEV)),
    ("nodiratime", Set(ATTR_NODIRATIME)),
    ("noexec", Set(ATTR_NOEXEC)),
    ("noiversion", Nothing),
    ("nolazytime", Super),
    ("nomand", Super),
    ("norelatime", Atime(ATTR_STRICTATIME)),
    ("nostrictatime", Atime(ATTR_RELATIME)),
    ("nosuid", Set(ATTR_NOSUID)),
    ("nosymfollow", Set(ATTR_NOSYMFOLLOW)),
    ("private", Propagation(libc::MS_PRIVATE as u64)),
    ("rbind", Bind(true)),
    ("relatime", Atime(ATTR_RELATIME)),
    ("remount", Remount),
    ("ridmap", Idmap(true)),
    ("ro", Set(ATTR_RDONLY)),
    ("rprivate", Propagation((libc::MS_PRIVATE | libc::MS_REC) as u64)),
    ("rshared", Propagation((libc::MS_SHARED | libc::MS_REC) as u64)),
    ("rslave", Propagation((libc::MS_SLAVE | libc::MS_REC) as u64)),
    ("runbindable", Propagation((libc::MS_UNBINDABLE | libc::MS_REC) as u64)),
    ("rw", Clear(ATTR_RDONLY)),
    ("shared", Propagation(libc::MS_SHARED as u64)),
    ("silent", Nothing),
    ("slave", Propagation(libc::MS_SLAVE as u64)),
    ("src-nofollow", SourceNoFollow),
    ("strictatime", Atime(ATTR_STRICTATIME)),
    ("suid", Clear(ATTR_NOSUID)),
    ("symfollow", Clear(ATTR_NOSYMFOLLOW)),
    ("sync", Super),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(libc::MS_UNBINDABLE as u64)),
];

/// Options that exist with an `r` in front, for the mount and everything below it.
const RECURSIVE: [&str; 18] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "noatime",
    "atime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
    "symfollow",
];

/// All option names, sorted, as `features` reports them.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = OPTIONS.iter().map(|(n, _)| n.to_string()).collect();
    names.extend(RECURSIVE.iter().map(|n| format!("r{n}")));
    names.sort();
    names.dedup();
    names
}

/// The flag of a `rootfsPropagation` value.
pub fn propagation(name: &str) -> Option<u64> {
    OPTIONS.iter().find(|(n, _)| *n == name).and_then(|(_, effect)| match effect {
        Propagation(flag) => Some(*flag),
        _ => None,
    })
}

/// True for what [`apply`] takes as data of the file system though the kernel has it as a flag of the superblock.
pub(super) fn is_super(name: &str) -> bool {
    OPTIONS.iter().any(|(n, effect)| *n == name && matches!(effect, Super))
}

/// What the options of one mount ask for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// A bind mount, recursive or not. mount(2): MS_BIND and MS_REMOUNT are bits, whose order says nothing.
    pub bind: Option<bool>,
    pub remount: bool,
    /// The other fields are those of [`mount::Mount`].
    pub attr: MountAttr,
    pub recursive: MountAttr,
    pub propagation: Vec<u64>,
    pub data: Vec<(String, Option<String>)>,
    pub tmpcopyup: bool,
    pub source_nofollow: bool,
    pub destination_nofollow: bool,
    pub copy_symlink: bool,
    pub idmap: Option<mount::Idmap>,
}

pub(super) fn apply(
    out: &mut Asked,
    option: &str,
    field: &str,
    (m, ns): (&config::Mount, &Namespaces),
    check: &mut Check,
) {
    if option.is_empty() {
        // Podman's mounts for a container with systemd have such ones; to mount(2) they are nothing.
        return;
    }
    if let Some((_, effect)) = OPTIONS.iter().find(|(n, _)| *n == option) {
        match effect {
            Set(_) | Clear(_) | Atime(_) => set(&mut out.attr, effect),
            Propagation(flag) => out.propagation.push(*flag),
            Super => out.data.push((option.to_string(), None)),
            Bind(recursive) => out.bind = Some(*recursive || out.bind == Some(true)),
            Remount => out.remount = true,
            CopyUp => out.tmpcopyup = true,
            Idmap(recursive) => {
                out.idmap = Some(mount::Idmap { recursive: *recursive, maps: maps_of(m, ns) })
            }
            SourceNoFollow => out.source_nofollow = true,
            DestinationNoFollow => out.destination_nofollow = true,
            CopySymlink => out.copy_symlink = true,
            Nothing => {}
        }
        return;
    }
    if let Some(base) = option.strip_prefix('r').filter(|b| RECURSIVE.contains(b)) {
        if let Some((_, effect)) = OPTIONS.iter().find(|(n, _)| *n == base) {
            set(&mut out.recursive, effect);
            return;
        }
    }
    let (key, value) = match option.split_once('=') {
        Some((k, v)) => (k, Some(v.to_string())),
        None => (option, None),
    };
    if key.is_empty() || option.contains('\0') {
        check.bad(field, format!("{option:?} is not a mount option"));
        return;
    }
    if let ("idmap" | "ridmap", Some(value)) = (key, &value) {
        match custom_maps(value, ns) {
            Ok(maps) => out.idmap = Some(mount::Idmap { recursive: key == "ridmap", maps }),
            Err(why) => check.bad(field, format!("{option:?}: {why}")),
        }
        return;
    }
    out.data.push((key.to_string(), value));
}

fn set(attr: &mut MountAttr, effect: &Effect) {
    match effect {
        Set(bit) => {
            attr.set |= bit;
            attr.clear &= !bit;
        }
        Clear(bit) => {
            attr.clear |= bit;
            attr.set &= !bit;
        }
        // mount_setattr(2): the access time setting is one value; to set it, all its bits are cleared.
        Atime(value) => {
            attr.clear |= ATTR_ATIME;
            attr.set = attr.set & !ATTR_ATIME | value;
        }
        _ => {}
    }
}

pub(super) fn maps_of(m: &config::Mount, ns: &Namespaces) -> Maps {
    if m.uid_mappings.is_empty() && m.gid_mappings.is_empty() {
        return ns.maps.clone().unwrap_or(Maps { uid: Vec::new(), gid: Vec::new() });
    }
    Maps { uid: m.uid_mappings.0.clone(), gid: m.gid_mappings.0.clone() }
}

/// `uids=0-1000-10#10-2000-5;gids=0-1000-10`, as crun(1) has it and Podman writes it: id in the file system, id on the
/// host, count. With `@` in front of a range its second number is one of the container's user namespace.
fn custom_maps(text: &str, ns: &Namespaces) -> Result<Maps, String> {
    let mut out = Maps { uid: Vec::new(), gid: Vec::new() };
    for part in text.split(';').filter(|p| !p.is_empty()) {
        let (name, ranges) = part.split_once('=').ok_or("expected uids=… and gids=…")?;
        let container = ns.maps.as_ref();
        let (list, container) = match name {
            "uids" => (&mut out.uid, container.map(|m| &m.uid)),
            "gids" => (&mut out.gid, container.map(|m| &m.gid)),
            other => return Err(format!("{other:?}: expected uids or gids")),
        };
        for range in ranges.split('#') {
            list.push(range_of(range, container)?);
        }
    }
    if out.uid.is_empty() || out.gid.is_empty() {
        return Err("uids and gids go together".into());
    }
    Ok(out)
}

fn range_of(text: &str, container: Option<&Vec<IdMapping>>) -> Result<IdMapping, String> {
    let (relative, plain) = text.strip_prefix('@').map_or((false, text), |rest| (true, rest));
    let numbers: Option<Vec<u32>> = plain.split('-').map(|n| n.parse().ok()).collect();
    let Some([container_id, mut host_id, size]) =
        numbers.as_deref().and_then(|n| <[u32; 3]>::try_from(n).ok())
    else {
        return Err(format!("{text:?} is not a range such as 0-1000-10"));
    };
    if relative {
        let found = container.and_then(|list| {
            list.iter()
                .find(|m| container_id >= m.container_id && container_id - m.container_id < m.size)
        });
        let found = found
            .ok_or_else(|| format!("{text:?}: the container's user namespace has no such id"))?;
        let moved = i64::from(host_id) + i64::from(found.host_id) - i64::from(found.container_id);
        host_id =
            u32::try_from(moved).map_err(|_| format!("{text:?} leaves the ids that there are"))?;
    }
    Ok(IdMapping { container_id, host_id, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_in_an_option() {
        let map = |c, h, size| IdMapping { container_id: c, host_id: h, size };
        let ns = Namespaces {
            maps: Some(Maps {
                uid: vec![map(0, 0, 1), map(1, 2, 1000)],
                gid: vec![map(0, 500, 10)],
            }),
            ..Namespaces::default()
        };
        let uid = |text: &str| custom_maps(&format!("uids={text};gids=0-0-1"), &ns).map(|m| m.uid);
        assert_eq!(uid("0-1-10#10-11-10").unwrap(), [map(0, 1, 10), map(10, 11, 10)]);
        // The example of crun(1).
        assert_eq!(uid("@1-3-10").unwrap(), [map(1, 4, 10)]);
        assert_eq!(uid("@0-0-1#5-5-1").unwrap(), [map(0, 0, 1), map(5, 5, 1)]);
        for bad in ["", "1", "1-2", "1-2-3-4", "a-b-c", "@5000-0-1", "-1-2-3", "1-2-4294967296"] {
            assert!(uid(bad).is_err(), "{bad:?}");
        }
        for bad in ["uids=0-0-1", "gids=0-0-1", "users=0-0-1;gids=0-0-1", "0-0-1"] {
            assert!(custom_maps(bad, &ns).is_err(), "{bad:?}");
        }
        assert!(custom_maps("uids=@0-0-1;gids=0-0-1", &Namespaces::default()).is_err());
    }
}
