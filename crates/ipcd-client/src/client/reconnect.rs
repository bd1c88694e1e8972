//! Making a lost connection again.

use std::time::Instant;

use ipcd_proto::control::{Code, Refusal, Subscribe, Welcome, encode};
use ipcd_proto::{Filter, Frame, Header, Kind};

use super::Client;
use crate::options::SubscribeOptions;
use crate::wire::Wire;
use crate::{Event, Result, session};
use ipcd_transport::deadline_after;

impl Client {
    /// Connects again and again until it succeeds, and subscribes again; false at the deadline.
    pub(super) fn reconnect(&mut self, why: &str, deadline: Option<Instant>) -> Result<bool> {
        let backoff = self.options.reconnect.unwrap_or_default();
        let mut pauses = backoff.pauses();
        loop {
            let attempt = deadline_after(self.options.timeout);
            let attempt = deadline.map_or(attempt, |deadline| attempt.min(deadline));
            match session::open(&self.endpoint, &self.options, attempt) {
                Ok((wire, welcome)) => {
                    self.resume(wire, welcome);
                    self.events.push(Event::Reconnected { why: why.to_owned() });
                    return Ok(true);
                }
                Err(error) if !error.is_temporary() => return Err(error),
                Err(_) => {}
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            let pause = pauses.next().unwrap_or(backoff.longest);
            std::thread::park_timeout(left.map_or(pause, |left| pause.min(left)));
        }
    }

    /// Goes on with a new connection: what was begun on the old one is lost, the rest is sent.
    fn resume(&mut self, wire: Wire, welcome: Welcome) {
        let untouched = self.wire.take_untouched(is_for_anybody);
        self.lost_unconfirmed |= self.unconfirmed;
        self.wire = wire;
        self.welcome = welcome;
        self.connection += 1;
        self.received_before = self.received;
        self.lost = None;
        self.ending = None;
        self.origins.clear();
        let subscribes: Vec<_> = self
            .subscriptions
            .iter()
            .map(|(number, (filter, options))| {
                let header = self.subscribe_header(options);
                (*number, header, subscribe_body(*number, filter, options))
            })
            .collect();
        self.resubscribed.clear();
        for (number, header, body) in subscribes {
            let correlation = self.take_id();
            self.wire.control_with(Header { correlation, ..header }, &body);
            self.resubscribed.insert(correlation, number);
        }
        self.wire.put(&untouched);
    }

    /// Notes that a subscription was refused that had been made again. What the daemon says while it ends
    /// is no refusal: the connection ends, and is made again.
    pub(super) fn note_unsubscribed(&mut self, number: u32, refusal: Refusal) {
        if refusal.code != Code::Ending
            && let Some(filter) = self.filter(number)
        {
            let message = format!("subscribe to {} again: {}", filter.as_str(), refusal.message);
            self.unsubscribed.get_or_insert(Refusal { message, ..refusal });
        }
    }
}

impl Client {
    /// The header of a SUBSCRIBE, which says after how many messages of this session the client is a
    /// member of groups no more.
    pub(super) fn subscribe_header(&self, options: &SubscribeOptions) -> Header {
        let transport = ipcd_transports::find(self.endpoint.scheme());
        let loses_none = transport.is_ok_and(|transport| transport.capabilities().reliable);
        let limit = options.limit.filter(|_| loses_none && options.group.is_some());
        let left = limit.map(|limit| limit.saturating_sub(self.received_before).max(1));
        let subscription = left.and_then(|left| u32::try_from(left).ok()).unwrap_or(0);
        Header { subscription, ..Header::new(Kind::Subscribe, 0) }
    }
}

pub(super) fn subscribe_body(number: u32, filter: &Filter, options: &SubscribeOptions) -> Vec<u8> {
    encode(&Subscribe {
        subscription: number,
        filter: filter.as_str().to_owned(),
        group: options.group.clone(),
        overflow: options.overflow,
        origin: options.origin,
    })
}

/// Whether the frame means the same on another connection: it is a message that somebody may want,
/// not one to a peer of the old connection's time, and nobody was promised an outcome.
fn is_for_anybody(frame: &Frame<'_>) -> bool {
    let is_direct = frame.subject.starts_with(b"@");
    frame.header.kind == Kind::Message && !frame.header.is_tracked() && !is_direct
}
