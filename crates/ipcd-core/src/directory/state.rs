//! The state that all workers share: interests, generations, and the use of quotas. The supervisor
//! keeps it, and each worker has a copy, which changes only by [`DirectoryState::apply`].

use std::collections::HashMap;

use crate::directory::violation::MAX_PRINCIPALS;
use crate::model::principal::{Principal, QuotaUsage};
use crate::routing::interests::InterestView;
use serde::{Deserialize, Serialize};

/// A change of the shared state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DirectoryChange {
    /// The resources that a principal uses at a worker have changed.
    QuotaUsage {
        /// The slot of the worker.
        slot: u32,
        /// The principal.
        principal: Principal,
        /// The amount in use.
        usage: QuotaUsage,
    },
    /// There are fewer workers, so that each has a larger share of the quotas.
    FewerWorkers,
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

/// The state that a worker inherits by fork, and keeps up to date. The supervisor has one, too.
#[derive(Clone, Debug, Default)]
pub struct DirectoryState {
    /// The interests of all workers. They are not a copy: every worker sees each change at once.
    pub(crate) interests: InterestView,
    /// The known generation in each slot; 0 if none is known. A worker knows those that it has met.
    pub(crate) generations: Vec<u32>,
    /// The use of each principal's quota, by slot.
    pub(crate) usage: HashMap<Principal, Vec<(u32, QuotaUsage)>>,
    /// The last epoch that the state includes.
    pub(crate) epoch: u64,
    /// For each slot, whether its worker is leaving. No message goes to such a worker any more.
    leaving: Vec<bool>,
}

impl DirectoryState {
    /// Returns the state with this many slots, all of them empty.
    pub(crate) fn new(slots: usize, interests: InterestView) -> Self {
        let (generations, leaving) = (vec![0; slots], vec![false; slots]);
        Self { interests, generations, leaving, ..Self::default() }
    }

    /// Returns the state for a new worker, which has met no other.
    pub(crate) fn for_worker(&self) -> Self {
        let slots = self.generations.len();
        let (usage, epoch) = (self.usage.clone(), self.epoch);
        Self { usage, epoch, ..Self::new(slots, self.interests.clone()) }
    }

    /// Returns the number of slots.
    pub fn slots(&self) -> usize {
        self.generations.len()
    }

    /// Whether a worker is leaving.
    pub(crate) fn is_leaving(&self, slot: u32) -> bool {
        self.leaving.get(slot as usize).copied().unwrap_or(false)
    }

    /// Applies a change. A change that is known already has no effect.
    pub fn apply(&mut self, change: &DirectoryChange) {
        match change {
            DirectoryChange::Generation { slot, generation } => {
                self.set_generation(*slot, *generation);
            }
            DirectoryChange::Leaving { slot, .. } => {
                if let Some(leaving) = self.leaving.get_mut(*slot as usize) {
                    *leaving = true;
                }
            }
            DirectoryChange::Died { slot, .. } => self.set_generation(*slot, 0),
            // The number is in the table of interests.
            DirectoryChange::FewerWorkers => {}
            DirectoryChange::QuotaUsage { slot, principal, usage } => {
                self.set_usage(*slot, *principal, *usage);
            }
        }
    }

    fn set_generation(&mut self, slot: u32, generation: u32) {
        if let Some(known) = self.generations.get_mut(slot as usize) {
            *known = generation;
        }
        if let Some(leaving) = self.leaving.get_mut(slot as usize) {
            *leaving = false;
        }
    }

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

    /// Returns the principals that use quotas at a worker.
    pub(crate) fn principals_of(&self, slot: u32) -> Vec<Principal> {
        let is_of = |all: &[(u32, QuotaUsage)]| all.iter().any(|(known, _)| *known == slot);
        let found = self.usage.iter().filter(|(_, all)| is_of(all));
        let mut found: Vec<Principal> = found.map(|(principal, _)| *principal).collect();
        // Hash order differs between runs. Sorted, a simulation is repeatable by its seed.
        found.sort_unstable();
        found
    }
}
