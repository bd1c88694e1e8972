//! Finds the call, request or tracked message that an answer of the daemon concludes. No I/O.
//!
//! In a blocking client at most one call waits at a time. Requests and tracked messages may be many,
//! and are told by events.

use std::collections::HashMap;
use std::time::Instant;

use foldhash::fast::RandomState;
use ipcd_proto::control::{Answer, Receipt, Refusal, RefusalCode};

use crate::event::Event;
use crate::message::Message;
use crate::pending::{PendingKind, PendingTable};
use crate::{Error, Result};

/// The outcome of a frame whose outcome a caller waits for.
#[derive(Default)]
struct PendingCall {
    answers: Vec<Answer>,
    outcome: Option<std::result::Result<CallOutcome, Refusal>>,
}

/// The outcome of a call, other than a refusal.
pub(crate) enum CallOutcome {
    Done,
    Reply(Message),
    Receipt(Receipt),
}

#[derive(Default)]
pub(crate) struct OutcomeTracker {
    pub(crate) pending: PendingTable,
    /// The calls, by the ids of their frames.
    calls: HashMap<u64, PendingCall, RandomState>,
    /// Those of them that have an outcome.
    done: Vec<u64>,
    /// The first refusal of a message since the last flush.
    refused: Option<Refusal>,
}

impl OutcomeTracker {
    /// Begins to wait for the outcome of a frame.
    pub(crate) fn begin_call(&mut self, id: u64) {
        self.calls.insert(id, PendingCall::default());
    }

    pub(crate) fn is_call_done(&self, id: u64) -> bool {
        self.calls.get(&id).is_some_and(|call| call.outcome.is_some())
    }

    /// Ends the wait with the outcome; else with the reason for which there is none.
    pub(crate) fn end_call(
        &mut self,
        id: u64,
        ended: Result<()>,
        awaited: &'static str,
    ) -> Result<(CallOutcome, Vec<Answer>)> {
        self.done.retain(|done| *done != id);
        match self.calls.remove(&id) {
            Some(PendingCall { outcome: Some(outcome), answers }) => {
                outcome.map(|outcome| (outcome, answers)).map_err(Error::Refused)
            }
            _ => {
                // Its answer may still come. Without this a refusal would be the next flush's.
                self.pending.give_up(id);
                ended.and(Err(Error::TimedOut(awaited)))
            }
        }
    }

    pub(crate) fn take_reply(&mut self, request: u64, message: Message) -> Option<Event> {
        self.pending.note(request);
        if self.open_call(request).is_some() {
            self.end_wait(request, Ok(CallOutcome::Reply(message)));
            return None;
        }
        let is_awaited = self.pending.takes_reply(request);
        is_awaited.then_some(Event::Reply { request, reply: Ok(message) })
    }

    pub(crate) fn take_receipt(&mut self, id: u64, receipt: Receipt) -> Option<Event> {
        self.pending.note(id);
        if self.open_call(id).is_some() {
            self.end_wait(id, Ok(CallOutcome::Receipt(receipt)));
            return None;
        }
        let is_awaited = self.pending.takes_receipt(id);
        is_awaited.then_some(Event::Outcome { id, outcome: Ok(receipt) })
    }

    pub(crate) fn take_answer(&mut self, id: u64, more: bool, answer: Answer) {
        if let Some(call) = self.open_call(id) {
            call.answers.push(answer);
        }
        if !more {
            self.conclude(id);
        }
    }

    /// Notes that the daemon has done what a frame asked for. Nothing comes of it when the call has
    /// timed out.
    pub(crate) fn conclude(&mut self, id: u64) {
        self.pending.note(id);
        self.end_wait(id, Ok(CallOutcome::Done));
    }

    /// Takes the refusal of a call, a request or a tracked message.
    ///
    /// # Errors
    /// The refusal, if it is of none of them.
    pub(crate) fn take_refusal(
        &mut self,
        id: u64,
        refusal: Refusal,
    ) -> std::result::Result<Option<Event>, Refusal> {
        self.pending.note(id);
        if self.open_call(id).is_some() {
            self.end_wait(id, Err(refusal));
            return Ok(None);
        }
        match self.pending.end(id) {
            Some(kind) => Ok(Some(failure_event(id, kind, Error::Refused(refusal)))),
            None => Err(refusal),
        }
    }

    /// Keeps the refusal of a message for the next flush.
    pub(crate) fn keep_refusal(&mut self, id: u64, refusal: Refusal) {
        // Only requests are refused in this way. This one was finished before.
        let is_of_request =
            matches!(refusal.code, RefusalCode::NoResponder | RefusalCode::Unanswered);
        if !is_of_request && !self.pending.is_given_up(id) {
            self.refused.get_or_insert(refusal);
        }
    }

    pub(crate) fn take_refused(&mut self) -> Option<Refusal> {
        self.refused.take()
    }

    /// Ends a request whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Event> {
        let request = self.pending.expire(now)?;
        Some(Event::Reply { request, reply: Err(Error::TimedOut("reply")) })
    }

    /// Ends everything together with the connection.
    pub(crate) fn end_all(&mut self, why: &str) -> Vec<Event> {
        let lost = |(id, kind)| failure_event(id, kind, Error::Disconnected(why.to_owned()));
        self.pending.end_all().into_iter().map(lost).collect()
    }

    /// Gives the call that waits for this frame its outcome.
    fn end_wait(&mut self, id: u64, outcome: std::result::Result<CallOutcome, Refusal>) {
        if let Some(call) = self.open_call(id) {
            call.outcome = Some(outcome);
            self.done.push(id);
        }
    }

    /// The calls that have an outcome since this was last asked.
    #[cfg(feature = "async")]
    pub(crate) fn take_done(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.done)
    }

    /// The call that waits for the outcome of this frame.
    fn open_call(&mut self, id: u64) -> Option<&mut PendingCall> {
        self.calls.get_mut(&id).filter(|call| call.outcome.is_none())
    }
}

/// The event for a request or a tracked message that ends without an answer.
fn failure_event(id: u64, kind: PendingKind, why: Error) -> Event {
    match kind {
        PendingKind::Tracked => Event::Outcome { id, outcome: Err(why) },
        PendingKind::Request | PendingKind::Ended => Event::Reply { request: id, reply: Err(why) },
    }
}
