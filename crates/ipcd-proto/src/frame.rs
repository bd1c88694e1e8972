//! Frames: a fixed header, then subject, reply subject, headers and payload.
//!
//! ```text
//!  0  u32  length of the frame, this field included
//!  4  u8   kind
//!  5  u8   flags: 1 = more of the same answer follows, 2 = RECEIPT requested, 4 = a request,
//!          8 = an ERROR is wanted if no peer subscribes, 16 = the reply subject may be published to
//!  6  u8   length of the subject
//!  7  u8   length of the reply subject
//!  8  u16  length of the headers
//! 10  u16  in a request: seconds for which a reply is awaited; else 0
//! 12  u32  subscription, filled in by the daemon
//! 16  u64  correlation: the sender's number for the frame, which an answer to it repeats
//! 24  u64  sender, filled in by the daemon
//! 32       subject, reply subject, headers, payload
//! ```
//!
//! Integers are little-endian.

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;

const FLAGS: usize = 5;
const SUBSCRIPTION: usize = 12;
const SENDER: usize = 24;
const FLAG_MORE: u8 = 1;
const FLAG_RECEIPT: u8 = 2;
const FLAG_REQUEST: u8 = 4;
const FLAG_INTEREST: u8 = 8;
const FLAG_ANSWERABLE: u8 = 16;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum FrameKind {
    /// Opens a session; from the peer.
    Hello = 1,
    /// Asks for proof of a token; from the daemon.
    Challenge = 2,
    /// Proves a token; from the peer.
    Auth = 3,
    /// Opens the session; from the daemon.
    Welcome = 4,
    /// A message, in either direction.
    Message = 5,
    /// Asks for the messages that match a filter; from the peer.
    Subscribe = 6,
    /// Ends a subscription; from the peer.
    Unsubscribe = 7,
    /// Asks for an ACK once all frames before it have been accepted; from the peer.
    Flush = 8,
    /// Confirms SUBSCRIBE, UNSUBSCRIBE and FLUSH; from the daemon.
    Ack = 9,
    /// Refuses the frame with the same correlation, or with correlation 0 ends the session.
    Error = 10,
    /// Reports a sender's identity or dropped messages; from the daemon.
    Notice = 11,
    /// Asks for a PONG, in either direction.
    Ping = 12,
    /// Answers a PING.
    Pong = 13,
    /// Announces that no frame follows, in either direction.
    Bye = 14,
    /// Asks about the daemon; from the peer.
    Query = 15,
    /// Answers a QUERY; from the daemon.
    Answer = 16,
    /// Reports the delivery of a message that asked for it; from the daemon.
    Receipt = 17,
}

impl FrameKind {
    const ALL: [Self; 17] = [
        Self::Hello,
        Self::Challenge,
        Self::Auth,
        Self::Welcome,
        Self::Message,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Flush,
        Self::Ack,
        Self::Error,
        Self::Notice,
        Self::Ping,
        Self::Pong,
        Self::Bye,
        Self::Query,
        Self::Answer,
        Self::Receipt,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        // Kinds begin at 1. For 0 the subtraction wraps, to a place that the list does not have.
        Self::ALL.get(usize::from(byte).wrapping_sub(1)).copied()
    }
}

/// The fixed part of a frame, without the lengths.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// The kind of the frame.
    pub kind: FrameKind,
    /// Whether more frames of the same answer follow, or more replies of the same responder.
    pub more: bool,
    /// Whether the publisher asks for a RECEIPT.
    pub receipt: bool,
    /// Whether the message is a request: its publisher waits for a reply.
    pub request: bool,
    /// Whether the publisher wants an ERROR if no subscription matches.
    pub interest: bool,
    /// Whether a receiver may publish its reply to the reply subject of a message that is no
    /// request: the sender gains nothing by it. Filled in by the daemon.
    pub answerable: bool,
    /// The seconds for which the publisher waits.
    pub wait: u16,
    /// The receiver's subscription that a message matched.
    pub subscription: u32,
    /// The sender's number for the frame.
    pub correlation: u64,
    /// The peer that sent a message.
    pub sender: u64,
}

impl Header {
    /// A header with only kind and correlation set.
    pub fn new(kind: FrameKind, correlation: u64) -> Self {
        Self {
            kind,
            more: false,
            receipt: false,
            request: false,
            interest: false,
            answerable: false,
            wait: 0,
            subscription: 0,
            correlation,
            sender: 0,
        }
    }

    /// Whether the daemon has to track the delivery of the message.
    pub fn is_tracked(&self) -> bool {
        self.receipt || self.request
    }

    /// Whether the message cannot be routed together with others, because its publisher may get an
    /// answer of its own.
    pub fn stands_alone(&self) -> bool {
        // Without a branch for each flag, because this is read in every message of a batch.
        self.receipt | self.request | self.interest
    }

    fn flags(&self) -> u8 {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        flag(self.more, FLAG_MORE)
            | flag(self.receipt, FLAG_RECEIPT)
            | flag(self.request, FLAG_REQUEST)
            | flag(self.interest, FLAG_INTEREST)
            | flag(self.answerable, FLAG_ANSWERABLE)
    }
}

/// A whole frame in a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// The fixed part.
    pub header: Header,
    /// The subject of a message. It is not checked.
    pub subject: &'a [u8],
    /// The subject for answers to a message. It is not checked.
    pub reply: &'a [u8],
    /// The header block, see [`crate::Headers`].
    pub headers: &'a [u8],
    /// The payload of a message, or the body of a control frame.
    pub payload: &'a [u8],
}

/// The result of [`decode`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodedFrame<'a> {
    /// A whole frame, and its length.
    Frame(Frame<'a>, usize),
    /// The beginning of a frame. The frame has this many bytes, or at least this many if its length
    /// field is incomplete.
    Incomplete(usize),
}

/// The error of bytes that are no frame. Later bytes cannot be decoded either: the boundary is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// The frame is longer than allowed.
    #[error("a frame of {length} bytes, where at most {largest} are allowed")]
    TooLong {
        /// Bytes that the frame claims to have.
        length: usize,
        /// Bytes that are allowed.
        largest: usize,
    },
    /// The frame is shorter than its parts.
    #[error("a frame of {0} bytes, which is shorter than its parts")]
    TooShort(usize),
    /// The kind of the frame is unknown.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
}

/// Decodes the frame at the start of `bytes`. The frame may have at most `largest` bytes.
///
/// # Errors
/// As soon as the bytes can no longer become a frame. An oversized length is an error before the rest
/// has come, so that it makes no caller wait or reserve memory.
#[inline]
pub fn decode(bytes: &[u8], largest: usize) -> Result<DecodedFrame<'_>, FrameError> {
    let Some((length, _)) = bytes.split_first_chunk::<4>() else {
        return Ok(DecodedFrame::Incomplete(HEADER_BYTES));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > largest {
        return Err(FrameError::TooLong { length, largest });
    }
    if length < HEADER_BYTES {
        return Err(FrameError::TooShort(length));
    }
    let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(DecodedFrame::Incomplete(length));
    };
    let Some(kind) = FrameKind::from_byte(head[4]) else {
        return Err(FrameError::UnknownKind(head[4]));
    };
    let (subject, reply) = (usize::from(head[6]), usize::from(head[7]));
    let headers = usize::from(u16::from_le_bytes([head[8], head[9]]));
    // Checked before the body has come, and by subtraction: the sum of forged lengths could overflow.
    let Some(payload) = (length - HEADER_BYTES).checked_sub(subject + reply + headers) else {
        return Err(FrameError::TooShort(length));
    };
    if body.len() < length - HEADER_BYTES {
        return Ok(DecodedFrame::Incomplete(length));
    }
    let (subject, rest) = body.split_at(subject);
    let (reply, rest) = rest.split_at(reply);
    let (headers, rest) = rest.split_at(headers);
    let header = Header {
        kind,
        more: head[FLAGS] & FLAG_MORE != 0,
        receipt: head[FLAGS] & FLAG_RECEIPT != 0,
        request: head[FLAGS] & FLAG_REQUEST != 0,
        interest: head[FLAGS] & FLAG_INTEREST != 0,
        answerable: head[FLAGS] & FLAG_ANSWERABLE != 0,
        wait: u16::from_le_bytes([head[10], head[11]]),
        subscription: u32::from_le_bytes(field(head, SUBSCRIPTION)),
        correlation: u64::from_le_bytes(field(head, 16)),
        sender: u64::from_le_bytes(field(head, SENDER)),
    };
    let frame = Frame { header, subject, reply, headers, payload: &rest[..payload] };
    Ok(DecodedFrame::Frame(frame, length))
}

/// The length of the frame at the start of `bytes`, or `None` if its length field is incomplete.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize)
}

fn field<const N: usize>(head: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *head[at..].first_chunk().expect("every field lies within the header")
}

/// Appends frames to a buffer.
pub struct FrameWriter<'a>(pub &'a mut Vec<u8>);

impl FrameWriter<'_> {
    /// Appends a frame.
    ///
    /// # Panics
    /// If a part does not fit its length field. Callers check the limits first.
    pub fn write(&mut self, frame: &Frame<'_>) {
        let Frame { header, subject, reply, headers, payload } = *frame;
        let length = HEADER_BYTES + subject.len() + reply.len() + headers.len() + payload.len();
        let checked = "the caller has checked the limits";
        let mut head = [0; HEADER_BYTES];
        head[..4].copy_from_slice(&u32::try_from(length).expect(checked).to_le_bytes());
        head[4] = header.kind as u8;
        head[FLAGS] = header.flags();
        head[6] = u8::try_from(subject.len()).expect(checked);
        head[7] = u8::try_from(reply.len()).expect(checked);
        head[8..10].copy_from_slice(&u16::try_from(headers.len()).expect(checked).to_le_bytes());
        head[10..SUBSCRIPTION].copy_from_slice(&header.wait.to_le_bytes());
        head[SUBSCRIPTION..16].copy_from_slice(&header.subscription.to_le_bytes());
        head[16..SENDER].copy_from_slice(&header.correlation.to_le_bytes());
        head[SENDER..].copy_from_slice(&header.sender.to_le_bytes());
        self.0.reserve(length);
        for part in [&head[..], subject, reply, headers, payload] {
            self.0.extend_from_slice(part);
        }
    }

    /// Appends a control frame with this body.
    pub fn control(&mut self, header: Header, body: &[u8]) {
        self.write(&Frame { header, subject: &[], reply: &[], headers: &[], payload: body });
    }
}

impl Frame<'_> {
    /// Writes the sender's id into the encoded frame at the start of the bytes.
    ///
    /// # Panics
    /// If the bytes are shorter than a header.
    pub fn stamp_sender(frame: &mut [u8], sender: u64) {
        frame[SENDER..HEADER_BYTES].copy_from_slice(&sender.to_le_bytes());
    }

    /// Writes whether the reply subject may be published to into the encoded frame at the start of
    /// the bytes.
    ///
    /// # Panics
    /// If the bytes are shorter than a header.
    pub fn stamp_answerable(frame: &mut [u8], is_answerable: bool) {
        let others = frame[FLAGS] & !FLAG_ANSWERABLE;
        frame[FLAGS] = others | if is_answerable { FLAG_ANSWERABLE } else { 0 };
    }

    /// Writes the number of a subscription into the encoded frame at the start of the bytes.
    ///
    /// # Panics
    /// If the bytes are shorter than a header.
    pub fn stamp_subscription(frame: &mut [u8], subscription: u32) {
        frame[SUBSCRIPTION..SUBSCRIPTION + 4].copy_from_slice(&subscription.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LARGEST: usize = 1 << 20;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = Header {
            kind: FrameKind::Message,
            more: true,
            receipt: false,
            request: true,
            interest: true,
            answerable: false,
            wait: 600,
            subscription: 7,
            correlation: 1 << 40,
            sender: u64::MAX - 1,
        };
        let frame =
            Frame { header, subject: b"a.b", reply: b"r", headers: b"hhhh", payload: b"payload" };
        FrameWriter(&mut bytes).write(&frame);
        bytes
    }

    #[test]
    fn reads_what_it_wrote() {
        let bytes = sample();
        let Ok(DecodedFrame::Frame(frame, length)) = decode(&bytes, LARGEST) else {
            panic!("no frame");
        };
        assert_eq!(length, bytes.len());
        assert_eq!((frame.subject, frame.reply), (&b"a.b"[..], &b"r"[..]));
        assert_eq!((frame.headers, frame.payload), (&b"hhhh"[..], &b"payload"[..]));
        let mut again = Vec::new();
        FrameWriter(&mut again).write(&frame);
        assert_eq!(again, bytes);
    }

    #[test]
    fn waits_for_the_rest_of_a_frame_cut_anywhere() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            let needed = if cut < 4 { HEADER_BYTES } else { bytes.len() };
            assert_eq!(decode(&bytes[..cut], LARGEST), Ok(DecodedFrame::Incomplete(needed)));
        }
    }

    #[test]
    fn refuses_impossible_lengths_at_once() {
        let length = |n: u32| decode_error(&n.to_le_bytes());
        assert_eq!(length(0), FrameError::TooShort(0));
        assert_eq!(length(31), FrameError::TooShort(31));
        for n in [1 << 31, u32::MAX, LARGEST as u32 + 1] {
            assert_eq!(length(n), FrameError::TooLong { length: n as usize, largest: LARGEST });
        }
        let mut short = sample();
        short[6] = 250;
        assert_eq!(decode_error(&short), FrameError::TooShort(short.len()));
        let mut unknown = sample();
        unknown[4] = 0;
        assert_eq!(decode_error(&unknown), FrameError::UnknownKind(0));
        unknown[4] = 18;
        assert_eq!(decode_error(&unknown), FrameError::UnknownKind(18));
    }

    fn decode_error(bytes: &[u8]) -> FrameError {
        decode(bytes, LARGEST).expect_err("these bytes are no frame")
    }

    #[test]
    fn stamps_in_place() {
        let mut bytes = sample();
        Frame::stamp_sender(&mut bytes, 5);
        Frame::stamp_subscription(&mut bytes, 6);
        Frame::stamp_answerable(&mut bytes, true);
        let Ok(DecodedFrame::Frame(frame, _)) = decode(&bytes, LARGEST) else { panic!("no frame") };
        assert_eq!((frame.header.sender, frame.header.subscription), (5, 6));
        assert!(frame.header.answerable && frame.header.interest && frame.header.more);
        Frame::stamp_answerable(&mut bytes, false);
        let Ok(DecodedFrame::Frame(frame, _)) = decode(&bytes, LARGEST) else { panic!("no frame") };
        assert!(!frame.header.answerable && frame.header.interest);
        assert_eq!(frame.payload, b"payload");
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, 150);
        }
    }
}
