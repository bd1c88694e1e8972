//! The state that all workers share: interests, generations, and the use of quotas. The supervisor
//! keeps it, and each worker has a copy, which changes only by [`DirectoryState::apply`].

use std::collections::HashMap;
use std::rc::Rc;

use crate::directory::violation::MAX_PRINCIPALS;
use crate::model::principal::{Principal, QuotaUsage};
use crate::routing::index::{GroupShare, QueueGroup, SubscriptionIndex, WorkerInterest};
use ipcd_proto::Filter;
use serde::{Deserialize, Serialize};

/// A filter for which a worker has subscriptions, of single peers or of a group.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Interest {
    /// The filter.
    pub filter: String,
    /// The name of the group, if there is one.
    pub group: Option<String>,
}

/// A worker's part in a group, for the other workers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupPart {
    /// The worker's number for the group.
    pub number: u32,
    /// The number of its members.
    pub members: u32,
}

/// A change of the shared state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryChange {
    /// A worker has the first subscription of an interest, or a different number of group members.
    Interested {
        /// The slot of the worker.
        slot: u32,
        /// The filter, and the group if there is one.
        interest: Interest,
        /// The worker's part in the group, if the interest has one.
        share: Option<GroupPart>,
    },
    /// A worker has lost the last subscription of an interest.
    Uninterested {
        /// The slot of the worker.
        slot: u32,
        /// The interest that ends.
        interest: Interest,
    },
    /// The resources that a principal uses at a worker have changed.
    QuotaUsage {
        /// The slot of the worker.
        slot: u32,
        /// The principal.
        principal: Principal,
        /// The amount in use.
        usage: QuotaUsage,
    },
    /// A worker was started.
    Generation {
        /// The slot of the worker.
        slot: u32,
        /// The generation of the worker.
        generation: u32,
    },
    /// A worker serves no peer any more, and ends once it has received everything in flight to it.
    Leaving {
        /// The slot of the worker.
        slot: u32,
        /// The generation of the worker.
        generation: u32,
    },
    /// A worker has died, and its interests with it. The change names the generation: a worker that
    /// already knows the successor must not take this for the successor's death.
    Died {
        /// The slot of the worker.
        slot: u32,
        /// The generation of the worker.
        generation: u32,
        /// Whether everything that it had for other workers is in their inboxes.
        has_finished: bool,
    },
}

impl DirectoryChange {
    /// Whether the dead worker's last records are still in the inboxes, and have to be read.
    pub(crate) fn has_last_records(&self) -> bool {
        matches!(self, Self::Died { has_finished: true, .. })
    }

    /// Whether the change may affect the use of quotas.
    pub(crate) fn affects_quotas(&self) -> bool {
        !matches!(self, Self::Interested { .. } | Self::Uninterested { .. })
    }
}

/// The shared state. A worker inherits it by fork, and the supervisor keeps its own up to date.
#[derive(Clone, Debug, Default)]
pub struct DirectoryState {
    /// The interests of all workers.
    pub interests: SubscriptionIndex<WorkerInterest>,
    /// The generation in each slot; 0 in an empty slot.
    pub generations: Vec<u32>,
    /// The use of each principal's quota, by slot.
    pub usage: HashMap<Principal, Vec<(u32, QuotaUsage)>>,
    /// The last epoch that the state includes.
    pub epoch: u64,
    /// For each slot, whether its worker is leaving. No message goes to such a worker any more.
    leaving: Vec<bool>,
    /// The number of interests of each worker.
    held: Vec<usize>,
    /// The number of living workers.
    living: u64,
}

impl DirectoryState {
    /// Returns the state with this many slots, all of them empty.
    pub fn new(slots: usize) -> Self {
        let (generations, leaving, held) = (vec![0; slots], vec![false; slots], vec![0; slots]);
        Self { generations, leaving, held, ..Self::default() }
    }

    /// Returns the number of living workers.
    pub(crate) fn living(&self) -> u64 {
        self.living
    }

    /// Whether a worker is leaving.
    pub(crate) fn is_leaving(&self, slot: u32) -> bool {
        self.leaving.get(slot as usize).copied().unwrap_or(false)
    }

    /// Returns the number of interests of a worker.
    pub(crate) fn held(&self, slot: u32) -> usize {
        self.held.get(slot as usize).copied().unwrap_or(0)
    }

    /// Applies a change. A change that is known already has no effect. `is_blocked` tells whether
    /// the interest of a slot is blocked.
    pub fn apply(
        &mut self,
        change: &DirectoryChange,
        is_blocked: impl FnOnce(u32, &Interest) -> bool,
    ) {
        match change {
            DirectoryChange::Interested { slot, interest, share } => {
                let Ok(filter) = Filter::parse(interest.filter.as_bytes()) else { return };
                // A repeated interest replaces the earlier one, and is counted once.
                self.withdraw(*slot, interest, &filter);
                let is_blocked = is_blocked(*slot, interest);
                let share = share.zip(interest.group.clone()).map(|(part, name)| GroupShare {
                    group: Rc::new(QueueGroup { filter: filter.clone(), name }),
                    number: part.number,
                    members: part.members,
                });
                self.interests.add(&filter, WorkerInterest { slot: *slot, is_blocked, share });
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
                // This runs even if the generation is known from the worker itself: interests of
                // the slot may have been told before, and belong to the previous generation.
                self.set_generation(*slot, *generation);
            }
            DirectoryChange::Leaving { slot, .. } => {
                // From now on no route may contain the worker.
                self.forget(*slot);
                if let Some(leaving) = self.leaving.get_mut(*slot as usize) {
                    *leaving = true;
                }
            }
            DirectoryChange::Died { slot, .. } => self.set_generation(*slot, 0),
            DirectoryChange::QuotaUsage { slot, principal, usage } => {
                self.set_usage(*slot, *principal, *usage)
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

    /// Forgets the interests of a worker, and the quota use of its peers.
    fn forget(&mut self, slot: u32) {
        // With a worker for each connection most generations have no interest. Searching the whole
        // index for each of them would cost more than the connections.
        match self.held.get_mut(slot as usize) {
            Some(0) => self.interests.touch(),
            held => {
                held.map(std::mem::take);
                self.interests.remove_all(|remote| remote.slot == slot);
            }
        }
        self.forget_usage(slot);
    }
}

impl DirectoryState {
    /// Returns the use of a principal at one worker, and at all others together.
    pub(crate) fn usage_of(&self, principal: Principal, own: u32) -> (QuotaUsage, QuotaUsage) {
        let (mut here, mut elsewhere) = (QuotaUsage::default(), QuotaUsage::default());
        for (slot, usage) in self.usage.get(&principal).into_iter().flatten() {
            let sum = if *slot == own { &mut here } else { &mut elsewhere };
            // A hostile worker may report any amount, so the sum must not overflow.
            sum.bytes = sum.bytes.saturating_add(usage.bytes);
            sum.subscriptions = sum.subscriptions.saturating_add(usage.subscriptions);
        }
        (here, elsewhere)
    }

    /// Whether a worker would report more principals than allowed.
    pub(crate) fn has_too_many_principals(&self, slot: u32, principal: Principal) -> bool {
        let is_of = |all: &Vec<(u32, QuotaUsage)>| all.iter().any(|(known, _)| *known == slot);
        // The cheap checks come first: counting goes through all principals.
        self.usage.len() >= MAX_PRINCIPALS
            && !self.usage.get(&principal).is_some_and(is_of)
            && self.usage.values().filter(|all| is_of(all)).count() >= MAX_PRINCIPALS
    }

    /// Notes the use of a principal at a worker.
    pub(crate) fn set_usage(&mut self, slot: u32, principal: Principal, usage: QuotaUsage) {
        let all = self.usage.entry(principal).or_default();
        all.retain(|(known, _)| *known != slot);
        // Entries without use are removed, so that memory follows the principals that are active.
        if usage != QuotaUsage::default() {
            all.push((slot, usage));
        }
        if all.is_empty() {
            self.usage.remove(&principal);
        }
    }

    /// Forgets the quota use at a worker that has gone.
    pub(crate) fn forget_usage(&mut self, slot: u32) {
        self.usage.retain(|_, all| {
            all.retain(|(known, _)| *known != slot);
            !all.is_empty()
        });
    }
}
