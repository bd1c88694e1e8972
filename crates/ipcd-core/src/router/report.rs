//! Answers of this router: its status, peers, subscriptions and counters.

use crate::model::ids::{PeerKey, id_in};
use crate::peers::peer::{Peer, SessionState, Subscription};
use crate::router::Router;
use crate::routing::index::LocalSubscriber;
use ipcd_proto::Subject;
use ipcd_proto::control::Answer;
use ipcd_proto::control::DaemonStatus;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::ListenerStatus;
use ipcd_proto::control::Origin;
use ipcd_proto::control::PeerStatus;
use ipcd_proto::control::Query;
use ipcd_proto::control::SubscriptionStatus;
use ipcd_proto::control::WorkerStatus;
use std::time::Instant;

/// Counters of a present state. They are not summed up for workers that have ended.
const GAUGES: [&str; 4] =
    ["messages_queued", "direct_queued", "outcomes_open", "requests_unanswered"];

/// Messages in send queues that are counted in a step.
const COUNTED_IN_STEP: usize = 8;

/// Peers whose names are compared in a step.
const FOUND_IN_STEP: usize = 8;

/// Bytes of filters that are reported for one peer.
const FILTER_BYTES: usize = 4 * 1024;

impl Router {
    /// Returns this router's own answer. Answers about all peers are given in parts instead
    /// ([`Router::defer_query`]).
    pub(crate) fn report(&mut self, now: Instant, query: &Query) -> Vec<Answer> {
        match query {
            Query::Status => vec![Answer::Status(self.status(now))],
            Query::Peers | Query::Subscriptions => Vec::new(),
            Query::Matching(subject) => {
                let subject = Subject::parse(subject.as_bytes());
                vec![Answer::Matching(subject.map_or(0, |subject| self.matching(subject)))]
            }
            Query::Kick(peer) => vec![Answer::Kicked(self.kick(now, *peer))],
            Query::Find(who) => {
                self.delivery
                    .sessions
                    .work
                    .budget
                    .spend(self.delivery.sessions.peers.table.len() / FOUND_IN_STEP);
                vec![Answer::Found(self.find_peer(who))]
            }
            Query::Sandbox => {
                vec![Answer::Sandbox(self.peers().config.daemon.sandbox.clone())]
            }
            Query::Access { who, access } => {
                // The peer's own worker has checked the query, so that parsing succeeds again.
                let verdict = self.delivery.sessions.peers.config.acl.verdict(who, access);
                verdict.map(Answer::Verdict).into_iter().collect()
            }
        }
    }

    fn status(&mut self, now: Instant) -> DaemonStatus {
        let counters = self.counters();
        let daemon = &self.peers().config.daemon;
        let peers_of = |number: usize| {
            let is_of = |peer: &Peer| {
                // A `Gone` peer only waits for the removal of its subscriptions.
                peer.listener as usize == number && !matches!(peer.state, SessionState::Gone)
            };
            self.delivery.sessions.peers.table.iter().filter(|(_, peer)| is_of(peer)).count() as u64
        };
        let listeners = daemon.listeners.iter().map(|(number, (endpoint, codec))| ListenerStatus {
            endpoint: endpoint.clone(),
            codec: codec.clone(),
            peers: peers_of(*number),
        });
        DaemonStatus {
            pid: daemon.supervisor,
            version: daemon.version.clone(),
            uptime_ms: now.saturating_duration_since(daemon.started).as_millis() as u64,
            workers: vec![WorkerStatus {
                slot: self.peers().config.slot,
                pid: daemon.worker,
                generation: self.peers().config.generation,
                peers: self.peer_count() as u64,
            }],
            listeners: listeners.collect(),
            counters,
        }
    }

    fn matching(&self, subject: Subject<'_>) -> u64 {
        let members = self.delivery.sessions.index.find(subject);
        let is_open =
            |member: &&LocalSubscriber| self.delivery.sessions.peers.table[member.peer].is_open();
        let open = members.iter().filter(is_open);
        open.filter(|member| self.peers().may_hear(member.peer, subject)).count() as u64
    }

    fn find_peer(&self, who: &str) -> Option<u64> {
        let id = id_in(who);
        let is_meant = |origin: &Origin| match id {
            Some(id) => origin.peer == id,
            None => origin.name.as_deref() == Some(who),
        };
        let open = self.delivery.sessions.peers.table.iter().filter(|(_, peer)| peer.is_open());
        open.map(|(_, peer)| &peer.origin).find(|origin| is_meant(origin)).map(|found| found.peer)
    }

    pub(crate) fn subscription_statuses(&mut self, key: PeerKey) -> Vec<SubscriptionStatus> {
        let worker = self.peers().config.slot;
        let peer = &mut self.delivery.sessions.peers.table[key];
        let queued = peer.queue.messages_by_subscription(&self.delivery.sessions.peers.pool);
        self.delivery
            .sessions
            .work
            .budget
            .spend(queued.values().sum::<u64>() as usize / COUNTED_IN_STEP);
        let status = |known: &Subscription| {
            let queued = queued.get(&known.number).copied().unwrap_or(0);
            let drops = known.drops.as_ref();
            let dropped: Vec<_> = drops.iter().flat_map(|drops| drops.by_reason()).collect();
            let gone: u64 = dropped.iter().map(|(_, count)| count).sum();
            // Messages of an earlier subscription with this number may still be queued.
            let matched = known.matched.max(gone + queued);
            SubscriptionStatus {
                peer: peer.origin.peer,
                name: peer.origin.name.clone(),
                worker,
                subscription: known.number,
                filter: known.filter.as_str().to_owned(),
                group: known.group.as_ref().map(|group| group.name.clone()),
                overflow: known.overflow,
                matched,
                delivered: matched - gone - queued,
                dropped,
                queued,
            }
        };
        peer.subscriptions.iter().map(status).collect()
    }

    pub(crate) fn peer_status(&mut self, key: PeerKey) -> PeerStatus {
        let worker = self.peers().config.slot;
        let peer = &mut self.delivery.sessions.peers.table[key];
        let (queued, direct) = peer.queue.messages(&self.delivery.sessions.peers.pool);
        PeerStatus {
            origin: peer.origin.clone(),
            worker,
            subscriptions: filters_of(peer),
            msgs_in: peer.counts.msgs_in,
            // Counted when they are queued, but reported when they are written.
            msgs_out: peer.counts.msgs_out.saturating_sub(queued + direct),
            bytes_in: peer.counts.bytes_in,
            bytes_out: peer.queue.written(),
            dropped: peer.counts.dropped,
            queued_bytes: peer.queue.len() as u64,
        }
    }

    /// Disconnects a peer of this router. Returns whether it exists.
    fn kick(&mut self, now: Instant, peer: u64) -> bool {
        let found = self.delivery.sessions.peers.ids.get(&peer).copied();
        if let Some(key) = found {
            self.sessions_mut().kick_out(now, key);
        }
        found.is_some()
    }

    /// Returns the final counters, when the router ends. Counters of a present state are left out.
    pub fn last_counters(&mut self) -> Vec<(String, u64)> {
        let mut counters = self.counters();
        counters.retain(|(name, count)| *count > 0 && !GAUGES.contains(&&**name));
        counters
    }

    /// Returns the counters by name. The number of matched messages is always the sum of the
    /// delivered, dropped and queued ones.
    pub fn counters(&mut self) -> Vec<(String, u64)> {
        let (mut queued, mut direct_queued) = (0, 0);
        for peer in self.delivery.sessions.peers.table.values_mut() {
            let (messages, direct) = peer.queue.messages(&self.delivery.sessions.peers.pool);
            (queued, direct_queued) = (queued + messages, direct_queued + direct);
        }
        let requests = self
            .delivery
            .sessions
            .peers
            .table
            .iter()
            .filter_map(|(_, peer)| peer.requests.as_ref());
        let unanswered: usize = requests.map(|requests| requests.unanswered.len()).sum();
        let counters = &self.delivery.sessions.peers.counters;
        let dropped: u64 = counters.dropped.by_reason().map(|(_, count)| count).sum();
        let mut counted = vec![
            ("messages_accepted".to_owned(), counters.accepted),
            ("messages_matched".to_owned(), counters.matched),
            ("messages_delivered".to_owned(), counters.matched - dropped - queued),
            ("messages_queued".to_owned(), queued),
        ];
        // The copies and the counters of a dead worker are lost together, so this one would always
        // be 0.
        let reasons =
            DropReason::ALL.into_iter().filter(|reason| *reason != DropReason::WorkerDied);
        counted.extend(reasons.map(|reason| {
            (format!("messages_dropped_{}", reason.name()), counters.dropped.of(reason))
        }));
        let rest = [
            ("messages_unclaimed", counters.unclaimed),
            ("direct_delivered", counters.direct_matched - counters.direct_dropped - direct_queued),
            ("direct_queued", direct_queued),
            ("direct_dropped", counters.direct_dropped),
            ("direct_undeliverable", counters.direct_undeliverable),
            ("replies_late", counters.replies_late),
            ("outcomes_open", self.delivery.sessions.requests.len() as u64),
            ("requests_unanswered", unanswered as u64),
            ("frames_refused", counters.refused),
            ("frames_denied", counters.denied),
            ("records_lost", counters.lost_in_transit),
            ("records_stale", counters.stale),
            ("peers_accepted", counters.peers),
            ("peers_cut_off", counters.disconnect_slow),
            ("peers_unwatched", counters.unwatched),
        ];
        counted.extend(rest.map(|(name, value)| (name.to_owned(), value)));
        counted
    }
}

fn filters_of(peer: &Peer) -> Vec<String> {
    let mut bytes = 0;
    let fits = |filter: &&str| {
        bytes += filter.len();
        bytes <= FILTER_BYTES
    };
    let filters = peer.subscriptions.iter().map(|subscription| subscription.filter.as_str());
    filters.take_while(fits).map(str::to_owned).collect()
}
