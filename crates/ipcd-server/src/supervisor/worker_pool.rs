//! The workers: their slots, and what all workers know of each other.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcd_core::{
    AddressedEvent, Directory, DirectoryChange, DirectoryEvent, InterestMemory, SharedWords,
};
use ipcd_sys::sealed_words::SealedWords;
use nix::sys::epoll::Epoll;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use tracing::{error, info, warn};

use crate::Error;
use crate::admission::Service;
use crate::config::{Config, ForkMode};
use crate::ids::{AdmissionId, SlotId};
use crate::lacking::is_exhaustion;
use crate::link::ToWorker;
use crate::privileges;
use crate::sandbox::Sandbox;
use crate::supervisor::worker_launcher::WorkerLauncher;
use crate::supervisor::worker_log;
use crate::supervisor::worker_slot::{WorkerSlot, WorkerState};
use crate::worker::NewPeer;

/// Messages that wait for a worker's link. Until it takes them, no peer goes to it.
const LINK_BACKLOG: usize = 64;
/// Probes of all workers in a time-out of the watchdog, at most.
const PROBES: u32 = 4;
/// Words of the table of interests. Most interests take 12 to 16; the kernel provides the memory for
/// those that there are.
const INTEREST_WORDS: usize = 1 << 26;
/// Words of the table of a daemon with one worker, which does not use it.
const FEW_WORDS: usize = 1024;

/// The workers.
pub(super) struct WorkerPool {
    launcher: WorkerLauncher,
    slots: Vec<WorkerSlot>,
    /// The slots that are not free. Looking through hundreds of free ones in each turn was a sixth of
    /// a fork's cost.
    occupied: Vec<SlotId>,
    /// The state that all workers share: interests, names, and open questions.
    pub(super) directory: Directory,
    /// Whether workers have been active since the last probe, and the time of the next one.
    is_probe_due: bool,
    next_probe: Instant,
    /// Events that need a descriptor, of which there was none.
    postponed: Vec<AddressedEvent>,
    /// The slot whose turn it is to get a peer.
    turn: usize,
}

impl WorkerPool {
    /// The slots of all workers. No worker is forked yet.
    pub(super) fn new(
        config: &Config,
        user: Option<privileges::UserSwitch>,
        sandbox: Sandbox,
        epoll: &Epoll,
    ) -> Result<Self, Error> {
        let daemon = &config.daemon;
        let (count, state) = match daemon.fork {
            ForkMode::Pool => (daemon.workers.count(), WorkerState::Dead { until: Instant::now() }),
            ForkMode::Connection => {
                (daemon.max_children.count() + spare_slots(config), WorkerState::Free)
            }
        };
        let mut slots: Vec<_> = (0..count).map(|_| WorkerSlot::new(state)).collect();
        let mut occupied = Vec::new();
        if daemon.fork == ForkMode::Pool {
            for (slot, id) in slots.iter_mut().zip((0..).map(SlotId)) {
                slot.open(id, epoll)?;
                occupied.push(id);
            }
        }
        let launcher = WorkerLauncher::new(count, daemon.fork, user, sandbox)?;
        let directory = Directory::new(count, interest_memory(count)?);
        let (is_probe_due, next_probe) = (false, Instant::now());
        Ok(Self {
            launcher,
            slots,
            occupied,
            directory,
            is_probe_due,
            next_probe,
            postponed: Vec::new(),
            turn: 0,
        })
    }

    /// Whether each peer has a child of its own.
    pub(super) fn serves_per_connection(&self) -> bool {
        self.launcher.fork_mode == ForkMode::Connection
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&mut self, id: SlotId) -> &mut WorkerSlot {
        &mut self.slots[id.index()]
    }

    /// The workers that live, with their slots.
    pub(super) fn living(&self) -> impl Iterator<Item = (SlotId, Pid)> {
        self.occupied.iter().filter_map(|id| Some((*id, self.slots[id.index()].pid()?)))
    }

    pub(super) fn slot_of(&self, pid: Pid) -> Option<SlotId> {
        self.living().find(|(_, living)| *living == pid).map(|(id, _)| id)
    }

    /// Whether all workers of a pool have said that they serve.
    pub(super) fn is_ready(&self) -> bool {
        self.slots.iter().all(WorkerSlot::is_ready)
    }

    /// Whether all workers have sent on what they had accepted.
    pub(super) fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| slot.is_quiet || slot.pid().is_none())
    }

    /// The time at which something is due. With `forks` workers are forked again.
    pub(super) fn next(&self, forks: bool, watchdog: Duration) -> Option<Instant> {
        let slots = || self.occupied.iter().map(|id| &self.slots[id.index()]);
        let births = slots().filter_map(WorkerSlot::due_at).filter(|_| forks);
        let checks = slots().filter_map(|slot| slot.next_check(watchdog));
        let logs = slots().filter_map(WorkerSlot::next_of_log);
        let probe = self.is_probe_due.then_some(self.next_probe);
        births.chain(checks).chain(logs).chain(probe).min()
    }

    /// Forks a worker for each slot that is due.
    pub(super) fn revive(&mut self, config: &mut ipcd_core::Config, epoll: &Epoll) {
        let now = Instant::now();
        for at in 0..self.occupied.len() {
            let id = self.occupied[at];
            if self.slot(id).due_at().is_some_and(|due| due <= now)
                && let Err(error) = self.fork(id, config, &mut None, epoll)
            {
                error!(%error, "cannot fork a worker");
                self.slot(id).schedule_retry();
            }
        }
    }

    /// Forks a worker, perhaps for one peer, which `only` still has afterwards.
    pub(super) fn fork(
        &mut self,
        id: SlotId,
        config: &mut ipcd_core::Config,
        only: &mut Option<NewPeer>,
        epoll: &Epoll,
    ) -> Result<(), Error> {
        let log_pipe = worker_log::pipe()?;
        let has_own_link = self.serves_per_connection();
        let slot = &mut self.slots[id.index()];
        if has_own_link {
            // Links of hundreds of free slots would be two descriptors each, which every child has
            // to close.
            slot.open(id, epoll)?;
            self.occupied.push(id);
        }
        match self.launcher.fork(id, slot, &mut self.directory, config, only, log_pipe) {
            Ok(pid) => {
                slot.arm_log(id, epoll);
                if !has_own_link {
                    let (pid, generation) = (pid.as_raw(), slot.generation);
                    info!(pid, slot = id.0, generation, "worker started");
                }
                Ok(())
            }
            Err(error) => {
                if has_own_link {
                    self.vacate(id);
                }
                let events = self.directory.remove_worker(id.0);
                self.send_events(events);
                Err(error)
            }
        }
    }

    /// The slot of a dead worker is free for another peer, or its successor is due.
    pub(super) fn bury(&mut self, id: SlotId, epoll: &Epoll) {
        let events = self.directory.remove_worker(id.0);
        match self.serves_per_connection() {
            true => {
                // Closing takes it out of epoll only when no other process has it open, and a child
                // that was just forked may.
                let _ = epoll.delete(&self.slot(id).link);
                self.vacate(id);
            }
            false => self.slot(id).schedule_successor(),
        }
        self.send_events(events);
    }

    /// The slot for the next peer: each in its turn, if its worker serves now, or one that is free.
    /// `None` while no worker can take it, so that it waits at its listener; `Some(None)` where all
    /// slots of children are taken, so that it is refused.
    pub(super) fn slot_for_peer(&self) -> Option<Option<SlotId>> {
        let count = self.slots.len();
        let turn = self.turn;
        let mut order = (0..count).map(|step| (turn + step) % count);
        let id = |index: usize| SlotId(index as u32);
        if self.serves_per_connection() {
            return Some(order.find(|index| self.slots[*index].is_free()).map(id));
        }
        let mut with_room =
            order.filter(|index| self.slots[*index].link.waiting() < LINK_BACKLOG).peekable();
        // If none serves now, the peer waits on the link of a worker that is to start or to go on.
        let first = with_room.peek().copied();
        with_room.find(|index| self.slots[*index].serves()).or(first).map(|index| Some(id(index)))
    }

    /// The slot has got its peer: it is the next one's turn.
    pub(super) fn pass_turn(&mut self, given: SlotId) {
        self.turn = given.index() + 1;
    }

    /// Slots without a child.
    pub(super) fn free_slots(&self) -> usize {
        self.slots.len() - self.occupied.len()
    }

    /// Has epoll watch the links that wait for room. Whether the kernel had no memory for one.
    pub(super) fn arm(&mut self, epoll: &Epoll) -> Result<bool, Error> {
        let mut lacks_memory = !self.postponed.is_empty();
        for id in self.occupied.iter().copied() {
            let slot = &mut self.slots[id.index()];
            lacks_memory |= slot.link.lacks_memory();
            match slot.arm(id, epoll) {
                Ok(()) => {}
                Err(error) if is_exhaustion(error) => lacks_memory = true,
                Err(error) => return Err(Error::system("watch a descriptor", error)),
            }
        }
        Ok(lacks_memory)
    }

    /// Whether any link takes another peer.
    pub(super) fn has_room(&self) -> bool {
        self.slots.iter().any(|slot| slot.link.waiting() < LINK_BACKLOG)
    }

    /// Sends again what the kernel had no memory for.
    pub(super) fn flush_refused(&mut self) {
        self.slots.iter_mut().filter(|slot| slot.link.lacks_memory()).for_each(WorkerSlot::flush);
        let postponed = std::mem::take(&mut self.postponed);
        self.send_events(postponed);
    }

    /// The peers that could not be handed over. Their descriptors are closed by now.
    pub(super) fn take_lost(&mut self) -> Vec<(SlotId, AdmissionId)> {
        let mut lost = Vec::new();
        for id in self.occupied.iter().copied() {
            let of_slot = self.slots[id.index()].link.take_lost();
            lost.extend(of_slot.into_iter().map(|peer| (id, peer)));
        }
        lost
    }

    /// Sends a message to the worker in a slot, if one lives there.
    pub(super) fn send(&mut self, id: SlotId, message: &ToWorker) {
        self.slot(id).send(message, Vec::new());
    }

    pub(super) fn send_to_all(&mut self, message: &ToWorker) {
        self.slots.iter_mut().for_each(|slot| slot.send(message, Vec::new()));
    }

    pub(super) fn send_events(&mut self, events: Vec<AddressedEvent>) {
        let mut meetings = WorkerMeetings::default();
        for (slot, event) in events {
            let fds = match met_worker(&event) {
                None => Vec::new(),
                Some((other, generation)) if self.is_alive(other, generation) => {
                    match meetings.socket_between(slot, other) {
                        Ok(socket) => vec![socket],
                        Err(error) => {
                            self.postpone((slot, event), error);
                            continue;
                        }
                    }
                }
                // It has ended while the event was postponed.
                Some((other, _)) => {
                    let to = self.slots[slot as usize].generation;
                    let absent = DirectoryEvent::Absent { to, slot: other };
                    self.send(SlotId(slot), &ToWorker::DirectoryEvent(absent));
                    continue;
                }
            };
            self.slot(SlotId(slot)).send(&ToWorker::DirectoryEvent(event), fds);
        }
    }

    fn is_alive(&self, slot: u32, generation: u32) -> bool {
        let slot = &self.slots[slot as usize];
        slot.pid().is_some() && slot.generation == generation
    }

    /// Keeps an event until there is a descriptor for it.
    fn postpone(&mut self, event: AddressedEvent, error: nix::Error) {
        if self.postponed.is_empty() {
            warn!(source = "worker sockets", %error, "cannot connect two workers: trying again");
        }
        self.postponed.push(event);
    }

    /// Tells all workers what has changed in the directory since the last turn.
    pub(super) fn spread_changes(&mut self) {
        if self.slots.len() > 1 {
            let events = self.directory.take_events();
            self.send_events(events);
        }
    }

    /// Has all workers confirm that they read their links, a few times in each time-out of the watchdog.
    /// A daemon in which nothing happens asks nothing.
    pub(super) fn probe(&mut self, watchdog: Duration) {
        let now = Instant::now();
        self.is_probe_due |= self.directory.take_activity() && self.slots.len() > 1;
        if self.is_probe_due && self.next_probe <= now {
            (self.is_probe_due, self.next_probe) = (false, now + watchdog / PROBES);
            let events = self.directory.probe();
            self.send_events(events);
        }
    }

    /// Kills workers that hang, and those that leave too much unread: the supervisor would have to keep
    /// it all.
    pub(super) fn watch_over(&mut self, watchdog: Duration) {
        let now = Instant::now();
        for id in self.occupied.iter().copied() {
            let slot = &mut self.slots[id.index()];
            if slot.pid().is_some() && slot.link.is_overfull() {
                slot.condemn(id, "it does not read its link");
                slot.kill();
            }
            slot.check_watchdog(id, now, watchdog);
        }
    }

    /// Reads the logs of workers that had written too much for a while.
    pub(super) fn read_paused_logs(&mut self, now: Instant, epoll: &Epoll) {
        for id in self.occupied.iter().copied() {
            let slot = &mut self.slots[id.index()];
            if slot.next_of_log().is_some_and(|at| at <= now) {
                slot.read_log(id, epoll);
            }
        }
    }

    pub(super) fn kill_all(&self) {
        self.slots.iter().for_each(WorkerSlot::kill);
    }

    /// The peer that a dead worker was serving. Clears the note.
    pub(super) fn take_crash_marker(&self, id: SlotId) -> AdmissionId {
        AdmissionId(self.launcher.take_crash_marker(id))
    }

    /// No worker lives in this slot, nor will before it is taken again.
    fn vacate(&mut self, id: SlotId) {
        self.slot(id).close();
        self.occupied.retain(|occupied| *occupied != id);
    }
}

/// The sockets between workers that meet now, as long as only one of them has its end.
#[derive(Default)]
struct WorkerMeetings(BTreeMap<(u32, u32), OwnedFd>);

impl WorkerMeetings {
    /// Returns one end for the first of two workers, and then the other end for the second.
    fn socket_between(&mut self, slot: u32, other: u32) -> nix::Result<OwnedFd> {
        if let Some(end) = self.0.remove(&(other, slot)) {
            return Ok(end);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (end, far_end) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        self.0.insert((slot, other), far_end);
        Ok(end)
    }
}

/// Returns the slot and the generation of the worker that an event makes known.
fn met_worker(event: &DirectoryEvent) -> Option<(u32, u32)> {
    match event {
        DirectoryEvent::WorkerChanged {
            change: DirectoryChange::Generation { slot, generation },
            ..
        } => Some((*slot, *generation)),
        _ => None,
    }
}

/// Makes the memory for the table of interests, which only the supervisor can write.
fn interest_memory(slots: usize) -> Result<InterestMemory, Error> {
    // A single worker knows all routes itself.
    let words = if slots > 1 { INTEREST_WORDS } else { FEW_WORDS };
    let (writer, readers) = SealedWords::new(c"ipcd-interests", words)
        .map_err(|error| Error::system("map memory for interests", error))?;
    let seed = RandomState::new().build_hasher().finish();
    Ok(InterestMemory {
        writer: SharedWords::new(writer),
        readers: SharedWords::new(readers),
        seed,
    })
}

/// The most peers that there may be because each needs a child.
pub(super) fn service(config: &Config) -> Service {
    let daemon = &config.daemon;
    match daemon.fork {
        ForkMode::Pool => Service::Pool(daemon.workers.count()),
        ForkMode::Connection => Service::Children(daemon.max_children.count()),
    }
}

/// Slots for the children of peers that come while those are still there that have to make room.
pub(super) fn spare_slots(config: &Config) -> usize {
    (config.daemon.max_children.count() / 8).clamp(2, 32)
}
