//! The senders that the daemon has introduced.

use std::collections::{HashMap, VecDeque};

use ipcd_proto::control::Origin;

/// Senders that are remembered. The daemon introduces a sender again after 1,024 others at the
/// least, so twice as many never lose one that it takes for known.
const MAX_ORIGINS: usize = 2048;

/// The last senders by their ids.
#[derive(Default)]
pub(crate) struct OriginCache {
    known: HashMap<u64, Origin>,
    introduced: VecDeque<u64>,
}

impl OriginCache {
    pub(crate) fn introduce(&mut self, origin: Origin) {
        self.introduced.push_back(origin.peer);
        self.known.insert(origin.peer, origin);
        // A sender may have been introduced again meanwhile: then its newer entry counts.
        if self.introduced.len() > MAX_ORIGINS
            && let Some(oldest) = self.introduced.pop_front()
            && !self.introduced.contains(&oldest)
        {
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn find(&self, peer: u64) -> Option<&Origin> {
        self.known.get(&peer)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
