//! Questions that are answered over several turns: about all peers, or all their subscriptions, of
//! which there may be millions.

use std::collections::VecDeque;
use std::time::Instant;

use crate::core::{Output, Router};
use crate::directory::messages::{DirectoryRequest, QueryTicket};
use crate::directory::violation::MAX_PARTS;
use crate::model::ids::PeerKey;
use crate::peer::SessionState;
use crate::turns::DeferredWork;
use ipcd_proto::control::{Answer, PeerStatus, Query, SubscriptionStatus, encode};
use serde::Serialize;

/// Bytes of one part of an answer, roughly.
const PART_BYTES: usize = 32 * 1024;
/// Steps that it takes to tell of a peer or of a subscription.
const STEPS_TO_TELL: usize = 8;

/// A question, and how much of it is answered.
#[derive(Debug)]
pub(crate) struct PendingQuery {
    by: QueryOrigin,
    query: Query,
    /// The place of the next peer to tell of.
    next: u32,
    /// What is still to be told of the peers before that.
    peers: VecDeque<PeerStatus>,
    subscriptions: VecDeque<SubscriptionStatus>,
    parts: usize,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QueryOrigin {
    /// A peer of this router's, of which there is no other: by its ticket.
    Here(u64),
    /// Another worker, or this one by way of the table.
    Directory(QueryTicket),
}

impl PendingQuery {
    pub(crate) fn new(by: QueryOrigin, query: Query) -> Box<Self> {
        let (peers, subscriptions) = (VecDeque::new(), VecDeque::new());
        Box::new(Self { by, query, next: 0, peers, subscriptions, parts: 0 })
    }

    /// As much as fits into a part.
    fn take_part(&mut self) -> Option<Answer> {
        let part = match self.query {
            Query::Peers => part_of(&mut self.peers).map(Answer::Peers),
            _ => part_of(&mut self.subscriptions).map(Answer::Subscriptions),
        };
        self.parts += usize::from(part.is_some());
        part
    }
}

impl Router {
    /// Answers a question, in a later turn.
    pub(crate) fn inquire(&mut self, by: QueryOrigin, query: Query) {
        self.deferred.push_back(DeferredWork::Query(PendingQuery::new(by, query)));
    }

    /// Goes on with an answer: a part of it, or its end.
    pub(crate) fn go_on_answering(&mut self, now: Instant, mut inquiry: Box<PendingQuery>) {
        let by = inquiry.by;
        if !matches!(inquiry.query, Query::Peers | Query::Subscriptions) {
            let answers = self.report(now, &inquiry.query);
            answers.into_iter().for_each(|answer| self.tell_part(now, by, Some(answer)));
            return self.tell_part(now, by, None);
        }
        while !self.budget.is_spent() && self.tell_of_next(&mut inquiry) {}
        if let Some(part) = inquiry.take_part() {
            self.tell_part(now, by, Some(part));
        }
        // What a table would not take of this worker is left out.
        let is_over = self.place_after(inquiry.next).is_none()
            && inquiry.peers.is_empty()
            && inquiry.subscriptions.is_empty();
        match is_over || inquiry.parts >= MAX_PARTS {
            true => self.tell_part(now, by, None),
            false => self.deferred.push_back(DeferredWork::Query(inquiry)),
        }
    }

    /// Notes what is to be told of the next peer; false if there is none, or enough was noted.
    fn tell_of_next(&mut self, inquiry: &mut PendingQuery) -> bool {
        let Some(place) = self.place_after(inquiry.next) else { return false };
        if !inquiry.subscriptions.is_empty() {
            return false;
        }
        inquiry.next = place + 1;
        let key = PeerKey(place);
        match inquiry.query {
            Query::Peers => inquiry.peers.push_back(self.peer_status(key)),
            _ => inquiry.subscriptions.extend(self.subscription_statuses(key)),
        }
        self.budget.spend(STEPS_TO_TELL * (1 + inquiry.subscriptions.len()));
        true
    }

    /// The next place from this one on that a peer is in.
    fn place_after(&self, place: u32) -> Option<u32> {
        let is_here = |at: &u32| {
            let peer = self.peers.get(*at as usize);
            peer.is_some_and(|peer| !matches!(peer.state, SessionState::Gone))
        };
        (place..self.peers.capacity() as u32).find(is_here)
    }

    fn tell_part(&mut self, now: Instant, by: QueryOrigin, part: Option<Answer>) {
        let last = part.is_none();
        match by {
            QueryOrigin::Here(ticket) => self.reported(now, ticket, part, last),
            QueryOrigin::Directory(asker) => {
                self.outputs.push_back(Output::Tell(DirectoryRequest::Answer {
                    asker,
                    part,
                    last,
                }));
            }
        }
    }
}

/// Takes as many as fit into a part, if there are any.
fn part_of<T: Serialize>(items: &mut VecDeque<T>) -> Option<Vec<T>> {
    let mut bytes = 0;
    let fits = |item: &T| {
        bytes += encode(item).len();
        bytes <= PART_BYTES
    };
    let count = items.iter().map(fits).take_while(|fits| *fits).count();
    let part: Vec<T> = items.drain(..count.max(1).min(items.len())).collect();
    (!part.is_empty()).then_some(part)
}
