//! Messages whose publishers wait for an outcome: a reply, or a receipt. This part counts copies;
//! it does not deliver.
//!
//! An entry counts the copies whose outcome is open. The publisher's worker has one entry for the
//! whole message. Every other worker with copies has one for its own copies, and reports their
//! outcome to the publisher's worker.

use crate::cluster::messages::{OutcomeReport, WorkerMessage};
use crate::model::ids::{PeerKey, Ticket};
use crate::peers::Peers;
use crate::peers::peer::ReceivedRequest;
use foldhash::fast::RandomState;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::control::DropReason;
use ipcd_proto::control::Receipt;
use ipcd_proto::control::Refusal;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::encode;
use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

/// Entries of a router. Beyond this, it turns away tracked messages of other workers: a compromised
/// worker keeps to no limit.
const MAX_TRACKED: usize = 1024 * 1024;

/// The shortest time between two searches for expired requests.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A message whose outcome is open.
#[derive(Debug)]
pub(crate) struct PendingMessage {
    /// The receiver of the outcome.
    pub(crate) home: OutcomeTarget,
    is_request: bool,
    /// Copies here whose outcome is open, plus one while the message is being delivered.
    open: u64,
    /// The slot and generation of each worker that has copies and has not reported their outcome.
    elsewhere: Vec<(u32, u32)>,
    /// Whether another worker may pass a copy on to a third: the copy was for members of a group.
    may_be_passed_on: bool,
    receipt: Receipt,
    is_answered: bool,
    /// Whether a worker has passed a copy on. Then the reply may arrive after that worker's report.
    is_passed_on: bool,
    /// The time when the publisher stops waiting.
    expires: Option<Instant>,
}

/// The receiver of an outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OutcomeTarget {
    /// A peer of this router, which knows the message by its correlation.
    Here(PeerKey, u64),
    /// Another worker, which knows the message by this ticket.
    There(u32, Ticket),
    /// A worker that has died.
    Nowhere,
}

impl PendingMessage {
    /// Whether a reply may still be in flight when all copies are concluded. The router cannot
    /// tell, so it keeps the request until the publisher stops waiting.
    fn waits_for_reply(&self) -> bool {
        self.is_request
            && self.is_answered
            && self.is_passed_on
            && matches!(self.home, OutcomeTarget::Here(..))
    }

    /// Whether the publisher still waits. Expired entries are removed only now and then, so this
    /// checks.
    fn waits(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at > now)
    }

    /// Whether peers of that worker may have the request. Peers of this worker may. Another worker
    /// must have got a copy and not have reported its outcome, which it does after the last reply.
    fn may_be_answered(&self, by: Option<u32>) -> bool {
        let is_known = by.is_none_or(|slot| self.elsewhere.iter().any(|(known, _)| *known == slot));
        is_known || self.may_be_passed_on || self.is_passed_on
    }
}

/// The outcome of a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DeliveryOutcome {
    /// The receiver has the copy.
    Delivered,
    /// The receiver has answered the request.
    Answered,
    /// The copy was dropped, or its receiver will never answer the request.
    Dropped(DropReason),
}

/// All messages of this router whose outcome is open.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    entries: HashMap<Ticket, PendingMessage, RandomState>,
    last: Ticket,
    sweep_at: Option<Instant>,
    /// The time until which a leaving router waits for outcomes of copies.
    pub(crate) leave_by: Option<Instant>,
    /// Whether entries were removed while responders are still noted as having the request.
    has_remnants: bool,
}

impl Requests {
    /// Returns the time of the next check.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.sweep_at.into_iter().chain(self.leave_by).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of messages whose outcome is open.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether tracked messages of other workers are turned away.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_TRACKED
    }

    fn forget(&mut self, ticket: Ticket) {
        self.entries.remove(&ticket);
        self.has_remnants = true;
    }
}

impl Requests {
    /// Begins to track a message. The entry stays open until [`Requests::dealt_out`].
    pub(crate) fn track(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        home: OutcomeTarget,
        header: &Header,
    ) -> Ticket {
        let is_request = header.request;
        // With 0 seconds no reply could come in time.
        let wait = Duration::from_secs(header.wait.max(1).into());
        let expires = is_request.then(|| now + wait);
        self.last += 1;
        self.sweep_at = self.sweep_at.into_iter().chain(expires).min();
        let entry = PendingMessage {
            home,
            is_request,
            open: 1,
            elsewhere: Vec::new(),
            may_be_passed_on: false,
            receipt: Receipt::default(),
            is_answered: false,
            is_passed_on: false,
            expires,
        };
        let ticket = self.last;
        self.entries.insert(ticket, entry);
        if let OutcomeTarget::Here(key, correlation) = home {
            peers.table[key].requests().outstanding.insert(correlation, ticket);
            peers.table[key].quota.add_pending(1);
        }
        ticket
    }

    /// Refuses the next message of another worker, and reports that if its publisher waits.
    pub(crate) fn refuse_next(&mut self, peers: &mut Peers, slot: u32) {
        let Some(ticket) = peers.cluster.link(slot).ticket.take() else { return };
        let mut receipt = Receipt::default();
        receipt.drop_for(DropReason::Newest, 1);
        let (is_answered, is_passed_on) = (false, false);
        let report = OutcomeReport { ticket, receipt, is_answered, is_passed_on };
        peers.cluster.tell(slot, &WorkerMessage::Concluded(report));
    }

    /// Notes that all copies of the message have been queued or sent.
    pub(crate) fn dealt_out(&mut self, peers: &mut Peers, now: Instant, ticket: Ticket) {
        self.change(peers, now, ticket, |entry| entry.open -= 1);
    }

    /// Notes that another worker gets a copy.
    pub(crate) fn sent_elsewhere(&mut self, ticket: Ticket, (slot, generation): (u32, u32)) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.elsewhere.push((slot, generation));
            // The publisher is at another worker: so the request is being passed on.
            entry.is_passed_on |= matches!(entry.home, OutcomeTarget::There(..));
        }
    }

    /// Notes that a copy went to group members of another worker. The last member may leave before
    /// it arrives, and the worker then passes it on.
    pub(crate) fn sent_to_group_elsewhere(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.may_be_passed_on = true;
        }
    }

    /// Notes a copy for a peer of this router. It is open until it is concluded.
    pub(crate) fn count_copy(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.open += 1;
        }
    }

    /// Notes the outcome of a copy.
    pub(crate) fn conclude_copy(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        ticket: Ticket,
        outcome: DeliveryOutcome,
    ) {
        self.change(peers, now, ticket, |entry| {
            entry.open = entry.open.saturating_sub(1);
            match outcome {
                DeliveryOutcome::Delivered => entry.receipt.delivered += 1,
                DeliveryOutcome::Answered => entry.is_answered = true,
                DeliveryOutcome::Dropped(reason) => entry.receipt.drop_for(reason, 1),
            }
        });
    }

    /// Notes another worker's report on its copies.
    pub(crate) fn handle_report(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        worker: (u32, u32),
        conclusion: &OutcomeReport,
    ) {
        self.change(peers, now, conclusion.ticket, |entry| {
            // Only a worker with a copy may report, and once: a hostile one could otherwise
            // conclude any message.
            if let Some(at) = entry.elsewhere.iter().position(|known| *known == worker) {
                entry.elsewhere.swap_remove(at);
                entry.receipt.add(&conclusion.receipt);
                entry.is_answered |= conclusion.is_answered;
                entry.is_passed_on |= conclusion.is_passed_on;
            }
        });
    }

    /// Notes that a reply is being delivered to the requester. Returns false if the peer does not
    /// wait for this reply, or if the replying worker has not got the request: it may be
    /// compromised.
    pub(crate) fn note_reply(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        requester: PeerKey,
        correlation: u64,
        by: Option<u32>,
    ) -> bool {
        let requests = peers.table[requester].requests.as_ref();
        let ticket = requests.and_then(|requests| requests.outstanding.get(&correlation).copied());
        let entry = ticket.and_then(|ticket| self.entries.get_mut(&ticket));
        match entry {
            Some(entry) if entry.waits(now) && entry.may_be_answered(by) => {
                entry.is_answered = true;
                true
            }
            _ => false,
        }
    }

    /// Notes that a peer answers a request, and that more replies follow.
    pub(crate) fn note_answering(&mut self, peers: &mut Peers, key: PeerKey, request: (u64, u64)) {
        let Some(requests) = &peers.table[key].requests else { return };
        for ticket in
            requests.unanswered.get(&request).into_iter().flat_map(ReceivedRequest::tickets)
        {
            if let Some(entry) = self.entries.get_mut(&ticket) {
                entry.is_answered = true;
            }
        }
    }

    /// Notes that a peer has given the last reply to a request, or will give none.
    pub(crate) fn note_last_answer(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        key: PeerKey,
        request: (u64, u64),
        outcome: DeliveryOutcome,
    ) {
        let Some(requests) = &mut peers.table[key].requests else { return };
        let unanswered = &mut requests.unanswered;
        let Some(asked) = unanswered.get_mut(&request) else { return };
        // The copies are alike, so that any of their tickets will do.
        let ticket = match asked.again.pop() {
            Some(ticket) => ticket,
            None => unanswered.remove(&request).map_or(0, |asked| asked.ticket),
        };
        self.conclude_copy(peers, now, ticket, outcome);
    }

    /// Forgets a peer that goes: its requests get no reply from it, and its own outcomes are not
    /// needed any more.
    pub(crate) fn forget_tracked(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        key: PeerKey,
        reason: DropReason,
    ) {
        let Some(requests) = peers.table[key].requests.take() else { return };
        peers.settle_pending(key, requests.outstanding.len() as u64);
        for ticket in requests.outstanding.into_values() {
            self.forget(ticket);
        }
        let mut tickets: Vec<Ticket> =
            requests.unanswered.values().flat_map(ReceivedRequest::tickets).collect();
        // Hash order differs between runs. Sorted, a simulation is repeatable by its seed.
        tickets.sort_unstable();
        for ticket in tickets {
            self.conclude_copy(peers, now, ticket, DeliveryOutcome::Dropped(reason));
        }
    }

    /// Forgets the entries of a worker that has ended, because its publishers ended with it.
    pub(crate) fn forget_publishers_of(&mut self, slot: u32) {
        let entries = &mut self.entries;
        entries.retain(
            |_, entry| !matches!(entry.home, OutcomeTarget::There(home, _) if home == slot),
        );
        self.has_remnants = true;
    }

    /// Concludes the copies that a worker had in this generation or an earlier one: they are lost.
    pub(crate) fn drop_copies_of(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        slot: u32,
        generation: u32,
    ) {
        let is_over = |known: &(u32, u32)| known.0 == slot && known.1 <= generation;
        self.drop_elsewhere(peers, now, is_over, DropReason::WorkerDied);
    }

    /// Concludes all copies of other workers, for a router that waits no longer.
    pub(crate) fn give_up_copies(&mut self, peers: &mut Peers, now: Instant, reason: DropReason) {
        self.drop_elsewhere(peers, now, |_| true, reason);
    }

    fn drop_elsewhere(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        is_lost: impl Fn(&(u32, u32)) -> bool,
        reason: DropReason,
    ) {
        for ticket in self.tickets_of(|entry| entry.elsewhere.iter().any(&is_lost)) {
            self.change(peers, now, ticket, |entry| {
                let before = entry.elsewhere.len();
                entry.elsewhere.retain(|known| !is_lost(known));
                let lost = before - entry.elsewhere.len();
                entry.receipt.drop_for(reason, lost as u64);
            });
        }
    }

    /// Tells the publishers' workers that the present holders of their requests may answer. This
    /// router is leaving, and will not be there to report the outcome.
    pub(crate) fn hand_back_requests(&mut self, peers: &mut Peers, now: Instant) {
        for ticket in self.tickets_of(|entry| entry.is_request && !entry.elsewhere.is_empty()) {
            self.change(peers, now, ticket, |entry| {
                entry.elsewhere.clear();
                // Both together mean that a reply may still come: the publisher's worker keeps the
                // request until its time is over.
                (entry.is_answered, entry.is_passed_on) = (true, true);
            });
        }
    }

    /// Returns the matching tickets, sorted so that a simulation is repeatable by its seed.
    fn tickets_of(&self, is_meant: impl Fn(&PendingMessage) -> bool) -> Vec<Ticket> {
        let entries = self.entries.iter();
        let meant = entries.filter(|(_, entry)| is_meant(entry)).map(|(ticket, _)| *ticket);
        let mut tickets: Vec<Ticket> = meant.collect();
        tickets.sort_unstable();
        tickets
    }

    /// Removes expired requests.
    pub(crate) fn sweep(&mut self, peers: &mut Peers, now: Instant) {
        if self.sweep_at.is_none_or(|at| at > now) {
            return;
        }
        let entries = &mut self.entries;
        let is_over = |entry: &PendingMessage| entry.expires.is_some_and(|at| at <= now);
        let over: Vec<_> = entries.extract_if(|_, entry| is_over(entry)).collect();
        let next = entries.values().filter_map(|entry| entry.expires).min();
        // At most one search a second, as each goes through all entries.
        self.sweep_at = next.map(|at| at.max(now + SWEEP_EVERY));
        if over.is_empty() && !std::mem::take(&mut self.has_remnants) {
            return;
        }
        for (_, entry) in over {
            if let OutcomeTarget::Here(key, correlation) = entry.home {
                peers.note_settled(key, correlation);
            }
        }
        let entries = &self.entries;
        // Responders still list the forgotten requests as unanswered.
        for peer in peers.table.values_mut() {
            let waits = |asked: &ReceivedRequest| {
                asked.tickets().any(|ticket| entries.contains_key(&ticket))
            };
            if let Some(requests) = &mut peer.requests {
                requests.unanswered.retain(|_, asked| waits(asked));
            }
        }
    }

    /// Changes an entry, and sends the outcome if nothing is open any more.
    fn change(
        &mut self,
        peers: &mut Peers,
        now: Instant,
        ticket: Ticket,
        change: impl FnOnce(&mut PendingMessage),
    ) {
        let Some(entry) = self.entries.get_mut(&ticket) else { return };
        change(entry);
        if entry.open == 0 && entry.elsewhere.is_empty() && !entry.waits_for_reply() {
            let entry = self.entries.remove(&ticket).expect("it was found above");
            self.tell_outcome(peers, now, entry);
        }
    }

    fn tell_outcome(&mut self, peers: &mut Peers, now: Instant, entry: PendingMessage) {
        let PendingMessage { home, is_request, receipt, is_answered, is_passed_on, .. } = entry;
        match home {
            OutcomeTarget::Nowhere => {}
            OutcomeTarget::There(slot, ticket) => {
                let report = OutcomeReport { ticket, receipt, is_answered, is_passed_on };
                peers.cluster.tell(slot, &WorkerMessage::Concluded(report));
            }
            OutcomeTarget::Here(key, correlation) => {
                // First, because the client may use the number again once it reads the outcome.
                peers.note_settled(key, correlation);
                if !is_request {
                    let header = Header::new(FrameKind::Receipt, correlation);
                    peers.send(now, key, header, &encode(&receipt));
                } else if !is_answered {
                    let body = encode(&unanswered(&receipt));
                    peers.send(now, key, Header::new(FrameKind::Error, correlation), &body);
                }
            }
        }
    }
}

/// Returns the reason why a request has no reply.
fn unanswered(receipt: &Receipt) -> Refusal {
    let why = |&(reason, _): &(DropReason, u64)| match reason {
        DropReason::Oldest | DropReason::Newest => {
            "the request was dropped: the responder's send queue is full"
        }
        DropReason::CutOff => "the responder was disconnected",
        DropReason::Departed => "the responder has gone",
        DropReason::WorkerDied => "the worker that served the responder has died",
        DropReason::TooLarge => "the request is larger than the responder can receive",
        DropReason::NoReader => "the responder has no reader",
    };
    match receipt.dropped.first().map(why) {
        Some(why) => Refusal { code: RefusalCode::Unanswered, message: why.into() },
        None => Refusal {
            code: RefusalCode::NoResponder,
            message: "no peer answers on this subject".into(),
        },
    }
}
