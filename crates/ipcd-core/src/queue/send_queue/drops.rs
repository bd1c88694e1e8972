//! Dropping frames of a send queue: the oldest ones of some subscriptions, or all that are not
//! partly written. The caller decides when, and reports the drops.

use std::collections::HashMap;
use std::ops::Range;

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::lazy_queue::LazyQueue;
use crate::queue::send_queue::ledger::{MessageCounts, StreamLedger};
use crate::queue::send_queue::sieve::{FrameSieve, sift_shared};
use crate::queue::send_queue::{QueuePiece, SendQueue};
use foldhash::fast::RandomState;
use ipcd_proto::{DecodedFrame, FrameKind, Header, decode};

/// Messages are shed again when the queue has grown by this part of the bytes that were left.
const SHED_PARTS: usize = 8;

/// The share of a subscription in a send queue that is being shed.
#[derive(Default)]
struct QueuedBytes {
    bytes: usize,
    dropped: u64,
}

/// Returns the bytes that each subscription may keep, so that `over` bytes go and the largest
/// shares lose most.
fn level_of(mut all: Vec<usize>, over: usize) -> usize {
    all.sort_unstable();
    let total: usize = all.iter().sum();
    let mut keeps = total.saturating_sub(over);
    let mut left = all.len();
    for bytes in all {
        // Small shares are kept whole. The rest is divided equally among the larger ones.
        if bytes * left >= keeps {
            return keeps / left;
        }
        keeps -= bytes;
        left -= 1;
    }
    usize::MAX
}

/// The messages that were dropped from a send queue.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct DropReport {
    /// Messages for subscriptions.
    pub(crate) messages: u64,
    /// The number for each subscription, if the caller needs it.
    pub(crate) by_subscription: Vec<(u32, u64)>,
    /// Messages that were examined.
    pub(crate) looked_at: usize,
    /// Messages for the peer itself.
    pub(crate) direct: u64,
    /// The tickets of messages with a receipt.
    pub(crate) receipts: Vec<Ticket>,
    /// Requests, by requester and correlation.
    pub(crate) requests: Vec<(u64, u64)>,
}

impl SendQueue {
    /// Whether the queue has grown enough since the last shedding, with so many bytes more. So each frame is examined a few
    /// times only, no matter how full the queue stays.
    pub(crate) fn is_worth_shedding(&self, more: usize) -> bool {
        self.len() + more >= self.next_shed
    }

    /// Drops the oldest messages of subscriptions that allow it, until at most `target` bytes are
    /// left beside the pinned ones, or none can be dropped. Subscriptions with most bytes lose
    /// first, so that a quiet one keeps its messages beside a busy one. A frame that is partly
    /// written stays. So does the last frame: the newest message always comes through.
    pub(crate) fn shed(
        &mut self,
        target: usize,
        pool: &mut ChunkPool,
        mut allows: impl FnMut(u32) -> bool,
    ) -> DropReport {
        // Pinned bytes cannot be dropped, so they do not count.
        let target = target + self.pinned;
        let mut queues = HashMap::<u32, Option<QueuedBytes>, RandomState>::default();
        let mut looked_at = 0;
        self.each_message(pool, |header, length| {
            looked_at += 1;
            let number = header.subscription;
            let queued = queues.entry(number);
            let queued = queued.or_insert_with(|| allows(number).then(QueuedBytes::default));
            if let Some(queued) = queued {
                queued.bytes += length;
            }
        });
        // The whole queue is known now; a second pass drops.
        let all = queues.values().flatten().map(|queued| queued.bytes);
        let most = level_of(all.collect(), self.len().saturating_sub(target));
        let mut shed = self.drop_frames(target, pool, |header, length, is_last| {
            let is_message = header.kind == FrameKind::Message && !is_last;
            let queued = queues.get_mut(&header.subscription).and_then(Option::as_mut);
            let queued = queued.filter(|queued| is_message && queued.bytes > most);
            if let Some(queued) = queued {
                queued.bytes -= length;
                queued.dropped += 1;
                return true;
            }
            false
        });
        self.next_shed = self.len() + self.len() / SHED_PARTS;
        let dropped =
            queues.into_iter().filter_map(|(number, queued)| Some((number, queued?.dropped)));
        shed.by_subscription = dropped.filter(|(_, dropped)| *dropped > 0).collect();
        // Hash order differs between runs. Sorted, a simulation is repeatable by its seed.
        shed.by_subscription.sort_unstable();
        shed.looked_at = looked_at;
        shed
    }

    /// Drops everything but pinned frames and the one that is partly written. The frames are parsed
    /// only if there may be requests among them, because each requester has to be told.
    pub(crate) fn purge(&mut self, pool: &mut ChunkPool) -> DropReport {
        if self.requests_end > self.written {
            return self.drop_frames(0, pool, |_, _, _| true);
        }
        let mut gone = self.count_messages(pool);
        let begun = self.find_boundary(pool);
        // A frame that is partly written stays as if its first byte were pinned.
        let begins_before = self.written + self.pinned.max(usize::from(begun > 0)) as u64;
        let (mut kept, mut kept_bytes) = (MessageCounts::default(), 0);
        self.each_frame(pool, begins_before, |header, length| {
            kept.add(MessageCounts::of(header));
            kept_bytes += length;
        });
        gone.remove(kept);
        let oldest = self.ledger.oldest();
        self.keep_first(kept_bytes.saturating_sub(begun), pool);
        self.ledger = StreamLedger::default();
        if let Some(oldest) = oldest {
            self.ledger.extend(oldest, self.written, true);
            self.ledger.count(kept);
        }
        let end = self.end();
        let receipts = self.awaited.split_off(|(at, _)| *at > end);
        let receipts = receipts.into_iter().map(|(_, ticket)| ticket).collect();
        let (messages, direct) = (gone.subscribed, gone.direct);
        DropReport { messages, direct, receipts, ..DropReport::default() }
    }

    /// Drops everything after this many bytes, which are whole frames.
    fn keep_first(&mut self, bytes: usize, pool: &mut ChunkPool) {
        let behind = QueuePiece::Own(self.own_len() - self.listed);
        let (mut left, mut own) = (bytes, 0);
        let pieces = self.pieces.take();
        (self.listed, self.shared) = (0, 0);
        for piece in pieces.chain([behind]) {
            let kept = piece.len().min(left);
            left -= kept;
            match piece {
                QueuePiece::Own(_) => {
                    self.list_own(kept);
                    own += kept;
                }
                QueuePiece::Slice(slice) => {
                    if kept > 0 {
                        self.list_shared(ChunkSlice { end: slice.start + kept, ..slice }, pool);
                    }
                    pool.release(slice.chunk);
                }
            }
        }
        self.bytes.truncate(self.head + own);
        self.marks.clear();
        self.unlist_last();
    }

    /// Removes the last piece from the list, if it is of own bytes: these follow the list
    /// implicitly.
    fn unlist_last(&mut self) {
        if let Some(QueuePiece::Own(count)) =
            self.pieces.pop_back_if(|piece| matches!(piece, QueuePiece::Own(_)))
        {
            self.listed -= count;
        }
    }

    /// Drops the oldest frames for which `may_go` is true, until `target` bytes are left. It gets
    /// the header, the length, and whether the frame is the last.
    pub(super) fn drop_frames(
        &mut self,
        target: usize,
        pool: &mut ChunkPool,
        may_go: impl FnMut(&Header, usize, bool) -> bool,
    ) -> DropReport {
        self.find_boundary(pool);
        let behind = QueuePiece::Own(self.own_len() - self.listed);
        let pieces = self.pieces.take();
        let mut sieve = FrameSieve {
            may_go,
            pinned: self.pinned,
            excess: self.len().saturating_sub(target),
            behind: self.len(),
            written: self.written,
            passed: self.written,
            position: self.written,
            oldest: self.ledger.oldest(),
            ledger: std::mem::take(&mut self.ledger),
            kept_ledger: StreamLedger::default(),
            awaited: std::mem::take(&mut self.awaited),
            kept_awaited: LazyQueue::default(),
            shed: DropReport::default(),
        };
        (self.listed, self.shared) = (0, 0);
        let (mut at, mut end) = (self.boundary, self.boundary);
        for piece in pieces.chain([behind]) {
            match piece {
                QueuePiece::Own(count) => {
                    let stop = at.max(self.head) + count;
                    let kept = self.sift_own(at..stop, end, &mut sieve);
                    self.list_own((end + kept).max(self.head) - end.max(self.head));
                    (at, end) = (stop, end + kept);
                }
                QueuePiece::Slice(slice) => {
                    for kept in sift_shared(&slice, pool, &mut sieve) {
                        self.list_shared(kept, pool);
                    }
                    pool.release(slice.chunk);
                }
            }
        }
        self.bytes.truncate(end);
        self.marks.clear();
        self.unlist_last();
        self.awaited = sieve.kept_awaited;
        self.ledger = sieve.kept_ledger;
        sieve.shed
    }

    /// Moves the own frames of this range that stay to `end`. Returns their bytes.
    fn sift_own(
        &mut self,
        range: Range<usize>,
        end: usize,
        sieve: &mut FrameSieve<impl FnMut(&Header, usize, bool) -> bool>,
    ) -> usize {
        let (mut at, mut kept) = (range.start, 0);
        while at < range.end
            && let Ok(DecodedFrame::Frame(frame, length)) = decode(&self.bytes[at..], usize::MAX)
        {
            if sieve.keeps(&frame.header, length, self.head.saturating_sub(at)) {
                // In place: frames that stay move over those that go.
                self.bytes.copy_within(at..at + length, end + kept);
                kept += length;
            }
            at += length;
        }
        kept
    }
}

impl DropReport {
    pub(super) fn note(&mut self, header: &Header, ticket: Ticket) {
        match header {
            Header { kind: FrameKind::Message, subscription: 0, .. } => self.direct += 1,
            Header { kind: FrameKind::Message, .. } => self.messages += 1,
            _ => return,
        }
        if header.request {
            self.requests.push((header.sender, header.correlation));
        } else if header.receipt {
            self.receipts.push(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, mixed, push, share, unwritten};
    use std::time::{Duration, Instant};

    use ipcd_proto::FrameWriter;

    use super::*;

    fn subscriptions(queue: &SendQueue, pool: &ChunkPool) -> Vec<u32> {
        let rest = queue.unwritten(pool).collect::<Vec<_>>().concat();
        let mut rest = &rest[..];
        let mut found = Vec::new();
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            found.push(frame.header.subscription);
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn sheds_the_oldest_of_one_subscription_only() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for subscription in [1, 2, 1, 2, 1] {
            length = push(&mut queue, now, subscription, 68);
        }
        assert_eq!(queue.shed(5 * length, &mut ChunkPool::default(), |n| n == 1).messages, 0);
        assert_eq!(queue.shed(3 * length, &mut ChunkPool::default(), |n| n == 1).messages, 2);
        assert_eq!(subscriptions(&queue, &ChunkPool::default()), [2, 2, 1]);
    }

    #[test]
    fn those_with_most_lose_most_and_each_its_oldest() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for subscription in [1, 2, 1, 1, 1, 3, 2, 1] {
            length = push(&mut queue, now, subscription, 68);
        }
        let shed = queue.shed(5 * length, &mut ChunkPool::default(), |number| number != 3);
        assert_eq!(shed.by_subscription, [(1, 3)]);
        assert_eq!(subscriptions(&queue, &ChunkPool::default()), [2, 1, 3, 2, 1]);
        for (all, over, level) in [
            (vec![10, 1, 5], 0, 10),
            (vec![10, 1, 5], 3, 7),
            (vec![10, 1, 5], 7, 4),
            (vec![10, 1, 5], 20, 0),
            (vec![], 5, usize::MAX),
        ] {
            assert_eq!(level_of(all, over), level);
        }
    }

    #[test]
    fn a_send_queue_that_stays_full_is_looked_through_now_and_then_only() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let (mut looked_at, mut pushed) = (0, 0);
        // Only these can be dropped.
        for number in 0..5_000_u32 {
            push(&mut queue, now, if number.is_multiple_of(100) { 1 } else { 2 }, 8);
            pushed += 1;
            if queue.is_worth_shedding(0) {
                looked_at += queue.shed(1000, &mut ChunkPool::default(), |n| n == 1).looked_at;
            }
        }
        assert!(looked_at > pushed && looked_at < 60 * pushed, "{looked_at}");
    }

    #[test]
    fn never_sheds_a_frame_that_is_partly_written() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let length = push(&mut queue, now, 1, 68);
        push(&mut queue, now, 1, 68);
        push(&mut queue, now, 1, 68);
        queue.wrote(length + 5, &mut ChunkPool::default());
        assert_eq!(queue.purge(&mut ChunkPool::default()).messages, 1);
        assert_eq!(queue.len(), length - 5);
        queue.wrote(length - 5, &mut ChunkPool::default());
        assert!(queue.is_empty());
    }

    #[test]
    fn what_stays_keeps_its_age_and_a_peer_that_reads_nothing_does_not_get_younger() {
        let (mut queue, start) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for (number, subscription) in (0..).zip([1, 1, 2, 1, 2]) {
            length = push(&mut queue, start + number * Duration::from_secs(1), subscription, 68);
        }
        assert_eq!(queue.shed(2 * length, &mut ChunkPool::default(), |n| n == 1).messages, 3);
        assert_eq!(queue.oldest(), Some(start));
        queue.wrote(length, &mut ChunkPool::default());
        assert_eq!(queue.oldest(), Some(start + Duration::from_secs(4)));
    }

    #[test]
    fn the_newest_stays_whatever_else_fills_the_send_queue() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for subscription in [2, 2, 2, 1, 1, 1] {
            length = push(&mut queue, now, subscription, 68);
        }
        assert_eq!(queue.shed(length, &mut ChunkPool::default(), |n| n == 1).messages, 2);
        assert_eq!(subscriptions(&queue, &ChunkPool::default()), [2, 2, 2, 1]);
    }

    #[test]
    fn what_is_pinned_takes_no_room_from_what_may_be_dropped() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for _ in 0..6 {
            length = push(&mut queue, now, 1, 68);
        }
        queue.pin(3 * length);
        assert_eq!(queue.shed(2 * length, &mut ChunkPool::default(), |n| n == 1).messages, 1);
        assert_eq!(queue.len(), 5 * length);
    }

    #[test]
    fn knows_which_awaited_messages_were_written_and_which_were_shed() {
        let (mut queue, now) = (SendQueue::default(), Instant::now());
        let push = |queue: &mut SendQueue, subscription, ticket| {
            let header =
                Header { subscription, receipt: true, ..Header::new(FrameKind::Message, ticket) };
            let mut frame = Vec::new();
            FrameWriter(&mut frame).control(header, &[0; 68]);
            queue.append_batch(now, &batch(&frame, None), &mut ChunkPool::default());
            queue.await_written(ticket);
        };
        for (subscription, ticket) in [(1, 11), (2, 12), (1, 13), (2, 14), (1, 15)] {
            push(&mut queue, subscription, ticket);
        }
        queue.wrote(150, &mut ChunkPool::default());
        assert_eq!((queue.take_written(), queue.take_written()), (Some(11), None));
        let shed = queue.shed(250, &mut ChunkPool::default(), |n| n == 1);
        assert_eq!((shed.messages, shed.receipts), (1, vec![13]));
        queue.wrote(50, &mut ChunkPool::default());
        assert_eq!((queue.take_written(), queue.take_written()), (Some(12), None));
        queue.wrote(1, &mut ChunkPool::default());
        let shed = queue.purge(&mut ChunkPool::default());
        assert_eq!((shed.messages, shed.receipts, queue.len()), (1, vec![15], 99));
        queue.wrote(99, &mut ChunkPool::default());
        assert_eq!((queue.take_written(), queue.take_written()), (Some(14), None));
    }

    #[test]
    fn shedding_keeps_begun_frames_and_others_wherever_they_are() {
        for written in 0..312 {
            for target in [0, 100, 200] {
                let mut pool = ChunkPool::default();
                let (mut queue, all) = mixed(&mut pool);
                queue.wrote(written, &mut pool);
                let begun = written.next_multiple_of(39) - written;
                let mut expected = all[written..written + begun].to_vec();
                let (mut dropped, left) = (0, 312 - written);
                for at in (written + begun..312).step_by(39) {
                    let (frame, is_last) = (&all[at..at + 39], at + 39 == 312);
                    let goes = frame[12] == 1 && left - dropped > target && !is_last;
                    dropped += if goes { 39 } else { 0 };
                    expected.extend_from_slice(if goes { &[] } else { frame });
                }
                let shed = queue.shed(target, &mut pool, |n| n == 1);
                assert_eq!((shed.messages, dropped), (dropped as u64 / 39, left - queue.len()));
                assert_eq!(unwritten(&queue, &pool), expected, "{written} written");
                // The queue continues as before.
                share(&mut queue, &mut pool, &all[..39]);
                queue.append_batch(Instant::now(), &batch(&all[39..78], None), &mut pool);
                expected.extend_from_slice(&all[..78]);
                assert_eq!(unwritten(&queue, &pool), expected);
                let shed = queue.purge(&mut pool);
                assert_eq!(shed.messages as usize * 39, expected.len() - begun);
                assert_eq!(unwritten(&queue, &pool), all[written..written + begun]);
                queue.release(&mut pool);
                assert!(pool.is_free());
            }
        }
    }

    #[test]
    fn pinned_bytes_stay_in_shared_pieces_too() {
        let mut pool = ChunkPool::default();
        let (mut queue, all) = mixed(&mut pool);
        queue.wrote(10, &mut pool);
        queue.pin(39);
        assert_eq!(queue.purge(&mut pool).messages, 6);
        assert_eq!(unwritten(&queue, &pool), all[10..78]);
        queue.release(&mut pool);
        assert!(pool.is_free());
    }
}
