//! Checks messages and makes their frames. Knows whether messages are unconfirmed. No I/O.

use std::fmt::Write as _;

use ipcd_proto::{BadHeaders, DirectAddress, Frame, FrameKind, Header, Subject, limits};

use crate::message::Publication;
use crate::{Error, Result};

#[derive(Default)]
pub(crate) struct Publisher {
    last_id: u64,
    /// The last valid subject. Most messages go to the subject of the one before.
    checked_subject: String,
    /// The reply address of a request: kept, so that a request allocates nothing.
    reply_address: String,
    /// The last message of this connection that is unconfirmed.
    unconfirmed: Option<u64>,
    /// Whether a connection was lost with unconfirmed messages.
    has_lost: bool,
}

impl Publisher {
    pub(crate) fn take_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Checks whether the daemon would accept the message.
    pub(crate) fn check(&mut self, message: &Publication<'_>, max_payload: usize) -> Result<()> {
        if self.checked_subject.is_empty() || message.subject != self.checked_subject {
            Subject::parse(message.subject.as_bytes())?;
            self.checked_subject.clear();
            self.checked_subject.push_str(message.subject);
        }
        // The daemon would refuse all of this, too, but only at the next flush.
        if !message.reply.is_empty() {
            Subject::parse(message.reply.as_bytes())?;
        }
        if message.headers.len() > limits::MAX_HEADERS {
            return Err(BadHeaders::TooLong.into());
        }
        let (bytes, limit) = (message.payload.len(), max_payload);
        if bytes > limit { Err(Error::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// The frame of a message. With `more`, it is a reply that is not the last one.
    pub(crate) fn message<'a>(&mut self, message: &Publication<'a>, more: bool) -> Frame<'a> {
        let id = self.take_id();
        self.unconfirmed = Some(id);
        frame(Header { more, ..Header::new(FrameKind::Message, id) }, message)
    }

    /// The frame of a message that asks for a receipt.
    pub(crate) fn tracked<'a>(&mut self, message: &Publication<'a>) -> Frame<'a> {
        frame(Header { receipt: true, ..Header::new(FrameKind::Message, self.take_id()) }, message)
    }

    /// The frame of a request of this peer, whose replies are awaited for so many seconds.
    pub(crate) fn request<'a>(
        &'a mut self,
        message: &Publication<'a>,
        peer: u64,
        wait: u16,
    ) -> Frame<'a> {
        let id = self.take_id();
        self.reply_address.clear();
        let address = DirectAddress { peer, request: Some(id) };
        write!(self.reply_address, "{address}").expect("writing to a string does not fail");
        let header = Header { request: true, wait, ..Header::new(FrameKind::Message, id) };
        frame(header, &Publication { reply: &self.reply_address, ..*message })
    }

    /// Notes that the daemon has accepted everything of this connection before this frame.
    ///
    /// # Errors
    /// If messages of an earlier connection were lost without a confirmation.
    pub(crate) fn confirm(&mut self, flush: u64) -> Result<()> {
        self.unconfirmed = self.unconfirmed.filter(|last| *last > flush);
        if std::mem::take(&mut self.has_lost) {
            let why = "unconfirmed messages may be lost".into();
            return Err(Error::Disconnected(why));
        }
        Ok(())
    }

    /// Notes that the connection was replaced. `unconfirmed` stays: untouched messages go over
    /// the new one.
    pub(crate) fn note_loss(&mut self) {
        self.has_lost |= self.unconfirmed.is_some();
    }
}

fn frame<'a>(header: Header, message: &Publication<'a>) -> Frame<'a> {
    Frame {
        header,
        subject: message.subject.as_bytes(),
        reply: message.reply.as_bytes(),
        headers: message.headers,
        payload: message.payload,
    }
}
