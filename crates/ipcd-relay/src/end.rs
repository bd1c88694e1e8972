//! One end of a pair: a channel to a program, or a subject of the daemon.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use ipcd_proto::{Codec, HttpDetector, HttpVerdict};
use ipcd_transport::{RawChannel, ReadBuffer, ReadOutcome, WriteOutcome};
use nix::sys::epoll::EpollFlags;

use crate::Result;
use crate::subject::SubjectSession;
use crate::watch::{EDGES, EpollWatch, INPUT, ONLY_THE_END, ROOM, WatchToken, WatchedFlags};

pub(crate) enum EndTransport {
    Channel(RawChannel),
    Subject(Box<SubjectSession>),
}

pub(crate) struct PairEnd {
    transport: EndTransport,
    pub(crate) codec: Codec,
    /// The watched events of the descriptor that is read, and of the one that is written if they
    /// differ.
    watched: [WatchedFlags; 2],
    /// Whether its peer has received the end of the stream.
    is_finished: bool,
    /// Whether it is read only to find that its peer has closed.
    lingers: bool,
    /// Looks at the beginning of its bytes, as long as they may be an HTTP request.
    http: Option<HttpDetector>,
}

/// Reads of an end in one turn, while its peer's close is awaited.
const LAST_READS: usize = 16;

/// The events of an end that its two flows want.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WantedEvents {
    pub(crate) input: bool,
    pub(crate) room: bool,
    /// Whether it is still written and no longer read: only an event shows then that its peer has
    /// gone.
    pub(crate) end: bool,
}

impl PairEnd {
    /// A message is a line of a stream, or a record, unless a codec says otherwise.
    pub(crate) fn channel(channel: RawChannel, codec: Option<Codec>) -> Self {
        let usual = if channel.keeps_records { Codec::Raw } else { Codec::Line };
        let codec = codec.unwrap_or(usual);
        Self {
            transport: EndTransport::Channel(channel),
            codec,
            watched: [None; 2],
            is_finished: false,
            lingers: false,
            http: None,
        }
    }

    pub(crate) fn subject(subject: SubjectSession) -> Self {
        let transport = EndTransport::Subject(Box::new(subject));
        Self {
            transport,
            codec: Codec::Raw,
            watched: [None; 2],
            is_finished: false,
            lingers: false,
            http: None,
        }
    }

    /// Refuses a stream that begins like an HTTP request: a web page can have a browser send lines of
    /// its choice to a port of the loopback.
    pub(crate) fn refuse_http(&mut self) {
        self.http = self.has_end().then(HttpDetector::default);
    }

    /// Whether these bytes, which have just been read, show that it is an HTTP request.
    pub(crate) fn is_http(&mut self, bytes: &[u8]) -> bool {
        let Some(detector) = &mut self.http else { return false };
        // Each read of the raw codec is a message, so the verdict cannot wait for more.
        let verdict = detector.take(bytes, self.codec == Codec::Raw);
        if verdict != HttpVerdict::Open {
            self.http = None;
        }
        verdict == HttpVerdict::Request
    }

    pub(crate) fn read_fd(&self) -> BorrowedFd<'_> {
        match &self.transport {
            EndTransport::Channel(raw) => raw.channel.read_fd(),
            EndTransport::Subject(subject) => subject.client.read_fd(),
        }
    }

    pub(crate) fn write_fd(&self) -> BorrowedFd<'_> {
        match &self.transport {
            EndTransport::Channel(raw) => raw.channel.write_fd(),
            EndTransport::Subject(subject) => subject.client.write_fd(),
        }
    }

    pub(crate) fn keeps_records(&self) -> bool {
        match &self.transport {
            EndTransport::Channel(raw) => raw.keeps_records,
            EndTransport::Subject(_) => true,
        }
    }

    /// Whether a record may be empty.
    pub(crate) fn takes_empty(&self) -> bool {
        matches!(self.transport, EndTransport::Subject(_))
    }

    /// Bytes of the largest record.
    pub(crate) fn largest(&self) -> usize {
        match &self.transport {
            EndTransport::Channel(raw) => raw.largest.unwrap_or(usize::MAX),
            EndTransport::Subject(subject) => subject.client.max_payload(),
        }
    }

    /// Whether its peer signals the end of its input.
    pub(crate) fn has_end(&self) -> bool {
        matches!(&self.transport, EndTransport::Channel(raw) if raw.has_end)
    }

    /// Whether its bytes may be moved by descriptor.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&self.transport, EndTransport::Channel(raw) if !raw.keeps_records && raw.channel.is_plain())
    }

    /// The process that was started for it.
    pub(crate) fn child(&self) -> Option<u32> {
        match &self.transport {
            EndTransport::Channel(raw) => raw.child,
            EndTransport::Subject(_) => None,
        }
    }

    /// Handles the connection's own traffic, before and after anything is read or written. Returns
    /// whether input is buffered, which no descriptor reports any more.
    pub(crate) fn advance(&mut self) -> bool {
        match &mut self.transport {
            EndTransport::Channel(raw) => serve_channel(raw),
            EndTransport::Subject(subject) => subject.advance(),
        }
    }

    pub(crate) fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        match &mut self.transport {
            EndTransport::Channel(raw) => Ok(raw.channel.read(into)?),
            EndTransport::Subject(subject) => subject.read(into),
        }
    }

    /// Returns the number of bytes taken; `None` if there is no room now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let raw = match &mut self.transport {
            EndTransport::Channel(raw) => raw,
            EndTransport::Subject(subject) => return subject.write(bytes),
        };
        match raw.channel.write(bytes)? {
            WriteOutcome::Bytes(count) => Ok(Some(count)),
            WriteOutcome::NotReady | WriteOutcome::NoCredit => Ok(None),
            // The same error as for a pipe without a reader.
            WriteOutcome::Nobody => {
                let nobody = io::Error::from(io::ErrorKind::BrokenPipe);
                Err(ipcd_transport::Error::system("write", nobody).into())
            }
        }
    }

    /// The reason why the daemon has refused a message.
    pub(crate) fn take_refused(&mut self) -> Option<String> {
        match &mut self.transport {
            EndTransport::Channel(_) => None,
            EndTransport::Subject(subject) => subject.take_refused(),
        }
    }

    /// Passes the end of the stream on. A subject is left at the end of the pair only: the daemon
    /// may still have messages for it.
    pub(crate) fn finish(&mut self, token: WatchToken, watch: &EpollWatch) -> Result<()> {
        let EndTransport::Channel(raw) = &mut self.transport else { return Ok(()) };
        if raw.channel.read_fd().as_raw_fd() != raw.channel.write_fd().as_raw_fd() {
            // The descriptor closes, and its number may be reused.
            watch.set(raw.channel.write_fd(), token, self.watched[1].take(), None)?;
        }
        // A failure means that the peer has gone already.
        let _ = raw.channel.finish();
        self.is_finished = true;
        Ok(())
    }

    /// Does what is due, and returns the next deadline. An error ends the end.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        match &mut self.transport {
            EndTransport::Channel(raw) => Ok(raw.channel.tick(now)?),
            EndTransport::Subject(subject) => {
                if subject.tick.is_some_and(|due| due <= now) {
                    subject.advance();
                }
                Ok(subject.tick)
            }
        }
    }

    /// Closes the end, and returns whether that is complete. The daemon has accepted all published
    /// messages by then. A socket is complete when its peer has closed: closing it with unread
    /// input would be a reset, and the peer would lose the bytes that are still on their way (RFC
    /// 2525, section 2.17).
    pub(crate) fn leave(&mut self, has_read_all: bool, read_buf: &mut ReadBuffer) -> bool {
        match &mut self.transport {
            EndTransport::Channel(raw) => {
                let is_socket =
                    raw.channel.read_fd().as_raw_fd() == raw.channel.write_fd().as_raw_fd();
                if has_read_all || !raw.has_end || !is_socket {
                    return true;
                }
                if !std::mem::replace(&mut self.is_finished, true) {
                    // A peer that has gone already is found by reading.
                    let _ = raw.channel.finish();
                }
                self.lingers = !has_closed(raw, read_buf);
                !self.lingers
            }
            EndTransport::Subject(subject) => {
                subject.leave();
                subject.has_gone()
            }
        }
    }

    /// Watches the wanted events.
    pub(crate) fn watch(
        &mut self,
        wish: WantedEvents,
        token: WatchToken,
        watch: &EpollWatch,
    ) -> Result<()> {
        let (input, room) = self.wanted(wish);
        let is_one = self.read_fd().as_raw_fd() == self.write_fd().as_raw_fd();
        let [was_input, was_room] = self.watched;
        // epoll(7) has one entry for a descriptor, so the events of both directions are combined.
        if is_one {
            let both = match (input, room) {
                (None, None) => None,
                (input, room) => Some(input.unwrap_or(ONLY_THE_END) | room.unwrap_or(ONLY_THE_END)),
            };
            watch.set(self.read_fd(), token, was_input, both)?;
            self.watched = [both, None];
        } else {
            watch.set(self.read_fd(), token, was_input, input)?;
            watch.set(self.write_fd(), token, was_room, room)?;
            self.watched = [input, room];
        }
        Ok(())
    }

    /// Stops watching.
    pub(crate) fn unwatch(&mut self, token: WatchToken, watch: &EpollWatch) -> Result<()> {
        let [was_input, was_room] = std::mem::take(&mut self.watched);
        watch.set(self.read_fd(), token, was_input, None)?;
        watch.set(self.write_fd(), token, was_room, None)
    }

    fn wanted(&mut self, wish: WantedEvents) -> (WatchedFlags, WatchedFlags) {
        let when = |wanted: bool, flags: EpollFlags| wanted.then_some(flags);
        match &mut self.transport {
            EndTransport::Channel(raw) => {
                // During a handshake the channel takes no bytes, even if the socket has room.
                let shakes_hands = raw.channel.wants_service();
                let has_something = (wish.room && !shakes_hands) || raw.channel.wants_room();
                let room = when(has_something, ROOM).or(when(wish.end, ONLY_THE_END));
                let input = if raw.channel.reports_edges() { EDGES } else { INPUT };
                (when(wish.input || shakes_hands || self.lingers, input), room)
            }
            EndTransport::Subject(subject) => {
                subject.takes = wish.input;
                let input = wish.input || subject.has_left() || subject.client.wants_service();
                (when(input, INPUT), when(subject.client.wants_room(), ROOM))
            }
        }
    }
}

/// Discards input; returns whether the peer has closed.
fn has_closed(raw: &mut RawChannel, read_buf: &mut ReadBuffer) -> bool {
    for _ in 0..LAST_READS {
        read_buf.clear();
        match raw.channel.read(read_buf) {
            Ok(ReadOutcome::Bytes(_)) => {}
            Ok(ReadOutcome::NotReady | ReadOutcome::Boundary) => return false,
            Ok(ReadOutcome::Closed) | Err(_) => return true,
        }
    }
    false
}

/// Lets a channel handle its own traffic, such as a handshake. Returns whether that may have
/// brought further input. An error is found by the next read or write.
fn serve_channel(raw: &mut RawChannel) -> bool {
    let shook_hands = raw.channel.wants_service();
    if shook_hands || raw.channel.wants_room() {
        let _ = raw.channel.serve();
    }
    shook_hands && !raw.channel.wants_service()
}
