//! Admits peers, hands them to workers, and takes leave of them. It works on the parts that this needs:
//! the listeners, the admission and the workers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ipcd_core::Principal;
use ipcd_transport::{ChannelParts, Error as TransportError, PeerIdentity, Transport};
use nix::sys::epoll::Epoll;
use tracing::{error, warn};

use crate::admission::{Admission, AdmissionGrant, Eviction, PeerArrival};
use crate::config::Config;
use crate::ids::{AdmissionId, OwnerId, SlotId};
use crate::link::{GonePeer, Link, PeerEnd, ToWorker};
use crate::listen::RawProfile;
use crate::refusal::tell_refusal;
use crate::supervisor::listeners::ListenerSet;
use crate::supervisor::worker_pool::{WorkerPool, spare_slots};
use crate::worker::NewPeer;

/// Peers accepted of one listener in a turn, so that the others get their share.
const ACCEPT_BUDGET: usize = 64;
/// The pause of a listener when the system has no descriptor or memory for a peer.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// The pause of a listener at which junk has arrived. A FIFO may bring any amount, and its writer must
/// not have the processor for it.
const JUNK_PAUSE: Duration = Duration::from_millis(20);
/// The pause of a listener whose only peer was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// The parts that peers come in by and go out by.
pub(super) struct PeerIntake<'a> {
    pub(super) listeners: &'a mut ListenerSet,
    pub(super) admission: &'a mut Admission,
    pub(super) workers: &'a mut WorkerPool,
    /// Children whose peers have to make room for others, in the order of their eviction.
    pub(super) evicted: &'a mut VecDeque<(SlotId, AdmissionId)>,
    pub(super) config: &'a Config,
    /// The configuration of the router in each worker.
    pub(super) router_config: &'a mut ipcd_core::Config,
    pub(super) epoll: &'a Epoll,
}

/// A peer that wants to come in.
pub(super) struct PeerOffer {
    pub(super) owner: OwnerId,
    pub(super) transport: &'static dyn Transport,
    pub(super) parts: ChannelParts,
    /// The profile of a raw peer; `None` for one that speaks frames.
    pub(super) raw_profile: Option<RawProfile>,
}

/// The peer of a server or a program has gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostPeer {
    pub(super) owner: OwnerId,
    pub(super) peer: AdmissionId,
    pub(super) was_cut_off: bool,
}

impl PeerIntake<'_> {
    /// Accepts the peers that wait at a listener, as many as this turn allows.
    pub(super) fn accept(&mut self, owner: OwnerId) {
        for _ in 0..ACCEPT_BUDGET {
            // Asked for each peer: the last one may have filled the last link.
            let Some(slot) = self.workers.slot_for_peer() else { return };
            let Some(open) = self.listeners.find(owner) else { return };
            let transport = open.transport;
            match open.listener.accept() {
                Ok(None) => return,
                Ok(Some(parts)) if !open.config.admits(parts.identity.addr) => {
                    let identity = parts.identity;
                    let source = source_of(&identity, self.config);
                    warn!(%source, transport = %transport.scheme(), %identity, "connection refused: address not in allow=");
                }
                Ok(Some(parts)) => {
                    let raw_profile = open.config.raw_profile.clone();
                    let only = open.listener.has_one_peer().then(|| origin(&parts));
                    let offer = PeerOffer { owner, transport, parts, raw_profile };
                    let admitted = self.admit_to(slot, offer);
                    if let (Some(only), None) = (only, admitted) {
                        return self.accept_later(owner, only);
                    }
                }
                Err(error) => {
                    let source = &open.config.endpoint;
                    warn!(%source, transport = %transport.scheme(), %error, "peer not accepted");
                    let pause = match error {
                        error if error.is_exhaustion() => EXHAUSTED_PAUSE,
                        TransportError::Protocol(_) => JUNK_PAUSE,
                        _ => continue,
                    };
                    open.paused_until = Some(Instant::now() + pause);
                    return;
                }
            }
        }
    }

    /// Hands a peer to a worker; its number, or `None` if it was refused or no worker can take it.
    pub(super) fn admit(&mut self, offer: PeerOffer) -> Option<AdmissionId> {
        let slot = self.workers.slot_for_peer()?;
        self.admit_to(slot, offer)
    }

    /// Releases the peers that no worker has got.
    pub(super) fn release_lost(&mut self) -> Vec<LostPeer> {
        let lost = self.workers.take_lost();
        let gone = |(slot, number)| self.release(GonePeer { number, end: PeerEnd::CutOff }, slot);
        lost.into_iter().filter_map(gone).collect()
    }

    /// A worker has told that a peer has gone. The server's or program's peer that it was.
    pub(super) fn release(&mut self, gone: GonePeer, slot: SlotId) -> Option<LostPeer> {
        let GonePeer { number, end } = gone;
        let peer = self.admission.release(number, slot)?;
        if end == PeerEnd::Stalled
            && let Some((source, pause)) = self.admission.note_stalled(&peer, Instant::now())
        {
            let (seconds, slot, refused) = (pause.as_secs(), slot.0, source);
            warn!(%source, %refused, slot, seconds, "peers of this source stall again and again");
        }
        let is_of_listener = self.listeners.release(peer.owner, &peer.identity, &peer.state);
        let was_cut_off = end != PeerEnd::Departed;
        let lost = LostPeer { owner: peer.owner, peer: number, was_cut_off };
        (!is_of_listener).then_some(lost)
    }

    /// Releases the peers that a dead worker has left behind. The servers' and programs' peers among
    /// them.
    pub(super) fn release_orphans(&mut self, slot: SlotId) -> Vec<LostPeer> {
        let mut lost = Vec::new();
        for (number, peer) in self.admission.release_slot(slot) {
            if let Some(open) = self.listeners.find(peer.owner) {
                open.listener.orphaned(&peer.identity, &peer.state);
                open.listener.released(&peer.identity, &peer.state);
                continue;
            }
            // It may have been on its way in the link, which the successor reads.
            if !self.workers.serves_per_connection()
                && let Err(error) =
                    self.workers.slot(slot).link.send(&ToWorker::Disconnect(number), Vec::new())
            {
                error!(%error, "cannot send a message to a worker");
            }
            lost.push(LostPeer { owner: peer.owner, peer: number, was_cut_off: true });
        }
        lost
    }

    /// Ends a peer's session. The peer gets what is left for it.
    pub(super) fn disconnect(&mut self, number: AdmissionId) {
        if let Some(slot) = self.admission.slot_of(number) {
            self.workers.send(slot, &ToWorker::Disconnect(number));
        }
    }

    /// Notes the peer that a dead worker was serving: its bytes may be the reason.
    pub(super) fn suspect(&mut self, slot: SlotId) {
        let number = self.workers.take_crash_marker(slot);
        if let Some(identity) = self.admission.suspect(number, slot, Instant::now()) {
            warn!(slot = slot.0, %identity, "the worker was serving this peer when it died");
        }
    }

    /// The only peer of a listener was refused. It is accepted again after a pause.
    fn accept_later(&mut self, owner: OwnerId, (identity, state): (PeerIdentity, Vec<u8>)) {
        if let Some(open) = self.listeners.find(owner) {
            open.listener.released(&identity, &state);
            open.paused_until = Some(Instant::now() + REFUSED_PAUSE);
        }
    }

    fn admit_to(&mut self, slot: Option<SlotId>, offer: PeerOffer) -> Option<AdmissionId> {
        let PeerOffer { owner, transport, ref parts, ref raw_profile } = offer;
        // Servers and programs belong to no listener, and are the daemon's own doing.
        let open = self.listeners.find(owner);
        let is_ours = open.is_none_or(|open| open.listener.has_one_peer());
        let is_favoured = self.admission.is_favoured(&parts.identity, is_ours);
        let Some(slot) = slot.filter(|_| self.has_child_for(is_favoured)) else {
            self.hurry_one();
            self.refuse(offer, "all children are in use, or about to end (max_children)");
            return None;
        };
        self.workers.pass_turn(slot);
        let must_prove = RawProfile::must_prove(raw_profile.as_ref(), transport);
        let arrival = PeerArrival { owner, parts, must_prove, is_ours, slot };
        let AdmissionGrant { number, instead_of } =
            match self.admission.admit(Instant::now(), arrival, percent) {
                Ok(entry) => entry,
                Err(why) => {
                    self.refuse(offer, &why);
                    return None;
                }
            };
        let PeerOffer { owner, transport, parts, raw_profile } = offer;
        let peer = NewPeer { number, owner, transport, parts, raw_profile };
        let is_admitted = match self.workers.serves_per_connection() {
            true => self.fork_for(slot, peer),
            false => {
                hand_over(&mut self.workers.slot(slot).link, peer);
                true
            }
        };
        self.evict(instead_of);
        is_admitted.then_some(number)
    }

    /// Whether there is a slot for a child. Half of the spare ones are for the favoured: others could
    /// take them all by coming and going, for a slot is taken until its child has been reaped.
    fn has_child_for(&self, is_favoured: bool) -> bool {
        !self.workers.serves_per_connection()
            || is_favoured
            || self.workers.free_slots() > spare_slots(self.config) / 2
    }

    fn evict(&mut self, evictions: Vec<Eviction>) {
        for Eviction { slot, number, why, may_prove } in evictions {
            if self.workers.serves_per_connection() {
                let admission = &*self.admission;
                self.evicted.retain(|(slot, number)| admission.is_leaving(*number, *slot));
                self.evicted.push_back((slot, number));
            }
            self.workers.send(slot, &ToWorker::Evict { number, why, may_prove });
        }
    }

    /// Kills the child that has had the longest time to end its peer's session: others wait for its
    /// slot.
    fn hurry_one(&mut self) {
        while let Some((slot, number)) = self.evicted.pop_front() {
            if self.admission.is_leaving(number, slot) {
                return self.workers.slot(slot).kill();
            }
        }
    }

    fn refuse(&mut self, offer: PeerOffer, why: &str) {
        let PeerOffer { owner, transport, parts, raw_profile } = offer;
        let (identity, state) = origin(&parts);
        let (source, scheme) = (source_of(&identity, self.config), transport.scheme());
        warn!(%source, transport = %scheme, %identity, why, "peer refused");
        tell_refusal(transport, parts, raw_profile.is_some(), why);
        if let Some(open) = self.listeners.find(owner) {
            open.listener.refused(&identity, &state);
        }
    }

    /// Forks a child for one peer. The parent's copies of its descriptors close here.
    fn fork_for(&mut self, slot: SlotId, only: NewPeer) -> bool {
        let (number, mut only) = (only.number, Some(only));
        let forked = self.workers.fork(slot, self.router_config, &mut only, self.epoll);
        let Err(error) = forked else { return true };
        let source = only.as_ref().map(|only| source_of(&only.parts.identity, self.config));
        error!(source = source.map(tracing::field::display), %error, "cannot fork a child for a peer");
        if let Some(NewPeer { owner, transport, parts, raw_profile, .. }) = only {
            let offer = PeerOffer { owner, transport, parts, raw_profile };
            self.refuse(offer, "the daemon cannot start another child now");
        }
        // Its owner hears of the failure by the refusal.
        let _ = self.release(GonePeer { number, end: PeerEnd::CutOff }, slot);
        false
    }
}

/// The source that a line about a peer is charged to.
fn source_of(identity: &PeerIdentity, config: &Config) -> Principal {
    Principal::of(identity.uid, identity.addr, config.limits.prefixes())
}

fn origin(parts: &ChannelParts) -> (PeerIdentity, Vec<u8>) {
    (parts.identity.clone(), parts.state.clone())
}

/// A random number from 0 to 99.
fn percent() -> u32 {
    // Without randomness no peer is spared.
    getrandom::u32().map_or(0, |random| random % 100)
}

/// Hands a peer to a worker, or closes its descriptors when that is impossible: [`Link::take_lost`]
/// tells of it then.
fn hand_over(link: &mut Link, peer: NewPeer) {
    let NewPeer { number, owner, transport, parts, raw_profile } = peer;
    let ChannelParts { descriptors, identity, state } = parts;
    let scheme = transport.scheme().to_owned();
    let message = ToWorker::Admit { number, owner, scheme, identity, state, raw_profile };
    if let Err(error) = link.hand_over(&message, descriptors, number) {
        warn!(source = "hand over", %error, "cannot hand a peer to its worker");
    }
}
