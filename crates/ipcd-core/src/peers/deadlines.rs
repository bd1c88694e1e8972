//! The deadlines of a peer: the next frame, idleness, and room in its queue.

use crate::model::ids::PeerKey;
use crate::output::ReceiveProgress;
use crate::peers::Peers;
use ipcd_proto::Header;
use ipcd_proto::Kind;
use ipcd_proto::limits;
use std::cmp::Reverse;
use std::time::Instant;

/// Entries for each peer, and more for all, before those are taken out that nobody needs.
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
        if progress.consumed > 0 || progress.waiting {
            peer.deadlines.frame = None;
        }
        let is_partial = progress.consumed < offered && !progress.waiting;
        if is_partial && peer.deadlines.frame.is_none() {
            peer.deadlines.frame = Some(now);
            self.arm(key, now + timeout);
        }
    }

    /// Whether a peer whose session is not open has sent more than opening one takes.
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
        if self.timers.0.len() > MOST_EACH * self.table.len() + MOST_MORE {
            self.forget_timers();
        }
    }

    /// Takes out the entries of peers that have gone, and those that an earlier one stands before: a
    /// peer that is looked at all the time leaves one for its idleness each time.
    fn forget_timers(&mut self) {
        let peers = &self.table;
        self.timers.0.retain(|Reverse((at, key))| {
            peers.get(*key).is_some_and(|peer| peer.deadlines.armed == Some(*at))
        });
    }

    /// When the peer is idle, or else is to be looked at again: nothing comes from it and nothing goes to
    /// it, and it does not answer a PING. It is not while we do not read it, or while something waits for
    /// it: then it is slow, which is another matter.
    pub(crate) fn idle_deadline(&mut self, now: Instant, key: PeerKey) -> Option<Instant> {
        let half = self.config.idle_timeout? / 2;
        let peer = &mut self.table[key];
        if peer.is_mute {
            return None;
        }
        if !peer.is_open() || peer.waiting || !peer.queue.is_empty() {
            return Some(now + half);
        }
        let heard = peer.deadlines.heard;
        if peer.is_raw {
            return Some(heard + 2 * half);
        }
        if peer.asked > 0 || now < heard + half {
            return Some(heard + half);
        }
        self.send(now, key, Header::new(Kind::Ping, 0), &[]);
        let peer = &mut self.table[key];
        // The outbox was empty.
        (peer.deadlines.heard, peer.asked) = (now, peer.queue.len() as u8 + 1);
        Some(now + half)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_proto::control::Origin;

    use super::*;
    use crate::model::config::{Config, DaemonInfo, PeerInfo};
    use crate::router::Router;

    fn core(now: Instant) -> Router {
        let idle_timeout = Some(Duration::from_secs(3600));
        Router::new(Config { idle_timeout, ..Config::new(DaemonInfo::unknown(now)) }, None)
    }

    fn attach(core: &mut Router, now: Instant) -> PeerKey {
        let transport = "test".into();
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid: None, gid: None, addr: None };
        let bare = Some(crate::model::config::RawPeer {
            filters: Vec::new(),
            echo: true,
            largest: None,
            speaks: true,
        });
        core.attach(now, PeerInfo { listener: 0, origin, challenge: None, bare })
    }

    #[test]
    fn peers_that_have_gone_leave_a_bounded_number_of_deadlines() {
        let mut now = Instant::now();
        let mut core = core(now);
        for _ in 0..10_000 {
            let key = attach(&mut core, now);
            // Past the handshake, the next deadline is in an hour.
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
