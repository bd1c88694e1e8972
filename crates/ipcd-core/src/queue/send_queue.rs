//! A peer's outbox: the frames that are still to be written to it.
//!
//! They are the outbox's own bytes, in one piece, or held together with other peers: then `pieces`
//! says in which order they come. Most outboxes have no such list.
//!
//! Here they are bytes; only [`frames`] and [`drops`] look into them.

pub(crate) mod drops;
pub(crate) mod frames;
mod ledger;
#[cfg(test)]
mod properties;
mod sieve;

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::lazy_queue::LazyQueue;
use crate::queue::message_batch::MessageBatch;
use crate::queue::send_queue::ledger::{MessageCounts, StreamLedger};
use std::time::Instant;

/// Bytes that are dropped from the front at once, rather than moving the rest for less.
const COMPACT_BYTES: usize = 64 * 1024;
/// Pieces for which an empty outbox keeps memory.
const KEPT_PIECES: usize = 8;

/// Frames that are still to be written.
///
/// What is empty takes no memory beside it: of thousands of peers most wait.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// The outbox's own.
    bytes: Vec<u8>,
    /// Where the unwritten bytes of its own begin.
    head: usize,
    /// A frame begins here, at or before `head`.
    boundary: usize,
    /// Where later frames begin, far apart: so that nothing is walked over that was written.
    marks: LazyQueue<usize>,
    /// Up to the last one that is shared; bytes of its own are behind them.
    pieces: LazyQueue<QueuePiece>,
    /// Unwritten bytes of its own that are in `pieces`, and shared ones.
    listed: usize,
    shared: usize,
    /// Bytes that were written in all: the position of the first unwritten one in the stream.
    written: u64,
    /// When unwritten bytes came, and how many messages they hold.
    ledger: StreamLedger,
    /// Unwritten bytes that are being written in another form, and cannot be dropped any more.
    pinned: usize,
    /// How many bytes there are when it next pays to shed some.
    next_shed: usize,
    /// Where messages end whose publishers want to know when they are written.
    awaited: LazyQueue<(u64, Ticket)>,
    /// Where the last request ends.
    requests_end: u64,
}

/// Bytes in the order of the stream: whole frames, of which the first may have been begun.
#[derive(Debug)]
enum QueuePiece {
    /// So many unwritten bytes of the outbox's own.
    Own(usize),
    Slice(ChunkSlice),
}

impl QueuePiece {
    fn len(&self) -> usize {
        match self {
            Self::Own(count) => *count,
            Self::Slice(span) => span.len(),
        }
    }
}

impl SendQueue {
    /// Bytes still to be written, in pieces of whole frames, of which the first may have been begun.
    pub(crate) fn unwritten<'a>(&'a self, store: &'a ChunkPool) -> impl Iterator<Item = &'a [u8]> {
        let mut own = &self.bytes[self.head..];
        let behind = &own[self.listed..];
        let listed = self.pieces.iter().map(move |piece| match piece {
            QueuePiece::Own(count) => own.split_off(..*count).expect("they are listed"),
            QueuePiece::Slice(span) => store.bytes(span),
        });
        listed.chain((!behind.is_empty()).then_some(behind))
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.own_len() + self.shared
    }

    fn own_len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes written since the beginning.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// When the oldest byte came, to within a quarter of a second.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.ledger.oldest().filter(|_| !self.is_empty())
    }

    /// The buffer to append control frames to; an empty one takes its memory from the store.
    pub(crate) fn append(&mut self, now: Instant, store: &mut ChunkPool) -> &mut Vec<u8> {
        self.ledger.extend(now, self.end(), self.is_empty());
        if self.bytes.capacity() == 0 {
            self.bytes = store.take();
        }
        let end = self.bytes.len();
        if end >= self.marks.back().unwrap_or(&self.boundary) + COMPACT_BYTES {
            self.marks.push_back(end);
        }
        &mut self.bytes
    }

    /// Appends messages, which other send queues may hold too.
    pub(crate) fn append_batch(
        &mut self,
        now: Instant,
        batch: &MessageBatch<'_>,
        store: &mut ChunkPool,
    ) {
        match batch.shared {
            Some(span) => {
                self.ledger.extend(now, self.end(), self.is_empty());
                self.list_own(self.own_len() - self.listed);
                self.list_shared(span, store);
            }
            None => self.append(now, store).extend_from_slice(batch.bytes),
        }
        self.ledger.count(match batch.is_direct {
            true => MessageCounts { subscribed: 0, direct: batch.count },
            false => MessageCounts { subscribed: batch.count, direct: 0 },
        });
    }

    /// The position in the stream where the next byte comes.
    fn end(&self) -> u64 {
        self.written + self.len() as u64
    }

    /// Whether it ends with what the store would append to.
    pub(crate) fn ends_shared(&self, store: &ChunkPool) -> bool {
        let last = self.pieces.back();
        self.own_len() == self.listed
            && matches!(last, Some(QueuePiece::Slice(span)) if store.is_last(span))
    }

    fn list_own(&mut self, more: usize) {
        self.listed += more;
        match self.pieces.back_mut() {
            _ if more == 0 => {}
            Some(QueuePiece::Own(count)) => *count += more,
            _ => self.pieces.push_back(QueuePiece::Own(more)),
        }
    }

    fn list_shared(&mut self, span: ChunkSlice, store: &mut ChunkPool) {
        self.shared += span.len();
        match self.pieces.back_mut() {
            Some(QueuePiece::Slice(last)) if (last.chunk, last.end) == (span.chunk, span.start) => {
                last.end = span.end;
            }
            _ => {
                store.hold(span.chunk);
                self.pieces.push_back(QueuePiece::Slice(span));
            }
        }
    }

    /// Forgets the first bytes, which have been written. Memory goes back to the store at the end.
    pub(crate) fn wrote(&mut self, count: usize, store: &mut ChunkPool) {
        debug_assert!(count <= self.len(), "wrote more than there was");
        self.written += count as u64;
        self.pinned = self.pinned.saturating_sub(count);
        self.head += self.pass_pieces(count, store);
        self.ledger.pass(self.written);
        if self.own_len() == 0 {
            self.bytes.clear();
            (self.head, self.boundary) = (0, 0);
            self.marks.clear();
            store.give(std::mem::take(&mut self.bytes));
        } else if self.head - self.boundary >= COMPACT_BYTES.max(self.own_len()) {
            self.pass_marks();
            self.bytes.drain(..self.boundary);
            self.head -= self.boundary;
            self.marks.iter_mut().for_each(|mark| *mark -= self.boundary);
            self.boundary = 0;
        }
    }

    /// Goes over so many bytes; returns how many of them are its own.
    fn pass_pieces(&mut self, count: usize, store: &mut ChunkPool) -> usize {
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
                QueuePiece::Slice(span) => {
                    span.start += passed;
                    self.shared -= passed;
                }
            }
            if let Some(QueuePiece::Slice(span)) =
                self.pieces.pop_front_if(|piece| piece.len() == 0)
            {
                store.release(span.chunk);
            }
        }
        self.listed -= own;
        if self.pieces.is_empty() {
            self.pieces.keep_memory(KEPT_PIECES);
        }
        own + left
    }

    /// Lets go of what it shares, with all that is in it.
    pub(crate) fn release(&mut self, store: &mut ChunkPool) {
        for piece in std::mem::take(self).pieces.take() {
            if let QueuePiece::Slice(span) = piece {
                store.release(span.chunk);
            }
        }
    }

    /// It is not full any more: the next time it is, messages are shed at once.
    pub(crate) fn has_room(&mut self) {
        self.next_shed = 0;
    }

    /// The first bytes, which are whole frames, are being written in another form.
    pub(crate) fn pin(&mut self, count: usize) {
        self.pinned = count;
    }

    /// The message that was appended last is awaited.
    pub(crate) fn await_written(&mut self, ticket: Ticket) {
        self.awaited.push_back((self.end(), ticket));
    }

    /// The message that was appended last is a request: its requester is to know if it is dropped.
    pub(crate) fn mark_request(&mut self) {
        self.requests_end = self.end();
    }

    /// An awaited message that has been written since.
    pub(crate) fn take_written(&mut self) -> Option<Ticket> {
        let is_written = self.awaited.front().is_some_and(|(end, _)| *end <= self.written);
        self.awaited.pop_front_if(|_| is_written).map(|(_, ticket)| ticket)
    }

    /// An awaited message that will not be written.
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

    use ipcd_proto::{Decoded, FrameWriter, Header, Kind, decode};

    use super::*;

    pub(super) fn push(
        outbox: &mut SendQueue,
        now: Instant,
        subscription: u32,
        payload: usize,
    ) -> usize {
        let (header, mut frame) = (Header::new(Kind::Message, 0), Vec::new());
        let payload = vec![subscription as u8; payload];
        FrameWriter(&mut frame).control(Header { subscription, ..header }, &payload);
        outbox.append_batch(now, &batch(&frame, None), &mut ChunkPool::default());
        frame.len()
    }

    /// Messages for subscriptions, or one for the peer alone.
    pub(super) fn batch(bytes: &[u8], shared: Option<ChunkSlice>) -> MessageBatch<'_> {
        let (mut rest, mut count, mut is_direct) = (bytes, 0, false);
        while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
            (count, is_direct) = (count + 1, frame.header.subscription == 0);
            rest = &rest[length..];
        }
        MessageBatch { bytes, count, is_direct, ticket: None, shared }
    }

    #[test]
    fn knows_the_age_of_its_oldest_byte() {
        let (mut outbox, start) = (SendQueue::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(outbox.oldest(), None);
        let length = push(&mut outbox, start, 1, 10);
        push(&mut outbox, start + second, 1, 10);
        outbox.wrote(length - 1, &mut ChunkPool::default());
        assert_eq!(outbox.oldest(), Some(start));
        outbox.wrote(1, &mut ChunkPool::default());
        assert_eq!(outbox.oldest(), Some(start + second));
        outbox.wrote(length, &mut ChunkPool::default());
        assert_eq!(outbox.oldest(), None);
    }

    #[test]
    fn compacts_without_losing_a_byte() {
        let (mut outbox, now, mut store) =
            (SendQueue::default(), Instant::now(), ChunkPool::default());
        let (mut expected, mut got) = (0, 0);
        for round in 0..3000_usize {
            expected += push(&mut outbox, now, 1, round % 500);
            let count = outbox.len().min(round % 300);
            got += count;
            outbox.wrote(count, &mut store);
        }
        assert_eq!(outbox.len(), expected - got);
        assert!(outbox.bytes.len() < 2 * outbox.len() + 2 * COMPACT_BYTES);
        outbox.find_boundary(&store);
        outbox.wrote(outbox.len(), &mut store);
        assert_eq!(outbox.written(), expected as u64);
    }

    /// Frames of the outbox's own and shared ones in turns, numbered by correlation.
    pub(super) fn mixed(store: &mut ChunkPool) -> (SendQueue, Vec<u8>) {
        let (mut outbox, mut all, now) = (SendQueue::default(), Vec::new(), Instant::now());
        let mut number = 0;
        for (is_shared, frames) in [(true, 2), (false, 1), (true, 1), (true, 2), (false, 2)] {
            let mut run = Vec::new();
            for _ in 0..frames {
                number += 1;
                let header =
                    Header { subscription: 1 + number % 2, ..Header::new(Kind::Message, 0) };
                FrameWriter(&mut run).control(header, &[number as u8; 7]);
            }
            all.extend_from_slice(&run);
            match is_shared {
                true => share(&mut outbox, store, &run),
                false => outbox.append_batch(now, &batch(&run, None), store),
            }
        }
        (outbox, all)
    }

    pub(super) fn share(outbox: &mut SendQueue, store: &mut ChunkPool, run: &[u8]) {
        let heirs = usize::from(outbox.ends_shared(store));
        let span = store.keep(run, heirs);
        outbox.append_batch(Instant::now(), &batch(run, Some(span)), store);
        store.release(span.chunk);
    }

    pub(super) fn unwritten(outbox: &SendQueue, store: &ChunkPool) -> Vec<u8> {
        outbox.unwritten(store).collect::<Vec<_>>().concat()
    }

    #[test]
    fn own_and_shared_bytes_keep_their_order_however_they_are_written() {
        for first in 0..=312 {
            let mut store = ChunkPool::default();
            let (mut outbox, all) = mixed(&mut store);
            assert_eq!((all.len(), unwritten(&outbox, &store)), (312, all.clone()));
            assert_eq!(outbox.unwritten(&store).count(), 4, "shared runs in a row are one piece");
            outbox.wrote(first, &mut store);
            assert_eq!(unwritten(&outbox, &store), all[first..]);
            outbox.append_batch(Instant::now(), &batch(&all[..39], None), &mut store);
            share(&mut outbox, &mut store, &all[39..78]);
            let expected = [&all[first..], &all[..78]].concat();
            for second in 0..=expected.len() {
                assert_eq!(outbox.len(), expected.len() - second);
                assert_eq!(unwritten(&outbox, &store), expected[second..]);
                assert_eq!(outbox.messages(&store).0, (outbox.len() as u64).div_ceil(39));
                outbox.wrote(usize::from(second < expected.len()), &mut store);
            }
            assert!(outbox.is_empty() && store.is_free());
        }
    }
}
