//! The messages of a measurement: a number, two times and a body, written whole by the sender and
//! read whole by the receiver.

use std::io;

/// Bytes of the smallest message: its header.
pub(crate) const LEAST: usize = 32;

/// The purpose of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MessageKind {
    /// Sent before anything is counted.
    Warm,
    /// Counted.
    Counted,
    /// Nothing follows.
    End,
}

/// The header in front of the body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MessageHeader {
    pub(crate) kind: MessageKind,
    /// Counted from 0 for each kind.
    pub(crate) number: u64,
    /// The time at which it should have been sent, in ns of the monotonic clock.
    pub(crate) intended: u64,
    /// The time at which it was sent.
    pub(crate) sent: u64,
}

const KIND_SHIFT: u32 = 62;

impl MessageHeader {
    /// Parses the header, if it is one of this measurement.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(*message.get(at..)?.first_chunk()?));
        let first = word(0)?;
        let kind = match first >> KIND_SHIFT {
            1 => MessageKind::Warm,
            2 => MessageKind::Counted,
            3 => MessageKind::End,
            _ => return None,
        };
        let number = first & ((1 << KIND_SHIFT) - 1);
        Some(Self { kind, number, intended: word(8)?, sent: word(16)? })
    }
}

/// Writes messages of one size.
pub(crate) struct MessageWriter {
    source: Vec<u8>,
    buffer: Vec<u8>,
    has_crc: bool,
}

impl MessageWriter {
    /// With bodies taken from `source`, again and again; with any bytes if it is empty.
    pub(crate) fn new(size: usize, source: &[u8], has_crc: bool) -> Self {
        let any: Vec<u8> = (0..=255).collect();
        let source = if source.is_empty() { &any } else { source };
        let body = source.iter().copied().cycle().take(size - LEAST).collect();
        Self { source: body, buffer: vec![0; size], has_crc }
    }

    /// Writes a whole message, body included.
    pub(crate) fn write(&mut self, header: MessageHeader) -> &[u8] {
        let kind: u64 = match header.kind {
            MessageKind::Warm => 1,
            MessageKind::Counted => 2,
            MessageKind::End => 3,
        };
        let (head, body) = self.buffer.split_at_mut(LEAST);
        body.copy_from_slice(&self.source);
        if let Some(first) = body.first_chunk_mut() {
            // The number in the body makes consecutive messages different.
            *first = header.number.to_le_bytes();
        }
        head[..8].copy_from_slice(&(kind << KIND_SHIFT | header.number).to_le_bytes());
        head[8..16].copy_from_slice(&header.intended.to_le_bytes());
        head[16..24].copy_from_slice(&header.sent.to_le_bytes());
        if self.has_crc {
            head[24..28].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        }
        &self.buffer
    }
}

/// Reads every byte of a message's body, and with `has_crc` compares its checksum.
pub(crate) fn read_body(message: &[u8], has_crc: bool) -> bool {
    let (head, body) = message.split_at(LEAST);
    if has_crc {
        return head[24..28] == crc32fast::hash(body).to_le_bytes();
    }
    let (words, rest) = body.as_chunks::<8>();
    let words = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    let rest = rest.iter().fold(words, |sum, &byte| sum.wrapping_add(u64::from(byte)));
    std::hint::black_box(rest);
    true
}

/// The error for a message that this measurement has not sent.
pub(crate) fn foreign_message() -> io::Error {
    io::Error::other("received bytes that are not a message of this measurement")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for size in [LEAST, 33, 40, 1000] {
            let mut writer = MessageWriter::new(size, b"payload", true);
            let header =
                MessageHeader { kind: MessageKind::Counted, number: 7, intended: 8, sent: 9 };
            let mut message = writer.write(header).to_vec();
            assert_eq!((message.len(), MessageHeader::read(&message)), (size, Some(header)));
            assert!(read_body(&message, true));
            if let Some(byte) = message.get_mut(LEAST) {
                *byte ^= 1;
                assert!(!read_body(&message, true), "a changed byte is found");
            }
        }
        assert_eq!(MessageHeader::read(&[0; 64]), None);
        assert_eq!(MessageHeader::read(&[0xff; 8]), None);
    }
}
