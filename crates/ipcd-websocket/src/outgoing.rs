//! The output for a peer: the frame of the caller's bytes that is under way, and what is our own.
//!
//! The caller's bytes stay with the caller until the stream below has taken them. What is kept here is
//! the header of their frame, and how much of it is done: the rest is encoded anew each time.

use std::io::IoSlice;

use ipcd_transport::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::frame::{EncodedHeader, FrameHeader, LONGEST_HEADER, Opcode};
use crate::mask::{MaskKey, copy_masked};

/// Bytes of the longest payload that is sent in one frame: the most with a header of four bytes.
pub(crate) const LONGEST_PAYLOAD: usize = u16::MAX as usize;
/// Keys that are asked of the kernel at once.
const KEYS: usize = 32;

/// A frame of the caller's bytes.
#[derive(Debug)]
pub(crate) struct OutgoingFrame {
    header: EncodedHeader,
    key: Option<MaskKey>,
    /// Bytes of the payload.
    length: usize,
    /// Bytes of header and payload that were taken.
    sent: usize,
}

impl OutgoingFrame {
    /// A binary message of so many bytes.
    pub(crate) fn new(length: usize, key: Option<MaskKey>) -> Self {
        let opcode = Opcode::Binary;
        let header = FrameHeader { is_last: true, opcode, length: length as u64, key }.encode();
        Self { header, key, length, sent: 0 }
    }

    /// The part of the header that was not sent.
    pub(crate) fn header_left(&self) -> &[u8] {
        self.header.as_slice().get(self.sent..).unwrap_or_default()
    }

    /// Bytes of the payload that were sent.
    fn payload_sent(&self) -> usize {
        self.sent.saturating_sub(self.header.as_slice().len())
    }

    /// Bytes of the payload that were not sent.
    pub(crate) fn payload_left(&self) -> usize {
        self.length - self.payload_sent()
    }

    pub(crate) fn is_masked(&self) -> bool {
        self.key.is_some()
    }

    /// Whether nothing was sent.
    pub(crate) fn is_untouched(&self) -> bool {
        self.sent == 0
    }

    /// So much was sent of what is left. Returns the bytes of the payload in it.
    pub(crate) fn advance(&mut self, count: usize) -> usize {
        let before = self.payload_sent();
        self.sent += count;
        self.payload_sent() - before
    }

    /// Appends what is left to `into`, as far as these pieces have it.
    pub(crate) fn append_left(&self, pieces: &[IoSlice<'_>], into: &mut Vec<u8>) {
        into.extend_from_slice(self.header_left());
        let mut at = self.payload_sent();
        for piece in pieces {
            let count = piece.len().min(self.length - at);
            let begin = into.len();
            match self.key {
                None => into.extend_from_slice(&piece[..count]),
                Some(key) => {
                    into.resize(begin + count, 0);
                    copy_masked(&piece[..count], &mut into[begin..], key, at as u64);
                }
            }
            at += count;
        }
    }
}

/// Bytes of ours: the upgrade, pongs, the close. They never stand within a frame of the caller's.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct OwnBytes {
    bytes: Vec<u8>,
    sent: usize,
}

impl OwnBytes {
    /// Puts these behind the others.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts a control frame behind the others.
    pub(crate) fn push_control(&mut self, opcode: Opcode, payload: &[u8], key: Option<MaskKey>) {
        let header = FrameHeader { is_last: true, opcode, length: payload.len() as u64, key };
        self.push(header.encode().as_slice());
        let begin = self.bytes.len();
        self.push(payload);
        if let Some(key) = key {
            copy_masked(payload, &mut self.bytes[begin..], key, 0);
        }
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So much of them was sent. Without any, no memory is kept.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// Keys for masks: no program that chooses what is sent may foresee them (RFC 6455 §10.3).
#[derive(Debug, Default)]
pub(crate) struct MaskKeys(Vec<u8>);

impl MaskKeys {
    /// One that was not used yet.
    pub(crate) fn next(&mut self) -> Result<MaskKey> {
        if self.0.is_empty() {
            self.0.resize(KEYS * size_of::<MaskKey>(), 0);
            fill_random(&mut self.0)?;
        }
        let (rest, key) = self
            .0
            .split_last_chunk()
            .ok_or_else(|| Error::Protocol("there is no key for a mask".into()))?;
        let (key, left) = (*key, rest.len());
        self.0.truncate(left);
        Ok(key)
    }
}

/// Fills this with the kernel's randomness.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| Error::system("get random bytes", std::io::Error::other(error)))
}

/// Bytes that so many of the caller's have around them at the most.
pub(crate) fn overhead(bytes: usize) -> usize {
    (bytes.div_ceil(LONGEST_PAYLOAD) + 1) * LONGEST_HEADER
}
