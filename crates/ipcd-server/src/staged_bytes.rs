//! Bytes that were made of frames for a peer, and are still to be written.

/// Bytes of memory that is kept for other peers.
const MAX_SPARE: usize = 256 * 1024;

/// The bytes, and the frames that they were made of.
#[derive(Debug, Default)]
pub(crate) struct StagedBytes {
    pub(crate) bytes: Vec<u8>,
    written: usize,
    /// Bytes of the frames, which stay in the send queue until the translation is written.
    frames: usize,
}

impl StagedBytes {
    /// Bytes to be written.
    pub(crate) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// The number of bytes that were written.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    /// The number of bytes of the frames.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Notes the bytes of the frames that the staged bytes are made of.
    pub(crate) fn note_frames(&mut self, frames: usize) {
        self.frames = frames;
    }

    /// Notes that the first bytes were written; returns the bytes of the frames that are done with.
    /// Memory that is free then is `spare` for other peers.
    pub(crate) fn wrote(&mut self, count: usize, spare: &mut Vec<u8>) -> usize {
        self.written += count;
        if self.written < self.bytes.len() {
            return 0;
        }
        let Self { mut bytes, frames, .. } = std::mem::take(self);
        if (1..=MAX_SPARE).contains(&bytes.capacity()) {
            bytes.clear();
            *spare = bytes;
        }
        frames
    }
}
