//! Who may come in: limits on peers, on how often they come, and on those that have proved nothing
//! yet; and who is kept out for a while, because workers die of it.

mod rates;
mod startups;
mod suspects;

use std::collections::HashMap;
use std::time::Instant;

use ipcd_core::Source;
use ipcd_transport::{ChannelParts, Identity};
use slab::Slab;

use self::rates::Rates;
pub use self::startups::MaxStartups;
use self::startups::{Room, Startups};
use self::suspects::Suspects;
use crate::config::Limits;

/// The peers that were admitted and have not gone.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    /// By their places, which the lower halves of their numbers are.
    peers: Slab<Admitted>,
    per_source: HashMap<Source, usize>,
    startups: Startups,
    rates: Rates,
    suspects: Suspects,
    next: u64,
}

/// A peer that was admitted.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    number: u64,
    /// Which listener, server or program it is of.
    pub(crate) listener: usize,
    pub(crate) identity: Identity,
    /// What its transport has to remember.
    pub(crate) state: Box<[u8]>,
    source: Source,
    slot: u32,
}

/// A peer that comes.
pub(crate) struct Arrival<'a> {
    /// The listener that it comes in by.
    pub(crate) listener: usize,
    pub(crate) parts: &'a ChannelParts,
    /// Whether it has to prove a token.
    pub(crate) must_prove: bool,
    /// The place of the worker that is to serve it.
    pub(crate) slot: usize,
}

/// Who is in.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// The number of the peer.
    pub(crate) number: u64,
    /// One that has proved nothing yet and has to go for it: its slot and number.
    pub(crate) instead_of: Option<(usize, u64)>,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            peers: Slab::new(),
            per_source: HashMap::new(),
            startups: Startups::default(),
            rates: Rates::default(),
            suspects: Suspects::default(),
            next: 0,
        }
    }

    /// Other limits, for those who come from now on. Those who are here are charged to whom they
    /// were.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.limits = limits.clone();
    }

    /// Admits a peer and says under which number; or says why not. `percent` is a random number
    /// from 0 to 99.
    pub(crate) fn admit(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        percent: impl FnOnce() -> u32,
    ) -> Result<Entry, String> {
        let Arrival { listener, parts, must_prove, slot } = arrival;
        let slot = slot as u32;
        let (identity, state) = (parts.identity.clone(), parts.state.clone().into_boxed_slice());
        let source = Source::of(identity.uid, identity.addr, self.limits.prefixes());
        self.check(now, source)?;
        let instead_of = if must_prove { self.make_room(now, percent)? } else { None };
        *self.per_source.entry(source).or_default() += 1;
        self.next += 1;
        let place = self.peers.vacant_entry();
        // Whoever came first has the least.
        let number = self.next << PLACE_BITS | place.key() as u64;
        place.insert(Admitted { number, listener, identity, state, source, slot });
        if must_prove {
            self.startups.add(number, now);
        }
        Ok(Entry { number, instead_of })
    }

    /// These peers have proved what they had to.
    pub(crate) fn opened(&mut self, numbers: &[u64], slot: usize) {
        for number in numbers {
            if self.peer(*number).is_some_and(|peer| peer.is_of(slot)) {
                self.startups.remove(*number);
            }
        }
    }

    /// A worker says that a peer has gone. What it says of peers that are not its own is ignored.
    pub(crate) fn release(&mut self, number: u64, slot: usize) -> Option<Admitted> {
        self.peer(number).filter(|peer| peer.is_of(slot))?;
        let peer = self.peers.remove(place_of(number));
        self.discharge(&peer);
        Some(peer)
    }

    /// The slot whose worker serves a peer.
    pub(crate) fn slot_of(&self, number: u64) -> Option<u32> {
        self.peer(number).map(|peer| peer.slot)
    }

    /// A worker has died, and left these peers behind.
    pub(crate) fn release_slot(&mut self, slot: usize) -> Vec<(u64, Admitted)> {
        let of_slot = self.peers.iter().filter(|(_, peer)| peer.is_of(slot));
        let places: Vec<_> = of_slot.map(|(place, _)| place).collect();
        let gone: Vec<_> = places.into_iter().map(|place| self.peers.remove(place)).collect();
        gone.iter().for_each(|peer| self.discharge(peer));
        gone.into_iter().map(|peer| (peer.number, peer)).collect()
    }

    /// A worker has died while it served this peer, if it is one of its own.
    pub(crate) fn suspect(&mut self, number: u64, slot: usize, now: Instant) -> Option<&Identity> {
        let peer = self.peers.get(place_of(number))?;
        if peer.number != number || !peer.is_of(slot) {
            return None;
        }
        if peer.source != Source::Unknown {
            self.suspects.note(peer.source, now);
        }
        Some(&peer.identity)
    }

    fn check(&mut self, now: Instant, source: Source) -> Result<(), String> {
        if let Some(left) = self.suspects.refused_for(source, now) {
            let seconds = left.as_secs() + 1;
            return Err(format!(
                "workers have died while they served {source}: it is refused for {seconds} s"
            ));
        }
        let rate = self.limits.max_connect_rate;
        if !self.rates.allows(source, rate, now) {
            return Err(format!(
                "{source} connects more than {rate} times a second (max_connect_rate)"
            ));
        }
        let most = self.limits.max_peers as usize;
        if self.peers.len() >= most {
            return Err(format!("the limit of {most} peers is reached (max_peers)"));
        }
        let (most, key) = self.most_of(source);
        if self.per_source.get(&source).is_some_and(|count| *count >= most) {
            return Err(format!("the limit of {most} peers of {source} is reached ({key})"));
        }
        Ok(())
    }

    /// Peers of a source at the most, and the key that says so.
    fn most_of(&self, source: Source) -> (usize, &'static str) {
        match (source, self.limits.max_peers_per_prefix) {
            (Source::Network(..), Some(most)) => (most as usize, "max_peers_per_prefix"),
            _ => (self.limits.max_peers_per_uid as usize, "max_peers_per_uid"),
        }
    }

    /// Room for one more that has proved nothing; perhaps in the place of another, which is not
    /// counted any more.
    fn make_room(
        &mut self,
        now: Instant,
        percent: impl FnOnce() -> u32,
    ) -> Result<Option<(usize, u64)>, String> {
        let max = self.limits.max_startups;
        match self.startups.room(max, now, percent) {
            Room::There => Ok(None),
            Room::Of(number) => {
                self.startups.remove(number);
                Ok(self.peer(number).map(|peer| (peer.slot as usize, number)))
            }
            Room::None => {
                let most = max.full();
                Err(format!("the limit of {most} peers without proof is reached (max_startups)"))
            }
        }
    }

    fn peer(&self, number: u64) -> Option<&Admitted> {
        self.peers.get(place_of(number)).filter(|peer| peer.number == number)
    }

    fn discharge(&mut self, peer: &Admitted) {
        self.startups.remove(peer.number);
        if let Some(count) = self.per_source.get_mut(&peer.source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&peer.source);
            }
        }
    }
}

impl Admitted {
    fn is_of(&self, slot: usize) -> bool {
        self.slot as usize == slot
    }
}

/// Bits of a peer's number that are its place.
const PLACE_BITS: u32 = 32;

fn place_of(number: u64) -> usize {
    (number & ((1 << PLACE_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bits;

    fn parts(identity: Identity) -> ChannelParts {
        ChannelParts { descriptors: Vec::new(), identity, state: Vec::new() }
    }

    fn of_user(uid: u32) -> ChannelParts {
        parts(Identity::from_owner(uid))
    }

    fn from(addr: &str) -> ChannelParts {
        parts(Identity::from_addr(addr.parse().unwrap()))
    }

    fn admit(
        admission: &mut Admission,
        parts: &ChannelParts,
        slot: usize,
    ) -> Result<Entry, String> {
        let must_prove = parts.identity.addr.is_some();
        let arrival = Arrival { listener: 0, parts, must_prove, slot };
        admission.admit(Instant::now(), arrival, || 0)
    }

    #[test]
    fn counts_per_source_and_in_all() {
        let limits = Limits { max_peers: 3, max_peers_per_uid: 2, ..Limits::default() };
        let mut admission = Admission::new(&limits);
        let (ann, bob) = (of_user(1), of_user(2));
        let first = admit(&mut admission, &ann, 0).unwrap().number;
        admit(&mut admission, &ann, 0).unwrap();
        assert!(admit(&mut admission, &ann, 0).unwrap_err().contains("user 1"));
        admit(&mut admission, &bob, 1).unwrap();
        assert!(admit(&mut admission, &bob, 1).unwrap_err().contains("3 peers"));
        admission.release(first, 1);
        assert!(admit(&mut admission, &bob, 1).is_err(), "another slot's peer is not released");
        admission.release(first, 0);
        admit(&mut admission, &bob, 1).unwrap();
        assert_eq!(admission.release_slot(1).len(), 2);
        assert_eq!(admission.release_slot(0).len(), 1);
        assert!(admission.peers.is_empty() && admission.per_source.is_empty());
    }

    #[test]
    fn counts_networks_as_they_are_configured() {
        let (per_prefix, v4) = (Some(2), Bits(24));
        let limits =
            Limits { max_peers_per_prefix: per_prefix, prefix_v4: v4, ..Limits::default() };
        let mut admission = Admission::new(&limits);
        admit(&mut admission, &from("10.1.2.3:1"), 0).unwrap();
        admit(&mut admission, &from("10.1.2.4:1"), 0).unwrap();
        let why = admit(&mut admission, &from("10.1.2.5:1"), 0).unwrap_err();
        assert!(why.contains("10.1.2.0/24") && why.contains("max_peers_per_prefix"), "{why}");
        admit(&mut admission, &from("10.1.3.5:1"), 0).unwrap();
        // Another size of networks later does not confuse who is here.
        admission.set_limits(&Limits::default());
        assert_eq!(admission.release_slot(0).len(), 3);
        assert!(admission.per_source.is_empty());
    }

    #[test]
    fn who_proves_nothing_makes_room_for_who_comes() {
        let limits = Limits { max_startups: "2:100:3".parse().unwrap(), ..Limits::default() };
        let mut admission = Admission::new(&limits);
        let net = from("10.1.2.3:1");
        let numbers: Vec<u64> =
            (0..2).map(|slot| admit(&mut admission, &net, slot).unwrap().number).collect();
        let third = admit(&mut admission, &net, 0).unwrap();
        assert_eq!(third.instead_of, Some((0, numbers[0])));
        admission.opened(&numbers[1..], 0);
        assert_eq!(admit(&mut admission, &net, 0).unwrap().instead_of, Some((1, numbers[1])));
        let fifth = admit(&mut admission, &net, 0).unwrap();
        assert_eq!(fifth.instead_of, Some((0, third.number)));
        admission.opened(&[fifth.number], 0);
        assert_eq!(admit(&mut admission, &net, 0).unwrap().instead_of, None);
        assert_eq!(admit(&mut admission, &of_user(1), 0).unwrap().instead_of, None);
    }

    #[test]
    fn a_source_that_workers_die_of_is_refused_for_a_while() {
        let mut admission = Admission::new(&Limits::default());
        for _ in 0..3 {
            let number = admit(&mut admission, &of_user(1), 0).unwrap().number;
            assert_eq!(admission.suspect(number, 1, Instant::now()), None);
            assert!(admission.suspect(number, 0, Instant::now()).is_some());
            admission.release_slot(0);
        }
        assert!(admit(&mut admission, &of_user(1), 0).unwrap_err().contains("died"));
        admit(&mut admission, &of_user(2), 0).unwrap();
    }
}
