//! Deadlines of peers, of which most are put off long before they come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::core::Router;
use crate::ending::LINGER;
use crate::model::ids::PeerKey;
use crate::peer::SessionState;
use crate::receiving::ReceiveProgress;
use ipcd_proto::control::Code;
use ipcd_proto::{Header, Kind};

/// Entries for each peer, and more for all, before those are taken out that nobody needs.
const MOST_EACH: usize = 4;
const MOST_MORE: usize = 1024;

/// A queue of deadlines, at most a few a peer. An entry says that the peer is to be looked at, not
/// that something is due: what has been put off is found out then, and costs nothing until then.
#[derive(Debug, Default)]
pub(crate) struct PeerTimers(BinaryHeap<Reverse<(Instant, PeerKey)>>);

impl PeerTimers {
    /// Asks for the peer to be looked at; `armed` remembers its earliest entry.
    pub(crate) fn arm(&mut self, armed: &mut Option<Instant>, at: Instant, key: PeerKey) {
        if armed.is_none_or(|earlier| at < earlier) {
            *armed = Some(at);
            self.0.push(Reverse((at, key)));
        }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next peer to look at, with the time of its entry.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<(Instant, PeerKey)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}

impl Router {
    /// Ends the sessions of peers that are too late.
    pub fn tick(&mut self, now: Instant) {
        self.give_back(now);
        self.sweep(now);
        while let Some((at, key)) = self.timers.pop_due(now) {
            let Some(peer) = self.peers.get_mut(key.0 as usize) else {
                continue;
            };
            if peer.deadlines.armed == Some(at) && !matches!(peer.state, SessionState::Gone) {
                peer.deadlines.armed = None;
                self.check_deadlines(now, key);
            }
        }
    }

    /// When [`Router::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let looks = [self.timers.next(), self.trackers.next_look(), self.store.next_look()];
        looks.into_iter().flatten().min()
    }

    pub(crate) fn note_heard(
        &mut self,
        now: Instant,
        key: PeerKey,
        progress: &ReceiveProgress,
        offered: usize,
    ) {
        let timeout = self.config.frame_timeout;
        let peer = self.peer(key);
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

    /// Since when a record of the peer's transport is incomplete, which may be within a frame that has
    /// a deadline already.
    pub fn note_begun(&mut self, key: PeerKey, since: Option<Instant>, is_in_frame: bool) {
        let of_frame = self.peer(key).deadlines.frame.filter(|_| is_in_frame);
        let first = of_frame.into_iter().chain(since).min();
        self.peer(key).deadlines.frame = first;
        if let Some(since) = first {
            self.arm(key, since + self.config.frame_timeout);
        }
    }

    pub(crate) fn arm(&mut self, key: PeerKey, at: Instant) {
        let armed = &mut self.peers[key.0 as usize].deadlines.armed;
        self.timers.arm(armed, at, key);
        if self.timers.0.len() > MOST_EACH * self.peers.len() + MOST_MORE {
            self.forget_timers();
        }
    }

    /// Takes out the entries of peers that have gone, and those that an earlier one stands before: a
    /// peer that is looked at all the time leaves one for its idleness each time.
    fn forget_timers(&mut self) {
        let peers = &self.peers;
        self.timers.0.retain(|Reverse((at, key))| {
            peers.get(key.0 as usize).is_some_and(|peer| peer.deadlines.armed == Some(*at))
        });
    }

    /// When the peer is idle, or else is to be looked at again: nothing comes from it and nothing goes to
    /// it, and it does not answer a PING. It is not while we do not read it, or while something waits for
    /// it: then it is slow, which is another matter.
    fn idle_deadline(&mut self, now: Instant, key: PeerKey) -> Option<Instant> {
        let half = self.config.idle_timeout? / 2;
        let peer = self.peer(key);
        if peer.is_mute {
            return None;
        }
        if !peer.is_open() || peer.waiting || !peer.outbox.is_empty() {
            return Some(now + half);
        }
        let heard = peer.deadlines.heard;
        if peer.is_bare {
            return Some(heard + 2 * half);
        }
        if peer.asked > 0 || now < heard + half {
            return Some(heard + half);
        }
        self.send(now, key, Header::new(Kind::Ping, 0), &[]);
        let peer = self.peer(key);
        // The outbox was empty.
        (peer.deadlines.heard, peer.asked) = (now, peer.outbox.len() as u8 + 1);
        Some(now + half)
    }

    pub(crate) fn check_deadlines(&mut self, now: Instant, key: PeerKey) {
        self.check_pace(now, key);
        self.check_wait(now, key);
        let overdue = self.overdue_at(key);
        let (idle, stall) = (self.idle_deadline(now, key), self.config.stall_timeout);
        let (handshake, frame) = (self.config.handshake_timeout, self.config.frame_timeout);
        let peer = self.peer(key);
        let is_asked = peer.asked > 0 || peer.is_bare;
        let is_closing = matches!(peer.state, SessionState::Closing);
        let state = if is_closing { LINGER } else { handshake };
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let stalled = peer.outbox.oldest().map(|since| since + stall);
        let pace = peer.pace.deadline();
        let state = peer.deadlines.state.map(|since| since + state);
        let frame = peer.deadlines.frame.map(|since| since + frame);
        let deadlines = [state, frame, stalled, idle, pace, overdue];
        if peer.lingers && !peer.outbox.is_empty() {
            self.arm(key, now + LINGER);
        } else if due(state) && is_closing {
            self.drop_now(key, "it did not take what was left for it in time");
        } else if due(state) {
            self.fail(now, key, Code::TimedOut, "the handshake took too long");
        } else if due(stalled) && !is_closing {
            self.cut_off(now, key, "it did not read fast enough");
        } else if due(frame) {
            self.fail(now, key, Code::TimedOut, "a frame took too long to arrive");
        } else if due(idle) && is_asked {
            self.fail(now, key, Code::TimedOut, "nothing was heard for too long");
        } else if let Some(next) = deadlines.into_iter().flatten().filter(|at| *at > now).min() {
            self.arm(key, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_proto::control::Origin;

    use super::*;
    use crate::model::config::{Config, DaemonInfo, PeerInfo};

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
            assert!(core.timers.0.len() <= MOST_EACH + MOST_MORE);
        }
    }

    #[test]
    fn a_peer_that_is_looked_at_all_the_time_has_a_bounded_number_of_deadlines() {
        let mut now = Instant::now();
        let mut core = core(now);
        let key = attach(&mut core, now);
        for _ in 0..10_000 {
            core.arm(key, now + Duration::from_millis(20));
            now += Duration::from_millis(20);
            core.tick(now);
            assert!(core.timers.0.len() <= MOST_EACH + MOST_MORE);
        }
        assert!(core.next_deadline().is_some_and(|at| at > now), "its idleness is not forgotten");
    }
}
