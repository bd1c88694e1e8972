//! The end of a session: by an error, by BYE, because a peer does not read, or because the daemon
//! ends.

use crate::model::ids::PeerKey;
use crate::output::{CloseReason, Output};
use crate::peers::peer::{Peer, SessionState};
use crate::queue::send_queue::drops::DropReport;
use crate::requests::DeliveryOutcome;
use crate::sessions::Sessions;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::control::Refusal;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::encode;
use std::time::Duration;
use std::time::Instant;

/// Time in which a peer whose session has ended may take its remaining bytes.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

impl Sessions {
    /// Ends a session with an ERROR frame, which carries the reason.
    pub(crate) fn fail(
        &mut self,
        now: Instant,
        key: PeerKey,
        code: RefusalCode,
        why: impl Into<String>,
    ) {
        self.fail_for(now, key, code, CloseReason::new(why));
    }

    fn fail_for(&mut self, now: Instant, key: PeerKey, code: RefusalCode, reason: CloseReason) {
        // The peer gets the first reason only.
        if matches!(self.peers.table[key].state, SessionState::Closing) {
            return;
        }
        let body = encode(&Refusal { code, message: reason.why.clone() });
        self.peers.send(now, key, Header::new(FrameKind::Error, 0), &body);
        self.close(now, key, reason);
    }

    /// Ends a session without an error.
    pub(crate) fn close(&mut self, now: Instant, key: PeerKey, reason: CloseReason) {
        // First, because nothing is queued any more in the state `Closing`.
        self.peers.send(now, key, Header::new(FrameKind::Bye, 0), &[]);
        self.forget_subscriptions(key);
        self.peers.resume_waiters(key);
        self.requests.forget_tracked(&mut self.peers, now, key, DropReason::Departed);
        let peer = &mut self.peers.table[key];
        peer.state = SessionState::Closing;
        peer.deadlines.state = Some(now);
        self.peers.arm(key, now + LINGER);
        self.peers.outputs.push_back(Output::Close(key, reason));
    }

    /// Ends the session of a peer that does not read. Its queued messages are dropped, so that the
    /// reason is the next that it reads.
    pub(crate) fn disconnect_slow(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.disconnect(now, key, RefusalCode::TooSlow, CloseReason::new(why));
    }

    /// The same for a peer that others have waited for as long as they have to. Its principal may
    /// have to pay for that.
    pub(crate) fn disconnect_stalled(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.disconnect(now, key, RefusalCode::TooSlow, CloseReason::stalled(why));
    }

    /// Ends the session of a peer on an administrator's request.
    pub(crate) fn kick_out(&mut self, now: Instant, key: PeerKey) {
        let why = CloseReason::new("the peer was kicked by an administrator");
        self.disconnect(now, key, RefusalCode::Kicked, why);
    }

    pub(crate) fn disconnect(
        &mut self,
        now: Instant,
        key: PeerKey,
        code: RefusalCode,
        reason: CloseReason,
    ) {
        if matches!(self.peers.table[key].state, SessionState::Closing) {
            return;
        }
        self.peers.counters.disconnect_slow += 1;
        // Before the ERROR frame is queued: it must not stand behind megabytes that the peer does
        // not read.
        self.drop_queued(now, key, DropReason::CutOff);
        self.requests.forget_tracked(&mut self.peers, now, key, DropReason::CutOff);
        self.fail_for(now, key, code, reason);
    }

    /// Drops the queued frames of a peer, except a frame that is partly written.
    pub(crate) fn drop_queued(&mut self, now: Instant, key: PeerKey, reason: DropReason) {
        let shed = self.peers.table[key].queue.purge(&mut self.peers.pool);
        self.peers.table[key].counts.shed(shed.messages + shed.direct);
        self.peers.update_quota(key);
        self.peers.counters.dropped.count(reason, shed.messages);
        self.peers.counters.direct_dropped += shed.direct;
        self.conclude_dropped(now, key, &shed, reason);
    }

    /// Drops everything in a peer's send queue, because the peer is leaving.
    pub(crate) fn drop_all(&mut self, now: Instant, key: PeerKey, reason: DropReason) {
        self.drop_queued(now, key, reason);
        let (begun, direct) = self.peers.table[key].queue.messages(&self.peers.pool);
        self.peers.counters.dropped.count(reason, begun);
        self.peers.counters.direct_dropped += direct;
        // The frame that is partly written may be awaited, too.
        while let Some(ticket) = self.peers.table[key].queue.take_awaited() {
            self.conclude(now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    /// Drops everything in a peer's send queue, in which no frame is partly written, because the
    /// peer has no reader.
    pub(crate) fn drop_unread(&mut self, now: Instant, key: PeerKey) {
        let peer = &mut self.peers.table[key];
        // The adapter of the peer's codec has discarded its bytes, so nothing is half written any
        // more.
        peer.queue.pin(0);
        let counts = peer.queue.messages_by_subscription(&self.peers.pool);
        for subscription in &mut peer.subscriptions {
            if let Some(count) = counts.get(&subscription.number) {
                subscription.drops.get_or_insert_default().count(DropReason::NoReader, *count);
            }
        }
        let shed = peer.queue.purge(&mut self.peers.pool);
        peer.counts.shed(shed.messages + shed.direct);
        self.peers.counters.dropped.count(DropReason::NoReader, shed.messages);
        self.peers.counters.direct_dropped += shed.direct;
        self.conclude_dropped(now, key, &shed, DropReason::NoReader);
    }

    /// Drops the oldest messages of subscriptions with `drop-oldest`, until the queue is half full.
    /// With a smaller amount it would be repeated for each message.
    pub(crate) fn shed(&mut self, now: Instant, key: PeerKey) {
        let mut half = self.peers.config.queue_limit / 2;
        // A principal above its quota has to give bytes back, even if this queue is short.
        if self.peers.is_over_quota(key) {
            half = half.min(self.peers.table[key].queue.len() / 2);
        }
        let Peer { queue, subscriptions, .. } = &mut self.peers.table[key];
        // Shedding walks over the whole queue, so that it must free much each time.
        if !queue.is_worth_shedding(0) {
            return;
        }
        let shed = queue.shed(half, &mut self.peers.pool, |number| {
            let known = subscriptions.binary_search_by_key(&number, |known| known.number);
            known.is_ok_and(|at| subscriptions[at].overflow == OverflowPolicy::DropOldest)
        });
        // Each message is looked at twice, which takes a step.
        self.work.budget.spend(shed.looked_at);
        self.peers.update_quota(key);
        // Subscriptions that block may keep the queue full.
        let is_full = self.peers.table[key].queue.len() > half;
        self.peers.set_full(key, is_full);
        if !is_full {
            // They may wait for a subscription of this peer that blocks.
            self.peers.resume_waiters(key);
        }
        for (number, dropped) in &shed.by_subscription {
            // `note_dropped` counts messages that were never queued; these were, so they are
            // subtracted.
            let counts = &mut self.peers.table[key].counts;
            counts.msgs_out = counts.msgs_out.saturating_sub(*dropped);
            self.peers.note_dropped(key, *number, DropReason::Oldest, *dropped);
        }
        self.conclude_dropped(now, key, &shed, DropReason::Oldest);
    }

    /// Reports drops to publishers that wait for the outcome.
    pub(crate) fn conclude_dropped(
        &mut self,
        now: Instant,
        key: PeerKey,
        shed: &DropReport,
        why: DropReason,
    ) {
        for ticket in &shed.receipts {
            self.conclude(now, *ticket, DeliveryOutcome::Dropped(why));
        }
        for request in &shed.requests {
            self.requests.note_last_answer(
                &mut self.peers,
                now,
                key,
                *request,
                DeliveryOutcome::Dropped(why),
            );
        }
    }

    /// Handles the deadlines of a peer that are due, or arms the timer for the next.
    pub(crate) fn check_deadlines(&mut self, now: Instant, key: PeerKey) {
        self.peers.check_pace(now, key);
        self.peers.check_wait(now, key);
        let overdue = self.peers.overdue_at(key);
        let (idle, stall) = (self.peers.idle_deadline(now, key), self.peers.config.stall_timeout);
        let (handshake, frame) =
            (self.peers.config.handshake_timeout, self.peers.config.frame_timeout);
        let peer = &mut self.peers.table[key];
        // A raw peer cannot be sent a PING, so that its silence alone counts.
        let was_asked = peer.asked > 0 || peer.is_raw;
        let is_closing = matches!(peer.state, SessionState::Closing);
        let state = if is_closing { LINGER } else { handshake };
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let stalled = peer.stalls_at(stall);
        let is_soon_cut_off = peer.is_soon_cut_off();
        let pace = peer.pace.deadline();
        let state = peer.deadlines.state.map(|since| since + state);
        let frame = peer.deadlines.frame.map(|since| since + frame);
        let deadlines = [state, frame, stalled, idle, pace, overdue];
        // The daemon is ending, and gives its peers as long as it lives itself.
        if peer.lingers && !peer.queue.is_empty() {
            self.peers.arm(key, now + LINGER);
        } else if due(state) && is_closing {
            self.drop_now(key, "the peer did not take its remaining bytes in time");
        } else if due(state) {
            self.fail(now, key, RefusalCode::TimedOut, "the handshake took too long");
        // A closing peer has a deadline of its own for the rest, which was handled above.
        } else if due(stalled) && !is_closing && is_soon_cut_off {
            self.disconnect_slow(now, key, "the peer does not read as fast as others publish");
        } else if due(stalled) && !is_closing {
            self.disconnect_stalled(now, key, "the peer did not read fast enough");
        } else if due(frame) {
            self.fail(now, key, RefusalCode::TimedOut, "a frame took too long to arrive");
        } else if due(idle) && was_asked {
            self.fail(now, key, RefusalCode::TimedOut, "the peer was silent for too long");
        } else if let Some(next) = deadlines.into_iter().flatten().filter(|at| *at > now).min() {
            self.peers.arm(key, next);
        }
    }

    pub(crate) fn drop_now(&mut self, key: PeerKey, why: impl Into<String>) {
        self.peers.outputs.push_back(Output::Drop(key, why.into()));
    }
}
