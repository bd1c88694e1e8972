//! Frames from the daemon, as far as a client understands them.

use ipcd_proto::control::{Answer, Notice, Receipt, Refusal, decode};
use ipcd_proto::{Frame, FrameKind, Header};

use crate::Result;
use crate::message::Message;

/// A frame from the daemon.
pub(crate) enum IncomingFrame {
    Message(Message),
    /// ACK or PONG: the frame with this id is done.
    Done(u64),
    Receipt(u64, Receipt),
    /// ERROR: the frame with this id is refused, or with 0 the session ends.
    Refused(u64, Refusal),
    Answer {
        id: u64,
        more: bool,
        answer: Answer,
    },
    Notice(Notice),
    Ping(u64),
    /// Kinds that a daemon of this version does not send to clients.
    Unknown,
}

impl IncomingFrame {
    /// # Errors
    /// If the body of a control frame is malformed.
    pub(crate) fn read(frame: &Frame<'_>, connection: u32) -> Result<Self> {
        let Header { kind, more, correlation: id, .. } = frame.header;
        Ok(match kind {
            FrameKind::Message => Self::Message(Message::of(frame, connection)),
            FrameKind::Ack | FrameKind::Pong => Self::Done(id),
            FrameKind::Receipt => Self::Receipt(id, decode(frame.payload)?),
            FrameKind::Error => Self::Refused(id, decode(frame.payload)?),
            FrameKind::Answer => Self::Answer { id, more, answer: decode(frame.payload)? },
            FrameKind::Notice => Self::Notice(decode(frame.payload)?),
            FrameKind::Ping => Self::Ping(id),
            _ => Self::Unknown,
        })
    }
}
