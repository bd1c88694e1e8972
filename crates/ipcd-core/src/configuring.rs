//! Another configuration, put in force while the router runs: for the peers that are here as for
//! those that come.

use std::time::Instant;

use crate::core::Router;
use crate::model::config::Config;
use crate::model::ids::PeerKey;
use ipcd_proto::limits::MAX_CONTROL;

impl Router {
    /// Changes the configuration while the router runs; what it is about to do is done by the new.
    pub fn configure(&mut self, now: Instant, change: impl FnOnce(&mut Config)) {
        let before = self.config.clone();
        change(&mut self.config);
        if self.config.tokens != before.tokens {
            self.revoke(now, &before.tokens);
        }
        if self.config.acl != before.acl {
            self.recheck(now, &before.acl);
        }
        if self.config.prefixes != before.prefixes {
            self.charge_anew();
        }
        for key in self.keys() {
            self.renew_largest(key);
            self.renew_fullness(key);
            // What has been due since earlier than now is found out, and what is due later is noted.
            self.check_deadlines(now, key);
        }
    }

    /// A session keeps the size of frames that it was opened with. What is larger it is not sent,
    /// for it would take that for nonsense. A bare peer knows of no size.
    fn renew_largest(&mut self, key: PeerKey) {
        let most = u32::try_from(self.config.max_payload).unwrap_or(u32::MAX);
        let peer = self.peer(key);
        if peer.is_bare {
            peer.told = peer.told.max(most);
        } else if peer.is_open() {
            let fits = peer.told.max(MAX_CONTROL as u32);
            peer.largest = (most > fits).then_some(fits);
        }
    }

    /// An outbox may be full by the new limits, or not any more.
    fn renew_fullness(&mut self, key: PeerKey) {
        let limit = self.config.outbox;
        let peer = &self.peers[key.0 as usize];
        let bytes = peer.outbox.len();
        if !peer.full && (bytes >= limit || self.is_overcharged(key)) && bytes > 0 {
            self.set_full(key, true);
        } else if peer.full && bytes <= limit / 2 && !self.stays_overcharged(key) {
            self.set_full(key, false);
            self.resume_waiters(key);
        }
    }
}
