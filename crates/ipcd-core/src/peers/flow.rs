//! Flow control: publishers wait for subscribers that cannot take more, and continue when they can.
//!
//! Once a subscriber can take more, the publisher that has waited longest without progress
//! continues first. One message waits at most `stall_timeout` in all, no matter how many receivers
//! are full one after the other: then it goes to all of them.

use crate::config::Config;
use crate::model::ids::{PeerKey, is_generation, place_of};
use crate::model::waiting::WaitState;
use crate::output::{Output, ReceiveProgress};
use crate::peers::Peers;
use crate::peers::pacing::{PATIENCE, most_paced};
use crate::peers::peer::{MAX_OUTSTANDING, Peer};
use crate::routing::index::LocalSubscriber;
use ipcd_proto::DirectAddress;
use ipcd_proto::FrameKind;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::limits::largest_frame;
use std::time::Instant;

/// Open questions of a peer. The router does not read the peer beyond the next question.
const MAX_OPEN_QUERIES: u8 = 4;

impl Peer {
    /// Begins to pace publishers, if the peer reads and has enough in its send queue. Returns the
    /// time of the first check then.
    pub(crate) fn begin_pacing(&mut self, now: Instant, config: &Config) -> Option<Instant> {
        let paces = self.pace.flows
            && !self.pace.holds()
            // Beyond the upper bound other workers have filled the queue, and they are not paced.
            && self.queue.len() >= config.pace
            && self.queue.len() <= most_paced(config);
        paces.then(|| {
            let until = now + PATIENCE;
            self.pace.held = Some((until, self.queue.written()));
            until
        })
    }
}

impl Peers {
    /// Notes that the peer has taken bytes. Publishers continue once half of the pace is left: with
    /// a lower threshold than the one for waiting, they do not wake for every write.
    pub(crate) fn note_progress(&mut self, key: PeerKey) {
        let (pace, peer) = (self.config.pace, &mut self.table[key]);
        peer.pace.flows = true;
        if peer.pace.holds() && peer.queue.len() <= pace / 2 {
            peer.pace.held = None;
            self.resume_waiters(key);
        }
    }

    /// Ends pacing if the peer has taken nothing in the meantime, or continues it.
    pub(crate) fn check_pace(&mut self, now: Instant, key: PeerKey) {
        let peer = &mut self.table[key];
        let Some((_, before)) = peer.pace.held.filter(|(until, _)| *until <= now) else { return };
        let written = peer.queue.written();
        peer.pace.flows = written > before;
        if peer.pace.flows && peer.queue.len() <= most_paced(&self.config) {
            peer.pace.held = Some((now + PATIENCE, written));
        } else {
            peer.pace.held = None;
            self.resume_waiters(key);
        }
    }

    /// Stops reading a peer until the send queue of another has room.
    pub(crate) fn wait_for(&mut self, key: PeerKey, full: PeerKey) {
        self.table[full].waiters.push(key);
        self.table[key].waiting = true;
    }

    pub(crate) fn resume_waiters(&mut self, key: PeerKey) {
        let waiters = std::mem::take(&mut self.table[key].waiters);
        self.resume(waiters);
    }

    /// Lets waiting publishers continue, the one that has waited longest first.
    pub(crate) fn resume(&mut self, mut waiters: Vec<PeerKey>) {
        if waiters.len() > 1 {
            let peers = &self.table;
            // The worker reads them in this order, and the first may fill the queue again.
            waiters.sort_by_key(|key| peers.get(*key).and_then(|peer| peer.wait.since()));
        }
        for waiter in waiters {
            if let Some(peer) = self.table.get_mut(waiter)
                && std::mem::take(&mut peer.waiting)
            {
                self.outputs.push_back(Output::Resume(waiter));
            }
        }
    }

    /// Updates the waiting state of a peer after its bytes were offered. Any progress restarts the
    /// time of waiting.
    pub(crate) fn note_wait(&mut self, now: Instant, key: PeerKey, progress: &ReceiveProgress) {
        let stall = self.config.stall_timeout;
        let peer = &mut self.table[key];
        let before = peer.wait.since().filter(|_| progress.consumed == 0);
        peer.wait = match progress.waiting {
            true => WaitState::Since(before.unwrap_or(now)),
            false => WaitState::No,
        };
        if let Some(since) = peer.wait.since() {
            self.arm(key, since + stall);
        }
    }

    /// Returns the time when a peer's next message has waited as long as allowed.
    pub(crate) fn overdue_at(&self, key: PeerKey) -> Option<Instant> {
        let peer = &self.table[key];
        let since = peer.wait.since().filter(|_| peer.waiting && peer.is_open())?;
        Some(since + self.config.stall_timeout)
    }

    /// Lets the next message through, if it has waited as long as allowed.
    pub(crate) fn check_wait(&mut self, now: Instant, key: PeerKey) {
        if self.overdue_at(key).is_some_and(|at| at <= now) {
            self.table[key].wait = WaitState::Overdue;
            self.resume(vec![key]);
        }
    }

    /// A peer that does not take its answers must not ask for more.
    pub(crate) fn waits_for_itself(&mut self, key: PeerKey) -> bool {
        let is_full = self.table[key].full;
        if is_full {
            self.wait_for(key, key);
        }
        is_full
    }

    /// A peer with enough open questions must not ask more: a question is work for all workers, and
    /// for the directory.
    pub(crate) fn waits_for_answers(&mut self, key: PeerKey, kind: FrameKind) -> bool {
        let waits = kind == FrameKind::Query && self.table[key].questions >= MAX_OPEN_QUERIES;
        if waits {
            self.wait_for(key, key);
        }
        waits
    }

    /// A peer is not read while too many outcomes of its messages are open.
    pub(crate) fn waits_for_outcomes(&mut self, key: PeerKey) -> bool {
        // The outcomes arrive through the peer's own send queue.
        if self.waits_for_itself(key) {
            return true;
        }
        let (most, peer) = (self.config.max_pending_per_principal, &mut self.table[key]);
        if peer.outstanding() >= MAX_OUTSTANDING {
            self.wait_for(key, key);
            return true;
        }
        // The outcomes may depend on requests of this very peer, so it does not wait for ever.
        let waits = peer.quota.pending() >= most && !peer.wait.is_overdue();
        if waits {
            peer.quota.add_waiter(key);
            peer.waiting = true;
        }
        waits
    }

    /// Stops reading a peer until other workers can take more.
    pub(crate) fn wait_for_others(&mut self, key: PeerKey) {
        self.cluster.waiters.push(key);
        self.table[key].waiting = true;
    }

    /// Lets the publishers continue that wait for other workers.
    pub(crate) fn resume_all(&mut self) {
        let waiters = self.cluster.waiters.take();
        self.resume(waiters);
    }

    /// Makes the publisher wait if too many bytes are in flight to the receiver's worker. That
    /// worker always takes such a message, so that this only bounds memory, and passes soon.
    pub(crate) fn must_wait_for_way(&mut self, publisher: PeerKey, to: DirectAddress) -> bool {
        let (slot, in_id) = place_of(to.peer);
        let is_here = self.is_here(to.peer);
        let cluster = &mut self.cluster;
        let generation = cluster.directory.interests.generation(slot);
        if !is_here && is_generation(generation, in_id) && !cluster.knows(slot, generation) {
            cluster.meet(slot);
            self.wait_for_others(publisher);
            return true;
        }
        let waits = !is_here
            && cluster.is_alive(slot)
            // A leaving worker gets no more messages, so there is nothing to wait for.
            && !cluster.directory.is_leaving(slot)
            && !cluster.has_room(slot);
        if waits {
            self.wait_for_others(publisher);
        }
        waits
    }

    /// Returns a receiver that the publisher has to wait for.
    pub(crate) fn full_member(
        &self,
        publisher: PeerKey,
        members: &[LocalSubscriber],
    ) -> Option<PeerKey> {
        let blocks = |member: &&LocalSubscriber| {
            let peer = &self.table[member.peer];
            // Other overflows never make a publisher wait.
            member.overflow == OverflowPolicy::Block
                && (peer.full || peer.pace.holds())
                && self.hears(Some(publisher), member)
        };
        members.iter().find(blocks).map(|member| member.peer)
    }

    /// Tells the other workers that a peer's send queue is full, or is not any more.
    pub(crate) fn tell_flow(&mut self, key: PeerKey, full: bool) {
        if self.cluster.is_alone() {
            return;
        }
        let subscriptions = self.table[key].subscriptions.iter();
        for subscription in subscriptions.filter(|subscription| subscription.blocks()) {
            self.cluster.set_full(&subscription.interest(), full);
        }
    }

    /// Notes that a subscription does not block publishers any more.
    pub(crate) fn unblock(&mut self, key: PeerKey, at: usize) {
        let peer = &self.table[key];
        if peer.full {
            self.cluster.set_full(&peer.subscriptions[at].interest(), false);
        }
    }

    /// Whether a peer has more queued than other workers can have had in flight when the queue
    /// became full. Then one of them is compromised, and ignores the flow state.
    pub(crate) fn is_flooded(&self, key: PeerKey) -> bool {
        let peer = &self.table[key];
        let in_flight = self.cluster.in_flight(largest_frame(self.config.max_payload));
        let most = in_flight.saturating_mul(peer.subscriptions.len().max(1));
        peer.queue.len() > self.config.queue_limit.saturating_add(most)
    }
}
