//! Messages to a single peer, including replies. They never wait for their receiver: one that does
//! not take them is disconnected.

use crate::cluster::messages::WorkerMessage;
use crate::delivery::Delivery;
use crate::model::frame_parts::FrameParts;
use crate::model::ids::{PeerKey, Ticket, is_generation, place_of};
use crate::peers::Peers;
use crate::queue::message_batch::MessageBatch;
use crate::requests::{DeliveryOutcome, OutcomeTarget};
use crate::routing::index::WorkerInterest;
use crate::sessions::Sessions;
use crate::sessions::work::MessageSender;
use ipcd_proto::DirectAddress;
use ipcd_proto::Frame;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::Refusal;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::encode;
use std::time::Instant;

impl Delivery {
    /// Accepts a message to a single peer.
    pub(crate) fn publish_direct(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &mut [u8],
        message: FrameParts,
        to: DirectAddress,
    ) {
        let header = message.header;
        let id = self.sessions.peers.table[key].origin.peer;
        Frame::stamp_sender(frame, id);
        Frame::stamp_subscription(frame, 0);
        self.stamp_reply(Some(key), frame, &message);
        // Tracked before delivery, because the outcome may be known at once.
        let home = OutcomeTarget::Here(key, header.correlation);
        let ticket = header
            .is_tracked()
            .then(|| self.sessions.requests.track(&mut self.sessions.peers, now, home, &header));
        if !self.peers().may_reply_to(key, to) {
            self.peers_mut().count_undeliverable(to);
        } else if self.peers().is_here(to.peer) {
            let from = MessageSender { key: Some(key), id };
            self.deliver_direct(now, from, frame, message, to, ticket);
        } else {
            self.forward_direct(key, frame, to, ticket);
        }
        if let Some(ticket) = ticket {
            self.sessions.dealt_out(now, ticket);
        }
        // After the reply was queued, so that the requester is not told that no reply will come.
        if let Some(request) = to.request {
            let (request, outcome) = ((to.peer, request), DeliveryOutcome::Answered);
            let Sessions { peers, requests, .. } = &mut self.sessions;
            match header.more {
                true => requests.note_answering(peers, key, request),
                false => requests.note_last_answer(peers, now, key, request, outcome),
            }
        }
    }

    /// Queues a message for the peer that it addresses.
    pub(crate) fn deliver_direct(
        &mut self,
        now: Instant,
        from: MessageSender,
        frame: &[u8],
        message: FrameParts,
        to: DirectAddress,
        ticket: Option<Ticket>,
    ) {
        let Some(key) = self.peers().open_key(to.peer) else {
            return self.peers_mut().count_undeliverable(to);
        };
        // A reply from another worker counts only if that worker has got the request.
        let by = from.key.is_none().then(|| place_of(from.id).0);
        let Sessions { peers, requests, .. } = &mut self.sessions;
        if to.request.is_some_and(|request| !requests.note_reply(peers, now, key, request, by)) {
            return peers.count_undeliverable(to);
        }
        peers.counters.direct_matched += 1;
        if let Some(ticket) = ticket {
            requests.count_copy(ticket);
        }
        if let Err(reason) = self.make_direct_room(now, key, frame, message, (to, ticket)) {
            return self.drop_direct(now, key, ticket, reason);
        }
        if self.peers().table[key].wants_origins {
            self.send_origin(now, from, key);
        }
        let batch = MessageBatch { bytes: frame, count: 1, is_direct: true, ticket, shared: None };
        if self.peers_mut().enqueue(now, key, &batch) {
            self.sessions.leave_groups(now, key);
        }
    }

    /// Checks that a message may be queued for its receiver. A receiver that has taken nothing for
    /// too long is disconnected, because the publisher does not wait.
    fn make_direct_room(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &[u8],
        message: FrameParts,
        (to, ticket): (DirectAddress, Option<Ticket>),
    ) -> Result<(), DropReason> {
        if self.peers().is_too_large(key, message.payload) {
            self.refuse_large_reply(now, key, to);
            return Err(DropReason::TooLarge);
        }
        if ticket.is_some() && self.peers().has_no_room_for(key, frame) {
            return Err(DropReason::Newest);
        }
        if self.peers().is_at_hard_limit(key) || self.peers().is_beyond_quota(key) {
            self.sessions.disconnect_slow(
                now,
                key,
                "messages to the peer have filled its send queue",
            );
            return Err(DropReason::CutOff);
        }
        Ok(())
    }

    fn drop_direct(
        &mut self,
        now: Instant,
        key: PeerKey,
        ticket: Option<Ticket>,
        reason: DropReason,
    ) {
        self.peers_mut().counters.direct_dropped += 1;
        // The peer was never to get more requests, so it has lost nothing.
        if reason != DropReason::Newest {
            self.peers_mut().table[key].counts.dropped += 1;
        }
        if let Some(ticket) = ticket {
            self.sessions.conclude(now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    /// Tells a requester that the reply is too large for its session, because no other will come.
    fn refuse_large_reply(&mut self, now: Instant, key: PeerKey, to: DirectAddress) {
        let Some(request) = to.request else { return };
        let why = "the reply is larger than this session allows: connect again for the new limit";
        let refusal = Refusal { code: RefusalCode::TooLarge, message: why.into() };
        self.peers_mut().send(now, key, Header::new(FrameKind::Error, request), &encode(&refusal));
    }

    /// Sends a batch to the other workers that are interested.
    pub(crate) fn forward(&mut self, from: PeerKey, remotes: &[WorkerInterest], batch: &[u8]) {
        // Interests are sorted by worker, so that each worker gets one copy.
        for same in remotes.chunk_by(|a, b| a.slot == b.slot) {
            self.forward_to(Some(from), same[0].slot, batch, None);
        }
    }

    /// Sends one message to the other workers that are interested, with the ticket for its outcome.
    pub(crate) fn forward_one(
        &mut self,
        from: PeerKey,
        remotes: &[WorkerInterest],
        frame: &[u8],
        ticket: Option<Ticket>,
    ) {
        for same in remotes.chunk_by(|a, b| a.slot == b.slot) {
            self.forward_to(Some(from), same[0].slot, frame, ticket);
        }
    }

    /// Sends messages to another worker. Ahead of them goes the sender's identity, if the worker
    /// does not know it, and the ticket, if the outcome is awaited.
    pub(crate) fn forward_to(
        &mut self,
        from: Option<PeerKey>,
        slot: u32,
        batch: &[u8],
        ticket: Option<Ticket>,
    ) {
        let Peers { cluster, table, .. } = &mut self.sessions.peers;
        // The worker may have died since the route was found.
        let Some(generation) = cluster.generation_of(slot).filter(|generation| *generation > 0)
        else {
            return;
        };
        if let Some(from) = from {
            let peer = &mut table[from];
            let introduced = peer.introduced.get_or_insert_default();
            if !introduced.contains(&slot) {
                introduced.push(slot);
                cluster.tell(slot, &WorkerMessage::Origin(peer.origin.clone()));
            }
        }
        if let Some(ticket) = ticket {
            cluster.tell(slot, &WorkerMessage::Tracked(ticket));
        }
        cluster.push(slot, batch);
        if let Some(ticket) = ticket {
            self.sessions.requests.sent_elsewhere(ticket, (slot, generation));
        }
    }

    /// Passes on a message that another worker has sent here. The next worker may not know the
    /// sender, and learns the identity for this message only.
    pub(crate) fn pass_on(&mut self, from: u64, slot: u32, frame: &[u8], ticket: Option<Ticket>) {
        let cluster = &mut self.sessions.peers.cluster;
        if let Some(origin) = cluster.origin(from).cloned() {
            cluster.tell(slot, &WorkerMessage::Origin(origin));
        }
        self.forward_to(None, slot, frame, ticket);
        // So that identities of foreign senders do not pile up there.
        self.sessions.peers.cluster.tell_departed(&[slot], from);
    }

    /// Sends a message to the worker of the addressed peer, if that generation is alive.
    pub(crate) fn forward_direct(
        &mut self,
        from: PeerKey,
        frame: &[u8],
        to: DirectAddress,
        ticket: Option<Ticket>,
    ) {
        let (slot, in_id) = place_of(to.peer);
        let cluster = &self.sessions.peers.cluster;
        // An id names the generation of its worker. The successor may have another peer of that
        // number.
        let is_same = |generation| is_generation(generation, in_id);
        if !cluster.directory.is_leaving(slot) && cluster.generation_of(slot).is_some_and(is_same) {
            self.forward_to(Some(from), slot, frame, ticket);
        } else {
            self.peers_mut().count_undeliverable(to);
        }
    }
}
