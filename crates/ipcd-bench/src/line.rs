//! A client's end of a connection: a stream, a hop of bare datagrams, or a channel of ipcd's that
//! has packets and a pace of its own.
//!
//! It is made in one process and used in another: what is not in the descriptor is in its parts.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_transport::{
    self as transport, Channel, ChannelParts, Endpoint, ReadBuffer, WriteOutcome,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::datagrams::Hop;
use crate::load::LARGEST;

/// Bytes that a subscriber of a channel has room for.
const ROOM: usize = 256 * 1024;

/// Where messages are written to, or come from.
#[derive(Debug)]
pub(crate) enum Line {
    Stream(File),
    Datagrams(File),
    Channel(Box<(Endpoint, ChannelParts)>),
}

impl Line {
    /// What takes frames; a write may take a part of them.
    pub(crate) fn sink(&self) -> io::Result<Box<dyn Write + '_>> {
        match self {
            Self::Stream(file) => Ok(Box::new(file)),
            Self::Datagrams(socket) => Ok(Box::new(Hop::new(socket)?)),
            Self::Channel(channel) => Ok(Box::new(Paced::adopt(channel)?)),
        }
    }

    /// Where frames come from.
    pub(crate) fn source(&self) -> io::Result<Source<'_>> {
        match self {
            Self::Stream(file) => Ok(Source::Bytes(Box::new(file))),
            Self::Datagrams(socket) => Ok(Source::Bytes(Box::new(Hop::new(socket)?))),
            Self::Channel(channel) => Ok(Source::Frames(Box::new(Paced::adopt(channel)?))),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(file) | Self::Datagrams(file) => file.as_fd(),
            Self::Channel(channel) => channel.1.descriptors[0].as_fd(),
        }
    }
}

/// What a subscriber reads from.
pub(crate) enum Source<'a> {
    /// It fills what it is given.
    Bytes(Box<dyn Read + 'a>),
    /// It has a buffer of its own.
    Frames(Box<Paced>),
}

/// A channel whose caller waits.
pub(crate) struct Paced {
    channel: Box<dyn Channel>,
    input: ReadBuffer,
}

impl fmt::Debug for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a channel with {}", self.channel.identity())
    }
}

impl Paced {
    pub(crate) fn new(channel: Box<dyn Channel>) -> Self {
        Self { channel, input: ReadBuffer::new(ROOM, LARGEST) }
    }

    /// Goes on with a connection that another process has opened.
    fn adopt((endpoint, parts): &(Endpoint, ChannelParts)) -> io::Result<Self> {
        let descriptors = parts.descriptors.iter().map(|fd| fd.try_clone());
        let descriptors = descriptors.collect::<io::Result<_>>()?;
        let (identity, state) = (parts.identity.clone(), parts.state.clone());
        let parts = ChannelParts { descriptors, identity, state };
        let transport = ipcd_transports::find(endpoint.scheme()).map_err(io::Error::other)?;
        Ok(Self::new(transport.adopt(parts).map_err(io::Error::other)?))
    }

    pub(crate) fn into_parts(self) -> ChannelParts {
        self.channel.into_parts()
    }

    /// Waits for something, and gives it to be used; how much was used is said back.
    pub(crate) fn take_in(
        &mut self,
        take: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.wait(PollFlags::POLLIN)?;
        match self.channel.read(&mut self.input).map_err(io::Error::other)? {
            transport::ReadOutcome::Closed => Err(io::ErrorKind::UnexpectedEof.into()),
            transport::ReadOutcome::NotReady
            | transport::ReadOutcome::Boundary
            | transport::ReadOutcome::Bytes(0) => Ok(()),
            transport::ReadOutcome::Bytes(_) => {
                let used = take(self.input.filled())?;
                self.input.consume(used);
                Ok(())
            }
        }
    }

    /// Waits until something comes, or it is time for traffic of its own.
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

impl Write for Paced {
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

impl Read for Paced {
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
