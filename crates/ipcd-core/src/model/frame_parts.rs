//! The lengths of the parts of a decoded frame. With them the bytes are decoded once, and the
//! header can be stamped in place without a borrow of the frame.

use ipcd_proto::{Frame, HEADER_BYTES, Header};

/// The header of a frame, and the lengths of its parts in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameParts {
    pub(crate) header: Header,
    pub(crate) subject: usize,
    pub(crate) reply: usize,
    pub(crate) headers: usize,
    pub(crate) payload: usize,
    /// The length of the whole frame.
    pub(crate) length: usize,
}

impl FrameParts {
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        let (subject, reply) = (frame.subject.len(), frame.reply.len());
        let (headers, payload) = (frame.headers.len(), frame.payload.len());
        let length = HEADER_BYTES + subject + reply + headers + payload;
        Self { header: frame.header, subject, reply, headers, payload, length }
    }

    /// Returns the subject from bytes that begin with this frame.
    pub(crate) fn subject<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[HEADER_BYTES..HEADER_BYTES + self.subject]
    }

    /// Returns the reply subject from bytes that begin with this frame.
    pub(crate) fn reply<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[HEADER_BYTES + self.subject..][..self.reply]
    }
}
