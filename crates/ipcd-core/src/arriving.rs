//! What comes from other workers, and from the supervisor.

use std::collections::VecDeque;
use std::time::Instant;

use crate::cluster::{Cluster, Unconfirmed, WorkerLink, WorkerMessage};
use crate::core::{Output, Router};
use crate::directory::messages::{DirectoryEvent, DirectoryRequest};
use crate::directory::state::DirectoryChange;
use crate::fanout::StampedBatch;
use crate::model::ids::{is_generation, place_of};
use crate::model::names::is_name;
use crate::publish::MessageSender;
use crate::tracked::OutcomeTarget;
use crate::turns::DeferredWork;
use ipcd_proto::control::{Origin, decode as body};
use ipcd_proto::limits::MAX_NAME;
use ipcd_proto::{Address, Decoded, Frame, Header, Kind, decode};

/// Senders elsewhere that are remembered, whatever another worker says.
const MAX_ORIGINS: usize = 256 * 1024;
/// Bytes of other workers that were put off, beyond which nothing more is taken of them.
const MAX_ARRIVALS: usize = 512 * 1024;

/// What other workers have sent, which a turn had no time for.
#[derive(Debug, Default)]
pub(crate) struct InboundQueue {
    queue: VecDeque<InboundBatch>,
    bytes: usize,
    /// Whether a message of theirs has not reached all its receivers yet.
    is_held: bool,
    /// Whether a later turn is to go on with it.
    is_deferred: bool,
}

/// What came at once from a life of a worker, which is taken from `at` on.
#[derive(Debug)]
struct InboundBatch {
    from: (u32, u32),
    frames: Vec<u8>,
    at: usize,
}

impl InboundQueue {
    /// Whether something waits, so that what comes now has to wait, too.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_held || !self.queue.is_empty()
    }

    fn push(&mut self, from: (u32, u32), frames: Vec<u8>) {
        self.bytes += frames.len();
        self.queue.push_back(InboundBatch { from, frames, at: 0 });
    }

    fn put_back(&mut self, arrival: InboundBatch) {
        self.bytes += arrival.frames.len();
        self.queue.push_front(arrival);
    }

    fn pop(&mut self) -> Option<InboundBatch> {
        let first = self.queue.pop_front()?;
        self.bytes -= first.frames.len();
        Some(first)
    }
}

impl Router {
    /// Takes what another worker has sent: whole frames. Messages are delivered even if that life
    /// is over, for they were accepted; news of it is none any more. The caller has made sure that
    /// there has been such a life: it may be heard of here first, ahead of the supervisor's news, and
    /// those before it count as over from then on.
    pub fn arrive(&mut self, now: Instant, slot: u32, generation: u32, frames: &mut [u8]) {
        // Nobody sends to itself.
        if self.generation_of(slot).is_none() || slot == self.config.slot {
            return;
        }
        if self.cluster.as_ref().is_some_and(|cluster| cluster.arrivals.is_waiting()) {
            let cluster = self.cluster.as_mut().expect("it was found above");
            return cluster.arrivals.push((slot, generation), frames.to_vec());
        }
        self.grant_arrivals();
        let taken = self.take_arrivals(now, (slot, generation), frames);
        if taken < frames.len()
            && let Some(cluster) = &mut self.cluster
        {
            let (from, frames) = ((slot, generation), frames[taken..].to_vec());
            cluster.arrivals.put_back(InboundBatch { from, frames, at: 0 });
        }
        self.put_off_arrivals();
    }

    /// Takes frames of another worker, until the steps for it are used up; says how many bytes.
    fn take_arrivals(&mut self, now: Instant, from: (u32, u32), frames: &mut [u8]) -> usize {
        let (slot, generation) = from;
        // Not before what earlier lives have sent was taken.
        if generation > self.last_generation_of(slot).max(self.generation_of(slot).unwrap_or(0)) {
            self.learn(now, &[DirectoryChange::Generation { slot, generation: generation }]);
        }
        let is_current = self.generation_of(slot) == Some(generation);
        self.outlive(now, slot, generation);
        let mut at = 0;
        let has_more = |core: &Self| {
            let is_held = core.cluster.as_ref().is_some_and(|cluster| cluster.arrivals.is_held);
            !is_held && !core.budget.is_spent()
        };
        while (at == 0 || has_more(self))
            && let Ok(Decoded::Frame(frame, length)) = decode(&frames[at..], usize::MAX)
        {
            self.budget.spend(2);
            at += match frame.header.kind {
                Kind::Message => self.arrive_message(now, from, &mut frames[at..], length),
                _ => {
                    if let Ok(news) = body(frame.payload) {
                        self.hear(now, (slot, generation), news, is_current);
                    }
                    length
                }
            };
        }
        // What is no frame, which no honest worker sends, is consumed with the rest.
        let is_done = !matches!(decode(&frames[at..], usize::MAX), Ok(Decoded::Frame(..)));
        let taken = if is_done { frames.len() } else { at };
        self.report_consumed(slot, taken, is_current);
        taken
    }

    fn report_consumed(&mut self, slot: u32, bytes: usize, is_current: bool) {
        let Some(cluster) = self.cluster.as_mut().filter(|_| is_current) else { return };
        let link = &mut cluster.links[slot as usize];
        link.consumed += bytes as u64;
        // Reported by the quarter, so that publishers never wait for a report that nobody owes.
        if link.consumed - link.reported >= cluster.window / 4 {
            link.reported = link.consumed;
            let news = WorkerMessage::Consumed(link.consumed);
            let output = cluster.tell(slot, &news);
            self.outputs.extend(output);
        }
    }

    /// Goes on with what other workers have sent and was put off.
    pub(crate) fn go_on_arriving(&mut self, now: Instant) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.arrivals.is_deferred = false;
        let Some(InboundBatch { from, mut frames, at }) = cluster.arrivals.pop() else { return };
        let taken = at + self.take_arrivals(now, from, &mut frames[at..]);
        if taken < frames.len()
            && let Some(cluster) = &mut self.cluster
        {
            cluster.arrivals.put_back(InboundBatch { from, frames, at: taken });
        }
        self.put_off_arrivals();
    }

    /// A message of another worker has not reached all its receivers yet, or has now: what comes
    /// behind it waits.
    pub(crate) fn hold_arrivals(&mut self, is_held: bool) {
        if let Some(cluster) = &mut self.cluster {
            cluster.arrivals.is_held = is_held;
        }
        self.put_off_arrivals();
    }

    fn put_off_arrivals(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        let arrivals = &mut cluster.arrivals;
        if !arrivals.queue.is_empty() && !arrivals.is_held && !arrivals.is_deferred {
            arrivals.is_deferred = true;
            self.deferred.push_back(DeferredWork::Inbound);
        }
    }

    /// Whether so much of other workers was put off that nothing more is to be taken of them.
    pub fn is_behind(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.arrivals.bytes >= MAX_ARRIVALS)
    }

    /// Delivers the message that begins here, and those behind it that go the same way.
    fn arrive_message(
        &mut self,
        now: Instant,
        (slot, generation): (u32, u32),
        bytes: &mut [u8],
        length: usize,
    ) -> usize {
        let Ok(Decoded::Frame(Frame { header, subject, .. }, _)) = decode(bytes, length) else {
            return length;
        };
        let (sent_by, in_id) = place_of(header.sender);
        let is_its_own = sent_by == slot && is_generation(generation, in_id);
        let address = Address::parse(subject);
        // Only a message of a group may have been passed on by another worker than its sender's.
        if !is_its_own && (header.subscription == 0 || address.is_some()) {
            self.count_stale(1);
            return length;
        }
        if header.is_tracked() && self.trackers.is_full() {
            self.turn_away(slot);
            return length;
        }
        if address.is_none() && header.subscription == 0 && !header.is_tracked() {
            return self.deliver_run(now, bytes, length);
        }
        let frame = &mut bytes[..length];
        let ticket = header.is_tracked().then(|| {
            let link = self.cluster.as_mut().map(|cluster| &mut cluster.links[slot as usize]);
            let theirs = link.and_then(|link| link.ticket.take());
            let home =
                theirs.map_or(OutcomeTarget::Nowhere, |ticket| OutcomeTarget::There(slot, ticket));
            self.track(now, home, &header)
        });
        let from = MessageSender { key: None, id: header.sender };
        if let Some(address) = address {
            self.deliver_direct(now, from, frame, address, ticket);
        } else if header.subscription != 0 {
            self.arrive_for_group(now, frame, header.subscription, ticket);
        } else if let Ok(targets) = self.route(subject_of(frame)) {
            let run = StampedBatch { bytes: frame, count: 1, subscription: 0, ticket };
            self.deliver_to_all(now, from, &targets, run);
            return length;
        }
        if let Some(ticket) = ticket {
            self.dealt_out(now, ticket);
        }
        length
    }

    /// Forgets the senders of an earlier life there, and what it has still to tell. Not at its end,
    /// which is often known before its last messages are here; but nothing of it comes after what the
    /// next one has sent.
    fn outlive(&mut self, now: Instant, slot: u32, generation: u32) {
        let Some(cluster) = &mut self.cluster else { return };
        let heard = &mut cluster.links[slot as usize].heard_generation;
        if std::mem::replace(heard, generation) != generation {
            cluster.origins.retain(|_, (of, _)| *of != slot);
            self.lose_copies(now, slot, generation.saturating_sub(1));
        }
    }

    fn hear(
        &mut self,
        now: Instant,
        (slot, generation): (u32, u32),
        news: WorkerMessage,
        is_current: bool,
    ) {
        let Some(cluster) = &mut self.cluster else { return };
        match news {
            // Its own worker knows better than one that has passed on a message of its.
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
            // Its end may be known already.
            WorkerMessage::Concluded(said) => {
                self.concluded_elsewhere(now, (slot, generation), &said)
            }
            _ if !is_current => {}
            WorkerMessage::Consumed(position) => {
                let link = &mut cluster.links[slot as usize];
                link.credited = position.clamp(link.credited, link.sent);
                self.resume_all();
            }
            WorkerMessage::Level { interest, off } => {
                cluster.set_level(slot, interest, off);
                if !off {
                    self.resume_all();
                }
            }
            WorkerMessage::Tracked(ticket) => cluster.links[slot as usize].ticket = Some(ticket),
            WorkerMessage::Last => self.had_last_of(slot),
        }
    }

    /// Takes news of the supervisor's.
    pub fn hear_news(&mut self, now: Instant, news: DirectoryEvent) {
        let (slot, generation) = (self.config.slot, self.config.generation);
        match news {
            DirectoryEvent::Changes { epoch, changes } => {
                let Some(cluster) = &mut self.cluster else { return };
                // What was told before this worker was born, it has inherited.
                if epoch > cluster.shared.epoch {
                    cluster.shared.epoch = epoch;
                    self.learn(now, &changes);
                }
                self.outputs.push_back(Output::Tell(DirectoryRequest::Seen(epoch)));
            }
            DirectoryEvent::Confirmed { to, ticket } if to == generation => {
                self.confirmed(now, ticket)
            }
            DirectoryEvent::Named { to, key, peer, name, granted } if to == generation => {
                if self.is_waiting_for_name(key, peer) {
                    self.named(now, key, granted);
                } else if granted {
                    // The peer has gone meanwhile, and nobody else will give its name back.
                    self.release_name(name);
                }
            }
            DirectoryEvent::Question { asker, query } => self.answer_question(now, asker, query),
            DirectoryEvent::Answer { asker, part, last }
                if (asker.slot, asker.generation) == (slot, generation) =>
            {
                self.reported(now, asker.ticket, part, last);
            }
            DirectoryEvent::Denied(asker)
                if (asker.slot, asker.generation) == (slot, generation) =>
            {
                self.question_denied(now, asker.ticket);
            }
            // What was meant for the worker that lived here before.
            _ => {}
        }
    }

    /// Learns what has changed elsewhere.
    fn learn(&mut self, now: Instant, changes: &[DirectoryChange]) {
        let Some(cluster) = &mut self.cluster else { return };
        let (mut reborn, mut over, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
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
                DirectoryChange::Interested { .. }
                | DirectoryChange::Uninterested { .. }
                | DirectoryChange::QuotaUsage { .. } => None,
            };
            if let Some((slot, generation)) = generation
                && slot != cluster.own_slot
                && let Some(before) = cluster.shared.generations.get(slot as usize).copied()
                && before != generation
            {
                let link = &mut cluster.links[slot as usize];
                let last_generation = link.last_generation.max(generation);
                *link = WorkerLink {
                    last_generation,
                    heard_generation: link.heard_generation,
                    ..WorkerLink::default()
                };
                cluster.off.retain(|(of, _)| *of != slot);
                reborn.extend((generation > 0).then_some(slot));
                cluster.owes_nothing(slot);
                over.push((slot, before, change.tells_the_rest()));
                let introduced = self.peers.iter_mut().flat_map(|(_, peer)| &mut peer.introduced);
                introduced.for_each(|slots| slots.retain(|known| *known != slot));
            }
            let off = &cluster.off;
            cluster.shared.apply(change, |slot, interest| off.contains(&(slot, interest.clone())));
        }
        for (slot, generation, tells_the_rest) in over {
            self.bury_homes(slot);
            if generation > 0 && !tells_the_rest {
                self.lose_copies(now, slot, generation);
            }
        }
        leaving.into_iter().for_each(|slot| self.hear_of_leaving(slot));
        for slot in reborn {
            self.tell_levels(slot);
        }
        if changes.iter().any(DirectoryChange::is_about_charges) {
            self.update_charges();
        }
        self.resume_all();
        self.resume_group_waiters();
    }

    /// All workers know of the interests up to this ticket.
    fn confirmed(&mut self, now: Instant, ticket: u64) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.confirmed = cluster.confirmed.max(ticket);
        let known: Vec<_> =
            cluster.unconfirmed.extract_if(.., |waiting| waiting.ticket <= ticket).collect();
        for Unconfirmed { key, peer, correlation, .. } in known {
            if self.peers.get(key.0 as usize).is_some_and(|found| found.origin.peer == peer) {
                self.send(now, key, Header::new(Kind::Ack, correlation), &[]);
            }
        }
    }

    fn resume_all(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        let waiters = cluster.waiters.take();
        self.resume(waiters);
    }
}

impl Cluster {
    /// Whether a sender may be remembered: as many, and in as many words, as there are in earnest.
    fn has_room_for(&self, origin: &Origin) -> bool {
        self.origins.len() < MAX_ORIGINS
            && origin.name.as_deref().is_none_or(is_name)
            && origin.transport.len() <= MAX_NAME
    }

    /// Whether a change is of a life that is known to be over: news of the next one may come
    /// earlier, from the worker itself or by inheritance.
    fn is_stale(&self, change: &DirectoryChange) -> bool {
        let known = |slot: u32| self.shared.generations.get(slot as usize).copied().unwrap_or(0);
        match *change {
            DirectoryChange::Generation { slot, generation } => {
                let last = self.links.get(slot as usize).map_or(0, |link| link.last_generation);
                generation < known(slot).max(last)
            }
            DirectoryChange::Leaving { slot, generation }
            | DirectoryChange::Died { slot, generation, .. } => known(slot) != generation,
            DirectoryChange::Interested { .. }
            | DirectoryChange::Uninterested { .. }
            | DirectoryChange::QuotaUsage { .. } => false,
        }
    }
}

/// The subject of a whole frame.
fn subject_of(frame: &[u8]) -> &[u8] {
    match decode(frame, usize::MAX) {
        Ok(Decoded::Frame(Frame { subject, .. }, _)) => subject,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_proto::control::{Hello, Overflow, Receipt, Subscribe, encode};
    use ipcd_proto::{FrameWriter, HEADER_BYTES};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::directory::state::{DirectoryState, Interest};
    use crate::model::config::{Config, DaemonInfo, PeerInfo};
    use crate::model::ids::{PeerKey, id_of};
    use crate::tracked::OutcomeReport;

    const OWN: u32 = 0;
    const HOSTILE: u32 = 1;

    fn interest(group: Option<&str>) -> Interest {
        Interest { filter: "a.>".into(), group: group.map(str::to_owned) }
    }

    /// A router with two others, and a peer here that wants everything below `a`, also in a group,
    /// and waits for the outcome of a request.
    fn router(now: Instant) -> (Router, PeerKey) {
        let config = Config { outbox: 4096, ..Config::new(DaemonInfo::unknown(now)) };
        let config = Config { slot: OWN, generation: 1, ..config };
        let mut shared = DirectoryState::new(3);
        for slot in 0..3 {
            shared.apply(&DirectoryChange::Generation { slot, generation: 1 }, |_, _| false);
        }
        let wanted = DirectoryChange::Interested { slot: 2, interest: interest(None), share: None };
        shared.apply(&wanted, |_, _| false);
        let mut core = Router::new(config, Some(shared));
        let origin = origin(0);
        let key = core.attach(now, PeerInfo { listener: 0, origin, challenge: None, bare: None });
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
        writer.control(Header::new(Kind::Hello, 0), &encode(&hello));
        for (subscription, group) in [(1, None), (2, Some("g".to_owned()))] {
            let (filter, overflow) = ("a.>".to_owned(), Some(Overflow::Block));
            let body = Subscribe { subscription, filter, group, overflow, origin: true };
            writer.control(Header::new(Kind::Subscribe, subscription.into()), &encode(&body));
        }
        let header = Header { request: true, wait: 60, ..Header::new(Kind::Message, 7) };
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
        let header = Header { sender, subscription, ..Header::new(Kind::Message, 9) };
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

    fn news(news: &WorkerMessage) -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(Kind::Notice, 0), &encode(news));
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
            (of_interest, any::<bool>())
                .prop_map(|(interest, off)| WorkerMessage::Level { interest, off }),
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
        .prop_map(|between| news(&between))
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
            // Requests, receipts, and a flag that there is not.
            frame[5] ^= flags;
            frame
        });
        prop_oneof![messages, any_news(), vec(any::<u8>(), 0..2 * HEADER_BYTES)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Whatever another worker sends, and in whosever name: this one goes on.
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
                    let count = core.outbox(key).len();
                    core.wrote(now, key, count);
                }
                core.tick(now);
                core.counters();
            }
            core.tick(now + Duration::from_secs(120));
            core.detach(now, key);
            prop_assert_eq!(core.peer_count(), 0);
        }

        /// The same of bytes that are not even frames.
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
        // The request that waits was dealt out to slot 2, and to a peer here.
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
            core.arrive(now, HOSTILE, 1, &mut news(&WorkerMessage::Origin(origin(peer))));
        }
        assert_eq!(core.cluster.as_ref().map(|cluster| cluster.origins.len()), Some(MAX_ORIGINS));
        let long = Origin { transport: "x".repeat(1000).into(), ..origin(id_of(2, 1, 1)) };
        core.arrive(now, 2, 1, &mut news(&WorkerMessage::Origin(long)));
        assert!(
            core.cluster.as_ref().is_some_and(|cluster| cluster.origin(id_of(2, 1, 1)).is_none())
        );
    }
}
