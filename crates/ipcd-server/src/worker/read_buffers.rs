//! The memory that a worker reads into: one large buffer for all peers, and small ones that keep the
//! beginning of a frame whose rest has not come.

use ipcd_transport::ReadBuffer;

/// Bytes that one read may take: what the kernel holds of a stream, and so one turn's share.
const READ_BYTES: usize = 256 * 1024;
/// The largest buffer that is used again. A larger one, which a very large frame needed, is freed.
const MAX_READ_BYTES: usize = 8 * READ_BYTES;
/// A partial frame of so many bytes stays in the buffer that it was read into; a smaller one is copied
/// to a buffer of its size, so that a peer never holds more than four times what it has sent.
const KEPT_BYTES: usize = READ_BYTES / 4;
/// The capacity that a small buffer may have, as a multiple of the bytes in it.
const MAX_SLACK: usize = 4;
/// Small buffers that are kept for later.
const SPARE_BUFFERS: usize = 16;

/// The buffers.
pub(super) struct ReadBuffers {
    read_buf: ReadBuffer,
    /// Small buffers that are free.
    spare: Vec<ReadBuffer>,
}

impl ReadBuffers {
    pub(super) fn new() -> Self {
        let spare = Vec::with_capacity(SPARE_BUFFERS);
        Self { read_buf: ReadBuffer::new(READ_BYTES, 0), spare }
    }

    /// A buffer to read into that begins with a peer's partial frame. Most often that is little and is
    /// copied to the common buffer; a large one is read on where it is.
    pub(super) fn take(&mut self, partial: Option<Box<ReadBuffer>>, largest: usize) -> ReadBuffer {
        let mut buffer = match partial {
            Some(partial) if partial.capacity() >= READ_BYTES => *partial,
            partial => {
                let mut read_buf = self.take_empty();
                if let Some(mut partial) = partial {
                    read_buf.extend(partial.filled());
                    partial.clear();
                    if self.spare.len() < SPARE_BUFFERS {
                        self.spare.push(*partial);
                    }
                }
                read_buf
            }
        };
        buffer.set_largest_frame(largest);
        buffer
    }

    /// A buffer to read into. To be put back.
    pub(super) fn take_empty(&mut self) -> ReadBuffer {
        let read_buf = std::mem::replace(&mut self.read_buf, ReadBuffer::new(0, 0));
        let is_there = read_buf.capacity() >= READ_BYTES;
        if is_there { read_buf } else { ReadBuffer::new(READ_BYTES, 0) }
    }

    pub(super) fn put_back(&mut self, mut buffer: ReadBuffer) {
        if (READ_BYTES..=MAX_READ_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.read_buf = buffer;
        }
    }

    /// Puts a buffer back, and keeps what is left in it.
    pub(super) fn keep(&mut self, buffer: ReadBuffer) -> Option<Box<ReadBuffer>> {
        match buffer.filled().len() {
            0 => {
                self.put_back(buffer);
                None
            }
            KEPT_BYTES.. => Some(Box::new(buffer)),
            length => {
                let mut partial = self.spare.pop().unwrap_or_else(|| ReadBuffer::new(0, 0));
                if partial.capacity() > MAX_SLACK * length {
                    partial = ReadBuffer::new(0, 0);
                }
                partial.extend(buffer.filled());
                self.put_back(buffer);
                Some(Box::new(partial))
            }
        }
    }

    /// Frees what a burst has needed.
    pub(super) fn trim(&mut self) {
        self.spare.clear();
        self.read_buf = ReadBuffer::new(READ_BYTES, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_frame_holds_little_more_than_its_bytes() {
        let mut buffers = ReadBuffers::new();
        for length in [1, 100, KEPT_BYTES - 1, KEPT_BYTES, READ_BYTES] {
            let mut buffer = buffers.take(None, READ_BYTES);
            buffer.extend(&vec![7; length]);
            let partial = buffers.keep(buffer).expect("something is left");
            let most = (MAX_SLACK * length).max(64);
            assert!(partial.capacity() <= most.max(READ_BYTES * usize::from(length >= KEPT_BYTES)));
            assert_eq!(buffers.take(Some(partial), READ_BYTES).filled(), vec![7; length]);
        }
        let empty = buffers.take_empty();
        assert!(buffers.keep(empty).is_none());
    }
}
