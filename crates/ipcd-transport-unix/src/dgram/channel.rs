//! The channel to a sender of datagrams: its queue to be read, and the way back.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipcd_transport::{
    Channel, ChannelParts, ChannelTraffic, Error, PeerIdentity, RawBehaviour, RawChannel,
    ReadBuffer, ReadOutcome, Result, WriteOutcome, grow_send_buffer,
};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, getsockopt, send, sockopt};
use nix::sys::uio::readv;

use super::reply::ReplyPath;
use super::senders::LARGEST;
use crate::socket::RESERVED;

/// The longest silence of a peer.
const SILENCE: Duration = Duration::from_secs(60);

/// The reply path in the state, behind the listener's number for the sender.
const NOWHERE: u8 = 0;
const OWN: u8 = 1;
const POSTED: u8 = 2;

struct DatagramChannel {
    id: u64,
    queue: OwnedFd,
    reply: ReplyPath,
    identity: PeerIdentity,
    /// Since when nothing came.
    since: Instant,
}

/// The parts that travel to the worker.
pub(crate) fn parts(
    id: u64,
    queue: OwnedFd,
    reply: ReplyPath,
    identity: PeerIdentity,
) -> ChannelParts {
    let (mut descriptors, mut state) = (vec![queue], id.to_le_bytes().to_vec());
    match reply {
        ReplyPath::Nowhere => state.push(NOWHERE),
        ReplyPath::Own(own) => {
            descriptors.push(own);
            state.push(OWN);
        }
        ReplyPath::Posted => state.push(POSTED),
    }
    ChannelParts { descriptors, identity, state }
}

/// The listener's number for the sender, in a state.
pub(crate) fn id_in(state: &[u8]) -> Option<u64> {
    state.first_chunk().map(|id| u64::from_le_bytes(*id))
}

/// The channel of such parts.
pub(crate) fn adopt(parts: ChannelParts) -> Result<RawChannel> {
    let bad = || Error::Protocol("no parts of a channel for datagrams".into());
    let ChannelParts { descriptors, identity, state } = parts;
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(bad);
    let id = id_in(&state).ok_or_else(bad)?;
    let kind = state.get(size_of::<u64>()).ok_or_else(bad)?;
    let queue = next()?;
    let reply = match *kind {
        NOWHERE => ReplyPath::Nowhere,
        OWN => ReplyPath::Own(next()?),
        POSTED => ReplyPath::Posted,
        _ => return Err(bad()),
    };
    let largest = reply.socket(&queue).map(largest_for).transpose()?;
    let channel = DatagramChannel { id, queue, reply, identity, since: Instant::now() };
    Ok(RawChannel::datagrams(Box::new(channel), largest))
}

/// Bytes that one datagram through this socket can have.
fn largest_for(socket: &OwnedFd) -> Result<usize> {
    let buffer = getsockopt(socket, sockopt::SndBuf);
    let buffer = buffer.map_err(|error| Error::system("read a socket's buffer size", error))?;
    Ok(buffer.saturating_sub(RESERVED))
}

impl ReplyPath {
    /// The socket that datagrams for the sender are written to.
    fn socket<'a>(&'a self, queue: &'a OwnedFd) -> Option<&'a OwnedFd> {
        match self {
            Self::Nowhere => None,
            Self::Own(socket) => Some(socket),
            Self::Posted => Some(queue),
        }
    }
}

impl Channel for DatagramChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.reply.socket(&self.queue).unwrap_or(&self.queue).as_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let mut mark = [0];
        let mut room = [IoSliceMut::new(&mut mark), IoSliceMut::new(into.spare(LARGEST))];
        let received = match readv(&self.queue, &mut room) {
            // Records that the listener had sent before it went are behind that (unix_release_sock).
            Err(Errno::ECONNRESET) => readv(&self.queue, &mut room),
            received => received,
        };
        match received {
            Ok(0) => Ok(ReadOutcome::Closed),
            Ok(count) => {
                into.commit(count - 1);
                self.since = Instant::now();
                Ok(ReadOutcome::Bytes(count - 1))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(ReadOutcome::NotReady),
            Err(error) => Err(Error::system("receive", error)),
        }
    }

    fn write(&mut self, record: &[u8]) -> Result<WriteOutcome> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let Some(socket) = self.reply.socket(&self.queue) else {
            return Ok(WriteOutcome::Bytes(record.len()));
        };
        match send(socket.as_raw_fd(), record, flags) {
            // One that is too long is lost alone.
            Ok(_) | Err(Errno::EMSGSIZE) => Ok(WriteOutcome::Bytes(record.len())),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(WriteOutcome::NotReady),
            // Also if it has a new socket of the same name: its next datagram makes it a peer again.
            Err(error) => Err(Error::system("reply", error)),
        }
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn make_room(&mut self, bytes: usize) {
        if let ReplyPath::Own(socket) = &self.reply {
            grow_send_buffer(socket.as_fd(), bytes);
        }
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        parts(self.id, self.queue, self.reply, self.identity)
    }

    fn traffic(&self) -> Option<&dyn ChannelTraffic> {
        Some(self)
    }

    fn traffic_mut(&mut self) -> Option<&mut dyn ChannelTraffic> {
        Some(self)
    }

    fn raw_behaviour(&self) -> Option<&dyn RawBehaviour> {
        Some(self)
    }
}

impl RawBehaviour for DatagramChannel {
    fn is_write_only(&self) -> bool {
        matches!(self.reply, ReplyPath::Nowhere)
    }
}

impl ChannelTraffic for DatagramChannel {
    fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        let end = self.since + SILENCE;
        if now >= end {
            return Err(Error::TimedOut(format!("nothing came for {} s", SILENCE.as_secs())));
        }
        Ok(Some(end))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_channel_survives_being_taken_apart_and_ends_when_it_is_silent() {
        let (near, far) = UnixDatagram::pair().unwrap();
        for reply in [
            ReplyPath::Nowhere,
            ReplyPath::Own(near.try_clone().unwrap().into()),
            ReplyPath::Posted,
        ] {
            let (is_write_only, queue) =
                (matches!(reply, ReplyPath::Nowhere), far.try_clone().unwrap());
            let first = parts(u64::MAX - 1, queue.into(), reply, PeerIdentity::from_owner(7));
            let (state, count) = (first.state.clone(), first.descriptors.len());
            let again = adopt(first).unwrap().channel.into_parts();
            assert_eq!((&again.state, again.descriptors.len()), (&state, count));
            assert_eq!(id_in(&state), Some(u64::MAX - 1));
            let mut channel = adopt(again).unwrap().channel;
            assert_eq!((channel.is_write_only(), channel.identity().uid), (is_write_only, Some(7)));
            let now = Instant::now();
            assert!(channel.tick(now).unwrap().is_some_and(|end| end <= now + SILENCE));
            assert!(channel.tick(now + SILENCE).is_err());
        }
    }

    #[test]
    fn refuses_parts_that_are_none() {
        for state in [&[][..], &[1; 7], &[1; 8], &[9; 9], &[1; 20]] {
            let (queue, _far) = UnixDatagram::pair().unwrap();
            let (descriptors, identity) = (vec![queue.into()], PeerIdentity::default());
            let parts = ChannelParts { descriptors, identity, state: state.to_vec() };
            assert!(adopt(parts).is_err(), "{state:?}");
        }
    }
}
