//! Bytes from and to a peer: frames are decoded, dispatched, and taken off the send queue.

use crate::delivery::publish::PublishProgress;
use crate::model::failure::Failure;
use crate::model::frame_parts::FrameParts;
use crate::model::ids::PeerKey;
use crate::output::{CloseReason, ReceiveProgress};
use crate::peers::peer::SessionState;
use crate::requests::DeliveryOutcome;
use crate::router::Router;
use ipcd_proto::DecodedFrame;
use ipcd_proto::Frame;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::decode;
use std::time::Instant;

impl Router {
    /// Takes bytes that a peer has sent. They begin at the start of a frame. Messages in them are
    /// stamped in place.
    pub fn receive(&mut self, now: Instant, key: PeerKey, bytes: &mut [u8]) -> ReceiveProgress {
        let mut consumed = 0;
        self.sessions_mut().grant_turn(key);
        let progress = loop {
            let rest = &mut bytes[consumed..];
            // A peer whose session has ended may still send. The bytes are consumed unread, so that
            // the channel can reach its end.
            if matches!(self.delivery.sessions.peers.table[key].state, SessionState::Closing) {
                break ReceiveProgress { consumed: consumed + rest.len(), waiting: false };
            }
            // The previous message has to reach all receivers first, so that order is kept.
            if self.delivery.sessions.peers.table[key].fans_out {
                self.delivery.sessions.peers.table[key].waiting = true;
                break ReceiveProgress { consumed, waiting: true };
            }
            if rest.is_empty() {
                break ReceiveProgress { consumed, waiting: false };
            }
            // At least one frame is taken in each turn, so that every peer makes progress.
            if consumed > 0 && self.delivery.sessions.work.budget.is_spent() {
                self.sessions_mut().defer(key);
                break ReceiveProgress { consumed, waiting: true };
            }
            let largest = self.largest_frame(key);
            let (used, waiting) = match decode(rest, largest) {
                Ok(DecodedFrame::Incomplete(_)) => {
                    break ReceiveProgress { consumed, waiting: false };
                }
                Ok(DecodedFrame::Frame(frame, _)) if frame.header.kind == FrameKind::Message => {
                    let message = FrameParts::of(&frame);
                    self.receive_message(now, key, rest, message, largest)
                }
                Ok(DecodedFrame::Frame(frame, length)) => {
                    self.receive_control(now, key, &frame, length)
                }
                // After a malformed header the start of the next frame is unknown.
                Err(error) => {
                    self.sessions_mut().fail(now, key, RefusalCode::Protocol, error.to_string());
                    (0, false)
                }
            };
            consumed += used;
            if waiting {
                break ReceiveProgress { consumed, waiting };
            }
        };
        self.peers_mut().note_heard(now, key, &progress, bytes.len());
        self.peers_mut().note_wait(now, key, &progress);
        progress
    }

    /// Takes the message at the start of `bytes`. Returns the number of used bytes, and whether the
    /// publisher has to wait.
    fn receive_message(
        &mut self,
        now: Instant,
        key: PeerKey,
        bytes: &mut [u8],
        message: FrameParts,
        largest: usize,
    ) -> (usize, bool) {
        if !self.delivery.sessions.peers.table[key].is_open() {
            let why = "message received before the session is open";
            self.sessions_mut().fail(now, key, RefusalCode::Protocol, why);
            return (0, false);
        }
        let PublishProgress { consumed, waiting } =
            self.delivery.publish(now, key, bytes, message, largest);
        (consumed, waiting)
    }

    /// Takes a control frame. Returns the same.
    fn receive_control(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &Frame<'_>,
        length: usize,
    ) -> (usize, bool) {
        let (kind, sessions) = (frame.header.kind, &mut self.delivery.sessions);
        if sessions.peers.exceeds_allowance(key, length) {
            sessions.fail(
                now,
                key,
                RefusalCode::Limit,
                "too many bytes received before the session is open",
            );
            return (0, false);
        }
        let waits = asks(kind) && sessions.peers.waits_for_itself(key);
        if waits || sessions.peers.waits_for_answers(key, kind) {
            return (0, true);
        }
        sessions.work.budget.spend(steps_of(kind));
        self.control(now, key, frame);
        (length, false)
    }

    /// Handles a control frame.
    pub(crate) fn control(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) {
        let kind = frame.header.kind;
        let outcome = match (&self.delivery.sessions.peers.table[key].state, kind) {
            (SessionState::Open, _) => self.command(now, key, frame),
            (SessionState::New { .. }, FrameKind::Hello) => {
                self.sessions_mut().hello(now, key, frame.payload)
            }
            (SessionState::Challenged(_), FrameKind::Auth) => {
                self.sessions_mut().auth(now, key, frame.payload)
            }
            (_, FrameKind::Bye) => {
                self.sessions_mut().close(now, key, CloseReason::new("the peer sent BYE"));
                Ok(())
            }
            (_, FrameKind::Ping) => {
                self.peers_mut().send(
                    now,
                    key,
                    Header::new(FrameKind::Pong, frame.header.correlation),
                    &[],
                );
                Ok(())
            }
            _ => Err((
                RefusalCode::Protocol,
                format!("unexpected {kind:?} frame before the session is open"),
            )),
        };
        if let Err((code, why)) = outcome {
            self.sessions_mut().fail(now, key, code, why);
        }
    }

    fn command(&mut self, now: Instant, key: PeerKey, frame: &Frame<'_>) -> Result<(), Failure> {
        let correlation = frame.header.correlation;
        match frame.header.kind {
            FrameKind::Subscribe => return self.sessions_mut().subscribe(now, key, frame),
            FrameKind::Unsubscribe => return self.sessions_mut().unsubscribe(now, key, frame),
            FrameKind::Query => return self.query(now, key, frame),
            FrameKind::Flush => {
                self.peers_mut().send(now, key, Header::new(FrameKind::Ack, correlation), &[])
            }
            FrameKind::Ping => {
                self.peers_mut().send(now, key, Header::new(FrameKind::Pong, correlation), &[])
            }
            FrameKind::Pong => {}
            FrameKind::Bye => {
                self.sessions_mut().close(now, key, CloseReason::new("the peer sent BYE"))
            }
            kind => {
                return Err((
                    RefusalCode::Protocol,
                    format!("unexpected {kind:?} frame in an open session"),
                ));
            }
        }
        Ok(())
    }

    /// Returns the next bytes for the peer: whole frames, of which the first may be partly written.
    /// More follow if [`Router::queued`] is larger.
    pub fn send_queue(&mut self, key: PeerKey) -> &[u8] {
        self.queue_pieces(key).next().unwrap_or_default()
    }

    /// Returns all bytes for the peer, in pieces like that of [`Router::send_queue`].
    pub fn queue_pieces(&mut self, key: PeerKey) -> impl Iterator<Item = &[u8]> {
        let peer = &mut self.delivery.sessions.peers.table[key];
        peer.dirty = false;
        peer.queue.unwritten(&self.delivery.sessions.peers.pool)
    }

    /// Notes that the first bytes of the send queue, which are whole frames, are being written in
    /// encrypted form. They cannot be dropped until [`Router::wrote`], because a part of them may
    /// have been sent.
    pub fn pin(&mut self, key: PeerKey, count: usize) {
        self.delivery.sessions.peers.table[key].queue.pin(count);
    }

    /// Whether the peer's send queue is empty.
    pub fn is_flushed(&self, key: PeerKey) -> bool {
        self.delivery.sessions.peers.table[key].queue.is_empty()
    }

    /// Returns the number of bytes in the peer's send queue.
    pub fn queued(&self, key: PeerKey) -> usize {
        self.delivery.sessions.peers.table[key].queue.len()
    }

    /// Notes that the first bytes of the send queue were written.
    pub fn wrote(&mut self, now: Instant, key: PeerKey, count: usize) {
        let peer = &mut self.delivery.sessions.peers.table[key];
        peer.queue.wrote(count, &mut self.delivery.sessions.peers.pool);
        peer.note_taken(now, count);
        self.peers_mut().update_quota(key);
        // Delivered means written to the channel, whether or not the peer has read it.
        while let Some(ticket) = self.delivery.sessions.peers.table[key].queue.take_written() {
            self.sessions_mut().conclude(now, ticket, DeliveryOutcome::Delivered);
        }
        self.peers_mut().note_progress(key);
        let limit = self.peers().config.queue_limit;
        let stays_overcharged = self.peers().stays_over_quota(key);
        let peer = &mut self.delivery.sessions.peers.table[key];
        // Hysteresis: a queue stays full down to half of its limit, so that publishers do not stop
        // and go with each message.
        if peer.queue.len() > limit / 2 || stays_overcharged {
            return;
        }
        // Gaps are told only now that there is room, with one notice for all drops of a reason.
        let has_gaps = std::mem::take(&mut peer.has_gaps);
        if peer.full {
            self.peers_mut().set_full(key, false);
            self.peers_mut().resume_waiters(key);
        }
        if has_gaps {
            self.peers_mut().report_gaps(now, key);
        }
    }

    /// Drops the peer's send queue and counts it, because the peer has no reader.
    pub fn drop_unread(&mut self, now: Instant, key: PeerKey) {
        self.sessions_mut().drop_unread(now, key);
        // Follows up a queue that has become shorter: publishers continue, and gaps are told.
        self.wrote(now, key, 0);
    }

    /// Notes the time since which a record of the peer's transport is incomplete. It may be a part
    /// of a frame that has a deadline already; the earlier one counts.
    pub fn note_begun(&mut self, key: PeerKey, since: Option<Instant>, is_in_frame: bool) {
        let of_frame =
            self.delivery.sessions.peers.table[key].deadlines.frame.filter(|_| is_in_frame);
        let first = of_frame.into_iter().chain(since).min();
        self.delivery.sessions.peers.table[key].deadlines.frame = first;
        if let Some(since) = first {
            self.delivery.sessions.peers.arm(key, since + self.peers().config.frame_timeout);
        }
    }
}

/// Returns the steps for handling a control frame, without those for its answer.
fn steps_of(kind: FrameKind) -> usize {
    match kind {
        FrameKind::Subscribe | FrameKind::Unsubscribe => 32,
        _ => 4,
    }
}

/// Whether a frame of this kind has an answer.
fn asks(kind: FrameKind) -> bool {
    !matches!(kind, FrameKind::Message | FrameKind::Pong | FrameKind::Bye)
}
