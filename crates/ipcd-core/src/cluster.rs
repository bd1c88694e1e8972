//! What a router knows of the other workers: their interests, and what is on its way to them.
//!
//! A message goes once to each worker that is interested; that worker finds the subscriptions. What
//! is on the way between two workers is bounded by a window: the receiver reports what it has
//! consumed, and publishers wait while too much is outstanding. Whether an interest is *off*, a
//! member's outbox being full, its worker tells the others in the same stream, ahead of the report
//! that would let them go on.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::arriving::InboundQueue;
use crate::core::{Output, Router};
use crate::directory::state::{DirectoryState, Interest};
use crate::leaving::LeaveState;
use crate::levels::LocalInterest;
use crate::model::config::Config;
use crate::model::ids::{PeerKey, Ticket, is_generation, place_of};
use crate::routing::trie::{QueueGroup, WorkerInterest};
use crate::tracked::OutcomeReport;
use crate::waiting::WaitingList;
use ipcd_proto::control::{Origin, encode};
use ipcd_proto::limits::largest_frame;
use ipcd_proto::{Address, FrameWriter, Header, Kind, Subject};
use serde::{Deserialize, Serialize};

/// What workers tell each other besides messages.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum WorkerMessage {
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
    Concluded(OutcomeReport),
    /// No message comes behind this, because the receiver is leaving.
    Last,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) own_slot: u32,
    /// Bytes that may be on their way to another worker.
    pub(crate) window: u64,
    pub(crate) shared: DirectoryState,
    /// Interests that are off, whether they are in the table yet or not.
    pub(crate) off: HashSet<(u32, Interest)>,
    pub(crate) links: Vec<WorkerLink>,
    /// What they have sent and was put off.
    pub(crate) arrivals: InboundQueue,
    /// Publishers that wait for other workers.
    pub(crate) waiters: WaitingList,
    /// Senders elsewhere that were introduced.
    pub(crate) origins: HashMap<u64, (u32, Origin)>,
    /// This worker's own interests.
    pub(crate) locals: HashMap<Interest, LocalInterest>,
    /// Groups by this worker's numbers.
    pub(crate) numbers: HashMap<u32, Rc<QueueGroup>>,
    pub(crate) last_number: u32,
    /// Subscriptions that are acknowledged when all workers know of them.
    pub(crate) unconfirmed: Vec<Unconfirmed>,
    next_ticket: u64,
    pub(crate) confirmed: u64,
    /// How far this worker is in leaving itself.
    pub(crate) leave: LeaveState,
}

/// To and from another worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerLink {
    /// Frames that are to be sent, from `head` on.
    pub(crate) outgoing: Vec<u8>,
    pub(crate) head: usize,
    pub(crate) is_dirty: bool,
    pub(crate) sent: u64,
    /// How much of it has been consumed there.
    pub(crate) credited: u64,
    /// How much came from there and was consumed here.
    pub(crate) consumed: u64,
    pub(crate) reported: u64,
    /// The last generation there that is known of, alive or dead.
    pub(crate) last_generation: u32,
    /// The generation there that has sent something last.
    pub(crate) heard_generation: u32,
    /// The ticket of the next message from there.
    pub(crate) ticket: Option<Ticket>,
    /// Whether that one has said that no more messages come.
    pub(crate) has_said_last: bool,
}

/// A subscription that is to be acknowledged.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    pub(crate) ticket: u64,
    pub(crate) key: PeerKey,
    pub(crate) peer: u64,
    pub(crate) correlation: u64,
}

impl Cluster {
    pub(crate) fn new(config: &Config, shared: DirectoryState) -> Self {
        let link =
            |generation: &u32| WorkerLink { last_generation: *generation, ..WorkerLink::default() };
        let links = shared.generations.iter().map(link).collect();
        Self {
            own_slot: config.slot,
            window: config.window,
            shared,
            off: HashSet::new(),
            links,
            arrivals: InboundQueue::default(),
            waiters: WaitingList::default(),
            origins: HashMap::new(),
            locals: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            unconfirmed: Vec::new(),
            next_ticket: 0,
            confirmed: 0,
            leave: LeaveState::No,
        }
    }

    /// Interests of the other workers that match, those of one worker together.
    pub(crate) fn find(&self, subject: Subject<'_>) -> (Vec<WorkerInterest>, usize) {
        let (mut found, looked_at) = self.shared.interests.find_counted(subject);
        found.retain(|remote| remote.slot != self.own_slot);
        (found, looked_at)
    }

    /// This worker's group of that number.
    pub(crate) fn group_of(&self, number: u32) -> Option<Rc<QueueGroup>> {
        self.numbers.get(&number).cloned()
    }

    pub(crate) fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(crate) fn version(&self) -> u64 {
        self.shared.interests.version()
    }

    pub(crate) fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.get(&sender).map(|(_, origin)| origin)
    }

    /// Whether a publisher has to wait for one of these.
    pub(crate) fn must_wait(&self, remotes: &[WorkerInterest]) -> bool {
        remotes.iter().any(|remote| remote.off || !self.has_room(remote.slot))
    }

    /// Whether more may be sent to a worker for now.
    pub(crate) fn has_room(&self, slot: u32) -> bool {
        let link = &self.links[slot as usize];
        link.sent - link.credited <= self.window
    }

    pub(crate) fn is_alive(&self, slot: u32) -> bool {
        self.shared.generations.get(slot as usize).is_some_and(|generation| *generation > 0)
    }

    /// Queues frames for a worker; whether the caller has to be told that there are some.
    fn push(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) -> Option<Output> {
        if !self.is_alive(slot) {
            return None;
        }
        let link = &mut self.links[slot as usize];
        let before = link.outgoing.len();
        write(&mut link.outgoing);
        link.sent += (link.outgoing.len() - before) as u64;
        (!std::mem::replace(&mut link.is_dirty, true)).then_some(Output::Forward(slot))
    }

    pub(crate) fn tell(&mut self, slot: u32, news: &WorkerMessage) -> Option<Output> {
        self.push(slot, |outgoing| {
            FrameWriter(outgoing).control(Header::new(Kind::Notice, 0), &encode(news));
        })
    }
}

impl Router {
    /// The frames on their way to a worker, and which life of it they are for.
    pub fn outgoing(&mut self, slot: u32) -> (&[u8], u32) {
        let cluster = self.cluster.as_mut().expect("only a shared router forwards");
        let link = &mut cluster.links[slot as usize];
        link.is_dirty = false;
        (&link.outgoing[link.head..], cluster.shared.generations[slot as usize])
    }

    /// Bytes for a worker that it has not reported to have consumed.
    pub fn outstanding(&self, slot: u32) -> u64 {
        let link = self.cluster.as_ref().map(|cluster| &cluster.links[slot as usize]);
        link.map_or(0, |link| link.sent - link.credited)
    }

    /// Whether everything for other workers was sent.
    pub fn is_forwarded(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_none_or(|cluster| {
            // What another worker has sent here may have to be passed on.
            !cluster.arrivals.is_waiting()
                && cluster.links.iter().all(|link| link.outgoing.is_empty())
        })
    }

    /// Says that the first bytes of them were sent.
    pub fn forwarded(&mut self, slot: u32, count: usize) {
        let cluster = self.cluster.as_mut().expect("only a shared router forwards");
        let link = &mut cluster.links[slot as usize];
        link.head += count;
        if link.head == link.outgoing.len() {
            link.outgoing.clear();
            link.head = 0;
            self.store.look_later();
        } else if link.head > link.outgoing.len() / 2 {
            link.outgoing.drain(..link.head);
            link.head = 0;
        }
    }

    /// Which life a place is in, 0 for none; `None` if there is no such place.
    pub(crate) fn generation_of(&self, slot: u32) -> Option<u32> {
        self.cluster.as_ref()?.shared.generations.get(slot as usize).copied()
    }

    pub(crate) fn last_generation_of(&self, slot: u32) -> u32 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.links[slot as usize].last_generation)
    }

    /// Sends a run to the other workers that are interested.
    pub(crate) fn forward(&mut self, from: PeerKey, remotes: &[WorkerInterest], run: &[u8]) {
        // They are in order, so a worker's interests stand together.
        for same in remotes.chunk_by(|a, b| a.slot == b.slot) {
            self.forward_to(Some(from), same[0].slot, run, None);
        }
    }

    /// The same with one message, whose fate may be of interest.
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

    /// Sends messages to another worker, which is told first who the sender is, and whether it is
    /// to tell what becomes of them.
    pub(crate) fn forward_to(
        &mut self,
        from: Option<PeerKey>,
        slot: u32,
        run: &[u8],
        ticket: Option<Ticket>,
    ) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.is_alive(slot)) else {
            return;
        };
        if let Some(from) = from {
            let peer = &mut self.peers[from.0 as usize];
            let introduced = peer.introduced.get_or_insert_default();
            if !introduced.contains(&slot) {
                introduced.push(slot);
                let output = cluster.tell(slot, &WorkerMessage::Origin(peer.origin.clone()));
                self.outputs.extend(output);
            }
        }
        if let Some(ticket) = ticket {
            let output = cluster.tell(slot, &WorkerMessage::Tracked(ticket));
            self.outputs.extend(output);
        }
        let output = cluster.push(slot, |outgoing| outgoing.extend_from_slice(run));
        self.outputs.extend(output);
        if let Some(ticket) = ticket {
            let generation = self.generation_of(slot).unwrap_or(0);
            self.sent_elsewhere(ticket, (slot, generation));
        }
    }

    /// Sends a message on that another worker has sent here. The next one may not know the sender,
    /// and hears of it for as long as that message takes.
    pub(crate) fn pass_on(&mut self, from: u64, slot: u32, frame: &[u8], ticket: Option<Ticket>) {
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(origin) = cluster.origin(from).cloned() {
            let output = cluster.tell(slot, &WorkerMessage::Origin(origin));
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
        let is_leaving =
            self.cluster.as_ref().is_some_and(|cluster| cluster.shared.is_leaving(slot));
        if !is_leaving
            && self.generation_of(slot).is_some_and(|generation| is_generation(generation, in_id))
        {
            self.forward_to(Some(from), slot, frame, ticket);
        } else {
            self.count_undeliverable(to);
        }
    }

    /// Whether a peer has more than can have been on its way from other workers when its outbox filled
    /// up: then one of them was taken over, and heeds no level.
    pub(crate) fn is_flooded(&self, key: PeerKey) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let peer = &self.peers[key.0 as usize];
        let in_flight = cluster.window as usize + largest_frame(self.config.max_payload);
        let most = in_flight.saturating_mul(cluster.links.len() * peer.subscriptions.len().max(1));
        peer.outbox.len() > self.config.outbox.saturating_add(most)
    }

    /// Tells another worker what became of its message here.
    pub(crate) fn tell_conclusion(&mut self, slot: u32, conclusion: OutcomeReport) {
        let Some(cluster) = &mut self.cluster else { return };
        let output = cluster.tell(slot, &WorkerMessage::Concluded(conclusion));
        self.outputs.extend(output);
    }

    /// Tells all living workers.
    pub(crate) fn tell_all(&mut self, news: &WorkerMessage) {
        let Some(cluster) = &mut self.cluster else { return };
        let own = cluster.own_slot;
        for slot in (0..cluster.links.len() as u32).filter(|slot| *slot != own) {
            let output = cluster.tell(slot, news);
            self.outputs.extend(output);
        }
    }

    /// A peer that others have heard of goes.
    pub(crate) fn part(&mut self, introduced: &[u32], peer: u64) {
        let Some(cluster) = &mut self.cluster else { return };
        for &slot in introduced {
            let output = cluster.tell(slot, &WorkerMessage::Departed(peer));
            self.outputs.extend(output);
        }
    }

    /// Leaves a peer unread until other workers can take more.
    pub(crate) fn wait_for_others(&mut self, key: PeerKey) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.waiters.push(key);
        self.peer(key).waiting = true;
    }
}
