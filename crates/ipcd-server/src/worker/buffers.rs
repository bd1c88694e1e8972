//! The memory that a worker reads into: a buffer of its own for all peers, and what was read of a
//! peer and not yet used.

use ipcd_core::PeerKey;
use ipcd_transport::ReadBuffer;

use super::{RESTS, SCRATCH_BYTES, Worker};

/// The largest buffer that is used again; what a very large frame needed is given back.
const MAX_SCRATCH_BYTES: usize = 8 * SCRATCH_BYTES;

impl Worker {
    /// A buffer with what the peer has sent and the router has not taken. Most often that is
    /// little and is copied to the worker's own buffer; a large frame stays in a buffer of its own.
    pub(super) fn take_buffer(&mut self, key: PeerKey) -> ReadBuffer {
        let largest = self.core.largest_frame(key);
        let rest =
            self.connection(key).and_then(|connection| connection.rest.take().map(|rest| *rest));
        let mut buffer = match rest {
            Some(rest) if rest.capacity() >= SCRATCH_BYTES => rest,
            rest => {
                let mut scratch = self.take_scratch();
                if let Some(mut rest) = rest {
                    scratch.extend(rest.filled());
                    rest.clear();
                    if self.rests.len() < RESTS {
                        self.rests.push(rest);
                    }
                }
                scratch
            }
        };
        buffer.set_largest_frame(largest);
        buffer
    }

    pub(super) fn take_scratch(&mut self) -> ReadBuffer {
        let scratch = std::mem::replace(&mut self.scratch, ReadBuffer::new(0, 0));
        let is_there = scratch.capacity() >= SCRATCH_BYTES;
        if is_there { scratch } else { ReadBuffer::new(SCRATCH_BYTES, 0) }
    }

    pub(super) fn put_back(&mut self, mut buffer: ReadBuffer) {
        if (SCRATCH_BYTES..=MAX_SCRATCH_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.scratch = buffer;
        }
    }
}
