//! One direction of one stream: bytes from a descriptor to another, by splice where the kernel can. What its reader does
//! not take is `spill`'s.

use super::owner::Owner;
use super::ring::Ring;
use conex_sys::ready;
use nix::errno::Errno;
use nix::fcntl::{splice, SpliceFFlags};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A reader that has taken nothing for so long does not read.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How often a sink is tried that has failed.
pub const AGAIN: Duration = Duration::from_secs(1);

pub struct Stream {
    /// `stdin`, `stdout` or `stderr`.
    pub name: String,
    pub owner: Rc<Owner>,
    /// Gone with the stream, too: who still writes there is to feel it.
    pub from: RefCell<Option<Rc<OwnedFd>>>,
    /// A reader on the client's FIFO: what is written while no client reads must not be lost, and nobody may get SIGPIPE.
    /// It goes before the writer: then the kernel says whether a client is there.
    pub hold: RefCell<Option<OwnedFd>>,
    /// The sink is a client's FIFO.
    fifo: bool,
    /// Gone when the stream has ended: that is how its reader learns of it.
    pub to: RefCell<Option<Rc<OwnedFd>>>,
    /// Read but not yet written; only where splice does not work.
    pub pending: RefCell<Vec<u8>>,
    /// What waits while nobody reads, and how much may; none for 0.
    pub ring: RefCell<Option<Ring>>,
    pub capacity: u64,
    /// Its failure has been told, and it has not gone on since.
    pub(super) complained: Cell<bool>,
    /// Every byte is with the client's FIFO.
    delivered: Cell<bool>,
    done: Cell<bool>,
    ended: Notify,
    task: RefCell<Option<AbortHandle>>,
}

/// Where a stream begins.
#[derive(Default)]
pub struct Start {
    /// See [`Stream::hold`].
    pub hold: Option<OwnedFd>,
    pub pending: Vec<u8>,
    pub ring: Option<Ring>,
    pub capacity: u64,
}

/// What became of one step.
pub(super) enum Step {
    Moved(usize),
    /// The source has ended.
    End,
    /// The source has nothing at the moment.
    Starved,
    /// The sink takes nothing at the moment.
    Full,
    /// The sink refuses.
    Refused(Errno),
}

impl Stream {
    /// Begins to copy, with what an earlier build had in its hands first.
    pub fn begin(
        name: &str,
        owner: &Rc<Owner>,
        from: Rc<OwnedFd>,
        to: Rc<OwnedFd>,
        start: Start,
    ) -> Rc<Stream> {
        let stream = Rc::new(Stream {
            name: name.to_string(),
            owner: owner.clone(),
            from: RefCell::new(Some(from)),
            fifo: start.hold.is_some(),
            hold: RefCell::new(start.hold),
            to: RefCell::new(Some(to)),
            pending: RefCell::new(start.pending),
            ring: RefCell::new(start.ring),
            capacity: start.capacity,
            complained: Cell::new(false),
            delivered: Cell::new(false),
            done: Cell::new(false),
            ended: Notify::new(),
            task: RefCell::default(),
        });
        let copied = stream.clone();
        let task = tokio::task::spawn_local(async move {
            // A stream that breaks is a stream that ends: the reason is the other side's.
            let _ = copied.copy().await;
            copied.hand_over().await;
            copied.finish();
        });
        *stream.task.borrow_mut() = Some(task.abort_handle());
        stream
    }

    /// Waits for a client that has not opened its end yet. If the last writer were closed before, its open(2) would wait
    /// for another for ever (fifo(7)), and what it has not read would be gone with the last descriptor.
    ///
    /// Opening a FIFO for reading wakes nobody that polls its other end: hence the looks, at longer and longer intervals.
    async fn hand_over(&self) {
        self.hold.borrow_mut().take();
        if !self.fifo {
            return;
        }
        self.give_up();
        let mut pause = Duration::from_millis(1);
        // POLLERR: there is no reader (poll(2)).
        while self.to.borrow().as_ref().is_some_and(|to| is_ready(to.as_fd(), PollFlags::empty())) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
    }

    fn finish(&self) {
        self.to.borrow_mut().take();
        self.from.borrow_mut().take();
        self.hold.borrow_mut().take();
        let ring = self.ring.borrow_mut().take();
        if let Some(bytes) = ring.map(|r| r.length()).filter(|n| *n > 0) {
            let bytes = bytes.to_string();
            let fields =
                [("id", self.owner.id.as_str()), ("stream", &self.name), ("bytes", &bytes)];
            crate::log::warn("output is lost: nobody has fetched it", &fields);
        }
        self.done.set(true);
        crate::marks::touch_process(&self.owner.id, &self.owner.exec);
        self.ended.notify_waiters();
    }

    pub fn stop(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
        self.finish();
    }

    pub(super) fn is_fifo(&self) -> bool {
        self.fifo
    }

    pub fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Until every byte is with the client, or in its FIFO.
    pub async fn delivered(&self) {
        while !self.done.get() && !self.delivered.get() {
            self.ended.notified().await;
        }
    }

    /// The sink does not take what is left.
    pub(super) fn give_up(&self) {
        if !self.delivered.replace(true) {
            self.ended.notify_waiters();
        }
    }

    /// The process is deleted: one whose bytes wait for a client goes on for a while, all others end.
    pub fn leave(self: &Rc<Self>, most: Duration) {
        if !self.delivered.get() || self.done.get() {
            return self.stop();
        }
        let stream = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(most).await;
            stream.stop();
        });
    }

    async fn copy(&self) -> std::io::Result<()> {
        let (to, source) = (self.to.borrow().clone(), self.from.borrow().clone());
        let (Some(to), Some(source)) = (to, source) else { return Ok(()) };
        let from = Source(ready::borrowed(source.as_fd(), Interest::READABLE)?);
        let (mut splices, mut total, mut turns) = (true, 0, 0u8);
        // An earlier server had begun to keep what comes.
        let mut keeps = self.ring.borrow().is_some();
        let mut refused = false;
        loop {
            if std::mem::take(&mut keeps) && !self.spill(&from, to.as_fd(), refused).await? {
                return Ok(());
            }
            if let Some(hindered) = self.flush(to.as_fd()) {
                refused = matches!(hindered, Step::Refused(_));
                keeps = match hindered {
                    Step::Refused(e) => self.refused(e).await?,
                    _ => self.blocked(to.as_fd()).await?,
                };
                continue;
            }
            let mut ready = from.0.readable().await?;
            match self.step(&mut splices, source.as_fd(), to.as_fd()) {
                Step::End => return Ok(()),
                Step::Starved => ready.clear_ready(),
                Step::Moved(n) => {
                    total += n;
                    turns = (turns + 1) % 16;
                    if turns == 0 {
                        // One stream that never pauses must not keep the others waiting.
                        tokio::task::yield_now().await;
                    }
                }
                Step::Full => {
                    refused = false;
                    if total > WIDE {
                        total = 0;
                        [source.as_fd(), to.as_fd()].into_iter().for_each(widen);
                    }
                    keeps = self.blocked(to.as_fd()).await?;
                }
                Step::Refused(e) => {
                    refused = true;
                    keeps = self.refused(e).await?;
                }
            }
        }
    }

    /// The sink is full. True if it stays so and what comes has to be kept.
    async fn blocked(&self, to: BorrowedFd<'_>) -> std::io::Result<bool> {
        if self.capacity == 0 {
            return writable(to).await.map(|()| false);
        }
        match tokio::time::timeout(PATIENCE, writable(to)).await {
            Ok(result) => result.map(|()| false),
            Err(_) => Ok(true),
        }
    }

    /// The sink has failed. True if what comes has to be kept until it does not any more.
    async fn refused(&self, e: Errno) -> std::io::Result<bool> {
        // The other end of a pipe is gone: for who writes there, too, unless he is not to feel it.
        if self.capacity == 0 && e == Errno::EPIPE {
            return Err(e.into());
        }
        self.complain(e);
        if self.capacity > 0 {
            return Ok(true);
        }
        tokio::time::sleep(AGAIN).await;
        Ok(false)
    }

    pub(super) fn complain(&self, e: Errno) {
        if self.complained.replace(true) {
            return;
        }
        let fields = [("id", self.owner.id.as_str()), ("stream", &self.name), ("error", e.desc())];
        crate::log::error("output cannot be written; it is tried again every second", &fields);
    }

    /// Moves what can be moved without waiting.
    fn step(&self, splices: &mut bool, from: BorrowedFd, to: BorrowedFd) -> Step {
        let moved = if *splices { move_on(from, to) } else { self.read(from) };
        match moved {
            Ok(0) => Step::End,
            Ok(n) => Step::Moved(n),
            Err(Errno::EINTR) => Step::Moved(0),
            // A sink that nobody reads refuses nothing as well.
            Err(Errno::EAGAIN | Errno::EPIPE) if !is_ready(from, PollFlags::POLLIN) => {
                Step::Starved
            }
            // A read says nothing of the sink: there is more only since then, and a file cannot be waited for.
            Err(Errno::EAGAIN) if !*splices => Step::Moved(0),
            Err(Errno::EAGAIN) => Step::Full,
            // Not between two pipes: a terminal, or a file that is appended to.
            Err(Errno::EINVAL) if *splices => {
                *splices = false;
                Step::Moved(0)
            }
            // The end of a terminal. A file that fails is never spliced to.
            Err(Errno::EIO) => Step::End,
            Err(e) => Step::Refused(e),
        }
    }

    fn read(&self, from: BorrowedFd) -> nix::Result<usize> {
        let mut buffer = vec![0u8; 16384];
        let n = nix::unistd::read(from, &mut buffer)?;
        self.pending.borrow_mut().extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Writes what has been read; says what hinders that.
    fn flush(&self, to: BorrowedFd) -> Option<Step> {
        let mut pending = self.pending.borrow_mut();
        while !pending.is_empty() {
            match nix::unistd::write(to, &pending) {
                Ok(n) => {
                    pending.drain(..n);
                    self.complained.set(false);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Some(Step::Full),
                Err(e) => return Some(Step::Refused(e)),
            }
        }
        // An idle stream holds no buffer.
        *pending = Vec::new();
        None
    }
}

fn move_on(from: BorrowedFd, to: BorrowedFd) -> nix::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    splice(from, None, to, None, 1 << 20, flags)
}

/// The descriptor that a stream reads, in the reactor.
pub(super) struct Source<'a>(AsyncFd<BorrowedFd<'a>>);

impl<'a> Source<'a> {
    pub(super) fn fd(&self) -> BorrowedFd<'a> {
        *self.0.get_ref()
    }

    /// Until there is more to read, or its end.
    pub(super) async fn more(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if is_ready(*self.0.get_ref(), PollFlags::POLLIN) {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// The longest pause between two looks for a client.
const LOOK: Duration = Duration::from_millis(100);

/// So much has gone through a stream that is full again: it comes faster than it goes, and somebody reads.
const WIDE: usize = 1 << 20;

/// Gives four times the room of a new pipe, so that the three processes wake one another less often: 1.4 GB/s become 3.8
/// (`make bench`).
/// Whoever may not have it goes on as before (pipe(7), pipe-user-pages-soft).
fn widen(fd: BorrowedFd) {
    let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(256 << 10));
}

/// Whether poll(2) says so, or that of the other end.
pub(super) fn is_ready(fd: BorrowedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, what)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Until a write would not block.
pub(super) async fn writable(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    // A descriptor of its own: the reactor takes each once, and a terminal's is there as the source of another stream.
    let own = fd.try_clone_to_owned()?;
    // Registered anew each time: epoll then reports what is true now.
    let fd = ready::borrowed(own.as_fd(), Interest::WRITABLE)?;
    let mut ready = fd.writable().await?;
    ready.clear_ready();
    Ok(())
}
