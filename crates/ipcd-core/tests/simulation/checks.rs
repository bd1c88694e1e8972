//! The conditions that hold when everything has arrived, and those that hold when nothing is left
//! to do.

use std::time::Duration;

use ipcd_proto::FrameKind;
use ipcd_proto::control::{DropReason, OverflowPolicy, Query, encode};

use crate::client::{Asked, At, What};
use crate::frames::{MAX_MESSAGE, MIN_PAYLOAD, NAMES, SUBJECTS};
use crate::ledger::{Facts, Group, Sub};
use crate::outcomes::{Call, To};
use crate::world::{World, count};

impl World {
    /// Lets all peers read, and checks that nothing is left undone.
    pub(crate) fn calm(&mut self) {
        self.clients.iter_mut().for_each(|client| client.is_stalled = false);
        self.settle_down(true);
        // Reports that had no frame to travel with go out with an answer.
        for index in 0..self.clients.len() {
            self.ask(index, FrameKind::Ping, &[], Asked::Other);
        }
        self.settle_down(true);
        for client in self.clients.iter().filter(|client| client.is_here()) {
            let index = client.index;
            assert!(!client.is_waiting, "peer {index} waits for ever");
            assert!(client.asked.is_empty(), "peer {index}: no answer to {:?}", client.asked);
            let At::Worker { slot, key, .. } = client.at else { continue };
            let worker = self.sup.places[slot].worker.as_ref().expect("all live");
            assert_eq!(worker.core.queued(key), 0, "peer {index} reads, and is not written to");
        }
        let facts = self.facts();
        self.ledger.settle(&facts);
        self.ledger.settle_outcomes(&facts);
        self.audit_subscriptions();
        self.audit_counters();
    }

    fn facts(&self) -> Facts {
        let survived = |home: Option<(usize, u32)>| {
            home.is_some_and(|home| !self.ledger.killed.contains(&home))
        };
        Facts {
            now: self.now,
            generations: self.clients.iter().map(|client| client.can_act()).collect(),
            survived: self.clients.iter().map(|client| survived(client.home)).collect(),
        }
    }

    /// Checks the daemon's status of each subscription against the subscriber's own counts.
    fn audit_subscriptions(&mut self) {
        let Some(auditor) = self.clients.iter().position(|client| client.can_act()) else { return };
        self.clients[auditor].statuses.clear();
        let asked = Asked::Query { matching: None };
        self.ask(auditor, FrameKind::Query, &encode(&Query::Subscriptions), asked);
        self.settle_down(true);
        let statuses = std::mem::take(&mut self.clients[auditor].statuses);
        let living = self.clients.iter().filter(|client| client.can_act());
        let expected: usize = living.map(|client| client.subs.len()).sum();
        assert_eq!(statuses.len(), expected, "subscriptions");
        for status in statuses {
            let whose = self.clients.iter().find(|client| client.id == Some(status.peer));
            let sub = &self.ledger.subs[whose.expect("a peer").subs[&status.subscription]];
            let reported: Vec<(DropReason, u64)> = sub.reported.clone().into_iter().collect();
            assert_eq!(status.delivered, sub.delivered, "{status:?}");
            assert_eq!(status.dropped, reported, "{status:?}");
            let dropped: u64 = reported.iter().map(|(_, count)| count).sum();
            assert_eq!((status.queued, status.matched), (0, sub.delivered + dropped), "{status:?}");
            let said = (&*status.filter, status.group.as_deref(), status.overflow);
            assert_eq!(said, (sub.wish.filter, sub.wish.group, sub.wish.overflow));
        }
    }

    /// Checks the counters of each worker against the messages that its peers have sent and
    /// received.
    fn audit_counters(&mut self) {
        let (mut directs, mut missed) = (0, 0);
        for slot in 0..self.slots() {
            let Some(worker) = self.sup.places[slot].worker.as_mut() else { continue };
            let own = self.clients.iter().filter(|one| one.home == Some((slot, worker.generation)));
            let (mut accepted, mut got, mut held) = (0, (0, 0), 0);
            for client in own {
                held += self.ledger.outcomes.held_by(client.index);
                accepted += client.accepted;
                got = (got.0 + client.got.0, got.1 + client.got.1);
            }
            assert_eq!(count(worker, "messages_accepted"), accepted, "accepted at {slot}");
            assert_eq!(count(worker, "messages_delivered"), got.0, "delivered at {slot}");
            assert_eq!(count(worker, "messages_queued"), 0, "queued at {slot}");
            assert_eq!(count(worker, "direct_delivered"), got.1, "delivered to one at {slot}");
            let unanswered = count(worker, "requests_unanswered");
            assert!(unanswered <= held, "{unanswered} requests at {slot}, where {held} are held");
            directs += got.1;
            for name in ["direct_dropped", "direct_undeliverable", "replies_late"] {
                missed += count(worker, name);
            }
        }
        let ended = |name: &str| self.ledger.ended.get(name).copied().unwrap_or(0);
        let names = ["direct_delivered", "direct_dropped", "direct_undeliverable", "replies_late"];
        missed += names.into_iter().map(ended).sum::<u64>();
        if self.ledger.last_kill.is_none() {
            let sent = self.ledger.outcomes.directs();
            assert_eq!(directs + missed, sent, "messages to one peer: {directs} came");
        }
    }

    /// Checks that no outcome is remembered once no publisher waits.
    pub(crate) fn forget(&mut self) {
        for _ in 0..2 {
            self.now += Duration::from_secs(10);
            for slot in 0..self.slots() {
                let Some(worker) = self.sup.places[slot].worker.as_mut() else { continue };
                worker.core.tick(self.now);
                worker.is_stale = true;
            }
            self.settle_down(true);
        }
        for slot in 0..self.slots() {
            let Some(worker) = self.sup.places[slot].worker.as_mut() else { continue };
            assert_eq!(count(worker, "outcomes_open"), 0, "outcomes that are open at {slot}");
            assert_eq!(count(worker, "requests_unanswered"), 0, "requests at {slot}");
        }
    }

    /// Checks that each waiting peer has a reason: its own send queue, that of a receiver, or those
    /// of all members of a group. Everything has arrived.
    pub(crate) fn check_waits(&self) {
        for client in self.clients.iter().filter(|client| client.is_here() && client.is_waiting) {
            let index = client.index;
            let is_reason = match client.unsent.front() {
                _ if self.may_be_full(index) => true,
                Some((_, What::Message(sent))) => match sent.to {
                    To::Subject(subject) => self.is_blocked(index, subject, Self::may_be_full),
                    _ => false,
                },
                _ => false,
            };
            assert!(is_reason, "peer {index} waits for nobody: {:?}", client.unsent.front());
        }
    }

    /// Whether a message has to wait, for a subscription or for all members of a group.
    fn is_blocked(
        &self,
        publisher: usize,
        subject: usize,
        is_full: impl Fn(&Self, usize) -> bool,
    ) -> bool {
        let wanting = self.wanting(publisher, subject);
        let is_full =
            |sub: &Sub| sub.wish.overflow == OverflowPolicy::Block && is_full(self, sub.client);
        let is_all_full = |group: Group| {
            let mut members = wanting.iter().filter(|sub| sub.group() == Some(group));
            members.all(|sub| is_full(sub))
        };
        wanting.iter().any(|sub| match sub.group() {
            None => is_full(sub),
            Some(group) => is_all_full(group),
        })
    }

    /// Returns the subscriptions that are in force.
    fn wanting(&self, publisher: usize, subject: usize) -> Vec<&Sub> {
        let subs = self.ledger.subs.iter().filter(|sub| {
            let client = &self.clients[sub.client];
            client.is_here() && !client.is_closing && sub.is_taken && !sub.is_ending
        });
        subs.filter(|sub| sub.wants(publisher, subject)).collect()
    }

    /// Checks that a publisher to a full send queue waits, on every worker: no blocked interest is
    /// forgotten.
    pub(crate) fn probe_full(&mut self) {
        for subject in 0..SUBJECTS.len() {
            for index in 0..self.clients.len() {
                let client = &self.clients[index];
                let may_try = client.can_act() && client.unsent.is_empty();
                if !may_try || !self.is_blocked(index, subject, Self::is_full) {
                    continue;
                }
                self.publish(index, To::Subject(subject), Call::Nothing, false);
                while !self.clients[index].unsent.is_empty() && !self.clients[index].is_waiting {
                    self.offer(index);
                }
                let waits = self.clients[index].is_waiting;
                assert!(waits, "peer {index} publishes to {subject}, where somebody is full");
            }
        }
    }

    /// Checks that a peer is disconnected when direct messages alone fill its send queue and it
    /// does not read.
    pub(crate) fn probe_flood(&mut self) {
        let here = |world: &Self, stalled| {
            let found = world
                .clients
                .iter()
                .find(|one| one.can_act() && one.unsent.is_empty() && one.is_stalled == stalled);
            found.map(|one| one.index)
        };
        let (Some(target), Some(publisher)) = (here(self, true), here(self, false)) else { return };
        for _ in 0..2 * self.config.queue_limit / MIN_PAYLOAD {
            self.publish(publisher, To::Peer(target), Call::Nothing, false);
        }
        self.settle_down(false);
        let queued = self.queued(target).unwrap_or(0);
        let most = self.config.queue_limit / 4 * 5 + MAX_MESSAGE;
        let is_waiting = self.clients[publisher].is_waiting;
        assert!(queued <= most || is_waiting, "{queued} bytes for peer {target}, at most {most}");
    }

    fn is_full(&self, index: usize) -> bool {
        self.queued(index).is_some_and(|queued| queued >= self.config.queue_limit)
    }

    /// Whether the peer is full, or was and is not relieved yet; or whether publishers wait for it
    /// by pacing or because of its principal's quota.
    fn may_be_full(&self, index: usize) -> bool {
        let is_shared = self.config.max_bytes_per_principal > 0;
        let least = if is_shared { 0 } else { self.config.queue_limit.min(self.config.pace) / 2 };
        self.queued(index).is_some_and(|queued| queued > least)
    }

    fn queued(&self, index: usize) -> Option<usize> {
        let client = &self.clients[index];
        let At::Worker { slot, key, .. } = client.at else { return None };
        let worker = self.sup.places[slot].worker.as_ref().expect("all live");
        (!client.is_closing).then(|| worker.core.queued(key))
    }

    /// Checks that, without a full peer, all peers can publish, ask, and take a free name.
    pub(crate) fn probe_free(&mut self) {
        for name in NAMES {
            if !self.names.contains_key(name)
                && let Some(slot) = self.slot_for_peer()
            {
                let index = self.spawn(slot, Some(name));
                self.settle_down(true);
                assert!(self.clients[index].is_open, "{name} is nobody's, and not to be had");
            }
        }
        for (subject, text) in SUBJECTS.into_iter().enumerate() {
            let matching = Some(self.matching(subject));
            let query = encode(&Query::Matching(text.into()));
            for index in 0..self.clients.len() {
                self.ask(index, FrameKind::Query, &query, Asked::Query { matching });
            }
        }
        self.settle_down(true);
        for index in 0..self.clients.len() {
            for subject in 0..SUBJECTS.len() {
                if self.clients[index].can_act() {
                    let request = Call::Request(Duration::from_secs(3));
                    let call = self.rng.pick(&[Call::Nothing, Call::Receipt, request]);
                    self.publish(index, To::Subject(subject), call, false);
                }
            }
        }
    }

    /// Checks that every peer with a request may answer it.
    pub(crate) fn answer(&mut self) {
        for index in 0..self.clients.len() {
            for _ in 0..self.clients[index].requests.len() {
                if self.clients[index].can_act() {
                    self.reply(index);
                }
            }
        }
    }

    /// Returns the subscriptions that match a subject.
    fn matching(&self, subject: usize) -> u64 {
        let living = self.clients.iter().filter(|client| client.can_act());
        let subs =
            living.flat_map(|client| client.subs.values()).map(|sub| &self.ledger.subs[*sub]);
        subs.filter(|sub| sub.wants(usize::MAX, subject)).count() as u64
    }
}
