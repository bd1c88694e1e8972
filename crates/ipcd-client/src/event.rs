//! Events for the caller, and the queue in which they wait.

use std::collections::VecDeque;

use ipcd_proto::control::{DropReason, Receipt};

use crate::Result;
use crate::message::Message;

/// An event that comes without a call that waits for it.
#[derive(Debug)]
pub enum Event {
    /// A message.
    Message(Message),
    /// A reply to a request that was begun with
    /// [`Client::start_request`](crate::Client::start_request).
    Reply {
        /// The request's number.
        request: u64,
        /// The reply, or the reason for which there is none. An error ends the request.
        reply: Result<Message>,
    },
    /// The outcome of a message that was published with
    /// [`Client::publish_tracked`](crate::Client::publish_tracked).
    Outcome {
        /// The message's number.
        id: u64,
        /// The receipt. It is an error if the message was refused, or the connection was lost before
        /// the outcome was known.
        outcome: Result<Receipt>,
    },
    /// Messages of a subscription were dropped because this client did not take them fast enough.
    Gap {
        /// The subscription's number.
        subscription: u32,
        /// The cause.
        reason: DropReason,
        /// The number of messages.
        dropped: u64,
    },
    /// The connection was lost. The next call makes it again.
    Disconnected {
        /// The cause.
        why: String,
    },
    /// The connection was lost and made again. Messages may have been missed meanwhile.
    Reconnected {
        /// The cause of the loss.
        why: String,
    },
}

impl Event {
    /// Bytes that the event takes in the queue.
    pub(crate) fn bytes(&self) -> usize {
        let message = match self {
            Self::Message(message) | Self::Reply { reply: Ok(message), .. } => message.len(),
            _ => 0,
        };
        size_of::<Self>() + message
    }
}

/// The reason for which [`Client::wait_event_or`](crate::Client::wait_event_or) returns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WakeReason {
    /// An event waits to be taken.
    Event,
    /// The descriptor is readable.
    Readable,
    /// The deadline has passed.
    Deadline,
}

/// Events in the order in which they came.
#[derive(Default)]
pub(crate) struct EventQueue {
    queue: VecDeque<Event>,
    bytes: usize,
}

impl EventQueue {
    pub(crate) fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.queue.push_back(event);
    }

    pub(crate) fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.push(event));
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.queue.pop_front()?;
        self.bytes -= event.bytes();
        Some(event)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.queue.iter()
    }

    /// Bytes that the events take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
