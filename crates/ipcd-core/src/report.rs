//! Questions about the daemon, which all its workers answer.

use std::collections::HashMap;
use std::time::Instant;

use ipcd_proto::control::{
    Answer, ListenerStatus, PeerStatus, Query, Status, WorkerStatus, encode,
};
use ipcd_proto::{Header, Kind};

use crate::core::{Core, Output};
use crate::peer::{Peer, PeerKey};
use crate::table::{Asker, Request};

/// Bytes of one part of an answer, roughly.
const PART_BYTES: usize = 32 * 1024;
/// Bytes of filters that are told of one peer.
const FILTER_BYTES: usize = 4 * 1024;

/// The questions of our peers that other workers are answering.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: HashMap<u64, Asked>,
    next: u64,
}

#[derive(Debug)]
struct Asked {
    key: PeerKey,
    peer: u64,
    correlation: u64,
    /// The sum of what has come, where answers are added up.
    sum: Option<Answer>,
}

impl Core {
    pub(crate) fn ask(&mut self, now: Instant, key: PeerKey, correlation: u64, query: Query) {
        self.questions.next += 1;
        let ticket = self.questions.next;
        let peer = self.peer(key).origin.peer;
        self.questions.asked.insert(ticket, Asked { key, peer, correlation, sum: None });
        if self.others.is_some() {
            self.outputs.push_back(Output::Tell(Request::Ask { ticket, query }));
            return;
        }
        for answer in self.report(now, &query) {
            self.reported(now, ticket, Some(answer), false);
        }
        self.reported(now, ticket, None, true);
    }

    /// This router's own answer, in parts.
    fn report(&mut self, now: Instant, query: &Query) -> Vec<Answer> {
        match query {
            Query::Status => vec![Answer::Status(self.status(now))],
            Query::Peers => self.peer_statuses().into_iter().map(Answer::Peers).collect(),
            Query::Matching(subject) => {
                let members = self.interests.route(subject.as_bytes());
                vec![Answer::Matching(members.map_or(0, |members| members.len() as u64))]
            }
            Query::Kick(peer) => vec![Answer::Kicked(self.kick(now, *peer))],
        }
    }

    /// Answers a question of another worker's peer, or of one of ours.
    pub(crate) fn answer_question(&mut self, now: Instant, asker: Asker, query: &Query) {
        let parts = self.report(now, query).into_iter().map(Some);
        for part in parts.chain([None]) {
            let last = part.is_none();
            self.outputs.push_back(Output::Tell(Request::Answer { asker, part, last }));
        }
    }

    /// Part of the answer to a question of ours has come, and with `last` all of it.
    pub(crate) fn reported(&mut self, now: Instant, ticket: u64, part: Option<Answer>, last: bool) {
        let Some(asked) = self.questions.asked.get_mut(&ticket) else { return };
        let (key, peer, correlation) = (asked.key, asked.peer, asked.correlation);
        let pass_on = match part {
            Some(Answer::Peers(peers)) => Some(Answer::Peers(peers)),
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
            let answer = asked.sum.unwrap_or(Answer::Peers(Vec::new()));
            if is_here {
                self.answer(now, key, correlation, false, &answer);
            }
        }
    }

    fn answer(&mut self, now: Instant, key: PeerKey, correlation: u64, more: bool, body: &Answer) {
        let header = Header { more, ..Header::new(Kind::Answer, correlation) };
        self.send(now, key, header, &encode(body));
    }

    fn status(&self, now: Instant) -> Status {
        let daemon = &self.config.daemon;
        let peers_of = |number: usize| {
            self.peers.iter().filter(|(_, peer)| peer.listener == number).count() as u64
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
                incarnation: self.config.incarnation,
                peers: self.peers.len() as u64,
            }],
            listeners: listeners.collect(),
            counters: self.counters(),
        }
    }

    /// All peers, in parts of a bounded size.
    fn peer_statuses(&mut self) -> Vec<Vec<PeerStatus>> {
        let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
        for key in self.keys() {
            let status = self.peer_status(key);
            let size = encode(&status).len();
            if bytes + size > PART_BYTES {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            bytes += size;
            part.push(status);
        }
        parts.push(part);
        parts
    }

    fn peer_status(&mut self, key: PeerKey) -> PeerStatus {
        let worker = self.config.slot;
        let peer = self.peer(key);
        PeerStatus {
            origin: peer.origin.clone(),
            worker,
            subscriptions: filters_of(peer),
            msgs_in: peer.counts.msgs_in,
            msgs_out: peer.counts.msgs_out,
            bytes_in: peer.counts.bytes_in,
            bytes_out: peer.outbox.written(),
            dropped: peer.counts.dropped,
            queued_bytes: peer.outbox.len() as u64,
        }
    }

    /// Cuts a peer off, if it is ours.
    fn kick(&mut self, now: Instant, peer: u64) -> bool {
        let found = self.keys().into_iter().find(|key| self.origin(*key).peer == peer);
        if let Some(key) = found {
            self.kick_out(now, key);
        }
        found.is_some()
    }

    /// What this router has counted, by name.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let counters = &self.counters;
        [
            ("messages_accepted", counters.accepted),
            ("messages_matched", counters.matched),
            ("messages_delivered", counters.delivered),
            ("messages_dropped_oldest", counters.dropped_oldest),
            ("messages_dropped_newest", counters.dropped_newest),
            ("messages_dropped_departed", counters.dropped_departed),
            ("frames_refused", counters.refused),
            ("records_lost", counters.lost_in_transit),
            ("records_stale", counters.stale),
            ("peers_accepted", counters.peers),
            ("peers_cut_off", counters.cut_off),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// Adds an answer to those that have come.
fn add(sum: &mut Option<Answer>, part: Answer) {
    match (sum, part) {
        (Some(Answer::Status(sum)), Answer::Status(part)) => {
            sum.workers.extend(part.workers);
            sum.workers.sort_unstable_by_key(|worker| worker.slot);
            for (sum, part) in sum.listeners.iter_mut().zip(part.listeners) {
                sum.peers += part.peers;
            }
            add_counters(&mut sum.counters, &part.counters);
        }
        (Some(Answer::Matching(sum)), Answer::Matching(part)) => *sum += part,
        (Some(Answer::Kicked(sum)), Answer::Kicked(part)) => *sum |= part,
        (sum @ None, part) => *sum = Some(part),
        // Workers of one daemon answer what was asked.
        _ => {}
    }
}

/// Adds counters by name.
pub(crate) fn add_counters(sum: &mut Vec<(String, u64)>, more: &[(String, u64)]) {
    for (name, value) in more {
        match sum.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += value,
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
