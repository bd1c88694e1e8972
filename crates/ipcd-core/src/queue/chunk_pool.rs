//! The memory of outboxes: what several of them hold is here once, and buffers go round.
//!
//! Runs for many subscribers are appended to a chunk, of which each outbox holds a [`ChunkSlice`]. A chunk
//! goes on only while everybody who holds it gets what is appended. So whoever holds the least of it
//! holds the end of it, and no more than one chunk beyond what is in its outbox.

use std::time::Instant;

use crate::queue::buffer_pool::BufferPool;
use slab::Slab;

/// Bytes of a chunk; a longer run is one by itself.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes of a chunk: whole frames from `boundary` on, of which those from `start` on are unwritten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkSlice {
    pub(crate) chunk: usize,
    pub(crate) boundary: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl ChunkSlice {
    /// Bytes that are unwritten.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Shared bytes, and the memory that outboxes take when they begin to fill, and give back when they
/// are empty: so an idle peer has none, and a busy one does not allocate.
#[derive(Debug, Default)]
pub(crate) struct ChunkPool {
    spare: BufferPool,
    spare_chunks: BufferPool,
    chunks: Slab<Chunk>,
    /// The chunk that may go on.
    open: Option<usize>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Spans of it in outboxes.
    holders: usize,
}

impl ChunkPool {
    /// An empty buffer for an outbox.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.take()
    }

    /// Takes it back.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        self.spare.give(buffer);
    }

    /// Something is kept elsewhere that may not be needed in a while.
    pub(crate) fn look_later(&mut self) {
        self.spare.look_later();
    }

    /// When to look what is not needed any more.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.spare.next_look().into_iter().chain(self.spare_chunks.next_look()).min()
    }

    /// Gives back what has not been needed for a while; whether it was time for that.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        self.spare.look(now) | self.spare_chunks.look(now)
    }

    /// So many bytes were given back besides.
    pub(crate) fn note_released(&mut self, bytes: usize) {
        self.spare.note_released(bytes);
    }

    /// Bytes that were given back to the allocator since this was last asked.
    pub(crate) fn take_released(&mut self) -> usize {
        self.spare.take_released() + self.spare_chunks.take_released()
    }

    /// All bytes of a chunk.
    pub(crate) fn chunk(&self, chunk: usize) -> &[u8] {
        &self.chunks[chunk].bytes
    }

    /// The unwritten bytes of a span.
    pub(crate) fn bytes(&self, span: &ChunkSlice) -> &[u8] {
        &self.chunks[span.chunk].bytes[span.start..span.end]
    }

    /// Whether a span ends where the next run would be appended.
    pub(crate) fn is_last(&self, span: &ChunkSlice) -> bool {
        self.open == Some(span.chunk) && span.end == self.chunks[span.chunk].bytes.len()
    }

    /// Whether a run of so many bytes can be appended to the open chunk, if so many of those who get
    /// it hold the end of that.
    pub(crate) fn goes_on(&self, heirs: usize, bytes: usize) -> bool {
        let Some(chunk) = self.open.map(|open| &self.chunks[open]) else { return false };
        let note_queued = if chunk.holders == 0 { 0 } else { chunk.bytes.len() };
        chunk.holders == heirs && note_queued + bytes <= CHUNK_BYTES
    }

    /// Keeps a run for outboxes to hold. It is held by the caller too, who releases it when they do.
    pub(crate) fn keep(&mut self, run: &[u8], heirs: usize) -> ChunkSlice {
        let chunk = match self.open {
            _ if run.len() > CHUNK_BYTES => {
                self.chunks.insert(Chunk { bytes: Vec::with_capacity(run.len()), holders: 0 })
            }
            Some(open) if self.goes_on(heirs, run.len()) => open,
            _ => self.open_chunk(),
        };
        let Chunk { bytes, holders } = &mut self.chunks[chunk];
        if *holders == 0 {
            bytes.clear();
        }
        let start = bytes.len();
        bytes.extend_from_slice(run);
        *holders += 1;
        ChunkSlice { chunk, boundary: start, start, end: bytes.len() }
    }

    /// One span more.
    pub(crate) fn hold(&mut self, chunk: usize) {
        self.chunks[chunk].holders += 1;
    }

    /// One span less. What nobody holds is forgotten.
    pub(crate) fn release(&mut self, chunk: usize) {
        let holders = &mut self.chunks[chunk].holders;
        *holders -= 1;
        if *holders == 0 {
            self.forget(chunk);
        }
    }

    /// Whether nobody holds anything.
    pub(crate) fn is_free(&self) -> bool {
        self.chunks.iter().all(|(_, chunk)| chunk.holders == 0)
    }

    /// Bytes of memory that chunks take.
    #[cfg(test)]
    pub(crate) fn shared_bytes(&self) -> usize {
        self.chunks.iter().map(|(_, chunk)| chunk.bytes.capacity()).sum()
    }

    fn forget(&mut self, chunk: usize) {
        if self.open != Some(chunk) {
            let bytes = self.chunks.remove(chunk).bytes;
            self.give_chunk(bytes);
        }
    }

    fn open_chunk(&mut self) -> usize {
        if let Some(open) = self.open.take() {
            self.close_chunk(open);
        }
        let mut bytes = self.spare_chunks.take();
        bytes.reserve_exact(CHUNK_BYTES);
        let chunk = self.chunks.insert(Chunk { bytes, holders: 0 });
        self.open = Some(chunk);
        chunk
    }

    /// A chunk that is not half full moves to where it takes no more than it has.
    fn close_chunk(&mut self, chunk: usize) {
        if self.chunks[chunk].holders == 0 {
            return self.forget(chunk);
        }
        let bytes = &mut self.chunks[chunk].bytes;
        if bytes.len() < CHUNK_BYTES / 2 {
            let exact = bytes.as_slice().to_vec();
            let buffer = std::mem::replace(bytes, exact);
            self.give_chunk(buffer);
        }
    }

    fn give_chunk(&mut self, mut buffer: Vec<u8>) {
        // Another one is of a run that is longer, or has moved.
        if buffer.capacity() == CHUNK_BYTES {
            buffer.clear();
            self.spare_chunks.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_goes_on_only_while_all_who_hold_it_get_more() {
        let mut store = ChunkPool::default();
        let first = store.keep(&[1; 100], 0);
        store.hold(first.chunk);
        let second = store.keep(&[2; 100], 2);
        assert_eq!((second.chunk, second.start), (first.chunk, 100));
        let third = store.keep(&[3; 100], 2);
        assert_ne!(third.chunk, first.chunk);
        assert!(store.is_last(&third) && !store.is_last(&second));
        assert_eq!(store.bytes(&second), [2; 100]);
    }

    #[test]
    fn a_chunk_that_is_not_half_full_does_not_take_a_whole_ones_memory() {
        let mut store = ChunkPool::default();
        let spans: Vec<_> = (0..100).map(|_| store.keep(&[0; 1000], 0)).collect();
        assert!(store.shared_bytes() < 100 * 1000 + CHUNK_BYTES);
        assert!(spans.iter().all(|span| store.bytes(span) == [0; 1000]));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut store = ChunkPool::default();
        for bytes in [100, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES] {
            let span = store.keep(&vec![0; bytes], 0);
            store.hold(span.chunk);
            store.release(span.chunk);
            assert_eq!(store.bytes(&span).len(), bytes);
            assert!(!store.is_free());
            store.release(span.chunk);
            assert!(store.is_free() && store.shared_bytes() <= CHUNK_BYTES);
        }
    }
}
