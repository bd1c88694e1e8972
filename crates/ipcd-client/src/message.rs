//! Messages that are received, and messages to be sent.

use std::ops::Range;

use ipcd_proto::{DirectAddress, Frame, Headers};

/// A message that was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    bytes: Box<[u8]>,
    reply: Range<usize>,
    headers: Range<usize>,
    /// The connection that it came over, counted from 0.
    pub(crate) connection: u32,
    /// The sender's number for the message.
    pub id: u64,
    /// The id of the peer that sent it.
    pub sender: u64,
    /// The number of the subscription that it matched; 0 for a direct message and for a reply.
    pub subscription: u32,
    /// Whether the sender waits for a reply ([`Client::reply`](crate::Client::reply)): it has sent a
    /// request, or the daemon says that a reply may go to the message's reply subject, as to that of
    /// a NATS client.
    pub is_request: bool,
    /// Whether this is a reply that the same responder follows by another one.
    pub more: bool,
}

impl Message {
    pub(crate) fn of(frame: &Frame<'_>, connection: u32) -> Self {
        // One allocation for all parts: messages are often small, and many.
        let parts = [frame.subject, frame.reply, frame.headers, frame.payload];
        let reply = frame.subject.len()..frame.subject.len() + frame.reply.len();
        let headers = reply.end..reply.end + frame.headers.len();
        let header = frame.header;
        Self {
            bytes: parts.concat().into(),
            reply,
            headers,
            connection,
            id: header.correlation,
            sender: header.sender,
            subscription: header.subscription,
            is_request: header.request || header.answerable,
            more: header.more,
        }
    }

    /// The number of the request by peer `own` that this replies to, if it is a reply.
    pub(crate) fn answers(&self, own: u64) -> Option<u64> {
        if self.subscription != 0 {
            return None;
        }
        let address = DirectAddress::parse(&self.bytes[..self.reply.start])?;
        address.request.filter(|_| address.peer == own)
    }

    /// Bytes on the heap.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The subject that it was published on.
    pub fn subject(&self) -> &str {
        // The daemon checks subjects. A malformed one can only come from another program, and an
        // empty one is safe to show.
        str::from_utf8(&self.bytes[..self.reply.start]).unwrap_or_default()
    }

    /// The subject for answers. In a request it is the requester's own address, which the daemon has
    /// checked. In any other message it is the sender's choice, perhaps a subject that the sender may
    /// not publish on: check it before publishing there.
    pub fn reply(&self) -> Option<&str> {
        let reply = str::from_utf8(&self.bytes[self.reply.clone()]).unwrap_or_default();
        Some(reply).filter(|reply| !reply.is_empty())
    }

    /// Its headers, as keys and values. There are none if the block is malformed.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let headers = Headers::parse(&self.bytes[self.headers.clone()]);
        headers.into_iter().flat_map(Headers::iter)
    }

    /// Its payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.headers.end..]
    }
}

/// A message to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Publication<'a> {
    /// The subject to publish on, or `@ID` for one peer.
    pub subject: &'a str,
    /// The subject for answers; empty for none.
    pub reply: &'a str,
    /// A header block, made with [`Headers::append`]; at most 16 KiB.
    pub headers: &'a [u8],
    /// The bytes to send; at most [`Client::max_payload`](crate::Client::max_payload).
    pub payload: &'a [u8],
}
