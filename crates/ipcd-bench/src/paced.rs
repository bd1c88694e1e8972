//! A channel that sets its own pace, as those over UDP do, for a caller that waits.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_proto::limits;
use ipcd_transport::{Channel, ReadBuffer, ReadOutcome, WriteOutcome};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that are read at once, if they are there.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of the largest frame.
const LARGEST_FRAME: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);

pub(crate) struct PacedChannel {
    channel: Box<dyn Channel>,
    input: ReadBuffer,
}

impl fmt::Debug for PacedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a channel with {}", self.channel.identity())
    }
}

impl AsFd for PacedChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.read_fd()
    }
}

impl PacedChannel {
    pub(crate) fn new(channel: Box<dyn Channel>) -> Self {
        Self { channel, input: ReadBuffer::new(READ_BYTES, LARGEST_FRAME) }
    }

    /// Waits for bytes and passes them to `take`, which returns how many of them it has used.
    pub(crate) fn take_in(
        &mut self,
        take: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.wait(PollFlags::POLLIN)?;
        match self.channel.read(&mut self.input).map_err(io::Error::other)? {
            ReadOutcome::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
            ReadOutcome::NotReady | ReadOutcome::Boundary | ReadOutcome::Bytes(0) => Ok(()),
            ReadOutcome::Bytes(_) => {
                let used = take(self.input.filled())?;
                self.input.consume(used);
                Ok(())
            }
        }
    }

    /// Waits for the descriptor, but no longer than until the channel's own traffic is due.
    fn wait(&mut self, flags: PollFlags) -> io::Result<()> {
        let now = Instant::now();
        let due = self.channel.tick(now).map_err(io::Error::other)?;
        let left = due.map(|due| due.saturating_duration_since(now));
        let timeout = left.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from);
        let timeout = timeout.map_err(io::Error::other)?;
        poll(&mut [PollFd::new(self.channel.read_fd(), flags)], timeout)?;
        Ok(())
    }
}

impl Write for PacedChannel {
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        loop {
            match self.channel.write(frames).map_err(io::Error::other)? {
                WriteOutcome::Bytes(count) => return Ok(count),
                WriteOutcome::NotReady => self.wait(PollFlags::POLLOUT)?,
                WriteOutcome::NoCredit | WriteOutcome::Nobody => self.wait(PollFlags::POLLIN)?,
            }
            self.channel.serve().map_err(io::Error::other)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for PacedChannel {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.input.is_empty() {
            self.take_in(|_| Ok(0))?;
        }
        let count = into.len().min(self.input.filled().len());
        into[..count].copy_from_slice(&self.input.filled()[..count]);
        self.input.consume(count);
        Ok(count)
    }
}
