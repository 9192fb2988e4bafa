//! The server's side of its keeper: tells it what to keep, hears from it who has ended. See [`conex_keeper::keep`].

use super::due::Due;
use crate::document::KEEPER;
use crate::log;
use crate::marks::{Keeper, Work, CHANGED};
use crate::reap::Exit;
use crate::status::{unknown, During, Result};
use crate::task::service::Service;
use conex_keeper::keep;
use conex_proto::shim::Record;
use conex_sys::fd;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, recv, sendmsg, sockopt, ControlMessage, MsgFlags, SockType};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::sync::Notify;

/// A longer text goes in a file in memory: with the key this fits in what the keeper reads at a time. In parts, one could
/// be longer than the socket holds, and would never get through.
const PART: usize = 3 << 10;

/// A keeper that takes longer to answer is told of in the log.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Store {
    service: Rc<Service>,
    pub socket: Cell<Option<RawFd>>,
    listener: RawFd,
    /// What the keeper has, by key: its hash, or that it is a part or an older one.
    sent: RefCell<HashMap<String, Option<u64>>>,
    /// It was told that what an earlier server said does not count any more.
    reset: Cell<bool>,
    /// It has had the whole state.
    begun: Cell<bool>,
    /// Something was sent that does not count yet.
    uncommitted: Cell<bool>,
    /// It has not listened for a long time.
    deaf: Cell<bool>,
    /// Changes that were sent, and those that the keeper has confirmed.
    commits: Cell<u64>,
    confirmed: Cell<u64>,
    /// Somebody will look whether it has.
    watched: Cell<bool>,
    /// Where the numbers of this server begin: answers to an earlier one's may still come.
    first: u64,
    /// Its answer to a call to enter namespaces.
    entered: RefCell<Option<String>>,
    heard: Notify,
}

impl Store {
    fn new(service: &Rc<Service>, number: RawFd, listener: RawFd) -> Store {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let first = now.as_nanos() as u64;
        Store {
            service: service.clone(),
            socket: Cell::new(Some(number)),
            listener,
            sent: RefCell::default(),
            reset: Cell::default(),
            begun: Cell::default(),
            uncommitted: Cell::default(),
            deaf: Cell::default(),
            commits: Cell::new(first),
            confirmed: Cell::new(first),
            watched: Cell::default(),
            first,
            entered: RefCell::default(),
            heard: Notify::new(),
        }
    }

    /// Whether the keeper does not know of everything.
    pub fn is_behind(&self) -> bool {
        self.uncommitted.get() || crate::marks::any()
    }

    pub fn has_keeper(&self) -> bool {
        self.socket.get().is_some()
    }

    /// The keys that begin so of what the keeper has.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.sent.borrow().keys().filter(|k| k.starts_with(prefix)).cloned().collect()
    }
}

impl Keeper for Store {
    fn is_there(&self) -> bool {
        self.has_keeper()
    }

    fn told(self: Rc<Self>, whole: bool) -> Work<'static, ()> {
        Box::pin(async move { tell_now(&self, whole).await })
    }

    fn enter(self: Rc<Self>, namespaces: &[OwnedFd]) -> Work<'_, Result<()>> {
        Box::pin(async move { enter(&self, namespaces).await })
    }
}

async fn tell_now(store: &Rc<Store>, whole: bool) {
    // Not each call for itself: one that has been waited for once is waited for by nobody until it listens again.
    let patience = if store.deaf.get() { Duration::ZERO } else { PATIENCE };
    let begun = Instant::now();
    while let Err(e) = tell(store, whole) {
        if e != Errno::EAGAIN && !store.deaf.get() {
            log::warn("the keeper cannot be told", &[("error", e.desc())]);
        }
        if begun.elapsed() >= patience {
            if !store.deaf.replace(true) {
                log::warn("the keeper does not listen", &[]);
            }
            return;
        }
        // It is slower than this process; or it is about to end, or there are no descriptors left.
        tokio::time::sleep(Duration::from_millis(if e == Errno::EAGAIN { 1 } else { 500 })).await;
    }
    store.deaf.set(false);
}

/// Connects the service with the keeper, if there is one, and tells it the state.
pub async fn begin(service: &Rc<Service>, listener: RawFd) -> Result<Option<Rc<Store>>> {
    let number = std::env::var(KEEPER).ok().and_then(|n| n.parse::<RawFd>().ok());
    // After an upgrade without a keeper the number could be anything's.
    let is_ours = |n: &RawFd| {
        fd::is_open(*n) && getsockopt(&fd::borrow(*n), sockopt::SockType) == Ok(SockType::SeqPacket)
    };
    let Some(number) = number.filter(is_ours) else { return Ok(None) };
    fd::set_cloexec(number).during(|| "fcntl(F_SETFD)".into())?;
    let store = Rc::new(Store::new(service, number, listener));
    CHANGED.with(|c| *c.keeper.borrow_mut() = Some(store.clone()));
    let socket = fd::adopt(number);
    let hearing = store.clone();
    CHANGED.with(|c| c.heard.set(true));
    tokio::task::spawn_local(async move {
        hear(&hearing, &socket).await;
        hearing.socket.set(None);
        hearing.heard.notify_waiters();
        CHANGED.with(|c| c.heard.set(false));
        log::warn("no keeper any more: the containers do not outlive this process", &[]);
    });
    tell_now(&store, true).await;
    tokio::task::spawn_local(tell_changes(store.clone()));
    Ok(Some(store))
}

/// Tells what nobody waits for, as long as there is a keeper.
async fn tell_changes(store: Rc<Store>) {
    let changes = CHANGED.with(Rc::clone);
    while store.has_keeper() {
        changes.wake.notified().await;
        // It comes in groups; one word for all of them.
        tokio::time::sleep(Duration::from_millis(1)).await;
        tell_now(&store, false).await;
        while store.has_keeper() && store.is_behind() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            tell_now(&store, false).await;
        }
    }
}

/// Says in the log that the keeper does not answer.
fn watch_answer(store: &Rc<Store>) {
    if store.watched.replace(true) {
        return;
    }
    let (store, number) = (store.clone(), store.commits.get());
    tokio::task::spawn_local(async move {
        tokio::time::sleep(PATIENCE).await;
        store.watched.set(false);
        if store.confirmed.get() < number && store.has_keeper() {
            log::warn("the keeper has not answered for 10 seconds", &[]);
        }
    });
}

/// Sends what is not with the keeper yet, then the word that it is all. After an error what was sent is known, and what
/// was not is due again.
fn tell(store: &Rc<Store>, whole: bool) -> nix::Result<()> {
    let Some(number) = store.socket.get() else { return Ok(()) };
    let due = Due::take(whole || !store.begun.get());
    if due.is_nothing() && !store.uncommitted.get() {
        return Ok(());
    }
    let socket = fd::borrow(number);
    let told = send(store, socket, &due).and_then(|()| commit(store, socket));
    match told {
        Ok(()) if due.whole => store.begun.set(true),
        Ok(()) => {}
        Err(_) => due.give_back(),
    }
    told
}

fn send(store: &Store, socket: BorrowedFd, due: &Due) -> nix::Result<()> {
    let (records, keys) = due.records(&store.service, store.listener, &|prefix| store.keys(prefix));
    let mut sent = store.sent.borrow_mut();
    if !store.reset.get() {
        put(socket, &[keep::RESET], &[])?;
        store.reset.set(true);
        store.uncommitted.set(true);
    }
    for r in &records {
        let mut hasher = DefaultHasher::new();
        (&r.text, &r.descriptors).hash(&mut hasher);
        let hash = Some(hasher.finish());
        if sent.get(&r.key) != Some(&hash) {
            // Known again when all of it has gone.
            sent.insert(r.key.clone(), None);
            store.uncommitted.set(true);
            put_record(socket, r)?;
            sent.insert(r.key.clone(), hash);
        }
    }
    let there: std::collections::HashSet<&str> = records.iter().map(|r| r.key.as_str()).collect();
    for key in keys.into_iter().filter(|k| !there.contains(k.as_str())) {
        if sent.contains_key(&key) {
            put(socket, &message(keep::REMOVE, &key, &[]), &[])?;
            sent.remove(&key);
            store.uncommitted.set(true);
        }
    }
    Ok(())
}

/// All that was sent counts from here on.
fn commit(store: &Rc<Store>, socket: BorrowedFd) -> nix::Result<()> {
    if !store.uncommitted.get() {
        return Ok(());
    }
    let number = store.commits.get() + 1;
    put(socket, &[&[keep::COMMIT][..], &number.to_le_bytes()].concat(), &[])?;
    store.commits.set(number);
    store.uncommitted.set(false);
    log::debug("told the keeper", &[("change", &format!("{number}"))]);
    watch_answer(store);
    Ok(())
}

/// A record's text and descriptors; the first message begins it.
fn put_record(socket: BorrowedFd, r: &Record) -> nix::Result<()> {
    let mut lists = r.descriptors.chunks(keep::DESCRIPTORS);
    let text = if r.text.len() > PART { &[][..] } else { &r.text };
    put(socket, &message(keep::BEGIN, &r.key, text), lists.next().unwrap_or_default())?;
    if r.text.len() > PART {
        let file = crate::document::input(&r.text).map_err(|_| Errno::EMFILE)?;
        put(socket, &message(keep::TEXT, &r.key, &[]), &[file.as_raw_fd()])?;
    }
    for list in lists {
        put(socket, &message(keep::MORE, &r.key, &[]), list)?;
    }
    Ok(())
}

/// Kind, length of the key, key, text.
fn message(kind: u8, key: &str, text: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((key.len() as u16).to_le_bytes());
    out.extend(key.as_bytes());
    out.extend(text);
    out
}

fn put(socket: BorrowedFd, bytes: &[u8], list: &[RawFd]) -> nix::Result<()> {
    let rights = [ControlMessage::ScmRights(list)];
    let control = if list.is_empty() { &rights[..0] } else { &rights[..] };
    let iov = [std::io::IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &iov, control, flags, None).map(drop)
}

/// See [`Keeper::enter`].
async fn enter(store: &Store, namespaces: &[OwnedFd]) -> Result<()> {
    let Some(number) = store.socket.get() else { return Ok(()) };
    let list: Vec<RawFd> = namespaces.iter().map(AsRawFd::as_raw_fd).collect();
    store.entered.take();
    let socket = fd::borrow(number).try_clone_to_owned().during(|| "dup(keeper)".into())?;
    let answer = async {
        while let Err(e) = put(socket.as_fd(), &[keep::ENTER], &list) {
            if e != Errno::EAGAIN {
                return Err(e).during(|| "sendmsg(keeper)".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        loop {
            if let Some(answer) = store.entered.take() {
                return if answer.is_empty() {
                    Ok(())
                } else {
                    Err(unknown(format!("keeper: {answer}")))
                };
            }
            if store.socket.get().is_none() {
                return Ok(());
            }
            store.heard.notified().await;
        }
    };
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| Err(unknown("the keeper does not answer")))
}

/// Exits of processes that are the keeper's children now, and its answers; until it is gone.
async fn hear(store: &Store, socket: &OwnedFd) {
    let Ok(ready) = fd_ready(socket) else { return };
    let mut buffer = [0u8; 1024];
    while let Ok(mut guard) = ready.readable().await {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return,
            Ok(n) => take(store, &buffer[..n]),
            Err(Errno::EAGAIN) => guard.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn take(store: &Store, message: &[u8]) {
    match message.split_first() {
        Some((&keep::COMMIT, rest)) => {
            let number = |at: usize| rest.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            if let (Some(commit), Some(torn)) = (number(0), number(8)) {
                if commit <= store.first || commit > store.commits.get() {
                    return;
                }
                store.confirmed.set(commit);
                store.heard.notify_waiters();
                if torn > 0 {
                    let count = torn.to_string();
                    log::warn(
                        "the keeper lacks descriptors (RLIMIT_NOFILE)",
                        &[("records", &count)],
                    );
                }
            }
        }
        Some((&keep::ENTER, rest)) => {
            *store.entered.borrow_mut() = Some(String::from_utf8_lossy(rest).into_owned());
            store.heard.notify_waiters();
        }
        Some((&keep::EXIT, rest)) => {
            if let Some((pid, exit)) = parse(&String::from_utf8_lossy(rest)) {
                store.service.reaper.foreign(pid, exit);
            }
        }
        _ => log::warn("the keeper said something unknown", &[]),
    }
}

fn fd_ready(
    socket: &OwnedFd,
) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::BorrowedFd<'_>>> {
    conex_sys::ready::borrowed(socket.as_fd(), Interest::READABLE)
}

/// `pid status seconds nanoseconds`.
pub fn parse(text: &str) -> Option<(i32, Exit)> {
    let mut words = text.split(' ');
    let (pid, status) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (seconds, nanos): (u64, u32) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(u64::from(nanos)))?;
    Some((pid, Exit { status, at: super::save::after_epoch(since) }))
}
