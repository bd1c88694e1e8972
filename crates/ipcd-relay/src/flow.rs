//! One direction of a pair: bytes or messages are read at one end and written at the other.
//!
//! It reads only when all earlier input is written. So a slow receiver stops the sender, and memory
//! is bounded: the input of one read or of one pipe, and the beginning of one message.

use std::io;

use ipcd_proto::limits::DEFAULT_MAX_PAYLOAD;
use ipcd_proto::{Codec, MessageDecoder, TooLong};
use ipcd_transport::{ReadBuffer, ReadOutcome};

use crate::Error;
use crate::end::PairEnd;
use crate::queue::WriteQueue;
use crate::splice::{PipePool, SpliceOutcome, SpliceState};

/// Bytes read at once.
pub(crate) const READ_BYTES: usize = 128 * 1024;
/// Bytes moved in a turn, before others have theirs.
const TURN_BYTES: usize = 4 * 1024 * 1024;
/// Reads of a turn: records may be small.
const TURN_READS: usize = 64;
/// Why a peer is closed that would publish the lines of an HTTP request.
const HTTP: &str = "connection refused: it speaks HTTP, so a web page may have sent it";
/// Bytes of the longest message.
const LONGEST: usize = DEFAULT_MAX_PAYLOAD;

/// The buffers that all flows share.
pub(crate) struct SharedBuffers {
    pub(crate) read_buf: ReadBuffer,
    pub(crate) pipes: PipePool,
}

impl SharedBuffers {
    pub(crate) fn new() -> Self {
        Self { read_buf: ReadBuffer::new(READ_BYTES, LONGEST), pipes: PipePool::default() }
    }
}

pub(crate) struct RelayFlow {
    stage: FlowStage,
    decoder: MessageDecoder,
    /// Whether bytes are moved as they come.
    is_bytes: bool,
    queue: WriteQueue,
    /// Whether nothing is left to be read at the side that is read.
    has_read_all: bool,
    /// The state of splice(2), if both ends are plain descriptors.
    splice: Option<SpliceState>,
    /// The number of refused messages, and the reason of the first, until it is reported.
    refused: u64,
    refusal: Option<String>,
    /// The error that ended it, if that is not an ordinary disconnect.
    failure: Option<Error>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FlowStage {
    Open,
    /// Nothing more will be read.
    Ended,
    /// The end was passed on, or nothing can be written any more.
    Done,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlowTurn {
    /// Whether anything moved.
    pub(crate) moved: bool,
    /// Whether there is more to do at once.
    pub(crate) more: bool,
    /// Whether the end is to be passed on to the other side.
    pub(crate) finishes: bool,
    /// Whether the read side has failed, so that the other direction ends too.
    pub(crate) lost: bool,
}

impl RelayFlow {
    /// Between ends whose codecs are known.
    pub(crate) fn new(from: &PairEnd, to: &PairEnd) -> Self {
        let is_raw = from.codec == Codec::Raw && to.codec == Codec::Raw;
        let is_bytes = is_raw && !from.keeps_records() && !to.keeps_records();
        let is_plain = is_bytes && from.is_plain() && to.is_plain();
        Self {
            stage: FlowStage::Open,
            decoder: MessageDecoder::new(from.codec, LONGEST),
            is_bytes,
            queue: WriteQueue::new(to.keeps_records()),
            has_read_all: false,
            splice: is_plain.then(SpliceState::default),
            refused: 0,
            refusal: None,
            failure: None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.stage == FlowStage::Done
    }

    pub(crate) fn wants_input(&self) -> bool {
        self.stage == FlowStage::Open && !self.holds()
    }

    pub(crate) fn wants_room(&self) -> bool {
        self.holds()
    }

    /// Whether the read side has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.stage != FlowStage::Open
    }

    /// Whether the read side's input was read to its end.
    pub(crate) fn has_read_all(&self) -> bool {
        self.has_read_all
    }

    /// Ends it at once and drops its queue.
    pub(crate) fn stop(&mut self) {
        self.stage = FlowStage::Done;
        self.queue.clear();
        self.splice = None;
    }

    /// Messages that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// The reason why the first message was refused; reported once.
    pub(crate) fn take_refusal(&mut self) -> Option<String> {
        let first = self.refusal.as_mut().map(std::mem::take);
        first.filter(|why| !why.is_empty())
    }

    /// The error that ended it, for the observer.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    pub(crate) fn note_refusal(&mut self, why: String) {
        self.refused += 1;
        self.refusal.get_or_insert(why);
    }

    /// Moves bytes as long as both ends are ready, up to its share of the turn.
    pub(crate) fn turn(
        &mut self,
        from: &mut PairEnd,
        to: &mut PairEnd,
        buffers: &mut SharedBuffers,
    ) -> FlowTurn {
        let mut turned = FlowTurn::default();
        let mut left = TURN_BYTES;
        for _ in 0..TURN_READS {
            // The queue goes first: input is read only when it is empty, which bounds memory.
            if !self.write(to, &mut turned) || self.stage == FlowStage::Done {
                return turned;
            }
            // The end is passed on behind the last byte.
            if self.stage == FlowStage::Ended && !self.holds() {
                self.stage = FlowStage::Done;
                turned.finishes = true;
                return turned;
            }
            let step = match self.is_splicing() {
                true => self.splice(from, to, buffers, &mut turned),
                false => self.read(from, to, buffers, &mut turned),
            };
            let Some(bytes) = step else { return turned };
            left = left.saturating_sub(bytes);
            if left == 0 {
                break;
            }
        }
        turned.more = true;
        turned
    }

    fn holds(&self) -> bool {
        !self.queue.is_empty() || self.splice.as_ref().is_some_and(SpliceState::holds)
    }

    fn is_splicing(&self) -> bool {
        self.splice.as_ref().is_some_and(SpliceState::is_on)
    }

    /// Writes the queue; returns whether it is empty.
    fn write(&mut self, to: &mut PairEnd, turned: &mut FlowTurn) -> bool {
        while !self.queue.is_empty() {
            match to.write(self.queue.next()) {
                Ok(Some(count)) => {
                    self.queue.wrote(count);
                    turned.moved = true;
                }
                Ok(None) => return false,
                Err(error) => {
                    self.note_error(error);
                    self.stop();
                }
            }
        }
        true
    }

    /// Reads once. Returns the number of bytes, or `None` if the turn is over.
    fn read(
        &mut self,
        from: &mut PairEnd,
        to: &mut PairEnd,
        buffers: &mut SharedBuffers,
        turned: &mut FlowTurn,
    ) -> Option<usize> {
        buffers.read_buf.clear();
        match from.read(&mut buffers.read_buf) {
            Ok(ReadOutcome::Bytes(count)) => {
                turned.moved = true;
                if from.is_http(buffers.read_buf.filled()) {
                    self.note_error(ipcd_transport::Error::Protocol(HTTP.to_owned()).into());
                    self.stop();
                    turned.lost = true;
                    return None;
                }
                self.take_input(buffers.read_buf.filled(), from, to);
                // An empty record costs a turn, too.
                return Some(count.max(1));
            }
            Ok(ReadOutcome::NotReady) => return None,
            Ok(ReadOutcome::Boundary) => {
                self.finish_message(to);
                return Some(1);
            }
            Ok(ReadOutcome::Closed) => {}
            Err(error) => {
                self.note_error(error);
                turned.lost = true;
            }
        }
        self.finish_message(to);
        (self.stage, self.has_read_all) = (FlowStage::Ended, true);
        Some(0)
    }

    /// An unfinished message at the end of the stream counts as a message.
    fn finish_message(&mut self, to: &PairEnd) {
        let Self { decoder, queue, .. } = self;
        let mut refused = Vec::new();
        decoder.finish(|message| refused.extend(queue_message(message, to, queue)));
        refused.into_iter().for_each(|why| self.note_refusal(why));
    }

    fn take_input(&mut self, bytes: &[u8], from: &PairEnd, to: &mut PairEnd) {
        if self.is_bytes {
            return self.pass_on(bytes, to);
        }
        // Over a stream no boundary is promised, but a record has a largest size.
        let is_stream = !from.keeps_records();
        let most = if is_stream && from.codec == Codec::Raw { to.largest() } else { usize::MAX };
        let Self { decoder, queue, .. } = self;
        let mut refused = Vec::new();
        for piece in pieces(bytes, most) {
            decoder.feed(piece, |message| refused.extend(queue_message(message, to, queue)));
        }
        // The end of a record is the end of a message.
        if !is_stream {
            decoder.finish(|message| refused.extend(queue_message(message, to, queue)));
        }
        refused.into_iter().for_each(|why| self.note_refusal(why));
    }

    /// Writes bytes directly from the read buffer, and queues only the unwritten ones.
    fn pass_on(&mut self, bytes: &[u8], to: &mut PairEnd) {
        if let Some(splice) = &mut self.splice {
            splice.note_read(bytes.len());
        }
        // A receiver mostly takes all of a read at once. A queue in between would be one more copy.
        match to.write(bytes) {
            Ok(count) => self.queue_bytes(&bytes[count.unwrap_or(0)..]),
            Err(error) => {
                self.note_error(error);
                self.stop();
            }
        }
    }

    fn queue_bytes(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.queue.push(|queue| queue.extend_from_slice(bytes));
        }
    }

    fn splice(
        &mut self,
        from: &PairEnd,
        to: &PairEnd,
        buffers: &mut SharedBuffers,
        turned: &mut FlowTurn,
    ) -> Option<usize> {
        let splice = self.splice.as_mut()?;
        match splice.turn(from.read_fd(), to.write_fd(), &mut buffers.pipes) {
            SpliceOutcome::Bytes(count) => {
                turned.moved = true;
                return (!splice.holds()).then_some(count);
            }
            SpliceOutcome::Nothing => return None,
            SpliceOutcome::Otherwise(held) => self.queue_bytes(&held),
            SpliceOutcome::End => (self.stage, self.has_read_all) = (FlowStage::Ended, true),
            SpliceOutcome::ReadFailed(error) => {
                self.note_system_error("read", error);
                (self.stage, self.has_read_all) = (FlowStage::Ended, true);
                turned.lost = true;
            }
            SpliceOutcome::WriteFailed(error) => {
                self.note_system_error("write", error);
                self.stop();
            }
        }
        Some(0)
    }

    fn note_system_error(&mut self, what: &str, error: io::Error) {
        self.note_error(ipcd_transport::Error::system(what, error).into());
    }

    /// Notes an error. An ordinary disconnect is none.
    fn note_error(&mut self, error: Error) {
        if !matches!(&error, Error::Transport(error) if error.is_disconnect()) {
            self.failure.get_or_insert(error);
        }
    }
}

/// Queues a message for its receiver, or returns the reason why that is not possible.
fn queue_message(
    message: Result<&[u8], TooLong>,
    to: &PairEnd,
    queue: &mut WriteQueue,
) -> Option<String> {
    let Ok(message) = message else {
        return Some(format!("it is longer than {LONGEST} bytes"));
    };
    let codec = to.codec;
    if !codec.can_carry(message) {
        return Some(format!("it holds the byte that ends a message of codec={codec}"));
    }
    if to.keeps_records() {
        let bytes = message.len() + codec.overhead();
        if bytes > to.largest() {
            return Some(format!(
                "it is longer than the {} bytes that the other side takes",
                to.largest()
            ));
        }
        // An empty datagram or record would look like the end of a stream to its reader.
        if bytes == 0 && !to.takes_empty() {
            return None;
        }
    }
    queue.push(|bytes| codec.encode(message, bytes));
    None
}

/// Yields all bytes once; empty input is one empty piece.
fn pieces(bytes: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    let whole = (bytes.len() <= most).then_some(bytes);
    let parts = if whole.is_some() { &[] } else { bytes };
    whole.into_iter().chain(parts.chunks(most.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_in_pieces_that_fit() {
        let all = |bytes: &[u8], most| pieces(bytes, most).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(all(b"", 3), [b""]);
        assert_eq!(all(b"abc", 3), [b"abc"]);
        assert_eq!(all(b"abcd", 3), [&b"abc"[..], b"d"]);
    }
}
