//! What comes from a peer: frames, as long as nothing makes it wait.

use std::time::Instant;

use crate::core::Router;
use crate::model::ids::PeerKey;
use crate::model::principal::AddressPrefixes;
use crate::peer::SessionState;
use ipcd_proto::control::Code;
use ipcd_proto::{Decoded, Kind, decode, limits};

/// Questions of a peer that are answered at once; it is not read beyond the next.
const MAX_OPEN_QUESTIONS: u8 = 4;

/// What came of received bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub struct ReceiveProgress {
    /// How many were used. The rest must be offered again, with what comes behind it.
    pub consumed: usize,
    /// Whether to leave the peer unread until [`crate::Output::Resume`].
    pub waiting: bool,
}

impl Router {
    /// Takes what a peer sent; `bytes` begin at the start of a frame, and messages in them are
    /// stamped with their sender.
    pub fn receive(&mut self, now: Instant, key: PeerKey, bytes: &mut [u8]) -> ReceiveProgress {
        let mut consumed = 0;
        self.grant_turn(key);
        let progress = loop {
            let rest = &mut bytes[consumed..];
            if matches!(self.peer(key).state, SessionState::Closing) {
                break ReceiveProgress { consumed: consumed + rest.len(), waiting: false };
            }
            if self.peer(key).fans_out {
                self.peer(key).waiting = true;
                break ReceiveProgress { consumed, waiting: true };
            }
            if consumed > 0 && !rest.is_empty() && self.budget.is_spent() {
                self.put_off(key);
                break ReceiveProgress { consumed, waiting: true };
            }
            let largest = self.largest_frame(key);
            match decode(rest, largest) {
                Err(error) => self.fail(now, key, Code::Protocol, error.to_string()),
                Ok(Decoded::Incomplete(_)) => break ReceiveProgress { consumed, waiting: false },
                Ok(Decoded::Frame(frame, length)) => {
                    if frame.header.kind != Kind::Message {
                        if self.exceeds_allowance(key, length) {
                            let why = "too many bytes before the session is open";
                            self.fail(now, key, Code::Limit, why);
                            continue;
                        }
                        let waits = asks(frame.header.kind) && self.waits_for_itself(key);
                        if waits || self.waits_for_answers(key, frame.header.kind) {
                            break ReceiveProgress { consumed, waiting: true };
                        }
                        self.budget.spend(steps_of(frame.header.kind));
                        self.control(now, key, &frame);
                        consumed += length;
                    } else if self.peer(key).is_open() {
                        let run = self.publish(now, key, rest, largest);
                        consumed += run.consumed;
                        if run.waiting {
                            break ReceiveProgress { consumed, waiting: true };
                        }
                    } else {
                        self.fail(now, key, Code::Protocol, "a message before the session is open");
                    }
                }
            }
        };
        self.note_heard(now, key, &progress, bytes.len());
        self.note_wait(now, key, &progress);
        progress
    }

    /// Whether a peer whose session is not open has sent more than opening one takes.
    fn exceeds_allowance(&mut self, key: PeerKey, bytes: usize) -> bool {
        let peer = self.peer(key);
        if !peer.is_open() {
            peer.before_open = peer.before_open.saturating_add(bytes as u32);
        }
        !peer.is_open() && peer.before_open as usize > limits::MAX_HANDSHAKE
    }

    /// Bytes of the largest frame that the peer may send now. When less is allowed than it was told
    /// of, its messages are refused, but its session goes on.
    pub fn largest_frame(&self, key: PeerKey) -> usize {
        let peer = &self.peers[key.0 as usize];
        if peer.is_open() {
            limits::largest_frame(self.config.max_payload.max(peer.told as usize))
        } else {
            limits::MAX_HANDSHAKE_FRAME
        }
    }

    /// How addresses make the networks that peers are charged to.
    pub fn prefixes(&self) -> AddressPrefixes {
        self.config.prefixes
    }

    /// Bytes of the largest payload.
    pub fn max_payload(&self) -> usize {
        self.config.max_payload
    }

    /// A peer that does not take its answers may not ask for more.
    pub(crate) fn waits_for_itself(&mut self, key: PeerKey) -> bool {
        let is_full = self.peer(key).full;
        if is_full {
            self.wait_for(key, key);
        }
        is_full
    }

    /// A peer that has asked enough may not ask for more until it is answered: a question is work for
    /// all workers, and for the table.
    fn waits_for_answers(&mut self, key: PeerKey, kind: Kind) -> bool {
        let waits = kind == Kind::Query && self.peer(key).questions >= MAX_OPEN_QUESTIONS;
        if waits {
            self.wait_for(key, key);
        }
        waits
    }
}

/// What it takes to handle a frame that is no message, without what its answer takes.
fn steps_of(kind: Kind) -> usize {
    match kind {
        Kind::Subscribe | Kind::Unsubscribe => 32,
        _ => 4,
    }
}

/// Whether a frame of this kind is answered.
fn asks(kind: Kind) -> bool {
    !matches!(kind, Kind::Message | Kind::Pong | Kind::Bye)
}
