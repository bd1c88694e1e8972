//! The random actions of peers.

use std::time::Duration;

use ipcd_proto::control::{OverflowPolicy, Query, Unsubscribe, encode};
use ipcd_proto::{FrameKind, Header};

use crate::client::{Asked, At, What};
use crate::frames::{
    FILTERS, GROUP_FILTERS, GROUPS, Id, MAX_PAYLOAD, MIN_PAYLOAD, NAMES, SECRET, SUBJECTS, Wish,
    control, matches, message, payload, subscribe,
};
use crate::outcomes::{Call, Sent, To};
use crate::world::{BATCH, SUBSCRIPTIONS, World};

/// The most peers at a time.
pub(crate) const CLIENTS: usize = 9;
/// A peer id that does not exist: no slot is that large.
const NOBODY: u64 = 99 << 41;

impl World {
    pub(crate) fn with_someone(&mut self, act: impl FnOnce(&mut Self, usize)) {
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

    pub(crate) fn arrive(&mut self) {
        let here = self.clients.iter().filter(|client| client.at != At::Gone).count();
        if here < CLIENTS {
            let name = self.rng.percent(40).then(|| self.rng.pick(&NAMES));
            if let Some(slot) = self.slot_for_peer() {
                self.spawn(slot, name);
            }
        }
    }

    pub(crate) fn leave(&mut self, index: usize) {
        match self.rng.percent(50) {
            true => self.detach(index),
            false if self.clients[index].can_act() => {
                let client = &mut self.clients[index];
                client.is_leaving = true;
                client.send(control(FrameKind::Bye, 0, &[]), What::Other);
            }
            false => {}
        }
    }

    /// Lets a peer do something at random.
    pub(crate) fn act(&mut self, index: usize) {
        let client = &self.clients[index];
        if !client.can_act() || !client.unsent.is_empty() {
            return self.offer(index);
        }
        match self.rng.below(100) {
            0..45 => {
                let subject = self.rng.below(SUBJECTS.len());
                for _ in 0..self.rng.between(1, BATCH) {
                    let call = self.rng.pick(&[Call::Nothing, Call::Nothing, Call::Receipt]);
                    self.publish(index, To::Subject(subject), call, false);
                }
            }
            45..52 => self.request(index),
            52..57 => self.write_to_someone(index),
            57..65 => self.reply(index),
            65..80 => self.subscribe(index),
            80..85 => self.unsubscribe(index),
            85..90 => {
                self.clients[index].is_stalled ^= true;
                self.now += Duration::from_millis(1);
            }
            90..97 => self.query(index),
            _ => self.ask(index, FrameKind::Flush, &[], Asked::Other),
        }
        if self.rng.percent(70) {
            self.offer(index);
        }
    }

    pub(crate) fn publish(&mut self, index: usize, to: To, call: Call, more: bool) {
        let length = self.rng.between(MIN_PAYLOAD, MAX_PAYLOAD);
        let number = self.clients[index].take_number();
        let mut header = Header { more, ..Header::new(FrameKind::Message, number) };
        let mut reply = String::new();
        match call {
            Call::Nothing => {}
            Call::Receipt => header.receipt = true,
            Call::Request(wait) => {
                (header.request, header.wait) = (true, wait.as_secs() as u16);
                reply = self.address((index, number));
            }
        }
        let subject = match to {
            To::Subject(subject) => SUBJECTS[subject].to_owned(),
            To::Peer(peer) => format!("@{}", self.ledger.ids[&peer]),
            To::Reply(request) => self.address(request),
            To::Nobody => format!("@{NOBODY}"),
        };
        let frame = message(header, &subject, &reply, &payload((index, number), length));
        self.clients[index].send(frame, What::Message(Sent { number, to, call, more }));
    }

    /// Returns the subject for replies to a request.
    fn address(&self, (requester, number): Id) -> String {
        format!("@{}.{number}", self.ledger.ids[&requester])
    }

    fn request(&mut self, index: usize) {
        let to = match self.rng.percent(70) {
            true => To::Subject(self.rng.below(SUBJECTS.len())),
            false => self.someone(),
        };
        let wait = Duration::from_secs(self.rng.between(1, 3) as u64);
        self.publish(index, to, Call::Request(wait), false);
    }

    fn write_to_someone(&mut self, index: usize) {
        let to = self.someone();
        for _ in 0..self.rng.between(1, BATCH) {
            let call = self.rng.pick(&[Call::Nothing, Call::Receipt]);
            self.publish(index, to, call, false);
        }
    }

    /// Returns a peer, perhaps one that has gone or never existed.
    fn someone(&mut self) -> To {
        let open = self.clients.iter().filter(|client| client.id.is_some());
        let open: Vec<usize> = open.map(|client| client.index).collect();
        let recent = &open[open.len().saturating_sub(CLIENTS)..];
        match recent.is_empty() || self.rng.percent(5) {
            true => To::Nobody,
            false => To::Peer(self.rng.pick(recent)),
        }
    }

    /// Lets a peer handle a request: it answers, announces more or answers more than once, answers
    /// once too often, or never.
    pub(crate) fn reply(&mut self, index: usize) {
        let count = self.clients[index].requests.len();
        if count == 0 {
            return;
        }
        let at = self.rng.below(count);
        let request = self.clients[index].requests[at];
        let (to, call) = (To::Reply(request), Call::Nothing);
        let (more, replies, is_done) = self.rng.pick(&[
            (false, 1, true),
            (true, 1, false),
            (false, 2, true),
            (false, 0, true),
        ]);
        (0..replies).for_each(|_| self.publish(index, to, call, more));
        if is_done {
            self.clients[index].requests.swap_remove(at);
        }
    }

    fn subscribe(&mut self, index: usize) {
        let client = &self.clients[index];
        if client.subs.len() >= SUBSCRIPTIONS || client.is_curious {
            return;
        }
        let (block, rng) = (OverflowPolicy::Block, &mut self.rng);
        let group = rng.percent(50).then(|| rng.pick(&GROUPS));
        let filter = if group.is_some() { rng.pick(&GROUP_FILTERS) } else { rng.pick(&FILTERS) };
        let (oldest, newest) = (OverflowPolicy::DropOldest, OverflowPolicy::DropNewest);
        let rare = if rng.percent(30) { OverflowPolicy::Disconnect } else { block };
        let overflow = rng.pick(&[block, block, oldest, newest, rare]);
        let wish = Wish { filter, group, overflow, origin: rng.percent(50) };
        let client = &mut self.clients[index];
        let number = (1..).find(|number| !client.subs.contains_key(number)).expect("endless");
        let is_touched = client.is_restricted && matches(filter)[SECRET];
        if is_touched && (group.is_some() || filter == SUBJECTS[SECRET]) {
            return client.ask_in_vain(number, wish);
        }
        // A peer that may receive only a part of its filter never makes publishers wait.
        let softened = is_touched && overflow == block;
        let granted = if softened { Wish { overflow: oldest, ..wish } } else { wish };
        let sub = self.ledger.subscribe(client, granted);
        client.subs.insert(number, sub);
        let correlation = client.correlate(Asked::Subscribe(sub));
        client.send(subscribe(correlation, number, wish), What::Subscribe(sub));
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
        let frame = control(FrameKind::Unsubscribe, correlation, &body);
        client.send(frame, What::Unsubscribe(sub));
    }

    fn query(&mut self, index: usize) {
        if !self.clients[index].is_curious {
            return;
        }
        let ids: Vec<u64> = self.clients.iter().filter_map(|client| client.id).collect();
        let query = match self.rng.below(5) {
            0 if !self.is_peaceful => Query::Kick(self.rng.pick(&ids)),
            1 => Query::Matching("a.x".into()),
            2 => Query::Subscriptions,
            _ => Query::Peers,
        };
        self.ask(index, FrameKind::Query, &encode(&query), Asked::Query { matching: None });
    }

    pub(crate) fn ask(&mut self, index: usize, kind: FrameKind, body: &[u8], asked: Asked) {
        let client = &mut self.clients[index];
        if client.can_act() {
            let correlation = client.correlate(asked);
            client.send(control(kind, correlation, body), What::Other);
        }
    }
}
