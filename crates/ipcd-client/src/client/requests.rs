//! Requests, replies, and messages whose sender wants to know what became of them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ipcd_proto::control::Receipt;
use ipcd_proto::{Address, BadSubject, Header, Kind};

use super::calls::Outcome;
use super::{Client, frame};
use crate::message::{Message, Publication};
use crate::wire::BATCH;
use crate::{Error, Result};
use ipcd_transport::deadline_after;

/// The longest that the daemon keeps a request.
const LONGEST_WAIT: Duration = Duration::from_secs(u16::MAX as u64);

impl Client {
    /// Publishes a message; [`Event::Outcome`](crate::Event::Outcome) tells later what became of it.
    /// Many may be outstanding. Returns the message's number.
    ///
    /// Where the transport may lose frames, the outcome may never come.
    ///
    /// # Errors
    /// If the message is no good, or there is no connection.
    pub fn publish_tracked(&mut self, message: &Publication<'_>) -> Result<u64> {
        let id = self.begin_tracked(message)?;
        self.outstanding.track(id);
        self.write_batches();
        Ok(id)
    }

    /// Publishes a message and waits until every copy of it is delivered or dropped.
    ///
    /// # Errors
    /// If the message is no good or refused, the connection is lost, or no receipt comes in time.
    pub fn publish_acked(&mut self, message: &Publication<'_>) -> Result<Receipt> {
        let deadline = deadline_after(self.options.timeout);
        let id = self.begin_tracked(message)?;
        match self.await_outcome(id, deadline, "receipt")? {
            (Outcome::Receipt(receipt), _) => Ok(receipt),
            _ => Err(unexpected()),
        }
    }

    /// Sends a request. [`Event::Reply`](crate::Event::Reply)s tell its replies, until it is
    /// finished, fails or is too late; a reply that this client reads after the timeout, and before
    /// it notices that, is not too late. Many may be outstanding. Returns the request's number.
    ///
    /// `message.reply` is not used: replies come to this client. A timeout is at most 65,535 s.
    ///
    /// # Errors
    /// If the message is no good, or there is no connection. Everything later is told by the event.
    pub fn start_request(&mut self, message: &Publication<'_>, timeout: Duration) -> Result<u64> {
        let (id, deadline) = self.begin_request(message, timeout)?;
        self.outstanding.request(id, deadline);
        self.write_batches();
        Ok(id)
    }

    /// Wants nothing more of a request. What still comes is dropped, and counted.
    pub fn finish_request(&mut self, id: u64) {
        self.outstanding.finish(id);
    }

    /// Sends a request and waits for the first reply.
    ///
    /// # Errors
    /// As [`Client::request_message`].
    pub fn request(&mut self, subject: &str, payload: &[u8], timeout: Duration) -> Result<Message> {
        let message = Publication { subject, payload, ..Publication::default() };
        self.request_message(&message, timeout)
    }

    /// The same, with everything that a message can have. `message.reply` is not used.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NoResponder` if nobody takes such requests, or with `Unanswered` if
    /// nobody will answer any more; [`Error::TimedOut`] if no reply comes in time; else if the
    /// message is no good or refused, or the connection is lost.
    pub fn request_message(
        &mut self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<Message> {
        let (id, deadline) = self.begin_request(message, timeout)?;
        match self.await_outcome(id, deadline, "reply")? {
            (Outcome::Reply(reply), _) => Ok(reply),
            _ => Err(unexpected()),
        }
    }

    /// Replies to a request. If who asked has gone, or waits no longer, the daemon drops the reply
    /// and counts it.
    ///
    /// # Errors
    /// [`Error::NoRequest`] if nobody waits for a reply; else if `to` has no reply subject, the reply
    /// is no good, or the connection is lost.
    pub fn reply(&mut self, to: &Message, payload: &[u8]) -> Result<()> {
        self.reply_message(to, &[], payload, false)
    }

    /// The same with headers, a block made with [`Headers::append`](crate::Headers::append). With
    /// `more` another reply to the same request will follow.
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
        let subject = to.reply().ok_or(BadSubject::Empty)?;
        if !to.is_request {
            return Err(Error::NoRequest);
        }
        // With the connection over which the request came, the daemon has given up on a reply; and
        // if it has started anew, the address may be another peer's.
        if to.connection != self.connection && subject.starts_with('@') {
            return Ok(());
        }
        self.publish_part(&Publication { subject, reply: "", headers, payload }, more)
    }

    /// Replies that came when nobody waited for them any more.
    pub fn late_replies(&self) -> u64 {
        self.outstanding.late_replies()
    }

    /// Gives a message to the wire that asks for a receipt.
    fn begin_tracked(&mut self, message: &Publication<'_>) -> Result<u64> {
        self.check(message)?;
        self.ensure_connected(deadline_after(self.options.timeout))?;
        let id = self.take_id();
        let header = Header { receipt: true, ..Header::new(Kind::Message, id) };
        self.wire.frame(&frame(header, message));
        Ok(id)
    }

    /// Gives a request to the wire, and says when it is too late.
    fn begin_request(
        &mut self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<(u64, Instant)> {
        self.check(&Publication { reply: "", ..*message })?;
        let timeout = timeout.min(LONGEST_WAIT);
        let deadline = deadline_after(timeout);
        self.ensure_connected(deadline)?;
        let id = self.take_id();
        let address = Address { peer: self.peer(), request: Some(id) };
        self.own_address.clear();
        write!(self.own_address, "{address}").expect("a string takes all that is written");
        let wait = wait_secs(timeout);
        let header = Header { request: true, wait, ..Header::new(Kind::Message, id) };
        let message = Publication { reply: &self.own_address, ..*message };
        self.wire.frame(&frame(header, &message));
        Ok((id, deadline))
    }

    /// Writes what is enough for a write. That the connection is lost is told by the end of what
    /// is outstanding, and by the next call.
    fn write_batches(&mut self) {
        while self.wire.unwritten() >= BATCH && self.write_some().is_ok() {}
    }
}

/// Whole seconds, rounded up, and at least one.
fn wait_secs(timeout: Duration) -> u16 {
    let secs = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    u16::try_from(secs.max(1)).unwrap_or(u16::MAX)
}

fn unexpected() -> Error {
    Error::Protocol("it answered another question".into())
}
