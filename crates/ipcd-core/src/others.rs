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

use ipcd_proto::control::{Origin, Overflow, decode as body, encode};
use ipcd_proto::{BadSubject, Decoded, Filter, FrameWriter, Header, Kind, decode};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::core::{Core, Output};
use crate::interest::{Interests, Remote};
use crate::peer::PeerKey;
use crate::table::{News, Request};

/// A change of what all workers know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Change {
    /// A worker has its first subscription of a filter.
    Interested {
        /// The worker's place.
        slot: u32,
        /// The filter.
        filter: String,
    },
    /// A worker has lost its last subscription of a filter.
    Uninterested {
        /// The worker's place.
        slot: u32,
        /// The filter.
        filter: String,
    },
    /// A worker was born.
    Life {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        incarnation: u32,
    },
    /// A worker has died, with its interests. It says which life that was: who has heard of the
    /// next one already must not take its death for that one's.
    Died {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        incarnation: u32,
    },
}

/// What workers tell each other besides messages.
#[derive(Debug, Deserialize, Serialize)]
enum Between {
    /// So many bytes of yours were consumed in all.
    Consumed(u64),
    /// A member of this filter cannot take more, or all can again.
    Level { filter: String, off: bool },
    /// Who a sender is, before its first message to this worker.
    Origin(Origin),
    /// That sender has gone.
    Departed(u64),
}

/// What every worker is born with, and the supervisor keeps up to date: the interests of all, and
/// which life each place is in.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The interests of all workers.
    pub interests: Interests<Remote>,
    /// The incarnation in each slot; 0 where nobody lives.
    pub lives: Vec<u32>,
    /// The last batch of changes that is in it.
    pub epoch: u64,
}

impl Shared {
    /// What is known when nobody lives yet.
    pub fn new(slots: usize) -> Self {
        Self { interests: Interests::default(), lives: vec![0; slots], epoch: 0 }
    }

    /// Applies a change; one that is known already changes nothing.
    pub fn apply(&mut self, change: &Change, off: impl FnOnce(u32, &Filter) -> bool) {
        match change {
            Change::Interested { slot, filter } => {
                if let Ok(filter) = Filter::parse(filter.as_bytes()) {
                    self.interests.remove(&filter, |remote| remote.slot == *slot);
                    let off = off(*slot, &filter);
                    self.interests.add(&filter, Remote { slot: *slot, off });
                }
            }
            Change::Uninterested { slot, filter } => {
                if let Ok(filter) = Filter::parse(filter.as_bytes()) {
                    self.interests.remove(&filter, |remote| remote.slot == *slot);
                }
            }
            Change::Life { slot, incarnation } => {
                // Also when that life is known already, from the worker itself: what is in the
                // table then may have been told before it, but of the life before.
                self.set_life(*slot, *incarnation);
            }
            Change::Died { slot, .. } => self.set_life(*slot, 0),
        }
    }

    fn set_life(&mut self, slot: u32, life: u32) {
        if let Some(known) = self.lives.get_mut(slot as usize) {
            *known = life;
        }
        self.interests.remove_all(|remote| remote.slot == slot);
    }
}

#[derive(Debug)]
pub(crate) struct Others {
    own_slot: u32,
    /// Bytes that may be on their way to another worker.
    window: u64,
    shared: Shared,
    /// Interests that are off, whether they are in the table yet or not.
    off: HashSet<(u32, Filter)>,
    ways: Vec<Way>,
    /// Publishers that wait for other workers.
    waiters: Vec<PeerKey>,
    /// Senders elsewhere that were introduced.
    origins: HashMap<u64, (u32, Origin)>,
    /// This worker's own interests.
    locals: HashMap<Filter, Local>,
    /// Subscriptions that are acknowledged when all workers know of them.
    unconfirmed: Vec<Unconfirmed>,
    next_ticket: u64,
    confirmed: u64,
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
}

/// An interest of this worker.
#[derive(Debug, Default)]
struct Local {
    members: u32,
    /// Members whose outboxes are full.
    full: u32,
    ticket: u64,
}

#[derive(Debug)]
struct Unconfirmed {
    ticket: u64,
    key: PeerKey,
    peer: u64,
    correlation: u64,
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
            unconfirmed: Vec::new(),
            next_ticket: 0,
            confirmed: 0,
        }
    }

    pub(crate) fn route(&mut self, subject: &[u8]) -> Result<Rc<[Remote]>, BadSubject> {
        self.shared.interests.route(subject)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.shared.interests.generation()
    }

    pub(crate) fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.get(&sender).map(|(_, origin)| origin)
    }

    /// Whether a publisher has to wait for one of these.
    pub(crate) fn must_wait(&self, remotes: &[Remote]) -> bool {
        let waits = |remote: &Remote| {
            let way = &self.ways[remote.slot as usize];
            remote.slot != self.own_slot && (remote.off || way.sent - way.credited > self.window)
        };
        remotes.iter().any(waits)
    }

    pub(crate) fn wait(&mut self, key: PeerKey) {
        self.waiters.push(key);
    }

    /// Queues frames for a worker; whether the caller has to be told that there are some.
    fn push(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) -> Option<Output> {
        if self.shared.lives[slot as usize] == 0 {
            return None;
        }
        let way = &mut self.ways[slot as usize];
        let before = way.outgoing.len();
        write(&mut way.outgoing);
        way.sent += (way.outgoing.len() - before) as u64;
        (!std::mem::replace(&mut way.is_dirty, true)).then_some(Output::Forward(slot))
    }

    fn tell(&mut self, slot: u32, news: &Between) -> Option<Output> {
        self.push(slot, |outgoing| {
            FrameWriter(outgoing).control(Header::new(Kind::Notice, 0), &encode(news));
        })
    }

    /// Tells all living workers.
    fn tell_all(&mut self, news: &Between) -> Vec<Output> {
        let own = self.own_slot;
        let lives = self.shared.lives.iter().zip(0..);
        let living: Vec<u32> =
            lives.filter(|&(life, slot)| *life > 0 && slot != own).map(|(_, slot)| slot).collect();
        living.into_iter().filter_map(|slot| self.tell(slot, news)).collect()
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
            self.learn(&[Change::Life { slot, incarnation: life }]);
        }
        let is_current = self.life_of(slot) == Some(life);
        self.forget_origins(slot, life);
        let mut at = 0;
        while let Ok(Decoded::Frame(frame, length)) = decode(&frames[at..], usize::MAX) {
            at += match frame.header.kind {
                Kind::Message => self.deliver_run(now, &mut frames[at..], length),
                _ => {
                    if let Ok(news) = body(frame.payload) {
                        self.hear(slot, news, is_current);
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

    /// Forgets the senders of an earlier life there. Not at its end, which is often known before
    /// its last messages are here; but nothing of it comes after what the next one has sent.
    fn forget_origins(&mut self, slot: u32, life: u32) {
        let Some(others) = &mut self.others else { return };
        let heard = &mut others.ways[slot as usize].heard_life;
        if std::mem::replace(heard, life) != life {
            others.origins.retain(|_, (of, _)| *of != slot);
        }
    }

    fn hear(&mut self, slot: u32, news: Between, is_current: bool) {
        let Some(others) = &mut self.others else { return };
        match news {
            Between::Origin(origin) => drop(others.origins.insert(origin.peer, (slot, origin))),
            Between::Departed(sender) => drop(others.origins.remove(&sender)),
            _ if !is_current => {}
            Between::Consumed(position) => {
                let way = &mut others.ways[slot as usize];
                way.credited = position.clamp(way.credited, way.sent);
                self.resume_all();
            }
            Between::Level { filter, off } => {
                let Ok(filter) = Filter::parse(filter.as_bytes()) else { return };
                others.set_level(slot, filter, off);
                if !off {
                    self.resume_all();
                }
            }
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
                    self.learn(&changes);
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
    fn learn(&mut self, changes: &[Change]) {
        let Some(others) = &mut self.others else { return };
        let mut reborn = Vec::new();
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
                self.peers.iter_mut().for_each(|(_, peer)| peer.introduced.retain(|s| *s != slot));
            }
            let off = &others.off;
            others.shared.apply(change, |slot, filter| off.contains(&(slot, filter.clone())));
        }
        for slot in reborn {
            self.tell_levels(slot);
        }
        self.resume_all();
    }

    /// Tells a worker that was just born which of our interests are off.
    fn tell_levels(&mut self, slot: u32) {
        let Some(others) = &mut self.others else { return };
        let full = others.locals.iter().filter(|(_, local)| local.full > 0);
        let mut full: Vec<String> = full.map(|(filter, _)| filter.as_str().to_owned()).collect();
        // In an order that a simulation can repeat.
        full.sort_unstable();
        for filter in full {
            let output = others.tell(slot, &Between::Level { filter, off: true });
            self.outputs.extend(output);
        }
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
        let Some(others) = &mut self.others else { return };
        let peer = &mut self.peers[from.0 as usize];
        // They are in order, so a worker's interests stand together.
        for same in remotes.chunk_by(|a, b| a.slot == b.slot) {
            let slot = same[0].slot;
            if slot == others.own_slot {
                continue;
            }
            if !peer.introduced.contains(&slot) {
                peer.introduced.push(slot);
                let output = others.tell(slot, &Between::Origin(peer.origin.clone()));
                self.outputs.extend(output);
            }
            let output = others.push(slot, |outgoing| outgoing.extend_from_slice(run));
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

    /// Counts a subscription among this worker's interests, and says whether it may be
    /// acknowledged at once.
    pub(crate) fn share(&mut self, key: PeerKey, filter: &Filter, correlation: u64) -> bool {
        let Some(others) = &mut self.others else { return true };
        let local = others.locals.entry(filter.clone()).or_default();
        local.members += 1;
        if local.members == 1 {
            others.next_ticket += 1;
            local.ticket = others.next_ticket;
            let filter = filter.as_str().to_owned();
            let request = Request::Interested { ticket: local.ticket, filter };
            self.outputs.push_back(Output::Tell(request));
        }
        if local.ticket <= others.confirmed {
            return true;
        }
        let (ticket, peer) = (local.ticket, self.peers[key.0 as usize].origin.peer);
        others.unconfirmed.push(Unconfirmed { ticket, key, peer, correlation });
        false
    }

    /// Takes a subscription out of this worker's interests.
    pub(crate) fn unshare(&mut self, filter: &Filter) {
        let Some(others) = &mut self.others else { return };
        let Some(local) = others.locals.get_mut(filter) else { return };
        local.members -= 1;
        if local.members == 0 {
            others.locals.remove(filter);
            let request = Request::Uninterested(filter.as_str().to_owned());
            self.outputs.push_back(Output::Tell(request));
        }
    }

    /// Notes that the outbox of a peer with these filters is full, or is not any more.
    pub(crate) fn set_levels(&mut self, key: PeerKey, full: bool) {
        if self.others.is_none() {
            return;
        }
        let blocking = self.peers[key.0 as usize].subscriptions.iter();
        let blocking = blocking.filter(|known| known.overflow == Overflow::Block);
        let filters: Vec<Filter> = blocking.map(|known| known.filter.clone()).collect();
        filters.iter().for_each(|filter| self.set_level_of(filter, full));
    }

    pub(crate) fn set_level_of(&mut self, filter: &Filter, full: bool) {
        let Some(others) = &mut self.others else { return };
        let Some(local) = others.locals.get_mut(filter) else { return };
        local.full = if full { local.full + 1 } else { local.full.saturating_sub(1) };
        if local.full == u32::from(full) {
            let filter = filter.as_str().to_owned();
            let outputs = others.tell_all(&Between::Level { filter, off: full });
            self.outputs.extend(outputs);
        }
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

    fn set_level(&mut self, slot: u32, filter: Filter, off: bool) {
        self.shared.interests.change(&filter, |remote| {
            if remote.slot == slot {
                remote.off = off;
            }
        });
        match off {
            true => drop(self.off.insert((slot, filter))),
            false => drop(self.off.remove(&(slot, filter))),
        }
    }
}
