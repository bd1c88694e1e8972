//! A queue between the driver and one stream. The bytes in all queues of a client are counted
//! together, so that the driver can leave the rest with the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::shared::Shared;
use crate::message::Message;
use crate::{Event, Result};

/// An item of a stream.
pub(super) trait Weigh {
    /// Bytes that it takes in a queue.
    fn bytes(&self) -> usize;
}

impl Weigh for Result<Event> {
    fn bytes(&self) -> usize {
        self.as_ref().map_or(size_of::<Self>(), Event::bytes)
    }
}

impl Weigh for Result<Message> {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.as_ref().map_or(0, Message::len)
    }
}

/// The driver's end.
pub(super) struct Delivery<T>(UnboundedSender<T>);

/// Bytes in all queues of a client.
#[derive(Default)]
pub(super) struct QueuedBytes(AtomicUsize);

impl QueuedBytes {
    pub(super) fn now(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Returns whether this made the bytes fewer than the limit.
    pub(super) fn falls_below(&self, limit: usize, bytes: usize) -> bool {
        let before = self.0.fetch_sub(bytes, Ordering::AcqRel);
        before >= limit && before - bytes < limit
    }
}

/// The stream's end.
pub(super) struct Mailbox<T: Weigh> {
    receiver: UnboundedReceiver<T>,
    shared: Arc<Shared>,
}

/// Makes both ends.
pub(super) fn mailbox<T: Weigh>(shared: &Arc<Shared>) -> (Delivery<T>, Mailbox<T>) {
    let (sender, receiver) = unbounded_channel();
    (Delivery(sender), Mailbox { receiver, shared: shared.clone() })
}

impl<T: Weigh> Delivery<T> {
    /// Appends an item, unless the stream has gone.
    pub(super) fn put(&self, item: T, queued: &QueuedBytes) {
        let bytes = item.bytes();
        // Before the item is there: the stream may take it at once, on another thread.
        queued.add(bytes);
        if self.0.send(item).is_err() {
            queued.falls_below(0, bytes);
        }
    }
}

impl<T: Weigh> Mailbox<T> {
    /// The next item; `None` when there will be no other. An item is taken only if it is returned,
    /// so a caller that stops waiting loses none.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let polled = self.receiver.poll_recv(cx);
        if let Poll::Ready(Some(item)) = &polled {
            self.shared.release(item.bytes());
        }
        polled
    }
}

impl<T: Weigh> Drop for Mailbox<T> {
    fn drop(&mut self) {
        self.receiver.close();
        while let Ok(item) = self.receiver.try_recv() {
            self.shared.release(item.bytes());
        }
    }
}
