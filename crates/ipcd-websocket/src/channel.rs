//! The channel: a stream, and a WebSocket between it and the bytes of the caller.
//!
//! All that was received is taken before a call returns, but for the beginning of a header or of a
//! control frame. The caller's bytes count as written when the stream has taken them.

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipcd_transport::{
    Channel, ChannelParts, ChannelTraffic, Error, PeerIdentity, ReadBuffer, ReadOutcome, Result,
    WriteOutcome, end_socket,
};
use nix::errno::Errno;
use nix::sys::socket::Shutdown;

use crate::outgoing::{LONGEST_PAYLOAD, OutgoingFrame, overhead};
use crate::request::Refusal;
use crate::socket::{WebSocket, WriteEnd};

/// Bytes that are received at once.
const BATCH: usize = 64 * 1024;
/// Pieces that are written at once.
const PIECES: usize = 16;
/// The time that a peer that has connected may take for the upgrade. The router's own deadline is
/// shorter by default, but knows nothing of raw peers.
const UPGRADE: Duration = Duration::from_secs(10);

thread_local! {
    /// The room for received frames. Nothing stays there after a call.
    static RECEIVED: RefCell<ReadBuffer> = RefCell::new(ReadBuffer::new(BATCH, usize::MAX));
    /// The room for frames that cannot be written in place. Nothing stays there after a call.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream of bytes in the messages of a WebSocket.
pub struct WebSocketChannel {
    stream: Box<dyn Channel>,
    socket: WebSocket,
    /// The frame of the caller's bytes that is under way. Our own bytes wait for its end.
    frame: Option<OutgoingFrame>,
    /// The end of the time for the upgrade.
    upgraded_by: Option<Instant>,
    /// The number of the incomplete header or control frame, and since when it is one.
    partial: Option<(u64, Instant)>,
    /// Whether the kernel had no memory for bytes of our own.
    lacks_memory: bool,
    /// Whether nothing can be read or written any more.
    is_broken: bool,
}

impl WebSocketChannel {
    /// Makes a channel of what a [`WebSocketListener`](crate::WebSocketListener) or
    /// [`client_parts`](crate::client_parts) returned; `adopt` makes the stream below of its parts.
    ///
    /// # Errors
    /// If the parts are not those of a WebSocket, or `adopt` fails.
    pub fn adopt(
        parts: ChannelParts,
        adopt: impl FnOnce(ChannelParts) -> Result<Box<dyn Channel>>,
    ) -> Result<Self> {
        let (socket, state) = WebSocket::decode(&parts.state)?;
        let stream = adopt(ChannelParts { state, ..parts })?;
        let upgraded_by = socket.has_deadline().then(|| Instant::now() + UPGRADE);
        Ok(Self {
            stream,
            socket,
            frame: None,
            upgraded_by,
            partial: None,
            lacks_memory: false,
            is_broken: false,
        })
    }

    /// Receives once; payloads go `into` a buffer, if there is one. `NotReady` if nothing came.
    fn receive(&mut self, into: Option<&mut ReadBuffer>) -> Result<ReadOutcome> {
        let received = self.receive_some(into);
        self.is_broken |= received.is_err();
        received
    }

    fn receive_some(&mut self, mut into: Option<&mut ReadBuffer>) -> Result<ReadOutcome> {
        if self.socket.has_early() && into.is_some() {
            self.digest(&[], into.as_deref_mut())?;
        }
        if self.socket.has_closed() {
            return Ok(ReadOutcome::Closed);
        }
        RECEIVED.with_borrow_mut(|received| {
            received.clear();
            let outcome = self.stream.read(received);
            // Also after an error: what came before it is read first.
            let digested = self.digest(received.filled(), into);
            match (outcome, self.socket.has_closed()) {
                (Err(error), _) => Err(error),
                (Ok(_), true) => digested.map(|()| ReadOutcome::Closed),
                (Ok(ReadOutcome::Closed), false) => {
                    digested.and_then(|()| Err(self.socket.cut_off()))
                }
                (Ok(outcome), false) => digested.map(|()| outcome),
            }
        })
    }

    /// Takes these bytes, and answers them, as far as there is room.
    fn digest(&mut self, bytes: &[u8], into: Option<&mut ReadBuffer>) -> Result<()> {
        let taken = self.socket.receive(bytes, into);
        self.note_partial();
        let is_silent = self.socket.has_closed();
        // A peer that has gone needs no answer; the stream's next read says that it has.
        let _ = self.flush();
        if taken.is_ok() && is_silent {
            // The socket says that there is an end to be read, even if the peer leaves it open.
            end_socket(&self.stream.read_fd(), Shutdown::Read)?;
        }
        taken
    }

    fn note_partial(&mut self) {
        let number = self.socket.partial();
        if self.partial.map(|(number, _)| number) != number {
            self.partial = number.map(|number| (number, Instant::now()));
        }
    }

    /// Writes what is our own, as far as there is room; whether all of it was written.
    fn flush(&mut self) -> Result<bool> {
        if self.frame.is_some() {
            return Ok(true);
        }
        loop {
            while !self.socket.own.unsent().is_empty() {
                match self.stream.write(self.socket.own.unsent()) {
                    Ok(WriteOutcome::Bytes(count)) => self.socket.own.advance(count),
                    Ok(_) => return Ok(false),
                    Err(error) if error.is_exhaustion() => {
                        self.lacks_memory = true;
                        return Ok(false);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !self.socket.queue_due()? {
                break;
            }
        }
        if self.socket.end == WriteEnd::Said {
            self.socket.end = WriteEnd::Over;
            self.stream.finish()?;
        }
        Ok(true)
    }

    fn write_messages(&mut self, mut pieces: &mut [IoSlice<'_>]) -> Result<WriteOutcome> {
        let mut taken = 0;
        while !pieces.is_empty() && self.flush()? {
            if self.frame.is_none() {
                let length: usize = pieces.iter().map(|piece| piece.len()).sum();
                let key = self.socket.key()?;
                self.frame = Some(OutgoingFrame::new(length.min(LONGEST_PAYLOAD), key));
            }
            let Some(count) = self.write_frame(pieces)? else { break };
            IoSlice::advance_slices(&mut pieces, count);
            taken += count;
        }
        // A pong or a close may be due behind the frame.
        self.flush()?;
        Ok(if taken > 0 { WriteOutcome::Bytes(taken) } else { WriteOutcome::NotReady })
    }

    /// Writes what is left of the frame, and returns how much of its payload was taken; `None` if
    /// there was no room.
    fn write_frame(&mut self, pieces: &[IoSlice<'_>]) -> Result<Option<usize>> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let outcome = match frame.is_masked() || !self.stream.is_plain() {
            false => write_in_place(&mut *self.stream, frame, pieces)?,
            true => ENCODED.with_borrow_mut(|encoded| {
                encoded.clear();
                frame.append_left(pieces, encoded);
                self.stream.write(encoded)
            })?,
        };
        let taken = match outcome {
            WriteOutcome::Bytes(count) => frame.advance(count),
            _ if frame.is_untouched() && self.stream.pinned() == 0 => {
                self.frame = None;
                return Ok(None);
            }
            _ => return Ok(None),
        };
        if frame.payload_left() == 0 {
            self.frame = None;
        }
        Ok(Some(taken))
    }
}

/// Writes a frame without a mask straight from the caller's memory.
fn write_in_place(
    stream: &mut dyn Channel,
    frame: &OutgoingFrame,
    pieces: &[IoSlice<'_>],
) -> Result<WriteOutcome> {
    let mut all = [IoSlice::new(&[]); PIECES + 1];
    all[0] = IoSlice::new(frame.header_left());
    let (mut left, mut count) = (frame.payload_left(), 1);
    for (place, piece) in all[1..].iter_mut().zip(pieces) {
        let length = piece.len().min(left);
        *place = IoSlice::new(&piece[..length]);
        (left, count) = (left - length, count + 1);
    }
    stream.write_pieces(&all[..count])
}

impl Channel for WebSocketChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.stream.read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.stream.write_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        self.stream.identity()
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let before = into.filled().len();
        let outcome = self.receive(Some(into))?;
        match into.filled().len() - before {
            0 => Ok(match outcome {
                ReadOutcome::Bytes(_) => ReadOutcome::Bytes(0),
                outcome => outcome,
            }),
            count => Ok(ReadOutcome::Bytes(count)),
        }
    }

    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        self.write_pieces(&[IoSlice::new(frames)])
    }

    fn write_pieces(&mut self, pieces: &[IoSlice<'_>]) -> Result<WriteOutcome> {
        if self.socket.end != WriteEnd::NotYet || self.is_broken {
            return Err(Error::system("write", Errno::EPIPE));
        }
        if !self.socket.is_open() {
            return self.flush().map(|_| WriteOutcome::NoCredit);
        }
        let mut room = [IoSlice::new(&[]); PIECES];
        let count = pieces.len().min(PIECES);
        room[..count].copy_from_slice(&pieces[..count]);
        self.write_messages(&mut room[..count])
    }

    fn finish(&mut self) -> Result<()> {
        if self.socket.end == WriteEnd::NotYet {
            self.socket.end = WriteEnd::Due;
        }
        if self.frame.take().is_some() {
            // A close within a frame would be taken for a part of it.
            self.socket.end = WriteEnd::Over;
            return self.stream.finish();
        }
        match self.flush() {
            // A peer that has gone needs no goodbye.
            Err(error) if error.is_disconnect() => Ok(()),
            flushed => flushed.map(drop),
        }
    }

    fn make_room(&mut self, bytes: usize) {
        self.stream.make_room(bytes + overhead(bytes) + self.socket.own.unsent().len());
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        let parts = self.stream.into_parts();
        // Without a state nothing is made of the parts.
        let state = self.socket.encode(&parts.state).unwrap_or_default();
        ChannelParts { state, ..parts }
    }

    fn traffic(&self) -> Option<&dyn ChannelTraffic> {
        Some(self)
    }

    fn traffic_mut(&mut self) -> Option<&mut dyn ChannelTraffic> {
        Some(self)
    }
}

impl ChannelTraffic for WebSocketChannel {
    fn wants_service(&self) -> bool {
        self.socket.is_upgrading() && !self.is_broken
    }

    /// While the stream shakes hands it takes no bytes, even if its descriptor has room.
    fn wants_room(&self) -> bool {
        let waits = self.frame.is_none() && !self.socket.own.unsent().is_empty();
        self.stream.wants_room() || waits && !self.stream.wants_service() && !self.is_broken
    }

    fn serve(&mut self) -> Result<()> {
        if self.stream.wants_room() || self.stream.wants_service() {
            self.stream.serve()?;
        }
        match self.wants_service() {
            true => self.receive(None).map(drop),
            false => self.flush().map(drop),
        }
    }

    fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        let due = self.stream.tick(now)?;
        self.upgraded_by.take_if(|_| !self.socket.is_upgrading());
        match self.upgraded_by {
            Some(at) if at <= now => {
                self.is_broken = true;
                self.socket.refuse(&Refusal::too_late());
                let _ = self.flush();
                Err(Error::TimedOut("the upgrade to a WebSocket".into()))
            }
            at => Ok(due.into_iter().chain(at).min()),
        }
    }

    fn is_shaking_hands(&self) -> bool {
        self.wants_service()
    }

    fn partial_since(&self) -> Option<Instant> {
        let ours = self.partial.map(|(_, since)| since);
        self.stream.partial_since().into_iter().chain(ours).min()
    }

    fn pinned(&self) -> usize {
        self.frame.as_ref().map_or(0, OutgoingFrame::payload_left)
    }

    fn take_shortage(&mut self) -> bool {
        std::mem::take(&mut self.lacks_memory) | self.stream.take_shortage()
    }
}
