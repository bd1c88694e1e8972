//! A channel to one peer, and what its calls return.

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use crate::{PeerIdentity, RawBehaviour, ReadBuffer, Result};

/// Moves frames to and from one peer. It owns its descriptors, all of them non-blocking.
pub trait Channel: Send {
    /// The descriptor to wait for input on.
    fn read_fd(&self) -> BorrowedFd<'_>;

    /// The descriptor to wait for room on; the same as [`Channel::read_fd`] for sockets.
    fn write_fd(&self) -> BorrowedFd<'_>;

    /// The peer's identity, as far as the kernel can tell. A certificate is known as soon as the
    /// call returns that ended the transport's handshake, and so before the first frame.
    fn identity(&self) -> &PeerIdentity;

    /// Appends what has come to `into`, with one system call where the transport allows it.
    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome>;

    /// Offers bytes that begin at a frame boundary, or where the last call stopped. Whole frames
    /// only: the last byte ends a frame.
    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome>;

    /// The same with frames in several pieces, each of whole frames or the rest of some. A channel
    /// may look at the first piece only, and take no more than that.
    fn write_pieces(&mut self, pieces: &[IoSlice<'_>]) -> Result<WriteOutcome> {
        self.write(pieces.first().map_or(&[], |piece| piece))
    }

    /// Ends the direction to the peer: nothing more will be written. Reading goes on.
    fn finish(&mut self) -> Result<()>;

    /// Asks the kernel to take so many bytes more for a peer that does not read, as far as the
    /// transport can: so that the last frame is there when the peer reads again, however late.
    fn make_room(&mut self, _bytes: usize) {}

    /// Whether the bytes on the descriptors are the bytes that are read and written. Then the owner
    /// may move them itself (splice(2)), beside or instead of [`Channel::read`] and
    /// [`Channel::write`].
    fn is_plain(&self) -> bool {
        false
    }

    /// Takes the channel apart, to put it together elsewhere. Only before anything was written in
    /// part; where what the two sides have agreed on stays in the process, only before it was used.
    fn into_parts(self: Box<Self>) -> ChannelParts;

    /// The traffic of the transport's own beside frames, if it has any.
    fn traffic(&self) -> Option<&dyn ChannelTraffic> {
        None
    }

    /// The same, to be served.
    fn traffic_mut(&mut self) -> Option<&mut dyn ChannelTraffic> {
        None
    }

    /// The peculiarities of a channel to a raw peer, if it has any.
    fn raw_behaviour(&self) -> Option<&dyn RawBehaviour> {
        None
    }
}

/// Traffic of the transport's own beside frames: handshakes, acknowledgements, probes, deadlines.
pub trait ChannelTraffic {
    /// Whether the channel must be served ([`ChannelTraffic::serve`]) when readable even while the
    /// caller does not want to read.
    fn wants_service(&self) -> bool {
        false
    }

    /// Whether the transport has bytes of its own, or pinned ones, that wait for room: the caller
    /// waits for [`Channel::write_fd`] and then calls [`ChannelTraffic::serve`], also when it has
    /// nothing to write.
    fn wants_room(&self) -> bool {
        false
    }

    /// Handles the transport's own traffic without reading frames. The next read brings what came
    /// behind a handshake that ends here.
    fn serve(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does what is due by `now`, and returns the time of the next call.
    fn tick(&mut self, _now: Instant) -> Result<Option<Instant>> {
        Ok(None)
    }

    /// Whether the handshake goes on, so that nothing is written yet, the next step may cost
    /// milliseconds of the processor's time, and the kernel still holds all that has come.
    fn is_shaking_hands(&self) -> bool {
        false
    }

    /// The time since when a record of the transport's own is incomplete. The channel holds what has
    /// come of it, and nothing of it was read.
    fn partial_since(&self) -> Option<Instant> {
        None
    }

    /// The number of bytes behind those that were taken which are on their way in another form, such
    /// as encrypted: the next write must offer the very same ones.
    fn pinned(&self) -> usize {
        0
    }

    /// Whether the kernel had no memory for bytes of the transport's own, or pinned ones, since the
    /// last call. The kernel reports room all the same, so the caller does not wait for that, but
    /// looks again after a while.
    fn take_shortage(&mut self) -> bool {
        false
    }

    /// Frames and datagrams that never arrived here, or at the peer, as far as is known. Never falls.
    fn lost(&self) -> u64 {
        0
    }
}

/// The methods of the extension traits, for callers. A channel without a trait has nothing to do.
impl dyn Channel + '_ {
    /// See [`ChannelTraffic::wants_service`].
    pub fn wants_service(&self) -> bool {
        self.traffic().is_some_and(ChannelTraffic::wants_service)
    }

    /// See [`ChannelTraffic::wants_room`].
    pub fn wants_room(&self) -> bool {
        self.traffic().is_some_and(ChannelTraffic::wants_room)
    }

    /// See [`ChannelTraffic::serve`].
    pub fn serve(&mut self) -> Result<()> {
        self.traffic_mut().map_or(Ok(()), ChannelTraffic::serve)
    }

    /// See [`ChannelTraffic::tick`].
    pub fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        self.traffic_mut().map_or(Ok(None), |traffic| traffic.tick(now))
    }

    /// See [`ChannelTraffic::is_shaking_hands`].
    pub fn is_shaking_hands(&self) -> bool {
        self.traffic().is_some_and(ChannelTraffic::is_shaking_hands)
    }

    /// See [`ChannelTraffic::partial_since`].
    pub fn partial_since(&self) -> Option<Instant> {
        self.traffic().and_then(ChannelTraffic::partial_since)
    }

    /// See [`ChannelTraffic::pinned`].
    pub fn pinned(&self) -> usize {
        self.traffic().map_or(0, ChannelTraffic::pinned)
    }

    /// See [`ChannelTraffic::take_shortage`].
    pub fn take_shortage(&mut self) -> bool {
        self.traffic_mut().is_some_and(ChannelTraffic::take_shortage)
    }

    /// See [`ChannelTraffic::lost`].
    pub fn lost(&self) -> u64 {
        self.traffic().map_or(0, ChannelTraffic::lost)
    }

    /// See [`RawBehaviour::reports_edges`].
    pub fn reports_edges(&self) -> bool {
        self.raw_behaviour().is_some_and(RawBehaviour::reports_edges)
    }

    /// See [`RawBehaviour::is_write_only`].
    pub fn is_write_only(&self) -> bool {
        self.raw_behaviour().is_some_and(RawBehaviour::is_write_only)
    }
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadOutcome {
    /// So many bytes were appended; 0 when only the transport's own traffic came.
    Bytes(usize),
    /// Nothing is there now.
    NotReady,
    /// The last writer has left, and others may come: an incomplete message is over. Only channels
    /// to raw peers report it.
    Boundary,
    /// The peer will send nothing more.
    Closed,
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteOutcome {
    /// So many bytes were taken.
    Bytes(usize),
    /// Nothing was taken; try again when [`Channel::write_fd`] is writable.
    NotReady,
    /// Nothing was taken; try again after the next read or service, which may bring the peer's
    /// credit, or the end of the handshake.
    NoCredit,
    /// Nothing was taken, because no reader is there. The bytes are lost, and so is what an earlier
    /// call has begun of them. The next call begins anew, and nothing tells when a reader comes.
    /// Only channels to raw peers report it.
    Nobody,
}

/// A channel in pieces: what travels from the process that accepts to the one that serves.
#[derive(Debug)]
pub struct ChannelParts {
    /// The descriptors, in an order that the transport knows.
    pub descriptors: Vec<OwnedFd>,
    /// The peer's identity.
    pub identity: PeerIdentity,
    /// Everything else that the transport has to remember, in an encoding of its own.
    pub state: Vec<u8>,
}
