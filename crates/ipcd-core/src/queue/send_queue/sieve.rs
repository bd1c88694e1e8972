//! The sieve for dropping frames: it decides frame by frame, and keeps the ledger and the tickets
//! in step.

use std::time::Instant;

use ipcd_proto::{DecodedFrame, FrameKind, Header, decode};

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::lazy_queue::LazyQueue;
use crate::queue::send_queue::drops::DropReport;
use crate::queue::send_queue::frames::begun;
use crate::queue::send_queue::ledger::{MessageCounts, StreamLedger};

/// Returns the parts of a slice that stay, which is one piece most often.
pub(super) fn sift_shared(
    slice: &ChunkSlice,
    pool: &ChunkPool,
    sieve: &mut FrameSieve<impl FnMut(&Header, usize, bool) -> bool>,
) -> Vec<ChunkSlice> {
    let bytes = &pool.chunk(slice.chunk)[..slice.end];
    let (mut at, mut kept) = (begun(slice, pool), Vec::<ChunkSlice>::new());
    while let Ok(DecodedFrame::Frame(frame, length)) = decode(&bytes[at..], usize::MAX) {
        let end = at + length;
        if sieve.keeps(&frame.header, length, slice.start.saturating_sub(at)) {
            match kept.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => kept.push(ChunkSlice {
                    boundary: at,
                    start: at.max(slice.start),
                    end,
                    ..*slice
                }),
            }
        }
        at = end;
    }
    kept
}

/// The state of dropping frames, which are offered in order.
pub(super) struct FrameSieve<F> {
    pub(super) may_go: F,
    /// Bytes at the front that stay in any case.
    pub(super) pinned: usize,
    /// Bytes that are still to be dropped.
    pub(super) excess: usize,
    /// Bytes after the frames that were offered.
    pub(super) behind: usize,
    /// The position in the stream of the first unwritten byte.
    pub(super) written: u64,
    /// The position of the next frame before dropping, and its position after.
    pub(super) passed: u64,
    pub(super) position: u64,
    /// The time of the oldest byte; the ledger before dropping, and the one for the frames that
    /// stay.
    pub(super) oldest: Option<Instant>,
    pub(super) ledger: StreamLedger,
    pub(super) kept_ledger: StreamLedger,
    /// The awaited messages before dropping, and those that stay.
    pub(super) awaited: LazyQueue<(u64, Ticket)>,
    pub(super) kept_awaited: LazyQueue<(u64, Ticket)>,
    pub(super) shed: DropReport,
}

impl<F: FnMut(&Header, usize, bool) -> bool> FrameSieve<F> {
    /// Decides whether a frame stays. `written` is the number of its bytes that are written.
    pub(super) fn keeps(&mut self, header: &Header, length: usize, written: usize) -> bool {
        let is_awaited = header.kind == FrameKind::Message && header.receipt && !header.request;
        // Tickets are in the order of the messages with a receipt.
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
            // The age stays that of the oldest byte before: otherwise drops would postpone the
            // stall time-out of a peer that reads nothing.
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
