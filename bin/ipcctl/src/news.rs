//! News of the connection and of subscriptions, as remarks for people.

use ipcd_client::{Client, Event, Reason};

use crate::context::Context;

/// Says what happened, if it is not a message.
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

/// Why messages did not come here.
fn why_missing(reason: Reason) -> &'static str {
    match reason {
        Reason::Oldest => "its outbox was full (drop-oldest)",
        Reason::Newest => "its outbox was full (drop-newest)",
        Reason::CutOff => "it was cut off",
        Reason::Departed => "it had gone",
        Reason::WorkerDied => "its worker died",
        Reason::TooLarge => "larger than it takes",
        Reason::NoReader => "nobody reads it",
    }
}

/// What became of receivers of which copies were dropped.
pub(crate) fn why_dropped(reason: Reason) -> &'static str {
    match reason {
        Reason::Oldest => "an outbox was full (drop-oldest)",
        Reason::Newest => "an outbox was full (drop-newest)",
        Reason::CutOff => "a receiver was cut off",
        Reason::Departed => "a receiver went away",
        Reason::WorkerDied => "a worker of the daemon died",
        Reason::TooLarge => "they are larger than it takes",
        Reason::NoReader => "nobody reads there",
    }
}
