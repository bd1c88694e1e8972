//! What goes to a peer: what is in its outbox, and when that is full.

use std::time::Instant;

use crate::core::{Output, Router};
use crate::model::ids::PeerKey;
use crate::peer::{SessionState, Subscription};
use crate::tracked::DeliveryOutcome;
use ipcd_proto::control::{Code, Notice, Reason, Refusal, encode};
use ipcd_proto::{FrameWriter, Header, Kind};

impl Router {
    /// What is to be written to the peer next: whole frames, of which the first may have been begun.
    /// There is more if this is less than [`Router::queued`].
    pub fn outbox(&mut self, key: PeerKey) -> &[u8] {
        self.outbox_pieces(key).next().unwrap_or_default()
    }

    /// All that is to be written to the peer: pieces of whole frames each, as [`Router::outbox`].
    pub fn outbox_pieces(&mut self, key: PeerKey) -> impl Iterator<Item = &[u8]> {
        let peer = &mut self.peers[key.0 as usize];
        peer.dirty = false;
        peer.outbox.unwritten(&self.store)
    }

    /// Says that the first bytes of the outbox, which are whole frames, are being written in another
    /// form: they stay there until they are.
    pub fn pin(&mut self, key: PeerKey, count: usize) {
        self.peer(key).outbox.pin(count);
    }

    /// Whether the peer's outbox is empty.
    pub fn is_flushed(&self, key: PeerKey) -> bool {
        self.peers[key.0 as usize].outbox.is_empty()
    }

    /// Bytes in the peer's outbox.
    pub fn queued(&self, key: PeerKey) -> usize {
        self.peers[key.0 as usize].outbox.len()
    }

    /// Says that the first bytes of the outbox were written.
    pub fn wrote(&mut self, now: Instant, key: PeerKey, count: usize) {
        let peer = &mut self.peers[key.0 as usize];
        peer.outbox.wrote(count, &mut self.store);
        peer.note_taken(now, count);
        self.recharge(key);
        while let Some(ticket) = self.peer(key).outbox.take_written() {
            self.concluded(now, ticket, DeliveryOutcome::Delivered);
        }
        self.keep_pace(key);
        let limit = self.config.outbox;
        let stays_overcharged = self.stays_overcharged(key);
        let peer = self.peer(key);
        if peer.outbox.len() > limit / 2 || stays_overcharged {
            return;
        }
        let has_gaps = std::mem::take(&mut peer.has_gaps);
        if peer.full {
            self.set_full(key, false);
            self.resume_waiters(key);
        }
        if has_gaps {
            self.report_gaps(now, key);
        }
    }

    /// Says that nobody is there to take what is in the outbox: it is dropped, and counted.
    pub fn unheard(&mut self, now: Instant, key: PeerKey) {
        self.drop_unheard(now, key);
        self.wrote(now, key, 0);
    }

    /// Refuses one frame; the session goes on. A frame without a number cannot be told of.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        key: PeerKey,
        correlation: u64,
        code: Code,
        why: impl Into<String>,
    ) {
        let message = why.into();
        self.counters.refused += 1;
        if code == Code::Denied {
            self.note_denied(key, &message);
        }
        if correlation == 0 {
            return;
        }
        let body = encode(&Refusal { code, message });
        self.send(now, key, Header::new(Kind::Error, correlation), &body);
    }

    /// Puts a control frame into the peer's outbox. They never wait: what asks for one does.
    pub(crate) fn send(&mut self, now: Instant, key: PeerKey, header: Header, body: &[u8]) {
        let peer = &mut self.peers[key.0 as usize];
        // What another worker or the table had still to say comes too late after BYE.
        if matches!(peer.state, SessionState::Closing | SessionState::Gone) {
            return;
        }
        FrameWriter(peer.outbox.append(now, &mut self.store)).control(header, body);
        self.filled(now, key);
    }

    /// Notes that something was put into the peer's outbox.
    pub(crate) fn filled(&mut self, now: Instant, key: PeerKey) {
        let (limit, stall) = (self.config.outbox, self.config.stall_timeout);
        self.recharge(key);
        let peer = &self.peers[key.0 as usize];
        if !peer.full && (peer.outbox.len() >= limit || self.is_overcharged(key)) {
            self.set_full(key, true);
        }
        self.hold_pace(now, key);
        let peer = &mut self.peers[key.0 as usize];
        if !peer.dirty {
            peer.dirty = true;
            self.outputs.push_back(Output::Write(key));
        }
        self.arm(key, now + stall);
    }

    /// Notes whether a peer's outbox is full; where other workers publish to it, they are told.
    pub(crate) fn set_full(&mut self, key: PeerKey, full: bool) {
        if !full {
            self.peer(key).outbox.has_room();
        }
        if std::mem::replace(&mut self.peer(key).full, full) != full {
            self.set_levels(key, full);
        }
    }

    fn report_gaps(&mut self, now: Instant, key: PeerKey) {
        let subscriptions = self.peer(key).subscriptions.iter_mut();
        let gaps: Vec<_> = subscriptions.flat_map(Subscription::take_gaps).collect();
        self.tell_gaps(now, key, gaps);
    }

    /// Tells a peer what was dropped of its subscriptions.
    pub(crate) fn tell_gaps(
        &mut self,
        now: Instant,
        key: PeerKey,
        gaps: impl IntoIterator<Item = (u32, Reason, u64)>,
    ) {
        for (subscription, reason, dropped) in gaps {
            let notice = encode(&Notice::Gap { subscription, reason, dropped });
            self.send(now, key, Header::new(Kind::Notice, 0), &notice);
        }
    }
}
