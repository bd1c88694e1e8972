//! The header of a frame (RFC 6455 §5.2), read and written.

use serde::{Deserialize, Serialize};

use crate::mask::MaskKey;

/// Bytes of the longest header: two, eight of a length, and a key.
pub(crate) const LONGEST_HEADER: usize = 14;
/// Bytes of the payload of the longest control frame (§5.5).
pub(crate) const LONGEST_CONTROL: usize = 125;

/// The last frame of a message, and the bits of extensions, of which none is agreed on.
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
/// Lengths that say that the real one follows, in two bytes or eight.
const IN_TWO: u8 = 126;
const IN_EIGHT: u8 = 127;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        let all =
            [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];
        all.into_iter().find(|opcode| *opcode as u8 == bits)
    }

    /// Whether the frame is of the connection, and no part of a message.
    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FrameHeader {
    /// Whether the frame is the last of its message.
    pub(crate) is_last: bool,
    pub(crate) opcode: Opcode,
    /// Bytes of the payload.
    pub(crate) length: u64,
    pub(crate) key: Option<MaskKey>,
}

impl FrameHeader {
    /// The header at the front of these bytes, and its length; `None` if some of it is missing.
    ///
    /// # Errors
    /// If no frame begins so. The error says why.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, &'static str> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let opcode = Opcode::of(first & OPCODE).ok_or("a frame of an unknown kind")?;
        let is_last = first & FIN != 0;
        if first & RESERVED != 0 {
            return Err("a frame of an extension, and none was agreed on");
        }
        let length = second & !MASKED;
        if opcode.is_control() && (!is_last || usize::from(length) > LONGEST_CONTROL) {
            return Err("a control frame that is fragmented or longer than 125 bytes");
        }
        let Some((length, rest)) = length_of(length, rest) else { return Ok(None) };
        // §5.2: the most significant bit is 0.
        if length > i64::MAX as u64 {
            return Err("a frame with a length beyond 63 bits");
        }
        let (key, rest) = match second & MASKED != 0 {
            false => (None, rest),
            true => match rest.split_first_chunk() {
                Some((key, rest)) => (Some(*key), rest),
                None => return Ok(None),
            },
        };
        Ok(Some((Self { is_last, opcode, length, key }, bytes.len() - rest.len())))
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> EncodedHeader {
        let mut encoded = EncodedHeader { bytes: [0; LONGEST_HEADER], length: 0 };
        let masked = if self.key.is_some() { MASKED } else { 0 };
        encoded.push(&[self.opcode as u8 | if self.is_last { FIN } else { 0 }]);
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length), _) if length < IN_TWO => encoded.push(&[masked | length]),
            (_, Ok(length)) => {
                encoded.push(&[masked | IN_TWO]);
                encoded.push(&length.to_be_bytes());
            }
            _ => {
                encoded.push(&[masked | IN_EIGHT]);
                encoded.push(&self.length.to_be_bytes());
            }
        }
        self.key.iter().for_each(|key| encoded.push(key));
        encoded
    }
}

/// The length of a payload, and the bytes behind it; `None` if some of it is missing.
fn length_of(short: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    match short {
        IN_TWO => {
            let (length, rest) = rest.split_first_chunk()?;
            Some((u16::from_be_bytes(*length).into(), rest))
        }
        IN_EIGHT => {
            let (length, rest) = rest.split_first_chunk()?;
            Some((u64::from_be_bytes(*length), rest))
        }
        short => Some((short.into(), rest)),
    }
}

/// The bytes of a header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedHeader {
    bytes: [u8; LONGEST_HEADER],
    length: usize,
}

impl EncodedHeader {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, any, prop, prop_oneof, proptest};

    use super::*;

    proptest! {
        #[test]
        fn reads_what_it_writes_and_no_part_of_it(
            opcode in prop_oneof![Just(Opcode::Binary), Just(Opcode::Text), Just(Opcode::Continuation)],
            length in prop_oneof![0..300u64, 65_000..70_000u64, 0..=i64::MAX as u64],
            is_last in any::<bool>(),
            key in prop::option::of(any::<MaskKey>()),
        ) {
            let header = FrameHeader { is_last, opcode, length, key };
            let encoded = header.encode();
            let bytes = encoded.as_slice();
            assert_eq!(FrameHeader::decode(bytes), Ok(Some((header, bytes.len()))));
            for cut in 0..bytes.len() {
                assert_eq!(FrameHeader::decode(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn a_length_takes_as_few_bytes_as_it_can() {
        let header =
            |length| FrameHeader { is_last: true, opcode: Opcode::Binary, length, key: None };
        let bytes = |length| header(length).encode().as_slice().len();
        assert_eq!([0, 125, 126, 65_535, 65_536].map(bytes), [2, 2, 4, 4, 10]);
    }

    #[test]
    fn refuses_what_no_frame_begins_with() {
        let error = |bytes: &[u8]| FrameHeader::decode(bytes).unwrap_err();
        assert!(error(&[0x83, 0]).contains("unknown kind"));
        assert!(error(&[0xc2, 0]).contains("extension"));
        assert!(error(&[0x09, 0]).contains("control"));
        assert!(error(&[0x89, 126]).contains("125"));
        assert!(error(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]).contains("63 bits"));
    }
}
