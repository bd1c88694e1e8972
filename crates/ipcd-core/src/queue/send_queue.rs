//! The send queue of a peer: the frames that are still to be written to it.
//!
//! The bytes belong to the queue itself, in one piece, or to chunks that it shares with other
//! peers. In the second case `pieces` has the order of both. Most queues have no such list.
//!
//! Frames are only bytes here; [`frames`] and [`drops`] parse them.

pub(crate) mod drops;
pub(crate) mod frames;
mod ledger;
#[cfg(test)]
#[path = "send_queue/tests/properties.rs"]
mod properties;
mod sieve;

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::lazy_queue::LazyQueue;
use crate::queue::message_batch::MessageBatch;
use crate::queue::send_queue::ledger::{MessageCounts, StreamLedger};
use std::time::Instant;

/// Written bytes at the front that are removed together, because the rest has to move for it.
const COMPACT_BYTES: usize = 64 * 1024;
/// Pieces for which an empty queue keeps memory.
const KEPT_PIECES: usize = 8;

/// The frames that are still to be written to a peer. An empty part takes no memory beyond the
/// struct, because most of thousands of peers are idle.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// The queue's own bytes.
    bytes: Vec<u8>,
    /// The index of the first own byte that is unwritten.
    head: usize,
    /// The index of a frame's start, at or before `head`.
    boundary: usize,
    /// The starts of later frames, at large distances. They make it unnecessary to parse written
    /// bytes.
    marks: LazyQueue<usize>,
    /// The order of the pieces, up to the last shared one. Own bytes follow it.
    pieces: LazyQueue<QueuePiece>,
    /// Unwritten own bytes that `pieces` includes, and unwritten shared bytes.
    listed: usize,
    shared: usize,
    /// The total of written bytes, and so the position of the first unwritten one in the stream.
    written: u64,
    /// The age of unwritten bytes, and the number of messages in them.
    ledger: StreamLedger,
    /// Unwritten bytes that are being written in encrypted form, and cannot be dropped any more.
    pinned: usize,
    /// The length from which on shedding pays again.
    next_shed: usize,
    /// The ends of messages whose publishers wait for a receipt.
    awaited: LazyQueue<(u64, Ticket)>,
    /// The end of the last request.
    requests_end: u64,
}

/// A part of the stream: whole frames, of which the first may be partly written.
#[derive(Debug)]
enum QueuePiece {
    /// A number of unwritten own bytes.
    Own(usize),
    Slice(ChunkSlice),
}

impl QueuePiece {
    fn len(&self) -> usize {
        match self {
            Self::Own(count) => *count,
            Self::Slice(slice) => slice.len(),
        }
    }
}

impl SendQueue {
    /// Returns the unwritten bytes, in pieces of whole frames, of which the first may be partly
    /// written.
    pub(crate) fn unwritten<'a>(&'a self, pool: &'a ChunkPool) -> impl Iterator<Item = &'a [u8]> {
        let mut own = &self.bytes[self.head..];
        let behind = &own[self.listed..];
        let listed = self.pieces.iter().map(move |piece| match piece {
            QueuePiece::Own(count) => own.split_off(..*count).expect("they are listed"),
            QueuePiece::Slice(slice) => pool.bytes(slice),
        });
        listed.chain((!behind.is_empty()).then_some(behind))
    }

    /// Returns the number of unwritten bytes.
    pub(crate) fn len(&self) -> usize {
        self.own_len() + self.shared
    }

    fn own_len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the total of written bytes.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns the time when the oldest byte was queued, to within a quarter of a second.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.ledger.oldest().filter(|_| !self.is_empty())
    }

    /// Returns the buffer for appending control frames. An empty one takes memory from the pool.
    pub(crate) fn append(&mut self, now: Instant, pool: &mut ChunkPool) -> &mut Vec<u8> {
        self.ledger.extend(now, self.end(), self.is_empty());
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take();
        }
        let end = self.bytes.len();
        // A mark for each 64 KiB bounds the bytes that have to be parsed to find a frame's start.
        if end >= self.marks.back().unwrap_or(&self.boundary) + COMPACT_BYTES {
            self.marks.push_back(end);
        }
        &mut self.bytes
    }

    /// Appends messages, or a slice of messages that other send queues hold, too.
    pub(crate) fn append_batch(
        &mut self,
        now: Instant,
        batch: &MessageBatch<'_>,
        pool: &mut ChunkPool,
    ) {
        match batch.shared {
            Some(slice) => {
                self.ledger.extend(now, self.end(), self.is_empty());
                self.list_own(self.own_len() - self.listed);
                self.list_shared(slice, pool);
            }
            None => self.append(now, pool).extend_from_slice(batch.bytes),
        }
        self.ledger.count(match batch.is_direct {
            true => MessageCounts { subscribed: 0, direct: batch.count },
            false => MessageCounts { subscribed: batch.count, direct: 0 },
        });
    }

    /// Returns the position of the next byte in the stream.
    fn end(&self) -> u64 {
        self.written + self.len() as u64
    }

    /// Whether the queue ends with the slice that the pool would continue.
    pub(crate) fn ends_shared(&self, pool: &ChunkPool) -> bool {
        let last = self.pieces.back();
        self.own_len() == self.listed
            && matches!(last, Some(QueuePiece::Slice(slice)) if pool.is_last(slice))
    }

    fn list_own(&mut self, more: usize) {
        self.listed += more;
        match self.pieces.back_mut() {
            // An empty piece would be removed as if it were written.
            _ if more == 0 => {}
            Some(QueuePiece::Own(count)) => *count += more,
            _ => self.pieces.push_back(QueuePiece::Own(more)),
        }
    }

    fn list_shared(&mut self, slice: ChunkSlice, pool: &mut ChunkPool) {
        self.shared += slice.len();
        match self.pieces.back_mut() {
            // One piece for consecutive batches keeps the list short.
            Some(QueuePiece::Slice(last))
                if (last.chunk, last.end) == (slice.chunk, slice.start) =>
            {
                last.end = slice.end;
            }
            _ => {
                // The queue counts once for each piece, however long the piece grows.
                pool.hold(slice.chunk);
                self.pieces.push_back(QueuePiece::Slice(slice));
            }
        }
    }

    /// Removes the first bytes, because they have been written. An empty queue gives its memory
    /// back to the pool.
    pub(crate) fn wrote(&mut self, count: usize, pool: &mut ChunkPool) {
        // A count beyond the queue is a fault of the caller, not of the peer.
        debug_assert!(count <= self.len(), "wrote more than there was");
        self.written += count as u64;
        // Pinned bytes are at the front, and so are written first.
        self.pinned = self.pinned.saturating_sub(count);
        self.head += self.pass_pieces(count, pool);
        self.ledger.pass(self.written);
        if self.own_len() == 0 {
            self.bytes.clear();
            (self.head, self.boundary) = (0, 0);
            self.marks.clear();
            // An empty queue keeps no buffer, because most peers are idle.
            pool.give(std::mem::take(&mut self.bytes));
        // The rest moves only if it is smaller than the written part: each byte moves once on
        // average.
        } else if self.head - self.boundary >= COMPACT_BYTES.max(self.own_len()) {
            self.pass_marks();
            self.bytes.drain(..self.boundary);
            self.head -= self.boundary;
            self.marks.iter_mut().for_each(|mark| *mark -= self.boundary);
            self.boundary = 0;
        }
    }

    /// Removes this many bytes from the list of pieces. Returns the number of own bytes among them.
    fn pass_pieces(&mut self, count: usize, pool: &mut ChunkPool) -> usize {
        let (mut left, mut own) = (count, 0);
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let passed = left.min(piece.len());
            left -= passed;
            match piece {
                QueuePiece::Own(count) => {
                    *count -= passed;
                    own += passed;
                }
                QueuePiece::Slice(slice) => {
                    slice.start += passed;
                    self.shared -= passed;
                }
            }
            if let Some(QueuePiece::Slice(slice)) =
                self.pieces.pop_front_if(|piece| piece.len() == 0)
            {
                pool.release(slice.chunk);
            }
        }
        self.listed -= own;
        if self.pieces.is_empty() {
            self.pieces.keep_memory(KEPT_PIECES);
        }
        own + left
    }

    /// Empties the queue, and gives up its part of shared chunks.
    pub(crate) fn release(&mut self, pool: &mut ChunkPool) {
        for piece in std::mem::take(self).pieces.take() {
            if let QueuePiece::Slice(slice) = piece {
                pool.release(slice.chunk);
            }
        }
    }

    /// Notes that the queue is not full any more, so that messages are shed at once when it next
    /// is.
    pub(crate) fn reset_shedding(&mut self) {
        self.next_shed = 0;
    }

    /// Notes that the first bytes, which are whole frames, are being written in encrypted form.
    pub(crate) fn pin(&mut self, count: usize) {
        self.pinned = count;
    }

    /// Notes that a publisher waits until the last message is written.
    pub(crate) fn await_written(&mut self, ticket: Ticket) {
        self.awaited.push_back((self.end(), ticket));
    }

    /// Notes that the last message is a request, whose requester has to learn if it is dropped.
    pub(crate) fn mark_request(&mut self) {
        self.requests_end = self.end();
    }

    /// Returns a ticket whose message has been written.
    pub(crate) fn take_written(&mut self) -> Option<Ticket> {
        let is_written = self.awaited.front().is_some_and(|(end, _)| *end <= self.written);
        self.awaited.pop_front_if(|_| is_written).map(|(_, ticket)| ticket)
    }

    /// Returns a ticket whose message will not be written.
    pub(crate) fn take_awaited(&mut self) -> Option<Ticket> {
        self.awaited.pop_front().map(|(_, ticket)| ticket)
    }

    /// Moves the boundary to the last mark at or before `head`.
    fn pass_marks(&mut self) {
        while let Some(&mark) = self.marks.front()
            && mark <= self.head
        {
            self.boundary = mark;
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_proto::{DecodedFrame, FrameKind, FrameWriter, Header, decode};

    use super::*;

    pub(super) fn push(
        queue: &mut SendQueue,
        now: Instant,
        subscription: u32,
        payload: usize,
    ) -> usize {
        let (header, mut frame) = (Header::new(FrameKind::Message, 0), Vec::new());
        let payload = vec![subscription as u8; payload];
        FrameWriter(&mut frame).control(Header { subscription, ..header }, &payload);
        queue.append_batch(now, &batch(&frame, None), &mut ChunkPool::default());
        frame.len()
    }

    /// Messages for subscriptions, or one for the peer itself.
    pub(super) fn batch(bytes: &[u8], shared: Option<ChunkSlice>) -> MessageBatch<'_> {
        let (mut rest, mut count, mut is_direct) = (bytes, 0, false);
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            (count, is_direct) = (count + 1, frame.header.subscription == 0);
            rest = &rest[length..];
        }
        MessageBatch { bytes, count, is_direct, ticket: None, shared }
    }

    #[test]
    fn knows_the_age_of_its_oldest_byte() {
        let (mut queue, start) = (SendQueue::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(queue.oldest(), None);
        let length = push(&mut queue, start, 1, 10);
        push(&mut queue, start + second, 1, 10);
        queue.wrote(length - 1, &mut ChunkPool::default());
        assert_eq!(queue.oldest(), Some(start));
        queue.wrote(1, &mut ChunkPool::default());
        assert_eq!(queue.oldest(), Some(start + second));
        queue.wrote(length, &mut ChunkPool::default());
        assert_eq!(queue.oldest(), None);
    }

    #[test]
    fn compacts_without_losing_a_byte() {
        let (mut queue, now, mut pool) =
            (SendQueue::default(), Instant::now(), ChunkPool::default());
        let (mut expected, mut got) = (0, 0);
        for round in 0..3000_usize {
            expected += push(&mut queue, now, 1, round % 500);
            let count = queue.len().min(round % 300);
            got += count;
            queue.wrote(count, &mut pool);
        }
        assert_eq!(queue.len(), expected - got);
        assert!(queue.bytes.len() < 2 * queue.len() + 2 * COMPACT_BYTES);
        queue.find_boundary(&pool);
        queue.wrote(queue.len(), &mut pool);
        assert_eq!(queue.written(), expected as u64);
    }

    /// Own and shared frames in turns, numbered by correlation.
    pub(super) fn mixed(pool: &mut ChunkPool) -> (SendQueue, Vec<u8>) {
        let (mut queue, mut all, now) = (SendQueue::default(), Vec::new(), Instant::now());
        let mut number = 0;
        for (is_shared, frames) in [(true, 2), (false, 1), (true, 1), (true, 2), (false, 2)] {
            let mut run = Vec::new();
            for _ in 0..frames {
                number += 1;
                let header =
                    Header { subscription: 1 + number % 2, ..Header::new(FrameKind::Message, 0) };
                FrameWriter(&mut run).control(header, &[number as u8; 7]);
            }
            all.extend_from_slice(&run);
            match is_shared {
                true => share(&mut queue, pool, &run),
                false => queue.append_batch(now, &batch(&run, None), pool),
            }
        }
        (queue, all)
    }

    pub(super) fn share(queue: &mut SendQueue, pool: &mut ChunkPool, run: &[u8]) {
        let heirs = usize::from(queue.ends_shared(pool));
        let slice = pool.keep(run, heirs);
        queue.append_batch(Instant::now(), &batch(run, Some(slice)), pool);
        pool.release(slice.chunk);
    }

    pub(super) fn unwritten(queue: &SendQueue, pool: &ChunkPool) -> Vec<u8> {
        queue.unwritten(pool).collect::<Vec<_>>().concat()
    }

    #[test]
    fn own_and_shared_bytes_keep_their_order_however_they_are_written() {
        for first in 0..=312 {
            let mut pool = ChunkPool::default();
            let (mut queue, all) = mixed(&mut pool);
            assert_eq!((all.len(), unwritten(&queue, &pool)), (312, all.clone()));
            assert_eq!(queue.unwritten(&pool).count(), 4, "shared runs in a row are one piece");
            queue.wrote(first, &mut pool);
            assert_eq!(unwritten(&queue, &pool), all[first..]);
            queue.append_batch(Instant::now(), &batch(&all[..39], None), &mut pool);
            share(&mut queue, &mut pool, &all[39..78]);
            let expected = [&all[first..], &all[..78]].concat();
            for second in 0..=expected.len() {
                assert_eq!(queue.len(), expected.len() - second);
                assert_eq!(unwritten(&queue, &pool), expected[second..]);
                assert_eq!(queue.messages(&pool).0, (queue.len() as u64).div_ceil(39));
                queue.wrote(usize::from(second < expected.len()), &mut pool);
            }
            assert!(queue.is_empty() && pool.is_free());
        }
    }
}
