//! Streams of messages and of replies.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::AsyncClient;
use super::mailbox::Mailbox;
use super::shared::closed;
use crate::message::Message;
use crate::{Event, Result};

/// The messages of a subscription, as a stream. Dropping it ends the subscription.
///
/// A stream that is not polled keeps up to 1 MiB; then the client stops reading, also for its other
/// streams, and the daemon sees a slow receiver. So drop a stream that is not needed.
///
/// The stream ends after [`Subscription::unsubscribe`] or [`AsyncClient::close`]. When the
/// connection is lost for good, the error is its last item.
pub struct Subscription {
    client: AsyncClient,
    number: u32,
    mailbox: Mailbox<Result<Event>>,
    dropped: u64,
}

impl Subscription {
    pub(super) fn new(client: AsyncClient, number: u32, mailbox: Mailbox<Result<Event>>) -> Self {
        Self { client, number, mailbox, dropped: 0 }
    }

    /// Its number, as [`Message::subscription`] has it; 0 for direct messages.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The number of messages that the daemon has dropped because this client did not take them fast
    /// enough, as far as the stream has come.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next message; `None` at the end of the stream. Dropping the future loses no message.
    ///
    /// # Errors
    /// If the connection is lost for good.
    pub async fn next(&mut self) -> Option<Result<Message>> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The next message, or [`Event::Gap`], [`Event::Disconnected`] or [`Event::Reconnected`], which
    /// [`Subscription::next`] skips. Dropping the future loses no event.
    ///
    /// # Errors
    /// If the connection is lost for good.
    pub async fn next_event(&mut self) -> Option<Result<Event>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Ends the subscription. Messages that came before can still be taken; then the stream ends.
    ///
    /// # Errors
    /// If the connection is lost, or the daemon does not answer in time.
    pub async fn unsubscribe(&mut self) -> Result<()> {
        if self.number == 0 {
            self.client.shared().lock().streams.remove(&0);
            return Ok(());
        }
        self.client.unsubscribe(self.number).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let event = ready!(self.mailbox.poll_next(cx));
        if let Some(Ok(Event::Gap { dropped, .. })) = &event {
            self.dropped += dropped;
        }
        Poll::Ready(event)
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message>>> {
        loop {
            match ready!(self.poll_event(cx)) {
                Some(Ok(Event::Message(message))) => return Poll::Ready(Some(Ok(message))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Message>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_message(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let shared = self.client.shared();
        let mut state = shared.lock();
        let is_open = state.streams.remove(&self.number).is_some();
        if is_open && self.number != 0 {
            let id = state.client.begin_unsubscription(self.number);
            // No caller waits for the answer.
            state.client.abandon_call(id);
            shared.wake.notify_one();
        }
    }
}

/// The replies to a request, as a stream. Dropping it ends the request.
///
/// The daemon does not mark the last reply. The stream ends with an error: that there is no
/// responder, or that the time is over.
pub struct Replies {
    client: AsyncClient,
    request: u64,
    mailbox: Mailbox<Result<Message>>,
}

impl Replies {
    pub(super) fn new(
        client: AsyncClient,
        request: u64,
        mailbox: Mailbox<Result<Message>>,
    ) -> Self {
        Self { client, request, mailbox }
    }

    /// The next reply; `None` after an error. Dropping the future loses no reply.
    ///
    /// # Errors
    /// As [`AsyncClient::request`].
    pub async fn next(&mut self) -> Option<Result<Message>> {
        poll_fn(|cx| self.mailbox.poll_next(cx)).await
    }

    /// The first reply.
    pub(super) async fn first(mut self) -> Result<Message> {
        self.next().await.unwrap_or_else(|| Err(closed()))
    }
}

impl Stream for Replies {
    type Item = Result<Message>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().mailbox.poll_next(cx)
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        let mut state = self.client.shared().lock();
        state.replies.remove(&self.request);
        state.client.finish_request(self.request);
    }
}
