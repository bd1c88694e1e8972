//! The deadlines of a peer: a frame that is incomplete, idleness, and a send queue that does not
//! move.

use crate::model::ids::PeerKey;
use crate::output::ReceiveProgress;
use crate::peers::Peers;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::limits;
use std::cmp::Reverse;
use std::time::Instant;

/// Timer entries for each peer, and a surplus for all together. Beyond both, the useless ones are
/// removed.
const MOST_EACH: usize = 4;

const MOST_MORE: usize = 1024;

impl Peers {
    pub(crate) fn note_heard(
        &mut self,
        now: Instant,
        key: PeerKey,
        progress: &ReceiveProgress,
        offered: usize,
    ) {
        let timeout = self.config.frame_timeout;
        let peer = &mut self.table[key];
        (peer.deadlines.heard, peer.asked) = (now, 0);
        // A peer that the router does not read is not late.
        if progress.consumed > 0 || progress.waiting {
            peer.deadlines.frame = None;
        }
        let is_partial = progress.consumed < offered && !progress.waiting;
        // The time runs from the first byte. Further bytes of the frame do not postpone it.
        if is_partial && peer.deadlines.frame.is_none() {
            peer.deadlines.frame = Some(now);
            self.arm(key, now + timeout);
        }
    }

    /// Whether a peer has sent more than a handshake needs, while its session is not open.
    pub(crate) fn exceeds_allowance(&mut self, key: PeerKey, bytes: usize) -> bool {
        let peer = &mut self.table[key];
        if !peer.is_open() {
            peer.before_open = peer.before_open.saturating_add(bytes as u32);
        }
        !peer.is_open() && peer.before_open as usize > limits::MAX_HANDSHAKE
    }

    pub(crate) fn arm(&mut self, key: PeerKey, at: Instant) {
        let armed = &mut self.table[key].deadlines.armed;
        self.timers.arm(armed, at, key);
        // Postponed deadlines leave entries behind, which must not fill memory.
        if self.timers.0.len() > MOST_EACH * self.table.len() + MOST_MORE {
            self.forget_timers();
        }
    }

    /// Removes the entries of peers that have gone, and those that an earlier one precedes: a peer
    /// with frequent deadlines leaves an entry for its idleness each time.
    fn forget_timers(&mut self) {
        let peers = &self.table;
        self.timers.0.retain(|Reverse((at, key))| {
            peers.get(*key).is_some_and(|peer| peer.deadlines.armed == Some(*at))
        });
    }

    /// Returns the time when the peer is idle, or else the time of the next check. A peer is idle
    /// if no bytes come from it or go to it, and it does not answer a PING. A peer that the router
    /// does not read, or that has queued bytes, is not idle: another deadline applies.
    pub(crate) fn idle_deadline(&mut self, now: Instant, key: PeerKey) -> Option<Instant> {
        let half = self.config.idle_timeout? / 2;
        let peer = &mut self.table[key];
        // Such a peer cannot answer a PING.
        if peer.is_mute {
            return None;
        }
        // Other deadlines apply to these: of the handshake, of waiting, and of a stalled queue.
        if !peer.is_open() || peer.waiting || !peer.queue.is_empty() {
            return Some(now + half);
        }
        let heard = peer.deadlines.heard;
        if peer.is_raw {
            // A raw peer cannot be sent a PING.
            return Some(heard + 2 * half);
        }
        if peer.asked > 0 || now < heard + half {
            return Some(heard + half);
        }
        self.send(now, key, Header::new(FrameKind::Ping, 0), &[]);
        let peer = &mut self.table[key];
        // The queue was empty, so its length is the length of the PING.
        (peer.deadlines.heard, peer.asked) = (now, peer.queue.len() as u8 + 1);
        Some(now + half)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_proto::control::Origin;

    use super::*;
    use crate::config::{Config, DaemonInfo, PeerInfo};
    use crate::router::Router;

    fn core(now: Instant) -> Router {
        let idle_timeout = Some(Duration::from_secs(3600));
        Router::new(Config { idle_timeout, ..Config::new(DaemonInfo::unknown(now)) }, None)
    }

    fn attach(core: &mut Router, now: Instant) -> PeerKey {
        let transport = "test".into();
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid: None, gid: None, addr: None };
        let raw = Some(crate::config::RawPeer {
            filters: Vec::new(),
            echo: true,
            largest: None,
            speaks: true,
        });
        core.attach(now, PeerInfo { listener: 0, origin, challenge: None, raw })
    }

    #[test]
    fn peers_that_have_gone_leave_a_bounded_number_of_deadlines() {
        let mut now = Instant::now();
        let mut core = core(now);
        for _ in 0..10_000 {
            let key = attach(&mut core, now);
            // After the handshake, the next deadline is an hour away.
            now += Duration::from_secs(6);
            core.tick(now);
            core.detach(now, key);
            assert!(core.delivery.sessions.peers.timers.0.len() <= MOST_EACH + MOST_MORE);
        }
    }

    #[test]
    fn a_peer_that_is_looked_at_all_the_time_has_a_bounded_number_of_deadlines() {
        let mut now = Instant::now();
        let mut core = core(now);
        let key = attach(&mut core, now);
        for _ in 0..10_000 {
            core.delivery.sessions.peers.arm(key, now + Duration::from_millis(20));
            now += Duration::from_millis(20);
            core.tick(now);
            assert!(core.delivery.sessions.peers.timers.0.len() <= MOST_EACH + MOST_MORE);
        }
        assert!(core.next_deadline().is_some_and(|at| at > now), "its idleness is not forgotten");
    }
}
