//! A channel with its buffers: frames in and out, and waiting for either.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipcd_proto::{Decoded, Frame, FrameWriter, Header, Kind, decode, frame_len, limits};
use ipcd_transport::{
    Channel, ReadBuffer, ReadOutcome, WriteOutcome, deadline_after, poll_some,
};

use nix::poll::{PollFd, PollFlags};

use crate::{Error, Result};

/// Bytes that are gathered before they are written.
pub(crate) const BATCH: usize = 64 * 1024;
/// Bytes of the read buffer at first.
const READ_BYTES: usize = 64 * 1024;
/// A read that brings less has most likely emptied the channel.
const MUCH: usize = 4 * 1024;
/// How long the end of a connection may take.
const CLOSING: Duration = Duration::from_millis(500);

/// What a turn is for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish<'a> {
    /// When to give up.
    pub(crate) deadline: Option<Instant>,
    /// Another descriptor, to be read by the caller.
    pub(crate) also: Option<BorrowedFd<'a>>,
    /// That it is to be written instead.
    pub(crate) also_writes: bool,
    /// Not to read, because too much waits to be taken already.
    pub(crate) only_write: bool,
    /// To go on until something was read: that something was written is no news.
    pub(crate) for_input: bool,
}

impl Wish<'_> {
    /// To read something by the deadline, if there is one.
    pub(crate) fn input(deadline: Option<Instant>) -> Self {
        Self { deadline, for_input: true, ..Self::default() }
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// Something was written or read.
    Moved,
    /// The other descriptor is readable.
    Other,
    /// Nothing came by the deadline.
    Late,
}

pub(crate) struct Wire {
    channel: Box<dyn Channel>,
    input: ReadBuffer,
    output: Vec<u8>,
    written: usize,
    largest_frame: usize,
    /// Whether a read would bring something, as far as is known; else it is waited for first.
    is_readable: bool,
    /// Whether the daemon writes nothing more. What it wrote before is read, wanted or not: the last
    /// of it may say why.
    hung_up: bool,
    /// Whether the channel must become writable before anything more is written.
    write_blocked: bool,
    /// Why nothing can be written any more.
    write_error: Option<String>,
    /// What ended the connection.
    ended: Option<String>,
    /// When the transport wants its turn, as it last said.
    next_tick: Option<Instant>,
}

impl Wire {
    pub(crate) fn new(channel: Box<dyn Channel>) -> Self {
        let largest_frame = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);
        let input = ReadBuffer::new(READ_BYTES, largest_frame);
        Self {
            channel,
            input,
            output: Vec::new(),
            written: 0,
            largest_frame,
            is_readable: false,
            hung_up: false,
            write_blocked: false,
            write_error: None,
            ended: None,
            next_tick: None,
        }
    }

    pub(crate) fn set_max_payload(&mut self, bytes: usize) {
        self.largest_frame = limits::largest_frame(bytes);
        self.input.set_largest_frame(self.largest_frame);
    }

    pub(crate) fn control(&mut self, kind: Kind, correlation: u64, body: &[u8]) {
        FrameWriter(&mut self.output).control(Header::new(kind, correlation), body);
    }

    pub(crate) fn control_with(&mut self, header: Header, body: &[u8]) {
        FrameWriter(&mut self.output).control(header, body);
    }

    pub(crate) fn frame(&mut self, frame: &Frame<'_>) {
        FrameWriter(&mut self.output).write(frame);
    }

    /// Bytes that are not written yet.
    pub(crate) fn unwritten(&self) -> usize {
        if self.write_error.is_some() { 0 } else { self.output.len() - self.written }
    }

    /// Whether they wait for room.
    pub(crate) fn wants_room(&self) -> bool {
        self.write_blocked && self.unwritten() > 0
    }

    /// When the transport wants its turn, at the latest.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.next_tick
    }

    /// The whole frames of which nothing was written and which `is_wanted`, for another connection.
    pub(crate) fn take_untouched(&mut self, is_wanted: impl Fn(&Frame<'_>) -> bool) -> Vec<u8> {
        let mut boundary = 0;
        // What is encrypted and not sent may be sent yet.
        let begun = self.written + self.channel.pinned();
        while boundary < begun
            && let Some(length) = frame_len(&self.output[boundary..])
        {
            boundary += length;
        }
        let mut rest = self.output.get(boundary..).unwrap_or_default();
        let mut untouched = Vec::new();
        while let Ok(Decoded::Frame(frame, length)) = decode(rest, self.largest_frame) {
            let (bytes, behind) = rest.split_at(length);
            if is_wanted(&frame) {
                untouched.extend_from_slice(bytes);
            }
            rest = behind;
        }
        self.output.clear();
        self.written = 0;
        untouched
    }

    pub(crate) fn put(&mut self, frames: &[u8]) {
        self.output.extend_from_slice(frames);
    }

    /// What ended the connection, if it has ended.
    pub(crate) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    pub(crate) fn channel(&self) -> &dyn Channel {
        &*self.channel
    }

    /// The next frame that was read, given to `take`.
    pub(crate) fn next_frame<T>(
        &mut self,
        take: impl FnOnce(&Frame<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        match decode(self.input.filled(), self.largest_frame)? {
            Decoded::Incomplete(_) => Ok(None),
            Decoded::Frame(frame, length) => {
                let taken = take(&frame);
                self.input.consume(length);
                Ok(Some(taken?))
            }
        }
    }

    /// Writes and reads as much as is possible at once, or waits until something is, or one of
    /// the other descriptors is readable.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the connection has ended and all that came before was read.
    pub(crate) fn turn(&mut self, wish: Wish<'_>) -> Result<Turn> {
        if let Some(why) = &self.ended {
            return Err(Error::Disconnected(why.clone()));
        }
        loop {
            let wrote = self.write();
            // One that cannot write any more reads to the end, which may say why. And where the
            // transport has traffic of its own, nothing is written for long without it.
            let has_traffic = self.channel.wants_service() || self.channel.wants_room();
            let reads = !wish.only_write || self.hung_up || self.write_error.is_some();
            let now = Instant::now();
            // Who waits for input looks before it reads in vain: an answer never comes at once.
            let expects = self.is_readable || has_traffic || !wish.for_input || wish.is_late(now);
            if reads && expects && self.read()? {
                return Ok(Turn::Moved);
            }
            if !reads && has_traffic {
                self.channel.serve().map_err(|error| self.end(error.to_string()))?;
                // It may have left something to be read that no descriptor tells of.
                self.is_readable = true;
            }
            if wrote && !wish.for_input {
                return Ok(Turn::Moved);
            }
            if wrote && self.unwritten() > 0 {
                continue;
            }
            let tick = self.channel.tick(now);
            let tick = tick.map_err(|error| self.end(error.to_string()))?;
            self.next_tick = tick;
            if wish.is_late(now) {
                return Ok(Turn::Late);
            }
            let until = wish.deadline.into_iter().chain(tick).min();
            if self.poll(reads, wish, until)? {
                return Ok(Turn::Other);
            }
        }
    }

    /// Waits for the channel or the other descriptor; whether the latter is ready.
    fn poll(&mut self, reads: bool, wish: Wish<'_>, until: Option<Instant>) -> Result<bool> {
        // The end is noticed also where nothing is read; POLLHUP and POLLERR come unasked.
        let has_traffic = self.channel.wants_service();
        let input = if reads || has_traffic { PollFlags::POLLIN } else { hang_up() };
        let channel = || PollFd::new(self.channel.read_fd(), input);
        let mut fds = [channel(), channel(), channel()];
        let mut count = 1;
        if let Some(fd) = wish.also {
            let ready = if wish.also_writes { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds[count] = PollFd::new(fd, ready);
            count += 1;
        }
        if self.write_blocked || self.channel.wants_room() {
            fds[count] = PollFd::new(self.channel.write_fd(), PollFlags::POLLOUT);
            count += 1;
        }
        poll_some(&mut fds[..count], until).map_err(Error::Connect)?;
        // None stands for flags that nix has no name for, such as that of a hang-up.
        let is_ready = |at: usize| fds[at].any().unwrap_or(true);
        let is_other = wish.also.is_some() && is_ready(1);
        let is_readable = is_ready(0);
        self.is_readable = is_readable;
        self.hung_up |= is_readable && !reads && !has_traffic;
        Ok(is_other)
    }

    /// Whether something was written.
    fn write(&mut self) -> bool {
        self.write_blocked = false;
        if self.unwritten() == 0 {
            return false;
        }
        match self.channel.write(&self.output[self.written..]) {
            Ok(WriteOutcome::Bytes(count)) => {
                self.written += count;
                if self.unwritten() == 0 {
                    self.output.clear();
                    self.written = 0;
                }
                count > 0
            }
            Ok(WriteOutcome::NotReady) => {
                self.write_blocked = true;
                false
            }
            // A report of the daemon's brings more, and is read.
            Ok(WriteOutcome::NoCredit) => false,
            Ok(WriteOutcome::Nobody) => {
                self.write_error = Some("nobody is there".into());
                false
            }
            Err(error) => {
                self.write_error = Some(error.to_string());
                false
            }
        }
    }

    fn read(&mut self) -> Result<bool> {
        let read = self.channel.read(&mut self.input);
        self.is_readable = matches!(read, Ok(ReadOutcome::Bytes(count)) if count >= MUCH);
        match read {
            Ok(ReadOutcome::Bytes(_)) => Ok(true),
            Ok(ReadOutcome::NotReady | ReadOutcome::Boundary) => Ok(false),
            Ok(ReadOutcome::Closed) => Err(self.end("the daemon closed it".into())),
            Err(error) => Err(self.end(error.to_string())),
        }
    }

    /// Notes why nothing more will come; the first reason is the one that counts.
    pub(crate) fn end(&mut self, why: String) -> Error {
        let why = self.write_error.take().unwrap_or(why);
        Error::Disconnected(self.ended.get_or_insert(why).clone())
    }

    /// Lets go of a connection that is of no more use.
    pub(crate) fn abandon(&mut self) {
        let _ = self.channel.finish();
    }

    /// Writes what is left, says goodbye and waits for the daemon to close: one that closes too
    /// early resets a TCP connection, and with it what the daemon had not read.
    pub(crate) fn close(&mut self, deadline: Instant) {
        self.control(Kind::Bye, 0, &[]);
        while self.unwritten() > 0 && self.ended.is_none() {
            self.input.clear();
            let wish = Wish { deadline: Some(deadline), ..Wish::default() };
            if !matches!(self.turn(wish), Ok(Turn::Moved)) {
                break;
            }
        }
        if self.ended.is_none() && self.channel.finish().is_ok() {
            let deadline = deadline.min(deadline_after(CLOSING));
            while matches!(self.turn(Wish::input(Some(deadline))), Ok(Turn::Moved)) {
                self.input.clear();
            }
        }
    }
}

/// `POLLRDHUP` (poll(2)): the other side writes nothing more. nix has no name for it.
fn hang_up() -> PollFlags {
    PollFlags::from_bits_retain(0x2000)
}
