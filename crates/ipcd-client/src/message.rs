//! Messages as they come and go.

use std::ops::Range;

use ipcd_proto::{Frame, Headers};

/// A message that was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    bytes: Box<[u8]>,
    reply: Range<usize>,
    headers: Range<usize>,
    /// The number that the sender gave it.
    pub id: u64,
    /// The peer that sent it.
    pub sender: u64,
    /// Which subscription it is for.
    pub subscription: u32,
}

impl Message {
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        let parts = [frame.subject, frame.reply, frame.headers, frame.payload];
        let reply = frame.subject.len()..frame.subject.len() + frame.reply.len();
        let headers = reply.end..reply.end + frame.headers.len();
        let header = frame.header;
        Self {
            bytes: parts.concat().into(),
            reply,
            headers,
            id: header.correlation,
            sender: header.sender,
            subscription: header.subscription,
        }
    }

    /// Where it was sent.
    pub fn subject(&self) -> &str {
        // The daemon checks subjects, and a malformed one from elsewhere is shown as none.
        str::from_utf8(&self.bytes[..self.reply.start]).unwrap_or_default()
    }

    /// Where answers should go.
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
    /// Where it goes.
    pub subject: &'a str,
    /// Where answers should go; empty for nowhere.
    pub reply: &'a str,
    /// A header block, made with [`Headers::append`].
    pub headers: &'a [u8],
    /// What is sent.
    pub payload: &'a [u8],
}
