//! Upkeep: deadlines, deferred work, another configuration, the end.

use crate::cluster::leaving::LeaveState;
use crate::directory::messages::DirectoryRequest;
use crate::model::config::Config;
use crate::model::ids::PeerKey;
use crate::peers::peer::SessionState;
use crate::router::Router;
use crate::sessions::work::DeferredWork;
use ipcd_proto::control::Code;
use ipcd_proto::control::Reason;
use std::time::Instant;

impl Router {
    /// Ends the sessions of peers that are too late.
    pub fn tick(&mut self, now: Instant) {
        self.peers_mut().release_memory(now);
        self.delivery.sessions.requests.sweep(&mut self.delivery.sessions.peers, now);
        while let Some((at, key)) = self.delivery.sessions.peers.timers.pop_due(now) {
            let Some(peer) = self.delivery.sessions.peers.table.get_mut(key) else {
                continue;
            };
            if peer.deadlines.armed == Some(at) && !matches!(peer.state, SessionState::Gone) {
                peer.deadlines.armed = None;
                self.sessions_mut().check_deadlines(now, key);
            }
        }
    }

    /// When [`Router::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let looks = [
            self.delivery.sessions.peers.timers.next(),
            self.delivery.sessions.requests.next_look(),
            self.delivery.sessions.peers.pool.next_look(),
        ];
        looks.into_iter().flatten().min()
    }

    /// Whether work was put off: [`Router::run_deferred`] has something to do at once.
    pub fn has_deferred(&self) -> bool {
        self.sessions().has_deferred()
    }

    /// Whose work goes on next, if it is one of ours.
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

    /// Does a slice of what was put off first; what is left of it goes to the end of the queue. To be
    /// called once a turn, when all else is done.
    pub fn run_deferred(&mut self, now: Instant) {
        self.delivery.sessions.work.budget.grant(self.peers().config.slice);
        match self.delivery.sessions.work.queue.pop_front() {
            // It takes its steps when it is resumed.
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

    /// Does all that was put off: there will be no later turn.
    pub(crate) fn finish_deferred(&mut self, now: Instant) {
        while self.has_deferred() {
            self.run_deferred(now);
        }
    }

    /// Changes the configuration while the router runs; what it is about to do is done by the new.
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
            // What has been due since earlier than now is found out, and what is due later is noted.
            self.sessions_mut().check_deadlines(now, key);
        }
    }

    /// Says goodbye to everybody: what is in the outboxes is written, then the peers are closed.
    /// They have as long for it as the daemon has, which ends it otherwise.
    pub fn drain(&mut self, now: Instant) {
        self.finish_deferred(now);
        for key in self.peers().keys() {
            self.sessions_mut().fail(now, key, Code::Ending, "the daemon is ending");
            self.delivery.sessions.peers.table[key].lingers = true;
        }
    }

    /// Ends a peer's session, as somebody who is no peer wants it. It gets what is left for it.
    pub fn dismiss(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.sessions_mut().fail(now, key, Code::Ending, why);
    }

    /// Ends a session for the sake of another. One that may still prove its token stays if it has.
    pub fn displace(&mut self, now: Instant, key: PeerKey, why: &str, may_prove: bool) {
        if !may_prove {
            self.sessions_mut().disconnect(now, key, Code::Limit, why);
        } else if !self.delivery.sessions.peers.table[key].is_open() {
            self.sessions_mut().fail(now, key, Code::Limit, why);
        }
    }

    /// Ends the session of a peer that the kernel cannot wait for.
    pub fn leave_unwatched(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.delivery.sessions.peers.counters.unwatched += 1;
        self.sessions_mut().fail(now, key, Code::Limit, why);
    }

    /// Makes a router without peers ready for its end, which is to be asked again after each turn:
    /// whether everything for it has come, and what others wait for is told. What is left then is to
    /// be sent ([`Router::is_forwarded`]).
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
            LeaveState::Announced => false,
            LeaveState::Known(waits) if has_work || !waits.is_empty() => false,
            LeaveState::Known(_) => self.settle_passed_on(now),
        }
    }

    /// What this router has passed on it cannot wait for without end. Receipts are told within the
    /// time that a receiver may stall; a request may be answered as long as its publisher waits.
    fn settle_passed_on(&mut self, now: Instant) -> bool {
        self.delivery.sessions.requests.hand_back_requests(&mut self.delivery.sessions.peers, now);
        if self.delivery.sessions.requests.is_empty() {
            return true;
        }
        let patience = 2 * self.peers().config.stall_timeout;
        let by = *self.delivery.sessions.requests.leave_by.get_or_insert(now + patience);
        if by <= now {
            self.delivery.sessions.requests.give_up_copies(
                &mut self.delivery.sessions.peers,
                now,
                Reason::WorkerDied,
            );
        }
        self.delivery.sessions.requests.is_empty()
    }

    /// How many bytes were given back to the allocator since this was last asked, in buffers. It is
    /// looked now and then; in between there are none.
    pub fn take_released(&mut self) -> usize {
        self.delivery.sessions.peers.pool.take_released()
    }
}
