//! One peer of a worker: its channel, what was read and not yet used, and what to wait for.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use ipcd_core::CloseReason;
use ipcd_transport::{Channel, ReadBuffer};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::adapter::Adapter;
use crate::ids::AdmissionId;

/// Says which connection, and which of its descriptors, an event is about. Places are used again,
/// so that the connection's number is part of it: an event for one that is gone is recognised.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct EventToken {
    pub(crate) place: u32,
    pub(crate) number: u32,
}

impl EventToken {
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.place)
    }

    pub(crate) fn from_u64(bits: u64) -> Self {
        Self { place: bits as u32, number: (bits >> 32) as u32 }
    }
}

/// A peer's connection.
pub(crate) struct Connection {
    pub(crate) channel: Box<dyn Channel>,
    /// The adapter of a peer that does not send frames.
    pub(crate) adapter: Option<Adapter>,
    /// Whether a raw peer sends no more. It goes once all that it has sent is accepted.
    pub(crate) has_ended: bool,
    /// The time until which such a peer still gets messages, if it can receive.
    pub(crate) hears_until: Option<Instant>,
    /// Why it cannot be written to: it goes once all it has sent is accepted.
    pub(crate) broken: Option<Box<str>>,
    /// Whether its last read brought something, so that there may be more.
    pub(crate) has_more: bool,
    pub(crate) token: EventToken,
    /// The supervisor's number for the peer.
    pub(crate) admission: AdmissionId,
    /// Whether it has to prove a token, and has not yet.
    pub(crate) must_prove: bool,
    /// The beginning of a frame that is incomplete, or the bytes of a peer that waits.
    pub(crate) partial: Option<Box<ReadBuffer>>,
    /// Whether the peer's messages wait for room in a send queue.
    pub(crate) waiting: bool,
    /// Why nothing more is read but the end: the send queue is written, then the channel finished.
    pub(crate) closing: Option<Box<CloseReason>>,
    pub(crate) finished: bool,
    /// Whether the channel has to tell us when it can be written to.
    pub(crate) blocked: bool,
    /// Whether the kernel had no memory for it: it is left alone for a while.
    pub(crate) is_paused: bool,
    /// Whether to write again once it has been served: it waits for credit, or for a handshake.
    pub(crate) awaiting_credit: bool,
    /// Whether the router knows that a record of the transport's is incomplete.
    pub(crate) has_partial_record: bool,
    /// Whether the router knows that the peer has shown a certificate.
    pub(crate) is_vouched: bool,
    /// The channel's earliest entry in the worker's queue of ticks.
    pub(crate) tick_at: Option<Instant>,
    /// Frames that its transport has lost, as far as they are counted.
    pub(crate) lost: u64,
    armed: PollInterest,
}

/// The events that epoll watches for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct PollInterest {
    read: bool,
    write: bool,
    /// The end of both directions, which the kernel reports unasked.
    end: bool,
}

impl PollInterest {
    /// `None` for nothing at all.
    fn flags(self, edges: bool) -> Option<EpollFlags> {
        let when = |wanted, flags| if wanted { flags } else { EpollFlags::empty() };
        let read = when(self.read, EpollFlags::EPOLLIN);
        let edges = when(self.read && edges, EpollFlags::EPOLLET);
        let write = when(self.write, EpollFlags::EPOLLOUT);
        (self != Self::default()).then_some(read | edges | write)
    }
}

impl Connection {
    pub(crate) fn new(
        channel: Box<dyn Channel>,
        adapter: Option<Adapter>,
        token: EventToken,
        admission: AdmissionId,
    ) -> Self {
        Self {
            channel,
            adapter,
            has_ended: false,
            hears_until: None,
            broken: None,
            has_more: false,
            token,
            admission,
            must_prove: false,
            partial: None,
            waiting: false,
            closing: None,
            finished: false,
            blocked: false,
            is_paused: false,
            awaiting_credit: false,
            has_partial_record: false,
            is_vouched: false,
            tick_at: None,
            lost: 0,
            armed: PollInterest::default(),
        }
    }

    /// Whether the channel is to be looked at when it is readable.
    pub(crate) fn wants_read(&self) -> bool {
        (!self.waiting && !self.has_ended) || self.channel.wants_service()
    }

    /// Whether the channel is to be looked at when it can be written to.
    pub(crate) fn wants_write(&self) -> bool {
        self.broken.is_none() && (self.blocked || self.channel.wants_room())
    }

    /// Tells the kernel what to wait for, if that has changed. A descriptor that is not waited for
    /// is taken out: the kernel would report its hang-up again and again.
    pub(crate) fn arm(&mut self, epoll: &Epoll) -> nix::Result<()> {
        let wanted = match self.is_paused {
            true => PollInterest::default(),
            false => PollInterest {
                read: self.wants_read(),
                write: self.wants_write(),
                end: self.hears_until.is_some(),
            },
        };
        let edges = self.channel.reports_edges();
        // With edges, epoll reports only new bytes. EPOLL_CTL_MOD makes it look again, and report
        // those that are still there.
        let renews = std::mem::take(&mut self.has_more) && edges && wanted.read;
        if wanted == self.armed && !renews {
            return Ok(());
        }
        let (read_fd, write_fd) = (self.channel.read_fd(), self.channel.write_fd());
        let (data, armed) = (self.token.to_u64(), self.armed);
        // A descriptor can be registered once only, so that a socket has one entry for both
        // directions.
        if read_fd.as_raw_fd() == write_fd.as_raw_fd() {
            change(epoll, read_fd, armed.flags(edges), wanted.flags(edges), renews, data)?;
        } else {
            let input =
                |of: PollInterest| PollInterest { read: of.read, ..PollInterest::default() };
            let output = |of: PollInterest| PollInterest { read: false, ..of };
            let [before, after] = [armed, wanted].map(|of| input(of).flags(edges));
            change(epoll, read_fd, before, after, renews, data)?;
            let [before, after] = [armed, wanted].map(|of| output(of).flags(false));
            change(epoll, write_fd, before, after, false, data)?;
        }
        self.armed = wanted;
        Ok(())
    }
}

/// Changes what is waited for; what is renewed is reported again although it is the same.
fn change(
    epoll: &Epoll,
    fd: BorrowedFd<'_>,
    before: Option<EpollFlags>,
    after: Option<EpollFlags>,
    is_renewed: bool,
    data: u64,
) -> nix::Result<()> {
    match (before, after) {
        (before, after) if before == after && !is_renewed => Ok(()),
        (None, Some(flags)) => epoll.add(fd, EpollEvent::new(flags, data)),
        (Some(_), Some(flags)) => epoll.modify(fd, &mut EpollEvent::new(flags, data)),
        (_, None) => epoll.delete(fd),
    }
}
