//! One planned mount: built detached, attributes set, then attached to a target descriptor.

use crate::acts::tree::{self, by_fd, cwd, Tree};
use crate::error::{Context, Error, Kind, Named, Result};
use crate::plan::mount::{Action, CgroupView, Mount};
use crate::root::Root;
use crate::text;
use conex_sys::fd::{openat2, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS};
use conex_sys::mount::{
    self as sys, MountAttr, ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_NOSYMFOLLOW, ATTR_RDONLY,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{fstat, Mode, SFlag};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub struct Mounted {
    pub fd: OwnedFd,
    /// Attributes to set once /dev is filled.
    pub late: Option<MountAttr>,
    pub is_proc: bool,
}

/// What the host's side has opened ahead.
pub enum Source {
    Tree(OwnedFd),
    /// The content of a symlink that is to be made anew.
    Link(PathBuf),
    /// Below an earlier mount in the root, which only the child has; from the root on, as the way to it on the host can be
    /// closed to a user namespace.
    Inside(PathBuf),
}

/// What a mount of cgroups shows.
pub enum Cgroups {
    /// The container's directories, in the order of the hierarchies.
    Paths(Vec<PathBuf>),
    /// Detached trees of them, or of the one hierarchy as a whole.
    Trees { trees: Vec<OwnedFd>, whole: bool },
}

impl Default for Cgroups {
    fn default() -> Cgroups {
        Cgroups::Paths(Vec::new())
    }
}

impl Cgroups {
    /// All of them, ready to be attached.
    fn bind(self) -> Result<Vec<Tree>> {
        match self {
            Cgroups::Paths(paths) => paths.iter().map(|p| tree::bind(cwd(), p, true)).collect(),
            Cgroups::Trees { trees, .. } => Ok(trees.into_iter().map(Tree).collect()),
        }
    }

    /// The first, or on a host that has made none what it has itself.
    fn first(self, recursive: bool) -> Result<Tree> {
        match self {
            Cgroups::Paths(paths) => {
                let host = Path::new("/sys/fs/cgroup");
                tree::bind(cwd(), paths.first().map_or(host, |p| p), recursive)
            }
            Cgroups::Trees { trees, .. } => trees
                .into_iter()
                .next()
                .map(Tree)
                .ok_or_else(|| Error::new(Kind::System, "no cgroup was made")),
        }
    }
}

/// `None` if there is no mount: a symlink was made.
pub fn mount(
    root: &Root,
    m: &Mount,
    source: Option<Source>,
    cgroups: Cgroups,
) -> Result<Option<Mounted>> {
    let mut late = None;
    let mut is_proc = false;
    let fd = match &m.kind {
        Action::Bind { recursive } => match source {
            Some(Source::Link(to)) => {
                return copy_link(root, &m.destination, &to)
                    .at(|| format!("{}.destination", m.field))
                    .map(|()| None);
            }
            other => bind(root, m, other, *recursive)?,
        },
        Action::Remount => remount(root, m)?,
        Action::Cgroup(views) => cgroup(root, m, views, cgroups)?,
        Action::Fs(kind) => {
            let mut attr = m.attr;
            // Read-only comes after the device nodes.
            if m.destination == Path::new("dev") && attr.set & ATTR_RDONLY != 0 {
                attr.set &= !ATTR_RDONLY;
                late = Some(MountAttr { set: ATTR_RDONLY, ..MountAttr::default() });
            }
            is_proc = kind == "proc" || kind == "procfs";
            file_system(root, m, kind, attr, cgroups)?
        }
    };
    for flag in &m.propagation {
        let attr = MountAttr { propagation: flag & !(libc::MS_REC as u64), ..MountAttr::default() };
        tree::setattr(fd.as_fd(), flag & libc::MS_REC as u64 != 0, &attr)?;
    }
    Ok(Some(Mounted { fd, late, is_proc }))
}

/// What is there already must be the same link.
fn copy_link(root: &Root, destination: &Path, to: &Path) -> Result<()> {
    let (dir, name) = root.make_parent(destination)?;
    let call = || format!("symlinkat({to:?}, rootfs, {destination:?})");
    match nix::unistd::symlinkat(to, &dir, name.as_path()) {
        Err(Errno::EEXIST) => match nix::fcntl::readlinkat(&dir, name.as_path()) {
            Ok(there) if Path::new(&there) == to => Ok(()),
            _ => Err(Error::call(Errno::EEXIST, call())),
        },
        other => other.call(call),
    }
}

/// Nothing may be mounted inside a procfs, whatever way leads there: what the runtime and the container's programs write
/// there would land elsewhere (CVE-2019-16884). Only what lxcfs shows, by the path that the plan has allowed.
fn outside_proc(root: &Root, m: &Mount, target: BorrowedFd) -> Result<()> {
    if !crate::root::is_procfs(target) {
        return Ok(());
    }
    let straight = || {
        let direct = no_symlinks(root, &m.destination, OFlag::empty()).ok()?;
        let (a, b) = (fstat(&direct).ok()?, fstat(target).ok()?);
        Some((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    };
    if m.destination.starts_with("proc") && straight().unwrap_or(false) {
        return Ok(());
    }
    let what =
        format!("\"/{}\" cannot be mounted because it is inside /proc", m.destination.display());
    Err(Error::invalid(format!("{}.destination", m.field), what))
}

fn is_dir(fd: BorrowedFd) -> Result<bool> {
    let mode = fstat(fd).call(|| "fstat")?.st_mode;
    Ok(SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

fn bind(root: &Root, m: &Mount, source: Option<Source>, recursive: bool) -> Result<OwnedFd> {
    let tree = match source {
        Some(Source::Tree(fd)) => Ok(Tree(fd)),
        Some(Source::Inside(path)) => root
            .open(&path, if m.source_nofollow { OFlag::O_NOFOLLOW } else { OFlag::empty() })
            .call(|| format!("openat2(rootfs, {path:?}, RESOLVE_IN_ROOT)"))
            .and_then(|fd| tree::bind(fd.as_fd(), Path::new(""), recursive)),
        _ => tree::bind_with(cwd(), &text::path(&m.source), recursive, !m.source_nofollow),
    };
    let tree = tree.map_err(|e| e.at(format!("{}.source", m.field)))?;
    let directory = is_dir(tree.fd())?;
    let target = match m.destination_nofollow {
        true => root.make_last(&m.destination, directory),
        false if directory => root.make_dir(&m.destination),
        false => root.make_file(&m.destination),
    };
    let target = target.map_err(|e| match e.errno {
        Some(Errno::ENOTDIR) if directory && root.open(&m.destination, OFlag::empty()).is_ok() => {
            let what = format!(
                "{} is a directory, /{} in the container a file",
                m.source,
                m.destination.display()
            );
            Error::call(Errno::ENOTDIR, what).at(format!("{}.destination", m.field))
        }
        _ => e.at(format!("{}.destination", m.field)),
    })?;
    outside_proc(root, m, target.as_fd())?;
    if !directory && is_dir(target.as_fd())? {
        // move_mount(2) would say EINVAL; mount(2) says this, which Docker's hint looks for.
        let what = format!(
            "{} is a file, /{} in the container a directory",
            m.source,
            m.destination.display()
        );
        return Err(Error::call(Errno::ENOTDIR, what).at(format!("{}.destination", m.field)));
    }
    let flags = flags(m, tree.fd())?;
    tree.attach_bind(target.as_fd(), flags, &m.recursive)
        .map_err(|e| e.at(format!("{}.options", m.field)))
}

/// What a bind is to have, and what it gets where the kernel refuses that: in a user namespace the flags of the host's mount
/// are locked, all but `nosymfollow`, which a kernel before 5.14 has no attribute for.
fn flags(m: &Mount, tree: BorrowedFd) -> Result<[MountAttr; 2]> {
    let mut wanted = m.attr;
    if m.implied & ATTR_NOSYMFOLLOW != 0 && !sys::follows_no_symlinks(tree).call(|| "fstatfs")? {
        wanted.clear &= !ATTR_NOSYMFOLLOW;
    }
    let locked = m.implied & !ATTR_NOSYMFOLLOW;
    Ok([wanted, MountAttr { clear: wanted.clear & !locked, ..wanted }])
}

fn attributes(fd: BorrowedFd, m: &Mount) -> Result<()> {
    let options = || format!("{}.options", m.field);
    tree::setattr(fd, false, &m.attr).at(options)?;
    tree::setattr(fd, true, &m.recursive).at(options)
}

/// Where a file system goes. procfs and sysfs only onto a directory reached without any symlink: mounted elsewhere,
/// the masks and the security labels would miss them (CVE-2019-19921, CVE-2023-27561).
fn target(root: &Root, m: &Mount, kind: &str) -> Result<OwnedFd> {
    let field = || format!("{}.destination", m.field);
    if !matches!(kind, "proc" | "procfs" | "sysfs") {
        let target = root.make_dir(&m.destination).at(field)?;
        return outside_proc(root, m, target.as_fd()).map(|()| target);
    }
    root.make_dir(&m.destination).at(field)?;
    match no_symlinks(root, &m.destination, OFlag::O_DIRECTORY) {
        Err(e @ (Errno::ELOOP | Errno::ENOTDIR)) => {
            let what =
                format!("{kind} must be mounted on ordinary directory, not through a symlink");
            Err(Error { errno: Some(e), ..Error::new(Kind::System, what) }.at(field()))
        }
        other => other
            .call(|| format!("openat2(rootfs, {:?}, RESOLVE_NO_SYMLINKS)", m.destination))
            .at(field),
    }
}

/// What is at a clean path, if no part of it is a symlink.
fn no_symlinks(root: &Root, path: &Path, last: OFlag) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | last;
    openat2(root.as_fd(), path, flags.bits(), 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
}

fn file_system(
    root: &Root,
    m: &Mount,
    kind: &str,
    attr: MountAttr,
    cgroups: Cgroups,
) -> Result<OwnedFd> {
    let existed = root.open(&m.destination, OFlag::O_DIRECTORY).is_ok();
    let target = target(root, m, kind)?;
    let cgroups = match whole_tree(kind, cgroups)? {
        Ok(tree) => {
            let deep = tree::has_setattr();
            return tree.attach_with(target.as_fd(), &[(deep, attr), (true, m.recursive)]);
        }
        Err(cgroups) => cgroups,
    };
    let data = options(m, kind, target.as_fd(), existed)?;
    // fsmount(2) takes it from Linux 5.14 on, mount(2) from 5.10 on, of what is attached.
    let later = if tree::has_setattr() { 0 } else { attr.set & ATTR_NOSYMFOLLOW };
    let made = match new_mount(kind, &m.source, &data, attr.set & !later, m) {
        Err(e) if for_mount2(&e, &m.source, &data) => {
            return by_mount2(m, kind, &data, &attr, target.as_fd());
        }
        // sysfs needs the network namespace to belong to this user namespace, and cgroup2 may be mounted once only
        // with these options: what the host shows is bound instead.
        Err(e) if kind == "sysfs" && e.errno == Some(Errno::EPERM) => {
            let sys = tree::bind(cwd(), Path::new("/sys"), true).map_err(|_| e)?;
            return sys.attach_with(target.as_fd(), &[(false, attr), (true, m.recursive)]);
        }
        Err(e) if kind == "cgroup2" && matches!(e.errno, Some(Errno::EPERM | Errno::EBUSY)) => {
            let own = cgroups.first(false).map_err(|_| e)?;
            return own.attach_with(target.as_fd(), &[(false, attr), (true, m.recursive)]);
        }
        other => other?,
    };
    let mut late = vec![(true, m.recursive)];
    if later != 0 {
        late.push((false, MountAttr { set: later, ..MountAttr::default() }));
    }
    if m.tmpcopyup {
        copy_up(target.as_fd(), made.as_fd())?;
        // The mount was made writable for the copy.
        late.push((false, MountAttr { set: attr.set & ATTR_RDONLY, ..MountAttr::default() }));
    }
    Tree(made).attach_with(target.as_fd(), &late)
}

/// All cgroups of the host, for a mount of cgroup2 in the first cgroup and user namespace (their numbers are fixed,
/// include/linux/proc_ns.h). It is bound there: a fresh mount by whoever is in that namespace sets the options of the one
/// superblock anew (cgroup_get_tree), so the host would lose nsdelegate and memory_recursiveprot. Otherwise what was given.
fn whole_tree(kind: &str, cgroups: Cgroups) -> Result<std::result::Result<Tree, Cgroups>> {
    if kind != "cgroup2" {
        return Ok(Err(cgroups));
    }
    // Before Linux 5.12 only the mount itself can be made read-only: then it comes without what is mounted below it.
    let deep = tree::has_setattr();
    let is = |file: &str, number| {
        nix::sys::stat::stat(format!("/proc/self/ns/{file}").as_str())
            .is_ok_and(|s| s.st_ino == number)
    };
    match cgroups {
        Cgroups::Trees { whole: true, .. } => cgroups.first(deep).map(Ok),
        Cgroups::Paths(_) if is("cgroup", 0xEFFF_FFFB) && is("user", 0xEFFF_FFFD) => {
            let unified = crate::acts::hierarchy::hierarchies().into_iter().find(|h| h.v2);
            unified.map_or(Ok(Err(cgroups)), |h| tree::bind(cwd(), &h.mount_point, deep).map(Ok))
        }
        _ => Ok(Err(cgroups)),
    }
}

/// The kernel copies at most 255 bytes of a string in fsconfig(2); mount(2) takes a page.
fn too_long(source: &str, data: &[(String, Option<String>)]) -> bool {
    source.len() > 255 || data.iter().any(|(_, v)| v.as_ref().is_some_and(|v| v.len() > 255))
}

/// Whether mount(2) may take what fsconfig(2) has not: too long a string, or a comma for a file system whose parser is still
/// that of mount(2) (overlay before Linux 6.5: "Legacy: Option contained comma").
fn for_mount2(e: &Error, source: &str, data: &[(String, Option<String>)]) -> bool {
    let comma = || data.iter().any(|(_, v)| v.as_ref().is_some_and(|v| v.contains(',')));
    too_long(source, data) || (e.errno == Some(Errno::EINVAL) && comma())
}

/// One word of the list that mount(2) takes, whose words are parted by commas. A label is quoted (the categories of SELinux
/// are a list), overlay takes a comma behind a backslash, and no other file system can be told of one.
fn word(kind: &str, key: &str, value: &str) -> Result<String> {
    match (value.contains(','), kind) {
        (false, _) => Ok(format!("{key}={value}")),
        // A document that was written for mount(2) has the quotes already.
        (true, _) if key.ends_with("context") && !value.starts_with('"') => {
            Ok(format!("{key}=\"{value}\""))
        }
        (true, _) if key.ends_with("context") => Ok(format!("{key}={value}")),
        // Its parser knows that a list of nodes is one word (mpol=bind:0,2).
        (true, "tmpfs") if key == "mpol" => Ok(format!("{key}={value}")),
        // And the backslashes.
        (true, "overlay") => Ok(format!("{key}={}", value.replace("\\,", ",").replace(',', "\\,"))),
        (true, _) => {
            let what = format!(
                "{key}={value:?} has a comma, which mount(2) parts the options at, and it is this call \
                that takes the source and options of this mount"
            );
            Err(Error::new(Kind::Unsupported, what))
        }
    }
}

fn new_mount(
    kind: &str,
    source: &str,
    data: &[(String, Option<String>)],
    attrs: u64,
    m: &Mount,
) -> Result<OwnedFd> {
    if too_long(source, data) {
        return Err(Error::call(Errno::E2BIG, "fsconfig"));
    }
    let fs = sys::fsopen(kind)
        .call(|| format!("fsopen({kind:?})"))
        .at(|| format!("{}.type", m.field))?;
    let fail = |e: Errno, call: String| {
        let log = sys::fslog(fs.as_fd());
        let call = if log.is_empty() { call } else { format!("{call} [{log}]") };
        Error::call(e, call)
    };
    if !source.is_empty() {
        sys::fsconfig(fs.as_fd(), "source", Some(&text::bytes(source)))
            .map_err(|e| fail(e, format!("fsconfig({kind}, source, {source:?})")))?;
    }
    for (key, value) in data {
        sys::fsconfig(fs.as_fd(), key, value.as_deref().map(text::bytes).as_deref()).map_err(
            |e| {
                let shown = value.as_ref().map_or(key.clone(), |v| format!("{key}={v}"));
                fail(e, format!("fsconfig({kind}, {shown})")).at(format!("{}.options", m.field))
            },
        )?;
    }
    sys::fscreate(fs.as_fd())
        .map_err(|e| fail(e, format!("fsconfig({kind}, FSCONFIG_CMD_CREATE)")))?;
    let attrs = if m.tmpcopyup { attrs & !ATTR_RDONLY } else { attrs };
    sys::fsmount(fs.as_fd(), attrs).map_err(|e| fail(e, format!("fsmount({kind}, {attrs:#x})")))
}

/// Options for the file system itself: those of the document, the SELinux context, and for tmpfs the mode of the
/// directory that it covers, as runc keeps it. A directory that was made for the mount says nothing: then the file
/// system's own default holds (1777 for tmpfs).
fn options(
    m: &Mount,
    kind: &str,
    target: BorrowedFd,
    existed: bool,
) -> Result<Vec<(String, Option<String>)>> {
    let mut data = m.data.clone();
    let read_only = m.attr.set & ATTR_RDONLY != 0;
    // Pseudo file systems share a superblock with others, or are filled by us first.
    if read_only
        && !matches!(kind, "proc" | "procfs" | "sysfs" | "mqueue" | "cgroup2" | "devpts" | "tmpfs")
    {
        data.push(("ro".into(), None));
    }
    if let Some((key, label)) = &m.label {
        data.push((key.clone(), Some(label.clone())));
    }
    if kind == "tmpfs" && existed && !data.iter().any(|(k, _)| k == "mode") {
        let mode = fstat(target).call(|| "fstat")?.st_mode & 0o7777;
        data.push(("mode".into(), Some(format!("{mode:04o}"))));
    }
    Ok(data)
}

/// With mount(2), for what fsconfig(2) does not take ([`for_mount2`]).
fn by_mount2(
    m: &Mount,
    kind: &str,
    data: &[(String, Option<String>)],
    attr: &MountAttr,
    target: BorrowedFd,
) -> Result<OwnedFd> {
    let flag_of = |name: &str| match name {
        "sync" => Some(nix::mount::MsFlags::MS_SYNCHRONOUS),
        "dirsync" => Some(nix::mount::MsFlags::MS_DIRSYNC),
        "mand" => Some(nix::mount::MsFlags::MS_MANDLOCK),
        "ro" => Some(nix::mount::MsFlags::MS_RDONLY),
        "async" | "nomand" | "lazytime" | "nolazytime" => Some(nix::mount::MsFlags::empty()),
        _ => None,
    };
    let mut flags = tree::mount_flags(attr);
    let mut words = Vec::new();
    for (key, value) in data {
        match (flag_of(key), value) {
            (Some(flag), None) => flags |= flag,
            (_, None) => words.push(key.clone()),
            (_, Some(v)) => words.push(word(kind, key, v).at(|| format!("{}.options", m.field))?),
        }
    }
    let (words, at) = (words.join(","), by_fd(target));
    let late = m.tmpcopyup && flags.contains(nix::mount::MsFlags::MS_RDONLY);
    flags.set(
        nix::mount::MsFlags::MS_RDONLY,
        flags.contains(nix::mount::MsFlags::MS_RDONLY) && !late,
    );
    let source = if m.source.is_empty() { kind } else { m.source.as_str() };
    let (given, data) = (text::os(source), text::os(&words));
    nix::mount::mount(Some(&*given), at.as_str(), Some(kind), flags, Some(&*data))
        .call(|| format!("mount({source:?}, target, {kind:?}, {flags:?}, {words:?})"))?;
    let fd = tree::reopen(target)?;
    tree::check_symlinks(fd.as_fd(), attr)?;
    if m.tmpcopyup {
        copy_up(target, fd.as_fd())?;
    }
    if late {
        tree::setattr(fd.as_fd(), false, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() })?;
    }
    Ok(fd)
}

fn remount(root: &Root, m: &Mount) -> Result<OwnedFd> {
    let fd = root
        .open(&m.destination, OFlag::empty())
        .call(|| format!("openat2(rootfs, {:?})", m.destination))?;
    attributes(fd.as_fd(), m)?;
    if !m.data.is_empty() {
        let fs = sys::fspick(fd.as_fd()).call(|| "fspick")?;
        for (key, value) in &m.data {
            sys::fsconfig(fs.as_fd(), key, value.as_deref().map(text::bytes).as_deref())
                .call(|| format!("fsconfig({key}) [{}]", sys::fslog(fs.as_fd())))?;
        }
        sys::fsreconfigure(fs.as_fd())
            .call(|| format!("fsconfig(RECONFIGURE) [{}]", sys::fslog(fs.as_fd())))?;
    }
    Ok(fd)
}

/// The container's cgroups on a v1 or hybrid host: a tmpfs with one bind mount per hierarchy and a symlink per
/// controller of a shared one. On a pure v2 host without a cgroup namespace: the
/// whole tree, as runc and crun show it to node agents.
fn cgroup(root: &Root, m: &Mount, views: &[CgroupView], cgroups: Cgroups) -> Result<OwnedFd> {
    let target = root.make_dir(&m.destination).at(|| format!("{}.destination", m.field))?;
    outside_proc(root, m, target.as_fd())?;
    if let [CgroupView { v2: true, .. }] = views {
        // The whole tree: /proc/self/cgroup says where in it the container is. A user namespace may not have it.
        let deep = tree::has_setattr();
        let tree = match whole_tree("cgroup2", cgroups)? {
            Ok(whole) => whole,
            Err(cgroups) => match new_mount("cgroup2", &m.source, &[], m.attr.set, m) {
                Ok(fd) => Tree(fd),
                Err(e) if e.errno == Some(Errno::EPERM) => cgroups.first(deep)?,
                Err(_) => tree::bind(cwd(), Path::new("/sys/fs/cgroup"), deep)?,
            },
        };
        return tree.attach_with(target.as_fd(), &[(deep, m.attr), (true, m.recursive)]);
    }
    let attrs = m.attr.set & (ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    let base = Mount {
        kind: Action::Fs("tmpfs".into()),
        source: "tmpfs".into(),
        data: vec![("mode".into(), Some("755".into()))],
        attr: MountAttr { set: attrs, ..MountAttr::default() },
        recursive: MountAttr::default(),
        ..m.clone()
    };
    let tmpfs = file_system(root, &base, "tmpfs", base.attr, Cgroups::default())?;
    for (view, tree) in views.iter().zip(cgroups.bind()?).filter(|(v, _)| !v.v2) {
        nix::sys::stat::mkdirat(&tmpfs, view.name.as_str(), Mode::from_bits_truncate(0o755))
            .call(|| format!("mkdir({:?})", view.name))?;
        let at = nix::fcntl::openat(
            &tmpfs,
            view.name.as_str(),
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .call(|| format!("open({:?})", view.name))?;
        tree.attach_with(at.as_fd(), &[(false, m.attr), (true, m.recursive)])?;
        for alias in &view.aliases {
            nix::unistd::symlinkat(view.name.as_str(), &tmpfs, alias.as_str())
                .call(|| format!("symlink({alias})"))?;
        }
    }
    tree::setattr(tmpfs.as_fd(), false, &m.attr)?;
    tree::setattr(tmpfs.as_fd(), false, &m.recursive)?;
    Ok(tmpfs)
}

/// Copies what the mount will hide into it: names, modes, owners, links, contents.
fn copy_up(from: BorrowedFd, to: BorrowedFd) -> Result<()> {
    copy_dir(from, to, 0).map_err(|e| Error::call(e, "tmpcopyup"))
}

fn copy_dir(from: BorrowedFd, to: BorrowedFd, depth: u32) -> nix::Result<()> {
    use nix::fcntl::{openat, readlinkat};
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir =
        nix::dir::Dir::from_fd(openat(from, ".", read | OFlag::O_DIRECTORY, Mode::empty())?)?;
    let names: Vec<_> = dir.iter().flatten().map(|e| e.file_name().to_owned()).collect();
    for name in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
        let name = name.as_c_str();
        let stat = nix::sys::stat::fstatat(from, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_bits_truncate(stat.st_mode);
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR if depth < 256 => {
                nix::sys::stat::mkdirat(to, name, mode)?;
                let (a, b) = (
                    openat(from, name, read | OFlag::O_DIRECTORY, Mode::empty())?,
                    openat(to, name, read, Mode::empty())?,
                );
                copy_dir(a.as_fd(), b.as_fd(), depth + 1)?;
            }
            SFlag::S_IFLNK => {
                nix::unistd::symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?
            }
            SFlag::S_IFREG => copy_file(from, to, name, mode)?,
            kind => nix::sys::stat::mknodat(to, name, kind, mode, stat.st_rdev)?,
        }
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(to, name, Some(stat.st_uid.into()), Some(stat.st_gid.into()), flags)?;
    }
    Ok(())
}

fn copy_file(
    from: BorrowedFd,
    to: BorrowedFd,
    name: &std::ffi::CStr,
    mode: Mode,
) -> nix::Result<()> {
    let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let write =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut source = std::fs::File::from(nix::fcntl::openat(from, name, read, Mode::empty())?);
    let mut target = std::fs::File::from(nix::fcntl::openat(to, name, write, mode)?);
    std::io::copy(&mut source, &mut target)
        .map(drop)
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
}
