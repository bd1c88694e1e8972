//! The directory in the supervisor: the state that all workers share, and how much of it each
//! worker has confirmed.
//!
//! It believes a worker only about the worker's own peers, and within limits
//! ([`ProtocolViolation`]). It sends nothing itself: the caller delivers the events that it
//! returns.

pub(crate) mod messages;
pub(crate) mod queries;
pub(crate) mod state;
pub(crate) mod violation;

use crate::directory::messages::{
    AddressedEvent, DirectoryEvent, DirectoryRequest, QueryTicket, RequestingPeer,
};
use crate::directory::queries::Question;
use crate::directory::state::{DirectoryChange, DirectoryState};
use crate::directory::violation::{
    MAX_INTERESTS, MAX_NAMES, ProtocolViolation, check_counters, check_interest,
};
use crate::model::counters::add_counters;
use crate::model::interest::{GroupPart, Interest};
use crate::model::names::is_peer_name;
use crate::model::principal::QuotaUsage;
use crate::routing::interests::{InterestTable, SharedWords};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Changes in one message to a worker.
const BATCH: usize = 128;

/// The directory, which the supervisor keeps. Workers have a copy of the state in it.
#[derive(Debug)]
pub struct Directory {
    state: DirectoryState,
    /// Changes that no worker has been told yet.
    pending: Vec<DirectoryChange>,
    /// For each slot, the number of pending changes that its worker has inherited by fork.
    inherited: Vec<usize>,
    /// For each slot, the last epoch that its living worker has confirmed; `None` without a worker.
    seen: Vec<Option<u64>>,
    /// The interests of all workers, in memory that the workers read.
    interests: InterestTable,
    /// For each slot, the last ticket of an interest that was entered, and that the worker waits for.
    entered: BTreeMap<u32, u64>,
    /// The slots of workers that want to know of new members of groups.
    group_watchers: BTreeSet<u32>,
    /// For each slot, the workers that its worker has met: they learn of its end.
    acquainted: Vec<BTreeSet<u32>>,
    /// The slot of the worker that serves the peer of each name.
    names: HashMap<String, u32>,
    /// The number of names of each worker's peers.
    name_counts: Vec<usize>,
    /// The sums of the counters of workers that have ended.
    ended: Vec<(String, u64)>,
    /// For each slot, whether its worker has sent its final counters.
    finished: Vec<bool>,
    /// Whether a worker has asked for anything since the last call of [`Directory::take_activity`].
    is_active: bool,
    /// Open questions, with the workers that have not answered yet.
    questions: HashMap<QueryTicket, Question>,
}

/// Memory for the interests of all workers: the directory's access to it, and the workers'. Theirs
/// need not be writable.
#[derive(Clone, Debug)]
pub struct InterestMemory {
    /// The words for the directory.
    pub writer: SharedWords,
    /// The same words for workers.
    pub readers: SharedWords,
    /// A number that peers do not know.
    pub seed: u64,
}

impl Directory {
    /// Creates a directory for this many slots, all of them empty.
    pub fn new(slots: usize, memory: InterestMemory) -> Self {
        let InterestMemory { writer, readers, seed } = memory;
        let interests = InterestTable::new(slots, writer, readers, seed);
        Self {
            state: DirectoryState::new(slots, interests.view()),
            pending: Vec::new(),
            inherited: vec![0; slots],
            seen: vec![None; slots],
            interests,
            entered: BTreeMap::new(),
            group_watchers: BTreeSet::new(),
            acquainted: vec![BTreeSet::new(); slots],
            names: HashMap::new(),
            name_counts: vec![0; slots],
            ended: Vec::new(),
            finished: vec![false; slots],
            is_active: false,
            questions: HashMap::new(),
        }
    }

    /// Creates a directory for routers in this process. `words` is the size of the memory for their
    /// interests, in words of four bytes.
    pub fn in_process(slots: usize, words: usize) -> Self {
        let writer = SharedWords::private(words);
        Self::new(slots, InterestMemory { readers: writer.clone(), writer, seed: 0 })
    }

    /// Registers a worker that is forked now, and so inherits the current state.
    pub fn add_worker(&mut self, slot: u32, generation: u32) {
        self.interests.begin(slot, generation);
        self.state.apply(&DirectoryChange::Generation { slot, generation });
        // The inherited state includes the pending changes, so that this worker is not sent them.
        self.inherited[slot as usize] = self.pending.len();
        self.seen[slot as usize] = Some(self.state.epoch);
        self.finished[slot as usize] = false;
    }

    /// Removes a dead worker. It counts as having confirmed every epoch and answered every
    /// question, so that no other worker waits for it. Returns the events for those that have met it, and the
    /// answers that are complete now.
    pub fn remove_worker(&mut self, slot: u32) -> Vec<AddressedEvent> {
        let generation = self.state.generations[slot as usize];
        let has_finished = self.finished[slot as usize];
        self.end_in_table(slot);
        for principal in self.state.principals_of(slot) {
            let usage = QuotaUsage::default();
            self.change(DirectoryChange::QuotaUsage { slot, principal, usage });
        }
        let change = DirectoryChange::Died { slot, generation, has_finished };
        self.state.apply(&change);
        let acquainted = std::mem::take(&mut self.acquainted[slot as usize]);
        let mut told = Vec::new();
        for other in acquainted {
            self.acquainted[other as usize].remove(&slot);
            told.push(self.worker_changed(other, change.clone()));
        }
        self.seen[slot as usize] = None;
        self.entered.remove(&slot);
        self.group_watchers.remove(&slot);
        self.names.retain(|_, owner| *owner != slot);
        self.name_counts[slot as usize] = 0;
        told.extend(self.end_questions(slot));
        told
    }

    /// Returns the state for a worker that is forked now.
    pub fn state(&self) -> DirectoryState {
        self.state.for_worker()
    }

    /// Handles a request of a worker, and returns the events to deliver at once. Requests of a slot
    /// without a living worker are ignored.
    ///
    /// # Errors
    ///
    /// If an honest worker does not send such a request. The directory is unchanged then.
    pub fn handle(
        &mut self,
        slot: u32,
        request: DirectoryRequest,
    ) -> Result<Vec<AddressedEvent>, ProtocolViolation> {
        // A dead worker may have left messages in its link.
        if self.seen[slot as usize].is_none() {
            return Ok(Vec::new());
        }
        self.is_active |= !matches!(request, DirectoryRequest::Seen(_));
        match request {
            DirectoryRequest::Seen(epoch) => self.seen(slot, epoch)?,
            DirectoryRequest::Interested { ticket, interest, share } => {
                self.interested(slot, ticket, interest, share)?;
                if share.is_some() {
                    return Ok(self.tell_group_watchers());
                }
            }
            DirectoryRequest::WatchGroups(version) => {
                self.group_watchers.insert(slot);
                // A member may have come since the worker has looked.
                if version != self.state.interests.version() {
                    return Ok(self.tell_group_watchers());
                }
            }
            DirectoryRequest::Meet(other) => return self.meet(slot, other),
            DirectoryRequest::Uninterested(interest) => {
                self.interests.remove(slot, &interest);
            }
            DirectoryRequest::QuotaUsage { principal, usage } => {
                if self.state.has_too_many_principals(slot, principal) {
                    return Err(ProtocolViolation::TooManyPrincipals);
                }
                self.change(DirectoryChange::QuotaUsage { slot, principal, usage });
            }
            DirectoryRequest::ClaimName { by, peer, name } => {
                let (to, key) = (self.state.generations[slot as usize], by.key);
                let granted = self.claim(slot, &name)?;
                return Ok(vec![(slot, DirectoryEvent::Named { to, key, peer, name, granted })]);
            }
            DirectoryRequest::ReleaseName(name) => self.release(slot, &name),
            // A worker may repeat the request; the others must hear of it once.
            DirectoryRequest::Leaving if self.state.is_leaving(slot) => {}
            DirectoryRequest::Leaving => {
                let generation = self.state.generations[slot as usize];
                // From now on no route contains the worker.
                self.end_in_table(slot);
                let change = DirectoryChange::Leaving { slot, generation };
                self.state.apply(&change);
                let told = self.acquainted[slot as usize].iter().chain([&slot]);
                return Ok(told.map(|to| self.worker_changed(*to, change.clone())).collect());
            }
            DirectoryRequest::Counted(counters) => {
                check_counters(&self.ended, &counters)?;
                add_counters(&mut self.ended, &counters);
                self.finished[slot as usize] = true;
            }
            DirectoryRequest::Ask { ticket, query, .. } => return self.ask(slot, ticket, query),
            DirectoryRequest::Answer { asker, part, last } => {
                return self.answer(asker, slot, part, last);
            }
        }
        Ok(Vec::new())
    }

    /// Refuses a request of a worker for a peer that lacks the right. Returns the refusal.
    pub fn deny(&self, slot: u32, request: DirectoryRequest) -> Vec<AddressedEvent> {
        let generation = self.state.generations.get(slot as usize).copied().unwrap_or(0);
        let event = match request {
            DirectoryRequest::ClaimName { by: RequestingPeer { key, .. }, peer, name } => {
                DirectoryEvent::Named { to: generation, key, peer, name, granted: false }
            }
            DirectoryRequest::Ask { ticket, .. } => {
                DirectoryEvent::Denied(QueryTicket { slot, generation, ticket })
            }
            _ => return Vec::new(),
        };
        vec![(slot, event)]
    }

    fn interested(
        &mut self,
        slot: u32,
        ticket: u64,
        interest: Interest,
        share: Option<GroupPart>,
    ) -> Result<(), ProtocolViolation> {
        check_interest(&interest, share.as_ref())?;
        // The check is for more than the limit, so that a worker at the limit may still repeat an
        // interest.
        if self.interests.held(slot) > MAX_INTERESTS {
            return Err(ProtocolViolation::TooManyInterests);
        }
        // An honest worker looks whether there is room.
        self.interests
            .insert(slot, &interest, share)
            .map_err(|_| ProtocolViolation::TooManyInterests)?;
        let entered = self.entered.entry(slot).or_default();
        *entered = ticket.max(*entered);
        Ok(())
    }

    /// Makes two workers known to each other, if the other one takes messages.
    fn meet(&mut self, slot: u32, other: u32) -> Result<Vec<AddressedEvent>, ProtocolViolation> {
        if slot == other || self.seen.len() <= other as usize {
            return Err(ProtocolViolation::Slot);
        }
        let to = self.state.generations[slot as usize];
        if self.seen[other as usize].is_none() || self.state.is_leaving(other) {
            return Ok(vec![(slot, DirectoryEvent::Absent { to, slot: other })]);
        }
        // If both ask, one answer is enough for both.
        if !self.acquainted[slot as usize].insert(other) {
            return Ok(Vec::new());
        }
        self.acquainted[other as usize].insert(slot);
        let generation_of = |slot: u32| {
            let generation = self.state.generations[slot as usize];
            DirectoryChange::Generation { slot, generation }
        };
        let mut told = vec![self.worker_changed(other, generation_of(slot))];
        // A leaving worker passes on its last messages, and waits for the last ones of the other.
        if self.state.is_leaving(slot) {
            let change = DirectoryChange::Leaving { slot, generation: to };
            told.push(self.worker_changed(other, change));
        }
        told.push(self.worker_changed(slot, generation_of(other)));
        Ok(told)
    }

    /// Takes a worker out of the table: no message goes to it any more.
    fn end_in_table(&mut self, slot: u32) {
        self.interests.begin(slot, 0);
        // A worker that has used up its share looks at the quotas again only if it is told to. One
        // that has not needs no event, and there may be thousands.
        if !self.state.usage.is_empty() {
            self.change(DirectoryChange::FewerWorkers);
        }
    }

    /// Returns the events for the workers that wait for new members of groups, once for each request.
    fn tell_group_watchers(&mut self) -> Vec<AddressedEvent> {
        let watchers = std::mem::take(&mut self.group_watchers);
        let generation = |slot: u32| self.state.generations[slot as usize];
        let event = |slot| (slot, DirectoryEvent::GroupsChanged { to: generation(slot) });
        watchers.into_iter().map(event).collect()
    }

    fn worker_changed(&self, slot: u32, change: DirectoryChange) -> AddressedEvent {
        let to = self.state.generations[slot as usize];
        (slot, DirectoryEvent::WorkerChanged { to, change })
    }

    fn seen(&mut self, slot: u32, epoch: u64) -> Result<(), ProtocolViolation> {
        if epoch > self.state.epoch {
            return Err(ProtocolViolation::Epoch);
        }
        if let Some(seen) = &mut self.seen[slot as usize] {
            *seen = epoch.max(*seen);
        }
        Ok(())
    }

    /// Whether a worker has asked for anything since the last call.
    pub fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.is_active)
    }

    /// Returns events that every worker confirms, so that those are found that hang.
    pub fn probe(&mut self) -> Vec<AddressedEvent> {
        self.state.epoch += 1;
        let (epoch, changes) = (self.state.epoch, Vec::new());
        let probe = DirectoryEvent::Changes { epoch, changes };
        self.living().into_iter().map(|slot| (slot, probe.clone())).collect()
    }

    /// Returns the events with all pending changes, and the confirmations that are due.
    pub fn take_events(&mut self) -> Vec<AddressedEvent> {
        let mut told = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        for (changes, first) in pending.chunks(BATCH).zip((0..).step_by(BATCH)) {
            self.state.epoch += 1;
            let epoch = self.state.epoch;
            for slot in self.living() {
                match self.inherited[slot as usize] < first + changes.len() {
                    true => told
                        .push((slot, DirectoryEvent::Changes { epoch, changes: changes.to_vec() })),
                    // The worker has inherited all of these changes by fork, so it counts as having
                    // confirmed them.
                    false => self.seen[slot as usize] = Some(epoch),
                }
            }
        }
        if !pending.is_empty() {
            // The next changes are new to every worker.
            self.inherited.fill(0);
        }
        for (slot, ticket) in std::mem::take(&mut self.entered) {
            let to = self.state.generations[slot as usize];
            told.push((slot, DirectoryEvent::Confirmed { to, ticket }));
        }
        told
    }

    /// Assigns a name to a worker's peer, if the name is free and the worker below the limit.
    fn claim(&mut self, slot: u32, name: &str) -> Result<bool, ProtocolViolation> {
        if !is_peer_name(name) {
            return Err(ProtocolViolation::Name);
        }
        let name_counts = &mut self.name_counts[slot as usize];
        // A worker at the limit is refused, not ended: an honest one can get there with enough
        // peers.
        if *name_counts >= MAX_NAMES || self.names.contains_key(name) {
            return Ok(false);
        }
        *name_counts += 1;
        self.names.insert(name.to_owned(), slot);
        Ok(true)
    }

    /// Frees a name, if a peer of that worker has it. Other workers cannot take it away.
    fn release(&mut self, slot: u32, name: &str) {
        if self.names.get(name) == Some(&slot) {
            self.names.remove(name);
            self.name_counts[slot as usize] -= 1;
        }
    }

    /// Returns the slots of living workers.
    fn living(&self) -> Vec<u32> {
        let slots = (0..).zip(&self.seen);
        slots.filter(|(_, seen)| seen.is_some()).map(|(slot, _)| slot).collect()
    }

    fn change(&mut self, change: DirectoryChange) {
        self.state.apply(&change);
        self.pending.push(change);
    }
}

#[cfg(test)]
mod tests {
    use ipcd_proto::Subject;
    use ipcd_proto::control::{Answer, DaemonStatus, Query};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::directory::violation::{MAX_PARTS, MAX_QUESTIONS};
    use crate::model::ids::{PeerKey, id_of};

    const SLOTS: u32 = 3;
    const HOSTILE: u32 = 1;

    fn any_interest() -> impl Strategy<Value = Interest> {
        let filter = prop_oneof![
            Just("a".to_owned()),
            Just("a.>".to_owned()),
            Just("..".to_owned()),
            Just(String::new()),
            "[a-c*>.]{0,300}",
        ];
        let group = prop_oneof![Just(None), Just(Some("g".to_owned())), ".{0,80}".prop_map(Some)];
        (filter, group).prop_map(|(filter, group)| Interest { filter, group })
    }

    fn any_asker() -> impl Strategy<Value = QueryTicket> {
        (0..SLOTS + 2, 0..4_u32, 0..4_u64).prop_map(|(slot, generation, ticket)| QueryTicket {
            slot,
            generation,
            ticket,
        })
    }

    fn any_query() -> impl Strategy<Value = Query> {
        prop_oneof![
            Just(Query::Status),
            Just(Query::Sandbox),
            any::<u64>().prop_map(Query::Kick),
            ".{0,300}".prop_map(Query::Matching),
            ".{0,100}".prop_map(Query::Find),
        ]
    }

    fn any_answer() -> impl Strategy<Value = Option<Answer>> {
        prop_oneof![
            Just(None),
            any::<u64>().prop_map(|count| Some(Answer::Matching(count))),
            Just(Some(Answer::Status(DaemonStatus::default()))),
            Just(Some(Answer::Peers(Vec::new()))),
        ]
    }

    fn any_request() -> impl Strategy<Value = DirectoryRequest> {
        let name = prop_oneof![Just("mine".to_owned()), Just("yours".to_owned()), ".{0,70}"];
        let share = proptest::option::of((any::<u32>(), any::<u32>()))
            .prop_map(|part| part.map(|(number, members)| GroupPart { number, members }));
        let counters = vec(("[a-z_A]{0,70}", any::<u64>()), 0..70);
        prop_oneof![
            any::<u64>().prop_map(DirectoryRequest::Seen),
            Just(DirectoryRequest::Leaving),
            (0..SLOTS + 2).prop_map(DirectoryRequest::Meet),
            (0..8_u64).prop_map(DirectoryRequest::Seen),
            (any::<u64>(), any_interest(), share).prop_map(|(ticket, interest, share)| {
                DirectoryRequest::Interested { ticket, interest, share }
            }),
            any_interest().prop_map(DirectoryRequest::Uninterested),
            (any::<u32>(), any::<u64>(), name.clone()).prop_map(|(key, peer, name)| {
                DirectoryRequest::ClaimName { by: requesting_peer(key), peer, name }
            }),
            name.prop_map(DirectoryRequest::ReleaseName),
            counters.prop_map(DirectoryRequest::Counted),
            (any::<u64>(), any_query()).prop_map(|(ticket, query)| ask(ticket, query)),
            (any_asker(), any_answer(), any::<bool>())
                .prop_map(|(asker, part, last)| { DirectoryRequest::Answer { asker, part, last } }),
        ]
    }

    fn requesting_peer(key: u32) -> RequestingPeer {
        RequestingPeer { key: PeerKey(key), ..RequestingPeer::default() }
    }

    fn ask(ticket: u64, query: Query) -> DirectoryRequest {
        DirectoryRequest::Ask { ticket, by: requesting_peer(0), query }
    }

    fn interested(filter: &str) -> DirectoryRequest {
        let interest = Interest { filter: filter.into(), group: None };
        DirectoryRequest::Interested { ticket: 1, interest, share: None }
    }

    /// A directory with three workers, one of which has a name and an interest.
    fn directory() -> Directory {
        let mut directory = Directory::in_process(SLOTS as usize, 1 << 23);
        (0..SLOTS).for_each(|slot| directory.add_worker(slot, 1));
        let name =
            DirectoryRequest::ClaimName { by: requesting_peer(0), peer: 1, name: "mine".into() };
        directory.handle(0, name).unwrap();
        directory.handle(0, interested("a")).unwrap();
        directory
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A hostile worker changes nothing that belongs to others, no matter what it says and how
        /// often it dies. Events go to living workers only.
        #[test]
        fn a_hostile_worker_changes_only_what_is_its_own(
            script in vec((any_request(), 0..20_u8), 0..60),
        ) {
            let mut directory = directory();
            let mut generation = 1;
            for (request, event) in script {
                let mut told = directory.handle(HOSTILE, request).unwrap_or_default();
                if event == 0 {
                    generation += 1;
                    told.extend(directory.remove_worker(HOSTILE));
                    directory.add_worker(HOSTILE, generation);
                }
                told.extend(directory.take_events());
                prop_assert!(told.iter().all(|(slot, _)| *slot < SLOTS));
                prop_assert_eq!(directory.names.get("mine"), Some(&0));
                prop_assert_eq!(directory.interests.held(0), 1);
                prop_assert_eq!(&directory.state.generations, &[1, generation, 1]);
                let mine = Subject::parse(b"a").unwrap();
                let (found, _) = directory.state.interests.find(mine);
                prop_assert!(found.iter().any(|remote| remote.slot == 0));
                let name_counts = directory.names.values().filter(|owner| **owner == HOSTILE).count();
                prop_assert_eq!(directory.name_counts[HOSTILE as usize], name_counts);
            }
            directory.remove_worker(HOSTILE);
            prop_assert_eq!(directory.interests.held(HOSTILE), 0);
            prop_assert_eq!((directory.names.len(), directory.questions.len()), (1, 0));
        }
    }

    #[test]
    fn what_no_honest_worker_says_is_a_fault() {
        let claim = |name: &str| DirectoryRequest::ClaimName {
            by: requesting_peer(0),
            peer: 1,
            name: name.into(),
        };
        let (group, members) = (Some("g".to_owned()), Some(GroupPart { number: 1, members: 1 }));
        let shared = Interest { filter: "a".into(), group };
        let counted = |name: &str| DirectoryRequest::Counted(vec![(name.into(), 1)]);
        for (request, fault) in [
            (DirectoryRequest::Seen(1_000), ProtocolViolation::Epoch),
            (interested("a..b"), ProtocolViolation::Interest),
            (
                DirectoryRequest::Interested { ticket: 1, interest: shared, share: None },
                ProtocolViolation::Interest,
            ),
            (
                DirectoryRequest::Interested {
                    ticket: 1,
                    interest: Interest { filter: "a".into(), group: Some("g".repeat(65)) },
                    share: members,
                },
                ProtocolViolation::Interest,
            ),
            (claim(""), ProtocolViolation::Name),
            (claim("two words"), ProtocolViolation::Name),
            (claim("7"), ProtocolViolation::Name),
            (ask(1, Query::Matching("*".into())), ProtocolViolation::Question),
            (ask(1, Query::Find("x".repeat(65))), ProtocolViolation::Question),
            (counted("UPPER"), ProtocolViolation::Counters),
            (counted(&"x".repeat(65)), ProtocolViolation::Counters),
        ] {
            assert_eq!(directory().handle(HOSTILE, request.clone()), Err(fault), "{request:?}");
        }
    }

    /// Another worker can neither act on it nor answer for it.
    #[test]
    fn a_question_about_one_peer_is_for_its_own_worker_only() {
        let mut directory = directory();
        let mut asked = |query| {
            let told = directory.handle(1, ask(1, query)).unwrap();
            let slots: Vec<u32> = told.iter().map(|(slot, _)| *slot).collect();
            (slots, told.into_iter().next().map(|(_, event)| event))
        };
        assert_eq!(asked(Query::Kick(id_of(2, 1, 7))).0, [2]);
        assert_eq!(asked(Query::Find(id_of(0, 1, 7).to_string())).0, [0]);
        assert_eq!(asked(Query::Find("mine".into())).0, [0]);
        assert_eq!(asked(Query::Peers).0, [0, 1, 2]);
        let no_peer = |part| {
            let asker = QueryTicket { slot: 1, generation: 1, ticket: 1 };
            (vec![1], Some(DirectoryEvent::Answer { asker, part: Some(part), last: true }))
        };
        assert_eq!(asked(Query::Kick(id_of(2, 9, 7))), no_peer(Answer::Kicked(false)));
        assert_eq!(asked(Query::Kick(u64::MAX)), no_peer(Answer::Kicked(false)));
        assert_eq!(asked(Query::Find("yours".into())), no_peer(Answer::Found(None)));
        assert_eq!(asked(Query::Find("007".into())), no_peer(Answer::Found(None)));
    }

    #[test]
    fn what_a_peer_has_no_right_to_is_told_to_its_worker() {
        let directory = directory();
        let asker = QueryTicket { slot: 1, generation: 1, ticket: 4 };
        assert_eq!(directory.deny(1, ask(4, Query::Peers)), [(1, DirectoryEvent::Denied(asker))]);
        let claim =
            DirectoryRequest::ClaimName { by: requesting_peer(3), peer: 5, name: "a".into() };
        let told = directory.deny(1, claim);
        assert!(
            matches!(told[..], [(1, DirectoryEvent::Named { granted: false, peer: 5, .. })]),
            "{told:?}"
        );
        assert!(directory.deny(1, interested("a")).is_empty());
    }

    #[test]
    fn answers_are_to_the_question_and_end() {
        let mut directory = directory();
        directory.handle(0, ask(1, Query::Peers)).unwrap();
        let asker = QueryTicket { slot: 0, generation: 1, ticket: 1 };
        let answer = |part| DirectoryRequest::Answer { asker, part: Some(part), last: false };
        let wrong = directory.handle(HOSTILE, answer(Answer::Matching(1)));
        assert_eq!(wrong, Err(ProtocolViolation::Answer));
        for _ in 0..MAX_PARTS {
            directory.handle(HOSTILE, answer(Answer::Peers(Vec::new()))).unwrap();
        }
        let endless = directory.handle(HOSTILE, answer(Answer::Peers(Vec::new())));
        assert_eq!(endless, Err(ProtocolViolation::Parts));
    }

    #[test]
    fn what_a_worker_can_make_grow_is_bounded() {
        let mut directory = directory();
        for number in 0..=MAX_INTERESTS {
            directory.handle(HOSTILE, interested(&format!("f.{number}"))).unwrap();
        }
        assert_eq!(
            directory.handle(HOSTILE, interested("one.more")),
            Err(ProtocolViolation::TooManyInterests)
        );
        // One confirmation is enough for all of them.
        assert_eq!(directory.entered.get(&HOSTILE), Some(&1));
        for ticket in 0..MAX_QUESTIONS as u64 {
            directory.handle(HOSTILE, ask(ticket, Query::Peers)).unwrap();
        }
        let one_more = ask(u64::MAX, Query::Peers);
        assert_eq!(
            directory.handle(HOSTILE, one_more.clone()),
            Err(ProtocolViolation::TooManyQueries)
        );
        assert!(directory.handle(0, one_more).is_ok(), "other workers may still ask");
        let counters = |from: u32| (from..from + 40).map(|n| (format!("c{n}"), 1)).collect();
        directory.handle(HOSTILE, DirectoryRequest::Counted(counters(0))).unwrap();
        directory.handle(HOSTILE, DirectoryRequest::Counted(counters(0))).unwrap();
        assert_eq!(
            directory.handle(HOSTILE, DirectoryRequest::Counted(counters(40))),
            Err(ProtocolViolation::Counters)
        );
    }

    #[test]
    fn an_interest_that_never_was_is_not_reported_as_gone() {
        let mut directory = directory();
        directory.take_events();
        let never = Interest { filter: "never".into(), group: None };
        directory.handle(HOSTILE, DirectoryRequest::Uninterested(never)).unwrap();
        assert!(directory.pending.is_empty());
    }
}
