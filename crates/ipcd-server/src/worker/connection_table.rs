//! The connections of a worker, by the router's key and by the supervisor's number.

use std::collections::HashMap;

use ipcd_core::PeerKey;

use crate::ids::AdmissionId;
use crate::worker::connection::{Connection, EventToken};

/// The connections.
#[derive(Default)]
pub(super) struct ConnectionTable {
    /// By the router's keys, which it gives to other peers later.
    by_key: Vec<Option<Connection>>,
    by_admission: HashMap<AdmissionId, PeerKey>,
    last_number: u32,
}

impl ConnectionTable {
    /// The token for the events of the peer that gets this key. Two connections have the same one only
    /// if four thousand million lie between them.
    pub(super) fn next_token(&mut self, key: PeerKey) -> EventToken {
        // Not 0, which the tokens of the link, the inbox and the timer have.
        self.last_number = self.last_number.checked_add(1).unwrap_or(1);
        EventToken { place: key.0, number: self.last_number }
    }

    pub(super) fn insert(&mut self, key: PeerKey, connection: Connection) {
        let index = key.0 as usize;
        if self.by_key.len() <= index {
            self.by_key.resize_with(index + 1, || None);
        }
        self.by_admission.insert(connection.admission, key);
        self.by_key[index] = Some(connection);
    }

    pub(super) fn remove(&mut self, key: PeerKey) -> Option<Connection> {
        let removed = self.by_key.get_mut(key.0 as usize)?.take()?;
        self.by_admission.remove(&removed.admission);
        Some(removed)
    }

    pub(super) fn get(&self, key: PeerKey) -> Option<&Connection> {
        self.by_key.get(key.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Connection> {
        self.by_key.get_mut(key.0 as usize)?.as_mut()
    }

    /// The connection that an event is about, if it is still there.
    pub(super) fn of_event(&mut self, token: EventToken) -> Option<&mut Connection> {
        self.get_mut(PeerKey(token.place)).filter(|found| found.token == token)
    }

    /// The router's key of a peer.
    pub(super) fn find(&self, admission: AdmissionId) -> Option<PeerKey> {
        self.by_admission.get(&admission).copied()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PeerKey, &mut Connection)> {
        let all = (0..).map(PeerKey).zip(&mut self.by_key);
        all.filter_map(|(key, connection)| Some((key, connection.as_mut()?)))
    }

    /// The keys of all connections.
    pub(super) fn keys(&self) -> Vec<PeerKey> {
        self.by_admission.values().copied().collect()
    }
}
