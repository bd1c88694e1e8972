//! One end of a channel with what the daemon would have around it: an outbox, a read buffer, and
//! a loop that waits in poll(2).

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use ipcd_transport::{
    Channel, ChannelParts, Error, ReadBuffer, ReadOutcome, Result, Transport, WriteOutcome,
    frame_len, poll_until,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::frames::{self, LARGEST, ReceivedFrames};
use crate::watchdog::Watchdog;

/// Pieces that are offered at once.
const PIECES: usize = 10;
/// Room in a read buffer at first.
const CAPACITY: usize = 64 * 1024;

/// A channel that is driven by [`drive`].
pub(crate) struct TestPeer {
    channel: Box<dyn Channel>,
    outbox: Vec<u8>,
    /// Bytes of the pieces that the outbox is offered in; without any, it is offered as a whole.
    pieces: VecDeque<usize>,
    pub(crate) inbox: ReadBuffer,
    /// Whether it reads; if not, the peer's writes must come to a halt.
    pub(crate) reads: bool,
    /// Whether it sends back what it gets.
    pub(crate) echoes: bool,
    pub(crate) received: ReceivedFrames,
    /// Bytes that the channel has taken.
    pub(crate) taken: usize,
    /// Writes of which the channel took a part, and those of which it took nothing.
    pub(crate) taken_in_part: u32,
    pub(crate) held_back: u32,
    pub(crate) end: Option<PeerEnd>,
    pub(crate) write_error: Option<Error>,
    waits_for_room: bool,
    is_broken: bool,
    due: Option<Instant>,
}

/// The end of reading.
#[derive(Debug)]
pub(crate) enum PeerEnd {
    Closed,
    Failed(Error),
}

impl TestPeer {
    pub(crate) fn new(transport: &dyn Transport, channel: Box<dyn Channel>) -> Self {
        Self {
            channel,
            outbox: Vec::new(),
            pieces: VecDeque::new(),
            inbox: ReadBuffer::new(CAPACITY, LARGEST),
            reads: true,
            echoes: false,
            received: ReceivedFrames::nothing(!transport.capabilities().reliable),
            taken: 0,
            taken_in_part: 0,
            held_back: 0,
            end: None,
            write_error: None,
            waits_for_room: false,
            is_broken: false,
            due: None,
        }
    }

    pub(crate) fn adopt(transport: &dyn Transport, parts: ChannelParts) -> Self {
        Self::new(transport, transport.adopt(parts).expect("accepted parts make a channel"))
    }

    pub(crate) fn channel(&self) -> &dyn Channel {
        &*self.channel
    }

    /// Puts these bytes behind what is still to be written.
    pub(crate) fn offer(&mut self, frames: &[u8]) {
        self.outbox.extend_from_slice(frames);
    }

    /// The same, to be offered as a piece of its own.
    pub(crate) fn offer_piece(&mut self, frames: &[u8]) {
        self.offer(frames);
        self.pieces.push_back(frames.len());
    }

    /// Bytes that are still to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.outbox.len()
    }

    pub(crate) fn finish(&mut self) {
        assert!(self.outbox.is_empty(), "finished with bytes still to be written");
        self.channel.finish().expect("a channel can be finished");
    }

    pub(crate) fn into_parts(self) -> ChannelParts {
        assert!(self.outbox.is_empty() && self.inbox.is_empty(), "taken apart inside a frame");
        self.channel.into_parts()
    }

    /// Whether the channel cuts frames into records and puts them together again.
    pub(crate) fn keeps_records(&self) -> bool {
        match getsockopt(&self.channel.read_fd(), sockopt::SockType) {
            Ok(kind) => kind != SockType::Stream,
            Err(Errno::ENOTSOCK) => false,
            Err(error) => panic!("getsockopt: {error}"),
        }
    }

    /// Whether reading has ended, and as it may when the other side is gone without a word.
    pub(crate) fn has_lost_its_peer(&self) -> bool {
        match &self.end {
            None => false,
            Some(PeerEnd::Closed) => true,
            Some(PeerEnd::Failed(error)) => {
                assert!(error.is_disconnect(), "no disconnect: {error}");
                true
            }
        }
    }

    /// Whether everything of the peer's was read, to its clean end.
    pub(crate) fn is_at_end(&self) -> bool {
        if let Some(PeerEnd::Failed(error)) = &self.end {
            panic!("reading ended with: {error}");
        }
        self.end.is_some()
    }

    /// Writes and reads once; whether anything came of it.
    fn turn(&mut self) -> bool {
        let wrote = self.write_once();
        let read = if self.wants_input() { self.read_once() } else { self.serve_once() };
        self.tick();
        wrote || read
    }

    fn wants_input(&self) -> bool {
        self.reads && self.end.is_none()
    }

    fn write_once(&mut self) -> bool {
        self.waits_for_room = false;
        if self.outbox.is_empty() || self.write_error.is_some() {
            return false;
        }
        match self.write_outbox() {
            Ok(WriteOutcome::Bytes(count)) => {
                self.taken += count;
                self.pass_pieces(count);
                self.taken_in_part += u32::from(count < self.outbox.len());
                self.outbox.drain(..count);
                self.check_pinned();
                return count > 0;
            }
            Ok(WriteOutcome::NotReady) => {
                self.check_pinned();
                self.waits_for_room = true;
            }
            Ok(WriteOutcome::NoCredit) => {}
            Ok(WriteOutcome::Nobody) => panic!("only a raw channel reports a missing reader"),
            Err(error) => {
                self.write_error = Some(error);
                return true;
            }
        }
        self.held_back += 1;
        false
    }

    fn write_outbox(&mut self) -> Result<WriteOutcome> {
        if self.pieces.is_empty() {
            return self.channel.write(&self.outbox);
        }
        let mut rest = &self.outbox[..];
        let piece = |length: &usize| {
            IoSlice::new(rest.split_off(..*length).expect("the pieces are of the outbox"))
        };
        let pieces: Vec<_> = self.pieces.iter().take(PIECES).map(piece).collect();
        self.channel.write_pieces(&pieces)
    }

    fn pass_pieces(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let passed = count.min(*piece);
            (*piece, count) = (*piece - passed, count - passed);
            if *piece > 0 {
                return;
            }
            self.pieces.pop_front();
        }
    }

    /// Checks that pinned bytes are among those offered.
    fn check_pinned(&self) {
        let pinned = self.channel.pinned();
        assert!(pinned <= self.outbox.len(), "{pinned} bytes are pinned, and fewer were offered");
    }

    /// Serves the handshake to its end, and reads nothing that comes after it.
    pub(crate) fn shake_hands(&mut self) {
        self.reads = false;
        drive("the handshake", [self], |[peer]| !peer.channel.wants_service());
        self.reads = true;
    }

    fn read_once(&mut self) -> bool {
        match self.channel.read(&mut self.inbox) {
            Ok(ReadOutcome::Bytes(_)) => self.take_frames(),
            Ok(ReadOutcome::NotReady | ReadOutcome::Boundary) => return false,
            Ok(ReadOutcome::Closed) => self.end = Some(PeerEnd::Closed),
            Err(error) => self.end = Some(PeerEnd::Failed(error)),
        }
        true
    }

    fn take_frames(&mut self) {
        while let Some(len) =
            frame_len(self.inbox.filled()).filter(|&l| l <= self.inbox.filled().len())
        {
            assert!(len >= ipcd_transport::LENGTH_BYTES, "a frame shorter than its length field");
            let frame = &self.inbox.filled()[..len];
            self.received.check(frame);
            if self.echoes {
                self.outbox.extend_from_slice(frame);
            }
            self.inbox.consume(len);
        }
    }

    /// If the transport has traffic of its own, writing may depend on it, also after the end of
    /// reading.
    fn serve_once(&mut self) -> bool {
        let is_due = self.wants_service() && self.is_ready(PollFlags::POLLIN)
            || self.wants_room() && self.is_ready(PollFlags::POLLOUT);
        if !is_due {
            return false;
        }
        if let Err(error) = self.channel.serve() {
            self.break_off(error);
        }
        true
    }

    /// A peer that says nothing any more is given up here.
    fn tick(&mut self) {
        match self.channel.tick(Instant::now()) {
            Ok(due) => self.due = due,
            Err(error) => self.break_off(error),
        }
    }

    fn break_off(&mut self, error: Error) {
        (self.is_broken, self.due) = (true, None);
        self.end.get_or_insert(PeerEnd::Failed(error));
    }

    fn wants_service(&self) -> bool {
        self.channel.wants_service() && !self.is_broken
    }

    fn wants_room(&self) -> bool {
        self.channel.wants_room() && !self.is_broken
    }

    fn is_ready(&self, events: PollFlags) -> bool {
        let fd = match events {
            PollFlags::POLLOUT => self.channel.write_fd(),
            _ => self.channel.read_fd(),
        };
        poll_until(&fd, events, Instant::now()).expect("poll works")
    }

    /// The events that [`drive`] has to wait for.
    fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let wants_input = self.wants_input() || self.wants_service();
        let input = wants_input.then(|| (self.channel.read_fd(), PollFlags::POLLIN));
        let waits_for_room = self.waits_for_room || self.wants_room();
        let room = waits_for_room.then(|| (self.channel.write_fd(), PollFlags::POLLOUT));
        input.into_iter().chain(room).collect()
    }
}

/// Lets the peers write and read until `done` says so.
pub(crate) fn drive<const N: usize>(
    what: &str,
    mut peers: [&mut TestPeer; N],
    mut done: impl FnMut(&mut [&mut TestPeer; N]) -> bool,
) {
    let watchdog = Watchdog::over(what);
    while !done(&mut peers) {
        // Every peer gets its turn, even if an earlier one made progress.
        let progress = peers.iter_mut().fold(false, |progress, peer| peer.turn() | progress);
        if !progress && !done(&mut peers) {
            wait(&peers, &watchdog);
        }
    }
}

/// More than any transport keeps on its way, and more than the kernel grows a TCP socket's buffers
/// to.
const MORE_THAN_FITS: usize = 64 * 1024 * 1024;

/// Writes frames of this length, from number 0 on, until the channel takes no more, as it must while
/// the other side does not read; returns how many were offered.
pub(crate) fn fill(peer: &mut TestPeer, len: usize) -> u32 {
    let mut number = 0;
    while peer.held_back == 0 {
        assert!(peer.taken < MORE_THAN_FITS, "nothing holds the writer back");
        let mut batch = Vec::new();
        while batch.len() < CAPACITY {
            frames::append(&mut batch, number, len);
            number += 1;
        }
        peer.offer(&batch);
        drive("a batch taken", [peer], |[peer]| peer.held_back > 0 || peer.backlog() == 0);
    }
    number
}

fn wait(peers: &[&mut TestPeer], watchdog: &Watchdog) {
    let due = peers.iter().filter_map(|peer| peer.due).min();
    let until_due = due.map(|due| due.saturating_duration_since(Instant::now()));
    let left = until_due.map_or(watchdog.left(), |until_due| until_due.min(watchdog.left()));
    let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    let interests: Vec<_> = peers.iter().flat_map(|peer| peer.interests()).collect();
    let mut polled: Vec<_> =
        interests.iter().map(|&(fd, events)| PollFd::new(fd, events)).collect();
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => panic!("poll: {error}"),
    }
}
