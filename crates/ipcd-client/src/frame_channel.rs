//! A channel with its buffers: frames in and out, and waiting for either. It knows no sessions.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipcd_proto::{DecodedFrame, Frame, FrameKind, FrameWriter, Header, decode, frame_len, limits};
use ipcd_transport::{Channel, ReadBuffer, ReadOutcome, WriteOutcome, deadline_after, poll_some};

use nix::poll::{PollFd, PollFlags};

use crate::{Error, Result};

/// Bytes that are gathered for one write.
pub(crate) const BATCH: usize = 64 * 1024;
/// The initial size of the read buffer, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of a read after which another one is worth it. A shorter read has most likely emptied the
/// channel.
const MUCH: usize = 4 * 1024;
/// The time that the end of a connection may take.
const CLOSING: Duration = Duration::from_millis(500);

/// The goal of a turn: what ends it.
#[derive(Clone, Copy, Default)]
pub(crate) struct TurnGoal<'a> {
    /// The time at which to give up.
    pub(crate) deadline: Option<Instant>,
    /// Another descriptor, which the caller reads.
    pub(crate) also: Option<BorrowedFd<'a>>,
    /// Whether the caller writes it instead.
    pub(crate) also_writes: bool,
    /// Whether to leave input unread, because too much waits to be taken already.
    pub(crate) only_write: bool,
    /// Whether to go on until something was read. A write alone then ends no turn.
    pub(crate) for_input: bool,
}

impl TurnGoal<'_> {
    /// To read something, by the deadline if there is one.
    pub(crate) fn input(deadline: Option<Instant>) -> Self {
        Self { deadline, for_input: true, ..Self::default() }
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|at| at <= now)
    }
}

/// The outcome of a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TurnOutcome {
    /// Something was written or read.
    Moved,
    /// The other descriptor is ready.
    OtherReady,
    /// The deadline has passed.
    Late,
}

/// A channel of a transport, and the frames that wait on either side of it.
pub(crate) struct FrameChannel {
    channel: Box<dyn Channel>,
    input: ReadBuffer,
    output: Vec<u8>,
    written: usize,
    largest_frame: usize,
    /// Whether a read is likely to bring something. Else the channel polls first.
    is_readable: bool,
    /// Whether the daemon writes nothing more. Its last frames are read even in a turn that leaves
    /// input unread: they may hold the reason.
    hung_up: bool,
    /// Whether the channel must become writable before anything more is written.
    write_blocked: bool,
    /// The error after which nothing can be written.
    write_error: Option<String>,
    /// The reason for the end of the connection.
    ended: Option<String>,
    /// The time at which the transport wants its next turn, as it last said.
    next_tick: Option<Instant>,
}

impl FrameChannel {
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

    pub(crate) fn control(&mut self, kind: FrameKind, correlation: u64, body: &[u8]) {
        FrameWriter(&mut self.output).control(Header::new(kind, correlation), body);
    }

    pub(crate) fn control_with(&mut self, header: Header, body: &[u8]) {
        FrameWriter(&mut self.output).control(header, body);
    }

    pub(crate) fn frame(&mut self, frame: &Frame<'_>) {
        FrameWriter(&mut self.output).write(frame);
    }

    /// Bytes that are not written yet. After a write error there is nothing left to try.
    pub(crate) fn unwritten(&self) -> usize {
        if self.write_error.is_some() { 0 } else { self.output.len() - self.written }
    }

    /// Whether unwritten bytes wait for room.
    pub(crate) fn wants_room(&self) -> bool {
        self.write_blocked && self.unwritten() > 0
    }

    /// The time at which the transport wants its next turn at the latest.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.next_tick
    }

    /// Takes the frames of which no byte was written, for another connection, as far as `is_wanted`.
    pub(crate) fn take_untouched(&mut self, is_wanted: impl Fn(&Frame<'_>) -> bool) -> Vec<u8> {
        let mut boundary = 0;
        // Encrypted bytes may already be on their way: the transport can no longer take them back.
        let begun = self.written + self.channel.pinned();
        while boundary < begun
            && let Some(length) = frame_len(&self.output[boundary..])
        {
            boundary += length;
        }
        let mut rest = self.output.get(boundary..).unwrap_or_default();
        let mut untouched = Vec::new();
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, self.largest_frame) {
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

    /// Appends whole frames of another connection.
    pub(crate) fn put(&mut self, frames: &[u8]) {
        self.output.extend_from_slice(frames);
    }

    /// The reason for the end of the connection, if it has ended.
    pub(crate) fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }

    pub(crate) fn inner(&self) -> &dyn Channel {
        &*self.channel
    }

    /// Gives the next whole frame that was read to `take`.
    pub(crate) fn next_frame<T>(
        &mut self,
        take: impl FnOnce(&Frame<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        match decode(self.input.filled(), self.largest_frame)? {
            DecodedFrame::Incomplete(_) => Ok(None),
            DecodedFrame::Frame(frame, length) => {
                let taken = take(&frame);
                self.input.consume(length);
                Ok(Some(taken?))
            }
        }
    }

    /// Writes and reads as much as is possible at once. If nothing is, waits until something is, the
    /// other descriptor is ready, or the deadline passes.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the connection has ended and everything before its end was read.
    pub(crate) fn turn(&mut self, goal: TurnGoal<'_>) -> Result<TurnOutcome> {
        if let Some(why) = &self.ended {
            return Err(Error::Disconnected(why.clone()));
        }
        loop {
            // Written first: the daemon may wait for these bytes before it sends any.
            let wrote = self.write();
            // After a write error the rest is read: it may hold the reason. And a transport with
            // traffic of its own, such as UDP, must be read, or it gets no credit to write.
            let has_traffic = self.channel.wants_service() || self.channel.wants_room();
            let reads = !goal.only_write || self.hung_up || self.write_error.is_some();
            let now = Instant::now();
            // A turn for input polls before it reads: an answer never comes at once, and the vain
            // read would cost a system call for each request.
            let expects = self.is_readable || has_traffic || !goal.for_input || goal.is_late(now);
            if reads && expects && self.read()? {
                return Ok(TurnOutcome::Moved);
            }
            if !reads && has_traffic {
                self.channel.serve().map_err(|error| self.end(error.to_string()))?;
                // Frames may lie in the transport now, which no descriptor tells of.
                self.is_readable = true;
            }
            if wrote && !goal.for_input {
                return Ok(TurnOutcome::Moved);
            }
            if wrote && self.unwritten() > 0 {
                continue;
            }
            let tick = self.channel.tick(now);
            let tick = tick.map_err(|error| self.end(error.to_string()))?;
            self.next_tick = tick;
            if goal.is_late(now) {
                return Ok(TurnOutcome::Late);
            }
            let until = goal.deadline.into_iter().chain(tick).min();
            if self.poll(reads, goal, until)? {
                return Ok(TurnOutcome::OtherReady);
            }
        }
    }

    /// Waits for the channel or the other descriptor. Returns whether the latter is ready.
    fn poll(&mut self, reads: bool, goal: TurnGoal<'_>, until: Option<Instant>) -> Result<bool> {
        // The end is noticed even if nothing is read: poll(2) reports POLLHUP and POLLERR always.
        let has_traffic = self.channel.wants_service();
        let input = if reads || has_traffic { PollFlags::POLLIN } else { hang_up() };
        let channel = || PollFd::new(self.channel.read_fd(), input);
        let mut fds = [channel(), channel(), channel()];
        let mut count = 1;
        if let Some(fd) = goal.also {
            let ready = if goal.also_writes { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds[count] = PollFd::new(fd, ready);
            count += 1;
        }
        // Asked for only when needed: a socket is writable almost always, and poll(2) would spin.
        if self.write_blocked || self.channel.wants_room() {
            fds[count] = PollFd::new(self.channel.write_fd(), PollFlags::POLLOUT);
            count += 1;
        }
        poll_some(&mut fds[..count], until).map_err(Error::Connect)?;
        // `None` stands for flags without a name in nix, such as POLLRDHUP.
        let is_ready = |at: usize| fds[at].any().unwrap_or(true);
        let is_other = goal.also.is_some() && is_ready(1);
        let is_readable = is_ready(0);
        self.is_readable = is_readable;
        self.hung_up |= is_readable && !reads && !has_traffic;
        Ok(is_other)
    }

    /// Writes what there is room for. Returns whether something was written.
    fn write(&mut self) -> bool {
        self.write_blocked = false;
        if self.unwritten() == 0 {
            return false;
        }
        match self.channel.write(&self.output[self.written..]) {
            Ok(WriteOutcome::Bytes(count)) => {
                self.written += count;
                // Not drained after a partial write: that would move the rest of the buffer each time.
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
            // The daemon's next report brings credit, and reading takes it in.
            Ok(WriteOutcome::NoCredit) => false,
            Ok(WriteOutcome::Nobody) => {
                self.write_error = Some("nothing listens there any more".into());
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
            Ok(ReadOutcome::Closed) => Err(self.end("the daemon closed the connection".into())),
            Err(error) => Err(self.end(error.to_string())),
        }
    }

    /// Notes the reason for the end of the connection. The first one stays.
    pub(crate) fn end(&mut self, why: String) -> Error {
        let why = self.write_error.take().unwrap_or(why);
        Error::Disconnected(self.ended.get_or_insert(why).clone())
    }

    /// Ends our side of a connection that has failed. Errors do not matter: it is unusable anyway.
    pub(crate) fn abandon(&mut self) {
        let _ = self.channel.finish();
    }

    /// Writes what is left, says goodbye and waits for the daemon to close. A socket that is closed
    /// with unread input resets a TCP connection (RFC 1122, 4.2.2.13), and the daemon loses what it
    /// had not read.
    pub(crate) fn close(&mut self, deadline: Instant) {
        self.control(FrameKind::Bye, 0, &[]);
        while self.unwritten() > 0 && self.ended.is_none() {
            self.input.clear();
            let goal = TurnGoal { deadline: Some(deadline), ..TurnGoal::default() };
            if !matches!(self.turn(goal), Ok(TurnOutcome::Moved)) {
                break;
            }
        }
        if self.ended.is_none() && self.channel.finish().is_ok() {
            let deadline = deadline.min(deadline_after(CLOSING));
            while matches!(self.turn(TurnGoal::input(Some(deadline))), Ok(TurnOutcome::Moved)) {
                self.input.clear();
            }
        }
    }
}

/// `POLLRDHUP` (poll(2)): the other side writes nothing more. nix has no name for it.
fn hang_up() -> PollFlags {
    PollFlags::from_bits_retain(0x2000)
}
