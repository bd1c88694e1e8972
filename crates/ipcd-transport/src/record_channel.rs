//! The channel to a bare peer over a socket that keeps records: a read is a record, and so is a
//! write.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, Shutdown};

use crate::room::widen;
use crate::socket::end_socket;
use crate::{Channel, ChannelParts, Error, Identity, Read, ReadBuffer, Result, Wrote};

/// Bytes of the longest record that is read whole: a UDP datagram has no more.
const LARGEST: usize = 64 * 1024;

/// Records over a connected seqpacket or datagram socket, which is non-blocking.
#[derive(Debug)]
pub struct RecordChannel {
    socket: OwnedFd,
    identity: Identity,
    /// Whether nobody says that the peer has gone, and records may be lost and may be empty.
    is_datagram: bool,
    /// How long the peer may be silent, and since when it is.
    idle: Option<(Duration, Instant)>,
    /// Records that the listener has read.
    first: VecDeque<Vec<u8>>,
}

impl RecordChannel {
    /// Over a connected socket whose other end the kernel watches.
    pub fn connected(socket: OwnedFd, identity: Identity) -> Self {
        Self { socket, identity, is_datagram: false, idle: None, first: VecDeque::new() }
    }

    /// Over a connected datagram socket, for ever.
    pub fn datagrams(socket: OwnedFd, identity: Identity) -> Self {
        Self { is_datagram: true, ..Self::connected(socket, identity) }
    }

    /// Over a datagram socket: the peer has gone when it has been silent for so long. The listener
    /// has read its first records.
    pub fn until_idle(
        socket: OwnedFd,
        identity: Identity,
        silence: Duration,
        first: VecDeque<Vec<u8>>,
    ) -> Self {
        let idle = Some((silence, Instant::now()));
        Self { idle, first, ..Self::datagrams(socket, identity) }
    }

    fn send(&self, record: &[u8]) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        socket::send(self.socket.as_raw_fd(), record, flags)
    }

    fn receive(&mut self, into: &mut ReadBuffer) -> Result<Read> {
        let flags = MsgFlags::MSG_DONTWAIT;
        match socket::recv(self.socket.as_raw_fd(), into.spare(LARGEST), flags) {
            // On a datagram socket that is an empty record.
            Ok(0) if !self.is_datagram => Ok(Read::Closed),
            Ok(count) => {
                into.commit(count);
                Ok(Read::Bytes(count))
            }
            // A datagram of ours found nobody: the next one may.
            Err(Errno::ECONNREFUSED) if self.is_datagram => Ok(Read::NotReady),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Read::NotReady),
            Err(error) => Err(Error::system("receive", error)),
        }
    }
}

impl Channel for RecordChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<Read> {
        let read = match self.first.pop_front() {
            Some(first) => {
                into.extend(&first);
                Read::Bytes(first.len())
            }
            None => self.receive(into)?,
        };
        if let (Some((_, since)), Read::Bytes(_)) = (&mut self.idle, read) {
            *since = Instant::now();
        }
        Ok(read)
    }

    fn write(&mut self, record: &[u8]) -> Result<Wrote> {
        let sent = match self.send(record) {
            // That speaks of an earlier datagram; this one was not sent (udp(7)).
            Err(Errno::ECONNREFUSED) if self.is_datagram => self.send(record),
            sent => sent,
        };
        match sent {
            Ok(_) => Ok(Wrote::Bytes(record.len())),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Wrote::NotReady),
            // It is too long for a datagram, or nobody was there: as lost as on the way.
            Err(Errno::EMSGSIZE | Errno::ECONNREFUSED) if self.is_datagram => {
                Ok(Wrote::Bytes(record.len()))
            }
            Err(error) => Err(Error::system("send", error)),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.is_datagram {
            return Ok(());
        }
        end_socket(&self.socket, Shutdown::Write)
    }

    fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        let Some((silence, since)) = self.idle else { return Ok(None) };
        let end = since + silence;
        if now >= end {
            let why = format!("nothing came for {} s", silence.as_secs());
            return Err(Error::TimedOut(why));
        }
        Ok(Some(end))
    }

    fn make_room(&mut self, bytes: usize) {
        widen(self.socket.as_fd(), bytes);
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        let (descriptors, identity) = (vec![self.socket], self.identity);
        ChannelParts { descriptors, identity, state: Vec::new() }
    }
}
