//! A seed's story: storms of random steps, hushes in which everything arrives but some do not
//! read, and a calm after which nothing may be left undone.

use std::time::Duration;

use ipcd_proto::Kind;
use ipcd_proto::control::{Overflow, Query, Unsubscribe, encode};

use crate::client::{Asked, At, What};
use crate::frames::{
    FILTERS, MAX_PAYLOAD, MIN_PAYLOAD, NAMES, SUBJECTS, control, message, payload, subscribe,
};
use crate::world::{BATCH, SUBSCRIPTIONS, World};

/// Peers that are there at once.
const CLIENTS: usize = 9;
/// Rounds that it may take until everything has arrived.
const ROUNDS: usize = 3000;

/// Plays a seed; returns how many messages were delivered.
pub(crate) fn play(seed: u64) -> u64 {
    let mut world = World::new(seed);
    (0..CLIENTS / 2).for_each(|_| world.arrive());
    world.settle_down(true);
    for _ in 0..2 {
        world.storm(400);
        world.settle_down(false);
        world.probe_full();
    }
    world.storm(100);
    world.calm();
    world.probe_free();
    world.calm();
    world.ledger.deliveries
}

impl World {
    fn storm(&mut self, steps: usize) {
        // Some storms have no deaths, so that outboxes fill up all the way.
        let deaths = self.rng.pick(&[0, 1, 3, 6]);
        for _ in 0..steps {
            self.step += 1;
            let slot = self.rng.below(self.slots());
            let other = self.rng.below(self.slots());
            let (link, inbox) = self.deafness[slot];
            match self.rng.below(100) {
                0..8 => self.supervise(),
                8..20 if self.rng.percent(link) => {}
                8..20 => self.hear_link(slot),
                20..35 if self.rng.percent(inbox) => {}
                20..35 => self.hear_other(slot, other),
                35..45 => self.forward(slot, other),
                45..50 => self.obey(slot),
                50..52 => self.tick(),
                52..55 => self.arrive(),
                55..65 => self.with_someone(|world, index| {
                    if !world.clients[index].is_stalled {
                        world.read(index, false);
                    }
                }),
                65..99 if self.rng.percent(100 - deaths) => self.with_someone(Self::act),
                65..99 => self.kill(slot),
                _ => self.with_someone(Self::leave),
            }
        }
    }

    /// Everything arrives, and everybody lives; with `all` also the stalled ones read.
    fn settle_down(&mut self, all: bool) {
        for _ in 0..ROUNDS {
            if self.is_settled(all) {
                return;
            }
            self.round(all);
        }
        panic!("no end after {ROUNDS} rounds");
    }

    fn round(&mut self, all: bool) {
        let slots = self.slots();
        let mut order: Vec<usize> = (0..slots).collect();
        self.rng.shuffle(&mut order);
        self.step += 1;
        self.supervise();
        for slot in order.iter().copied() {
            self.step += 1;
            (0..self.rng.below(4)).for_each(|_| self.hear_link(slot));
            for other in 0..slots {
                self.forward(slot, other);
                (0..self.rng.below(4)).for_each(|_| self.hear_other(slot, other));
            }
            self.obey(slot);
        }
        for index in 0..self.clients.len() {
            self.step += 1;
            self.offer(index);
            if all || !self.clients[index].is_stalled {
                self.read(index, true);
            }
        }
    }

    fn is_settled(&self, all: bool) -> bool {
        let is_settled = |index: usize| {
            let client = &self.clients[index];
            let is_read = !client.wants_write && !client.is_closing;
            client.at == At::Gone
                || (client.is_here()
                    && (client.is_waiting || client.unsent.is_empty())
                    && (is_read || (client.is_stalled && !all)))
        };
        self.sup.is_quiet() && (0..self.clients.len()).all(is_settled)
    }

    /// All read, and then nothing may be left undone.
    fn calm(&mut self) {
        self.clients.iter_mut().for_each(|client| client.is_stalled = false);
        self.settle_down(true);
        // An answer takes along what was not reported because nothing was to be written.
        for index in 0..self.clients.len() {
            self.ask(index, Kind::Ping, &[], Asked::Other);
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
        let places = &self.sup.places;
        self.ledger.settle(
            |client| self.clients[client].can_act(),
            |client| {
                let home = self.clients[client].home;
                home.is_some_and(|(slot, life)| places[slot].incarnation == life)
            },
        );
    }

    /// Who publishes to a full outbox has to wait, on whichever worker: no *off* is forgotten.
    fn probe_full(&mut self) {
        let full: Vec<usize> = (0..self.clients.len()).filter(|&one| self.is_full(one)).collect();
        for target in full {
            let subs = &self.ledger.subs;
            let blocking = self.clients[target].subs.values().map(|sub| &subs[*sub]);
            let subjects = (0..SUBJECTS.len()).filter(|subject| {
                let is_blocked = |sub: &crate::ledger::Sub| {
                    let is_block = sub.overflow == Overflow::Block && !sub.is_ending;
                    is_block && sub.is_taken && sub.wants(usize::MAX, *subject)
                };
                blocking.clone().any(is_blocked)
            });
            let Some(subject) = subjects.into_iter().next() else { continue };
            for index in 0..self.clients.len() {
                let client = &self.clients[index];
                if index == target || !client.can_act() || !client.unsent.is_empty() {
                    continue;
                }
                self.publish(index, subject);
                while !self.clients[index].unsent.is_empty() && !self.clients[index].is_waiting {
                    self.offer(index);
                }
                let waits = self.clients[index].is_waiting;
                assert!(waits, "peer {index} publishes to peer {target}, which is full");
            }
        }
    }

    fn is_full(&self, index: usize) -> bool {
        let client = &self.clients[index];
        let At::Worker { slot, key, .. } = client.at else { return false };
        let worker = self.sup.places[slot].worker.as_ref().expect("all live");
        !client.is_closing && worker.core.queued(key) >= self.config.outbox
    }

    /// Where nobody is full, everybody can publish, ask, and have a name that nobody has.
    fn probe_free(&mut self) {
        for name in NAMES {
            if !self.names.contains_key(name) {
                let slot = self.rng.below(self.slots());
                let index = self.spawn(slot, Some(name));
                self.settle_down(true);
                assert!(self.clients[index].is_open, "{name} is nobody's, and not to be had");
            }
        }
        for index in 0..self.clients.len() {
            for (subject, text) in SUBJECTS.into_iter().enumerate() {
                if self.clients[index].can_act() {
                    let expected = self.matching(subject);
                    let query = Query::Matching(text.into());
                    let asked = Asked::Query { matching: Some(expected) };
                    self.ask(index, Kind::Query, &encode(&query), asked);
                    self.publish(index, subject);
                }
            }
        }
    }

    /// Subscriptions that match a subject.
    fn matching(&self, subject: usize) -> u64 {
        let living = self.clients.iter().filter(|client| client.can_act());
        let subs =
            living.flat_map(|client| client.subs.values()).map(|sub| &self.ledger.subs[*sub]);
        subs.filter(|sub| sub.wants(usize::MAX, subject)).count() as u64
    }

    fn with_someone(&mut self, act: impl FnOnce(&mut Self, usize)) {
        let here: Vec<usize> = self
            .clients
            .iter()
            .filter(|client| client.is_here())
            .map(|client| client.index)
            .collect();
        if !here.is_empty() {
            let index = self.rng.pick(&here);
            act(self, index);
        }
    }

    fn arrive(&mut self) {
        let here = self.clients.iter().filter(|client| client.at != At::Gone).count();
        if here < CLIENTS {
            let name = self.rng.percent(40).then(|| self.rng.pick(&NAMES));
            let slot = self.rng.below(self.slots());
            self.spawn(slot, name);
        }
    }

    fn leave(&mut self, index: usize) {
        match self.rng.percent(50) {
            true => self.detach(index),
            false if self.clients[index].can_act() => {
                let client = &mut self.clients[index];
                client.is_leaving = true;
                client.send(control(Kind::Bye, 0, &[]), What::Other);
            }
            false => {}
        }
    }

    /// A peer does something that comes to its mind.
    fn act(&mut self, index: usize) {
        let client = &self.clients[index];
        if !client.can_act() || !client.unsent.is_empty() {
            return self.offer(index);
        }
        match self.rng.below(100) {
            0..60 => {
                let subject = self.rng.below(SUBJECTS.len());
                (0..self.rng.between(1, BATCH)).for_each(|_| self.publish(index, subject));
            }
            60..80 => self.subscribe(index),
            80..85 => self.unsubscribe(index),
            85..90 => {
                self.clients[index].is_stalled ^= true;
                self.now += Duration::from_millis(1);
            }
            90..97 => self.query(index),
            _ => self.ask(index, Kind::Flush, &[], Asked::Other),
        }
        if self.rng.percent(70) {
            self.offer(index);
        }
    }

    fn publish(&mut self, index: usize, subject: usize) {
        let length = self.rng.between(MIN_PAYLOAD, MAX_PAYLOAD);
        let client = &mut self.clients[index];
        let number = client.next_number;
        client.next_number += 1;
        let frame = message(subject, &payload(index, number, length));
        client.send(frame, What::Message { subject, number });
    }

    fn subscribe(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.subs.len() >= SUBSCRIPTIONS || client.is_curious {
            return;
        }
        let filter = self.rng.pick(&FILTERS);
        let block = Overflow::Block;
        let overflow = self.rng.pick(&[block, block, Overflow::DropOldest, Overflow::DropNewest]);
        let origin = self.rng.percent(50);
        let number = (1..).find(|number| !client.subs.contains_key(number)).expect("endless");
        let sub = self.ledger.subscribe(index, client.no_echo, filter, overflow, origin);
        client.subs.insert(number, sub);
        let correlation = client.correlate(Asked::Subscribe(sub));
        let frame = subscribe(correlation, number, filter, overflow, origin);
        client.send(frame, What::Subscribe(sub));
    }

    fn unsubscribe(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut numbers: Vec<u32> = client.subs.keys().copied().collect();
        numbers.sort_unstable();
        numbers.retain(|number| !client.asked.values().any(|a| *a == Asked::Unsubscribe(*number)));
        if numbers.is_empty() {
            return;
        }
        let number = self.rng.pick(&numbers);
        let sub = client.subs[&number];
        let correlation = client.correlate(Asked::Unsubscribe(number));
        let body = encode(&Unsubscribe { subscription: number });
        let frame = control(Kind::Unsubscribe, correlation, &body);
        client.send(frame, What::Unsubscribe(sub));
    }

    fn query(&mut self, index: usize) {
        if !self.clients[index].is_curious {
            return;
        }
        let ids: Vec<u64> = self.clients.iter().filter_map(|client| client.id).collect();
        let query = match self.rng.below(4) {
            0 => Query::Kick(self.rng.pick(&ids)),
            1 => Query::Matching("a.x".into()),
            _ => Query::Peers,
        };
        self.ask(index, Kind::Query, &encode(&query), Asked::Query { matching: None });
    }

    fn ask(&mut self, index: usize, kind: Kind, body: &[u8], asked: Asked) {
        let client = &mut self.clients[index];
        if client.can_act() {
            let correlation = client.correlate(asked);
            client.send(control(kind, correlation, body), What::Other);
        }
    }
}
