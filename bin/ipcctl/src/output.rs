//! Output: payloads and results on standard output, remarks on standard error.

use std::io::{self, ErrorKind, IsTerminal, Stdout, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_transport::{poll_some, poll_until};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{SFlag, fstat};

use crate::exit::{Failure, FailureKind, Outcome};

/// Bytes that are gathered for one write.
const BATCH: usize = 64 * 1024;
/// Bytes that a pipe takes at once when poll(2) says that it is writable (`PIPE_BUF`, pipe(7)). A
/// larger write to a blocking pipe may wait.
const PIPE_BYTES: usize = 4096;

/// Prints a line on standard error. It is one write, so that no other process's output splits it.
pub(crate) fn say(line: &str) {
    // There is no place to report this error. The exit status still tells of the failure.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Standard output, with a buffer. If the reader has gone, the process ends as by SIGPIPE.
pub(crate) struct StdoutBuffer {
    stdout: Stdout,
    buffer: Vec<u8>,
    is_terminal: bool,
    /// Whether it is a regular file, which poll(2) always reports as writable.
    is_file: bool,
}

impl StdoutBuffer {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let kind = fstat(&stdout).map_or(0, |about| about.st_mode & SFlag::S_IFMT.bits());
        let (is_terminal, is_file) = (stdout.is_terminal(), kind == SFlag::S_IFREG.bits());
        Self { stdout, buffer: Vec::new(), is_terminal, is_file }
    }

    /// Adds a peer's bytes: unchanged, but with control characters escaped for a terminal.
    pub(crate) fn add_foreign(&mut self, bytes: &[u8]) {
        if self.is_terminal {
            let text = String::from_utf8_lossy(bytes);
            let shown: String = text.split_inclusive('\n').map(line_visible).collect();
            return self.add_own(shown.as_bytes());
        }
        self.add_own(bytes);
    }

    /// Adds bytes of our own.
    pub(crate) fn add_own(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether enough has been added for a write.
    pub(crate) fn has_batch(&self) -> bool {
        self.buffer.len() >= BATCH
    }

    /// Writes the buffer, and waits until all of it is written.
    pub(crate) fn flush(&mut self) -> Outcome {
        while !self.write_some()? {
            poll_some(&mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLOUT)], None)?;
        }
        Ok(())
    }

    /// Writes as much as standard output takes without waiting. Returns whether the buffer is empty.
    pub(crate) fn write_some(&mut self) -> Outcome<bool> {
        let mut written = 0;
        let outcome = loop {
            let left = &self.buffer[written..];
            if left.is_empty() || !self.is_ready()? {
                break Ok(left.is_empty());
            }
            let most = if self.is_file { left.len() } else { left.len().min(PIPE_BYTES) };
            match nix::unistd::write(&self.stdout, &left[..most]).map_err(io::Error::from) {
                Ok(count) => written += count,
                // We never set O_NONBLOCK, for the flag belongs to the open file description
                // (open(2)), which a shell and other processes share. One of them may have.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => ipcd_sys::die_of_sigpipe(),
                Err(error) => {
                    let why = format!("write to standard output: {error}");
                    break Err(Failure::new(FailureKind::Internal, why));
                }
            }
        };
        self.buffer.drain(..written);
        outcome
    }

    /// The descriptor of standard output, to wait for.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    fn is_ready(&self) -> Outcome<bool> {
        Ok(self.is_file || poll_until(&self.stdout, PollFlags::POLLOUT, Instant::now())?)
    }
}

/// Writes all bytes to standard output.
pub(crate) fn write_all(bytes: &[u8]) -> Outcome {
    let mut output = StdoutBuffer::new();
    output.add_own(bytes);
    output.flush()
}

/// Characters that are invisible, or change the look of others: Unicode's category Cf, and the line and
/// paragraph separators (Zl, Zp). With them one name can look like another.
const FORMATS: [RangeInclusive<char>; 20] = [
    '\u{ad}'..='\u{ad}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{180e}'..='\u{180e}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
    '\u{fff9}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0001}'..='\u{e0001}',
    '\u{e0020}'..='\u{e007f}',
];

/// Whether a terminal obeys the character, or it is invisible, or it changes the look of others.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control() || (c >= '\u{ad}' && FORMATS.iter().any(|range| range.contains(&c)))
}

/// The text with hidden characters escaped.
pub(crate) fn visible(text: &str) -> String {
    let escape = |c: char| {
        let escaped = is_hidden(c).then(|| c.escape_default());
        let plain = (!is_hidden(c)).then_some(c);
        escaped.into_iter().flatten().chain(plain)
    };
    text.chars().flat_map(escape).collect()
}

fn line_visible(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(line) => visible(line).replace("\\t", "\t") + "\n",
        None => visible(line).replace("\\t", "\t"),
    }
}

/// A table with aligned columns; numbers are on the right. Hidden characters are escaped.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &Vec<String>| row.iter().map(|cell| visible(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let is_number = |cell: &str| cell.bytes().next().is_some_and(|b| b.is_ascii_digit());
    let right: Vec<bool> = (0..head.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| is_number(&row[column])))
        .collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let width = widths[column];
            let cell = match right[column] {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
            line += &cell;
        }
        line.trim_end().to_owned() + "\n"
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(head.to_vec())).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_control_characters() {
        assert_eq!(visible("a\x1b[2Jb\r"), "a\\u{1b}[2Jb\\r");
        assert_eq!(visible("it's \"ä\""), "it's \"ä\"");
        assert_eq!(line_visible("a\tb\n"), "a\tb\n");
        assert_eq!(visible("a\u{202e}b\u{200b}\u{e0041}"), "a\\u{202e}b\\u{200b}\\u{e0041}");
    }

    #[test]
    fn aligns_columns() {
        let rows = [vec!["a".into(), "1".into()], vec!["bbb".into(), "22".into()]];
        assert_eq!(table(&["X", "N"], &rows), "X     N\na     1\nbbb  22\n");
    }
}
