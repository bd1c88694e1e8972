//! What has come and waits to be taken.

use std::collections::VecDeque;
use std::time::Instant;

use ipcd_proto::control::{Reason, Receipt};

use super::Client;
use crate::message::Message;
use crate::wire::{Turn, Wish};
use crate::{Error, Result};

/// What came without being waited for.
#[derive(Debug)]
pub enum Event {
    /// A message.
    Message(Message),
    /// A reply to a request that was begun with [`Client::start_request`].
    Reply {
        /// Which request.
        request: u64,
        /// The reply, or why there is none: then the request is finished.
        reply: Result<Message>,
    },
    /// What became of a message that was published with [`Client::publish_tracked`].
    Outcome {
        /// Which message.
        id: u64,
        /// The receipt, or why there is none: the message was refused, or the connection was lost
        /// before anybody knew.
        outcome: Result<Receipt>,
    },
    /// Messages of a subscription were dropped, because this client did not take them fast enough.
    Gap {
        /// Which subscription.
        subscription: u32,
        /// Why.
        reason: Reason,
        /// How many.
        dropped: u64,
    },
    /// The connection was lost, and will be made again by the next call.
    Disconnected {
        /// Why it was lost.
        why: String,
    },
    /// The connection was lost and made again; messages may have been missed meanwhile.
    Reconnected {
        /// Why it was lost.
        why: String,
    },
}

impl Event {
    /// Bytes that it takes while it waits.
    fn bytes(&self) -> usize {
        let message = match self {
            Self::Message(message) | Self::Reply { reply: Ok(message), .. } => message.len(),
            _ => 0,
        };
        size_of::<Self>() + message
    }
}

/// Events in their order.
#[derive(Default)]
pub(super) struct Events {
    queue: VecDeque<Event>,
    bytes: usize,
}

impl Events {
    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.queue.push_back(event);
    }

    fn pop(&mut self) -> Option<Event> {
        let event = self.queue.pop_front()?;
        self.bytes -= event.bytes();
        Some(event)
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Client {
    /// What comes next; `None` when nothing does by the deadline. Without one it waits for ever.
    ///
    /// # Errors
    /// If the connection is lost and is not to be made again, or the daemon ends the session. What
    /// came before, and the end of each request, has been returned by then.
    pub fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.take_event() {
                return Ok(Some(event));
            }
            if let Some(why) = self.lost.clone() {
                if !self.reconnect(&why, deadline)? {
                    return Ok(None);
                }
                continue;
            }
            let wake = deadline.into_iter().chain(self.outstanding.next_deadline()).min();
            match self.turn(Wish::input(wake)) {
                Ok(Turn::Late) if !self.has_event() && has_passed(deadline) => return Ok(None),
                Ok(_) => {}
                Err(error) if self.is_worth_retrying(&error) => {
                    self.note_loss(error.to_string());
                }
                Err(error) if !self.has_event() => return Err(error),
                // What came before is told first; the connection ends again.
                Err(_) => {}
            }
        }
    }

    /// Whether an event waits to be taken.
    pub fn has_event(&self) -> bool {
        self.events.queue.iter().any(|event| match event {
            Event::Reply { request, .. } => self.outstanding.knows(*request),
            _ => true,
        })
    }

    /// The messages that come, for ever or until an error. Other events are passed over.
    pub fn messages(&mut self) -> Messages<'_> {
        Messages(self)
    }

    /// The next event, but for replies to requests that were finished while those waited.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop()?;
            let is_wanted = match &event {
                Event::Reply { request, reply: Ok(_) } => {
                    self.outstanding.hand_over_reply(*request)
                }
                Event::Reply { request, reply: Err(_) } => self.outstanding.hand_over_end(*request),
                _ => true,
            };
            if is_wanted {
                return Some(event);
            }
        }
    }

    fn is_worth_retrying(&self, error: &Error) -> bool {
        self.options.reconnect.is_some() && self.unsubscribed.is_none() && error.is_temporary()
    }

    fn note_loss(&mut self, why: String) {
        // The daemon sees the end of this connection now, not when there is a new one.
        self.wire.abandon();
        self.lost = Some(why.clone());
        self.events.push(Event::Disconnected { why });
    }
}

/// The messages that come.
pub struct Messages<'a>(&'a mut Client);

impl Iterator for Messages<'_> {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next_event(None) {
                Ok(Some(Event::Message(message))) => return Some(Ok(message)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

pub(super) fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}
