//! Requests, replies, and messages with receipts.

use std::time::{Duration, Instant};

use ipcd_proto::control::Receipt;
use ipcd_transport::deadline_after;

use super::mailbox::mailbox;
use super::shared::{CallEffect, State};
use super::{AsyncClient, AwaitedCall, Replies};
use crate::Result;
use crate::client::unexpected_answer;
use crate::message::{Message, Publication};
use crate::outcomes::CallOutcome;

impl AsyncClient {
    /// Sends a request and waits for the first reply.
    ///
    /// # Errors
    /// As [`Client::request`](crate::Client::request).
    pub async fn request(
        &self,
        subject: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Message> {
        let message = Publication { subject, payload, ..Publication::default() };
        self.request_message(&message, timeout).await
    }

    /// Sends a request with headers and waits for the first reply. `message.reply` is not used.
    ///
    /// # Errors
    /// As [`Client::request_message`](crate::Client::request_message).
    pub async fn request_message(
        &self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<Message> {
        self.request_many(message, timeout).await?.first().await
    }

    /// Sends a request, and returns all replies that come within this time.
    ///
    /// # Errors
    /// If the message is invalid, or there is no connection. Later failures are items of the stream.
    pub async fn request_many(
        &self,
        message: &Publication<'_>,
        timeout: Duration,
    ) -> Result<Replies> {
        let deadline = deadline_after(timeout);
        let begin = |state: &mut State| {
            if !(state.client.is_connected() && state.client.has_room()) {
                return Ok(None);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let id = state.client.start_buffered_request(message, left)?;
            let (delivery, mailbox) = mailbox(self.shared());
            state.replies.insert(id, delivery);
            Ok(Some((id, mailbox)))
        };
        let (id, mailbox) = self.when(Some(deadline), begin).await?;
        Ok(Replies::new(self.clone(), id, mailbox))
    }

    /// Replies to a request.
    ///
    /// # Errors
    /// As [`Client::reply`](crate::Client::reply).
    pub async fn reply(&self, to: &Message, payload: &[u8]) -> Result<()> {
        self.reply_message(to, &[], payload, false).await
    }

    /// Replies with headers. With `more`, another reply to the same request follows.
    ///
    /// # Errors
    /// As [`Client::reply_message`](crate::Client::reply_message).
    pub async fn reply_message(
        &self,
        to: &Message,
        headers: &[u8],
        payload: &[u8],
        more: bool,
    ) -> Result<()> {
        self.with_room(|state| state.client.begin_reply(to, headers, payload, more)).await
    }

    /// Publishes a message and waits until every copy of it is delivered or dropped.
    ///
    /// # Errors
    /// As [`Client::publish_acked`](crate::Client::publish_acked).
    pub async fn publish_acked(&self, message: &Publication<'_>) -> Result<Receipt> {
        let deadline = self.deadline();
        let begin = |state: &mut State| {
            if !(state.client.is_connected() && state.client.has_room()) {
                return Ok(None);
            }
            let id = state.client.begin_acked(message)?;
            Ok(Some((id, state.await_call(id, CallEffect::None))))
        };
        let (id, result) = self.when(Some(deadline), begin).await?;
        let call = AwaitedCall { client: self.clone(), id, result };
        match call.outcome(deadline, "receipt").await? {
            (CallOutcome::Receipt(receipt), _) => Ok(receipt),
            _ => Err(unexpected_answer()),
        }
    }
}
