//! Questions about the daemon, which all its workers answer.

use std::collections::HashMap;
use std::time::Instant;

use crate::access::denied;
use crate::core::{Output, Router};
use crate::directory::messages::{DirectoryRequest, QueryTicket};
use crate::directory::violation::MAX_QUESTIONS;
use crate::inquiry::QueryOrigin;
use crate::model::ids::{PeerKey, id_in};
use crate::peer::{Peer, SessionState, Subscription};
use crate::routing::trie::LocalSubscriber;
use ipcd_proto::control::{
    Answer, ListenerStatus, Origin, PeerStatus, Query, Reason, Status, SubscriptionStatus,
    WorkerStatus, encode,
};
use ipcd_proto::{Header, Kind, Subject};

/// Counters that say what is there now: nothing of a worker that has ended.
const GAUGES: [&str; 4] =
    ["messages_queued", "direct_queued", "outcomes_open", "requests_unanswered"];
/// Messages in outboxes that are counted in a step.
const COUNTED_IN_STEP: usize = 8;
/// Peers that are asked for their names in a step.
const FOUND_IN_STEP: usize = 8;
/// Bytes of filters that are told of one peer.
const FILTER_BYTES: usize = 4 * 1024;

/// The questions of our peers that other workers are answering.
#[derive(Debug, Default)]
pub(crate) struct OpenQueries {
    asked: HashMap<u64, Asked>,
    next: u64,
}

#[derive(Debug)]
struct Asked {
    key: PeerKey,
    peer: u64,
    correlation: u64,
    is_of_subscriptions: bool,
    /// The sum of what has come, where answers are added up.
    sum: Option<Answer>,
}

impl Router {
    /// Whether nothing more can be asked now, lest the table disbelieve this worker.
    pub(crate) fn has_too_many_questions(&self) -> bool {
        self.questions.asked.len() >= MAX_QUESTIONS
    }

    pub(crate) fn ask(&mut self, now: Instant, key: PeerKey, correlation: u64, query: Query) {
        self.questions.next += 1;
        let ticket = self.questions.next;
        let peer = self.peer(key).origin.peer;
        let is_of_subscriptions = query == Query::Subscriptions;
        let asked = Asked { key, peer, correlation, is_of_subscriptions, sum: None };
        self.questions.asked.insert(ticket, asked);
        self.peer(key).questions += 1;
        if self.cluster.is_some() {
            let by = self.principal(key);
            self.outputs.push_back(Output::Tell(DirectoryRequest::Ask { ticket, by, query }));
            return;
        }
        match takes_long(&query) {
            true => self.inquire(QueryOrigin::Here(ticket), query),
            false => {
                for answer in self.report(now, &query) {
                    self.reported(now, ticket, Some(answer), false);
                }
                self.reported(now, ticket, None, true);
            }
        }
    }

    /// This router's own answer. What is about all peers, [`Router::inquire`] answers in parts.
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
                self.budget.spend(self.peers.len() / FOUND_IN_STEP);
                vec![Answer::Found(self.find_peer(who))]
            }
            Query::Sandbox => vec![Answer::Sandbox(self.config.daemon.sandbox.clone())],
            Query::Access { who, access } => {
                // The peer's own worker has looked at what is asked for.
                let verdict = self.config.acl.verdict(who, access);
                verdict.map(Answer::Verdict).into_iter().collect()
            }
        }
    }

    /// Answers a question of another worker's peer, or of one of ours.
    pub(crate) fn answer_question(&mut self, now: Instant, asker: QueryTicket, query: Query) {
        if takes_long(&query) {
            return self.inquire(QueryOrigin::Directory(asker), query);
        }
        let parts = self.report(now, &query).into_iter().map(Some);
        for part in parts.chain([None]) {
            let last = part.is_none();
            self.outputs.push_back(Output::Tell(DirectoryRequest::Answer { asker, part, last }));
        }
    }

    /// Part of the answer to a question of ours has come, and with `last` all of it.
    pub(crate) fn reported(&mut self, now: Instant, ticket: u64, part: Option<Answer>, last: bool) {
        let Some(asked) = self.questions.asked.get_mut(&ticket) else { return };
        let (key, peer, correlation) = (asked.key, asked.peer, asked.correlation);
        let pass_on = match part {
            Some(part @ (Answer::Peers(_) | Answer::Subscriptions(_))) => Some(part),
            Some(part) => {
                add(&mut asked.sum, part);
                None
            }
            None => None,
        };
        let is_here = self.peers.get(key.0 as usize).is_some_and(|found| found.origin.peer == peer);
        if let Some(part) = pass_on.filter(|_| is_here) {
            self.answer(now, key, correlation, true, &part);
        }
        if last {
            let asked = self.questions.asked.remove(&ticket).expect("it was found above");
            let nothing = match asked.is_of_subscriptions {
                true => Answer::Subscriptions(Vec::new()),
                false => Answer::Peers(Vec::new()),
            };
            let answer = asked.sum.unwrap_or(nothing);
            if is_here {
                self.answer(now, key, correlation, false, &answer);
                let peer = self.peer(key);
                peer.questions = peer.questions.saturating_sub(1);
                self.resume_waiters(key);
            }
        }
    }

    /// The supervisor does not let the peer ask this: its rules are newer than ours.
    pub(crate) fn question_denied(&mut self, now: Instant, ticket: u64) {
        let Some(Asked { key, peer, correlation, .. }) = self.questions.asked.remove(&ticket)
        else {
            return;
        };
        if self.peers.get(key.0 as usize).is_some_and(|found| found.origin.peer == peer) {
            let (code, why) = denied("ask this");
            self.refuse(now, key, correlation, code, why);
        }
    }

    pub(crate) fn answer(
        &mut self,
        now: Instant,
        key: PeerKey,
        correlation: u64,
        more: bool,
        body: &Answer,
    ) {
        let header = Header { more, ..Header::new(Kind::Answer, correlation) };
        self.send(now, key, header, &encode(body));
    }

    fn status(&mut self, now: Instant) -> Status {
        let counters = self.counters();
        let daemon = &self.config.daemon;
        let peers_of = |number: usize| {
            let is_of = |peer: &Peer| {
                peer.listener as usize == number && !matches!(peer.state, SessionState::Gone)
            };
            self.peers.iter().filter(|(_, peer)| is_of(peer)).count() as u64
        };
        let listeners = daemon.listeners.iter().map(|(number, (endpoint, codec))| ListenerStatus {
            endpoint: endpoint.clone(),
            codec: codec.clone(),
            peers: peers_of(*number),
        });
        Status {
            pid: daemon.supervisor,
            version: daemon.version.clone(),
            uptime_ms: now.saturating_duration_since(daemon.started).as_millis() as u64,
            workers: vec![WorkerStatus {
                slot: self.config.slot,
                pid: daemon.worker,
                generation: self.config.generation,
                peers: self.peer_count() as u64,
            }],
            listeners: listeners.collect(),
            counters,
        }
    }

    fn matching(&self, subject: Subject<'_>) -> u64 {
        let members = self.interests.find(subject);
        let is_open = |member: &&LocalSubscriber| self.peers[member.peer.0 as usize].is_open();
        let open = members.iter().filter(is_open);
        open.filter(|member| self.may_hear(member.peer, subject)).count() as u64
    }

    fn find_peer(&self, who: &str) -> Option<u64> {
        let id = id_in(who);
        let is_meant = |origin: &Origin| match id {
            Some(id) => origin.peer == id,
            None => origin.name.as_deref() == Some(who),
        };
        let open = self.peers.iter().filter(|(_, peer)| peer.is_open());
        open.map(|(_, peer)| &peer.origin).find(|origin| is_meant(origin)).map(|found| found.peer)
    }

    pub(crate) fn subscription_statuses(&mut self, key: PeerKey) -> Vec<SubscriptionStatus> {
        let worker = self.config.slot;
        let peer = &mut self.peers[key.0 as usize];
        let queued = peer.outbox.messages_by_subscription(&self.store);
        self.budget.spend(queued.values().sum::<u64>() as usize / COUNTED_IN_STEP);
        let status = |known: &Subscription| {
            let queued = queued.get(&known.number).copied().unwrap_or(0);
            let drops = known.drops.as_ref();
            let dropped: Vec<_> = drops.iter().flat_map(|drops| drops.by_reason()).collect();
            let gone: u64 = dropped.iter().map(|(_, count)| count).sum();
            // Also what is left in the outbox of an earlier subscription of that number.
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
        let worker = self.config.slot;
        let peer = &mut self.peers[key.0 as usize];
        let (queued, direct) = peer.outbox.messages(&self.store);
        PeerStatus {
            origin: peer.origin.clone(),
            worker,
            subscriptions: filters_of(peer),
            msgs_in: peer.counts.msgs_in,
            msgs_out: peer.counts.msgs_out.saturating_sub(queued + direct),
            bytes_in: peer.counts.bytes_in,
            bytes_out: peer.outbox.written(),
            dropped: peer.counts.dropped,
            queued_bytes: peer.outbox.len() as u64,
        }
    }

    /// Cuts a peer off, if it is ours.
    fn kick(&mut self, now: Instant, peer: u64) -> bool {
        let found = self.ids.get(&peer).copied();
        if let Some(key) = found {
            self.kick_out(now, key);
        }
        found.is_some()
    }

    /// What this router has counted, for when it ends: what is left of it is not there any more.
    pub fn last_counters(&mut self) -> Vec<(String, u64)> {
        let mut counters = self.counters();
        counters.retain(|(name, count)| *count > 0 && !GAUGES.contains(&&**name));
        counters
    }

    /// What this router has counted, by name. What was matched is always the sum of what was
    /// delivered and dropped and is queued.
    pub fn counters(&mut self) -> Vec<(String, u64)> {
        let (mut queued, mut direct_queued) = (0, 0);
        for (_, peer) in &mut self.peers {
            let (messages, direct) = peer.outbox.messages(&self.store);
            (queued, direct_queued) = (queued + messages, direct_queued + direct);
        }
        let calls = self.peers.iter().filter_map(|(_, peer)| peer.calls.as_ref());
        let unanswered: usize = calls.map(|calls| calls.unanswered.len()).sum();
        let counters = &self.counters;
        let dropped: u64 = counters.dropped.by_reason().map(|(_, count)| count).sum();
        let mut counted = vec![
            ("messages_accepted".to_owned(), counters.accepted),
            ("messages_matched".to_owned(), counters.matched),
            ("messages_delivered".to_owned(), counters.matched - dropped - queued),
            ("messages_queued".to_owned(), queued),
        ];
        // What a worker had is lost with it, and so is what it would have counted.
        let reasons = Reason::ALL.into_iter().filter(|reason| *reason != Reason::WorkerDied);
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
            ("outcomes_open", self.trackers.len() as u64),
            ("requests_unanswered", unanswered as u64),
            ("frames_refused", counters.refused),
            ("frames_denied", counters.denied),
            ("records_lost", counters.lost_in_transit),
            ("records_stale", counters.stale),
            ("peers_accepted", counters.peers),
            ("peers_cut_off", counters.cut_off),
            ("peers_unwatched", counters.unwatched),
        ];
        counted.extend(rest.map(|(name, value)| (name.to_owned(), value)));
        counted
    }
}

/// Whether the answer takes as long as there are peers, and so has to wait for its turn.
fn takes_long(query: &Query) -> bool {
    matches!(query, Query::Status | Query::Peers | Query::Subscriptions)
}

/// Adds an answer to those that have come.
fn add(sum: &mut Option<Answer>, part: Answer) {
    match (sum, part) {
        (Some(Answer::Status(sum)), Answer::Status(part)) => {
            sum.workers.extend(part.workers);
            sum.workers.sort_unstable_by_key(|worker| worker.slot);
            for (sum, part) in sum.listeners.iter_mut().zip(part.listeners) {
                sum.peers = sum.peers.saturating_add(part.peers);
            }
            add_counters(&mut sum.counters, &part.counters);
        }
        (Some(Answer::Matching(sum)), Answer::Matching(part)) => {
            *sum = sum.saturating_add(part);
        }
        (Some(Answer::Kicked(sum)), Answer::Kicked(part)) => *sum |= part,
        (Some(Answer::Found(sum)), Answer::Found(part)) => *sum = sum.or(part),
        (sum @ None, part) => *sum = Some(part),
        // Workers of one daemon answer what was asked.
        _ => {}
    }
}

/// Adds counters by name.
pub(crate) fn add_counters(sum: &mut Vec<(String, u64)>, more: &[(String, u64)]) {
    for (name, value) in more {
        match sum.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(*value),
            None => sum.push((name.clone(), *value)),
        }
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
