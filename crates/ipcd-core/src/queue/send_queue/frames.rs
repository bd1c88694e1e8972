//! The frames in a send queue. It knows only bytes, so that this parses them.

use std::collections::BTreeMap;

use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::send_queue::ledger::MessageCounts;
use crate::queue::send_queue::{QueuePiece, SendQueue};
use ipcd_proto::{DecodedFrame, FrameKind, Header, decode, frame_len};

impl SendQueue {
    /// Returns the number of messages that are not completely written: for subscriptions, and for
    /// the peer itself. At most one stretch of the ledger is parsed for it.
    pub(crate) fn messages(&mut self, pool: &ChunkPool) -> (u64, u64) {
        let counts = self.count_messages(pool);
        (counts.subscribed, counts.direct)
    }

    pub(super) fn count_messages(&mut self, pool: &ChunkPool) -> MessageCounts {
        if self.is_empty() {
            return MessageCounts::default();
        }
        let (mut counts, begun) = self.ledger.counts(self.written);
        if let Some(end) = begun {
            self.each_frame(pool, end, |header, _| counts.add(MessageCounts::of(header)));
        }
        counts
    }

    /// Returns the numbers by subscription. All frames are parsed for it.
    pub(crate) fn messages_by_subscription(&mut self, pool: &ChunkPool) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        self.each_message(pool, |header, _| *counts.entry(header.subscription).or_default() += 1);
        counts
    }

    pub(super) fn each_message(&mut self, pool: &ChunkPool, mut see: impl FnMut(&Header, usize)) {
        self.each_frame(pool, u64::MAX, |header, length| {
            if header.kind == FrameKind::Message {
                see(header, length);
            }
        });
    }

    /// Passes the frames that are not completely written to `see`, in order, if they begin before
    /// `end` in the stream.
    pub(super) fn each_frame(
        &mut self,
        pool: &ChunkPool,
        end: u64,
        mut see: impl FnMut(&Header, usize),
    ) {
        let mut position = self.written - self.find_boundary(pool) as u64;
        let mut at = self.boundary;
        for piece in self.pieces.iter().chain([&QueuePiece::Own(self.own_len() - self.listed)]) {
            let mut rest = match piece {
                QueuePiece::Own(count) => {
                    let stop = at.max(self.head) + count;
                    &self.bytes[std::mem::replace(&mut at, stop)..stop]
                }
                QueuePiece::Slice(slice) => &pool.chunk(slice.chunk)[begun(slice, pool)..slice.end],
            };
            while position < end
                && let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX)
            {
                see(&frame.header, length);
                rest = &rest[length..];
                position += length as u64;
            }
            if position >= end {
                return;
            }
        }
    }

    /// Moves the boundary to the start of the first unwritten frame. Returns the bytes of it that
    /// are written.
    pub(super) fn find_boundary(&mut self, pool: &ChunkPool) -> usize {
        self.pass_marks();
        self.boundary = frame_at(&self.bytes, self.boundary, self.head);
        match self.pieces.front_mut() {
            Some(QueuePiece::Slice(slice)) => {
                slice.boundary = begun(slice, pool);
                slice.start - slice.boundary
            }
            _ => self.head - self.boundary,
        }
    }
}

/// Returns the start of the frame that contains a position. `boundary` is the start of an earlier
/// frame.
fn frame_at(bytes: &[u8], mut boundary: usize, position: usize) -> usize {
    while let Some(length) = frame_len(&bytes[boundary..])
        && boundary + length <= position
    {
        boundary += length;
    }
    boundary
}

/// Returns the start of the first frame that is not completely written.
pub(super) fn begun(slice: &ChunkSlice, pool: &ChunkPool) -> usize {
    frame_at(pool.chunk(slice.chunk), slice.boundary, slice.start)
}
