//! Codecs: they divide the bytes of raw peers into messages, and back.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The division of bytes into messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// The protocol of ipcd.
    #[default]
    Frame,
    /// Each line is a message. LF or CRLF ends a line.
    Line,
    /// Each NUL-terminated part is a message.
    Nul,
    /// Each read, datagram or record is a message.
    Raw,
    /// The client protocol of NATS ([`crate::nats`]), which this module does not divide.
    Nats,
}

impl Codec {
    /// All codecs.
    pub const ALL: [Self; 5] = [Self::Frame, Self::Line, Self::Nul, Self::Raw, Self::Nats];

    /// Whether it divides the bytes of raw peers into messages: the others are protocols.
    pub fn is_for_raw_peers(self) -> bool {
        !matches!(self, Self::Frame | Self::Nats)
    }

    /// Whether a receiver gets this payload as one message: it must not contain the end byte.
    pub fn can_carry(self, payload: &[u8]) -> bool {
        self.end().is_none_or(|end| !payload.contains(&end))
    }

    /// Bytes that the codec adds to a message.
    pub fn overhead(self) -> usize {
        usize::from(self.end().is_some())
    }

    /// Appends a message in the form that raw peers read.
    pub fn encode(self, payload: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(payload);
        into.extend(self.end());
    }

    /// The byte that ends a message.
    fn end(self) -> Option<u8> {
        match self {
            Self::Line => Some(b'\n'),
            Self::Nul => Some(0),
            Self::Raw | Self::Frame | Self::Nats => None,
        }
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|codec| codec.to_string() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.map(|codec| codec.to_string()).join(", ");
            format!("unknown codec {}: choose one of {known}", text.escape_debug())
        })
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frame => "frame",
            Self::Line => "line",
            Self::Nul => "nul",
            Self::Raw => "raw",
            Self::Nats => "nats",
        })
    }
}

/// The error of a message that is longer than allowed. The decoder skips it, up to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooLong;

/// Divides bytes that come in pieces into messages. It keeps at most the beginning of one message.
#[derive(Debug)]
pub struct MessageDecoder {
    codec: Codec,
    largest: usize,
    begun: Vec<u8>,
    /// Whether the rest of a message that is too long is being skipped.
    skips: bool,
}

impl MessageDecoder {
    /// A decoder for messages of at most `largest` bytes.
    pub fn new(codec: Codec, largest: usize) -> Self {
        Self { codec, largest, begun: Vec::new(), skips: false }
    }

    /// Changes the codec. A partial message goes on with the new one.
    pub fn set_codec(&mut self, codec: Codec) {
        self.codec = codec;
    }

    /// Changes the size of the largest message, in bytes.
    pub fn set_largest(&mut self, largest: usize) {
        self.largest = largest;
    }

    /// Decodes a piece, and gives each message that ends in it to `take`.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Result<&[u8], TooLong>)) {
        let Some(end) = self.codec.end() else {
            // The caller passes one read, datagram or record at a time, and that is the message.
            return take(if bytes.len() <= self.largest { Ok(bytes) } else { Err(TooLong) });
        };
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == end) {
            let (piece, behind) = (&rest[..at], &rest[at + 1..]);
            // The common case: the message lies whole in this piece, and is not copied.
            if self.begun.is_empty() && !self.skips {
                self.hand_over(piece, &mut take);
            } else {
                self.keep(piece);
                self.finish(&mut take);
            }
            rest = behind;
        }
        self.keep(rest);
    }

    /// Ends the stream or the record: a partial message becomes a message without an end byte.
    pub fn finish(&mut self, mut take: impl FnMut(Result<&[u8], TooLong>)) {
        let begun = std::mem::take(&mut self.begun);
        if std::mem::take(&mut self.skips) {
            take(Err(TooLong));
        } else if !begun.is_empty() {
            self.hand_over(&begun, &mut take);
        }
    }

    fn hand_over(&self, message: &[u8], take: &mut impl FnMut(Result<&[u8], TooLong>)) {
        let message = match self.codec {
            Codec::Line => message.strip_suffix(b"\r").unwrap_or(message),
            _ => message,
        };
        take(if message.len() <= self.largest { Ok(message) } else { Err(TooLong) });
    }

    fn keep(&mut self, piece: &[u8]) {
        // One byte more than the limit: it may be the CR of a CRLF, which does not count.
        if self.skips || self.begun.len() + piece.len() > self.largest + 1 {
            // A new vector, for `clear` would keep the memory of the largest message.
            self.begun = Vec::new();
            self.skips = true;
        } else {
            self.begun.extend_from_slice(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages in these pieces, as text.
    fn decoded(codec: Codec, largest: usize, pieces: &[&[u8]]) -> Vec<String> {
        let mut decoder = MessageDecoder::new(codec, largest);
        let mut found = Vec::new();
        let mut take = |message: Result<&[u8], TooLong>| {
            found.push(match message {
                Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Err(TooLong) => "(too long)".to_owned(),
            });
        };
        pieces.iter().for_each(|piece| decoder.feed(piece, &mut take));
        decoder.finish(&mut take);
        found
    }

    #[test]
    fn lines_end_in_lf_or_crlf_and_the_last_needs_no_end() {
        assert_eq!(decoded(Codec::Line, 9, &[b"a\nb\r\n\nc"]), ["a", "b", "", "c"]);
        assert_eq!(decoded(Codec::Line, 9, &[b"a\r", b"\nb\r"]), ["a", "b"]);
        assert_eq!(decoded(Codec::Nul, 9, &[b"a\nb\0\0c\r\0"]), ["a\nb", "", "c\r"]);
        assert_eq!(decoded(Codec::Raw, 9, &[b"a\n", b"b\0"]), ["a\n", "b\0"]);
    }

    #[test]
    fn a_message_that_is_too_long_is_passed_over_and_the_next_one_is_not() {
        let long = [b'x'; 100];
        assert_eq!(decoded(Codec::Line, 3, &[b"abc\nabcd\nabc\r\n"]), ["abc", "(too long)", "abc"]);
        assert_eq!(decoded(Codec::Line, 3, &[&long, &long, b"\nok\n"]), ["(too long)", "ok"]);
        assert_eq!(decoded(Codec::Line, 3, &[b"ok\n", &long]), ["ok", "(too long)"]);
        assert_eq!(decoded(Codec::Raw, 3, &[&long, b"ok"]), ["(too long)", "ok"]);
    }

    #[test]
    fn a_partial_message_is_bounded() {
        let mut decoder = MessageDecoder::new(Codec::Line, 10);
        for _ in 0..1000 {
            decoder.feed(&[b'x'; 7], |_| {});
            assert!(decoder.begun.len() <= 11);
        }
    }

    #[test]
    fn a_codec_is_read_as_it_is_written() {
        for codec in Codec::ALL {
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
        let error = "morse".parse::<Codec>().unwrap_err();
        assert!(
            error.contains("morse") && error.contains("frame, line, nul, raw, nats"),
            "{error}"
        );
    }

    #[test]
    fn a_payload_with_the_end_byte_cannot_be_carried() {
        assert!(!Codec::Line.can_carry(b"a\nb") && Codec::Line.can_carry(b"a\0b"));
        assert!(Codec::Nul.can_carry(b"a\nb") && !Codec::Nul.can_carry(b"\0"));
        assert!(Codec::Raw.can_carry(b"a\n\0"));
    }

    proptest! {
        /// Any split of any bytes decodes alike, and what was encoded comes back.
        #[test]
        fn any_split_decodes_alike(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..60),
            cuts in proptest::collection::vec(0..60_usize, 0..5),
        ) {
            for codec in [Codec::Line, Codec::Nul] {
                let whole = decoded(codec, 8, &[&bytes]);
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
                cuts.extend([0, bytes.len()]);
                cuts.sort_unstable();
                let pieces: Vec<&[u8]> =
                    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
                prop_assert_eq!(&decoded(codec, 8, &pieces), &whole);
            }
        }
    }
}
