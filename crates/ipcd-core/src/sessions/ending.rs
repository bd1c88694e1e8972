//! The end of a session: an error, a goodbye, a peer that does not read, the end of the daemon.

use crate::model::ids::PeerKey;
use crate::output::Output;
use crate::peers::peer::{Peer, SessionState};
use crate::queue::send_queue::drops::DropReport;
use crate::requests::DeliveryOutcome;
use crate::sessions::Sessions;
use ipcd_proto::Header;
use ipcd_proto::Kind;
use ipcd_proto::control::Code;
use ipcd_proto::control::Overflow;
use ipcd_proto::control::Reason;
use ipcd_proto::control::Refusal;
use ipcd_proto::control::encode;
use std::time::Duration;
use std::time::Instant;

/// How long a peer that is cut off, or says goodbye, has to take what is left for it.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Messages of a full outbox that are looked at in a step.
const SHED_IN_STEP: usize = 8;

impl Sessions {
    /// Ends a session: an ERROR frame, then the end.
    pub(crate) fn fail(&mut self, now: Instant, key: PeerKey, code: Code, why: impl Into<String>) {
        if matches!(self.peers.table[key].state, SessionState::Closing) {
            return;
        }
        let message = why.into();
        let body = encode(&Refusal { code, message: message.clone() });
        self.peers.send(now, key, Header::new(Kind::Error, 0), &body);
        self.close(now, key, message);
    }

    /// Ends a session without an error.
    pub(crate) fn close(&mut self, now: Instant, key: PeerKey, why: String) {
        self.peers.send(now, key, Header::new(Kind::Bye, 0), &[]);
        self.forget_subscriptions(key);
        self.peers.resume_waiters(key);
        self.requests.forget_tracked(&mut self.peers, now, key, Reason::Departed);
        let peer = &mut self.peers.table[key];
        peer.state = SessionState::Closing;
        peer.deadlines.state = Some(now);
        self.peers.arm(key, now + LINGER);
        self.peers.outputs.push_back(Output::Close(key, why));
    }

    /// Ends the session of a peer that does not read. What waits for it is dropped, so that it is
    /// told why as soon as it reads again.
    pub(crate) fn disconnect_slow(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.disconnect(now, key, Code::TooSlow, why);
    }

    /// Ends the session of a peer that somebody wants gone.
    pub(crate) fn kick_out(&mut self, now: Instant, key: PeerKey) {
        self.disconnect(now, key, Code::Kicked, "it was kicked");
    }

    pub(crate) fn disconnect(&mut self, now: Instant, key: PeerKey, code: Code, why: &str) {
        if matches!(self.peers.table[key].state, SessionState::Closing) {
            return;
        }
        self.peers.counters.disconnect_slow += 1;
        self.drop_queued(now, key, Reason::CutOff);
        self.requests.forget_tracked(&mut self.peers, now, key, Reason::CutOff);
        self.fail(now, key, code, why);
    }

    /// Drops what waits in a peer's outbox, except for the frame that has been begun.
    pub(crate) fn drop_queued(&mut self, now: Instant, key: PeerKey, reason: Reason) {
        let shed = self.peers.table[key].queue.purge(&mut self.peers.pool);
        self.peers.table[key].counts.shed(shed.messages + shed.direct);
        self.peers.update_charge(key);
        self.peers.counters.dropped.count(reason, shed.messages);
        self.peers.counters.direct_dropped += shed.direct;
        self.conclude_dropped(now, key, &shed, reason);
    }

    /// Drops all that is left in a peer's outbox.
    pub(crate) fn drop_all(&mut self, now: Instant, key: PeerKey, reason: Reason) {
        self.drop_queued(now, key, reason);
        let (begun, direct) = self.peers.table[key].queue.messages(&self.peers.pool);
        self.peers.counters.dropped.count(reason, begun);
        self.peers.counters.direct_dropped += direct;
        while let Some(ticket) = self.peers.table[key].queue.take_awaited() {
            self.conclude(now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    /// Drops all that is in a peer's outbox, of which no frame is begun, because nobody is there.
    pub(crate) fn drop_unread(&mut self, now: Instant, key: PeerKey) {
        let peer = &mut self.peers.table[key];
        peer.queue.pin(0);
        let counts = peer.queue.messages_by_subscription(&self.peers.pool);
        for subscription in &mut peer.subscriptions {
            if let Some(count) = counts.get(&subscription.number) {
                subscription.drops.get_or_insert_default().count(Reason::NoReader, *count);
            }
        }
        let shed = peer.queue.purge(&mut self.peers.pool);
        peer.counts.shed(shed.messages + shed.direct);
        self.peers.counters.dropped.count(Reason::NoReader, shed.messages);
        self.peers.counters.direct_dropped += shed.direct;
        self.conclude_dropped(now, key, &shed, Reason::NoReader);
    }

    /// Drops the oldest messages of the subscriptions that want it so, down to half an outbox, so
    /// that it is not done again for each message.
    pub(crate) fn shed(&mut self, now: Instant, key: PeerKey) {
        let mut half = self.peers.config.outbox / 2;
        if self.peers.is_overcharged(key) {
            half = half.min(self.peers.table[key].queue.len() / 2);
        }
        let Peer { queue, subscriptions, .. } = &mut self.peers.table[key];
        if !queue.is_worth_shedding() {
            return;
        }
        let shed = queue.shed(half, &mut self.peers.pool, |number| {
            let known = subscriptions.binary_search_by_key(&number, |known| known.number);
            known.is_ok_and(|at| subscriptions[at].overflow == Overflow::DropOldest)
        });
        self.work.budget.spend(shed.looked_at / SHED_IN_STEP);
        self.peers.update_charge(key);
        let is_full = self.peers.table[key].queue.len() > half;
        self.peers.set_full(key, is_full);
        if !is_full {
            // They may wait for another subscription of this peer's, which blocks.
            self.peers.resume_waiters(key);
        }
        for (number, dropped) in &shed.by_subscription {
            // They are noted as dropped as those are that never came into the outbox.
            let counts = &mut self.peers.table[key].counts;
            counts.msgs_out = counts.msgs_out.saturating_sub(*dropped);
            self.peers.note_dropped(key, *number, Reason::Oldest, *dropped);
        }
        self.conclude_dropped(now, key, &shed, Reason::Oldest);
    }

    /// The publishers of what was dropped of an outbox are told, if they want to know.
    pub(crate) fn conclude_dropped(
        &mut self,
        now: Instant,
        key: PeerKey,
        shed: &DropReport,
        why: Reason,
    ) {
        for ticket in &shed.receipts {
            self.conclude(now, *ticket, DeliveryOutcome::Dropped(why));
        }
        for request in &shed.requests {
            self.requests.has_answered(
                &mut self.peers,
                now,
                key,
                *request,
                DeliveryOutcome::Dropped(why),
            );
        }
    }

    pub(crate) fn check_deadlines(&mut self, now: Instant, key: PeerKey) {
        self.peers.check_pace(now, key);
        self.peers.check_wait(now, key);
        let overdue = self.peers.overdue_at(key);
        let (idle, stall) = (self.peers.idle_deadline(now, key), self.peers.config.stall_timeout);
        let (handshake, frame) =
            (self.peers.config.handshake_timeout, self.peers.config.frame_timeout);
        let peer = &mut self.peers.table[key];
        let note_request = peer.asked > 0 || peer.is_raw;
        let is_closing = matches!(peer.state, SessionState::Closing);
        let state = if is_closing { LINGER } else { handshake };
        let due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let stalled = peer.queue.oldest().map(|since| since + stall);
        let pace = peer.pace.deadline();
        let state = peer.deadlines.state.map(|since| since + state);
        let frame = peer.deadlines.frame.map(|since| since + frame);
        let deadlines = [state, frame, stalled, idle, pace, overdue];
        if peer.lingers && !peer.queue.is_empty() {
            self.peers.arm(key, now + LINGER);
        } else if due(state) && is_closing {
            self.drop_now(key, "it did not take what was left for it in time");
        } else if due(state) {
            self.fail(now, key, Code::TimedOut, "the handshake took too long");
        } else if due(stalled) && !is_closing {
            self.disconnect_slow(now, key, "it did not read fast enough");
        } else if due(frame) {
            self.fail(now, key, Code::TimedOut, "a frame took too long to arrive");
        } else if due(idle) && note_request {
            self.fail(now, key, Code::TimedOut, "nothing was heard for too long");
        } else if let Some(next) = deadlines.into_iter().flatten().filter(|at| *at > now).min() {
            self.peers.arm(key, next);
        }
    }

    pub(crate) fn drop_now(&mut self, key: PeerKey, why: impl Into<String>) {
        self.peers.outputs.push_back(Output::Drop(key, why.into()));
    }
}
