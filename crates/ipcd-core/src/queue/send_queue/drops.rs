//! Dropping frames of an outbox: the oldest of a subscription, or all that are not begun.

use std::collections::HashMap;
use std::ops::Range;

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::lazy_queue::LazyQueue;
use crate::queue::send_queue::ledger::{MessageCounts, StreamLedger};
use crate::queue::send_queue::sieve::{FrameSieve, sift_shared};
use crate::queue::send_queue::{QueuePiece, SendQueue};
use foldhash::fast::RandomState;
use ipcd_proto::{Decoded, Header, Kind, decode};

/// Messages are shed again when this part of what is left has come on top.
const SHED_PARTS: usize = 8;

/// What a subscription has in an outbox while that is shed.
#[derive(Default)]
struct QueuedBytes {
    bytes: usize,
    dropped: u64,
}

/// What each may keep of so many bytes, so that what is over goes and those with most lose most.
fn level_of(mut all: Vec<usize>, over: usize) -> usize {
    all.sort_unstable();
    let total: usize = all.iter().sum();
    let mut keeps = total.saturating_sub(over);
    let mut left = all.len();
    for bytes in all {
        if bytes * left >= keeps {
            return keeps / left;
        }
        keeps -= bytes;
        left -= 1;
    }
    usize::MAX
}

/// What was dropped of an outbox.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct DropReport {
    /// Messages for subscriptions.
    pub(crate) messages: u64,
    /// How many of them were for which, where that is of interest.
    pub(crate) by_subscription: Vec<(u32, u64)>,
    /// Messages that were looked at for it.
    pub(crate) looked_at: usize,
    /// Messages for the peer alone.
    pub(crate) direct: u64,
    /// Those whose publishers want a receipt.
    pub(crate) receipts: Vec<Ticket>,
    /// Requests: by whom, and with which correlation.
    pub(crate) requests: Vec<(u64, u64)>,
}

impl SendQueue {
    /// Whether so much has come since messages were last shed that it pays to look again: so a frame
    /// is looked at a few times only, however full the outbox stays.
    pub(crate) fn is_worth_shedding(&self) -> bool {
        self.len() >= self.next_shed
    }

    /// Drops the oldest messages of the subscriptions that allow it, until at most `target` bytes are
    /// left, beside what is pinned, or none can be dropped. Those that have most in the outbox lose
    /// theirs first, so a subscription with little traffic keeps what a busy one beside it does not
    /// need. A frame of which a part is written stays, and so does the last: whatever else fills the
    /// outbox, the newest message comes through.
    pub(crate) fn shed(
        &mut self,
        target: usize,
        store: &mut ChunkPool,
        mut allows: impl FnMut(u32) -> bool,
    ) -> DropReport {
        let target = target + self.pinned;
        let mut queues = HashMap::<u32, Option<QueuedBytes>, RandomState>::default();
        let mut looked_at = 0;
        self.each_message(store, |header, length| {
            looked_at += 1;
            let number = header.subscription;
            let queued = queues.entry(number);
            let queued = queued.or_insert_with(|| allows(number).then(QueuedBytes::default));
            if let Some(queued) = queued {
                queued.bytes += length;
            }
        });
        let all = queues.values().flatten().map(|queued| queued.bytes);
        let most = level_of(all.collect(), self.len().saturating_sub(target));
        let mut shed = self.drop_frames(target, store, |header, length, is_last| {
            let is_message = header.kind == Kind::Message && !is_last;
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
        // In an order that a simulation can repeat.
        shed.by_subscription.sort_unstable();
        shed.looked_at = looked_at;
        shed
    }

    /// Drops everything but the frame of which a part is written, and what is pinned. The frames are
    /// walked over only if there may be requests among them.
    pub(crate) fn purge(&mut self, store: &mut ChunkPool) -> DropReport {
        if self.requests_end > self.written {
            return self.drop_frames(0, store, |_, _, _| true);
        }
        let mut gone = self.count_messages(store);
        let begun = self.find_boundary(store);
        // The begun frame stays for its first byte, as it does for one that is pinned.
        let begins_before = self.written + self.pinned.max(usize::from(begun > 0)) as u64;
        let (mut kept, mut kept_bytes) = (MessageCounts::default(), 0);
        self.each_frame(store, begins_before, |header, length| {
            kept.add(MessageCounts::of(header));
            kept_bytes += length;
        });
        gone.remove(kept);
        let oldest = self.ledger.oldest();
        self.keep_first(kept_bytes.saturating_sub(begun), store);
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

    /// Drops what is behind so many bytes, which are whole frames.
    fn keep_first(&mut self, bytes: usize, store: &mut ChunkPool) {
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
                QueuePiece::Slice(span) => {
                    if kept > 0 {
                        self.list_shared(ChunkSlice { end: span.start + kept, ..span }, store);
                    }
                    store.release(span.chunk);
                }
            }
        }
        self.bytes.truncate(self.head + own);
        self.marks.clear();
        self.unlist_last();
    }

    /// Bytes of its own that are behind the last that are shared are not listed.
    fn unlist_last(&mut self) {
        if let Some(QueuePiece::Own(count)) =
            self.pieces.pop_back_if(|piece| matches!(piece, QueuePiece::Own(_)))
        {
            self.listed -= count;
        }
    }

    /// Drops the oldest frames that may go, told by their headers and whether they are the last.
    pub(super) fn drop_frames(
        &mut self,
        target: usize,
        store: &mut ChunkPool,
        may_go: impl FnMut(&Header, usize, bool) -> bool,
    ) -> DropReport {
        self.find_boundary(store);
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
                QueuePiece::Slice(span) => {
                    for kept in sift_shared(&span, store, &mut sieve) {
                        self.list_shared(kept, store);
                    }
                    store.release(span.chunk);
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

    /// Moves the frames of its own in this range that stay to `end`; returns their bytes.
    fn sift_own(
        &mut self,
        range: Range<usize>,
        end: usize,
        sieve: &mut FrameSieve<impl FnMut(&Header, usize, bool) -> bool>,
    ) -> usize {
        let (mut at, mut kept) = (range.start, 0);
        while at < range.end
            && let Ok(Decoded::Frame(frame, length)) = decode(&self.bytes[at..], usize::MAX)
        {
            if sieve.keeps(&frame.header, length, self.head.saturating_sub(at)) {
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
            Header { kind: Kind::Message, subscription: 0, .. } => self.direct += 1,
            Header { kind: Kind::Message, .. } => self.messages += 1,
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

    fn subscriptions(outbox: &SendQueue, store: &ChunkPool) -> Vec<u32> {
        let rest = outbox.unwritten(store).collect::<Vec<_>>().concat();
        let mut rest = &rest[..];
        let mut found = Vec::new();
        while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
            found.push(frame.header.subscription);
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn sheds_the_oldest_of_one_subscription_only() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for subscription in [1, 2, 1, 2, 1] {
            length = push(&mut outbox, now, subscription, 68);
        }
        assert_eq!(outbox.shed(5 * length, &mut ChunkPool::default(), |n| n == 1).messages, 0);
        assert_eq!(outbox.shed(3 * length, &mut ChunkPool::default(), |n| n == 1).messages, 2);
        assert_eq!(subscriptions(&outbox, &ChunkPool::default()), [2, 2, 1]);
    }

    #[test]
    fn those_with_most_lose_most_and_each_its_oldest() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for subscription in [1, 2, 1, 1, 1, 3, 2, 1] {
            length = push(&mut outbox, now, subscription, 68);
        }
        let shed = outbox.shed(5 * length, &mut ChunkPool::default(), |number| number != 3);
        assert_eq!(shed.by_subscription, [(1, 3)]);
        assert_eq!(subscriptions(&outbox, &ChunkPool::default()), [2, 1, 3, 2, 1]);
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
    fn an_outbox_that_stays_full_is_looked_through_now_and_then_only() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let (mut looked_at, mut pushed) = (0, 0);
        // Nothing of it can be dropped but what comes now and then.
        for number in 0..5_000_u32 {
            push(&mut outbox, now, if number.is_multiple_of(100) { 1 } else { 2 }, 8);
            pushed += 1;
            if outbox.is_worth_shedding() {
                looked_at += outbox.shed(1000, &mut ChunkPool::default(), |n| n == 1).looked_at;
            }
        }
        assert!(looked_at > pushed && looked_at < 60 * pushed, "{looked_at}");
    }

    #[test]
    fn never_sheds_a_frame_that_is_partly_written() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let length = push(&mut outbox, now, 1, 68);
        push(&mut outbox, now, 1, 68);
        push(&mut outbox, now, 1, 68);
        outbox.wrote(length + 5, &mut ChunkPool::default());
        assert_eq!(outbox.purge(&mut ChunkPool::default()).messages, 1);
        assert_eq!(outbox.len(), length - 5);
        outbox.wrote(length - 5, &mut ChunkPool::default());
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_stays_keeps_its_age_and_a_peer_that_reads_nothing_does_not_get_younger() {
        let (mut outbox, start) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for (number, subscription) in (0..).zip([1, 1, 2, 1, 2]) {
            length = push(&mut outbox, start + number * Duration::from_secs(1), subscription, 68);
        }
        assert_eq!(outbox.shed(2 * length, &mut ChunkPool::default(), |n| n == 1).messages, 3);
        assert_eq!(outbox.oldest(), Some(start));
        outbox.wrote(length, &mut ChunkPool::default());
        assert_eq!(outbox.oldest(), Some(start + Duration::from_secs(4)));
    }

    #[test]
    fn the_newest_stays_whatever_else_fills_the_outbox() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for subscription in [2, 2, 2, 1, 1, 1] {
            length = push(&mut outbox, now, subscription, 68);
        }
        assert_eq!(outbox.shed(length, &mut ChunkPool::default(), |n| n == 1).messages, 2);
        assert_eq!(subscriptions(&outbox, &ChunkPool::default()), [2, 2, 2, 1]);
    }

    #[test]
    fn what_is_pinned_takes_no_room_from_what_may_be_dropped() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let mut length = 0;
        for _ in 0..6 {
            length = push(&mut outbox, now, 1, 68);
        }
        outbox.pin(3 * length);
        assert_eq!(outbox.shed(2 * length, &mut ChunkPool::default(), |n| n == 1).messages, 1);
        assert_eq!(outbox.len(), 5 * length);
    }

    #[test]
    fn knows_which_awaited_messages_were_written_and_which_were_shed() {
        let (mut outbox, now) = (SendQueue::default(), Instant::now());
        let push = |outbox: &mut SendQueue, subscription, ticket| {
            let header =
                Header { subscription, receipt: true, ..Header::new(Kind::Message, ticket) };
            let mut frame = Vec::new();
            FrameWriter(&mut frame).control(header, &[0; 68]);
            outbox.append_batch(now, &batch(&frame, None), &mut ChunkPool::default());
            outbox.await_written(ticket);
        };
        for (subscription, ticket) in [(1, 11), (2, 12), (1, 13), (2, 14), (1, 15)] {
            push(&mut outbox, subscription, ticket);
        }
        outbox.wrote(150, &mut ChunkPool::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(11), None));
        let shed = outbox.shed(250, &mut ChunkPool::default(), |n| n == 1);
        assert_eq!((shed.messages, shed.receipts), (1, vec![13]));
        outbox.wrote(50, &mut ChunkPool::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(12), None));
        outbox.wrote(1, &mut ChunkPool::default());
        let shed = outbox.purge(&mut ChunkPool::default());
        assert_eq!((shed.messages, shed.receipts, outbox.len()), (1, vec![15], 99));
        outbox.wrote(99, &mut ChunkPool::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(14), None));
    }

    #[test]
    fn shedding_keeps_begun_frames_and_others_wherever_they_are() {
        for written in 0..312 {
            for target in [0, 100, 200] {
                let mut store = ChunkPool::default();
                let (mut outbox, all) = mixed(&mut store);
                outbox.wrote(written, &mut store);
                let begun = written.next_multiple_of(39) - written;
                let mut expected = all[written..written + begun].to_vec();
                let (mut dropped, left) = (0, 312 - written);
                for at in (written + begun..312).step_by(39) {
                    let (frame, is_last) = (&all[at..at + 39], at + 39 == 312);
                    let goes = frame[12] == 1 && left - dropped > target && !is_last;
                    dropped += if goes { 39 } else { 0 };
                    expected.extend_from_slice(if goes { &[] } else { frame });
                }
                let shed = outbox.shed(target, &mut store, |n| n == 1);
                assert_eq!((shed.messages, dropped), (dropped as u64 / 39, left - outbox.len()));
                assert_eq!(unwritten(&outbox, &store), expected, "{written} written");
                // It goes on as before.
                share(&mut outbox, &mut store, &all[..39]);
                outbox.append_batch(Instant::now(), &batch(&all[39..78], None), &mut store);
                expected.extend_from_slice(&all[..78]);
                assert_eq!(unwritten(&outbox, &store), expected);
                let shed = outbox.purge(&mut store);
                assert_eq!(shed.messages as usize * 39, expected.len() - begun);
                assert_eq!(unwritten(&outbox, &store), all[written..written + begun]);
                outbox.release(&mut store);
                assert!(store.is_free());
            }
        }
    }

    #[test]
    fn pinned_bytes_stay_in_shared_pieces_too() {
        let mut store = ChunkPool::default();
        let (mut outbox, all) = mixed(&mut store);
        outbox.wrote(10, &mut store);
        outbox.pin(39);
        assert_eq!(outbox.purge(&mut store).messages, 6);
        assert_eq!(unwritten(&outbox, &store), all[10..78]);
        outbox.release(&mut store);
        assert!(store.is_free());
    }
}
