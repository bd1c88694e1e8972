//! Which frames are in an outbox, of which only the bytes are known: they are walked over.

use std::collections::BTreeMap;

use crate::queue::chunk_pool::{ChunkPool, ChunkSlice};
use crate::queue::send_queue::{QueuePiece, SendQueue};
use ipcd_proto::{Decoded, Header, Kind, decode, frame_len};

impl SendQueue {
    /// Messages that are not wholly written: for subscriptions, and for the peer alone.
    pub(crate) fn messages(&mut self, store: &ChunkPool) -> (u64, u64) {
        let (mut count, mut direct) = (0, 0);
        self.each_message(store, |header, _| match header.subscription {
            0 => direct += 1,
            _ => count += 1,
        });
        (count, direct)
    }

    /// The same by subscription.
    pub(crate) fn messages_by_subscription(&mut self, store: &ChunkPool) -> BTreeMap<u32, u64> {
        let mut counts = BTreeMap::new();
        self.each_message(store, |header, _| *counts.entry(header.subscription).or_default() += 1);
        counts
    }

    pub(super) fn each_message(&mut self, store: &ChunkPool, mut see: impl FnMut(&Header, usize)) {
        self.find_boundary();
        let shared = self.pieces.iter().filter_map(|piece| match piece {
            QueuePiece::Slice(span) => Some(&store.chunk(span.chunk)[begun(span, store)..span.end]),
            QueuePiece::Own(_) => None,
        });
        for mut rest in shared.chain([&self.bytes[self.boundary..]]) {
            while let Ok(Decoded::Frame(frame, length)) = decode(rest, usize::MAX) {
                if frame.header.kind == Kind::Message {
                    see(&frame.header, length);
                }
                rest = &rest[length..];
            }
        }
    }

    /// Moves the boundary to the start of the frame that `head` is in.
    pub(super) fn find_boundary(&mut self) {
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
pub(super) fn begun(span: &ChunkSlice, store: &ChunkPool) -> usize {
    frame_at(store.chunk(span.chunk), span.boundary, span.start)
}
