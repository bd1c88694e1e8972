//! Decides frame by frame what stays in a send queue, and keeps account of it.

use std::time::Instant;

use ipcd_proto::{Decoded, Header, Kind, decode};

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::lazy_queue::LazyQueue;
use crate::queue::send_queue::drops::DropReport;
use crate::queue::send_queue::frames::begun;
use crate::queue::send_queue::ledger::{MessageCounts, StreamLedger};

/// What stays of a span: in one piece most often.
pub(super) fn sift_shared(
    span: &ChunkSlice,
    store: &ChunkPool,
    sieve: &mut FrameSieve<impl FnMut(&Header, usize, bool) -> bool>,
) -> Vec<ChunkSlice> {
    let bytes = &store.chunk(span.chunk)[..span.end];
    let (mut at, mut kept) = (begun(span, store), Vec::<ChunkSlice>::new());
    while let Ok(Decoded::Frame(frame, length)) = decode(&bytes[at..], usize::MAX) {
        let end = at + length;
        if sieve.keeps(&frame.header, length, span.start.saturating_sub(at)) {
            match kept.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => {
                    kept.push(ChunkSlice { boundary: at, start: at.max(span.start), end, ..*span })
                }
            }
        }
        at = end;
    }
    kept
}

/// Decides which frames stay, one after the other.
pub(super) struct FrameSieve<F> {
    pub(super) may_go: F,
    /// Bytes at the front that stay in any case.
    pub(super) pinned: usize,
    /// Bytes to be dropped.
    pub(super) excess: usize,
    /// Bytes behind the frames that were seen.
    pub(super) behind: usize,
    /// The position in the stream of the first unwritten byte.
    pub(super) written: u64,
    /// The position where the next frame begins, and where it does if it stays.
    pub(super) passed: u64,
    pub(super) position: u64,
    /// The age of the first byte; and the ages and counts before, and those of what stays.
    pub(super) oldest: Option<Instant>,
    pub(super) ledger: StreamLedger,
    pub(super) kept_ledger: StreamLedger,
    /// The awaited messages before, and those that stay.
    pub(super) awaited: LazyQueue<(u64, Ticket)>,
    pub(super) kept_awaited: LazyQueue<(u64, Ticket)>,
    pub(super) shed: DropReport,
}

impl<F: FnMut(&Header, usize, bool) -> bool> FrameSieve<F> {
    /// Whether a frame stays, of which so many bytes are written.
    pub(super) fn keeps(&mut self, header: &Header, length: usize, written: usize) -> bool {
        let is_awaited = header.kind == Kind::Message && header.receipt && !header.request;
        let ticket = if is_awaited { self.awaited.pop_front() } else { None };
        let ticket = ticket.map_or(0, |(_, ticket)| ticket);
        let unwritten = length - written;
        self.behind -= unwritten;
        let is_free = written == 0 && self.pinned == 0 && self.excess > 0;
        let may_go = is_free && (self.may_go)(header, length, self.behind == 0);
        self.pinned = self.pinned.saturating_sub(unwritten);
        self.ledger.pass(self.passed);
        self.passed += unwritten as u64;
        if may_go {
            self.excess = self.excess.saturating_sub(length);
            self.shed.note(header, ticket);
        } else {
            // A peer that reads nothing does not get younger by what is dropped.
            let is_first = self.position == self.written;
            let since = if is_first { self.oldest } else { self.ledger.oldest() };
            if let Some(since) = since {
                self.kept_ledger.extend(since, self.position, is_first);
            }
            self.kept_ledger.count(MessageCounts::of(header));
            self.position += unwritten as u64;
            if is_awaited {
                self.kept_awaited.push_back((self.position, ticket));
            }
        }
        !may_go
    }
}
