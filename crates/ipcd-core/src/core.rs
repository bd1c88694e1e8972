//! The router: what it is made of, and how peers come and go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use crate::access::RightsCache;
use crate::charges::Quotas;
use crate::cluster::Cluster;
use crate::directory::messages::DirectoryRequest;
use crate::directory::state::DirectoryState;
use crate::fanout::LastAudience;
use crate::model::config::{Config, PeerInfo};
use crate::model::ids::{PeerKey, id_of};
use crate::model::principal::Principal;
use crate::pacing::Pacing;
use crate::peer::{DropCounts, Peer, PeerCounts, PeerDeadlines, SessionState, Subscription};
use crate::queue::chunk_pool::ChunkPool;
use crate::queue::send_queue::SendQueue;
use crate::report::OpenQueries;
use crate::routing::group_turns::GroupTurns;
use crate::routing::routes::RouteCache;
use crate::routing::trie::{LocalSubscriber, SubscriptionTrie};
use crate::timers::PeerTimers;
use crate::tracked::Requests;
use crate::turns::{DeferredQueue, DeferredWork, StepBudget};
use crate::waiting::{WaitState, WaitingList};
use foldhash::fast::RandomState;
use ipcd_proto::control::{Origin, Reason};
use slab::Slab;

/// What it takes to forget a subscription.
const STEPS_TO_FORGET: usize = 32;

/// A router of one worker.
///
/// The caller does what [`Router::poll_output`] says until there is nothing more, after every call
/// of [`Router::receive`], [`Router::wrote`], [`Router::detach`], [`Router::drain`] and [`Router::tick`].
#[derive(Debug)]
pub struct Router {
    pub(crate) config: Config,
    pub(crate) peers: Slab<Peer>,
    pub(crate) interests: SubscriptionTrie<LocalSubscriber>,
    /// What is known of the other workers, if there are any.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) routes: RouteCache,
    pub(crate) permissions: RightsCache,
    pub(crate) charges: Quotas,
    /// Peers by their ids.
    pub(crate) ids: HashMap<u64, PeerKey, RandomState>,
    pub(crate) trackers: Requests,
    pub(crate) rotations: GroupTurns,
    /// Publishers that wait for a group, until it has a member that can take more.
    pub(crate) group_waiters: WaitingList,
    pub(crate) names: HashSet<String>,
    pub(crate) counters: RouterCounters,
    pub(crate) store: ChunkPool,
    pub(crate) last_audience: Option<LastAudience>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) questions: OpenQueries,
    pub(crate) timers: PeerTimers,
    pub(crate) budget: StepBudget,
    pub(crate) deferred: DeferredQueue,
    /// Who has sent what is being delivered, where that was put off.
    pub(crate) last_sender: Option<Origin>,
    /// Peers that have gone, of which subscriptions are left.
    gone: usize,
    /// Subscriptions that there have been.
    pub(crate) births: u64,
    next_number: u32,
}

/// What the worker is asked to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Write what is in the peer's outbox.
    Write(PeerKey),
    /// Offer the peer's bytes again, and read on.
    Resume(PeerKey),
    /// The session is open: worth a line in the log.
    Opened(PeerKey),
    /// Something was denied to the peer, for the first time.
    Denied(PeerKey, String),
    /// Write what is in the outbox, finish the channel, and detach the peer when it closes.
    Close(PeerKey, String),
    /// Detach the peer now.
    Drop(PeerKey, String),
    /// Send what is on its way to another worker ([`Router::outgoing`]).
    Forward(u32),
    /// Tell the table ([`crate::Directory::heed`]).
    Tell(DirectoryRequest),
}

impl Output {
    fn peer(&self) -> Option<PeerKey> {
        match *self {
            Self::Write(key)
            | Self::Resume(key)
            | Self::Opened(key)
            | Self::Denied(key, _)
            | Self::Close(key, _)
            | Self::Drop(key, _) => Some(key),
            Self::Forward(_) | Self::Tell(_) => None,
        }
    }
}

/// What is counted for the whole router.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouterCounters {
    pub(crate) accepted: u64,
    pub(crate) matched: u64,
    pub(crate) dropped: DropCounts,
    /// Messages for a group here, of which no member was left anywhere.
    pub(crate) unclaimed: u64,
    /// Messages to one peer that was there.
    pub(crate) direct_matched: u64,
    pub(crate) direct_dropped: u64,
    pub(crate) direct_undeliverable: u64,
    pub(crate) replies_late: u64,
    pub(crate) refused: u64,
    pub(crate) denied: u64,
    pub(crate) cut_off: u64,
    pub(crate) peers: u64,
    pub(crate) lost_in_transit: u64,
    pub(crate) stale: u64,
    /// Peers that the kernel had no memory to wait for.
    pub(crate) unwatched: u64,
}

impl Router {
    /// A router without peers; one of several, if it is given what they share.
    pub fn new(config: Config, shared: Option<DirectoryState>) -> Self {
        let cluster = shared.map(|shared| Cluster::new(&config, shared));
        let mut core = Self {
            cluster,
            questions: OpenQueries::default(),
            config,
            peers: Slab::new(),
            interests: SubscriptionTrie::default(),
            routes: RouteCache::default(),
            permissions: RightsCache::default(),
            charges: Quotas::default(),
            ids: HashMap::default(),
            trackers: Requests::default(),
            rotations: GroupTurns::default(),
            group_waiters: WaitingList::default(),
            names: HashSet::new(),
            counters: RouterCounters::default(),
            store: ChunkPool::default(),
            last_audience: None,
            outputs: VecDeque::new(),
            timers: PeerTimers::default(),
            budget: StepBudget::default(),
            deferred: DeferredQueue::default(),
            last_sender: None,
            gone: 0,
            births: 0,
            next_number: 0,
        };
        core.end_turn();
        core.greet_leavers();
        core
    }

    /// Takes a peer in.
    pub fn attach(&mut self, now: Instant, info: PeerInfo) -> PeerKey {
        let PeerInfo { listener, mut origin, challenge, bare } = info;
        self.next_number = self.next_number.wrapping_add(1);
        let id = id_of(self.config.slot, self.config.generation, self.next_number);
        (origin.peer, origin.name) = (id, None);
        let source = Principal::of(origin.uid, origin.addr, self.config.prefixes);
        let charge = self.charge_of(source);
        let deadlines = PeerDeadlines::begin(now);
        let peer = Peer {
            listener: listener as u32,
            told: 0,
            origin,
            state: SessionState::New { challenge: challenge.map(Box::new) },
            proven: None,
            rights: None,
            was_denied: false,
            is_bare: false,
            is_mute: false,
            asked: 0,
            before_open: 0,
            charge,
            charged: 0,
            no_echo: false,
            lingers: false,
            largest: None,
            outbox: SendQueue::default(),
            full: false,
            pace: Pacing::default(),
            dirty: false,
            waiters: Vec::new(),
            waiting: false,
            wait: WaitState::default(),
            was_deferred: false,
            is_deferred: false,
            fans_out: false,
            questions: 0,
            is_leaving: false,
            subscriptions: Vec::new(),
            wants_origins: false,
            calls: None,
            introduced: None,
            has_gaps: false,
            known: None,
            counts: PeerCounts::default(),
            fill: u64::MAX,
            deadlines,
        };
        let key = PeerKey(self.peers.insert(peer) as u32);
        self.ids.insert(id, key);
        self.counters.peers += 1;
        let idle = self.config.idle_timeout.map(|timeout| timeout / 2);
        let first = idle.into_iter().chain([self.config.handshake_timeout]);
        self.arm(key, now + first.min().expect("there is one"));
        if let Some(bare) = bare {
            self.open_bare(key, bare);
        }
        key
    }

    /// Lets a peer go. What was in its outbox is lost, and counted.
    pub fn detach(&mut self, now: Instant, key: PeerKey) {
        self.forget_subscriptions(key);
        self.resume_waiters(key);
        self.drop_all(now, key, Reason::Departed);
        self.forget_tracked(now, key, Reason::Departed);
        let peer = &mut self.peers[key.0 as usize];
        peer.outbox.release(&mut self.store);
        peer.state = SessionState::Gone;
        peer.waiting = false;
        let (id, introduced) = (peer.origin.peer, peer.introduced.take().unwrap_or_default());
        let (name, is_leaving) = (peer.origin.name.clone(), peer.is_leaving);
        self.gone += 1;
        self.ids.remove(&id);
        self.part(&introduced, id);
        // The place may be used again before the outputs are read.
        self.outputs.retain(|output| output.peer() != Some(key));
        if let Some(name) = name {
            self.release_name(name);
        }
        if !is_leaving {
            self.vacate(key);
        }
    }

    /// Nothing is left of a peer that has gone: its place may be used again.
    fn vacate(&mut self, key: PeerKey) {
        self.discharge(key);
        self.peers.remove(key.0 as usize);
        self.gone -= 1;
        debug_assert!(!self.peers.is_empty() || self.store.is_free(), "nobody is left to hold it");
    }

    /// Adds to what transports have lost.
    pub fn count_lost(&mut self, frames: u64) {
        self.counters.lost_in_transit += frames;
    }

    /// Adds to what came from or for a life of a worker that is over, and was dropped.
    pub fn count_stale(&mut self, records: u64) {
        self.counters.stale += records;
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            self.end_turn();
        }
        output
    }

    /// Peers that are attached.
    pub fn peer_count(&self) -> usize {
        self.peers.len() - self.gone
    }

    /// The number of the listener that accepted it, or of what else it is.
    pub fn listener(&self, key: PeerKey) -> usize {
        self.peers[key.0 as usize].listener as usize
    }

    /// Who the peer is.
    pub fn origin(&self, key: PeerKey) -> &Origin {
        &self.peers[key.0 as usize].origin
    }

    /// Messages for a peer that were dropped, because it was too slow or could not take them.
    pub fn dropped(&self, key: PeerKey) -> u64 {
        self.peers[key.0 as usize].counts.dropped
    }

    pub(crate) fn peer(&mut self, key: PeerKey) -> &mut Peer {
        &mut self.peers[key.0 as usize]
    }

    pub(crate) fn keys(&self) -> Vec<PeerKey> {
        let here = self.peers.iter().filter(|(_, peer)| !matches!(peer.state, SessionState::Gone));
        here.map(|(key, _)| PeerKey(key as u32)).collect()
    }

    pub(crate) fn opened(&mut self, key: PeerKey) {
        self.outputs.push_back(Output::Opened(key));
    }

    /// Its outbox is then nobody's concern but its own. Thousands of subscriptions are forgotten over
    /// several turns.
    pub(crate) fn forget_subscriptions(&mut self, key: PeerKey) {
        let peer = self.peer(key);
        let was_full = std::mem::take(&mut peer.full);
        peer.pace = Pacing::default();
        let leaving = std::mem::take(&mut peer.subscriptions);
        if leaving.len() * STEPS_TO_FORGET <= self.config.slice {
            leaving.iter().for_each(|gone| self.forget_one(key, gone, was_full));
            self.interests.touch();
        } else {
            self.peer(key).is_leaving = true;
            self.deferred.push_back(DeferredWork::Leaving { key, leaving, was_full });
        }
    }

    /// Goes on with the subscriptions of a peer that has gone, or goes.
    pub(crate) fn go_on_leaving(
        &mut self,
        key: PeerKey,
        mut leaving: Vec<Subscription>,
        was_full: bool,
    ) {
        while let Some(gone) = leaving.pop() {
            self.forget_one(key, &gone, was_full);
            self.budget.spend(STEPS_TO_FORGET);
            if self.budget.is_spent() && !leaving.is_empty() {
                return self.deferred.push_back(DeferredWork::Leaving { key, leaving, was_full });
            }
        }
        // Until now nothing else could be in its place, and who is not there gets nothing.
        self.interests.touch();
        let peer = self.peer(key);
        peer.is_leaving = false;
        if matches!(peer.state, SessionState::Gone) {
            self.vacate(key);
        }
    }

    pub(crate) fn forget(&mut self, key: PeerKey, gone: &Subscription, was_full: bool) {
        self.interests.touch();
        self.forget_one(key, gone, was_full);
    }

    /// Leaves it to the caller to say that routes have changed.
    fn forget_one(&mut self, key: PeerKey, gone: &Subscription, was_full: bool) {
        self.interests.remove(&gone.filter, &(key, gone.number));
        self.unshare(gone, was_full);
        self.charge_subscription(key, false);
    }
}
