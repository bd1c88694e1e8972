//! Direct messages, requests and receipts: the accepted ones, and their outcomes.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ipcd_proto::Frame;
use ipcd_proto::control::{DropReason, OverflowPolicy, Receipt, RefusalCode};

use crate::frames::Id;
use crate::ledger::{Facts, Ledger, Sub};

/// A message as its publisher has sent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) number: u64,
    pub(crate) to: To,
    pub(crate) call: Call,
    /// For a reply: whether another one follows.
    pub(crate) more: bool,
}

/// The receiver of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum To {
    Subject(usize),
    Peer(usize),
    /// The request of this number from that peer.
    Reply(Id),
    /// A peer that never existed.
    Nobody,
}

/// The outcome that the publisher waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Call {
    Nothing,
    Receipt,
    Request(Duration),
}

/// An accepted message.
struct Message {
    sent: Sent,
    at: u64,
    since: Instant,
    /// The number of copies that were received.
    copies: u64,
    /// For a request: the peers that have it, with the number of unanswered copies; `None` if that
    /// is unknown because the peer replied too often, perhaps to a copy that it had not read.
    holders: BTreeMap<usize, Option<u64>>,
    replies: u64,
    end: Option<End>,
    /// A reply from a peer that still owed one, to a request that has not expired: it must arrive.
    /// The request's expiry is known only when everything has arrived.
    is_owed: bool,
    has_arrived: bool,
}

/// The end of a message for its publisher.
enum End {
    Receipt(Receipt),
    Refused(RefusalCode),
}

#[derive(Default)]
pub(crate) struct Outcomes {
    messages: BTreeMap<Id, Message>,
    /// The last message from each publisher to each peer.
    last: HashMap<(usize, usize), u64>,
    /// Messages of each publisher whose outcome may still arrive.
    open: HashMap<usize, usize>,
    /// The step in which a worker has last left while outcomes were open.
    pub(crate) handed_back: Option<u64>,
}

impl Message {
    /// The time after which a request is forgotten.
    fn deadline(&self) -> Option<Instant> {
        match self.sent.call {
            Call::Request(wait) => Some(self.since + wait),
            _ => None,
        }
    }

    fn is_request(&self) -> bool {
        matches!(self.sent.call, Call::Request(_))
    }
}

impl Outcomes {
    pub(crate) fn accept(&mut self, id: Id, sent: Sent, at: u64, now: Instant) {
        let mut is_owed = false;
        if let To::Reply(request) = sent.to
            && let Some(request) = self.messages.get_mut(&request)
            && let Some(open) = request.holders.get_mut(&id.0)
        {
            is_owed = open.is_some_and(|open| open > 0);
            *open = open.and_then(|open| open.checked_sub(u64::from(!sent.more)));
        }
        let holders = BTreeMap::new();
        let (copies, replies, end, has_arrived) = (0, 0, None, false);
        let message =
            Message { sent, at, since: now, copies, holders, replies, end, is_owed, has_arrived };
        *self.open.entry(id.0).or_default() += usize::from(sent.call != Call::Nothing);
        let before = self.messages.insert(id, message);
        assert!(before.is_none(), "message {id:?} was accepted twice");
    }

    /// Returns messages of one or all publishers whose outcome may still arrive.
    pub(crate) fn open(&self, publisher: Option<usize>) -> usize {
        match publisher {
            Some(publisher) => self.open.get(&publisher).copied().unwrap_or(0),
            None => self.open.values().sum(),
        }
    }

    fn end(&mut self, id: Id, end: End) {
        *self.open.entry(id.0).or_default() -= 1;
        let message = self.messages.get_mut(&id).expect("it was found before");
        assert!(message.end.is_none(), "a second end of {id:?}");
        message.end = Some(end);
    }

    /// Returns the requests that a peer may still have to answer.
    pub(crate) fn held_by(&self, peer: usize) -> u64 {
        let held = self.messages.values().filter_map(|message| message.holders.get(&peer));
        held.filter(|open| open.is_none_or(|open| open > 0)).count() as u64
    }

    /// Returns the messages to a single peer.
    pub(crate) fn directs(&self) -> u64 {
        let is_direct = |message: &&Message| !matches!(message.sent.to, To::Subject(_));
        self.messages.values().filter(is_direct).count() as u64
    }

    /// Notes that a peer has received a copy.
    pub(crate) fn got_copy(&mut self, receiver: usize, id: Id, frame: &Frame<'_>, me: u64) {
        let Some(message) = self.messages.get_mut(&id) else { panic!("{id:?} was not accepted") };
        let header = frame.header;
        let calls = (header.receipt, header.request);
        let expected = (message.sent.call == Call::Receipt, message.is_request());
        assert_eq!(calls, expected, "flags of {id:?}");
        assert_eq!(header.correlation, id.1, "correlation of {id:?}");
        if message.is_request() {
            assert_eq!(frame.reply, format!("@{me}.{}", id.1).as_bytes(), "the reply subject");
            let open = message.holders.entry(receiver).or_insert(Some(0));
            *open = open.map(|open| open + 1);
        }
        message.copies += 1;
    }

    /// Notes that a peer has received a direct message.
    pub(crate) fn got_direct(&mut self, receiver: usize, id: Id) {
        let message = self.messages.get(&id).unwrap_or_else(|| panic!("{id:?} was not accepted"));
        assert_eq!(message.copies, 1, "{id:?} came twice");
        let last = self.last.insert((id.0, receiver), id.1);
        assert!(last < Some(id.1), "{id:?} came behind {last:?}");
        let request = match message.sent.to {
            To::Peer(to) => return assert_eq!(to, receiver, "{id:?} came to another peer"),
            To::Reply(request) => request,
            to => panic!("{id:?} is for {to:?}, and came to peer {receiver}"),
        };
        let since = message.since;
        assert_eq!(request.0, receiver, "the reply {id:?} came to another peer");
        let Some(request) = self.messages.get_mut(&request) else {
            panic!("{id:?} is a reply to nothing");
        };
        let deadline = request.deadline().expect("a reply to a request");
        assert!(since < deadline, "the reply {id:?} came too late");
        assert!(request.end.is_none(), "the reply {id:?} came after there was to be none");
        request.replies += 1;
    }

    pub(crate) fn got_receipt(&mut self, publisher: usize, number: u64, receipt: Receipt) {
        let id = (publisher, number);
        let Some(message) = self.messages.get(&id) else { panic!("a receipt for {id:?}") };
        assert_eq!(message.sent.call, Call::Receipt, "a receipt for {id:?}");
        self.end(id, End::Receipt(receipt));
    }

    pub(crate) fn got_refusal(&mut self, publisher: usize, number: u64, code: RefusalCode) {
        let id = (publisher, number);
        let Some(message) = self.messages.get(&id) else { panic!("{code:?} for {id:?}") };
        let is_good = matches!(code, RefusalCode::NoResponder | RefusalCode::Unanswered);
        assert!(message.is_request() && is_good, "{code:?} for {id:?}");
        assert_eq!(message.replies, 0, "{code:?} for {id:?}, which was answered");
        self.end(id, End::Refused(code));
    }

    /// Notes that everything has arrived in its receiver's send queue: replies to requests that
    /// have not expired can no longer be late.
    pub(crate) fn arrived(&mut self, now: Instant) {
        let deadlines: HashMap<Id, Instant> =
            self.messages.iter().filter_map(|(id, one)| Some((*id, one.deadline()?))).collect();
        for message in self.messages.values_mut().filter(|message| !message.has_arrived) {
            message.has_arrived = true;
            if let To::Reply(request) = message.sent.to {
                message.is_owed &= deadlines.get(&request).is_some_and(|at| *at > now);
            }
        }
    }
}

impl Ledger {
    /// Checks at the end that each message has had its outcome.
    pub(crate) fn settle_outcomes(&self, facts: &Facts) {
        for (id, message) in &self.outcomes.messages {
            self.settle_direct(facts, *id, message);
            if facts.generations[id.0] {
                match message.sent.call {
                    Call::Nothing => {}
                    Call::Receipt => self.settle_receipt(facts, *id, message),
                    Call::Request(_) => self.settle_request(facts, *id, message),
                }
            }
        }
    }

    /// Checks that a message to a peer that stays has arrived, and so has an owed reply.
    fn settle_direct(&self, facts: &Facts, id: Id, message: &Message) {
        let mut since = message.at;
        let must_come = match message.sent.to {
            To::Peer(to) => facts.generations[to] && self.is_known_at(to, message.at),
            // The correctness of a refusal is checked elsewhere.
            To::Reply(request) => {
                let request_ended = |one: &Message| one.end.is_some();
                let request_message = self.outcomes.messages.get(&request);
                let has_ended = request_message.is_none_or(request_ended);
                // If a worker that had passed the request on is killed, then its copy counts as lost,
                // and the request ends with the first reply to another copy.
                since = request_message.map_or(since, |request| request.at);
                facts.generations[request.0] && message.is_owed && !has_ended
            }
            To::Subject(_) | To::Nobody => false,
        };
        if must_come && !self.killed_since(since) {
            assert_eq!(message.copies, 1, "{:?} {id:?} was lost", message.sent);
        }
    }

    /// Checks for one receipt, with the right outcomes of all copies.
    fn settle_receipt(&self, facts: &Facts, id: Id, message: &Message) {
        let Some(End::Receipt(receipt)) = &message.end else {
            panic!("no receipt for {:?} {id:?}", message.sent);
        };
        let has = |reason| receipt.dropped.iter().any(|(known, _)| *known == reason);
        let what = || format!("{receipt:?} for {id:?}, of which {} copies came", message.copies);
        for (reason, overflow) in [
            (DropReason::Oldest, OverflowPolicy::DropOldest),
            (DropReason::Newest, OverflowPolicy::DropNewest),
        ] {
            let may = self.wanting(id, message).any(|sub| sub.wish.overflow == overflow);
            assert!(may || !has(reason), "{}", what());
        }
        let most = match message.sent.to {
            To::Subject(_) => self.copies(id, message, |_| true),
            To::Peer(_) => 1,
            To::Reply(_) | To::Nobody => 0,
        };
        if has(DropReason::WorkerDied) {
            assert!(self.killed_since(message.at), "{}", what());
            return assert!(receipt.delivered <= message.copies, "{}", what());
        }
        assert_eq!(receipt.delivered, message.copies, "{}", what());
        let stays = |sub: &Sub| sub.stays(facts) && sub.is_due_at(message.at);
        let least = self.copies(id, message, stays);
        let range = least..=most;
        assert!(range.contains(&(receipt.delivered + receipt.dropped())), "{}: {range:?}", what());
    }

    /// Checks for a reply, a refusal, or a peer that may still answer.
    fn settle_request(&self, facts: &Facts, id: Id, message: &Message) {
        let mut holders = message.holders.iter().filter(|(holder, _)| facts.generations[**holder]);
        let may_be_held = holders.clone().any(|(_, open)| open.is_none_or(|open| open > 0));
        let is_held = holders.any(|(_, open)| open.is_some_and(|open| open > 0));
        // A worker that has passed a request on is responsible for it, and may have died.
        let mut groups = self.wanting(id, message).filter(|sub| sub.group().is_some());
        let is_handed_back = self.outcomes.handed_back.is_some_and(|at| at >= message.at);
        let may_be_lost =
            groups.next().is_some() && (self.killed_since(message.at) || is_handed_back);
        let what = || format!("{:?} {id:?}, which came to {:?}", message.sent, message.holders);
        match message.end {
            Some(End::Refused(RefusalCode::NoResponder)) => {
                let is_held = message.copies > 0;
                let stays = |sub: &Sub| sub.stays(facts) && sub.is_due_at(message.at);
                // A generation that has just started is not known everywhere.
                let is_due = |to| facts.generations[to] && self.is_known_at(to, message.at);
                let to_peer = matches!(message.sent.to, To::Peer(to) if is_due(to))
                    && !self.killed_since(message.at);
                let has_responder = to_peer || self.copies(id, message, stays) > 0;
                assert!(!is_held && !has_responder, "no responder for {}", what());
            }
            Some(_) => assert!(!is_held || may_be_lost, "nobody answers {}", what()),
            None if message.replies > 0 || may_be_held || may_be_lost => {}
            None => {
                let is_over = message.deadline().is_some_and(|at| at <= facts.now);
                assert!(is_over, "no end of {}", what());
            }
        }
    }

    /// Returns the number of expected copies: one for each of these subscriptions and groups.
    fn copies(&self, id: Id, message: &Message, counts: impl Fn(&Sub) -> bool) -> u64 {
        let mut groups = Vec::new();
        let counted = self.wanting(id, message).filter(|sub| counts(sub)).filter(|sub| {
            let is_new = sub.group().is_none_or(|group| !groups.contains(&group));
            groups.extend(sub.group());
            is_new
        });
        counted.count() as u64
    }

    /// Returns the subscriptions that match the message, at any time.
    fn wanting(&self, id: Id, message: &Message) -> impl Iterator<Item = &Sub> {
        let to = message.sent.to;
        self.subs.iter().filter(move |sub| match to {
            To::Subject(subject) => sub.is_taken && sub.wants(id.0, subject),
            _ => false,
        })
    }

    /// Whether all workers knew the worker that serves a peer.
    fn is_known_at(&self, peer: usize, at: u64) -> bool {
        self.known.get(&peer).is_some_and(|known| *known <= at)
    }

    fn killed_since(&self, at: u64) -> bool {
        self.last_kill.is_some_and(|kill| kill >= at)
    }
}
