//! The payloads to send: an argument, a file, or standard input, whole or in parts; and the headers.
//!
//! Standard input is read only if nothing else is given: in a `while read` loop, it is the loop's.

use std::fs::{File, Metadata};
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ipcd_client::{Client, Error, Headers};
use ipcd_transport::poll_until;
use nix::errno::Errno;
use nix::poll::PollFlags;

use crate::args::BodyArgs;
use crate::exit::{Failure, FailureKind, Outcome};

/// Bytes that are read from standard input at once.
const READ_BYTES: usize = 64 * 1024;

/// The messages to send, one after the other.
pub(crate) enum MessageBody {
    /// A given message, or none once it has been sent.
    One(Option<Vec<u8>>),
    /// A file or standard input, as one message.
    Whole(PayloadSource),
    /// Standard input, divided into messages.
    Parts(InputSplitter),
}

impl MessageBody {
    pub(crate) fn of(args: &BodyArgs) -> Outcome<Self> {
        if let Some(text) = args.body.as_ref().or(args.message.as_ref()) {
            return Ok(Self::One(Some(text.as_bytes().to_vec())));
        }
        let file = args.file.as_deref();
        if args.stdin || file.is_some_and(is_stdin) {
            return Ok(Self::Whole(PayloadSource::stdin()));
        }
        if let Some(file) = file {
            return Ok(Self::Whole(PayloadSource::open(file)?));
        }
        if args.empty {
            return Ok(Self::One(Some(Vec::new())));
        }
        if args.lines {
            return Ok(Self::Parts(InputSplitter::ended_by(b'\n')));
        }
        if args.nul {
            return Ok(Self::Parts(InputSplitter::ended_by(0)));
        }
        if std::io::stdin().is_terminal() {
            let advice = "no message: give one, or -n to send an empty one, or -l to type lines";
            return Err(Failure::new(FailureKind::Usage, advice));
        }
        Ok(Self::Whole(PayloadSource::stdin()))
    }

    /// The next message. While it waits for standard input, it keeps the connection going.
    pub(crate) fn next(&mut self, client: &mut Client) -> Outcome<Option<Vec<u8>>> {
        match self {
            Self::One(payload) => Ok(payload.take()),
            Self::Whole(source) => {
                let payload = source.read(client)?;
                *self = Self::One(None);
                Ok(Some(payload))
            }
            Self::Parts(parts) => parts.next(client),
        }
    }

    /// Whether the next message, or the end of input, is not there yet.
    pub(crate) fn waits(&self) -> Outcome<bool> {
        match self {
            Self::Parts(parts) if !parts.has_part() && !parts.is_over => {
                Ok(!poll_until(&std::io::stdin(), PollFlags::POLLIN, Instant::now())?)
            }
            _ => Ok(false),
        }
    }
}

/// An open file, or standard input. It is opened before connecting, so that a wrong name fails early,
/// and read after that, when the daemon's limit is known.
pub(crate) struct PayloadSource {
    /// `None` for standard input.
    file: Option<File>,
    name: PathBuf,
    bytes: Vec<u8>,
}

impl PayloadSource {
    pub(crate) fn open(file: &Path) -> Outcome<Self> {
        if is_stdin(file) {
            return Ok(Self::stdin());
        }
        let opened = File::open(file).map_err(|error| unreadable(file, &error))?;
        Ok(Self { file: Some(opened), name: file.to_owned(), bytes: Vec::new() })
    }

    fn stdin() -> Self {
        Self { file: None, name: "standard input".into(), bytes: Vec::new() }
    }

    /// Reads all of it. After a lost connection, another call goes on reading.
    pub(crate) fn read(&mut self, client: &mut Client) -> Outcome<Vec<u8>> {
        let stdin = std::io::stdin();
        let about = self.file.as_ref().and_then(|file| file.metadata().ok());
        // Only a regular file tells its length before its end.
        let length = about.filter(Metadata::is_file).map_or(0, |about| about.len());
        check_length(client, usize::try_from(length).unwrap_or(usize::MAX))?;
        loop {
            let input = self.file.as_ref().map_or(stdin.as_fd(), AsFd::as_fd);
            client.wait_for(input, None)?;
            let is_more = read_some(input, &mut self.bytes);
            if !is_more.map_err(|error| unreadable(&self.name, &error))? {
                return Ok(std::mem::take(&mut self.bytes));
            }
            check_length(client, self.bytes.len())?;
        }
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(FailureKind::Usage, format!("read {}: {error}", file.display()))
}

/// Divides standard input at an end byte. Each part can be taken as soon as its end has come; the last
/// one needs none.
pub(crate) struct InputSplitter {
    end: u8,
    pending: Vec<u8>,
    /// The beginning of the next part.
    start: usize,
    /// The position before which there is no end byte.
    searched: usize,
    is_over: bool,
}

impl InputSplitter {
    pub(crate) fn ended_by(end: u8) -> Self {
        Self { end, pending: Vec::new(), start: 0, searched: 0, is_over: false }
    }

    fn next(&mut self, client: &mut Client) -> Outcome<Option<Vec<u8>>> {
        loop {
            if let Some(part) = self.take() {
                return Ok(Some(part));
            }
            if self.is_over {
                return Ok(self.take_rest());
            }
            // Without a limit, input without an end byte would fill the memory.
            check_length(client, self.unfinished())?;
            client.wait_for(std::io::stdin().as_fd(), None)?;
            self.read()?;
        }
    }

    /// Reads once. Notes the end of standard input.
    pub(crate) fn read(&mut self) -> Outcome {
        self.is_over = !read_some(std::io::stdin().as_fd(), &mut self.pending)?;
        Ok(())
    }

    fn has_part(&self) -> bool {
        self.pending[self.searched..].contains(&self.end)
    }

    /// Whether standard input has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Bytes of the part whose end has not come.
    pub(crate) fn unfinished(&self) -> usize {
        self.pending.len() - self.start
    }

    /// The next complete part.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        let end = self.pending[self.searched..].iter().position(|&byte| byte == self.end);
        let Some(length) = end else {
            // Moved only here, when no complete part is left: once a read, not once a part.
            self.pending.drain(..self.start);
            self.start = 0;
            self.searched = self.pending.len();
            return None;
        };
        let end = self.searched + length;
        let part = self.pending[self.start..end].to_vec();
        self.start = end + 1;
        self.searched = self.start;
        Some(part)
    }

    /// The last part, when standard input has ended without an end byte.
    pub(crate) fn take_rest(&mut self) -> Option<Vec<u8>> {
        let rest = self.pending.split_off(self.start);
        *self = Self { is_over: self.is_over, ..Self::ended_by(self.end) };
        Some(rest).filter(|rest| !rest.is_empty())
    }
}

/// Whether the name stands for standard input, as with cat(1). A file of that name is `./-`.
fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// A header block of KEY:VALUE arguments.
pub(crate) fn header_block(headers: &[String]) -> Outcome<Vec<u8>> {
    let mut block = Vec::new();
    for header in headers {
        let Some((key, value)) = header.split_once(':') else {
            return Err(Failure::new(
                FailureKind::Usage,
                format!("-H {header}: a header has the form KEY:VALUE"),
            ));
        };
        Headers::append(&mut block, key.trim(), value.trim_start().as_bytes())
            .map_err(|error| Failure::from(Error::from(error)).during(format_args!("-H {key}")))?;
    }
    Ok(block)
}

/// Refuses a payload as soon as it is larger than the daemon accepts, before the rest is read.
pub(crate) fn check_length(client: &Client, bytes: usize) -> Outcome {
    let limit = client.max_payload();
    if bytes > limit { Err(Error::TooLarge { bytes, limit }.into()) } else { Ok(()) }
}

/// Reads once, without waiting for more. Returns false at the end of input.
fn read_some(from: BorrowedFd<'_>, into: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut chunk = [0; READ_BYTES];
    // Not std's handle: its buffer would copy everything twice, and would hide from poll(2) what it
    // has read ahead.
    let count = match nix::unistd::read(from, &mut chunk) {
        // Standard input may be shared with other processes (fork(2)). One of them may have set
        // O_NONBLOCK, or have taken the bytes that poll(2) announced. That is not the end of input.
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
        count => count?,
    };
    into.extend_from_slice(&chunk[..count]);
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts_of(chunks: &[&str]) -> Vec<String> {
        let mut parts = InputSplitter::ended_by(b'\n');
        let mut found = Vec::new();
        for chunk in chunks {
            parts.pending.extend_from_slice(chunk.as_bytes());
            found.extend(std::iter::from_fn(|| parts.take()));
        }
        found.extend(parts.take_rest());
        found.into_iter().map(|part| String::from_utf8(part).unwrap()).collect()
    }

    #[test]
    fn lines_do_not_depend_on_the_division_of_reads() {
        let text = "one\n\ntwo\nthe rest";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(parts_of(&[head, tail]), ["one", "", "two", "the rest"], "cut at {cut}");
        }
        assert_eq!(parts_of(&["\n"]), [""]);
        assert!(parts_of(&[]).is_empty());
    }

    #[test]
    fn a_header_is_a_key_and_a_value() {
        let block = header_block(&["a: b:c".into(), "d:".into()]).unwrap();
        let entries: Vec<_> = Headers::parse(&block).unwrap().iter().collect();
        assert_eq!(entries, [("a", &b"b:c"[..]), ("d", b"")]);
        assert!(header_block(&["no colon".into()]).is_err());
        assert!(header_block(&[":no key".into()]).is_err());
    }
}
