//! Output that its reader does not take at the moment: a bounded file without a name, of which the oldest lines go first.
//!
//! Its first bytes say what is in it, so that the descriptor alone is enough for a server that takes over.

use crate::status::{unknown, During, Result};
use std::cell::Cell;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Where the bytes begin; before them eight numbers, little endian: capacity, start, length, lost lines, lost bytes,
/// whether a line is begun, [`MAGIC`], and whether the position of the file is the end of what is in the ring ([`Ring::take`]).
const DATA: u64 = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"conexout");

/// The greatest capacity.
const MOST: u64 = 1 << 30;

/// How far the end of a line is looked for. A longer one is cut.
const LINE: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State {
    /// In bytes; never 0.
    capacity: u64,
    /// Of the oldest byte, within the capacity.
    start: u64,
    length: u64,
    lost: Lost,
    /// The reader has the beginning of the oldest line, as far as is known: its rest stays.
    begun: bool,
}

impl State {
    /// Behind the newest byte, within the capacity.
    fn end(&self) -> u64 {
        (self.start + self.length) % self.capacity
    }
}

/// What had to go since the last time it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lost {
    pub lines: u64,
    pub bytes: u64,
}

impl Lost {
    fn add(&mut self, lines: u64, bytes: u64) {
        self.lines = self.lines.saturating_add(lines);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

pub struct Ring {
    file: File,
    state: Cell<State>,
}

impl Ring {
    /// An empty one for that many bytes, in a file system that has `dir`; in memory where it makes no file without a name.
    pub fn new(dir: &Path, capacity: u64) -> Result<Ring> {
        let mut open = File::options();
        open.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC);
        // A part of what the file system has left: it is often memory, and others need it as well.
        let free =
            nix::sys::statvfs::statvfs(dir).map_or(0, |s| s.blocks_available() * s.fragment_size());
        let capacity = capacity.min((free / 8).max(LINE));
        let file = match open.open(dir) {
            Ok(file) => file,
            Err(_) => {
                File::from(conex_sys::fd::memfd_data("output").during(|| "memfd_create".into())?)
            }
        };
        let state = State { capacity: capacity.clamp(1, MOST), begun: true, ..State::default() };
        let ring = Ring { file, state: Cell::new(state) };
        ring.set(state)?;
        ring.seek(0)?;
        Ok(ring)
    }

    /// The one that an earlier server has filled.
    ///
    /// # Errors
    /// The file is not one of those.
    pub fn resume(fd: OwnedFd) -> Result<Ring> {
        let file = File::from(fd);
        let mut head = [0u8; DATA as usize];
        file.read_exact_at(&mut head, 0).during(|| "read(ring)".into())?;
        let number = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[i * 8..i * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let lost = Lost { lines: number(3), bytes: number(4) };
        let state = State {
            capacity: number(0),
            start: number(1),
            length: number(2),
            lost,
            begun: number(5) != 0,
        };
        if number(6) != MAGIC
            || !(1..=MOST).contains(&state.capacity)
            || state.start >= state.capacity
            || state.length > state.capacity
        {
            return Err(unknown(format!("ring: {state:?}")));
        }
        let ring = Ring { file, state: Cell::new(state) };
        ring.catch_up(number(7) == 1)?;
        Ok(ring)
    }

    /// What has come in without being counted, when the earlier server was killed. An older build kept no position.
    fn catch_up(&self, positioned: bool) -> Result<()> {
        let mut state = self.state.get();
        let at = (&self.file).stream_position().during(|| "lseek(ring)".into())?.checked_sub(DATA);
        if let Some(at) = at.filter(|at| positioned && *at <= state.capacity) {
            let more = (at % state.capacity + state.capacity - state.end()) % state.capacity;
            state.length += if more <= self.room() { more } else { 0 };
        }
        self.set(state)?;
        self.seek(state.end())
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn is_empty(&self) -> bool {
        self.state.get().length == 0
    }

    /// In bytes.
    pub fn length(&self) -> u64 {
        self.state.get().length
    }

    /// How much fits without a loss.
    pub fn room(&self) -> u64 {
        self.state.get().capacity - self.state.get().length
    }

    /// The reader waits for the rest of a line.
    pub fn is_begun(&self) -> bool {
        self.state.get().begun && self.state.get().length > 0
    }

    /// Something is lost that has not been told.
    pub fn has_lost(&self) -> bool {
        self.state.get().lost.bytes > 0
    }

    /// What is lost before the oldest line that is there whole, once.
    pub fn take_lost(&self) -> Result<Lost> {
        let state = self.state.get();
        if state.lost.bytes > 0 {
            self.set(State { lost: Lost::default(), ..state })?;
        }
        Ok(state.lost)
    }

    /// Moves what a pipe has to the end, at most so many bytes, and says how many; 0 at its end. The kernel moves them and the
    /// position of the file, which all who have this descriptor share, in one call: nothing is lost with a server that is
    /// killed before it has counted them.
    ///
    /// # Errors
    /// `EINVAL` for a source that is no pipe, `ENOSPC` if the ring is too small for that many bytes.
    pub fn take(&self, from: BorrowedFd, most: u64) -> nix::Result<usize> {
        use nix::errno::Errno;
        use nix::fcntl::{splice, SpliceFFlags};
        if self.state.get().capacity < 2 * most {
            return Err(Errno::ENOSPC);
        }
        // No more goes than has to: what is there now. Of nothing, the call says whether it is the end; for that no line goes.
        let there = conex_sys::fd::readable(from)? as u64;
        if there == 0 && self.room() == 0 {
            return Err(Errno::ENOSPC);
        }
        let most = there.clamp(1, most);
        if self.room() < most {
            self.drop_lines(most - self.room()).map_err(|_| Errno::EIO)?;
        }
        let mut state = self.state.get();
        let until_the_wrap = state.capacity - state.end();
        let most = most.min(until_the_wrap).min(self.room()) as usize;
        self.seek(state.end()).map_err(|_| Errno::EIO)?;
        let n = splice(from, None, &self.file, None, most, SpliceFFlags::SPLICE_F_NONBLOCK)?;
        state.length += n as u64;
        self.set(state).map_err(|_| Errno::EIO)?;
        Ok(n)
    }

    /// Places the file at a byte of the ring.
    fn seek(&self, at: u64) -> Result<()> {
        (&self.file).seek(SeekFrom::Start(DATA + at)).map(drop).during(|| "lseek(ring)".into())
    }

    /// Appends; the oldest lines make room.
    pub fn push(&self, bytes: &[u8]) -> Result<()> {
        let missing = (bytes.len() as u64).saturating_sub(self.room());
        if missing > 0 {
            self.drop_lines(missing.min(self.state.get().length))?;
        }
        let state = self.state.get();
        // More at a time than there is room at all: its end counts.
        let cut = bytes.len() - (bytes.len() as u64).min(self.room()) as usize;
        let mut lost = state.lost;
        lost.add(count(&bytes[..cut]), cut as u64);
        let bytes = &bytes[cut..];
        self.write(state, state.length, bytes)?;
        let state = State { length: state.length + bytes.len() as u64, lost, ..state };
        self.seek(state.end())?;
        self.set(state)
    }

    /// The oldest bytes, as many as fit; they stay.
    pub fn peek(&self, into: &mut [u8]) -> Result<usize> {
        self.look(0, into)
    }

    /// The oldest bytes, which are these, are with the reader.
    pub fn consume(&self, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.get();
        let n = (bytes.len() as u64).min(state.length);
        state.start = (state.start + n) % state.capacity;
        state.length -= n;
        state.begun = bytes.last().is_none_or(|b| *b != b'\n');
        self.set(state)
    }

    /// Bytes from the `skip`-th on.
    fn look(&self, skip: u64, into: &mut [u8]) -> Result<usize> {
        let state = self.state.get();
        let at = (state.start + skip) % state.capacity;
        let n = state.length.saturating_sub(skip).min(into.len() as u64).min(state.capacity - at)
            as usize;
        self.file.read_exact_at(&mut into[..n], DATA + at).during(|| "read(ring)".into())?;
        Ok(n)
    }

    /// Drops whole lines, at least `n` bytes of them.
    fn drop_lines(&self, n: u64) -> Result<()> {
        let rest = self.rest()?;
        let whole = self.state.get().length;
        let n = n.min(whole - rest.len() as u64);
        let from = rest.len() as u64 + n.saturating_sub(1);
        let cut = match self.line_end(from)? {
            Some(end) if n > 0 => end,
            _ => rest.len() as u64 + n,
        };
        let (mut buffer, mut at, mut lines) = (vec![0u8; 16 << 10], rest.len() as u64, 0);
        while at < cut {
            let found = (self.look(at, &mut buffer)? as u64).min(cut - at);
            lines += count(&buffer[..found as usize]);
            at += found;
        }
        let mut state = self.state.get();
        let gone = cut - rest.len() as u64;
        state.start = (state.start + gone) % state.capacity;
        state.length -= gone;
        state.lost.add(lines, gone);
        // The rest of a line that the reader has begun goes on before what is left.
        self.write(state, 0, &rest)?;
        self.set(state)
    }

    /// The rest of a line that is begun; nothing if none is, or if it is too long.
    fn rest(&self) -> Result<Vec<u8>> {
        if !self.is_begun() {
            return Ok(Vec::new());
        }
        let mut out = vec![0u8; self.line_end(0)?.unwrap_or(0) as usize];
        let mut at = 0;
        while at < out.len() {
            at += self.look(at as u64, &mut out[at..])?;
        }
        Ok(out)
    }

    /// One more than the place of the first end of a line from that byte on, if it is near.
    fn line_end(&self, from: u64) -> Result<Option<u64>> {
        let (mut buffer, mut at) = (vec![0u8; 4 << 10], from);
        while at < from + LINE {
            let found = self.look(at, &mut buffer)?;
            if let Some(end) = buffer[..found].iter().position(|b| *b == b'\n') {
                return Ok(Some(at + end as u64 + 1));
            }
            if found == 0 {
                break;
            }
            at += found as u64;
        }
        Ok(None)
    }

    /// Bytes from the `skip`-th place on.
    fn write(&self, state: State, skip: u64, bytes: &[u8]) -> Result<()> {
        let at = (state.start + skip) % state.capacity;
        let first = bytes.len().min((state.capacity - at) as usize);
        let written = self.file.write_all_at(&bytes[..first], DATA + at);
        written
            .and_then(|()| self.file.write_all_at(&bytes[first..], DATA))
            .during(|| "write(ring)".into())
    }

    fn set(&self, state: State) -> Result<()> {
        let mut head = [0u8; DATA as usize];
        let lost = state.lost;
        let numbers = [
            state.capacity,
            state.start,
            state.length,
            lost.lines,
            lost.bytes,
            u64::from(state.begun),
            MAGIC,
            1,
        ];
        for (i, n) in numbers.iter().enumerate() {
            head[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
        }
        self.file.write_all_at(&head, 0).during(|| "write(ring)".into())?;
        self.state.set(state);
        Ok(())
    }
}

fn count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ring: &Ring) -> Vec<u8> {
        let (mut out, mut buffer) = (Vec::new(), [0u8; 7]);
        loop {
            match ring.peek(&mut buffer).unwrap() {
                0 => return out,
                n => {
                    out.extend_from_slice(&buffer[..n]);
                    ring.consume(&buffer[..n]).unwrap();
                }
            }
        }
    }

    /// Numbered lines, of which some are lost and some are read: what is read are whole lines, in order, and how many are
    /// missing between two of them is what was told there.
    #[test]
    fn the_oldest_lines_go_and_are_counted() {
        let mut seed = 7u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for capacity in [150, 1000] {
            let mut ring = Ring::new(&std::env::temp_dir(), capacity).unwrap();
            let (mut number, mut next, mut line, mut lost) = (0u64, 0u64, Vec::new(), 0);
            for _ in 0..3000 {
                let mut text = Vec::new();
                for _ in 0..random(3) {
                    text.extend(
                        format!("{number} {}\n", "x".repeat(random(40) as usize)).into_bytes(),
                    );
                    number += 1;
                }
                ring.push(&text).unwrap();
                for _ in 0..random(5).saturating_sub(3) {
                    if !ring.is_begun() {
                        let told = ring.take_lost().unwrap();
                        next += told.lines;
                        lost += told.lines;
                    }
                    let mut buffer = vec![0; random(90) as usize + 1];
                    let n = ring.peek(&mut buffer).unwrap();
                    // The rest of a line first, then what is lost, then the next one.
                    let end = buffer[..n].iter().position(|b| *b == b'\n').map_or(n, |e| e + 1);
                    let n = if ring.is_begun() { end } else { n };
                    ring.consume(&buffer[..n]).unwrap();
                    for b in &buffer[..n] {
                        line.push(*b);
                        if *b == b'\n' {
                            let text = String::from_utf8(std::mem::take(&mut line)).unwrap();
                            assert!(
                                text.starts_with(&format!("{next} ")),
                                "{text:?}, expected {next}, {capacity}"
                            );
                            next += 1;
                        }
                    }
                }
                let room = ring.room();
                ring = Ring::resume(ring.file().try_clone().unwrap().into()).unwrap();
                assert_eq!(ring.room(), room);
            }
            assert!(lost > 100 && next > 1000, "{lost} {next}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let ring = Ring::new(&std::env::temp_dir(), 10).unwrap();
        ring.push(b"0123456789abc").unwrap();
        assert_eq!(ring.take_lost().unwrap(), Lost { lines: 0, bytes: 3 });
        assert!(!ring.is_empty());
        ring.push(b"de").unwrap();
        assert_eq!((ring.take_lost().unwrap().bytes, all(&ring)), (2, b"56789abcde".to_vec()));
        assert!(Ring::resume(std::fs::File::open("/proc/version").unwrap().into()).is_err());
    }

    #[test]
    fn what_came_in_uncounted_is_there_again() {
        use std::io::Write;
        use std::os::fd::AsFd;
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut write = File::from(write);
        let ring = Ring::new(Path::new("/no/such"), 300).unwrap();
        let resumed = |ring: &Ring| Ring::resume(ring.file().try_clone().unwrap().into()).unwrap();
        ring.push(&[b'a'; 250]).unwrap();
        ring.consume(&[b'a'; 240]).unwrap();
        for round in 0..40 {
            let text = format!("line {round}\n");
            write.write_all(text.as_bytes()).unwrap();
            let before = ring.state.get();
            let mut got = 0;
            while got < text.len() {
                got += ring.take(read.as_fd(), 100).unwrap();
            }
            let after = ring.state.get();
            // As if the server had been killed before it counted the last part; and as if after it.
            let again = resumed(&ring);
            assert_eq!(again.state.get(), after);
            ring.set(before).unwrap();
            let again = resumed(&ring);
            assert_eq!(again.state.get().length, after.length, "{round}");
            ring.set(after).unwrap();
            let mut head = vec![0u8; 300];
            while ring.length() > 20 {
                let n = ring.peek(&mut head[..20]).unwrap();
                ring.consume(&head[..n]).unwrap();
            }
        }
    }
}
