//! The channel of every byte stream: one descriptor for both directions, or one for each.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::Shutdown;
use nix::sys::uio::writev;
use nix::unistd;

use crate::error::ErrorContext;
use crate::send_buffer::{deepen, grow_send_buffer};
use crate::socket::end_socket;
use crate::{
    Channel, ChannelParts, Error, PeerIdentity, ReadBuffer, ReadOutcome, Result, WriteOutcome,
};

/// Room that is offered to one read at the least.
const READ_BYTES: usize = 4 * 1024;

/// A byte stream over a socket, or over a pair of pipes or FIFOs.
///
/// The process must ignore SIGPIPE, as Rust programs do, so that a write to a peer that has gone
/// is an error.
#[derive(Debug)]
pub struct StreamChannel {
    read: OwnedFd,
    write: Option<OwnedFd>,
    finished: bool,
    /// Whether a pipe has been given more room; a socket needs none.
    is_deep: bool,
    identity: PeerIdentity,
    /// The state that it was adopted with, and that goes with it.
    state: Vec<u8>,
}

impl StreamChannel {
    /// A channel over a connected stream socket, which is made non-blocking.
    pub fn socket(socket: OwnedFd, identity: PeerIdentity) -> Result<Self> {
        set_nonblocking(&socket)?;
        Ok(Self::over(socket, None, identity))
    }

    /// A channel that reads from one descriptor and writes to another; both are made non-blocking.
    pub fn pair(read: OwnedFd, write: OwnedFd, identity: PeerIdentity) -> Result<Self> {
        set_nonblocking(&read)?;
        set_nonblocking(&write)?;
        Ok(Self::over(read, Some(write), identity))
    }

    /// A channel of what [`Channel::into_parts`] or a listener returned.
    pub fn adopt(parts: ChannelParts) -> Result<Self> {
        let mut descriptors = parts.descriptors.into_iter();
        let stream = match (descriptors.next(), descriptors.next(), descriptors.next()) {
            (Some(socket), None, _) => Self::socket(socket, parts.identity),
            (Some(read), Some(write), None) => Self::pair(read, write, parts.identity),
            _ => Err(Error::Protocol("a stream has one descriptor or two".into())),
        };
        Ok(Self { state: parts.state, ..stream? })
    }

    fn over(read: OwnedFd, write: Option<OwnedFd>, identity: PeerIdentity) -> Self {
        let is_deep = write.is_none();
        Self { read, write, finished: false, is_deep, identity, state: Vec::new() }
    }

    fn write_by(
        &mut self,
        offered: usize,
        write: impl FnOnce(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> Result<WriteOutcome> {
        if self.finished {
            return Err(Error::system("write", Errno::EPIPE));
        }
        match write(self.write_fd()) {
            Ok(count) => {
                // Idle peers keep small pipes: only what has once been too small grows, and once.
                if count < offered && !self.is_deep {
                    self.is_deep = true;
                    deepen(self.write_fd());
                }
                Ok(WriteOutcome::Bytes(count))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(WriteOutcome::NotReady),
            Err(error) => Err(Error::system("write", error)),
        }
    }
}

impl Channel for StreamChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.write.as_ref().unwrap_or(&self.read).as_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        match unistd::read(&self.read, into.spare(READ_BYTES)) {
            // The room is never empty, so 0 can only mean the end.
            Ok(0) => Ok(ReadOutcome::Closed),
            Ok(count) => {
                into.commit(count);
                Ok(ReadOutcome::Bytes(count))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(ReadOutcome::NotReady),
            Err(error) => Err(Error::system("read", error)),
        }
    }

    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        self.write_by(frames.len(), |fd| unistd::write(fd, frames))
    }

    fn write_pieces(&mut self, pieces: &[IoSlice<'_>]) -> Result<WriteOutcome> {
        let offered = pieces.iter().map(|piece| piece.len()).sum();
        self.write_by(offered, |fd| writev(fd, pieces))
    }

    fn finish(&mut self) -> Result<()> {
        self.finished = true;
        if self.write.is_some() {
            // A pipe has no half-close but closing: the descriptor gives way to a harmless one.
            self.write = Some(self.read.try_clone().context(|| "duplicate a descriptor".into())?);
            return Ok(());
        }
        // Not close(2): the peer may still be sending, and a close with unread bytes resets TCP.
        end_socket(&self.read, Shutdown::Write)
    }

    fn make_room(&mut self, bytes: usize) {
        grow_send_buffer(self.write_fd(), bytes);
    }

    fn is_plain(&self) -> bool {
        true
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        let descriptors = std::iter::once(self.read).chain(self.write).collect();
        ChannelParts { descriptors, identity: self.identity, state: self.state }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).context(|| "read a descriptor's flags".into())?;
    let flags = OFlag::from_bits_retain(flags);
    if !flags.contains(OFlag::O_NONBLOCK) {
        let flags = FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK);
        fcntl(fd, flags).context(|| "make a descriptor non-blocking".into())?;
    }
    Ok(())
}
