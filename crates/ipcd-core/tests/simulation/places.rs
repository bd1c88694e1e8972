//! The slots of workers, and the messages in flight: links, inboxes, and the supervisor's part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipcd_core::{AddressedEvent, Directory, DirectoryEvent, DirectoryRequest, PeerKey, Router};

/// Records of one sender that an inbox holds.
pub(crate) const INBOX_RECORDS: usize = 5;

/// The slot of a worker.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) worker: Option<Worker>,
    /// Whether the supervisor considers the slot occupied: also by a dead worker that it has not
    /// reaped.
    pub(crate) is_running: bool,
    pub(crate) generation: u32,
    /// The link to the worker. Like the inbox, it outlives the worker.
    pub(crate) down: VecDeque<Down>,
    /// The link from the worker.
    pub(crate) up: VecDeque<DirectoryRequest>,
    /// The records of other workers, by sender.
    pub(crate) inbox: Vec<VecDeque<Record>>,
    /// Whether the worker serves one peer only, and leaves after it.
    pub(crate) is_brief: bool,
}

pub(crate) struct Worker {
    pub(crate) core: Router,
    pub(crate) generation: u32,
    pub(crate) clients: BTreeMap<PeerKey, usize>,
    /// Slots that the router has frames for.
    pub(crate) forwards: BTreeSet<usize>,
    /// Whether the router's outputs were not read yet.
    pub(crate) is_stale: bool,
}

/// A message of the supervisor to a worker.
pub(crate) enum Down {
    DirectoryEvent(DirectoryEvent),
    Admit(usize),
}

/// A record of one worker for another.
pub(crate) struct Record {
    pub(crate) generation: u32,
    pub(crate) to_generation: u32,
    pub(crate) frames: Vec<u8>,
}

pub(crate) struct Supervisor {
    pub(crate) table: Directory,
    pub(crate) places: Vec<Place>,
    /// Whether the directory may have events.
    pub(crate) has_news: bool,
    pub(crate) births: u64,
}

impl Supervisor {
    pub(crate) fn new(slots: usize, is_brief: bool) -> Self {
        let inbox = || (0..slots).map(|_| VecDeque::new()).collect();
        let place = || Place { inbox: inbox(), is_brief, ..Place::default() };
        let places = (0..slots).map(|_| place()).collect();
        Self { table: Directory::in_process(slots, 1 << 14), places, has_news: false, births: 0 }
    }

    /// Handles a worker's next message, if there is one.
    pub(crate) fn handle(&mut self, slot: usize) -> bool {
        let Some(request) = self.places[slot].up.pop_front() else { return false };
        let told = self.table.handle(slot as u32, request).expect("no worker here is hostile");
        self.tell(told);
        self.has_news = true;
        true
    }

    /// Reaps a dead worker, after all messages that it had sent.
    pub(crate) fn bury(&mut self, slot: usize) {
        while self.handle(slot) {}
        let told = self.table.remove_worker(slot as u32);
        let place = &mut self.places[slot];
        place.is_running = false;
        if place.is_brief {
            // The link ends with such a worker; a successor gets its own.
            place.down.clear();
        }
        self.tell(told);
        self.has_news = true;
    }

    /// Starts a worker with the present state of the directory, of which the child has a copy.
    pub(crate) fn fork(&mut self, slot: usize, config: &ipcd_core::Config) {
        let place = &mut self.places[slot];
        place.generation += 1;
        place.is_running = true;
        self.table.add_worker(slot as u32, place.generation);
        let shared = self.table.state();
        let (slot, generation) = (slot as u32, place.generation);
        let config = ipcd_core::Config { slot, generation, ..config.clone() };
        place.worker = Some(Worker {
            core: Router::new(config, Some(shared)),
            generation,
            clients: BTreeMap::new(),
            forwards: BTreeSet::new(),
            is_stale: false,
        });
        (self.has_news, self.births) = (true, self.births + 1);
    }

    pub(crate) fn spread_news(&mut self) {
        let told = self.table.take_events();
        self.has_news = false;
        self.tell(told);
    }

    fn tell(&mut self, told: Vec<AddressedEvent>) {
        for (slot, news) in told {
            let place = &mut self.places[slot as usize];
            if place.is_running {
                place.down.push_back(Down::DirectoryEvent(news));
            }
        }
    }

    /// Whether nothing is in flight and all workers live. With `all`, no worker is leaving either,
    /// which takes until messages that were passed on have been read.
    pub(crate) fn is_quiet(&self, all: bool) -> bool {
        let is_quiet = |place: &Place| {
            if place.is_brief && !place.is_running {
                return place.up.is_empty();
            }
            let is_served = |worker: &Worker| {
                let is_over = place.is_brief && worker.clients.is_empty();
                let has_work = worker.is_stale || worker.core.has_deferred();
                (!is_over || !all) && !has_work && worker.forwards.is_empty()
            };
            place.worker.as_ref().is_some_and(is_served)
                && place.up.is_empty()
                && place.down.is_empty()
                && place.inbox.iter().all(VecDeque::is_empty)
        };
        !self.has_news && self.places.iter().all(is_quiet)
    }
}
