//! Reads the standard error of a program or a worker, line by line and within bounds: a chatty
//! one fills neither the log nor the supervisor's time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::Epoll;
use nix::unistd::read;
use tracing::warn;

use crate::supervisor::event_source::{EventSource, watch};

/// The bounds of one pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadBounds {
    /// Bytes of a line that are shown.
    pub(crate) line_bytes: usize,
    /// Lines that are shown in a window of time.
    pub(crate) lines: u32,
    /// Bytes that are read in a window of time. Then the pipe is left alone until the window ends.
    pub(crate) bytes: usize,
}

/// The length of a window.
const WINDOW: Duration = Duration::from_secs(1);
/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// The reading end of a pipe, non-blocking.
#[derive(Debug)]
pub(crate) struct LineReader {
    pipe: OwnedFd,
    bounds: ReadBounds,
    line: Vec<u8>,
    /// Whether the rest of the line is not shown.
    is_cut: bool,
    window: Instant,
    lines: u32,
    bytes: usize,
    /// Lines that were not shown.
    dropped: u64,
    /// Whether it has ended.
    is_over: bool,
    /// Whether epoll watches it.
    is_armed: bool,
}

/// Something to be logged.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum StderrPiece {
    /// A line, or the beginning of a long one.
    Line(String),
    /// So many lines were not shown.
    Dropped(u64),
}

impl LineReader {
    pub(crate) fn new(pipe: OwnedFd, bounds: ReadBounds) -> Self {
        Self {
            pipe,
            bounds,
            line: Vec::new(),
            is_cut: false,
            window: Instant::now(),
            lines: 0,
            bytes: 0,
            dropped: 0,
            is_over: false,
            is_armed: false,
        }
    }

    /// Reads what is there, as much as is allowed now.
    pub(crate) fn read(&mut self, now: Instant) -> Vec<StderrPiece> {
        let mut heard = self.begin_window(now);
        let mut chunk = [0; CHUNK];
        while self.wants_read() {
            match read(&self.pipe, &mut chunk) {
                Ok(0) => self.is_over = true,
                Ok(count) => self.take(&chunk[..count], &mut heard),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.is_over = true,
            }
        }
        heard
    }

    /// Takes the rest: nothing more will be read.
    pub(crate) fn finish(mut self) -> Vec<StderrPiece> {
        // As in a new window, so that the limits do not cut off the last lines.
        let mut heard = self.read(self.window + WINDOW);
        if !self.line.is_empty() {
            self.end_line(&mut heard);
        }
        heard.extend((self.dropped > 0).then_some(StderrPiece::Dropped(self.dropped)));
        heard
    }

    /// Whether it is to be waited for: not after too much in this window.
    pub(crate) fn wants_read(&self) -> bool {
        !self.is_over && self.bytes < self.bounds.bytes
    }

    /// Has epoll watch it while it is to be read, and not otherwise.
    pub(crate) fn arm(&mut self, epoll: &Epoll, source: EventSource) {
        let is_wanted = self.wants_read();
        if is_wanted == self.is_armed {
            return;
        }
        let armed = match is_wanted {
            true => watch(epoll, self, source).map_err(|error| error.to_string()),
            false => epoll.delete(&*self).map_err(|error| error.to_string()),
        };
        self.is_armed = is_wanted;
        if let Err(error) = armed {
            warn!(error, "cannot watch the standard error of a child");
        }
    }

    /// Has epoll forget it. Closing is not enough: a child that was just forked may still have a copy.
    pub(crate) fn disarm(&mut self, epoll: &Epoll) {
        if std::mem::take(&mut self.is_armed) {
            let _ = epoll.delete(&*self);
        }
    }

    /// The time to look at it, though it may be silent.
    pub(crate) fn next(&self) -> Option<Instant> {
        let waits = self.dropped > 0 || (!self.is_over && !self.wants_read());
        waits.then_some(self.window + WINDOW)
    }

    /// Begins a new window if it is time.
    fn begin_window(&mut self, now: Instant) -> Vec<StderrPiece> {
        if now < self.window + WINDOW {
            return Vec::new();
        }
        (self.window, self.lines, self.bytes) = (now, 0, 0);
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then_some(StderrPiece::Dropped(dropped)).into_iter().collect()
    }

    fn take(&mut self, bytes: &[u8], heard: &mut Vec<StderrPiece>) {
        self.bytes += bytes.len();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = self.bounds.line_bytes - self.line.len();
            self.is_cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line(heard);
            }
        }
    }

    fn end_line(&mut self, heard: &mut Vec<StderrPiece>) {
        let line = std::mem::take(&mut self.line);
        let is_cut = std::mem::take(&mut self.is_cut);
        if self.lines == self.bounds.lines {
            self.dropped += 1;
            return;
        }
        self.lines += 1;
        let mut text = String::from_utf8_lossy(&line).into_owned();
        if is_cut {
            text.push('…');
        }
        heard.push(StderrPiece::Line(text));
    }
}

impl AsFd for LineReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;
    use nix::unistd::{pipe2, write};

    use super::*;

    const LINE_BYTES: usize = 1024;
    const LINES: u32 = 100;
    const BYTES: usize = 256 * 1024;

    fn pipe() -> (LineReader, OwnedFd) {
        let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let bounds = ReadBounds { line_bytes: LINE_BYTES, lines: LINES, bytes: BYTES };
        (LineReader::new(read, bounds), write)
    }

    fn line(text: &str) -> StderrPiece {
        StderrPiece::Line(text.into())
    }

    #[test]
    fn lines_are_whole_and_long_ones_are_cut() {
        let (mut stderr, writer) = pipe();
        let now = stderr.window;
        write(&writer, b"one\ntw").unwrap();
        assert_eq!(stderr.read(now), [line("one")]);
        write(&writer, b"o\n\n").unwrap();
        assert_eq!(stderr.read(now), [line("two"), line("")]);
        write(&writer, &[b'x'; 2 * LINE_BYTES]).unwrap();
        assert_eq!(stderr.read(now), []);
        write(&writer, b"x\nlast").unwrap();
        let cut = format!("{}…", "x".repeat(LINE_BYTES));
        assert_eq!(stderr.read(now), [line(&cut)]);
        drop(writer);
        assert_eq!(stderr.read(now), []);
        assert!(stderr.is_over && !stderr.wants_read());
        assert_eq!(stderr.finish(), [line("last")]);
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let (mut stderr, writer) = pipe();
        let now = stderr.window;
        write(&writer, "a\n".repeat(130).as_bytes()).unwrap();
        assert_eq!(stderr.read(now).len(), LINES as usize);
        assert_eq!(stderr.next(), Some(now + WINDOW));
        assert_eq!(stderr.read(now + WINDOW), [StderrPiece::Dropped(30)]);
        assert_eq!(stderr.next(), None);
        write(&writer, b"b\n").unwrap();
        assert_eq!(stderr.read(now + WINDOW), [line("b")]);
    }

    #[test]
    fn a_flood_is_left_in_its_pipe_for_a_while() {
        let (mut stderr, writer) = pipe();
        let now = stderr.window;
        let mut reads = 0;
        while stderr.wants_read() {
            while write(&writer, &[b'\n'; 4096]).is_ok() {}
            stderr.read(now);
            reads += 1;
        }
        assert!(reads > 1 && stderr.bytes < BYTES + CHUNK);
        assert_eq!(stderr.next(), Some(now + WINDOW));
        // Whether or not the flood had ended with the window.
        while write(&writer, b"\n").is_ok() {}
        assert!(matches!(
            stderr.read(now + WINDOW)[..],
            [StderrPiece::Dropped(_), StderrPiece::Line(_), ..]
        ));
    }
}
