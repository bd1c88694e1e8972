//! The channel to a raw peer over a socket that keeps records: a read is a record, and so is a
//! write.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, Shutdown};

use crate::error::is_of_the_network;
use crate::send_buffer::grow_send_buffer;
use crate::socket::{PendingReset, end_socket, receive_record};
use crate::{
    Channel, ChannelParts, ChannelTraffic, Error, PeerIdentity, RawBehaviour, ReadBuffer,
    ReadOutcome, Result, WriteOutcome,
};

/// Bytes of the longest record that is read whole: a UDP datagram has no more.
const LARGEST: usize = 64 * 1024;

/// The longest silence of a peer that no kernel watches: less, as long as it may be a forged address
/// that will never speak again.
#[derive(Clone, Copy, Debug)]
pub struct SilenceLimit {
    /// For one that has come back.
    pub proved: Duration,
    /// For one that has not.
    pub at_first: Duration,
    /// The time when it was heard first, until it has come back.
    first: Option<Instant>,
    has_come_back: bool,
}

/// A datagram that comes so much later shows that the peer has come back.
const COMING_BACK: Duration = Duration::from_secs(1);

impl SilenceLimit {
    /// So long for one that has come back, and so long for one that has not.
    pub fn new(proved: Duration, at_first: Duration) -> Self {
        Self { proved, at_first, first: None, has_come_back: false }
    }

    fn heard(&mut self, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.has_come_back |= now >= first + COMING_BACK;
    }

    fn allowed(&self) -> Duration {
        if self.has_come_back { self.proved } else { self.at_first }
    }
}

/// Records over a connected seqpacket or datagram socket, which is non-blocking.
#[derive(Debug)]
pub struct RecordChannel {
    socket: OwnedFd,
    identity: PeerIdentity,
    kind: RecordSource,
    /// The longest silence of the peer, and its beginning.
    idle: Option<(SilenceLimit, Instant)>,
    /// Records that the listener has read.
    first: VecDeque<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RecordSource {
    /// The kernel watches the other end.
    Connected(PendingReset),
    /// No kernel tells that the peer has gone, and records may be lost and may be empty.
    Datagrams,
    /// Nothing can be written, and nothing more comes.
    Ended,
}

impl RecordChannel {
    /// Over a connected socket whose other end the kernel watches, and which [`tells_records`].
    ///
    /// [`tells_records`]: crate::tells_records
    pub fn connected(socket: OwnedFd, identity: PeerIdentity) -> Self {
        let kind = RecordSource::Connected(PendingReset::default());
        Self { socket, identity, kind, idle: None, first: VecDeque::new() }
    }

    /// Over a connected datagram socket, for ever.
    pub fn datagrams(socket: OwnedFd, identity: PeerIdentity) -> Self {
        Self { kind: RecordSource::Datagrams, ..Self::connected(socket, identity) }
    }

    /// Over a datagram socket: the peer has gone when it has been silent for so long. The listener
    /// has read its first records.
    pub fn until_idle(
        socket: OwnedFd,
        identity: PeerIdentity,
        silence: SilenceLimit,
        first: VecDeque<Vec<u8>>,
    ) -> Self {
        let idle = Some((silence, Instant::now()));
        Self { idle, first, ..Self::datagrams(socket, identity) }
    }

    /// Over what the listener has read of a peer that has gone and never reads. The socket has ended, too.
    pub fn ended(socket: OwnedFd, identity: PeerIdentity, first: VecDeque<Vec<u8>>) -> Self {
        Self { kind: RecordSource::Ended, first, ..Self::connected(socket, identity) }
    }

    fn is_datagram(&self) -> bool {
        self.kind == RecordSource::Datagrams
    }

    fn send(&self, record: &[u8]) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        socket::send(self.socket.as_raw_fd(), record, flags)
    }

    fn receive(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let room = into.spare(LARGEST);
        let received = match &mut self.kind {
            RecordSource::Connected(reset) => receive_record(self.socket.as_fd(), room, reset),
            RecordSource::Datagrams => {
                let flags = MsgFlags::MSG_DONTWAIT;
                socket::recv(self.socket.as_raw_fd(), room, flags).map(Some)
            }
            RecordSource::Ended => Ok(None),
        };
        match received {
            Ok(None) => Ok(ReadOutcome::Closed),
            Ok(Some(count)) => {
                into.commit(count);
                Ok(ReadOutcome::Bytes(count))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(ReadOutcome::NotReady),
            // A datagram of ours did not arrive: the next one may. Any host can report that (RFC 5927).
            Err(error) if self.is_datagram() && is_of_the_network(error) => {
                Ok(ReadOutcome::NotReady)
            }
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

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let read = match self.first.pop_front() {
            Some(first) => {
                into.extend(&first);
                ReadOutcome::Bytes(first.len())
            }
            None => self.receive(into)?,
        };
        if let (Some((silence, since)), ReadOutcome::Bytes(_)) = (&mut self.idle, read) {
            let now = Instant::now();
            silence.heard(now);
            *since = now;
        }
        Ok(read)
    }

    fn write(&mut self, record: &[u8]) -> Result<WriteOutcome> {
        let of_the_network = |error| self.is_datagram() && is_of_the_network(error);
        let sent = match self.send(record) {
            // That speaks of an earlier datagram; this one was not sent (udp(7)).
            Err(error) if of_the_network(error) => self.send(record),
            sent => sent,
        };
        match sent {
            Ok(_) => Ok(WriteOutcome::Bytes(record.len())),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(WriteOutcome::NotReady),
            // It is too long for a datagram, or no peer was there: as lost as on the way.
            Err(error) if of_the_network(error) => Ok(WriteOutcome::Bytes(record.len())),
            Err(error) => Err(Error::system("send", error)),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.is_datagram() {
            return Ok(());
        }
        end_socket(&self.socket, Shutdown::Write)
    }

    fn make_room(&mut self, bytes: usize) {
        grow_send_buffer(self.socket.as_fd(), bytes);
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        let (descriptors, identity) = (vec![self.socket], self.identity);
        ChannelParts { descriptors, identity, state: Vec::new() }
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

impl RawBehaviour for RecordChannel {
    fn is_write_only(&self) -> bool {
        self.kind == RecordSource::Ended
    }
}

impl ChannelTraffic for RecordChannel {
    fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        let Some((silence, since)) = self.idle else { return Ok(None) };
        let end = since + silence.allowed();
        if now >= end {
            let why = format!("nothing came for {} s", silence.allowed().as_secs());
            return Err(Error::TimedOut(why));
        }
        Ok(Some(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_has_not_come_back_may_be_silent_for_less() {
        let (long, short) = (Duration::from_secs(60), Duration::from_secs(10));
        let (mut silence, start) = (SilenceLimit::new(long, short), Instant::now());
        for (ms, expected) in [(0, short), (1, short), (999, short), (1_000, long), (1_001, long)] {
            silence.heard(start + Duration::from_millis(ms));
            assert_eq!(silence.allowed(), expected, "after {ms} ms");
        }
    }
}
