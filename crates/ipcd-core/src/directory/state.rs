//! What all workers know of each other: interests, and which life each place is in.

use std::collections::HashMap;
use std::rc::Rc;

use crate::directory::violation::MAX_SOURCES;
use crate::model::principal::{Principal, QuotaUsage};
use crate::routing::trie::{GroupShare, QueueGroup, SubscriptionTrie, WorkerInterest};
use ipcd_proto::Filter;
use serde::{Deserialize, Serialize};

/// What a worker wants: a filter, for itself or for its members of a group.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Interest {
    /// The filter.
    pub filter: String,
    /// The group's name.
    pub group: Option<String>,
}

/// A worker's part in a group, as it tells others.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupPart {
    /// Its number for the group.
    pub number: u32,
    /// How many members it has.
    pub members: u32,
}

/// A change of what all workers know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryChange {
    /// A worker has its first subscription of an interest, or another number of members of one.
    Interested {
        /// The worker's place.
        slot: u32,
        /// What it wants.
        interest: Interest,
        /// Its part in the group, if it is one.
        share: Option<GroupPart>,
    },
    /// A worker has lost its last subscription of an interest.
    Uninterested {
        /// The worker's place.
        slot: u32,
        /// What it wanted.
        interest: Interest,
    },
    /// A source takes up so much at a worker.
    QuotaUsage {
        /// The worker's place.
        slot: u32,
        /// The source.
        source: Principal,
        /// How much.
        spent: QuotaUsage,
    },
    /// A worker was born.
    Generation {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        generation: u32,
    },
    /// A worker serves no peer any more, and ends as soon as it has what is on its way to it.
    Leaving {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        generation: u32,
    },
    /// A worker has died, with its interests. It says which life that was: who has heard of the
    /// next one already must not take its death for that one's.
    Died {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        generation: u32,
        /// Whether all that it had to say to other workers is in their inboxes.
        has_finished: bool,
    },
}

impl DirectoryChange {
    /// Whether a worker has died of which all that it had to say is still to be heard.
    pub(crate) fn tells_the_rest(&self) -> bool {
        matches!(self, Self::Died { has_finished: true, .. })
    }

    /// Whether what sources take up may have changed with it.
    pub(crate) fn is_about_charges(&self) -> bool {
        !matches!(self, Self::Interested { .. } | Self::Uninterested { .. })
    }
}

/// What every worker is born with, and the supervisor keeps up to date: the interests of all, and
/// which life each place is in.
#[derive(Clone, Debug, Default)]
pub struct DirectoryState {
    /// The interests of all workers.
    pub interests: SubscriptionTrie<WorkerInterest>,
    /// The generation in each slot; 0 where nobody lives.
    pub generations: Vec<u32>,
    /// What each source takes up at which worker.
    pub spent: HashMap<Principal, Vec<(u32, QuotaUsage)>>,
    /// The last batch of changes that is in it.
    pub epoch: u64,
    /// Which workers are leaving: no message goes to them any more.
    leaving: Vec<bool>,
    /// How many interests each worker has.
    held: Vec<usize>,
    /// How many workers live.
    living: u64,
}

impl DirectoryState {
    /// What is known when nobody lives yet.
    pub fn new(slots: usize) -> Self {
        let (generations, leaving, held) = (vec![0; slots], vec![false; slots], vec![0; slots]);
        Self { generations, leaving, held, ..Self::default() }
    }

    /// How many workers live.
    pub(crate) fn living(&self) -> u64 {
        self.living
    }

    /// Whether a worker is leaving.
    pub(crate) fn is_leaving(&self, slot: u32) -> bool {
        self.leaving.get(slot as usize).copied().unwrap_or(false)
    }

    /// How many interests a worker has.
    pub(crate) fn held(&self, slot: u32) -> usize {
        self.held.get(slot as usize).copied().unwrap_or(0)
    }

    /// Applies a change; one that is known already changes nothing.
    pub fn apply(&mut self, change: &DirectoryChange, off: impl FnOnce(u32, &Interest) -> bool) {
        match change {
            DirectoryChange::Interested { slot, interest, share } => {
                let Ok(filter) = Filter::parse(interest.filter.as_bytes()) else { return };
                self.withdraw(*slot, interest, &filter);
                let off = off(*slot, interest);
                let share = share.zip(interest.group.clone()).map(|(part, name)| GroupShare {
                    group: Rc::new(QueueGroup { filter: filter.clone(), name }),
                    number: part.number,
                    members: part.members,
                });
                self.interests.add(&filter, WorkerInterest { slot: *slot, off, share });
                if let Some(held) = self.held.get_mut(*slot as usize) {
                    *held += 1;
                }
            }
            DirectoryChange::Uninterested { slot, interest } => {
                if let Ok(filter) = Filter::parse(interest.filter.as_bytes()) {
                    self.withdraw(*slot, interest, &filter);
                }
            }
            DirectoryChange::Generation { slot, generation } => {
                // Also when that life is known already, from the worker itself: what is in the
                // table then may have been told before it, but of the life before.
                self.set_generation(*slot, *generation);
            }
            DirectoryChange::Leaving { slot, .. } => {
                self.forget(*slot);
                if let Some(leaving) = self.leaving.get_mut(*slot as usize) {
                    *leaving = true;
                }
            }
            DirectoryChange::Died { slot, .. } => self.set_generation(*slot, 0),
            DirectoryChange::QuotaUsage { slot, source, spent } => {
                self.set_spent(*slot, *source, *spent)
            }
        }
    }

    fn withdraw(&mut self, slot: u32, interest: &Interest, filter: &Filter) {
        self.interests.touch();
        let gone = self.interests.remove(filter, &(slot, interest.group.clone()));
        if let Some(held) = self.held.get_mut(slot as usize) {
            *held -= usize::from(gone.is_some());
        }
    }

    fn set_generation(&mut self, slot: u32, generation: u32) {
        if let Some(known) = self.generations.get_mut(slot as usize) {
            self.living = self.living + u64::from(generation > 0) - u64::from(*known > 0);
            *known = generation;
        }
        if let Some(leaving) = self.leaving.get_mut(slot as usize) {
            *leaving = false;
        }
        self.forget(slot);
    }

    /// Forgets what a worker wants and its peers take up.
    fn forget(&mut self, slot: u32) {
        // With a worker for each connection many lives have no interest, and there are many.
        match self.held.get_mut(slot as usize) {
            Some(0) => self.interests.touch(),
            held => {
                held.map(std::mem::take);
                self.interests.remove_all(|remote| remote.slot == slot);
            }
        }
        self.forget_spent(slot);
    }
}

impl DirectoryState {
    /// What a source takes up at a worker, and at the others.
    pub(crate) fn spent_by(&self, source: Principal, own: u32) -> (QuotaUsage, QuotaUsage) {
        let (mut here, mut elsewhere) = (QuotaUsage::default(), QuotaUsage::default());
        for (slot, spent) in self.spent.get(&source).into_iter().flatten() {
            let sum = if *slot == own { &mut here } else { &mut elsewhere };
            // What another worker says may be anything.
            sum.bytes = sum.bytes.saturating_add(spent.bytes);
            sum.subscriptions = sum.subscriptions.saturating_add(spent.subscriptions);
        }
        (here, elsewhere)
    }

    /// Whether this would be more sources of one worker than it may have.
    pub(crate) fn has_too_many_sources(&self, slot: u32, source: Principal) -> bool {
        let is_of = |all: &Vec<(u32, QuotaUsage)>| all.iter().any(|(known, _)| *known == slot);
        self.spent.len() >= MAX_SOURCES
            && !self.spent.get(&source).is_some_and(is_of)
            && self.spent.values().filter(|all| is_of(all)).count() >= MAX_SOURCES
    }

    /// Notes what a source takes up at a worker.
    pub(crate) fn set_spent(&mut self, slot: u32, source: Principal, spent: QuotaUsage) {
        let all = self.spent.entry(source).or_default();
        all.retain(|(known, _)| *known != slot);
        if spent != QuotaUsage::default() {
            all.push((slot, spent));
        }
        if all.is_empty() {
            self.spent.remove(&source);
        }
    }

    /// Forgets what was taken up at a worker that has gone.
    pub(crate) fn forget_spent(&mut self, slot: u32) {
        self.spent.retain(|_, all| {
            all.retain(|(known, _)| *known != slot);
            !all.is_empty()
        });
    }
}
