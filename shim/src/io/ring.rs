//! Output that its reader does not take at the moment: a bounded file without a name, of which the oldest lines go first.
//!
//! Its first bytes say what is in it, so that the descriptor alone is enough for a server that takes over.

use crate::status::{unknown, Call, Result};
use std::cell::Cell;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Where the bytes begin; before them five numbers, little endian: capacity, start, length, lost lines, lost bytes.
const DATA: u64 = 64;

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
}

/// What had to go since the last time it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lost {
    pub lines: u64,
    pub bytes: u64,
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
        let file = match open.open(dir) {
            Ok(file) => file,
            Err(_) => File::from(conex_sys::fd::memfd_data("output").call(|| "memfd_create".into())?),
        };
        let ring = Ring { file, state: Cell::new(State { capacity: capacity.max(1), ..State::default() }) };
        ring.set(ring.state.get())?;
        Ok(ring)
    }

    /// The one that an earlier server has filled.
    ///
    /// # Errors
    /// The file is not one of those.
    pub fn resume(fd: OwnedFd) -> Result<Ring> {
        let file = File::from(fd);
        let mut head = [0u8; DATA as usize];
        file.read_exact_at(&mut head, 0).call(|| "read(ring)".into())?;
        let number = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[i * 8..i * 8 + 8]);
            u64::from_le_bytes(word)
        };
        let lost = Lost { lines: number(3), bytes: number(4) };
        let state = State { capacity: number(0), start: number(1), length: number(2), lost };
        if state.capacity == 0 || state.start >= state.capacity || state.length > state.capacity {
            return Err(unknown(format!("ring: {state:?}")));
        }
        Ok(Ring { file, state: Cell::new(state) })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn is_empty(&self) -> bool {
        self.state.get().length == 0
    }

    /// How much fits without a loss.
    pub fn room(&self) -> u64 {
        self.state.get().capacity - self.state.get().length
    }

    /// What is lost before the oldest byte that is there, once.
    pub fn take_lost(&self) -> Result<Lost> {
        let state = self.state.get();
        if state.lost.bytes > 0 {
            self.set(State { lost: Lost::default(), ..state })?;
        }
        Ok(state.lost)
    }

    /// Appends; the oldest lines make room.
    pub fn push(&self, bytes: &[u8]) -> Result<()> {
        let missing = (bytes.len() as u64).saturating_sub(self.room());
        if missing > 0 {
            self.drop_lines(missing.min(self.state.get().length))?;
        }
        let state = self.state.get();
        // More at a time than there is room at all: its end counts.
        let cut = bytes.len() - (bytes.len() as u64).min(state.capacity) as usize;
        let mut lost = state.lost;
        lost.lines += count(&bytes[..cut]);
        lost.bytes += cut as u64;
        let bytes = &bytes[cut..];
        let at = (state.start + state.length) % state.capacity;
        let first = bytes.len().min((state.capacity - at) as usize);
        let written = self.file.write_all_at(&bytes[..first], DATA + at);
        written.and_then(|()| self.file.write_all_at(&bytes[first..], DATA)).call(|| "write(ring)".into())?;
        self.set(State { length: state.length + bytes.len() as u64, lost, ..state })
    }

    /// The oldest bytes, as many as fit; they stay.
    pub fn peek(&self, into: &mut [u8]) -> Result<usize> {
        self.look(0, into)
    }

    /// The oldest `n` bytes are with the reader.
    pub fn consume(&self, n: usize) -> Result<()> {
        self.advance(n as u64, None)
    }

    /// Bytes from the `skip`-th on.
    fn look(&self, skip: u64, into: &mut [u8]) -> Result<usize> {
        let state = self.state.get();
        let at = (state.start + skip) % state.capacity;
        let n = state.length.saturating_sub(skip).min(into.len() as u64).min(state.capacity - at) as usize;
        self.file.read_exact_at(&mut into[..n], DATA + at).call(|| "read(ring)".into())?;
        Ok(n)
    }

    /// Drops whole lines, at least `n` bytes of them.
    fn drop_lines(&self, n: u64) -> Result<()> {
        let (mut buffer, mut seen, mut lines) = (vec![0u8; 16 << 10], 0, 0);
        let whole = self.state.get().length;
        while seen < whole && seen < n + LINE {
            let found = self.look(seen, &mut buffer)?;
            let bytes = &buffer[..found];
            // The first end of a line that makes room enough.
            let from = (n.saturating_sub(1)).saturating_sub(seen).min(found as u64) as usize;
            if let Some(end) = bytes[from..].iter().position(|b| *b == b'\n') {
                return self.advance(seen + (from + end + 1) as u64, Some(lines + count(&bytes[..=from + end])));
            }
            if seen < n {
                lines += count(&bytes[..(n - seen).min(found as u64) as usize]);
            }
            seen += found as u64;
        }
        self.advance(n, Some(lines))
    }

    /// The oldest `n` bytes go; with `lost` they are lost, so many lines of them.
    fn advance(&self, n: u64, lost: Option<u64>) -> Result<()> {
        let mut state = self.state.get();
        let n = n.min(state.length);
        state.start = (state.start + n) % state.capacity;
        state.length -= n;
        if let Some(lines) = lost {
            state.lost.lines += lines;
            state.lost.bytes += n;
        }
        self.set(state)
    }

    fn set(&self, state: State) -> Result<()> {
        let mut head = [0u8; DATA as usize];
        let numbers = [state.capacity, state.start, state.length, state.lost.lines, state.lost.bytes];
        for (i, n) in numbers.iter().enumerate() {
            head[i * 8..i * 8 + 8].copy_from_slice(&n.to_le_bytes());
        }
        self.file.write_all_at(&head, 0).call(|| "write(ring)".into())?;
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
                    ring.consume(n).unwrap();
                }
            }
        }
    }

    /// Against a plain list of lines: every byte is either there, in order, or counted.
    #[test]
    fn the_oldest_lines_go_and_are_counted() {
        let (mut seed, mut number) = (7u64, 0);
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for capacity in [100, 1000, 5000] {
            let ring = Ring::new(&std::env::temp_dir(), capacity).unwrap();
            let (mut model, mut out): (Vec<u8>, Vec<u8>) = Default::default();
            for _ in 0..3000 {
                let mut text = Vec::new();
                for _ in 0..random(4) {
                    number += 1;
                    text.extend(format!("line {number} {}\n", "x".repeat(random(40) as usize)).into_bytes());
                }
                ring.push(&text).unwrap();
                model.extend(&text);
                let lost = ring.take_lost().unwrap();
                assert_eq!(count(&model[..lost.bytes as usize]), lost.lines);
                if text.len() as u64 <= capacity && lost.bytes > 0 {
                    assert_eq!(model[lost.bytes as usize - 1], b'\n', "a line was cut");
                }
                model.drain(..lost.bytes as usize);
                if random(3) == 0 {
                    let mut buffer = vec![0; random(capacity * 2) as usize + 1];
                    let n = ring.peek(&mut buffer).unwrap();
                    ring.consume(n).unwrap();
                    assert_eq!(buffer[..n], model[..n]);
                    out.extend(model.drain(..n));
                }
                assert_eq!(model.len() as u64 + ring.room(), capacity);
            }
            let again = Ring::resume(ring.file().try_clone().unwrap().into()).unwrap();
            assert_eq!(all(&again), model);
            assert!(again.is_empty() && !out.is_empty());
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let ring = Ring::new(&std::env::temp_dir(), 10).unwrap();
        ring.push(b"0123456789abc").unwrap();
        assert_eq!(ring.take_lost().unwrap(), Lost { lines: 0, bytes: 3 });
        ring.push(b"de").unwrap();
        assert_eq!((ring.take_lost().unwrap().bytes, all(&ring)), (2, b"56789abcde".to_vec()));
        assert!(Ring::resume(std::fs::File::open("/proc/version").unwrap().into()).is_err());
    }
}
