//! The client's subscriptions, which a new connection gets again. No I/O.

use std::collections::BTreeMap;

use ipcd_proto::control::{Refusal, RefusalCode, Subscribe, encode};
use ipcd_proto::{Filter, FrameKind, Header};

use crate::options::SubscribeOptions;
use crate::{Error, Result};

/// The subscriptions by their numbers, and what has become of those that were made again.
pub(crate) struct SubscriptionTable {
    active: BTreeMap<u32, (Filter, SubscribeOptions)>,
    next_number: u32,
    /// Whether the transport loses no messages, so that a count of them is exact.
    is_reliable: bool,
    /// Messages received in all, and of those the ones of earlier connections.
    received: u64,
    received_before: u64,
    /// Subscriptions made again on this connection, by the ids of their frames.
    restored: BTreeMap<u64, u32>,
    /// The refusal of one of them. The caller would wait for messages that never come.
    failure: Option<Refusal>,
}

impl SubscriptionTable {
    pub(crate) fn new(is_reliable: bool) -> Self {
        Self {
            active: BTreeMap::new(),
            next_number: 1,
            is_reliable,
            received: 0,
            received_before: 0,
            restored: BTreeMap::new(),
            failure: None,
        }
    }

    pub(crate) fn take_number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    /// Header and body of a SUBSCRIBE. The header says after how many messages of this session the
    /// client leaves its groups.
    pub(crate) fn frame(
        &self,
        number: u32,
        filter: &Filter,
        options: &SubscribeOptions,
    ) -> (Header, Vec<u8>) {
        let limit = options.limit.filter(|_| self.is_reliable && options.group.is_some());
        let left = limit.map(|limit| limit.saturating_sub(self.received_before).max(1));
        let subscription = left.and_then(|left| u32::try_from(left).ok()).unwrap_or(0);
        let body = encode(&Subscribe {
            subscription: number,
            filter: filter.as_str().to_owned(),
            group: options.group.clone(),
            overflow: options.overflow,
            origin: options.origin,
        });
        (Header { subscription, ..Header::new(FrameKind::Subscribe, 0) }, body)
    }

    pub(crate) fn insert(&mut self, number: u32, filter: Filter, options: SubscribeOptions) {
        self.active.insert(number, (filter, options));
    }

    pub(crate) fn remove(&mut self, number: u32) {
        self.active.remove(&number);
    }

    pub(crate) fn filter(&self, number: u32) -> Option<&Filter> {
        self.active.get(&number).map(|(filter, _)| filter)
    }

    pub(crate) fn count_message(&mut self) {
        self.received += 1;
    }

    /// The frames that make the subscriptions again on a new connection.
    pub(crate) fn restore(&mut self, mut take_id: impl FnMut() -> u64) -> Vec<(Header, Vec<u8>)> {
        self.received_before = self.received;
        self.restored.clear();
        let mut frames = Vec::new();
        for (number, (filter, options)) in &self.active {
            let (header, body) = self.frame(*number, filter, options);
            let correlation = take_id();
            self.restored.insert(correlation, *number);
            frames.push((Header { correlation, ..header }, body));
        }
        frames
    }

    /// Takes the refusal of a subscription that was made again; returns any other.
    pub(crate) fn take_refusal(&mut self, id: u64, refusal: Refusal) -> Option<Refusal> {
        let Some(number) = self.restored.remove(&id) else { return Some(refusal) };
        // A daemon that ends refuses everything. The next connection makes the subscription.
        if refusal.code != RefusalCode::Ending
            && let Some(filter) = self.filter(number)
        {
            let message = format!("subscribe to {} again: {}", filter.as_str(), refusal.message);
            self.failure.get_or_insert(Refusal { message, ..refusal });
        }
        None
    }

    /// # Errors
    /// If a subscription could not be made again.
    pub(crate) fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), |refusal| Err(Error::Refused(refusal)))
    }
}
