//! Queue groups: each message goes to one member, in turn among those that can take more.

use crate::delivery::Delivery;
use crate::model::frame_parts::FrameParts;
use crate::model::ids::{PeerKey, Ticket};
use crate::queue::message_batch::MessageBatch;
use crate::routing::index::LocalSubscriber;
use crate::routing::routes::{GroupCandidate, GroupRoute, RouteTargets};
use crate::sessions::work::MessageSender;
use ipcd_proto::Frame;
use ipcd_proto::control::OverflowPolicy;
use std::time::Instant;

impl Delivery {
    /// Makes the publisher wait if no member can take more. The first member that can wakes it.
    pub(crate) fn must_wait_for_group(
        &mut self,
        publisher: PeerKey,
        group_route: &GroupRoute,
    ) -> bool {
        let from = Some(publisher);
        let is_free = |candidate: &GroupCandidate| {
            self.can_take(from, candidate) || self.may_drop(from, candidate)
        };
        if group_route.candidates().any(is_free) {
            return false;
        }
        let mut waits = false;
        for candidate in group_route.candidates() {
            match candidate {
                GroupCandidate::There { .. } => self.peers_mut().wait_for_others(publisher),
                GroupCandidate::Here(member) if self.peers().hears(from, member) => {
                    self.peers_mut().wait_for(publisher, member.peer);
                }
                GroupCandidate::Here(_) => continue,
            }
            waits = true;
        }
        if waits {
            // A new member may be able to take the message before the present ones.
            self.sessions.group_waiters.push(publisher);
            self.sessions.peers.cluster.watch_groups();
        }
        waits
    }

    /// Whether the group has a member that gets messages of this publisher.
    pub(crate) fn has_member(&self, from: Option<PeerKey>, group_route: &GroupRoute) -> bool {
        group_route.candidates().any(|candidate| self.may_get(from, candidate))
    }

    /// Gives a message to one member.
    pub(crate) fn deliver_to_group(
        &mut self,
        now: Instant,
        from: MessageSender,
        group_route: &GroupRoute,
        frame: &mut [u8],
        ticket: Option<Ticket>,
    ) {
        // A member with room comes first, then one that drops rather than blocks.
        let candidate = group_route
            .next(|candidate| self.can_take(from.key, candidate))
            .or_else(|| group_route.next(|candidate| self.may_drop(from.key, candidate)))
            // Its publisher has waited as long as it may, or its copy for another group has filled
            // this one. A member that would be disconnected for it takes the message down with it.
            .or_else(|| {
                group_route.next(|candidate| {
                    self.may_get(from.key, candidate) && !self.is_at_its_end(candidate)
                })
            })
            .or_else(|| group_route.next(|candidate| self.may_get(from.key, candidate)));
        self.give(now, from, candidate, frame, ticket);
    }

    /// Gives a message that another worker has sent for a group to one member here. If the last
    /// member has left meanwhile, another worker gets the message.
    pub(crate) fn deliver_inbound_to_group(
        &mut self,
        now: Instant,
        frame: &mut [u8],
        message: FrameParts,
        ticket: Option<Ticket>,
    ) {
        let FrameParts { header, .. } = message;
        // A message that was passed on may return to its publisher's worker.
        let from = MessageSender {
            key: self.sessions.peers.ids.get(&header.sender).copied(),
            id: header.sender,
        };
        let group = self.sessions.peers.cluster.group_of(header.subscription);
        let Ok(targets) = self.route(message.subject(frame)) else { return };
        let group_route =
            targets.groups.iter().find(|group_route| Some(&group_route.group) == group.as_ref());
        let is_here = |candidate: &GroupCandidate| matches!(candidate, GroupCandidate::Here(_));
        let candidate = group_route.and_then(|group_route| {
            group_route
                .next_arrival(|candidate| is_here(candidate) && self.can_take(from.key, candidate))
                // In a full group with mixed overflow, the member that drops is the reason that
                // publishers do not wait.
                .or_else(|| {
                    let drops = |candidate: &GroupCandidate| self.may_drop(from.key, candidate);
                    group_route.next_arrival(|candidate| is_here(candidate) && drops(candidate))
                })
                // The message was in flight when the members became full, and cannot wait here.
                .or_else(|| {
                    group_route.next_arrival(|candidate| {
                        is_here(candidate) && self.may_get(from.key, candidate)
                    })
                })
                .or_else(|| {
                    // No member is left here, so another worker gets it.
                    group_route.next_arrival(|candidate| self.can_take(from.key, candidate))
                })
                .or_else(|| group_route.next_arrival(|candidate| self.may_get(from.key, candidate)))
        });
        if candidate.is_none() {
            self.sessions.peers.counters.unclaimed += 1;
        }
        self.give(now, from, candidate, frame, ticket);
    }

    /// Whether a group message of another worker can only go to workers that this one has not met.
    /// It asks for them then.
    pub(crate) fn must_meet_first(&mut self, bytes: &[u8], message: &FrameParts) -> bool {
        let header = message.header;
        if header.subscription == 0 {
            return false;
        }
        let Some(group) = self.sessions.peers.cluster.group_of(header.subscription) else {
            return false;
        };
        let Ok(targets) = self.route(message.subject(bytes)) else { return false };
        let from = self.sessions.peers.ids.get(&header.sender).copied();
        let of_group = targets.groups.iter().find(|group_route| group_route.group == group);
        let mut candidates = of_group.into_iter().flat_map(GroupRoute::candidates);
        !candidates.any(|candidate| self.may_get(from, candidate)) && self.meet_all(&targets)
    }

    /// Asks for the workers of a route that this one has not met. Returns whether there are any.
    pub(crate) fn meet_all(&mut self, targets: &RouteTargets) -> bool {
        let cluster = &mut self.sessions.peers.cluster;
        let mut has_asked = false;
        if cluster.is_ending {
            return false;
        }
        for (slot, generation) in targets.workers() {
            if !cluster.knows(slot, generation) {
                cluster.meet(slot);
                has_asked = true;
            }
        }
        has_asked
    }

    fn give(
        &mut self,
        now: Instant,
        from: MessageSender,
        candidate: Option<&GroupCandidate>,
        frame: &mut [u8],
        ticket: Option<Ticket>,
    ) {
        match candidate {
            Some(GroupCandidate::Here(member)) => {
                Frame::stamp_subscription(frame, member.subscription);
                let (bytes, is_direct, shared) = (&*frame, false, None);
                let batch = MessageBatch { bytes, count: 1, is_direct, ticket, shared };
                self.deliver(now, from, member, &batch);
            }
            Some(GroupCandidate::There { slot, number, .. }) => {
                Frame::stamp_subscription(frame, *number);
                match from.key {
                    // A sender of this router is introduced once, another one for this message
                    // only.
                    Some(_) => self.forward_to(from.key, *slot, frame, ticket),
                    None => self.pass_on(from.id, *slot, frame, ticket),
                }
                if let Some(ticket) = ticket {
                    self.sessions.requests.sent_to_group_elsewhere(ticket);
                }
            }
            None => {}
        }
    }

    /// Whether a member wants a message of the group.
    fn wants(&self, from: Option<PeerKey>, member: &LocalSubscriber) -> bool {
        self.peers().hears(from, member)
            && !self.sessions.peers.table[member.peer].has_reached_limit()
    }

    fn can_take(&self, from: Option<PeerKey>, candidate: &GroupCandidate) -> bool {
        match candidate {
            GroupCandidate::Here(member) => self.wants(from, member) && !self.is_full(member),
            GroupCandidate::There { slot, generation, is_blocked, .. } => {
                let cluster = &self.sessions.peers.cluster;
                !is_blocked && cluster.knows(*slot, *generation) && cluster.has_room(*slot)
            }
        }
    }

    /// Whether the candidate may get the message although it is full.
    fn may_get(&self, from: Option<PeerKey>, candidate: &GroupCandidate) -> bool {
        match candidate {
            GroupCandidate::Here(member) => self.wants(from, member),
            GroupCandidate::There { slot, generation, .. } => {
                self.sessions.peers.cluster.knows(*slot, *generation)
            }
        }
    }

    /// Whether the candidate is a member that drops messages rather than make publishers wait.
    fn may_drop(&self, from: Option<PeerKey>, candidate: &GroupCandidate) -> bool {
        match candidate {
            GroupCandidate::Here(member) => {
                self.wants(from, member) && member.overflow != OverflowPolicy::Block
            }
            GroupCandidate::There { .. } => false,
        }
    }

    /// Whether the candidate is a member that is disconnected when it gets one more message.
    fn is_at_its_end(&self, candidate: &GroupCandidate) -> bool {
        match candidate {
            GroupCandidate::Here(member) => self.peers().is_at_hard_limit(member.peer),
            GroupCandidate::There { .. } => false,
        }
    }

    fn is_full(&self, member: &LocalSubscriber) -> bool {
        self.sessions.peers.table[member.peer].full
    }
}

#[cfg(test)]
mod tests {
    use ipcd_proto::control::{Hello, Origin, Subscribe, encode};
    use ipcd_proto::{FrameKind, FrameWriter, Header};

    use super::*;
    use crate::config::{Config, DaemonInfo, PeerInfo};
    use crate::directory::state::{DirectoryChange, DirectoryState};
    use crate::model::ids::id_of;
    use crate::router::Router;

    /// Adds a member of the group `g` of `w` that takes nothing.
    fn member(core: &mut Router, now: Instant, overflow: OverflowPolicy) -> PeerKey {
        let (transport, name) = ("test".into(), None);
        let origin =
            Origin { peer: 0, name, transport, pid: None, uid: None, gid: None, addr: None };
        let key = core.attach(now, PeerInfo { listener: 0, origin, challenge: None, raw: None });
        let (magic, nonce, token) = (Hello::MAGIC, [0; 32], None);
        let (oldest, newest, features, no_echo) = (1, 1, 0, false);
        let hello = Hello { magic, oldest, newest, features, nonce, name: None, token, no_echo };
        let group = Some("g".to_owned());
        let (subscription, filter, overflow) = (1, "w".to_owned(), Some(overflow));
        let body = Subscribe { subscription, filter, group, overflow, origin: false };
        let mut said = Vec::new();
        FrameWriter(&mut said).control(Header::new(FrameKind::Hello, 0), &encode(&hello));
        FrameWriter(&mut said).control(Header::new(FrameKind::Subscribe, 1), &encode(&body));
        let progress = core.receive(now, key, &mut said);
        assert_eq!(progress.consumed, said.len());
        key
    }

    /// The publisher's worker sees no flow state: the group is not blocked while one member drops.
    #[test]
    fn a_mixed_group_that_is_full_drops_rather_than_overflow_who_blocks() {
        let now = Instant::now();
        let config = Config { queue_limit: 8000, ..Config::new(DaemonInfo::unknown(now)) };
        let config = Config { slot: 0, generation: 1, ..config };
        let mut shared = DirectoryState::new(2, Default::default());
        (0..2).for_each(|slot| {
            shared.apply(&DirectoryChange::Generation { slot, generation: 1 });
        });
        let mut core = Router::new(config, Some(shared));
        for overflow in [OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
            let blocks = member(&mut core, now, OverflowPolicy::Block);
            let drops = member(&mut core, now, overflow);
            for _ in 0..100 {
                let header = Header {
                    sender: id_of(1, 1, 1),
                    subscription: 1,
                    ..Header::new(FrameKind::Message, 0)
                };
                let (subject, payload) = (&b"w"[..], &[b'x'; 1000][..]);
                let mut bytes = Vec::new();
                let (reply, headers) = (&b""[..], &b""[..]);
                FrameWriter(&mut bytes).write(&Frame { header, subject, reply, headers, payload });
                core.arrive(now, 1, 1, &mut bytes);
            }
            assert!(core.queued(blocks) < 10_000, "{}", core.queued(blocks));
            assert!(core.queued(drops) < 10_000, "{}", core.queued(drops));
            core.detach(now, blocks);
            core.detach(now, drops);
        }
    }
}
