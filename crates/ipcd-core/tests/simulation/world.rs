//! The whole daemon in memory, and its steps.
//!
//! A step moves one thing: a message on a link, a record in an inbox, or bytes of a peer. The order
//! on one link or stream is kept; between them, anything may overtake anything.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipcd_core::{
    Acl, AclRule, Config, DaemonInfo, DirectoryRequest, Output, PeerInfo, PeerKey, RuleAction,
    RuleScope, SubjectPattern,
};
use ipcd_proto::control::Origin;
use ipcd_proto::{DecodedFrame, FrameKind, decode};

use crate::acts::CLIENTS;
use crate::client::{At, Client, What};
use crate::frames::{MAX_MESSAGE, MAX_PAYLOAD, NAMES, RESTRICTED, SECRET, SUBJECTS, hello, id_in};
use crate::ledger::Ledger;
use crate::places::{Down, INBOX_RECORDS, Place, Record, Supervisor, Worker};
use crate::rng::Rng;

/// Messages that a peer sends at once, and subscriptions of a peer.
pub(crate) const BATCH: usize = 4;
pub(crate) const SUBSCRIPTIONS: usize = 2;
/// Bytes that are sent without waiting: identities, flow states, reports, answers to requests.
const SLACK: usize = 2000;
/// Bytes of an outcome, in flight or reported.
const OUTCOME: usize = 200;

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) step: u64,
    pub(crate) sup: Supervisor,
    pub(crate) clients: Vec<Client>,
    pub(crate) ledger: Ledger,
    /// The delay with which each worker reads its link and its inbox, so that one may run far
    /// ahead.
    pub(crate) deafness: Vec<(usize, usize)>,
    /// Whether no peer leaves and no worker is killed.
    pub(crate) is_peaceful: bool,
    /// The longest step in time, in milliseconds.
    pub(crate) haste: usize,
    /// The peer that has each name.
    pub(crate) names: HashMap<&'static str, usize>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let (mut rng, now) = (Rng::new(seed), Instant::now());
        let long = Duration::from_secs(3600);
        let config = Config {
            max_payload: MAX_PAYLOAD,
            queue_limit: rng.between(1000, 2500),
            pace: rng.pick(&[256 * 1024, 600]),
            sharers: 1 + (seed % 3) as usize,
            window: rng.between(800, 2500) as u64,
            // So few that most messages with several receivers are deferred.
            turn: rng.pick(&[16 * 1024, 1, 4, 40]),
            slice: rng.pick(&[2048, 1, 4]),
            handshake_timeout: rng.pick(&[long, Duration::from_millis(300)]),
            frame_timeout: long,
            stall_timeout: rng.pick(&[long, long, Duration::from_millis(500)]),
            max_subscriptions_per_principal: 100_000,
            max_bytes_per_principal: rng.pick(&[0, 3000, 10_000]),
            acl: rules(),
            ..Config::new(DaemonInfo::unknown(now))
        };
        // One worker for each peer, or a few for all.
        let is_brief = rng.percent(25);
        let slots = if is_brief { CLIENTS } else { rng.between(2, 4) };
        let deafness =
            (0..slots).map(|_| (rng.pick(&[0, 0, 60, 95]), rng.pick(&[0, 0, 70, 97]))).collect();
        let (is_peaceful, haste) = (rng.percent(25), rng.pick(&[60, 60, 500]));
        Self {
            is_peaceful,
            haste,
            rng,
            config,
            now,
            step: 0,
            sup: Supervisor::new(slots, is_brief),
            clients: Vec::new(),
            ledger: Ledger::default(),
            deafness,
            names: HashMap::new(),
        }
    }

    pub(crate) fn slots(&self) -> usize {
        self.sup.places.len()
    }

    /// Adds a peer, which is in flight to a worker.
    pub(crate) fn spawn(&mut self, slot: usize, name: Option<&'static str>) -> usize {
        let index = self.clients.len();
        let mut client = Client::new(index, name);
        client.no_echo = self.rng.percent(30);
        client.is_restricted = self.rng.percent(25);
        client.is_curious = self.rng.percent(25);
        client.births_at_relief = self.sup.births;
        client.send(hello(name, client.no_echo), What::Other);
        self.clients.push(client);
        if self.sup.places[slot].is_brief {
            self.sup.fork(slot, &self.config);
            self.admit(slot, index);
            self.touched(slot);
        } else {
            self.sup.places[slot].down.push_back(Down::Admit(index));
        }
        index
    }

    /// Returns a slot for one more peer.
    pub(crate) fn slot_for_peer(&mut self) -> Option<usize> {
        let is_free = |place: &Place| !place.is_brief || !place.is_running;
        let places = (0..).zip(&self.sup.places).filter(|(_, place)| is_free(place));
        let free: Vec<usize> = places.map(|(slot, _)| slot).collect();
        (!free.is_empty()).then(|| self.rng.pick(&free))
    }

    /// The supervisor's turn: it reads from some workers, notices some deaths, and starts some
    /// workers.
    pub(crate) fn supervise(&mut self) {
        for slot in 0..self.slots() {
            while self.rng.percent(70) && self.sup.handle(slot) {}
            let place = &self.sup.places[slot];
            if place.is_running && place.worker.is_none() && self.rng.percent(50) {
                self.sup.bury(slot);
            }
        }
        for slot in 0..self.slots() {
            let place = &self.sup.places[slot];
            if !place.is_running && !place.is_brief && self.rng.percent(60) {
                self.sup.fork(slot, &self.config);
            }
        }
        self.sup.spread_news();
    }

    /// Kills a worker, with its peers and its unsent messages.
    pub(crate) fn kill(&mut self, slot: usize) {
        if let Some(worker) = self.sup.places[slot].worker.take() {
            self.ledger.is_killed = true;
            self.ledger.killed.insert((slot, worker.generation));
            worker.clients.into_values().for_each(|client| self.depart(client));
        }
    }

    /// Lets a worker read its link.
    pub(crate) fn hear_link(&mut self, slot: usize) {
        let (now, place) = (self.now, &mut self.sup.places[slot]);
        let Some(worker) = &mut place.worker else { return };
        match place.down.pop_front() {
            None => return,
            Some(Down::DirectoryEvent(news)) => worker.core.handle_event(now, news),
            Some(Down::Admit(index)) => self.admit(slot, index),
        }
        self.touched(slot);
    }

    fn admit(&mut self, slot: usize, index: usize) {
        let worker = self.sup.places[slot].worker.as_mut().expect("it lives");
        let client = &mut self.clients[index];
        let origin = Origin {
            peer: 0,
            name: None,
            transport: "test".into(),
            pid: None,
            uid: client.is_restricted.then_some(RESTRICTED),
            gid: None,
            addr: None,
        };
        let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
        let key = worker.core.attach(self.now, info);
        assert_eq!(worker.clients.insert(key, index), None, "{key:?} is in use");
        self.ledger.ids.insert(index, worker.core.origin(key).peer);
        client.at = At::Worker { slot, generation: worker.generation, key };
        client.home = Some((slot, worker.generation));
    }

    /// Lets a worker leave whose only peer has gone, if no message for it is in flight.
    pub(crate) fn leave_place(&mut self, slot: usize) {
        let place = &mut self.sup.places[slot];
        let Some(worker) = place.worker.as_mut().filter(|worker| worker.clients.is_empty()) else {
            return;
        };
        if !place.is_brief {
            return;
        }
        let has_open = count(worker, "outcomes_open") > 0;
        let may_end = worker.core.leave(self.now);
        if has_open {
            // The publisher of a request that was passed on does not learn its end from a worker
            // that has left.
            self.ledger.outcomes.handed_back = Some(self.step);
        }
        self.obey(slot);
        let place = &mut self.sup.places[slot];
        let is_over = |worker: &mut Worker| may_end && worker.core.is_forwarded();
        if let Some(mut worker) = place.worker.take_if(is_over) {
            let counters = worker.core.last_counters();
            for (name, count) in &counters {
                *self.ledger.ended.entry(name.clone()).or_default() += count;
            }
            place.up.push_back(DirectoryRequest::Counted(counters));
        }
    }

    /// Lets a worker take the next record of a sender.
    pub(crate) fn hear_other(&mut self, slot: usize, from: usize) {
        let (now, place) = (self.now, &mut self.sup.places[slot]);
        let Some(worker) = &mut place.worker else { return };
        let Some(mut record) = place.inbox[from].pop_front() else { return };
        // Records for the previous generation are useless to this one.
        if record.to_generation == worker.generation {
            worker.core.arrive(now, from as u32, record.generation, &mut record.frames);
            self.touched(slot);
        }
    }

    /// Lets a worker send some of its frames for another.
    pub(crate) fn forward(&mut self, slot: usize, to: usize) {
        let is_full = self.sup.places[to].inbox[slot].len() >= INBOX_RECORDS;
        let Some(worker) = &mut self.sup.places[slot].worker else { return };
        if !worker.forwards.contains(&to) {
            return;
        }
        let (frames, to_generation) = worker.core.outgoing(to as u32);
        if is_full && !frames.is_empty() {
            return;
        }
        let mut length = 0;
        while let Ok(DecodedFrame::Frame(frame, next)) = decode(&frames[length..], usize::MAX) {
            length += next;
            if frame.header.kind == FrameKind::Message {
                let id = id_in(frame.payload).expect("a message as it was sent");
                let is_own = self.clients[id.0].home == Some((slot, worker.generation));
                self.ledger.handed_over.extend((!is_own).then_some(id));
            }
            if self.rng.percent(20) {
                break;
            }
        }
        if length == 0 {
            worker.forwards.remove(&to);
            return;
        }
        let record = Record {
            generation: worker.generation,
            to_generation,
            frames: frames[..length].to_vec(),
        };
        worker.core.forwarded(to as u32, length);
        self.sup.places[to].inbox[slot].push_back(record);
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self) {
        self.now += Duration::from_millis(self.rng.below(self.haste) as u64);
        let slot = self.rng.below(self.slots());
        if let Some(worker) = &mut self.sup.places[slot].worker {
            worker.core.tick(self.now);
            self.touched(slot);
        }
    }

    /// Lets a peer take some bytes, and removes it after the last ones if it is leaving.
    pub(crate) fn read(&mut self, index: usize, takes_all: bool) {
        let At::Worker { slot, key, .. } = self.clients[index].at else { return };
        let place = &mut self.sup.places[slot];
        let Some(worker) = &mut place.worker else { return };
        let client = &mut self.clients[index];
        if client.wants_write {
            let queued = worker.core.queued(key);
            let most = if takes_all { queued } else { self.rng.below(queued + 1) };
            let mut bytes = worker.core.queue_pieces(key).collect::<Vec<_>>().concat();
            bytes.truncate(most);
            client.wants_write = most < queued;
            worker.core.wrote(self.now, key, most);
            client.read(&bytes, &mut self.ledger, self.step);
            self.touched(slot);
        }
        // The peer may have gone meanwhile.
        let At::Worker { slot, key, .. } = self.clients[index].at else { return };
        let Some(worker) = &self.sup.places[slot].worker else { return };
        if self.clients[index].is_closing && worker.core.is_flushed(key) {
            self.detach(index);
        }
    }

    /// Lets the worker read bytes of a peer, perhaps not all.
    pub(crate) fn offer(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let At::Worker { slot, key, .. } = client.at else { return };
        let Some(worker) = &mut self.sup.places[slot].worker else { return };
        if client.is_waiting || client.unsent.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        client.unsent.iter().for_each(|(frame, _)| bytes.extend_from_slice(frame));
        if self.rng.percent(20) {
            bytes.truncate(self.rng.below(bytes.len() + 1));
        }
        let accepted = accepted_by(worker);
        let progress = worker.core.receive(self.now, key, &mut bytes);
        let mut accepted = accepted_by(worker) - accepted;
        client.accepted += accepted;
        client.is_waiting = progress.waiting;
        let mut consumed = progress.consumed;
        while consumed > 0
            && let Some((frame, what)) = client.unsent.pop_front()
        {
            match what {
                // A peer whose session ends may send, but nothing is accepted.
                What::Message(sent) if accepted > 0 => {
                    accepted -= 1;
                    self.ledger.accept(index, sent, self.step, self.now);
                }
                What::Subscribe(sub) => self.ledger.subs[sub].is_taken = true,
                What::Unsubscribe(sub) => self.ledger.subs[sub].is_ending = true,
                _ => {}
            }
            consumed = consumed.saturating_sub(frame.len());
        }
        self.touched(slot);
    }

    /// Detaches a peer from its worker.
    pub(crate) fn detach(&mut self, index: usize) {
        let At::Worker { slot, key, .. } = self.clients[index].at else { return };
        let Some(worker) = &mut self.sup.places[slot].worker else { return };
        let left = worker.core.queue_pieces(key).collect::<Vec<_>>().concat();
        self.clients[index].leaves_behind(&left, &mut self.ledger);
        worker.core.detach(self.now, key);
        worker.clients.remove(&key);
        worker.is_stale = true;
        self.depart(index);
        self.touched(slot);
    }

    fn depart(&mut self, index: usize) {
        self.clients[index].at = At::Gone;
        self.ledger.left.entry(index).or_insert(self.step);
        self.names.retain(|_, holder| *holder != index);
    }

    /// Follows each action of a worker: checks the bounds, and carries out the router's outputs,
    /// now or later.
    fn touched(&mut self, slot: usize) {
        self.check_bounds(slot);
        if let Some(worker) = &mut self.sup.places[slot].worker {
            worker.is_stale = true;
        }
        if self.rng.percent(70) {
            self.obey(slot);
        }
    }

    /// Carries out a router's outputs.
    pub(crate) fn obey(&mut self, slot: usize) {
        while let Some(worker) = &mut self.sup.places[slot].worker {
            let Some(output) = worker.core.poll_output() else {
                if worker.core.has_deferred() && self.rng.percent(50) {
                    worker.core.run_deferred(self.now);
                    continue;
                }
                worker.is_stale = false;
                return;
            };
            match output {
                Output::Forward(to) => drop(worker.forwards.insert(to as usize)),
                Output::Tell(request) => self.sup.places[slot].up.push_back(request),
                Output::Write(key) => self.client(slot, key).wants_write = true,
                Output::Opened(key) => self.opened(slot, key),
                Output::Denied(key, _) => assert!(self.client(slot, key).is_restricted),
                Output::Close(key, _) => {
                    let step = self.step;
                    let client = self.client(slot, key);
                    let index = client.index;
                    // The daemon may let a peer go that has said BYE, before it has heard that.
                    let is_bye = |frame: &[u8]| frame[4] == FrameKind::Bye as u8;
                    let has_told = client.unsent.iter().all(|(frame, _)| !is_bye(frame));
                    let goes_by_itself = client.is_leaving && has_told;
                    (client.is_closing, client.is_waiting) = (true, false);
                    client.wants_write = true;
                    self.ledger.left.entry(index).or_insert(step);
                    if !goes_by_itself {
                        self.ledger.cut_off.entry(index).or_insert(step);
                    }
                }
                Output::Resume(key) => {
                    let client = self.client(slot, key);
                    client.is_waiting = false;
                    let index = client.index;
                    self.offer(index);
                }
                Output::Drop(key, _) => {
                    let index = self.client(slot, key).index;
                    self.detach(index);
                }
            }
        }
    }

    fn client(&mut self, slot: usize, key: PeerKey) -> &mut Client {
        let worker = self.sup.places[slot].worker.as_ref().expect("it has just spoken");
        &mut self.clients[worker.clients[&key]]
    }

    fn opened(&mut self, slot: usize, key: PeerKey) {
        let (index, name) = (self.client(slot, key).index, self.client(slot, key).name);
        if let Some(name) = name {
            assert!(NAMES.contains(&name));
            let before = self.names.insert(name, index);
            assert_eq!(before, None, "{name} has two peers");
        }
    }

    /// Checks the bounds on memory: of each stream, and of each send queue.
    fn check_bounds(&mut self, slot: usize) {
        let (slots, births) = (self.slots(), self.sup.births);
        let Some(worker) = &self.sup.places[slot].worker else { return };
        let (queue_limit, window) = (self.config.queue_limit, self.config.window as usize);
        let run = BATCH * MAX_MESSAGE;
        // A message that is passed on was already bounded on the way to the first worker.
        let ways = if self.ledger.handed_over.is_empty() { 1 } else { slots };
        let outcomes = OUTCOME * self.ledger.outcomes.open(None);
        for to in 0..slots {
            let outstanding = worker.core.outstanding(to as u32);
            let most = (ways * (window + run) + outcomes + SLACK) as u64;
            assert!(outstanding <= most, "{outstanding} bytes from {slot} to {to}");
        }
        for (key, index) in &worker.clients {
            let (queued, client) = (worker.core.queued(*key), &mut self.clients[*index]);
            if queued <= queue_limit / 2 {
                client.births_at_relief = births;
            }
            // A new worker may send a window's worth before it knows which interests are blocked.
            let senders = slots as u64 - 1 + births - client.births_at_relief;
            let copies = run + senders as usize * ways * (window + run);
            let outcomes = OUTCOME * self.ledger.outcomes.open(Some(*index));
            // Direct messages may exceed the limit of the send queue by a quarter.
            let most = queue_limit / 4 * 5 + SUBSCRIPTIONS * copies + outcomes + SLACK;
            let most = if client.is_curious { usize::MAX } else { most };
            assert!(queued <= most, "{queued} bytes for peer {index}, at most {most}");
        }
    }
}

/// Returns the access rules: some peers may not receive everything.
fn rules() -> Acl {
    let secret = SubjectPattern::try_from(SUBJECTS[SECRET].to_owned()).expect("a pattern");
    let whom = RuleScope { uid: Some(RESTRICTED), ..RuleScope::default() };
    let (subscribe, action) = (vec![secret], RuleAction::Deny);
    let rules = vec![AclRule { whom, subscribe, action, ..AclRule::default() }];
    Acl { rules, ..Acl::default() }
}

/// Returns the number of messages that a worker's router has accepted.
fn accepted_by(worker: &mut Worker) -> u64 {
    count(worker, "messages_accepted")
}

/// Returns one counter of a worker's router.
pub(crate) fn count(worker: &mut Worker, name: &str) -> u64 {
    let counters = worker.core.counters();
    let found = counters.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).1
}
