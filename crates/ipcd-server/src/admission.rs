//! Decides which peers come in: by limits on their number, on their rate, and on those that have
//! proved no token yet. Sources that workers die of, and those that make others wait again and
//! again, are kept out for a while.

mod crowd;
mod places;
mod rates;
mod startups;
mod strikes;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipcd_core::Principal;
use ipcd_transport::{ChannelParts, PeerIdentity};
use nix::unistd::geteuid;
use slab::Slab;

use self::crowd::PeersBySource;
use self::rates::ConnectRates;
use self::startups::PendingStartups;
use self::strikes::{StrikeCounts, StrikePolicy};
use crate::config::Limits;
use crate::ids::{AdmissionId, OwnerId, SlotId};

/// The peers that were admitted and have not gone.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    service: Service,
    /// By their places, which the lower halves of their numbers are.
    peers: Slab<PeerRecord>,
    /// Those that are not on their way out, by source.
    per_source: HashMap<Principal, usize>,
    /// Of these, those that may have to make room for others; and how many need not.
    crowd: PeersBySource,
    favoured: usize,
    own_user: u32,
    startups: PendingStartups,
    rates: ConnectRates,
    /// Deaths of workers that served a source.
    deaths: StrikeCounts<Principal>,
    /// Peers that were disconnected because they did not read. Each worker of a pool has its own
    /// count of a source, and only for its own peers it matters: a worker that was taken over could
    /// refuse these anyway.
    stalls: StrikeCounts<(Principal, Option<SlotId>)>,
    next: u64,
}

/// The workers that serve peers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Service {
    /// So many workers, in turn.
    Pool(usize),
    /// A child for each peer, of which there may be so many.
    Children(usize),
}

/// A peer that was admitted.
#[derive(Clone, Debug)]
pub(crate) struct PeerRecord {
    number: AdmissionId,
    pub(crate) owner: OwnerId,
    pub(crate) identity: PeerIdentity,
    /// The state that its transport keeps for it.
    pub(crate) state: Box<[u8]>,
    source: Principal,
    slot: SlotId,
    standing: PeerStanding,
}

/// Whether a peer has to make room for others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PeerStanding {
    /// It is of root, of the daemon's own user, or of the daemon's own making.
    Favoured,
    /// It may have to.
    Common,
    /// It had to, and is counted no more.
    Evicted,
}

/// A peer that comes.
pub(crate) struct PeerArrival<'a> {
    /// The listener, server or program that it belongs to.
    pub(crate) owner: OwnerId,
    pub(crate) parts: &'a ChannelParts,
    /// Whether it has to prove a token.
    pub(crate) must_prove: bool,
    /// Whether it is of the daemon's own making: a server, a program, a file.
    pub(crate) is_ours: bool,
    /// The slot of the worker that is to serve it.
    pub(crate) slot: SlotId,
}

/// The outcome for a peer that is admitted.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct AdmissionGrant {
    pub(crate) number: AdmissionId,
    /// The peers that have to make room for it.
    pub(crate) instead_of: Vec<Eviction>,
}

/// A peer that has to make room for another.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Eviction {
    pub(crate) slot: SlotId,
    pub(crate) number: AdmissionId,
    /// The reason that it receives.
    pub(crate) why: String,
    /// Whether it stays if it has proved its token meanwhile.
    pub(crate) may_prove: bool,
}

impl Admission {
    /// An admission without peers.
    pub(crate) fn new(limits: &Limits, service: Service) -> Self {
        Self {
            limits: limits.clone(),
            service,
            peers: Slab::new(),
            per_source: HashMap::new(),
            crowd: PeersBySource::default(),
            favoured: 0,
            own_user: geteuid().as_raw(),
            startups: PendingStartups::default(),
            rates: ConnectRates::default(),
            deaths: StrikeCounts::new(StrikePolicy::DEATHS),
            stalls: StrikeCounts::new(service.stall_policy(limits)),
            next: 0,
        }
    }

    /// Sets other limits for peers that come from now on. Those that are here stay, and are charged
    /// to the networks as they are now.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.limits = limits.clone();
        self.stalls.policy = self.service.stall_policy(limits);
        let prefixes = limits.prefixes();
        let places: Vec<_> = self.peers.iter().map(|(place, _)| place).collect();
        for place in places {
            let peer = self.peers[place].clone();
            let source = Principal::of(peer.identity.uid, peer.identity.addr, prefixes);
            if source != peer.source {
                self.discount(&peer);
                self.peers[place].source = source;
                self.count(peer.number, source, peer.standing);
                self.startups.move_to(peer.number, source);
            }
        }
    }

    /// Admits a peer and says under which number; or says why not. `percent` is a random number
    /// from 0 to 99.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        arrival: PeerArrival<'_>,
        percent: impl FnOnce() -> u32,
    ) -> Result<AdmissionGrant, String> {
        let PeerArrival { owner, parts, must_prove, is_ours, slot } = arrival;
        let (identity, state) = (parts.identity.clone(), parts.state.clone().into_boxed_slice());
        let source = Principal::of(identity.uid, identity.addr, self.limits.prefixes());
        let is_favoured = self.is_favoured(&identity, is_ours);
        let standing = if is_favoured { PeerStanding::Favoured } else { PeerStanding::Common };
        // The limits of the source come first: a source beyond its own must not evict others.
        self.check(now, source, slot, is_favoured)?;
        let late = if must_prove { self.make_room(source, now, percent)? } else { None };
        let other = self.make_place(source, standing, now, late.is_some())?;
        // Nothing is evicted before it is certain that the new peer comes in.
        let late = late.and_then(|number| self.evict(number, LATE.to_owned(), true));
        let other = other.and_then(|(number, why)| self.evict(number, why, false));
        let instead_of = late.into_iter().chain(other).collect();
        self.next += 1;
        let place = self.peers.vacant_entry();
        // The number grows with each peer: the order of numbers is the order of arrival.
        let number = AdmissionId(self.next << PLACE_BITS | place.key() as u64);
        place.insert(PeerRecord { number, owner, identity, state, source, slot, standing });
        self.count(number, source, standing);
        if must_prove {
            self.startups.add(number, source, now);
        }
        Ok(AdmissionGrant { number, instead_of })
    }

    /// Whether a peer need not make room for others, and may take the last places.
    pub(crate) fn is_favoured(&self, identity: &PeerIdentity, is_ours: bool) -> bool {
        is_ours || identity.uid.is_some_and(|uid| uid == 0 || uid == self.own_user)
    }

    /// These peers have proved what they had to.
    pub(crate) fn note_opened(&mut self, numbers: &[AdmissionId], slot: SlotId) {
        for number in numbers {
            let Some(peer) = self.peer(*number).filter(|peer| peer.is_of(slot)) else { continue };
            let (source, standing) = (peer.source, peer.standing);
            self.startups.remove(*number);
            // It was quicker than the word that it had to go.
            if standing == PeerStanding::Evicted {
                self.peers[place_of(*number)].standing = PeerStanding::Common;
                self.count(*number, source, PeerStanding::Common);
            }
        }
    }

    /// Releases a peer of which a worker says that it has gone. A worker has no say about the peers
    /// of others.
    pub(crate) fn release(&mut self, number: AdmissionId, slot: SlotId) -> Option<PeerRecord> {
        self.peer_of(number, slot)?;
        let peer = self.peers.remove(place_of(number));
        self.discharge(&peer);
        Some(peer)
    }

    /// The peers of a listener.
    pub(crate) fn of_owner(&self, owner: OwnerId) -> Vec<AdmissionId> {
        let of = self.peers.iter().filter(|(_, peer)| peer.owner == owner);
        of.map(|(_, peer)| peer.number).collect()
    }

    /// Whether a worker still serves a peer that has to go.
    pub(crate) fn is_leaving(&self, number: AdmissionId, slot: SlotId) -> bool {
        self.peer_of(number, slot).is_some_and(|peer| peer.standing == PeerStanding::Evicted)
    }

    /// A peer, if the worker in this slot serves it.
    pub(crate) fn peer_of(&self, number: AdmissionId, slot: SlotId) -> Option<&PeerRecord> {
        self.peer(number).filter(|peer| peer.is_of(slot))
    }

    /// Whether peers are here that came in by this listener.
    pub(crate) fn has_peers_of(&self, owner: OwnerId) -> bool {
        self.peers.iter().any(|(_, peer)| peer.owner == owner)
    }

    /// The slot of the worker that serves a peer.
    pub(crate) fn slot_of(&self, number: AdmissionId) -> Option<SlotId> {
        self.peer(number).map(|peer| peer.slot)
    }

    /// A worker has died, and left these peers behind.
    pub(crate) fn release_slot(&mut self, slot: SlotId) -> Vec<(AdmissionId, PeerRecord)> {
        let of_slot = self.peers.iter().filter(|(_, peer)| peer.is_of(slot));
        let places: Vec<_> = of_slot.map(|(place, _)| place).collect();
        let gone: Vec<_> = places.into_iter().map(|place| self.peers.remove(place)).collect();
        gone.iter().for_each(|peer| self.discharge(peer));
        gone.into_iter().map(|peer| (peer.number, peer)).collect()
    }

    /// Notes that a worker has died while it served this peer, if that was one of its peers.
    pub(crate) fn suspect(
        &mut self,
        number: AdmissionId,
        slot: SlotId,
        now: Instant,
    ) -> Option<&PeerIdentity> {
        let peer = self.peers.get(place_of(number))?;
        if peer.number != number || !peer.is_of(slot) {
            return None;
        }
        if peer.source != Principal::Unknown {
            self.deaths.note(peer.source, now);
        }
        Some(&peer.identity)
    }

    /// Notes that this peer was disconnected because others had to wait for it. If its source is
    /// refused now, the source, and for how long.
    pub(crate) fn note_stalled(
        &mut self,
        peer: &PeerRecord,
        now: Instant,
    ) -> Option<(Principal, Duration)> {
        if peer.standing == PeerStanding::Favoured || peer.source == Principal::Unknown {
            return None;
        }
        let pause = self.stalls.note((peer.source, self.service.scope(peer.slot)), now)?;
        Some((peer.source, pause))
    }

    fn check(
        &mut self,
        now: Instant,
        source: Principal,
        slot: SlotId,
        is_favoured: bool,
    ) -> Result<(), String> {
        if let Some(left) = self.deaths.refused_for(source, now) {
            // Rounded up: a peer that waits for so long must not come too early.
            let seconds = left.as_secs() + 1;
            return Err(format!(
                "workers have died while they served {source}: it is refused for {seconds} s"
            ));
        }
        let stalls = self.stalls.refused_for((source, self.service.scope(slot)), now);
        if let Some(left) = stalls.filter(|_| !is_favoured) {
            let seconds = left.as_secs() + 1;
            return Err(format!(
                "peers of {source} were disconnected for slowness again and again: it is refused \
                 for {seconds} s (stall_timeout)"
            ));
        }
        let rate = self.limits.max_connect_rate;
        if !self.rates.allows(source, rate, now) {
            return Err(format!(
                "{source} connects more than {rate} times a second (max_connect_rate)"
            ));
        }
        let (most, key) = self.most_of(source);
        if self.per_source.get(&source).is_some_and(|count| *count >= most) {
            return Err(format!("the limit of {most} peers of {source} is reached ({key})"));
        }
        Ok(())
    }

    /// Peers of a source at the most, and the key that says so.
    fn most_of(&self, source: Principal) -> (usize, &'static str) {
        match (source, self.limits.max_peers_per_prefix) {
            (Principal::Network(..) | Principal::Host(_), Some(most)) => {
                (most as usize, "max_peers_per_prefix")
            }
            _ => (self.limits.max_peers_per_uid as usize, "max_peers_per_uid"),
        }
    }

    /// Lets one go, which is not counted any more.
    fn evict(&mut self, number: AdmissionId, why: String, may_prove: bool) -> Option<Eviction> {
        let peer = self.peer(number)?.clone();
        self.discharge(&peer);
        self.peers[place_of(number)].standing = PeerStanding::Evicted;
        Some(Eviction { slot: peer.slot, number, why, may_prove })
    }

    fn count(&mut self, number: AdmissionId, source: Principal, standing: PeerStanding) {
        match standing {
            PeerStanding::Evicted => return,
            PeerStanding::Favoured => self.favoured += 1,
            PeerStanding::Common => self.crowd.add(source, number),
        }
        *self.per_source.entry(source).or_default() += 1;
    }

    fn discount(&mut self, peer: &PeerRecord) {
        match peer.standing {
            PeerStanding::Evicted => return,
            PeerStanding::Favoured => self.favoured -= 1,
            PeerStanding::Common => drop(self.crowd.remove(peer.source, peer.number)),
        }
        if let Some(count) = self.per_source.get_mut(&peer.source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&peer.source);
            }
        }
    }

    fn peer(&self, number: AdmissionId) -> Option<&PeerRecord> {
        self.peers.get(place_of(number)).filter(|peer| peer.number == number)
    }

    fn discharge(&mut self, peer: &PeerRecord) {
        self.startups.remove(peer.number);
        self.discount(peer);
    }
}

impl Service {
    /// The slot whose worker counts by itself; all children count together, because each has only
    /// one peer.
    fn scope(self, slot: SlotId) -> Option<SlotId> {
        matches!(self, Self::Pool(_)).then_some(slot)
    }

    fn stall_policy(self, limits: &Limits) -> StrikePolicy {
        let workers = if let Self::Pool(workers) = self { workers } else { 1 };
        StrikePolicy::of_stalls(limits.stall_timeout.duration(), workers)
    }
}

impl PeerRecord {
    fn is_of(&self, slot: SlotId) -> bool {
        self.slot == slot
    }
}

/// The reason for a peer that is late to prove its token.
const LATE: &str = "evicted for a new peer: no token was proved yet (max_startups)";

/// Bits of a peer's number that are its place.
const PLACE_BITS: u32 = 32;

fn place_of(AdmissionId(number): AdmissionId) -> usize {
    (number & ((1 << PLACE_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PrefixBits;

    fn parts(identity: PeerIdentity) -> ChannelParts {
        ChannelParts { descriptors: Vec::new(), identity, state: Vec::new() }
    }

    fn of_user(uid: u32) -> ChannelParts {
        parts(PeerIdentity::from_owner(uid))
    }

    fn from(addr: &str) -> ChannelParts {
        parts(PeerIdentity { addr: addr.parse().ok(), ..PeerIdentity::default() })
    }

    fn admit(
        admission: &mut Admission,
        parts: &ChannelParts,
        slot: u32,
    ) -> Result<AdmissionGrant, String> {
        let must_prove = parts.identity.addr.is_some();
        let (owner, slot) = (OwnerId(0), SlotId(slot));
        let arrival = PeerArrival { owner, parts, must_prove, is_ours: false, slot };
        admission.admit(Instant::now(), arrival, || 0)
    }

    fn gone(entry: &AdmissionGrant) -> Vec<(u32, AdmissionId)> {
        entry.instead_of.iter().map(|evicted| (evicted.slot.0, evicted.number)).collect()
    }

    #[test]
    fn counts_per_source_and_in_all() {
        let limits = Limits { max_peers: 3, max_peers_per_uid: 2, ..Limits::default() };
        let mut admission = Admission::new(&limits, Service::Pool(2));
        let (ann, bob) = (of_user(1), of_user(2));
        let first = admit(&mut admission, &ann, 0).unwrap().number;
        admit(&mut admission, &ann, 0).unwrap();
        assert!(admit(&mut admission, &ann, 0).unwrap_err().contains("user 1"));
        admit(&mut admission, &bob, 1).unwrap();
        assert!(admit(&mut admission, &bob, 1).unwrap_err().contains("3 peers"));
        admission.release(first, SlotId(1));
        assert!(admit(&mut admission, &bob, 1).is_err(), "another slot's peer is not released");
        admission.release(first, SlotId(0));
        admit(&mut admission, &bob, 1).unwrap();
        assert_eq!(admission.release_slot(SlotId(1)).len(), 2);
        assert_eq!(admission.release_slot(SlotId(0)).len(), 1);
        assert!(admission.peers.is_empty() && admission.per_source.is_empty());
    }

    #[test]
    fn counts_networks_as_they_are_configured() {
        let (per_prefix, v4) = (Some(2), PrefixBits(24));
        let limits =
            Limits { max_peers_per_prefix: per_prefix, prefix_v4: v4, ..Limits::default() };
        let mut admission = Admission::new(&limits, Service::Pool(2));
        admit(&mut admission, &from("10.1.2.3:1"), 0).unwrap();
        admit(&mut admission, &from("10.1.2.4:1"), 0).unwrap();
        let why = admit(&mut admission, &from("10.1.2.5:1"), 0).unwrap_err();
        assert!(why.contains("10.1.2.0/24") && why.contains("max_peers_per_prefix"), "{why}");
        admit(&mut admission, &from("10.1.3.5:1"), 0).unwrap();
        // Another size of networks does not confuse the counts of peers that are here.
        admission.set_limits(&Limits::default());
        assert_eq!(admission.release_slot(SlotId(0)).len(), 3);
        assert!(admission.per_source.is_empty());
    }

    #[test]
    fn who_proves_nothing_makes_room_for_who_comes() {
        let limits = Limits { max_startups: "2:100:3".parse().unwrap(), ..Limits::default() };
        let mut admission = Admission::new(&limits, Service::Pool(2));
        let net = from("10.1.2.3:1");
        let numbers: Vec<AdmissionId> =
            (0..2).map(|slot| admit(&mut admission, &net, slot).unwrap().number).collect();
        let third = admit(&mut admission, &net, 0).unwrap();
        assert_eq!(gone(&third), [(0, numbers[0])]);
        admission.note_opened(&numbers[1..], SlotId(0));
        assert_eq!(gone(&admit(&mut admission, &net, 0).unwrap()), [(1, numbers[1])]);
        let fifth = admit(&mut admission, &net, 0).unwrap();
        assert_eq!(gone(&fifth), [(0, third.number)]);
        assert!(fifth.instead_of[0].may_prove && fifth.instead_of[0].why.contains("max_startups"));
        admission.note_opened(&[fifth.number], SlotId(0));
        assert_eq!(gone(&admit(&mut admission, &net, 0).unwrap()), []);
        assert_eq!(gone(&admit(&mut admission, &of_user(1), 0).unwrap()), []);
        // One that was quicker than the word that it had to go is counted again.
        let before = admission.per_source[&Principal::User(1)] + admission.crowd.len();
        admission.note_opened(&[third.number], SlotId(0));
        assert_eq!(admission.per_source[&Principal::User(1)] + admission.crowd.len(), before + 1);
        admission.release_slot(SlotId(0));
        admission.release_slot(SlotId(1));
        assert!(admission.peers.is_empty() && admission.per_source.is_empty());
        assert_eq!((admission.crowd.len(), admission.favoured), (0, 0));
    }

    #[test]
    fn who_has_most_makes_room_and_the_last_places_are_reserved() {
        let limits = Limits { max_peers: 32, ..Limits::default() };
        let mut admission = Admission::new(&limits, Service::Pool(2));
        let (ann, bob, carl, root) = (of_user(1), of_user(2), of_user(3), of_user(0));
        let ann_s: Vec<AdmissionId> =
            (0..30).map(|_| admit(&mut admission, &ann, 0).unwrap().number).collect();
        // Two places are left, for others than these.
        let why = admit(&mut admission, &ann, 0).unwrap_err();
        assert!(why.contains("32 peers") && why.contains("max_peers"), "{why}");
        for number in ann_s[20..].iter().rev() {
            let entry = admit(&mut admission, &bob, 0).unwrap();
            assert_eq!(gone(&entry), [(0, *number)], "the last to come is the first to go");
            let Eviction { why, may_prove, .. } = &entry.instead_of[0];
            assert!(why.contains("user 1") && why.contains("max_peers") && !may_prove, "{why}");
        }
        assert_eq!(gone(&admit(&mut admission, &carl, 0).unwrap()), [(0, ann_s[19])]);
        assert_eq!(gone(&admit(&mut admission, &root, 0).unwrap()), []);
        assert_eq!(gone(&admit(&mut admission, &root, 0).unwrap()), []);
        // Root needs no share, and other users do not take its places.
        assert_eq!(gone(&admit(&mut admission, &root, 0).unwrap()).len(), 1);
        for uid in 100..200 {
            let _ = admit(&mut admission, &of_user(uid), 0);
        }
        assert_eq!(admission.per_source[&Principal::User(0)], 3);
        assert!(admission.crowd.len() + admission.favoured <= 32);
        // Those on their way out do not count, and cannot be too many.
        assert!(admission.peers.len() <= 2 * 32);
        admission.release_slot(SlotId(0));
        assert_eq!((admission.crowd.len(), admission.favoured), (0, 0));
        assert!(admission.per_source.is_empty());
    }

    #[test]
    fn strangers_without_proof_take_no_child_from_anybody() {
        let limits = Limits { max_startups: "500".parse().unwrap(), ..Limits::default() };
        let mut admission = Admission::new(&limits, Service::Children(16));
        let strangers: Vec<_> = (0..40)
            .filter_map(|n| {
                let net = from(&format!("10.0.0.{n}:1"));
                admit(&mut admission, &net, n).ok()
            })
            .collect();
        assert_eq!(strangers.len(), 15, "one place is reserved");
        // Each source has one peer. A new peer evicts one that has had its time.
        let ann = of_user(1);
        let why = admit(&mut admission, &ann, 99).unwrap_err();
        assert!(why.contains("16 children") && why.contains("max_children"), "{why}");
        let later = Instant::now() + Duration::from_secs(2);
        let arrival = PeerArrival {
            owner: OwnerId(0),
            parts: &ann,
            must_prove: false,
            is_ours: false,
            slot: SlotId(99),
        };
        let entry = admission.admit(later, arrival, || 0).unwrap();
        assert_eq!(gone(&entry), [(0, strangers[0].number)]);
        let ours = PeerArrival {
            owner: OwnerId(0),
            parts: &ann,
            must_prove: false,
            is_ours: true,
            slot: SlotId(98),
        };
        assert_eq!(gone(&admission.admit(later, ours, || 0).unwrap()), []);
    }

    #[test]
    fn those_who_are_here_belong_to_the_networks_that_there_are_now() {
        let mut admission = Admission::new(&Limits::default(), Service::Pool(2));
        for n in 0..10 {
            admit(&mut admission, &from(&format!("10.0.0.{n}:1")), 0).unwrap();
        }
        admission.set_limits(&Limits {
            prefix_v4: PrefixBits(24),
            max_peers: 10,
            ..Limits::default()
        });
        assert_eq!(admission.per_source.len(), 1);
        assert_eq!(gone(&admit(&mut admission, &from("10.0.1.1:1"), 0).unwrap()).len(), 1);
        admission.release_slot(SlotId(0));
        assert!(admission.per_source.is_empty() && admission.crowd.len() == 0);
    }

    #[test]
    fn a_source_that_workers_die_of_is_refused_for_a_while() {
        let mut admission = Admission::new(&Limits::default(), Service::Pool(2));
        for _ in 0..3 {
            let number = admit(&mut admission, &of_user(1), 0).unwrap().number;
            assert_eq!(admission.suspect(number, SlotId(1), Instant::now()), None);
            assert!(admission.suspect(number, SlotId(0), Instant::now()).is_some());
            admission.release_slot(SlotId(0));
        }
        assert!(admit(&mut admission, &of_user(1), 0).unwrap_err().contains("died"));
        admit(&mut admission, &of_user(2), 0).unwrap();
    }

    #[test]
    fn a_source_whose_peers_stall_again_and_again_is_refused_for_a_while() {
        let mut admission = Admission::new(&Limits::default(), Service::Pool(2));
        let stall = Limits::default().stall_timeout.duration();
        let start = Instant::now();
        let stalls = |admission: &mut Admission, parts: &ChannelParts, turn: u32| {
            let number = admit(admission, parts, 0).unwrap().number;
            assert!(admission.release(number, SlotId(1)).is_none(), "it is another worker's peer");
            let peer = admission.release(number, SlotId(0)).unwrap();
            admission.note_stalled(&peer, start + turn * stall)
        };
        let (ann, bob) = (of_user(1), of_user(2));
        assert_eq!([0, 1].map(|turn| stalls(&mut admission, &ann, turn)), [None; 2]);
        assert_eq!(stalls(&mut admission, &ann, 2), Some((Principal::User(1), stall)));
        let why = admit(&mut admission, &ann, 0).unwrap_err();
        assert!(why.contains("user 1") && why.contains("stall_timeout"), "{why}");
        // A worker's count concerns only the peers that it would have.
        admit(&mut admission, &ann, 1).unwrap();
        admit(&mut admission, &bob, 0).unwrap();
        // Root and the daemon's own user must get in to see a fault.
        for uid in [0, geteuid().as_raw()] {
            let own = of_user(uid);
            assert!((0..9).all(|turn| stalls(&mut admission, &own, turn).is_none()));
            admit(&mut admission, &own, 0).unwrap();
        }
    }

    #[test]
    fn children_count_the_stalls_of_a_source_together() {
        let mut admission = Admission::new(&Limits::default(), Service::Children(16));
        let (ann, now) = (of_user(1), Instant::now());
        for slot in 0..3 {
            let number = admit(&mut admission, &ann, slot).unwrap().number;
            let peer = admission.release(number, SlotId(slot)).unwrap();
            admission.note_stalled(&peer, now + Duration::from_secs(10) * slot);
        }
        assert!(admit(&mut admission, &ann, 3).unwrap_err().contains("slowness"));
    }
}
