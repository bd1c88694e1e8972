//! This worker's own interests, and whether they are blocked.
//!
//! An interest is *off* while the send queue of one of its subscribers is full; that of a queue group,
//! while those of all its members are. The other workers hear of the first and the last subscriber
//! through the directory, and of the flow state in the same stream as the messages.

use crate::cluster::messages::WorkerMessage;
use crate::cluster::{Cluster, PendingAck};
use crate::directory::messages::DirectoryRequest;
use crate::directory::state::{GroupPart, Interest};
use crate::directory::violation::{MAX_INTERESTS, is_interest};
use crate::routing::trie::QueueGroup;
use ipcd_proto::Filter;
use std::collections::HashSet;
use std::rc::Rc;

/// Groups that are remembered by number, those that have left included, before the latter are
/// forgotten. By then nothing is on its way to them any more.
const MAX_NUMBERS: usize = 4096;

/// An interest of this worker.
#[derive(Debug, Default)]
pub(crate) struct LocalInterest {
    members: u32,
    /// Members that make publishers wait, because their send queues are full.
    full: u32,
    /// Whether the other workers were told that it is blocked.
    is_blocked: bool,
    ticket: u64,
    /// The number of a queue group here.
    number: Option<u32>,
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
    /// Adds a subscription to this worker's interests; false if the acknowledgement has to wait until
    /// all workers know of it.
    pub(crate) fn add_interest(
        &mut self,
        interest: Interest,
        group: Option<&Rc<QueueGroup>>,
        is_full: bool,
        ack: PendingAck,
    ) -> bool {
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
        // Other workers give a group its share by the number of its members.
        if is_new || share.is_some() {
            let interest = interest.clone();
            self.tell_directory(DirectoryRequest::Interested { ticket, interest, share });
        }
        let is_known = ticket <= self.confirmed;
        if !is_known {
            self.pending_acks.push(PendingAck { ticket, ..ack });
        }
        self.tell_flow(&interest);
        is_known
    }

    /// Whether no further interest can be added: the directory would take more for a violation.
    pub(crate) fn has_too_many_interests(&self) -> bool {
        self.locals.len() >= MAX_INTERESTS
    }

    /// Takes a subscription out of this worker's interests.
    pub(crate) fn remove_interest(&mut self, interest: Interest, was_full: bool) {
        let Some(local) = self.locals.get_mut(&interest) else { return };
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
        if local.is_blocked {
            self.tell_all(&WorkerMessage::Level { interest: interest.clone(), off: false });
        }
        self.locals.remove(&interest);
        self.tell_directory(DirectoryRequest::Uninterested(interest));
    }

    /// Notes that a member of an interest cannot take more, or can again.
    pub(crate) fn set_full(&mut self, interest: &Interest, is_full: bool) {
        let Some(local) = self.locals.get_mut(interest) else { return };
        local.full = if is_full { local.full + 1 } else { local.full.saturating_sub(1) };
        self.tell_flow(interest);
    }

    /// Tells the other workers if an interest has become blocked, or is not blocked any more.
    fn tell_flow(&mut self, interest: &Interest) {
        let Some(local) = self.locals.get_mut(interest) else { return };
        let off = local.must_block();
        if std::mem::replace(&mut local.is_blocked, off) != off {
            self.tell_all(&WorkerMessage::Level { interest: interest.clone(), off });
        }
    }

    /// Tells a worker that was just started which interests here are blocked.
    pub(crate) fn tell_blocked(&mut self, slot: u32) {
        let blocked = self.locals.iter().filter(|(_, local)| local.is_blocked);
        let mut blocked: Vec<Interest> = blocked.map(|(interest, _)| interest.clone()).collect();
        // In an order that a simulation can repeat.
        blocked.sort_unstable();
        for interest in blocked {
            self.tell(slot, &WorkerMessage::Level { interest, off: true });
        }
    }

    /// Notes whether another worker's interest is blocked.
    pub(crate) fn set_blocked(&mut self, slot: u32, interest: Interest, off: bool) {
        let Ok(filter) = Filter::parse(interest.filter.as_bytes()) else { return };
        if !is_interest(&interest) || (off && self.blocked.len() >= MAX_INTERESTS) {
            return;
        }
        let key = (slot, interest.group.clone());
        self.directory.interests.change(&filter, &key, |remote| remote.off = off);
        match off {
            true => drop(self.blocked.insert((slot, interest))),
            false => drop(self.blocked.remove(&(slot, interest))),
        }
    }

    /// All workers know of the interests up to this ticket: the subscriptions to acknowledge.
    pub(crate) fn confirm(&mut self, ticket: u64) -> Vec<PendingAck> {
        self.confirmed = self.confirmed.max(ticket);
        self.pending_acks.extract_if(.., |pending| pending.ticket <= ticket).collect()
    }

    /// This worker's queue group of that number.
    pub(crate) fn group_of(&self, number: u32) -> Option<Rc<QueueGroup>> {
        self.numbers.get(&number).cloned()
    }

    /// A number for a queue group, which messages of other workers for it bear.
    fn number(&mut self, group: &Rc<QueueGroup>) -> u32 {
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
