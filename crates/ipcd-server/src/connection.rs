//! One peer of a worker: its channel, what was read and not yet used, and what to wait for.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use ipcd_transport::{Channel, ReadBuffer};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::translator::Translator;

/// Says which connection, and which of its descriptors, an event is about. Places are used again,
/// so that the connection's number is part of it: an event for one that is gone is recognised.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Token {
    pub(crate) place: u32,
    pub(crate) number: u32,
}

impl Token {
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
    /// What translates for a bare peer.
    pub(crate) translator: Option<Box<Translator>>,
    /// Whether a bare peer sends no more, and goes once all it has sent is accepted.
    pub(crate) has_ended: bool,
    pub(crate) token: Token,
    /// The supervisor's number for the peer.
    pub(crate) admission: u64,
    /// Whether it has to prove a token, and has not yet.
    pub(crate) must_prove: bool,
    /// The beginning of a frame whose rest has not come, or what a waiting peer has sent.
    pub(crate) rest: Option<Box<ReadBuffer>>,
    /// Whether the peer's messages wait for somebody's outbox.
    pub(crate) waiting: bool,
    /// Why nothing more is read but the end: the outbox is written, then the channel finished.
    pub(crate) closing: Option<Box<str>>,
    pub(crate) finished: bool,
    /// Whether the channel has to tell us when it can be written to.
    pub(crate) blocked: bool,
    /// Whether the kernel had no memory for it: it is left alone for a while.
    pub(crate) rests: bool,
    /// Whether to write again once it has been served: it waits for credit, or for a handshake.
    pub(crate) starved: bool,
    /// Whether the router knows that a record of the transport's is incomplete.
    pub(crate) has_begun: bool,
    /// Whether the router knows that the peer has shown a certificate.
    pub(crate) is_vouched: bool,
    /// The channel's earliest entry in the worker's queue of ticks.
    pub(crate) tick_at: Option<Instant>,
    /// Frames that its transport has lost, as far as they are counted.
    pub(crate) lost: u64,
    armed: Interest,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Interest {
    read: bool,
    write: bool,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        let read = if self.read { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        let write = if self.write { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        read | write
    }
}

impl Connection {
    pub(crate) fn new(
        channel: Box<dyn Channel>,
        translator: Option<Box<Translator>>,
        token: Token,
        admission: u64,
    ) -> Self {
        Self {
            channel,
            translator,
            has_ended: false,
            token,
            admission,
            must_prove: false,
            rest: None,
            waiting: false,
            closing: None,
            finished: false,
            blocked: false,
            rests: false,
            starved: false,
            has_begun: false,
            is_vouched: false,
            tick_at: None,
            lost: 0,
            armed: Interest::default(),
        }
    }

    /// Whether the channel is to be looked at when it is readable.
    pub(crate) fn wants_read(&self) -> bool {
        (!self.waiting && !self.has_ended) || self.channel.wants_service()
    }

    /// Whether the channel is to be looked at when it can be written to.
    pub(crate) fn wants_write(&self) -> bool {
        self.blocked || self.channel.wants_room()
    }

    /// Tells the kernel what to wait for, if that has changed. A descriptor that is not waited for
    /// is taken out: the kernel would report its hang-up again and again.
    pub(crate) fn arm(&mut self, epoll: &Epoll) -> nix::Result<()> {
        let wanted = match self.rests {
            true => Interest::default(),
            false => Interest { read: self.wants_read(), write: self.wants_write() },
        };
        if wanted == self.armed {
            return Ok(());
        }
        let (read_fd, write_fd) = (self.channel.read_fd(), self.channel.write_fd());
        let data = self.token.to_u64();
        if read_fd.as_raw_fd() == write_fd.as_raw_fd() {
            change(epoll, read_fd, self.armed.flags(), wanted.flags(), data)?;
        } else {
            let only = |read, write| Interest { read, write }.flags();
            change(epoll, read_fd, only(self.armed.read, false), only(wanted.read, false), data)?;
            change(
                epoll,
                write_fd,
                only(false, self.armed.write),
                only(false, wanted.write),
                data,
            )?;
        }
        self.armed = wanted;
        Ok(())
    }
}

fn change(
    epoll: &Epoll,
    fd: BorrowedFd<'_>,
    before: EpollFlags,
    after: EpollFlags,
    data: u64,
) -> nix::Result<()> {
    let mut event = EpollEvent::new(after, data);
    match (before.is_empty(), after.is_empty()) {
        _ if before == after => Ok(()),
        (true, _) => epoll.add(fd, event),
        (false, true) => epoll.delete(fd),
        (false, false) => epoll.modify(fd, &mut event),
    }
}
