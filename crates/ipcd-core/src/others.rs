//! What a router knows of the other workers: their interests, and what is on its way to them.
//!
//! A message goes once to each worker that is interested; that worker finds the subscriptions. What
//! is on the way between two workers is bounded by a window: the receiver reports what it has
//! consumed, and publishers wait while too much is outstanding. Whether an interest is *off*, a
//! member's outbox being full, its worker tells the others in the same stream, ahead of the report
//! that would let them go on.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

use ipcd_proto::control::{Origin, decode as body, encode};
use ipcd_proto::{Address, Decoded, Frame, FrameWriter, Header, Kind, Subject, decode};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::core::{Core, Output};
use crate::interest::{Group, Remote};
use crate::levels::Local;
use crate::peer::{PeerKey, is_life, place_of};
use crate::publish::Sender;
use crate::shared::{Change, Interest, Shared};
use crate::table::{News, Request};
use crate::tracked::{Conclusion, Home, Ticket};

/// What workers tell each other besides messages.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Between {
    /// So many bytes of yours were consumed in all.
    Consumed(u64),
    /// The members of this interest cannot take more, or can again.
    Level { interest: Interest, off: bool },
    /// Who a sender is, before its first message to this worker.
    Origin(Origin),
    /// That sender has gone.
    Departed(u64),
    /// The outcome of the next message is to be told, with this ticket.
    Tracked(Ticket),
    /// What became of the copies of such a message.
    Concluded(Conclusion),
}

#[derive(Debug)]
pub(crate) struct Others {
    own_slot: u32,
    /// Bytes that may be on their way to another worker.
    window: u64,
    pub(crate) shared: Shared,
    /// Interests that are off, whether they are in the table yet or not.
    pub(crate) off: HashSet<(u32, Interest)>,
    ways: Vec<Way>,
    /// Publishers that wait for other workers.
    waiters: Vec<PeerKey>,
    /// Senders elsewhere that were introduced.
    origins: HashMap<u64, (u32, Origin)>,
    /// This worker's own interests.
    pub(crate) locals: HashMap<Interest, Local>,
    /// Groups by this worker's numbers.
    pub(crate) numbers: HashMap<u32, Rc<Group>>,
    pub(crate) last_number: u32,
    /// Subscriptions that are acknowledged when all workers know of them.
    pub(crate) unconfirmed: Vec<Unconfirmed>,
    next_ticket: u64,
    pub(crate) confirmed: u64,
}

/// To and from another worker.
#[derive(Debug, Default)]
struct Way {
    /// Frames that are to be sent, from `head` on.
    outgoing: Vec<u8>,
    head: usize,
    is_dirty: bool,
    sent: u64,
    /// How much of it has been consumed there.
    credited: u64,
    /// How much came from there and was consumed here.
    consumed: u64,
    reported: u64,
    /// The last incarnation there that is known of, alive or dead.
    last_life: u32,
    /// The incarnation there that has sent something last.
    heard_life: u32,
    /// The ticket of the next message from there.
    ticket: Option<Ticket>,
}

/// A subscription that is to be acknowledged.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    pub(crate) ticket: u64,
    pub(crate) key: PeerKey,
    pub(crate) peer: u64,
    pub(crate) correlation: u64,
}

impl Others {
    pub(crate) fn new(config: &Config, shared: Shared) -> Self {
        let way = |life: &u32| Way { last_life: *life, ..Way::default() };
        let ways = shared.lives.iter().map(way).collect();
        Self {
            own_slot: config.slot,
            window: config.window,
            shared,
            off: HashSet::new(),
            ways,
            waiters: Vec::new(),
            origins: HashMap::new(),
            locals: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            unconfirmed: Vec::new(),
            next_ticket: 0,
            confirmed: 0,
        }
    }

    /// Interests of the other workers that match, those of one worker together.
    pub(crate) fn find(&self, subject: Subject<'_>) -> Vec<Remote> {
        let mut found = self.shared.interests.find(subject);
        found.retain(|remote| remote.slot != self.own_slot);
        found
    }

    /// This worker's group of that number.
    pub(crate) fn group_of(&self, number: u32) -> Option<Rc<Group>> {
        self.numbers.get(&number).cloned()
    }

    pub(crate) fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(crate) fn generation(&self) -> u64 {
        self.shared.interests.generation()
    }

    pub(crate) fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.get(&sender).map(|(_, origin)| origin)
    }

    /// Whether a publisher has to wait for one of these.
    pub(crate) fn must_wait(&self, remotes: &[Remote]) -> bool {
        remotes.iter().any(|remote| remote.off || !self.has_room(remote.slot))
    }

    /// Whether more may be sent to a worker for now.
    pub(crate) fn has_room(&self, slot: u32) -> bool {
        let way = &self.ways[slot as usize];
        way.sent - way.credited <= self.window
    }

    pub(crate) fn lives(&self, slot: u32) -> bool {
        self.shared.lives.get(slot as usize).is_some_and(|life| *life > 0)
    }

    /// Queues frames for a worker; whether the caller has to be told that there are some.
    fn push(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) -> Option<Output> {
        if !self.lives(slot) {
            return None;
        }
        let way = &mut self.ways[slot as usize];
        let before = way.outgoing.len();
        write(&mut way.outgoing);
        way.sent += (way.outgoing.len() - before) as u64;
        (!std::mem::replace(&mut way.is_dirty, true)).then_some(Output::Forward(slot))
    }

    pub(crate) fn tell(&mut self, slot: u32, news: &Between) -> Option<Output> {
        self.push(slot, |outgoing| {
            FrameWriter(outgoing).control(Header::new(Kind::Notice, 0), &encode(news));
        })
    }
}

impl Core {
    /// The frames on their way to a worker, and which life of it they are for.
    pub fn outgoing(&mut self, slot: u32) -> (&[u8], u32) {
        let others = self.others.as_mut().expect("only a shared router forwards");
        let way = &mut others.ways[slot as usize];
        way.is_dirty = false;
        (&way.outgoing[way.head..], others.shared.lives[slot as usize])
    }

    /// Bytes for a worker that it has not reported to have consumed.
    pub fn outstanding(&self, slot: u32) -> u64 {
        let way = self.others.as_ref().map(|others| &others.ways[slot as usize]);
        way.map_or(0, |way| way.sent - way.credited)
    }

    /// Whether everything for other workers was sent.
    pub fn is_forwarded(&self) -> bool {
        let others = self.others.as_ref();
        others.is_none_or(|others| others.ways.iter().all(|way| way.outgoing.is_empty()))
    }

    /// Says that the first bytes of them were sent.
    pub fn forwarded(&mut self, slot: u32, count: usize) {
        let others = self.others.as_mut().expect("only a shared router forwards");
        let way = &mut others.ways[slot as usize];
        way.head += count;
        if way.head == way.outgoing.len() {
            way.outgoing.clear();
            way.head = 0;
        } else if way.head > way.outgoing.len() / 2 {
            way.outgoing.drain(..way.head);
            way.head = 0;
        }
    }

    /// Which life a place is in, 0 for none; `None` if there is no such place.
    fn life_of(&self, slot: u32) -> Option<u32> {
        self.others.as_ref()?.shared.lives.get(slot as usize).copied()
    }

    fn last_life_of(&self, slot: u32) -> u32 {
        self.others.as_ref().map_or(0, |others| others.ways[slot as usize].last_life)
    }

    /// Takes what another worker has sent: whole frames. Messages are delivered even if that life
    /// is over, for they were accepted; news of it is none any more.
    pub fn arrive(&mut self, now: Instant, slot: u32, life: u32, frames: &mut [u8]) {
        let Some(known) = self.life_of(slot) else { return };
        if life > known.max(self.last_life_of(slot)) {
            self.learn(now, &[Change::Life { slot, incarnation: life }]);
        }
        let is_current = self.life_of(slot) == Some(life);
        self.forget_origins(slot, life);
        let mut at = 0;
        while let Ok(Decoded::Frame(frame, length)) = decode(&frames[at..], usize::MAX) {
            at += match frame.header.kind {
                Kind::Message => self.arrive_message(now, slot, &mut frames[at..], length),
                _ => {
                    if let Ok(news) = body(frame.payload) {
                        self.hear(now, slot, news, is_current);
                    }
                    length
                }
            };
        }
        let Some(others) = self.others.as_mut().filter(|_| is_current) else { return };
        let way = &mut others.ways[slot as usize];
        way.consumed += frames.len() as u64;
        // Reported by the quarter, so that publishers never wait for a report that nobody owes.
        if way.consumed - way.reported >= others.window / 4 {
            way.reported = way.consumed;
            let news = Between::Consumed(way.consumed);
            let output = others.tell(slot, &news);
            self.outputs.extend(output);
        }
    }

    /// Delivers the message that begins here, and those behind it that go the same way.
    fn arrive_message(
        &mut self,
        now: Instant,
        slot: u32,
        bytes: &mut [u8],
        length: usize,
    ) -> usize {
        let Ok(Decoded::Frame(Frame { header, subject, .. }, _)) = decode(bytes, length) else {
            return length;
        };
        let address = Address::parse(subject);
        if address.is_none() && header.subscription == 0 && !header.is_tracked() {
            return self.deliver_run(now, bytes, length);
        }
        let frame = &mut bytes[..length];
        let ticket = header.is_tracked().then(|| {
            let way = self.others.as_mut().map(|others| &mut others.ways[slot as usize]);
            let theirs = way.and_then(|way| way.ticket.take());
            let home = theirs.map_or(Home::Nowhere, |ticket| Home::There(slot, ticket));
            self.track(now, home, &header)
        });
        let from = Sender { key: None, id: header.sender };
        if let Some(address) = address {
            self.deliver_direct(now, from, frame, address, ticket);
        } else if header.subscription != 0 {
            self.arrive_for_group(now, frame, header.subscription, ticket);
        } else if let Ok(targets) = self.route(subject_of(frame)) {
            self.deliver_one(now, from, &targets.members, frame, ticket);
        }
        if let Some(ticket) = ticket {
            self.dealt_out(now, ticket);
        }
        length
    }

    /// Forgets the senders of an earlier life there. Not at its end, which is often known before
    /// its last messages are here; but nothing of it comes after what the next one has sent.
    fn forget_origins(&mut self, slot: u32, life: u32) {
        let Some(others) = &mut self.others else { return };
        let heard = &mut others.ways[slot as usize].heard_life;
        if std::mem::replace(heard, life) != life {
            others.origins.retain(|_, (of, _)| *of != slot);
        }
    }

    fn hear(&mut self, now: Instant, slot: u32, news: Between, is_current: bool) {
        let Some(others) = &mut self.others else { return };
        match news {
            // Its own worker knows better than one that has passed on a message of its.
            Between::Origin(origin) if place_of(origin.peer).0 == slot => {
                others.origins.insert(origin.peer, (slot, origin));
            }
            Between::Origin(origin) => {
                others.origins.entry(origin.peer).or_insert((slot, origin));
            }
            Between::Departed(sender) => {
                if others.origins.get(&sender).is_some_and(|(of, _)| *of == slot) {
                    others.origins.remove(&sender);
                }
            }
            _ if !is_current => {}
            Between::Consumed(position) => {
                let way = &mut others.ways[slot as usize];
                way.credited = position.clamp(way.credited, way.sent);
                self.resume_all();
            }
            Between::Level { interest, off } => {
                others.set_level(slot, interest, off);
                if !off {
                    self.resume_all();
                }
            }
            Between::Tracked(ticket) => others.ways[slot as usize].ticket = Some(ticket),
            Between::Concluded(conclusion) => self.concluded_elsewhere(now, slot, &conclusion),
        }
    }

    /// Takes news of the supervisor's.
    pub fn hear_news(&mut self, now: Instant, news: News) {
        let (slot, life) = (self.config.slot, self.config.incarnation);
        match news {
            News::Changes { epoch, changes } => {
                let Some(others) = &mut self.others else { return };
                // What was told before this worker was born, it has inherited.
                if epoch > others.shared.epoch {
                    others.shared.epoch = epoch;
                    self.learn(now, &changes);
                }
                self.outputs.push_back(Output::Tell(Request::Seen(epoch)));
            }
            News::Confirmed { to, ticket } if to == life => self.confirmed(now, ticket),
            News::Named { to, key, peer, name, granted } if to == life => {
                if self.is_waiting_for_name(key, peer) {
                    self.named(now, key, granted);
                } else if granted {
                    // The peer has gone meanwhile, and nobody else will give its name back.
                    self.release_name(name);
                }
            }
            News::Question { asker, query } => self.answer_question(now, asker, &query),
            News::Answer { asker, part, last } if (asker.slot, asker.life) == (slot, life) => {
                self.reported(now, asker.ticket, part, last);
            }
            // What was meant for the worker that lived here before.
            _ => {}
        }
    }

    /// Learns what has changed elsewhere.
    fn learn(&mut self, now: Instant, changes: &[Change]) {
        let Some(others) = &mut self.others else { return };
        let (mut reborn, mut over) = (Vec::new(), Vec::new());
        for change in changes {
            if others.is_stale(change) {
                continue;
            }
            let life = match *change {
                Change::Life { slot, incarnation } => Some((slot, incarnation)),
                Change::Died { slot, .. } => Some((slot, 0)),
                Change::Interested { .. } | Change::Uninterested { .. } => None,
            };
            if let Some((slot, incarnation)) = life
                && slot != others.own_slot
                && others.shared.lives.get(slot as usize) != Some(&incarnation)
            {
                let way = &mut others.ways[slot as usize];
                let last_life = way.last_life.max(incarnation);
                *way = Way { last_life, heard_life: way.heard_life, ..Way::default() };
                others.off.retain(|(of, _)| *of != slot);
                reborn.extend((incarnation > 0).then_some(slot));
                over.push(slot);
                self.peers.iter_mut().for_each(|(_, peer)| peer.introduced.retain(|s| *s != slot));
            }
            let off = &others.off;
            others.shared.apply(change, |slot, interest| off.contains(&(slot, interest.clone())));
        }
        over.into_iter().for_each(|slot| self.bury_tracked(now, slot));
        for slot in reborn {
            self.tell_levels(slot);
        }
        self.resume_all();
        self.resume_group_waiters();
    }

    /// All workers know of the interests up to this ticket.
    fn confirmed(&mut self, now: Instant, ticket: u64) {
        let Some(others) = &mut self.others else { return };
        others.confirmed = others.confirmed.max(ticket);
        let known: Vec<_> =
            others.unconfirmed.extract_if(.., |waiting| waiting.ticket <= ticket).collect();
        for Unconfirmed { key, peer, correlation, .. } in known {
            if self.peers.get(key.0 as usize).is_some_and(|found| found.origin.peer == peer) {
                self.send(now, key, Header::new(Kind::Ack, correlation), &[]);
            }
        }
    }

    /// Sends a run to the other workers that are interested.
    pub(crate) fn forward(&mut self, from: PeerKey, remotes: &[Remote], run: &[u8]) {
        // They are in order, so a worker's interests stand together.
        for same in remotes.chunk_by(|a, b| a.slot == b.slot) {
            self.forward_to(Some(from), same[0].slot, run, None);
        }
    }

    /// The same with one message, whose fate may be of interest.
    pub(crate) fn forward_one(
        &mut self,
        from: PeerKey,
        remotes: &[Remote],
        frame: &[u8],
        ticket: Option<Ticket>,
    ) {
        for same in remotes.chunk_by(|a, b| a.slot == b.slot) {
            self.forward_to(Some(from), same[0].slot, frame, ticket);
        }
    }

    /// Sends messages to another worker, which is told first who the sender is, and whether it is
    /// to tell what becomes of them.
    pub(crate) fn forward_to(
        &mut self,
        from: Option<PeerKey>,
        slot: u32,
        run: &[u8],
        ticket: Option<Ticket>,
    ) {
        let Some(others) = self.others.as_mut().filter(|others| others.lives(slot)) else { return };
        if let Some(from) = from {
            let peer = &mut self.peers[from.0 as usize];
            if !peer.introduced.contains(&slot) {
                peer.introduced.push(slot);
                let output = others.tell(slot, &Between::Origin(peer.origin.clone()));
                self.outputs.extend(output);
            }
        }
        if let Some(ticket) = ticket {
            let output = others.tell(slot, &Between::Tracked(ticket));
            self.outputs.extend(output);
        }
        let output = others.push(slot, |outgoing| outgoing.extend_from_slice(run));
        self.outputs.extend(output);
        if let Some(ticket) = ticket {
            self.sent_elsewhere(ticket, slot);
        }
    }

    /// Sends a message on that another worker has sent here. The next one may not know the sender,
    /// and hears of it for as long as that message takes.
    pub(crate) fn pass_on(&mut self, from: u64, slot: u32, frame: &[u8], ticket: Option<Ticket>) {
        let Some(others) = &mut self.others else { return };
        if let Some(origin) = others.origin(from).cloned() {
            let output = others.tell(slot, &Between::Origin(origin));
            self.outputs.extend(output);
        }
        self.forward_to(None, slot, frame, ticket);
        self.part(&[slot], from);
    }

    /// Sends a message to the worker of the peer that it is for, if that life goes on.
    pub(crate) fn forward_direct(
        &mut self,
        from: PeerKey,
        frame: &[u8],
        to: Address,
        ticket: Option<Ticket>,
    ) {
        let (slot, in_id) = place_of(to.peer);
        if self.life_of(slot).is_some_and(|life| is_life(life, in_id)) {
            self.forward_to(Some(from), slot, frame, ticket);
        } else {
            self.count_undeliverable(to);
        }
    }

    /// Tells another worker what became of its message here.
    pub(crate) fn tell_conclusion(&mut self, slot: u32, conclusion: Conclusion) {
        let Some(others) = &mut self.others else { return };
        let output = others.tell(slot, &Between::Concluded(conclusion));
        self.outputs.extend(output);
    }

    /// Tells all living workers.
    pub(crate) fn tell_all(&mut self, news: &Between) {
        let Some(others) = &mut self.others else { return };
        let own = others.own_slot;
        for slot in (0..others.ways.len() as u32).filter(|slot| *slot != own) {
            let output = others.tell(slot, news);
            self.outputs.extend(output);
        }
    }

    /// A peer that others have heard of goes.
    pub(crate) fn part(&mut self, introduced: &[u32], peer: u64) {
        let Some(others) = &mut self.others else { return };
        for &slot in introduced {
            let output = others.tell(slot, &Between::Departed(peer));
            self.outputs.extend(output);
        }
    }

    /// Leaves a peer unread until other workers can take more.
    pub(crate) fn wait_for_others(&mut self, key: PeerKey) {
        let Some(others) = &mut self.others else { return };
        others.waiters.push(key);
        self.peer(key).waiting = true;
    }

    fn resume_all(&mut self) {
        let Some(others) = &mut self.others else { return };
        let waiters = std::mem::take(&mut others.waiters);
        self.resume(waiters);
    }
}

impl Others {
    /// Whether a change is of a life that is known to be over: news of the next one may come
    /// earlier, from the worker itself or by inheritance.
    fn is_stale(&self, change: &Change) -> bool {
        let known = |slot: u32| self.shared.lives.get(slot as usize).copied().unwrap_or(0);
        match *change {
            Change::Life { slot, incarnation } => {
                let last = self.ways.get(slot as usize).map_or(0, |way| way.last_life);
                incarnation < known(slot).max(last)
            }
            Change::Died { slot, incarnation } => known(slot) != incarnation,
            Change::Interested { .. } | Change::Uninterested { .. } => false,
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
