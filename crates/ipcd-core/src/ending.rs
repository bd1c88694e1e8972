//! How sessions end: an error, a goodbye, a peer that does not read, the end of the daemon.

use std::time::{Duration, Instant};

use crate::core::{Output, Router};
use crate::model::ids::PeerKey;
use crate::peer::SessionState;
use crate::tracked::DeliveryOutcome;
use ipcd_proto::control::{Code, Reason, Refusal, encode};
use ipcd_proto::{Header, Kind};

/// How long a peer that is cut off, or says goodbye, has to take what is left for it.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

impl Router {
    /// Says goodbye to everybody: what is in the outboxes is written, then the peers are closed.
    /// They have as long for it as the daemon has, which ends it otherwise.
    pub fn drain(&mut self, now: Instant) {
        self.finish_deferred(now);
        for key in self.keys() {
            self.fail(now, key, Code::Ending, "the daemon is ending");
            self.peer(key).lingers = true;
        }
    }

    /// Ends a peer's session, as somebody who is no peer wants it. It gets what is left for it.
    pub fn dismiss(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.fail(now, key, Code::Ending, why);
    }

    /// Ends a session: an ERROR frame, then the end.
    pub(crate) fn fail(&mut self, now: Instant, key: PeerKey, code: Code, why: impl Into<String>) {
        if matches!(self.peer(key).state, SessionState::Closing) {
            return;
        }
        let message = why.into();
        let body = encode(&Refusal { code, message: message.clone() });
        self.send(now, key, Header::new(Kind::Error, 0), &body);
        self.close(now, key, message);
    }

    /// Ends a session without an error.
    pub(crate) fn close(&mut self, now: Instant, key: PeerKey, why: String) {
        self.send(now, key, Header::new(Kind::Bye, 0), &[]);
        self.forget_subscriptions(key);
        self.resume_waiters(key);
        self.forget_tracked(now, key, Reason::Departed);
        let peer = self.peer(key);
        peer.state = SessionState::Closing;
        peer.deadlines.state = Some(now);
        self.arm(key, now + LINGER);
        self.outputs.push_back(Output::Close(key, why));
    }

    /// Ends the session of a peer that does not read. What waits for it is dropped, so that it is
    /// told why as soon as it reads again.
    pub(crate) fn cut_off(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.throw_out(now, key, Code::TooSlow, why);
    }

    /// Ends the session of a peer that somebody wants gone.
    pub(crate) fn kick_out(&mut self, now: Instant, key: PeerKey) {
        self.throw_out(now, key, Code::Kicked, "it was kicked");
    }

    /// Ends a session for the sake of another. One that may still prove its token stays if it has.
    pub fn displace(&mut self, now: Instant, key: PeerKey, why: &str, may_prove: bool) {
        if !may_prove {
            self.throw_out(now, key, Code::Limit, why);
        } else if !self.peer(key).is_open() {
            self.fail(now, key, Code::Limit, why);
        }
    }

    /// Ends the session of a peer that the kernel cannot wait for.
    pub fn leave_unwatched(&mut self, now: Instant, key: PeerKey, why: &str) {
        self.counters.unwatched += 1;
        self.fail(now, key, Code::Limit, why);
    }

    fn throw_out(&mut self, now: Instant, key: PeerKey, code: Code, why: &str) {
        if matches!(self.peer(key).state, SessionState::Closing) {
            return;
        }
        self.counters.cut_off += 1;
        self.drop_queued(now, key, Reason::CutOff);
        self.forget_tracked(now, key, Reason::CutOff);
        self.fail(now, key, code, why);
    }

    /// Drops what waits in a peer's outbox, except for the frame that has been begun.
    pub(crate) fn drop_queued(&mut self, now: Instant, key: PeerKey, reason: Reason) {
        let shed = self.peers[key.0 as usize].outbox.purge(&mut self.store);
        self.peer(key).counts.shed(shed.messages + shed.direct);
        self.recharge(key);
        self.counters.dropped.count(reason, shed.messages);
        self.counters.direct_dropped += shed.direct;
        self.conclude_shed(now, key, &shed, reason);
    }

    /// Drops all that is left in a peer's outbox.
    pub(crate) fn drop_all(&mut self, now: Instant, key: PeerKey, reason: Reason) {
        self.drop_queued(now, key, reason);
        let (begun, direct) = self.peers[key.0 as usize].outbox.messages(&self.store);
        self.counters.dropped.count(reason, begun);
        self.counters.direct_dropped += direct;
        while let Some(ticket) = self.peer(key).outbox.take_awaited() {
            self.concluded(now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    /// Drops all that is in a peer's outbox, of which no frame is begun, because nobody is there.
    pub(crate) fn drop_unheard(&mut self, now: Instant, key: PeerKey) {
        let peer = &mut self.peers[key.0 as usize];
        peer.outbox.pin(0);
        let counts = peer.outbox.messages_by_subscription(&self.store);
        for subscription in &mut peer.subscriptions {
            if let Some(count) = counts.get(&subscription.number) {
                subscription.drops.get_or_insert_default().count(Reason::NoReader, *count);
            }
        }
        let shed = peer.outbox.purge(&mut self.store);
        peer.counts.shed(shed.messages + shed.direct);
        self.counters.dropped.count(Reason::NoReader, shed.messages);
        self.counters.direct_dropped += shed.direct;
        self.conclude_shed(now, key, &shed, Reason::NoReader);
    }

    pub(crate) fn drop_now(&mut self, key: PeerKey, why: impl Into<String>) {
        self.outputs.push_back(Output::Drop(key, why.into()));
    }
}
