//! A peer's outbox: the frames that are still to be written to it, in one piece.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ipcd_proto::{Decoded, Header, Kind, decode};

use crate::tracked::Ticket;

/// Bytes that are dropped from the front at once, rather than moving the rest for less.
const COMPACT_BYTES: usize = 64 * 1024;
/// Memory that an empty outbox gives back rather than keeps for the next batch.
const KEPT_BYTES: usize = 1024;
/// How precisely the age of the oldest byte is known.
const AGE_STEP: Duration = Duration::from_millis(250);

/// Frames that are still to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Where the unwritten bytes begin.
    head: usize,
    /// A frame begins here, at or before `head`.
    boundary: usize,
    /// Where later frames begin, far apart: so that nothing is walked over that was written.
    marks: VecDeque<usize>,
    /// Bytes that were written in all: the position of `head` in the stream.
    written: u64,
    /// From which position on bytes came at which time.
    ages: VecDeque<(u64, Instant)>,
    /// Bytes from `head` on that are being written in another form, and cannot be dropped any more.
    pinned: usize,
    /// Where messages end whose publishers want to know when they are written.
    awaited: VecDeque<(u64, Ticket)>,
}

/// What was dropped of an outbox.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Shed {
    /// Messages for subscriptions.
    pub(crate) messages: u64,
    /// Messages for the peer alone.
    pub(crate) direct: u64,
    /// Those whose publishers want a receipt.
    pub(crate) receipts: Vec<Ticket>,
    /// Requests: by whom, and with which correlation.
    pub(crate) requests: Vec<(u64, u64)>,
}

impl Outbox {
    /// Bytes still to be written.
    pub(crate) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
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
        if self.is_empty() { None } else { self.ages.front().map(|&(_, since)| since) }
    }

    /// The buffer to append whole frames to; an empty one takes its memory from `spare`.
    pub(crate) fn append(&mut self, now: Instant, spare: &mut Spare) -> &mut Vec<u8> {
        if self.is_empty() {
            self.ages.clear();
            if self.bytes.capacity() == 0 {
                self.bytes = spare.take();
            }
        }
        let end = self.bytes.len();
        if end >= self.marks.back().unwrap_or(&self.boundary) + COMPACT_BYTES {
            self.marks.push_back(end);
        }
        let position = self.written + self.len() as u64;
        if self.ages.back().is_none_or(|&(_, since)| now >= since + AGE_STEP) {
            self.ages.push_back((position, now));
        }
        &mut self.bytes
    }

    /// Forgets the first bytes, which have been written. Memory goes back to `spare` at the end.
    pub(crate) fn wrote(&mut self, count: usize, spare: &mut Spare) {
        debug_assert!(count <= self.len(), "wrote more than there was");
        self.head += count;
        self.written += count as u64;
        self.pinned = self.pinned.saturating_sub(count);
        if self.is_empty() {
            self.bytes.clear();
            (self.head, self.boundary) = (0, 0);
            self.marks.clear();
            spare.give(std::mem::take(&mut self.bytes));
            return;
        }
        while self.ages.get(1).is_some_and(|&(from, _)| from <= self.written) {
            self.ages.pop_front();
        }
        if self.head - self.boundary >= COMPACT_BYTES.max(self.len()) {
            self.pass_marks();
            self.bytes.drain(..self.boundary);
            self.head -= self.boundary;
            self.marks.iter_mut().for_each(|mark| *mark -= self.boundary);
            self.boundary = 0;
        }
    }

    /// The first bytes, which are whole frames, are being written in another form.
    pub(crate) fn pin(&mut self, count: usize) {
        self.pinned = count;
    }

    /// The message that was appended last is awaited.
    pub(crate) fn await_written(&mut self, ticket: Ticket) {
        self.awaited.push_back((self.written + self.len() as u64, ticket));
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

    /// Drops the oldest messages of a subscription until at most `target` bytes are left or none
    /// can be dropped. A frame of which a part is written stays.
    pub(crate) fn shed(&mut self, subscription: u32, target: usize) -> Shed {
        self.drop_frames(target, |header| {
            header.kind == Kind::Message && header.subscription == subscription
        })
    }

    /// Drops everything but the frame of which a part is written.
    pub(crate) fn purge(&mut self) -> Shed {
        self.drop_frames(0, |_| true)
    }

    fn drop_frames(&mut self, target: usize, may_go: impl Fn(&Header) -> bool) -> Shed {
        self.find_boundary();
        let excess = self.len().saturating_sub(target);
        let (mut at, mut end, mut bytes) = (self.boundary, self.boundary, 0);
        let (mut shed, mut awaited) = (Shed::default(), std::mem::take(&mut self.awaited));
        while let Ok(Decoded::Frame(frame, length)) = decode(&self.bytes[at..], usize::MAX) {
            let header = frame.header;
            let is_awaited = header.kind == Kind::Message && header.receipt && !header.request;
            let ticket =
                if is_awaited { awaited.pop_front().map_or(0, |(_, ticket)| ticket) } else { 0 };
            if at >= self.head + self.pinned && bytes < excess && may_go(&header) {
                bytes += length;
                shed.note(&header, ticket);
            } else {
                self.bytes.copy_within(at..at + length, end);
                end += length;
                if is_awaited {
                    self.awaited.push_back((self.written + (end - self.head) as u64, ticket));
                }
            }
            at += length;
        }
        self.bytes.truncate(end);
        self.marks.clear();
        shed
    }

    /// Messages that are not wholly written: for subscriptions, and for the peer alone.
    pub(crate) fn messages(&mut self) -> (u64, u64) {
        let (mut count, mut direct) = (0, 0);
        self.each_message(|header| match header.subscription {
            0 => direct += 1,
            _ => count += 1,
        });
        (count, direct)
    }

    /// The same by subscription.
    pub(crate) fn messages_by_subscription(&mut self) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        self.each_message(|header| *counts.entry(header.subscription).or_default() += 1);
        counts
    }

    fn each_message(&mut self, mut see: impl FnMut(&Header)) {
        self.find_boundary();
        let mut at = self.boundary;
        while let Ok(Decoded::Frame(frame, length)) = decode(&self.bytes[at..], usize::MAX) {
            if frame.header.kind == Kind::Message {
                see(&frame.header);
            }
            at += length;
        }
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

    /// Moves the boundary to the start of the frame that `head` is in.
    fn find_boundary(&mut self) {
        self.pass_marks();
        while let Some(length) = self.bytes[self.boundary..].first_chunk::<4>() {
            let next = self.boundary + u32::from_le_bytes(*length) as usize;
            if next > self.head {
                break;
            }
            self.boundary = next;
        }
    }
}

impl Shed {
    fn note(&mut self, header: &Header, ticket: Ticket) {
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

/// Memory that outboxes take when they begin to fill, and give back when they are empty: so an
/// idle peer has none, and a busy one does not allocate.
#[derive(Debug, Default)]
pub(crate) struct Spare(Vec<Vec<u8>>);

/// Buffers kept, and bytes of the largest that is.
const SPARES: usize = 16;
const SPARE_BYTES: usize = 1024 * 1024;

impl Spare {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, buffer: Vec<u8>) {
        let worth_keeping = (KEPT_BYTES..=SPARE_BYTES).contains(&buffer.capacity());
        if worth_keeping && self.0.len() < SPARES {
            self.0.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use ipcd_proto::FrameWriter;

    use super::*;

    fn push(outbox: &mut Outbox, now: Instant, subscription: u32, payload: usize) -> usize {
        let buffer = outbox.append(now, &mut Spare::default());
        let before = buffer.len();
        let header = Header { subscription, ..Header::new(Kind::Message, 0) };
        FrameWriter(buffer).control(header, &vec![subscription as u8; payload]);
        buffer.len() - before
    }

    fn subscriptions(outbox: &Outbox) -> Vec<u32> {
        let mut rest = outbox.unwritten();
        let mut found = Vec::new();
        while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
            found.push(frame.header.subscription);
            rest = &rest[length..];
        }
        found
    }

    #[test]
    fn sheds_the_oldest_of_one_subscription_only() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let mut length = 0;
        for subscription in [1, 2, 1, 2, 1] {
            length = push(&mut outbox, now, subscription, 68);
        }
        assert_eq!(outbox.shed(1, 5 * length).messages, 0);
        assert_eq!(outbox.shed(1, 3 * length).messages, 2);
        assert_eq!(subscriptions(&outbox), [2, 2, 1]);
    }

    #[test]
    fn never_sheds_a_frame_that_is_partly_written() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let length = push(&mut outbox, now, 1, 68);
        push(&mut outbox, now, 1, 68);
        push(&mut outbox, now, 1, 68);
        outbox.wrote(length + 5, &mut Spare::default());
        assert_eq!(outbox.shed(1, 0).messages, 1);
        assert_eq!(outbox.len(), length - 5);
        outbox.wrote(length - 5, &mut Spare::default());
        assert!(outbox.is_empty());
    }

    #[test]
    fn knows_which_awaited_messages_were_written_and_which_were_shed() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let push = |outbox: &mut Outbox, subscription, ticket| {
            let header =
                Header { subscription, receipt: true, ..Header::new(Kind::Message, ticket) };
            FrameWriter(outbox.append(now, &mut Spare::default())).control(header, &[0; 68]);
            outbox.await_written(ticket);
        };
        for (subscription, ticket) in [(1, 11), (2, 12), (1, 13), (2, 14), (1, 15)] {
            push(&mut outbox, subscription, ticket);
        }
        outbox.wrote(150, &mut Spare::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(11), None));
        let shed = outbox.shed(1, 250);
        assert_eq!((shed.messages, shed.receipts), (1, vec![13]));
        outbox.wrote(50, &mut Spare::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(12), None));
        outbox.wrote(1, &mut Spare::default());
        let shed = outbox.purge();
        assert_eq!((shed.messages, shed.receipts, outbox.len()), (1, vec![15], 99));
        outbox.wrote(99, &mut Spare::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(14), None));
    }

    #[test]
    fn knows_the_age_of_its_oldest_byte() {
        let (mut outbox, start) = (Outbox::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(outbox.oldest(), None);
        let length = push(&mut outbox, start, 1, 10);
        push(&mut outbox, start + second, 1, 10);
        outbox.wrote(length - 1, &mut Spare::default());
        assert_eq!(outbox.oldest(), Some(start));
        outbox.wrote(1, &mut Spare::default());
        assert_eq!(outbox.oldest(), Some(start + second));
        outbox.wrote(length, &mut Spare::default());
        assert_eq!(outbox.oldest(), None);
    }

    #[test]
    fn compacts_without_losing_a_byte() {
        let (mut outbox, now, mut spare) = (Outbox::default(), Instant::now(), Spare::default());
        let (mut expected, mut got) = (0, 0);
        for round in 0..3000_usize {
            expected += push(&mut outbox, now, 1, round % 500);
            let count = outbox.len().min(round % 300);
            got += count;
            outbox.wrote(count, &mut spare);
        }
        assert_eq!(outbox.len(), expected - got);
        assert!(outbox.bytes.len() < 2 * outbox.len() + 2 * COMPACT_BYTES);
        outbox.find_boundary();
        outbox.wrote(outbox.len(), &mut spare);
        assert_eq!(outbox.written(), expected as u64);
    }
}
