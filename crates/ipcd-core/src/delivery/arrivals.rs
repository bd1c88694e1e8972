//! Frames of other workers, and changes of the directory. A worker may be compromised, so that each
//! frame is checked for what its sender may say.

use crate::cluster::PendingAck;
use crate::cluster::inbound::InboundBatch;
use crate::cluster::messages::WorkerMessage;
use crate::delivery::Delivery;
use crate::delivery::fan_out::StampedBatch;
use crate::directory::state::DirectoryChange;
use crate::model::frame_parts::FrameParts;
use crate::model::ids::{is_generation, place_of};
use crate::peers::Peers;
use crate::requests::OutcomeTarget;
use crate::sessions::Sessions;
use crate::sessions::work::MessageSender;
use ipcd_proto::DecodedFrame;
use ipcd_proto::DirectAddress;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::control::decode as body;
use ipcd_proto::decode;
use std::time::Instant;

impl Delivery {
    /// Takes frames that another worker has sent. Messages are delivered even if that generation is
    /// dead, because they were accepted. Its notices are ignored then. The caller guarantees that
    /// the generation has existed. It may become known here, ahead of the supervisor's event, and
    /// earlier generations then count as dead.
    pub(crate) fn arrive(&mut self, now: Instant, from: (u32, u32), frames: &mut [u8]) {
        let cluster = &mut self.sessions.peers.cluster;
        // A worker sends nothing to itself.
        if cluster.generation_of(from.0).is_none() || from.0 == cluster.own_slot {
            return;
        }
        // Later frames must not overtake those that wait.
        if cluster.inbound.is_waiting() {
            return cluster.inbound.push(from, frames.to_vec());
        }
        self.sessions.grant_arrivals();
        let taken = self.take_inbound(now, from, frames);
        if taken < frames.len() {
            let rest = InboundBatch { from, frames: frames[taken..].to_vec(), at: 0 };
            self.sessions.peers.cluster.inbound.put_back(rest);
        }
        self.defer_inbound();
    }

    /// Takes frames of another worker until the steps are used up. Returns the number of bytes.
    fn take_inbound(&mut self, now: Instant, from: (u32, u32), frames: &mut [u8]) -> usize {
        let (slot, generation) = from;
        // Only now: frames of the earlier generation must have been taken before.
        let cluster = &self.sessions.peers.cluster;
        let known = cluster.generation_of(slot).unwrap_or(0);
        if generation > cluster.last_generation_of(slot).max(known) {
            self.apply_changes(now, &[DirectoryChange::Generation { slot, generation }]);
        }
        let is_current = self.sessions.peers.cluster.generation_of(slot) == Some(generation);
        self.forget_earlier(now, slot, generation);
        let mut at = 0;
        // At least one frame, so that deferred frames make progress in each slice.
        while at < frames.len() && (at == 0 || self.may_take_more()) {
            let Ok(DecodedFrame::Frame(frame, length)) = decode(&frames[at..], usize::MAX) else {
                // An honest worker does not send such bytes. They are consumed with the rest, so
                // that the window does not shrink.
                at = frames.len();
                break;
            };
            self.sessions.work.budget.spend(2);
            if frame.header.kind != FrameKind::Message {
                if let Ok(notice) = body(frame.payload) {
                    self.handle(now, from, notice, is_current);
                }
                at += length;
                continue;
            }
            let message = FrameParts::of(&frame);
            if self.must_meet_first(&frames[at..], &message) {
                self.sessions.peers.cluster.inbound.is_meeting = true;
                break;
            }
            at += self.deliver_inbound(now, from, &mut frames[at..], message);
        }
        // A successor must not get credit for bytes of its predecessor.
        if is_current {
            self.sessions.peers.cluster.report_consumed(slot, at);
        }
        at
    }

    fn may_take_more(&self) -> bool {
        !self.sessions.peers.cluster.inbound.is_held && !self.sessions.work.budget.is_spent()
    }

    /// Continues with deferred frames of other workers.
    pub(crate) fn continue_inbound(&mut self, now: Instant) {
        let inbound = &mut self.sessions.peers.cluster.inbound;
        inbound.is_deferred = false;
        let Some(InboundBatch { from, mut frames, at }) = inbound.pop() else { return };
        let at = at + self.take_inbound(now, from, &mut frames[at..]);
        if at < frames.len() {
            self.sessions.peers.cluster.inbound.put_back(InboundBatch { from, frames, at });
        }
        self.defer_inbound();
    }

    /// Delivers the message at the start of `bytes`, and following messages to the same receivers.
    /// Returns the number of bytes.
    fn deliver_inbound(
        &mut self,
        now: Instant,
        (slot, generation): (u32, u32),
        bytes: &mut [u8],
        message: FrameParts,
    ) -> usize {
        let FrameParts { header, length, .. } = message;
        let (sent_by, in_id) = place_of(header.sender);
        let is_its_own = sent_by == slot && is_generation(generation, in_id);
        let address = DirectAddress::parse(message.subject(bytes));
        // Only group messages are passed on by workers other than the sender's. In all others a
        // worker speaks for its own peers only.
        if !is_its_own && (header.subscription == 0 || address.is_some()) {
            self.sessions.peers.counters.stale += 1;
            return length;
        }
        // A compromised worker may send any number of tracked messages.
        if header.is_tracked() && self.sessions.requests.is_full() {
            self.sessions.requests.refuse_next(&mut self.sessions.peers, slot);
            return length;
        }
        if address.is_none() && header.subscription == 0 && !header.is_tracked() {
            // Most messages are neither tracked, nor for a group or a single peer.
            return self.deliver_batch(now, bytes, message);
        }
        // The publisher's ticket came in a notice directly ahead of this message.
        let ticket = header.is_tracked().then(|| {
            let theirs = self.sessions.peers.cluster.link(slot).ticket.take();
            let home =
                theirs.map_or(OutcomeTarget::Nowhere, |ticket| OutcomeTarget::There(slot, ticket));
            self.sessions.requests.track(&mut self.sessions.peers, now, home, &header)
        });
        let from = MessageSender { key: None, id: header.sender };
        if let Some(address) = address {
            self.deliver_direct(now, from, &bytes[..length], message, address, ticket);
        } else if header.subscription != 0 {
            self.deliver_inbound_to_group(now, &mut bytes[..length], message, ticket);
        } else if let Ok(targets) = self.route(message.subject(bytes)) {
            let bytes = &mut bytes[..length];
            let batch = StampedBatch { bytes, count: 1, subscription: 0, ticket };
            self.deliver_to_all(now, from, &targets, batch);
            return length;
        }
        if let Some(ticket) = ticket {
            self.sessions.dealt_out(now, ticket);
        }
        length
    }

    /// Forgets the senders of earlier generations, and concludes the copies that they had. Not at
    /// the death of a generation, which is often known before its last messages arrive; but nothing
    /// of it follows the first frame of its successor.
    fn forget_earlier(&mut self, now: Instant, slot: u32, generation: u32) {
        let cluster = &mut self.sessions.peers.cluster;
        let heard = &mut cluster.link(slot).heard_generation;
        if std::mem::replace(heard, generation) != generation {
            cluster.origins.retain(|_, (of, _)| *of != slot);
            self.sessions.requests.drop_copies_of(
                &mut self.sessions.peers,
                now,
                slot,
                generation.saturating_sub(1),
            );
        }
    }

    /// Handles a notice of another worker.
    fn handle(
        &mut self,
        now: Instant,
        (slot, generation): (u32, u32),
        notice: WorkerMessage,
        is_current: bool,
    ) {
        let cluster = &mut self.sessions.peers.cluster;
        match notice {
            // The sender's own worker knows its identity better than a worker that passes a message
            // on.
            WorkerMessage::Origin(origin) if !cluster.has_room_for(&origin) => {}
            WorkerMessage::Origin(origin) if place_of(origin.peer).0 == slot => {
                cluster.origins.insert(origin.peer, (slot, origin));
            }
            WorkerMessage::Origin(origin) => {
                cluster.origins.entry(origin.peer).or_insert((slot, origin));
            }
            WorkerMessage::Departed(sender) => {
                if cluster.origins.get(&sender).is_some_and(|(of, _)| *of == slot) {
                    cluster.origins.remove(&sender);
                }
            }
            // The entry may have ended already.
            WorkerMessage::Concluded(said) => self.sessions.requests.handle_report(
                &mut self.sessions.peers,
                now,
                (slot, generation),
                &said,
            ),
            // Flow states and credit of a dead generation would apply to its successor.
            _ if !is_current => {}
            WorkerMessage::Consumed(position) => {
                cluster.credit(slot, position);
                self.peers_mut().resume_all();
            }
            WorkerMessage::FlowState { interest, is_blocked } => {
                cluster.set_blocked(slot, interest, is_blocked);
                if !is_blocked {
                    self.peers_mut().resume_all();
                }
            }
            WorkerMessage::Tracked(ticket) => cluster.link(slot).ticket = Some(ticket),
            WorkerMessage::Last => cluster.note_last_message(slot),
        }
    }

    /// Applies changes that other workers have caused.
    pub(crate) fn apply_changes(&mut self, now: Instant, changes: &[DirectoryChange]) {
        let Peers { cluster, table, .. } = &mut self.sessions.peers;
        let (mut reborn, mut over, mut dead, mut leaving) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            // Also of a generation whose successor is known already. A worker that has finished
            // reports its copies itself: the reports are in the inbox.
            if let DirectoryChange::Died { slot, generation, has_finished: false } = *change {
                dead.push((slot, generation));
            }
            if cluster.is_stale(change) {
                continue;
            }
            let generation = match *change {
                DirectoryChange::Generation { slot, generation } => Some((slot, generation)),
                DirectoryChange::Died { slot, .. } => Some((slot, 0)),
                DirectoryChange::Leaving { slot, .. } => {
                    leaving.push(slot);
                    None
                }
                DirectoryChange::QuotaUsage { .. } | DirectoryChange::FewerWorkers => None,
            };
            if let Some((slot, generation)) = generation
                && slot != cluster.own_slot
                && let Some(before) = cluster.generation_of(slot)
                && before != generation
            {
                cluster.replace(slot, generation);
                if generation > 0 {
                    cluster.note_met_while_leaving(slot);
                    reborn.push(slot);
                }
                over.push(slot);
                // The new generation knows none of the senders.
                let introduced = table.values_mut().flat_map(|peer| &mut peer.introduced);
                introduced.for_each(|slots| slots.retain(|known| *known != slot));
            }
            cluster.directory.apply(change);
        }
        over.into_iter().for_each(|slot| self.sessions.requests.forget_publishers_of(slot));
        for (slot, generation) in dead {
            let Sessions { requests, peers, .. } = &mut self.sessions;
            requests.drop_copies_of(peers, now, slot, generation);
        }
        leaving.into_iter().for_each(|slot| self.sessions.peers.cluster.note_leaving(slot));
        // A new worker assumes that no interest is blocked.
        for slot in reborn {
            self.sessions.peers.cluster.tell_blocked(slot);
        }
        self.peers_mut().update_quotas();
        self.note_met();
    }

    /// Continues after news of a worker that messages may have waited for.
    pub(crate) fn note_met(&mut self) {
        self.sessions.peers.cluster.inbound.is_meeting = false;
        self.defer_inbound();
        self.peers_mut().resume_all();
        self.sessions.resume_group_waiters();
    }

    /// Acknowledges subscriptions, because the interests up to this ticket are in the table.
    pub(crate) fn confirmed(&mut self, now: Instant, ticket: u64) {
        let peers = &mut self.sessions.peers;
        for PendingAck { key, peer, correlation, .. } in peers.cluster.confirm(ticket) {
            // The key may belong to another peer by now.
            if peers.table.get(key).is_some_and(|found| found.origin.peer == peer) {
                peers.send(now, key, Header::new(FrameKind::Ack, correlation), &[]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_proto::control::Origin;
    use ipcd_proto::control::{Hello, OverflowPolicy, Receipt, Subscribe, encode};
    use ipcd_proto::{Frame, FrameWriter, HEADER_BYTES};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::MAX_ORIGINS;
    use crate::cluster::messages::OutcomeReport;
    use crate::config::{Config, DaemonInfo, PeerInfo};
    use crate::directory::state::DirectoryState;
    use crate::model::ids::{PeerKey, id_of};
    use crate::model::interest::Interest;
    use crate::output::Output;
    use crate::router::Router;
    use crate::routing::interests::{InterestTable, SharedWords};

    const OWN: u32 = 0;
    const HOSTILE: u32 = 1;

    fn interest(group: Option<&str>) -> Interest {
        Interest { filter: "a.>".into(), group: group.map(str::to_owned) }
    }

    /// A router with two others, and a peer here that subscribes to everything below `a`, also in a
    /// group, and waits for the outcome of a request.
    fn router(now: Instant) -> (Router, PeerKey) {
        let config = Config { queue_limit: 4096, ..Config::new(DaemonInfo::unknown(now)) };
        let config = Config { slot: OWN, generation: 1, ..config };
        let words = SharedWords::private(4096);
        let mut interests = InterestTable::new(3, words.clone(), words, 0);
        let mut shared = DirectoryState::new(3, interests.view());
        for slot in 0..3 {
            interests.begin(slot, 1);
            shared.apply(&DirectoryChange::Generation { slot, generation: 1 });
        }
        interests.insert(2, &interest(None), None).unwrap();
        let mut core = Router::new(config, Some(shared));
        let origin = origin(0);
        let key = core.attach(now, PeerInfo { listener: 0, origin, challenge: None, raw: None });
        let hello = Hello {
            magic: Hello::MAGIC,
            oldest: 1,
            newest: 1,
            features: 0,
            nonce: [0; 32],
            name: None,
            token: None,
            no_echo: false,
        };
        let mut said = Vec::new();
        let mut writer = FrameWriter(&mut said);
        writer.control(Header::new(FrameKind::Hello, 0), &encode(&hello));
        for (subscription, group) in [(1, None), (2, Some("g".to_owned()))] {
            let (filter, overflow) = ("a.>".to_owned(), Some(OverflowPolicy::Block));
            let body = Subscribe { subscription, filter, group, overflow, origin: true };
            writer.control(Header::new(FrameKind::Subscribe, subscription.into()), &encode(&body));
        }
        let header = Header { request: true, wait: 60, ..Header::new(FrameKind::Message, 7) };
        let own = format!("@{}.7", id_of(OWN, 1, 1));
        let reply = own.as_bytes();
        writer.write(&Frame { header, subject: b"a.b", reply, headers: b"", payload: b"?" });
        let progress = core.receive(now, key, &mut said);
        assert_eq!(progress.consumed, said.len());
        (core, key)
    }

    fn origin(peer: u64) -> Origin {
        let (name, transport) = (None, "test".into());
        Origin { peer, name, transport, pid: None, uid: None, gid: None, addr: None }
    }

    fn message(sender: u64, subject: &[u8], subscription: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { sender, subscription, ..Header::new(FrameKind::Message, 9) };
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).write(&Frame {
            header,
            subject,
            reply: b"",
            headers: b"",
            payload,
        });
        bytes
    }

    fn notice(notice: &WorkerMessage) -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(FrameKind::Notice, 0), &encode(notice));
        bytes
    }

    fn any_id() -> impl Strategy<Value = u64> {
        let ours = (0..4_u32, 0..3_u32, 0..3_u32)
            .prop_map(|(slot, generation, number)| id_of(slot, generation, number));
        prop_oneof![ours, any::<u64>()]
    }

    fn any_news() -> impl Strategy<Value = Vec<u8>> {
        let of_interest = prop_oneof![
            Just(interest(None)),
            Just(interest(Some("g"))),
            (".{0,300}", proptest::option::of(".{0,100}"))
                .prop_map(|(filter, group)| Interest { filter, group }),
        ];
        let ticket = prop_oneof![0..3_u64, any::<u64>()];
        let concluded = (ticket.clone(), any::<u64>(), any::<bool>(), any::<bool>());
        prop_oneof![
            any::<u64>().prop_map(WorkerMessage::Consumed),
            (of_interest, any::<bool>()).prop_map(|(interest, is_blocked)| {
                WorkerMessage::FlowState { interest, is_blocked }
            }),
            any_id().prop_map(|peer| WorkerMessage::Origin(origin(peer))),
            any_id().prop_map(WorkerMessage::Departed),
            Just(()).prop_map(|()| WorkerMessage::Last),
            ticket.prop_map(WorkerMessage::Tracked),
            concluded.prop_map(|(ticket, delivered, is_answered, is_passed_on)| {
                let receipt = Receipt { delivered, ..Receipt::default() };
                let said = (is_answered, is_passed_on);
                WorkerMessage::Concluded(OutcomeReport::of(ticket, receipt, said))
            }),
        ]
        .prop_map(|between| notice(&between))
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let subject = prop_oneof![
            Just(b"a.b".to_vec()),
            any_id().prop_map(|id| format!("@{id}").into_bytes()),
            (any_id(), any::<u64>()).prop_map(|(id, n)| format!("@{id}.{n}").into_bytes()),
            vec(any::<u8>(), 0..40),
        ];
        let parts = (any_id(), subject, 0..4_u32, vec(any::<u8>(), 0..3000), 0..9_u8);
        let messages = parts.prop_map(|(id, subject, subscription, payload, flags)| {
            let mut frame = message(id, &subject, subscription, &payload);
            // Requests, receipts, and a flag that does not exist.
            frame[5] ^= flags;
            frame
        });
        prop_oneof![messages, any_news(), vec(any::<u8>(), 0..2 * HEADER_BYTES)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The router survives anything that another worker sends, under any sender's id.
        #[test]
        fn a_hostile_worker_does_not_harm_another(
            records in vec((vec(any_frame(), 0..6), 0..5_u32, 0..4_u32, any::<bool>()), 0..20),
        ) {
            let now = Instant::now();
            let (mut core, key) = router(now);
            for (frames, slot, generation, writes) in records {
                core.arrive(now, slot, generation, &mut frames.concat());
                while let Some(output) = core.poll_output() {
                    if let Output::Forward(slot) = output {
                        let count = core.outgoing(slot).0.len();
                        core.forwarded(slot, count);
                    }
                }
                if writes && core.peer_count() > 0 {
                    let count = core.send_queue(key).len();
                    core.wrote(now, key, count);
                }
                core.tick(now);
                core.counters();
            }
            core.tick(now + Duration::from_secs(120));
            core.detach(now, key);
            prop_assert_eq!(core.peer_count(), 0);
        }

        /// The router survives bytes that are not frames.
        #[test]
        fn any_bytes_may_come(mut bytes in vec(any::<u8>(), 0..300), slot: u32, generation: u32) {
            let now = Instant::now();
            router(now).0.arrive(now, slot, generation, &mut bytes);
        }
    }

    #[test]
    fn a_worker_speaks_for_its_own_peers_only() {
        let now = Instant::now();
        let (mut core, key) = router(now);
        let mut before = core.queued(key);
        for forged in [id_of(2, 1, 1), id_of(OWN, 1, 1), id_of(HOSTILE, 9, 1)] {
            core.arrive(now, HOSTILE, 1, &mut message(forged, b"a.b", 0, b"forged"));
        }
        let to_one = format!("@{}", id_of(OWN, 1, 1));
        let forged = message(id_of(2, 1, 1), to_one.as_bytes(), 1, b"in a group's clothes");
        core.arrive(now, HOSTILE, 1, &mut forged.clone());
        // The open request was sent to slot 2, and to a peer here.
        let own = format!("{to_one}.7");
        let reply = |slot| message(id_of(slot, 1, 1), own.as_bytes(), 0, b"answer");
        core.arrive(now, HOSTILE, 1, &mut reply(HOSTILE));
        assert_eq!(core.queued(key), before);
        core.arrive(now, 2, 1, &mut reply(2));
        assert!(std::mem::replace(&mut before, core.queued(key)) < before);
        core.arrive(now, HOSTILE, 1, &mut message(id_of(HOSTILE, 1, 1), b"a.b", 0, b"its own"));
        assert!(core.queued(key) > before);
    }

    #[test]
    fn a_worker_that_heeds_no_level_fills_no_memory() {
        let now = Instant::now();
        let (mut core, key) = router(now);
        let sender = id_of(HOSTILE, 1, 1);
        let payload = vec![0; 512 * 1024];
        let mut sizes = Vec::new();
        for _ in 0..64 {
            core.arrive(now, HOSTILE, 1, &mut message(sender, b"a.b", 0, &payload));
            sizes.push(core.queued(key));
        }
        assert_eq!(sizes[62], sizes[63], "it has grown to the end");
        let newest = core.counters().into_iter().find(|(name, _)| name.ends_with("_newest"));
        assert!(newest.is_some_and(|(_, dropped)| dropped > 0));
    }

    #[test]
    fn what_is_remembered_for_another_worker_is_bounded() {
        let now = Instant::now();
        let (mut core, _) = router(now);
        for number in 0..MAX_ORIGINS as u32 + 10 {
            let peer = id_of(HOSTILE, 1, number);
            core.arrive(now, HOSTILE, 1, &mut notice(&WorkerMessage::Origin(origin(peer))));
        }
        assert_eq!(core.delivery.sessions.peers.cluster.origins.len(), MAX_ORIGINS);
        let long = Origin { transport: "x".repeat(1000).into(), ..origin(id_of(2, 1, 1)) };
        core.arrive(now, 2, 1, &mut notice(&WorkerMessage::Origin(long)));
        assert!(core.delivery.sessions.peers.cluster.origin(id_of(2, 1, 1)).is_none());
    }
}
