//! Remarks for people about the connection and about dropped messages.

use ipcd_client::{Client, DropReason, Event};

use crate::context::Context;

/// Remarks on an event other than a message.
pub(crate) fn remark_event(context: &Context, client: &Client, event: &Event) {
    match event {
        Event::Gap { subscription, reason, dropped } => {
            let filter = client.filter(*subscription);
            let filter = filter.map_or("?", |filter| filter.as_str());
            let why = why_missing(*reason);
            context.remark(&format!("{dropped} messages of {filter} were dropped: {why}"));
        }
        Event::Disconnected { why } => context.remark(&format!("{why}; connecting again")),
        Event::Reconnected { .. } => {
            context.remark("connected again; messages may have been missed");
        }
        Event::Message(_) | Event::Reply { .. } | Event::Outcome { .. } => {}
    }
}

/// The reason for which this receiver missed messages.
fn why_missing(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Oldest => "the send queue was full (drop-oldest)",
        DropReason::Newest => "the send queue was full (drop-newest)",
        DropReason::CutOff => "this receiver was disconnected by the daemon",
        DropReason::Departed => "this receiver had disconnected",
        DropReason::WorkerDied => "a worker of the daemon died",
        DropReason::TooLarge => "they were too large for this receiver",
        DropReason::NoReader => "nothing read them",
    }
}

/// The reason for which copies of a message were dropped, as a clause after "because".
pub(crate) fn why_dropped(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Oldest => "a send queue was full (drop-oldest)",
        DropReason::Newest => "a send queue was full (drop-newest)",
        DropReason::CutOff => "the daemon disconnected a receiver",
        DropReason::Departed => "a receiver disconnected",
        DropReason::WorkerDied => "a worker of the daemon died",
        DropReason::TooLarge => "the message is too large for a receiver",
        DropReason::NoReader => "no reader is there",
    }
}
