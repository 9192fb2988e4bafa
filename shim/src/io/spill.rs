//! A container does not wait for its log: what a reader does not take is kept, in order, within bounds.

use super::copy::{is_ready, writable, Source, Stream, AGAIN, PATIENCE};
use super::ring::{Lost, Ring};
use crate::log;
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::future::{poll_fn, Future};
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Read from the source at a time, so that the others have their turn.
const PART: usize = 64 << 10;

/// What came of an attempt to give the oldest bytes away.
enum Out {
    Empty,
    Some,
    Full,
    Refused,
}

/// One stretch of time in which nobody reads.
struct Stretch {
    since: Instant,
    /// When the reader last took something.
    progress: Instant,
    /// Of a notice, what is not written yet.
    notice: Vec<u8>,
    /// The sink's last word was an error.
    refused: bool,
}

impl Stream {
    /// Keeps what comes until the reader has taken it all. False if the source has ended.
    pub(super) async fn spill(
        &self,
        from: &Source<'_>,
        to: BorrowedFd<'_>,
        refused: bool,
    ) -> std::io::Result<bool> {
        if self.ring.borrow().is_none() {
            if !self.begin_ring() {
                // As without it, and tried again.
                return sleep(AGAIN).await.map(|()| true);
            }
            // What is taken from the pipe now would be lost with a server whose keeper does not know of the ring.
            crate::marks::told().await;
            let whose = [("id", self.owner.id.as_str()), ("stream", &self.name)];
            log::warn("output is kept: nobody reads it", &whose);
        }
        let now = Instant::now();
        let progress = now.checked_sub(PATIENCE).unwrap_or(now);
        let mut stretch = Stretch { since: now, progress, notice: Vec::new(), refused };
        let mut open = true;
        loop {
            let out =
                self.replay(to, &mut stretch).map_err(|e| std::io::Error::other(e.message))?;
            if matches!(out, Out::Empty) || !open && stretch.notice.is_empty() && self.is_empty() {
                self.ring.borrow_mut().take();
                crate::marks::touch_process(&self.owner.id, &self.owner.exec);
                return Ok(open);
            }
            if open && self.may_take(&stretch) && is_ready(from.fd(), PollFlags::POLLIN) {
                // At the end the kernel says whether a client is there: Delete waits for nobody who never came.
                open = self.keep(from.fd())?;
                self.hold.borrow_mut().take_if(|_| !open);
                tokio::task::yield_now().await;
                continue;
            }
            if let Out::Some = out {
                tokio::task::yield_now().await;
                continue;
            }
            if !open && matches!(out, Out::Refused) {
                // Delete waits for nobody who does not want it.
                self.give_up();
            }
            let more = async {
                match open && self.may_take(&stretch) {
                    true => from.more().await,
                    // A reader that is slow has its second before anything is lost.
                    false => sleep(PATIENCE).await,
                }
            };
            let room = async {
                match out {
                    Out::Full => writable(to).await,
                    _ => sleep(AGAIN).await,
                }
            };
            either(more, room).await?;
        }
    }

    /// False if output cannot be kept, which is said in the log.
    fn begin_ring(&self) -> bool {
        let fields = [("id", self.owner.id.as_str()), ("stream", &self.name)];
        let made = Ring::new(&self.owner.bundle, self.capacity);
        let made = made.and_then(|ring| ring.push(&self.pending.borrow()).map(|()| ring));
        match made {
            Ok(ring) => {
                self.pending.take();
                *self.ring.borrow_mut() = Some(ring);
                crate::marks::touch_process(&self.owner.id, &self.owner.exec);
                true
            }
            Err(e) => {
                log::error(&format!("output cannot be kept: {}", e.message), &fields);
                false
            }
        }
    }

    /// Whether more may be read: there is room, or nobody has read for so long that the oldest lines may go.
    fn may_take(&self, stretch: &Stretch) -> bool {
        let room = self.ring.borrow().as_ref().is_some_and(|r| r.room() >= PART as u64);
        self.pending.borrow().is_empty() && (room || stretch.progress.elapsed() >= PATIENCE)
    }

    fn is_empty(&self) -> bool {
        self.ring.borrow().as_ref().is_none_or(|r| r.is_empty() && !r.has_lost())
    }

    /// From the source into the ring. False at its end.
    fn keep(&self, from: BorrowedFd) -> std::io::Result<bool> {
        let taken = self.ring.borrow().as_ref().map(|ring| ring.take(from, PART as u64));
        match taken {
            Some(Ok(n)) => return Ok(n > 0),
            Some(Err(Errno::EAGAIN | Errno::EINTR)) => return Ok(true),
            // A terminal, a small ring, or a disk that has no room for it.
            Some(Err(_)) | None => {}
        }
        let mut buffer = vec![0u8; PART];
        match nix::unistd::read(from, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => Ok(false),
            Ok(n) => {
                let ring = self.ring.borrow();
                let kept = ring.as_ref().map_or(Ok(()), |ring| ring.push(&buffer[..n]));
                if let Err(e) = kept {
                    // Then the process waits, as without a ring: these bytes come after those that are in it.
                    log::error(
                        "output cannot be kept",
                        &[("id", &self.owner.id), ("error", &e.message)],
                    );
                    self.pending.borrow_mut().extend_from_slice(&buffer[..n]);
                }
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// From the ring to the sink, as much as it takes at once.
    fn replay(&self, to: BorrowedFd, stretch: &mut Stretch) -> crate::status::Result<Out> {
        let ring = self.ring.borrow();
        let Some(ring) = ring.as_ref() else { return Ok(Out::Empty) };
        let mut buffer = vec![0u8; PART];
        loop {
            // Only what is taken at all says what was lost before it: a notice takes the place of those lines.
            if stretch.notice.is_empty() && !ring.is_begun() && ring.has_lost() {
                if !is_ready(to, PollFlags::POLLOUT) {
                    return Ok(Out::Full);
                }
                stretch.notice = self.say(ring.take_lost()?, stretch.since);
            }
            let notice = !stretch.notice.is_empty();
            let mut n = if notice { 0 } else { ring.peek(&mut buffer)? };
            if ring.is_begun() {
                n = buffer[..n].iter().position(|b| *b == b'\n').map_or(n, |end| end + 1);
            }
            if n == 0 && !notice {
                // What refuses now, or takes nothing, would do so at once again.
                return Ok(match stretch.refused {
                    true => Out::Refused,
                    false if is_ready(to, PollFlags::POLLOUT) => Out::Empty,
                    false => Out::Full,
                });
            }
            match nix::unistd::write(to, if notice { &stretch.notice } else { &buffer[..n] }) {
                Ok(n) => {
                    stretch.progress = Instant::now();
                    stretch.refused = false;
                    self.complained.set(false);
                    if notice {
                        stretch.notice.drain(..n);
                    } else {
                        ring.consume(&buffer[..n])?;
                        return Ok(Out::Some);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Out::Full),
                Err(e) => {
                    stretch.refused = true;
                    if !(self.is_fifo() && e == Errno::EPIPE) {
                        self.complain(e);
                    }
                    return Ok(Out::Refused);
                }
            }
        }
    }

    /// Tells of a loss: to containerd's log, as an event, and in the place of the lines.
    fn say(&self, lost: Lost, since: Instant) -> Vec<u8> {
        let (id, stream, seconds) = (&self.owner.id, &self.name, since.elapsed().as_secs());
        let (lines, bytes) = (lost.lines, lost.bytes);
        let counts = [("lines", lines.to_string()), ("bytes", bytes.to_string())];
        let mut fields = vec![("id", id.as_str()), ("stream", stream)];
        fields.extend(counts.iter().map(|(k, v)| (*k, v.as_str())));
        log::warn("output is lost: nobody has read it", &fields);
        if let Some(events) = &self.owner.events {
            let (container_id, exec_id) = (id.clone(), self.owner.exec.clone());
            let stream = stream.clone();
            let event =
                conex_proto::shim::OutputLost { container_id, exec_id, stream, lines, bytes };
            events.publish_as("/conex/output-lost", "conex.shim.v1.OutputLost", &event);
        }
        format!("conex: {lines} lines ({bytes} bytes) of {stream} are lost: nobody read them for {seconds} s\n")
            .into_bytes()
    }
}

async fn sleep(time: Duration) -> std::io::Result<()> {
    tokio::time::sleep(time).await;
    Ok(())
}

/// Until one of them is there.
async fn either<T>(a: impl Future<Output = T>, b: impl Future<Output = T>) -> T {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Pending => b.as_mut().poll(cx),
        ready => ready,
    })
    .await
}
