//! Standard error, written to without waiting for it: a line that it does not take is kept for a
//! while, then counted, and the count is told when lines are taken again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::write;

/// Bytes that wait for standard error to take more.
const BACKLOG_BYTES: usize = 256 * 1024;
/// Bytes of one write: a pipe that has room at all takes as much without waiting (pipe(7)).
const PIECE_BYTES: usize = 4096;
/// The pause before standard error is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Standard error, and what it has not taken yet.
#[derive(Debug)]
pub struct LogOutlet {
    writer: StderrWriter,
    /// The line that tells of so many that were lost.
    told: fn(u64) -> String,
    backlog: VecDeque<u8>,
    /// Lines that were not written and that were not told yet.
    lost: u64,
    /// Whether the last line that was begun has no end.
    is_in_line: bool,
    retry_at: Option<Instant>,
}

/// A way to write without waiting. The flag `O_NONBLOCK` of standard error itself is left alone: it is
/// shared with the process that started the daemon.
#[derive(Debug)]
enum StderrWriter {
    /// A socket, which can be told so with each call.
    PassedSocket,
    /// A pipe or a terminal, opened once more, with a flag of its own.
    Reopened(OwnedFd),
    /// Anything else: poll(2) says first whether it has room, which a file always has.
    Asked,
}

impl LogOutlet {
    /// Standard error as it is now. `told` makes the line that tells of so many that were lost.
    pub fn stderr(told: fn(u64) -> String) -> Self {
        Self::new(StderrWriter::of(io::stderr().as_fd()), told)
    }

    fn new(writer: StderrWriter, told: fn(u64) -> String) -> Self {
        Self { writer, told, backlog: VecDeque::new(), lost: 0, is_in_line: false, retry_at: None }
    }

    /// Writes a line, or keeps it for later, or counts it.
    pub fn write(&mut self, line: &str, now: Instant) {
        // Lines stay in order: none overtakes the report of those that were lost.
        if self.lost > 0 && self.backlog.is_empty() {
            self.flush(now);
        }
        if self.lost > 0 || self.backlog.len() + line.len() >= BACKLOG_BYTES {
            self.lost += 1;
            self.retry_at.get_or_insert(now + RETRY);
            return;
        }
        self.keep(line);
        self.flush(now);
    }

    /// The time of the next try.
    pub fn next(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Writes what waits, as far as standard error takes it, and tells of lines that were lost.
    pub fn flush(&mut self, now: Instant) {
        self.retry_at = None;
        match self.write_backlog().and_then(|()| self.tell_lost()) {
            Ok(()) => {}
            Err(Errno::EAGAIN) => self.retry_at = Some(now + RETRY),
            // A disk that is full, a reader that has gone: what waits is lost.
            Err(_) => {
                let lines = self.backlog.iter().filter(|byte| **byte == b'\n').count();
                self.lost = self.lost.saturating_add(lines as u64);
                self.backlog.clear();
                self.retry_at = Some(now + RETRY);
            }
        }
    }

    fn tell_lost(&mut self) -> Result<(), Errno> {
        if self.lost == 0 {
            return Ok(());
        }
        let told = std::mem::take(&mut self.lost);
        // A line may have been lost after its beginning was written.
        if std::mem::take(&mut self.is_in_line) {
            self.backlog.push_back(b'\n');
        }
        self.keep(&(self.told)(told));
        let written = self.write_backlog();
        if written.is_err_and(|error| error != Errno::EAGAIN) {
            self.backlog.clear();
            self.lost = told;
        }
        written
    }

    fn keep(&mut self, line: &str) {
        self.backlog.extend(line.as_bytes());
        self.backlog.push_back(b'\n');
    }

    fn write_backlog(&mut self) -> Result<(), Errno> {
        while !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            let piece = &first[..first.len().min(PIECE_BYTES)];
            match self.writer.write(piece) {
                Ok(count) => {
                    self.is_in_line = count > 0 && piece[count - 1] != b'\n';
                    self.backlog.drain(..count);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl StderrWriter {
    fn of(stderr: BorrowedFd<'_>) -> Self {
        let kind = stderr.try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
        let Ok(kind) = kind.map(|metadata| metadata.file_type()) else { return Self::Asked };
        if kind.is_socket() {
            return Self::PassedSocket;
        }
        // Not a file, which would begin at its start again.
        if kind.is_fifo() || stderr.is_terminal() {
            let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let mut options = File::options();
            options.write(true).custom_flags(flags.bits());
            let opened = options.open(format!("/proc/self/fd/{}", stderr.as_raw_fd()));
            // It may be another user's, or have no reader.
            return opened.map_or(Self::Asked, |opened| Self::Reopened(opened.into()));
        }
        Self::Asked
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let stderr = io::stderr();
        match self {
            Self::PassedSocket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(stderr.as_fd().as_raw_fd(), bytes, flags)
            }
            Self::Reopened(fd) => write(fd, bytes),
            Self::Asked => {
                let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut asked, PollTimeout::ZERO)? {
                    0 => Err(Errno::EAGAIN),
                    _ => write(stderr.as_fd(), bytes),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{pipe2, read};

    use super::*;

    fn outlet(writer: StderrWriter) -> LogOutlet {
        LogOutlet::new(writer, |lines| format!("lines of the log were lost lines={lines}"))
    }

    fn drain(reader: &OwnedFd) -> String {
        let (mut all, mut chunk) = (Vec::new(), [0; 65536]);
        while let Ok(count @ 1..) = read(reader, &mut chunk) {
            all.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn lines_that_a_pipe_does_not_take_come_later_and_the_rest_is_counted() {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let (mut outlet, now) = (outlet(StderrWriter::of(writer.as_fd())), Instant::now());
        assert!(matches!(outlet.writer, StderrWriter::Reopened(_)));
        let count = 20_000;
        for number in 0..count {
            outlet.write(&format!("line {number} {}", "x".repeat(100)), now);
            assert!(outlet.backlog.len() < BACKLOG_BYTES);
        }
        assert_eq!(outlet.next(), Some(now + RETRY));
        let mut text = String::new();
        while outlet.next().is_some() {
            text += &drain(&reader);
            outlet.flush(now);
        }
        text += &drain(&reader);
        let numbers: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("line ")).collect();
        for (number, line) in numbers.iter().enumerate() {
            assert!(line.starts_with(&format!("{number} ")), "{line}");
        }
        let lost = format!("lines of the log were lost lines={}", count - numbers.len());
        assert!(numbers.len() > 1000 && text.trim_end().ends_with(&lost), "{lost}");
        outlet.write("after it", now);
        assert_eq!(drain(&reader), "after it\n");
    }

    #[test]
    fn a_pipe_without_a_reader_is_tried_again_and_ends_nothing() {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let (mut outlet, now) = (outlet(StderrWriter::Reopened(writer)), Instant::now());
        outlet.write("one", now);
        drop(reader);
        for _ in 0..100 {
            outlet.write("two", now);
        }
        assert_eq!((outlet.lost, outlet.backlog.len()), (100, 0));
        assert_eq!(outlet.next(), Some(now + RETRY));
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_how_many() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (mut outlet, now) = (outlet(StderrWriter::Reopened(full.into())), Instant::now());
        for _ in 0..100 {
            outlet.write("lost", now);
        }
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        outlet.writer = StderrWriter::Reopened(writer);
        outlet.write("there is room", now);
        let text = drain(&reader);
        assert!(text.contains("lines of the log were lost lines=100\n"), "{text}");
        assert!(text.ends_with("there is room\n"), "{text}");
    }
}
