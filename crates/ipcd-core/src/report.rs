//! Answers to questions about the daemon.

use std::time::Instant;

use ipcd_proto::control::{Answer, ListenerStatus, PeerStatus, Status, WorkerStatus, encode};
use ipcd_proto::{Header, Kind, Subject};

use crate::core::Core;
use crate::peer::{Peer, PeerKey};

/// Bytes of one part of an answer, roughly.
const PART_BYTES: usize = 32 * 1024;
/// Bytes of filters that are told of one peer.
const FILTER_BYTES: usize = 4 * 1024;

impl Core {
    pub(crate) fn answer_status(&mut self, now: Instant, key: PeerKey, correlation: u64) {
        let daemon = &self.config.daemon;
        let mut listeners: Vec<ListenerStatus> = daemon
            .listeners
            .iter()
            .cloned()
            .map(|(endpoint, codec)| ListenerStatus { endpoint, codec, peers: 0 })
            .collect();
        for (_, peer) in &self.peers {
            listeners[peer.listener].peers += 1;
        }
        let status = Status {
            pid: daemon.supervisor,
            version: daemon.version.clone(),
            uptime_ms: now.saturating_duration_since(daemon.started).as_millis() as u64,
            workers: vec![WorkerStatus {
                slot: self.config.slot,
                pid: daemon.worker,
                incarnation: self.config.incarnation,
                peers: self.peers.len() as u64,
            }],
            listeners,
            counters: self.counters(),
        };
        self.answer(now, key, correlation, false, &Answer::Status(status));
    }

    pub(crate) fn answer_peers(&mut self, now: Instant, key: PeerKey, correlation: u64) {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for other in self.keys() {
            let status = self.peer_status(other);
            let size = encode(&status).len();
            if bytes + size > PART_BYTES {
                let answer = Answer::Peers(std::mem::take(&mut part));
                self.answer(now, key, correlation, true, &answer);
                bytes = 0;
            }
            bytes += size;
            part.push(status);
        }
        self.answer(now, key, correlation, false, &Answer::Peers(part));
    }

    pub(crate) fn answer_matching(
        &mut self,
        now: Instant,
        key: PeerKey,
        correlation: u64,
        subject: Subject<'_>,
    ) {
        let members = self.interests.route(subject.as_str().as_bytes());
        let count = members.map_or(0, |members| members.len() as u64);
        self.answer(now, key, correlation, false, &Answer::Matching(count));
    }

    fn answer(&mut self, now: Instant, key: PeerKey, correlation: u64, more: bool, body: &Answer) {
        let header = Header { more, ..Header::new(Kind::Answer, correlation) };
        self.send(now, key, header, &encode(body));
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

    fn counters(&self) -> Vec<(String, u64)> {
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
            ("peers_accepted", counters.peers),
            ("peers_cut_off", counters.cut_off),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
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
