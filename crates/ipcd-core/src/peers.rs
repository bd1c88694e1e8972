//! The attached peers: their send queues, deadlines, quotas, rights and flow control. This part
//! knows nothing of subscribers' routes; it changes one peer at a time.

pub(crate) mod deadlines;
pub(crate) mod flow;
pub(crate) mod pacing;
pub(crate) mod peer;
pub(crate) mod quota;
pub(crate) mod quotas;
pub(crate) mod rights;
pub(crate) mod sending;
pub(crate) mod table;
pub(crate) mod timers;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::model::counters::RouterCounters;
use crate::model::ids::{PeerKey, place_of};
use crate::output::Output;
use crate::peers::peer::SessionState;
use crate::peers::quota::Quotas;
use crate::peers::table::PeerTable;
use crate::peers::timers::PeerTimers;
use crate::queue::chunk_pool::ChunkPool;
use foldhash::fast::RandomState;
use ipcd_proto::limits::MAX_CONTROL;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Instant;

/// The attached peers of a router.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) config: Config,
    pub(crate) table: PeerTable,
    /// The keys of peers by their ids.
    pub(crate) ids: HashMap<u64, PeerKey, RandomState>,
    pub(crate) pool: ChunkPool,
    pub(crate) timers: PeerTimers,
    pub(crate) quotas: Quotas,
    pub(crate) cluster: Cluster,
    pub(crate) counters: RouterCounters,
    pub(crate) outputs: VecDeque<Output>,
}

impl Peers {
    pub(crate) fn new(config: Config, cluster: Cluster) -> Self {
        Self {
            config,
            table: PeerTable::default(),
            ids: HashMap::default(),
            pool: ChunkPool::default(),
            timers: PeerTimers::default(),
            quotas: Quotas::default(),
            cluster,
            counters: RouterCounters::default(),
            outputs: VecDeque::new(),
        }
    }
}

impl Peers {
    /// Returns the peer of this id, if its session is open.
    pub(crate) fn open_key(&self, id: u64) -> Option<PeerKey> {
        self.ids.get(&id).copied().filter(|key| self.table[*key].is_open())
    }

    pub(crate) fn keys(&self) -> Vec<PeerKey> {
        let here = self.table.iter().filter(|(_, peer)| !matches!(peer.state, SessionState::Gone));
        here.map(|(key, _)| key).collect()
    }

    /// Adapts a peer to a new limit of payloads. A session keeps the limit that it was opened with,
    /// because the client would treat a larger frame as a protocol error. A raw peer was never told
    /// a limit.
    pub(crate) fn renew_largest(&mut self, key: PeerKey) {
        let most = u32::try_from(self.config.max_payload).unwrap_or(u32::MAX);
        let peer = &mut self.table[key];
        if peer.is_raw {
            peer.told = peer.told.max(most);
        } else if peer.is_open() {
            // Every client must be able to read control frames.
            let fits = peer.told.max(MAX_CONTROL as u32);
            peer.largest = (most > fits).then_some(fits);
        }
    }

    /// Applies new limits to a send queue: it may have become full, or not be full any more.
    pub(crate) fn renew_fullness(&mut self, key: PeerKey) {
        let limit = self.config.queue_limit;
        let peer = &self.table[key];
        let bytes = peer.queue.len();
        if !peer.full && (bytes >= limit || self.is_over_quota(key)) && bytes > 0 {
            self.set_full(key, true);
        } else if peer.full && bytes <= limit / 2 && !self.stays_over_quota(key) {
            self.set_full(key, false);
            self.resume_waiters(key);
        }
    }

    /// Releases memory that has not been needed for a while.
    pub(crate) fn release_memory(&mut self, now: Instant) {
        if self.pool.look(now) {
            // Links to idle workers keep a buffer, too.
            let links = self.cluster.links.values_mut();
            for link in links.filter(|link| link.outgoing.is_empty()) {
                self.pool.note_released(std::mem::take(&mut link.outgoing).capacity());
            }
        }
    }

    pub(crate) fn is_here(&self, peer: u64) -> bool {
        self.cluster.is_alone() || place_of(peer).0 == self.config.slot
    }

    /// Whether a payload is larger than the peer may receive.
    pub(crate) fn is_too_large(&self, key: PeerKey, payload: usize) -> bool {
        self.table[key].largest.is_some_and(|largest| payload > largest as usize)
    }
}
