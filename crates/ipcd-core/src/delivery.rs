//! Delivery: a message goes to the subscriptions that its subject matches. Rights were checked
//! before, and only the receivers' rights are applied here.

pub(crate) mod arrivals;
pub(crate) mod direct;
pub(crate) mod fan_out;
pub(crate) mod groups;
pub(crate) mod publish;

use crate::config::Config;
use crate::delivery::fan_out::LastAudience;
use crate::model::ids::PeerKey;
use crate::peers::Peers;
use crate::queue::message_batch::MessageBatch;
use crate::requests::DeliveryOutcome;
use crate::routing::group_turns::{GroupTurns, first_turn};
use crate::routing::index::{LocalSubscriber, QueueGroup, WorkerInterest};
use crate::routing::routes::{FOUND_IN_STEP, GroupCandidate, GroupRoute, RouteCache, RouteTargets};
use crate::sessions::Sessions;
use crate::sessions::work::MessageSender;
use ipcd_proto::BadSubject;
use ipcd_proto::DecodedFrame;
use ipcd_proto::FrameKind;
use ipcd_proto::FrameWriter;
use ipcd_proto::Header;
use ipcd_proto::Subject;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::Notice;
use ipcd_proto::control::Origin;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::control::encode;
use ipcd_proto::decode;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

/// Delivers messages to peers of this router and to other workers.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) sessions: Sessions,
    pub(crate) routes: RouteCache,
    pub(crate) turns: GroupTurns,
    pub(crate) last_audience: Option<LastAudience>,
    /// The sender of the deferred message that is being delivered.
    pub(crate) last_sender: Option<Origin>,
}

impl Delivery {
    pub(crate) fn new(sessions: Sessions) -> Self {
        let (routes, turns) = (RouteCache::default(), GroupTurns::default());
        Self { sessions, routes, turns, last_audience: None, last_sender: None }
    }

    fn peers(&self) -> &Peers {
        &self.sessions.peers
    }

    fn peers_mut(&mut self) -> &mut Peers {
        &mut self.sessions.peers
    }
}

impl Delivery {
    /// Returns the receivers of a subject.
    pub(crate) fn route(&mut self, subject: &[u8]) -> Result<Rc<RouteTargets>, BadSubject> {
        // Both versions only grow, so that their sum changes when either does.
        let version = self.sessions.index.version() + self.sessions.peers.cluster.version();
        if let Some(targets) = self.routes.find(subject, version) {
            return Ok(targets);
        }
        let targets = Rc::new(self.find_targets(Subject::parse(subject)?));
        self.routes.remember(subject, version, &targets);
        Ok(targets)
    }

    fn find_targets(&mut self, subject: Subject<'_>) -> RouteTargets {
        // Sorted, so that routes and simulations always list groups in the same order.
        let mut groups = BTreeMap::<Rc<QueueGroup>, Vec<(u32, GroupCandidate)>>::new();
        let (mut members, looked_at) = self.sessions.index.find_counted(subject);
        // Rights are a part of the route, so that they cost nothing for each message.
        members.retain(|member| {
            if !self.peers().may_hear(member.peer, subject) {
                return false;
            }
            if let Some(group) = &member.group {
                let candidate = (1, GroupCandidate::Here(member.clone()));
                groups.entry(Rc::clone(group)).or_default().push(candidate);
            }
            member.group.is_none()
        });
        // Members with the same number follow each other: their copies are the same bytes.
        members.sort_by_key(|member| member.subscription);
        let (mut remotes, more) = self.sessions.peers.cluster.find(subject);
        self.sessions.work.budget.spend((looked_at + more).div_ceil(FOUND_IN_STEP));
        remotes.retain(|remote| {
            if let Some(share) = &remote.share {
                let WorkerInterest { slot, generation, is_blocked, .. } = *remote;
                let number = share.number;
                let there = GroupCandidate::There { slot, generation, number, is_blocked };
                groups.entry(Rc::clone(&share.group)).or_default().push((share.members, there));
            }
            remote.share.is_none()
        });
        let Config { slot, generation, .. } = self.sessions.peers.config;
        let groups = groups.into_iter().map(|(group, candidates)| {
            let first = |total| first_turn(slot, generation, total);
            GroupRoute::new(group, candidates, |group, total| self.turns.of(group, || first(total)))
        });
        RouteTargets { members, remotes, groups: groups.collect() }
    }

    /// Queues messages for a subscriber, or drops them as the subscription demands.
    pub(crate) fn deliver(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
        batch: &MessageBatch<'_>,
    ) {
        if !self.peers().hears(from.key, member) {
            return;
        }
        if batch.ticket.is_some() && self.peers().has_no_room_for(member.peer, batch.bytes) {
            self.note_matched(member, batch);
            return self.drop_copies(now, member, batch, DropReason::Newest);
        }
        let peer = &self.sessions.peers.table[member.peer];
        match peer.largest {
            None if !peer.has_ends => self.deliver_fitting(now, from, member, batch),
            largest => {
                let largest = largest.map_or(usize::MAX, |bytes| bytes as usize);
                self.deliver_each(now, from, member, batch, largest);
            }
        }
    }

    /// Delivers messages one by one to a peer with a limit of size or number, because some may be too
    /// large or too many.
    fn deliver_each(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
        batch: &MessageBatch<'_>,
        largest: usize,
    ) {
        let mut rest = batch.bytes;
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            let (bytes, behind) = rest.split_at(length);
            let one = MessageBatch { bytes, count: 1, shared: None, ..*batch };
            match frame.payload.len() <= largest {
                true if self.ends_before(now, member) => return,
                true => {
                    self.deliver_fitting(now, from, member, &one);
                    self.ends_before(now, member);
                }
                false => {
                    self.note_matched(member, &one);
                    self.drop_copies(now, member, &one, DropReason::TooLarge);
                }
            }
            rest = behind;
        }
    }

    /// Ends a subscription that has had its messages, and returns whether it has ended.
    fn ends_before(&mut self, now: Instant, member: &LocalSubscriber) -> bool {
        let peer = &self.sessions.peers.table[member.peer];
        match peer.find(member.subscription) {
            Ok(at) if peer.subscriptions[at].is_over() => {
                self.sessions.end_subscription(now, member.peer, at);
                true
            }
            Ok(_) => false,
            Err(_) => true,
        }
    }

    fn deliver_fitting(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
        batch: &MessageBatch<'_>,
    ) {
        let to = member.peer;
        self.note_matched(member, batch);
        if self.sessions.peers.table[to].full
            && let Err(reason) = self.make_room(now, from, member)
        {
            return self.drop_copies(now, member, batch, reason);
        }
        // The identity has to stand ahead of the sender's first message.
        if member.origin {
            self.send_origin(now, from, to);
        }
        // Only after queueing: the message that reaches the limit still belongs to the peer.
        if self.peers_mut().enqueue(now, to, batch) {
            self.sessions.leave_groups(now, to);
        }
        // After queueing, because the newest message is never dropped.
        if member.overflow == OverflowPolicy::DropOldest && self.sessions.peers.table[to].full {
            self.sessions.shed(now, to);
        }
    }

    fn note_matched(&mut self, member: &LocalSubscriber, batch: &MessageBatch<'_>) {
        self.sessions.peers.counters.matched += batch.count;
        if let Some(subscription) =
            self.sessions.peers.table[member.peer].subscription(member.subscription)
        {
            subscription.matched += batch.count;
        }
        if let Some(ticket) = batch.ticket {
            self.sessions.requests.count_copy(ticket);
        }
    }

    fn drop_copies(
        &mut self,
        now: Instant,
        member: &LocalSubscriber,
        batch: &MessageBatch<'_>,
        reason: DropReason,
    ) {
        self.peers_mut().note_dropped(member.peer, member.subscription, reason, batch.count);
        if let Some(ticket) = batch.ticket {
            self.sessions.conclude(now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    /// Decides about messages for a full send queue. The error is the reason to drop them.
    fn make_room(
        &mut self,
        now: Instant,
        from: MessageSender,
        member: &LocalSubscriber,
    ) -> Result<(), DropReason> {
        match member.overflow {
            // Only a worker that ignores the flow state gets this far.
            _ if from.key.is_none() && self.peers().is_flooded(member.peer) => {
                Err(DropReason::Newest)
            }
            // Several publishers have each waited as long as allowed, and the queue has reached its
            // hard limit.
            OverflowPolicy::Block
                if from.key.is_some() && self.peers().is_at_hard_limit(member.peer) =>
            {
                self.sessions.disconnect_stalled(
                    now,
                    member.peer,
                    "publishers have waited for the peer for too long",
                );
                Err(DropReason::CutOff)
            }
            // The publisher passed before this queue became full, by at most one batch, or it has
            // waited long enough. Messages of another worker were in flight when the queue became
            // full.
            OverflowPolicy::Block | OverflowPolicy::DropOldest => Ok(()),
            OverflowPolicy::DropNewest => Err(DropReason::Newest),
            OverflowPolicy::Disconnect => {
                self.sessions.disconnect_slow(now, member.peer, "the peer's send queue is full");
                Err(DropReason::CutOff)
            }
        }
    }

    /// Sends the identity of a sender to a subscriber, ahead of the sender's first message.
    pub(crate) fn send_origin(&mut self, now: Instant, from: MessageSender, to: PeerKey) {
        if self.sessions.peers.table[to].learns_sender(from.id) {
            let origin = match from.key {
                Some(key) => Some(&self.sessions.peers.table[key].origin),
                None if self.last_sender.is_some() => self.last_sender.as_ref(),
                None => self.sessions.peers.cluster.origin(from.id),
            };
            let Some(origin) = origin.cloned() else { return };
            let notice = encode(&Notice::Origin(origin));
            let peer = &mut self.sessions.peers.table[to];
            // The caller notes the queue once, after the message that follows.
            let buffer = peer.queue.append(now, &mut self.sessions.peers.pool);
            FrameWriter(buffer).control(Header::new(FrameKind::Notice, 0), &notice);
        }
    }
}
