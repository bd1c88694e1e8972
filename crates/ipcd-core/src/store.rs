//! The memory of outboxes: what several of them hold is here once, and buffers go round.
//!
//! Runs for many subscribers are appended to a chunk, of which each outbox holds a [`Span`]. A chunk
//! goes on only while everybody who holds it gets what is appended. So whoever holds the least of it
//! holds the end of it, and no more than one chunk beyond what is in its outbox.

use slab::Slab;

/// Bytes of a chunk; a longer run is one by itself.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Memory that an empty outbox gives back rather than keeps for the next batch.
const KEPT_BYTES: usize = 1024;
/// Buffers kept for outboxes, and bytes of the largest that is; and buffers kept for chunks.
const SPARES: usize = 16;
const SPARE_BYTES: usize = 1024 * 1024;

/// Bytes of a chunk: whole frames from `boundary` on, of which those from `start` on are unwritten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) chunk: usize,
    pub(crate) boundary: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// Bytes that are unwritten.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }
}

/// Shared bytes, and the memory that outboxes take when they begin to fill, and give back when they
/// are empty: so an idle peer has none, and a busy one does not allocate.
#[derive(Debug, Default)]
pub(crate) struct Store {
    spare: Vec<Vec<u8>>,
    spare_chunks: Vec<Vec<u8>>,
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

impl Store {
    /// An empty buffer for an outbox.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes it back.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        let worth_keeping = (KEPT_BYTES..=SPARE_BYTES).contains(&buffer.capacity());
        if worth_keeping && self.spare.len() < SPARES {
            self.spare.push(buffer);
        }
    }

    /// All bytes of a chunk.
    pub(crate) fn chunk(&self, chunk: usize) -> &[u8] {
        &self.chunks[chunk].bytes
    }

    /// The unwritten bytes of a span.
    pub(crate) fn bytes(&self, span: &Span) -> &[u8] {
        &self.chunks[span.chunk].bytes[span.start..span.end]
    }

    /// Whether a span ends where the next run would be appended.
    pub(crate) fn is_last(&self, span: &Span) -> bool {
        self.open == Some(span.chunk) && span.end == self.chunks[span.chunk].bytes.len()
    }

    /// Whether a run of so many bytes can be appended to the open chunk, if so many of those who get
    /// it hold the end of that.
    pub(crate) fn goes_on(&self, heirs: usize, bytes: usize) -> bool {
        let Some(chunk) = self.open.map(|open| &self.chunks[open]) else { return false };
        let filled = if chunk.holders == 0 { 0 } else { chunk.bytes.len() };
        chunk.holders == heirs && filled + bytes <= CHUNK_BYTES
    }

    /// Keeps a run for outboxes to hold. It is held by the caller too, who releases it when they do.
    pub(crate) fn keep(&mut self, run: &[u8], heirs: usize) -> Span {
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
        Span { chunk, boundary: start, start, end: bytes.len() }
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
        let bytes = self.spare_chunks.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES));
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
        if buffer.capacity() == CHUNK_BYTES && self.spare_chunks.len() < SPARES {
            buffer.clear();
            self.spare_chunks.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_goes_on_only_while_all_who_hold_it_get_more() {
        let mut store = Store::default();
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
        let mut store = Store::default();
        let spans: Vec<_> = (0..100).map(|_| store.keep(&[0; 1000], 0)).collect();
        assert!(store.shared_bytes() < 100 * 1000 + CHUNK_BYTES);
        assert!(spans.iter().all(|span| store.bytes(span) == [0; 1000]));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut store = Store::default();
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

    #[test]
    fn buffers_of_chunks_go_round() {
        let mut store = Store::default();
        for _ in 0..3 {
            let whole = [0; CHUNK_BYTES];
            let spans: Vec<_> = (0..2 * SPARES).map(|_| store.keep(&whole, 0)).collect();
            spans.iter().for_each(|span| store.release(span.chunk));
        }
        assert_eq!(store.spare_chunks.len(), SPARES);
    }
}
