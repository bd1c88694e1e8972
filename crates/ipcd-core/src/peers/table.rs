//! The attached peers by their keys. Keys are indices, so that a lookup needs no hash.

use std::ops::{Index, IndexMut};

use crate::model::ids::PeerKey;
use crate::peers::peer::Peer;
use slab::Slab;

/// The attached peers. A key is valid until its peer is removed, and is then used for another peer.
#[derive(Debug, Default)]
pub(crate) struct PeerTable(Slab<Peer>);

impl PeerTable {
    pub(crate) fn insert(&mut self, peer: Peer) -> PeerKey {
        PeerKey(self.0.insert(peer) as u32)
    }

    pub(crate) fn remove(&mut self, key: PeerKey) {
        self.0.remove(key.0 as usize);
    }

    pub(crate) fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.0.get(key.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.0.get_mut(key.0 as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a number above all keys in use.
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerKey, &Peer)> {
        self.0.iter().map(|(key, peer)| (PeerKey(key as u32), peer))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter().map(|(_, peer)| peer)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.0.iter_mut().map(|(_, peer)| peer)
    }
}

impl Index<PeerKey> for PeerTable {
    type Output = Peer;

    fn index(&self, key: PeerKey) -> &Peer {
        &self.0[key.0 as usize]
    }
}

impl IndexMut<PeerKey> for PeerTable {
    fn index_mut(&mut self, key: PeerKey) -> &mut Peer {
        &mut self.0[key.0 as usize]
    }
}
