//! This worker's own interests, and their levels: whether members can take more.
//!
//! An interest is *off* while a member's outbox is full; that of a group while all members' are.
//! The other workers are told of the first and last member through the table, and of levels in
//! the same stream as the messages.

use std::collections::HashSet;
use std::rc::Rc;

use crate::cluster::{Cluster, Unconfirmed, WorkerMessage};
use crate::core::{Output, Router};
use crate::directory::messages::DirectoryRequest;
use crate::directory::state::{GroupPart, Interest};
use crate::directory::violation::{MAX_INTERESTS, is_interest};
use crate::model::ids::PeerKey;
use crate::peer::Subscription;
use crate::routing::trie::QueueGroup;
use ipcd_proto::Filter;
use ipcd_proto::control::Overflow;

/// Groups that are remembered by number, those that have left included, before the latter are
/// forgotten. By then nothing is on its way to them any more.
const MAX_NUMBERS: usize = 4096;

/// An interest of this worker.
#[derive(Debug, Default)]
pub(crate) struct LocalInterest {
    members: u32,
    /// Members that make publishers wait, because their outboxes are full.
    full: u32,
    /// What the others were told.
    off: bool,
    ticket: u64,
    /// Of a group: its number here.
    number: Option<u32>,
}

impl LocalInterest {
    fn is_off(&self) -> bool {
        match self.number {
            Some(_) => self.members > 0 && self.full == self.members,
            None => self.full > 0,
        }
    }

    fn part(&self) -> Option<GroupPart> {
        self.number.map(|number| GroupPart { number, members: self.members })
    }
}

impl Subscription {
    /// What all workers know of it.
    pub(crate) fn interest(&self) -> Interest {
        let group = self.group.as_ref().map(|group| group.name.clone());
        Interest { filter: self.filter.as_str().to_owned(), group }
    }

    fn blocks(&self) -> bool {
        self.overflow == Overflow::Block
    }
}

impl Router {
    /// Counts a subscription among this worker's interests, and says whether it may be
    /// acknowledged at once.
    pub(crate) fn share(
        &mut self,
        key: PeerKey,
        subscription: &Subscription,
        correlation: u64,
    ) -> bool {
        let peer = &self.peers[key.0 as usize];
        let (id, is_full) = (peer.origin.peer, peer.full && subscription.blocks());
        let Some(cluster) = &mut self.cluster else { return true };
        let interest = subscription.interest();
        let is_new = !cluster.locals.contains_key(&interest);
        if is_new {
            let number = subscription.group.as_ref().map(|group| cluster.number(group));
            let ticket = cluster.take_ticket();
            cluster.locals.insert(
                interest.clone(),
                LocalInterest { number, ticket, ..LocalInterest::default() },
            );
        }
        let local = cluster.locals.get_mut(&interest).expect("it was added if it was missing");
        local.members += 1;
        local.full += u32::from(is_full);
        let (ticket, share) = (local.ticket, local.part());
        // Others want to know how many members a group has, to give them their share.
        if is_new || share.is_some() {
            let request =
                DirectoryRequest::Interested { ticket, interest: interest.clone(), share };
            self.outputs.push_back(Output::Tell(request));
        }
        let is_known = ticket <= cluster.confirmed;
        if !is_known {
            cluster.unconfirmed.push(Unconfirmed { ticket, key, peer: id, correlation });
        }
        self.tell_level(&interest);
        is_known
    }

    /// Whether no further subscription can be made, lest the table disbelieve this worker.
    pub(crate) fn has_too_many_interests(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.locals.len() >= MAX_INTERESTS)
    }

    /// Takes a subscription out of this worker's interests.
    pub(crate) fn unshare(&mut self, subscription: &Subscription, was_full: bool) {
        let Some(cluster) = &mut self.cluster else { return };
        let interest = subscription.interest();
        let Some(local) = cluster.locals.get_mut(&interest) else { return };
        local.members -= 1;
        local.full -= u32::from(was_full && subscription.blocks());
        let request = match local.members {
            0 => Some(DirectoryRequest::Uninterested(interest.clone())),
            _ => local.part().map(|part| {
                let (interest, share) = (interest.clone(), Some(part));
                DirectoryRequest::Interested { ticket: local.ticket, interest, share }
            }),
        };
        if local.members == 0 {
            let was_off = local.off;
            cluster.locals.remove(&interest);
            if was_off {
                self.tell_all(&WorkerMessage::Level { interest, off: false });
            }
        } else {
            self.tell_level(&interest);
        }
        self.outputs.extend(request.map(Output::Tell));
    }

    /// Notes that a peer's outbox is full, or is not any more.
    pub(crate) fn set_levels(&mut self, key: PeerKey, full: bool) {
        if self.cluster.is_none() {
            return;
        }
        let subscriptions = self.peers[key.0 as usize].subscriptions.iter();
        let blocking = subscriptions.filter(|subscription| subscription.blocks());
        let interests: Vec<Interest> = blocking.map(Subscription::interest).collect();
        for interest in interests {
            let cluster = self.cluster.as_mut().expect("it was found above");
            if let Some(local) = cluster.locals.get_mut(&interest) {
                local.full = if full { local.full + 1 } else { local.full.saturating_sub(1) };
            }
            self.tell_level(&interest);
        }
    }

    /// A subscription makes nobody wait any more.
    pub(crate) fn unblock(&mut self, key: PeerKey, at: usize) {
        let peer = &self.peers[key.0 as usize];
        let (is_full, interest) = (peer.full, peer.subscriptions[at].interest());
        let local = self.cluster.as_mut().and_then(|cluster| cluster.locals.get_mut(&interest));
        if let Some(local) = local.filter(|_| is_full) {
            local.full = local.full.saturating_sub(1);
        }
        self.tell_level(&interest);
    }

    /// Tells the other workers if an interest has become off or on.
    fn tell_level(&mut self, interest: &Interest) {
        let Some(cluster) = &mut self.cluster else { return };
        let Some(local) = cluster.locals.get_mut(interest) else { return };
        let off = local.is_off();
        if std::mem::replace(&mut local.off, off) != off {
            self.tell_all(&WorkerMessage::Level { interest: interest.clone(), off });
        }
    }

    /// Tells a worker that was just born which of our interests are off.
    pub(crate) fn tell_levels(&mut self, slot: u32) {
        let Some(cluster) = &mut self.cluster else { return };
        let off = cluster.locals.iter().filter(|(_, local)| local.off);
        let mut off: Vec<Interest> = off.map(|(interest, _)| interest.clone()).collect();
        // In an order that a simulation can repeat.
        off.sort_unstable();
        for interest in off {
            let output = cluster.tell(slot, &WorkerMessage::Level { interest, off: true });
            self.outputs.extend(output);
        }
    }
}

impl Cluster {
    /// Notes the level of another worker's interest.
    pub(crate) fn set_level(&mut self, slot: u32, interest: Interest, off: bool) {
        let Ok(filter) = Filter::parse(interest.filter.as_bytes()) else { return };
        if !is_interest(&interest) || (off && self.off.len() >= MAX_INTERESTS) {
            return;
        }
        let key = (slot, interest.group.clone());
        self.shared.interests.change(&filter, &key, |remote| remote.off = off);
        match off {
            true => drop(self.off.insert((slot, interest))),
            false => drop(self.off.remove(&(slot, interest))),
        }
    }

    /// This worker's number for a group, which messages for it bear that come from others.
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
