//! Queries about the daemon. All its workers answer, and long answers take several turns.

use crate::directory::messages::{DirectoryEvent, DirectoryRequest, QueryTicket};
use crate::directory::violation::{MAX_PARTS, MAX_QUESTIONS};
use crate::model::counters::add_counters;
use crate::model::failure::Failure;
use crate::model::ids::PeerKey;
use crate::peers::peer::SessionState;
use crate::peers::rights::denied;
use crate::router::Router;
use crate::sessions::handshake::{bad_subject, malformed};
use crate::sessions::work::{DeferredWork, PendingQuery, QueryOrigin};
use ipcd_proto::Frame;
use ipcd_proto::FrameKind;
use ipcd_proto::Header;
use ipcd_proto::Subject;
use ipcd_proto::control::Answer;
use ipcd_proto::control::Query;
use ipcd_proto::control::RefusalCode;
use ipcd_proto::control::decode;
use ipcd_proto::control::encode;
use ipcd_proto::limits::MAX_NAME;
use serde::Serialize;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Instant;

/// Bytes of one part of an answer, roughly.
const PART_BYTES: usize = 32 * 1024;

/// Steps for reporting a peer or a subscription.
const STEPS_TO_TELL: usize = 8;

/// Queries of this router's peers that are not fully answered.
#[derive(Debug, Default)]
pub(crate) struct OpenQueries {
    asked: HashMap<u64, Asked>,
    next: u64,
}

#[derive(Debug)]
struct Asked {
    key: PeerKey,
    peer: u64,
    correlation: u64,
    is_of_subscriptions: bool,
    /// The sum of the answers so far, for a query whose answers are added up.
    sum: Option<Answer>,
}

impl PendingQuery {
    pub(crate) fn new(by: QueryOrigin, query: Query) -> Box<Self> {
        let (peers, subscriptions) = (VecDeque::new(), VecDeque::new());
        Box::new(Self { by, query, next: 0, peers, subscriptions, parts: 0 })
    }

    /// Returns as many entries as fit into a part.
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
    /// Handles an event of the directory.
    pub fn handle_event(&mut self, now: Instant, event: DirectoryEvent) {
        let (slot, generation) = (self.peers().config.slot, self.peers().config.generation);
        match event {
            DirectoryEvent::Changes { epoch, changes } => {
                let directory = &mut self.delivery.sessions.peers.cluster.directory;
                // A worker inherits the changes that were told before its fork, and may get them
                // once more.
                if epoch > directory.epoch {
                    directory.epoch = epoch;
                    // Without a change, the directory only wants the confirmation.
                    if !changes.is_empty() {
                        self.delivery.apply_changes(now, &changes);
                    }
                }
                // Also for a known batch: the directory waits for the confirmation of each.
                self.delivery.sessions.peers.cluster.tell_directory(DirectoryRequest::Seen(epoch));
            }
            DirectoryEvent::WorkerChanged { to, change } if to == generation => {
                self.delivery.apply_changes(now, &[change]);
            }
            DirectoryEvent::GroupsChanged { to } if to == generation => {
                self.peers_mut().cluster.is_watching_groups = false;
                self.sessions_mut().resume_group_waiters();
            }
            DirectoryEvent::Absent { to, slot } if to == generation => {
                self.peers_mut().cluster.note_absent(slot);
                self.delivery.note_met();
            }
            DirectoryEvent::Confirmed { to, ticket } if to == generation => {
                self.delivery.confirmed(now, ticket)
            }
            DirectoryEvent::Named { to, key, peer, name, granted } if to == generation => {
                if self.sessions().is_waiting_for_name(key, peer) {
                    self.sessions_mut().answer_name(now, key, granted);
                } else if granted {
                    // The peer has gone meanwhile. Only this router knows, so it has to release the
                    // name.
                    self.sessions_mut().release_name(name);
                }
            }
            DirectoryEvent::Question { asker, query } => self.answer_query(now, asker, query),
            DirectoryEvent::Answer { asker, part, last }
                if (asker.slot, asker.generation) == (slot, generation) =>
            {
                self.add_answer(now, asker.ticket, part, last);
            }
            DirectoryEvent::Denied(asker)
                if (asker.slot, asker.generation) == (slot, generation) =>
            {
                self.deny_query(now, asker.ticket);
            }
            // Events for the previous worker of the slot.
            _ => {}
        }
    }

    pub(crate) fn query(
        &mut self,
        now: Instant,
        key: PeerKey,
        frame: &Frame<'_>,
    ) -> Result<(), Failure> {
        let query: Query = decode(frame.payload).map_err(malformed)?;
        let correlation = frame.header.correlation;
        match self.check_query(key, &query) {
            // No peer can have such a name. A longer one would be a protocol violation of this
            // worker.
            Ok(()) if matches!(&query, Query::Find(who) if who.len() > MAX_NAME) => {
                self.answer(now, key, correlation, false, &Answer::Found(None));
            }
            Ok(()) => self.ask(now, key, correlation, query),
            Err((code, why)) => self.peers_mut().refuse(now, key, correlation, code, why),
        }
        Ok(())
    }

    /// Checks that a query is well-formed, and that the peer may send it.
    fn check_query(&self, key: PeerKey, query: &Query) -> Result<(), Failure> {
        match query {
            Query::Matching(subject) => {
                Subject::parse(subject.as_bytes()).map_err(bad_subject)?;
            }
            Query::Access { who, access } => {
                self.delivery
                    .sessions
                    .peers
                    .config
                    .acl
                    .verdict(who, access)
                    .map_err(bad_subject)?;
            }
            _ => {}
        }
        self.peers().check_right_to_ask(key, query)?;
        if self.has_too_many_queries() {
            let why = format!(
                "the limit of {MAX_QUESTIONS} open queries of a worker is reached: try again later"
            );
            return Err((RefusalCode::Limit, why));
        }
        Ok(())
    }

    /// Whether another query would exceed the directory's limit, and so be a protocol violation.
    pub(crate) fn has_too_many_queries(&self) -> bool {
        self.queries.asked.len() >= MAX_QUESTIONS
    }

    pub(crate) fn ask(&mut self, now: Instant, key: PeerKey, correlation: u64, query: Query) {
        self.queries.next += 1;
        let ticket = self.queries.next;
        let peer = self.delivery.sessions.peers.table[key].origin.peer;
        // The key may belong to another peer when the answer arrives; the id does not.
        let is_of_subscriptions = query == Query::Subscriptions;
        let asked = Asked { key, peer, correlation, is_of_subscriptions, sum: None };
        self.queries.asked.insert(ticket, asked);
        self.delivery.sessions.peers.table[key].questions += 1;
        if !self.delivery.sessions.peers.cluster.is_alone() {
            // The supervisor checks the right to ask once more: a compromised worker would not.
            let by = self.peers().requesting_peer(key);
            self.delivery.sessions.peers.cluster.tell_directory(DirectoryRequest::Ask {
                ticket,
                by,
                query,
            });
            return;
        }
        match takes_long(&query) {
            true => self.defer_query(QueryOrigin::Here(ticket), query),
            false => {
                for answer in self.report(now, &query) {
                    self.add_answer(now, ticket, Some(answer), false);
                }
                self.add_answer(now, ticket, None, true);
            }
        }
    }

    /// Answers a query of another worker's peer, or of one of this router's.
    pub(crate) fn answer_query(&mut self, now: Instant, asker: QueryTicket, query: Query) {
        if takes_long(&query) {
            return self.defer_query(QueryOrigin::Directory(asker), query);
        }
        let parts = self.report(now, &query).into_iter().map(Some);
        for part in parts.chain([None]) {
            let last = part.is_none();
            self.delivery.sessions.peers.cluster.tell_directory(DirectoryRequest::Answer {
                asker,
                part,
                last,
            });
        }
    }

    /// Handles a part of the answer to a query of this router's peer. With `last`, the answer is
    /// complete.
    pub(crate) fn add_answer(
        &mut self,
        now: Instant,
        ticket: u64,
        part: Option<Answer>,
        last: bool,
    ) {
        let Some(asked) = self.queries.asked.get_mut(&ticket) else { return };
        let (key, peer, correlation) = (asked.key, asked.peer, asked.correlation);
        // Lists may be long, so that their parts go to the peer at once. Sums are kept until the
        // end.
        let pass_on = match part {
            Some(part @ (Answer::Peers(_) | Answer::Subscriptions(_))) => Some(part),
            Some(part) => {
                add(&mut asked.sum, part);
                None
            }
            None => None,
        };
        let is_here = self
            .delivery
            .sessions
            .peers
            .table
            .get(key)
            .is_some_and(|found| found.origin.peer == peer);
        if let Some(part) = pass_on.filter(|_| is_here) {
            self.answer(now, key, correlation, true, &part);
        }
        if last {
            let asked = self.queries.asked.remove(&ticket).expect("it was found above");
            // A list ends with an empty part.
            let nothing = match asked.is_of_subscriptions {
                true => Answer::Subscriptions(Vec::new()),
                false => Answer::Peers(Vec::new()),
            };
            let answer = asked.sum.unwrap_or(nothing);
            if is_here {
                self.answer(now, key, correlation, false, &answer);
                let peer = &mut self.delivery.sessions.peers.table[key];
                peer.questions = peer.questions.saturating_sub(1);
                self.peers_mut().resume_waiters(key);
            }
        }
    }

    /// Handles the supervisor's refusal of a query. Its rules are newer than this router's.
    pub(crate) fn deny_query(&mut self, now: Instant, ticket: u64) {
        let Some(Asked { key, peer, correlation, .. }) = self.queries.asked.remove(&ticket) else {
            return;
        };
        if self
            .delivery
            .sessions
            .peers
            .table
            .get(key)
            .is_some_and(|found| found.origin.peer == peer)
        {
            let (code, why) = denied("send this query");
            self.peers_mut().refuse(now, key, correlation, code, why);
        }
    }

    pub(crate) fn answer(
        &mut self,
        now: Instant,
        key: PeerKey,
        correlation: u64,
        more: bool,
        body: &Answer,
    ) {
        let header = Header { more, ..Header::new(FrameKind::Answer, correlation) };
        self.peers_mut().send(now, key, header, &encode(body));
    }

    /// Defers the answer to a later turn.
    pub(crate) fn defer_query(&mut self, by: QueryOrigin, query: Query) {
        self.delivery
            .sessions
            .work
            .queue
            .push_back(DeferredWork::Query(PendingQuery::new(by, query)));
    }

    /// Continues an answer: sends a part, or its end.
    pub(crate) fn continue_query(&mut self, now: Instant, mut query_job: Box<PendingQuery>) {
        let by = query_job.by;
        if !matches!(query_job.query, Query::Peers | Query::Subscriptions) {
            let answers = self.report(now, &query_job.query);
            answers.into_iter().for_each(|answer| self.send_part(now, by, Some(answer)));
            return self.send_part(now, by, None);
        }
        // A slice of the turn collects, and one part is sent: long answers share turns with others.
        while !self.delivery.sessions.work.budget.is_spent() && self.add_next(&mut query_job) {}
        if let Some(part) = query_job.take_part() {
            self.send_part(now, by, Some(part));
        }
        // The directory would treat further parts as a protocol violation, so they are left out.
        let is_over = self.place_after(query_job.next).is_none()
            && query_job.peers.is_empty()
            && query_job.subscriptions.is_empty();
        match is_over || query_job.parts >= MAX_PARTS {
            true => self.send_part(now, by, None),
            false => self.delivery.sessions.work.queue.push_back(DeferredWork::Query(query_job)),
        }
    }

    /// Collects the status of the next peer. Returns false at the end, or when enough is collected.
    fn add_next(&mut self, query_job: &mut PendingQuery) -> bool {
        let Some(place) = self.place_after(query_job.next) else { return false };
        // A peer may have thousands of subscriptions. They are sent before the next peer's.
        if !query_job.subscriptions.is_empty() {
            return false;
        }
        query_job.next = place + 1;
        let key = PeerKey(place);
        match query_job.query {
            Query::Peers => query_job.peers.push_back(self.peer_status(key)),
            _ => query_job.subscriptions.extend(self.subscription_statuses(key)),
        }
        self.delivery
            .sessions
            .work
            .budget
            .spend(STEPS_TO_TELL * (1 + query_job.subscriptions.len()));
        true
    }

    /// Returns the next key from this one on that a peer has.
    fn place_after(&self, place: u32) -> Option<u32> {
        let table = &self.delivery.sessions.peers.table;
        let is_here = |at: &u32| {
            let peer = table.get(PeerKey(*at));
            peer.is_some_and(|peer| !matches!(peer.state, SessionState::Gone))
        };
        (place..table.capacity() as u32).find(is_here)
    }

    fn send_part(&mut self, now: Instant, by: QueryOrigin, part: Option<Answer>) {
        let last = part.is_none();
        match by {
            QueryOrigin::Here(ticket) => self.add_answer(now, ticket, part, last),
            QueryOrigin::Directory(asker) => {
                self.delivery.sessions.peers.cluster.tell_directory(DirectoryRequest::Answer {
                    asker,
                    part,
                    last,
                });
            }
        }
    }
}

/// Whether the effort for the answer grows with the number of peers, so that it is deferred.
fn takes_long(query: &Query) -> bool {
    matches!(query, Query::Status | Query::Peers | Query::Subscriptions)
}

/// Adds an answer to the sum of earlier ones.
fn add(sum: &mut Option<Answer>, part: Answer) {
    match (sum, part) {
        (Some(Answer::Status(sum)), Answer::Status(part)) => {
            sum.workers.extend(part.workers);
            // Workers answer in any order.
            sum.workers.sort_unstable_by_key(|worker| worker.slot);
            for (sum, part) in sum.listeners.iter_mut().zip(part.listeners) {
                sum.peers = sum.peers.saturating_add(part.peers);
            }
            add_counters(&mut sum.counters, &part.counters);
        }
        (Some(Answer::Matching(sum)), Answer::Matching(part)) => {
            *sum = sum.saturating_add(part);
        }
        (Some(Answer::Kicked(sum)), Answer::Kicked(part)) => *sum |= part,
        (Some(Answer::Found(sum)), Answer::Found(part)) => *sum = sum.or(part),
        (sum @ None, part) => *sum = Some(part),
        // Honest workers answer the query, so this is an answer of another kind.
        _ => {}
    }
}

/// Removes as many entries as fit into a part. Returns `None` if there are none.
fn part_of<T: Serialize>(items: &mut VecDeque<T>) -> Option<Vec<T>> {
    let mut bytes = 0;
    let fits = |item: &T| {
        bytes += encode(item).len();
        bytes <= PART_BYTES
    };
    let count = items.iter().map(fits).take_while(|fits| *fits).count();
    // At least one, even if it alone is too long: otherwise the answer would never end.
    let part: Vec<T> = items.drain(..count.max(1).min(items.len())).collect();
    (!part.is_empty()).then_some(part)
}
