//! Requests, replies, and messages whose delivery the sender follows.

use std::time::{Duration, Instant};

use ipcd_proto::BadSubject;
use ipcd_proto::control::Receipt;
use ipcd_transport::deadline_after;

use super::{Client, unexpected_answer};
use crate::frame_channel::BATCH;
use crate::message::{Message, Publication};
use crate::outcomes::CallOutcome;
use crate::{Error, Result};

/// The longest that the daemon keeps a request: seconds travel in 16 bits.
const LONGEST_WAIT: Duration = Duration::from_secs(u16::MAX as u64);

impl Client {
    /// Publishes a message with a receipt. [`Event::Outcome`](crate::Event::Outcome) tells later
    /// whether its copies were delivered. Many may be pending. Returns the message's number.
    ///
    /// The message is buffered as with [`Client::publish`]. Where the transport may lose frames, the
    /// outcome may never come.
    ///
    /// # Errors
    /// If the message is invalid, or there is no connection.
    pub fn publish_tracked(&mut self, message: &Publication<'_>) -> Result<u64> {
        let id = self.begin_tracked(message)?;
        self.outcomes.pending.track(id);
        self.write_batches();
        Ok(id)
    }

    /// Publishes a message and waits until every copy of it is delivered or dropped.
    ///
    /// # Errors
    /// If the message is invalid or refused, the connection is lost, or no receipt comes within
    /// [`Options::timeout`](crate::Options::timeout).
    pub fn publish_acked(&mut self, message: &Publication<'_>) -> Result<Receipt> {
        let deadline = self.session.deadline();
        let id = self.begin_tracked(message)?;
        match self.await_outcome(id, deadline, "receipt")? {
            (CallOutcome::Receipt(receipt), _) => Ok(receipt),
            _ => Err(unexpected_answer()),
        }
    }

    /// Sends a request. Each reply is an [`Event::Reply`](crate::Event::Reply), until the request is
    /// finished, fails or times out. A reply that is read after the timeout, and before the timeout
    /// is noticed, still counts. Many requests may be pending. Returns the request's number.
    ///
    /// `message.reply` is not used: replies come to this client. A timeout is at most 65,535 s.
    ///
    /// # Errors
    /// If the message is invalid, or there is no connection. Later failures are events.
    pub fn start_request(&mut self, message: &Publication<'_>, timeout: Duration) -> Result<u64> {
        let (id, deadline) = self.begin_request(message, timeout)?;
        self.outcomes.pending.request(id, deadline);
        self.write_batches();
        Ok(id)
    }

    /// Ends a request. Replies that still come are dropped, and counted
    /// ([`Client::late_replies`]).
    pub fn finish_request(&mut self, id: u64) {
        self.outcomes.pending.finish(id);
    }

    /// Sends a request and waits for the first reply.
    ///
    /// # Errors
    /// As [`Client::request_message`].
    pub fn request(&mut self, subject: &str, payload: &[u8], timeout: Duration) -> Result<Message> {
        let message = Publication { subject, payload, ..Publication::default() };
        self.request_message(&message, timeout)
    }

    /// Sends a request with headers and waits for the first reply. `message.reply` is not used.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NoResponder` if no peer subscribes to such requests, or with
    /// `Unanswered` if every peer that has it has gone; [`Error::TimedOut`] if no reply comes in
    /// time; else if the message is invalid or refused, or the connection is lost.
    pub fn request_message(
        &mut self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<Message> {
        let (id, deadline) = self.begin_request(message, timeout)?;
        match self.await_outcome(id, deadline, "reply")? {
            (CallOutcome::Reply(reply), _) => Ok(reply),
            _ => Err(unexpected_answer()),
        }
    }

    /// Replies to a request. The reply is buffered as with [`Client::publish`]. The daemon drops and
    /// counts it if the requester has gone or waits no longer.
    ///
    /// # Errors
    /// [`Error::NoRequest`] if `to` is not a request; else if `to` has no reply subject, the reply is
    /// invalid, or the connection is lost.
    pub fn reply(&mut self, to: &Message, payload: &[u8]) -> Result<()> {
        self.reply_message(to, &[], payload, false)
    }

    /// Replies with headers, a block made with [`Headers::append`](crate::Headers::append). With
    /// `more`, another reply to the same request follows.
    ///
    /// # Errors
    /// As [`Client::reply`].
    pub fn reply_message(
        &mut self,
        to: &Message,
        headers: &[u8],
        payload: &[u8],
        more: bool,
    ) -> Result<()> {
        match self.reply_subject(to)? {
            Some(subject) => {
                self.publish_part(&Publication { subject, reply: "", headers, payload }, more)
            }
            None => Ok(()),
        }
    }

    /// The subject of replies to a request; `None` if no requester waits for one any more.
    pub(super) fn reply_subject<'a>(&self, to: &'a Message) -> Result<Option<&'a str>> {
        let subject = to.reply().ok_or(BadSubject::Empty)?;
        if !to.is_request {
            return Err(Error::NoRequest);
        }
        // The daemon has given up on requests of an earlier connection. Their ids may belong to
        // other peers by now, if it has started anew.
        let is_stale = to.connection != self.session.number() && subject.starts_with('@');
        Ok(Some(subject).filter(|_| !is_stale))
    }

    /// The number of replies that came after their requests had ended.
    pub fn late_replies(&self) -> u64 {
        self.outcomes.pending.late_replies()
    }

    /// Buffers a message that asks for a receipt.
    pub(super) fn begin_tracked(&mut self, message: &Publication<'_>) -> Result<u64> {
        self.publisher.check(message, self.max_payload())?;
        self.ensure_connected(self.session.deadline())?;
        let frame = self.publisher.tracked(message);
        self.session.channel().frame(&frame);
        Ok(frame.header.correlation)
    }

    /// Buffers a request. Returns its number and its deadline.
    pub(super) fn begin_request(
        &mut self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<(u64, Instant)> {
        self.publisher.check(&Publication { reply: "", ..*message }, self.max_payload())?;
        let timeout = timeout.min(LONGEST_WAIT);
        let deadline = deadline_after(timeout);
        self.ensure_connected(deadline)?;
        // Asked after that: another connection has another id.
        let peer = self.peer();
        let frame = self.publisher.request(message, peer, wait_secs(timeout));
        self.session.channel().frame(&frame);
        Ok((frame.header.correlation, deadline))
    }

    /// Writes full batches. The loss of the connection is not an error here: it ends what is
    /// pending, by events, and the next call fails.
    fn write_batches(&mut self) {
        while self.session.channel_ref().unwritten() >= BATCH && self.write_some().is_ok() {}
    }
}

/// Whole seconds, rounded up, and at least one.
fn wait_secs(timeout: Duration) -> u16 {
    let secs = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u16::try_from(secs.max(1)).unwrap_or(u16::MAX)
}
