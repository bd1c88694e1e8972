//! A simulated peer: the bytes that it has sent and the router has not taken, and its view of the
//! frames that it receives.

use std::collections::{HashMap, HashSet, VecDeque};

use ipcd_core::PeerKey;
use ipcd_proto::control::{
    Answer, Notice, Receipt, Refusal, RefusalCode, SubscriptionStatus, Welcome, decode as body,
};
use ipcd_proto::{DecodedFrame, Frame, FrameKind, decode};

use crate::frames::{Id, SUBJECTS, Wish, id_in, origin_of, subscribe};
use crate::ledger::Ledger;
use crate::outcomes::Sent;

/// The place of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum At {
    /// In flight to the worker in a slot.
    Link,
    /// Attached to a worker.
    Worker { slot: usize, generation: u32, key: PeerKey },
    /// Gone, or its worker is.
    Gone,
}

/// The meaning of a sent frame, for the time when the router takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Message(Sent),
    Subscribe(usize),
    Unsubscribe(usize),
    Other,
}

/// The answer that is expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    Subscribe(usize),
    Unsubscribe(u32),
    Query {
        matching: Option<u64>,
    },
    /// An action that the access rules deny.
    Denied,
    Other,
}

pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) at: At,
    /// The worker of the peer, also after its death.
    pub(crate) home: Option<(usize, u32)>,
    pub(crate) id: Option<u64>,
    pub(crate) name: Option<&'static str>,
    pub(crate) no_echo: bool,
    /// Whether the peer may not receive everything.
    pub(crate) is_restricted: bool,
    /// Whether the peer sends queries instead of subscribing, so that its send queue is easy to
    /// predict.
    pub(crate) is_curious: bool,
    pub(crate) is_stalled: bool,
    pub(crate) is_open: bool,
    /// Whether the peer has asked to leave, or the router ends its session.
    pub(crate) is_leaving: bool,
    pub(crate) is_closing: bool,
    /// Whether the router waits before it takes more from the peer.
    pub(crate) is_waiting: bool,
    /// Whether the router has announced bytes for the peer.
    pub(crate) wants_write: bool,
    pub(crate) unsent: VecDeque<(Vec<u8>, What)>,
    pub(crate) asked: HashMap<u64, Asked>,
    /// The subscriptions by number.
    pub(crate) subs: HashMap<u32, usize>,
    /// Requests that the peer has received and may answer.
    pub(crate) requests: Vec<Id>,
    /// Drops of each subscription that the peer was told about.
    pub(crate) statuses: Vec<SubscriptionStatus>,
    /// Received messages for subscriptions, and received direct messages.
    pub(crate) got: (u64, u64),
    pub(crate) accepted: u64,
    last_number: u64,
    /// The number of workers started until the send queue was last far from full.
    pub(crate) births_at_relief: u64,
    said_bye: bool,
    known: HashSet<u64>,
    unread: Vec<u8>,
}

impl Client {
    pub(crate) fn new(index: usize, name: Option<&'static str>) -> Self {
        Self {
            index,
            at: At::Link,
            home: None,
            id: None,
            name,
            no_echo: false,
            is_restricted: false,
            is_curious: false,
            is_stalled: false,
            is_open: false,
            is_leaving: false,
            is_closing: false,
            is_waiting: false,
            wants_write: false,
            unsent: VecDeque::new(),
            asked: HashMap::new(),
            subs: HashMap::new(),
            requests: Vec::new(),
            statuses: Vec::new(),
            got: (0, 0),
            accepted: 0,
            last_number: 0,
            births_at_relief: 0,
            said_bye: false,
            known: HashSet::new(),
            unread: Vec::new(),
        }
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self.at, At::Worker { .. })
    }

    pub(crate) fn can_act(&self) -> bool {
        self.is_here() && self.is_open && !self.is_leaving && !self.is_closing
    }

    pub(crate) fn send(&mut self, frame: Vec<u8>, what: What) {
        self.unsent.push_back((frame, what));
    }

    pub(crate) fn correlate(&mut self, asked: Asked) -> u64 {
        let correlation = self.take_number();
        self.asked.insert(correlation, asked);
        correlation
    }

    /// Returns a number for a message or a query.
    pub(crate) fn take_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Sends a SUBSCRIBE that must be refused.
    pub(crate) fn ask_in_vain(&mut self, number: u32, wish: Wish) {
        let correlation = self.correlate(Asked::Denied);
        self.send(subscribe(correlation, number, wish), What::Other);
    }

    /// Handles bytes that were written to the peer.
    pub(crate) fn read(&mut self, bytes: &[u8], ledger: &mut Ledger, step: u64) {
        self.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut self.unread);
        let mut rest = &unread[..];
        while let DecodedFrame::Frame(frame, length) =
            decode(rest, usize::MAX).expect("whole frames")
        {
            self.hear(&frame, ledger, step);
            rest = &rest[length..];
        }
        self.unread = rest.to_vec();
    }

    /// Removes the peer, and with it these bytes for it.
    pub(crate) fn leaves_behind(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        self.unread.extend_from_slice(bytes);
        let mut rest = &self.unread[..];
        while let DecodedFrame::Frame(frame, length) =
            decode(rest, usize::MAX).expect("whole frames")
        {
            let sub = self.subs.get(&frame.header.subscription);
            let id = id_in(frame.payload).filter(|_| frame.header.kind == FrameKind::Message);
            if let Some((id, group)) = id.zip(sub.and_then(|sub| ledger.subs[*sub].group())) {
                ledger.left_behind.entry(group).or_default().insert(id);
            }
            rest = &rest[length..];
        }
    }

    fn hear(&mut self, frame: &Frame<'_>, ledger: &mut Ledger, step: u64) {
        let header = frame.header;
        assert!(!self.said_bye, "{:?} after BYE to peer {}", header.kind, self.index);
        match header.kind {
            FrameKind::Welcome => {
                let welcome: Welcome = body(frame.payload).expect("a welcome");
                (self.is_open, self.id) = (true, Some(welcome.peer));
            }
            FrameKind::Message => self.got_message(frame, ledger),
            FrameKind::Ack => self.got_ack(header.correlation, ledger, step),
            FrameKind::Answer => self.got_answer(frame),
            FrameKind::Notice => self.got_notice(frame, ledger),
            FrameKind::Pong => drop(self.asked.remove(&header.correlation).expect("a ping")),
            FrameKind::Bye => self.said_bye = true,
            FrameKind::Receipt => {
                let receipt: Receipt = body(frame.payload).expect("a receipt");
                ledger.outcomes.got_receipt(self.index, header.correlation, receipt);
            }
            FrameKind::Error => {
                let refusal: Refusal = body(frame.payload).expect("a refusal");
                match header.correlation {
                    0 => self.is_leaving = true,
                    number if self.asked.get(&number) == Some(&Asked::Denied) => {
                        assert_eq!(refusal.code, RefusalCode::Denied);
                        self.asked.remove(&number);
                    }
                    number => ledger.outcomes.got_refusal(self.index, number, refusal.code),
                }
            }
            kind => panic!("{kind:?} to a peer"),
        }
    }

    fn got_message(&mut self, frame: &Frame<'_>, ledger: &mut Ledger) {
        let (number, sender) = (frame.header.subscription, frame.header.sender);
        let id = origin_of(frame.payload).expect("a message as it was sent");
        assert_eq!(ledger.ids[&id.0], sender, "the sender of peer {}'s message", id.0);
        ledger.outcomes.got_copy(self.index, id, frame, sender);
        if frame.header.request {
            self.requests.push(id);
        }
        if number == 0 {
            self.got.1 += 1;
            return ledger.outcomes.got_direct(self.index, id);
        }
        let sub = self.subs.get(&number);
        let sub = *sub.unwrap_or_else(|| panic!("peer {} has no {number}", self.index));
        let subject = SUBJECTS.iter().position(|known| known.as_bytes() == frame.subject);
        self.got.0 += 1;
        ledger.deliver(sub, id, subject.expect("a known subject"));
        let is_known = !ledger.subs[sub].wish.origin || self.known.contains(&sender);
        assert!(is_known, "peer {} was not told who {sender:x} is", self.index);
    }

    fn got_ack(&mut self, correlation: u64, ledger: &mut Ledger, step: u64) {
        match self.asked.remove(&correlation).expect("an ACK for what was asked, and once") {
            Asked::Subscribe(sub) => ledger.subs[sub].acked = Some(step),
            Asked::Unsubscribe(number) => drop(self.subs.remove(&number)),
            Asked::Other => {}
            asked => panic!("an ACK for {asked:?}"),
        }
    }

    fn got_answer(&mut self, frame: &Frame<'_>) {
        let answer: Answer = body(frame.payload).expect("an answer");
        let correlation = frame.header.correlation;
        let asked = self.asked.get(&correlation).copied();
        let Some(Asked::Query { matching }) = asked else {
            panic!("an answer to {asked:?}, or after the last");
        };
        if !frame.header.more {
            self.asked.remove(&correlation);
        }
        match (matching, answer) {
            (Some(expected), Answer::Matching(found)) => {
                assert_eq!(found, expected, "subscriptions that match");
            }
            (_, Answer::Subscriptions(part)) => self.statuses.extend(part),
            _ => {}
        }
    }

    fn got_notice(&mut self, frame: &Frame<'_>, ledger: &mut Ledger) {
        match body(frame.payload).expect("a notice") {
            Notice::Origin(origin) => drop(self.known.insert(origin.peer)),
            Notice::Gap { subscription, reason, dropped } => {
                ledger.gap(self.subs[&subscription], reason, dropped);
            }
        }
    }
}
