//! A peer's outbox: the frames that are still to be written to it.
//!
//! They are the outbox's own bytes, in one piece, or held together with other peers: then `pieces`
//! says in which order they come. Most outboxes have no such list.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use ipcd_proto::{Decoded, Header, Kind, decode, frame_len};

use crate::store::{Span, Store};
use crate::tracked::Ticket;

/// Bytes that are dropped from the front at once, rather than moving the rest for less.
const COMPACT_BYTES: usize = 64 * 1024;
/// Pieces for which an empty outbox keeps memory.
const KEPT_PIECES: usize = 8;
/// How precisely the age of the oldest byte is known.
const AGE_STEP: Duration = Duration::from_millis(250);

/// Frames that are still to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The outbox's own.
    bytes: Vec<u8>,
    /// Where the unwritten bytes of its own begin.
    head: usize,
    /// A frame begins here, at or before `head`.
    boundary: usize,
    /// Where later frames begin, far apart: so that nothing is walked over that was written.
    marks: VecDeque<usize>,
    /// Up to the last one that is shared; bytes of its own are behind them.
    pieces: VecDeque<Piece>,
    /// Unwritten bytes of its own that are in `pieces`, and shared ones.
    listed: usize,
    shared: usize,
    /// Bytes that were written in all: the position of the first unwritten one in the stream.
    written: u64,
    /// From which position on bytes came at which time.
    ages: VecDeque<(u64, Instant)>,
    /// Unwritten bytes that are being written in another form, and cannot be dropped any more.
    pinned: usize,
    /// Where messages end whose publishers want to know when they are written.
    awaited: VecDeque<(u64, Ticket)>,
}

/// Bytes in the order of the stream: whole frames, of which the first may have been begun.
#[derive(Debug)]
enum Piece {
    /// So many unwritten bytes of the outbox's own.
    Own(usize),
    Shared(Span),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Own(count) => *count,
            Self::Shared(span) => span.len(),
        }
    }
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
    /// Bytes still to be written, in pieces of whole frames, of which the first may have been begun.
    pub(crate) fn unwritten<'a>(&'a self, store: &'a Store) -> impl Iterator<Item = &'a [u8]> {
        let mut own = &self.bytes[self.head..];
        let behind = &own[self.listed..];
        let listed = self.pieces.iter().map(move |piece| match piece {
            Piece::Own(count) => own.split_off(..*count).expect("they are listed"),
            Piece::Shared(span) => store.bytes(span),
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
        if self.is_empty() { None } else { self.ages.front().map(|&(_, since)| since) }
    }

    /// The buffer to append whole frames to; an empty one takes its memory from the store.
    pub(crate) fn append(&mut self, now: Instant, store: &mut Store) -> &mut Vec<u8> {
        self.note_age(now);
        if self.bytes.capacity() == 0 {
            self.bytes = store.take();
        }
        let end = self.bytes.len();
        if end >= self.marks.back().unwrap_or(&self.boundary) + COMPACT_BYTES {
            self.marks.push_back(end);
        }
        &mut self.bytes
    }

    /// Appends what other outboxes hold too.
    pub(crate) fn append_shared(&mut self, now: Instant, span: Span, store: &mut Store) {
        self.note_age(now);
        self.list_own(self.own_len() - self.listed);
        self.list_shared(span, store);
    }

    /// Whether it ends with what the store would append to.
    pub(crate) fn ends_shared(&self, store: &Store) -> bool {
        let last = self.pieces.back();
        self.own_len() == self.listed
            && matches!(last, Some(Piece::Shared(span)) if store.is_last(span))
    }

    fn note_age(&mut self, now: Instant) {
        if self.is_empty() {
            self.ages.clear();
        }
        let position = self.written + self.len() as u64;
        if self.ages.back().is_none_or(|&(_, since)| now >= since + AGE_STEP) {
            self.ages.push_back((position, now));
        }
    }

    fn list_own(&mut self, more: usize) {
        self.listed += more;
        match self.pieces.back_mut() {
            _ if more == 0 => {}
            Some(Piece::Own(count)) => *count += more,
            _ => self.pieces.push_back(Piece::Own(more)),
        }
    }

    fn list_shared(&mut self, span: Span, store: &mut Store) {
        self.shared += span.len();
        match self.pieces.back_mut() {
            Some(Piece::Shared(last)) if (last.chunk, last.end) == (span.chunk, span.start) => {
                last.end = span.end;
            }
            _ => {
                store.hold(span.chunk);
                self.pieces.push_back(Piece::Shared(span));
            }
        }
    }

    /// Forgets the first bytes, which have been written. Memory goes back to the store at the end.
    pub(crate) fn wrote(&mut self, count: usize, store: &mut Store) {
        debug_assert!(count <= self.len(), "wrote more than there was");
        self.written += count as u64;
        self.pinned = self.pinned.saturating_sub(count);
        self.head += self.pass_pieces(count, store);
        while self.ages.get(1).is_some_and(|&(from, _)| from <= self.written) {
            self.ages.pop_front();
        }
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
    fn pass_pieces(&mut self, count: usize, store: &mut Store) -> usize {
        let (mut left, mut own) = (count, 0);
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let passed = left.min(piece.len());
            left -= passed;
            match piece {
                Piece::Own(count) => {
                    *count -= passed;
                    own += passed;
                }
                Piece::Shared(span) => {
                    span.start += passed;
                    self.shared -= passed;
                }
            }
            if let Some(Piece::Shared(span)) = self.pieces.pop_front_if(|piece| piece.len() == 0) {
                store.release(span.chunk);
            }
        }
        self.listed -= own;
        if self.pieces.is_empty() && self.pieces.capacity() > KEPT_PIECES {
            self.pieces = VecDeque::new();
        }
        own + left
    }

    /// Lets go of what it shares, with all that is in it.
    pub(crate) fn release(&mut self, store: &mut Store) {
        for piece in std::mem::take(self).pieces {
            if let Piece::Shared(span) = piece {
                store.release(span.chunk);
            }
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

    /// Drops the oldest messages of a subscription until at most `target` bytes are left, beside
    /// what is pinned, or none can be dropped. A frame of which a part is written stays, and so
    /// does the last: whatever else fills the outbox, the newest message comes through.
    pub(crate) fn shed(&mut self, subscription: u32, target: usize, store: &mut Store) -> Shed {
        self.drop_frames(target + self.pinned, store, |header, is_last| {
            let is_its = header.kind == Kind::Message && header.subscription == subscription;
            is_its && !is_last
        })
    }

    /// Drops everything but the frame of which a part is written.
    pub(crate) fn purge(&mut self, store: &mut Store) -> Shed {
        self.drop_frames(0, store, |_, _| true)
    }

    /// Drops the oldest frames that may go, told by their headers and whether they are the last.
    fn drop_frames(
        &mut self,
        target: usize,
        store: &mut Store,
        may_go: impl Fn(&Header, bool) -> bool,
    ) -> Shed {
        self.find_boundary();
        let behind = Piece::Own(self.own_len() - self.listed);
        let pieces = std::mem::take(&mut self.pieces);
        let mut sieve = Sieve {
            may_go,
            pinned: self.pinned,
            excess: self.len().saturating_sub(target),
            behind: self.len(),
            position: self.written,
            awaited: std::mem::take(&mut self.awaited),
            kept_awaited: VecDeque::new(),
            shed: Shed::default(),
        };
        (self.listed, self.shared) = (0, 0);
        let (mut at, mut end) = (self.boundary, self.boundary);
        for piece in pieces.into_iter().chain([behind]) {
            match piece {
                Piece::Own(count) => {
                    let stop = at.max(self.head) + count;
                    let kept = self.sift_own(at..stop, end, &mut sieve);
                    self.list_own((end + kept).max(self.head) - end.max(self.head));
                    (at, end) = (stop, end + kept);
                }
                Piece::Shared(span) => {
                    for kept in sift_shared(&span, store, &mut sieve) {
                        self.list_shared(kept, store);
                    }
                    store.release(span.chunk);
                }
            }
        }
        self.bytes.truncate(end);
        self.marks.clear();
        // What is behind the last that is shared is not listed.
        if let Some(Piece::Own(count)) =
            self.pieces.pop_back_if(|piece| matches!(piece, Piece::Own(_)))
        {
            self.listed -= count;
        }
        self.awaited = sieve.kept_awaited;
        sieve.shed
    }

    /// Moves the frames of its own in this range that stay to `end`; returns their bytes.
    fn sift_own(
        &mut self,
        range: Range<usize>,
        end: usize,
        sieve: &mut Sieve<impl Fn(&Header, bool) -> bool>,
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

    /// Messages that are not wholly written: for subscriptions, and for the peer alone.
    pub(crate) fn messages(&mut self, store: &Store) -> (u64, u64) {
        let (mut count, mut direct) = (0, 0);
        self.each_message(store, |header| match header.subscription {
            0 => direct += 1,
            _ => count += 1,
        });
        (count, direct)
    }

    /// The same by subscription.
    pub(crate) fn messages_by_subscription(&mut self, store: &Store) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        self.each_message(store, |header| *counts.entry(header.subscription).or_default() += 1);
        counts
    }

    fn each_message(&mut self, store: &Store, mut see: impl FnMut(&Header)) {
        self.find_boundary();
        let shared = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Shared(span) => Some(&store.chunk(span.chunk)[begun(span, store)..span.end]),
            Piece::Own(_) => None,
        });
        for mut rest in shared.chain([&self.bytes[self.boundary..]]) {
            while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
                if frame.header.kind == Kind::Message {
                    see(&frame.header);
                }
                rest = &rest[length..];
            }
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
        self.boundary = frame_at(&self.bytes, self.boundary, self.head);
    }
}

/// Where the frame begins that a position is in, from an earlier frame on.
fn frame_at(bytes: &[u8], mut boundary: usize, position: usize) -> usize {
    while let Some(length) = frame_len(&bytes[boundary..])
        && boundary + length <= position
    {
        boundary += length;
    }
    boundary
}

/// Where the first frame begins that is not wholly written.
fn begun(span: &Span, store: &Store) -> usize {
    frame_at(store.chunk(span.chunk), span.boundary, span.start)
}

/// What stays of a span: in one piece most often.
fn sift_shared(
    span: &Span,
    store: &Store,
    sieve: &mut Sieve<impl Fn(&Header, bool) -> bool>,
) -> Vec<Span> {
    let bytes = &store.chunk(span.chunk)[..span.end];
    let (mut at, mut kept) = (begun(span, store), Vec::<Span>::new());
    while let Ok(Decoded::Frame(frame, length)) = decode(&bytes[at..], usize::MAX) {
        let end = at + length;
        if sieve.keeps(&frame.header, length, span.start.saturating_sub(at)) {
            match kept.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => kept.push(Span { boundary: at, start: at.max(span.start), end, ..*span }),
            }
        }
        at = end;
    }
    kept
}

/// Decides which frames stay, one after the other.
struct Sieve<F> {
    may_go: F,
    /// Bytes at the front that stay in any case.
    pinned: usize,
    /// Bytes to be dropped.
    excess: usize,
    /// Bytes behind the frames that were seen.
    behind: usize,
    /// Where in the stream the next frame that stays begins.
    position: u64,
    /// Those that were before, and those that still are.
    awaited: VecDeque<(u64, Ticket)>,
    kept_awaited: VecDeque<(u64, Ticket)>,
    shed: Shed,
}

impl<F: Fn(&Header, bool) -> bool> Sieve<F> {
    /// Whether a frame stays, of which so many bytes are written.
    fn keeps(&mut self, header: &Header, length: usize, written: usize) -> bool {
        let is_awaited = header.kind == Kind::Message && header.receipt && !header.request;
        let ticket = if is_awaited { self.awaited.pop_front() } else { None };
        let ticket = ticket.map_or(0, |(_, ticket)| ticket);
        let unwritten = length - written;
        self.behind -= unwritten;
        let is_free = written == 0 && self.pinned == 0 && self.excess > 0;
        let may_go = is_free && (self.may_go)(header, self.behind == 0);
        self.pinned = self.pinned.saturating_sub(unwritten);
        if may_go {
            self.excess = self.excess.saturating_sub(length);
            self.shed.note(header, ticket);
        } else {
            self.position += unwritten as u64;
            if is_awaited {
                self.kept_awaited.push_back((self.position, ticket));
            }
        }
        !may_go
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

#[cfg(test)]
mod tests {
    use ipcd_proto::FrameWriter;

    use super::*;

    fn push(outbox: &mut Outbox, now: Instant, subscription: u32, payload: usize) -> usize {
        let buffer = outbox.append(now, &mut Store::default());
        let before = buffer.len();
        let header = Header { subscription, ..Header::new(Kind::Message, 0) };
        FrameWriter(buffer).control(header, &vec![subscription as u8; payload]);
        buffer.len() - before
    }

    fn subscriptions(outbox: &Outbox, store: &Store) -> Vec<u32> {
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
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let mut length = 0;
        for subscription in [1, 2, 1, 2, 1] {
            length = push(&mut outbox, now, subscription, 68);
        }
        assert_eq!(outbox.shed(1, 5 * length, &mut Store::default()).messages, 0);
        assert_eq!(outbox.shed(1, 3 * length, &mut Store::default()).messages, 2);
        assert_eq!(subscriptions(&outbox, &Store::default()), [2, 2, 1]);
    }

    #[test]
    fn never_sheds_a_frame_that_is_partly_written() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let length = push(&mut outbox, now, 1, 68);
        push(&mut outbox, now, 1, 68);
        push(&mut outbox, now, 1, 68);
        outbox.wrote(length + 5, &mut Store::default());
        assert_eq!(outbox.purge(&mut Store::default()).messages, 1);
        assert_eq!(outbox.len(), length - 5);
        outbox.wrote(length - 5, &mut Store::default());
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_newest_stays_whatever_else_fills_the_outbox() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let mut length = 0;
        for subscription in [2, 2, 2, 1, 1, 1] {
            length = push(&mut outbox, now, subscription, 68);
        }
        assert_eq!(outbox.shed(1, length, &mut Store::default()).messages, 2);
        assert_eq!(subscriptions(&outbox, &Store::default()), [2, 2, 2, 1]);
    }

    #[test]
    fn what_is_pinned_takes_no_room_from_what_may_be_dropped() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let mut length = 0;
        for _ in 0..6 {
            length = push(&mut outbox, now, 1, 68);
        }
        outbox.pin(3 * length);
        assert_eq!(outbox.shed(1, 2 * length, &mut Store::default()).messages, 1);
        assert_eq!(outbox.len(), 5 * length);
    }

    #[test]
    fn knows_which_awaited_messages_were_written_and_which_were_shed() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let push = |outbox: &mut Outbox, subscription, ticket| {
            let header =
                Header { subscription, receipt: true, ..Header::new(Kind::Message, ticket) };
            FrameWriter(outbox.append(now, &mut Store::default())).control(header, &[0; 68]);
            outbox.await_written(ticket);
        };
        for (subscription, ticket) in [(1, 11), (2, 12), (1, 13), (2, 14), (1, 15)] {
            push(&mut outbox, subscription, ticket);
        }
        outbox.wrote(150, &mut Store::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(11), None));
        let shed = outbox.shed(1, 250, &mut Store::default());
        assert_eq!((shed.messages, shed.receipts), (1, vec![13]));
        outbox.wrote(50, &mut Store::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(12), None));
        outbox.wrote(1, &mut Store::default());
        let shed = outbox.purge(&mut Store::default());
        assert_eq!((shed.messages, shed.receipts, outbox.len()), (1, vec![15], 99));
        outbox.wrote(99, &mut Store::default());
        assert_eq!((outbox.take_written(), outbox.take_written()), (Some(14), None));
    }

    #[test]
    fn knows_the_age_of_its_oldest_byte() {
        let (mut outbox, start) = (Outbox::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(outbox.oldest(), None);
        let length = push(&mut outbox, start, 1, 10);
        push(&mut outbox, start + second, 1, 10);
        outbox.wrote(length - 1, &mut Store::default());
        assert_eq!(outbox.oldest(), Some(start));
        outbox.wrote(1, &mut Store::default());
        assert_eq!(outbox.oldest(), Some(start + second));
        outbox.wrote(length, &mut Store::default());
        assert_eq!(outbox.oldest(), None);
    }

    #[test]
    fn compacts_without_losing_a_byte() {
        let (mut outbox, now, mut store) = (Outbox::default(), Instant::now(), Store::default());
        let (mut expected, mut got) = (0, 0);
        for round in 0..3000_usize {
            expected += push(&mut outbox, now, 1, round % 500);
            let count = outbox.len().min(round % 300);
            got += count;
            outbox.wrote(count, &mut store);
        }
        assert_eq!(outbox.len(), expected - got);
        assert!(outbox.bytes.len() < 2 * outbox.len() + 2 * COMPACT_BYTES);
        outbox.find_boundary();
        outbox.wrote(outbox.len(), &mut store);
        assert_eq!(outbox.written(), expected as u64);
    }

    /// Frames of the outbox's own and shared ones in turns, numbered by correlation.
    fn mixed(store: &mut Store) -> (Outbox, Vec<u8>) {
        let (mut outbox, mut all, now) = (Outbox::default(), Vec::new(), Instant::now());
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
                false => outbox.append(now, store).extend_from_slice(&run),
            }
        }
        (outbox, all)
    }

    fn share(outbox: &mut Outbox, store: &mut Store, run: &[u8]) {
        let heirs = usize::from(outbox.ends_shared(store));
        let span = store.keep(run, heirs);
        outbox.append_shared(Instant::now(), span, store);
        store.release(span.chunk);
    }

    fn unwritten(outbox: &Outbox, store: &Store) -> Vec<u8> {
        outbox.unwritten(store).collect::<Vec<_>>().concat()
    }

    #[test]
    fn own_and_shared_bytes_keep_their_order_however_they_are_written() {
        for first in 0..=312 {
            let mut store = Store::default();
            let (mut outbox, all) = mixed(&mut store);
            assert_eq!((all.len(), unwritten(&outbox, &store)), (312, all.clone()));
            assert_eq!(outbox.unwritten(&store).count(), 4, "shared runs in a row are one piece");
            outbox.wrote(first, &mut store);
            assert_eq!(unwritten(&outbox, &store), all[first..]);
            outbox.append(Instant::now(), &mut store).extend_from_slice(&all[..39]);
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

    #[test]
    fn shedding_keeps_begun_frames_and_others_wherever_they_are() {
        for written in 0..312 {
            for target in [0, 100, 200] {
                let mut store = Store::default();
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
                let shed = outbox.shed(1, target, &mut store);
                assert_eq!((shed.messages, dropped), (dropped as u64 / 39, left - outbox.len()));
                assert_eq!(unwritten(&outbox, &store), expected, "{written} written");
                // It goes on as before.
                share(&mut outbox, &mut store, &all[..39]);
                outbox.append(Instant::now(), &mut store).extend_from_slice(&all[39..78]);
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
        let mut store = Store::default();
        let (mut outbox, all) = mixed(&mut store);
        outbox.wrote(10, &mut store);
        outbox.pin(39);
        assert_eq!(outbox.purge(&mut store).messages, 6);
        assert_eq!(unwritten(&outbox, &store), all[10..78]);
        outbox.release(&mut store);
        assert!(store.is_free());
    }
}
