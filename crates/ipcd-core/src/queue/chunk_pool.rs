//! The memory of send queues: bytes that several of them hold are stored once, and buffers are used
//! again.
//!
//! Batches for many subscribers are appended to a chunk, of which each send queue holds a
//! [`ChunkSlice`]. A chunk is continued only while all its holders get the next batch. So even the
//! queue with the smallest slice holds the chunk's end, and no queue keeps alive more than one
//! chunk beyond its own bytes.

use std::time::Instant;

use crate::queue::buffer_pool::BufferPool;
use slab::Slab;

/// The size of a chunk in bytes. A longer batch has a chunk to itself.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// A slice of a chunk. Whole frames begin at `boundary`, and the bytes from `start` on are
/// unwritten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkSlice {
    pub(crate) chunk: usize,
    pub(crate) boundary: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl ChunkSlice {
    /// Returns the number of unwritten bytes.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Chunks, and the pools of buffers and of chunks for reuse.
#[derive(Debug, Default)]
pub(crate) struct ChunkPool {
    spare: BufferPool,
    spare_chunks: BufferPool,
    chunks: Slab<Chunk>,
    /// The chunk that may be continued.
    open: Option<usize>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Slices of it in send queues.
    holders: usize,
}

impl ChunkPool {
    /// Returns an empty buffer for a send queue.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.take()
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        self.spare.give(buffer);
    }

    /// Plans a check, because something is kept elsewhere that may not be needed.
    pub(crate) fn look_later(&mut self) {
        self.spare.look_later();
    }

    /// Returns the time of the next check.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.spare.next_look().into_iter().chain(self.spare_chunks.next_look()).min()
    }

    /// Gives unused memory back, if a check is due, and returns whether it was.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        self.spare.look(now) | self.spare_chunks.look(now)
    }

    /// Adds bytes that were given back elsewhere.
    pub(crate) fn note_released(&mut self, bytes: usize) {
        self.spare.note_released(bytes);
    }

    /// Returns the bytes that were given back to the allocator since the last call.
    pub(crate) fn take_released(&mut self) -> usize {
        self.spare.take_released() + self.spare_chunks.take_released()
    }

    /// Returns all bytes of a chunk.
    pub(crate) fn chunk(&self, chunk: usize) -> &[u8] {
        &self.chunks[chunk].bytes
    }

    /// Returns the unwritten bytes of a slice.
    pub(crate) fn bytes(&self, slice: &ChunkSlice) -> &[u8] {
        &self.chunks[slice.chunk].bytes[slice.start..slice.end]
    }

    /// Whether a slice ends where the next batch would be appended.
    pub(crate) fn is_last(&self, slice: &ChunkSlice) -> bool {
        self.open == Some(slice.chunk) && slice.end == self.chunks[slice.chunk].bytes.len()
    }

    /// Whether a batch can be appended to the open chunk. `heirs` is the number of its receivers
    /// that hold the end of that chunk; they must be all its holders.
    pub(crate) fn goes_on(&self, heirs: usize, bytes: usize) -> bool {
        let Some(chunk) = self.open.map(|open| &self.chunks[open]) else { return false };
        // Without holders, the bytes of the chunk are written over.
        let used = if chunk.holders == 0 { 0 } else { chunk.bytes.len() };
        chunk.holders == heirs && used + bytes <= CHUNK_BYTES
    }

    /// Stores a batch. The caller holds it, too, and releases it once the send queues hold it.
    pub(crate) fn keep(&mut self, batch: &[u8], heirs: usize) -> ChunkSlice {
        let chunk = match self.open {
            _ if batch.len() > CHUNK_BYTES => {
                self.chunks.insert(Chunk { bytes: Vec::with_capacity(batch.len()), holders: 0 })
            }
            Some(open) if self.goes_on(heirs, batch.len()) => open,
            _ => self.open_chunk(),
        };
        let Chunk { bytes, holders } = &mut self.chunks[chunk];
        if *holders == 0 {
            bytes.clear();
        }
        let start = bytes.len();
        bytes.extend_from_slice(batch);
        *holders += 1;
        ChunkSlice { chunk, boundary: start, start, end: bytes.len() }
    }

    /// Adds a holder.
    pub(crate) fn hold(&mut self, chunk: usize) {
        self.chunks[chunk].holders += 1;
    }

    /// Removes a holder. A chunk without holders is freed.
    pub(crate) fn release(&mut self, chunk: usize) {
        let holders = &mut self.chunks[chunk].holders;
        *holders -= 1;
        if *holders == 0 {
            self.forget(chunk);
        }
    }

    /// Whether no chunk has a holder.
    pub(crate) fn is_free(&self) -> bool {
        self.chunks.iter().all(|(_, chunk)| chunk.holders == 0)
    }

    /// Returns the bytes of memory that chunks take.
    #[cfg(test)]
    pub(crate) fn shared_bytes(&self) -> usize {
        self.chunks.iter().map(|(_, chunk)| chunk.bytes.capacity()).sum()
    }

    fn forget(&mut self, chunk: usize) {
        // The open chunk stays for the next batch, even without holders.
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

    /// Closes a chunk. One that is less than half full moves to memory of its exact size.
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
        // Other capacities belong to longer batches, or to chunks that have moved.
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
        assert!(spans.iter().all(|slice| store.bytes(slice) == [0; 1000]));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut store = ChunkPool::default();
        for bytes in [100, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES] {
            let slice = store.keep(&vec![0; bytes], 0);
            store.hold(slice.chunk);
            store.release(slice.chunk);
            assert_eq!(store.bytes(&slice).len(), bytes);
            assert!(!store.is_free());
            store.release(slice.chunk);
            assert!(store.is_free() && store.shared_bytes() <= CHUNK_BYTES);
        }
    }
}
