//! Who may come in: limits on peers, per user and per source address.

use std::collections::HashMap;
use std::net::IpAddr;

use ipcd_transport::{ChannelParts, Identity};

use crate::config::Limits;

/// The peers that were admitted and have not gone.
#[derive(Debug)]
pub(crate) struct Admission {
    max_peers: usize,
    max_peers_per_source: usize,
    peers: HashMap<u64, Admitted>,
    per_source: HashMap<Source, usize>,
    next: u64,
}

/// A peer that was admitted.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// Which listener, server or program it is of.
    pub(crate) listener: usize,
    pub(crate) identity: Identity,
    /// What its transport has to remember.
    pub(crate) state: Vec<u8>,
    slot: usize,
}

/// Whom a peer is charged to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Source {
    User(u32),
    Address(IpAddr),
    Unknown,
}

impl Source {
    fn of(identity: &Identity) -> Self {
        match (identity.uid, identity.addr) {
            (Some(uid), _) => Self::User(uid),
            (None, Some(addr)) => Self::Address(addr.ip()),
            (None, None) => Self::Unknown,
        }
    }
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            max_peers: limits.max_peers as usize,
            max_peers_per_source: limits.max_peers_per_uid as usize,
            peers: HashMap::new(),
            per_source: HashMap::new(),
            next: 0,
        }
    }

    /// Other limits, for those who come from now on.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.max_peers = limits.max_peers as usize;
        self.max_peers_per_source = limits.max_peers_per_uid as usize;
    }

    /// Admits a peer to a worker's slot and says under which number; or says why not.
    pub(crate) fn admit(
        &mut self,
        listener: usize,
        parts: &ChannelParts,
        slot: usize,
    ) -> Result<u64, String> {
        if self.peers.len() >= self.max_peers {
            return Err(format!("the limit of {} peers is reached", self.max_peers));
        }
        let (identity, state) = (parts.identity.clone(), parts.state.clone());
        let source = Source::of(&identity);
        let count = self.per_source.entry(source).or_default();
        if *count >= self.max_peers_per_source {
            let most = self.max_peers_per_source;
            return Err(format!("the limit of {most} peers of one user or address is reached"));
        }
        *count += 1;
        self.next += 1;
        self.peers.insert(self.next, Admitted { listener, identity, state, slot });
        Ok(self.next)
    }

    /// A worker says that a peer has gone. What it says of peers that are not its own is ignored.
    pub(crate) fn release(&mut self, number: u64, slot: usize) -> Option<Admitted> {
        if self.peers.get(&number)?.slot != slot {
            return None;
        }
        let peer = self.peers.remove(&number)?;
        self.discharge(&peer.identity);
        Some(peer)
    }

    /// The slot whose worker serves a peer.
    pub(crate) fn slot_of(&self, number: u64) -> Option<u32> {
        self.peers.get(&number).map(|peer| peer.slot as u32)
    }

    /// A worker has died, and left these peers behind.
    pub(crate) fn release_slot(&mut self, slot: usize) -> Vec<(u64, Admitted)> {
        let gone = |_: &u64, peer: &mut Admitted| peer.slot == slot;
        let gone: Vec<_> = self.peers.extract_if(gone).collect();
        gone.iter().for_each(|(_, peer)| self.discharge(&peer.identity));
        gone
    }

    fn discharge(&mut self, identity: &Identity) {
        let source = Source::of(identity);
        if let Some(count) = self.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.per_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_per_source_and_in_all() {
        let limits = Limits { max_peers: 3, max_peers_per_uid: 2, ..Limits::default() };
        let mut admission = Admission::new(&limits);
        let parts = |uid| {
            let (descriptors, identity, state) =
                (Vec::new(), Identity::from_owner(uid), Vec::new());
            ChannelParts { descriptors, identity, state }
        };
        let (ann, bob) = (parts(1), parts(2));
        let first = admission.admit(0, &ann, 0).unwrap();
        admission.admit(0, &ann, 0).unwrap();
        assert!(admission.admit(0, &ann, 0).unwrap_err().contains("one user"));
        admission.admit(0, &bob, 1).unwrap();
        assert!(admission.admit(0, &bob, 1).unwrap_err().contains("3 peers"));
        admission.release(first, 1);
        assert!(admission.admit(0, &bob, 1).is_err(), "another slot's peer is not released");
        admission.release(first, 0);
        admission.admit(0, &bob, 1).unwrap();
        assert_eq!(admission.release_slot(1).len(), 2);
        assert_eq!(admission.release_slot(0).len(), 1);
        assert!(admission.peers.is_empty() && admission.per_source.is_empty());
    }
}
