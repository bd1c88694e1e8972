//! This worker's own interests, and their flow state.
//!
//! A single interest is *blocked* while the send queue of any subscriber is full; a group's
//! interest, while those of all members are. The other workers learn of the first and the last
//! subscriber through the directory, and of the flow state in the same stream as the messages.

use crate::cluster::messages::WorkerMessage;
use crate::cluster::{Cluster, PendingAck};
use crate::directory::messages::DirectoryRequest;
use crate::directory::violation::{MAX_INTERESTS, is_interest};
use crate::model::interest::{GroupPart, Interest};
use crate::routing::index::QueueGroup;
use crate::routing::interests::FilterPattern;
use ipcd_proto::Filter;
use std::collections::HashSet;
use std::rc::Rc;

/// Groups that are remembered by number, former groups included. Beyond this, former groups are
/// forgotten: by then no message is in flight to them.
const MAX_NUMBERS: usize = 4096;

/// An interest of this worker.
#[derive(Debug, Default)]
pub(crate) struct LocalInterest {
    members: u32,
    /// Members that make publishers wait, because their send queues are full.
    full: u32,
    /// Whether the other workers were told that this interest is blocked.
    is_blocked: bool,
    ticket: u64,
    /// The number of the queue group, if this is the interest of one.
    number: Option<u32>,
}

/// Returns the interest in all messages.
fn broad_interest() -> Interest {
    Interest { filter: ">".into(), group: None }
}

impl LocalInterest {
    fn must_block(&self) -> bool {
        match self.number {
            Some(_) => self.members > 0 && self.full == self.members,
            None => self.full > 0,
        }
    }

    fn part(&self) -> Option<GroupPart> {
        self.number.map(|number| GroupPart { number, members: self.members })
    }
}

impl Cluster {
    /// Adds a subscription to this worker's interests. Returns false if the acknowledgement has to
    /// wait until all workers know of the interest.
    pub(crate) fn add_interest(
        &mut self,
        interest: Interest,
        group: Option<&Rc<QueueGroup>>,
        is_full: bool,
        ack: PendingAck,
    ) -> bool {
        let interest = self.enter(interest);
        let is_new = !self.locals.contains_key(&interest);
        if is_new {
            let number = group.map(|group| self.number(group));
            self.next_ticket += 1;
            let ticket = self.next_ticket;
            let local = LocalInterest { number, ticket, ..LocalInterest::default() };
            self.locals.insert(interest.clone(), local);
        }
        let local = self.locals.get_mut(&interest).expect("it was added if it was missing");
        local.members += 1;
        local.full += u32::from(is_full);
        let (ticket, share) = (local.ticket, local.part());
        // Other workers share a group's messages out by the numbers of members, so each change
        // counts.
        if is_new || share.is_some() {
            let interest = interest.clone();
            self.tell_directory(DirectoryRequest::Interested { ticket, interest, share });
        }
        let is_known = ticket <= self.confirmed;
        if !is_known {
            self.pending_acks.push(PendingAck { ticket, ..ack });
        }
        // A full subscriber may block the interest, and a free one unblocks a group.
        self.tell_flow(&interest);
        is_known
    }

    /// Whether an interest cannot be added. The directory would treat more as a protocol violation.
    pub(crate) fn has_too_many_interests(&self) -> bool {
        self.locals.len() >= MAX_INTERESTS
            || (!self.is_alone() && !self.directory.interests.has_room())
    }

    /// Whether a group with this filter cannot be added, because the table of interests has no place
    /// for the pattern of the filter.
    pub(crate) fn lacks_pattern(&self, filter: &Filter) -> bool {
        !self.is_alone() && !self.directory.interests.takes_pattern(FilterPattern::of(filter))
    }

    /// Returns the interest to be entered for a new subscription. If the table of interests has no
    /// place for the pattern of the filter, this worker asks for all messages instead, and finds the
    /// subscription itself. Other workers cannot do that for a group.
    fn enter(&mut self, interest: Interest) -> Interest {
        let has_pattern = |text: &str| {
            let filter = Filter::parse(text.as_bytes());
            filter.is_ok_and(|filter| !self.lacks_pattern(&filter))
        };
        let is_broad = self.broad.contains_key(&interest)
            || (interest.group.is_none()
                && !self.locals.contains_key(&interest)
                && !has_pattern(&interest.filter));
        if !is_broad {
            return interest;
        }
        *self.broad.entry(interest).or_default() += 1;
        broad_interest()
    }

    /// Returns the interest that was entered for a subscription that goes.
    fn withdraw(&mut self, interest: Interest) -> Interest {
        let Some(subscriptions) = self.broad.get_mut(&interest) else { return interest };
        *subscriptions -= 1;
        if *subscriptions == 0 {
            self.broad.remove(&interest);
        }
        broad_interest()
    }

    /// Takes a subscription out of this worker's interests.
    pub(crate) fn remove_interest(&mut self, interest: Interest, was_full: bool) {
        let interest = self.withdraw(interest);
        let Some(local) = self.locals.get_mut(&interest) else { return };
        // The subscription's own fullness must leave the count before the flow state is told.
        local.members -= 1;
        local.full -= u32::from(was_full);
        if local.members > 0 {
            let (ticket, share) = (local.ticket, local.part());
            self.tell_flow(&interest);
            if share.is_some() {
                self.tell_directory(DirectoryRequest::Interested { ticket, interest, share });
            }
            return;
        }
        // Other workers keep the state by interest: a later equal one would start blocked.
        if local.is_blocked {
            self.tell_all(&WorkerMessage::FlowState {
                interest: interest.clone(),
                is_blocked: false,
            });
        }
        self.locals.remove(&interest);
        self.tell_directory(DirectoryRequest::Uninterested(interest));
    }

    /// Notes that a member of an interest has become full, or is not full any more.
    pub(crate) fn set_full(&mut self, interest: &Interest, is_full: bool) {
        let interest = if self.broad.contains_key(interest) { &broad_interest() } else { interest };
        let Some(local) = self.locals.get_mut(interest) else { return };
        local.full = if is_full { local.full + 1 } else { local.full.saturating_sub(1) };
        self.tell_flow(interest);
    }

    /// Tells the other workers if the flow state of an interest has changed.
    fn tell_flow(&mut self, interest: &Interest) {
        let Some(local) = self.locals.get_mut(interest) else { return };
        let is_blocked = local.must_block();
        if std::mem::replace(&mut local.is_blocked, is_blocked) != is_blocked {
            self.tell_all(&WorkerMessage::FlowState { interest: interest.clone(), is_blocked });
        }
    }

    /// Tells a worker that has just started which interests here are blocked.
    pub(crate) fn tell_blocked(&mut self, slot: u32) {
        let blocked = self.locals.iter().filter(|(_, local)| local.is_blocked);
        let mut blocked: Vec<Interest> = blocked.map(|(interest, _)| interest.clone()).collect();
        // Hash order differs between runs. Sorted, a simulation is repeatable by its seed.
        blocked.sort_unstable();
        for interest in blocked {
            self.tell(slot, &WorkerMessage::FlowState { interest, is_blocked: true });
        }
    }

    /// Notes whether another worker's interest is blocked.
    pub(crate) fn set_blocked(&mut self, slot: u32, interest: Interest, is_blocked: bool) {
        // A hostile worker may report any interest, so the set is bounded.
        if !is_interest(&interest) || (is_blocked && self.blocked.len() >= MAX_INTERESTS) {
            return;
        }
        self.note_route_change();
        match is_blocked {
            true => drop(self.blocked.insert((slot, interest))),
            false => drop(self.blocked.remove(&(slot, interest))),
        }
    }

    /// Notes that the interests up to this ticket are in the table. Returns the subscriptions to
    /// acknowledge.
    pub(crate) fn confirm(&mut self, ticket: u64) -> Vec<PendingAck> {
        self.confirmed = self.confirmed.max(ticket);
        self.pending_acks.extract_if(.., |pending| pending.ticket <= ticket).collect()
    }

    /// Returns this worker's queue group of a number.
    pub(crate) fn group_of(&self, number: u32) -> Option<Rc<QueueGroup>> {
        self.numbers.get(&number).cloned()
    }

    /// Assigns a number to a queue group. Messages of other workers for the group carry it.
    fn number(&mut self, group: &Rc<QueueGroup>) -> u32 {
        // In a message, 0 stands for no group.
        self.last_number = self.last_number.wrapping_add(1).max(1);
        if self.numbers.len() >= MAX_NUMBERS {
            let locals: HashSet<u32> =
                self.locals.values().filter_map(|local| local.number).collect();
            self.numbers.retain(|number, _| locals.contains(number));
        }
        self.numbers.insert(self.last_number, Rc::clone(group));
        self.last_number
    }
}
