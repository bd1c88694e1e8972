//! Upkeep: deadlines, deferred work, a new configuration, and the end of the router.

use crate::cluster::leaving::LeaveState;
use crate::config::Config;
use crate::directory::messages::DirectoryRequest;
use crate::model::ids::PeerKey;
use crate::output::CloseReason;
use crate::peers::peer::SessionState;
use crate::router::Router;
use crate::sessions::work::DeferredWork;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::RefusalCode;
use std::time::Instant;

impl Router {
    /// Handles all deadlines that are due.
    pub fn tick(&mut self, now: Instant) {
        self.peers_mut().release_memory(now);
        self.delivery.sessions.requests.sweep(&mut self.delivery.sessions.peers, now);
        while let Some((at, key)) = self.delivery.sessions.peers.timers.pop_due(now) {
            let Some(peer) = self.delivery.sessions.peers.table.get_mut(key) else {
                continue;
            };
            // Only the earliest entry of a peer counts. The others are left from postponed
            // deadlines.
            if peer.deadlines.armed == Some(at) && !matches!(peer.state, SessionState::Gone) {
                peer.deadlines.armed = None;
                self.sessions_mut().check_deadlines(now, key);
            }
        }
    }

    /// Returns the time when [`Router::tick`] has to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let looks = [
            self.delivery.sessions.peers.timers.next(),
            self.delivery.sessions.requests.next_look(),
            self.delivery.sessions.peers.pool.next_look(),
        ];
        looks.into_iter().flatten().min()
    }

    /// Whether work was deferred, so that [`Router::run_deferred`] has to be called at once.
    pub fn has_deferred(&self) -> bool {
        self.sessions().has_deferred()
    }

    /// Returns the peer whose deferred work is next, if it is a peer of this router.
    pub fn next_deferred(&self) -> Option<PeerKey> {
        let (key, id) = match self.delivery.sessions.work.queue.front()? {
            DeferredWork::Publisher(key, id) => (*key, *id),
            DeferredWork::FanOut(fan_out) => fan_out.sender()?,
            DeferredWork::Inbound | DeferredWork::Query(_) | DeferredWork::Leaving { .. } => {
                return None;
            }
        };
        self.delivery
            .sessions
            .peers
            .table
            .get(key)
            .filter(|peer| peer.origin.peer == id)
            .map(|_| key)
    }

    /// Does a slice of the first deferred work. The rest of it goes to the end of the queue. The
    /// caller calls this once a turn, after all other work.
    pub fn run_deferred(&mut self, now: Instant) {
        self.delivery.sessions.work.budget.grant(self.peers().config.slice);
        match self.delivery.sessions.work.queue.pop_front() {
            // The peer uses its steps when the worker offers its bytes again.
            Some(DeferredWork::Publisher(key, id)) => self.sessions_mut().resume_deferred(key, id),
            Some(DeferredWork::FanOut(fan_out)) => self.delivery.continue_fan_out(now, fan_out),
            Some(DeferredWork::Inbound) => self.delivery.continue_inbound(now),
            Some(DeferredWork::Query(query_job)) => self.continue_query(now, query_job),
            Some(DeferredWork::Leaving { key, leaving, was_full }) => {
                self.sessions_mut().continue_leaving(key, leaving, was_full);
            }
            None => {}
        }
    }

    /// Does all deferred work, because no later turn will come.
    pub(crate) fn finish_deferred(&mut self, now: Instant) {
        while self.has_deferred() {
            self.run_deferred(now);
        }
    }

    /// Changes the configuration. The next decision uses the new one.
    pub fn configure(&mut self, now: Instant, change: impl FnOnce(&mut Config)) {
        let before = self.peers().config.clone();
        change(&mut self.delivery.sessions.peers.config);
        if self.peers().config.tokens != before.tokens {
            self.sessions_mut().revoke(now, &before.tokens);
        }
        if self.delivery.sessions.peers.config.acl != before.acl {
            self.sessions_mut().recheck_rights(now, &before.acl);
        }
        if self.peers().config.prefixes != before.prefixes {
            self.peers_mut().move_quotas();
        }
        for key in self.peers().keys() {
            self.peers_mut().renew_largest(key);
            self.peers_mut().renew_fullness(key);
            // A shorter time-out may be due already, or move a timer forward.
            self.sessions_mut().check_deadlines(now, key);
        }
    }

    /// Stops asking for other workers, because the daemon ends and gives no more answers. Messages
    /// that could only go to an unknown worker have no receiver.
    pub fn stop_meeting(&mut self) {
        self.delivery.sessions.peers.cluster.is_ending = true;
        self.delivery.note_met();
    }

    /// Ends all sessions because the daemon ends. Peers may take their remaining bytes until the
    /// daemon has ended.
    pub fn drain(&mut self, now: Instant) {
        // No later turn comes, and accepted messages must still be delivered.
        self.finish_deferred(now);
        for key in self.peers().keys() {
            self.sessions_mut().fail(now, key, RefusalCode::Ending, "the daemon is ending");
            self.delivery.sessions.peers.table[key].lingers = true;
        }
    }

    /// Ends a peer's session for a reason of the daemon. The peer gets its remaining bytes.
    pub fn dismiss(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.sessions_mut().fail(now, key, RefusalCode::Ending, why);
    }

    /// Disconnects a peer in favour of another. With `may_prove`, a peer that has proved its token
    /// in the meantime stays.
    pub fn displace(&mut self, now: Instant, key: PeerKey, why: &str, may_prove: bool) {
        if !may_prove {
            self.sessions_mut().disconnect(now, key, RefusalCode::Limit, CloseReason::new(why));
        } else if !self.delivery.sessions.peers.table[key].is_open() {
            self.sessions_mut().fail(now, key, RefusalCode::Limit, why);
        }
    }

    /// Ends the session of a peer that epoll_ctl(2) could not watch.
    pub fn leave_unwatched(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.delivery.sessions.peers.counters.unwatched += 1;
        self.sessions_mut().fail(now, key, RefusalCode::Limit, why);
    }

    /// Prepares a router without peers for its end; the caller repeats the call after each turn.
    /// Returns true when all frames for this router have arrived and all outcomes are reported.
    /// Frames that are left then have to be sent ([`Router::is_forwarded`]).
    pub fn leave(&mut self, now: Instant) -> bool {
        debug_assert_eq!(self.peer_count(), 0, "peers are still to be served");
        let has_work = self.sessions().has_deferred();
        let cluster = &mut self.delivery.sessions.peers.cluster;
        if cluster.is_alone() {
            return !has_work;
        }
        match &cluster.leave {
            LeaveState::No => {
                cluster.leave = LeaveState::Announced;
                cluster.tell_directory(DirectoryRequest::Leaving);
                false
            }
            // The directory has not sent this worker its own announcement back yet.
            LeaveState::Announced => false,
            LeaveState::Known(waits) if has_work || !waits.is_empty() => false,
            LeaveState::Known(_) => self.settle_passed_on(now),
        }
    }

    /// Concludes the messages that this router has passed on, within a bounded time. Receipts take
    /// at most as long as a receiver may stall. Requests are handed back, because their publishers
    /// may wait much longer.
    fn settle_passed_on(&mut self, now: Instant) -> bool {
        self.delivery.sessions.requests.hand_back_requests(&mut self.delivery.sessions.peers, now);
        if self.delivery.sessions.requests.is_empty() {
            return true;
        }
        // A receiver may stall for one time-out, and its worker has to notice and report that.
        let patience = 2 * self.peers().config.stall_timeout;
        let by = *self.delivery.sessions.requests.leave_by.get_or_insert(now + patience);
        if by <= now {
            self.delivery.sessions.requests.give_up_copies(
                &mut self.delivery.sessions.peers,
                now,
                DropReason::WorkerDied,
            );
        }
        self.delivery.sessions.requests.is_empty()
    }

    /// Returns the bytes of buffers that were given back to the allocator since the last call.
    pub fn take_released(&mut self) -> usize {
        self.delivery.sessions.peers.pool.take_released()
    }
}
