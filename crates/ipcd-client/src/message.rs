//! Messages as they come and go.

use std::ops::Range;

use ipcd_proto::{Address, Frame, Headers};

/// A message that was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    bytes: Box<[u8]>,
    reply: Range<usize>,
    headers: Range<usize>,
    /// Which connection of the client it came over, counted from 0.
    pub(crate) connection: u32,
    /// The number that the sender gave it.
    pub id: u64,
    /// The peer that sent it.
    pub sender: u64,
    /// Which subscription it is for; 0 for a direct message and for a reply.
    pub subscription: u32,
    /// Whether its sender waits for a reply ([`Client::reply`](crate::Client::reply)).
    pub is_request: bool,
    /// Whether it is a reply, and the same responder sends another one to the request.
    pub more: bool,
}

impl Message {
    pub(crate) fn of(frame: &Frame<'_>, connection: u32) -> Self {
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
            is_request: header.request,
            more: header.more,
        }
    }

    /// The number of the request of the peer `own` that this replies to, if it is a reply.
    pub(crate) fn answers(&self, own: u64) -> Option<u64> {
        if self.subscription != 0 {
            return None;
        }
        let address = Address::parse(&self.bytes[..self.reply.start])?;
        address.request.filter(|_| address.peer == own)
    }

    /// Bytes that it takes on the heap.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where it was sent.
    pub fn subject(&self) -> &str {
        // The daemon checks subjects, and a malformed one from elsewhere is shown as none.
        str::from_utf8(&self.bytes[..self.reply.start]).unwrap_or_default()
    }

    /// Where answers should go. Of a request it is the address of who asks, which the daemon has seen
    /// to; of any other message whatever its sender has chosen: look at it before publishing there.
    pub fn reply(&self) -> Option<&str> {
        let reply = str::from_utf8(&self.bytes[self.reply.clone()]).unwrap_or_default();
        Some(reply).filter(|reply| !reply.is_empty())
    }

    /// Its headers; none if they are malformed.
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
    /// Where it goes: a subject, or `@ID` for one peer.
    pub subject: &'a str,
    /// Where answers should go; empty for nowhere.
    pub reply: &'a str,
    /// A header block, made with [`Headers::append`].
    pub headers: &'a [u8],
    /// What is sent.
    pub payload: &'a [u8],
}
