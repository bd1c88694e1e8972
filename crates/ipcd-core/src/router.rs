//! The router: it owns the parts, and dispatches calls to them. Decisions are made in the parts.

mod io;
pub(crate) mod queries;
pub(crate) mod report;
mod upkeep;

use crate::cluster::Cluster;
use crate::config::{Config, DaemonInfo, PeerInfo, RawPeer};
use crate::delivery::Delivery;
use crate::directory::state::DirectoryState;
use crate::model::ids::{PeerKey, id_of};
use crate::model::principal::{AddressPrefixes, Principal};
use crate::model::waiting::WaitState;
use crate::output::{CloseReason, Output};
use crate::peers::Peers;
use crate::peers::pacing::Pacing;
use crate::peers::peer::{Peer, PeerCounts, PeerDeadlines, SessionState};
use crate::queue::send_queue::SendQueue;
use crate::router::queries::OpenQueries;
use crate::sessions::Sessions;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::Origin;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::limits;
use ipcd_proto::nats::Nkey;
use std::time::Instant;

/// The router of one worker.
///
/// After every call of [`Router::receive`], [`Router::wrote`], [`Router::detach`],
/// [`Router::drain`] and [`Router::tick`], the caller carries out the outputs of
/// [`Router::poll_output`] until there are none.
#[derive(Debug)]
pub struct Router {
    pub(crate) delivery: Delivery,
    pub(crate) queries: OpenQueries,
    next_number: u32,
}

impl Router {
    /// Creates a router without peers. A router of several gets the directory state that it
    /// inherits.
    pub fn new(config: Config, shared: Option<DirectoryState>) -> Self {
        let cluster = match shared {
            Some(directory) => Cluster::new(&config, directory),
            None => Cluster::default(),
        };
        let delivery = Delivery::new(Sessions::new(Peers::new(config, cluster)));
        Self { delivery, queries: OpenQueries::default(), next_number: 0 }
    }

    fn sessions(&self) -> &Sessions {
        &self.delivery.sessions
    }

    fn sessions_mut(&mut self) -> &mut Sessions {
        &mut self.delivery.sessions
    }

    fn peers(&self) -> &Peers {
        &self.delivery.sessions.peers
    }

    fn peers_mut(&mut self) -> &mut Peers {
        &mut self.delivery.sessions.peers
    }

    /// Attaches a peer, and returns its key. The session of a raw peer is open at once.
    pub fn attach(&mut self, now: Instant, info: PeerInfo) -> PeerKey {
        let PeerInfo { listener, mut origin, challenge, raw } = info;
        // An id repeats only after 2^29 peers of this generation.
        self.next_number = self.next_number.wrapping_add(1);
        let id = id_of(self.peers().config.slot, self.peers().config.generation, self.next_number);
        (origin.peer, origin.name) = (id, None);
        let principal = Principal::of(origin.uid, origin.addr, self.peers().config.prefixes);
        let quota = self.peers_mut().quota_of(principal);
        let deadlines = PeerDeadlines::begin(now);
        let peer = Peer {
            listener: listener as u32,
            told: 0,
            origin,
            state: SessionState::New { challenge: challenge.map(Box::new) },
            proven: None,
            rights: None,
            was_denied: false,
            is_raw: false,
            is_mute: false,
            asked: 0,
            before_open: 0,
            quota,
            charged: 0,
            no_echo: false,
            ends_when_slow: false,
            lingers: false,
            largest: None,
            queue: SendQueue::default(),
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
            has_ends: false,
            subscriptions: Vec::new(),
            wants_origins: false,
            requests: None,
            introduced: None,
            has_gaps: false,
            known: None,
            counts: PeerCounts::default(),
            group_limit: u64::MAX,
            deadlines,
        };
        let key = self.delivery.sessions.peers.table.insert(peer);
        self.delivery.sessions.peers.ids.insert(id, key);
        self.delivery.sessions.peers.counters.peers += 1;
        // One timer for the nearest deadline is enough: its handler arms the next.
        let idle = self.peers().config.idle_timeout.map(|timeout| timeout / 2);
        let first = idle.into_iter().chain([self.peers().config.handshake_timeout]);
        self.peers_mut().arm(key, now + first.min().expect("there is one"));
        if let Some(raw) = raw {
            self.sessions_mut().open_raw(key, raw);
        }
        key
    }

    /// Detaches a peer. Messages in its send queue are dropped and counted.
    pub fn detach(&mut self, now: Instant, key: PeerKey) {
        self.sessions_mut().forget_subscriptions(key);
        self.peers_mut().resume_waiters(key);
        self.sessions_mut().drop_all(now, key, DropReason::Departed);
        self.delivery.sessions.requests.forget_tracked(
            &mut self.delivery.sessions.peers,
            now,
            key,
            DropReason::Departed,
        );
        let peer = &mut self.delivery.sessions.peers.table[key];
        // Dropping the peer would not give back its part of shared chunks.
        peer.queue.release(&mut self.delivery.sessions.peers.pool);
        peer.state = SessionState::Gone;
        peer.waiting = false;
        let (id, introduced) = (peer.origin.peer, peer.introduced.take().unwrap_or_default());
        let (name, is_leaving) = (peer.origin.name.clone(), peer.is_leaving);
        self.delivery.sessions.gone += 1;
        self.delivery.sessions.peers.ids.remove(&id);
        self.delivery.sessions.peers.cluster.tell_departed(&introduced, id);
        // The key may be used again before the caller reads the outputs.
        self.delivery.sessions.peers.outputs.retain(|output| output.peer() != Some(key));
        if let Some(name) = name {
            self.sessions_mut().release_name(name);
        }
        // Otherwise the deferred work frees the key, after the last subscription.
        if !is_leaving {
            self.sessions_mut().vacate(key);
        }
    }

    /// Returns the next task for the worker.
    pub fn poll_output(&mut self) -> Option<Output> {
        let peers = &mut self.delivery.sessions.peers;
        let output = peers.cluster.outputs.pop_front().or_else(|| peers.outputs.pop_front());
        // The caller asks until nothing is left, and so ends its turn here.
        if output.is_none() {
            self.sessions_mut().end_turn();
        }
        output
    }

    /// Adds frames that transports have lost to the counters.
    pub fn count_lost(&mut self, frames: u64) {
        self.delivery.sessions.peers.counters.lost_in_transit += frames;
    }

    /// Adds dropped records from or for a dead generation to the counters.
    pub fn count_stale(&mut self, records: u64) {
        self.delivery.sessions.peers.counters.stale += records;
    }

    /// Returns the number of attached peers.
    pub fn peer_count(&self) -> usize {
        self.delivery.sessions.peers.table.len() - self.delivery.sessions.gone
    }

    /// Returns the number of the listener that accepted the peer, or of the server or program
    /// behind it.
    pub fn listener(&self, key: PeerKey) -> usize {
        self.delivery.sessions.peers.table[key].listener as usize
    }

    /// Returns the identity of the peer.
    pub fn origin(&self, key: PeerKey) -> &Origin {
        &self.delivery.sessions.peers.table[key].origin
    }

    /// Returns the number of messages for the peer that were dropped.
    pub fn dropped(&self, key: PeerKey) -> u64 {
        self.delivery.sessions.peers.table[key].counts.dropped
    }

    /// Returns the size of the largest frame that the peer may send now, in bytes. After the limit
    /// was lowered, frames up to the size that the session was told are still read: their messages
    /// are refused, but the session continues.
    pub fn largest_frame(&self, key: PeerKey) -> usize {
        let peer = &self.delivery.sessions.peers.table[key];
        if peer.is_open() {
            limits::largest_frame(self.peers().config.max_payload.max(peer.told as usize))
        } else {
            limits::MAX_HANDSHAKE_FRAME
        }
    }

    /// Returns the address prefixes that make one principal.
    pub fn prefixes(&self) -> AddressPrefixes {
        self.peers().config.prefixes
    }

    /// Returns the size of the largest payload, in bytes.
    pub fn max_payload(&self) -> usize {
        self.peers().config.max_payload
    }

    /// Notes that the transport has identified the peer by a certificate with this name, before the
    /// peer has sent anything. The peer need not prove a token then. Returns true if the session is
    /// open already, as that of a raw peer is, and its rights have changed.
    pub fn certify(&mut self, key: PeerKey, name: &str) -> bool {
        let peer = &mut self.delivery.sessions.peers.table[key];
        peer.proven.get_or_insert_default().certificate = Some(name.into());
        if let SessionState::New { challenge } = &mut peer.state {
            *challenge = None;
        }
        if !peer.is_open() {
            return false;
        }
        let before = peer.rights.clone();
        self.sessions_mut().read_rights(key);
        // Remembered routes contain the receivers by their former rights.
        self.delivery.sessions.index.touch();
        self.sessions_mut().stop_blocking(key);
        self.delivery.sessions.peers.table[key].rights.as_deref() != before.as_deref()
    }

    /// Notes that the peer has shown this secret, and returns whether it is the token of this name,
    /// or the daemon's own. The peer need not prove it any more.
    #[must_use]
    pub fn take_secret(&mut self, key: PeerKey, name: Option<&str>, secret: &[u8]) -> bool {
        let token = self.peers().config.tokens.find(name);
        let is_right = token.is_some_and(|token| token.is_shown(secret));
        if is_right {
            self.sessions_mut().note_proven(key, name.unwrap_or_default());
        }
        is_right
    }

    /// Notes that the peer has proved the private key to this public one, and returns whether that
    /// key is known here. The peer need not prove a token any more.
    #[must_use]
    pub fn take_key(&mut self, key: PeerKey, public: &Nkey) -> bool {
        let name = self.peers().config.tokens.name_of(public).map(str::to_owned);
        if let Some(name) = &name {
            self.sessions_mut().note_proven(key, name);
        }
        name.is_some()
    }

    /// Has the peer disconnected soon after its send queue became full. Its subscriptions block
    /// publishers only until then.
    pub fn end_when_slow(&mut self, key: PeerKey) {
        self.peers_mut().table[key].ends_when_slow = true;
    }

    /// Whether there is any secret or key that a peer can prove by name.
    pub fn has_credentials(&self) -> bool {
        let tokens = &self.peers().config.tokens;
        !tokens.named.is_empty() || !tokens.keys.is_empty()
    }

    /// Returns the identity of this daemon for people: its process.
    pub fn daemon(&self) -> &DaemonInfo {
        &self.peers().config.daemon
    }

    /// Ends the session of a peer that has broken the rules of its own protocol.
    pub fn end_session(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.sessions_mut().close(now, key, CloseReason::new(why));
    }

    /// Ends the sessions of a listener's peers that were identified by a certificate, or may still
    /// be: the listener does not trust all former issuers any more.
    pub fn distrust(&mut self, now: Instant, listener: usize, may_return: bool) {
        for key in self.peers().keys() {
            let peer = &self.delivery.sessions.peers.table[key];
            let is_known = peer.proven.as_ref().is_some_and(|proven| proven.certificate.is_some());
            if peer.listener as usize == listener && (is_known || !peer.is_open()) {
                let why = "the certificate authority of this listener was revoked or changed (ca=)";
                let code = if may_return { RefusalCode::Ending } else { RefusalCode::Denied };
                self.peers_mut().note_denied(key, why);
                self.sessions_mut().fail(now, key, code, why);
            }
        }
    }

    /// Gives a raw peer other filters.
    pub fn resubscribe_raw(&mut self, key: PeerKey, raw: RawPeer) {
        let peer = &mut self.delivery.sessions.peers.table[key];
        if !peer.is_raw || !peer.is_open() {
            return;
        }
        peer.no_echo = !raw.echo;
        let filters = peer.subscriptions.iter().map(|subscription| &subscription.filter);
        // A new subscription would start with new counters, so equal filters are left alone.
        if !filters.eq(&raw.filters) {
            self.sessions_mut().forget_subscriptions(key);
            self.peers_mut().resume_waiters(key);
            self.sessions_mut().subscribe_raw(key, raw.filters);
        }
    }

    /// Takes frames that another worker has sent. Messages are delivered even if that generation is
    /// dead, because they were accepted. Its notices are ignored then. The caller guarantees that
    /// the generation has existed. It may become known here, ahead of the supervisor's event, and
    /// earlier generations then count as dead.
    pub fn arrive(&mut self, now: Instant, slot: u32, generation: u32, frames: &mut [u8]) {
        self.delivery.arrive(now, (slot, generation), frames);
    }

    /// Whether so many frames of other workers wait that the caller must not read more of them.
    pub fn is_behind(&self) -> bool {
        self.cluster().inbound.is_full()
    }

    /// Returns the frames for another worker, and the generation that they are for.
    pub fn outgoing(&mut self, slot: u32) -> (&[u8], u32) {
        let cluster = &mut self.delivery.sessions.peers.cluster;
        let generation = cluster.generation_of(slot).unwrap_or(0);
        let link = cluster.link(slot);
        link.is_dirty = false;
        (&link.outgoing[link.head..], generation)
    }

    /// Returns the bytes for a worker that it has not reported as consumed.
    pub fn outstanding(&self, slot: u32) -> u64 {
        self.cluster().outstanding(slot)
    }

    /// Whether everything for other workers was sent.
    pub fn is_forwarded(&self) -> bool {
        let cluster = self.cluster();
        // Deferred frames may contain messages that have to be passed on.
        !cluster.inbound.is_waiting() && cluster.links.values().all(|link| link.outgoing.is_empty())
    }

    /// Notes that the first bytes for another worker were sent.
    pub fn forwarded(&mut self, slot: u32, count: usize) {
        let peers = &mut self.delivery.sessions.peers;
        peers.cluster.forwarded(slot, count);
        peers.pool.look_later();
    }

    fn cluster(&self) -> &Cluster {
        &self.delivery.sessions.peers.cluster
    }
}
