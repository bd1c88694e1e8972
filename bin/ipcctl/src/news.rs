//! Remarks for people about the connection and about dropped messages.

use ipcd_client::{Client, Event, Reason};

use crate::context::Context;

/// Remarks on an event that is no message.
pub(crate) fn tell(context: &Context, client: &Client, event: &Event) {
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
fn why_missing(reason: Reason) -> &'static str {
    match reason {
        Reason::Oldest => "the send queue was full (drop-oldest)",
        Reason::Newest => "the send queue was full (drop-newest)",
        Reason::CutOff => "this receiver was disconnected by the daemon",
        Reason::Departed => "this receiver had disconnected",
        Reason::WorkerDied => "a worker of the daemon died",
        Reason::TooLarge => "they were too large for this receiver",
        Reason::NoReader => "nothing read them",
    }
}

/// The reason for which copies of a message were dropped, as a clause after "because".
pub(crate) fn why_dropped(reason: Reason) -> &'static str {
    match reason {
        Reason::Oldest => "a send queue was full (drop-oldest)",
        Reason::Newest => "a send queue was full (drop-newest)",
        Reason::CutOff => "the daemon disconnected a receiver",
        Reason::Departed => "a receiver disconnected",
        Reason::WorkerDied => "a worker of the daemon died",
        Reason::TooLarge => "the message is too large for a receiver",
        Reason::NoReader => "no reader is there",
    }
}
