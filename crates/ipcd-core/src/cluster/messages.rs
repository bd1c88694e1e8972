//! Messages between workers, apart from those of publishers. They travel as NOTICE frames in the
//! same stream, so that their order among the messages is kept.

use crate::model::ids::Ticket;
use crate::model::interest::Interest;
use ipcd_proto::control::Origin;
use ipcd_proto::control::Receipt;
use serde::Deserialize;
use serde::Serialize;

/// A message of one worker to another.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum WorkerMessage {
    /// The total of the receiver's bytes that the sender has consumed.
    Consumed(u64),
    /// Whether this interest is blocked from now on.
    FlowState { interest: Interest, is_blocked: bool },
    /// The identity of a publisher, ahead of its first message to this worker.
    Origin(Origin),
    /// That publisher has gone.
    Departed(u64),
    /// The sender waits for the outcome of the next message, under this ticket.
    Tracked(Ticket),
    /// The outcome of the copies of such a message.
    Concluded(OutcomeReport),
    /// No message follows, because the receiver is leaving.
    Last,
}

/// A worker's report on the copies that it had of a message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct OutcomeReport {
    /// The receiving worker's number of the message.
    pub(crate) ticket: Ticket,
    pub(crate) receipt: Receipt,
    pub(crate) is_answered: bool,
    pub(crate) is_passed_on: bool,
}

#[cfg(test)]
impl OutcomeReport {
    /// Returns a report for tests of hostile workers.
    pub(crate) fn of(ticket: Ticket, receipt: Receipt, said: (bool, bool)) -> Self {
        Self { ticket, receipt, is_answered: said.0, is_passed_on: said.1 }
    }
}
