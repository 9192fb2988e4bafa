//! One direction of one stream: bytes from a descriptor to another, by splice where the kernel can.

use conex_sys::ready;
use nix::errno::Errno;
use nix::fcntl::{splice, SpliceFFlags};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

pub struct Stream {
    /// `stdin`, `stdout` or `stderr`.
    pub name: String,
    pub from: OwnedFd,
    /// A reader on the client's FIFO: what is written while no client reads must not be lost, and nobody may get SIGPIPE.
    /// It goes before the writer: then the kernel says whether a client is there.
    pub hold: RefCell<Option<OwnedFd>>,
    /// Gone when the stream has ended: that is how its reader learns of it.
    pub to: RefCell<Option<OwnedFd>>,
    /// Read but not yet written; only where splice does not work.
    pub pending: RefCell<Vec<u8>>,
    /// Every byte is with the client's FIFO.
    delivered: Cell<bool>,
    done: Cell<bool>,
    ended: Notify,
    task: RefCell<Option<AbortHandle>>,
}

impl Stream {
    /// Begins to copy, `pending` first. `hold`: see [`Stream::hold`].
    pub fn begin(name: &str, from: OwnedFd, to: OwnedFd, hold: Option<OwnedFd>, pending: Vec<u8>) -> Rc<Stream> {
        let stream = Rc::new(Stream {
            name: name.to_string(),
            from,
            hold: RefCell::new(hold),
            to: RefCell::new(Some(to)),
            pending: RefCell::new(pending),
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
        if self.hold.borrow_mut().take().is_none() {
            return;
        }
        self.delivered.set(true);
        self.ended.notify_waiters();
        let mut pause = Duration::from_millis(1);
        // POLLERR: there is no reader (poll(2)).
        while self.to.borrow().as_ref().is_some_and(|to| is_ready(to.as_fd(), PollFlags::empty())) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
    }

    fn finish(&self) {
        self.to.borrow_mut().take();
        self.hold.borrow_mut().take();
        self.done.set(true);
        crate::store::touch();
        self.ended.notify_waiters();
    }

    pub fn stop(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
        self.finish();
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
        let to = match self.to.borrow().as_ref() {
            Some(to) => to.try_clone()?,
            None => return Ok(()),
        };
        let from = ready::borrowed(self.from.as_fd(), Interest::READABLE)?;
        let (mut splices, mut total) = (true, 0);
        loop {
            self.flush(to.as_fd()).await?;
            let mut ready = from.readable().await?;
            let moved = if splices { self.splice(to.as_fd()) } else { self.read() };
            match moved {
                // The end of a pipe, or of a terminal.
                Ok(0) | Err(Errno::EIO) => return Ok(()),
                Ok(n) => total += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if is_ready(self.from.as_fd(), PollFlags::POLLIN) => {
                    if total > WIDE {
                        total = 0;
                        [self.from.as_fd(), to.as_fd()].into_iter().for_each(widen);
                    }
                    writable(to.as_fd()).await?;
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                // Not between two pipes: a terminal, or a file that is appended to.
                Err(Errno::EINVAL) if splices => splices = false,
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn splice(&self, to: BorrowedFd) -> nix::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        splice(&self.from, None, to, None, 1 << 20, flags)
    }

    fn read(&self) -> nix::Result<usize> {
        let mut buffer = vec![0u8; 16384];
        let n = nix::unistd::read(&self.from, &mut buffer)?;
        self.pending.borrow_mut().extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Writes what has been read.
    async fn flush(&self, to: BorrowedFd<'_>) -> std::io::Result<()> {
        loop {
            let written = match self.pending.borrow().as_slice() {
                [] => break,
                bytes => nix::unistd::write(to, bytes),
            };
            match written {
                Ok(n) => drop(self.pending.borrow_mut().drain(..n)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => writable(to).await?,
                Err(e) => return Err(e.into()),
            }
        }
        // An idle stream holds no buffer.
        self.pending.take();
        Ok(())
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

fn is_ready(fd: BorrowedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, what)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Until a write would not block.
async fn writable(fd: BorrowedFd<'_>) -> std::io::Result<()> {
    // Registered anew each time: epoll then reports what is true now.
    let fd = ready::borrowed(fd, Interest::WRITABLE)?;
    let mut ready = fd.writable().await?;
    ready.clear_ready();
    Ok(())
}
