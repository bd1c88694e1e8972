//! Messages to one peer, and replies among them. They never wait for their receiver: one that does
//! not take them is cut off.

use std::time::Instant;

use crate::cluster::Cluster;
use crate::core::Router;
use crate::model::ids::{PeerKey, Ticket, place_of};
use crate::publish::{MessageBatch, MessageSender};
use crate::tracked::{DeliveryOutcome, OutcomeTarget};
use ipcd_proto::control::{Code, Reason, Refusal, encode};
use ipcd_proto::{Address, Decoded, Frame, Header, Kind, decode};

/// What an outbox may hold when a message comes that does not wait for it, in parts of what makes it
/// full.
const HARD_LIMIT: (usize, usize) = (5, 4);

impl Router {
    /// Accepts a message to one peer.
    pub(crate) fn publish_direct(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &mut [u8],
        header: Header,
        to: Address,
    ) {
        let id = self.peer(key).origin.peer;
        Frame::stamp_sender(frame, id);
        Frame::stamp_subscription(frame, 0);
        let home = OutcomeTarget::Here(key, header.correlation);
        let ticket = header.is_tracked().then(|| self.track(now, home, &header));
        if !self.may_write_to(key, to) {
            self.count_undeliverable(to);
        } else if self.is_here(to.peer) {
            self.deliver_direct(now, MessageSender { key: Some(key), id }, frame, to, ticket);
        } else {
            self.forward_direct(key, frame, to, ticket);
        }
        if let Some(ticket) = ticket {
            self.dealt_out(now, ticket);
        }
        // Behind the reply, so that nobody is told that there will be none.
        if let Some(request) = to.request {
            match header.more {
                true => self.is_answering(key, (to.peer, request)),
                false => self.has_answered(now, key, (to.peer, request), DeliveryOutcome::Answered),
            }
        }
    }

    /// Makes the publisher wait if too much is on its way to the receiver's worker already. That
    /// one always takes it: so this bounds memory, and does not last.
    pub(crate) fn must_wait_for_way(&mut self, publisher: PeerKey, to: Address) -> bool {
        let is_here = self.is_here(to.peer);
        let slot = place_of(to.peer).0;
        let is_full = |cluster: &Cluster| {
            cluster.is_alive(slot) && !cluster.shared.is_leaving(slot) && !cluster.has_room(slot)
        };
        let waits = !is_here && self.cluster.as_ref().is_some_and(is_full);
        if waits {
            self.wait_for_others(publisher);
        }
        waits
    }

    /// Puts a message into the outbox of the peer that it is for.
    pub(crate) fn deliver_direct(
        &mut self,
        now: Instant,
        from: MessageSender,
        frame: &[u8],
        to: Address,
        ticket: Option<Ticket>,
    ) {
        let Some(key) = self.ids.get(&to.peer).copied().filter(|key| self.peer(*key).is_open())
        else {
            return self.count_undeliverable(to);
        };
        let by = from.key.is_none().then(|| place_of(from.id).0);
        if to.request.is_some_and(|request| !self.replied(now, key, request, by)) {
            return self.count_undeliverable(to);
        }
        if self.is_too_large(key, frame) {
            return self.turn_down(now, key, to, ticket);
        }
        self.counters.direct_matched += 1;
        if let Some(ticket) = ticket {
            self.opened_copy(ticket);
        }
        if ticket.is_some() && self.has_no_room_for(key, frame) {
            self.counters.direct_dropped += 1;
            ticket.inspect(|ticket| {
                self.concluded(now, *ticket, DeliveryOutcome::Dropped(Reason::Newest))
            });
            return;
        }
        if self.is_at_hard_limit(key) || self.is_beyond_charge(key) {
            self.cut_off(now, key, "messages to it have filled its outbox");
            self.counters.direct_dropped += 1;
            self.peer(key).counts.dropped += 1;
            if let Some(ticket) = ticket {
                self.concluded(now, ticket, DeliveryOutcome::Dropped(Reason::CutOff));
            }
            return;
        }
        if self.peer(key).wants_origins {
            self.introduce(now, from, key);
        }
        self.enqueue(now, key, &MessageBatch { bytes: frame, count: 1, ticket, shared: None });
        self.peer(key).counts.msgs_out += 1;
        self.filled(now, key);
        if self.peer(key).has_its_fill() {
            self.leave_groups(now, key);
        }
    }

    /// Whether the payload is larger than the peer can be sent.
    fn is_too_large(&self, key: PeerKey, frame: &[u8]) -> bool {
        let largest = self.peers[key.0 as usize].largest;
        largest.is_some_and(|largest| match decode(frame, usize::MAX) {
            Ok(Decoded::Frame(frame, _)) => frame.payload.len() > largest as usize,
            _ => false,
        })
    }

    /// Drops a message that is larger than its receiver can be sent. One that waits for it as a reply
    /// is told, for no other will come.
    fn turn_down(&mut self, now: Instant, key: PeerKey, to: Address, ticket: Option<Ticket>) {
        self.counters.direct_matched += 1;
        self.counters.direct_dropped += 1;
        self.peer(key).counts.dropped += 1;
        if let Some(ticket) = ticket {
            self.opened_copy(ticket);
            self.concluded(now, ticket, DeliveryOutcome::Dropped(Reason::TooLarge));
        }
        if let Some(request) = to.request {
            let why = "the reply is larger than this session was told of: connect again";
            let refusal = Refusal { code: Code::TooLarge, message: why.into() };
            self.send(now, key, Header::new(Kind::Error, request), &encode(&refusal));
        }
    }

    /// Whether a peer's outbox holds as much as one ever may.
    pub(crate) fn is_at_hard_limit(&self, key: PeerKey) -> bool {
        let (parts, of) = HARD_LIMIT;
        self.peers[key.0 as usize].outbox.len() >= self.config.outbox / of * parts
    }

    pub(crate) fn count_undeliverable(&mut self, to: Address) {
        match to.request {
            Some(_) => self.counters.replies_late += 1,
            None => self.counters.direct_undeliverable += 1,
        }
    }

    fn is_here(&self, peer: u64) -> bool {
        self.cluster.is_none() || place_of(peer).0 == self.config.slot
    }
}
