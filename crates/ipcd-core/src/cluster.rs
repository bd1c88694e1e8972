//! The other workers of the daemon: their interests, and the links to them. It must not decide how
//! a message is delivered here.
//!
//! A message goes once to each interested worker, and that worker finds the subscriptions. A window
//! bounds the bytes in flight between two workers: the receiver reports how many it has consumed,
//! and publishers wait while too many are outstanding. A worker tells the others in the same
//! stream, ahead of such a report, when an interest is blocked because the send queue of a
//! subscriber is full.

pub(crate) mod inbound;
pub(crate) mod interests;
pub(crate) mod leaving;
pub(crate) mod messages;

use crate::cluster::inbound::InboundQueue;
use crate::cluster::interests::LocalInterest;
use crate::cluster::leaving::LeaveState;
use crate::cluster::messages::WorkerMessage;
use crate::config::Config;
use crate::directory::messages::DirectoryRequest;
use crate::directory::state::{DirectoryChange, DirectoryState};
use crate::model::ids::{PeerKey, Ticket};
use crate::model::interest::{GroupPart, Interest};
use crate::model::names::is_name;
use crate::model::waiting::WaitingList;
use crate::output::Output;
use crate::routing::index::{GroupShare, QueueGroup, WorkerInterest};
use crate::routing::interests::FoundInterest;
use ipcd_proto::Filter;
use ipcd_proto::FrameKind;
use ipcd_proto::FrameWriter;
use ipcd_proto::Header;
use ipcd_proto::Subject;
use ipcd_proto::control::Origin;
use ipcd_proto::control::encode;
use ipcd_proto::limits::MAX_NAME;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::rc::Rc;

/// Senders on other workers that are remembered. The limit holds even if a compromised worker
/// announces more.
pub(crate) const MAX_ORIGINS: usize = 256 * 1024;

/// The other workers. A router without others is alone, and has no links.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) own_slot: u32,
    /// Bytes that may be in flight to another worker.
    window: u64,
    pub(crate) directory: DirectoryState,
    /// Blocked interests of other workers, as those workers have told.
    blocked: HashSet<(u32, Interest)>,
    /// Counts the changes of routes that this worker has seen: of its own flow states, and of the
    /// table of interests, in which version it has seen that last.
    route_version: Cell<u64>,
    table_version: Cell<u32>,
    /// The links to workers that this one has met, or is about to meet, by slot.
    pub(crate) links: BTreeMap<u32, WorkerLink>,
    /// Frames of other workers that wait for a later turn.
    pub(crate) inbound: InboundQueue,
    /// Publishers that wait for other workers.
    pub(crate) waiters: WaitingList,
    /// Senders on other workers, as those workers have announced them.
    pub(crate) origins: HashMap<u64, (u32, Origin)>,
    /// This worker's own interests.
    locals: HashMap<Interest, LocalInterest>,
    /// Interests that are not in the table, with the number of subscriptions of each. This worker
    /// asks for all messages instead.
    broad: HashMap<Interest, usize>,
    /// Queue groups by this worker's numbers.
    numbers: HashMap<u32, Rc<QueueGroup>>,
    last_number: u32,
    /// Subscriptions that are acknowledged once all workers know of them.
    pending_acks: Vec<PendingAck>,
    next_ticket: u64,
    confirmed: u64,
    /// Whether the directory was asked to tell of new members of groups.
    pub(crate) is_watching_groups: bool,
    /// Whether the daemon ends, so that the directory answers no more.
    pub(crate) is_ending: bool,
    /// The progress of this worker's own leaving.
    pub(crate) leave: LeaveState,
    pub(crate) outputs: VecDeque<Output>,
}

/// The streams to and from another worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerLink {
    /// Frames to be sent; those before `head` are sent already.
    pub(crate) outgoing: Vec<u8>,
    pub(crate) head: usize,
    pub(crate) is_dirty: bool,
    /// Whether the directory was asked for that worker, and has not answered.
    is_asked: bool,
    sent: u64,
    /// Bytes that the other worker has reported as consumed.
    credited: u64,
    /// Bytes that came from there and were consumed here.
    consumed: u64,
    add_answer: u64,
    /// The latest known generation there, alive or dead.
    pub(crate) last_generation: u32,
    /// The generation there that has sent something most recently.
    pub(crate) heard_generation: u32,
    /// The ticket that applies to the next message from there.
    pub(crate) ticket: Option<Ticket>,
    /// Whether that worker has said that no more messages come.
    has_said_last: bool,
}

/// A subscription whose acknowledgement is pending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingAck {
    pub(crate) ticket: u64,
    pub(crate) key: PeerKey,
    pub(crate) peer: u64,
    pub(crate) correlation: u64,
}

impl Cluster {
    pub(crate) fn new(config: &Config, directory: DirectoryState) -> Self {
        let (own_slot, window) = (config.slot, config.window);
        let mut cluster = Self { own_slot, window, directory, ..Self::default() };
        let (slot, generation) = (config.slot, config.generation);
        cluster.directory.apply(&DirectoryChange::Generation { slot, generation });
        cluster
    }

    /// Whether this router has neither other workers nor a directory.
    pub(crate) fn is_alone(&self) -> bool {
        self.directory.generations.is_empty()
    }

    /// Returns the link to a slot.
    pub(crate) fn link(&mut self, slot: u32) -> &mut WorkerLink {
        self.links.entry(slot).or_default()
    }

    /// Asks the directory for the worker in a slot. Until the answer, nothing can be sent there.
    pub(crate) fn meet(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.link(slot).is_asked, true) {
            self.tell_directory(DirectoryRequest::Meet(slot));
        }
    }

    /// Has the directory tell of new members of groups, because publishers wait for the known ones.
    pub(crate) fn watch_groups(&mut self) {
        if !self.is_alone() && !std::mem::replace(&mut self.is_watching_groups, true) {
            // The version that the route was looked up in: a newer table may have a new member.
            self.tell_directory(DirectoryRequest::WatchGroups(self.table_version.get()));
        }
    }

    /// Notes that in a slot is no worker that can be met.
    pub(crate) fn note_absent(&mut self, slot: u32) {
        self.link(slot).is_asked = false;
    }

    /// Returns the interests of other workers that match, sorted by worker, and the number of index
    /// nodes that were visited.
    pub(crate) fn find(&self, subject: Subject<'_>) -> (Vec<WorkerInterest>, usize) {
        let (found, looked_at) = self.directory.interests.find(subject);
        // The table includes this worker's own interests.
        let others = found.into_iter().filter(|found| found.slot != self.own_slot);
        let mut remotes: Vec<_> = others.filter_map(|found| self.remote(found)).collect();
        remotes.sort_unstable();
        (remotes, looked_at)
    }

    fn remote(&self, found: FoundInterest) -> Option<WorkerInterest> {
        let FoundInterest { slot, generation, filter, group } = found;
        let parsed = Filter::parse(filter.as_bytes()).ok()?;
        let name = group.as_ref().map(|(name, _)| name.clone());
        // Most of the time no interest is blocked.
        let is_blocked = !self.blocked.is_empty()
            && self.blocked.contains(&(slot, Interest { filter, group: name }));
        let share = group.map(|(name, GroupPart { number, members })| {
            let group = Rc::new(QueueGroup { filter: parsed, name });
            GroupShare { group, number, members }
        });
        Some(WorkerInterest { slot, generation, is_blocked, share })
    }

    /// Returns a number that changes whenever routes to other workers may have changed.
    pub(crate) fn version(&self) -> u64 {
        let table_version = self.directory.interests.version();
        if self.table_version.replace(table_version) != table_version {
            self.note_route_change();
        }
        self.route_version.get()
    }

    fn note_route_change(&self) {
        self.route_version.set(self.route_version.get() + 1);
    }

    pub(crate) fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.get(&sender).map(|(_, origin)| origin)
    }

    /// Whether a publisher has to wait for one of these interests.
    pub(crate) fn must_wait(&self, remotes: &[WorkerInterest]) -> bool {
        remotes.iter().any(|remote| remote.is_blocked || !self.has_room(remote.slot))
    }

    /// Whether more may be sent to a worker for now.
    pub(crate) fn has_room(&self, slot: u32) -> bool {
        self.outstanding(slot) <= self.window
    }

    /// Returns the bytes that a worker has not reported as consumed.
    pub(crate) fn outstanding(&self, slot: u32) -> u64 {
        self.links.get(&slot).map_or(0, |link| link.sent - link.credited)
    }

    /// Returns the bytes that all workers together may have in flight to this one, for one
    /// interest.
    pub(crate) fn in_flight(&self, largest_frame: usize) -> usize {
        (self.window as usize + largest_frame).saturating_mul(self.directory.slots())
    }

    /// Returns the generation in a slot, 0 for an empty one; `None` if the slot does not exist.
    pub(crate) fn generation_of(&self, slot: u32) -> Option<u32> {
        self.directory.generations.get(slot as usize).copied()
    }

    /// Whether this generation of a slot is the one that this worker is connected to.
    pub(crate) fn knows(&self, slot: u32, generation: u32) -> bool {
        self.generation_of(slot) == Some(generation)
    }

    pub(crate) fn is_alive(&self, slot: u32) -> bool {
        self.generation_of(slot).is_some_and(|generation| generation > 0)
    }

    pub(crate) fn last_generation_of(&self, slot: u32) -> u32 {
        self.links.get(&slot).map_or(0, |link| link.last_generation)
    }

    /// Queues messages for a worker.
    pub(crate) fn push(&mut self, slot: u32, batch: &[u8]) {
        self.write(slot, |outgoing| outgoing.extend_from_slice(batch));
    }

    pub(crate) fn tell(&mut self, slot: u32, notice: &WorkerMessage) {
        self.write(slot, |outgoing| {
            FrameWriter(outgoing).control(Header::new(FrameKind::Notice, 0), &encode(notice));
        });
    }

    fn write(&mut self, slot: u32, write: impl FnOnce(&mut Vec<u8>)) {
        // Frames for a dead worker would reach its successor, which does not expect them.
        if !self.is_alive(slot) {
            return;
        }
        let link = self.link(slot);
        let before = link.outgoing.len();
        write(&mut link.outgoing);
        link.sent += (link.outgoing.len() - before) as u64;
        // One output for each link and turn.
        if !std::mem::replace(&mut link.is_dirty, true) {
            self.outputs.push_back(Output::Forward(slot));
        }
    }

    /// Sends a notice to all living workers.
    fn tell_all(&mut self, notice: &WorkerMessage) {
        let slots: Vec<u32> = self.links.keys().copied().collect();
        slots.into_iter().for_each(|slot| self.tell(slot, notice));
    }

    pub(crate) fn tell_directory(&mut self, request: DirectoryRequest) {
        self.outputs.push_back(Output::Tell(request));
    }

    /// Tells the workers that know a peer that it has gone.
    pub(crate) fn tell_departed(&mut self, introduced: &[u32], peer: u64) {
        for &slot in introduced {
            self.tell(slot, &WorkerMessage::Departed(peer));
        }
    }

    pub(crate) fn report_consumed(&mut self, slot: u32, bytes: usize) {
        let quarter = self.window / 4;
        let link = self.link(slot);
        link.consumed += bytes as u64;
        // A report for each quarter of the window: often enough that no publisher waits for a
        // report that is not due, and rare enough to cost little.
        if link.consumed - link.add_answer >= quarter {
            link.add_answer = link.consumed;
            let notice = WorkerMessage::Consumed(link.consumed);
            self.tell(slot, &notice);
        }
    }

    /// Notes that another worker has consumed all bytes up to this position.
    pub(crate) fn credit(&mut self, slot: u32, position: u64) {
        let link = self.link(slot);
        // A compromised worker may claim any position. One beyond `sent` would make `outstanding`
        // underflow, and a smaller one would take credit back.
        link.credited = position.clamp(link.credited, link.sent);
    }

    /// Removes bytes from the front of the frames for a worker, because they were sent.
    pub(crate) fn forwarded(&mut self, slot: u32, count: usize) {
        let link = self.link(slot);
        link.head += count;
        if link.head == link.outgoing.len() {
            link.outgoing.clear();
            link.head = 0;
        // Moving the rest only when it is the smaller half keeps the cost of each byte constant.
        } else if link.head > link.outgoing.len() / 2 {
            link.outgoing.drain(..link.head);
            link.head = 0;
        }
    }

    /// Starts over with another generation of a slot, or with an empty slot.
    pub(crate) fn replace(&mut self, slot: u32, generation: u32) {
        let link = self.link(slot);
        let last_generation = link.last_generation.max(generation);
        let heard_generation = link.heard_generation;
        // Both outlive the link: they tell late records of earlier generations apart.
        *link = WorkerLink { last_generation, heard_generation, ..WorkerLink::default() };
        self.blocked.retain(|(of, _)| *of != slot);
        self.note_route_change();
        self.stop_waiting_for(slot);
    }

    /// Whether a sender may be remembered. An honest worker stays within these limits.
    pub(crate) fn has_room_for(&self, origin: &Origin) -> bool {
        self.origins.len() < MAX_ORIGINS
            && origin.name.as_deref().is_none_or(is_name)
            && origin.transport.len() <= MAX_NAME
    }

    /// Whether a change is about a generation that has ended. News of the next one may arrive
    /// earlier, from the worker itself or by inheritance.
    pub(crate) fn is_stale(&self, change: &DirectoryChange) -> bool {
        let known = |slot: u32| self.generation_of(slot).unwrap_or(0);
        match *change {
            DirectoryChange::Generation { slot, generation } => {
                generation < known(slot).max(self.last_generation_of(slot))
            }
            DirectoryChange::Leaving { slot, generation }
            | DirectoryChange::Died { slot, generation, .. } => known(slot) != generation,
            DirectoryChange::QuotaUsage { .. } | DirectoryChange::FewerWorkers => false,
        }
    }
}
