//! Fan-out: a batch for several subscribers is stored once, and each send queue holds a slice of
//! it.

use crate::delivery::Delivery;
use crate::model::ids::{PeerKey, Ticket};
use crate::queue::chunk_pool::ChunkSlice;
use crate::queue::message_batch::MessageBatch;
use crate::routing::index::LocalSubscriber;
use crate::routing::routes::RouteTargets;
use crate::sessions::work::{DeferredWork, FanOut, MessageSender};
use ipcd_proto::Frame;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::frame_len;
use std::rc::Rc;
use std::time::Instant;

/// Bytes from which on a batch is always stored once rather than copied for each subscriber. A
/// shorter one is stored if it can follow the previous one in the same chunk, or if the previous
/// one was for the same subscribers.
const SHARED_BYTES: usize = 4 * 1024;

/// Members that receive a batch together.
const AT_ONCE: usize = 1024;

/// Bytes that are copied in a step.
const BYTES_OF_STEP: usize = 1024;

/// The length from which on a send queue takes long to search. It holds some 6,000 messages without a
/// payload.
const LONG_QUEUE_BYTES: usize = 256 * 1024;

/// Messages for all members of a route, and the subscription number that they carry now.
pub(crate) struct StampedBatch<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) count: u64,
    pub(crate) subscription: u32,
    /// The ticket for the outcomes of the copies.
    pub(crate) ticket: Option<Ticket>,
}

/// The subscribers of a batch, roughly: enough to tell most batches of different routes apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct LastAudience {
    first: PeerKey,
    subscription: u32,
    members: usize,
}

impl Delivery {
    /// Delivers messages to the members of a route, if necessary over several turns. A tracked
    /// message counts as dealt out once all members have received it.
    pub(crate) fn deliver_to_all(
        &mut self,
        now: Instant,
        from: MessageSender,
        targets: &Rc<RouteTargets>,
        mut batch: StampedBatch<'_>,
    ) {
        let at = self.deliver_to_some(now, from, &targets.members, &mut batch, false);
        let StampedBatch { bytes, count, subscription, ticket } = batch;
        if at < targets.members.len() {
            // The publisher's buffer is used again after this turn, so the rest needs a copy.
            let (targets, bytes, births) =
                (Rc::clone(targets), bytes.to_vec(), self.sessions.births);
            let origin = from.key.map(|key| self.sessions.peers.table[key].origin.clone());
            let fan_out =
                FanOut { from, origin, targets, at, bytes, count, subscription, ticket, births };
            match from.key {
                // Later messages of the publisher, or of other workers, must not overtake this one.
                Some(key) => self.sessions.peers.table[key].fans_out = true,
                None => self.hold_inbound(true),
            }
            self.sessions.work.queue.push_back(DeferredWork::FanOut(Box::new(fan_out)));
        } else if let Some(ticket) = ticket {
            self.sessions.dealt_out(now, ticket);
        }
    }

    /// Continues with a deferred batch.
    pub(crate) fn continue_fan_out(&mut self, now: Instant, mut fan_out: Box<FanOut>) {
        let FanOut { from, origin, targets, at, bytes, count, subscription, ticket, births } =
            &mut *fan_out;
        // The key may belong to another peer by now.
        let is_here = |key: &PeerKey| {
            self.sessions.peers.table.get(*key).is_some_and(|peer| peer.origin.peer == from.id)
        };
        let key = from.key.filter(is_here);
        let (count, ticket) = (*count, *ticket);
        let mut batch = StampedBatch { bytes, count, subscription: *subscription, ticket };
        let sender = MessageSender { key, id: from.id };
        let some =
            &targets.members[*at..targets.members.len().min(*at + self.peers().config.slice)];
        // Since the batch was accepted, members may have gone, or subscribed again.
        let there: Vec<LocalSubscriber> =
            some.iter().filter(|member| self.is_since(member, *births)).cloned().collect();
        // `send_origin` finds the identity there, even if the sender has gone.
        self.last_sender = origin.take();
        let reached = self.deliver_to_some(now, sender, &there, &mut batch, true);
        *origin = self.last_sender.take();
        *subscription = batch.subscription;
        *at = match there.get(reached) {
            None => *at + some.len(),
            Some(next) => *at + some.iter().position(|member| member == next).unwrap_or(some.len()),
        };
        if *at < targets.members.len() {
            return self.sessions.work.queue.push_back(DeferredWork::FanOut(fan_out));
        }
        if let Some(ticket) = ticket {
            self.sessions.dealt_out(now, ticket);
        }
        match (from.key, key) {
            (None, _) => self.hold_inbound(false),
            (Some(_), None) => {}
            (Some(_), Some(key)) => {
                self.sessions.peers.table[key].fans_out = false;
                self.sessions.resume_deferred(key, fan_out.from.id);
            }
        }
    }

    /// Whether a member still has the subscription that it had when the batch was accepted.
    fn is_since(&self, member: &LocalSubscriber, births: u64) -> bool {
        let peer = self.sessions.peers.table.get(member.peer);
        let known = peer.and_then(|peer| peer.subscription_at(member.subscription));
        known.is_some_and(|subscription| subscription.birth <= births)
    }

    /// Delivers messages to subscriptions until the steps are used up, and returns how many
    /// received them. The subscriptions are sorted by number. Copies differ only in this number, so
    /// that subscriptions with the same one share the bytes. At least one receives them if they are
    /// the first work of a slice, so that every fan-out ends.
    fn deliver_to_some(
        &mut self,
        now: Instant,
        from: MessageSender,
        to: &[LocalSubscriber],
        batch: &mut StampedBatch<'_>,
        is_slice: bool,
    ) -> usize {
        let mut at = 0;
        let groups = to.chunk_by(|a, b| a.subscription == b.subscription);
        for alike in groups.flat_map(|alike| alike.chunks(AT_ONCE)) {
            let is_first = at == 0;
            if (!is_first || !is_slice) && !self.may_deliver(&alike[0], batch.bytes, is_first) {
                break;
            }
            let number = alike[0].subscription;
            if std::mem::replace(&mut batch.subscription, number) != number {
                stamp_subscription(batch.bytes, number);
            }
            let shared = self.keep_for(alike, from, batch.bytes);
            // A slice costs the same for any length; a copy costs its bytes.
            let each = if shared.is_some() { 0 } else { batch.bytes.len() / BYTES_OF_STEP };
            let before = at;
            for member in alike {
                if at > before && !self.may_deliver(member, batch.bytes, false) {
                    break;
                }
                self.sessions.work.budget.spend(2 + each);
                let (bytes, count, ticket) = (&*batch.bytes, batch.count, batch.ticket);
                let load = MessageBatch { bytes, count, is_direct: false, ticket, shared };
                self.deliver(now, from, member, &load);
                at += 1;
            }
            // The queues hold the chunk now, so the reference that kept it during delivery can go.
            if let Some(slice) = shared {
                self.sessions.peers.pool.release(slice.chunk);
            }
            if at < before + alike.len() {
                break;
            }
        }
        at
    }

    /// Whether a member may receive a batch now, or has to be the first of a later slice.
    fn may_deliver(&self, member: &LocalSubscriber, batch: &[u8], is_first: bool) -> bool {
        (is_first || !self.sessions.work.budget.is_spent()) && !self.must_shed_later(member, batch)
    }

    /// Whether a batch fills a member's send queue so that it is searched for messages to drop, and
    /// that takes longer than the turn has steps for. A long one takes as long as some turns, so
    /// that each turn searches one at most, in its slice.
    fn must_shed_later(&self, member: &LocalSubscriber, batch: &[u8]) -> bool {
        let (peers, more) = (self.peers(), batch.len());
        member.overflow == OverflowPolicy::DropOldest
            && peers.will_shed(member.peer, more)
            && (self.sessions.work.budget.is_turn_spent()
                || peers.table[member.peer].queue.len() + more >= LONG_QUEUE_BYTES)
    }

    /// Stores a batch for the members that will take it, if that pays.
    fn keep_for(
        &mut self,
        to: &[LocalSubscriber],
        from: MessageSender,
        batch: &[u8],
    ) -> Option<ChunkSlice> {
        if to.len() < self.peers().config.sharers {
            return None;
        }
        let (mut takers, mut heirs) = (0, 0);
        for member in to.iter().filter(|member| self.will_take(from, member)) {
            takers += 1;
            let queue = &self.sessions.peers.table[member.peer].queue;
            // An heir holds the end of the open chunk. If all its holders are heirs, the chunk is
            // continued.
            heirs += usize::from(queue.ends_shared(&self.sessions.peers.pool));
        }
        // Comparing all subscribers would cost as much as the copies.
        let LocalSubscriber { peer: first, subscription, .. } = to[0];
        let audience = Some(LastAudience { first, subscription, members: to.len() });
        let is_again = std::mem::replace(&mut self.last_audience, audience) == audience;
        let pays = batch.len() >= SHARED_BYTES
            || is_again
            || self.sessions.peers.pool.goes_on(heirs, batch.len());
        (takers >= self.peers().config.sharers && pays)
            .then(|| self.sessions.peers.pool.keep(batch, heirs))
    }

    /// Whether a batch will be queued for a member, as far as that is known in advance.
    fn will_take(&self, from: MessageSender, member: &LocalSubscriber) -> bool {
        let peer = &self.sessions.peers.table[member.peer];
        let has_room = !peer.full
            || matches!(member.overflow, OverflowPolicy::Block | OverflowPolicy::DropOldest);
        has_room && peer.is_open() && peer.largest.is_none() && self.peers().hears(from.key, member)
    }

    /// Notes whether a message of another worker has still to reach receivers. Frames behind it
    /// wait meanwhile, so that their order is kept.
    pub(crate) fn hold_inbound(&mut self, is_held: bool) {
        self.sessions.peers.cluster.inbound.is_held = is_held;
        self.defer_inbound();
    }

    pub(crate) fn defer_inbound(&mut self) {
        let inbound = &mut self.sessions.peers.cluster.inbound;
        let is_stopped = inbound.is_held || inbound.is_meeting;
        if !inbound.queue.is_empty() && !is_stopped && !inbound.is_deferred {
            inbound.is_deferred = true;
            self.sessions.work.queue.push_back(DeferredWork::Inbound);
        }
    }
}

fn stamp_subscription(mut batch: &mut [u8], subscription: u32) {
    while let Some(length) = frame_len(batch) {
        Frame::stamp_subscription(batch, subscription);
        batch = &mut batch[length..];
    }
}
