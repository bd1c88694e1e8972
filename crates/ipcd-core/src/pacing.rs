//! Pacing: publishers do not run far ahead of a subscriber that reads.
//!
//! An outbox may hold megabytes, for a subscriber that pauses. One that reads needs no more than
//! the kernel takes at once: what waits longer falls out of the processor's caches, and fetching it
//! again costs more than all the rest of a small message's way: with an outbox of 8 MiB in front of
//! 8 subscribers three times as much as with 256 KiB. So publishers to it wait already at
//! `Config::pace`, as long as it takes something; when it has taken nothing for [`PATIENCE`], it
//! pauses, and its outbox may fill up.
//!
//! Other workers are not paced. When what comes from them has filled the outbox beyond what one
//! publisher here could, those here do not wait any longer than they do.

use std::time::{Duration, Instant};

use crate::core::Router;
use crate::model::config::Config;
use crate::model::ids::PeerKey;
use crate::publish::MAX_RUN;
use ipcd_proto::limits::largest_frame;

/// How long a subscriber may take nothing before it counts as one that pauses.
const PATIENCE: Duration = Duration::from_millis(20);

/// How a peer takes what is for it.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Whether it has taken something since it last paused.
    flows: bool,
    /// Until when publishers wait for it at the longest, and what it had taken before.
    held: Option<(Instant, u64)>,
}

impl Pacing {
    /// Whether publishers wait.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// When it is to be found out whether the peer pauses.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.map(|(until, _)| until)
    }
}

impl Router {
    /// Lets publishers wait, if the peer has enough in its outbox and reads.
    pub(crate) fn hold_pace(&mut self, now: Instant, key: PeerKey) {
        let (pace, peer) = (self.config.pace, &mut self.peers[key.0 as usize]);
        if peer.pace.flows
            && !peer.pace.holds()
            && peer.outbox.len() >= pace
            && peer.outbox.len() <= most_paced(&self.config)
        {
            peer.pace.held = Some((now + PATIENCE, peer.outbox.written()));
            self.arm(key, now + PATIENCE);
        }
    }

    /// The peer has taken something: publishers go on once it has taken half.
    pub(crate) fn keep_pace(&mut self, key: PeerKey) {
        let (pace, peer) = (self.config.pace, &mut self.peers[key.0 as usize]);
        peer.pace.flows = true;
        if peer.pace.holds() && peer.outbox.len() <= pace / 2 {
            peer.pace.held = None;
            self.resume_waiters(key);
        }
    }

    /// The time is up: a peer that has taken nothing meanwhile pauses.
    pub(crate) fn check_pace(&mut self, now: Instant, key: PeerKey) {
        let peer = &mut self.peers[key.0 as usize];
        let Some((_, before)) = peer.pace.held.filter(|(until, _)| *until <= now) else { return };
        let written = peer.outbox.written();
        peer.pace.flows = written > before;
        if peer.pace.flows && peer.outbox.len() <= most_paced(&self.config) {
            peer.pace.held = Some((now + PATIENCE, written));
        } else {
            peer.pace.held = None;
            self.resume_waiters(key);
        }
    }
}

/// Bytes in an outbox beyond which not only publishers here have filled it: the last of these has put
/// in a run, or one largest frame, at twice the pace.
fn most_paced(config: &Config) -> usize {
    2 * config.pace + MAX_RUN + largest_frame(config.max_payload)
}
