//! Waiting: for events, for another descriptor, for a time. All of them keep the connection going.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::Client;
use crate::event::WakeReason;
use crate::frame_channel::{TurnGoal, TurnOutcome};
use crate::message::Message;
use crate::{Error, Event, Result};

impl Client {
    /// Waits for the next event. Returns `None` at the deadline; without one it waits for ever.
    ///
    /// # Errors
    /// If the connection is lost and the options do not ask for another one, or the daemon ends the
    /// session. All events that came before, and the end of each request, are returned first.
    pub fn next_event(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.take_event() {
                return Ok(Some(event));
            }
            if let Some(why) = self.session.lost().map(str::to_owned) {
                if !self.reconnect(&why, deadline)? {
                    return Ok(None);
                }
                continue;
            }
            match self.turn(TurnGoal::input(self.wake_at(deadline))) {
                Ok(TurnOutcome::Late) if !self.has_event() && has_passed(deadline) => {
                    return Ok(None);
                }
                Ok(_) => {}
                Err(error) if self.is_worth_retrying(&error) => {
                    let why = error.to_string();
                    self.session.note_loss(why.clone());
                    self.events.push(Event::Disconnected { why });
                }
                Err(error) if !self.has_event() => return Err(error),
                // The events go first. The next turn fails in the same way.
                Err(_) => {}
            }
        }
    }

    /// Whether an event waits to be taken.
    pub fn has_event(&self) -> bool {
        self.events.iter().any(|event| match event {
            Event::Reply { request, .. } => self.outcomes.pending.knows(*request),
            _ => true,
        })
    }

    /// The messages that come, for ever or until an error. Other events are skipped.
    pub fn messages(&mut self) -> MessageIter<'_> {
        MessageIter(self)
    }

    /// Waits until the descriptor is readable; false at the deadline. Messages that come meanwhile
    /// are kept as events, up to 64 MiB; then nothing more is read.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn wait_for(&mut self, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let only_write = self.is_overfull();
            let goal = TurnGoal { also: Some(fd), only_write, ..TurnGoal::input(deadline) };
            match self.turn(goal)? {
                TurnOutcome::Moved => {}
                turn => return Ok(turn == TurnOutcome::OtherReady),
            }
        }
    }

    /// Waits until an event can be taken, the descriptor is readable, or the deadline passes.
    ///
    /// # Errors
    /// If the connection is lost and no event is left.
    pub fn wait_event_or(
        &mut self,
        fd: BorrowedFd<'_>,
        deadline: Option<Instant>,
    ) -> Result<WakeReason> {
        loop {
            if self.has_event() {
                return Ok(WakeReason::Event);
            }
            let goal = TurnGoal { also: Some(fd), ..TurnGoal::input(self.wake_at(deadline)) };
            match self.turn(goal) {
                Ok(TurnOutcome::Moved) => {}
                Ok(TurnOutcome::OtherReady) => return Ok(WakeReason::Readable),
                Ok(TurnOutcome::Late) if self.has_event() || !has_passed(deadline) => {}
                Ok(TurnOutcome::Late) => return Ok(WakeReason::Deadline),
                Err(error) if !self.has_event() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Waits until the descriptor is writable; false at the deadline. Buffered messages are written
    /// meanwhile, and the end of the connection is noticed, but no messages are read as far as the
    /// transport can leave them: a client that cannot pass messages on makes their senders wait.
    ///
    /// # Errors
    /// If the connection is lost. The messages that came before can still be taken as events.
    pub fn wait_writable(&mut self, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
        let goal = TurnGoal {
            deadline,
            also: Some(fd),
            also_writes: true,
            only_write: true,
            ..TurnGoal::default()
        };
        loop {
            match self.turn(goal)? {
                TurnOutcome::Moved => {}
                turn => return Ok(turn == TurnOutcome::OtherReady),
            }
        }
    }

    /// Keeps the connection going until this time.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn wait_until(&mut self, time: Instant) -> Result<()> {
        while self.turn(TurnGoal::input(Some(time)))? != TurnOutcome::Late {}
        Ok(())
    }

    /// The next event. Replies to requests that were finished in the meantime are left out.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        loop {
            let event = self.events.pop()?;
            let pending = &mut self.outcomes.pending;
            let is_wanted = match &event {
                Event::Reply { request, reply: Ok(_) } => pending.hand_over_reply(*request),
                Event::Reply { request, reply: Err(_) } => pending.hand_over_end(*request),
                _ => true,
            };
            if is_wanted {
                return Some(event);
            }
        }
    }

    /// The deadline, or that of a request if it comes first.
    fn wake_at(&self, deadline: Option<Instant>) -> Option<Instant> {
        deadline.into_iter().chain(self.outcomes.pending.next_deadline()).min()
    }

    pub(super) fn is_worth_retrying(&self, error: &Error) -> bool {
        // Without one of its subscriptions the caller would wait in vain.
        self.session.reconnects() && self.subscriptions.check().is_ok() && error.is_temporary()
    }
}

/// The messages that come, as an iterator that blocks. See [`Client::messages`].
pub struct MessageIter<'a>(&'a mut Client);

impl Iterator for MessageIter<'_> {
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

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}
