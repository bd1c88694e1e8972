//! Which frames are in an outbox, of which only the bytes are known: they are walked over.

use std::collections::BTreeMap;

use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::send_queue::ledger::MessageCounts;
use crate::queue::send_queue::{QueuePiece, SendQueue};
use ipcd_proto::{Decoded, Header, Kind, decode, frame_len};

impl SendQueue {
    /// Messages that are not wholly written: for subscriptions, and for the peer alone. At most one
    /// stretch of the ledger is walked over.
    pub(crate) fn messages(&mut self, store: &ChunkPool) -> (u64, u64) {
        let counts = self.count_messages(store);
        (counts.subscribed, counts.direct)
    }

    pub(super) fn count_messages(&mut self, store: &ChunkPool) -> MessageCounts {
        if self.is_empty() {
            return MessageCounts::default();
        }
        let (mut counts, begun) = self.ledger.counts(self.written);
        if let Some(end) = begun {
            self.each_frame(store, end, |header, _| counts.add(MessageCounts::of(header)));
        }
        counts
    }

    /// The same by subscription; all frames are walked over.
    pub(crate) fn messages_by_subscription(&mut self, store: &ChunkPool) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        self.each_message(store, |header, _| *counts.entry(header.subscription).or_default() += 1);
        counts
    }

    pub(super) fn each_message(&mut self, store: &ChunkPool, mut see: impl FnMut(&Header, usize)) {
        self.each_frame(store, u64::MAX, |header, length| {
            if header.kind == Kind::Message {
                see(header, length);
            }
        });
    }

    /// Sees the frames that are not wholly written, in order, and of those the ones that begin before
    /// a position in the stream.
    pub(super) fn each_frame(
        &mut self,
        store: &ChunkPool,
        end: u64,
        mut see: impl FnMut(&Header, usize),
    ) {
        let mut position = self.written - self.find_boundary(store) as u64;
        let mut at = self.boundary;
        for piece in self.pieces.iter().chain([&QueuePiece::Own(self.own_len() - self.listed)]) {
            let mut rest = match piece {
                QueuePiece::Own(count) => {
                    let stop = at.max(self.head) + count;
                    &self.bytes[std::mem::replace(&mut at, stop)..stop]
                }
                QueuePiece::Slice(span) => &store.chunk(span.chunk)[begun(span, store)..span.end],
            };
            while position < end
                && let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX)
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

    /// Moves the boundary of the first bytes to the start of their frame; returns how many bytes of
    /// that are written.
    pub(super) fn find_boundary(&mut self, store: &ChunkPool) -> usize {
        self.pass_marks();
        self.boundary = frame_at(&self.bytes, self.boundary, self.head);
        match self.pieces.front_mut() {
            Some(QueuePiece::Slice(span)) => {
                span.boundary = begun(span, store);
                span.start - span.boundary
            }
            _ => self.head - self.boundary,
        }
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
pub(super) fn begun(span: &ChunkSlice, store: &ChunkPool) -> usize {
    frame_at(store.chunk(span.chunk), span.boundary, span.start)
}
