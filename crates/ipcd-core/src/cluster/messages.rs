//! Messages between workers, beside those of publishers.

use crate::directory::state::Interest;
use crate::model::ids::Ticket;
use ipcd_proto::control::Origin;
use ipcd_proto::control::Receipt;
use serde::Deserialize;
use serde::Serialize;

/// What workers tell each other besides messages.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum WorkerMessage {
    /// So many bytes of yours were consumed in all.
    Consumed(u64),
    /// The members of this interest cannot take more, or can again.
    Level { interest: Interest, off: bool },
    /// Who a sender is, before its first message to this worker.
    Origin(Origin),
    /// That sender has gone.
    Departed(u64),
    /// The outcome of the next message is to be told, with this ticket.
    Tracked(Ticket),
    /// What became of the copies of such a message.
    Concluded(OutcomeReport),
    /// No message comes behind this, because the receiver is leaving.
    Last,
}

/// What a worker tells another of the copies that it had of a message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct OutcomeReport {
    /// The other's number for the message.
    pub(crate) ticket: Ticket,
    pub(crate) receipt: Receipt,
    pub(crate) is_answered: bool,
    pub(crate) is_passed_on: bool,
}

#[cfg(test)]
impl OutcomeReport {
    /// Any, for tests of what comes from elsewhere.
    pub(crate) fn of(ticket: Ticket, receipt: Receipt, said: (bool, bool)) -> Self {
        Self { ticket, receipt, is_answered: said.0, is_passed_on: said.1 }
    }
}
