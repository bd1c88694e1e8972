//! One end of a pair: a channel to a program, or a subject of the daemon.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use ipcd_proto::{Codec, HttpDetector, HttpVerdict};
use ipcd_transport::{RawChannel, ReadBuffer, ReadOutcome, WriteOutcome};
use nix::sys::epoll::EpollFlags;

use crate::Result;
use crate::subject::Subject;
use crate::watch::{EDGES, INPUT, ONLY_THE_END, ROOM, Token, Wanted, Watch};

pub(crate) enum Way {
    Channel(RawChannel),
    Subject(Box<Subject>),
}

pub(crate) struct End {
    way: Way,
    pub(crate) codec: Codec,
    /// What is watched of the descriptor that is read, and of the one that is written if that is
    /// another.
    watched: [Wanted; 2],
    /// Whether its peer was told that nothing more comes.
    is_finished: bool,
    /// Whether it is read only to find that its peer has closed.
    lingers: bool,
    /// Looks at the beginning of its bytes, as long as they may be an HTTP request.
    http: Option<HttpDetector>,
}

/// Reads that are made of an end in a turn while its peer is waited for.
const LAST_READS: usize = 16;

/// What the flows want of an end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) input: bool,
    pub(crate) room: bool,
    /// Whether it is still written, and read no more: then its end would go unnoticed.
    pub(crate) end: bool,
}

impl End {
    /// A message is a line of a stream, or a record, unless a codec says otherwise.
    pub(crate) fn channel(channel: RawChannel, codec: Option<Codec>) -> Self {
        let usual = if channel.keeps_records { Codec::Raw } else { Codec::Line };
        let codec = codec.unwrap_or(usual);
        Self {
            way: Way::Channel(channel),
            codec,
            watched: [None; 2],
            is_finished: false,
            lingers: false,
            http: None,
        }
    }

    pub(crate) fn subject(subject: Subject) -> Self {
        let way = Way::Subject(Box::new(subject));
        Self {
            way,
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
        let verdict = detector.take(bytes, self.codec == Codec::Raw);
        if verdict != HttpVerdict::Open {
            self.http = None;
        }
        verdict == HttpVerdict::Request
    }

    pub(crate) fn read_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Channel(bare) => bare.channel.read_fd(),
            Way::Subject(subject) => subject.client.read_fd(),
        }
    }

    pub(crate) fn write_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Channel(bare) => bare.channel.write_fd(),
            Way::Subject(subject) => subject.client.write_fd(),
        }
    }

    pub(crate) fn keeps_records(&self) -> bool {
        match &self.way {
            Way::Channel(bare) => bare.keeps_records,
            Way::Subject(_) => true,
        }
    }

    /// Whether a record may be empty.
    pub(crate) fn takes_empty(&self) -> bool {
        matches!(self.way, Way::Subject(_))
    }

    /// Bytes of the largest record.
    pub(crate) fn largest(&self) -> usize {
        match &self.way {
            Way::Channel(bare) => bare.largest.unwrap_or(usize::MAX),
            Way::Subject(subject) => subject.client.max_payload(),
        }
    }

    /// Whether it says when it is done.
    pub(crate) fn has_end(&self) -> bool {
        matches!(&self.way, Way::Channel(bare) if bare.has_end)
    }

    /// Whether its bytes may be moved by descriptor.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&self.way, Way::Channel(bare) if !bare.keeps_records && bare.channel.is_plain())
    }

    /// The process that was started for it.
    pub(crate) fn child(&self) -> Option<u32> {
        match &self.way {
            Way::Channel(bare) => bare.child,
            Way::Subject(_) => None,
        }
    }

    /// Does what a connection of its own needs, before and after anything is read or written.
    /// Whether something has come that no descriptor tells about any more.
    pub(crate) fn advance(&mut self) -> bool {
        match &mut self.way {
            Way::Channel(bare) => serve(bare),
            Way::Subject(subject) => subject.advance(),
        }
    }

    pub(crate) fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        match &mut self.way {
            Way::Channel(bare) => Ok(bare.channel.read(into)?),
            Way::Subject(subject) => subject.read(into),
        }
    }

    /// How many of the bytes were taken; `None` when there is no room now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let bare = match &mut self.way {
            Way::Channel(bare) => bare,
            Way::Subject(subject) => return subject.write(bytes),
        };
        match bare.channel.write(bytes)? {
            WriteOutcome::Bytes(count) => Ok(Some(count)),
            WriteOutcome::NotReady | WriteOutcome::NoCredit => Ok(None),
            // As a pipe whose reader has gone.
            WriteOutcome::Nobody => {
                let nobody = io::Error::from(io::ErrorKind::BrokenPipe);
                Err(ipcd_transport::Error::system("write", nobody).into())
            }
        }
    }

    /// Why a message was refused by whoever is behind it.
    pub(crate) fn take_refused(&mut self) -> Option<String> {
        match &mut self.way {
            Way::Channel(_) => None,
            Way::Subject(subject) => subject.take_refused(),
        }
    }

    /// Passes on that nothing more will be written. A subject is left at the end, not before: it
    /// may still have something to say.
    pub(crate) fn finish(&mut self, token: Token, watch: &Watch) -> Result<()> {
        let Way::Channel(bare) = &mut self.way else { return Ok(()) };
        if bare.channel.read_fd().as_raw_fd() != bare.channel.write_fd().as_raw_fd() {
            // The descriptor goes, and its number may soon be another's.
            watch.set(bare.channel.write_fd(), token, self.watched[1].take(), None)?;
        }
        // One that has gone already needs not be told.
        let _ = bare.channel.finish();
        self.is_finished = true;
        Ok(())
    }

    /// Does what is due, and says when it wants to be called again. An error is its end.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        match &mut self.way {
            Way::Channel(bare) => Ok(bare.channel.tick(now)?),
            Way::Subject(subject) => {
                if subject.tick.is_some_and(|due| due <= now) {
                    subject.advance();
                }
                Ok(subject.tick)
            }
        }
    }

    /// Lets go of it; whether that is done. What was published is accepted by then. A socket's peer
    /// has closed: one of which something is unread when we close is reset, and what is still on its
    /// way to it is lost (RFC 2525, section 2.17).
    pub(crate) fn leave(&mut self, has_read_all: bool, scratch: &mut ReadBuffer) -> bool {
        match &mut self.way {
            Way::Channel(bare) => {
                let is_socket =
                    bare.channel.read_fd().as_raw_fd() == bare.channel.write_fd().as_raw_fd();
                if has_read_all || !bare.has_end || !is_socket {
                    return true;
                }
                if !std::mem::replace(&mut self.is_finished, true) {
                    // One that has gone already is found by reading.
                    let _ = bare.channel.finish();
                }
                self.lingers = !has_closed(bare, scratch);
                !self.lingers
            }
            Way::Subject(subject) => {
                subject.leave();
                subject.has_gone()
            }
        }
    }

    /// Watches for what is wanted.
    pub(crate) fn watch(&mut self, wish: Wish, token: Token, watch: &Watch) -> Result<()> {
        let (input, room) = self.wanted(wish);
        let is_one = self.read_fd().as_raw_fd() == self.write_fd().as_raw_fd();
        let [was_input, was_room] = self.watched;
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

    /// Watches for nothing any more.
    pub(crate) fn unwatch(&mut self, token: Token, watch: &Watch) -> Result<()> {
        let [was_input, was_room] = std::mem::take(&mut self.watched);
        watch.set(self.read_fd(), token, was_input, None)?;
        watch.set(self.write_fd(), token, was_room, None)
    }

    fn wanted(&mut self, wish: Wish) -> (Wanted, Wanted) {
        let when = |wanted: bool, flags: EpollFlags| wanted.then_some(flags);
        match &mut self.way {
            Way::Channel(bare) => {
                // While it shakes hands it takes nothing, whatever room there is.
                let shakes_hands = bare.channel.wants_service();
                let has_something = (wish.room && !shakes_hands) || bare.channel.wants_room();
                let room = when(has_something, ROOM).or(when(wish.end, ONLY_THE_END));
                let input = if bare.channel.reports_edges() { EDGES } else { INPUT };
                (when(wish.input || shakes_hands || self.lingers, input), room)
            }
            Way::Subject(subject) => {
                subject.takes = wish.input;
                let input = wish.input || subject.has_left() || subject.client.wants_service();
                (when(input, INPUT), when(subject.client.wants_room(), ROOM))
            }
        }
    }
}

/// Reads what nobody wants any more; whether the end has come.
fn has_closed(bare: &mut RawChannel, scratch: &mut ReadBuffer) -> bool {
    for _ in 0..LAST_READS {
        scratch.clear();
        match bare.channel.read(scratch) {
            Ok(ReadOutcome::Bytes(_)) => {}
            Ok(ReadOutcome::NotReady | ReadOutcome::Boundary) => return false,
            Ok(ReadOutcome::Closed) | Err(_) => return true,
        }
    }
    false
}

/// Lets a channel handle its own traffic, such as a handshake; whether that may have brought more
/// than its own. What fails is found by whoever reads or writes next.
fn serve(bare: &mut RawChannel) -> bool {
    let shook_hands = bare.channel.wants_service();
    if shook_hands || bare.channel.wants_room() {
        let _ = bare.channel.serve();
    }
    shook_hands && !bare.channel.wants_service()
}
